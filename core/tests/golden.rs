//! Statistics against the figures of other programs: `golden/statistics.json`, as `golden/statistics.py` printed them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use regatta_core::ranks;
use regatta_core::statistics::{
    Estimate, Rules, adjusted, change_points, detectable, mann_whitney, paired_shift, ratio_of_medians, shift,
    signed_rank, welch,
};
use serde_json::Value;

fn golden(section: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("golden/statistics.json")).unwrap();
    let cases = all[section].as_array().unwrap_or_else(|| panic!("no section {section}")).clone();
    assert!(!cases.is_empty(), "{section} is empty");
    cases
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no {key} in {case}"))
}

fn numbers(case: &Value, key: &str) -> Vec<f64> {
    case[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn count(case: &Value, key: &str) -> usize {
    usize::try_from(case[key].as_u64().unwrap()).unwrap()
}

/// Equal but for rounding in the last few of sixteen digits.
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-3), "{found} is not {expected}");
}

fn same_estimate(found: Estimate, case: &Value) {
    close(found.value, number(case, "value"));
    close(found.low, number(case, "low"));
    close(found.high, number(case, "high"));
    close(found.confidence, number(case, "confidence"));
}

#[test]
fn quantiles() {
    for case in golden("quantiles") {
        let sorted = ranks::sorted(numbers(&case, "values"));
        close(ranks::percentile(&sorted, number(&case, "p")), number(&case, "value"));
    }
}

#[test]
fn the_ranks_around_a_median() {
    for case in golden("median_ranks") {
        let (low, high, confidence) = ranks::median_ranks(count(&case, "n")).unwrap();
        assert_eq!((low, high), (count(&case, "low"), count(&case, "high")), "{case}");
        close(confidence, number(&case, "confidence"));
    }
}

#[test]
fn mann_whitney_with_and_without_ties() {
    for case in golden("mann_whitney") {
        let tails = mann_whitney(&numbers(&case, "a"), &numbers(&case, "b"));
        close(tails.low, number(&case, "low"));
        close(tails.high, number(&case, "high"));
        close(tails.two_sided(), number(&case, "two_sided"));
    }
    for case in golden("mann_whitney_exact").iter().chain(&golden("mann_whitney_large")) {
        let tails = mann_whitney(&numbers(case, "a"), &numbers(case, "b"));
        close(tails.two_sided(), number(case, "two_sided"));
    }
}

/// Hollander and Wolfe's example, as the manual of R's `wilcox.test` has it: p = 0.1272 one-sided.
#[test]
fn mann_whitney_as_printed_in_a_manual() {
    let a = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
    let tails = mann_whitney(&a, &[1.15, 0.88, 0.90, 0.74, 1.21]);
    assert!((tails.low - 0.1272).abs() < 0.00005, "{tails:?}");
}

#[test]
fn shifts_of_two_sets() {
    for case in golden("shift") {
        same_estimate(shift(&numbers(&case, "a"), &numbers(&case, "b")).unwrap(), &case);
    }
}

#[test]
fn shifts_of_pairs() {
    for case in golden("paired") {
        let differences = numbers(&case, "differences");
        same_estimate(paired_shift(&differences).unwrap(), &case);
        close(signed_rank(&differences).two_sided(), number(&case, "p"));
    }
    for case in golden("signed_rank_with_ties") {
        let tails = signed_rank(&numbers(&case, "differences"));
        close(tails.low, number(&case, "low"));
        close(tails.high, number(&case, "high"));
    }
}

#[test]
fn welch_with_variances_of_samples() {
    for case in golden("welch") {
        let test = welch(&numbers(&case, "a"), &numbers(&case, "b")).unwrap();
        close(test.t, number(&case, "t"));
        close(test.freedom, number(&case, "freedom"));
        close(test.p, number(&case, "p"));
    }
}

#[test]
fn benjamini_hochberg() {
    let all: Value = serde_json::from_str(include_str!("golden/statistics.json")).unwrap();
    let case = &all["benjamini_hochberg"];
    let (found, expected) = (adjusted(&numbers(case, "p")), numbers(case, "adjusted"));
    assert_eq!(found.len(), expected.len());
    found.into_iter().zip(expected).for_each(|(found, expected)| close(found, expected));
}

#[test]
fn detectable_changes() {
    for case in golden("detectable") {
        let (sd, m, n) = (number(&case, "sd"), count(&case, "m"), count(&case, "n"));
        close(detectable(sd, m, n), number(&case, "value"));
    }
}

/// The script draws with the same generator, so even the bootstrap's figures are the same to the last digits.
#[test]
fn bootstrap() {
    for case in golden("bootstrap") {
        let (a, b) = (numbers(&case, "a"), numbers(&case, "b"));
        let seed = case["seed"].as_u64().unwrap();
        let found = ratio_of_medians(&a, &b, seed, count(&case, "resamples")).unwrap();
        close(found.value, number(&case, "value"));
        close(found.low, number(&case, "low"));
        close(found.high, number(&case, "high"));
    }
}

#[test]
fn change_points_of_series() {
    let mut points = 0;
    for case in golden("change_points") {
        let found = change_points(&numbers(&case, "values"), &Rules::default());
        let expected = case["changes"].as_array().unwrap();
        let places: Vec<usize> = found.iter().map(|change| change.at).collect();
        assert_eq!(places, expected.iter().map(|change| count(change, "at")).collect::<Vec<_>>());
        for (found, expected) in found.iter().zip(expected) {
            close(found.before, number(expected, "before"));
            close(found.after, number(expected, "after"));
            // Far out in the tail the two libraries differ in more digits.
            let p = number(expected, "p");
            assert!((found.p / p - 1.0).abs() < 1e-6, "{} is not {p}", found.p);
        }
        points += expected.len();
    }
    assert!(points >= 5, "only {points} change points in all series");
}
