//! What all charts of a subject share: captions, panels, and what whiskers and medians are of.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::workload::Workload;

use super::{Caption, Line, LinePanel, Point, Scale};
use crate::stats::{MIN_FOR_CI, Summary, sorted};
use crate::view::charts::MAX_PANELS;
use crate::view::subject::{Measured, Subject};

/// A value axis with more than this between its ends is drawn with logarithmic steps.
const WIDE_SPREAD: f64 = 15.0;

/// A number of a cell that is charted.
pub(super) type Of = fn(&Measured<'_>) -> Option<Summary>;

/// A subject about to be charted.
pub(super) struct Context<'a> {
    pub(super) subject: &'a Subject<'a>,
    slug: &'a str,
    pub(super) backends: Vec<BackendKind>,
}

/// What whiskers show: never one thing here and another there in the same chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiskers {
    /// The confidence interval of the median, where every median of the chart has one.
    Interval,
    /// The smallest and the largest value.
    Extremes,
}

impl Whiskers {
    pub(super) fn of(summaries: impl Iterator<Item = Summary>) -> Self {
        let mut summaries = summaries.peekable();
        let any = summaries.peek().is_some();
        if any && summaries.all(|summary| summary.ci.is_some()) { Self::Interval } else { Self::Extremes }
    }

    /// The lower and the upper end.
    pub(super) fn ends(self, summary: &Summary) -> (f64, f64) {
        match (self, summary.ci) {
            (Self::Interval, Some(ci)) => (ci.low, ci.high),
            _ => (summary.min, summary.max),
        }
    }

    pub(super) fn note(self) -> String {
        let what = match self {
            Self::Interval => "95 % confidence interval of the median",
            Self::Extremes => "minimum to maximum",
        };
        format!("whiskers: {what}")
    }

    pub(super) fn point(self, length: f64, summary: &Summary) -> Point {
        let (low, high) = self.ends(summary);
        Point { length, value: summary.median, low, high }
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, slug: &'a str) -> Self {
        Self { subject, slug, backends: subject.backends() }
    }

    pub(super) fn caption(
        &self,
        name: &str,
        title: &str,
        value_axis: &str,
        notes: impl IntoIterator<Item = String>,
    ) -> Caption {
        let slug = if self.slug.is_empty() { name.to_owned() } else { format!("{}-{name}", self.slug) };
        let synthetic = if self.subject.is_synthetic() { "synthetic weights".to_owned() } else { String::new() };
        Caption {
            slug,
            title: title.to_owned(),
            subtitle: super::sentence([self.subject.label(), synthetic].into_iter().chain(notes)),
            value_axis: value_axis.to_owned(),
            series: super::series(&self.backends),
        }
    }

    pub(super) fn workload_title(&self, workload: &Workload) -> String {
        let cell = self.subject.cells.iter().find(|m| m.workload().name == workload.name);
        format!("{}: {}", workload.name, workload.size(cell.and_then(Measured::prompt_tokens)))
    }

    /// Whiskers of a chart of all cells.
    pub(super) fn whiskers(&self, of: Of) -> Whiskers {
        Whiskers::of(self.subject.cells.iter().filter(|m| m.is_ok).filter_map(of))
    }

    /// The most values that a cell has: worker processes, or repetitions of a single one.
    pub(super) fn usual_n(&self) -> usize {
        self.subject.cells.iter().map(|m| m.stats.values()).max().unwrap_or(0)
    }

    /// What a median is of, in words.
    pub(super) fn counted(&self) -> String {
        let several = self.subject.cells.iter().any(|m| m.stats.processes > 1);
        counted(self.usual_n(), several)
    }

    /// That something is drawn hollow, where anything is.
    pub(super) fn hollow(&self) -> String {
        let suspect = self.subject.cells.iter().any(Measured::is_suspect);
        if suspect { "hollow: see its flags".to_owned() } else { String::new() }
    }

    /// Cells that are charted over a length: those of the smallest batch, since rates of others are another matter.
    fn plain_batch(&self) -> u32 {
        self.subject.cells.iter().map(|m| m.workload().batch).min().unwrap_or(1)
    }

    pub(super) fn batch_note(&self) -> String {
        let batch = self.plain_batch();
        let others = self.subject.cells.iter().any(|m| m.workload().batch != batch);
        if others { format!("batch {batch} only") } else { String::new() }
    }

    /// The measured cells of a backend at a precision.
    pub(super) fn measured(&self, backend: BackendKind, precision: Precision) -> impl Iterator<Item = &Measured<'a>> {
        let cells = self.subject.cells.iter().filter(move |m| m.backend() == backend && m.precision() == precision);
        cells.filter(|m| m.is_ok)
    }

    /// Those of the smallest batch.
    pub(super) fn charted(&self, backend: BackendKind, precision: Precision) -> impl Iterator<Item = &Measured<'a>> {
        let batch = self.plain_batch();
        self.measured(backend, precision).filter(move |m| m.workload().batch == batch)
    }

    /// A panel for each precision, with the lines of each backend.
    pub(super) fn line_panels(&self, line: impl Fn(BackendKind, Precision) -> Vec<Vec<Point>>) -> Vec<LinePanel> {
        let panel = |precision: Precision| {
            let mut panel = LinePanel::titled(precision.to_string());
            for (series, backend) in self.backends.iter().enumerate() {
                let pieces = line(*backend, precision);
                if pieces.is_empty() {
                    panel.missing.push(format!("{backend}: {}", self.state(*backend, precision)));
                } else {
                    panel.lines.push(Line { series, pieces });
                }
            }
            panel
        };
        self.subject.precisions().into_iter().map(panel).collect()
    }

    /// In a word, why a backend has no line at a precision.
    pub(super) fn state(&self, backend: BackendKind, precision: Precision) -> &'static str {
        let mut cells = self.subject.cells.iter().filter(|m| m.backend() == backend && m.precision() == precision);
        cells.find(|m| !m.is_ok).map_or("no data", |m| m.result.state())
    }
}

impl LinePanel {
    /// An empty panel.
    pub(in crate::view) fn titled(title: String) -> Self {
        Self { title, lines: vec![], missing: vec![], guides: vec![], notes: vec![] }
    }
}

/// Colour and pattern of a backend, the same in every chart.
pub(crate) fn style(backend: BackendKind) -> usize {
    match backend {
        BackendKind::Candle => 0,
        BackendKind::LlamaCpp => 1,
        // The scripted engine stands beside others in tests only.
        BackendKind::OnnxRuntime | BackendKind::Fake => 2,
    }
}

/// In a word, why a cell has no value.
pub(super) fn missing(measured: &Measured<'_>, undefined: &str) -> String {
    if measured.is_ok { undefined.to_owned() } else { measured.result.state().to_owned() }
}

pub(super) fn points(panels: &[LinePanel]) -> impl Iterator<Item = Point> {
    panels.iter().flat_map(|p| p.lines.iter().flat_map(|l| l.pieces.iter().flatten().copied()))
}

/// The lengths of the panels' points in ascending order; `None` where there are not two different ones.
pub(super) fn lengths(panels: &[LinePanel]) -> Option<Vec<f64>> {
    let lengths = sorted(points(panels).map(|p| p.length));
    (lengths.first() != lengths.last()).then_some(lengths)
}

/// Lengths that double show best with doublings of equal width.
pub(super) fn length_scale(sorted: &[f64]) -> Scale {
    let first = sorted.iter().find(|length| **length > 0.0);
    match (first, sorted.last()) {
        (Some(first), Some(last)) if last / first >= 4.0 => Scale::Log2,
        _ => Scale::Linear,
    }
}

pub(super) fn value_scale(values: impl Iterator<Item = f64>) -> Scale {
    let values = sorted(values);
    match (values.first(), values.last()) {
        (Some(first), Some(last)) if *first > 0.0 && last / first >= WIDE_SPREAD => Scale::Log10,
        _ => Scale::Linear,
    }
}

/// What a median is of: worker processes, or repetitions of a single one, which give no interval.
fn counted(n: usize, processes: bool) -> String {
    match (n, processes) {
        (0 | 1, _) => "one repetition".to_owned(),
        (n, true) => format!("median of {n} worker processes{}", if n < MIN_FOR_CI { ", no CI" } else { "" }),
        (n, false) => format!("median of {n} repetitions of one process, no CI"),
    }
}

/// How many panels are left out, where any are.
pub(super) fn left_out(panels: usize) -> String {
    match panels.saturating_sub(MAX_PANELS) {
        0 => String::new(),
        more => format!("{more} more in the table"),
    }
}
