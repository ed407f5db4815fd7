//! Runs: submitted, watched, stopped, resumed.

use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::coordinator_message::Message;
use tonic::Code;

use crate::support::{Agent, SCENARIO, Server, hello, submission, whole_trial};

#[tokio::test]
async fn every_mistake_of_a_scenario_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _agent = Agent::connect(&server, "boot-1").await;
    let broken = SCENARIO.replace("generate = 2", "generate = 0").replace("repetitions = 2", "bacth = 1");
    let status = server.people().await.submit_run(submission("run-a", &broken)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for part in ["bacth", "generate", "small.toml:"] {
        assert!(status.message().contains(part), "{status}");
    }
    assert!(status.message().lines().count() >= 3, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_run_needs_an_agent_with_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    assert_eq!(server.submit("run-a").await.unwrap_err().code(), Code::FailedPrecondition);
    let _agent = Agent::connect(&server, "boot-1").await;
    let elsewhere = SCENARIO.replace("devices = [\"cpu\"]", "devices = [\"cuda:3\"]");
    let status = server.people().await.submit_run(submission("run-a", &elsewhere)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("cuda:3"), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn submitting_twice_gives_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _agent = Agent::connect(&server, "boot-1").await;
    for _ in 0..2 {
        assert_eq!(server.submit("run-a").await.unwrap(), "run-a");
    }
    let made = server.submit("").await.unwrap();
    assert_eq!(made.len(), 36, "{made}");
    let other = SCENARIO.replace("one trial", "another");
    let status = server.people().await.submit_run(submission("run-a", &other)).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let listed = server.people().await.list_runs(pb::ListRunsRequest { limit: 0 }).await.unwrap().into_inner();
    assert_eq!(listed.runs.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn unknown_and_ambiguous_ids_are_answered_with_candidates() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _agent = Agent::connect(&server, "boot-1").await;
    for run in ["run-a1", "run-a2"] {
        server.submit(run).await.unwrap();
    }
    assert_eq!(server.run("run-a1").await.id, "run-a1");
    for (id, code) in [("run-a", Code::InvalidArgument), ("other", Code::NotFound)] {
        let mut people = server.people().await;
        let status = people.get_run(pb::GetRunRequest { run_id: id.to_owned() }).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains("run-a1") && status.message().contains("run-a2"), "{status}");
    }
    server.stop().await;
}

#[tokio::test]
async fn watching_shows_progress_ends_of_cells_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let request = pb::WatchRunRequest { run_id: "run-".to_owned() };
    let mut watch = server.people().await.watch_run(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().run.unwrap().state, "active");

    let (trial, epoch) = agent.assigned().await;
    let progress =
        pb::Progress { trial_id: trial.id.clone(), epoch, phase: "measuring".to_owned(), ..pb::Progress::default() };
    agent.send(ToCoordinator::Progress(progress.clone())).await;
    loop {
        let response = watch.message().await.unwrap().unwrap();
        if let Some(seen) = response.progress {
            break assert_eq!(seen, progress);
        }
    }
    agent.measure(&trial, epoch).await;
    let (mut ended, mut last) = (Vec::new(), None);
    while let Some(response) = watch.message().await.unwrap() {
        ended.extend(response.cell_end.map(|end| (end.cell_hash, end.state)));
        last = response.run;
    }
    let expected: Vec<_> = trial.cells.iter().map(|cell| (cell.cell_hash.clone(), "ok".to_owned())).collect();
    assert_eq!(ended, expected);
    assert_eq!(last.unwrap().state, "done");

    // Who comes late gets the end at once.
    let request = pb::WatchRunRequest { run_id: "run-a".to_owned() };
    let mut late = server.people().await.watch_run(request).await.unwrap().into_inner();
    assert_eq!(late.message().await.unwrap().unwrap().run.unwrap().state, "done");
    assert!(late.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_watcher_who_does_not_read_misses_no_end_of_a_cell() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let request = pb::WatchRunRequest { run_id: "run-a".to_owned() };
    let mut watch = server.people().await.watch_run(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let (trial, epoch) = agent.assigned().await;
    let progress = pb::Progress { trial_id: trial.id.clone(), epoch, ..pb::Progress::default() };
    for _ in 0..3000 {
        agent.send(ToCoordinator::Progress(progress.clone())).await;
    }
    agent.measure(&trial, epoch).await;
    let mut ended = 0;
    while let Some(response) = watch.message().await.unwrap() {
        ended += usize::from(response.cell_end.is_some());
    }
    assert_eq!(ended, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_stops_its_agent_and_keeps_what_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    server.submit("run-b").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = &whole_trial(&trial, epoch)[..4];
    agent.deliver(&trial.id, epoch, 1, records).await;
    let mut people = server.people().await;
    for run in ["run-a", "run-b"] {
        people.cancel_run(pb::CancelRunRequest { run_id: run.to_owned() }).await.unwrap();
    }
    assert!(matches!(agent.next().await, Message::Cancel(cancel) if cancel.trial_id == trial.id));
    let waiting = server.run("run-b").await;
    assert_eq!((waiting.state.as_str(), waiting.cells["cancelled"]), ("cancelled", 2));
    assert_eq!(server.run("run-a").await.state, "active");
    agent.finish(&trial.id, epoch, records).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.cells["ok"], run.cells["cancelled"]), ("cancelled", 1, 1));

    // Once more changes nothing; going on is not possible.
    people.cancel_run(pb::CancelRunRequest { run_id: "run-a".to_owned() }).await.unwrap();
    let status = people.resume_run(pb::ResumeRunRequest { run_id: "run-a".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    server.stop().await;
}

#[tokio::test]
async fn a_broken_off_run_goes_on_with_what_it_has_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    agent.deliver(&trial.id, epoch, 1, &whole_trial(&trial, epoch)[..4]).await;
    let mut people = server.people().await;
    let resume = pb::ResumeRunRequest { run_id: "run-a".to_owned() };
    let response = people.resume_run(resume.clone()).await.unwrap().into_inner();
    assert_eq!(response.trials, 0, "its agent is at work");
    drop(agent);
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let (mut agent, _) = Agent::greet(&server, hello("host-a", "boot-2", Vec::new())).await.unwrap();
    let response = server.people().await.resume_run(resume).await.unwrap().into_inner();
    assert_eq!(response.trials, 1);
    let (trial, new) = agent.assigned().await;
    assert_eq!((new, trial.cells.len()), (epoch + 1, 1));
    agent.measure(&trial, new).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.cells["ok"], run.samples), ("done", 2, 4));
    server.stop().await;
}
