//! From the store to the dataset: the only module that knows both.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use regatta_core::canary::CANARY_VERSION;
use regatta_core::cell::{Cell, CellHash};
use regatta_core::device::Device;
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::model::{Model, parse_manifest};
use regatta_core::sample::Sample;
use regatta_core::scenario;
use regatta_core::trial::Epoch;
use regatta_core::worker::WorkerInfo;
use regatta_core::workload::Workload;
use regatta_store::{
    Begun, CanaryRecord, CellRecord, ImportRecord, Reader, RejectedSample, RunDevice, StoreError, TrialRecord,
    VerdictRecord, WorkerRecord,
};

use crate::dataset::{CellResult, Dataset, Host, Import, MovedCell, NightSaid, Rejected, Run, WorkerFacts};
use crate::error::{ReportError, Result};
use crate::llama_bench::Row;
use crate::roofline::Ceiling;
use crate::view;
use crate::write::MAX_ROWS;

/// Reads runs with everything recorded for them, in the order given. Without any id, the newest run; a database
/// without runs gives a dataset without runs.
pub async fn load(reader: &Reader, runs: &[RunId]) -> Result<Dataset> {
    read(reader, runs, Detail::Whole).await.map_err(|e| ReportError::Store(Box::new(e)))
}

/// The same for a page and its charts. Of a run with more repetitions than have rows beside a page, what was seen around
/// those that the page doesn't show is left out, where no number rests on it: of a million it is the better part.
pub async fn load_for_page(reader: &Reader, runs: &[RunId]) -> Result<Dataset> {
    read(reader, runs, Detail::Page).await.map_err(|e| ReportError::Store(Box::new(e)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Whole,
    Page,
}

async fn read(reader: &Reader, ids: &[RunId], detail: Detail) -> Result<Dataset, StoreError> {
    let newest: Vec<RunId>;
    let ids = if ids.is_empty() {
        newest = reader.runs(1).await?.into_iter().map(|run| run.id).collect();
        &newest
    } else {
        ids
    };
    let mut runs = Vec::with_capacity(ids.len());
    for id in ids {
        runs.push(run(reader, id, detail).await?);
    }
    Ok(Dataset { runs, imports: Vec::new() })
}

/// Reads imports with their rows, in the order given.
pub async fn load_imports(reader: &Reader, ids: &[RunId]) -> Result<Vec<Import>> {
    imports(reader, ids).await.map_err(|e| ReportError::Store(Box::new(e)))
}

async fn imports(reader: &Reader, ids: &[RunId]) -> Result<Vec<Import>, StoreError> {
    let known = reader.imports().await?;
    let mut imports = Vec::with_capacity(ids.len());
    for ImportRecord { id, tool, file, imported_at, .. } in known.into_iter().filter(|import| ids.contains(&import.id))
    {
        let rows = reader.imported_rows(&id).await?;
        // A row that is no object can't have been stored.
        let rows = rows.iter().filter_map(|row| serde_json::from_str(row).ok().map(Row)).collect();
        imports.push(Import { id, tool, file, imported_at, rows });
    }
    Ok(imports)
}

async fn run(reader: &Reader, id: &RunId, detail: Detail) -> Result<Run, StoreError> {
    let record = reader.run(id.as_str()).await?;
    let records = reader.cells(id).await?;
    let workers = reader.worker_facts(id).await?;
    let (mut refused, rejected) = by_cell(reader.rejected_samples(id).await?);
    let groups = Groups::new(&records, &reader.trials(id).await?, reader.begun(id).await?);
    let per_pass = record.policy.repetitions;
    let mut hosts = hosts(reader.run_devices(id).await?, &records, &workers);
    take_canaries(&mut hosts, &reader.canaries().await?, record.summary.ended_at);
    // A manifest that this version can't read means no utilisation, not no report.
    let models = parse_manifest("models", &record.bundle.models).unwrap_or_default();
    let mut cell = |record: CellRecord, samples: Vec<Sample>| {
        let facts = facts(&record, &workers);
        let refused = refused.remove(&record.hash).unwrap_or_default();
        let (group, skews) = groups.of(&record);
        let ceiling = ceiling(&record.cell, &models, &hosts);
        let mut result = CellResult::new(record.cell, record.outcome, record.epoch, samples);
        result.rejected.extend(refused);
        let stopped = record.stopped;
        CellResult { hash: record.hash, group, skews, facts, ceiling, stopped, per_pass, ..result }
    };
    // What was stored was valid when it was submitted; a report of an old run must not fail if rules have changed.
    let description = scenario::parse(&record.bundle).map(|s| s.description).unwrap_or_default();
    let night = night(reader, id, &records).await?;
    let shown = match detail {
        Detail::Whole => usize::MAX,
        Detail::Page => shown(&records),
    };
    let mut cells = Vec::with_capacity(records.len());
    for record in records {
        let samples = reader.samples_of_cell(id, record.hash).await?;
        let mut cell = cell(record, samples);
        cell.forget_surroundings_after(shown);
        cells.push(cell);
    }
    Ok(Run {
        id: record.summary.id,
        scenario: record.summary.name,
        description,
        state: record.summary.state,
        submitted_at: record.summary.created_at,
        ended_at: record.summary.ended_at,
        scenario_file: record.bundle.file,
        scenario_text: record.bundle.text,
        hosts,
        cells,
        night,
        rejected,
    })
}

/// Of how many repetitions of each cell a page may show the surroundings.
fn shown(cells: &[CellRecord]) -> usize {
    let measured = cells.iter().filter(|cell| cell.samples > 0);
    let samples = measured.clone().map(|cell| cell.samples as usize).sum();
    if samples > MAX_ROWS { view::shown_of_each(samples, measured.count()) } else { usize::MAX }
}

/// What was said of a run as a night, if anything.
async fn night(reader: &Reader, run: &RunId, cells: &[CellRecord]) -> Result<Option<NightSaid>, StoreError> {
    let (verdicts, excluded) = (reader.verdicts(run).await?, reader.excluded(run).await?);
    if verdicts.is_empty() && excluded.is_none() {
        return Ok(None);
    }
    let mut said = NightSaid { excluded, ..NightSaid::default() };
    for verdict in &verdicts {
        *said.counts.entry(verdict.finding.clone()).or_default() += 1;
    }
    let events = reader.machine_events(run).await?;
    said.machines = events.into_iter().map(|event| (event.machine, event.sentence)).collect();
    // What its machine explains is counted only; the cells of a run are in the order of its matrix.
    let moved = |verdict: &&VerdictRecord| verdict.direction.is_some() && verdict.finding != "with machine";
    for cell in cells {
        for verdict in verdicts.iter().filter(|verdict| verdict.cell == cell.hash).filter(moved) {
            let answer = verdict.answer.as_ref().map(|(answer, reason)| format!("{}: {reason}", answer.as_str()));
            said.moved.push(MovedCell {
                cell: cell.cell.label(),
                metric: verdict.metric.as_str().to_owned(),
                finding: verdict.finding.clone(),
                sentence: verdict.sentence.clone(),
                answer,
            });
        }
    }
    Ok(Some(said))
}

/// What a cell's numbers are held against.
fn ceiling(cell: &Cell, models: &[Model], hosts: &[Host]) -> Ceiling {
    let host = hosts.iter().find(|host| host.agent == cell.agent);
    let device = host.and_then(|host| host.devices.iter().find(|device| device.id == cell.device));
    let canary = host.and_then(|host| host.canaries.iter().find(|canary| canary.device == cell.device));
    let shape = models.iter().find(|model| model.id == cell.artifact.model).map(|model| &model.shape);
    Ceiling::new(cell, shape, device, canary)
}

/// Gives each device its peak: the best canary before the run's end, else of all; never one of another device that was in
/// the same place. The best, because what disturbs a canary only makes it slower.
fn take_canaries(hosts: &mut [Host], series: &[CanaryRecord], ended_at: Option<Timestamp>) {
    for host in hosts {
        for device in &host.devices {
            let own: Vec<&CanaryRecord> = series.iter().filter(|record| is_of(record, &host.agent, device)).collect();
            let before = own.iter().filter(|record| ended_at.is_none_or(|end| record.received_at <= end));
            let chosen = best(before).or_else(|| best(own.iter()));
            host.canaries.extend(chosen.map(|record| record.canary.clone()));
        }
    }
}

fn is_of(record: &CanaryRecord, agent: &AgentId, device: &Device) -> bool {
    let canary = &record.canary;
    record.agent == *agent
        && (canary.device, &canary.device_name) == (device.id, &device.name)
        && canary.reading.version == CANARY_VERSION
}

fn best<'r>(records: impl Iterator<Item = &'r &'r CanaryRecord>) -> Option<&'r CanaryRecord> {
    let bandwidth = |record: &CanaryRecord| record.canary.reading.bandwidth().unwrap_or(0.0);
    records.copied().max_by(|a, b| bandwidth(a).total_cmp(&bandwidth(b)))
}

/// Groups of replicas by trial, and how far apart the repetitions of their cells began.
struct Groups {
    of_trial: HashMap<TrialId, TrialId>,
    /// By group and workload: what is stored for the cell of replica 0 holds for all of them.
    skews: HashMap<(TrialId, Workload), BTreeMap<(Epoch, u32), u64>>,
}

impl Groups {
    fn new(cells: &[CellRecord], trials: &[TrialRecord], begun: Vec<Begun>) -> Self {
        let of_trial = trials.iter().filter_map(|trial| Some((trial.id.clone(), trial.group.as_ref()?.id.clone())));
        let mut skews: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        for Begun { group, epoch, cell, repetition, skew, .. } in begun {
            let Some(cell) = cells.iter().find(|record| record.hash == cell) else { continue };
            let skew = u64::try_from(skew.as_nanos()).unwrap_or(u64::MAX);
            let key = (group, cell.cell.workload.as_ref().clone());
            skews.entry(key).or_default().insert((epoch, repetition), skew);
        }
        Self { of_trial: of_trial.collect(), skews }
    }

    /// The cell's group, and the skews of its repetitions.
    fn of(&self, record: &CellRecord) -> (Option<TrialId>, BTreeMap<(Epoch, u32), u64>) {
        let group = record.trial.as_ref().and_then(|trial| self.of_trial.get(trial)).cloned();
        let key = group.clone().map(|group| (group, record.cell.workload.as_ref().clone()));
        (group, key.and_then(|key| self.skews.get(&key)).cloned().unwrap_or_default())
    }
}

/// Refused samples by cell, and those that could not be read far enough to name one.
fn by_cell(refused: Vec<RejectedSample>) -> (HashMap<CellHash, Vec<Rejected>>, Vec<Rejected>) {
    let mut named: HashMap<CellHash, Vec<Rejected>> = HashMap::new();
    let mut nameless = Vec::new();
    for RejectedSample { epoch, cell, reason, .. } in refused {
        let rejected = Rejected { epoch, repetition: None, reason };
        match cell {
            Some(cell) => named.entry(cell).or_default().push(rejected),
            None => nameless.push(rejected),
        }
    }
    (named, nameless)
}

/// What is known of the worker behind the lease that counts.
fn facts(cell: &CellRecord, workers: &[WorkerRecord]) -> Option<WorkerFacts> {
    let lease: (&TrialId, Epoch) = (cell.trial.as_ref()?, cell.epoch?);
    let worker = workers.iter().find(|w| (&w.trial, w.epoch) == lease && w.facts.build == cell.cell.build)?;
    Some(WorkerFacts {
        engine: worker.facts.engine.clone(),
        weight_bytes: (worker.facts.weight_bytes > 0).then_some(worker.facts.weight_bytes),
        artifact_digest: worker.facts.artifact_digest.clone(),
        fingerprint: worker.facts.fingerprint.clone(),
    })
}

/// The machines: devices by agent, and the worker programs that ran there.
fn hosts(devices: Vec<RunDevice>, cells: &[CellRecord], workers: &[WorkerRecord]) -> Vec<Host> {
    let mut hosts: BTreeMap<AgentId, Host> = BTreeMap::new();
    for RunDevice { device, agent_version, host } in devices {
        let agent = device.agent.clone();
        let new = || Host {
            agent: agent.clone(),
            version: agent_version,
            facts: host,
            devices: vec![],
            workers: vec![],
            canaries: vec![],
        };
        hosts.entry(agent.clone()).or_insert_with(new).devices.push(device);
    }
    for worker in workers {
        let Some(cell) = cells.iter().find(|c| c.trial.as_ref() == Some(&worker.trial)) else { continue };
        let Some(host) = hosts.get_mut(&cell.cell.agent) else { continue };
        // An answer that this version can't read is one line less on the page, not a report less.
        let Ok(info) = serde_json::from_str::<WorkerInfo>(&worker.facts.worker) else { continue };
        if !host.workers.contains(&info) {
            host.workers.push(info);
        }
    }
    hosts.into_values().collect()
}
