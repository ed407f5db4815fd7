//! Two runs held against each other, from measurement to exit code.

use std::process::Output;

use crate::harness::Home;

/// Runs a scenario of one workload whose steps take so long, by so many worker processes; returns the run's id.
fn measured(home: &Home, step_us: u32, passes: &str) -> String {
    let scenario = home.scenario(&["a"], 1, "1m");
    let mut command =
        home.command(&["run", scenario.to_str().unwrap(), "--out", "out", "--passes", passes, "--no-telemetry"]);
    // Long enough that the machine's own hiccups are small beside it.
    let script = format!("{{\"load_us\": 0, \"prefill_us\": 2000, \"decode_us\": {step_us}}}");
    let output = command.env("REGATTA_FAKE", script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let runs = home.regatta(&["runs", "--json"]);
    let runs: serde_json::Value = serde_json::from_slice(&runs.stdout).unwrap();
    // Ids grow with time.
    runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).max().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_slowdown_has_its_exit_code_and_its_size() {
    let home = Home::new();
    let (base, candidate) = (measured(&home, 2_000, "6"), measured(&home, 3_000, "6"));
    let output = home.regatta(&["compare", &base, &candidate, "--threshold", "10", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["conclusion"], "slower");
    let decode = &json["cells"][0]["metrics"][0];
    assert_eq!((decode["metric"].as_str(), decode["verdict"].as_str()), (Some("decode"), Some("slower")));
    let ratio = decode["ratio"].as_f64().unwrap();
    assert!((0.55..0.8).contains(&ratio), "2 ms over 3 ms is 0.67, not {ratio}");

    let back = home.regatta(&["compare", &candidate, &base, "--threshold", "10", "--format", "md"]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    assert!(String::from_utf8_lossy(&back.stdout).starts_with("## 🟢 Faster"), "{}", said(&back));
}

#[test]
fn too_few_processes_have_an_exit_code_of_their_own_unless_allowed() {
    let home = Home::new();
    let (base, candidate) = (measured(&home, 500, "1"), measured(&home, 500, "1"));
    let output = home.regatta(&["compare", &base, &candidate]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("no CI") && said(&output).contains("--passes 10"), "{}", said(&output));
    let allowed = home.regatta(&["compare", &base, &candidate, "--allow-few"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", said(&allowed));
}

#[test]
fn runs_that_are_not_there_or_ambiguous_are_named_with_candidates() {
    let home = Home::new();
    let (base, candidate) = (measured(&home, 500, "1"), measured(&home, 500, "1"));
    let absent = home.regatta(&["compare", &base, "ffff"]);
    assert_eq!(absent.status.code(), Some(2), "{}", said(&absent));
    assert!(said(&absent).contains("'ffff'") && said(&absent).contains(&candidate), "{}", said(&absent));
    let ambiguous = home.regatta(&["compare", "0", &candidate]);
    assert_eq!(ambiguous.status.code(), Some(2), "{}", said(&ambiguous));
    for part in ["ambiguous", &base, &candidate] {
        assert!(said(&ambiguous).contains(part), "{part} is not in: {}", said(&ambiguous));
    }
    for (arguments, part) in [
        (vec![base.as_str(), base.as_str()], "name two runs"),
        (vec![base.as_str(), candidate.as_str(), "--threshold", "0"], "above 0 and up to 100"),
        (vec![base.as_str(), candidate.as_str(), "--threshold", "NaN"], "above 0 and up to 100"),
    ] {
        let refused = home.regatta(&[&["compare"], arguments.as_slice()].concat());
        assert!(refused.status.code() == Some(2) && said(&refused).contains(part), "{}", said(&refused));
    }
}
