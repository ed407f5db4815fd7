//! What is said of nights: to people, to programs, to a CI.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use regatta_core::artifact::Weights;
use regatta_core::cell::Outcome;
use regatta_core::fingerprint::{DRIVER, Fingerprint};
use regatta_core::id::RunId;
use regatta_core::nightly::{Direction, Metric, Night, Rules, Said, Series, Standing};
use regatta_reporter::dataset::CellResult;
use regatta_reporter::nights::{Gate, gate, history, junit};
use regatta_store::{Answer, History, NightRecord, ToJudge, VerdictRecord};

use crate::common::{self, Plan};

fn run(night: usize) -> RunId {
    format!("0195f6e8-{night:04}-7c41-9d20-5b7e4f0a1c23").parse().unwrap()
}

/// When a night began.
fn at(night: usize) -> Timestamp {
    let start: Timestamp = common::START.parse().unwrap();
    start + SignedDuration::from_hours(24 * i64::try_from(night).unwrap())
}

/// Decoding of a cell at these levels, night by night, by six worker processes each.
fn decode(cell: &CellResult, machine: &str, levels: &[f64]) -> History {
    let values = |level: f64| (0..6).map(|i| level * (1.0 + 0.001 * f64::from(i))).collect();
    let nights = levels.iter().enumerate().map(|(night, level)| Night {
        run: run(night),
        values: values(*level),
        standing: Standing::Valid,
        fingerprint: Fingerprint::default().with(DRIVER, Some("570.1")),
        said: Said::Nothing,
    });
    let series = Series {
        machine: machine.to_owned(),
        cell: cell.cell.label(),
        metric: Metric::Decode.as_str().to_owned(),
        larger_is_better: true,
        nights: nights.collect(),
    };
    let record = |night| NightRecord { at: at(night), outcome: Some(Outcome::Ok), verdict: None, excluded: None };
    History {
        cell: cell.cell.clone(),
        hash: cell.hash,
        metric: Metric::Decode,
        nights: (0..levels.len()).map(record).collect(),
        series,
    }
}

fn cells() -> Vec<CellResult> {
    common::cells(&Plan::demo(), "bench-01", Weights::Synthetic)
}

/// Twelve nights as usual, and two at another level.
fn levels(last: f64) -> Vec<f64> {
    let mut levels: Vec<f64> = (0..12).map(|night| 100.0 + 0.1 * f64::from(night % 3)).collect();
    levels.extend([last, last]);
    levels
}

/// A machine of four cells of which all became slower, and another on which one did, one is flagged, one learns and two are steady.
fn night() -> Gate {
    let cells = cells();
    let mut histories: Vec<History> = cells[..4].iter().map(|cell| decode(cell, "bench-02", &levels(90.0))).collect();
    histories.push(decode(&cells[4], "bench-01 <b>&\u{202e}", &levels(95.0)));
    for history in &mut histories {
        history.series.nights[12].said = Said::Pending(Direction::Slower);
    }
    let mut flagged = levels(100.0);
    flagged[13] = 103.0;
    histories.push(decode(&cells[5], "bench-01", &flagged));
    histories.push(decode(&cells[6], "bench-01", &levels(100.0)[..3]));
    histories.extend(cells[7..9].iter().map(|cell| decode(cell, "bench-01", &levels(100.1))));
    let night = ToJudge { run: run(13), histories, again: BTreeMap::new() };
    gate("nightly", at(13), &night, &night.judge(&Rules::default()))
}

#[test]
fn what_moved_is_said_line_by_line_and_the_rest_is_counted() {
    insta::assert_snapshot!("gate", night().text());
}

#[test]
fn a_ci_sees_what_is_slower_as_failed_and_what_is_not_known_as_skipped() {
    let gate = night();
    let xml = junit(&gate);
    insta::assert_snapshot!("gate_junit", xml);
    assert_eq!(xml.matches("<failure").count(), gate.slowdowns);
    assert!(!xml.contains("<b>") && !xml.contains('\u{202e}'), "labels are harmless");
}

#[test]
fn a_program_gets_the_numbers_behind_each_verdict() {
    let json = serde_json::to_value(night()).unwrap();
    assert_eq!(json["slowdowns"], 2, "a machine and a cell");
    assert_eq!(json["events"][0]["cells"], 4);
    let alone = &json["verdicts"][4];
    assert_eq!((&alone["finding"], &alone["direction"]), (&"confirmed".into(), &"slower".into()));
    let confirmation = &alone["evidence"]["confirmation"];
    assert_eq!((&confirmation["processes"], &confirmation["base"]), (&6.into(), &60.into()));
    assert!(confirmation["ratio"].as_f64().is_some_and(|ratio| (ratio - 0.95).abs() < 0.005), "{confirmation}");
    assert_eq!(json["to_measure"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_history_shows_breaks_doubts_verdicts_and_answers() {
    let cell = &cells()[0];
    let mut series = decode(cell, "bench-01", &levels(95.0));
    for (at, night) in series.series.nights.iter_mut().enumerate().skip(4) {
        night.fingerprint = Fingerprint::default().with(DRIVER, Some("580.2"));
        night.standing = if at == 5 { Standing::Suspect } else { Standing::Valid };
    }
    series.series.nights[6].values.clear();
    series.nights[6].outcome = Some(Outcome::Oom("no memory".to_owned()));
    series.series.nights[7].standing = Standing::Excluded;
    series.nights[7].excluded = Some("the fans\u{1b}[31m were being replaced".to_owned());
    series.nights[12].verdict = Some(VerdictRecord {
        run: run(12),
        cell: cell.hash,
        metric: Metric::Decode,
        finding: "slower".to_owned(),
        direction: Some(Direction::Slower),
        said: Said::Changed { since: run(12) },
        sentence: "slower by 5.0 %".to_owned(),
        evidence: "{}".to_owned(),
        answer: Some((Answer::Expected, "new sampler".to_owned())),
    });
    let view = history("nightly", &series);
    insta::assert_snapshot!("history", view.text());
    assert_eq!(view.nights[4].breaks, ["driver 570.1 → 580.2"]);
}
