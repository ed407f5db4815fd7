//! Metrics under the names of MLPerf Client's results, a JSON object a line for each model on each engine and device.
//!
//! Names and formulas only: neither its prompts nor its models were run, so these are no results of MLPerf Client, and each
//! line says so. A workload takes the place of a category. The rate is one over the mean time per token after the first.

use regatta_core::cell::Cell;
use regatta_core::device::DeviceKind;
use regatta_core::workload::{Kind, Workload};
use serde_json::{Map, Value, json};

use crate::dataset::{CellResult, Dataset, Run};
use crate::error::Result;
use crate::stats::{Repetition, geometric_mean};
use crate::text;

pub(super) fn lines(dataset: &Dataset) -> Result<String> {
    let mut out = String::new();
    for run in &dataset.runs {
        for cells in groups(run) {
            out += &serde_json::to_string(&line(run, &cells))?;
            out.push('\n');
        }
    }
    Ok(out)
}

/// Cells by themselves with one sequence, by agent, device, engine and weights.
fn groups(run: &Run) -> Vec<Vec<&CellResult>> {
    let mut groups: Vec<Vec<&CellResult>> = Vec::new();
    let key = |cell: &Cell| (cell.agent.clone(), cell.device, cell.backend, cell.artifact.clone());
    let is_one = |workload: &Workload| workload.kind == Kind::Generate && workload.batch == 1 && workload.replicas == 1;
    for result in run.cells.iter().filter(|result| is_one(&result.cell.workload)) {
        match groups.iter_mut().find(|group| key(&group[0].cell) == key(&result.cell)) {
            Some(group) => group.push(result),
            None => groups.push(vec![result]),
        }
    }
    groups
}

/// Means over the repetitions of a workload.
struct Category {
    ttft_s: f64,
    rate: Option<f64>,
    input: f64,
    generated: f64,
    duration_s: f64,
}

impl Category {
    fn of(result: &CellResult) -> Option<Self> {
        let samples: Vec<_> = result.samples.iter().map(|sample| (sample, Repetition::of(sample))).collect();
        let first = samples.first()?.0;
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let latency = mean(samples.iter().filter_map(|(_, numbers)| numbers.tpot_ms).collect());
        Some(Self {
            ttft_s: mean(samples.iter().filter_map(|(_, numbers)| numbers.ttft_ms).collect())? / 1e3,
            rate: latency.map(|ms| 1e3 / ms),
            input: f64::from(first.prompt_tokens),
            generated: first.times.tokens.len() as f64,
            duration_s: mean(samples.iter().map(|(_, numbers)| numbers.end_to_end_ms).collect())? / 1e3,
        })
    }

    fn json(&self) -> Value {
        json!({
            "Avg Time to First Token": rounded(self.ttft_s),
            "Avg 2nd+ Token Generation Rate": self.rate.map(rounded),
            "Avg Input Tokens": self.input,
            "Avg Generated Tokens": self.generated,
            "Avg Inference Duration": self.duration_s,
        })
    }
}

/// To nine decimals: nanoseconds, for seconds. Beyond, platforms differ.
fn rounded(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

fn line(run: &Run, cells: &[&CellResult]) -> Value {
    let cell = &cells[0].cell;
    let ok: Vec<(&str, Category)> = cells
        .iter()
        .filter(|result| result.is_ok())
        .filter_map(|result| Some((result.cell.workload.name.as_str(), Category::of(result)?)))
        .collect();
    let failed = cells.iter().filter(|result| !result.is_ok());
    let errors: Vec<String> =
        failed.map(|result| format!("{}: {}", result.cell.workload.name, result.state())).collect();
    let mean = |of: fn(&Category) -> f64| {
        (!ok.is_empty()).then(|| ok.iter().map(|(_, category)| of(category)).sum::<f64>() / ok.len() as f64)
    };
    let ttft: Vec<f64> = ok.iter().map(|(_, category)| category.ttft_s).collect();
    let rates: Option<Vec<f64>> = ok.iter().map(|(_, category)| category.rate).collect();
    let categories: Map<String, Value> = ok.iter().map(|(name, c)| ((*name).to_owned(), c.json())).collect();
    let device = run.device(cell);
    let host = run.hosts.iter().find(|host| host.agent == cell.agent);
    let fact = |name: &str| host.and_then(|host| host.facts.get(name)).map(|fact| text::label(fact));
    json!({
        "ConfigComment": "metrics of Regatta under MLPerf Client's names; not a result of MLPerf Client",
        "BuildVer": format!("regatta {}", env!("CARGO_PKG_VERSION")),
        "Scenario Name": text::label(&run.scenario),
        "Model Base Name": cell.artifact.model.to_string(),
        "Model Name": cell.artifact.to_string(),
        "Execution Provider Name": cell.backend.as_str(),
        "Device Type": if cell.device.kind == DeviceKind::Cpu { "CPU" } else { "GPU" },
        "Iterations": cells.iter().map(|result| result.samples.len()).max(),
        "WarmUp": cells.iter().flat_map(|result| &result.samples).map(|sample| sample.warmup_repetitions).max(),
        "Benchmark Success": errors.is_empty(),
        "Benchmark Start Time": run.submitted_at.to_string(),
        "Error Message": errors.join("; "),
        "overall_results": {
            "Geomean Time to First Token": geometric_mean(&ttft).map(rounded),
            "Geomean 2nd+ Token Generation Rate": rates.as_deref().and_then(geometric_mean).map(rounded),
            "Avg Input Tokens": mean(|category| category.input),
            "Avg Generated Tokens": mean(|category| category.generated),
        },
        "category_results": categories,
        "SysInfo_CPUModel": fact("cpu"),
        "SysInfo_CPULogicalCores": device.and_then(|device| device.cores),
        "SysInfo_GPUNames": device.filter(|d| d.id.kind != DeviceKind::Cpu).map(|d| text::label(&d.name)),
        "SysInfo_OSName": fact("os"),
    })
}
