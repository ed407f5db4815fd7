//! The matrix: a scenario unfolded over devices. Pure and deterministic.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::artifact::{ArtifactRef, Precision, Weights};
use crate::backend::BackendKind;
use crate::cell::{Cell, CellHash, hash_prefix, of_build};
use crate::device::{Device, DeviceId};
use crate::digest::Digest;
use crate::document::grouped;
use crate::fleet::{DeviceClass, Labels, Place, Placement, labels_text};
use crate::id::{AgentId, BuildName};
use crate::model::Model;
use crate::policy::Policy;
use crate::preflight;
use crate::scenario::{DeviceSelector, Scenario};
use crate::worker::PRESENT;
use crate::workload::Workload;

/// A scenario unfolded over devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Every cell, runnable or not, in a fixed order; cells of a trial stand together.
    pub cells: Vec<PlannedCell>,
    /// The runnable cells, grouped by device, backend, artifact and number of replicas.
    pub trials: Vec<PlannedTrial>,
}

/// A cell and whether it will be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCell {
    /// The cell.
    pub cell: Cell,
    /// Its hash.
    pub hash: CellHash,
    /// What will be done with it.
    pub plan: CellPlan,
}

/// What will be done with a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CellPlan {
    /// It is part of the trial with this position in [`Matrix::trials`].
    Run {
        /// Position of its trial.
        trial: usize,
    },
    /// It is not tried.
    Skip {
        /// Why.
        reason: String,
    },
}

/// A trial to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTrial {
    /// The agent that owns the device.
    pub agent: AgentId,
    /// The device; where there is a pool, the one that is named until an agent has the trial.
    pub device: DeviceId,
    /// The engine.
    pub backend: BackendKind,
    /// The weights.
    pub artifact: ArtifactRef,
    /// Positions of its cells in [`Matrix::cells`].
    pub cells: std::ops::Range<usize>,
    /// Where it may go; `None` if only to its own device.
    pub pool: Option<Arc<[Place]>>,
    /// The group it is measured with; `None` for a trial by itself.
    pub group: Option<PlannedGroup>,
    /// What it does on which class of device; trials of the same work take about the same time. `None` where that is
    /// not known, for a trial of an older database.
    pub work: Option<Digest>,
}

/// A trial's place in a group of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedGroup {
    /// Position of the group's first trial in [`Matrix::trials`]; the others follow it.
    pub first: usize,
    /// This trial's position in the group, from 0.
    pub replica: u32,
    /// Trials in the group.
    pub replicas: u32,
}

/// The most cells a matrix may have, unless the person says that it is meant to be large.
pub const MAX_CELLS: usize = 2_000;

/// The most cells a matrix may have at all.
pub const MAX_CELLS_LARGE: usize = 1_000_000;

/// Unfolds `scenario` over `devices`: device × model × backend × precision × workload, devices in the order given,
/// the rest in the order of the scenario. Devices that the scenario doesn't ask for have no cells. Where any device of
/// a class will do, the class takes the place of the device. Workloads with replicas come last, by class and number of
/// replicas: each replica has cells and a trial of its own.
pub fn expand(scenario: &Scenario, devices: &[Device]) -> Matrix {
    let digests: Vec<_> = scenario.workloads.iter().map(|workload| workload.digest().to_string()).collect();
    let mut by_replicas: HashMap<u32, Vec<Work<'_>>> = HashMap::new();
    for (workload, digest) in scenario.workloads.iter().zip(&digests) {
        by_replicas.entry(workload.replicas).or_default().push(Work { workload, digest });
    }
    let mut matrix = Matrix { cells: Vec::with_capacity(count(scenario, devices)), trials: Vec::new() };
    let _ = each_row(scenario, devices, |row| {
        let works = by_replicas.get(&row.replicas).map(Vec::as_slice).unwrap_or_default();
        matrix.push_row(scenario, row, works);
        ControlFlow::<()>::Continue(())
    });
    matrix
}

/// A workload and its digest as text.
#[derive(Clone, Copy)]
struct Work<'s> {
    workload: &'s Arc<Workload>,
    digest: &'s str,
}

/// Cells that share everything but the workload: one trial, or one group of trials.
struct Row<'r, 'd> {
    /// A device, or several of one class.
    devices: &'r [&'d Device],
    /// Those of them that can run the cells.
    able: Vec<&'d Device>,
    model: &'r Model,
    backend: BackendKind,
    artifact: ArtifactRef,
    replicas: u32,
    /// Why none of the cells can run, if that is so.
    skip: Option<String>,
}

/// Visits the rows of the matrix, in order.
fn each_row<B>(
    scenario: &Scenario,
    devices: &[Device],
    mut visit: impl FnMut(&Row<'_, '_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    for (devices, replicas) in targets(scenario, devices) {
        for model in &scenario.models {
            for &backend in &scenario.backends {
                let able: Vec<_> =
                    devices.iter().copied().filter(|device| is_able(scenario, device, backend)).collect();
                for &precision in &scenario.precisions {
                    let artifact = artifact(scenario, model, backend, precision);
                    let devices = devices.as_slice();
                    let mut row = Row { devices, able: able.clone(), model, backend, artifact, replicas, skip: None };
                    row.skip = skip_reason(scenario, &row);
                    visit(&row)?;
                }
            }
        }
    }
    ControlFlow::Continue(())
}

/// What rows are bound to: devices of which one is needed, or as many as there are replicas.
fn targets<'d>(scenario: &Scenario, devices: &'d [Device]) -> Vec<(Vec<&'d Device>, u32)> {
    let wanted = wanted(scenario, devices);
    let classes = classes(&wanted);
    let mut targets = Vec::new();
    if scenario.workloads.iter().any(|workload| workload.replicas == 1) {
        match scenario.fleet.placement {
            Placement::Every => targets.extend(wanted.into_iter().map(|device| (vec![device], 1))),
            Placement::Any => targets.extend(classes.iter().map(|class| (class.clone(), 1))),
        }
    }
    let mut counts: Vec<_> = scenario.workloads.iter().map(|workload| workload.replicas).filter(|&n| n > 1).collect();
    counts.sort_unstable();
    counts.dedup();
    for class in classes {
        targets.extend(counts.iter().map(|&replicas| (class.clone(), replicas)));
    }
    targets
}

/// The devices by class, in the order in which the classes appear.
fn classes<'d>(devices: &[&'d Device]) -> Vec<Vec<&'d Device>> {
    let mut position = HashMap::new();
    let mut classes: Vec<Vec<&Device>> = Vec::new();
    for &device in devices {
        let next = classes.len();
        let at = *position.entry(DeviceClass::of(device)).or_insert(next);
        if at == next {
            classes.push(Vec::new());
        }
        classes[at].push(device);
    }
    classes
}

/// Whether the device itself can run cells of the backend.
fn is_able(scenario: &Scenario, device: &Device, backend: BackendKind) -> bool {
    device.backends.contains(&backend) && scenario.fleet.has_room(device)
}

/// Who measures one replica's cells of a row.
struct Seat {
    /// The device, or the one that is named until another of the pool has the trial.
    place: Place,
    pool: Option<Arc<[Place]>>,
    group: Option<PlannedGroup>,
    /// What the cells' hashes begin with.
    prefix: String,
    replica: u32,
    /// The class of device, for [`PlannedTrial::work`].
    class: String,
}

impl Matrix {
    /// Adds the cells of a row: once, or once for each replica.
    fn push_row(&mut self, scenario: &Scenario, row: &Row<'_, '_>, works: &[Work<'_>]) {
        let any = scenario.fleet.placement == Placement::Any;
        let (chosen, class) = (chosen(row), DeviceClass::of(row.devices[0]).to_string());
        let pool: Option<Arc<[Place]>> = any.then(|| row.able.iter().map(|device| Place::of(device)).collect());
        let first = self.trials.len();
        for replica in 0..row.replicas {
            let place = Place::of(chosen[replica as usize % chosen.len()]);
            let name = if any { format!("any {class}") } else { format!("{}|{}", place.agent, place.device) };
            let prefix = hash_prefix(&name, row.backend, &row.artifact, row.replicas, replica);
            let replicas = row.replicas;
            let group = (replicas > 1).then_some(PlannedGroup { first, replica, replicas });
            let seat = Seat { place, pool: pool.clone(), group, prefix, replica, class: class.clone() };
            self.push(scenario, row, works, seat);
        }
    }

    /// Adds the cells of every workload, one for each build where there are several. Those that can run come first and are one
    /// trial: only who holds the device all the time can measure builds in turns.
    fn push(&mut self, scenario: &Scenario, row: &Row<'_, '_>, works: &[Work<'_>], seat: Seat) {
        let policy = &scenario.policy;
        let builds = builds(scenario);
        let Seat { place: Place { agent, device }, pool, group, prefix, replica, class } = seat;
        let (backend, first) = (row.backend, self.cells.len());
        let (mut run, mut skipped) = (Vec::new(), Vec::new());
        for (&Work { workload, digest }, build) in works.iter().flat_map(|work| builds.iter().map(move |b| (work, b))) {
            let (agent, artifact, workload) = (agent.clone(), row.artifact.clone(), Arc::clone(workload));
            let reason = row.skip.clone().or_else(|| backend.cannot(artifact.precision, workload.batch));
            let reason = reason.or_else(|| if policy.force { None } else { no_room(row, &workload) });
            let build = build.cloned();
            let hash = CellHash::of(&of_build(&prefix, build.as_ref()), digest);
            let cell = Cell { agent, device, backend, artifact, workload, replica, build };
            if let Some(reason) = reason {
                skipped.push(PlannedCell { cell, hash, plan: CellPlan::Skip { reason } });
            } else {
                run.push(digest);
                let plan = CellPlan::Run { trial: self.trials.len() };
                self.cells.push(PlannedCell { cell, hash, plan });
            }
        }
        let cells = first..self.cells.len();
        if !cells.is_empty() {
            let work = Some(work(&class, backend, &row.artifact, policy, run));
            let artifact = row.artifact.clone();
            self.trials.push(PlannedTrial { agent, device, backend, artifact, cells, pool, group, work });
        }
        self.cells.append(&mut skipped);
    }
}

impl Matrix {
    /// The same with the cells of those trials measured in turns for which `base` names a build of the worker: by that one and by
    /// the one that is [`PRESENT`]. Replicas stay as they are: what they share can't be measured in turns. Cells that no trial has
    /// are left out.
    #[must_use]
    pub fn in_turns(self, base: impl Fn(&Cell) -> Option<BuildName>) -> Self {
        let mut matrix = Self { cells: Vec::with_capacity(2 * self.cells.len()), trials: Vec::new() };
        let present: Option<BuildName> = PRESENT.parse().ok();
        for (position, trial) in self.trials.into_iter().enumerate() {
            let cells = &self.cells[trial.cells.clone()];
            let base = cells.iter().filter(|_| trial.group.is_none()).find_map(|planned| base(&planned.cell));
            let builds: Vec<Option<BuildName>> = match base {
                Some(base) => vec![Some(base), present.clone()],
                None => vec![None],
            };
            let start = matrix.cells.len();
            for (planned, build) in cells.iter().flat_map(|planned| builds.iter().map(move |build| (planned, build))) {
                let hash = build.as_ref().map_or(planned.hash, |build| planned.hash.of_build(build));
                let cell = Cell { build: build.clone(), ..planned.cell.clone() };
                matrix.cells.push(PlannedCell { cell, hash, plan: CellPlan::Run { trial: position } });
            }
            // Twice the cells are other work, of which nothing is known.
            let work = trial.work.filter(|_| builds.len() == 1);
            matrix.trials.push(PlannedTrial { cells: start..matrix.cells.len(), work, ..trial });
        }
        matrix
    }
}

/// The builds of the worker program that each workload is measured by; without any, the one that there is.
fn builds(scenario: &Scenario) -> Vec<Option<&BuildName>> {
    if scenario.builds.is_empty() { vec![None] } else { scenario.builds.iter().map(Some).collect() }
}

/// The devices that the row's replicas are bound to, or named after: those of one agent if it has enough.
fn chosen<'d>(row: &Row<'_, 'd>) -> Vec<&'d Device> {
    let replicas = row.replicas as usize;
    if row.able.is_empty() {
        return row.devices.to_vec();
    }
    let mut counts: HashMap<&AgentId, usize> = HashMap::new();
    for device in &row.able {
        *counts.entry(&device.agent).or_default() += 1;
    }
    let enough = row.able.iter().map(|device| &device.agent).find(|agent| counts[agent] >= replicas);
    let fits = |device: &&Device| enough.is_none_or(|agent| device.agent == *agent);
    row.able.iter().copied().filter(fits).take(replicas).collect()
}

/// Hash of what decides how long a trial takes.
fn work(
    class: &str,
    backend: BackendKind,
    artifact: &ArtifactRef,
    policy: &Policy,
    mut workloads: Vec<&str>,
) -> Digest {
    workloads.sort_unstable();
    let Policy { repetitions, passes, warmup, timeout: _, threads, weights_seed: _, exclusive: _, force: _ } = policy;
    let (least, most) = (warmup.min_time.as_nanos(), warmup.max_time.as_nanos());
    let warmup = format!("{}..{}|{least}..{most}", warmup.min_repetitions, warmup.max_repetitions);
    let workloads = workloads.join(",");
    // A single pass keeps the hash, and with it the history, that it had before there were several.
    let passes = if passes.is_single() { String::new() } else { format!("x{}..{}", passes.min, passes.max) };
    Digest::of(
        format!("{class}|{backend}|{artifact}|{repetitions}{passes}|{warmup}|{threads:?}|{workloads}").as_bytes(),
    )
}

/// How many cells [`expand`] makes, without making them.
pub fn count(scenario: &Scenario, devices: &[Device]) -> usize {
    let Scenario { models, backends, precisions, workloads, .. } = scenario;
    let wanted = wanted(scenario, devices);
    let classes = classes(&wanted).len();
    let singles = if scenario.fleet.placement == Placement::Any { classes } else { wanted.len() };
    let cells = workloads.iter().map(|workload| match workload.replicas {
        1 => singles,
        replicas => classes.saturating_mul(replicas as usize),
    });
    let sizes = [models.len(), backends.len(), precisions.len(), builds(scenario).len()];
    sizes.into_iter().fold(cells.fold(0, usize::saturating_add), usize::saturating_mul)
}

/// The devices that the scenario asks for, each once.
fn wanted<'d>(scenario: &Scenario, devices: &'d [Device]) -> Vec<&'d Device> {
    let mut seen = HashSet::new();
    let asked = |device: &&Device| scenario.devices.iter().any(|selector| selector.matches(device.id));
    devices.iter().filter(asked).filter(|device| seen.insert((&device.agent, device.id))).collect()
}

fn artifact(scenario: &Scenario, model: &Model, backend: BackendKind, precision: Precision) -> ArtifactRef {
    let format = backend.format(precision);
    ArtifactRef { model: model.id.clone(), weights: scenario.weights, format, precision }
}

/// Why the cells of a row can't run, if they can't.
fn skip_reason(scenario: &Scenario, row: &Row<'_, '_>) -> Option<String> {
    let Row { devices, able, model, backend, artifact, replicas, .. } = row;
    let (precision, device) = (artifact.precision, devices.first()?);
    let kinds = backend.devices();
    if !kinds.contains(&device.id.kind) {
        return Some(format!("{backend} supports {}, not {}", list(kinds), device.id.kind));
    }
    if !backend.precisions().contains(&precision) {
        return Some(format!("{backend} loads {}, not {precision}", list(backend.precisions())));
    }
    if !devices.iter().any(|device| device.backends.contains(backend)) {
        let nobody = match *devices {
            [device] => format!("agent {} has no worker for {backend} on {}", device.agent, device.id),
            _ => format!("no agent has a worker for {backend} on {}", DeviceClass::of(device)),
        };
        return Some(nobody + backend.how_to_get());
    }
    if able.is_empty() {
        return Some(too_small(scenario.fleet.min_memory.unwrap_or_default(), device));
    }
    if able.len() < *replicas as usize {
        let there = if able.len() == 1 { "1 is".to_owned() } else { format!("{} are", able.len()) };
        return Some(format!("needs {replicas} devices of a kind, {there} there"));
    }
    // Published files of such models hold other types in place of the blocks; weights made here hold what they say.
    let narrow =
        [model.shape.hidden, model.shape.intermediate].into_iter().find(|n| !n.is_multiple_of(precision.block()));
    let made_here = artifact.weights == Weights::Synthetic && *backend != BackendKind::Fake;
    narrow
        .filter(|_| made_here)
        .map(|width| format!("{precision} needs rows of a multiple of {}, {} has {width}", precision.block(), model.id))
}

/// Why a workload can't fit on any of the devices that can run the row's cells, if it can't. A device whose memory isn't
/// known may have room.
fn no_room(row: &Row<'_, '_>, workload: &Workload) -> Option<String> {
    let largest = row.able.iter().map(|device| device.memory_bytes.unwrap_or(u64::MAX)).zip(&row.able);
    let (free, device) = largest.max_by_key(|(bytes, _)| *bytes)?;
    let need = preflight::need(&row.model.shape, row.backend, row.artifact.precision, workload);
    need.shortage(&format!("{} of agent {}", device.id, device.agent), free)
}

fn too_small(least: u64, device: &Device) -> String {
    let mib = |bytes: u64| grouped(bytes >> 20);
    let has = device.memory_bytes.map_or_else(|| "an unknown amount".to_owned(), |bytes| format!("{} MiB", mib(bytes)));
    format!("needs {} MiB of memory, {} of agent {} has {has}", mib(least), device.id, device.agent)
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a scenario can't be run on the devices there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// More cells than allowed.
    #[error("{} cells > {}: {}", grouped(*.cells as u64), grouped(*.most as u64), narrow(*.most))]
    TooLarge {
        /// Cells of the matrix.
        cells: usize,
        /// Cells allowed.
        most: usize,
    },
    /// There is no device at all.
    #[error("there are no devices: start an agent, and see `regatta devices` if it finds none")]
    NoDevices,
    /// No agent has the labels that the scenario asks for.
    #[error(
        "no agent here has the labels {}: start one with --label {}, or change labels in [fleet]",
        labels_text(.labels), labels_text(.labels).replace(", ", " --label ")
    )]
    NoLabels {
        /// What the scenario asks for.
        labels: Labels,
    },
    /// No agent has a device that the scenario asks for.
    #[error("no device {wanted} here: available devices: {available}; {fix}")]
    NoDevice {
        /// What the scenario asks for.
        wanted: DeviceSelector,
        /// The devices there are.
        available: String,
        /// What to write instead.
        fix: String,
    },
    /// There are cells, and none of them can run.
    #[error("nothing can run: {reasons}")]
    NothingRunnable {
        /// Why, each reason once.
        reasons: String,
    },
}

fn narrow(most: usize) -> &'static str {
    if most < MAX_CELLS_LARGE { "narrow the scenario, or pass --allow-large" } else { "narrow the scenario" }
}

/// Everything that keeps a scenario from the devices there are. Shown one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixErrors(pub Vec<MatrixError>);

impl fmt::Display for MatrixErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for MatrixErrors {}

/// Checks that every device the scenario names is there, and that at least one cell can run.
pub fn check_devices(scenario: &Scenario, devices: &[Device]) -> Result<(), MatrixErrors> {
    if devices.is_empty() {
        return Err(MatrixErrors(vec![MatrixError::NoDevices]));
    }
    let here = |selector: &DeviceSelector| devices.iter().any(|device| selector.matches(device.id));
    let mut errors: Vec<_> =
        scenario.devices.iter().filter(|selector| !here(selector)).map(|&wanted| no_device(wanted, devices)).collect();
    if errors.is_empty() {
        errors.extend(nothing_runnable(scenario, devices));
    }
    if errors.is_empty() { Ok(()) } else { Err(MatrixErrors(errors)) }
}

fn no_device(wanted: DeviceSelector, devices: &[Device]) -> MatrixError {
    let ids: BTreeSet<_> = devices.iter().map(|device| device.id).collect();
    let same_kind = ids.iter().any(|id| DeviceSelector::Kind(id.kind) == wanted.widened());
    let fix = match ids.first() {
        Some(first) if !same_kind => format!("use devices = [\"{}\"]", first.kind),
        _ => format!("use one of these, or devices = [\"{}\"]", wanted.widened()),
    };
    MatrixError::NoDevice { wanted, available: list(&ids.into_iter().collect::<Vec<_>>()), fix }
}

/// The reasons why no cell runs; `None` if one does.
fn nothing_runnable(scenario: &Scenario, devices: &[Device]) -> Option<MatrixError> {
    let mut reasons = BTreeSet::new();
    let runnable = each_row(scenario, devices, |row| match &row.skip {
        Some(reason) => {
            reasons.insert(reason.clone());
            ControlFlow::Continue(())
        }
        None => ControlFlow::Break(()),
    });
    let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
    runnable.is_continue().then_some(MatrixError::NothingRunnable { reasons })
}

/// Checks that the matrix has at most `most` cells ([`MAX_CELLS`], or [`MAX_CELLS_LARGE`] where that is allowed), and
/// returns their number. To be called before [`expand`], which makes as many as it is asked for.
pub fn check_size(scenario: &Scenario, devices: &[Device], most: usize) -> Result<usize, MatrixError> {
    let cells = count(scenario, devices);
    if cells > most { Err(MatrixError::TooLarge { cells, most }) } else { Ok(cells) }
}

#[cfg(test)]
mod tests;
