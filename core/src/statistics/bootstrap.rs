//! The bootstrap: a second opinion on an interval, by drawing from what was measured again and again.

use super::{CONFIDENCE, Estimate};
use crate::random::SplitMix;
use crate::ranks;

/// The ratio of the median of `b` to that of `a`, with the percentile interval over `resamples` sets drawn from them with
/// replacement; the same for the same `seed`. `None` where a side is empty.
pub fn ratio_of_medians(a: &[f64], b: &[f64], seed: u64, resamples: usize) -> Option<Estimate> {
    let value = ranks::median(&ranks::sorted(b.iter().copied()))? / ranks::median(&ranks::sorted(a.iter().copied()))?;
    let mut random = SplitMix(seed);
    let ratios = (0..resamples).map(|_| {
        let base = drawn(a, &mut random);
        drawn(b, &mut random) / base
    });
    let ratios = ranks::sorted(ratios);
    let out = f64::midpoint(1.0, -CONFIDENCE);
    let (low, high) = (ranks::percentile(&ratios, out), ranks::percentile(&ratios, 1.0 - out));
    Some(Estimate { value, low, high, confidence: CONFIDENCE })
}

/// The median of as many values, each drawn from all of them.
fn drawn(values: &[f64], random: &mut SplitMix) -> f64 {
    let limit = u32::try_from(values.len()).unwrap_or(u32::MAX);
    let draw = |_| values[random.below(limit) as usize];
    ranks::percentile(&ranks::sorted((0..values.len()).map(draw)), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_interval_and_it_holds_the_ratio() {
        let (a, b) = ([10.0, 10.1, 9.9, 10.2, 9.8, 10.05], [11.0, 11.1, 10.9, 11.2, 10.8, 11.05]);
        let one = ratio_of_medians(&a, &b, 7, 2_000).unwrap();
        assert_eq!(Some(one), ratio_of_medians(&a, &b, 7, 2_000));
        assert_ne!(ratio_of_medians(&a, &b, 7, 20), ratio_of_medians(&a, &b, 8, 20));
        assert!(one.low < one.value && one.value < one.high && one.low > 1.05 && one.high < 1.15);
        assert_eq!(ratio_of_medians(&a, &[], 7, 10), None);
    }
}
