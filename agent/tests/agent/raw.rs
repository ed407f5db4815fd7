//! The ends of a stream that HTTP/2 leaves ambiguous, from a peer that speaks it frame by frame: resets that look like
//! clean ends, and an end without a status. None of them ends a trial.

use std::time::Duration;

use h2::{Reason, SendStream, server};
use http::{HeaderMap, Response};
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use regatta_proto::pb::{self, coordinator_message};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::common::{self, Running, fill, key};

/// How the peer ends the stream.
#[derive(Debug, Clone, Copy)]
enum End {
    Reset(Reason),
    /// The last frame of data ends the stream: the status that has to follow was cut off on the way.
    NoStatus,
    /// A status that says all is well.
    Clean,
}

fn framed(message: &pb::CoordinatorMessage) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

fn greeting(key: &regatta_agent::spool::TrialKey) -> Bytes {
    let resume = pb::ResumeFrom { trial_id: key.trial.to_string(), epoch: key.epoch.0, seq: 1, finished: false };
    let hello = pb::CoordinatorHello {
        protocol: regatta_proto::PROTOCOL,
        boot_id: "raw".to_owned(),
        resume: vec![resume],
        heartbeat_interval_ns: 20_000_000,
    };
    framed(&pb::CoordinatorMessage { message: Some(coordinator_message::Message::Hello(hello)) })
}

fn end(mut stream: SendStream<Bytes>, how: End) {
    match how {
        End::Reset(reason) => stream.send_reset(reason),
        End::NoStatus => stream.send_data(Bytes::new(), true).unwrap(),
        End::Clean => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    }
}

/// Takes one connection and its session, greets, waits for a batch, and ends the stream.
async fn serve_once(listener: &TcpListener, how: End, key: &regatta_agent::spool::TrialKey) {
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = server::handshake(socket).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    // The connection only moves while somebody asks it for the next request.
    let driver = tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(greeting(key), false).unwrap();
    let mut body = request.into_body();
    let mut received = Vec::new();
    while !received.windows(7).any(|window| window == b"\x01\x01\x01\x01\x01\x01\x01") {
        let data = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        received.extend(data);
    }
    end(stream, how);
    // Until the agent has seen it and has gone.
    while let Some(Ok(_)) = body.data().await {}
    driver.abort();
}

#[tokio::test]
async fn no_way_to_end_a_stream_ends_a_trial() {
    let folder = TempDir::new().unwrap();
    let key = key("run.t0", 1);
    fill(folder.path(), &key, &[vec![1; 40]], true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let mut config = common::config_for(folder.path(), uri);
    config.timing.ack = Duration::from_secs(30);
    let agent = Running::start(config).await;
    let ends = [
        End::Reset(Reason::NO_ERROR),
        End::Reset(Reason::CANCEL),
        End::NoStatus,
        End::Clean,
        End::Reset(Reason::CANCEL),
    ];
    for how in ends {
        // Each time it comes back, and sends what was never acknowledged.
        let served = timeout(common::PATIENCE, serve_once(&listener, how, &key)).await;
        assert!(served.is_ok(), "the agent did not come back before {how:?}");
    }
    agent.stop().await;
    assert_eq!(common::held(folder.path()), [key.to_string()]);
}
