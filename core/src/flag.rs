//! Flags: what must be said beside a number so that it claims no more than was done.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One thing to be said beside a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// The weights are made up.
    SyntheticWeights,
    /// The worker was compiled for a lower SIMD level than the CPU has.
    SimdBelowCpu,
    /// The worker was compiled without optimisation.
    DebugBuild,
    /// Warm-up ended at its limit before the last repetitions agreed.
    WarmupNotStable,
    /// The output's token ids differ from those of the cell's first repetition.
    OutputChanged,
    /// The numbers come from the `fake` backend.
    FakeBackend,
    /// The thread count is not one per physical core.
    ThreadsOverridden,
    /// Tokens came faster than any memory can deliver the weights: the clock or a synchronisation is wrong.
    FasterThanPhysics,
    /// Trials on other devices of the machine may have run at the same time.
    SharedHost,
}

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 9] = [
        Self::SyntheticWeights,
        Self::SimdBelowCpu,
        Self::DebugBuild,
        Self::WarmupNotStable,
        Self::OutputChanged,
        Self::FakeBackend,
        Self::ThreadsOverridden,
        Self::FasterThanPhysics,
        Self::SharedHost,
    ];

    /// The name in the database, exports and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SyntheticWeights => "synthetic_weights",
            Self::SimdBelowCpu => "simd_below_cpu",
            Self::DebugBuild => "debug_build",
            Self::WarmupNotStable => "warmup_not_stable",
            Self::OutputChanged => "output_changed",
            Self::FakeBackend => "fake_backend",
            Self::ThreadsOverridden => "threads_overridden",
            Self::FasterThanPhysics => "faster_than_physics",
            Self::SharedHost => "shared_host",
        }
    }

    /// A sentence for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::SyntheticWeights => "weights are seeded random numbers: speed is real, text is not",
            Self::SimdBelowCpu => "worker compiled for a lower SIMD level than this CPU has: slower than it could be",
            Self::DebugBuild => "worker compiled without optimisation",
            Self::WarmupNotStable => "warm-up reached its limit before repetitions agreed",
            Self::OutputChanged => "the same prompt gave other tokens than in the first repetition",
            Self::FakeBackend => "scripted timings, no model ran",
            Self::ThreadsOverridden => "thread count chosen in the scenario, not one per physical core",
            Self::FasterThanPhysics => "faster than any memory can deliver the weights: kept, not charted",
            Self::SharedHost => "trials on other devices of the machine may have run at the same time",
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a known flag")]
pub struct UnknownFlag(String);

impl FromStr for Flag {
    type Err = UnknownFlag;

    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        Self::ALL.into_iter().find(|f| f.as_str() == text).ok_or_else(|| UnknownFlag(crate::id::shown(text)))
    }
}

/// A set of flags, in a fixed order.
pub type Flags = BTreeSet<Flag>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for flag in Flag::ALL {
            assert_eq!(flag.to_string().parse(), Ok(flag));
            assert!(!flag.meaning().is_empty());
        }
        assert_eq!("hot".parse::<Flag>().unwrap_err().to_string(), "'hot' is not a known flag");
    }

    #[test]
    fn every_flag_is_listed_once() {
        assert_eq!(Flags::from(Flag::ALL).len(), Flag::ALL.len());
    }
}
