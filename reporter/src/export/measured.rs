//! What exports for other tools have in common: the cells with a result, their names, and their metrics.

use crate::dataset::{CellResult, Dataset, Run};
use crate::stats::{Repetition, Summary, process_values};
use crate::text;

/// A metric that other tools follow over time.
pub(super) struct Metric {
    /// Its name, of letters and dashes.
    pub(super) name: &'static str,
    /// Its unit.
    pub(super) unit: &'static str,
    /// Whether less is better.
    pub(super) less_is_better: bool,
    of: fn(&Repetition) -> Option<f64>,
}

/// In the order of the report's table.
pub(super) const METRICS: [Metric; 5] = [
    Metric { name: "decode-rate", unit: "tokens/s", less_is_better: false, of: |r| r.decode_rate },
    Metric { name: "prefill-rate", unit: "tokens/s", less_is_better: false, of: |r| r.prefill_rate },
    Metric { name: "ttft", unit: "ms", less_is_better: true, of: |r| r.ttft_ms },
    Metric { name: "tpot", unit: "ms", less_is_better: true, of: |r| r.tpot_ms },
    Metric { name: "end-to-end", unit: "ms", less_is_better: true, of: |r| Some(r.end_to_end_ms) },
];

/// The values of a metric.
pub(super) struct Values {
    /// One for each worker process, or for each repetition of a single one.
    pub(super) all: Vec<f64>,
    /// Their summary; with an interval only where they are of several processes.
    pub(super) summary: Summary,
}

impl Metric {
    /// What a cell has of it.
    pub(super) fn values(&self, cell: &CellResult) -> Option<Values> {
        let (all, several) = process_values(&cell.samples, cell.per_pass, self.of);
        let summary = Summary::of(all.iter().copied())?;
        let ci = summary.ci.filter(|_| several);
        Some(Values { all, summary: Summary { ci, ..summary } })
    }
}

/// Cells with a result, by themselves: what several replicas did is a number of their group.
pub(super) fn cells(dataset: &Dataset) -> impl Iterator<Item = (&Run, &CellResult)> {
    let all = dataset.runs.iter().flat_map(|run| run.cells.iter().map(move |cell| (run, cell)));
    all.filter(|(_, cell)| cell.is_ok() && cell.cell.workload.replicas == 1)
}

/// A cell's name, the same from run to run.
pub(super) fn name(result: &CellResult) -> String {
    text::label(&result.cell.label())
}

/// The name, with the run's id where there are several: what tells the same cell of two runs apart.
pub(super) fn unique(dataset: &Dataset, run: &Run, result: &CellResult) -> String {
    let name = name(result);
    if dataset.runs.len() > 1 { format!("{name} [{}]", text::label(run.id.as_str())) } else { name }
}
