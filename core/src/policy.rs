//! The measurement policy of a scenario: how often, how long, how warm.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a cell is warm enough to be measured. Repetitions of full shape run until `min_repetitions` and `min_time`
/// are reached and the last three agree within `stable_within`; at `max_repetitions` or `max_time` the cell is
/// measured all the same and its samples carry the flag `warmup_not_stable`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warmup {
    /// Repetitions at least.
    pub min_repetitions: u32,
    /// Repetitions at most.
    pub max_repetitions: u32,
    /// Busy time at least.
    pub min_time: Duration,
    /// Busy time at most.
    pub max_time: Duration,
    /// Largest relative spread, `(max - min) / median`, of the last three repetitions' end-to-end times.
    pub stable_within: f64,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            min_repetitions: 4,
            max_repetitions: 20,
            min_time: Duration::from_secs(3),
            max_time: Duration::from_mins(1),
            stable_within: 0.02,
        }
    }
}

/// What a trial has to itself while it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusive {
    /// The whole machine: neighbours share power, cooling, memory and processor.
    #[default]
    Host,
    /// Its device only. Trials on other devices of the machine run at the same time.
    Device,
}

impl Exclusive {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Host, Self::Device];

    /// The name in scenarios and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

/// A text that names no such choice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither host nor device")]
pub struct InvalidExclusive(String);

impl FromStr for Exclusive {
    type Err = InvalidExclusive;

    fn from_str(text: &str) -> Result<Self, InvalidExclusive> {
        let found = Self::ALL.into_iter().find(|choice| choice.as_str() == text);
        found.ok_or_else(|| InvalidExclusive(crate::id::shown(text)))
    }
}

/// How many fresh worker processes measure each cell. What differs from process to process, such as where memory lies,
/// does not differ within one, so the process is what statistics count, not the repetition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Passes {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// Between the two: enough when the 95 % interval of the median reaches no further than this to either side, as a share
    /// of the median.
    pub within: f64,
    /// And no new process begins after this time.
    pub budget: Duration,
}

impl Passes {
    /// Exactly so many.
    pub const fn fixed(passes: u32) -> Self {
        Self { min: passes, max: passes, within: 0.01, budget: Duration::from_hours(24) }
    }

    /// As many as it takes: 6 to 30, until the interval is within 1 %.
    pub const ADAPTIVE: Self = Self { min: 6, max: 30, ..Self::fixed(1) };

    /// Whether it is more than one look.
    pub fn is_single(self) -> bool {
        self.max <= 1
    }
}

/// The most worker processes for a cell.
pub const MAX_PASSES: u32 = 1_000;

/// A text that says no number of worker processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a number from 1 to {MAX_PASSES} nor 'adaptive'")]
pub struct InvalidPasses(String);

impl FromStr for Passes {
    type Err = InvalidPasses;

    fn from_str(text: &str) -> Result<Self, InvalidPasses> {
        if text == "adaptive" {
            return Ok(Self::ADAPTIVE);
        }
        let number = text.parse().ok().filter(|number| (1..=MAX_PASSES).contains(number));
        number.map(Self::fixed).ok_or_else(|| InvalidPasses(crate::id::shown(text)))
    }
}

impl Default for Passes {
    fn default() -> Self {
        Self::fixed(1)
    }
}

/// How cells are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Timed executions per cell and pass.
    pub repetitions: u32,
    /// Worker processes per cell.
    #[serde(default)]
    pub passes: Passes,
    /// Warm-up before them.
    pub warmup: Warmup,
    /// The longest one cell may take, warm-up included, before its worker is stopped.
    pub timeout: Duration,
    /// Threads an engine may use on the CPU; `None` takes one per physical core.
    pub threads: Option<u32>,
    /// Seed of synthetic weights.
    pub weights_seed: u64,
    /// What a trial has to itself.
    #[serde(default)]
    pub exclusive: Exclusive,
    /// Whether cells are tried that the memory preflight would skip.
    #[serde(default)]
    pub force: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            repetitions: 3,
            passes: Passes::default(),
            warmup: Warmup::default(),
            timeout: Duration::from_mins(10),
            threads: None,
            weights_seed: 1,
            exclusive: Exclusive::Host,
            force: false,
        }
    }
}
