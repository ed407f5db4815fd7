//! What telemetry costs: the decode rate with it over the decode rate without it.
//!
//! One run is one pair: a worker repeats some steps again and again, and its agent reads nothing during half of the
//! repetitions, in the order of Thue and Morse (on, off, off, on, off, on, on, off), so that a drift of the machine falls on
//! both sides alike, no side has a place in the order to itself, and what is compared lies a fraction of a second apart. Runs that are compared as a whole differ by more than telemetry costs.

use std::path::{Path, PathBuf};

use crate::command::{Failure, Run, target_dir};
use crate::program;
use crate::rates::{column, median, median_interval};

/// Pairs unless another number is given.
pub(crate) const PAIRS: usize = 20;

/// Pairs below this number give no interval with 95 % confidence.
pub(crate) const MIN_PAIRS: usize = 6;

/// Steps alone, some 60 ms of them at a time.
const SCENARIO: &str = r#"schema = 1
name = "telemetry-overhead"
models = ["smollm2-135m"]
weights = "real"
backends = ["llama.cpp"]
precisions = ["q4_1"]
devices = ["cpu"]
[policy]
repetitions = 400
timeout = "5m"
[policy.warmup]
min_repetitions = 8
max_repetitions = 8
min_time = "0s"
[[workload]]
name = "decode"
kind = "decode"
generate = 8
"#;

/// Measures so many pairs with the model in this file, and prints the ratio. With `control` nothing is read in either half: the
/// ratio is then 1, or this bench is wrong.
pub(crate) fn run(model: &Path, pairs: usize, control: bool) -> Result<(), Failure> {
    let folder = target_dir().join("telemetry-overhead");
    let failed = |error: std::io::Error| Failure(format!("failed to write to {}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let scenario = folder.join("scenario.toml");
    std::fs::write(&scenario, SCENARIO).map_err(failed)?;
    let bench = Bench { folder, scenario };
    bench.regatta(&["models", "pull", "smollm2-135m", "--replace", "--from"]).arg(model).run()?;
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let ratio = bench.pair(control)?;
        ratios.push(ratio);
        println!("pair {:>2} of {pairs}: {ratio:.4}", pair + 1);
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

    fn pair(&self, control: bool) -> Result<f64, Failure> {
        let out = self.folder.join("out");
        let off: &[&str] = if control { &["--no-telemetry"] } else { &[] };
        let run = self.regatta(&["run", "--json", "--out"]).arg(&out).args(off).arg(&self.scenario);
        run.env("REGATTA_TELEMETRY_IN_TURNS", "1")
            .output()
            .ok_or_else(|| Failure(format!("a run failed; regatta run {} says why", self.scenario.display())))?;
        let csv = self.regatta(&["report", "--format", "csv"]).output();
        let rates = csv.map(|csv| column(&csv, "decode_tokens_per_s")).unwrap_or_default();
        in_turns(&rates).ok_or_else(|| Failure("a run did not give its decode rates".to_owned()))
    }
}

/// The rate with over the rate without, as the agent takes turns. The median of all eights.
fn in_turns(rates: &[f64]) -> Option<f64> {
    let (eights, []) = rates.as_chunks::<8>() else { return None };
    let ratio = |(at, eight): (usize, &[f64; 8])| {
        let (mut with, mut without) = (0.0, 0.0);
        for (place, rate) in eight.iter().enumerate() {
            let rests = !(8 * at + place).count_ones().is_multiple_of(2);
            *if rests { &mut without } else { &mut with } += rate.recip();
        }
        without / with
    };
    (!eights.is_empty()).then(|| median(eights.iter().enumerate().map(ratio)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_with_telemetry_and_without_are_told_by_their_numbers() {
        let (with, without) = (10.0, 20.0);
        let eight = [with, without, without, with, without, with, with, without];
        // The next eight are the other way round.
        let other = eight.map(|rate| with + without - rate);
        for rates in [eight.to_vec(), [eight, other].concat()] {
            let ratio = in_turns(&rates).unwrap();
            assert!((ratio - 0.5).abs() < 1e-9, "{ratio}");
        }
        assert_eq!(in_turns(&[]), None);
        assert_eq!(in_turns(&[1.0, 1.0, 1.0]), None);
    }
}
