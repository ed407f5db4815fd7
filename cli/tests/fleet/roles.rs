//! The test program started again, as a coordinator or an agent. A process of its own can be killed and stopped for real,
//! and unlike the `regatta` commands it takes leases and pauses that are as short as a test needs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use regatta_agent::{Agent, AgentConfig, Shutdown, Timing};
use regatta_coordinator::{Config, Coordinator};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The environment variable that says what to be.
pub(crate) const ROLE: &str = "REGATTA_TEST_ROLE";

/// The name of [`play`] for the test program's command line.
pub(crate) const PLAY: &str = "roles::play";

/// What a line begins with that says that the process is ready.
pub(crate) const READY: &str = "@ready ";

/// What to be.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    Coordinator { db: PathBuf, lease: Duration },
    Agent { id: String, coordinator: SocketAddr, folder: PathBuf, workers: PathBuf, fake: String, ledger: PathBuf },
}

impl Role {
    pub(crate) fn to_json(&self) -> String {
        let value = match self {
            Self::Coordinator { db, lease } => json!({ "db": db, "lease_ms": lease.as_millis() }),
            Self::Agent { id, coordinator, folder, workers, fake, ledger } => json!({
                "id": id, "coordinator": coordinator, "folder": folder, "workers": workers, "fake": fake,
                "ledger": ledger,
            }),
        };
        value.to_string()
    }

    fn from_json(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        match value["lease_ms"].as_u64() {
            Some(lease) => Self::Coordinator { db: text("db").into(), lease: Duration::from_millis(lease) },
            None => Self::Agent {
                id: text("id"),
                coordinator: text("coordinator").parse().unwrap(),
                folder: text("folder").into(),
                workers: text("workers").into(),
                fake: text("fake"),
                ledger: text("ledger").into(),
            },
        }
    }
}

/// Pauses that are short enough for a test.
pub(crate) fn timing(lease: Duration) -> Timing {
    Timing {
        lease: lease.mul_f64(0.75),
        spool_retry: Duration::from_millis(50),
        hello: Duration::from_secs(2),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        batch: Duration::from_millis(5),
        ack: Duration::from_secs(2),
        leave: Duration::from_secs(10),
        ..Timing::default()
    }
}

/// Plays the part that the environment gives it. As a test it does nothing.
#[test]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    // The test that started this process holds the other end: when it goes away, however that happens, so does this.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(9);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match Role::from_json(&role) {
            Role::Coordinator { db, lease } => coordinator(db, lease).await,
            Role::Agent { id, coordinator, folder, workers, fake, ledger } => {
                let uri: tonic::transport::Uri = format!("http://{coordinator}").parse().unwrap();
                let mut config =
                    AgentConfig::new(id.parse().unwrap(), uri, folder.join("models"), folder.join("spool"));
                config.search_beside_program = false;
                config.worker_dirs = vec![workers];
                config.worker_env =
                    vec![("REGATTA_FAKE".into(), fake.into()), ("REGATTA_FAKE_LEDGER".into(), ledger.into())];
                config.timing = timing(Duration::from_millis(800));
                agent(config).await;
            }
        }
    });
}

fn ready(what: impl std::fmt::Display) {
    println!("{READY}{what}");
    std::io::stdout().flush().unwrap();
}

async fn coordinator(db: PathBuf, lease: Duration) {
    let config = Config { lease, heartbeat: lease / 8, ..Config::new(db) };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let bound = Coordinator::bind(config).await.unwrap();
    ready(bound.addr());
    let shutdown = CancellationToken::new();
    let serve = bound.serve(shutdown.clone());
    let stop = async {
        terminate.recv().await;
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serve => served.unwrap(),
        () = stop => {}
    }
}

async fn agent(config: AgentConfig) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let agent = Agent::start(config).await.unwrap();
    ready("agent");
    let shutdown = Shutdown::new();
    let run = agent.run(shutdown.clone());
    let stop = async {
        terminate.recv().await;
        shutdown.soft.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = run => ended.unwrap(),
        () = stop => {}
    }
}
