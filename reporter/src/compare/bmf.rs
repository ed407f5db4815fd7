//! A comparison in Bencher's metric format: the ratio of each primary metric, candidate over base, with its interval. The format
//! has no place for a verdict; whoever reads it sets a threshold of their own.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Comparison;
use crate::text;

#[derive(Serialize)]
struct Measure {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lower_value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_value: Option<f64>,
}

/// The comparison as JSON for Bencher: benchmarks are cells, measures `decode_ratio` and `prefill_ratio`.
pub fn bmf(comparison: &Comparison) -> serde_json::Result<String> {
    let mut benchmarks: BTreeMap<String, BTreeMap<String, Measure>> = BTreeMap::new();
    for cell in &comparison.cells {
        let primary = cell.metrics.iter().filter(|metric| metric.primary);
        let measures = primary.map(|metric| {
            let (ratio, interval) = (metric.effect.ratio, metric.effect.interval);
            let measure = Measure {
                value: ratio,
                lower_value: interval.map(|interval| interval.low),
                upper_value: interval.map(|interval| interval.high),
            };
            (format!("{}_ratio", metric.metric), measure)
        });
        benchmarks.entry(text::label(&cell.label)).or_default().extend(measures);
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}
