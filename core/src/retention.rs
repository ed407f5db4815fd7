//! Retention: which runs may be removed, and why the others stay. Pure.
//!
//! A run and the runs that repeat cells of it belong together: they go together, or stay together. What a person said, and what
//! a verdict rests its level on, outlives every policy: without it later nights would be held against the wrong ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::id::RunId;

/// Which runs a person wants to be rid of: those that fit everything that is said here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// All but the newest so many of each scenario.
    pub keep_last: Option<usize>,
    /// Only what ended at least so long ago.
    pub older_than: Option<SignedDuration>,
    /// Only runs of this scenario.
    pub scenario: Option<String>,
    /// None of these.
    pub keep: BTreeSet<RunId>,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The run.
    pub run: RunId,
    /// Its scenario's name.
    pub scenario: String,
    /// When it ended; `None` while it goes on.
    pub ended: Option<Timestamp>,
    /// The run whose cells it repeats.
    pub repeats: Option<RunId>,
    /// Its schedule has still to judge it.
    pub to_be_judged: bool,
    /// A person pinned it.
    pub pinned: bool,
    /// A person answered a verdict on it.
    pub answered: bool,
    /// Where verdicts on it say that a level began: in this run or in earlier ones.
    pub levels: BTreeSet<RunId>,
}

/// Why a run stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// It goes on.
    GoesOn,
    /// Its schedule has still to judge it.
    ToBeJudged,
    /// A person pinned it.
    Pinned,
    /// A person answered a verdict on it.
    Answered,
    /// A verdict says that something changed in it, or that a level began with it.
    Cited,
    /// The command names it, or it is of another scenario.
    Named,
    /// It ended not long enough ago.
    Young,
    /// It is among the newest of its scenario.
    Newest,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GoesOn => "still going on",
            Self::ToBeJudged => "still to be judged",
            Self::Pinned => "pinned",
            Self::Answered => "with a verdict that a person answered",
            Self::Cited => "where a level began, by a verdict",
            Self::Named => "not meant",
            Self::Young => "too young",
            Self::Newest => "among the newest of its scenario",
        })
    }
}

/// What becomes of each run, in their order: why it stays, or `None` where it goes.
pub fn fates(runs: &[Facts], policy: &Policy, now: Timestamp) -> Vec<Option<Held>> {
    let roots = roots(runs);
    let newest = newest(runs, &roots, policy.keep_last);
    let cited: BTreeSet<&RunId> = runs.iter().flat_map(|run| run.levels.iter().chain(changed(run))).collect();
    let own = |run: &Facts| own(run, policy, now).or_else(|| cited.contains(&run.run).then_some(Held::Cited));
    // What holds one of a family holds all of it: the strongest reason of each.
    let mut held: BTreeMap<&RunId, Held> = BTreeMap::new();
    for (run, root) in runs.iter().zip(&roots) {
        let reason = [own(run), newest.contains(root).then_some(Held::Newest)].into_iter().flatten().min();
        if let Some(reason) = reason {
            let of_family = held.entry(root).or_insert(reason);
            *of_family = reason.min(*of_family);
        }
    }
    roots.iter().map(|root| held.get(root).copied()).collect()
}

/// The run itself, where something changed for certain in it.
fn changed(run: &Facts) -> Option<&RunId> {
    (!run.levels.is_empty()).then_some(&run.run)
}

/// What holds a run whatever the others are.
fn own(run: &Facts, policy: &Policy, now: Timestamp) -> Option<Held> {
    let Some(ended) = run.ended else { return Some(Held::GoesOn) };
    let young = policy.older_than.is_some_and(|age| now.duration_since(ended) < age);
    let other = policy.scenario.as_ref().is_some_and(|name| *name != run.scenario) || policy.keep.contains(&run.run);
    let reasons = [
        (run.to_be_judged, Held::ToBeJudged),
        (run.pinned, Held::Pinned),
        (run.answered, Held::Answered),
        (other, Held::Named),
        (young, Held::Young),
    ];
    reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
}

/// For each run the one that it repeats in the end, as far as that one is there: itself for any other.
fn roots(runs: &[Facts]) -> Vec<RunId> {
    let repeats: BTreeMap<&RunId, &RunId> =
        runs.iter().filter_map(|run| Some((&run.run, run.repeats.as_ref()?))).collect();
    let known: BTreeSet<&RunId> = runs.iter().map(|run| &run.run).collect();
    let root = |run: &Facts| {
        let mut at = &run.run;
        // A run repeats an earlier one; a circle would be somebody else's doing, and must not hang us.
        for _ in 0..runs.len() {
            match repeats.get(at) {
                Some(of) if known.contains(of) => at = of,
                _ => break,
            }
        }
        at.clone()
    };
    runs.iter().map(root).collect()
}

/// The newest so many families of each scenario. Ids are ordered by time. What only repeats a run that is gone is no night, and
/// takes nobody's place.
fn newest(runs: &[Facts], roots: &[RunId], keep_last: Option<usize>) -> BTreeSet<RunId> {
    let mut by_scenario: BTreeMap<&str, BTreeSet<&RunId>> = BTreeMap::new();
    for (run, root) in runs.iter().zip(roots).filter(|(run, _)| run.repeats.is_none()) {
        by_scenario.entry(&run.scenario).or_default().insert(root);
    }
    let newest = |families: BTreeSet<&RunId>| {
        families.into_iter().rev().take(keep_last.unwrap_or(0)).cloned().collect::<Vec<RunId>>()
    };
    by_scenario.into_values().flat_map(newest).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u32) -> RunId {
        format!("run-{number:03}").parse().unwrap()
    }

    fn day(number: u32) -> Timestamp {
        Timestamp::from_second(i64::from(number) * 86_400).unwrap()
    }

    /// A run that ended on the day of its number.
    fn run(number: u32) -> Facts {
        Facts {
            run: id(number),
            scenario: "nightly".to_owned(),
            ended: Some(day(number)),
            repeats: None,
            to_be_judged: false,
            pinned: false,
            answered: false,
            levels: BTreeSet::new(),
        }
    }

    fn days(number: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * number)
    }

    #[test]
    fn what_goes_fits_everything_that_was_said() {
        let mut runs: Vec<Facts> = (1..=6).map(run).collect();
        runs[1].scenario = "demo".to_owned();
        let gone = |policy: Policy| {
            let fates = fates(&runs, &policy, day(7));
            runs.iter()
                .zip(fates)
                .filter(|(_, fate)| fate.is_none())
                .map(|(run, _)| run.run.clone())
                .collect::<Vec<_>>()
        };
        let policy = Policy::default;
        assert_eq!(gone(Policy { keep_last: Some(2), ..policy() }), [id(1), id(3), id(4)], "one of demo is its newest");
        assert_eq!(gone(Policy { older_than: Some(days(4)), ..policy() }), [id(1), id(2), id(3)]);
        assert_eq!(gone(Policy { older_than: Some(days(4)), keep_last: Some(3), ..policy() }), [id(1), id(3)]);
        assert_eq!(gone(Policy { keep_last: Some(0), scenario: Some("demo".to_owned()), ..policy() }), [id(2)]);
        let keep = BTreeSet::from([id(1)]);
        assert_eq!(gone(Policy { older_than: Some(days(4)), keep, ..policy() }), [id(2), id(3)]);
    }

    #[test]
    fn what_goes_on_is_pinned_answered_or_cited_stays_whatever_is_said() {
        let mut runs: Vec<Facts> = (1..=8).map(run).collect();
        runs[0].ended = None;
        runs[1].pinned = true;
        runs[2].answered = true;
        runs[3].to_be_judged = true;
        // A verdict on the seventh says that a level began with the sixth.
        runs[6].levels.insert(id(6));
        let fates = fates(&runs, &Policy { keep_last: Some(0), ..Policy::default() }, day(99));
        let expected = [
            Some(Held::GoesOn),
            Some(Held::Pinned),
            Some(Held::Answered),
            Some(Held::ToBeJudged),
            None,
            Some(Held::Cited),
            Some(Held::Cited),
            None,
        ];
        assert_eq!(fates, expected);
    }

    #[test]
    fn a_run_and_what_repeats_it_stay_or_go_together() {
        let mut runs: Vec<Facts> = (1..=4).map(run).collect();
        runs[1].repeats = Some(id(1));
        runs[2].repeats = Some(id(2));
        let policy = Policy { keep_last: Some(1), ..Policy::default() };
        assert_eq!(fates(&runs, &policy, day(9)), [None, None, None, Some(Held::Newest)]);
        runs[2].ended = None;
        let on = Some(Held::GoesOn);
        assert_eq!(fates(&runs, &policy, day(9)), [on, on, on, Some(Held::Newest)]);
        // What it repeats is gone: it is by itself.
        let alone = [run(8), Facts { repeats: Some(id(7)), ..run(9) }];
        assert_eq!(fates(&alone, &policy, day(9)), [Some(Held::Newest), None]);
        let circle = [Facts { repeats: Some(id(2)), ..run(1) }, Facts { repeats: Some(id(1)), ..run(2) }];
        assert_eq!(fates(&circle, &policy, day(9)).len(), 2);
    }

    proptest! {
        #[test]
        fn never_more_goes_when_more_is_to_stay(
            marks in prop::collection::vec((any::<bool>(), any::<bool>(), 0..4u32), 1..12), keep in 0..6usize, age in 0..20i64,
        ) {
            let facts: Vec<Facts> = (1..).zip(&marks).map(|(number, (pinned, open, repeats))| Facts {
                pinned: *pinned,
                ended: (!open).then(|| day(number)),
                repeats: (*repeats > 0 && *repeats < number).then(|| id(number - repeats)),
                ..run(number)
            }).collect();
            let of = |keep, age| fates(&facts, &Policy { keep_last: Some(keep), older_than: Some(days(age)), ..Policy::default() }, day(20));
            let (some, more) = (of(keep, age), of(keep + 1, age + 1));
            for ((run, fate), later) in facts.iter().zip(&some).zip(&more) {
                prop_assert!(fate.is_none() || later.is_some());
                prop_assert!(fate.is_some() || (run.ended.is_some() && !run.pinned));
            }
        }
    }
}
