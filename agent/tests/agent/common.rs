//! A coordinator that a test plays itself: over loopback, one stream after the other.

use std::path::Path;
use std::time::Duration;

use regatta_agent::spool::{Spool, SpoolError, TrialKey};
use regatta_agent::{Agent, AgentConfig, AgentError, Shutdown, Timing};
use regatta_core::trial::Epoch;
use regatta_proto::PROTOCOL;
use regatta_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use regatta_proto::pb::{self, agent_message, coordinator_message};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const QUOTA: u64 = 1 << 30;

/// Hands each stream to the test.
struct Service {
    peers: mpsc::Sender<Peer>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::channel(64);
        let peer = Peer { inbound: request.into_inner(), outbound };
        self.peers.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// The coordinator's end of one stream.
pub(crate) struct Peer {
    pub(crate) inbound: Streaming<pb::AgentMessage>,
    pub(crate) outbound: mpsc::Sender<Result<pb::CoordinatorMessage, Status>>,
}

impl Peer {
    /// The next message of any kind.
    pub(crate) async fn any(&mut self) -> agent_message::Message {
        let received = timeout(PATIENCE, self.inbound.message()).await.expect("no message in time");
        received.expect("the stream broke").expect("the stream ended").message.expect("an empty message")
    }

    /// The next message that is neither heartbeat nor progress.
    pub(crate) async fn next(&mut self) -> agent_message::Message {
        loop {
            match self.any().await {
                agent_message::Message::Heartbeat(_) | agent_message::Message::Progress(_) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn hello(&mut self) -> pb::AgentHello {
        match self.any().await {
            agent_message::Message::Hello(hello) => hello,
            other => panic!("not a hello: {other:?}"),
        }
    }

    pub(crate) async fn heartbeat(&mut self) -> pb::Heartbeat {
        loop {
            if let agent_message::Message::Heartbeat(heartbeat) = self.any().await {
                return heartbeat;
            }
        }
    }

    pub(crate) async fn batch(&mut self) -> pb::RecordBatch {
        match self.next().await {
            agent_message::Message::Batch(batch) => {
                let crc = batch.records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
                assert_eq!(crc, batch.crc32c);
                batch
            }
            other => panic!("not a batch: {other:?}"),
        }
    }

    pub(crate) async fn finish(&mut self) -> pb::Finish {
        match self.next().await {
            agent_message::Message::Finish(finish) => finish,
            other => panic!("not a finish: {other:?}"),
        }
    }

    pub(crate) async fn reject(&mut self) -> pb::Reject {
        match self.next().await {
            agent_message::Message::Reject(reject) => reject,
            other => panic!("not a reject: {other:?}"),
        }
    }

    pub(crate) async fn say(&self, message: coordinator_message::Message) {
        // An agent that has left does not listen.
        let _ = self.outbound.send(Ok(pb::CoordinatorMessage { message: Some(message) })).await;
    }

    /// Takes the agent's hello and answers it: each trial of its spool resumes at the number given, `None` finished.
    pub(crate) async fn greet(&mut self, resume: &[(&TrialKey, Option<u64>)]) -> pb::AgentHello {
        let hello = self.hello().await;
        let resume = resume.iter().map(|(key, seq)| pb::ResumeFrom {
            trial_id: key.trial.to_string(),
            epoch: key.epoch.0,
            seq: seq.unwrap_or(1),
            finished: seq.is_none(),
        });
        self.say(coordinator_message::Message::Hello(pb::CoordinatorHello {
            protocol: PROTOCOL,
            boot_id: "coordinator".to_owned(),
            resume: resume.collect(),
            heartbeat_interval_ns: 20_000_000,
        }))
        .await;
        hello
    }

    pub(crate) async fn ack(&self, key: &TrialKey, through: u64) {
        let (trial_id, epoch) = (key.trial.to_string(), key.epoch.0);
        self.say(coordinator_message::Message::Ack(pb::Ack { trial_id, epoch, durable_through_seq: through })).await;
    }

    pub(crate) async fn finish_ack(&self, key: &TrialKey) {
        let (trial_id, epoch) = (key.trial.to_string(), key.epoch.0);
        self.say(coordinator_message::Message::FinishAck(pb::FinishAck { trial_id, epoch })).await;
    }

    /// Reads until the agent has closed its side.
    pub(crate) async fn closed(mut self) {
        timeout(PATIENCE, async { while let Ok(Some(_)) = self.inbound.message().await {} })
            .await
            .expect("the agent does not close the stream");
    }
}

/// A listening coordinator. It goes away with this value.
pub(crate) struct Coordinator {
    pub(crate) uri: tonic::transport::Uri,
    peers: Mutex<mpsc::Receiver<Peer>>,
    _stop: oneshot::Sender<()>,
    _server: JoinSet<()>,
}

impl Coordinator {
    pub(crate) fn start() -> Self {
        Self::serve(Server::builder(), "http")
    }

    /// One with a certificate.
    pub(crate) fn start_with(identity: Identity) -> Self {
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(Server::builder().tls_config(tls).unwrap(), "https")
    }

    fn serve(mut builder: Server, scheme: &str) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let uri = format!("{scheme}://{}", incoming.local_addr().unwrap()).parse().unwrap();
        let (peers, receiver) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel::<()>();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let service = AgentServiceServer::new(Service { peers });
            let stopped = async { drop(stopped.await) };
            let _ = builder.add_service(service).serve_with_incoming_shutdown(incoming, stopped).await;
        });
        Self { uri, peers: Mutex::new(receiver), _stop: stop, _server: server }
    }

    /// The next stream that an agent opens.
    pub(crate) async fn accept(&self) -> Peer {
        let mut peers = self.peers.lock().await;
        timeout(PATIENCE, peers.recv()).await.expect("no agent came in time").expect("the server is gone")
    }
}

/// A configuration with everything under `folder` and short pauses.
pub(crate) fn config(folder: &Path, coordinator: &Coordinator) -> AgentConfig {
    config_for(folder, coordinator.uri.clone())
}

/// The same, for a coordinator of another kind.
pub(crate) fn config_for(folder: &Path, coordinator: tonic::transport::Uri) -> AgentConfig {
    let id = "here".parse().unwrap();
    let mut config = AgentConfig::new(id, coordinator, folder.join("models"), folder.join("spool"));
    config.search_beside_program = false;
    config.timing = Timing {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        batch: Duration::from_millis(5),
        drain: Duration::from_secs(5),
        ..Timing::default()
    };
    config
}

/// Starts an agent; one that crashed before may still be writing its last record.
async fn start(config: AgentConfig) -> Agent {
    loop {
        match Agent::start(config.clone()).await {
            Ok(agent) => return agent,
            Err(AgentError::Spool(SpoolError::Locked(_))) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("the agent does not start: {error:?}"),
        }
    }
}

/// A running agent.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    pub(crate) async fn start(config: AgentConfig) -> Self {
        let agent = timeout(PATIENCE, start(config)).await.expect("the spool stays locked");
        let shutdown = Shutdown::new();
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<(), AgentError> {
        timeout(PATIENCE, self.task).await.expect("the agent does not end").expect("the agent panicked")
    }

    /// Ends it at once, as a crash would.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Stops it at once, in order.
    pub(crate) async fn stop(self) {
        self.shutdown.hard.cancel();
        self.end().await.expect("the agent ends with an error");
    }
}

pub(crate) fn key(trial: &str, epoch: u32) -> TrialKey {
    TrialKey { trial: trial.parse().unwrap(), epoch: Epoch(epoch) }
}

/// Fills the spool under `folder` as an earlier process would have.
pub(crate) fn fill(folder: &Path, key: &TrialKey, records: &[Vec<u8>], finished: bool) {
    let mut spool = Spool::open(&folder.join("spool"), QUOTA).unwrap();
    for record in records {
        spool.append(key, record).unwrap();
    }
    if finished {
        spool.finish(key).unwrap();
    }
}

/// What the spool under `folder` still holds, by trial.
pub(crate) fn held(folder: &Path) -> Vec<String> {
    let spool = Spool::open(&folder.join("spool"), QUOTA).unwrap();
    spool.heads().into_iter().map(|head| head.key.to_string()).collect()
}
