//! Several worker processes a cell, and forward passes by themselves, from a scenario to the report's tables.

use std::collections::BTreeMap;

use regatta_core::passes::{StopReason, Stopped};

use crate::harness::Home;

const SCENARIO: &str = r#"
schema = 1
name = "test"
models = ["regatta-15m"]
weights = "synthetic"
backends = ["fake"]
precisions = ["f32"]
[policy]
repetitions = 2
passes = 3
[policy.warmup]
min_repetitions = 0
max_repetitions = 0
min_time = "0s"
[[workload]]
name = "chat"
prompt_tokens = 8
generate = 5
[[workload]]
name = "pp"
kind = "prefill"
prompt_tokens = [16, 32]
[[workload]]
name = "tg"
kind = "decode"
generate = 4
depth = [0, 64]
"#;

/// Lines of the CSV as columns by name.
fn csv(home: &Home) -> Vec<BTreeMap<String, String>> {
    let output = home.regatta(&["report", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let names = lines.next().unwrap();
    lines.map(|line| names.iter().cloned().zip(line).collect()).collect()
}

#[tokio::test]
async fn every_cell_is_measured_by_as_many_processes_as_were_asked_for() {
    let home = Home::new();
    let scenario = home.file("scenario.toml", SCENARIO);
    let output = home.regatta(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let rows = csv(&home);
    let mut by_workload = BTreeMap::<_, Vec<_>>::new();
    for row in &rows {
        by_workload.entry(row["workload"].as_str()).or_default().push(row);
    }
    let names: Vec<_> = by_workload.keys().copied().collect();
    assert_eq!(names, ["chat", "pp-p16", "pp-p32", "tg-d0", "tg-d64"]);
    for (name, rows) in by_workload {
        let numbers: Vec<_> = rows.iter().map(|row| (row["pass"].as_str(), row["repetition"].as_str())).collect();
        assert_eq!(numbers, [("0", "0"), ("0", "1"), ("1", "2"), ("1", "3"), ("2", "4"), ("2", "5")], "{name}");
        for row in rows {
            let has = |column: &str| !row[column].is_empty();
            let rates = (has("ttft_ms"), has("prefill_tokens_per_s"), has("decode_tokens_per_s"));
            let (kind, depth, expected) = match name {
                "chat" => ("generate", "0", (true, true, true)),
                "pp-p16" | "pp-p32" => ("prefill", "0", (false, true, false)),
                "tg-d0" => ("decode", "0", (false, false, true)),
                _ => ("decode", "64", (false, false, true)),
            };
            assert_eq!((row["kind"].as_str(), row["depth"].as_str(), rates), (kind, depth, expected), "{name}");
        }
    }

    let reader = home.database().await;
    let run = reader.runs(1).await.unwrap().remove(0);
    let stopped = Some(Stopped { passes: 3, reason: StopReason::Fixed });
    assert!(reader.cells(&run.id).await.unwrap().iter().all(|cell| cell.stopped == stopped));
    let page = std::fs::read_to_string(home.path("out/report.html")).unwrap();
    assert!(page.contains("6 repetitions of 3 worker processes") && page.contains("forward passes alone"));
}

#[tokio::test]
async fn the_command_line_has_the_last_word_on_passes() {
    let home = Home::new();
    let scenario = home.file("scenario.toml", SCENARIO);
    for (flags, passes) in [(vec!["--quick"], 1), (vec!["--passes", "2"], 2)] {
        let run = ["run", scenario.to_str().unwrap(), "--out", "out"];
        let output = home.regatta(&[&run[..], &flags].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let most = csv(&home).iter().map(|row| row["pass"].parse::<u32>().unwrap()).max();
        assert_eq!(most, Some(passes - 1));
    }
    let plan = home.regatta(&["plan", scenario.to_str().unwrap()]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("2 repetitions in each of 3 worker processes"), "{plan}");
    let bad = home.regatta(&["run", scenario.to_str().unwrap(), "--passes", "six"]);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(bad.status.code() == Some(2) && said.contains("neither a number from 1 to 1000 nor 'adaptive'"), "{said}");
}
