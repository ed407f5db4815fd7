//! Devices and the doctor, on a machine whose accelerators are scripted.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::Home;

/// Two cards of a kind, in this order.
fn cards(home: &Home, ids: [&str; 2]) -> std::path::PathBuf {
    let card = |(number, id): (usize, &str)| json!({"id": format!("cuda:{number}"), "name": "H200", "facts": {"stable_id": id}});
    let all: Vec<Value> = ids.into_iter().enumerate().map(card).collect();
    home.file("devices.json", &Value::from(all).to_string())
}

fn with_cards(home: &Home, ids: [&str; 2], arguments: &[&str]) -> Output {
    home.command(arguments).env("REGATTA_FAKE_DEVICES", cards(home, ids)).output().unwrap()
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn devices_are_listed_with_what_tells_them_from_others() {
    let home = Home::new();
    let output = with_cards(&home, ["GPU-a", "GPU-b"], &["devices", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let devices = parsed(&output)["devices"].clone();
    let told: Vec<_> =
        devices.as_array().unwrap().iter().map(|d| (d["id"].clone(), d["facts"]["stable_id"].clone())).collect();
    let expected = [(json!("cpu"), Value::Null), (json!("cuda:0"), json!("GPU-a")), (json!("cuda:1"), json!("GPU-b"))];
    assert_eq!(told, expected);
    let text = String::from_utf8(with_cards(&home, ["GPU-a", "GPU-b"], &["devices"]).stdout).unwrap();
    assert!(text.contains("cuda:1  H200: fake\n  GPU-b\n"), "{text}");
}

#[test]
fn a_number_that_stands_for_another_card_is_told_and_its_results_are_not_compared() {
    let home = Home::new();
    let scenario = home.scenario(&["one"], 2, "60s");
    let run = |ids| {
        let output = with_cards(&home, ids, &["run", scenario.to_str().unwrap(), "--out", "out"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let runs = parsed(&home.regatta(&["runs", "--json"]));
        (runs[0]["run"].as_str().unwrap().to_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (first, quiet) = run(["GPU-a", "GPU-b"]);
    assert!(!quiet.contains("another device than before"), "{quiet}");
    let (swapped, warned) = run(["GPU-b", "GPU-a"]);
    assert!(
        warned.contains("cuda:0 is another device than before: GPU-b, which was cuda:1; GPU-a is cuda:1 now"),
        "{warned}"
    );

    let groups = parsed(&home.regatta(&["show", &first, "--against", &swapped, "--json"]))["groups"].clone();
    let differences =
        groups.as_array().unwrap().iter().flat_map(|group| group["differences"].as_array().unwrap().clone());
    let mut differences: Vec<Value> = differences.collect();
    differences.sort_by_key(|difference| difference["a"].to_string());
    let part = |a: &str, b: &str| json!({"part": "device_uuid", "a": a, "b": b, "bearing": "incomparable"});
    assert_eq!(differences, [part("GPU-a", "GPU-b"), part("GPU-b", "GPU-a")]);
}

/// What the doctor says with these readings of the machine.
fn doctor(home: &Home, reading: &Value, arguments: &[&str]) -> (Option<i32>, Value) {
    let readings = home.file("reading.json", &reading.to_string());
    let mut command = home.command(&[&["doctor", "--json"], arguments].concat());
    let output = command.env("REGATTA_FAKE_TELEMETRY", readings).output().unwrap();
    (output.status.code(), parsed(&output))
}

fn problems(said: &Value) -> Vec<&str> {
    let all = said["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["level"] == "problem").map(|finding| finding["check"].as_str().unwrap()).collect()
}

#[test]
fn the_doctor_finds_what_keeps_a_machine_from_measuring() {
    let home = Home::new();
    let plugged_in = json!({"on_battery": false, "low_power_mode": false});
    let (code, well) = doctor(&home, &plugged_in, &[]);
    assert_eq!((code, &well["can_measure"]), (Some(0), &json!(true)), "{well:#}");
    let (code, away) = doctor(&home, &json!({"on_battery": true}), &[]);
    assert_eq!((code, problems(&away)), (Some(1), vec!["power"]));
    // Nobody listens on this port.
    let (code, alone) = doctor(&home, &plugged_in, &["--coordinator", "http://127.0.0.1:1"]);
    assert_eq!((code, problems(&alone)), (Some(1), vec!["coordinator"]), "{alone:#}");
    assert!(home.path("models").read_dir().is_err(), "the doctor changes nothing");

    let bad = home.regatta(&["doctor", "--coordinator", "not an address"]);
    assert_eq!(bad.status.code(), Some(2), "{}", String::from_utf8_lossy(&bad.stderr));
}
