//! Order statistics: percentiles, and the interval for a median that assumes nothing about how values are distributed.
//!
//! A percentile `p` of `n` sorted values is the linear interpolation at position `p · (n - 1)`, counted from 0 (type 7
//! of Hyndman and Fan, the default of R and `NumPy`). The median is the percentile 0.5.

use serde::{Deserialize, Serialize};

/// Values below this count give no confidence interval: the whole range of five covers only 93.75 %.
pub const MIN_FOR_CI: usize = 6;

/// An interval between two order statistics that covers the true median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How often such an interval covers the true median, 0 to 1; at least 0.95.
    pub confidence: f64,
}

/// Finite values in ascending order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The percentile `p` (0 to 1) of values in ascending order; NaN for none. See the module's text for the definition.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = p.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= position <= last")]
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    let (low, high) = (sorted[below], sorted[above]);
    // Never outside of the two, whatever the rounding.
    (low + (high - low) * (position - below as f64)).clamp(low, high)
}

/// The median of values in ascending order; `None` of none.
pub fn median(sorted: &[f64]) -> Option<f64> {
    (!sorted.is_empty()).then(|| percentile(sorted, 0.5))
}

/// The order statistics, counted from 1, that enclose the median of `n` values with at least 95 % confidence, and that
/// confidence; `None` where even the whole range falls short.
///
/// Each value is below the true median with probability 1/2, so the interval from rank `l` to rank `n + 1 - l` misses
/// it with probability `2 · P(Binomial(n, 1/2) < l)`.
pub fn median_ranks(n: usize) -> Option<(usize, usize, f64)> {
    if n < MIN_FOR_CI {
        return None;
    }
    let mut best = None;
    let mut ln_choose = 0.0;
    let mut tail = 0.0;
    for below in 0..n / 2 {
        tail += (ln_choose - n as f64 * std::f64::consts::LN_2).exp();
        let confidence = 1.0 - 2.0 * tail;
        if confidence < 0.95 {
            break;
        }
        best = Some((below + 1, n - below, confidence));
        ln_choose += ((n - below) as f64).ln() - ((below + 1) as f64).ln();
    }
    best
}

/// The interval for the median of values in ascending order; `None` for fewer than [`MIN_FOR_CI`].
pub fn median_interval(sorted: &[f64]) -> Option<Interval> {
    let (low, high, confidence) = median_ranks(sorted.len())?;
    Some(Interval { low: sorted[low - 1], high: sorted[high - 1], confidence })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12 * a.abs().max(b.abs()).max(1.0)
    }

    #[test]
    fn percentiles_interpolate_between_order_statistics() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert!(close(percentile(&values, 0.99), 99.0));
        assert!(close(percentile(&values, 0.905), 90.5));
        assert!(close(percentile(&[3.0], 0.9), 3.0));
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn median_intervals_use_the_exact_binomial_ranks() {
        assert_eq!(median_ranks(5), None);
        for (n, low, high, confidence) in
            [(6, 1, 6, 0.968_75), (10, 2, 9, 0.978_516), (15, 4, 12, 0.964_844), (20, 6, 15, 0.958_611)]
        {
            let (l, h, c) = median_ranks(n).unwrap();
            assert_eq!((l, h), (low, high), "n = {n}");
            assert!((c - confidence).abs() < 1e-6, "n = {n}: {c}");
        }
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(median_interval(&ten).map(|ci| (ci.low, ci.high)), Some((2.0, 9.0)));
    }

    proptest! {
        #[test]
        fn ranks_are_symmetric_and_cover_enough(n in 6usize..3000) {
            let (low, high, confidence) = median_ranks(n).unwrap();
            prop_assert_eq!(low + high, n + 1);
            prop_assert!((0.95..1.0).contains(&confidence));
        }
    }
}
