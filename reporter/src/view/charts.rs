//! Charts as data: what is drawn, in words and numbers. Colour always stands for the backend.
//!
//! Each chart is a pure function of measured cells, in a module of its own; it appears only where its data exist.

mod batch;
mod context;
mod heat;
mod intervals;
mod length;
mod memory;
mod models;
mod precision;
mod rates;
mod trend;

use regatta_core::backend::BackendKind;
use serde::Serialize;

use self::context::Context;
use super::subject::Subject;

pub(crate) use self::context::style;
pub use self::heat::{Gap, Heat, HeatMap, HeatRow};
pub use self::trend::{Break, Change, Night, NightMark, Nightly, Segment, TrendChart, trend};

/// Panels of one chart at most; the tables show the rest.
pub(super) const MAX_PANELS: usize = 12;

/// One chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Chart {
    /// Groups of bars, from zero.
    Bars(BarChart),
    /// Lines over a length in tokens.
    Lines(LineChart),
    /// Distributions as strips.
    Strips(StripChart),
    /// A table of coloured fields.
    Heat(HeatMap),
    /// Night after night.
    Trend(TrendChart),
}

impl Chart {
    /// What is written around it.
    pub fn caption(&self) -> &Caption {
        match self {
            Self::Bars(chart) => &chart.caption,
            Self::Lines(chart) => &chart.caption,
            Self::Strips(chart) => &chart.caption,
            Self::Heat(chart) => &chart.caption,
            Self::Trend(chart) => &chart.caption,
        }
    }
}

/// What is written around a chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Caption {
    /// File name without extension.
    pub slug: String,
    /// What it shows, as a sentence.
    pub title: String,
    /// About what, how many repetitions, what must be known.
    pub subtitle: String,
    /// What is on the value axis, with its unit.
    pub value_axis: String,
    /// Backends, in the order of their colours.
    pub series: Vec<Series>,
}

/// A backend in the legend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// Its colour and pattern: the same backend has the same in every chart.
    pub style: usize,
}

/// A chart of bars: panels are workloads, groups are precisions, bars are backends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BarChart {
    /// What is written around it.
    pub caption: Caption,
    /// Its panels, all with the same backends.
    pub panels: Vec<BarPanel>,
}

/// Bars of one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BarPanel {
    /// The workload.
    pub title: String,
    /// What is on its value axis, where that is not the chart's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_axis: Option<String>,
    /// Its precisions.
    pub groups: Vec<BarGroup>,
}

/// Bars of one precision, one for each backend of the caption.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BarGroup {
    /// The precision.
    pub label: String,
    /// The bars, in the order of the caption's series.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What is drawn.
    pub mark: Mark,
    /// Whether it is drawn hollow: its numbers must not be taken as settled.
    pub suspect: bool,
}

/// What stands at a place of a bar chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A measured value.
    Value {
        /// Height of the bar.
        median: f64,
        /// Lower end of the whisker.
        low: f64,
        /// Upper end of the whisker.
        high: f64,
        /// What is written above it.
        label: String,
        /// Its repetitions, where they are fewer than elsewhere: written above the label. Else empty.
        note: String,
    },
    /// A cell without a value: never drawn as zero.
    Missing {
        /// Its state.
        state: String,
    },
    /// No such cell in the matrix.
    Absent,
}

/// A chart of lines: panels are precisions, lines are backends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineChart {
    /// What is written around it.
    pub caption: Caption,
    /// What is on the horizontal axis, with its unit.
    pub length_axis: String,
    /// Steps of the horizontal axis.
    pub length_scale: Scale,
    /// Steps of the value axis.
    pub value_scale: Scale,
    /// Whether all panels have the same value axis.
    pub shared: bool,
    /// Its panels.
    pub panels: Vec<LinePanel>,
}

/// Steps of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Even, from zero.
    Linear,
    /// Every doubling is as wide as the next; zero stands one doubling below the smallest other value.
    Log2,
    /// Every factor of ten is as wide as the next.
    Log10,
}

/// Lines of one precision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinePanel {
    /// The precision.
    pub title: String,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Backends without any value here, with the state of their cells.
    pub missing: Vec<String>,
    /// Straight lines to compare with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guides: Vec<Guide>,
    /// What is written at points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// A straight line to compare a backend's line with: what it would be in the ideal case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Guide {
    /// Position in the caption's series.
    pub series: usize,
    /// Length and value at its beginning.
    pub from: (f64, f64),
    /// Length and value at its end.
    pub to: (f64, f64),
}

/// A few words at a point of a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Note {
    /// Position in the caption's series.
    pub series: usize,
    /// Length in tokens, or whatever the horizontal axis has.
    pub length: f64,
    /// The value.
    pub value: f64,
    /// The words.
    pub text: String,
    /// Where they stand.
    pub place: Place,
}

/// Where words stand in relation to their point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Above it, or below it where another line runs above: away from the other lines.
    Beyond,
    /// Beside it.
    Beside,
}

/// A backend's line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Position in the caption's series.
    pub series: usize,
    /// Pieces; between them nothing was measured.
    pub pieces: Vec<Vec<Point>>,
}

/// A point of a line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Length in tokens.
    pub length: f64,
    /// Median.
    pub value: f64,
    /// Lower end of the whisker.
    pub low: f64,
    /// Upper end of the whisker.
    pub high: f64,
}

/// A chart of distributions: panels are workloads, rows are precision and backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StripChart {
    /// What is written around it.
    pub caption: Caption,
    /// Steps of the value axis, which all panels share.
    pub value_scale: Scale,
    /// Its panels.
    pub panels: Vec<StripPanel>,
}

/// Distributions of one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StripPanel {
    /// The workload.
    pub title: String,
    /// Its rows, rows of one precision together.
    pub rows: Vec<StripRow>,
}

/// One distribution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StripRow {
    /// The precision; empty where it is that of the row above.
    pub label: String,
    /// Position in the caption's series.
    pub series: usize,
    /// The distribution.
    pub strip: Option<Strip>,
    /// The cell's state, where there is no distribution.
    pub missing: String,
}

/// A distribution in five numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Strip {
    /// The smallest value.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile, where there are values enough.
    pub p99: Option<f64>,
    /// The largest value.
    pub max: f64,
}

/// Every chart that the subject has data for; `slug` goes into their file names.
pub(super) fn all(subject: &Subject<'_>, slug: &str) -> Vec<Chart> {
    let context = Context::new(subject, slug);
    let charts = [
        context.decode().map(Chart::Bars),
        context.prefill().map(Chart::Bars),
        context.ttft().map(Chart::Lines),
        context.prompt_length().map(Chart::Lines),
        context.depth().map(Chart::Lines),
        context.context_length().map(Chart::Lines),
        context.intervals().map(Chart::Strips),
        context.batch().map(Chart::Lines),
        context.pareto().map(Chart::Lines),
        context.precision().map(Chart::Bars),
        context.mbu().map(Chart::Bars),
        context.mfu().map(Chart::Bars),
        context.memory().map(Chart::Lines),
        context.energy().map(Chart::Bars),
    ];
    charts.into_iter().flatten().collect()
}

/// Every chart across the subjects of a run; `slug` begins their file names.
pub(super) fn across(subjects: &[Subject<'_>], slug: &str) -> Vec<Chart> {
    let models = models::sizes(subjects, slug).into_iter().map(Chart::Lines);
    heat::map(subjects, slug).map(Chart::Heat).into_iter().chain(models).collect()
}

/// Backends in the legend, in the order of documentation.
fn series(backends: &[BackendKind]) -> Vec<Series> {
    backends.iter().map(|b| Series { label: b.to_string(), style: style(*b) }).collect()
}

/// Notes that say something, one after the other.
fn sentence(notes: impl IntoIterator<Item = String>) -> String {
    let notes: Vec<String> = notes.into_iter().filter(|note| !note.is_empty()).collect();
    notes.join("\u{a0}· ")
}
