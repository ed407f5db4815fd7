//! What telemetry costs: the decode rate with it over the decode rate without it, in interleaved pairs of runs.
//!
//! Each run is a program and a worker of its own. Pairs are run as with, without, without, with (ABBA), so that a drift of
//! the machine falls on both sides alike.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, target_dir};
use crate::program;
use crate::rates::{column, median, median_interval};

/// Pairs unless another number is given.
pub(crate) const PAIRS: usize = 20;

/// Pairs below this number give no interval with 95 % confidence.
pub(crate) const MIN_PAIRS: usize = 6;

/// One workload, decode above all: long enough for many readings, short enough for many pairs.
const SCENARIO: &str = r#"schema = 1
name = "telemetry-overhead"
models = ["smollm2-135m"]
weights = "real"
backends = ["llama.cpp"]
precisions = ["q4_1"]
devices = ["cpu"]
[policy]
repetitions = 3
timeout = "5m"
[policy.warmup]
min_repetitions = 2
max_repetitions = 4
min_time = "1s"
max_time = "10s"
stable_within = 0.05
[[workload]]
name = "decode"
prompt_tokens = 16
generate = 256
"#;

/// Measures so many pairs with the model in this file, and prints the ratio.
pub(crate) fn run(model: &Path, pairs: usize) -> Result<(), Failure> {
    let folder = target_dir().join("telemetry-overhead");
    let failed = |error: std::io::Error| Failure(format!("failed to write to {}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let scenario = folder.join("scenario.toml");
    std::fs::write(&scenario, SCENARIO).map_err(failed)?;
    let bench = Bench { folder, scenario };
    bench.regatta(&["models", "pull", "smollm2-135m", "--replace", "--from"]).arg(model).run()?;
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let (with, without) = bench.pair(pair)?;
        ratios.push(with / without);
        println!("pair {:>2} of {pairs}: {with:.2} with, {without:.2} without, ratio {:.4}", pair + 1, with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let (low, high, confidence) = median_interval(&ratios);
    let percent = confidence * 100.0;
    println!("decode rate with telemetry over without: {:.4}, {low:.4} to {high:.4} ({percent:.1} %)", median(ratios));
    Ok(())
}

/// A home folder of its own.
struct Bench {
    folder: PathBuf,
    scenario: PathBuf,
}

impl Bench {
    fn regatta(&self, arguments: &[&str]) -> Run {
        Run::new(program("regatta")).args(arguments).env("REGATTA_HOME", &self.folder)
    }

    /// Decode rates with and without telemetry. Every other pair begins without.
    fn pair(&self, number: usize) -> Result<(f64, f64), Failure> {
        if number.is_multiple_of(2) {
            let with = self.rate(&[])?;
            Ok((with, self.rate(&["--no-telemetry"])?))
        } else {
            let without = self.rate(&["--no-telemetry"])?;
            Ok((self.rate(&[])?, without))
        }
    }

    /// The median decode rate of one run.
    fn rate(&self, more: &[&str]) -> Result<f64, Failure> {
        let out = self.folder.join("out");
        let run = self.regatta(&["run", "--json", "--out"]).arg(&out).arg(&self.scenario).args(more);
        run.output()
            .ok_or_else(|| Failure(format!("a run failed; regatta run {} says why", self.scenario.display())))?;
        let csv = self.regatta(&["report", "--format", "csv"]).output();
        let rates = csv.map(|csv| column(&csv, "decode_tokens_per_s")).unwrap_or_default();
        if rates.is_empty() {
            return Err(Failure("a run gave no decode rate".to_owned()));
        }
        Ok(median(rates))
    }
}
