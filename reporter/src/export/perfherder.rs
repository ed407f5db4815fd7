//! Perfherder: the line that Mozilla's and others' CI looks for in a job's log. A suite for each cell, a subtest for each
//! metric, replicates are worker processes.

use regatta_core::metrics::METHOD_VERSION;
use serde::Serialize;

use super::measured::{METRICS, cells, unique};
use crate::dataset::Dataset;
use crate::error::Result;

#[derive(Serialize)]
struct Data {
    framework: Framework,
    suites: Vec<Suite>,
}

#[derive(Serialize)]
struct Framework {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Suite {
    name: String,
    extra_options: Vec<String>,
    subtests: Vec<Subtest>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Subtest {
    name: &'static str,
    value: f64,
    unit: &'static str,
    lower_is_better: bool,
    replicates: Vec<f64>,
}

pub(super) fn perfherder(dataset: &Dataset) -> Result<String> {
    let suites = cells(dataset).map(|(run, cell)| Suite {
        name: unique(dataset, run, cell),
        // Numbers by other definitions are another series.
        extra_options: vec![format!("method-{METHOD_VERSION}")],
        subtests: METRICS
            .iter()
            .filter_map(|metric| {
                let values = metric.values(cell)?;
                Some(Subtest {
                    name: metric.name,
                    value: values.summary.median,
                    unit: metric.unit,
                    lower_is_better: metric.less_is_better,
                    replicates: values.all,
                })
            })
            .collect(),
    });
    let data = Data { framework: Framework { name: "regatta" }, suites: suites.collect() };
    Ok(format!("PERFHERDER_DATA: {}\n", serde_json::to_string(&data)?))
}
