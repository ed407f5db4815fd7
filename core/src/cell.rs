//! Cells: the points of the expanded matrix, and how each of them ends.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactRef, Weights};
use crate::backend::BackendKind;
use crate::device::DeviceId;
use crate::digest::Digest;
use crate::failure::FailureKind;
use crate::id::{AgentId, BuildName};
use crate::workload::Workload;

/// One point of the expanded matrix, bound to one device: the unit that gets a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The agent that owns the device.
    pub agent: AgentId,
    /// The device.
    pub device: DeviceId,
    /// The engine.
    pub backend: BackendKind,
    /// The weights.
    pub artifact: ArtifactRef,
    /// What is executed.
    pub workload: Arc<Workload>,
    /// Its position among the replicas of its workload, from 0.
    pub replica: u32,
    /// The build of the worker program that measures it, where several are measured in turns.
    pub build: Option<BuildName>,
}

/// Identifies a cell within a run, and the same cell in other runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CellHash(pub Digest);

impl fmt::Display for CellHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cell {
    /// The hash of a cell that is bound to its device: over device, backend, artifact, the workload's content and, where
    /// there are several, the replica or the build; the workload's name is not in it.
    pub fn hash(&self) -> CellHash {
        let Self { agent, device, backend, artifact, workload, replica, build } = self;
        let prefix = hash_prefix(&format!("{agent}|{device}"), *backend, artifact, workload.replicas, *replica);
        CellHash::of(&of_build(&prefix, build.as_ref()), &workload.digest().to_string())
    }
}

impl Cell {
    /// For people: `tinyllama-1.1b · candle · q8_0 · chat on host-a cpu`.
    pub fn label(&self) -> String {
        let Self { agent, device, build, .. } = self;
        let build = build.as_ref().map(|build| format!(", build {build}")).unwrap_or_default();
        format!("{}{build} on {agent} {device}", self.work())
    }

    /// What is measured, wherever and with whatever build that is: `tinyllama-1.1b · candle · q8_0 · chat`.
    pub fn work(&self) -> String {
        let Self { backend, artifact, workload, replica, .. } = self;
        let synthetic = if artifact.weights == Weights::Synthetic { " (synthetic)" } else { "" };
        let replica = match workload.replicas {
            1 => String::new(),
            replicas => format!(", replica {} of {replicas}", replica + 1),
        };
        let (model, precision, name) = (&artifact.model, artifact.precision, &workload.name);
        format!("{model}{synthetic} · {backend} · {precision} · {name}{replica}")
    }
}

impl CellHash {
    /// The hash of this cell as one that a build measures in turns with another one.
    pub(crate) fn of_build(&self, build: &BuildName) -> Self {
        Self(Digest::of(format!("{}|build {build}", self.0).as_bytes()))
    }

    /// The hash of the cell with this [`hash_prefix`] and this workload digest. Cells of one trial share the prefix.
    pub(crate) fn of(prefix: &str, workload: &str) -> Self {
        let mut text = String::with_capacity(prefix.len() + workload.len());
        text.push_str(prefix);
        text.push_str(workload);
        Self(Digest::of(text.as_bytes()))
    }
}

/// What a cell's hash covers besides the workload. `place` is the device, or the class of devices where any of them will
/// do. A cell without replicas keeps the hash it had before there were any.
pub(crate) fn hash_prefix(
    place: &str,
    backend: BackendKind,
    artifact: &ArtifactRef,
    replicas: u32,
    replica: u32,
) -> String {
    let ArtifactRef { model, weights, format, precision } = artifact;
    let replica = if replicas == 1 { String::new() } else { format!("{replica}/{replicas}|") };
    format!("{place}|{backend}|{model}|{weights}|{format}|{precision}|{replica}")
}

/// The prefix of the cells of a build. Without builds cells keep the hash they had before there were any.
pub(crate) fn of_build<'p>(prefix: &'p str, build: Option<&BuildName>) -> Cow<'p, str> {
    build.map_or(Cow::Borrowed(prefix), |build| Cow::Owned(format!("{prefix}build {build}|")))
}

/// How a cell ended. A cell without an outcome is still waiting or running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All repetitions were measured.
    Ok,
    /// The device or the host had too little memory.
    Oom(String),
    /// It was not tried, for the reason given.
    Skipped(String),
    /// It was tried and did not work.
    Failed(FailureKind, String),
    /// No progress before the deadline.
    Timeout(String),
    /// The worker died.
    Crashed(String),
    /// A person stopped the run.
    Cancelled,
}

impl Outcome {
    /// The outcome that a failure of this kind leads to.
    pub fn of_failure(kind: FailureKind, detail: String) -> Self {
        match kind {
            FailureKind::OomDevice | FailureKind::OomHost => Self::Oom(detail),
            FailureKind::NoRoom => Self::Skipped(detail),
            FailureKind::Timeout => Self::Timeout(detail),
            FailureKind::Crash => Self::Crashed(detail),
            other => Self::Failed(other, detail),
        }
    }

    /// The state's name in the database, exports and reports.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Oom(_) => "oom",
            Self::Skipped(_) => "skipped",
            Self::Failed(..) => "failed",
            Self::Timeout(_) => "timeout",
            Self::Crashed(_) => "crashed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reason, for outcomes that have one.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Ok | Self::Cancelled => None,
            Self::Oom(d) | Self::Skipped(d) | Self::Failed(_, d) | Self::Timeout(d) | Self::Crashed(d) => Some(d),
        }
    }

    /// The kind, for a failure.
    pub fn failure(&self) -> Option<FailureKind> {
        match self {
            Self::Failed(kind, _) => Some(*kind),
            _ => None,
        }
    }

    /// The outcome from its stored parts; `None` for parts that fit no outcome.
    pub fn from_parts(state: &str, kind: Option<FailureKind>, detail: Option<String>) -> Option<Self> {
        let text = detail.unwrap_or_default();
        Some(match (state, kind) {
            ("ok", None) => Self::Ok,
            ("oom", None) => Self::Oom(text),
            ("skipped", None) => Self::Skipped(text),
            ("failed", Some(kind)) => Self::Failed(kind, text),
            ("timeout", None) => Self::Timeout(text),
            ("crashed", None) => Self::Crashed(text),
            ("cancelled", None) => Self::Cancelled,
            _ => return None,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(kind, detail) => write!(f, "failed ({kind}): {detail}"),
            other => match other.detail() {
                Some(detail) => write!(f, "{}: {detail}", other.state()),
                None => f.write_str(other.state()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_put_together_again_from_their_parts() {
        let kinds = FailureKind::ALL.map(|kind| Outcome::of_failure(kind, "why".to_owned()));
        let others = [Outcome::Ok, Outcome::Cancelled, Outcome::Skipped("why".to_owned())];
        for outcome in kinds.into_iter().chain(others) {
            let detail = outcome.detail().map(str::to_owned);
            assert_eq!(Outcome::from_parts(outcome.state(), outcome.failure(), detail), Some(outcome));
        }
        assert_eq!(Outcome::from_parts("failed", None, None), None);
        assert_eq!(Outcome::from_parts("done", None, None), None);
    }
}
