//! Trend: whether repetitions get steadily slower, or faster, while they are measured.
//!
//! The test is that of Mann and Kendall: of all pairs of repetitions of a process, how many more went up than down. The
//! processes' counts are added, and so are their variances, because nothing is said of one process against another. It
//! asks for no distribution, and one odd repetition can't make a trend. A trend is told where chance would bring one as clear
//! less than once in a thousand cells, and where it is of any size: [`MIN_CHANGE`] from the first repetition to the last.
//! How large it is says the middle one of the slopes between all pairs (Theil and Sen).
//!
//! A trend takes eight repetitions of one process to be told, or three of each of six.

use crate::ranks;

/// The least change from the first to the last repetition that is told, in relation to the middle one.
pub const MIN_CHANGE: f64 = 0.01;

/// Standard deviations that chance goes beyond once in a thousand times.
const CRITICAL: f64 = 3.29;

/// By how much values change from the first to the last of a process, in relation to the median, where they do so steadily.
/// `processes` are values in the order in which they were measured, for each process.
pub fn trend(processes: &[Vec<f64>]) -> Option<f64> {
    let (mut balance, mut variance) = (0.0, 0.0);
    for values in processes {
        let n = values.len() as f64;
        balance += pairs(values).map(|(_, step)| sign(step)).sum::<f64>();
        variance += n * (n - 1.0) * (2.0 * n + 5.0) / 18.0;
    }
    // Most values have no trend, and need not have their slopes sorted.
    if balance.abs() - 1.0 <= CRITICAL * variance.sqrt() {
        return None;
    }
    let changes = ranks::sorted(processes.iter().filter_map(|values| change(values)));
    ranks::median(&changes).filter(|change| change.abs() >= MIN_CHANGE)
}

/// How far apart two values of a process are, and the step from the earlier to the later one, for all pairs.
fn pairs(values: &[f64]) -> impl Iterator<Item = (f64, f64)> {
    let of = |(at, first): (usize, &f64)| {
        let first = *first;
        values[at + 1..].iter().enumerate().map(move |(behind, later)| ((behind + 1) as f64, later - first))
    };
    values.iter().enumerate().flat_map(of)
}

/// 0 for values that are the same, which `f64::signum` does not give.
fn sign(step: f64) -> f64 {
    if step == 0.0 { 0.0 } else { step.signum() }
}

/// What the middle slope comes to from the first value to the last one, in relation to their median.
fn change(values: &[f64]) -> Option<f64> {
    let slopes = ranks::sorted(pairs(values).map(|(apart, step)| step / apart));
    let median = ranks::median(&ranks::sorted(values.iter().copied())).filter(|median| *median > 0.0)?;
    Some(ranks::median(&slopes)? * (values.len() - 1) as f64 / median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    /// So many values that grow by this share of the first one each.
    fn line(n: u32, growth: f64) -> Vec<f64> {
        (0..n).map(|i| 100.0 * (1.0 + growth * f64::from(i))).collect()
    }

    #[test]
    fn a_steady_change_is_told_with_its_size() {
        let change = trend(&[line(9, 0.005)]).unwrap();
        // 4 % from the first to the last, over a median of 102.
        assert!((change - 0.04 / 1.02).abs() < 1e-12, "{change}");
        let falling: Vec<f64> = line(9, 0.005).into_iter().rev().collect();
        assert!(trend(&[falling]).unwrap() < -0.03);
        assert!(trend(&vec![line(3, 0.01); 6]).is_some(), "few of each process, but all the same way");
    }

    #[test]
    fn too_few_too_little_and_to_and_fro_are_none() {
        assert_eq!(trend(&[line(7, 0.05)]), None, "seven in a row come in order by chance");
        assert_eq!(trend(&vec![line(3, 0.01); 4]), None);
        assert_eq!(trend(&[line(9, 0.001)]), None, "0.8 % is not worth a word");
        assert_eq!(trend(&[vec![100.0; 20]]), None);
        let waves: Vec<f64> = (0..20).map(|i| if i % 2 == 0 { 100.0 } else { 110.0 }).collect();
        assert_eq!(trend(&[waves]), None);
        assert_eq!(trend(&[vec![1.0, 5.0], line(12, 0.0)]), None, "one odd process");
        assert_eq!((trend(&[]), trend(&[vec![]])), (None, None));
    }

    /// Steps up in half of the processes and down in the others cancel out.
    #[test]
    fn processes_have_to_agree() {
        let falling: Vec<f64> = line(9, 0.005).into_iter().rev().collect();
        assert_eq!(trend(&[line(9, 0.005), falling]), None);
    }

    #[test]
    fn noise_is_called_a_trend_once_in_a_thousand_times() {
        let mut random = SplitMix(7);
        let mut noise = || 100.0 + f64::from(random.below(1_000_000)) / 1e5;
        let told = (0..5_000).filter(|_| trend(&[(0..20).map(|_| noise()).collect()]).is_some()).count();
        assert!(told <= 10, "{told} of 5000");
    }
}
