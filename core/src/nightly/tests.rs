use super::*;
use crate::fingerprint::{DRIVER, KERNEL};

fn run(night: usize) -> RunId {
    format!("night-{night:03}").parse().unwrap()
}

/// Six worker processes around `level`, 1 % from first to last, moved by a little from night to night.
fn night(at: usize, level: f64) -> Night {
    let wobble = 1.0 + 0.002 * ((at * 7 % 5) as f64 - 2.0);
    let values = (0..6).map(|i| level * wobble * (1.0 + 0.002 * (f64::from(i) - 2.5))).collect();
    Night { run: run(at), values, standing: Standing::Valid, fingerprint: Fingerprint::default(), said: Said::Nothing }
}

fn series(levels: &[f64]) -> Series {
    let nights = levels.iter().enumerate().map(|(at, level)| night(at, *level)).collect();
    let name = |text: &str| text.to_owned();
    Series { machine: name("m"), cell: name("c"), metric: name("decode"), larger_is_better: true, nights }
}

fn steps(stretches: &[(usize, f64)]) -> Vec<f64> {
    stretches.iter().flat_map(|(n, level)| std::iter::repeat_n(*level, *n)).collect()
}

fn alone(series: &Series, again: Option<Again>) -> Verdict {
    let again = again.into_iter().map(|again| (0, again)).collect();
    judge(std::slice::from_ref(series), &again, &Rules::default()).verdicts.remove(0)
}

/// Judges night by night, as it would have been, each with what was said before. What is flagged is not measured again.
fn course(mut series: Series) -> Vec<Finding> {
    let nights = std::mem::take(&mut series.nights);
    let mut findings = Vec::new();
    for night in nights {
        series.nights.push(night);
        let finding = alone(&series, None).finding;
        series.nights.last_mut().unwrap().said = finding.said();
        findings.push(finding);
    }
    findings
}

fn ten(level: f64) -> Vec<f64> {
    (0..10).map(|i| level * (1.0 + 0.002 * (f64::from(i) - 4.5))).collect()
}

const SLOWER: Direction = Direction::Slower;

#[test]
fn few_nights_are_learnt_from() {
    let findings = course(series(&steps(&[(9, 100.0)])));
    assert_eq!(findings[7], Finding::Learning { nights: 7, of: 8 });
    assert_eq!(findings[8], Finding::Steady);
    assert_eq!(alone(&series(&[]), None).finding, Finding::Unjudged { why: Unjudged::NotMeasured });
}

#[test]
fn a_step_is_flagged_and_certain_the_night_after() {
    let findings = course(series(&steps(&[(20, 100.0), (4, 95.0)])));
    assert_eq!(findings[20], Finding::Flagged { direction: SLOWER });
    assert_eq!(findings[21], Finding::Confirmed { direction: SLOWER, since: run(20) });
    assert!(matches!(findings[22], Finding::Learning { .. }), "the new level is two nights old: {:?}", findings[22]);
    assert_eq!(findings[23], Finding::Steady, "what is known is not said again");
}

#[test]
fn measured_again_it_is_suspected_and_in_turns_with_the_last_good_build_it_is_certain() {
    let slow = series(&steps(&[(20, 100.0), (1, 95.0)]));
    let verdict = alone(&slow, Some(Again::Apart(ten(95.0))));
    assert_eq!(verdict.finding, Finding::Suspected { direction: SLOWER });
    let pairs: Vec<(f64, f64)> = ten(80.0).into_iter().zip(ten(76.0)).collect();
    let verdict = alone(&slow, Some(Again::Pairs(pairs)));
    assert_eq!(verdict.finding, Finding::Confirmed { direction: SLOWER, since: run(20) });
    assert!(verdict.sentence().contains("in turns with the last good build)"), "{}", verdict.sentence());
    // Both builds are slow: it is not the build, and the next night decides.
    let pairs: Vec<(f64, f64)> = ten(95.0).into_iter().zip(ten(95.0)).collect();
    let verdict = alone(&slow, Some(Again::Pairs(pairs)));
    assert_eq!(verdict.finding, Finding::Suspected { direction: SLOWER });
    assert!(verdict.sentence().contains("+0.0 % in turns"), "{}", verdict.sentence());
    let calm = alone(&slow, Some(Again::Pairs(ten(80.0).into_iter().zip(ten(100.0)).collect())));
    assert_eq!(calm.finding, Finding::Steady, "the other way");
    let calm = alone(&slow, Some(Again::Apart(ten(100.0))));
    assert_eq!(calm.finding, Finding::Steady);
    assert!(calm.sentence().contains("not confirmed"), "{}", calm.sentence());
}

#[test]
fn the_last_good_night_is_one_of_which_nothing_was_suspected_in_the_same_circumstances() {
    let good = |series: &Series| series.last_good().map(|night| night.run.clone());
    let mut slow = series(&steps(&[(20, 100.0), (2, 95.0)]));
    assert_eq!(good(&slow), Some(run(20)));
    slow.nights[20].said = Said::Pending(SLOWER);
    assert_eq!(good(&slow), Some(run(19)));
    slow.nights[19].standing = Standing::Suspect;
    slow.nights[18].values.clear();
    assert_eq!(good(&slow), Some(run(17)));
    for night in &mut slow.nights[21..] {
        night.fingerprint = Fingerprint::default().with(DRIVER, Some("580"));
    }
    for night in &mut slow.nights[..21] {
        night.fingerprint = Fingerprint::default().with(DRIVER, Some("570"));
    }
    assert_eq!(good(&slow), None, "the driver is another one");
    assert_eq!((good(&series(&[])), good(&series(&[100.0]))), (None, None));
}

#[test]
fn a_bad_night_alone_is_never_certain() {
    let findings = course(series(&steps(&[(20, 100.0), (1, 80.0), (10, 100.0)])));
    assert_eq!(findings[20], Finding::Flagged { direction: SLOWER });
    assert!(findings[21..].iter().all(|finding| *finding == Finding::Steady), "{findings:?}");
}

#[test]
fn of_times_the_larger_are_the_slower() {
    let mut times = series(&steps(&[(20, 100.0), (1, 110.0)]));
    times.larger_is_better = false;
    assert_eq!(alone(&times, None).finding, Finding::Flagged { direction: SLOWER });
    times.larger_is_better = true;
    assert_eq!(alone(&times, None).finding, Finding::Flagged { direction: Direction::Faster });
}

#[test]
fn a_slow_drift_is_found_by_change_points() {
    let levels: Vec<f64> = (0..70).map(|at| 100.0 * (1.0 - 0.001 * f64::from(at))).collect();
    let findings = course(series(&levels));
    let found = findings.iter().position(|finding| finding.direction().is_some()).unwrap();
    let Finding::Confirmed { direction: SLOWER, since } = &findings[found] else { panic!("{:?}", findings[found]) };
    assert!(*since < run(found - 4), "{since} at night {found}");
    assert!((20..60).contains(&found), "night {found}");
}

#[test]
fn other_circumstances_begin_a_new_series_and_nothing_is_held_against_the_old_one() {
    let mut broken = series(&steps(&[(20, 100.0), (10, 50.0)]));
    for (at, night) in broken.nights.iter_mut().enumerate() {
        let driver = if at < 20 { "570" } else { "580" };
        // Not known in some nights, which changes nothing; a kernel is noted only.
        let fingerprint = Fingerprint::default().with(KERNEL, Some(format!("6.{at}")));
        night.fingerprint = fingerprint.with(DRIVER, (at % 3 != 1).then_some(driver));
    }
    assert_eq!(segments(&broken.nights).iter().map(|s| s.nights.clone()).collect::<Vec<_>>(), [0..20, 20..30]);
    let findings = course(broken);
    let Finding::Began { because } = &findings[20] else { panic!("{:?}", findings[20]) };
    assert_eq!((because[0].part.as_str(), because[0].b.as_deref()), (DRIVER, Some("580")));
    assert_eq!(findings[21], Finding::Learning { nights: 1, of: 8 });
    assert_eq!(findings[29], Finding::Steady);
}

#[test]
fn suspect_and_excluded_nights_have_no_verdict_and_no_say() {
    for standing in [Standing::Suspect, Standing::Excluded] {
        let mut odd = series(&steps(&[(20, 100.0), (1, 60.0)]));
        odd.nights[20].standing = standing;
        assert!(matches!(alone(&odd, None).finding, Finding::Unjudged { .. }));
        // Between a flagged night and the one that decides.
        let mut between = series(&steps(&[(20, 100.0), (1, 95.0), (1, 20.0), (1, 95.0)]));
        between.nights[20].said = Said::Pending(SLOWER);
        between.nights[21].standing = standing;
        assert_eq!(alone(&between, None).finding, Finding::Confirmed { direction: SLOWER, since: run(20) });
    }
}

#[test]
fn a_change_that_was_expected_is_a_level_and_no_alarm() {
    let mut expected = series(&steps(&[(20, 100.0), (6, 95.0)]));
    expected.nights[20].said = Said::Changed { since: run(20) };
    assert_eq!(alone(&expected, None).finding, Finding::Steady);
    let mut back = expected.clone();
    back.nights.push(night(26, 100.0));
    assert_eq!(
        alone(&back, None).finding,
        Finding::Flagged { direction: Direction::Faster },
        "noise of both levels is known"
    );
}

#[test]
fn cells_that_move_together_are_one_event_for_all_of_the_machine() {
    let one = |cell: usize, levels: &[f64]| Series { cell: format!("c{cell}"), ..series(levels) };
    let slow = steps(&[(20, 100.0), (2, 95.0)]);
    let mut all: Vec<Series> = (0..10).map(|cell| one(cell, &slow)).collect();
    all[9] = one(9, &steps(&[(22, 100.0)]));
    all.push(Series { machine: "other".to_owned(), ..one(10, &slow) });
    for series in all.iter_mut().filter(|series| series.cell != "c9") {
        series.nights[20].said = Said::Pending(SLOWER);
    }
    let judgement = judge(&all, &BTreeMap::new(), &Rules::default());
    let event = &judgement.events[..];
    let [MachineEvent { machine, confirmed: true, cells: 9, of: 10, since: Some(since), .. }] = event else {
        panic!("{event:?}")
    };
    assert_eq!((machine.as_str(), since), ("m", &run(20)));
    assert_eq!(judgement.verdicts[9].finding, Finding::WithMachine { direction: SLOWER, since: run(20), moved: false });
    assert!(matches!(judgement.verdicts[10].finding, Finding::Confirmed { .. }));
    assert_eq!(judgement.slowdowns(), 2, "one machine, one cell of another");
    assert!(event[0].sentence().starts_with("9 of 10 cells slower by 5."), "{}", event[0].sentence());

    // The night before: flagged, and some stand for all.
    let first: Vec<Series> = all
        .iter()
        .map(|series| {
            let mut nights = series.nights[..21].to_vec();
            nights[20].said = Said::Nothing;
            Series { nights, ..series.clone() }
        })
        .collect();
    let judgement = judge(&first, &BTreeMap::new(), &Rules::default());
    assert_eq!((judgement.slowdowns(), judgement.events[0].confirmed), (0, false));
    assert_eq!(judgement.to_measure().len(), 6, "five of the machine, and the other's");
}

#[test]
fn each_verdict_is_a_sentence_with_its_numbers() {
    let mut slow = series(&steps(&[(20, 100.0), (2, 95.0)]));
    slow.nights[20].said = Said::Pending(SLOWER);
    let said = alone(&slow, None).sentence();
    assert_eq!(said, "slower by 5.0 % (-5.4 to -4.6 %; 6 worker processes against 60), since night-020");
    slow.nights.pop();
    slow.nights[20].said = Said::Nothing;
    let said = alone(&slow, None).sentence();
    assert_eq!(said, "slower by 5.4 % than the middle of 20 nights, 17.7 times their 0.3 %: to be measured again");
    let said = alone(&slow, Some(Again::Apart(ten(95.0)))).sentence();
    assert!(said.ends_with("measured again the same night: the next night decides"), "{said}");
}

#[test]
fn what_is_said_can_be_read_again() {
    let said = |levels: &[f64]| alone(&series(levels), Some(Again::Apart(ten(90.0))));
    let mut moved = series(&steps(&[(20, 100.0), (1, 90.0)]));
    moved.nights[20].fingerprint = Fingerprint::default().with(DRIVER, Some("2"));
    moved.nights[19].fingerprint = Fingerprint::default().with(DRIVER, Some("1"));
    let verdicts = [
        said(&steps(&[(3, 100.0)])),
        said(&steps(&[(21, 100.0)])),
        said(&steps(&[(20, 100.0), (1, 90.0)])),
        alone(&moved, None),
        Verdict { finding: Finding::Unjudged { why: Unjudged::Excluded }, evidence: None },
        Verdict { finding: Finding::Confirmed { direction: SLOWER, since: run(3) }, evidence: None },
        Verdict { finding: Finding::WithMachine { direction: SLOWER, since: run(3), moved: true }, evidence: None },
    ];
    let words: Vec<&str> = verdicts.iter().map(|verdict| verdict.finding.as_str()).collect();
    assert_eq!(words, ["learning", "steady", "suspected", "new series", "excluded", "slower", "with machine"]);
    for verdict in verdicts {
        let text = serde_json::to_string(&verdict).unwrap();
        let read: Verdict = serde_json::from_str(&text).unwrap();
        assert_eq!(read.finding, verdict.finding);
        // As JSON on both sides: the last digit of a number may be lost when it is read, and nothing else.
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<serde_json::Value>(&text).unwrap());
    }
}
