//! What was planned against what is reported: known true values go through worker, agent, wire, database, statistics and
//! view of a real `regatta run`, and have to come out at the other end.
//!
//! Scripted are the fake's times: the clock that the timing loop reads is put forward by what a step is to take, with a
//! spread of 3 % from a seed, and what surrounds the machine is read from a file. Nothing is slept for, so a busy machine
//! changes nothing. All else is real: the loop and its warm-up, processes, frames, the spool, the database.

use std::path::PathBuf;
use std::process::Output;

use regatta_core::flag::Flag;
use regatta_core::metrics::Metrics;
use serde_json::{Value, json};

use crate::harness::Home;

/// Microseconds of a decode step, and of a prompt's token.
const STEP_US: f64 = 5_000.0;
const PROMPT_TOKEN_US: f64 = 250.0;

/// Repetitions of a pass; there are two passes. Warm-up takes four, and so many resets come before the first one counts.
const REPETITIONS: u32 = 20;
const WARMUP: u32 = 4;

/// One step of so many is a spike, so many times as long.
const SPIKE_EVERY: u32 = 16;
const SPIKE: f64 = 10.0;

/// By how much longer each repetition takes where there is a trend.
const TREND: f64 = 0.005;

/// Tokens that are as they should be where outputs change.
const SAME: u32 = 16;

const SCENARIO: &str = r#"
schema = 1
name = "truth"
models = ["regatta-15m"]
weights = "synthetic"
backends = ["fake"]
precisions = ["f32"]
[policy]
repetitions = 20
passes = 2
[policy.warmup]
min_repetitions = 4
max_repetitions = 8
min_time = "0s"
[[workload]]
name = "clean"
prompt_tokens = 8
generate = 33
[[workload]]
name = "clean-batch"
prompt_tokens = 8
generate = 33
batch = 2
[[workload]]
name = "pp"
kind = "prefill"
prompt_tokens = 64
[[workload]]
name = "tg"
kind = "decode"
generate = 32
[[workload]]
name = "fault-spikes"
prompt_tokens = 9
generate = 33
[[workload]]
name = "fault-drift"
prompt_tokens = 10
generate = 33
[[workload]]
name = "fault-trend"
prompt_tokens = 11
generate = 33
[[workload]]
name = "fault-no-sync"
prompt_tokens = 12
generate = 33
[[workload]]
name = "fault-output"
prompt_tokens = 13
generate = 33
[[workload]]
name = "fault-output-process"
prompt_tokens = 14
generate = 33
"#;

/// A run of everything, and the report on it.
struct Truth {
    home: Home,
    report: Value,
}

impl Truth {
    fn measure() -> Self {
        let home = Home::new();
        let scenario = home.file("scenario.toml", SCENARIO);
        let quiet = home.file("quiet.json", &json!({"foreign_processes": 0, "clock_mhz": 1500.0}).to_string());
        let script = json!({
            "scripted_clock": true, "load_us": 0, "prefill_us": PROMPT_TOKEN_US, "decode_us": STEP_US, "jitter": 0.03,
            "spike_every": SPIKE_EVERY, "spike": SPIKE, "trend": TREND, "same_tokens": SAME,
        });
        let mut command = home.command(&["run", scenario.to_str().unwrap(), "--out", "out"]);
        command.env("REGATTA_FAKE", script.to_string()).env("REGATTA_FAKE_TELEMETRY", quiet);
        ok(&command.output().unwrap());
        let report = serde_json::from_str(&ok(&home.regatta(&["report", "--format", "json"]))).unwrap();
        Self { home, report }
    }

    fn run(&self) -> &Value {
        &self.report["report"]["runs"][0]
    }

    fn row(&self, workload: &str) -> &Value {
        let rows = self.run()["rows"].as_array().unwrap();
        rows.iter().find(|row| row["workload"] == workload).unwrap()
    }

    /// A median, as the report has it.
    fn median(&self, workload: &str, column: &str) -> f64 {
        self.row(workload)[column]["sort"].as_f64().unwrap()
    }

    /// The defects that are told of a cell. What is true of every cell of the fake, and of how its worker was built, is none.
    fn defects(&self, workload: &str) -> Vec<String> {
        let conditions = [Flag::FakeBackend, Flag::SyntheticWeights, Flag::SimdBelowCpu, Flag::DebugBuild];
        let is_condition = |name: &str| conditions.iter().any(|flag| flag.as_str().replace('_', " ") == name);
        let flags = self.row(workload)["flags"].as_array().unwrap().iter();
        flags.map(|flag| flag["name"].as_str().unwrap().to_owned()).filter(|name| !is_condition(name)).collect()
    }

    /// A line of a cell's details.
    fn fact(&self, workload: &str, name: &str) -> Option<&str> {
        let details = self.run()["details"].as_array().unwrap();
        let ends = format!("· {workload}");
        let detail = details.iter().find(|detail| detail["title"].as_str().unwrap().ends_with(&ends)).unwrap();
        let fact = detail["facts"].as_array().unwrap().iter().find(|fact| fact["name"] == name)?;
        fact["meaning"].as_str()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }
}

fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn within_one_percent(found: f64, planned: f64) {
    assert!((found / planned - 1.0).abs() < 0.01, "{found} where {planned} was planned");
}

#[tokio::test]
async fn planned_medians_are_recovered_and_planted_defects_are_told() {
    let truth = Truth::measure();
    medians(&truth);
    clean_cells_have_no_defect(&truth);
    defects(&truth);
    outputs_that_change_are_told_with_the_token(&truth);
    raw_times_add_up(&truth).await;
}

fn medians(truth: &Truth) {
    let (step_s, token_s) = (STEP_US / 1e6, PROMPT_TOKEN_US / 1e6);
    for (workload, batch) in [("clean", 1.0), ("clean-batch", 2.0)] {
        within_one_percent(truth.median(workload, "decode"), batch / step_s);
        within_one_percent(truth.median(workload, "prefill"), batch / token_s);
        within_one_percent(truth.median(workload, "tpot"), step_s * 1e3);
        within_one_percent(truth.median(workload, "itl_p50"), step_s * 1e3);
        within_one_percent(truth.median(workload, "ttft"), 8.0 * token_s * 1e3);
        within_one_percent(truth.median(workload, "end_to_end"), (8.0 * token_s + 32.0 * step_s) * 1e3);
    }
    within_one_percent(truth.median("pp", "prefill"), 1.0 / token_s);
    within_one_percent(truth.median("tg", "decode"), 1.0 / step_s);
    // What is planted beside a defect is recovered too: a rate with spikes in it, and steps that are none; a rate in the
    // middle of a trend.
    let (spikes, steps) = (f64::from(32 / SPIKE_EVERY), 32.0);
    within_one_percent(truth.median("fault-spikes", "tpot"), step_s * 1e3 * (steps + spikes * (SPIKE - 1.0)) / steps);
    within_one_percent(truth.median("fault-spikes", "itl_p50"), step_s * 1e3);
    let middle = 1.0 + TREND * (f64::from(WARMUP) + f64::from(REPETITIONS + 1) / 2.0);
    within_one_percent(truth.median("fault-trend", "decode"), 1.0 / step_s / middle);
    within_one_percent(truth.median("fault-output", "decode"), 1.0 / step_s);
}

fn clean_cells_have_no_defect(truth: &Truth) {
    for workload in ["clean", "clean-batch", "pp", "tg"] {
        assert_eq!(truth.defects(workload), [""; 0], "{workload}");
        assert_eq!((truth.fact(workload, "spikes"), truth.fact(workload, "trend")), (None, None), "{workload}");
    }
    assert!(truth.fact("clean", "output").unwrap().ends_with(" in all 40 repetitions"));
    assert_eq!(truth.fact("clean", "warm-up"), Some("4 repetitions"));
}

fn defects(truth: &Truth) {
    assert_eq!(truth.defects("fault-drift"), ["warmup not stable", "trend"]);
    assert_eq!(truth.defects("fault-trend"), ["trend"]);
    assert!(truth.fact("fault-trend", "trend").unwrap().contains("% slower from the first repetition to the last"));
    assert_eq!(truth.defects("fault-no-sync"), ["faster than physics", "not waited for"]);
    let problems = truth.run()["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "kept, not charted: {problems:?}");
    assert_eq!(problems[0]["state"], "faster_than_physics");
    let spikes = 2 * REPETITIONS * (32 / SPIKE_EVERY);
    let said = format!("{spikes} of {} times between tokens above 3 × median", 2 * REPETITIONS * 32);
    assert_eq!((truth.defects("fault-spikes"), truth.fact("fault-spikes", "spikes")), (vec![], Some(said.as_str())));
}

fn outputs_that_change_are_told_with_the_token(truth: &Truth) {
    // The second process begins where the first one did, and then goes its own way again.
    for (workload, differ) in [("fault-output", 38), ("fault-output-process", 20)] {
        assert_eq!(truth.defects(workload), ["output changed"]);
        let said = format!("{differ} of 40 repetitions differ, first differing token: 17 of 33");
        assert_eq!(truth.fact(workload, "output"), Some(said.as_str()));
    }
    let page = std::fs::read_to_string(truth.file("out/report.html")).unwrap();
    assert!(page.contains("first differing token: 17 of 33") && page.contains("Not repeatable"));
    let csv = ok(&truth.home.regatta(&["report", "--format", "csv"]));
    let head: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let at = |name: &str| head.iter().position(|column| *column == name).unwrap();
    let (workload, token) = (at("workload"), at("first_differing_token"));
    let differing =
        csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()).filter(|line| line[token] == "17");
    assert_eq!(differing.filter(|line| line[workload].starts_with("fault-output")).count(), 58);
}

/// One clock: what lies between the tokens is what lies between the first and the last one.
async fn raw_times_add_up(truth: &Truth) {
    let reader = truth.home.database().await;
    let run = reader.runs(1).await.unwrap().remove(0);
    let samples = reader.all_samples(&run.id).await.unwrap();
    assert_eq!(samples.len(), 10 * 2 * REPETITIONS as usize);
    for sample in samples.iter().filter(|sample| !sample.is_decode() && !sample.times.tokens.is_empty()) {
        let metrics = Metrics::of(sample);
        assert_eq!(metrics.ttft_ns.unwrap() + metrics.itl_ns.iter().sum::<u64>(), sample.times.end);
    }
    reader.close().await;
}
