//! Power: how small a change can be told from none.

use super::CONFIDENCE;
use super::student::normal_quantile;

/// The share of cases in which a change of the size that is said to be detectable is told from none.
pub const POWER: f64 = 0.8;

/// The smallest shift that `m` values are told from `n` others by in [`POWER`] of cases, where each has the standard deviation
/// `sd`, by a two-sided test at 5 %.
pub fn detectable(sd: f64, m: usize, n: usize) -> f64 {
    sd * (1.0 / m as f64 + 1.0 / n as f64).sqrt() * factor()
}

/// The same of `n` differences with the standard deviation `sd`.
pub fn detectable_in_pairs(sd: f64, n: usize) -> f64 {
    sd / (n as f64).sqrt() * factor()
}

fn factor() -> f64 {
    normal_quantile(f64::midpoint(1.0, CONFIDENCE)) + normal_quantile(POWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_processes_tell_smaller_changes() {
        for (n, percent) in [(5, 1.77), (10, 1.25), (20, 0.89)] {
            assert!((detectable(0.01, n, n) * 100.0 - percent).abs() < 0.005, "n = {n}");
        }
        assert!((detectable_in_pairs(0.01, 10) * 100.0 - 0.886).abs() < 0.001);
    }
}
