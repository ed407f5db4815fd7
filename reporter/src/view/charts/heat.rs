//! Heat map: every cell of the matrix on every device at a glance, those without a result included.

use regatta_core::artifact::{ArtifactRef, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::id::WorkloadName;
use regatta_core::workload::Kind;
use serde::Serialize;

use super::Caption;
use crate::text;
use crate::view::subject::{Measured, Subject};

/// Rows of the map at most; the tables show the rest.
const MAX_ROWS: usize = 48;

/// Columns of the map at most.
const MAX_COLUMNS: usize = 24;

/// A table of coloured fields: rows are work, columns are devices and the engines on them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeatMap {
    /// What is written around it.
    pub caption: Caption,
    /// Device and engine of each column.
    pub columns: Vec<(String, String)>,
    /// The rows.
    pub rows: Vec<HeatRow>,
}

/// The same work on all devices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeatRow {
    /// What it is.
    pub label: String,
    /// Its fields, in the order of the columns.
    pub fields: Vec<Heat>,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heat {
    /// A measured value.
    Value {
        /// In relation to the best of its row, from 0 to 1.
        share: f64,
        /// What is written in it.
        label: String,
        /// Whether it must not be taken as settled.
        suspect: bool,
    },
    /// A cell of the matrix without a value.
    Gap {
        /// What kind.
        gap: Gap,
        /// Its state.
        state: String,
    },
    /// No such cell in the matrix.
    Absent,
}

/// Why a cell of the matrix has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It was not to be measured here.
    Skipped,
    /// It was tried, and its result is none.
    Failed,
    /// It has not ended, or was stopped.
    Open,
}

/// What stands in a row.
#[derive(PartialEq)]
struct Work<'a> {
    artifact: &'a ArtifactRef,
    workload: &'a WorkloadName,
}

/// The map of a run with several columns; `None` with fewer.
pub(super) fn map(subjects: &[Subject<'_>], slug: &str) -> Option<HeatMap> {
    let cells = || subjects.iter().flat_map(|subject| &subject.cells);
    let mut columns = Vec::new();
    let mut works: Vec<Work<'_>> = Vec::new();
    for m in cells() {
        let (column, work) = (column(m), work(m));
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !works.iter().any(|known| same(known, &work)) {
            works.push(work);
        }
    }
    if columns.len() < 2 || !cells().any(|m| value(m).is_some()) {
        return None;
    }
    let (all_rows, all_columns) = (works.len(), columns.len());
    columns.truncate(MAX_COLUMNS);
    works.truncate(MAX_ROWS);
    let several_models = works.iter().any(|work| work.artifact.model != works[0].artifact.model);
    let row = |work: &Work<'_>| {
        let found =
            |column: &(String, BackendKind)| cells().find(|m| self::column(m) == *column && same(&self::work(m), work));
        let found: Vec<_> = columns.iter().map(found).collect();
        let best = found.iter().flatten().filter_map(|m| value(m)).fold(0.0, f64::max);
        let model = if several_models { format!("{} · ", work.artifact.model) } else { String::new() };
        HeatRow {
            label: format!("{model}{} · {}", work.artifact.precision, work.workload),
            fields: found.into_iter().map(|m| m.map_or(Heat::Absent, |m| field(m, best))).collect(),
        }
    };
    let rows: Vec<HeatRow> = works.iter().map(row).collect();
    let more = (all_rows - rows.len()) * all_columns + rows.len() * (all_columns - columns.len());
    let notes = [
        "decode rate, of prompts by themselves the prefill rate; the stronger the colour, the nearer to the row's best"
            .to_owned(),
        synthetic(cells()),
        if more > 0 { format!("{} more in the table", text::count(more, "field")) } else { String::new() },
    ];
    let prefix = if slug.is_empty() { String::new() } else { format!("{slug}-") };
    Some(HeatMap {
        caption: Caption {
            slug: format!("{prefix}overview"),
            title: "Every cell at a glance, in tokens/s".to_owned(),
            subtitle: super::sentence(notes),
            value_axis: String::new(),
            series: vec![],
        },
        columns: columns.into_iter().map(|(device, backend)| (device, backend.to_string())).collect(),
        rows,
    })
}

/// Whose speed it is, where weights are made up.
fn synthetic<'a, 'b: 'a>(mut cells: impl Iterator<Item = &'a Measured<'b>>) -> String {
    let any = cells.any(|m| m.result.cell.artifact.weights == Weights::Synthetic);
    if any { "synthetic weights".to_owned() } else { String::new() }
}

fn column(measured: &Measured<'_>) -> (String, BackendKind) {
    let cell = &measured.result.cell;
    (format!("{} {}", text::label(cell.agent.as_str()), cell.device), cell.backend)
}

fn work<'a>(measured: &Measured<'a>) -> Work<'a> {
    Work { artifact: &measured.result.cell.artifact, workload: &measured.workload().name }
}

/// Whether it is the same work: engines read the same weights from files of different formats.
fn same(a: &Work<'_>, b: &Work<'_>) -> bool {
    let artifact = |work: &Work<'_>| (work.artifact.model.clone(), work.artifact.weights, work.artifact.precision);
    artifact(a) == artifact(b) && a.workload == b.workload
}

fn value(measured: &Measured<'_>) -> Option<f64> {
    let stats = &measured.stats;
    let rate =
        if matches!(measured.workload().kind, Kind::Prefill { .. }) { stats.prefill_rate } else { stats.decode_rate };
    rate.filter(|_| measured.is_ok).map(|summary| summary.median)
}

fn field(measured: &Measured<'_>, best: f64) -> Heat {
    if let Some(rate) = value(measured) {
        return Heat::Value { share: rate / best, label: text::number(rate), suspect: measured.is_suspect() };
    }
    let state = measured.result.state();
    Heat::Gap { gap: gap(state), state: state.replace('_', " ") }
}

fn gap(state: &str) -> Gap {
    match state {
        "skipped" => Gap::Skipped,
        "waiting" | "measuring" | "cancelled" => Gap::Open,
        _ => Gap::Failed,
    }
}
