//! A comparison in Bencher's metric format: the ratio of each primary metric, candidate over base, with its interval. The format
//! has no place for a verdict; whoever reads it sets a threshold of their own.

use std::collections::BTreeMap;

use super::Comparison;
use crate::export::bmf::Measure;
use crate::text;

/// The comparison as JSON for Bencher: benchmarks are cells, measures `decode_ratio` and `prefill_ratio`.
pub fn bmf(comparison: &Comparison) -> serde_json::Result<String> {
    let mut benchmarks: BTreeMap<String, BTreeMap<String, Measure>> = BTreeMap::new();
    for cell in &comparison.cells {
        let primary = cell.metrics.iter().filter(|metric| metric.primary);
        let measures = primary.map(|metric| {
            (format!("{}_ratio", metric.metric), Measure::new(metric.effect.ratio, metric.effect.interval))
        });
        benchmarks.entry(text::label(&cell.label)).or_default().extend(measures);
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}
