//! Trials: the unit an agent leases, and the states it passes through.
//!
//! ```text
//!            lease(epoch+1)        first record           Finish checked
//!  queued ───────────────► leased ────────────► running ─────────────────► done
//!    ▲                        │                    │
//!    │  lease ran out,        │                    ├──► failed        (its cells say why)
//!    └── infrastructure ◄─────┴────────────────────┤
//!        failed, attempts left                     └──► cancelled
//! ```
//! `done`, `failed` and `cancelled` are final: a transition out of them is refused.

use std::sync::Arc;

use crate::artifact::ArtifactRef;
use crate::backend::BackendKind;
use crate::cell::CellHash;
use crate::device::DeviceId;
use crate::id::{AgentId, BuildName, RunId, TrialId};
use crate::policy::Policy;
use crate::workload::Workload;

/// Counts the leases of a trial; the fencing token: whoever holds an older epoch changes no state any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of the next lease.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What an agent gets to do: one worker process's pass over cells that share device, backend and artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Its id.
    pub id: TrialId,
    /// The run it belongs to.
    pub run: RunId,
    /// The agent whose device is meant.
    pub agent: AgentId,
    /// The device.
    pub device: DeviceId,
    /// The engine.
    pub backend: BackendKind,
    /// The weights, loaded once.
    pub artifact: ArtifactRef,
    /// What to measure, in order.
    pub cells: Vec<TrialCell>,
    /// How to measure.
    pub policy: Policy,
    /// The group it is measured with; `None` for a trial that is measured alone.
    pub group: Option<Group>,
}

/// Trials that are measured at the same time, on as many devices: each repetition begins when all are ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The id of its first trial.
    pub id: TrialId,
    /// This trial's position in the group, from 0.
    pub replica: u32,
    /// Trials in the group.
    pub replicas: u32,
}

/// A cell as a trial carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialCell {
    /// The cell's identity.
    pub hash: CellHash,
    /// What to execute.
    pub workload: Arc<Workload>,
    /// The build of the worker program that is to measure it, where several are measured in turns.
    pub build: Option<BuildName>,
}

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrialState {
    /// Waits for an agent.
    Queued,
    /// Given to an agent, nothing heard yet.
    Leased,
    /// Records are coming in.
    Running,
    /// Finished and checked for gaps.
    Done,
    /// Given up.
    Failed,
    /// Stopped by a person.
    Cancelled,
}

impl TrialState {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Queued, Self::Leased, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether nothing changes it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Whether an agent holds the trial.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }

    /// Whether `next` may follow.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Leased | Self::Failed | Self::Cancelled),
            Self::Leased => matches!(next, Self::Running | Self::Queued | Self::Done | Self::Failed | Self::Cancelled),
            Self::Running => matches!(next, Self::Queued | Self::Done | Self::Failed | Self::Cancelled),
            Self::Done | Self::Failed | Self::Cancelled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_final_state() {
        for state in TrialState::ALL.into_iter().filter(|s| s.is_final()) {
            assert!(TrialState::ALL.into_iter().all(|next| !state.may_become(next)), "{state:?}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for state in TrialState::ALL {
            assert_eq!(TrialState::parse(state.as_str()), Some(state));
        }
    }
}
