//! Statistics of comparisons: is one set of values shifted against another, by how much, and how sure is that. Pure and
//! seeded, so that the same samples give the same verdict everywhere.
//!
//! Nothing here assumes a normal distribution where a decision hangs on it: shifts and their intervals come from ranks,
//! exactly, by counting. Every figure is held against the same figure of another program (`core/tests/golden`).
//!
//! Order statistics of one set of values are in [`ranks`](crate::ranks).

mod bootstrap;
mod changes;
mod effect;
mod multiplicity;
mod pairs;
mod power;
mod student;
mod two_samples;

use serde::Serialize;

pub use self::bootstrap::ratio_of_medians;
pub use self::changes::{Change, Rules, change_points};
pub use self::effect::{Effect, Samples, Verdict};
pub use self::multiplicity::adjusted;
pub use self::pairs::{paired_shift, signed_rank};
pub use self::power::{POWER, detectable, detectable_in_pairs};
pub use self::student::{Welch, welch};
pub use self::two_samples::{mann_whitney, shift};

/// The share of intervals that must cover the true value, at least.
pub const CONFIDENCE: f64 = 0.95;

/// An estimate with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The best guess.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How often such an interval covers the true value, 0 to 1.
    pub confidence: f64,
}

/// Probabilities that a statistic lies as low, and as high, as it was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tails {
    /// That it is as low or lower.
    pub low: f64,
    /// That it is as high or higher.
    pub high: f64,
}

impl Tails {
    /// That it is as far out on either side: twice the smaller one.
    pub fn two_sided(self) -> f64 {
        (2.0 * self.low.min(self.high)).min(1.0)
    }
}

/// Ranks of `values` from 1, ties with the mean of theirs, each doubled so that it is a whole number.
fn doubled_ranks(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let tied = order[from..].iter().take_while(|&&at| values[at] <= values[order[from]]).count();
        for &at in &order[from..from + tied] {
            // The first has rank `from + 1`, the last `from + tied`.
            ranks[at] = 2 * from + tied + 1;
        }
        from += tied;
    }
    ranks
}

/// The cube of the size of each tie minus that size, summed: what ties take from the variance of ranks.
fn tie_term(doubled: &[usize]) -> f64 {
    let mut sorted = doubled.to_vec();
    sorted.sort_unstable();
    let ties = sorted.chunk_by(|a, b| a == b).map(|tie| tie.len() as f64);
    ties.map(|size| size.powi(3) - size).sum()
}

/// Both tails of a discrete statistic by its normal approximation, with the correction for continuity.
fn normal_tails(found: f64, mean: f64, variance: f64, step: f64) -> Tails {
    if variance <= 0.0 {
        return Tails { low: 1.0, high: 1.0 };
    }
    let sd = variance.sqrt();
    let below = |z: f64| student::normal_below(z);
    Tails { low: below((found + step / 2.0 - mean) / sd), high: below(-(found - step / 2.0 - mean) / sd) }
}

/// How many of the smallest values may be left out on each side so that what is left still covers the true value often
/// enough, and how often that is. `cumulative(k)` is the probability that the statistic is `k` or less; `None` where even
/// the whole range falls short.
fn left_out(most: usize, cumulative: impl Fn(usize) -> f64) -> Option<(usize, f64)> {
    let confidence = |k: usize| 1.0 - 2.0 * cumulative(k);
    (0..most).take_while(|&k| confidence(k) >= CONFIDENCE).last().map(|k| (k, confidence(k)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(doubled_ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [8, 2, 8, 4, 8]);
        assert!((tie_term(&[8, 2, 8, 4, 8]) - 24.0).abs() < 1e-12);
        assert_eq!(doubled_ranks(&[-0.0, 0.0]), [3, 3], "the two zeros are one value");
    }
}
