//! The nightly verdict: whether tonight's values of a cell are slower than its nights before, said only when it holds. Pure.
//!
//! A series of nights is cut into **segments** where circumstances changed, and a segment into **levels** where a change is
//! known already. Then three voters look, and the last one decides:
//!
//! 1. the **screen** holds tonight against the nights of its level, by a robust z;
//! 2. **change points** of the level find drifts and steps that are too small for a screen;
//! 3. what either of them found is **confirmed** with values that had no part in finding it. Worker processes that measure
//!    again in turns with the last good build decide at once; everything else is held against stored nights, where a bad
//!    night of the machine looks just like slower software, and so takes a second night.
//!
//! Where a machine's cells move together the machine moved, and that is one event.

mod confirm;
mod machine;
mod screen;
mod segments;
#[cfg(test)]
mod tests;
mod values;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::confirm::{Again, Confirmation};
pub use self::machine::MachineEvent;
pub use self::segments::{Segment, segments};
pub use self::values::{Metric, pairs, processes};
use crate::fingerprint::{Difference, Fingerprint};
use crate::id::RunId;
use crate::ranks;
use crate::statistics::adjusted;

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Changes below this one do not count, 0.02 for 2 %.
    pub threshold: f64,
    /// A night is flagged beyond so many times what is usual from night to night.
    pub z: f64,
    /// Nights that are held against tonight at most.
    pub window: usize,
    /// Nights of a segment without which nothing is judged.
    pub learning: usize,
    /// Nights of a level without which nothing is judged.
    pub level: usize,
    /// What is usual from night to night is never taken to be less than this.
    pub floor: f64,
    /// Worker processes that measure a flagged cell again.
    pub again: usize,
    /// The share of confirmed changes that may be wrong.
    pub q: f64,
    /// A machine moved where more than this share of its cells did.
    pub machine_share: f64,
    /// A machine moved where at least so many of its cells did.
    pub machine_cells: usize,
    /// Nights in which change points are looked for, at most.
    pub reach: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threshold: 0.02,
            z: 4.0,
            window: 30,
            learning: 8,
            level: 3,
            floor: 0.003,
            again: 10,
            q: 0.05,
            machine_share: 0.3,
            machine_cells: 3,
            reach: 100,
        }
    }
}

/// One metric of one cell, night by night.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The machine, for what all its cells share.
    pub machine: String,
    /// The cell. Metrics of one cell share it.
    pub cell: String,
    /// The metric.
    pub metric: String,
    /// Whether larger values are better.
    pub larger_is_better: bool,
    /// Its nights, oldest first. Tonight is the last.
    pub nights: Vec<Night>,
}

/// One night of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Night {
    /// The run of that night.
    pub run: RunId,
    /// Positive values, one of each worker process. Empty where the cell was not measured.
    pub values: Vec<f64>,
    /// Whether it may be held against others.
    pub standing: Standing,
    /// Its circumstances; empty where nothing is known.
    pub fingerprint: Fingerprint,
    /// What was said of it before, as far as that bears on later nights.
    pub said: Said,
}

/// Whether a night may be held against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing is known against it.
    Valid,
    /// Measured in doubtful surroundings.
    Suspect,
    /// A person took it out.
    Excluded,
}

/// What an earlier verdict means for later nights.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Said {
    /// Nothing.
    #[default]
    Nothing,
    /// A change was seen, and one night more decides.
    Pending(Direction),
    /// A change is known, or was to be expected: a new level began with that run.
    Changed {
        /// The first run of the new level.
        since: RunId,
    },
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Worse.
    Slower,
    /// Better.
    Faster,
}

impl Direction {
    /// Which way it is from `ratio` 1, where larger values are better or not.
    fn of(ratio: f64, larger_is_better: bool) -> Self {
        if (ratio > 1.0) == larger_is_better { Self::Faster } else { Self::Slower }
    }

    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
        }
    }
}

/// What is said of tonight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// There is nothing to judge, and why.
    Unjudged {
        /// Why.
        why: Unjudged,
    },
    /// Circumstances changed: tonight is the first night of a new segment.
    Began {
        /// In what they changed.
        because: Vec<Difference>,
    },
    /// Too few nights yet.
    Learning {
        /// Nights there are.
        nights: usize,
        /// Nights it takes.
        of: usize,
    },
    /// As usual.
    Steady,
    /// Out of the usual: to be measured again.
    Flagged {
        /// Which way.
        direction: Direction,
    },
    /// Measured again, and out of the usual again: one night more decides.
    Suspected {
        /// Which way.
        direction: Direction,
    },
    /// A change for certain.
    Confirmed {
        /// Which way.
        direction: Direction,
        /// The first run of the new level.
        since: RunId,
    },
    /// Its machine changed for certain, and a new level begins for all of its cells.
    WithMachine {
        /// Which way.
        direction: Direction,
        /// The first run of the new level.
        since: RunId,
        /// Whether this cell moved as well.
        moved: bool,
    },
}

/// Why there is nothing to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unjudged {
    /// It was not measured.
    NotMeasured,
    /// It was measured in doubtful surroundings.
    Suspect,
    /// A person took the night out.
    Excluded,
}

/// The numbers behind a verdict. Shares are 0.02 for 2 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Tonight's value: the median of its worker processes.
    pub tonight: f64,
    /// The level it is held against: the median of its nights.
    pub level: f64,
    /// Nights of that level.
    pub nights: usize,
    /// Tonight over the level, less 1.
    pub change: f64,
    /// What is usual from night to night.
    pub noise: f64,
    /// The change as a multiple of what is usual, that of a young level included.
    pub z: f64,
    /// A change has to be as large as this to count.
    pub least: f64,
    /// Where the level changed, by its change points.
    pub change_point: Option<ChangePoint>,
    /// What confirming it gave.
    pub confirmation: Option<Confirmation>,
    /// What measuring in turns with the last good build gave, where that did not decide.
    #[serde(default)]
    pub in_turns: Option<Confirmation>,
}

/// A change of level in the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangePoint {
    /// The first run of the new level.
    pub since: RunId,
    /// New over old level, less 1.
    pub change: f64,
    /// How likely such a difference is without one.
    pub p: f64,
}

/// What is said of a series tonight, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What.
    #[serde(flatten)]
    pub finding: Finding,
    /// Why, where there was something to judge.
    pub evidence: Option<Evidence>,
}

/// What is said of a night.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// One for each series, in their order.
    pub verdicts: Vec<Verdict>,
    /// Machines whose cells moved together.
    pub events: Vec<MachineEvent>,
}

/// Judges tonight. `again` has what was measured again tonight, by the position of the series; without it, what is flagged is
/// what [`Judgement::to_measure`] says.
pub fn judge(series: &[Series], again: &BTreeMap<usize, Again>, rules: &Rules) -> Judgement {
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(series.len());
    let mut open: Vec<(usize, screen::Open)> = Vec::new();
    for (at, series) in series.iter().enumerate() {
        let (verdict, left) = screen::look(series, rules);
        verdicts.push(verdict);
        open.extend(left.map(|left| (at, left)));
    }
    confirm_all(series, &mut verdicts, open, again, rules);
    let events = machine::group(series, &mut verdicts, rules);
    Judgement { verdicts, events }
}

/// Tests what is open, all tests of the night taken together.
fn confirm_all(
    series: &[Series],
    verdicts: &mut [Verdict],
    open: Vec<(usize, screen::Open)>,
    again: &BTreeMap<usize, Again>,
    rules: &Rules,
) {
    let tests = |(at, open): (usize, screen::Open)| {
        let tests = confirm::tests(&series[at], &open, again.get(&at));
        (at, open, tests)
    };
    let mut tested: Vec<(usize, screen::Open, Vec<Confirmation>)> = open.into_iter().map(tests).collect();
    let q = adjusted(&tested.iter().flat_map(|(_, _, tests)| tests).map(|test| test.p).collect::<Vec<f64>>());
    for (test, q) in tested.iter_mut().flat_map(|(_, _, tests)| tests).zip(q) {
        test.q = q;
    }
    for (at, open, tests) in tested {
        let Verdict { finding, evidence } = &mut verdicts[at];
        let holds = |test: &&Confirmation| open.is_held(test, &series[at], rules);
        // Where nothing holds, the nights have the last word.
        let Some(decides) = tests.iter().find(holds).or(tests.last()).copied() else {
            *finding = open.untested();
            continue;
        };
        *finding = open.finding(&series[at], &decides, rules);
        if let Some(evidence) = evidence {
            evidence.confirmation = Some(decides);
            evidence.in_turns = tests.into_iter().find(|test| test.paired && !decides.paired);
        }
    }
}

impl Judgement {
    /// What is slower for certain: series that are on their own, and machines.
    pub fn slowdowns(&self) -> usize {
        let slower = |finding: &Finding| matches!(finding, Finding::Confirmed { direction: Direction::Slower, .. });
        let machines = self.events.iter().filter(|event| event.confirmed && event.direction == Direction::Slower);
        self.verdicts.iter().filter(|verdict| slower(&verdict.finding)).count() + machines.count()
    }

    /// The series to measure again. Of a machine whose cells moved together a few stand for all.
    pub fn to_measure(&self) -> Vec<usize> {
        const OF_MACHINE: usize = 5;
        let flagged = |at: &usize| matches!(self.verdicts[*at].finding, Finding::Flagged { .. });
        let moved: Vec<usize> = self.events.iter().flat_map(|event| event.moved.iter().copied()).collect();
        let alone = (0..self.verdicts.len()).filter(|at| flagged(at) && !moved.contains(at));
        let few = self.events.iter().flat_map(|event| event.moved.iter().copied().filter(flagged).take(OF_MACHINE));
        let mut all: Vec<usize> = alone.chain(few).collect();
        all.sort_unstable();
        all
    }
}

impl Series {
    /// The last night before tonight, in the same circumstances, that counts and of which nothing was suspected.
    pub fn last_good(&self) -> Option<&Night> {
        let (_, before) = self.nights.split_last()?;
        let segment = segments(&self.nights).pop()?.nights;
        let same = before.get(segment.start.min(before.len())..)?;
        same.iter().rev().find(|night| night.counts() && !matches!(night.said, Said::Pending(_)))
    }
}

impl Night {
    /// Its value: the median of its worker processes.
    pub fn value(&self) -> Option<f64> {
        ranks::median(&ranks::sorted(self.values.iter().copied()))
    }

    /// Whether it may be held against others.
    fn counts(&self) -> bool {
        self.standing == Standing::Valid && !self.values.is_empty()
    }
}

impl Finding {
    /// The word for people and exports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unjudged { why: Unjudged::NotMeasured } => "not measured",
            Self::Unjudged { why: Unjudged::Suspect } => "suspect",
            Self::Unjudged { why: Unjudged::Excluded } => "excluded",
            Self::Began { .. } => "new series",
            Self::Learning { .. } => "learning",
            Self::Steady => "steady",
            Self::Flagged { .. } => "flagged",
            Self::Suspected { .. } => "suspected",
            Self::Confirmed { direction, .. } => direction.as_str(),
            Self::WithMachine { .. } => "with machine",
        }
    }

    /// What it means for later nights.
    pub fn said(&self) -> Said {
        match self {
            Self::Flagged { direction } | Self::Suspected { direction } => Said::Pending(*direction),
            Self::Confirmed { since, .. } | Self::WithMachine { since, .. } => Said::Changed { since: since.clone() },
            Self::Unjudged { .. } | Self::Began { .. } | Self::Learning { .. } | Self::Steady => Said::Nothing,
        }
    }

    /// Which way it moved, where it did.
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Flagged { direction }
            | Self::Suspected { direction }
            | Self::Confirmed { direction, .. }
            | Self::WithMachine { direction, moved: true, .. } => Some(*direction),
            _ => None,
        }
    }
}
