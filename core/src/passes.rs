//! Passes: in which order each worker process visits the cells, and when a cell has been measured by enough of them. Pure.
//!
//! A cell stops on **precision**, never on what its numbers say: that is what keeps later comparisons honest.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::metrics::Metrics;
use crate::policy::Passes;
use crate::quality::MAX_REPEATS;
use crate::random::SplitMix;
use crate::ranks;
use crate::sample::Sample;

/// Why a cell is not measured by one more process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// So many were asked for, no more and no less.
    Fixed,
    /// The interval of its median is narrow enough.
    Precise,
    /// The most that was asked for.
    Most,
    /// The time is up.
    Budget,
}

impl StopReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Fixed, Self::Precise, Self::Most, Self::Budget];

    /// The name in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Precise => "precise",
            Self::Most => "most",
            Self::Budget => "budget",
        }
    }

    /// A few words for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Fixed => "as many as were asked for",
            Self::Precise => "the interval was narrow enough",
            Self::Most => "the most that was asked for; the interval is wider than wanted",
            Self::Budget => "time was up; the interval is wider than wanted",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a reason to stop")]
pub struct UnknownStopReason(String);

impl FromStr for StopReason {
    type Err = UnknownStopReason;

    fn from_str(text: &str) -> Result<Self, UnknownStopReason> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| UnknownStopReason(crate::id::shown(text)))
    }
}

/// How many processes measured a cell, and why no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Worker processes.
    pub passes: u32,
    /// Why no more.
    pub reason: StopReason,
}

/// The order in which pass number `pass` visits cells: seeded, so that it can be told afterwards, and the same for trials
/// of one `seed`.
pub fn order<T>(seed: &Digest, pass: u32, cells: &mut [T]) {
    if pass == 0 {
        return;
    }
    let seed = seed.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    SplitMix(seed.wrapping_add(u64::from(pass))).shuffle(cells);
}

/// What the passes over one cell have brought: a median of each metric that is judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// For each metric one value a pass.
    medians: [Vec<f64>; 3],
    /// The repetitions of the pass in hand.
    current: [Vec<f64>; 3],
    passes: u32,
    /// Whether a repetition of the pass in hand may not be counted.
    disturbed: bool,
    /// Passes of which that was so.
    spoilt: u32,
}

impl Progress {
    /// A repetition of the pass in hand, and whether its surroundings allow to count it.
    pub fn add(&mut self, sample: &Sample, counts: bool) {
        if !counts {
            self.disturbed = true;
            return;
        }
        let metrics = Metrics::of(sample);
        let ttft = metrics.ttft_ns.map(|ns| ns as f64);
        for (values, value) in self.current.iter_mut().zip([metrics.decode_rate, metrics.prefill_rate, ttft]) {
            values.extend(value);
        }
    }

    /// The pass in hand is over.
    pub fn end_pass(&mut self) {
        for (medians, values) in self.medians.iter_mut().zip(&mut self.current) {
            medians.extend(ranks::median(&ranks::sorted(values.drain(..))));
        }
        self.passes += 1;
        self.spoilt += u32::from(std::mem::take(&mut self.disturbed));
    }

    /// Passes that are over.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Whether that is enough, and why. `spent` is the time since the first pass began.
    pub fn judge(&self, policy: &Passes, spent: Duration) -> Option<Stopped> {
        let stop = |reason| Some(Stopped { passes: self.passes, reason });
        // A pass that was disturbed is made up for by another one, but not for ever.
        let passes = self.passes - self.spoilt.min(MAX_REPEATS);
        if policy.min >= policy.max && passes >= policy.max {
            return stop(StopReason::Fixed);
        }
        if passes >= policy.min && self.is_within(policy.within) {
            return stop(StopReason::Precise);
        }
        if passes >= policy.max {
            return stop(StopReason::Most);
        }
        if self.passes >= 1 && spent >= policy.budget {
            return stop(StopReason::Budget);
        }
        None
    }

    fn is_within(&self, within: f64) -> bool {
        let narrow = |medians: &Vec<f64>| {
            let sorted = ranks::sorted(medians.iter().copied());
            let Some((interval, median)) = ranks::median_interval(&sorted).zip(ranks::median(&sorted)) else {
                return false;
            };
            (interval.high - median).max(median - interval.low) <= within * median
        };
        let mut known = self.medians.iter().filter(|medians| !medians.is_empty()).peekable();
        // Of nothing, nothing is narrow: every pass may have been disturbed.
        known.peek().is_some() && known.all(narrow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::CellHash;
    use crate::sample::tests::sample;

    const WITHIN: Passes = Passes { min: 6, max: 10, within: 0.01, budget: Duration::from_mins(1) };

    /// Passes whose decode rates are those of `sample` slowed down by so many per mille.
    fn progress(per_mille: &[u64]) -> Progress {
        let mut progress = Progress::default();
        for slow in per_mille {
            let mut sample = sample();
            for time in &mut sample.times.tokens {
                *time += *time * slow / 1000;
            }
            sample.times.end *= 2;
            progress.add(&sample, true);
            progress.end_pass();
        }
        progress
    }

    fn reason(per_mille: &[u64], seconds: u64) -> Option<StopReason> {
        progress(per_mille).judge(&WITHIN, Duration::from_secs(seconds)).map(|stopped| stopped.reason)
    }

    #[test]
    fn a_cell_stops_when_its_interval_is_narrow() {
        assert_eq!(reason(&[0, 1, 2, 3, 4], 1), None, "five values give no interval");
        assert_eq!(reason(&[0, 1, 2, 3, 4, 5], 1), Some(StopReason::Precise));
    }

    #[test]
    fn a_wide_interval_goes_on_to_the_most_or_until_time_is_up() {
        let wide = [0, 100, 0, 100, 0, 100, 0, 100, 0, 100];
        assert_eq!(reason(&wide[..6], 1), None);
        assert_eq!(reason(&wide[..6], 61), Some(StopReason::Budget));
        assert_eq!(reason(&wide, 1), Some(StopReason::Most));
        assert_eq!(reason(&[], 61), None, "nothing ends before it has begun");
    }

    #[test]
    fn passes_that_were_all_disturbed_are_never_precise() {
        let mut progress = Progress::default();
        for pass in 1..=12 {
            assert_eq!(progress.judge(&WITHIN, Duration::ZERO), None, "before pass {pass}");
            progress.add(&sample(), false);
            progress.end_pass();
        }
        let stopped = Stopped { passes: 12, reason: StopReason::Most };
        assert_eq!(progress.judge(&WITHIN, Duration::ZERO), Some(stopped));
    }

    #[test]
    fn a_fixed_number_is_neither_more_nor_less() {
        let judge = |passes: &[u64]| progress(passes).judge(&Passes::fixed(3), Duration::ZERO);
        assert_eq!(judge(&[0, 0]), None);
        assert_eq!(judge(&[0, 500, 0]), Some(Stopped { passes: 3, reason: StopReason::Fixed }));
    }

    #[test]
    fn every_pass_has_its_own_order_and_tells_it_again() {
        let cells: Vec<_> = (0..20u32).map(|i| CellHash(Digest::of(&i.to_le_bytes()))).collect();
        let shuffled = |pass| {
            let mut cells = cells.clone();
            order(&Digest::of(b"trial"), pass, &mut cells);
            cells
        };
        assert_eq!(shuffled(0), cells);
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        assert_ne!(shuffled(1), cells);
    }

    #[test]
    fn reasons_are_read_back() {
        for reason in StopReason::ALL {
            assert_eq!(reason.to_string().parse(), Ok(reason));
            assert!(!reason.meaning().is_empty());
        }
        assert!("bored".parse::<StopReason>().is_err());
    }
}
