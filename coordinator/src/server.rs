//! Binding, serving and stopping.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use regatta_models::ModelError;
use regatta_models::library::Library;
use regatta_proto::MAX_MESSAGE;
use regatta_proto::pb::agent_service_server::{self, AgentServiceServer};
use regatta_proto::pb::artifact_service_server::{self, ArtifactServiceServer};
use regatta_proto::pb::run_service_server::{self, RunServiceServer};
use regatta_pull::PullError;
use regatta_store::{Reader, Standing, Store, StoreError, StoreOptions, Trap};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{info, warn};

use crate::accept::{self, Tls, TlsError};
use crate::actor::{self, Actor, Handle};
use crate::artifacts::{Artifacts, Pace};
use crate::auth::Gate;
use crate::dashboard::live::Live;
use crate::dashboard::{self, Dashboard, Drawing};
use crate::http as pages;
use crate::limit::Rate;
use crate::metrics::Metrics;
use crate::nights::{Backups, Nights, Planned};
use crate::runs::Runs;
use crate::session::Agents;
use crate::wal;
use crate::webhook::{Sender, Webhook};

/// How often the server asks a silent peer whether it is still there. Off by default in HTTP/2: a peer that vanishes
/// without a word would then hang its stream for ever.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long a peer may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest a call may take until its first answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls at the same time on one connection.
const MAX_STREAMS: u32 = 256;

/// Calls at the same time on one connection that have not been answered at all yet.
const MAX_CALLS: usize = 64;

/// Streams that a peer may open and reset at once.
const MAX_RESETS: usize = 20;

/// The largest message of a service that only answers questions about the coordinator, in bytes.
const SMALL_MESSAGE: usize = 16 * 1024;

/// The largest headers of a call, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// How long connections get to end by themselves when the coordinator stops.
const GRACE: Duration = Duration::from_secs(10);

/// How a coordinator runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one. Anything but loopback needs TLS, and everyone who calls needs
    /// credentials.
    pub listen: SocketAddr,
    /// Certificates; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// Whether callers need credentials on loopback too.
    pub require_token: bool,
    /// Where to serve `/metrics`, `/healthz` and `/readyz`, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Whether those may be seen from other machines: they need no credentials.
    pub metrics_public: bool,
    /// The dashboard, if there is one.
    pub dashboard: Option<DashboardAt>,
    /// How much callers may ask for.
    pub limits: Limits,
    /// The root of weights that agents may fetch; `None` serves none.
    pub model_root: Option<PathBuf>,
    /// The database file.
    pub db: PathBuf,
    /// How long an agent may be silent before its trial goes to the queue again.
    pub lease: Duration,
    /// How often agents are to send a heartbeat.
    pub heartbeat: Duration,
    /// Failures of the infrastructure in a row, over different trials and without a success between, after which an
    /// agent is quarantined; `None` for never.
    pub quarantine_after: Option<usize>,
    /// What is run when.
    pub schedules: Vec<Planned>,
    /// Who is told of verdicts on scheduled nights, and of firings that no run came of, if anybody.
    pub webhook: Option<Webhook>,
    /// Copies of the database that are made before a schedule fires, if any.
    pub backups: Option<Backups>,
    /// Wall-clock time, for labels and schedules.
    pub clock: fn() -> Timestamp,
    /// The longest that a read of the database may take.
    pub longest_read: Duration,
    /// Bytes of the write-ahead log beyond which there is an alarm.
    pub wal_limit: u64,
    /// What happens at certain moments of the database. For tests.
    pub trap: Option<Trap>,
}

/// Where the dashboard is, and what it is drawn with.
#[derive(Debug, Clone)]
pub struct DashboardAt {
    /// Its address, which may be that of the metrics; port 0 takes a free one. Anything but loopback needs TLS.
    pub listen: SocketAddr,
    /// Draws reports and charts.
    pub drawing: Arc<dyn Drawing>,
}

/// How much callers may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Calls of one address. A session is one call.
    pub calls: Rate,
    /// How fast weights are sent.
    pub weights: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, calls: Rate { per_second: 200.0, burst: 2000.0 }, weights: Pace::default() }
    }
}

impl Config {
    /// Whether everyone who calls needs credentials.
    fn requires_credentials(&self) -> bool {
        self.requires_credentials_at(self.listen)
    }

    /// Whether everyone needs credentials who comes to that address.
    fn requires_credentials_at(&self, address: SocketAddr) -> bool {
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        self.require_token || certificates || !address.ip().is_loopback()
    }

    /// A free port on loopback, leases of 40 s, heartbeats every 10 s, quarantine after 3 failures.
    pub fn new(db: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            require_token: false,
            metrics: None,
            metrics_public: false,
            dashboard: None,
            limits: Limits::default(),
            model_root: None,
            db: db.into(),
            lease: Duration::from_secs(40),
            heartbeat: Duration::from_secs(10),
            quarantine_after: Some(3),
            schedules: Vec::new(),
            webhook: None,
            backups: None,
            clock: Timestamp::now,
            longest_read: regatta_store::LONGEST_READ,
            wal_limit: 256 << 20,
            trap: None,
        }
    }
}

/// Why a coordinator can't run.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Everything would travel in the clear.
    #[error(
        "listening on {0} needs TLS: give --tls-cert FILE and --tls-key FILE; without them only loopback addresses \
         (127.0.0.1, [::1]) are allowed"
    )]
    NoTls(SocketAddr),
    /// Nobody could call.
    #[error(
        "listening on {0} needs a token or --client-ca: nobody could connect; make one with \
         'regatta token create --role submitter --name NAME', and one with '--role agent' for each agent"
    )]
    NoCredentials(SocketAddr),
    /// Anyone in the network could look.
    #[error("metrics on {0} could be seen by anyone in the network: use a loopback address, or say --metrics-public")]
    PublicMetrics(SocketAddr),
    /// A token would travel in the clear.
    #[error(
        "a dashboard on {0} needs TLS, because people send it a token: give --tls-cert FILE and --tls-key FILE, or use a \
         loopback address (127.0.0.1, [::1]) and reach it with 'ssh -L'"
    )]
    PlainDashboard(SocketAddr),
    /// The certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The reflection service can't be made.
    #[error("the description of the services is broken: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Another program listens there.
    #[error("address {0} is in use by another program: stop it, or choose another port")]
    AddressInUse(SocketAddr),
    /// Nobody can be told.
    #[error("the webhook can't be used: {0}")]
    Webhook(#[from] PullError),
    /// The weights can't be served.
    #[error("the model root can't be used")]
    Models(#[from] ModelError),
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
        if !config.listen.ip().is_loopback() && config.tls.is_none() {
            return Err(CoordinatorError::NoTls(config.listen));
        }
        if let Some(metrics) = config.metrics.filter(|metrics| !metrics.ip().is_loopback() && !config.metrics_public) {
            return Err(CoordinatorError::PublicMetrics(metrics));
        }
        let tls = config.tls.as_ref().map(|tls| tls.acceptor(b"h2")).transpose()?;
        let (listener, address) = listen(config.listen).await?;
        let http = Http::bind(&config).await?;
        let options = StoreOptions { trap: config.trap.clone(), longest_read: config.longest_read };
        let store = Store::open_with(&config.db, config.clock, options).await?;
        if let Err(error) = somebody_may_call(&config, store.reader()).await {
            store.close().await;
            return Err(error);
        }
        let sender = config.webhook.clone().map(|webhook| Sender::new(webhook, config.clock, &store));
        let sender = match sender.transpose() {
            Ok(sender) => sender,
            Err(error) => {
                store.close().await;
                return Err(error.into());
            }
        };
        Ok(Bound { config, address, listener, tls, http, sender, store })
    }
}

/// A listener that speaks plain HTTP, its address, and TLS where that is needed.
struct Web {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

/// The listeners for machines that watch and for browsers.
enum Http {
    /// Neither of them is wanted.
    Nothing,
    /// One for both.
    Shared(Web),
    /// One for each that is wanted.
    Apart { metrics: Option<Web>, dashboard: Option<Web> },
}

impl Http {
    async fn bind(config: &Config) -> Result<Self, CoordinatorError> {
        let dashboard = config.dashboard.as_ref().map(|dashboard| dashboard.listen);
        let tls = match dashboard.filter(|address| !address.ip().is_loopback()) {
            Some(address) => {
                let tls = config.tls.as_ref().ok_or(CoordinatorError::PlainDashboard(address))?;
                Some(tls.acceptor(b"http/1.1")?)
            }
            None => None,
        };
        let web = async |address: SocketAddr, tls| {
            let (listener, address) = listen(address).await?;
            Ok::<_, CoordinatorError>(Web { listener, address, tls })
        };
        Ok(match (config.metrics, dashboard) {
            (None, None) => Self::Nothing,
            (Some(metrics), Some(dashboard)) if metrics == dashboard => Self::Shared(web(dashboard, tls).await?),
            (metrics, dashboard) => Self::Apart {
                metrics: match metrics {
                    Some(address) => Some(web(address, None).await?),
                    None => None,
                },
                dashboard: match dashboard {
                    Some(address) => Some(web(address, tls).await?),
                    None => None,
                },
            },
        })
    }

    fn metrics(&self) -> Option<&Web> {
        match self {
            Self::Nothing => None,
            Self::Shared(web) => Some(web),
            Self::Apart { metrics, .. } => metrics.as_ref(),
        }
    }

    fn dashboard(&self) -> Option<&Web> {
        match self {
            Self::Nothing => None,
            Self::Shared(web) => Some(web),
            Self::Apart { dashboard, .. } => dashboard.as_ref(),
        }
    }

    /// Serves what is wanted, each at its place.
    fn serve(self, pages: pages::Pages, dashboard: Option<Arc<Dashboard>>, tasks: &TaskTracker) {
        let stop = pages.stop.clone();
        let serve = |Web { listener, address, tls }: Web, site: pages::Site| {
            info!(%address, encrypted = tls.is_some(), metrics = site.pages.is_some(), dashboard = site.dashboard.is_some(),
                "HTTP is served");
            tasks.spawn(pages::serve(listener, tls, site));
        };
        let pages = Arc::new(pages);
        match self {
            Self::Nothing => {}
            Self::Shared(web) => serve(web, pages::Site { pages: Some(pages), dashboard, stop }),
            Self::Apart { metrics, dashboard: web } => {
                if let Some(metrics) = metrics {
                    serve(metrics, pages::Site { pages: Some(pages), dashboard: None, stop: stop.clone() });
                }
                if let Some(web) = web {
                    serve(web, pages::Site { pages: None, dashboard, stop });
                }
            }
        }
    }
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), CoordinatorError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => CoordinatorError::AddressInUse(wanted),
        _ => CoordinatorError::Listen { address: wanted, source },
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// A coordinator in the network that nobody can call is a mistake that is better found now.
async fn somebody_may_call(config: &Config, reader: &Reader) -> Result<(), CoordinatorError> {
    let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if config.listen.ip().is_loopback() || certificates {
        return Ok(());
    }
    let now = (config.clock)();
    let good = reader.tokens().await?.iter().any(|token| token.standing(now) == Standing::Good);
    if good { Ok(()) } else { Err(CoordinatorError::NoCredentials(config.listen)) }
}

/// A coordinator that has its database and its address, and does not serve yet.
pub struct Bound {
    config: Config,
    address: SocketAddr,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    http: Http,
    sender: Option<Sender>,
    store: Store,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Bound {
    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the metrics, with the real port.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.http.metrics().map(|web| web.address)
    }

    /// The address of the dashboard, with the real port, and whether it is encrypted.
    pub fn dashboard_addr(&self) -> Option<(SocketAddr, bool)> {
        self.http.dashboard().map(|web| (web.address, web.tls.is_some()))
    }

    /// Reads the database, until the coordinator stops.
    pub fn reader(&self) -> Reader {
        self.store.reader().clone()
    }

    /// Serves until `shutdown`, then lets agents know, ends what is open, and closes the database.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
        let Self { config, address, listener, tls, http, sender, store } = self;
        let shutdown = shutdown.child_token();
        // Sessions end when the actor has said good-bye to them, streams of people along with them.
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (handle, events) = actor::channel();
        let actor = Actor::start(&config, &store, handle.notices.clone()).await?;
        let metrics = Metrics::default();
        let health = HealthReporter::new();
        let gate = Gate::new(config.requires_credentials(), store.reader().clone(), config.clock, config.limits.calls);
        let gate = Arc::new(gate);
        let room = Room { store: &store, handle: &handle, tasks: &tasks, stop: &stop };
        let live = config.dashboard.is_some().then(Live::new);
        let services = services(&room, &config, &metrics, &health, &gate, live.as_ref())?;
        if let Some(live) = &live {
            tasks.spawn(live.clone().follow(handle.notices.subscribe(), stop.clone()));
        }
        let dashboard = dashboard(&room, &config, &http, &gate, live).map(Arc::new);
        tasks.spawn(gate.follow(stop.clone()));
        tasks.spawn(say_when_stopping(health, shutdown.clone()));
        // Without schedules too: what one of them has run is judged, when it is there no more.
        tasks.spawn(Nights::new(&config, &store, handle.clone()).run(stop.clone()));
        if let Some(sender) = sender {
            tasks.spawn(sender.run(stop.clone()));
        }
        tasks.spawn(wal::watch(store.reader().clone(), config.wal_limit, stop.clone()));
        let pages = pages::Pages {
            metrics,
            reader: store.reader().clone(),
            actor: handle.clone(),
            wal_limit: config.wal_limit,
            stop: stop.clone(),
        };
        http.serve(pages, dashboard, &tasks);
        let encrypted = tls.is_some();
        let (incoming, accepting) = accept::accept(listener, tls, config.limits.connections);
        tasks.spawn(accepting);
        drop(handle);
        let mut actor = tasks.spawn(actor.run(events, shutdown.clone()));
        let credentials = config.requires_credentials();
        info!(%address, encrypted, credentials, db = %config.db.display(), "coordinator listens");

        let stopping = stop.clone();
        let served =
            server().serve_with_incoming_shutdown(services, incoming, async move { stopping.cancelled().await });
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
        .concurrency_limit_per_connection(MAX_CALLS)
        .load_shed(true)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .timeout(CALL_TIMEOUT)
}

/// The other end of gRPC's health service: agents' and people's clients learn that they had better look elsewhere.
async fn say_when_stopping(health: HealthReporter, shutdown: CancellationToken) {
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    shutdown.cancelled().await;
    for service in [""].into_iter().chain(SERVICES) {
        health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
    }
}

/// The services that have a health of their own.
const SERVICES: [&str; 3] =
    [agent_service_server::SERVICE_NAME, run_service_server::SERVICE_NAME, artifact_service_server::SERVICE_NAME];

/// What every service is made from.
struct Room<'r> {
    store: &'r Store,
    handle: &'r Handle,
    tasks: &'r TaskTracker,
    stop: &'r CancellationToken,
}

/// The dashboard, where one is wanted.
fn dashboard(room: &Room<'_>, config: &Config, http: &Http, gate: &Arc<Gate>, live: Option<Live>) -> Option<Dashboard> {
    let Web { address, tls, .. } = http.dashboard()?;
    let parts = dashboard::Parts {
        gate: Arc::clone(gate),
        reader: room.store.reader().clone(),
        actor: room.handle.clone(),
        live: live?,
        drawing: Arc::clone(&config.dashboard.as_ref()?.drawing),
        schedules: config.schedules.clone().into(),
        clock: config.clock,
        tasks: room.tasks.clone(),
        stop: room.stop.clone(),
    };
    Some(Dashboard::new(*address, tls.is_some(), config.requires_credentials_at(*address), parts))
}

fn services(
    room: &Room<'_>,
    config: &Config,
    metrics: &Metrics,
    health: &HealthReporter,
    gate: &Arc<Gate>,
    live: Option<&Live>,
) -> Result<Services<impl Grpc, impl Grpc>, CoordinatorError> {
    let Room { store, handle, tasks, stop } = *room;
    let agents =
        Agents::new(store, handle.clone(), tasks.clone(), stop.clone(), config, metrics.clone(), live.cloned());
    let runs = Runs::new(store, handle.clone(), tasks.clone(), stop.clone());
    let library = config.model_root.as_deref().map(Library::open).transpose()?;
    let artifacts = Artifacts::new(library, config.limits.weights, tasks.clone(), stop.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(regatta_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Services {
        gate: Arc::clone(gate),
        metrics: metrics.clone(),
        agents: AgentServiceServer::new(agents)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        runs: RunServiceServer::new(runs).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
        artifacts: ArtifactServiceServer::new(artifacts)
            .max_decoding_message_size(SMALL_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        health: HealthServer::new(HealthService::from_health_reporter(health.clone()))
            .max_decoding_message_size(SMALL_MESSAGE)
            .max_encoding_message_size(SMALL_MESSAGE),
        reflection: reflection()
            .build_v1()?
            .max_decoding_message_size(SMALL_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        old_reflection: reflection()
            .build_v1alpha()?
            .max_decoding_message_size(SMALL_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    })
}

/// A gRPC service, as the generated code makes them.
trait Grpc:
    Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = std::convert::Infallible,
        Future = BoxFuture<http::Response<Body>, std::convert::Infallible>,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = std::convert::Infallible,
            Future = BoxFuture<http::Response<Body>, std::convert::Infallible>,
        > + Clone
        + Send
        + 'static
{
}

/// All services behind one port, told apart by the path, and behind one gate. Six services need no router: the one
/// that tonic has would bring a web framework along.
#[derive(Clone)]
struct Services<R, O> {
    gate: Arc<Gate>,
    metrics: Metrics,
    agents: AgentServiceServer<Agents>,
    runs: RunServiceServer<Runs>,
    artifacts: ArtifactServiceServer<Artifacts>,
    health: HealthServer<HealthService>,
    reflection: R,
    old_reflection: O,
}

impl<R: Grpc, O: Grpc> Services<R, O> {
    fn route(&mut self, request: http::Request<Body>) -> BoxFuture<http::Response<Body>, std::convert::Infallible> {
        match request.uri().path().split('/').nth(1) {
            Some(agent_service_server::SERVICE_NAME) => self.agents.call(request),
            Some(run_service_server::SERVICE_NAME) => self.runs.call(request),
            Some(artifact_service_server::SERVICE_NAME) => self.artifacts.call(request),
            Some("grpc.health.v1.Health") => self.health.call(request),
            Some("grpc.reflection.v1.ServerReflection") => self.reflection.call(request),
            Some("grpc.reflection.v1alpha.ServerReflection") => self.old_reflection.call(request),
            _ => Box::pin(async { Ok(Status::unimplemented("there is no such service").into_http()) }),
        }
    }
}

impl<R: Grpc, O: Grpc> Service<http::Request<Body>> for Services<R, O> {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut services = self.clone();
        Box::pin(async move {
            match services.gate.admit(&mut request).await {
                Ok(()) => services.route(request).await,
                Err(status) => {
                    services.metrics.refused(status.code());
                    Ok(status.into_http())
                }
            }
        })
    }
}
