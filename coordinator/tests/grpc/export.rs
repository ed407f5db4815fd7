//! A run fetched as a database file of its own.

use std::time::Duration;

use jiff::Timestamp;
use regatta_coordinator::Config;
use regatta_proto::pb;
use regatta_store::Store;
use tonic::{Code, Status};

use crate::strain::long_scenario;
use crate::support::{Agent, Server, sample, sample_record, submission};

/// All pieces together.
async fn export(server: &Server, run: &str) -> Result<Vec<u8>, Status> {
    let request = pb::ExportRunRequest { run_id: run.to_owned() };
    let mut chunks = server.people().await.export_run(request).await?.into_inner();
    let (mut bytes, mut size) = (Vec::new(), 0);
    while let Some(chunk) = chunks.message().await? {
        bytes.extend(chunk.chunk);
        size = chunk.size;
    }
    assert_eq!(bytes.len() as u64, size, "every piece names the size of the whole");
    Ok(bytes)
}

#[tokio::test]
async fn a_run_comes_as_a_database_of_its_own_with_nothing_of_others_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    for run in ["run-a", "run-b"] {
        server.submit(run).await.unwrap();
        let (trial, epoch) = agent.assigned().await;
        agent.measure(&trial, epoch).await;
    }
    // The beginning of an id is enough, as everywhere.
    let bytes = export(&server, "run-a").await.unwrap();
    let file = dir.path().join("fetched.db");
    std::fs::write(&file, bytes).unwrap();
    let fetched = Store::open_read_only(&file).await.unwrap();
    let id = "run-a".parse().unwrap();
    let (here, there) = (server.reader.samples(&id).await.unwrap(), fetched.samples(&id).await.unwrap());
    assert_eq!((here.len(), here == there), (4, true));
    assert_eq!(fetched.cells(&id).await.unwrap(), server.reader.cells(&id).await.unwrap());
    let runs: Vec<_> = fetched.runs(10).await.unwrap().into_iter().map(|run| run.id.to_string()).collect();
    assert_eq!(runs, ["run-a"]);
    fetched.close().await;
    let missing = export(&server, "run-c").await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("run-b"), "{missing:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_copy_that_takes_too_long_is_cut_off_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    // Reads of a few rows are over before anybody looks at the time; the copy of many is not.
    let config = Config {
        longest_read: Duration::ZERO,
        clock: || Timestamp::UNIX_EPOCH,
        ..Config::new(dir.path().join("x.db"))
    };
    let server = Server::with(config).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.people().await.submit_run(submission("run-a", &long_scenario(400))).await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records: Vec<_> = (0..400).map(|n| sample_record(sample(&trial.cells[0].cell_hash, epoch, n))).collect();
    agent.deliver(&trial.id, epoch, 1, &records).await;
    let status = export(&server, "run-a").await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(status.message().contains("cut off") && status.message().contains("regatta backup"), "{status:?}");
    // Nobody else was disturbed, and no temporary file is left: the next one is cut off for the same reason.
    agent.deliver(&trial.id, epoch, 401, &[]).await;
    assert_eq!(export(&server, "run-a").await.unwrap_err().code(), Code::Aborted);
    server.stop().await;
}
