//! An agent acts only as itself, and only on trials it leases.

use regatta_core::token::Role;
use regatta_net::Connection;
use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use tonic::Code;

use crate::support::{Agent, Server, hello, people};

const SCENARIO: &str = r#"
schema = 1
name = "small"
models = ["tinyllama-1.1b"]
weights = "synthetic"
backends = ["fake"]
precisions = ["q8_0"]
devices = ["cpu"]

[policy]
repetitions = 2

[[workload]]
name = "only"
prompt_tokens = 8
generate = 2
"#;

/// Submits a run of one trial and returns its id.
pub(crate) async fn submit(connection: &Connection) -> String {
    submit_with(connection, 0).await
}

/// The same with comments of so many bytes each in the scenario and in the manifest of models.
pub(crate) async fn submit_with(connection: &Connection, bytes: usize) -> String {
    let padding = format!("# {}\n", "x".repeat(bytes));
    let scenario = pb::ScenarioBundle {
        file: "small.toml".to_owned(),
        text: format!("{padding}{SCENARIO}"),
        models: format!("{padding}{}", regatta_core::model::BUILT_IN_MODELS),
        ..pb::ScenarioBundle::default()
    };
    let request = pb::SubmitRunRequest { scenario: Some(scenario), run_id: "run".to_owned(), ..Default::default() };
    people(connection).await.submit_run(request).await.unwrap().into_inner().run_id
}

#[tokio::test]
async fn a_token_speaks_for_one_agent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let token = server.token(Role::Agent, "gpu-07").await;
    let refused = Agent::greet(&server.plain(Some(&token)), hello("gpu-08")).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("gpu-07") && refused.message().contains("gpu-08"), "{refused:?}");
    assert!(server.reader.agents().await.unwrap().is_empty(), "the other agent was noted as seen");
    Agent::greet(&server.plain(Some(&token)), hello("gpu-07")).await.unwrap();
    server.stop().await;
}

/// Every message that names a trial, about a lease.
fn about(trial_id: &str, epoch: u32) -> Vec<ToCoordinator> {
    let trial_id = trial_id.to_owned();
    let cell_hash = vec![0; 32];
    vec![
        ToCoordinator::Heartbeat(pb::Heartbeat {
            held: vec![pb::HeldTrial { trial_id: trial_id.clone(), epoch }],
            ..Default::default()
        }),
        ToCoordinator::Batch(pb::RecordBatch {
            trial_id: trial_id.clone(),
            epoch,
            first_seq: 1,
            records: Vec::new(),
            crc32c: 0,
        }),
        ToCoordinator::Finish(pb::Finish { trial_id: trial_id.clone(), epoch, last_seq: 0, digest: vec![0; 32] }),
        ToCoordinator::Reject(pb::Reject {
            trial_id: trial_id.clone(),
            epoch,
            reason: "mine".to_owned(),
            leaving: false,
        }),
        ToCoordinator::Progress(pb::Progress { trial_id: trial_id.clone(), epoch, ..pb::Progress::default() }),
        ToCoordinator::AtBarrier(pb::AtBarrier {
            trial_id: trial_id.clone(),
            epoch,
            cell_hash: cell_hash.clone(),
            repetition: 0,
        }),
        ToCoordinator::PassedBarrier(pb::PassedBarrier { trial_id, epoch, cell_hash, repetition: 0 }),
    ]
}

#[tokio::test]
async fn nothing_is_taken_from_an_agent_about_anothers_trial() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let submitter = server.token(Role::Submitter, "ci").await;
    let (owner, thief) = (server.token(Role::Agent, "owner").await, server.token(Role::Agent, "thief").await);
    let mut agent = Agent::greet(&server.plain(Some(&owner)), hello("owner")).await.unwrap();
    submit(&server.plain(Some(&submitter))).await;
    let (trial, epoch) = agent.assigned().await;
    let before = server.reader.events(&"run".parse().unwrap(), 0).await.unwrap().len();

    for message in about(&trial.id, epoch) {
        let mut session = Agent::greet(&server.plain(Some(&thief)), hello("thief")).await.unwrap();
        let shown = format!("{message:?}");
        session.send(message).await;
        let status = session.ended().await;
        assert_eq!(status.code(), Code::PermissionDenied, "{shown}: {status:?}");
        assert!(status.message().contains("is leased to another agent"), "{status:?}");
    }
    // At hello too: what a spool holds says what of another's trial is stored.
    let spool = vec![pb::SpoolHead { trial_id: trial.id.clone(), epoch, last_seq: 1 }];
    let greeting = pb::AgentHello { spool, ..hello("thief") };
    let status = Agent::greet(&server.plain(Some(&thief)), greeting).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);

    let after = server.reader.events(&"run".parse().unwrap(), 0).await.unwrap().len();
    assert_eq!(before, after, "something about the run has changed");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_may_speak_of_its_earlier_leases_after_a_reconnect() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let submitter = server.token(Role::Submitter, "ci").await;
    let token = server.token(Role::Agent, "owner").await;
    let mut agent = Agent::greet(&server.plain(Some(&token)), hello("owner")).await.unwrap();
    submit(&server.plain(Some(&submitter))).await;
    let (trial, epoch) = agent.assigned().await;
    agent
        .send(ToCoordinator::Reject(pb::Reject {
            trial_id: trial.id.clone(),
            epoch,
            reason: "busy".to_owned(),
            leaving: false,
        }))
        .await;
    drop(agent);

    let spool = vec![pb::SpoolHead { trial_id: trial.id.clone(), epoch, last_seq: 1 }];
    let mut again =
        Agent::greet(&server.plain(Some(&token)), pb::AgentHello { spool, ..hello("owner") }).await.unwrap();
    let batch = pb::RecordBatch { trial_id: trial.id, epoch, first_seq: 1, records: Vec::new(), crc32c: 0 };
    again.send(ToCoordinator::Batch(batch)).await;
    loop {
        match again.next().await.unwrap() {
            Some(pb::coordinator_message::Message::Ack(ack)) => break assert_eq!(ack.epoch, epoch),
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
    server.stop().await;
}
