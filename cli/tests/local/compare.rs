//! Two runs held against each other, from measurement to exit code.

use std::process::Output;

use crate::harness::Home;

/// A scenario of one workload of a few steps, which are long, so that what else the machine does is small beside them.
fn scenario(home: &Home) -> String {
    let scenario = home.scenario(&["a"], 1, "1m");
    let text = std::fs::read_to_string(&scenario).unwrap().replace("generate = 30", "generate = 6");
    std::fs::write(&scenario, text).unwrap();
    scenario.display().to_string()
}

/// Runs a scenario of one workload; returns the run's id.
fn measured(home: &Home, more: &[&str]) -> String {
    let scenario = scenario(home);
    let run = ["run", &scenario, "--out", "out", "--no-telemetry"];
    let output = home.regatta(&[&run[..], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let runs = home.regatta(&["runs", "--json"]);
    let runs: serde_json::Value = serde_json::from_slice(&runs.stdout).unwrap();
    // Ids grow with time.
    runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).max().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[cfg(unix)]
#[test]
fn a_slowdown_has_its_exit_code_and_its_size() {
    let home = Home::new();
    // Of each run one of its builds, which both take so long.
    let run = |step_us| {
        let worker = build(&home, &format!("{step_us}/worker"), step_us);
        let [one, two] = ["one", "two"].map(|name| format!("{name}={worker}"));
        format!("{}@one", measured(&home, &["--passes", "6", "--worker", &one, "--worker", &two]))
    };
    let (base, candidate) = (run(5_000), run(50_000));
    let output = home.regatta(&["compare", &base, &candidate, "--threshold", "10", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["conclusion"], "slower");
    let decode = &json["cells"][0]["metrics"][0];
    assert_eq!((decode["metric"].as_str(), decode["verdict"].as_str()), (Some("decode"), Some("slower")));
    let ratio = decode["ratio"].as_f64().unwrap();
    assert!((0.05..0.3).contains(&ratio), "5 ms over 50 ms is about 0.1, not {ratio}");

    let back = home.regatta(&["compare", &candidate, &base, "--threshold", "10", "--format", "md"]);
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    assert!(String::from_utf8_lossy(&back.stdout).starts_with("## 🟢 Faster"), "{}", said(&back));
}

#[test]
fn too_few_processes_have_an_exit_code_of_their_own_unless_allowed() {
    let home = Home::new();
    let (base, candidate) = (measured(&home, &[]), measured(&home, &[]));
    let output = home.regatta(&["compare", &base, &candidate]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("no CI") && said(&output).contains("--passes 10"), "{}", said(&output));
    let allowed = home.regatta(&["compare", &base, &candidate, "--allow-few"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", said(&allowed));
}

#[test]
fn runs_that_are_not_there_or_ambiguous_are_named_with_candidates() {
    let home = Home::new();
    let (base, candidate) = (measured(&home, &[]), measured(&home, &[]));
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

/// A build of the worker whose steps take so long.
#[cfg(unix)]
fn build(home: &Home, name: &str, step_us: u32) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let worker = std::path::Path::new(env!("CARGO_BIN_EXE_regatta")).with_file_name("regatta-worker");
    let script = format!("{{\"load_us\": 0, \"prefill_us\": 500, \"decode_us\": {step_us}}}");
    let text = format!("#!/bin/sh\nREGATTA_FAKE='{script}' exec '{}' \"$@\"\n", worker.display());
    let path = home.file(name, &text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[cfg(unix)]
#[tokio::test]
async fn two_builds_are_measured_in_turns_and_their_true_ratio_is_found() {
    let home = Home::new();
    let (base, candidate) = (build(&home, "a/worker", 20_000), build(&home, "b/worker", 40_000));
    let scenario = scenario(&home);
    let (base, candidate) = (format!("base={base}"), format!("candidate={candidate}"));
    let run = ["run", &scenario, "--out", "out", "--no-telemetry"];
    let output = home.regatta(&[&run[..], &["--worker", &base, "--worker", &candidate]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("measured in turns and compared in pairs"), "{}", said(&output));

    // The samples' own times show the order.
    let reader = home.database().await;
    let run = reader.runs(1).await.unwrap().remove(0).id;
    let cells = reader.cells(&run).await.unwrap();
    let mut samples = reader.all_samples(&run).await.unwrap();
    samples.sort_by_key(|sample| sample.started_at);
    let build_of = |hash| cells.iter().find(|cell| cell.hash == hash).unwrap().cell.build.as_ref().unwrap().to_string();
    let order: String =
        samples.iter().map(|sample| if build_of(sample.key.cell) == "base" { 'A' } else { 'B' }).collect();
    assert_eq!(order, "ABBAABBAABBAABBAABBA");
    let facts = reader.worker_facts(&run).await.unwrap();
    let of: Vec<_> = facts.iter().map(|record| record.facts.build.as_ref().unwrap().as_str()).collect();
    assert_eq!(of, ["base", "candidate"]);

    // One run is named: its two builds are compared, here a second time.
    let again = home.regatta(&["compare", run.as_str(), "--json"]);
    assert_eq!(again.status.code(), Some(3), "{}", said(&again));
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let decode = &json["cells"][0]["metrics"][0];
    let ratio = decode["ratio"].as_f64().unwrap();
    assert!((ratio - 0.5).abs() < 0.06, "20 ms over 40 ms is 0.5, not {ratio}");
    assert_eq!((json["paired"].as_bool(), decode["verdict"].as_str()), (Some(true), Some("slower")));
    let named = home.regatta(&["compare", &format!("{run}@candidate"), &format!("{run}@base")]);
    assert_eq!(named.status.code(), Some(0), "{}", said(&named));

    // No chart holds both builds, and every row says of which it is.
    let page = std::fs::read_to_string(home.path("out/report.html")).unwrap();
    assert!(page.contains(", build base") && page.contains(", build candidate"));
    let csv = String::from_utf8(home.regatta(&["report", "--format", "csv"]).stdout).unwrap();
    assert!(csv.lines().skip(1).all(|line| line.contains(",base,") != line.contains(",candidate,")), "{csv}");
}

#[cfg(unix)]
#[test]
fn builds_that_make_no_pair_are_refused_before_anything_is_started() {
    let home = Home::new();
    let worker = build(&home, "a/worker", 1_000);
    let broken = home.file("b/worker", "#!/bin/sh\necho no\n").display().to_string();
    std::process::Command::new("chmod").args(["+x", &broken]).status().unwrap();
    let scenario = scenario(&home);
    let [a, b, same] = [format!("a={worker}"), format!("b={broken}"), format!("a={broken}")];
    for (arguments, part) in [
        (vec!["--worker", &a], "two with different names"),
        (vec!["--worker", &a, "--worker", &same], "two with different names"),
        (vec!["--worker", &a, "--worker", "b=/nowhere/worker"], "there is no worker program at /nowhere/worker"),
        (vec!["--worker", &a, "--worker", "/nowhere/worker"], "is not NAME=FILE"),
        (vec!["--worker", &a, "--worker", &b], "can't be measured as a build of the worker: its answer is not JSON"),
    ] {
        let output = home.regatta(&[&["run", &scenario], arguments.as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(part), "{part} is not in: {}", said(&output));
    }
    let runs = home.regatta(&["runs", "--json"]);
    assert!(!runs.status.success() || String::from_utf8_lossy(&runs.stdout).trim() == "[]", "{}", said(&runs));
}
