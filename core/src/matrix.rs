//! The matrix: a scenario unfolded over devices. Pure and deterministic.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::artifact::{ArtifactRef, Precision, Weights};
use crate::backend::BackendKind;
use crate::cell::{Cell, CellHash, hash_prefix};
use crate::device::{Device, DeviceId};
use crate::document::grouped;
use crate::id::AgentId;
use crate::model::Model;
use crate::scenario::{DeviceSelector, Scenario};

/// A scenario unfolded over devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Every cell, runnable or not, in a fixed order; cells of a trial stand together.
    pub cells: Vec<PlannedCell>,
    /// The runnable cells, grouped by device, backend and artifact.
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
    /// The device.
    pub device: DeviceId,
    /// The engine.
    pub backend: BackendKind,
    /// The weights.
    pub artifact: ArtifactRef,
    /// Positions of its cells in [`Matrix::cells`].
    pub cells: std::ops::Range<usize>,
}

/// The most cells a matrix may have, unless the person says that it is meant to be large.
pub const MAX_CELLS: usize = 2_000;

/// The most cells a matrix may have at all.
pub const MAX_CELLS_LARGE: usize = 1_000_000;

/// Unfolds `scenario` over `devices`: device × model × backend × precision × workload, devices in the order given,
/// the rest in the order of the scenario. Devices that the scenario doesn't ask for have no cells.
pub fn expand(scenario: &Scenario, devices: &[Device]) -> Matrix {
    let digests: Vec<_> = scenario.workloads.iter().map(|workload| workload.digest().to_string()).collect();
    let mut matrix = Matrix { cells: Vec::with_capacity(count(scenario, devices)), trials: Vec::new() };
    for device in wanted(scenario, devices) {
        for model in &scenario.models {
            for &backend in &scenario.backends {
                for &precision in &scenario.precisions {
                    let artifact = artifact(scenario, model, backend, precision);
                    let skip = skip_reason(device, backend, model, &artifact);
                    matrix.push(scenario, &digests, device, backend, &artifact, skip.as_ref());
                }
            }
        }
    }
    matrix
}

impl Matrix {
    /// Adds the cells of every workload. Those that can run come first and are one trial.
    fn push(
        &mut self,
        scenario: &Scenario,
        digests: &[String],
        device: &Device,
        backend: BackendKind,
        artifact: &ArtifactRef,
        skip: Option<&String>,
    ) {
        let (agent, id) = (&device.agent, device.id);
        let prefix = hash_prefix(agent, id, backend, artifact);
        let first = self.cells.len();
        let mut skipped = Vec::new();
        for (workload, digest) in scenario.workloads.iter().zip(digests) {
            let (agent, artifact, workload) = (agent.clone(), artifact.clone(), Arc::clone(workload));
            let reason = skip.cloned().or_else(|| backend.cannot(artifact.precision, workload.batch));
            let plan = match &reason {
                Some(reason) => CellPlan::Skip { reason: reason.clone() },
                None => CellPlan::Run { trial: self.trials.len() },
            };
            let cell = Cell { agent, device: id, backend, artifact, workload };
            let planned = PlannedCell { cell, hash: CellHash::of(&prefix, digest), plan };
            if reason.is_none() { self.cells.push(planned) } else { skipped.push(planned) }
        }
        let cells = first..self.cells.len();
        if !cells.is_empty() {
            let (agent, artifact) = (agent.clone(), artifact.clone());
            self.trials.push(PlannedTrial { agent, device: id, backend, artifact, cells });
        }
        self.cells.append(&mut skipped);
    }
}

/// How many cells [`expand`] makes, without making them.
pub fn count(scenario: &Scenario, devices: &[Device]) -> usize {
    let Scenario { models, backends, precisions, workloads, .. } = scenario;
    let sizes = [models.len(), backends.len(), precisions.len(), workloads.len()];
    sizes.into_iter().fold(wanted(scenario, devices).len(), usize::saturating_mul)
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

/// Why cells of this kind can't run, if they can't.
fn skip_reason(device: &Device, backend: BackendKind, model: &Model, artifact: &ArtifactRef) -> Option<String> {
    let precision = artifact.precision;
    let kinds = backend.devices();
    if !kinds.contains(&device.id.kind) {
        return Some(format!("{backend} supports {}, not {}", list(kinds), device.id.kind));
    }
    if !backend.precisions().contains(&precision) {
        return Some(format!("{backend} loads {}, not {precision}", list(backend.precisions())));
    }
    if !device.backends.contains(&backend) {
        return Some(format!("agent {} has no worker for {backend} on {}", device.agent, device.id));
    }
    // Published files of such models hold other types in place of the blocks; weights made here hold what they say.
    let narrow =
        [model.shape.hidden, model.shape.intermediate].into_iter().find(|n| !n.is_multiple_of(precision.block()));
    let made_here = artifact.weights == Weights::Synthetic && backend != BackendKind::Fake;
    narrow
        .filter(|_| made_here)
        .map(|width| format!("{precision} needs rows of a multiple of {}, {} has {width}", precision.block(), model.id))
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
    for device in wanted(scenario, devices) {
        for model in &scenario.models {
            for &backend in &scenario.backends {
                for &precision in &scenario.precisions {
                    let artifact = artifact(scenario, model, backend, precision);
                    reasons.insert(skip_reason(device, backend, model, &artifact)?);
                }
            }
        }
    }
    let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
    Some(MatrixError::NothingRunnable { reasons })
}

/// Checks that the matrix has at most `most` cells ([`MAX_CELLS`], or [`MAX_CELLS_LARGE`] where that is allowed), and
/// returns their number. To be called before [`expand`], which makes as many as it is asked for.
pub fn check_size(scenario: &Scenario, devices: &[Device], most: usize) -> Result<usize, MatrixError> {
    let cells = count(scenario, devices);
    if cells > most { Err(MatrixError::TooLarge { cells, most }) } else { Ok(cells) }
}

#[cfg(test)]
mod tests;
