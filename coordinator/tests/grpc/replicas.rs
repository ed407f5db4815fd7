//! Groups of replicas: they begin each repetition together, fail together, and are repeated together.

use regatta_core::id::RunId;
use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::coordinator_message::Message;

use crate::support::{Agent, REPETITIONS, Server, end_record, hello, sample, sample_record, spool, submission};

const SCENARIO: &str = r#"
schema = 1
name = "scaling"
description = "one workload on two devices at once"
models = ["tinyllama-1.1b"]
weights = "synthetic"
backends = ["fake"]
precisions = ["q8_0"]
devices = ["cpu"]

[policy]
repetitions = 2

[[workload]]
name = "first"
prompt_tokens = 8
generate = 2
replicas = [2]

[[workload]]
name = "second"
prompt_tokens = 16
generate = 2
replicas = [2]
"#;

/// A replica's trial in the hands of its agent.
struct Replica {
    agent: Agent,
    trial: pb::Trial,
    epoch: u32,
    records: Vec<Vec<u8>>,
}

impl Replica {
    async fn connect(server: &Server, name: &str, boot: &str, spool: Vec<pb::SpoolHead>) -> Agent {
        Agent::greet(server, hello(name, boot, spool)).await.unwrap().0
    }

    async fn assigned(mut agent: Agent) -> Self {
        let (trial, epoch) = agent.assigned().await;
        Self { agent, trial, epoch, records: Vec::new() }
    }

    fn cell(&self, position: usize) -> Vec<u8> {
        self.trial.cells[position].cell_hash.clone()
    }

    /// Sends the next records, as an agent does before it comes to a barrier.
    async fn deliver(&mut self, records: Vec<Vec<u8>>) {
        let first = self.records.len() as u64 + 1;
        let through = self.agent.deliver(&self.trial.id, self.epoch, first, &records).await;
        self.records.extend(records);
        assert_eq!(through, self.records.len() as u64);
    }

    async fn arrive(&self, position: usize, repetition: u32) {
        let (trial_id, epoch, cell_hash) = (self.trial.id.clone(), self.epoch, self.cell(position));
        self.agent.send(ToCoordinator::AtBarrier(pb::AtBarrier { trial_id, epoch, cell_hash, repetition })).await;
    }

    /// The word at a barrier: begin, or why not.
    async fn word(&mut self, position: usize, repetition: u32) -> String {
        match self.agent.next().await {
            Message::ReleaseBarrier(release) => {
                assert_eq!((release.trial_id.as_str(), release.epoch), (self.trial.id.as_str(), self.epoch));
                assert_eq!((release.cell_hash, release.repetition), (self.cell(position), repetition));
                release.abandon
            }
            other => panic!("no word but {other:?}"),
        }
    }

    async fn pass(&self, position: usize, repetition: u32) {
        let (trial_id, epoch, cell_hash) = (self.trial.id.clone(), self.epoch, self.cell(position));
        self.agent
            .send(ToCoordinator::PassedBarrier(pb::PassedBarrier { trial_id, epoch, cell_hash, repetition }))
            .await;
    }

    async fn finish(&mut self) {
        self.agent.finish(&self.trial.id, self.epoch, &self.records).await;
    }

    /// Waits until the coordinator has dealt with all that was said so far.
    async fn settle(&mut self) {
        self.agent.heartbeat(&[(&self.trial, self.epoch)], 1).await;
        let first = self.records.len() as u64;
        // The same record again is acknowledged again, and behind all that came before it.
        let last = self.records.last().cloned().unwrap();
        self.agent.deliver(&self.trial.id, self.epoch, first, &[last]).await;
    }
}

async fn pair(server: &Server, run: &str) -> [Replica; 2] {
    let first = Replica::connect(server, "host-a", "boot-a", Vec::new()).await;
    let second = Replica::connect(server, "host-b", "boot-b", Vec::new()).await;
    server.people().await.submit_run(submission(run, SCENARIO)).await.unwrap();
    let mut pair = [Replica::assigned(first).await, Replica::assigned(second).await];
    pair.sort_by_key(|replica| replica.trial.group.as_ref().unwrap().replica);
    assert_eq!(pair[0].epoch, pair[1].epoch);
    pair
}

/// Both replicas do one repetition, begun together.
async fn together(pair: &mut [Replica; 2], position: usize, repetition: u32) {
    for replica in &*pair {
        replica.arrive(position, repetition).await;
    }
    for replica in &mut *pair {
        assert_eq!(replica.word(position, repetition).await, "");
        replica.pass(position, repetition).await;
    }
    for replica in pair {
        let measured = sample(&replica.cell(position), replica.epoch, repetition);
        replica.deliver(vec![sample_record(measured)]).await;
    }
}

async fn whole_cell(pair: &mut [Replica; 2], position: usize) {
    for repetition in 0..REPETITIONS {
        together(pair, position, repetition).await;
    }
    for replica in pair {
        let end = end_record(&replica.cell(position), "ok");
        replica.deliver(vec![end]).await;
    }
}

#[tokio::test]
async fn replicas_begin_when_both_are_there_and_their_skew_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut pair = pair(&server, "run-a").await;
    let [first, second] = &mut pair;
    first.deliver(vec![end_record(&[9; 32], "ok")]).await;
    first.arrive(0, 0).await;
    // Nothing but the acknowledgement comes: one alone does not begin, however often it says that it is there.
    first.arrive(0, 0).await;
    first.settle().await;
    second.arrive(0, 0).await;
    for replica in [first, second] {
        assert_eq!(replica.word(0, 0).await, "");
        replica.pass(0, 0).await;
        let measured = sample(&replica.cell(0), replica.epoch, 0);
        replica.deliver(vec![sample_record(measured)]).await;
    }
    together(&mut pair, 0, 1).await;
    for replica in &mut pair {
        let end = end_record(&replica.cell(0), "ok");
        replica.deliver(vec![end]).await;
    }
    whole_cell(&mut pair, 1).await;
    for replica in &mut pair {
        replica.finish().await;
    }
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 8, 4));
    let id: RunId = "run-a".parse().unwrap();
    let begun = server.reader.begun(&id).await.unwrap();
    let cells = server.reader.replica_cells(&pair[0].trial.id.parse().unwrap()).await.unwrap();
    assert_eq!(begun.len(), 4);
    assert!(begun.iter().all(|begun| begun.replicas == 2 && !begun.skew.is_zero()));
    assert!(begun.iter().all(|begun| cells[..2].iter().any(|cell| cell.cell == begun.cell)), "cells of replica 0");
    server.stop().await;
}

#[tokio::test]
async fn a_replica_that_fails_for_good_lets_the_other_go_and_both_cells_fail() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut pair = pair(&server, "run-a").await;
    let [first, second] = &mut pair;
    first.arrive(0, 0).await;
    let oom = end_record(&second.cell(0), "oom");
    second.deliver(vec![oom]).await;
    let reason = first.word(0, 0).await;
    assert_eq!(reason, "replica 1 failed: oom: ");
    // Come too late, it hears the same.
    first.arrive(0, 0).await;
    assert_eq!(first.word(0, 0).await, reason);
    let failed = pb::CellEnd {
        cell_hash: first.cell(0),
        state: "failed".to_owned(),
        kind: Some("replica".to_owned()),
        detail: reason.clone(),
        passes: 0,
        stop: String::new(),
    };
    first.deliver(vec![crate::support::record(pb::trial_record::Record::CellEnd(failed))]).await;
    whole_cell(&mut pair, 1).await;
    for replica in &mut pair {
        replica.finish().await;
    }
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.cells["ok"], run.cells["oom"], run.cells["failed"]), ("done", 2, 1, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_replica_that_dies_is_repeated_with_its_group_and_nothing_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut pair = pair(&server, "run-a").await;
    whole_cell(&mut pair, 0).await;
    together(&mut pair, 1, 0).await;
    let [mut first, second] = pair;
    first.arrive(1, 1).await;

    // The second agent starts anew with an empty spool: what it had is lost, and the first one is told to stop.
    let name = second.trial.agent_id.clone();
    drop(second.agent);
    let returned = Replica::connect(&server, &name, "another boot", Vec::new()).await;
    returned.heartbeat(&[], 0).await;
    let mut told = (false, None);
    while !told.0 || told.1.is_none() {
        match first.agent.next().await {
            Message::Cancel(cancel) => {
                assert_eq!((cancel.trial_id.as_str(), cancel.epoch), (first.trial.id.as_str(), first.epoch));
                told.0 = true;
            }
            Message::Assign(assign) => told.1 = Some((assign.trial.unwrap(), assign.epoch)),
            other => panic!("{other:?}"),
        }
    }
    let old = Replica { agent: first.agent, ..first };
    let (trial, epoch) = told.1.unwrap();
    // Whose word comes late gets no answer.
    old.arrive(1, 1).await;
    let again = Replica { agent: old.agent, trial, epoch, records: Vec::new() };
    let mut pair = [again, Replica::assigned(returned).await];
    assert!(pair.iter().all(|replica| replica.epoch > old.epoch));
    // The first cell was complete on both: only the second is repeated.
    assert!(pair.iter().all(|replica| replica.trial.cells.len() == 1));
    whole_cell(&mut pair, 0).await;
    for replica in &mut pair {
        replica.finish().await;
    }
    let run = server.run("run-a").await;
    // Two cells with two repetitions on two replicas, and the first repetition of the lease that was lost.
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 10, 4));
    let samples = server.reader.samples(&"run-a".parse().unwrap()).await.unwrap();
    assert_eq!(samples.len(), 8);
    server.stop().await;
}

#[tokio::test]
async fn a_group_waits_on_through_a_restart_of_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut pair = pair(&server, "run-a").await;
    whole_cell(&mut pair, 0).await;
    for replica in &pair {
        replica.arrive(1, 0).await;
    }
    for replica in &mut pair {
        assert_eq!(replica.word(1, 0).await, "");
    }
    server.stop().await;

    let server = Server::start(dir.path()).await;
    for replica in &mut pair {
        let (name, boot) = (replica.trial.agent_id.clone(), format!("boot-{}", &replica.trial.agent_id[5..]));
        let spool = spool(&replica.trial, replica.epoch, replica.records.len() as u64);
        replica.agent = Replica::connect(&server, &name, &boot, spool).await;
        replica.agent.heartbeat(&[(&replica.trial, replica.epoch)], 0).await;
    }
    // Neither had begun: they say again that they wait.
    whole_cell(&mut pair, 1).await;
    for replica in &mut pair {
        replica.finish().await;
    }
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 8, 4));
    server.stop().await;
}

#[tokio::test]
async fn a_replica_that_did_not_hear_that_the_other_began_has_its_group_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut pair = pair(&server, "run-a").await;
    for replica in &pair {
        replica.arrive(0, 0).await;
    }
    let [first, second] = &mut pair;
    assert_eq!(first.word(0, 0).await, "");
    first.pass(0, 0).await;
    // The word to the second one is lost with its connection.
    let (name, boot) = (second.trial.agent_id.clone(), format!("boot-{}", &second.trial.agent_id[5..]));
    second.agent = Replica::connect(&server, &name, &boot, Vec::new()).await;
    second.agent.heartbeat(&[(&second.trial, second.epoch)], 1).await;
    second.arrive(0, 0).await;
    for replica in &mut pair {
        let epoch = loop {
            match replica.agent.next().await {
                Message::Assign(assign) => break assign.epoch,
                Message::Cancel(cancel) => assert_eq!(cancel.epoch, replica.epoch),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(epoch, replica.epoch + 1);
    }
    let events = server.reader.events(&"run-a".parse().unwrap(), 0).await.unwrap();
    assert!(events.iter().any(|event| event.detail.contains("group came apart: replica 1 did not hear")), "{events:?}");
    server.stop().await;
}
