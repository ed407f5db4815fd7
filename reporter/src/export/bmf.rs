//! Bencher Metric Format: medians by benchmark and measure, with their confidence interval where there is one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measured::{METRICS, cells, unique};
use crate::dataset::Dataset;
use crate::error::Result;

#[derive(Serialize)]
struct Measure {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lower_value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_value: Option<f64>,
}

pub(super) fn bmf(dataset: &Dataset) -> Result<String> {
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, Measure>> = BTreeMap::new();
    for (run, cell) in cells(dataset) {
        let measures = benchmarks.entry(unique(dataset, run, cell)).or_default();
        for metric in &METRICS {
            let Some(values) = metric.values(cell) else { continue };
            let ci = values.summary.ci;
            let measure = Measure {
                value: values.summary.median,
                lower_value: ci.map(|ci| ci.low),
                upper_value: ci.map(|ci| ci.high),
            };
            measures.insert(metric.name, measure);
        }
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}
