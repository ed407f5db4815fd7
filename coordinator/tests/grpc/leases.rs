//! Leases: judged on the coordinator's monotonic clock, taken back when their agent is gone, given again.
//!
//! Time stands still in these tests and moves only when told to: as long as a blocking task is under way, tokio does
//! not jump to the next timer by itself.

use std::time::Duration;

use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::coordinator_message::Message;

use crate::support::{Agent, Server, a_moment, hello, spool, whole_trial};

/// Keeps the clock from moving by itself until it is dropped.
pub(crate) struct StoppedClock {
    _release: std::sync::mpsc::Sender<()>,
}

impl StoppedClock {
    pub(crate) fn new() -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || released.recv()));
        Self { _release: release }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_loses_its_lease_and_its_late_records_change_no_state() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, old) = agent.assigned().await;

    // Heartbeats keep it.
    for spooled in 1..=3 {
        tokio::time::advance(Duration::from_secs(39)).await;
        agent.heartbeat(&[(&trial, old)], spooled).await;
        // The clock stands still until the heartbeat has been heard.
        let mut people = server.people().await;
        let mut heard = 0;
        for _ in 0..1000 {
            let listed = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
            assert!(listed.agents[0].connected);
            heard = listed.agents[0].spool_records;
            if heard == spooled {
                break;
            }
            a_moment().await;
        }
        assert_eq!(heard, spooled);
    }
    assert!(!server.event_kinds("run-a").await.contains(&"trial_queued_again".to_owned()));

    // Silence does not. The agent, stopped and continued, holds it still and is told to let go.
    tokio::time::advance(Duration::from_secs(41)).await;
    agent.heartbeat(&[(&trial, old)], 0).await;
    let mut seen = (false, None);
    while !seen.0 || seen.1.is_none() {
        match agent.next().await {
            Message::Cancel(cancel) => {
                assert_eq!((cancel.trial_id.as_str(), cancel.epoch), (trial.id.as_str(), old));
                seen.0 = true;
            }
            Message::Assign(assign) => seen.1 = Some(assign.epoch),
            other => panic!("{other:?}"),
        }
    }
    let new = seen.1.unwrap();
    assert_eq!(new, old + 1);

    let late = whole_trial(&trial, old);
    assert_eq!(agent.deliver(&trial.id, old, 1, &late).await, 7);
    agent.finish(&trial.id, old, &late).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells.get("ok")), ("active", 4, None));

    agent.measure(&trial, new).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 8, 2));
    let samples = server.reader.samples(&"run-a".parse().unwrap()).await.unwrap();
    assert!(samples.len() == 4 && samples.iter().all(|sample| sample.key.epoch.0 == new));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_whose_agent_is_lost_three_times_is_given_up() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut watch = None;
    for attempt in 1..=3 {
        let mut agent = Agent::connect(&server, &format!("boot-{attempt}")).await;
        if attempt == 1 {
            server.submit("run-a").await.unwrap();
            let request = pb::WatchRunRequest { run_id: "run-a".to_owned() };
            watch = Some(server.people().await.watch_run(request).await.unwrap().into_inner());
        }
        let (_, epoch) = agent.assigned().await;
        assert_eq!(epoch, attempt);
        drop(agent);
        tokio::time::advance(Duration::from_secs(41)).await;
    }
    let mut watch = watch.unwrap();
    let mut last = None;
    while let Some(response) = watch.message().await.unwrap() {
        last = response.run;
    }
    let run = last.unwrap();
    assert_eq!((run.state.as_str(), run.cells["failed"]), ("done", 2));
    let cells = server.reader.cells(&"run-a".parse().unwrap()).await.unwrap();
    assert!(cells[0].outcome.as_ref().unwrap().to_string().contains("agent_lost"), "{cells:?}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_trial_is_offered_again_after_a_while() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    for attempt in 1..=3 {
        let (trial, epoch) = agent.assigned().await;
        assert_eq!(epoch, attempt);
        let reject = pb::Reject { trial_id: trial.id, epoch, reason: "busy".to_owned(), leaving: false };
        agent.send(ToCoordinator::Reject(reject)).await;
        // Whose lease it is gets looked up before the refusal is heard.
        let mut people = server.people().await;
        loop {
            let agents = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
            if agents.iter().all(|agent| agent.trials.is_empty()) {
                break;
            }
        }
        tokio::time::advance(Duration::from_secs(6)).await;
    }
    let cells = server.reader.cells(&"run-a".parse().unwrap()).await.unwrap();
    let outcome = cells[0].outcome.as_ref().unwrap().to_string();
    assert!(outcome.contains("busy") && outcome.contains("3 attempts"), "{outcome}");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_came_back_with_nothing_gets_its_trial_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, old) = agent.assigned().await;
    let records = whole_trial(&trial, old);
    agent.deliver(&trial.id, old, 1, &records[..4]).await;
    agent.disconnect(&server).await;

    let mut agent = Agent::connect(&server, "boot-2").await;
    agent.heartbeat(&[], 0).await;
    let (again, new) = agent.assigned().await;
    assert_eq!((new, again.cells.len()), (old + 1, 1), "the first cell has ended and stays");
    agent.measure(&again, new).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 4, 2));
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_came_back_with_a_spool_may_deliver_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    agent.disconnect(&server).await;

    let records = whole_trial(&trial, epoch);
    let (mut agent, greeting) =
        Agent::greet(&server, hello("host-a", "boot-2", spool(&trial, epoch, 7))).await.unwrap();
    assert_eq!(greeting.resume[0].seq, 1);
    agent.heartbeat(&[], 7).await;
    agent.deliver(&trial.id, epoch, 1, &records).await;
    agent.heartbeat(&[], 0).await;
    agent.finish(&trial.id, epoch, &records).await;
    assert_eq!(server.run("run-a").await.state, "done");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_trials_took_before_says_how_long_they_will_take() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    assert_eq!(server.run("run-a").await.remaining_ns, None, "nothing is known yet");
    tokio::time::advance(Duration::from_secs(7)).await;
    agent.measure(&trial, epoch).await;
    assert_eq!(server.run("run-a").await.remaining_ns, None, "it has ended");
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-2").await;
    server.submit("run-b").await.unwrap();
    agent.assigned().await;
    assert_eq!(server.run("run-b").await.remaining_ns, Some(7_000_000_000));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(server.run("run-b").await.remaining_ns, Some(4_000_000_000));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn trials_that_wait_learn_from_those_that_end() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    server.submit("run-b").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(server.run("run-b").await.remaining_ns, None, "nothing is known yet");
    agent.measure(&trial, epoch).await;
    // The second one was submitted before anything was known of such work.
    agent.assigned().await;
    let mut remaining = None;
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(1)).await;
        remaining = server.run("run-b").await.remaining_ns;
        if remaining.is_some() {
            break;
        }
    }
    assert!(remaining.is_some_and(|left| left < 7_000_000_000), "{remaining:?}");
    server.stop().await;
}
