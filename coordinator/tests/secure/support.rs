//! A coordinator with tokens and certificates, and callers that show what the test gives them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use regatta_coordinator::{Config, Coordinator, CoordinatorError, Tls};
use regatta_core::token::{Role, Token};
use regatta_net::{Connection, Credentials, TokenSource};
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::agent_service_client::AgentServiceClient;
use regatta_proto::pb::coordinator_message::Message;
use regatta_proto::pb::run_service_client::RunServiceClient;
use regatta_proto::{PROTOCOL, pb};
use regatta_store::{NewToken, Reader, Tokens};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything takes; shorter than a person waits for a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Caller = InterceptedService<Channel, Credentials>;

/// A coordinator that serves.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) dashboard: Option<SocketAddr>,
    pub(crate) reader: Reader,
    db: PathBuf,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), CoordinatorError>>,
}

impl Server {
    pub(crate) async fn start(config: Config) -> Self {
        let db = config.db.clone();
        let bound = Coordinator::bind(config).await.unwrap();
        let (addr, metrics, reader) = (bound.addr(), bound.metrics_addr(), bound.reader());
        let dashboard = bound.dashboard_addr().map(|(address, _)| address);
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(bound.serve(shutdown.clone()));
        Self { addr, metrics, dashboard, reader, db, shutdown, tasks }
    }

    /// One that asks for tokens on loopback.
    pub(crate) async fn with_tokens(dir: &Path) -> Self {
        Self::start(Config { require_token: true, ..Config::new(dir.join("regatta.db")) }).await
    }

    /// A token made as a person makes it: beside the running coordinator.
    pub(crate) async fn token(&self, role: Role, name: &str) -> Token {
        self.token_until(role, name, None).await
    }

    pub(crate) async fn token_until(&self, role: Role, name: &str, expires_at: Option<Timestamp>) -> Token {
        let mut tokens = Tokens::open(&self.db, Timestamp::now).await.unwrap();
        let new = NewToken { role, name: name.to_owned(), expires_at };
        let token = tokens.create(&new, Timestamp::now()).await.unwrap();
        tokens.close().await.unwrap();
        token
    }

    pub(crate) async fn revoke(&self, which: &str) {
        let mut tokens = Tokens::open(&self.db, Timestamp::now).await.unwrap();
        assert!(tokens.revoke(which, Timestamp::now()).await.unwrap().is_some_and(|ids| !ids.is_empty()));
        tokens.close().await.unwrap();
    }

    /// The way to it, without TLS.
    pub(crate) fn plain(&self, token: Option<&Token>) -> Connection {
        let token = token.map_or(TokenSource::None, |token| TokenSource::Given(token.clone()));
        Connection { token, ..Connection::parse(&format!("http://{}", self.addr)).unwrap().into() }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

pub(crate) async fn channel(connection: &Connection) -> Result<Channel, tonic::transport::Error> {
    connection.endpoint().unwrap().connect().await
}

pub(crate) async fn people(connection: &Connection) -> RunServiceClient<Caller> {
    RunServiceClient::with_interceptor(channel(connection).await.unwrap(), connection.credentials().unwrap())
}

pub(crate) async fn list_runs(connection: &Connection) -> Result<(), Status> {
    people(connection).await.list_runs(pb::ListRunsRequest { limit: 1 }).await.map(|_| ())
}

pub(crate) fn hello(agent: &str) -> pb::AgentHello {
    pb::AgentHello {
        protocol: PROTOCOL,
        agent_id: agent.to_owned(),
        boot_id: "boot".to_owned(),
        version: "0.1.0".to_owned(),
        devices: vec![pb::Device {
            agent_id: agent.to_owned(),
            id: "cpu".to_owned(),
            name: "a processor".to_owned(),
            memory_bytes: Some(1 << 36),
            cores: Some(2),
            backends: vec!["fake".to_owned()],
            ..pb::Device::default()
        }],
        workers: vec!["{}".to_owned()],
        ..pb::AgentHello::default()
    }
}

/// An agent's session.
pub(crate) struct Agent {
    pub(crate) outbound: mpsc::Sender<pb::AgentMessage>,
    inbound: Streaming<pb::CoordinatorMessage>,
}

impl Agent {
    pub(crate) async fn greet(connection: &Connection, hello: pb::AgentHello) -> Result<Self, Status> {
        let (outbound, messages) = mpsc::channel(64);
        let channel = channel(connection).await.map_err(|error| Status::from_error(Box::new(error)))?;
        let mut client = AgentServiceClient::with_interceptor(channel, connection.credentials().unwrap());
        let inbound = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Self { outbound, inbound };
        agent.send(ToCoordinator::Hello(hello)).await;
        match agent.next().await? {
            Some(Message::Hello(_)) => Ok(agent),
            other => panic!("no greeting but {other:?}"),
        }
    }

    pub(crate) async fn send(&self, message: ToCoordinator) {
        // A session that is over does not read.
        let _ = self.outbound.send(pb::AgentMessage { message: Some(message) }).await;
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("nothing came");
        Ok(next?.and_then(|message| message.message))
    }

    /// The status with which the coordinator ends the session.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => break status,
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> (pb::Trial, u32) {
        match self.next().await.unwrap() {
            Some(Message::Assign(assign)) => (assign.trial.unwrap(), assign.epoch),
            other => panic!("no trial but {other:?}"),
        }
    }
}

/// An authority that issues certificates into files of a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    serial: u64,
}

impl Files {
    pub(crate) fn pair(&self) -> (PathBuf, PathBuf) {
        (self.cert.clone(), self.key.clone())
    }
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let authority = Self { folder: folder.to_owned(), name: name.to_owned(), issuer: Issuer::new(params, key) };
        std::fs::write(authority.file(), cert.pem()).unwrap();
        authority
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate for a name, good from now minus a day for so many days (none for one that was good yesterday).
    pub(crate) fn issue(&self, name: &str, serial: u64, days: i64) -> Files {
        let names = [name.to_owned(), "127.0.0.1".to_owned(), "localhost".to_owned()];
        let names = if name == "coordinator" { names.to_vec() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let now = std::time::SystemTime::now();
        let day = Duration::from_hours(24);
        params.not_before = (now - 2 * day).into();
        params.not_after = if days > 0 {
            (now + day * u32::try_from(days).unwrap()).into()
        } else {
            (now - Duration::from_hours(1)).into()
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.join(format!("{}-{name}-{serial}.{kind}.pem", self.name));
        let files = Files { cert: path("cert"), key: path("key"), serial };
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        files
    }

    /// The list of certificates that it takes back.
    pub(crate) fn revoke(&self, files: &Files) -> PathBuf {
        let now = std::time::SystemTime::now();
        let day = Duration::from_hours(24);
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(files.serial),
            revocation_time: (now - day).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - day).into(),
            next_update: (now + day).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.join(format!("{}.crl.pem", self.name));
        std::fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }
}

/// A configuration with TLS on loopback.
pub(crate) fn with_tls(dir: &Path, identity: &Files) -> Config {
    let tls = Tls { cert: identity.cert.clone(), key: identity.key.clone(), client_ca: None, client_crl: None };
    Config { tls: Some(tls), ..Config::new(dir.join("regatta.db")) }
}

pub(crate) fn in_an_hour() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(1)
}
