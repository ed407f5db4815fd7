//! Binding, serving and stopping.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use regatta_proto::MAX_MESSAGE;
use regatta_proto::pb::agent_service_server::{self, AgentServiceServer};
use regatta_proto::pb::run_service_server::RunServiceServer;
use regatta_store::{Reader, Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::actor::{self, Actor, Handle};
use crate::runs::Runs;
use crate::session::Agents;

/// How often the server asks a silent peer whether it is still there. Off by default in HTTP/2: a peer that vanishes
/// without a word would then hang its stream for ever.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long a peer may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest a call may take until its first answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls at the same time on one connection.
const MAX_STREAMS: u32 = 256;

/// The largest headers of a call, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// How long connections get to end by themselves when the coordinator stops.
const GRACE: Duration = Duration::from_secs(10);

/// How a coordinator runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one. Loopback only: there is no authentication yet.
    pub listen: SocketAddr,
    /// The database file.
    pub db: PathBuf,
    /// How long an agent may be silent before its trial goes to the queue again.
    pub lease: Duration,
    /// How often agents are to send a heartbeat.
    pub heartbeat: Duration,
    /// Failures of the infrastructure in a row, over different trials and without a success between, after which an
    /// agent is quarantined; `None` for never.
    pub quarantine_after: Option<usize>,
    /// Wall-clock time, for labels.
    pub clock: fn() -> Timestamp,
}

impl Config {
    /// A free port on loopback, leases of 40 s, heartbeats every 10 s, quarantine after 3 failures.
    pub fn new(db: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            db: db.into(),
            lease: Duration::from_secs(40),
            heartbeat: Duration::from_secs(10),
            quarantine_after: Some(3),
            clock: Timestamp::now,
        }
    }
}

/// Why a coordinator can't run.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Anyone in the network could submit runs.
    #[error(
        "can't listen on {0}: there is no authentication yet, so only loopback addresses are allowed; \
         use 127.0.0.1 or [::1], and an SSH tunnel from other machines"
    )]
    NotLoopback(SocketAddr),
    /// Another program listens there.
    #[error("address {0} is in use by another program: stop it, or choose another port")]
    AddressInUse(SocketAddr),
    /// Any other trouble with the address.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server broke down.
    #[error("failed to serve")]
    Serve(#[from] tonic::transport::Error),
    /// A part of the coordinator ended that never should.
    #[error("the coordinator's scheduler ended unexpectedly")]
    SchedulerEnded,
}

/// Makes coordinators.
#[derive(Debug)]
pub struct Coordinator;

impl Coordinator {
    /// Opens the database and takes the address. Nothing is served before [`Bound::serve`].
    pub async fn bind(config: Config) -> Result<Bound, CoordinatorError> {
        if !config.listen.ip().is_loopback() {
            return Err(CoordinatorError::NotLoopback(config.listen));
        }
        let listen_error = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => CoordinatorError::AddressInUse(config.listen),
            _ => CoordinatorError::Listen { address: config.listen, source },
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let store = Store::open(&config.db, config.clock).await?;
        Ok(Bound { config, address, listener, store })
    }
}

/// A coordinator that has its database and its address, and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    address: SocketAddr,
    listener: TcpListener,
    store: Store,
}

impl Bound {
    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Reads the database, until the coordinator stops.
    pub fn reader(&self) -> Reader {
        self.store.reader().clone()
    }

    /// Serves until `shutdown`, then lets agents know, ends what is open, and closes the database.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
        let Self { config, address, listener, store } = self;
        let shutdown = shutdown.child_token();
        // Sessions end when the actor has said good-bye to them, streams of people along with them.
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (handle, events) = actor::channel();
        let actor = Actor::start(&config, &store, handle.notices.clone()).await?;
        let services = services(&store, &handle, &tasks, &stop, &config);
        drop(handle);
        let mut actor = tasks.spawn(actor.run(events, shutdown.clone()));
        info!(%address, db = %config.db.display(), "coordinator listens");

        let stopping = stop.clone();
        let served = server().serve_with_incoming_shutdown(
            services,
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move { stopping.cancelled().await },
        );
        let mut served = tasks.spawn(served);
        let result = tokio::select! {
            ended = &mut actor => {
                stop.cancel();
                // A clean end of the actor means shutdown; a panic of it must not look like one.
                let as_asked = ended.is_ok() && shutdown.is_cancelled();
                let ended = if as_asked { Ok(()) } else { Err(CoordinatorError::SchedulerEnded) };
                ended.and(drain(served).await)
            }
            ended = &mut served => {
                shutdown.cancel();
                stop.cancel();
                let _ = actor.await;
                flatten(ended)
            }
        };
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            warn!("some sessions did not end in time");
        }
        store.close().await;
        info!("coordinator stopped");
        result
    }
}

type Served = Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>;

fn flatten(served: Served) -> Result<(), CoordinatorError> {
    match served {
        Ok(result) => result.map_err(CoordinatorError::Serve),
        Err(_) => Err(CoordinatorError::SchedulerEnded),
    }
}

/// Waits for connections to end, but not for ever: a peer may keep its end open.
async fn drain(
    mut served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
) -> Result<(), CoordinatorError> {
    if let Ok(result) = tokio::time::timeout(GRACE, &mut served).await {
        return flatten(result);
    }
    served.abort();
    Ok(())
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .timeout(CALL_TIMEOUT)
}

fn services(
    store: &Store,
    handle: &Handle,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    config: &Config,
) -> Services {
    let agents = Agents::new(store, handle.clone(), tasks.clone(), stop.clone(), config.heartbeat);
    let runs = Runs::new(store.reader().clone(), handle.clone(), tasks.clone(), stop.clone());
    Services {
        agents: AgentServiceServer::new(agents)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        runs: RunServiceServer::new(runs).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
    }
}

/// Both services behind one port, told apart by the path. Two services need no router.
#[derive(Debug, Clone)]
struct Services {
    agents: AgentServiceServer<Agents>,
    runs: RunServiceServer<Runs>,
}

impl Service<http::Request<tonic::body::Body>> for Services {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1);
        if service == Some(agent_service_server::SERVICE_NAME) {
            self.agents.call(request)
        } else {
            // Answers "unimplemented" to everything that is not its own.
            self.runs.call(request)
        }
    }
}
