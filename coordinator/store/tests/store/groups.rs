//! Groups of replicas: leased, ended, given back and given up together.

use regatta_core::cell::Outcome;
use regatta_core::device::DeviceId;
use regatta_core::failure::FailureKind;
use regatta_core::fleet::Place;
use regatta_core::id::{RunId, TrialId};
use regatta_core::matrix::PlannedGroup;
use regatta_core::trial::{Epoch, TrialState};
use regatta_store::{
    Finished, Lease, Leased, MAX_ATTEMPTS, NewRun, Release, ReleaseReason, Released, Seat, Store, Submitted,
};

use crate::common::{self, Temp};

/// A run of one workload on two replicas: a group of two trials with a cell each.
fn pair(id: &str) -> NewRun {
    let mut run = common::run(id, 1);
    let first = &mut run.matrix.cells[0];
    std::sync::Arc::make_mut(&mut first.cell.workload).replicas = 2;
    first.hash = first.cell.hash();
    let (mut cell, mut trial) = (first.clone(), run.matrix.trials[0].clone());
    cell.cell.replica = 1;
    cell.hash = cell.cell.hash();
    cell.plan = regatta_core::matrix::CellPlan::Run { trial: 1 };
    trial.cells = 1..2;
    run.matrix.cells.insert(1, cell);
    run.matrix.trials.push(trial);
    for (trial, replica) in run.matrix.trials.iter_mut().zip(0..) {
        trial.group = Some(PlannedGroup { first: 0, replica, replicas: 2 });
    }
    run
}

struct Pair {
    run: RunId,
    trials: [TrialId; 2],
    cells: [regatta_core::cell::CellHash; 2],
}

async fn submitted(store: &Store, id: &str) -> Pair {
    let new = pair(id);
    let cells = [new.matrix.cells[0].hash, new.matrix.cells[1].hash];
    let run = new.id.clone();
    assert_eq!(store.writer().write(new).await.unwrap(), Submitted::Stored);
    Pair { trials: [TrialId::of(&run, 0), TrialId::of(&run, 1)], run, cells }
}

/// Leases both, each to an agent of its own.
async fn leased(store: &Store, pair: &Pair) -> Epoch {
    let seats = pair.trials.iter().zip(["host-a", "host-b"]).map(|(trial, agent)| Seat {
        trial: trial.clone(),
        place: Place { agent: agent.parse().unwrap(), device: DeviceId::CPU },
        boot_id: "boot".to_owned(),
    });
    match store.writer().write(Lease(seats.collect())).await.unwrap() {
        Leased::Granted(granted) => {
            assert_eq!(granted[0].epoch, granted[1].epoch, "one lease for both");
            granted[0].epoch
        }
        Leased::NotQueued => panic!("not in the queue"),
    }
}

async fn measured(temp: &Temp, pair: &Pair, replica: usize, epoch: Epoch) -> Finished {
    let records = common::whole_trial(&pair.cells[replica..=replica], epoch);
    common::ingest(&temp.store, &pair.trials[replica], epoch, 1, &records).await;
    common::finish(&temp.store, &pair.trials[replica], epoch, &records).await
}

async fn outcomes(temp: &Temp, pair: &Pair) -> Vec<Option<Outcome>> {
    let cells = temp.store.reader().cells(&pair.run).await.unwrap();
    cells.into_iter().take(2).map(|cell| cell.outcome).collect()
}

async fn lost(temp: &Temp, pair: &Pair, replica: usize, epoch: Epoch) -> Released {
    let release = Release { trial: pair.trials[replica].clone(), epoch, reason: ReleaseReason::Lost };
    temp.store.writer().write(release).await.unwrap()
}

#[tokio::test]
async fn a_replicas_cell_ends_when_all_of_its_group_have_said_so() {
    let temp = common::store().await;
    let pair = submitted(&temp.store, "run-a").await;
    let epoch = leased(&temp.store, &pair).await;
    measured(&temp, &pair, 0, epoch).await;
    assert_eq!(outcomes(&temp, &pair).await, [None, None], "the other one is at it still");
    let said = temp.store.reader().replica_cells(&pair.trials[0]).await.unwrap();
    assert_eq!((said[0].said.clone(), said[1].said.clone()), (Some((epoch, Outcome::Ok)), None));
    let temp = temp.reopened().await;
    measured(&temp, &pair, 1, epoch).await;
    assert_eq!(outcomes(&temp, &pair).await, [Some(Outcome::Ok), Some(Outcome::Ok)]);
    temp.store.close().await;
}

#[tokio::test]
async fn a_group_that_loses_a_replica_is_measured_again_as_a_whole() {
    let temp = common::store().await;
    let pair = submitted(&temp.store, "run-a").await;
    let first = leased(&temp.store, &pair).await;
    measured(&temp, &pair, 0, first).await;
    assert_eq!(lost(&temp, &pair, 1, first).await, Released::Requeued);
    for trial in temp.store.reader().trials(&pair.run).await.unwrap() {
        assert_eq!(trial.state, TrialState::Queued, "{trial:?}");
    }
    let second = leased(&temp.store, &pair).await;
    for replica in [0, 1] {
        measured(&temp, &pair, replica, second).await;
    }
    assert_eq!(outcomes(&temp, &pair).await, [Some(Outcome::Ok), Some(Outcome::Ok)]);
    let cells = temp.store.reader().cells(&pair.run).await.unwrap();
    assert!(cells[..2].iter().all(|cell| cell.epoch == Some(second)), "both of the lease that was whole");
    assert_eq!(cells[0].superseded, common::REPETITIONS, "what the first one had measured is kept");
    temp.store.close().await;
}

#[tokio::test]
async fn a_group_whose_attempts_are_used_up_is_quarantined_with_the_evidence() {
    let temp = common::store().await;
    let pair = submitted(&temp.store, "run-a").await;
    for attempt in 1..=MAX_ATTEMPTS {
        let epoch = leased(&temp.store, &pair).await;
        let released = lost(&temp, &pair, 1, epoch).await;
        let last = Released::Ended(TrialState::Failed);
        assert_eq!(released, if attempt < MAX_ATTEMPTS { Released::Requeued } else { last });
    }
    for outcome in outcomes(&temp, &pair).await {
        assert_eq!(outcome.as_ref().and_then(Outcome::failure), Some(FailureKind::AgentLost), "{outcome:?}");
    }
    for trial in temp.store.reader().trials(&pair.run).await.unwrap() {
        let evidence = trial.evidence.unwrap();
        let attempts: Vec<serde_json::Value> = serde_json::from_str(&evidence).unwrap();
        assert_eq!(attempts.len(), MAX_ATTEMPTS as usize, "{evidence}");
        assert!(attempts.iter().all(|attempt| attempt["agent"] == "host-b"), "who failed it each time: {evidence}");
        assert!(attempts[0]["reason"].as_str().unwrap().contains("lost"), "{evidence}");
    }
    let kinds = common::event_kinds(&temp.store, &pair.run).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "trial_quarantined").count(), 2, "{kinds:?}");
    temp.store.close().await;
}
