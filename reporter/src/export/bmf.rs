//! Bencher Metric Format: medians by benchmark and measure, with their confidence interval where there is one.

use std::collections::BTreeMap;

use regatta_core::ranks::Interval;
use serde::Serialize;

use super::measured::{METRICS, cells, unique};
use crate::dataset::Dataset;
use crate::error::Result;

/// A value of a benchmark.
#[derive(Serialize)]
pub(crate) struct Measure {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lower_value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_value: Option<f64>,
}

impl Measure {
    pub(crate) fn new(value: f64, interval: Option<Interval>) -> Self {
        Self { value, lower_value: interval.map(|i| i.low), upper_value: interval.map(|i| i.high) }
    }
}

pub(super) fn bmf(dataset: &Dataset) -> Result<String> {
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, Measure>> = BTreeMap::new();
    for (run, cell) in cells(dataset) {
        let measures = benchmarks.entry(unique(dataset, run, cell)).or_default();
        for metric in &METRICS {
            let Some(values) = metric.values(cell) else { continue };
            measures.insert(metric.name, Measure::new(values.summary.median, values.summary.ci));
        }
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}
