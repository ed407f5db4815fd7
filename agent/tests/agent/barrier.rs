//! A replica of a group on the real worker program, against a coordinator that a test plays.

use std::time::Duration;

use regatta_core::cell::Outcome;
use regatta_core::failure::FailureKind;
use regatta_core::trial::{Group, Trial};
use regatta_proto::pb::coordinator_message::Message as Say;
use regatta_proto::pb::{self, agent_message::Message as Said};
use tempfile::TempDir;

use crate::common::{Coordinator, Peer, Running, config, key};
use crate::worker::{self, Heard, REPETITIONS, assign, never, worker_folder};

/// The second of two replicas.
fn replica(names: &[&str]) -> Trial {
    let group = Group { id: "run.t9".parse().unwrap(), replica: 1, replicas: 2 };
    Trial { group: Some(group), ..worker::trial(names, Duration::from_secs(20)) }
}

/// An agent that has taken the replica, and its coordinator.
struct Scene {
    home: TempDir,
    coordinator: Coordinator,
    agent: Running,
    peer: Peer,
    trial: Trial,
    heard: Heard,
}

impl Scene {
    async fn start(names: &[&str], lease: Duration) -> Option<Self> {
        let folder = worker_folder()?;
        let (home, coordinator, trial) = (TempDir::new().unwrap(), Coordinator::start(), replica(names));
        let mut config = config(home.path(), &coordinator);
        config.worker_dirs = vec![folder];
        (config.timing.lease, config.timing.hello) = (lease, Duration::from_millis(600));
        let agent = Running::start(config).await;
        let mut peer = coordinator.accept().await;
        peer.greet(&[]).await;
        peer.say(assign(&trial, 1)).await;
        Some(Self { home, coordinator, agent, peer, trial, heard: Heard::default() })
    }

    /// Cuts the connection and takes the next one.
    async fn reconnect(&mut self) {
        self.peer.outbound = tokio::sync::mpsc::channel(1).0;
        self.peer = self.coordinator.accept().await;
    }

    /// The next message about barriers; records that come before are taken and acknowledged.
    async fn next(&mut self) -> Said {
        loop {
            match self.peer.next().await {
                Said::Batch(batch) => {
                    let already = usize::try_from(batch.first_seq).unwrap() - 1;
                    let known = self.heard.records.len() - already;
                    for record in batch.records.into_iter().skip(known) {
                        self.heard.take(&self.trial, record);
                    }
                    self.peer.ack(&key("run.t0", batch.epoch), self.heard.records.len() as u64).await;
                }
                other => return other,
            }
        }
    }

    async fn at_barrier(&mut self) -> pb::AtBarrier {
        match self.next().await {
            Said::AtBarrier(at) => at,
            other => panic!("not at a barrier: {other:?}"),
        }
    }

    async fn release(&mut self, at: &pb::AtBarrier, abandon: &str) {
        let release = pb::ReleaseBarrier {
            trial_id: at.trial_id.clone(),
            epoch: at.epoch,
            cell_hash: at.cell_hash.clone(),
            repetition: at.repetition,
            abandon: abandon.to_owned(),
        };
        self.peer.say(Say::ReleaseBarrier(release)).await;
    }

    /// Lets the replica through, and sees that it says so before anything else.
    async fn pass(&mut self, at: &pb::AtBarrier) {
        self.release(at, "").await;
        match self.peer.next().await {
            Said::PassedBarrier(passed) => {
                assert_eq!((passed.cell_hash, passed.repetition), (at.cell_hash.clone(), at.repetition));
            }
            other => panic!("it does not begin: {other:?}"),
        }
    }

    /// The rest of the trial, to its end.
    async fn finish(mut self) -> Heard {
        let key = key("run.t0", 1);
        assert!(worker::listen(&mut self.peer, &self.trial, &key, &mut self.heard, never).await);
        self.agent.stop().await;
        self.heard
    }
}

#[tokio::test]
async fn a_replica_is_at_the_barrier_behind_its_records_and_says_so_again_after_a_reconnect() {
    let Some(mut scene) = Scene::start(&["a"], Duration::from_secs(30)).await else { return };
    for repetition in 0..REPETITIONS {
        let mut at = scene.at_barrier().await;
        // The worker's facts, and the samples before this one.
        assert_eq!((at.repetition, scene.heard.records.len()), (repetition, 1 + repetition as usize));
        if repetition == 1 {
            // A word for another repetition, then the connection is lost with nothing said.
            scene.release(&pb::AtBarrier { repetition: 0, ..at.clone() }, "").await;
            let resume = scene.heard.records.len() as u64 + 1;
            scene.reconnect().await;
            scene.peer.greet(&[(&key("run.t0", 1), Some(resume))]).await;
            at = scene.at_barrier().await;
            assert_eq!(at.repetition, repetition);
        }
        scene.pass(&at).await;
    }
    let heard = scene.finish().await;
    assert_eq!((heard.samples["a"], heard.outcome("a")), (REPETITIONS, &Outcome::Ok));
}

#[tokio::test]
async fn a_barrier_that_is_given_up_ends_its_cell_and_the_next_cell_comes_to_its_own() {
    let Some(mut scene) = Scene::start(&["a", "b"], Duration::from_secs(30)).await else { return };
    let at = scene.at_barrier().await;
    scene.release(&at, "replica 0 failed: oom").await;
    for _ in 0..REPETITIONS {
        let at = scene.at_barrier().await;
        scene.pass(&at).await;
    }
    let heard = scene.finish().await;
    assert_eq!(heard.outcome("a"), &Outcome::Failed(FailureKind::Replica, "replica 0 failed: oom".to_owned()));
    assert_eq!((heard.samples.get("a"), heard.samples["b"], heard.outcome("b")), (None, REPETITIONS, &Outcome::Ok));
}

#[tokio::test]
async fn a_replica_that_waits_is_cancelled_at_once() {
    let Some(mut scene) = Scene::start(&["a", "b"], Duration::from_secs(30)).await else { return };
    scene.at_barrier().await;
    let cancel = pb::CancelTrial { trial_id: "run.t0".to_owned(), epoch: 1 };
    scene.peer.say(Say::Cancel(cancel)).await;
    let heard = scene.finish().await;
    assert_eq!(heard.outcomes.iter().map(|(_, outcome)| outcome).collect::<Vec<_>>(), [&Outcome::Cancelled; 2]);
}

#[tokio::test]
async fn a_replica_that_waits_without_a_coordinator_is_given_back() {
    let Some(mut scene) = Scene::start(&["a"], Duration::from_secs(1)).await else { return };
    scene.at_barrier().await;
    // Streams to which nothing is said, not even hello, for longer than the lease.
    scene.reconnect().await;
    for _ in 0..2 {
        scene.peer = scene.coordinator.accept().await;
    }
    scene.peer.greet(&[(&key("run.t0", 1), Some(2))]).await;
    let Said::Reject(reject) = scene.peer.next().await else { panic!("the trial is still held") };
    assert!(reject.reason.contains("out of reach"), "{}", reject.reason);
    scene.agent.stop().await;
    drop(scene.home);
}

#[tokio::test]
async fn another_lease_of_a_replica_that_waits_replaces_it() {
    let Some(mut scene) = Scene::start(&["a"], Duration::from_secs(30)).await else { return };
    scene.at_barrier().await;
    scene.peer.say(assign(&scene.trial, 2)).await;
    scene.heard = Heard::default();
    let at = loop {
        match scene.next().await {
            Said::AtBarrier(at) => break at,
            Said::Reject(old) => assert_eq!(old.epoch, 1, "{}", old.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((at.epoch, at.repetition), (2, 0));
    scene.agent.stop().await;
    drop(scene.home);
}
