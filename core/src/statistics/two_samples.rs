//! Two independent sets of values: the test of Mann and Whitney, the shift of Hodges and Lehmann, and the interval that comes
//! from inverting the test.

use super::{Estimate, Tails, doubled_ranks, left_out, normal_tails, tie_term};
use crate::ranks;

/// With more pairs of values than this, 50 × 50, the normal approximation stands in for counting.
const EXACT: usize = 2_500;

/// How likely `b` lies as low, and as high, in relation to `a` where there is no difference: exact, given the ties, unless there
/// are more than 2,500 pairs. The statistic is the number of pairs in which `b` is the larger one, ties half.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Tails {
    let (m, n) = (a.len(), b.len());
    if m == 0 || n == 0 {
        return Tails { low: 1.0, high: 1.0 };
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let doubled = doubled_ranks(&all);
    let sum: usize = doubled[m..].iter().sum();
    if m * n > EXACT {
        let (m, n) = (m as f64, n as f64);
        let size = m + n;
        let variance = m * n / 12.0 * (size + 1.0 - tie_term(&doubled) / (size * (size - 1.0)));
        return normal_tails(sum as f64 / 2.0, n * (size + 1.0) / 2.0, variance, 1.0);
    }
    let smallest = n * (n + 1) / 2;
    if tie_term(&doubled) == 0.0 {
        let found = sum / 2 - smallest;
        let counts = counts(m, n);
        let of = |range: &[f64]| range.iter().sum::<f64>() / total(m, n);
        return Tails { low: of(&counts[..=found]), high: of(&counts[found..]) };
    }
    let sums = sums(&doubled, n);
    let of = |range: &[f64]| range.iter().sum::<f64>() / total(m, n);
    Tails { low: of(&sums[..=sum]), high: of(&sums[sum..]) }
}

/// By how much `b` is larger than `a`: the median of all differences, with the interval of all shifts that the test of Mann
/// and Whitney would not refuse. `None` where a side is too small for such an interval.
pub fn shift(a: &[f64], b: &[f64]) -> Option<Estimate> {
    let differences = differences(a, b);
    let value = ranks::median(&differences)?;
    let (m, n) = (a.len(), b.len());
    if m.min(n) < ranks::MIN_FOR_CI || differences.len() != m * n {
        return None;
    }
    let (out, confidence) = if m * n > EXACT {
        let variance = (m * n) as f64 * (m + n + 1) as f64 / 12.0;
        let below = |k: usize| normal_tails(k as f64, (m * n) as f64 / 2.0, variance, 1.0).low;
        left_out(m * n / 2, below)?
    } else {
        let mut sum = 0.0;
        let cumulative: Vec<f64> = counts(m, n)
            .iter()
            .map(|count| {
                sum += count / total(m, n);
                sum
            })
            .collect();
        left_out(m * n / 2, |k| cumulative[k])?
    };
    Some(Estimate { value, low: differences[out], high: differences[m * n - 1 - out], confidence })
}

/// Every value of `b` less every value of `a`, in ascending order.
pub(super) fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    ranks::sorted(b.iter().flat_map(|y| a.iter().map(move |x| y - x)))
}

/// In how many ways `m` and `n` different values can be mixed so that in `u` pairs the second is the larger one, for each
/// `u`: the coefficients of the Gaussian binomial coefficient.
fn counts(m: usize, n: usize) -> Vec<f64> {
    let most = m * n;
    let mut counts = vec![0.0; most + 1];
    counts[0] = 1.0;
    for i in 1..=m.min(n) {
        // Times 1 - q^(larger + i) …
        let up = m.max(n) + i;
        for u in (up..=most).rev() {
            counts[u] -= counts[u - up];
        }
        // … over 1 - q^i.
        for u in i..=most {
            counts[u] += counts[u - i];
        }
    }
    // What is large cancels out towards the upper end, and leaves errors where few ways are left; both ends are alike.
    for u in 0..=most / 2 {
        counts[most - u] = counts[u];
    }
    counts
}

/// In how many ways `m` and `n` values can be mixed.
fn total(m: usize, n: usize) -> f64 {
    (1..=n).fold(1.0, |total, i| total * (m + i) as f64 / i as f64)
}

/// In how many ways `n` of `ranks` can be chosen so that they sum up to `s`, for each `s`.
fn sums(ranks: &[usize], n: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0; most + 1]; n + 1];
    ways[0][0] = 1.0;
    for (seen, &rank) in ranks.iter().enumerate() {
        for chosen in (1..=n.min(seen + 1)).rev() {
            let (before, after) = ways.split_at_mut(chosen);
            for (to, from) in after[0][rank..].iter_mut().zip(&before[chosen - 1]) {
                *to += from;
            }
        }
    }
    ways.swap_remove(n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gaussian binomial coefficients of 2 and 2: 1 1 2 1 1.
    #[test]
    fn mixtures_are_counted() {
        assert_eq!(counts(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!((total(2, 2), total(10, 10)), (6.0, 184_756.0));
        let both: f64 = counts(20, 30).iter().sum();
        assert!((both / total(20, 30) - 1.0).abs() < 1e-9);
    }

    proptest! {
        /// Ranks without ties, counted in the way that knows ties.
        #[test]
        fn both_ways_of_counting_agree(m in 1usize..8, n in 1usize..8) {
            let ranks: Vec<usize> = (1..=m + n).collect();
            let smallest = n * (n + 1) / 2;
            let sums = sums(&ranks, n);
            for (u, count) in counts(m, n).into_iter().enumerate() {
                prop_assert!((sums[smallest + u] - count).abs() < 1e-6);
            }
        }

        #[test]
        fn the_tails_of_one_order_are_those_of_the_other_exchanged(
            a in prop::collection::vec(0u8..9, 1..12), b in prop::collection::vec(0u8..9, 1..12),
        ) {
            let [a, b] = [a, b].map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
            let (one, other) = (mann_whitney(&a, &b), mann_whitney(&b, &a));
            prop_assert!((one.low - other.high).abs() < 1e-9 && (one.high - other.low).abs() < 1e-9);
            prop_assert!(one.low > 0.0 && one.low < 1.0 + 1e-9);
        }

        #[test]
        fn a_shift_is_found_again_and_lies_in_its_interval(
            a in prop::collection::vec(-10.0f64..10.0, 6..15), by in -5.0f64..5.0,
        ) {
            let b: Vec<f64> = a.iter().map(|x| x + by).collect();
            let shift = shift(&a, &b).unwrap();
            prop_assert!((shift.value - by).abs() < 1e-9);
            prop_assert!(shift.low <= shift.value && shift.value <= shift.high);
            prop_assert!(shift.confidence >= 0.95);
        }

        /// The interval holds exactly the shifts that the test does not refuse.
        #[test]
        fn the_interval_is_the_test_inverted(
            a in prop::collection::vec(-10.0f64..10.0, 6..12), b in prop::collection::vec(-10.0f64..10.0, 6..12),
        ) {
            let shift = shift(&a, &b).unwrap();
            let p = |by: f64| mann_whitney(&a, &b.iter().map(|y| y - by).collect::<Vec<_>>()).two_sided();
            let inside = shift.high - shift.low;
            prop_assume!(inside > 1e-6);
            let accepted = 1.0 - shift.confidence;
            prop_assert!(p(shift.low + 1e-9) > accepted + 1e-12 && p(shift.high - 1e-9) > accepted + 1e-12);
            prop_assert!(p(shift.low - 1e-9) <= accepted + 1e-12 && p(shift.high + 1e-9) <= accepted + 1e-12);
        }
    }
}
