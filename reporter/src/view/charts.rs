//! Charts as data: what is drawn, in words and numbers. Colour always stands for the backend.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::metrics::Metrics;
use regatta_core::workload::{Kind, Workload};
use serde::Serialize;

use super::subject::{Measured, Subject};
use crate::stats::{MIN_FOR_CI, Repetition, Summary, ms, percentile, sorted};
use crate::text;

/// Panels of one chart at most; the tables show the rest.
pub(super) const MAX_PANELS: usize = 12;

/// Bins of the context axis at most.
const MAX_BINS: u32 = 32;

/// Times between tokens that a bin needs: with fewer the median is noise.
const MIN_PER_BIN: usize = 8;

/// A value axis with more than this between its ends is drawn with logarithmic steps.
const WIDE_SPREAD: f64 = 15.0;

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
}

impl Chart {
    /// What is written around it.
    pub fn caption(&self) -> &Caption {
        match self {
            Self::Bars(chart) => &chart.caption,
            Self::Lines(chart) => &chart.caption,
            Self::Strips(chart) => &chart.caption,
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
    /// Every doubling is as wide as the next.
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
    let context = Context { subject, slug, backends: subject.backends() };
    let decode = Rate {
        name: "decode",
        axis: "Decode rate",
        title: if subject.is_kernel() { "How fast steps are computed" } else { "How fast tokens are generated" },
        applies: |kind| !matches!(kind, Kind::Prefill { .. }),
        of: |m| m.stats.decode_rate,
    };
    let prefill = Rate {
        name: "prefill",
        axis: "Prefill rate",
        title: "How fast prompts are processed",
        applies: |kind| !kind.is_decode(),
        of: |m| m.stats.prefill_rate,
    };
    let charts = [
        context.bars(&decode).map(Chart::Bars),
        context.bars(&prefill).map(Chart::Bars),
        context.prompt_length().map(Chart::Lines),
        context.ttft().map(Chart::Lines),
        context.context_length().map(Chart::Lines),
        context.intervals().map(Chart::Strips),
    ];
    charts.into_iter().flatten().collect()
}

/// A rate in tokens per second, as bars.
struct Rate {
    /// For file names.
    name: &'static str,
    /// What is on the axis.
    axis: &'static str,
    /// What the chart shows.
    title: &'static str,
    /// Whether workloads of a kind have it.
    applies: fn(Kind) -> bool,
    /// Where it is.
    of: fn(&Measured<'_>) -> Option<Summary>,
}

/// What all charts of a subject share.
struct Context<'a> {
    subject: &'a Subject<'a>,
    slug: &'a str,
    backends: Vec<BackendKind>,
}

impl<'a> Context<'a> {
    fn caption(&self, name: &str, title: String, value_axis: String, notes: &[String]) -> Caption {
        let slug = if self.slug.is_empty() { name.to_owned() } else { format!("{}-{name}", self.slug) };
        let mut parts = vec![self.subject.label()];
        if self.subject.is_synthetic() {
            parts.push("synthetic weights".to_owned());
        }
        parts.extend(notes.iter().filter(|n| !n.is_empty()).cloned());
        let series = self.backends.iter().map(|b| Series { label: b.to_string(), style: style(*b) }).collect();
        Caption { slug, title, subtitle: parts.join("\u{a0}· "), value_axis, series }
    }

    fn bars(&self, rate: &Rate) -> Option<BarChart> {
        let (n, of) = (self.usual_n(), rate.of);
        let measured = self.subject.cells.iter().filter(|m| of(m).is_some());
        if measured.count() == 0 {
            return None;
        }
        let mut workloads = self.subject.workloads();
        workloads.retain(|workload| (rate.applies)(workload.kind));
        let panels = workloads.iter().take(MAX_PANELS).map(|w| self.bar_panel(w, n, of)).collect();
        let suspect = self.subject.cells.iter().any(Measured::is_suspect);
        let notes = [
            self.counted(),
            "whiskers: minimum to maximum".to_owned(),
            if suspect { "hollow: see its flags".to_owned() } else { String::new() },
            left_out(workloads.len()),
        ];
        let (title, axis) = (format!("{}, in tokens/s", rate.title), format!("{}, tokens/s", rate.axis));
        Some(BarChart { caption: self.caption(rate.name, title, axis, &notes), panels })
    }

    fn bar_panel(&self, workload: &Workload, n: usize, of: fn(&Measured<'_>) -> Option<Summary>) -> BarPanel {
        let group = |precision: Precision| BarGroup {
            label: precision.to_string(),
            bars: self.backends.iter().map(|b| bar(self.subject.at(*b, precision, workload), n, of)).collect(),
        };
        let groups = self.subject.precisions().into_iter().map(group).collect();
        BarPanel { title: self.workload_title(workload), groups }
    }

    fn workload_title(&self, workload: &Workload) -> String {
        let cell = self.subject.cells.iter().find(|m| m.workload().name == workload.name);
        format!("{}: {}", workload.name, workload.size(cell.and_then(Measured::prompt_tokens)))
    }

    /// The most values that a cell has: worker processes, or repetitions of a single one.
    fn usual_n(&self) -> usize {
        self.subject.cells.iter().map(|m| m.stats.values()).max().unwrap_or(0)
    }

    /// What a median is of, in words.
    fn counted(&self) -> String {
        let several = self.subject.cells.iter().any(|m| m.stats.processes > 1);
        counted(self.usual_n(), several)
    }

    /// Cells that are charted over a length: those of the smallest batch, since rates of others are another matter.
    fn plain_batch(&self) -> u32 {
        self.subject.cells.iter().map(|m| m.workload().batch).min().unwrap_or(1)
    }

    fn charted(&self, backend: BackendKind, precision: Precision) -> impl Iterator<Item = &Measured<'a>> {
        let batch = self.plain_batch();
        self.subject.cells.iter().filter(move |m| {
            m.backend() == backend && m.precision() == precision && m.workload().batch == batch && m.result.is_ok()
        })
    }

    fn line_panels(&self, line: impl Fn(BackendKind, Precision) -> Vec<Vec<Point>>) -> Vec<LinePanel> {
        let panel = |precision: Precision| {
            let mut panel = LinePanel {
                title: precision.to_string(),
                lines: Vec::new(),
                missing: Vec::new(),
                guides: Vec::new(),
                notes: Vec::new(),
            };
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
    fn state(&self, backend: BackendKind, precision: Precision) -> &'static str {
        let mut cells = self.subject.cells.iter().filter(|m| m.backend() == backend && m.precision() == precision);
        cells.find(|m| !m.result.is_ok()).map_or("no data", |m| m.result.state())
    }

    fn ttft(&self) -> Option<LineChart> {
        let panels = self.line_panels(|backend, precision| {
            let points = ttft_points(self.charted(backend, precision));
            if points.is_empty() { vec![] } else { vec![points] }
        });
        let lengths = sorted(points(&panels).map(|p| p.length));
        if lengths.first() == lengths.last() {
            return None;
        }
        let notes = [self.counted(), "whiskers: minimum to maximum".to_owned(), self.batch_note()];
        let title = "How long the first token takes as the prompt grows, in ms".to_owned();
        Some(LineChart {
            caption: self.caption("ttft", title, "TTFT, ms".to_owned(), &notes),
            length_axis: "prompt length, tokens".to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: value_scale(points(&panels).map(|p| p.value)),
            shared: true,
            panels,
        })
    }

    /// Prompts by themselves, over their length: those of the smallest depth.
    fn prompt_length(&self) -> Option<LineChart> {
        let prompts = || self.subject.cells.iter().filter(|m| matches!(m.workload().kind, Kind::Prefill { .. }));
        let depth = prompts().map(|m| m.workload().kind.depth()).min()?;
        let panels = self.line_panels(|backend, precision| {
            let cells = self.charted(backend, precision).filter(|m| m.workload().kind == Kind::Prefill { depth });
            let mut points: Vec<Point> = cells.filter_map(prefill_point).collect();
            points.sort_by(|a, b| a.length.total_cmp(&b.length));
            if points.is_empty() { vec![] } else { vec![points] }
        });
        let lengths = sorted(points(&panels).map(|p| p.length));
        if lengths.first() == lengths.last() {
            return None;
        }
        let at = if depth == 0 { String::new() } else { format!("depth {depth}") };
        let notes = [self.counted(), "whiskers: minimum to maximum".to_owned(), self.batch_note(), at];
        let title = "How fast prompts are processed as they grow, in tokens/s".to_owned();
        Some(LineChart {
            caption: self.caption("prefill-length", title, "Prefill rate, tokens/s".to_owned(), &notes),
            length_axis: "prompt length, tokens".to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: value_scale(points(&panels).map(|p| p.value)),
            shared: true,
            panels,
        })
    }

    fn context_length(&self) -> Option<LineChart> {
        let bin = self.bin_width()?;
        let panels = self.line_panels(|backend, precision| context_pieces(self.charted(backend, precision), bin));
        let lengths = sorted(points(&panels).map(|p| p.length));
        if lengths.first() == lengths.last() {
            return None;
        }
        let notes = [
            format!("median of each {bin} tokens of context, all workloads and repetitions"),
            "spread: quartiles".to_owned(),
            if panels.len() > 1 { "each panel has its own scale".to_owned() } else { String::new() },
            self.batch_note(),
        ];
        let title = "How the decode rate changes as the context grows, in tokens/s".to_owned();
        Some(LineChart {
            caption: self.caption("context", title, "Decode rate, tokens/s".to_owned(), &notes),
            length_axis: "context: prompt and tokens so far".to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: Scale::Linear,
            shared: false,
            panels,
        })
    }

    /// Width of a context bin: a power of two that leaves no more than [`MAX_BINS`] of them.
    fn bin_width(&self) -> Option<u32> {
        let longest = self.subject.cells.iter().filter(|m| m.result.is_ok());
        let longest = longest.filter_map(|m| Some(m.prompt_tokens()? + m.workload().generate)).max()?;
        let mut bin = 8;
        while longest / bin > MAX_BINS {
            bin *= 2;
        }
        Some(bin)
    }

    fn batch_note(&self) -> String {
        let batch = self.plain_batch();
        let others = self.subject.cells.iter().any(|m| m.workload().batch != batch);
        if others { format!("batch {batch} only") } else { String::new() }
    }

    fn intervals(&self) -> Option<StripChart> {
        let with_steps: Vec<&Workload> = self.subject.workloads().into_iter().filter(|w| w.generate > 1).collect();
        let panels: Vec<StripPanel> = with_steps.iter().take(MAX_PANELS).map(|w| self.strip_panel(w)).collect();
        let strips: Vec<Strip> = panels.iter().flat_map(|p| p.rows.iter().filter_map(|r| r.strip)).collect();
        if strips.is_empty() {
            return None;
        }
        let notes = [
            "mark: median · bar: to the 90th percentile · line: minimum to 99th percentile · ring: maximum".to_owned(),
            left_out(with_steps.len()),
        ];
        let title = "How evenly tokens arrive: times between tokens, in ms".to_owned();
        Some(StripChart {
            caption: self.caption("itl", title, "Time between tokens, ms".to_owned(), &notes),
            value_scale: value_scale(strips.iter().flat_map(|s| [s.min, s.max])),
            panels,
        })
    }

    fn strip_panel(&self, workload: &Workload) -> StripPanel {
        let mut rows = Vec::new();
        for precision in self.subject.precisions() {
            for (series, backend) in self.backends.iter().enumerate() {
                let Some(measured) = self.subject.at(*backend, precision, workload) else { continue };
                let label = if series == 0 || rows.is_empty() { precision.to_string() } else { String::new() };
                rows.push(strip_row(label, series, measured));
            }
        }
        StripPanel { title: self.workload_title(workload), rows }
    }
}

/// Colour and pattern of a backend, the same in every chart.
pub(super) fn style(backend: BackendKind) -> usize {
    match backend {
        BackendKind::Candle => 0,
        BackendKind::LlamaCpp => 1,
        BackendKind::Fake => 2,
    }
}

fn bar(measured: Option<&Measured<'_>>, usual_n: usize, of: fn(&Measured<'_>) -> Option<Summary>) -> Bar {
    let Some(measured) = measured else { return Bar { mark: Mark::Absent, suspect: false } };
    let summary = of(measured).filter(|_| measured.result.is_ok());
    let mark = match summary {
        Some(s) => {
            let (label, note) = (text::number(s.median), fewer(s.n, usual_n));
            Mark::Value { median: s.median, low: s.min, high: s.max, label, note }
        }
        None => Mark::Missing { state: missing(measured) },
    };
    Bar { mark, suspect: measured.is_suspect() }
}

fn fewer(n: usize, usual: usize) -> String {
    if n < usual { format!("n={n}") } else { String::new() }
}

fn missing(measured: &Measured<'_>) -> String {
    if measured.result.is_ok() { "not defined".to_owned() } else { measured.result.state().to_owned() }
}

fn strip_row(label: String, series: usize, measured: &Measured<'_>) -> StripRow {
    let itl = measured.stats.itl_ms.filter(|_| measured.result.is_ok());
    let strip = itl.map(|i| Strip { min: i.min, p50: i.p50, p90: i.p90, p99: i.p99, max: i.max });
    let missing = if strip.is_none() { missing(measured) } else { String::new() };
    StripRow { label, series, strip, missing }
}

/// A cell's prefill rate over its prompt's length.
fn prefill_point(measured: &Measured<'_>) -> Option<Point> {
    let (length, s) = (measured.prompt_tokens()?, measured.stats.prefill_rate?);
    Some(Point { length: f64::from(length), value: s.median, low: s.min, high: s.max })
}

/// One point for each prompt length; cells of the same length are pooled.
fn ttft_points<'a, 'b: 'a>(cells: impl Iterator<Item = &'a Measured<'b>>) -> Vec<Point> {
    let mut by_length = std::collections::BTreeMap::<u32, Vec<f64>>::new();
    for sample in cells.flat_map(|m| &m.result.samples) {
        by_length.entry(sample.prompt_tokens).or_default().extend(Repetition::of(sample).ttft_ms);
    }
    let point = |(length, values)| {
        let s = Summary::of(values)?;
        Some(Point { length: f64::from(length), value: s.median, low: s.min, high: s.max })
    };
    by_length.into_iter().filter_map(point).collect()
}

/// Decode rates by context length, in pieces of neighbouring bins of `bin` tokens.
fn context_pieces<'a, 'b: 'a>(cells: impl Iterator<Item = &'a Measured<'b>>, bin: u32) -> Vec<Vec<Point>> {
    let mut bins = std::collections::BTreeMap::<u32, Vec<f64>>::new();
    let samples = cells.flat_map(|m| m.result.samples.iter().map(|sample| (m.workload().kind.depth(), sample)));
    for (depth, sample) in samples {
        for (step, ns) in Metrics::of(sample).itl_ns.into_iter().enumerate() {
            // The step reads what was there, the prompt, and every token before it.
            let before = depth.saturating_add(sample.prompt_tokens);
            let context = before.saturating_add(u32::try_from(step).unwrap_or(u32::MAX));
            bins.entry(context / bin).or_default().push(f64::from(sample.batch) * 1e3 / ms(ns));
        }
    }
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let mut previous = None;
    for (index, rates) in bins.into_iter().filter(|(_, rates)| rates.len() >= MIN_PER_BIN) {
        let rates = sorted(rates);
        let point = Point {
            length: (f64::from(index) + 0.5) * f64::from(bin),
            value: percentile(&rates, 0.5),
            low: percentile(&rates, 0.25),
            high: percentile(&rates, 0.75),
        };
        match pieces.last_mut() {
            Some(piece) if previous == Some(index - 1) => piece.push(point),
            _ => pieces.push(vec![point]),
        }
        previous = Some(index);
    }
    pieces
}

fn points(panels: &[LinePanel]) -> impl Iterator<Item = Point> {
    panels.iter().flat_map(|p| p.lines.iter().flat_map(|l| l.pieces.iter().flatten().copied()))
}

/// Lengths that double show best with doublings of equal width.
fn length_scale(sorted: &[f64]) -> Scale {
    match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) if *first > 0.0 && last / first >= 4.0 => Scale::Log2,
        _ => Scale::Linear,
    }
}

fn value_scale(values: impl Iterator<Item = f64>) -> Scale {
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

fn left_out(panels: usize) -> String {
    match panels.saturating_sub(MAX_PANELS) {
        0 => String::new(),
        more => format!("{more} more in the table"),
    }
}
