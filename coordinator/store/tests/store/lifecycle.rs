//! Runs and trials: every change guarded by state and epoch, every cell ended once.

use crate::common::{
    self, REPETITIONS, event_kinds, finish, ingest, leased, sample, sample_record, store, submitted, whole_trial,
};
use regatta_core::cell::Outcome;
use regatta_core::failure::FailureKind;
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::run::RunState;
use regatta_core::trial::{Epoch, TrialState};
use regatta_store::{
    CancelRun, Cancelled, Finished, Leased, MAX_ATTEMPTS, Release, ReleaseReason, Released, ResumeRun, Resumed,
    StoreError, Submitted,
};

#[tokio::test]
async fn a_run_is_stored_whole_and_only_once() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let reader = temp.store.reader();
    let run = reader.run("run-a").await.unwrap();
    assert_eq!(
        run.summary.cells.into_iter().collect::<Vec<_>>(),
        [("skipped".to_owned(), 1), ("waiting".to_owned(), 2)]
    );
    let again = common::run("run-a", 2);
    assert_eq!((run.bundle, run.policy), (again.bundle.clone(), again.policy.clone()));
    let cells = reader.cells(&small.run).await.unwrap();
    assert_eq!(
        cells.iter().map(|c| &c.cell).collect::<Vec<_>>(),
        again.matrix.cells.iter().map(|c| &c.cell).collect::<Vec<_>>()
    );
    assert_eq!(cells[2].outcome, Some(Outcome::Skipped("no worker".to_owned())));
    assert_eq!(reader.run_devices(&small.run).await.unwrap(), again.devices);

    let mut other = again.clone();
    assert_eq!(temp.store.writer().write(again).await.unwrap(), Submitted::AlreadyStored);
    other.bundle.text.push(' ');
    assert_eq!(temp.store.writer().write(other).await.unwrap(), Submitted::OtherScenario);
    assert_eq!(reader.runs(10).await.unwrap().len(), 1);
    temp.store.close().await;
}

#[tokio::test]
async fn a_run_without_a_runnable_cell_has_ended_at_once() {
    let temp = store().await;
    submitted(&temp.store, "run-a", 0).await;
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.state, RunState::Done);
    temp.store.close().await;
}

#[tokio::test]
async fn runs_are_found_by_the_beginning_of_their_id() {
    let temp = store().await;
    for id in ["ab-1", "ab-2", "ac", "ac-1"] {
        submitted(&temp.store, id, 1).await;
    }
    let reader = temp.store.reader();
    assert_eq!(reader.resolve_run("ab-2").await.unwrap().as_str(), "ab-2");
    assert_eq!(reader.resolve_run("ac").await.unwrap().as_str(), "ac");
    let error = reader.resolve_run("ab").await.unwrap_err();
    assert!(matches!(&error, StoreError::AmbiguousRun { .. }) && error.to_string().contains("ab-2, ab-1"), "{error}");
    for unknown in ["x", "", "a%"] {
        let error = reader.resolve_run(unknown).await.unwrap_err();
        assert!(matches!(&error, StoreError::RunNotFound { newest, .. } if newest.len() == 4), "{error}");
    }
    temp.store.close().await;
}

#[tokio::test]
async fn a_trial_runs_to_its_end() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let epoch = leased(&temp.store, &small.trial).await;
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.cells["running"], 1);
    let records = whole_trial(&small.cells[..2], epoch);
    let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    assert_eq!((stored.samples, stored.ended.len(), stored.stale), (6, 2, false));
    let done = finish(&temp.store, &small.trial, epoch, &records).await;
    assert!(matches!(done, Finished::Complete { state: Some(TrialState::Done), .. }), "{done:?}");

    let reader = temp.store.reader();
    let run = reader.run("run-a").await.unwrap().summary;
    assert_eq!((run.state, run.samples), (RunState::Done, 6));
    let samples = reader.samples(&small.run).await.unwrap();
    assert_eq!(samples.len(), 6);
    assert_eq!(samples[4], sample(small.cells[1], epoch, 1));
    let workers = reader.worker_facts(&small.run).await.unwrap();
    let driver = Fingerprint::default().with(fingerprint::DRIVER, Some("570.1"));
    assert_eq!(workers.iter().map(|worker| &worker.facts.fingerprint).collect::<Vec<_>>(), [&driver]);
    let kinds = event_kinds(&temp.store, &small.run).await;
    let expected = [
        "run_submitted",
        "cell_ended",
        "trial_leased",
        "trial_started",
        "cell_ended",
        "cell_ended",
        "trial_done",
        "run_ended",
    ];
    assert_eq!(kinds, expected);
    temp.store.close().await;
}

#[tokio::test]
async fn a_cell_without_an_end_gets_one() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    finish(&temp.store, &small.trial, epoch, &records).await;
    let cells = temp.store.reader().cells(&small.run).await.unwrap();
    assert_eq!(cells[0].outcome, Some(Outcome::Ok));
    let silent = Outcome::Failed(FailureKind::BadOutput, "worker ended without a result".to_owned());
    assert_eq!(cells[1].outcome, Some(silent));
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.state, RunState::Done);
    temp.store.close().await;
}

#[tokio::test]
async fn an_ok_with_too_few_samples_is_not_believed() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let mut bad = sample(small.cells[0], epoch, 1);
    bad.times.tokens[2] = bad.times.tokens[1];
    let records = [
        sample_record(sample(small.cells[0], epoch, 0)),
        sample_record(bad),
        common::end_record(small.cells[0], Outcome::Ok),
    ];
    let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    assert_eq!((stored.samples, stored.rejected, stored.durable_through_seq), (1, 1, 3));
    let cells = temp.store.reader().cells(&small.run).await.unwrap();
    let Some(Outcome::Failed(FailureKind::BadOutput, detail)) = &cells[0].outcome else { panic!("{:?}", cells[0]) };
    assert!(detail.contains(&format!("1 of {REPETITIONS} samples")) && detail.contains("token 3"), "{detail}");
    let rejected = temp.store.reader().rejected_samples(&small.run).await.unwrap();
    assert_eq!((rejected.len(), rejected[0].seq, cells[0].rejected), (1, 2, 1));
    temp.store.close().await;
}

async fn release(temp: &common::Temp, small: &common::Small, epoch: Epoch) -> Released {
    let release = Release { trial: small.trial.clone(), epoch, reason: ReleaseReason::Lost };
    temp.store.writer().write(release).await.unwrap()
}

#[tokio::test]
async fn a_lost_trial_is_tried_again_until_its_attempts_are_used_up() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    for attempt in 1..MAX_ATTEMPTS {
        let epoch = leased(&temp.store, &small.trial).await;
        assert_eq!(epoch, Epoch(attempt));
        assert_eq!(release(&temp, &small, epoch).await, Released::Requeued);
        assert_eq!(release(&temp, &small, epoch).await, Released::Stale);
    }
    let epoch = leased(&temp.store, &small.trial).await;
    assert_eq!(release(&temp, &small, epoch).await, Released::Ended(TrialState::Failed));
    let cells = temp.store.reader().cells(&small.run).await.unwrap();
    assert_eq!(cells[0].outcome.as_ref().unwrap().failure(), Some(FailureKind::AgentLost));
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.state, RunState::Done);
    assert_eq!(temp.store.writer().write(common::lease_of(&small.trial)).await.unwrap(), Leased::NotQueued);
    temp.store.close().await;
}

#[tokio::test]
async fn a_cell_that_the_infrastructure_failed_is_tried_again() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let spawn = Outcome::Failed(FailureKind::Spawn, "no such program".to_owned());
    for attempt in 1..=MAX_ATTEMPTS {
        let epoch = leased(&temp.store, &small.trial).await;
        let mut records = if attempt == 1 { whole_trial(&small.cells[..1], epoch) } else { Vec::new() };
        records.push(common::end_record(small.cells[1], spawn.clone()));
        ingest(&temp.store, &small.trial, epoch, 1, &records).await;
        let done = finish(&temp.store, &small.trial, epoch, &records).await;
        let state = if attempt < MAX_ATTEMPTS { TrialState::Queued } else { TrialState::Failed };
        assert!(matches!(&done, Finished::Complete { state: Some(s), .. } if *s == state), "{done:?}");
    }
    let cells = temp.store.reader().cells(&small.run).await.unwrap();
    assert_eq!((&cells[0].outcome, &cells[1].outcome), (&Some(Outcome::Ok), &Some(spawn)));
    assert_eq!(cells[0].epoch, Some(Epoch(1)));
    temp.store.close().await;
}

#[tokio::test]
async fn a_cell_that_its_agent_gave_up_unasked_is_tried_again() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = [common::end_record(small.cells[0], Outcome::Cancelled)];
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    let done = finish(&temp.store, &small.trial, epoch, &records).await;
    assert!(matches!(done, Finished::Complete { state: Some(TrialState::Queued), .. }), "{done:?}");
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    finish(&temp.store, &small.trial, epoch, &records).await;
    assert_eq!(temp.store.reader().cells(&small.run).await.unwrap()[0].outcome, Some(Outcome::Ok));
    temp.store.close().await;
}

#[tokio::test]
async fn a_change_whose_caller_went_away_is_made_all_the_same() {
    let temp = store().await;
    {
        let write = temp.store.writer().write(common::run("run-a", 1));
        // Polled once: the change is on its way, its answer is not.
        tokio::select! {
            biased;
            _ = write => panic!("answered before it was written"),
            () = std::future::ready(()) => {}
        }
    }
    submitted(&temp.store, "run-b", 1).await;
    assert_eq!(temp.store.reader().runs(10).await.unwrap().len(), 2);
    temp.store.close().await;
}

#[tokio::test]
async fn a_stale_lease_changes_no_state_but_its_samples_stay() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let old = leased(&temp.store, &small.trial).await;
    release(&temp, &small, old).await;
    let new = leased(&temp.store, &small.trial).await;

    let late = whole_trial(&small.cells[..1], old);
    let stored = ingest(&temp.store, &small.trial, old, 1, &late).await;
    assert!(stored.stale && stored.ended.is_empty() && stored.samples == 3, "{stored:?}");
    let done = finish(&temp.store, &small.trial, old, &late).await;
    assert!(matches!(done, Finished::Complete { state: None, .. }), "{done:?}");
    let cell = &temp.store.reader().cells(&small.run).await.unwrap()[0];
    assert_eq!((&cell.outcome, cell.epoch, cell.samples), (&None, Some(old), 3));

    let records = whole_trial(&small.cells[..1], new);
    ingest(&temp.store, &small.trial, new, 1, &records).await;
    finish(&temp.store, &small.trial, new, &records).await;
    let cell = &temp.store.reader().cells(&small.run).await.unwrap()[0];
    assert_eq!((&cell.outcome, cell.epoch, cell.samples, cell.superseded), (&Some(Outcome::Ok), Some(new), 3, 3));
    let samples = temp.store.reader().samples(&small.run).await.unwrap();
    assert!(samples.len() == 3 && samples.iter().all(|s| s.key.epoch == new));
    assert_eq!(temp.store.reader().all_samples(&small.run).await.unwrap().len(), 6);
    temp.store.close().await;
}

#[tokio::test]
async fn resuming_goes_on_with_the_cells_that_have_not_ended() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let epoch = leased(&temp.store, &small.trial).await;
    ingest(&temp.store, &small.trial, epoch, 1, &whole_trial(&small.cells[..1], epoch)).await;
    let temp = temp.reopened().await;

    let live = ResumeRun { run: small.run.clone(), live: vec![small.trial.clone()] };
    assert_eq!(temp.store.writer().write(live).await.unwrap(), Resumed::Queued(Vec::new()));
    let resume = ResumeRun { run: small.run.clone(), live: Vec::new() };
    let resumed = temp.store.writer().write(resume.clone()).await.unwrap();
    assert_eq!(resumed, Resumed::Queued(vec![small.trial.clone()]));

    let lease = common::lease_of(&small.trial);
    let Leased::Granted(granted) = temp.store.writer().write(lease).await.unwrap() else { panic!("not queued") };
    let (epoch, trial) = (granted[0].epoch, &granted[0].trial);
    assert!(!granted[0].whole);
    assert_eq!(epoch, Epoch(2));
    assert_eq!(trial.cells.iter().map(|c| c.hash).collect::<Vec<_>>(), [small.cells[1]]);
    let records = whole_trial(&small.cells[1..2], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    finish(&temp.store, &small.trial, epoch, &records).await;
    let samples = temp.store.reader().samples(&small.run).await.unwrap();
    assert_eq!(samples.iter().map(|s| s.key.epoch.0).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2]);
    assert_eq!(temp.store.writer().write(resume).await.unwrap(), Resumed::Ended(RunState::Done));
    temp.store.close().await;
}

#[tokio::test]
async fn a_cancelled_run_ends_when_its_agent_has_stopped() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    let cancelled = temp.store.writer().write(CancelRun(small.run.clone())).await.unwrap();
    assert!(matches!(&cancelled, Cancelled::Stopping(held) if held.len() == 1), "{cancelled:?}");
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.state, RunState::Active);
    let resume = ResumeRun { run: small.run.clone(), live: Vec::new() };
    assert_eq!(temp.store.writer().write(resume).await.unwrap(), Resumed::Stopping);
    finish(&temp.store, &small.trial, epoch, &records).await;
    let run = temp.store.reader().run("run-a").await.unwrap().summary;
    assert_eq!((run.state, run.cells["ok"], run.cells["cancelled"]), (RunState::Cancelled, 1, 1));
    let again = temp.store.writer().write(CancelRun(small.run.clone())).await.unwrap();
    assert_eq!(again, Cancelled::Ended(RunState::Cancelled));
    temp.store.close().await;
}

#[tokio::test]
async fn a_cancelled_run_in_the_queue_ends_at_once() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    assert_eq!(temp.store.writer().write(CancelRun(small.run.clone())).await.unwrap(), Cancelled::Stopping(Vec::new()));
    assert_eq!(temp.store.reader().run("run-a").await.unwrap().summary.state, RunState::Cancelled);
    let nobody = CancelRun("none".parse().unwrap());
    assert_eq!(temp.store.writer().write(nobody).await.unwrap(), Cancelled::NotFound);
    temp.store.close().await;
}
