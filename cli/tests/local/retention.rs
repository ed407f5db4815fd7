//! What stays of old runs: pruning, pinning, and the way back from a backup.

use std::process::Output;

use serde_json::Value;

use crate::harness::Home;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(home: &Home, arguments: &[&str]) -> Value {
    let output = home.regatta(&[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

/// The ids of all runs, oldest first.
fn runs(home: &Home) -> Vec<String> {
    let runs = json(home, &["runs"]);
    let mut ids: Vec<String> =
        runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// A home with so many runs of a scenario.
fn home_with(count: usize) -> Home {
    let home = Home::new();
    let scenario = home.scenario(&["a"], 2, "1m");
    for _ in 0..count {
        let output = home.regatta(&["run", scenario.to_str().unwrap(), "--out", "out", "--no-telemetry"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    home
}

#[test]
fn old_runs_are_removed_as_was_said_before_and_pinned_ones_stay() {
    let home = home_with(4);
    let all = runs(&home);
    let output = home.regatta(&["pin", &all[1], "--reason", "release 2.1"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(json(&home, &["pin"])[0]["reason"], "release 2.1");

    let planned = json(&home, &["prune", "--keep-last", "1", "--dry-run"]);
    assert_eq!(runs(&home), all, "a dry run removes nothing");
    let output = home.regatta(&["prune", "--keep-last", "1"]);
    let text = said(&output);
    assert!(output.status.success() && text.contains("1 run (pinned)"), "{text}");
    assert_eq!(runs(&home), [all[1].clone(), all[3].clone()]);
    let removed: Vec<&str> =
        planned["removed"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(removed, [&all[0], &all[2]], "what was said would go");
    assert!(removed.iter().all(|run| text.contains(&format!("removed  {run}"))), "{text}");
    // What is left is whole.
    assert!(home.regatta(&["report", &all[3], "--out", "again"]).status.success());

    assert!(home.regatta(&["pin", &all[1], "--off"]).status.success());
    assert!(home.regatta(&["prune", "--older-than", "1", "--vacuum"]).status.success());
    assert_eq!(runs(&home).len(), 2, "they are of today");
}

#[test]
fn what_is_restored_is_reported_as_before() {
    let home = home_with(1);
    let first = runs(&home);
    let rows = |home: &Home| said(&home.regatta(&["report", &first[0], "--format", "csv"]));
    let before = rows(&home);
    assert!(before.lines().count() > 2, "{before}");
    assert!(home.regatta(&["backup", "monday.sqlite"]).status.success());
    let output = home.regatta(&["prune", "--keep-last", "0"]);
    assert!(output.status.success() && runs(&home).is_empty(), "{}", said(&output));
    let restored = json(&home, &["restore", "monday.sqlite"]);
    assert_eq!(runs(&home), first);
    assert_eq!(rows(&home), before);
    let replaced = restored["replaced"].as_str().unwrap();
    assert!(replaced.contains("regatta.sqlite.replaced-") && std::path::Path::new(replaced).is_file(), "{replaced}");
}

#[test]
fn what_is_not_meant_removes_nothing() {
    let home = home_with(1);
    for (arguments, part) in [
        (vec!["prune"], "--older-than"),
        (vec!["prune", "--keep-last", "0", "--scenario", "tset"], "there are runs of test"),
        (vec!["prune", "--keep-last", "0", "--keep", "nothing"], "--keep: there is no run 'nothing'"),
        (vec!["prune", "--older-than", "0"], "1..=36500"),
        (vec!["prune", "--keep-last", "0", "--db", "gone.sqlite"], "does not exist"),
        (vec!["pin", "nothing", "--reason", "x"], "there is no run 'nothing'"),
        (vec!["restore", "scenario.toml"], "not a database"),
        (vec!["restore", "gone.sqlite"], "gone.sqlite does not exist"),
    ] {
        let output = home.regatta(&arguments);
        let text = said(&output);
        assert!(output.status.code() == Some(2) && text.contains(part), "{arguments:?}: {text}");
    }
    let run = runs(&home).remove(0);
    for arguments in [vec!["pin", run.as_str()], vec!["pin", run.as_str(), "--off"]] {
        assert_eq!(home.regatta(&arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(runs(&home), [run]);
}
