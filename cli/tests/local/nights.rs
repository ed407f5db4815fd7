//! Nights from measurement to verdict: flagged, measured again, certain the night after.

#![cfg(unix)]

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::Home;
use crate::services::Service;

/// Runs `regatta` with a worker beside it whose steps take so long: agents keep scripts in their own environment from workers,
/// and look beside their own program first.
fn with_worker(home: &Home, step_us: u32, arguments: &[&str]) -> Output {
    use std::os::unix::fs::PermissionsExt;
    let real = std::path::PathBuf::from(env!("CARGO_BIN_EXE_regatta"));
    let script = format!("{{\"load_us\": 0, \"prefill_us\": 5000, \"decode_us\": {step_us}}}");
    let worker = real.with_file_name("regatta-worker");
    let text = format!("#!/bin/sh\nREGATTA_FAKE='{script}' exec '{}' \"$@\"\n", worker.display());
    let path = home.file("bin/regatta-worker", &text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = home.path("bin/regatta");
    if !program.exists() {
        std::fs::copy(&real, &program).unwrap();
    }
    let usual = home.command(arguments);
    let mut command = Command::new(program);
    command.args(arguments).current_dir(usual.get_current_dir().unwrap());
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().unwrap()
}

/// A night whose steps take so long, measured by so many worker processes.
fn night(home: &Home, step_us: u32, passes: &str) {
    let scenario = home.scenario(&["a"], 1, "1m");
    // Few steps, which are long, so that what else the machine does is small beside them.
    let text = std::fs::read_to_string(&scenario).unwrap().replace("generate = 30", "generate = 6");
    std::fs::write(&scenario, text).unwrap();
    let arguments = ["run", scenario.to_str().unwrap(), "--out", "out", "--passes", passes, "--no-telemetry"];
    let output = with_worker(home, step_us, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

/// The finding on decoding.
fn decode(gate: &Value) -> &str {
    let verdicts = gate["verdicts"].as_array().unwrap();
    verdicts.iter().find(|verdict| verdict["metric"] == "decode").unwrap()["finding"].as_str().unwrap()
}

#[test]
fn a_slowdown_is_measured_again_the_same_night_and_certain_in_the_next() {
    let home = Home::new();
    for _ in 0..9 {
        night(&home, 10_000, "1");
    }
    // Far beyond what a busy machine does to a step of ten milliseconds.
    let threshold = ["--threshold", "30", "--json"];
    let gate = |arguments: &[&str]| home.regatta(&[&["gate"], arguments, &threshold].concat());
    let usual = gate(&[]);
    assert_eq!((usual.status.code(), decode(&json(&usual))), (Some(0), "steady"), "{}", said(&usual));

    night(&home, 100_000, "1");
    let flagged = gate(&[]);
    assert_eq!((flagged.status.code(), decode(&json(&flagged))), (Some(0), "flagged"), "{}", said(&flagged));
    let arguments = ["gate", "--confirm", "--no-telemetry", "--threshold", "30", "--json"];
    let confirmed = with_worker(&home, 100_000, &arguments);
    assert_eq!((confirmed.status.code(), decode(&json(&confirmed))), (Some(0), "suspected"), "{}", said(&confirmed));

    night(&home, 100_000, "6");
    let certain = gate(&[]);
    assert_eq!((certain.status.code(), decode(&json(&certain))), (Some(3), "confirmed"), "{}", said(&certain));
    let run = json(&certain)["run"].as_str().unwrap().to_owned();
    let junit = home.regatta(&["gate", &run, "--threshold", "30", "--format", "junit"]);
    assert_eq!(junit.status.code(), Some(3));
    assert!(
        said(&junit).contains("failures=\"1\"") && said(&junit).contains("<failure type=\"slower\""),
        "{}",
        said(&junit)
    );

    let answer = home.regatta(&["verdict", "expected", &run, "fake", "--reason", "on purpose"]);
    assert_eq!(answer.status.code(), Some(0), "{}", said(&answer));
    let history = home.regatta(&["history", "regatta-15m", "fake", "--metric", "decode"]);
    assert_eq!(history.status.code(), Some(0), "{}", said(&history));
    let text = said(&history);
    let reported = home.regatta(&["report", &run, "--out", "told"]);
    assert_eq!(reported.status.code(), Some(0), "{}", said(&reported));
    let page = std::fs::read_to_string(home.path("told/report.html")).unwrap();
    for part in ["Held against the nights before it: 1 slower", "A person said expected: on purpose."] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    for file in ["decode.svg", "decode.png"] {
        let drawn = home.regatta(&["history", "fake", "--metric", "decode", "--out", file]);
        assert_eq!(drawn.status.code(), Some(0), "{}", said(&drawn));
        assert!(std::fs::metadata(home.path(file)).unwrap().len() > 1000);
    }
    let both = home.regatta(&["history", "fake", "--out", "both.svg"]);
    assert!(both.status.code() == Some(2) && said(&both).contains("--metric"), "{}", said(&both));
    let odd = home.regatta(&["history", "fake", "--metric", "decode", "--out", "x.gif"]);
    assert!(odd.status.code() == Some(2) && said(&odd).contains(".svg"), "{}", said(&odd));
    assert_eq!(text.lines().count(), 2 + 11, "a night for each run, the one that repeated a night is none: {text}");
    assert!(text.contains("slower by") && text.contains("expected: on purpose"), "{text}");
}

/// Nine nights of a build that is good, judged, and one of a build that is slower.
fn a_slow_night_after_good_ones(home: &Home) {
    for _ in 0..9 {
        night(home, 10_000, "1");
    }
    let usual = confirm(home, 10_000);
    assert_eq!((usual.status.code(), decode(&json(&usual))), (Some(0), "steady"), "{}", said(&usual));
    night(home, 100_000, "1");
}

fn confirm(home: &Home, step_us: u32) -> Output {
    with_worker(home, step_us, &["gate", "--no-telemetry", "--confirm", "--threshold", "30", "--json"])
}

#[test]
fn a_build_that_is_slower_than_the_last_good_one_is_certain_the_same_night() {
    let home = Home::new();
    a_slow_night_after_good_ones(&home);
    let slower = confirm(&home, 100_000);
    assert_eq!((slower.status.code(), decode(&json(&slower))), (Some(3), "confirmed"), "{}", said(&slower));
    let text = said(&slower);
    assert!(text.contains("1 of them in turns with the build of the last good night"), "{text}");
    assert!(text.contains("10 worker processes in turns with the last good build"), "{text}");
}

#[test]
fn a_kept_build_that_was_changed_is_not_started_and_the_next_night_decides() {
    let home = Home::new();
    a_slow_night_after_good_ones(&home);
    let copies: Vec<_> = std::fs::read_dir(home.path("regatta.sqlite.spool/workers")).unwrap().flatten().collect();
    assert_eq!(copies.len(), 1);
    let started = home.path("started");
    let script = format!("#!/bin/sh\ntouch '{}'\n", started.display());
    std::fs::write(copies[0].path().join("regatta-worker"), script).unwrap();
    let slower = confirm(&home, 100_000);
    assert_eq!((slower.status.code(), decode(&json(&slower))), (Some(0), "suspected"), "{}", said(&slower));
    assert!(said(&slower).contains("some of these cells did not end well"), "{}", said(&slower));
    assert!(!started.exists());
}

#[test]
fn a_coordinator_that_has_the_database_keeps_what_it_says() {
    let home = Home::new();
    night(&home, 500, "1");
    let coordinator = Service::coordinator(&home, &[]);
    let url = coordinator.url();
    let unkept = home.regatta(&["gate", "--json"]);
    assert!(said(&unkept).contains("not kept; with --coordinator URL"), "{}", said(&unkept));
    let shown = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let answer = ["verdict", "expected", "0", "--reason", "x", "--coordinator", &url];
    let nothing = home.regatta(&answer);
    assert_eq!(nothing.status.code(), Some(2), "{}", said(&nothing));
    let kept = home.regatta(&["gate", "--coordinator", &url, "--json"]);
    assert_eq!(kept.status.code(), Some(0), "{}", said(&kept));
    assert_eq!(shown(&kept), shown(&unkept), "both say the same");
    assert_eq!(shown(&kept)["verdicts"].as_array().unwrap().len(), 2);
    let text = said(&home.regatta(&["gate", "--coordinator", &url]));
    assert!(text.contains("2 learning of 2"), "{text}");
    let odd = home.regatta(&["gate", "--coordinator", &url, "--confirm", "--allow-unfit"]);
    assert!(odd.status.code() == Some(2) && said(&odd).contains("this machine"), "{}", said(&odd));
    coordinator.stop("TERM");
    let history = json(&home.regatta(&["history", "fake", "--json"]));
    assert_eq!(history[0]["nights"][0]["finding"], "learning", "what it said is kept: {history}");
}

#[test]
fn what_cannot_be_judged_is_said_with_what_to_do() {
    let home = Home::new();
    night(&home, 500, "1");
    for (arguments, part) in [
        (vec!["gate", "--threshold", "0"], "above 0 and up to 100"),
        (vec!["gate", "--threshold", "101"], "above 0 and up to 100"),
        (vec!["gate", "--threshold", "NaN"], "above 0 and up to 100"),
        (vec!["gate", "ffff"], "'ffff'"),
        (vec!["history", "nothing-like-this"], "no cell is called 'nothing-like-this'"),
        (vec!["history", "fake", "--metric", "ttft"], "decode or prefill"),
        (vec!["verdict", "dismiss", "0", "--reason", "x"], "nothing of run"),
        (vec!["verdict", "exclude", "0", "--reason", " "], "say why"),
    ] {
        let refused = home.regatta(&arguments);
        assert!(refused.status.code() == Some(2) && said(&refused).contains(part), "{arguments:?}: {}", said(&refused));
    }
    let learning = home.regatta(&["gate"]);
    assert_eq!(learning.status.code(), Some(0), "{}", said(&learning));
    assert!(said(&learning).contains("2 learning of 2"), "{}", said(&learning));
    let excluded = home.regatta(&["verdict", "exclude", "0", "--reason", "a try"]);
    assert_eq!(excluded.status.code(), Some(0), "{}", said(&excluded));
    assert!(said(&home.regatta(&["gate"])).contains("2 excluded of 2"));
}
