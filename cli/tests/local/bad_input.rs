//! Bad input: exit code 2, a message that says what, where and how to mend it, and nothing is started.

use std::process::Output;

use crate::harness::Home;

/// The message of a command that must fail as bad input.
fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

#[test]
fn all_mistakes_of_a_scenario_are_named_at_once() {
    let home = Home::new();
    let scenario = home.file(
        "bad.toml",
        "schema = 1\nname = \"x\"\nmodels = [\"regatta-15\"]\nbackends = [\"candel\"]\nprecisions = [\"f32\"]\n\
         [[workload]]\nname = \"a\"\nprompt_tokens = 8\ngenerate = 8\nbacth = 2\n",
    );
    for command in ["run", "plan"] {
        let message = refused(&home.regatta(&[command, scenario.to_str().unwrap()]));
        for part in ["bad.toml:3", "regatta-15m", "bad.toml:4", "candle", "bad.toml:10", "bacth", "batch"] {
            assert!(message.contains(part), "{part} is not in:\n{message}");
        }
    }
    assert!(!home.path("regatta.sqlite").exists(), "a database was made for a scenario that can't run");
}

#[test]
fn a_missing_scenario_is_named() {
    let message = refused(&Home::new().regatta(&["run", "nowhere.toml"]));
    assert!(message.contains("nowhere.toml"), "{message}");
}

#[test]
fn a_device_that_is_not_here_is_named_with_those_that_are() {
    let home = Home::new();
    let scenario = home.scenario(&["a"], 1, "1m");
    let text = std::fs::read_to_string(&scenario).unwrap().replace("[policy]\n", "devices = [\"cuda:7\"]\n[policy]\n");
    std::fs::write(&scenario, text).unwrap();
    for command in ["run", "plan"] {
        let message = refused(&home.regatta(&[command, scenario.to_str().unwrap()]));
        assert!(message.contains("cuda") && message.contains("cpu"), "{message}");
    }
}

#[test]
fn a_database_that_is_a_folder_or_not_ours_is_refused_and_left_alone() {
    let home = Home::new();
    let scenario = home.scenario(&["a"], 1, "1m");
    let scenario = scenario.to_str().unwrap();
    std::fs::create_dir(home.path("folder")).unwrap();
    let message = refused(&home.regatta(&["run", scenario, "--db", "folder"]));
    assert!(message.contains("folder"), "{message}");

    home.file("notes.sqlite", "these are my notes, not a database");
    let message = refused(&home.regatta(&["run", scenario, "--db", "notes.sqlite"]));
    assert!(message.contains("notes.sqlite"), "{message}");
    let text = std::fs::read_to_string(home.path("notes.sqlite")).unwrap();
    assert_eq!(text, "these are my notes, not a database");
}

#[test]
fn variables_that_change_what_is_measured_are_named_withheld_and_recorded() {
    let home = Home::new();
    let scenario = home.scenario(&["a"], 1, "1m");
    let mut command = home.command(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    // Empty, but there: that is what llama.cpp asks for.
    let output = command.env("GGML_CUDA_DISABLE_GRAPHS", "").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("not passed on to workers") && said.contains("GGML_CUDA_DISABLE_GRAPHS"), "{said}");
    let report = String::from_utf8(home.regatta(&["report", "--format", "json"]).stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let facts = report["report"]["runs"][0]["hosts"][0]["facts"].as_array().unwrap();
    let recorded =
        facts.iter().find(|fact| fact["name"] == "environment withheld" || fact["name"] == "environment_withheld");
    assert_eq!(recorded.unwrap()["meaning"], "GGML_CUDA_DISABLE_GRAPHS");
}

#[test]
fn a_report_without_runs_says_so() {
    let home = Home::new();
    let output = home.regatta(&["report", "--db", "none.sqlite"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("none.sqlite"));
}

#[test]
fn a_report_of_a_database_in_which_nothing_was_run_yet_says_how_to_begin() {
    let home = Home::new();
    // A database with all its tables and no run.
    assert_eq!(home.regatta(&["token", "create", "--role", "viewer", "--name", "me"]).status.code(), Some(0));
    for format in ["html", "png", "svg", "csv", "json", "jsonl", "md", "junit", "bmf", "perfherder"] {
        let output = home.regatta(&["report", "--format", format]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.starts_with("error: no runs in ") && message.contains("regatta.sqlite"), "{message}");
        assert!(message.contains("regatta run SCENARIO"), "{message}");
        assert!(output.stdout.is_empty(), "nothing is not a report");
    }
    assert!(!home.path("regatta-out").exists());
}

#[test]
fn a_report_says_where_it_is_or_what_is_in_it() {
    let message = refused(&Home::new().regatta(&["report", "--json", "--format", "csv"]));
    assert!(message.contains("--json") && message.contains("--format"), "{message}");
    let message = refused(&Home::new().regatta(&["report", "--follow", "--format", "junit"]));
    assert!(message.contains("--follow") && message.contains("--format"), "{message}");
}

#[test]
fn real_weights_that_are_not_here_fail_their_cell_with_the_fix() {
    let home = Home::new();
    let scenario = home.scenario(&["a"], 1, "1m");
    let text = std::fs::read_to_string(&scenario)
        .unwrap()
        .replace("\"fake\"", "\"llama.cpp\"")
        .replace("regatta-15m", "tinyllama-1.1b")
        .replace("\"synthetic\"", "\"real\"");
    std::fs::write(&scenario, text).unwrap();
    let output = home.regatta(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = home.regatta(&["show", "0", "--json"]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("regatta models"), "the fix is not in: {text}");
}
