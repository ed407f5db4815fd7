//! Two runs, and why they are or are not comparable.

use serde_json::{Value, json};

use crate::harness::Home;

/// Runs the scenario with these readings, and returns the run's id.
fn run(home: &Home, reading: &Value) -> String {
    let scenario = home.scenario(&["one", "two"], 2, "60s");
    let readings = home.file("reading.json", &reading.to_string());
    let mut command = home.command(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    let output = command.env("REGATTA_FAKE_TELEMETRY", readings).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let runs: Value = serde_json::from_slice(&home.regatta(&["runs", "--json"]).stdout).unwrap();
    runs[0]["run"].as_str().unwrap().to_owned()
}

fn against(home: &Home, a: &str, b: &str) -> Value {
    let output = home.regatta(&["show", a, "--against", b, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_runs_are_told_apart_by_what_was_set_on_the_machine_and_by_nothing_else() {
    let home = Home::new();
    let [first, again] = [0, 1].map(|_| run(&home, &json!({"governor": "performance"})));
    let saving = run(&home, &json!({"governor": "powersave"}));

    let same = against(&home, &first, &again);
    assert_eq!(same["groups"].as_array().unwrap().len(), 1, "{same:#}");
    assert_eq!(same["groups"][0]["differences"], json!([]));
    assert_eq!(same["groups"][0]["cells"].as_array().unwrap().len(), 2);
    assert_eq!((&same["unknown"], &same["only_a"], &same["only_b"]), (&json!(0), &json!(0), &json!(0)));

    let differs = against(&home, &first, &saving);
    let expected = json!([{"part": "governor", "a": "performance", "b": "powersave", "bearing": "explains"}]);
    assert_eq!(differs["groups"][0]["differences"], expected, "{differs:#}");

    let nobody = home.regatta(&["show", &first, "--against", "ffff"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("ffff"), "{nobody:?}");
}
