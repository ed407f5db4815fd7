//! The session against a scripted coordinator: cut streams, duplicates, gaps, restarts, versions.

use std::fs;
use std::time::Duration;

use regatta_agent::{AgentError, SessionError};
use regatta_core::digest::Digest;
use regatta_proto::pb::{self, coordinator_message};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::common::{self, Coordinator, Peer, Running, config, fill, held, key};

fn records(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![u8::try_from(n % 251).unwrap_or(0); bytes]).collect()
}

/// Takes batches until the record with number `last` came; all of them must follow one another from `first`.
async fn take(peer: &mut Peer, first: u64, last: u64) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    while first + (all.len() as u64) <= last {
        let batch = peer.batch().await;
        assert_eq!(batch.first_seq, first + all.len() as u64);
        all.extend(batch.records);
    }
    all
}

#[tokio::test]
async fn a_finished_trial_in_the_spool_is_delivered_and_deleted() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(3, 10));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    let hello = peer.greet(&[(&key, Some(1))]).await;
    assert_eq!(hello.agent_id, "here");
    assert_eq!(hello.spool, [pb::SpoolHead { trial_id: "run.t0".to_owned(), epoch: 1, last_seq: 3 }]);
    assert_eq!(hello.devices.len(), 1);
    assert!(hello.host.contains_key("os"));
    // By this machine's clock, so that the coordinator can tell how far that is from its own.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let said = u128::try_from(hello.sent_at_unix_ns).unwrap();
    assert!(said <= now && now - said < Duration::from_mins(1).as_nanos(), "{said}, now {now}");
    assert_eq!(take(&mut peer, 1, 3).await, sent);
    peer.ack(&key, 3).await;
    let finish = peer.finish().await;
    assert_eq!(
        (finish.last_seq, finish.digest),
        (3, Digest::over(sent.iter().map(|record| Digest::of(record))).as_bytes().to_vec())
    );
    peer.finish_ack(&key).await;
    // The next heartbeat but one comes after the acknowledgement was read.
    let mut beat = peer.heartbeat().await;
    while !beat.held.is_empty() {
        beat = peer.heartbeat().await;
    }
    assert!(beat.sent_at_unix_ns > hello.sent_at_unix_ns);
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn a_stream_cut_before_the_acknowledgement_is_resumed_where_the_coordinator_says() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(4, 10));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    let boot = peer.greet(&[(&key, Some(1))]).await.boot_id;
    take(&mut peer, 1, 4).await;
    // A clean end, as a proxy or a stopping server makes it. It proves nothing.
    drop(peer);

    let mut peer = coordinator.accept().await;
    assert_eq!(peer.greet(&[(&key, Some(3))]).await.boot_id, boot);
    assert_eq!(take(&mut peer, 3, 4).await, sent[2..]);
    // An error in the middle is no end either.
    peer.outbound.send(Err(Status::new(Code::ResourceExhausted, "disk full"))).await.unwrap();
    drop(peer);

    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(5))]).await;
    peer.ack(&key, 4).await;
    peer.ack(&key, 2).await;
    peer.ack(&key, 4).await;
    assert_eq!(peer.finish().await.last_seq, 4);
    peer.finish_ack(&key).await;
    peer.finish_ack(&key).await;
    while !peer.heartbeat().await.held.is_empty() {}
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn missing_records_are_sent_again() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(5, 10));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    take(&mut peer, 1, 5).await;
    peer.ack(&key, 5).await;
    peer.finish().await;
    let missing = pb::Missing { trial_id: key.trial.to_string(), epoch: 1, from_seq: 3 };
    peer.say(coordinator_message::Message::Missing(missing)).await;
    assert_eq!(take(&mut peer, 3, 5).await, sent[2..]);
    peer.ack(&key, 5).await;
    peer.finish().await;
    peer.finish_ack(&key).await;
    while !peer.heartbeat().await.held.is_empty() {}
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn after_a_crash_another_process_delivers_what_the_spool_holds() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(3, 10));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    let boot = peer.greet(&[(&key, Some(1))]).await.boot_id;
    take(&mut peer, 1, 3).await;
    peer.ack(&key, 3).await;
    agent.crash().await;
    drop(peer);

    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    assert_ne!(peer.greet(&[(&key, Some(4))]).await.boot_id, boot);
    assert_eq!(peer.finish().await.digest, Digest::over(sent.iter().map(|record| Digest::of(record))).as_bytes());
    peer.finish_ack(&key).await;
    while !peer.heartbeat().await.held.is_empty() {}
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn what_is_finished_there_is_dropped_and_what_is_unknown_there_is_kept() {
    let folder = TempDir::new().unwrap();
    let (finished, unknown, interrupted) = (key("run.t0", 1), key("old.t0", 1), key("run.t1", 2));
    fill(folder.path(), &finished, &records(2, 10), true);
    fill(folder.path(), &unknown, &records(2, 10), true);
    fill(folder.path(), &interrupted, &records(2, 10), false);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&finished, None), (&interrupted, Some(2))]).await;
    let batch = peer.batch().await;
    assert_eq!((batch.trial_id.as_str(), batch.epoch, batch.first_seq, batch.records.len()), ("run.t1", 2, 2, 1));
    assert!(peer.heartbeat().await.spool_records >= 1);
    peer.ack(&interrupted, 2).await;
    // It has no end, so with its last record delivered it is forgotten: only the unknown one still counts.
    while peer.heartbeat().await.spool_records != 2 {}
    agent.stop().await;
    assert_eq!(held(folder.path()), ["old.t0 (epoch 1)"]);
}

#[tokio::test]
async fn a_record_lost_on_disk_does_not_keep_the_others() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(3, 40));
    fill(folder.path(), &key, &sent, true);
    let segment = folder.path().join("spool/segment-000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(40).position(|window| window == sent[1]).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    for seq in [1, 3] {
        let batch = peer.batch().await;
        assert_eq!((batch.first_seq, batch.records), (seq, vec![sent[usize::try_from(seq).unwrap() - 1].clone()]));
    }
    peer.ack(&key, 1).await;
    // No end is claimed, and the trial is not held: its lease will run out.
    assert!(peer.heartbeat().await.held.is_empty());
    agent.stop().await;
    assert_eq!(held(folder.path()), [key.to_string()]);
}

#[tokio::test]
async fn batches_are_bounded_in_size_and_number() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(40, 100_000));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    let mut last = 0;
    for _ in 0..8 {
        let batch = peer.batch().await;
        assert!(batch.records.iter().map(Vec::len).sum::<usize>() <= 256 * 1024);
        last += batch.records.len() as u64;
    }
    // Eight are on the way: only heartbeats come until one of them is acknowledged.
    for _ in 0..3 {
        let message = peer.any().await;
        assert!(matches!(message, pb::agent_message::Message::Heartbeat(_)), "{message:?}");
    }
    peer.ack(&key, last).await;
    while last < 40 {
        last += peer.batch().await.records.len() as u64;
        peer.ack(&key, last).await;
    }
    peer.finish().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_record_larger_than_a_batch_travels_alone() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(2, 3_000_000));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    assert_eq!(peer.batch().await.records.len(), 1);
    assert_eq!(peer.batch().await.records.len(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn another_protocol_is_final_and_says_which_side_to_upgrade() {
    for (protocol, side) in [(99, "upgrade this agent"), (0, "upgrade the coordinator")] {
        let folder = TempDir::new().unwrap();
        let key = key("run.t0", 1);
        fill(folder.path(), &key, &records(1, 10), true);
        let coordinator = Coordinator::start();
        let agent = Running::start(config(folder.path(), &coordinator)).await;
        let mut peer = coordinator.accept().await;
        peer.hello().await;
        let hello = pb::CoordinatorHello { protocol, ..pb::CoordinatorHello::default() };
        peer.say(coordinator_message::Message::Hello(hello)).await;
        let error = agent.end().await.unwrap_err();
        assert!(matches!(error, AgentError::Session(SessionError::Protocol { .. })), "{error}");
        assert!(error.to_string().contains(side), "{error}");
        assert_eq!(held(folder.path()), [key.to_string()]);
    }
}

#[tokio::test]
async fn a_refusal_at_hello_is_final_and_other_errors_are_not() {
    let folder = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    for code in [Code::Unavailable, Code::AlreadyExists, Code::Unknown] {
        let peer = coordinator.accept().await;
        peer.outbound.send(Err(Status::new(code, "not now"))).await.unwrap();
    }
    let peer = coordinator.accept().await;
    let reason = "agent speaks protocol 1, coordinator 2: upgrade the agent";
    peer.outbound.send(Err(Status::failed_precondition(reason))).await.unwrap();
    let error = agent.end().await.unwrap_err();
    assert!(error.to_string().ends_with(reason), "{error}");
}

#[tokio::test]
async fn a_trial_that_can_not_be_measured_here_is_rejected_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[]).await;
    let policy = pb::Policy {
        passes: None,
        repetitions: 1,
        warmup: Some(pb::Warmup::default()),
        timeout_ns: 1_000_000_000,
        threads: None,
        weights_seed: 1,
        exclusive: String::new(),
        force: false,
    };
    let workload = pb::Workload {
        kind: String::new(),
        depth: 0,
        name: "w".to_owned(),
        prompt: Some(pb::workload::Prompt::Seeded(pb::SeededPrompt { seed: 1, tokens: 1 })),
        generate: 1,
        batch: 1,
        replicas: 1,
    };
    let trial = pb::Trial {
        id: "run.t0".to_owned(),
        run_id: "run".to_owned(),
        agent_id: "here".to_owned(),
        device: "cpu".to_owned(),
        backend: "fake".to_owned(),
        artifact: Some(pb::ArtifactRef {
            model: "m".to_owned(),
            weights: "synthetic".to_owned(),
            format: "gguf".to_owned(),
            precision: "f32".to_owned(),
        }),
        cells: vec![pb::TrialCell { cell_hash: vec![1; 32], workload: Some(workload), build: String::new() }],
        policy: Some(policy),
        group: None,
    };
    let other = |change: fn(&mut pb::Trial)| {
        let mut trial = trial.clone();
        change(&mut trial);
        trial
    };
    for (trial, reason) in [
        (trial.clone(), "no worker for fake on cpu"),
        (other(|trial| trial.device = "cuda:0".to_owned()), "this agent has no device cuda:0"),
        (other(|trial| trial.agent_id = "there".to_owned()), "this is agent here, not there"),
        (other(|trial| trial.backend = "sh -c".to_owned()), "trial.backend"),
        (other(|trial| trial.artifact = None), "trial.artifact is missing"),
        (other(|trial| trial.cells.clear()), "cells: 0 is not within this agent's limits"),
    ] {
        let assign = pb::AssignTrial { trial: Some(trial), epoch: 7, lease_ns: 40_000_000_000 };
        peer.say(coordinator_message::Message::Assign(assign)).await;
        let reject = peer.reject().await;
        assert_eq!((reject.trial_id.as_str(), reject.epoch), ("run.t0", 7));
        assert!(reject.reason.contains(reason), "{}", reject.reason);
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_to_leave_delivers_first() {
    let folder = TempDir::new().unwrap();
    let (key, sent) = (key("run.t0", 1), records(2, 10));
    fill(folder.path(), &key, &sent, true);
    let coordinator = Coordinator::start();
    let mut config = config(folder.path(), &coordinator);
    config.timing.drain = common::PATIENCE;
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    take(&mut peer, 1, 2).await;
    agent.shutdown.soft.cancel();
    peer.heartbeat().await;
    peer.ack(&key, 2).await;
    peer.finish().await;
    peer.finish_ack(&key).await;
    peer.closed().await;
    agent.end().await.unwrap();
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn an_agent_without_a_coordinator_leaves_with_its_spool() {
    let folder = TempDir::new().unwrap();
    let key = key("run.t0", 1);
    fill(folder.path(), &key, &records(2, 10), true);
    let coordinator = Coordinator::start();
    let mut config = config(folder.path(), &coordinator);
    config.timing.drain = Duration::from_millis(50);
    drop(coordinator);
    let agent = Running::start(config).await;
    agent.shutdown.soft.cancel();
    agent.end().await.unwrap();
    assert_eq!(held(folder.path()), [key.to_string()]);
}
