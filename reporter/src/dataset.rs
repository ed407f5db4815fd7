//! Dataset: everything a report is made from, as plain structs. It holds what was recorded and judges only one thing:
//! which samples may be counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use regatta_core::backend::BackendKind;
use regatta_core::canary::Canary;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::device::{Device, DeviceId, DeviceKind};
use regatta_core::fingerprint::Fingerprint;
use regatta_core::flag::{Flag, Flags};
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::identity::Agreement;
use regatta_core::passes::Stopped;
use regatta_core::quality::Quality;
use regatta_core::run::RunState;
use regatta_core::sample::{Sample, SampleKey};
use regatta_core::telemetry::Telemetry;
use regatta_core::trend;
use regatta_core::trial::Epoch;
use regatta_core::worker::WorkerInfo;

use crate::llama_bench::Row;
use crate::roofline::{Ceiling, Floor, Utilisation};

/// One or several runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The runs, oldest first.
    pub runs: Vec<Run>,
    /// Results of other tools, taken from their files.
    pub imports: Vec<Import>,
}

/// A file of another tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Its id.
    pub id: RunId,
    /// The tool.
    pub tool: String,
    /// The file's name.
    pub file: String,
    /// When it was imported: a label.
    pub imported_at: Timestamp,
    /// What it held.
    pub rows: Vec<Row>,
}

/// One submission of a scenario with everything that was recorded for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's line for people.
    pub description: String,
    /// Where the run stands.
    pub state: RunState,
    /// When it was submitted: a label.
    pub submitted_at: Timestamp,
    /// When its last cell ended: a label. `None` while it is active.
    pub ended_at: Option<Timestamp>,
    /// Name of the scenario's file.
    pub scenario_file: String,
    /// The scenario's text, as frozen into the run.
    pub scenario_text: String,
    /// The machines that took part.
    pub hosts: Vec<Host>,
    /// Every cell of the matrix, in its order.
    pub cells: Vec<CellResult>,
    /// What was said of it as a night, where it was judged.
    pub night: Option<NightSaid>,
    /// Samples that break a rule and could not be read far enough to tell their cell.
    pub rejected: Vec<Rejected>,
}

/// What was said of a run as a night among others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NightSaid {
    /// How many metrics of cells got which word: `steady`, `slower`, ….
    pub counts: BTreeMap<String, usize>,
    /// Machines whose cells moved together, and what is said of each.
    pub machines: Vec<(String, String)>,
    /// What moved on its own.
    pub moved: Vec<MovedCell>,
    /// Why a person took it out.
    pub excluded: Option<String>,
}

/// A metric of a cell that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedCell {
    /// The cell.
    pub cell: String,
    /// The metric.
    pub metric: String,
    /// The word for it: `slower`, `flagged`, ….
    pub finding: String,
    /// What is said of it.
    pub sentence: String,
    /// What a person answered.
    pub answer: Option<String>,
}

/// A machine: an agent and what it said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// The agent.
    pub agent: AgentId,
    /// Version of the agent program.
    pub version: String,
    /// Operating system, processor and the like, as labels.
    pub facts: BTreeMap<String, String>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Its worker programs.
    pub workers: Vec<WorkerInfo>,
    /// What its devices were found to do, one for each at most.
    pub canaries: Vec<Canary>,
}

/// One cell with what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct CellResult {
    /// The cell.
    pub cell: Cell,
    /// Its hash.
    pub hash: CellHash,
    /// The group that it was measured with, for one of several replicas that were tried.
    pub group: Option<TrialId>,
    /// How far apart the replicas of its group began at most, by lease and repetition, in nanoseconds. Missing where not
    /// all of them said that they had begun.
    pub skews: BTreeMap<(Epoch, u32), u64>,
    /// How it ended. `None` while it waits or runs.
    pub outcome: Option<Outcome>,
    /// How many worker processes measured it and why no more, where that was said.
    pub stopped: Option<Stopped>,
    /// Repetitions of each worker process: number `r` is of process `r / per_pass`.
    pub per_pass: u32,
    /// What the worker said of the weights and the engine.
    pub facts: Option<WorkerFacts>,
    /// What its numbers are held against.
    pub ceiling: Ceiling,
    /// Valid samples of the epoch that counts, by repetition.
    pub samples: Vec<Sample>,
    /// Others of that epoch whose surroundings forbid to count them: shown, never counted.
    pub unfit: Vec<Sample>,
    /// Valid samples of earlier leases: kept, never counted.
    pub superseded: Vec<Sample>,
    /// Samples that break a rule: named, never counted.
    pub rejected: Vec<Rejected>,
}

/// The state of a cell that ended well and has no repetition that may be counted.
pub const INVALID: &str = "invalid";

/// What is known of the worker process that measured a cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerFacts {
    /// The engine's version and build.
    pub engine: String,
    /// Bytes of weights that one decode step reads.
    pub weight_bytes: Option<u64>,
    /// Hash over the artifact's file hashes, as hexadecimal digits.
    pub artifact_digest: String,
    /// The circumstances; empty for what earlier versions measured.
    pub fingerprint: Fingerprint,
}

/// A sample that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The lease under which it was measured.
    pub epoch: Epoch,
    /// The repetition, from 0. `None` where it could not be read.
    pub repetition: Option<u32>,
    /// The rule it breaks.
    pub reason: String,
}

impl CellResult {
    /// Sorts `samples` into those that count (of lease `epoch`, else of the newest), those that would but for their
    /// surroundings, those of other leases and those that break a rule.
    pub fn new(cell: Cell, outcome: Option<Outcome>, epoch: Option<Epoch>, mut samples: Vec<Sample>) -> Self {
        let hash = cell.hash();
        let workload = Arc::clone(&cell.workload);
        let mut result = Self {
            cell,
            hash,
            group: None,
            skews: BTreeMap::new(),
            outcome,
            stopped: None,
            per_pass: u32::MAX,
            facts: None,
            ceiling: Ceiling::default(),
            samples: vec![],
            unfit: vec![],
            superseded: vec![],
            rejected: vec![],
        };
        share_output(&mut samples);
        let counted = epoch.or_else(|| samples.iter().map(|s| s.key.epoch).max());
        let counts = |sample: &Sample| {
            Some(sample.key.epoch) == counted && Quality::of(sample.flags).counts() && sample.check(&workload).is_ok()
        };
        // Most count, and stay where they are: there may be a million of them.
        for sample in samples.extract_if(.., |sample| !counts(sample)) {
            let SampleKey { epoch, repetition, .. } = sample.key;
            match sample.check(&workload) {
                Err(e) => result.reject(epoch, Some(repetition), e.to_string()),
                Ok(()) if Some(epoch) != counted => result.superseded.push(sample),
                Ok(()) => result.unfit.push(sample),
            }
        }
        result.samples = samples;
        for list in [&mut result.samples, &mut result.unfit, &mut result.superseded] {
            list.sort_by(|a, b| a.key.cmp(&b.key));
        }
        result
    }

    /// Names a sample that breaks a rule.
    pub fn reject(&mut self, epoch: Epoch, repetition: Option<u32>, reason: String) {
        self.rejected.push(Rejected { epoch, repetition, reason });
    }

    /// How far apart the replicas began at most at the repetition of this sample, in nanoseconds.
    pub fn start_skew_ns(&self, sample: &Sample) -> Option<u64> {
        self.skews.get(&(sample.key.epoch, sample.key.repetition)).copied()
    }

    /// Flags of any repetition of the lease that counts, and what only all of them together tell.
    pub fn flags(&self) -> Flags {
        let each = self.samples.iter().chain(&self.unfit).flat_map(|sample| self.flags_of(sample));
        each.chain(self.trend().map(|_| Flag::Trend)).collect()
    }

    /// Flags of one repetition: those it came with, and what is told only by its device's peak or by other repetitions.
    pub fn flags_of(&self, sample: &Sample) -> Flags {
        let differs = self.agreement(sample).is_some_and(|agreement| !agreement.is_full());
        let told = [(Flag::FasterThanPhysics, self.is_below_floor(sample)), (Flag::OutputChanged, differs)];
        sample.flags.iter().chain(told.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag)).collect()
    }

    /// How far a repetition's output agrees with that of the cell's first one, whichever process measured either. `None`
    /// where there is nothing to compare.
    pub fn agreement(&self, sample: &Sample) -> Option<Agreement> {
        agreement(self.first()?, sample)
    }

    /// How far this cell's output agrees with another's, by their first repetitions.
    pub fn agreement_with(&self, other: &Self) -> Option<Agreement> {
        agreement(self.first()?, other.first()?)
    }

    /// The first repetition of the lease that counts.
    fn first(&self) -> Option<&Sample> {
        [self.samples.first(), self.unfit.first()].into_iter().flatten().min_by_key(|sample| sample.key.repetition)
    }

    /// By how much its repetitions got slower from the first to the last, where they did so steadily.
    pub fn trend(&self) -> Option<f64> {
        let mut processes = BTreeMap::<u32, Vec<f64>>::new();
        for sample in &self.samples {
            let duration = sample.times.end as f64;
            processes.entry(sample.key.repetition / self.per_pass.max(1)).or_default().push(duration);
        }
        trend::trend(&processes.into_values().collect::<Vec<_>>())
    }

    fn is_below_floor(&self, sample: &Sample) -> bool {
        self.floor().is_some_and(|floor| floor.is_broken_by(sample))
    }

    /// The shortest time per token that its device can have.
    pub fn floor(&self) -> Option<Floor> {
        self.ceiling.floor(self.facts.as_ref()?.weight_bytes?)
    }

    /// Why it can't be, where a repetition is faster than its device can be.
    pub fn impossibility(&self) -> Option<String> {
        let floor = self.floor()?;
        self.samples.iter().find(|sample| floor.is_broken_by(sample)).map(|sample| floor.said_of(sample))
    }

    /// How much of its device's peaks a repetition used.
    pub fn utilisation(&self, sample: &Sample) -> Utilisation {
        let weight_bytes = self.facts.as_ref().and_then(|facts| facts.weight_bytes);
        self.ceiling.utilisation(&self.cell, sample, weight_bytes)
    }

    /// Every sample that keeps the rules, with whether it counts.
    pub fn measured(&self) -> impl Iterator<Item = (&Sample, bool)> {
        let kept = self.unfit.iter().chain(&self.superseded);
        self.samples.iter().map(|sample| (sample, true)).chain(kept.map(|sample| (sample, false)))
    }

    /// Drops what was seen around repetitions, in the order of [`CellResult::measured`], but for the first `shown` and where
    /// device memory or energy is known, which numbers of the cell rest on.
    pub fn forget_surroundings_after(&mut self, shown: usize) {
        let rests = |seen: &Telemetry| seen.device_memory_bytes().is_some() || seen.energy_mj.is_some();
        let kept = self.unfit.iter_mut().chain(&mut self.superseded);
        for sample in self.samples.iter_mut().chain(kept).skip(shown) {
            sample.telemetry = sample.telemetry.take().filter(|seen| rests(seen));
        }
    }

    /// Whether none of its repetitions may be counted because of their surroundings.
    fn is_unfit(&self) -> bool {
        self.samples.is_empty() && !self.unfit.is_empty()
    }

    /// Whether all of its repetitions were measured and are possible, so that its numbers may be charted.
    pub fn is_ok(&self) -> bool {
        self.outcome == Some(Outcome::Ok) && !self.samples.is_empty() && self.impossible().is_none()
    }

    /// Why its numbers can't be, where they can't.
    fn impossible(&self) -> Option<Flag> {
        let floor = self.floor();
        let broken = |sample: &Sample| floor.is_some_and(|floor| floor.is_broken_by(sample));
        let too_fast = |sample: &Sample| sample.flags.contains(Flag::FasterThanPhysics) || broken(sample);
        let hasty = self.samples.iter().filter(|sample| sample.flags.contains(Flag::NotWaitedFor)).count();
        if self.samples.iter().chain(&self.unfit).any(too_fast) {
            Some(Flag::FasterThanPhysics)
        } else {
            // An engine that doesn't wait is late each time. One that is late now and then was held up by its system.
            (hasty * 2 > self.samples.len()).then_some(Flag::NotWaitedFor)
        }
    }

    /// The state's name: that of the outcome, or `measuring` and `waiting` for a cell without one.
    pub fn state(&self) -> &'static str {
        match &self.outcome {
            Some(Outcome::Ok) if self.is_unfit() && self.impossible().is_none() => INVALID,
            Some(Outcome::Ok) => self.impossible().map_or(Outcome::Ok.state(), Flag::as_str),
            Some(outcome) => outcome.state(),
            None if self.samples.is_empty() && self.unfit.is_empty() => "waiting",
            None => "measuring",
        }
    }
}

/// Has samples with the same output as the first one hold it in common.
fn share_output(samples: &mut [Sample]) {
    let Some((first, others)) = samples.split_first_mut() else { return };
    for other in others.iter_mut().filter(|other| other.output == first.output) {
        other.output = Arc::clone(&first.output);
    }
}

fn agreement(one: &Sample, other: &Sample) -> Option<Agreement> {
    let same_prompt = (one.prompt_digest, one.batch) == (other.prompt_digest, other.batch);
    same_prompt.then(|| Agreement::of(&one.output, &other.output, one.batch)).flatten()
}

impl Run {
    /// The cell that did the same work with the same weights on the same card under the first other backend, in the order
    /// of documentation, that has any sample.
    pub fn counterpart(&self, result: &CellResult) -> Option<&CellResult> {
        let key = |cell: &Cell| {
            let artifact = &cell.artifact;
            let weights = (artifact.model.clone(), artifact.weights, artifact.precision);
            (cell.agent.clone(), self.card(cell), weights, Arc::clone(&cell.workload), cell.replica)
        };
        let own = key(&result.cell);
        let others = self.cells.iter().filter(|other| other.cell.backend != result.cell.backend);
        let alike = others.filter(|other| other.first().is_some() && key(&other.cell) == own);
        alike.min_by_key(|other| BackendKind::ALL.iter().position(|backend| *backend == other.cell.backend))
    }

    /// The device of a cell, with what is known of it.
    pub fn device(&self, cell: &Cell) -> Option<&Device> {
        let host = self.hosts.iter().find(|h| h.agent == cell.agent)?;
        host.devices.iter().find(|d| d.id == cell.device)
    }

    /// The device that stands for a cell's card. On Windows one card is two devices, each driven by an engine that can't drive the
    /// other: DirectML's, which is taken, and Vulkan's. They are told to be one by their name, several of a name by their order.
    pub fn card(&self, cell: &Cell) -> DeviceId {
        let of_name = |kind: DeviceKind| {
            let name = self.device(cell).map(|device| device.name.as_str());
            let host = self.hosts.iter().find(|host| host.agent == cell.agent);
            let devices = host.into_iter().flat_map(|host| &host.devices);
            let mut ids: Vec<DeviceId> = devices
                .filter(|device| device.id.kind == kind && Some(device.name.as_str()) == name)
                .map(|device| device.id)
                .collect();
            ids.sort_unstable();
            ids
        };
        let rank = of_name(DeviceKind::Vulkan).iter().position(|id| *id == cell.device);
        rank.and_then(|rank| of_name(DeviceKind::DirectMl).get(rank).copied()).unwrap_or(cell.device)
    }

    /// What the cell's device has in common with others of its kind: `cuda NVIDIA H100`.
    pub fn kind_of_device(&self, cell: &Cell) -> String {
        let name = self.device(cell).map(|device| format!(" {}", device.name)).unwrap_or_default();
        format!("{}{name}", cell.device.kind)
    }

    /// The machine of a cell's device. Agents of the same host name are taken to share one.
    pub fn machine(&self, cell: &Cell) -> String {
        let host = self.hosts.iter().find(|host| host.agent == cell.agent);
        let name = host.and_then(|host| host.facts.get("hostname"));
        name.map_or_else(|| format!("agent {}", cell.agent), Clone::clone)
    }
}
