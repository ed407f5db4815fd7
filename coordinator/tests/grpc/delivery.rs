//! Records: at least once on the wire, exactly once in the database, whatever breaks in between.

use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::coordinator_message::Message;
use tonic::Code;

use crate::support::{Agent, Server, batch, end_record, hello, sample, sample_record, spool, whole_trial};

#[tokio::test]
async fn a_trial_is_measured_and_its_run_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    let run = server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    assert_eq!((epoch, trial.cells.len()), (1, 2));
    agent.measure(&trial, epoch).await;
    let run = server.run(&run).await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 4, 2));
    server.stop().await;
}

#[tokio::test]
async fn a_batch_sent_twice_is_acknowledged_twice_and_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    for _ in 0..2 {
        assert_eq!(agent.deliver(&trial.id, epoch, 1, &records[..3]).await, 3);
    }
    assert_eq!(server.run("run-a").await.samples, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_gap_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    agent.deliver(&trial.id, epoch, 1, &records[..2]).await;
    agent.send_batch(&trial.id, epoch, 5, &records[4..]).await;
    assert_eq!((agent.missing().await, agent.acknowledged().await), (3, 2));
    agent.send_finish(&trial.id, epoch, &records).await;
    assert_eq!(agent.missing().await, 3);
    agent.deliver(&trial.id, epoch, 3, &records[2..]).await;
    agent.finish(&trial.id, epoch, &records).await;
    assert_eq!(server.run("run-a").await.state, "done");
    server.stop().await;
}

#[tokio::test]
async fn another_record_under_the_same_number_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let first = sample(&trial.cells[0].cell_hash, epoch, 0);
    let second = regatta_proto::pb::Sample { threads: 3, ..first.clone() };
    for record in [first, second] {
        assert_eq!(agent.deliver(&trial.id, epoch, 1, &[sample_record(record)]).await, 1);
    }
    let kinds = server.event_kinds("run-a").await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "data_conflict").count(), 1, "{kinds:?}");
    let samples = server.reader.samples(&"run-a".parse().unwrap()).await.unwrap();
    assert_eq!(samples.iter().map(|s| s.threads).collect::<Vec<_>>(), [2]);
    server.stop().await;
}

#[tokio::test]
async fn a_finish_with_another_count_names_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    agent.deliver(&trial.id, epoch, 1, &records).await;
    agent.send_finish(&trial.id, epoch, &records[..6]).await;
    assert_eq!(agent.missing().await, 1);
    let events = server.reader.events(&"run-a".parse().unwrap(), 0).await.unwrap();
    let detail = &events.last().unwrap().detail;
    assert!(detail.contains("6 records") && detail.contains("7 are stored"), "{detail}");
    agent.finish(&trial.id, epoch, &records).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cut_stream_ends_nothing_and_the_agent_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    agent.deliver(&trial.id, epoch, 1, &records[..2]).await;
    agent.send_batch(&trial.id, epoch, 3, &records[2..4]).await;
    // The acknowledgement is lost with the connection.
    drop(agent);

    // A process of the same boot id takes the place of its own broken connection at once.
    let (mut agent, greeting) =
        Agent::greet(&server, hello("host-a", "boot-1", spool(&trial, epoch, 4))).await.unwrap();
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.cells.get("running")), ("active", Some(&1)));
    let resume = &greeting.resume[0];
    assert!((3..=5).contains(&resume.seq) && !resume.finished, "{resume:?}");
    agent.heartbeat(&[(&trial, epoch)], 2).await;
    let from = usize::try_from(resume.seq).unwrap() - 1;
    assert_eq!(agent.deliver(&trial.id, epoch, resume.seq, &records[from..]).await, 7);
    agent.finish(&trial.id, epoch, &records).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples), ("done", 4));
    server.stop().await;
}

#[tokio::test]
async fn a_restarted_coordinator_has_what_it_acknowledged_and_no_trial_runs_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    agent.deliver(&trial.id, epoch, 1, &records[..4]).await;
    server.shutdown_under_load(&mut agent).await;

    let server = Server::start(dir.path()).await;
    let (mut agent, greeting) =
        Agent::greet(&server, hello("host-a", "boot-1", spool(&trial, epoch, 7))).await.unwrap();
    assert_eq!(greeting.resume[0].seq, 5);
    agent.heartbeat(&[(&trial, epoch)], 3).await;
    agent.deliver(&trial.id, epoch, 5, &records[4..]).await;
    // The next message is the end of this trial: no second lease was given in between.
    agent.finish(&trial.id, epoch, &records).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples), ("done", 4));
    drop(agent);

    // The end is remembered: an agent that missed the last answer may delete its spool.
    let (_, greeting) = Agent::greet(&server, hello("host-a", "boot-1", spool(&trial, epoch, 7))).await.unwrap();
    assert!(greeting.resume[0].finished);
    server.stop().await;
}

impl Server {
    /// Stops the coordinator while the agent listens: it is told, and its stream ends.
    async fn shutdown_under_load(self, agent: &mut Agent) {
        let listen = async {
            assert!(matches!(agent.next().await, Message::GoingAway(_)));
            while let Ok(Some(_)) = agent.try_next().await {}
        };
        tokio::join!(self.stop(), listen);
    }
}

#[tokio::test]
async fn a_cell_without_a_result_and_an_unreadable_record_fail_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let cell = &trial.cells[0].cell_hash;
    let records = vec![sample_record(sample(cell, epoch, 0)), vec![0xff; 9], end_record(cell, "ok")];
    assert_eq!(agent.deliver(&trial.id, epoch, 1, &records).await, 3);
    agent.finish(&trial.id, epoch, &records).await;
    let id = "run-a".parse().unwrap();
    let details: Vec<_> =
        server.reader.cells(&id).await.unwrap().into_iter().map(|c| c.outcome.unwrap().to_string()).collect();
    assert!(details[0].contains("1 of 2 samples"), "{details:?}");
    assert!(details[1].contains("worker ended without a result"), "{details:?}");
    assert_eq!(server.reader.rejected_samples(&id).await.unwrap().len(), 1);
    assert_eq!(server.run("run-a").await.state, "done");
    server.stop().await;
}

#[tokio::test]
async fn a_batch_with_a_wrong_checksum_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let mut broken = batch(&trial.id, epoch, 1, &whole_trial(&trial, epoch));
    broken.crc32c ^= 1;
    agent.send(ToCoordinator::Batch(broken)).await;
    assert_eq!(agent.refused().await.code(), Code::DataLoss);
    assert_eq!(server.run("run-a").await.samples, 0);
    server.stop().await;
}

#[tokio::test]
async fn records_of_a_lease_that_was_never_given_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    agent.send_batch("run-x.t0", 1, 1, &[vec![1]]).await;
    let status = agent.refused().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("run-x.t0"), "{status}");
    server.stop().await;
}
