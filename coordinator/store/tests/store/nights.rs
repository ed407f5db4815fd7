//! Nights: which runs they are, what was said of them, and what a person said to that.

use jiff::Timestamp;
use regatta_core::cell::Outcome;
use regatta_core::flag::Flags;
use regatta_core::id::{RunId, TrialId};
use regatta_core::nightly::{Again, Direction, Finding, Metric, Rules, Said, Standing, Unjudged};
use regatta_core::passes::{StopReason, Stopped};
use regatta_core::policy::Passes;
use regatta_core::sample::Sample;
use regatta_core::trial::Epoch;
use regatta_store::{Answer, AnswerVerdicts, Content, EndedCell, ExcludeNight, Finished, Store, Submitted, ToJudge};

use crate::common::{self, GENERATE, REPETITIONS, finish, ingest, leased, record, run, sample_record, worker_record};

const PROCESSES: u32 = 6;

/// A sample whose tokens take so many nanoseconds each.
fn sample(cell: regatta_core::cell::CellHash, epoch: Epoch, repetition: u32, step_ns: u64) -> Sample {
    let process = u64::from(repetition / REPETITIONS);
    // Processes differ by 0.1 %.
    let step = step_ns + step_ns * process / 1000;
    let mut sample = common::sample(cell, epoch, repetition);
    sample.flags = Flags::empty();
    sample.times.prefill_done = 3 + step;
    sample.times.tokens = (1..=u64::from(GENERATE)).map(|token| 3 + step * (1 + token)).collect();
    sample.times.end = 10 * step;
    sample
}

/// A night of one cell that ended well: its run is stored from beginning to end.
async fn night(store: &Store, id: &str, step_ns: u64, again: Option<&str>) {
    let mut new = run(id, 1);
    new.policy.passes = Passes::fixed(PROCESSES);
    new.retry_of = again.map(|of| of.parse().unwrap());
    let (cell, trial) = (new.matrix.cells[0].hash, TrialId::of(&new.id, 0));
    assert_eq!(store.writer().write(new).await.unwrap(), Submitted::Stored);
    let epoch = leased(store, &trial).await;
    let mut records = vec![worker_record()];
    records.extend((0..PROCESSES * REPETITIONS).map(|rep| sample_record(sample(cell, epoch, rep, step_ns))));
    let stopped = Some(Stopped { passes: PROCESSES, reason: StopReason::Fixed });
    records.push(record(Content::CellEnd(EndedCell { hash: cell, outcome: Outcome::Ok, stopped })));
    ingest(store, &trial, epoch, 1, &records).await;
    let finished = finish(store, &trial, epoch, &records).await;
    assert!(matches!(finished, Finished::Complete { .. }), "{finished:?}");
    let cells = store.reader().cells(&trial_run(&trial)).await.unwrap();
    assert_eq!(cells[0].outcome, Some(Outcome::Ok));
}

/// The run of a trial that is its first.
fn trial_run(trial: &TrialId) -> RunId {
    trial.as_str().trim_end_matches(".t0").parse().unwrap()
}

/// Ten nights as usual, from `night-10` on.
async fn ten_nights(store: &Store) {
    for at in 10..20u64 {
        night(store, &format!("night-{at}"), 10_000 + 10 * (at % 3), None).await;
    }
}

async fn judged(store: &Store, run: &str) -> (ToJudge, Vec<Finding>) {
    let night = store.reader().to_judge(&run.parse().unwrap()).await.unwrap();
    let judgement = night.judge(&Rules::default());
    store.writer().write(night.keep(&judgement).unwrap()).await.unwrap();
    (night, judgement.verdicts.into_iter().map(|verdict| verdict.finding).collect())
}

const SLOWER: Direction = Direction::Slower;

#[tokio::test]
async fn a_slowdown_is_pending_for_a_night_and_certain_in_the_next() {
    let temp = common::store().await;
    let store = &temp.store;
    ten_nights(store).await;
    assert_eq!(judged(store, "night-19").await.1, [Finding::Steady, Finding::Steady]);
    night(store, "night-20", 12_000, None).await;
    let (night_20, findings) = judged(store, "night-20").await;
    assert_eq!(night_20.histories.iter().map(|history| history.metric).collect::<Vec<_>>(), Metric::ALL);
    assert_eq!(findings[0], Finding::Flagged { direction: SLOWER });
    night(store, "night-21", 12_000, None).await;
    let since = "night-20".parse().unwrap();
    assert_eq!(judged(store, "night-21").await.1[0], Finding::Confirmed { direction: SLOWER, since });
    let since = "night-20".parse().unwrap();
    let again = judged(store, "night-21").await.1.remove(0);
    assert_eq!(again, Finding::Confirmed { direction: SLOWER, since }, "judging again says the same");
    // What is known is told by the level, not by another alarm.
    for at in 22..25 {
        night(store, &format!("night-{at}"), 12_000 + at, None).await;
        let finding = judged(store, &format!("night-{at}")).await.1.remove(0);
        assert!(!matches!(finding, Finding::Confirmed { .. } | Finding::Flagged { .. }), "{at}: {finding:?}");
    }
    let kept = store.reader().verdicts(&"night-21".parse().unwrap()).await.unwrap();
    let decode = kept.iter().find(|verdict| verdict.metric == Metric::Decode).unwrap();
    assert_eq!((decode.finding.as_str(), decode.direction), ("slower", Some(SLOWER)));
    let evidence: serde_json::Value = serde_json::from_str(&decode.evidence).unwrap();
    assert_eq!(evidence["evidence"]["confirmation"]["processes"], PROCESSES);
}

#[tokio::test]
async fn what_repeats_a_night_is_none_and_confirms_what_was_flagged() {
    let temp = common::store().await;
    let store = &temp.store;
    ten_nights(store).await;
    night(store, "night-20", 12_000, None).await;
    night(store, "night-20-again", 12_000, Some("night-20")).await;
    let (to_judge, findings) = judged(store, "night-20").await;
    assert!(matches!(&to_judge.again[&0], Again::Apart(values) if values.len() == PROCESSES as usize));
    assert_eq!(findings[0], Finding::Suspected { direction: SLOWER });
    night(store, "night-21", 10_000, None).await;
    let (to_judge, findings) = judged(store, "night-21").await;
    assert_eq!(to_judge.histories[0].series.nights.len(), 12);
    assert_eq!(findings[0], Finding::Steady);
}

#[tokio::test]
async fn a_person_expects_dismisses_and_excludes() {
    let temp = common::store().await;
    let store = &temp.store;
    ten_nights(store).await;
    night(store, "night-20", 12_000, None).await;
    judged(store, "night-20").await;
    night(store, "night-21", 12_000, None).await;
    let run: RunId = "night-20".parse().unwrap();
    let answer = |answer| AnswerVerdicts { run: run.clone(), cell: None, answer, reason: "because".to_owned() };
    let said = async || {
        store.reader().to_judge(&"night-21".parse().unwrap()).await.unwrap().histories[0].series.nights[10].said.clone()
    };
    assert_eq!(said().await, Said::Pending(SLOWER));
    for (given, expected) in [
        (Answer::Acknowledged, Said::Pending(SLOWER)),
        (Answer::Dismissed, Said::Nothing),
        (Answer::Expected, Said::Changed { since: run.clone() }),
    ] {
        assert_eq!(store.writer().write(answer(given)).await.unwrap(), 2, "decode and prefill moved");
        assert_eq!(said().await, expected);
    }
    // Judging again keeps what a person said.
    judged(store, "night-20").await;
    assert_eq!(said().await, Said::Changed { since: run.clone() });
    let of_nothing = AnswerVerdicts { run: "night-21".parse().unwrap(), ..answer(Answer::Expected) };
    assert_eq!(store.writer().write(of_nothing).await.unwrap(), 0);

    let exclude = |reason: Option<&str>| ExcludeNight { run: run.clone(), reason: reason.map(str::to_owned) };
    store.writer().write(exclude(Some("fans"))).await.unwrap();
    assert_eq!(judged(store, "night-20").await.1[0], Finding::Unjudged { why: Unjudged::Excluded });
    store.writer().write(exclude(None)).await.unwrap();
    assert!(!matches!(judged(store, "night-20").await.1[0], Finding::Unjudged { .. }));
}

#[tokio::test]
async fn a_history_has_the_nights_of_one_scenario_and_says_which_are_doubtful() {
    let temp = common::store().await;
    let store = &temp.store;
    night(store, "night-10", 10_000, None).await;
    let mut other = run("night-11", 1);
    other.name = "other".to_owned();
    store.writer().write(other).await.unwrap();
    // Submitted and not measured: it still goes on.
    store.writer().write(run("night-12", 1)).await.unwrap();
    let known = store.reader().known_cells().await.unwrap();
    assert_eq!(known.iter().map(|cell| cell.scenario.as_str()).collect::<Vec<_>>(), ["small"]);
    let histories = store.reader().history(&known[0]).await.unwrap();
    let [decode, prefill] = &histories[..] else { panic!("{histories:?}") };
    assert_eq!((decode.metric, prefill.metric), (Metric::Decode, Metric::Prefill));
    let [one] = &decode.series.nights[..] else { panic!("{:?}", decode.series.nights) };
    assert_eq!((one.run.as_str(), one.values.len(), one.standing), ("night-10", 6, Standing::Valid));
    assert_eq!(decode.nights[0].at, Timestamp::UNIX_EPOCH);
    assert!(!one.fingerprint.is_empty());
}
