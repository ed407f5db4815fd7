//! Statistics, recomputed from raw samples every time.
//!
//! The unit is the **process**: one value for each worker process, the median of its repetitions. Repetitions of one process
//! share its memory layout and its caches, so their spread says nothing about another process. Where a single process
//! measured a cell its repetitions are shown as they are, with their spread and without an interval. Times between tokens are
//! pooled over the repetitions of a cell and described by percentiles only.
//!
//! Percentiles and intervals are those of [`regatta_core::ranks`].

use std::collections::BTreeMap;

use regatta_core::metrics::Metrics;
pub use regatta_core::ranks::{Interval, MIN_FOR_CI, median, median_interval, percentile, sorted};
use regatta_core::sample::Sample;
use regatta_core::telemetry::Telemetry;
use serde::Serialize;

/// Times between tokens below this count give no 99th percentile: it would be the maximum by another name.
pub const MIN_FOR_P99: usize = 100;

/// Times between tokens from which on a 99th percentile is firm (early-stopping rule at 99 % confidence).
pub const FIRM_P99: usize = 662;

const NS_PER_MS: f64 = 1e6;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// A handful of values in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// The middle one.
    pub median: f64,
    /// Median absolute deviation from the median, not scaled.
    pub mad: f64,
    /// The smallest.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// The largest.
    pub max: f64,
    /// Interval for the median; `None` for fewer than [`MIN_FOR_CI`] values.
    pub ci: Option<Interval>,
}

impl Summary {
    /// Describes `values`; `None` without any finite one.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let sorted = sorted(values);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let median = percentile(&sorted, 0.5);
        let deviations = self::sorted(sorted.iter().map(|v| (v - median).abs()));
        Some(Self {
            n: sorted.len(),
            median,
            mad: percentile(&deviations, 0.5),
            min,
            q1: percentile(&sorted, 0.25),
            q3: percentile(&sorted, 0.75),
            max,
            ci: median_interval(&sorted),
        })
    }

    /// Interquartile range.
    pub fn iqr(&self) -> f64 {
        self.q3 - self.q1
    }

    /// MAD in relation to the median, 0.01 for one percent.
    pub fn relative_mad(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { self.mad / self.median }
    }
}

/// Geometric mean of positive values; `None` without any.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| *v <= 0.0) {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// The times between tokens of a cell, pooled over its repetitions, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    /// How many.
    pub n: usize,
    /// The shortest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile; `None` for fewer than [`MIN_FOR_P99`].
    pub p99: Option<f64>,
    /// The longest.
    pub max: f64,
    /// How many took more than three times the median.
    pub spikes: usize,
}

impl Intervals {
    /// Describes times between tokens in milliseconds; `None` without any.
    pub fn of(milliseconds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let sorted = sorted(milliseconds);
        let p50 = percentile(&sorted, 0.5);
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p50,
            p90: percentile(&sorted, 0.9),
            p99: (sorted.len() >= MIN_FOR_P99).then(|| percentile(&sorted, 0.99)),
            max: *sorted.last()?,
            spikes: sorted.iter().filter(|v| **v > 3.0 * p50).count(),
        })
    }

    /// Whether the 99th percentile rests on enough values to be taken literally.
    pub fn p99_is_firm(&self) -> bool {
        self.n >= FIRM_P99
    }
}

/// What one repetition says, in the units of reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Repetition {
    /// Time to first token, in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Prompt tokens per second.
    pub prefill_rate: Option<f64>,
    /// Generated tokens per second, the first left out.
    pub decode_rate: Option<f64>,
    /// Time per output token, in milliseconds.
    pub tpot_ms: Option<f64>,
    /// Times between tokens, in milliseconds.
    pub itl: Option<Intervals>,
    /// From prompt to last piece of text, in milliseconds.
    pub end_to_end_ms: f64,
    /// Loading the model, in milliseconds.
    pub load_ms: f64,
    /// Largest resident memory of the worker, in MiB.
    pub peak_rss_mib: Option<f64>,
    /// Device memory that the worker needed at most, in MiB.
    pub device_memory_mib: Option<f64>,
    /// Energy for each generated token, in joules.
    pub joules_per_token: Option<f64>,
}

impl Repetition {
    /// Derives the numbers of one sample that has passed its check.
    pub fn of(sample: &Sample) -> Self {
        let metrics = Metrics::of(sample);
        let itl = Intervals::of(metrics.itl_ns.iter().copied().map(ms));
        Self { itl, ..Self::new(sample, &metrics) }
    }

    /// Without the times between tokens, which take more time than all the rest.
    fn new(sample: &Sample, metrics: &Metrics) -> Self {
        let telemetry = sample.telemetry.as_deref();
        Self {
            ttft_ms: metrics.ttft_ns.map(ms),
            prefill_rate: metrics.prefill_rate,
            decode_rate: metrics.decode_rate,
            tpot_ms: metrics.tpot_ns.map(|ns| ns / NS_PER_MS),
            itl: None,
            end_to_end_ms: ms(metrics.end_to_end_ns),
            load_ms: ms(sample.load_ns),
            peak_rss_mib: sample.peak_rss_bytes.map(mib),
            device_memory_mib: telemetry.and_then(Telemetry::device_memory_bytes).map(mib),
            joules_per_token: telemetry.and_then(|t| t.joules_per_token(sample.output.len() as u64)),
        }
    }
}

/// What the counted repetitions of one cell say.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CellStats {
    /// Counted repetitions.
    pub n: usize,
    /// Worker processes that they are of.
    pub processes: usize,
    /// Time to first token, in milliseconds.
    pub ttft_ms: Option<Summary>,
    /// Prompt tokens per second.
    pub prefill_rate: Option<Summary>,
    /// Generated tokens per second, the first left out.
    pub decode_rate: Option<Summary>,
    /// Time per output token, in milliseconds.
    pub tpot_ms: Option<Summary>,
    /// From prompt to last piece of text, in milliseconds.
    pub end_to_end_ms: Option<Summary>,
    /// Times between tokens, pooled, in milliseconds.
    pub itl_ms: Option<Intervals>,
    /// Loading the model, in milliseconds.
    pub load_ms: Option<Summary>,
    /// Largest resident memory of the worker, in MiB.
    pub peak_rss_mib: Option<f64>,
    /// Device memory that the worker needed at most, in MiB.
    pub device_memory_mib: Option<f64>,
    /// Energy for each generated token, in joules.
    pub joules_per_token: Option<Summary>,
}

impl CellStats {
    /// Values behind each summary: worker processes, or the repetitions of a single one.
    pub fn values(&self) -> usize {
        if self.processes > 1 { self.processes } else { self.n }
    }

    /// Describes the counted samples of a cell; number `r` was measured by process `r / per_pass`.
    pub fn of(samples: &[Sample], per_pass: u32) -> Self {
        let mut processes = BTreeMap::<u32, Vec<Repetition>>::new();
        let mut all_itl = Vec::new();
        for sample in samples {
            let metrics = Metrics::of(sample);
            let process = sample.key.repetition / per_pass.max(1);
            processes.entry(process).or_default().push(Repetition::new(sample, &metrics));
            all_itl.extend(metrics.itl_ns.into_iter().map(ms));
        }
        let processes: Vec<Vec<Repetition>> = processes.into_values().collect();
        let reps = || processes.iter().flatten();
        Self {
            n: samples.len(),
            processes: processes.len(),
            ttft_ms: summary(&processes, |r| r.ttft_ms),
            prefill_rate: summary(&processes, |r| r.prefill_rate),
            decode_rate: summary(&processes, |r| r.decode_rate),
            tpot_ms: summary(&processes, |r| r.tpot_ms),
            end_to_end_ms: summary(&processes, |r| Some(r.end_to_end_ms)),
            itl_ms: Intervals::of(all_itl),
            load_ms: summary(&processes, |r| Some(r.load_ms)),
            peak_rss_mib: reps().filter_map(|r| r.peak_rss_mib).reduce(f64::max),
            device_memory_mib: reps().filter_map(|r| r.device_memory_mib).reduce(f64::max),
            joules_per_token: summary(&processes, |r| r.joules_per_token),
        }
    }
}

/// A number of each worker process, the median of its repetitions, and `true`; or of each repetition where a single process
/// measured all of them, and `false`.
pub fn process_values(samples: &[Sample], per_pass: u32, of: fn(&Repetition) -> Option<f64>) -> (Vec<f64>, bool) {
    let processes = processes(samples, per_pass);
    if processes.len() > 1 {
        let value = |reps: &Vec<Repetition>| median(&sorted(reps.iter().filter_map(of)));
        (processes.values().filter_map(value).collect(), true)
    } else {
        (processes.values().flatten().filter_map(of).collect(), false)
    }
}

/// Repetitions by the worker process that measured them: number `r` is of process `r / per_pass`. Without their times between
/// tokens.
pub fn processes(samples: &[Sample], per_pass: u32) -> BTreeMap<u32, Vec<Repetition>> {
    let mut processes = BTreeMap::<u32, Vec<Repetition>>::new();
    for sample in samples {
        let repetition = Repetition::new(sample, &Metrics::of(sample));
        processes.entry(sample.key.repetition / per_pass.max(1)).or_default().push(repetition);
    }
    processes
}

/// The medians of several processes; or the repetitions of a single one, without an interval.
fn summary(processes: &[Vec<Repetition>], of: fn(&Repetition) -> Option<f64>) -> Option<Summary> {
    if let [single] = processes {
        return Summary::of(single.iter().filter_map(of)).map(|summary| Summary { ci: None, ..summary });
    }
    Summary::of(processes.iter().filter_map(|reps| median(&sorted(reps.iter().filter_map(of)))))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_MIB
}

/// Nanoseconds as milliseconds.
pub fn ms(ns: u64) -> f64 {
    ns as f64 / NS_PER_MS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12 * a.abs().max(b.abs()).max(1.0)
    }

    #[test]
    fn a_summary_matches_values_worked_out_by_hand() {
        let s = Summary::of([4.0, 1.0, 7.0, 2.0, 11.0]).unwrap();
        assert_eq!((s.n, s.median, s.min, s.max), (5, 4.0, 1.0, 11.0));
        // Deviations 3 2 0 3 7, sorted 0 2 3 3 7.
        assert!(close(s.mad, 3.0));
        assert_eq!((s.q1, s.q3, s.iqr()), (2.0, 7.0, 5.0));
        assert_eq!(s.ci, None);
        let even = Summary::of([1.0, 2.0, 3.0, 10.0]).unwrap();
        // Position 0.25 * 3 = 0.75: 1 + 0.75; position 2.25: 3 + 0.25 * 7.
        assert_eq!((even.median, even.q1, even.q3), (2.5, 1.75, 4.75));
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN, f64::INFINITY]), None);
        assert_eq!(Intervals::of([]), None);
        assert_eq!(CellStats::of(&[], 1), CellStats::default());
    }

    #[test]
    fn a_99th_percentile_needs_a_hundred_values() {
        let some = Intervals::of((1..=99).map(f64::from)).unwrap();
        assert_eq!(some.p99, None);
        let more = Intervals::of((1..=100).map(f64::from).chain([1000.0])).unwrap();
        assert!(more.p99.is_some() && !more.p99_is_firm());
        assert_eq!(more.spikes, 1);
    }

    #[test]
    fn a_mean_of_ratios_is_geometric() {
        assert!(close(geometric_mean(&[2.0, 8.0]).unwrap(), 4.0));
        assert_eq!(geometric_mean(&[]), None);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
    }

    proptest! {
        #[test]
        fn the_median_lies_between_the_extremes(values in prop::collection::vec(-1e12f64..1e12, 1..60)) {
            let s = Summary::of(values).unwrap();
            prop_assert!(s.min <= s.q1 && s.q1 <= s.median && s.median <= s.q3 && s.q3 <= s.max);
            prop_assert!(s.mad >= 0.0 && s.mad <= s.max - s.min);
            if let Some(ci) = s.ci {
                prop_assert!(s.min <= ci.low && ci.low <= s.median && s.median <= ci.high && ci.high <= s.max);
            }
        }

        #[test]
        fn order_does_not_matter(mut values in prop::collection::vec(0.1f64..1e6, 1..40)) {
            let before = Summary::of(values.iter().copied());
            values.reverse();
            prop_assert_eq!(before, Summary::of(values));
        }
    }
}
