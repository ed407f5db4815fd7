//! Trials on the real worker program with its fake backend: every fault that it can script.
//!
//! The program is another package's; where it has not been built these tests pass over, unless
//! `REGATTA_REQUIRE_WORKER` is set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use regatta_agent::spool::TrialKey;
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::device::DeviceId;
use regatta_core::digest::Digest;
use regatta_core::policy::{Policy, Warmup};
use regatta_core::trial::{Trial, TrialCell};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_proto::pb::{self, agent_message, coordinator_message, trial_record};
use tempfile::TempDir;

use crate::common::{Coordinator, Peer, Running, config, held, key};

pub(crate) const REPETITIONS: u32 = 3;

/// The folder of the worker program, beside this test's target folder.
pub(crate) fn worker_folder() -> Option<PathBuf> {
    let name = format!("regatta-worker{}", std::env::consts::EXE_SUFFIX);
    let program = std::env::current_exe().expect("the test has no path");
    let folder = program.ancestors().skip(1).find(|folder| folder.join(&name).is_file()).map(PathBuf::from);
    let required = std::env::var_os("REGATTA_REQUIRE_WORKER").is_some();
    assert!(folder.is_some() || !required, "no {name} in or above the folder of {}", program.display());
    folder
}

pub(crate) fn trial(names: &[&str], timeout: Duration) -> Trial {
    let cell = |name: &&str| TrialCell {
        build: None,
        hash: CellHash(Digest::of(name.as_bytes())),
        workload: Arc::new(Workload {
            kind: Kind::Generate,
            name: name.parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: 8 },
            generate: 4,
            batch: 1,
            replicas: 1,
        }),
    };
    let warmup = Warmup {
        min_repetitions: 1,
        max_repetitions: 3,
        min_time: Duration::ZERO,
        max_time: Duration::from_secs(1),
        stable_within: 0.5,
    };
    Trial {
        id: "run.t0".parse().unwrap(),
        run: "run".parse().unwrap(),
        agent: "here".parse().unwrap(),
        device: DeviceId::CPU,
        backend: BackendKind::Fake,
        artifact: ArtifactRef {
            model: "regatta-15m".parse().unwrap(),
            weights: Weights::Synthetic,
            format: Format::Gguf,
            precision: Precision::F32,
        },
        cells: names.iter().map(cell).collect(),
        policy: Policy { repetitions: REPETITIONS, warmup, timeout, threads: Some(1), ..Policy::default() },
        group: None,
    }
}

pub(crate) fn assign(trial: &Trial, epoch: u32) -> coordinator_message::Message {
    let assign = pb::AssignTrial { trial: Some(trial.into()), epoch, lease_ns: 40_000_000_000 };
    coordinator_message::Message::Assign(assign)
}

/// What came of a trial, by the names of its workloads.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) samples: BTreeMap<String, u32>,
    pub(crate) outcomes: Vec<(String, Outcome)>,
    facts: usize,
    pub(crate) records: Vec<Vec<u8>>,
}

impl Heard {
    pub(crate) fn take(&mut self, trial: &Trial, record: Vec<u8>) {
        let name = |hash: &[u8]| {
            let cell = trial.cells.iter().find(|cell| cell.hash.0.as_bytes() == hash).unwrap();
            cell.workload.name.to_string()
        };
        match pb::TrialRecord::decode(record.as_slice()).unwrap().record.unwrap() {
            trial_record::Record::Worker(facts) => {
                assert!(self.records.is_empty(), "facts come first");
                assert!(facts.worker.contains("protocol") && facts.engine.starts_with("fake"));
                self.facts += 1;
            }
            trial_record::Record::Sample(sample) => {
                let count = self.samples.entry(name(&sample.cell_hash)).or_default();
                assert_eq!(sample.repetition, *count);
                *count += 1;
            }
            trial_record::Record::CellEnd(end) => {
                let (hash, outcome) = <(CellHash, Outcome)>::try_from(end).unwrap();
                self.outcomes.push((name(hash.0.as_bytes()), outcome));
            }
        }
        self.records.push(record);
    }

    pub(crate) fn outcome(&self, name: &str) -> &Outcome {
        &self.outcomes.iter().find(|(cell, _)| cell == name).unwrap().1
    }
}

/// Listens to a trial, acknowledging all of it, until its end or, if `until` says so, before.
pub(crate) async fn listen(
    peer: &mut Peer,
    trial: &Trial,
    key: &TrialKey,
    heard: &mut Heard,
    until: fn(&Heard) -> bool,
) -> bool {
    while !until(heard) {
        match peer.next().await {
            agent_message::Message::Batch(batch) => {
                assert_eq!(batch.first_seq, heard.records.len() as u64 + 1);
                for record in batch.records {
                    heard.take(trial, record);
                }
                peer.ack(key, heard.records.len() as u64).await;
            }
            agent_message::Message::Finish(finish) => {
                assert_eq!(finish.last_seq, heard.records.len() as u64);
                assert_eq!(
                    finish.digest,
                    Digest::over(heard.records.iter().map(|record| Digest::of(record))).as_bytes()
                );
                peer.finish_ack(key).await;
                return true;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    false
}

pub(crate) fn never(_: &Heard) -> bool {
    false
}

/// A whole trial on a fresh agent.
async fn measure(trial: &Trial, folder: PathBuf) -> Heard {
    let home = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let mut config = config(home.path(), &coordinator);
    config.worker_dirs = vec![folder];
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    let hello = peer.greet(&[]).await;
    assert!(hello.devices[0].backends.contains(&"fake".to_owned()), "{hello:?}");
    peer.say(assign(trial, 1)).await;
    let mut heard = Heard::default();
    assert!(listen(&mut peer, trial, &key("run.t0", 1), &mut heard, never).await);
    agent.stop().await;
    heard
}

#[tokio::test]
async fn every_fault_costs_its_own_cell_only() {
    let Some(folder) = worker_folder() else { return };
    // Name, state, samples that survive, words of the reason.
    let faults = [
        ("fault-abort", "crashed", 1, "SIGABRT"),
        ("fault-segfault", "crashed", 1, "was killed by SIG"),
        ("fault-kill", "crashed", 1, "SIGKILL"),
        ("fault-exit", "crashed", 1, "exit code 3"),
        ("fault-panic", "failed", 1, "scripted panic"),
        ("fault-oom", "oom", 1, "out of device memory"),
        ("fault-oom-host", "oom", 1, "memory"),
        ("fault-garbage", "failed", 1, "no frame"),
        ("fault-half-frame", "failed", 1, "not complete"),
        ("fault-huge-frame", "failed", 1, "no frame"),
        ("fault-order", "failed", 1, "broke the protocol"),
        ("fault-count", "failed", 1, "broke the protocol"),
        ("fault-hang", "timeout", 1, "no end of the cell within"),
    ];
    let mut names = vec!["first"];
    names.extend(faults.iter().map(|fault| fault.0));
    names.push("last");
    let heard = measure(&trial(&names, Duration::from_secs(3)), folder).await;
    assert_eq!(heard.facts, 1);
    assert_eq!(heard.outcomes.len(), names.len());
    let order: Vec<_> = heard.outcomes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, names);
    for good in ["first", "last"] {
        assert_eq!((heard.outcome(good), heard.samples[good]), (&Outcome::Ok, REPETITIONS));
    }
    for (name, state, samples, words) in faults {
        let outcome = heard.outcome(name);
        assert_eq!(outcome.state(), state, "{name}: {outcome}");
        assert!(outcome.detail().unwrap().contains(words), "{name}: {outcome}");
        assert_eq!(heard.samples.get(name), Some(&samples), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_that_a_worker_left_behind_is_gone() {
    let Some(folder) = worker_folder() else { return };
    let heard = measure(&trial(&["fault-grandchild"], Duration::from_secs(20)), folder).await;
    let detail = heard.outcome("fault-grandchild").detail().unwrap();
    let id = detail.split("grandchild ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    // Killed before the cell's end was written; whoever inherits it may not have collected it yet.
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z "), "{status}");
}

#[tokio::test]
async fn a_cancelled_trial_finishes_its_repetition_and_ends_all_cells() {
    let Some(folder) = worker_folder() else { return };
    let home = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let mut config = config(home.path(), &coordinator);
    config.worker_dirs = vec![folder];
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[]).await;
    let mut trial = trial(&["a", "b"], Duration::from_mins(1));
    trial.policy.repetitions = 1_000_000;
    let key = key("run.t0", 1);
    peer.say(assign(&trial, 1)).await;
    let mut heard = Heard::default();
    assert!(!listen(&mut peer, &trial, &key, &mut heard, |heard| heard.samples.contains_key("a")).await);
    let cancel = pb::CancelTrial { trial_id: key.trial.to_string(), epoch: 1 };
    peer.say(coordinator_message::Message::Cancel(cancel)).await;
    assert!(listen(&mut peer, &trial, &key, &mut heard, never).await);
    assert_eq!(heard.outcomes.iter().map(|(_, outcome)| outcome).collect::<Vec<_>>(), [&Outcome::Cancelled; 2]);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_leaves_delivers_its_repetitions_and_gives_the_trial_back() {
    let Some(folder) = worker_folder() else { return };
    let home = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let mut config = config(home.path(), &coordinator);
    config.worker_dirs = vec![folder];
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[]).await;
    let mut trial = trial(&["a", "b"], Duration::from_mins(1));
    trial.policy.repetitions = 1_000_000;
    let key = key("run.t0", 1);
    peer.say(assign(&trial, 1)).await;
    let mut heard = Heard::default();
    assert!(!listen(&mut peer, &trial, &key, &mut heard, |heard| heard.samples.contains_key("a")).await);
    agent.shutdown.soft.cancel();
    let reject = loop {
        match peer.next().await {
            agent_message::Message::Batch(batch) => {
                for record in batch.records {
                    heard.take(&trial, record);
                }
                peer.ack(&key, heard.records.len() as u64).await;
            }
            agent_message::Message::Reject(reject) => break reject,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(reject.reason, "the agent is leaving");
    assert!(heard.outcomes.is_empty(), "{:?}", heard.outcomes);
    peer.ack(&key, heard.records.len() as u64).await;
    peer.closed().await;
    agent.end().await.unwrap();
    assert!(held(home.path()).is_empty());
}

#[tokio::test]
async fn measuring_goes_on_while_there_is_no_connection() {
    let Some(folder) = worker_folder() else { return };
    let home = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let mut config = config(home.path(), &coordinator);
    config.worker_dirs = vec![folder];
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[]).await;
    let trial = trial(&["a", "b"], Duration::from_mins(1));
    let key = key("run.t0", 1);
    peer.say(assign(&trial, 1)).await;
    // The trial is held, then the connection breaks, again and again, with nothing acknowledged.
    while peer.heartbeat().await.held.is_empty() {}
    drop(peer);
    loop {
        let mut peer = coordinator.accept().await;
        let hello = peer.greet(&[(&key, Some(1))]).await;
        // Facts, two cells with three samples and an end each.
        if hello.spool.iter().any(|head| head.last_seq == 9) {
            let mut heard = Heard::default();
            assert!(listen(&mut peer, &trial, &key, &mut heard, never).await);
            assert_eq!(heard.outcomes.len(), 2);
            break;
        }
    }
    agent.stop().await;
}
