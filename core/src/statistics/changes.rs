//! Change points of a series: where its level changed, found without drawing at random, so that the same series always has
//! the same ones.
//!
//! E-divisive in the manner of Hunter: within windows the split with the largest energy distance between both sides is a
//! candidate where Welch's test is even weakly for it, and both sides are looked at again. Then, from the weakest on,
//! candidates are taken out until each one left passes the final threshold against its neighbours and is large enough to
//! matter. Variances divide by n - 1: with n, short segments would look surer than they are.

use serde::Serialize;

use super::student::welch;

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Values that are looked at together.
    pub window: usize,
    /// A candidate's p at most.
    pub weak: f64,
    /// A change point's p at most.
    pub strong: f64,
    /// Values between two change points at least.
    pub segment: usize,
    /// By how much the mean changes at least, in the unit of the values: of logarithms, a share.
    pub least: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { window: 50, weak: 0.01, strong: 0.001, segment: 5, least: 0.02 }
    }
}

/// A change of level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Position of the first value of the new level.
    pub at: usize,
    /// The mean between the change point before and this one.
    pub before: f64,
    /// The mean between this one and the next.
    pub after: f64,
    /// How likely such a difference is without one. Too low, as the place was chosen for the difference.
    pub p: f64,
}

/// The change points of `values`, in order.
pub fn change_points(values: &[f64], rules: &Rules) -> Vec<Change> {
    let mut candidates = Vec::new();
    let step = (rules.window / 2).max(1);
    let mut from = 0;
    loop {
        let to = (from + rules.window).min(values.len());
        split(values, from, to, rules, &mut candidates);
        if to == values.len() {
            break;
        }
        from += step;
    }
    candidates.sort_unstable();
    candidates.dedup();
    strengthen(values, candidates, rules)
}

/// Adds the candidates between `from` and `to`.
fn split(values: &[f64], from: usize, to: usize, rules: &Rules, candidates: &mut Vec<usize>) {
    let Some(at) = best_split(&values[from..to], rules.segment.max(2)).map(|at| from + at) else { return };
    if welch(&values[from..at], &values[at..to]).is_none_or(|test| test.p > rules.weak) {
        return;
    }
    candidates.push(at);
    split(values, from, at, rules, candidates);
    split(values, at, to, rules, candidates);
}

/// The split, with at least `least` values on either side, whose sides are furthest apart in energy distance.
fn best_split(values: &[f64], least: usize) -> Option<usize> {
    let n = values.len();
    let mut best: Option<(f64, usize)> = None;
    let distance = |i: usize, j: usize| (values[i] - values[j]).abs();
    // Sums of distances within the left side, within the right side, and between them, kept up to date value by value.
    let (mut left, mut between) = (0.0, 0.0);
    let mut right: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| distance(i, j)).sum();
    for at in 1..n {
        let moved = at - 1;
        let to_left: f64 = (0..moved).map(|i| distance(i, moved)).sum();
        let to_right: f64 = (at..n).map(|j| distance(moved, j)).sum();
        left += to_left;
        right -= to_right;
        between += to_right - to_left;
        let (a, b) = (at, n - at);
        if a < least || b < least {
            continue;
        }
        let pairs = |n: usize| (n * (n - 1)) as f64 / 2.0;
        let (fa, fb) = (a as f64, b as f64);
        let energy = fa * fb / (fa + fb) * (2.0 * between / (fa * fb) - left / pairs(a) - right / pairs(b));
        if best.is_none_or(|(most, _)| energy > most) {
            best = Some((energy, at));
        }
    }
    best.map(|(_, at)| at)
}

/// Takes out the weakest candidate until all are strong enough.
fn strengthen(values: &[f64], mut candidates: Vec<usize>, rules: &Rules) -> Vec<Change> {
    loop {
        let changes = changes(values, &candidates);
        let fails = |change: &Change, i: usize| {
            let start = if i == 0 { 0 } else { candidates[i - 1] };
            let end = candidates.get(i + 1).copied().unwrap_or(values.len());
            let short = change.at - start < rules.segment || end - change.at < rules.segment;
            short || change.p > rules.strong || (change.after - change.before).abs() < rules.least
        };
        let weakest = changes.iter().enumerate().filter(|(i, change)| fails(change, *i));
        let Some((i, _)) = weakest.max_by(|(_, a), (_, b)| a.p.total_cmp(&b.p)) else { return changes };
        candidates.remove(i);
    }
}

/// What changes at each of `points`.
fn changes(values: &[f64], points: &[usize]) -> Vec<Change> {
    let change = |i: usize| {
        let at = points[i];
        let before = &values[if i == 0 { 0 } else { points[i - 1] }..at];
        let after = &values[at..points.get(i + 1).copied().unwrap_or(values.len())];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let p = welch(before, after).map_or(1.0, |test| test.p);
        Change { at, before: mean(before), after: mean(after), p }
    };
    (0..points.len()).map(change).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Noise around a level for each stretch: so many values, and where.
    fn series(stretches: &[(usize, f64)], noise: f64, seed: u64) -> Vec<f64> {
        let mut random = crate::random::SplitMix(seed);
        let mut drawn = || (0..12).map(|_| f64::from(random.below(1_000_000)) / 1e6).sum::<f64>() - 6.0;
        stretches
            .iter()
            .flat_map(|&(n, level)| std::iter::repeat_n(level, n))
            .map(|level| level + noise * drawn())
            .collect()
    }

    fn at(values: &[f64]) -> Vec<usize> {
        change_points(values, &Rules::default()).iter().map(|change| change.at).collect()
    }

    #[test]
    fn a_step_is_found_where_it_is() {
        let values = series(&[(30, 0.0), (30, 0.05)], 0.01, 3);
        let changes = change_points(&values, &Rules::default());
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].at.abs_diff(30) <= 1, "{changes:?}");
        assert!((changes[0].after - changes[0].before - 0.05).abs() < 0.01, "{changes:?}");
    }

    #[test]
    fn two_steps_in_a_long_series_are_both_found() {
        let found = at(&series(&[(70, 0.0), (60, -0.06), (70, 0.0)], 0.01, 5));
        assert!(matches!(found[..], [a, b] if a.abs_diff(70) <= 1 && b.abs_diff(130) <= 1), "{found:?}");
    }

    #[test]
    fn a_single_spike_and_a_change_too_small_are_none() {
        let mut values = series(&[(60, 0.0)], 0.01, 7);
        values[30] += 0.5;
        assert_eq!(at(&values), [0; 0]);
        assert_eq!(at(&series(&[(30, 0.0), (30, 0.01)], 0.001, 9)), [0; 0], "1 % is not worth a word");
        assert_eq!((at(&[]), at(&[1.0]), at(&[1.0; 80])), (vec![], vec![], vec![]));
    }

    proptest! {
        #[test]
        fn change_points_do_not_depend_on_the_level_and_hardly_come_up_in_noise(seed in 0u64..500, level in -3.0f64..3.0) {
            let values = series(&[(40, 0.0), (40, 0.08)], 0.01, seed);
            let moved: Vec<f64> = values.iter().map(|value| value + level).collect();
            prop_assert_eq!(at(&values), at(&moved));
        }
    }

    #[test]
    fn in_pure_noise_hardly_any_are_found() {
        let found: usize = (0..200).map(|seed| at(&series(&[(60, 0.0)], 0.01, seed)).len()).sum();
        assert!(found <= 2, "{found} change points in 200 series without any");
    }
}
