//! What is listened on, under which conditions, and the pages for machines that watch. Bad input 29 and 30.

use std::net::SocketAddr;
use std::time::Duration;

use regatta_coordinator::{Config, Coordinator, Limits, Rate};
use regatta_core::token::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::{Agent, Authority, PATIENCE, Server, hello, list_runs, with_tls};

async fn refusal(config: Config) -> String {
    match Coordinator::bind(config).await {
        Ok(bound) => panic!("listens on {}", bound.addr()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn beyond_loopback_there_is_nothing_without_tls_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let everywhere: SocketAddr = ([0, 0, 0, 0], 0).into();
    let plain = Config { listen: everywhere, ..Config::new(dir.path().join("regatta.db")) };
    let message = refusal(plain.clone()).await;
    assert!(message.contains("--tls-cert") && message.contains("127.0.0.1"), "{message}");
    assert!(!dir.path().join("regatta.db").exists());
    let token = Config { require_token: true, ..plain };
    assert!(refusal(token).await.contains("--tls-cert"));

    let authority = Authority::new(dir.path(), "ca");
    let config = Config { listen: everywhere, ..with_tls(dir.path(), &authority.issue("coordinator", 1, 30)) };
    let message = refusal(config.clone()).await;
    assert!(message.contains("regatta token create"), "{message}");

    // With a token it listens, and asks for it.
    let loopback = Server::start(with_tls(dir.path(), &authority.issue("coordinator", 2, 30))).await;
    let token = loopback.token(Role::Viewer, "board").await;
    loopback.stop().await;
    let server = Server::start(config).await;
    let uri = format!("https://127.0.0.1:{}", server.addr.port());
    let mut connection =
        regatta_net::Connection { ca: Some(authority.file()), ..regatta_net::Connection::parse(&uri).unwrap().into() };
    assert_eq!(list_runs(&connection).await.unwrap_err().code(), Code::Unauthenticated);
    connection.token = regatta_net::TokenSource::Given(token);
    list_runs(&connection).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_address_or_a_database_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Config::new(dir.path().join("regatta.db"))).await;
    let same_port = Config { listen: server.addr, ..Config::new(dir.path().join("other.db")) };
    let message = refusal(same_port).await;
    assert!(message.contains(&server.addr.to_string()) && message.contains("in use"), "{message}");
    let same_metrics = Config { metrics: Some(server.addr), ..Config::new(dir.path().join("other.db")) };
    assert!(refusal(same_metrics).await.contains(&server.addr.to_string()));
    let message = refusal(Config::new(dir.path().join("regatta.db"))).await;
    assert!(message.contains(&format!("locked by pid {}", std::process::id())), "{message}");
    server.stop().await;
}

/// A page by the plainest of clients.
async fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: regatta\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn metrics_and_health_are_served_on_a_listener_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let public = Config { metrics: Some(([0, 0, 0, 0], 0).into()), ..Config::new(dir.path().join("regatta.db")) };
    assert!(refusal(public).await.contains("--metrics-public"));

    let config = Config { metrics: Some(([127, 0, 0, 1], 0).into()), ..Config::new(dir.path().join("regatta.db")) };
    let server = Server::start(config).await;
    let address = server.metrics.unwrap();
    assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "GET /readyz").await.ends_with("ready\n"));
    assert!(get(address, "GET /").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));

    let mut agent = Agent::greet(&server.plain(None), hello("gpu-07")).await.unwrap();
    let page = get(address, "GET /metrics").await;
    assert!(page.contains("regatta_agent_streams 1\n") && page.contains("regatta_leases 0\n"), "{page}");
    crate::leases::submit(&server.plain(None)).await;
    let (trial, epoch) = agent.assigned().await;
    let held = vec![regatta_proto::pb::HeldTrial { trial_id: trial.id.clone(), epoch }];
    let beat = regatta_proto::pb::Heartbeat { held, spool_records: 12, ..Default::default() };
    agent.send(regatta_proto::pb::agent_message::Message::Heartbeat(beat)).await;
    let batch =
        regatta_proto::pb::RecordBatch { trial_id: trial.id, epoch, first_seq: 1, records: Vec::new(), crc32c: 0 };
    agent.send(regatta_proto::pb::agent_message::Message::Batch(batch)).await;
    // The acknowledgement comes after both were handled.
    agent.next().await.unwrap();
    let page = get(address, "GET /metrics").await;
    for line in [
        "regatta_leases 1",
        "regatta_trials_queued 0",
        "regatta_agent_spool_records{agent=\"gpu-07\"} 12",
        "regatta_batches_total 1",
        "regatta_commit_seconds_count 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
    }
    assert!(page.contains("openmetrics-text") && page.ends_with("# EOF\n"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn calls_and_connections_of_one_peer_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { connections: 2, calls: Rate { per_second: 0.001, burst: 3.0 }, ..Limits::default() };
    let server = Server::start(Config { limits, ..Config::new(dir.path().join("regatta.db")) }).await;
    let connection = server.plain(None);
    let mut client = crate::support::people(&connection).await;
    for _ in 0..3 {
        client.list_runs(regatta_proto::pb::ListRunsRequest { limit: 1 }).await.unwrap();
    }
    let status = client.list_runs(regatta_proto::pb::ListRunsRequest { limit: 1 }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);

    let _second = TcpStream::connect(server.addr).await.unwrap();
    // Which of two that come at the same time is accepted first is the system's choice: the third and later ones are
    // closed at once.
    tokio::time::timeout(PATIENCE, async {
        loop {
            let mut third = TcpStream::connect(server.addr).await.unwrap();
            let mut bytes = [0; 64];
            let closed = third.read(&mut bytes);
            if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(Duration::from_millis(500), closed).await {
                break;
            }
        }
    })
    .await
    .unwrap();
    drop(client);
    server.stop().await;
}
