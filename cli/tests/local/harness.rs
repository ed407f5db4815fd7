//! A home folder of its own for each test, and `regatta` running in it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use regatta_store::{Reader, Store};
use serde_json::Value;

/// The longest that any command of a test may take.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let worker = PathBuf::from(env!("CARGO_BIN_EXE_regatta"))
            .with_file_name(format!("regatta-worker{}", std::env::consts::EXE_SUFFIX));
        assert!(
            worker.is_file(),
            "{} is missing: cargo build --release --workspace --bins --example same_build",
            worker.display()
        );
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A scenario of the fake engine with these workloads.
    pub(crate) fn scenario(&self, workloads: &[&str], repetitions: u32, timeout: &str) -> PathBuf {
        let mut text = format!(
            "schema = 1\nname = \"test\"\nmodels = [\"regatta-15m\"]\nweights = \"synthetic\"\nbackends = [\"fake\"]\n\
             precisions = [\"f32\"]\n[policy]\nrepetitions = {repetitions}\ntimeout = \"{timeout}\"\n\
             [policy.warmup]\nmin_repetitions = 0\nmax_repetitions = 0\nmin_time = \"0s\"\n"
        );
        for (number, name) in workloads.iter().enumerate() {
            // Workloads that do the same work are refused, so each generates a token more than the one before.
            let _ = write!(text, "[[workload]]\nname = \"{name}\"\nprompt_tokens = 8\ngenerate = {}\n", 30 + number);
        }
        self.file("scenario.toml", &text)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_regatta"));
        command
            .args(arguments)
            .env("REGATTA_HOME", self.folder.path())
            .env_remove("REGATTA_DB")
            .env_remove("REGATTA_TOKEN")
            .env_remove("REGATTA_COORDINATOR")
            .env_remove("REGATTA_MODELS")
            .env_remove("REGATTA_WORKER_DIR")
            .env("REGATTA_AGENT_CANARY", "off")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn regatta(&self, arguments: &[&str]) -> Output {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::on(&child);
        let output = child.wait_with_output().unwrap();
        watchdog.stand_down();
        output
    }

    /// Starts `regatta … --json`, for reading its events.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Self::read_events(self.command(arguments))
    }

    /// Starts a command with `--json`, for reading its events.
    pub(crate) fn read_events(mut command: Command) -> Running {
        let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let watchdog = Watchdog::on(&child);
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines, watchdog }
    }

    /// The database, for reading.
    pub(crate) async fn database(&self) -> Reader {
        Store::open_read_only(&self.path("regatta.sqlite")).await.unwrap()
    }
}

/// A run whose events are read.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    watchdog: Watchdog,
}

impl Running {
    /// Reads events until one satisfies `wanted`; it must come before the program ends.
    pub(crate) fn wait_for(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the program ended before the event came");
            let event: Value = serde_json::from_str(&line).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Kills it with no chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.watchdog.stand_down();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads to the end.
    pub(crate) fn finish(mut self) -> ExitStatus {
        std::io::copy(&mut self.lines, &mut std::io::sink()).unwrap();
        let status = self.child.wait().unwrap();
        self.watchdog.stand_down();
        status
    }
}

/// Ends a program that outstays [`PATIENCE`], by its own process id, so that a test fails instead of hanging.
pub(crate) struct Watchdog {
    stand_down: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn on(child: &Child) -> Self {
        let (stand_down, told) = mpsc::channel();
        let id = child.id();
        std::thread::spawn(move || {
            if told.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                signal(id, "KILL");
            }
        });
        Self { stand_down }
    }

    pub(crate) fn stand_down(self) {
        self.stand_down.send(()).unwrap();
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().unwrap();
    assert!(status.success());
}
