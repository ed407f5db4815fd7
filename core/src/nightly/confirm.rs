//! Confirming a change with values that had no part in finding it.

use serde::{Deserialize, Serialize};

use super::screen::Open;
use super::{Direction, Night, Series};
use crate::ranks::{Interval, MIN_FOR_CI};
use crate::statistics::{Effect, Samples, mann_whitney, signed_rank};

/// So many of the last nights of a level are held against tonight at most: 60 worker processes, of 6 a night.
const BASE_NIGHTS: usize = 10;

/// What was measured again, the same night.
#[derive(Debug, Clone, PartialEq)]
pub enum Again {
    /// More worker processes of what is judged.
    Apart(Vec<f64>),
    /// In turns with the last good build: that one and what is judged.
    Pairs(Vec<(f64, f64)>),
}

/// What confirming gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Whether both sides were measured in turns.
    pub paired: bool,
    /// Worker processes it was held against.
    pub base: usize,
    /// Worker processes of tonight.
    pub processes: usize,
    /// Tonight over the base: the shift of Hodges and Lehmann.
    pub ratio: f64,
    /// Its interval.
    pub interval: Interval,
    /// The smallest true change that so many processes tell from none in 8 of 10 cases.
    pub detectable: Option<f64>,
    /// How likely the values would lie as far apart without any change.
    pub p: f64,
    /// The same, adjusted for all tests of the night.
    pub q: f64,
}

impl Confirmation {
    /// Whether it holds that there is a change of at least `least` this way. That there is one at all has to be certain, and
    /// its size is the best guess: to ask of the interval that all of it lies beyond `least` would hide changes that are
    /// little larger.
    pub(super) fn holds(&self, direction: Direction, larger_is_better: bool, least: f64, q: f64) -> bool {
        let certain = self.q <= q && (self.interval.low > 1.0 || self.interval.high < 1.0);
        // The same size either way: half and double are alike.
        let large = self.ratio.ln().abs() >= least.ln_1p();
        certain && large && Direction::of(self.ratio, larger_is_better) == direction
    }
}

/// Tests what is open; nothing without enough values that may speak. `q` is still `p`. Pairs come first: what they don't show the
/// build has not done, but the machine may have, and of that the same values speak when they are held against other nights.
pub(super) fn tests(series: &Series, open: &Open, again: Option<&Again>) -> Vec<Confirmation> {
    let (turns, again): (Option<Confirmation>, Vec<f64>) = match again {
        Some(Again::Pairs(pairs)) => (in_turns(pairs), pairs.iter().map(|(_, candidate)| *candidate).collect()),
        Some(Again::Apart(values)) => (None, values.clone()),
        None => (None, Vec::new()),
    };
    turns.into_iter().chain(apart(series, open, &again)).collect()
}

fn in_turns(pairs: &[(f64, f64)]) -> Option<Confirmation> {
    let logs: Vec<f64> = pairs.iter().map(|(base, candidate)| (candidate / base).ln()).collect();
    confirmation(Samples::Pairs(pairs), [pairs.len(); 2], signed_rank(&logs).two_sided())
}

fn apart(series: &Series, open: &Open, again: &[f64]) -> Option<Confirmation> {
    let tonight = series.nights.last().filter(|_| open.tonight_speaks).map_or(&[][..], |night: &Night| &night.values);
    let candidate: Vec<f64> = tonight.iter().chain(again).copied().collect();
    let recent = &open.base[open.base.len().saturating_sub(BASE_NIGHTS)..];
    let base: Vec<f64> = recent.iter().flat_map(|&at| series.nights[at].values.iter().copied()).collect();
    let p = mann_whitney(&base, &candidate).two_sided();
    confirmation(Samples::Apart { base: &base, candidate: &candidate }, [base.len(), candidate.len()], p)
}

fn confirmation(samples: Samples<'_>, [base, processes]: [usize; 2], p: f64) -> Option<Confirmation> {
    if processes < MIN_FOR_CI {
        return None;
    }
    // Only the shift and its interval are of use here: see `holds` about margins.
    let effect = Effect::of(samples, f64::EPSILON)?;
    Some(Confirmation {
        paired: matches!(samples, Samples::Pairs(_)),
        base,
        processes,
        ratio: effect.ratio,
        interval: effect.interval?,
        detectable: effect.detectable,
        p,
        q: p,
    })
}
