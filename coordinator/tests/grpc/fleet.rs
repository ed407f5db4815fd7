//! The fleet: where trials go, what happens when agents fail or are taken out of service, and groups of replicas.

use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::coordinator_message::Message;
use regatta_store::Service;
use tonic::Code;

use crate::support::{Agent, SCENARIO, Server, end_record, hello, submission, whole_trial};

/// The scenario with these lines in `[fleet]`.
fn with_fleet(lines: &str) -> String {
    SCENARIO.replace("[policy]", &format!("[fleet]\n{lines}\n[policy]"))
}

/// The scenario's first workload alone, on two devices at a time.
fn of_two() -> String {
    let (head, _) = SCENARIO.rsplit_once("[[workload]]").unwrap();
    format!("{head}replicas = 2\n")
}

async fn submit(server: &Server, run: &str, text: &str) {
    server.people().await.submit_run(submission(run, text)).await.unwrap();
}

async fn greet(server: &Server, agent: &str, boot: &str) -> Agent {
    Agent::greet(server, hello(agent, boot, Vec::new())).await.unwrap().0
}

/// Ends the agent's session, and waits until the coordinator has noticed.
async fn lose(mut agent: Agent, server: &Server, name: &str) {
    agent.close();
    while let Ok(Some(_)) = agent.try_next().await {}
    while agent_of(server, name).await.connected {}
}

async fn reject(agent: &Agent, trial: &pb::Trial, epoch: u32) {
    let reject = pb::Reject { trial_id: trial.id.clone(), epoch, reason: "no room".to_owned(), leaving: false };
    agent.send(ToCoordinator::Reject(reject)).await;
}

async fn agent_of(server: &Server, name: &str) -> pb::Agent {
    let listed = server.people().await.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
    listed.agents.into_iter().find(|agent| agent.id == name).unwrap()
}

async fn cells_of(server: &Server, run: &str) -> Vec<pb::Cell> {
    let request = pb::ListCellsRequest { run_id: run.to_owned() };
    server.people().await.list_cells(request).await.unwrap().into_inner().cells
}

#[tokio::test]
async fn a_drained_agent_finishes_what_it_has_and_gets_no_more_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    server.submit("run-b").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let mut people = server.people().await;
    let drain = pb::DrainAgentRequest { agent_id: "host-a".to_owned(), reason: "new fan".to_owned() };
    people.drain_agent(drain.clone()).await.unwrap();
    agent.measure(&trial, epoch).await;
    assert_eq!(server.run("run-a").await.state, "done");

    let waiting = server.run("run-b").await;
    assert_eq!(waiting.waits, ["agent host-a is draining: new fan"]);
    let listed = agent_of(&server, "host-a").await;
    assert_eq!((listed.state.as_str(), listed.reason.as_str(), listed.trials.len()), ("draining", "new fan", 0));
    let status = people.submit_run(submission("run-c", SCENARIO)).await.unwrap_err();
    assert!(status.message().contains("out of service") && status.message().contains("resume"), "{status}");

    // It stays so over a restart of either side.
    drop(agent);
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-2").await;
    agent.heartbeat(&[], 0).await;
    assert_eq!(agent_of(&server, "host-a").await.state, "draining");
    let resume = pb::ResumeAgentRequest { agent_id: "host-a".to_owned() };
    server.people().await.resume_agent(resume).await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    assert_eq!(trial.run_id, "run-b");
    assert_eq!(agent_of(&server, "host-a").await.state, "busy");
    agent.measure(&trial, epoch).await;
    assert_eq!(server.run("run-b").await.state, "done");

    let unknown = pb::DrainAgentRequest { agent_id: "nobody".to_owned(), ..drain };
    assert_eq!(server.people().await.drain_agent(unknown).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn agents_are_forgotten_when_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let agent = Agent::connect(&server, "boot-1").await;
    let forget = pb::ForgetAgentRequest { agent_id: "host-a".to_owned() };
    let mut people = server.people().await;
    assert_eq!(people.forget_agent(forget.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    agent.disconnect(&server).await;
    assert_eq!(agent_of(&server, "host-a").await.state, "away");
    people.forget_agent(forget.clone()).await.unwrap();
    let listed = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
    assert!(listed.agents.is_empty());
    assert_eq!(people.forget_agent(forget).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn runs_of_a_higher_priority_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    let mut people = server.people().await;
    for (run, priority) in [("run-a", 0), ("run-b", 0), ("run-c", 7)] {
        people.submit_run(pb::SubmitRunRequest { priority, ..submission(run, SCENARIO) }).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        let (trial, epoch) = agent.assigned().await;
        agent.measure(&trial, epoch).await;
        order.push(trial.run_id);
    }
    assert_eq!(order, ["run-a", "run-c", "run-b"], "the first was alone when it began");
    assert_eq!(server.run("run-c").await.priority, 7);
    let much = pb::SubmitRunRequest { priority: 101, ..submission("run-d", SCENARIO) };
    assert_eq!(people.submit_run(much).await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn only_agents_with_the_labels_get_cells() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _plain = greet(&server, "host-a", "boot-1").await;
    let text = with_fleet("labels = { zone = \"lab\" }");
    let status = server.people().await.submit_run(submission("run-a", &text)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("--label zone=lab"), "{status}");

    let labels = [("zone".to_owned(), "lab".to_owned())].into();
    let labelled = pb::AgentHello { labels, ..hello("host-b", "boot-1", Vec::new()) };
    let (mut labelled, _) = Agent::greet(&server, labelled).await.unwrap();
    submit(&server, "run-a", &text).await;
    let (trial, epoch) = labelled.assigned().await;
    labelled.measure(&trial, epoch).await;
    let cells = cells_of(&server, "run-a").await;
    assert!(cells.iter().all(|cell| cell.agent_id == "host-b" && cell.state == "ok"), "{cells:?}");
    assert_eq!(agent_of(&server, "host-b").await.labels["zone"], "lab");
    server.stop().await;
}

#[tokio::test]
async fn a_pooled_trial_that_fails_goes_to_another_agent_and_is_quarantined_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agents = Vec::new();
    for name in ["host-a", "host-b", "host-c"] {
        agents.push(greet(&server, name, "boot-1").await);
    }
    submit(&server, "run-a", &with_fleet("placement = \"any\"")).await;
    for (attempt, agent) in (1..).zip(&mut agents) {
        let (trial, epoch) = agent.assigned().await;
        assert_eq!(epoch, attempt);
        reject(agent, &trial, epoch).await;
    }
    // Nobody is left to ask: the end of the run follows the last refusal.
    let mut watch =
        server.people().await.watch_run(pb::WatchRunRequest { run_id: "run-a".to_owned() }).await.unwrap().into_inner();
    while let Some(response) = watch.message().await.unwrap() {
        if response.run.unwrap().state == "done" {
            break;
        }
    }
    let trials = server.reader.trials(&"run-a".parse().unwrap()).await.unwrap();
    let evidence = trials[0].evidence.as_ref().unwrap();
    for part in ["host-a", "host-b", "host-c", "no room"] {
        assert!(evidence.contains(part), "{evidence}");
    }
    let cells = cells_of(&server, "run-a").await;
    assert!(cells.iter().all(|cell| cell.state == "failed" && cell.detail.contains("quarantined")), "{cells:?}");
    assert!(server.event_kinds("run-a").await.contains(&"trial_quarantined".to_owned()));
    // One trial proves nothing against an agent.
    assert_eq!(agent_of(&server, "host-a").await.state, "ready");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_fails_trial_after_trial_is_quarantined_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut broken = greet(&server, "host-a", "boot-1").await;
    for run in ["run-a", "run-b", "run-c"] {
        submit(&server, run, &with_fleet("placement = \"any\"")).await;
    }
    // Three times the same trial is the trial's fault; then the next one fails as well.
    for (run, attempt) in [("run-a", 1), ("run-a", 2), ("run-a", 3), ("run-b", 1)] {
        assert_eq!(agent_of(&server, "host-a").await.reason, "");
        let (trial, epoch) = broken.assigned().await;
        assert_eq!((trial.run_id.as_str(), epoch), (run, attempt));
        lose(broken, &server, "host-a").await;
        broken = greet(&server, "host-a", &format!("{run}-{attempt}")).await;
        broken.heartbeat(&[], 0).await;
    }
    let mut listed = agent_of(&server, "host-a").await;
    while listed.state != "quarantined" {
        listed = agent_of(&server, "host-a").await;
    }
    assert!(listed.reason.contains("4 failures in a row") && listed.reason.contains("lost"), "{}", listed.reason);
    assert_eq!(server.run("run-a").await.cells["failed"], 2);
    let waiting = server.run("run-c").await;
    assert!(waiting.waits[0].contains("quarantined"), "{:?}", waiting.waits);
    let stored = server.reader.agents().await.unwrap();
    assert_eq!(stored[0].service, Service::Quarantined);

    // Its trials go to another one. Somebody mends it, and it is back.
    let mut sound = greet(&server, "host-b", "boot-1").await;
    submit(&server, "run-d", &with_fleet("placement = \"any\"")).await;
    let (trial, epoch) = sound.assigned().await;
    assert_eq!(trial.run_id, "run-d");
    sound.measure(&trial, epoch).await;
    let resume = pb::ResumeAgentRequest { agent_id: "host-a".to_owned() };
    server.people().await.resume_agent(resume).await.unwrap();
    for run in ["run-b", "run-c"] {
        let (trial, epoch) = broken.assigned().await;
        assert_eq!(trial.run_id, run);
        broken.measure(&trial, epoch).await;
        assert_eq!(server.run(run).await.state, "done");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_group_is_leased_together_and_ends_together() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut first = greet(&server, "host-a", "boot-1").await;
    submit(&server, "run-x", SCENARIO).await;
    let status = server.people().await.submit_run(submission("run-a", &of_two())).await.unwrap_err();
    assert!(status.message().contains("needs 2 devices of a kind, 1 is there"), "{status}");

    // The first agent is kept for the group as soon as it is free.
    let (other, other_epoch) = first.assigned().await;
    let mut second = greet(&server, "host-b", "boot-1").await;
    submit(&server, "run-a", &of_two()).await;
    first.measure(&other, other_epoch).await;
    let ((one, epoch), (two, same)) = (first.assigned().await, second.assigned().await);
    assert_eq!((epoch, same), (1, 1));
    let groups = [one.group.clone().unwrap(), two.group.clone().unwrap()];
    assert_eq!((groups[0].replica, groups[1].replica, groups[0].replicas), (0, 1, 2));
    assert_eq!((&groups[0].id, &groups[1].id), (&one.id, &one.id));
    assert_ne!(one.cells[0].cell_hash, two.cells[0].cell_hash);

    first.measure(&one, epoch).await;
    let states = |cells: Vec<pb::Cell>| cells.into_iter().map(|cell| (cell.replica, cell.state)).collect::<Vec<_>>();
    let cells = states(cells_of(&server, "run-a").await);
    assert_eq!(cells, [(0, "waiting".to_owned()), (1, "running".to_owned())]);
    second.measure(&two, epoch).await;
    assert_eq!(states(cells_of(&server, "run-a").await), [(0, "ok".to_owned()), (1, "ok".to_owned())]);
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 4, 2));
    server.stop().await;
}

#[tokio::test]
async fn a_group_that_loses_a_replica_is_repeated_as_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut first = greet(&server, "host-a", "boot-1").await;
    let mut second = greet(&server, "host-b", "boot-1").await;
    submit(&server, "run-a", &of_two()).await;
    let ((one, epoch), (two, _)) = (first.assigned().await, second.assigned().await);
    // The first is through when the second one's process dies and comes back with nothing.
    first.measure(&one, epoch).await;
    lose(second, &server, "host-b").await;
    let mut second = greet(&server, "host-b", "boot-2").await;
    second.heartbeat(&[], 0).await;
    let ((again, new), (other, same)) = (first.assigned().await, second.assigned().await);
    assert_eq!((new, same), (epoch + 1, epoch + 1));
    assert_eq!((&again.cells, &other.cells), (&one.cells, &two.cells), "both measure all of it again");
    first.measure(&again, new).await;
    second.measure(&other, new).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 6, 2));
    let cells = cells_of(&server, "run-a").await;
    assert_eq!(cells.iter().map(|cell| (cell.samples, cell.superseded)).collect::<Vec<_>>(), [(2, 2), (2, 0)]);
    server.stop().await;
}

#[tokio::test]
async fn a_replica_that_is_at_work_when_another_is_lost_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut first = greet(&server, "host-a", "boot-1").await;
    let mut second = greet(&server, "host-b", "boot-1").await;
    submit(&server, "run-a", &of_two()).await;
    let ((one, epoch), _) = (first.assigned().await, second.assigned().await);
    lose(second, &server, "host-b").await;
    let mut second = greet(&server, "host-b", "boot-2").await;
    second.heartbeat(&[], 0).await;
    assert!(matches!(first.next().await, Message::Cancel(cancel) if cancel.trial_id == one.id));
    // It stops; what it measured is kept, and changes no state.
    let ((again, new), (other, _)) = (first.assigned().await, second.assigned().await);
    let late = whole_trial(&one, epoch);
    first.deliver(&one.id, epoch, 1, &late).await;
    first.finish(&one.id, epoch, &late).await;
    assert_eq!(server.run("run-a").await.state, "active");
    first.measure(&again, new).await;
    second.measure(&other, new).await;
    assert_eq!(server.run("run-a").await.state, "done");
    server.stop().await;
}

#[tokio::test]
async fn a_retry_repeats_the_cells_that_did_not_end_ok() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let mut people = server.people().await;
    let retry = pb::RetryRunRequest {
        run_id: "run-a".to_owned(),
        new_run_id: "run-b".to_owned(),
        ..pb::RetryRunRequest::default()
    };
    assert_eq!(people.retry_run(retry.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    let (trial, epoch) = agent.assigned().await;
    let mut records = whole_trial(&trial, epoch);
    *records.last_mut().unwrap() = end_record(&trial.cells[1].cell_hash, "oom");
    agent.deliver(&trial.id, epoch, 1, &records).await;
    agent.finish(&trial.id, epoch, &records).await;
    assert_eq!(server.run("run-a").await.state, "done");

    for _ in 0..2 {
        let answer = people.retry_run(retry.clone()).await.unwrap().into_inner();
        assert_eq!((answer.run_id.as_str(), answer.cells), ("run-b", 1));
    }
    let run = server.run("run-b").await;
    assert_eq!((run.retry_of.as_str(), run.name.as_str()), ("run-a", "small"));
    let (again, epoch) = agent.assigned().await;
    assert_eq!((again.run_id.as_str(), &again.cells[..]), ("run-b", &trial.cells[1..]));
    agent.measure(&again, epoch).await;
    assert_eq!(server.run("run-b").await.state, "done");
    let nothing = pb::RetryRunRequest { run_id: "run-b".to_owned(), ..pb::RetryRunRequest::default() };
    let status = people.retry_run(nothing).await.unwrap_err();
    assert!(status.message().contains("nothing to repeat"), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn cells_are_listed_with_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    agent.deliver(&trial.id, epoch, 1, &whole_trial(&trial, epoch)[..4]).await;
    let cells = cells_of(&server, "run-").await;
    let shown: Vec<_> =
        cells.iter().map(|c| (c.ordinal, c.workload.as_str(), c.state.as_str(), c.samples, c.replicas)).collect();
    assert_eq!(shown, [(0, "first", "ok", 2, 1), (1, "second", "running", 0, 1)]);
    assert_eq!((cells[0].trial_id.as_str(), cells[0].device.as_str()), (trial.id.as_str(), "cpu"));
    assert_eq!(agent_of(&server, "host-a").await.trials, std::slice::from_ref(&trial.id));
    agent.heartbeat(&[(&trial, epoch)], 5).await;
    while agent_of(&server, "host-a").await.spool_records != 5 {}
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_leaves_fails_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-0").await;
    server.submit("run-a").await.unwrap();
    for boot in 1..=4 {
        let (trial, epoch) = agent.assigned().await;
        assert_eq!(epoch, boot);
        let reject = pb::Reject { trial_id: trial.id, epoch, reason: "bye".to_owned(), leaving: true };
        agent.send(ToCoordinator::Reject(reject)).await;
        let mut waiting = server.run("run-a").await;
        while waiting.waits != ["agent host-a is leaving"] {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            waiting = server.run("run-a").await;
        }
        lose(agent, &server, "host-a").await;
        agent = greet(&server, "host-a", &format!("boot-{boot}")).await;
    }
    let (trial, epoch) = agent.assigned().await;
    agent.measure(&trial, epoch).await;
    assert_eq!(server.run("run-a").await.cells["ok"], 2);
    server.stop().await;
}
