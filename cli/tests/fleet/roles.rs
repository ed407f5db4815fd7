//! The test program started again, as a coordinator or an agent. A process of its own can be killed and stopped for real,
//! and unlike the `regatta` commands it takes leases and pauses that are as short as a test needs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_agent::{Agent, AgentConfig, Shutdown, Timing};
use regatta_coordinator::{Config, Coordinator, Tls};
use regatta_net::{Connection, TokenSource};
use regatta_store::{Moment, Trap};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The environment variable that says what to be.
pub(crate) const ROLE: &str = "REGATTA_TEST_ROLE";

/// What a coordinator that was killed by a trap leaves behind.
pub(crate) const SPRUNG: &str = "sprung";

/// What a bad disk takes for a sync.
pub(crate) const SLOW_SYNC: Duration = Duration::from_secs(2);

/// The name of [`play`] for the test program's command line.
pub(crate) const PLAY: &str = "roles::play";

/// What a line begins with that says that the process is ready.
pub(crate) const READY: &str = "@ready ";

/// What to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    Coordinator {
        db: PathBuf,
        lease: Duration,
        /// Whether an agent that fails trial after trial is put aside.
        quarantine: bool,
        /// A file that may say what is to happen at which moment of the writer: see [`spring`].
        trap: PathBuf,
        listen: SocketAddr,
        /// The files with its certificate and key.
        tls: Option<(PathBuf, PathBuf)>,
    },
    Agent {
        id: String,
        coordinator: SocketAddr,
        folder: PathBuf,
        workers: PathBuf,
        fake: String,
        ledger: PathBuf,
        lease: Duration,
        /// The files with the authority of the coordinator's certificate and with the agent's token.
        trust: Option<(PathBuf, PathBuf)>,
    },
}

impl Role {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap()
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
        ack: lease.mul_f64(2.5),
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
        match serde_json::from_str(&role).unwrap() {
            Role::Coordinator { db, lease, quarantine, trap, listen, tls } => {
                let quarantine_after = quarantine.then_some(3);
                let trap = Some(Trap::new(move |moment| spring(&trap, moment)));
                let tls = tls.map(|(cert, key)| Tls { cert, key, client_ca: None, client_crl: None });
                let heartbeat = lease / 8;
                let model_root = Some(db.with_file_name("models"));
                let config = Config { listen, tls, lease, heartbeat, quarantine_after, trap, ..Config::new(db) };
                coordinator(Config { model_root, ..config }).await;
            }
            Role::Agent { id, coordinator, folder, workers, fake, ledger, lease, trust } => {
                let way = way(coordinator, trust);
                let mut config =
                    AgentConfig::new(id.parse().unwrap(), way, folder.join("models"), folder.join("spool"));
                config.search_beside_program = false;
                config.worker_dirs = vec![workers];
                config.worker_env =
                    vec![("REGATTA_FAKE".into(), fake.into()), ("REGATTA_FAKE_LEDGER".into(), ledger.into())];
                config.timing = timing(lease);
                agent(config).await;
            }
        }
    });
}

/// The way to a coordinator: in the clear, or with these files of an authority and a token.
pub(crate) fn way(coordinator: SocketAddr, trust: Option<(PathBuf, PathBuf)>) -> Connection {
    let scheme = if trust.is_some() { "https" } else { "http" };
    let plain = Connection::from(Connection::parse(&format!("{scheme}://{coordinator}")).unwrap());
    match trust {
        Some((ca, token)) => Connection { ca: Some(ca), token: TokenSource::File(token), ..plain },
        None => plain,
    }
}

/// Does what the file asks for at this moment, if it is there: `committing kill`, `committed kill` or `committing sleep`,
/// which takes the two seconds that a bad disk takes for a sync.
///
/// A kill leaves the file `sprung` behind, with the number of records that were stored just before: seen through another
/// connection, which sees nothing of a transaction that is not on the disk.
fn spring(file: &Path, moment: Moment) {
    let Ok(wanted) = std::fs::read_to_string(file) else { return };
    let here = match moment {
        Moment::Committing => "committing",
        Moment::Committed => "committed",
        Moment::Migrating => "migrating",
    };
    let Some((_, what)) = wanted.split_once(' ').filter(|(when, _)| *when == here) else { return };
    match what {
        "sleep" => std::thread::sleep(SLOW_SYNC),
        "kill" => {
            let stored = stored_records(&file.with_file_name("regatta.sqlite"));
            std::fs::write(file.with_file_name(SPRUNG), stored.to_string()).unwrap();
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal may reach another thread first.
            loop {
                std::thread::park();
            }
        }
        other => panic!("no trap {other}"),
    }
}

/// Records that are stored, of all leases together.
pub(crate) fn stored_records(db: &Path) -> i64 {
    let db = rusqlite::Connection::open_with_flags(db, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.query_row("SELECT coalesce(sum(last_seq), 0) FROM deliveries", [], |row| row.get(0)).unwrap()
}

fn ready(what: impl std::fmt::Display) {
    println!("{READY}{what}");
    std::io::stdout().flush().unwrap();
}

async fn coordinator(config: Config) {
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
