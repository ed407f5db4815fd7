//! The effect of a change on one metric of one cell, and what may be said of it.
//!
//! A rate or a time is never negative and its noise grows with it, so everything is done with logarithms: an effect is a
//! **ratio**, candidate over base, and `a` against `b` is exactly the inverse of `b` against `a`.

use serde::Serialize;

use super::{
    Estimate, detectable, detectable_in_pairs, mann_whitney, paired_shift, pairs, shift, signed_rank, two_samples,
};
use crate::ranks;

/// So many times its own noise a cell has to change before that is worth a verdict.
const NOISE_FACTOR: f64 = 3.0;

/// The median absolute deviation of a normal distribution times this is its standard deviation.
const MAD_TO_SD: f64 = 1.482_6;

/// The values of two sides, one of each worker process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Samples<'a> {
    /// Measured apart.
    Apart {
        /// Of the base.
        base: &'a [f64],
        /// Of the candidate.
        candidate: &'a [f64],
    },
    /// Measured in turns: base and candidate.
    Pairs(&'a [(f64, f64)]),
}

/// What can be said of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Slower for certain, by more than the margin.
    Slower,
    /// Faster for certain, by more than the margin.
    Faster,
    /// For certain within the threshold.
    Equivalent,
    /// The interval reaches across the margin or the threshold.
    Undecided,
    /// Too few processes for an interval.
    NoInterval,
}

impl Verdict {
    /// Every verdict, the gravest first.
    pub const ALL: [Self; 5] = [Self::Slower, Self::Faster, Self::Equivalent, Self::Undecided, Self::NoInterval];

    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Equivalent => "equivalent",
            Self::Undecided => "undecided",
            Self::NoInterval => "no CI",
        }
    }
}

/// The effect of a change on one metric of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effect {
    /// Candidate over base, with the interval; `None` for the ends where there are too few processes.
    pub ratio: f64,
    /// The interval of the ratio.
    pub interval: Option<ranks::Interval>,
    /// How far the values of one side lie apart, 0.01 for 1 %: the larger of both sides, robust against outliers.
    pub noise: f64,
    /// Sides that differ by no more than this are as good as equal, 0.02 for 2 %.
    pub threshold: f64,
    /// A change up to this one is neither slower nor faster: the threshold, or three times the noise where that is more. That
    /// noise hides a change does not make sides equal, so it is no measure for equivalence.
    pub margin: f64,
    /// The smallest true change that so many processes tell from none in 8 of 10 cases.
    pub detectable: Option<f64>,
    /// How likely the values would lie as far out if the change were no larger than the margin; the same test as the
    /// interval.
    pub p: Option<f64>,
}

impl Effect {
    /// Judges positive values; `threshold` is the least margin. `None` where a side has no value at all.
    pub fn of(samples: Samples<'_>, threshold: f64) -> Option<Self> {
        match samples {
            Samples::Apart { base, candidate } => apart(&logs(base), &logs(candidate), threshold),
            Samples::Pairs(pairs) => {
                let differences: Vec<f64> = pairs.iter().map(|(base, candidate)| (candidate / base).ln()).collect();
                in_pairs(&differences, threshold)
            }
        }
    }

    /// What may be said of it where larger values are better, or where smaller ones are. `q` is [`p`](Self::p) adjusted for all
    /// tests that were made; above 5 % a change is not certain, whatever the interval says.
    pub fn verdict(&self, larger_is_better: bool, q: f64) -> Verdict {
        let Some(interval) = self.interval else { return Verdict::NoInterval };
        let (up, down) =
            if larger_is_better { (Verdict::Faster, Verdict::Slower) } else { (Verdict::Slower, Verdict::Faster) };
        let beyond = 1.0 + self.margin;
        let within = 1.0 + self.threshold;
        let certain = |verdict| if q <= 1.0 - super::CONFIDENCE { verdict } else { Verdict::Undecided };
        if interval.low > beyond {
            certain(up)
        } else if interval.high < 1.0 / beyond {
            certain(down)
        } else if interval.low >= 1.0 / within && interval.high <= within {
            Verdict::Equivalent
        } else {
            Verdict::Undecided
        }
    }
}

fn apart(base: &[f64], candidate: &[f64], threshold: f64) -> Option<Effect> {
    let value = ranks::median(&two_samples::differences(base, candidate))?;
    let noise = spread(base).max(spread(candidate));
    let bounds = Bounds::new(threshold, noise);
    let tails = |by: f64| mann_whitney(base, &moved(candidate, by));
    let beyond = bounds.margin.ln_1p();
    let p = 2.0 * tails(-beyond).high.min(tails(beyond).low);
    let detectable = detectable(noise, base.len(), candidate.len());
    Some(effect(value, shift(base, candidate), &bounds, detectable, p))
}

fn in_pairs(differences: &[f64], threshold: f64) -> Option<Effect> {
    let value = ranks::median(&pairs::means(differences))?;
    let apart = spread(differences);
    // That of one value: a difference has the noise of two.
    let noise = apart / std::f64::consts::SQRT_2;
    let bounds = Bounds::new(threshold, noise);
    let tails = |by: f64| signed_rank(&moved(differences, by));
    let beyond = bounds.margin.ln_1p();
    let p = 2.0 * tails(-beyond).high.min(tails(beyond).low);
    let detectable = detectable_in_pairs(apart, differences.len());
    Some(effect(value, paired_shift(differences), &bounds, detectable, p))
}

/// What a change is held against.
struct Bounds {
    noise: f64,
    threshold: f64,
    margin: f64,
}

impl Bounds {
    fn new(threshold: f64, noise: f64) -> Self {
        Self { noise, threshold, margin: threshold.max(NOISE_FACTOR * noise) }
    }
}

fn effect(value: f64, estimate: Option<Estimate>, bounds: &Bounds, detectable: f64, p: f64) -> Effect {
    let interval = estimate.map(|estimate| ranks::Interval {
        low: estimate.low.exp(),
        high: estimate.high.exp(),
        confidence: estimate.confidence,
    });
    let with_interval = |value: f64| interval.map(|_| value);
    Effect {
        ratio: value.exp(),
        interval,
        noise: bounds.noise,
        threshold: bounds.threshold,
        margin: bounds.margin,
        detectable: with_interval(detectable.exp_m1()),
        p: with_interval(p.min(1.0)),
    }
}

fn logs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.ln()).collect()
}

fn moved(values: &[f64], by: f64) -> Vec<f64> {
    values.iter().map(|value| value + by).collect()
}

/// The standard deviation as the median deviation from the median tells it.
fn spread(values: &[f64]) -> f64 {
    let Some(middle) = ranks::median(&ranks::sorted(values.iter().copied())) else { return 0.0 };
    let deviations = ranks::sorted(values.iter().map(|value| (value - middle).abs()));
    MAD_TO_SD * ranks::median(&deviations).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ten values within 0.4 % of `level`.
    fn around(level: f64) -> Vec<f64> {
        (0..10).map(|i| level * (1.0 + 0.000_8 * f64::from(i - 5))).collect()
    }

    fn verdict(base: f64, candidate: f64) -> Verdict {
        let (base, candidate) = (around(base), around(candidate));
        let effect = Effect::of(Samples::Apart { base: &base, candidate: &candidate }, 0.02).unwrap();
        effect.verdict(true, effect.p.unwrap())
    }

    #[test]
    fn the_four_verdicts() {
        assert_eq!(verdict(100.0, 110.0), Verdict::Faster);
        assert_eq!(verdict(100.0, 95.0), Verdict::Slower);
        assert_eq!(verdict(100.0, 100.5), Verdict::Equivalent);
        assert_eq!(verdict(100.0, 102.0), Verdict::Undecided, "the interval holds the margin");
    }

    #[test]
    fn of_times_the_smaller_are_the_faster() {
        let (base, candidate) = (around(100.0), around(90.0));
        let effect = Effect::of(Samples::Apart { base: &base, candidate: &candidate }, 0.02).unwrap();
        assert_eq!(effect.verdict(false, 0.0), Verdict::Faster);
        assert_eq!(effect.verdict(false, 0.06), Verdict::Undecided, "one of many");
        assert!((effect.ratio - 0.9).abs() < 1e-9);
    }

    #[test]
    fn a_noisy_cell_has_a_wider_margin() {
        let noisy: Vec<f64> = [97.0, 99.0, 101.0, 103.0, 98.0, 102.0, 100.0, 96.0, 104.0, 100.0].into();
        let slower: Vec<f64> = noisy.iter().map(|value| value * 0.95).collect();
        let effect = Effect::of(Samples::Apart { base: &noisy, candidate: &slower }, 0.02).unwrap();
        assert!(effect.margin > 0.06, "{effect:?}");
        assert_eq!(
            effect.verdict(true, effect.p.unwrap()),
            Verdict::Undecided,
            "not slower for certain, and not equal"
        );
    }

    #[test]
    fn what_both_of_a_pair_share_drops_out() {
        // Both become slower by a tenth meanwhile.
        let pairs: Vec<(f64, f64)> = (0..10).map(|i| 100.0 - f64::from(i)).map(|base| (base, base * 1.05)).collect();
        let effect = Effect::of(Samples::Pairs(&pairs), 0.02).unwrap();
        assert!((effect.ratio - 1.05).abs() < 1e-9 && effect.noise < 1e-9, "{effect:?}");
        assert_eq!(effect.verdict(true, effect.p.unwrap()), Verdict::Faster);
        let (base, candidate): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let apart = Effect::of(Samples::Apart { base: &base, candidate: &candidate }, 0.02).unwrap();
        assert_eq!(apart.verdict(true, apart.p.unwrap()), Verdict::Undecided);
    }

    #[test]
    fn five_processes_give_a_ratio_and_no_verdict() {
        let few = &around(100.0)[..5];
        let effect = Effect::of(Samples::Apart { base: few, candidate: &around(50.0) }, 0.02).unwrap();
        assert_eq!((effect.interval, effect.p, effect.verdict(true, 0.0)), (None, None, Verdict::NoInterval));
        assert!((effect.ratio - 0.5).abs() < 0.01);
        assert_eq!(Effect::of(Samples::Pairs(&[]), 0.02), None);
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(50.0f64..150.0, 6..15)
    }

    proptest! {
        #[test]
        fn exchanging_both_sides_inverts_everything(base in values(), candidate in values(), by in 0.5f64..2.0) {
            let candidate: Vec<f64> = candidate.iter().map(|value| value * by).collect();
            let one = Effect::of(Samples::Apart { base: &base, candidate: &candidate }, 0.02).unwrap();
            let other = Effect::of(Samples::Apart { base: &candidate, candidate: &base }, 0.02).unwrap();
            prop_assert!((one.ratio * other.ratio - 1.0).abs() < 1e-9);
            prop_assert!((one.p.unwrap() - other.p.unwrap()).abs() < 1e-9);
            prop_assert_eq!(one.verdict(true, 0.0), other.verdict(false, 0.0));
        }

        /// The interval and the test are the same statement.
        #[test]
        fn an_interval_beyond_the_margin_is_a_p_below_5_percent(base in values(), candidate in values(), by in 0.3f64..3.0) {
            let candidate: Vec<f64> = candidate.iter().map(|value| value * by).collect();
            for effect in [
                Effect::of(Samples::Apart { base: &base, candidate: &candidate }, 0.02).unwrap(),
                Effect::of(Samples::Pairs(&base.iter().copied().zip(candidate.iter().copied()).collect::<Vec<_>>()), 0.02).unwrap(),
            ] {
                let moved = matches!(effect.verdict(true, 0.0), Verdict::Faster | Verdict::Slower);
                prop_assert_eq!(moved, effect.p.unwrap() <= 0.05 + 1e-9 && effect.interval.is_some());
            }
        }
    }
}
