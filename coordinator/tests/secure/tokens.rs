//! Fault 37 and bad input 43: tokens that are missing, wrong, expired, revoked, used again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regatta_core::token::{Role, Token};
use regatta_proto::pb;
use regatta_proto::pb::run_service_client::RunServiceClient;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::support::{Agent, PATIENCE, Server, channel, hello, in_an_hour, list_runs, people};

#[tokio::test]
async fn without_the_right_token_there_is_one_line_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let token = server.token(Role::Viewer, "board").await;
    list_runs(&server.plain(Some(&token))).await.unwrap();

    let mut other_secret = token.expose().to_owned();
    let last = if other_secret.ends_with('0') { '1' } else { '0' };
    other_secret.pop();
    other_secret.push(last);
    let wrong: Token = other_secret.parse().unwrap();
    let strange = Token::new([9; 8], [9; 32]);
    let expired = server.token_until(Role::Viewer, "old", Some(Timestamp::now() - SignedDuration::from_secs(1))).await;
    let revoked = server.token(Role::Viewer, "gone").await;
    server.revoke("gone").await;
    for (token, reason) in [
        (None, "a token is needed here: --token-file FILE or REGATTA_TOKEN".to_owned()),
        (Some(&wrong), "the token is not known here".to_owned()),
        (Some(&strange), "the token is not known here".to_owned()),
        (Some(&expired), format!("token {} has expired", expired.id())),
        (Some(&revoked), format!("token {} has been revoked", revoked.id())),
    ] {
        for _ in 0..2 {
            let status = list_runs(&server.plain(token)).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::Unauthenticated, reason.as_str()));
            assert!(status.details().is_empty());
        }
        let refused = Agent::greet(&server.plain(token), hello("gpu-07")).await.err().unwrap();
        assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, reason.as_str()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_malformed_token_is_never_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    for header in ["Bearer hunter2", "hunter2", "Basic aHVudGVyMg==", "Bearer ", "bearer rgt_hunter2"] {
        let mut client = RunServiceClient::new(channel(&server.plain(None)).await.unwrap());
        let mut request = Request::new(pb::ListRunsRequest { limit: 1 });
        request.metadata_mut().insert("authorization", MetadataValue::try_from(header).unwrap());
        let status = client.list_runs(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(!status.message().contains("hunter2") && !status.message().contains("aHV"), "{status:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_revocation_ends_what_is_open_and_the_token_is_not_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let token = server.token_until(Role::Agent, "gpu-07", Some(in_an_hour())).await;
    let other = server.token(Role::Agent, "gpu-08").await;
    let mut agent = Agent::greet(&server.plain(Some(&token)), hello("gpu-07")).await.unwrap();
    let mut bystander = Agent::greet(&server.plain(Some(&other)), hello("gpu-08")).await.unwrap();

    server.revoke(token.id().as_str()).await;
    let status = tokio::time::timeout(PATIENCE, agent.ended()).await.unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains(token.id().as_str()), "{status:?}");
    let again = Agent::greet(&server.plain(Some(&token)), hello("gpu-07")).await.err().unwrap();
    assert!(again.message().contains("has been revoked"), "{again:?}");

    // The other one goes on.
    let beat = pb::Heartbeat { held: Vec::new(), spool_records: 0, ..Default::default() };
    bystander.send(regatta_proto::pb::agent_message::Message::Heartbeat(beat)).await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), bystander.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_expires_ends_the_watch_that_it_opened() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let submitter = server.token(Role::Submitter, "ci").await;
    let agent = server.token(Role::Agent, "gpu-07").await;
    let _agent = Agent::greet(&server.plain(Some(&agent)), hello("gpu-07")).await.unwrap();
    let run = crate::leases::submit(&server.plain(Some(&submitter))).await;

    let soon = Timestamp::now() + SignedDuration::from_secs(2);
    let viewer = server.token_until(Role::Viewer, "board", Some(soon)).await;
    let mut client = people(&server.plain(Some(&viewer))).await;
    let mut events = client.watch_run(pb::WatchRunRequest { run_id: run }).await.unwrap().into_inner();
    let end = async {
        loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended without a reason"),
                Err(status) => break status,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, end).await.unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_revocation_ends_an_export_that_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let submitter = server.token(Role::Submitter, "ci").await;
    let agent = server.token(Role::Agent, "gpu-07").await;
    let _agent = Agent::greet(&server.plain(Some(&agent)), hello("gpu-07")).await.unwrap();
    // Two megabytes: more than is on its way while nobody reads.
    let run = crate::leases::submit_with(&server.plain(Some(&submitter)), 1_000_000).await;

    let viewer = server.token(Role::Viewer, "board").await;
    let connection = server.plain(Some(&viewer));
    let window = Some(64 * 1024);
    let endpoint = connection.endpoint().unwrap();
    let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    let channel = endpoint.connect().await.unwrap();
    let mut client = RunServiceClient::with_interceptor(channel, connection.credentials().unwrap());
    let mut chunks = client.export_run(pb::ExportRunRequest { run_id: run }).await.unwrap().into_inner();
    let size = chunks.message().await.unwrap().unwrap().size;
    assert!(size > 2_000_000, "{size} bytes");
    server.revoke(viewer.id().as_str()).await;
    // The coordinator looks every second, and by then more is waiting than may be sent.
    let refused = async {
        while list_runs(&connection).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let mut received = 0;
    let status = loop {
        match tokio::time::timeout(PATIENCE, chunks.message()).await.unwrap() {
            Ok(Some(chunk)) => received += chunk.chunk.len() as u64,
            Ok(None) => panic!("all of it came, or it ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(received < size, "{received} of {size}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_stored_is_a_hash() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let token = server.token(Role::Submitter, "ci").await;
    list_runs(&server.plain(Some(&token))).await.unwrap();
    server.stop().await;
    let secret = token.expose().rsplit('_').next().unwrap().as_bytes().to_vec();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "the secret is on the disk");
    }
}
