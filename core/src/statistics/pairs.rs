//! Values in pairs, such as two builds measured in turns: the signed-rank test of Wilcoxon, the shift of Hodges and Lehmann,
//! and the interval that comes from inverting the test. What both of a pair have in common, such as a slow drift of the
//! machine, drops out.

use super::{Estimate, Tails, doubled_ranks, left_out, normal_tails, tie_term};
use crate::ranks;

/// With more pairs than this the normal approximation stands in for counting.
const EXACT: usize = 200;

/// How likely the differences lie as low, and as high, where there is none in truth: exact, given ties; differences of zero
/// are left out. The statistic is the sum of the ranks of the positive ones.
pub fn signed_rank(differences: &[f64]) -> Tails {
    let differences: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let doubled = doubled_ranks(&differences.iter().map(|d| d.abs()).collect::<Vec<_>>());
    let positive: usize = doubled.iter().zip(&differences).filter(|(_, d)| **d > 0.0).map(|(rank, _)| rank).sum();
    let n = differences.len() as f64;
    if differences.len() > EXACT {
        let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - tie_term(&doubled) / 48.0;
        return normal_tails(positive as f64 / 2.0, n * (n + 1.0) / 4.0, variance, 1.0);
    }
    let chances = chances(&doubled);
    Tails { low: chances[..=positive].iter().sum(), high: chances[positive..].iter().sum() }
}

/// The typical difference: the median of the means of any two of them, with the interval of all shifts that the signed-rank
/// test would not refuse. `None` where there are too few for such an interval.
pub fn paired_shift(differences: &[f64]) -> Option<Estimate> {
    let n = differences.len();
    let means = means(differences);
    let value = ranks::median(&means)?;
    if n < ranks::MIN_FOR_CI || means.len() != n * (n + 1) / 2 {
        return None;
    }
    let most = means.len();
    let (out, confidence) = if n > EXACT {
        let size = n as f64;
        let variance = size * (size + 1.0) * (2.0 * size + 1.0) / 24.0;
        left_out(most / 2, |k| normal_tails(k as f64, most as f64 / 2.0, variance, 1.0).low)?
    } else {
        let mut sum = 0.0;
        let cumulative: Vec<f64> = chances(&(1..=n).collect::<Vec<_>>())
            .iter()
            .map(|chance| {
                sum += chance;
                sum
            })
            .collect();
        left_out(most / 2, |k| cumulative[k])?
    };
    Some(Estimate { value, low: means[out], high: means[most - 1 - out], confidence })
}

/// The means of any two values, each with itself too, in ascending order.
pub(super) fn means(values: &[f64]) -> Vec<f64> {
    let of = |i: usize| values[i..].iter().map(move |other| f64::midpoint(values[i], *other));
    ranks::sorted((0..values.len()).flat_map(of))
}

/// How likely the ranks that come up heads sum up to `s`, for each `s`.
fn chances(ranks: &[usize]) -> Vec<f64> {
    let mut chances = vec![0.0; ranks.iter().sum::<usize>() + 1];
    chances[0] = 1.0;
    for &rank in ranks {
        for sum in (0..chances.len()).rev() {
            let with = sum.checked_sub(rank).map_or(0.0, |without| chances[without]);
            chances[sum] = f64::midpoint(chances[sum], with);
        }
    }
    chances
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_of_signs_are_counted() {
        // Of 1, 2, 3: 0 1 2 3 3 4 5 6.
        assert_eq!(chances(&[1, 2, 3]), [0.125, 0.125, 0.125, 0.25, 0.125, 0.125, 0.125]);
    }

    #[test]
    fn five_pairs_give_no_interval_and_six_do() {
        let pairs = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05];
        assert_eq!(paired_shift(&pairs[..5]), None);
        let six = paired_shift(&pairs).unwrap();
        assert!((six.confidence - 0.968_75).abs() < 1e-12);
        assert!((six.low - 0.8).abs() < 1e-12 && (six.high - 1.2).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_interval_is_the_test_inverted(differences in prop::collection::vec(-10.0f64..10.0, 6..20)) {
            let shift = paired_shift(&differences).unwrap();
            let p = |by: f64| signed_rank(&differences.iter().map(|d| d - by).collect::<Vec<_>>()).two_sided();
            prop_assume!(shift.high - shift.low > 1e-6);
            let accepted = 1.0 - shift.confidence;
            prop_assert!(p(shift.low + 1e-9) > accepted + 1e-12 && p(shift.high - 1e-9) > accepted + 1e-12);
            prop_assert!(p(shift.low - 1e-9) <= accepted + 1e-12 && p(shift.high + 1e-9) <= accepted + 1e-12);
        }

        #[test]
        fn a_change_of_sign_exchanges_the_tails(differences in prop::collection::vec(-4i8..5, 1..15)) {
            let differences: Vec<f64> = differences.into_iter().map(f64::from).collect();
            let (one, other) = (signed_rank(&differences), signed_rank(&differences.iter().map(|d| -d).collect::<Vec<_>>()));
            prop_assert!((one.low - other.high).abs() < 1e-9 && (one.high - other.low).abs() < 1e-9);
        }
    }
}
