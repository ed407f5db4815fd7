//! How a cell or a trial can fail, and what follows from each kind.

use std::fmt;
use std::str::FromStr;

/// Why a worker's work on a cell came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The device's memory did not suffice.
    OomDevice,
    /// The host's memory did not suffice.
    OomHost,
    /// The worker died: a signal, an abort, a non-zero exit.
    Crash,
    /// The worker made no progress until its deadline.
    Timeout,
    /// The worker wrote what is not a frame, or samples that break their rules.
    BadOutput,
    /// The weights are missing, broken, or not what they claim to be.
    ModelRejected,
    /// The engine can't do what the cell asks.
    Unsupported,
    /// The engine reported an error.
    Engine,
    /// The worker could not be started.
    Spawn,
    /// The agent went away and its lease ran out.
    AgentLost,
    /// Another replica of its group failed, so that the group as a whole did.
    Replica,
    /// The memory preflight found that it can't fit: it was not tried.
    NoRoom,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::OomDevice,
        Self::OomHost,
        Self::Crash,
        Self::Timeout,
        Self::BadOutput,
        Self::ModelRejected,
        Self::Unsupported,
        Self::Engine,
        Self::Spawn,
        Self::AgentLost,
        Self::Replica,
        Self::NoRoom,
    ];

    /// The name in the database, exports and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OomDevice => "oom_device",
            Self::OomHost => "oom_host",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::BadOutput => "bad_output",
            Self::ModelRejected => "model_rejected",
            Self::Unsupported => "unsupported",
            Self::Engine => "engine",
            Self::Spawn => "spawn",
            Self::AgentLost => "agent_lost",
            Self::Replica => "replica",
            Self::NoRoom => "no_room",
        }
    }

    /// Whether another attempt may succeed: only what the infrastructure did, never what the cell itself asked for.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::Spawn | Self::AgentLost)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a kind of failure")]
pub struct UnknownFailure(String);

impl FromStr for FailureKind {
    type Err = UnknownFailure;

    fn from_str(text: &str) -> Result<Self, UnknownFailure> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| UnknownFailure(crate::id::shown(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("oom".parse::<FailureKind>().unwrap_err().to_string(), "'oom' is not a kind of failure");
    }

    #[test]
    fn only_the_infrastructures_failures_are_tried_again() {
        let again: Vec<_> = FailureKind::ALL.into_iter().filter(|kind| kind.is_infrastructure()).collect();
        assert_eq!(again, [FailureKind::Spawn, FailureKind::AgentLost]);
    }
}
