//! Student's t by Welch, for two sets of values whose spreads may differ.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// What Welch's test finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Welch {
    /// The statistic, positive where the second set is larger.
    pub t: f64,
    /// Degrees of freedom, by Welch and Satterthwaite.
    pub freedom: f64,
    /// How likely such a statistic, or one further out on either side, is without a difference.
    pub p: f64,
}

/// Welch's test of `a` against `b`; variances are those of samples (divided by n - 1). `None` where a side has fewer than two
/// values. Two sets without any spread differ for certain or not at all.
pub fn welch(a: &[f64], b: &[f64]) -> Option<Welch> {
    let ((mean_a, error_a), (mean_b, error_b)) = (mean_and_error(a)?, mean_and_error(b)?);
    let difference = mean_b - mean_a;
    let error = error_a + error_b;
    if error <= 0.0 {
        let same = difference == 0.0;
        let t = if same { 0.0 } else { difference.signum() * f64::INFINITY };
        return Some(Welch { t, freedom: (a.len() + b.len() - 2) as f64, p: if same { 1.0 } else { 0.0 } });
    }
    let part = |error: f64, n: usize| error * error / (n - 1) as f64;
    let freedom = error * error / (part(error_a, a.len()) + part(error_b, b.len()));
    let t = difference / error.sqrt();
    let p = StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |student| 2.0 * student.cdf(-t.abs()));
    Some(Welch { t, freedom, p })
}

/// Mean, and variance over count.
fn mean_and_error(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, squares / (n - 1.0) / n))
}

/// The share of a normal distribution below `z`.
pub(super) fn normal_below(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// The `z` below which lies this share of a normal distribution.
pub(super) fn normal_quantile(share: f64) -> f64 {
    Normal::standard().inverse_cdf(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_without_spread_differ_for_certain_or_not_at_all() {
        assert_eq!(welch(&[1.0, 1.0], &[1.0, 1.0, 1.0]).map(|w| w.p), Some(1.0));
        assert_eq!(welch(&[1.0, 1.0], &[2.0, 2.0]).map(|w| (w.t, w.p)), Some((f64::INFINITY, 0.0)));
        assert_eq!(welch(&[1.0], &[2.0, 3.0]), None);
    }
}
