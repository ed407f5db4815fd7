//! A coordinator and agents as processes of their own, and the commands that people give them.

#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Home, Watchdog, signal};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that does not outlive its test.
struct Service {
    child: Child,
    watchdog: Option<Watchdog>,
}

impl Service {
    fn start(home: &Home, arguments: &[&str], stdout: Stdio) -> Self {
        let child = home.command(arguments).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
        let watchdog = Some(Watchdog::on(&child));
        Self { child, watchdog }
    }

    /// Asks it to stop, and gives its exit code.
    fn stop(&mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap().code()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.watchdog.take().unwrap().stand_down();
    }
}

/// A coordinator with agents.
struct Fleet {
    home: Home,
    coordinator: Service,
    address: String,
    agents: BTreeMap<&'static str, Service>,
}

impl Fleet {
    fn new(agents: &[&'static str]) -> Self {
        let home = Home::new();
        let (coordinator, address) = start_coordinator(&home, "127.0.0.1:0");
        let mut fleet = Self { home, coordinator, address, agents: BTreeMap::new() };
        for &name in agents {
            let arguments = ["agent", "--coordinator", &fleet.url(), "--name", name, "--label", "site=test"];
            fleet.agents.insert(name, Service::start(&fleet.home, &arguments, Stdio::null()));
        }
        fleet.wait_for_agents(|found| found.iter().filter(|agent| agent["state"] == "ready").count() == agents.len());
        fleet
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same database at the same address.
    fn restart_coordinator(&mut self) {
        (self.coordinator, _) = start_coordinator(&self.home, &self.address);
    }

    fn regatta(&self, arguments: &[&str]) -> Output {
        self.home.regatta(&[arguments, &["--coordinator", &self.url()]].concat())
    }

    /// What a command prints as JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.regatta(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn submit(&self, scenario: &std::path::Path) -> String {
        let output = self.regatta(&["submit", scenario.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn wait_for_agents(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = self.json(&["agents"]).as_array().unwrap().clone();
            if enough(&agents) {
                return agents;
            }
            assert!(Instant::now() < deadline, "agents: {agents:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn start_coordinator(home: &Home, listen: &str) -> (Service, String) {
    let mut service = Service::start(home, &["coordinator", "--listen", listen], Stdio::piped());
    let mut line = String::new();
    BufReader::new(service.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").expect("it did not start").to_owned();
    (service, address)
}

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// How often each cell ended, by its hash.
fn ends(events: &[Value]) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "cell_ended") {
        *ends.entry(event["cell"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    ends
}

#[test]
fn a_run_of_two_agents_reads_the_same_from_afar_and_from_the_database() {
    let fleet = Fleet::new(&["host-a", "host-b"]);
    let scenario = fleet.home.scenario(&["one", "two", "three"], 3, "60s");
    let run = fleet.submit(&scenario);
    let watched = fleet.regatta(&["watch", &run[..13], "--json"]);
    let seen = events(&watched);
    assert_eq!(watched.status.code(), Some(0), "{}\n{seen:#?}", String::from_utf8_lossy(&watched.stderr));
    assert_eq!((&seen[0]["event"], &seen[0]["run"]), (&"run".into(), &run.as_str().into()));
    assert_eq!(seen.last().unwrap()["event"], "run_ended");
    assert!(ends(&seen).values().all(|times| *times == 1));

    let database = fleet.home.path("regatta.sqlite");
    let database = database.to_str().unwrap();
    let here = |arguments: &[&str]| {
        let output = fleet.home.regatta(&[arguments, &["--db", database]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let shown = fleet.json(&["show", &run]);
    assert_eq!(shown, here(&["show", &run, "--json"]));
    assert_eq!(fleet.json(&["runs"]), here(&["runs", "--json"]));
    let agents: BTreeSet<&str> =
        shown["cells"].as_array().unwrap().iter().map(|cell| cell["agent"].as_str().unwrap()).collect();
    assert_eq!(agents, BTreeSet::from(["host-a", "host-b"]));

    // The report of the fetched run says what the report of the coordinator's own database says.
    let without_time = |mut report: Value| {
        let report_at = report["report"].as_object_mut().unwrap();
        report_at.retain(|key, _| key != "generated_at");
        report
    };
    let output = fleet.regatta(&["report", &run, "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let fetched = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert_eq!(fetched["samples"].as_array().unwrap().len(), 2 * 3 * 3);
    assert_eq!(without_time(fetched), without_time(here(&["report", &run, "--format", "json"])));
}

#[test]
fn watching_survives_a_coordinator_that_is_killed_and_shows_no_cell_twice() {
    let mut fleet = Fleet::new(&["host-a"]);
    let scenario = fleet.home.scenario(&["one", "two", "three", "four", "five", "six"], 20, "60s");
    let run = fleet.submit(&scenario);
    let url = fleet.url();
    let mut watching = fleet.home.start(&["watch", &run, "--coordinator", &url]);
    let mut seen = vec![watching.wait_for(|event| event["event"] == "cell_ended")];
    fleet.coordinator.kill();
    watching.wait_for(|event| {
        seen.push(event.clone());
        event["event"] == "connection_lost"
    });
    fleet.restart_coordinator();
    watching.wait_for(|event| {
        seen.push(event.clone());
        event["event"] == "connected_again"
    });
    watching.wait_for(|event| {
        seen.push(event.clone());
        event["event"] == "run_ended"
    });
    assert_eq!(watching.finish().code(), Some(0));
    assert_eq!(seen.iter().filter(|event| event["event"] == "connection_lost").count(), 1, "said more than once");
    let ends = ends(&seen);
    assert!(ends.values().all(|times| *times == 1), "{ends:?}");
    let shown = fleet.json(&["show", &run]);
    let states: Vec<&Value> = shown["cells"].as_array().unwrap().iter().map(|cell| &cell["state"]).collect();
    assert!(states.len() == 6 && states.iter().all(|state| **state == "ok"), "{states:?}");
    assert_eq!(ends.len(), 6, "not every cell was shown");
}

#[test]
fn run_with_a_coordinator_submits_watches_and_reports() {
    let fleet = Fleet::new(&["host-a"]);
    let scenario = fleet.home.scenario(&["one", "fault-abort"], 2, "60s");
    let output = fleet.regatta(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("fault-abort: crashed"), "{said}");
    for file in ["out/report.html", "out/run.sqlite"] {
        assert!(fleet.home.path(file).is_file(), "{file} is missing");
    }
    let left: Vec<_> = std::fs::read_dir(fleet.home.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");

    // The cell that crashed is tried once more, in a run of its own.
    let run = fleet.json(&["runs"])[0]["run"].as_str().unwrap().to_owned();
    let retried = fleet.regatta(&["retry", &run, "--watch", "--json"]);
    assert_eq!(retried.status.code(), Some(4), "{}", String::from_utf8_lossy(&retried.stderr));
    let seen = events(&retried);
    assert_eq!((&seen[0]["event"], &seen[0]["cells"]), (&"submitted".into(), &1.into()));
    assert_eq!(seen[0]["retry_of"].as_str(), Some(run.as_str()));
    assert_eq!(seen.last().unwrap()["retry_of"].as_str(), Some(run.as_str()));
}

#[test]
fn a_backup_of_a_database_in_use_holds_its_runs() {
    let fleet = Fleet::new(&["one"]);
    let run = fleet.submit(&fleet.home.scenario(&["a"], 2, "1m"));
    let copy = fleet.home.path("copy.sqlite");
    let copy = copy.to_str().unwrap();
    let output = fleet.home.regatta(&["backup", copy]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let runs = fleet.home.regatta(&["runs", "--db", copy, "--json"]);
    assert!(String::from_utf8_lossy(&runs.stdout).contains(&run));

    let before = std::fs::read(copy).unwrap();
    let again = fleet.home.regatta(&["backup", copy]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("copy.sqlite is there already"));
    assert_eq!(std::fs::read(copy).unwrap(), before);
}

#[test]
fn a_cancelled_run_ends_and_says_so() {
    let fleet = Fleet::new(&["host-a"]);
    let scenario = fleet.home.scenario(&["one", "two", "three", "four"], 200, "60s");
    let run = fleet.submit(&scenario);
    let url = fleet.url();
    let mut watching = fleet.home.start(&["watch", &run, "--coordinator", &url]);
    watching.wait_for(|event| event["event"] == "progress" && event["phase"] == "measuring");
    let cancelled = fleet.json(&["cancel", &run]);
    assert_eq!(cancelled["run"].as_str(), Some(run.as_str()));
    watching.wait_for(|event| event["event"] == "run_ended" && event["state"] == "cancelled");
    assert_eq!(watching.finish().code(), Some(4));
}

#[test]
fn agents_are_drained_resumed_and_forgotten() {
    let mut fleet = Fleet::new(&["host-a"]);
    let drained = fleet.json(&["drain", "host-a", "--reason", "new driver"]);
    assert_eq!((&drained["state"], &drained["reason"]), (&"draining".into(), &"new driver".into()));
    assert_eq!(drained["labels"]["site"], "test");
    assert_eq!(fleet.json(&["resume", "host-a"])["state"], "ready");

    let connected = fleet.regatta(&["forget", "host-a"]);
    assert_eq!(connected.status.code(), Some(2), "a connected agent was forgotten");
    assert_eq!(fleet.agents.get_mut("host-a").unwrap().stop(), Some(0));
    fleet.wait_for_agents(|agents| agents[0]["state"] == "away");
    assert_eq!(fleet.json(&["forget", "host-a"])["state"], "forgotten");
    assert_eq!(fleet.json(&["agents"]), Value::Array(Vec::new()));
    let unknown = fleet.regatta(&["drain", "host-z"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("host-z"));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let fleet = Fleet::new(&[]);
    let unknown = fleet.regatta(&["watch", "nothing"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no run 'nothing'"));
    let both = fleet.regatta(&["runs", "--db", "regatta.sqlite"]);
    assert_eq!(both.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&both.stderr).contains("--coordinator and --db"));
    // Nobody listens on the discard port.
    for command in [&["runs"][..], &["watch", "x"], &["agents"], &["report", "x"]] {
        let output = fleet.home.regatta(&[command, &["--coordinator", "http://127.0.0.1:9"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("coordinator") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_coordinator_that_is_not_there_is_named_with_what_to_check() {
    let home = Home::new();
    // Bound and closed again: nobody listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = home.regatta(&["agents", "--coordinator", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("can't reach the coordinator at http://127.0.0.1:{port}/")), "{error}");
    assert!(error.contains("is a coordinator running there, and is the address right?"), "{error}");
}

#[test]
fn an_agent_measures_its_devices_before_it_connects_and_all_can_see() {
    let mut fleet = Fleet::new(&[]);
    let arguments =
        ["agent", "--coordinator", &fleet.url(), "--name", "here", "--canary", "daily", "--canary-seconds", "1"];
    fleet.agents.insert("here", Service::start(&fleet.home, &arguments, Stdio::null()));
    let agents = fleet.wait_for_agents(|found| found.iter().any(|agent| agent["state"] == "ready"));
    let canary = &agents[0]["devices"][0]["canary"];
    let (read, flops) = (canary["read_bytes_per_s"].as_f64().unwrap(), canary["flops"]["f32"].as_f64().unwrap());
    assert!((1e8..1e14).contains(&read) && (1e8..1e15).contains(&flops), "{canary}");
    let text = String::from_utf8(fleet.regatta(&["agents"]).stdout).unwrap();
    assert!(text.contains("canary of 20") && text.contains("GFLOPS f32"), "{text}");
    // Once a day is enough: the next start shows the same.
    assert_eq!(fleet.agents.get_mut("here").unwrap().stop(), Some(0));
    fleet.agents.insert("here", Service::start(&fleet.home, &arguments, Stdio::null()));
    let again = fleet.wait_for_agents(|found| found[0]["state"] == "ready");
    assert_eq!(&again[0]["devices"][0]["canary"], canary);
}
