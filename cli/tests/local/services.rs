//! The services as processes: signals, settings, tokens, and what a person sees when something is wrong.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use regatta_agent::spool::{Spool, TrialKey};
use regatta_core::trial::Epoch;
use serde_json::Value;

use crate::harness::{Home, Watchdog, signal};

/// A service whose first line has been read.
pub(crate) struct Service {
    child: Child,
    first_line: String,
    watchdog: Watchdog,
}

impl Service {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::on(&child);
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        Self { child, first_line, watchdog }
    }

    pub(crate) fn coordinator(home: &Home, more: &[&str]) -> Self {
        let arguments = [&["coordinator", "--listen", "127.0.0.1:0"], more].concat();
        Self::start(home.command(&arguments))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.first_line.trim().strip_prefix("listening on ").unwrap())
    }

    /// Its exit code and what it logged.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let status = self.child.wait().unwrap();
        self.watchdog.stand_down();
        (status.code(), log)
    }

    pub(crate) fn stop(self, name: &str) -> (Option<i32>, String) {
        signal(self.child.id(), name);
        self.wait()
    }
}

/// An agent that has connected: its log says so.
fn connected(home: &Home, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>, Watchdog) {
    let mut command = home.command(&[&["agent", "--log-format", "json"], arguments].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let watchdog = Watchdog::on(&child);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut log, "connected to the coordinator");
    (child, log, watchdog)
}

fn wait_for(log: &mut impl BufRead, message: &str) -> Value {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "'{message}' was not logged:\n{seen}");
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        if event["message"].as_str().is_some_and(|found| found.contains(message)) {
            return event;
        }
        seen.push_str(&line);
    }
}

#[cfg(unix)]
#[test]
fn the_first_signal_stops_a_coordinator_and_an_agent_in_good_order() {
    for name in ["TERM", "INT"] {
        let home = Home::new();
        let coordinator = Service::coordinator(&home, &[]);
        let url = coordinator.url();
        let (mut agent, mut log, watchdog) = connected(&home, &["--coordinator", &url, "--name", "gpu-07"]);
        signal(agent.id(), name);
        wait_for(&mut log, "stops in good order");
        assert_eq!(agent.wait().unwrap().code(), Some(0));
        watchdog.stand_down();
        let (code, log) = coordinator.stop(name);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("coordinator stopped"), "{log}");
        assert!(!home.path("regatta.sqlite-wal").exists(), "the write-ahead log was left behind");
    }
}

#[cfg(unix)]
#[test]
fn an_agents_name_and_spool_are_free_again_when_it_has_left() {
    let home = Home::new();
    let coordinator = Service::coordinator(&home, &[]);
    let url = coordinator.url();
    for _ in 0..2 {
        let (mut agent, mut log, watchdog) = connected(&home, &["--coordinator", &url, "--name", "gpu-07"]);
        let output = home.regatta(&["agent", "--coordinator", &url, "--name", "gpu-07"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("in use by another agent"), "{message}");
        signal(agent.id(), "TERM");
        wait_for(&mut log, "stops in good order");
        assert_eq!(agent.wait().unwrap().code(), Some(0));
        watchdog.stand_down();
    }
    assert_eq!(coordinator.stop("TERM").0, Some(0));
}

#[cfg(unix)]
#[test]
fn the_second_signal_stops_an_agent_at_once_and_its_spool_stays() {
    let home = Home::new();
    // There is something to deliver and nobody to take it: leaving in good order takes its time.
    let folder = home.path("spool/gpu-07");
    std::fs::create_dir_all(&folder).unwrap();
    let key = TrialKey { trial: "run.t0".parse().unwrap(), epoch: Epoch(1) };
    let mut spool = Spool::open(&folder, 1 << 20).unwrap();
    spool.append(&key, b"a record").unwrap();
    spool.finish(&key).unwrap();
    drop(spool);
    let arguments = ["agent", "--log-format", "json", "--name", "gpu-07", "--coordinator", "http://127.0.0.1:9"];
    let mut child = home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let watchdog = Watchdog::on(&child);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut log, "no connection to the coordinator");
    signal(child.id(), "TERM");
    wait_for(&mut log, "stops in good order");
    signal(child.id(), "TERM");
    wait_for(&mut log, "stops at once");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    watchdog.stand_down();
    let spool = Spool::open(&folder, 1 << 20).unwrap();
    assert_eq!(spool.heads().into_iter().map(|head| head.key).collect::<Vec<_>>(), [key]);
}

#[test]
fn settings_come_from_file_environment_and_flags_and_say_so() {
    let home = Home::new();
    home.file("coordinator.toml", "listen = \"127.0.0.1:1111\"\nmetrics = \"127.0.0.1:2222\"\nmax_connections = 7\n");
    let mut command = home.command(&["coordinator", "--print-config", "--max-connections", "9"]);
    let output = command.env("REGATTA_COORDINATOR_METRICS", "127.0.0.1:3333").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8(output.stdout).unwrap();
    let shown = shown.replace(home.path("").to_str().unwrap(), "HOME/");
    let squeezed: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        squeezed,
        [
            "listen = \"127.0.0.1:1111\" # file HOME/coordinator.toml",
            "db = \"HOME/regatta.sqlite\" # default",
            "require_token = false # default",
            "metrics = \"127.0.0.1:3333\" # environment REGATTA_COORDINATOR_METRICS",
            "metrics_public = false # default",
            "max_connections = 9 # flag --max-connections",
            "serve_models = true # default",
            "backups = 7 # default",
            "log = \"info\" # default",
            "log_format = \"human\" # default",
        ]
    );
}

#[test]
fn no_secret_is_shown_with_the_settings() {
    let home = Home::new();
    let token = home.regatta(&["token", "create", "--role", "agent", "--name", "gpu-07"]);
    assert_eq!(token.status.code(), Some(0), "{}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    let mut command = home.command(&["agent", "--print-config", "--name", "gpu-07", "--label", "gpu=h100"]);
    let output = command.env("REGATTA_TOKEN", &token).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("# token: set, from environment REGATTA_TOKEN"), "{shown}");
    assert!(shown.contains("label = [\"gpu=h100\"]"), "{shown}");
    assert!(!shown.contains(&token[25..]), "{shown}");
}

#[test]
fn wrong_settings_are_bad_input() {
    let home = Home::new();
    home.file("typo.toml", "lisen = \"127.0.0.1:1111\"\n");
    for (arguments, parts) in [
        (vec!["coordinator", "--config", "typo.toml"], vec!["typo.toml:1", "lisen", "did you mean 'listen'"]),
        (vec!["coordinator", "--config", "none.toml"], vec!["none.toml"]),
        (vec!["coordinator", "--listen", "0.0.0.0:0"], vec!["0.0.0.0:0", "--tls-cert"]),
        (vec!["coordinator", "--listen", "127.0.0.1"], vec!["127.0.0.1", "--listen"]),
        (vec!["coordinator", "--listen", "127.0.0.1:0", "--tls-cert", "a.pem"], vec!["tls_key"]),
        (vec!["coordinator", "--log", "loud"], vec!["loud", "trace"]),
        (vec!["agent", "--coordinator", "fleet:7600"], vec!["scheme", "fleet", "7600"]),
        (vec!["agent", "--coordinator", "http://fleet"], vec!["no port", "host fleet"]),
        (vec!["agent", "--coordinator", "https://fleet:7600"], vec!["--ca"]),
        (vec!["agent", "--coordinator", "https://fleet:7600", "--ca", "none.pem"], vec!["authority", "none.pem"]),
        (vec!["agent", "--token-file", "none"], vec!["token file", "none"]),
        (vec!["agent", "--label", "h100"], vec!["KEY=VALUE"]),
        (vec!["agent", "--name", "GPU 7"], vec!["agent name"]),
        (vec!["token", "revoke", "nobody"], vec!["nobody", "token list"]),
        (vec!["token", "create", "--role", "admin", "--name", "me"], vec!["admin", "submitter"]),
        (vec!["token", "create", "--role", "viewer", "--name", "me", "--expires", "soon"], vec!["soon", "30d"]),
    ] {
        let output = home.regatta(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}

#[test]
fn a_second_coordinator_or_a_taken_port_is_bad_input() {
    let home = Home::new();
    let first = Service::coordinator(&home, &[]);
    let output = home.regatta(&["coordinator", "--listen", "127.0.0.1:0"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(&format!("locked by pid {}", first.child.id())), "{message}");
    let address = first.url().replace("http://", "");
    let output = home.regatta(&["coordinator", "--listen", &address, "--db", "other.sqlite"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(&address) && message.contains("in use"), "{message}");
    assert_eq!(first.stop("TERM").0, Some(0));
}

#[cfg(unix)]
#[test]
fn an_agent_without_a_good_token_ends_with_one_line_and_keeps_its_spool() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let coordinator = Service::coordinator(&home, &["--require-token"]);
    let url = coordinator.url();
    let refused = |arguments: &[&str], reason: &str| {
        let output = home.regatta(&[&["agent", "--coordinator", &url, "--name", "gpu-07"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = message.lines().last().unwrap_or_default().to_owned();
        assert_ne!(output.status.code(), Some(0), "{message}");
        assert!(last.starts_with("error: ") && last.contains(reason), "{reason} is not in: {message}");
        assert!(home.path("spool/gpu-07").is_dir() || reason.contains("chmod"));
        message
    };
    refused(&[], "a token is needed here");

    // Made while the coordinator runs.
    let token = home.regatta(&["token", "create", "--role", "agent", "--name", "gpu-07"]);
    let file = home.file("token", &String::from_utf8(token.stdout).unwrap());
    let secret = std::fs::read_to_string(&file).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    refused(&["--token-file", "token"], "chmod 600");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (agent, mut log, watchdog) =
        connected(&home, &["--coordinator", &url, "--name", "gpu-07", "--token-file", "token"]);
    let revoked = home.regatta(&["token", "revoke", "gpu-07", "--json"]);
    assert_eq!(revoked.status.code(), Some(0));
    let revoked: Value = serde_json::from_slice(&revoked.stdout).unwrap();
    assert!(secret.contains(revoked["revoked"][0].as_str().unwrap()), "{revoked}");
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 1);
    // It was taken once: it stays, measures on, and says what is wrong.
    let event = wait_for(&mut log, "no connection to the coordinator");
    assert!(event["reason"].as_str().unwrap().contains("revoked"), "{event}");
    signal(agent.id(), "TERM");
    let mut agent = agent;
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    watchdog.stand_down();

    let message = refused(&["--token-file", "token"], "has been revoked");
    assert!(!message.contains(&secret.trim()[25..]), "{message}");
    let listed = home.regatta(&["token", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((&listed[0]["standing"], &listed[0]["name"]), (&Value::from("revoked"), &Value::from("gpu-07")));
    assert!(!listed.to_string().contains(&secret.trim()[25..]));
    let (code, log) = coordinator.stop("TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(&secret.trim()[25..]), "the token was logged");
}
