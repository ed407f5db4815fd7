//! Trend: one cell, night after night. A segment is a stretch of nights that may be compared; at a break something else
//! than the software changed, and at a change point the cell itself did.

use jiff::civil::Date;
use serde::Serialize;

use super::{Caption, Series};
use crate::stats::Summary;
use crate::text;

/// A cell's nights, as whoever judges them hands them over.
#[derive(Debug, Clone, PartialEq)]
pub struct Nightly {
    /// File name without extension.
    pub slug: String,
    /// Which cell and where.
    pub subject: String,
    /// What is on the value axis, with its unit: `Decode rate, tokens/s`.
    pub value_axis: String,
    /// Colour: that of the cell's backend.
    pub style: usize,
    /// Whether more is better.
    pub more_is_better: bool,
    /// The nights in their order; nights without a result are not among them.
    pub nights: Vec<Night>,
    /// Where nights may not be compared across, in their order.
    pub breaks: Vec<Break>,
    /// Positions of nights from which on the cell was found to be another, in their order.
    pub changes: Vec<usize>,
}

/// A night.
#[derive(Debug, Clone, PartialEq)]
pub struct Night {
    /// The day on which it began.
    pub date: Date,
    /// One value for each worker process.
    pub values: Vec<f64>,
    /// Why it is not to be trusted. Empty where it is.
    pub suspect: String,
}

/// A place between two nights across which nothing is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    /// Position of the night after it.
    pub before: usize,
    /// What changed: `driver 550.54 → 560.35`.
    pub label: String,
}

/// A chart of nights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrendChart {
    /// What is written around it.
    pub caption: Caption,
    /// The nights with a value.
    pub nights: Vec<NightMark>,
    /// Stretches with one level each.
    pub segments: Vec<Segment>,
    /// Where nights may not be compared across.
    pub breaks: Vec<Break>,
    /// Where the cell was found to be another.
    pub changes: Vec<Change>,
}

/// A night in a chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NightMark {
    /// Days since the first night.
    pub day: i32,
    /// `03-02`.
    pub date: String,
    /// Median over worker processes.
    pub value: f64,
    /// Lower end of the whisker.
    pub low: f64,
    /// Upper end of the whisker.
    pub high: f64,
    /// Worker processes.
    pub n: usize,
    /// Whether it is drawn hollow.
    pub suspect: bool,
}

/// Nights of one level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Segment {
    /// Position of its first night.
    pub first: usize,
    /// Position of its last night.
    pub last: usize,
    /// Median of its trusted nights.
    pub level: f64,
}

/// A change of the cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Position of the first night of the new level.
    pub at: usize,
    /// By how much: `−4.2 %`.
    pub label: String,
    /// Whether it is for the worse.
    pub worse: bool,
}

/// Draws up the chart of a cell's nights; `None` without any night that has a value.
pub fn trend(series: &Nightly) -> Option<TrendChart> {
    // Positions shift where a night without values is left out.
    let kept: Vec<(usize, Summary)> = series
        .nights
        .iter()
        .enumerate()
        .filter_map(|(i, n)| Some((i, Summary::of(n.values.iter().copied())?)))
        .collect();
    let first = series.nights.get(kept.first()?.0)?.date;
    let position = |night: usize| kept.iter().position(|(i, _)| *i >= night);
    let nights: Vec<NightMark> = kept.iter().map(|(i, s)| mark(&series.nights[*i], s, first)).collect();
    let breaks: Vec<Break> = series
        .breaks
        .iter()
        .filter_map(|b| Some(Break { before: position(b.before)?, label: text::label(&b.label) }))
        .collect();
    let changed: Vec<usize> = series.changes.iter().filter_map(|at| position(*at)).collect();
    let segments = segments(&nights, breaks.iter().map(|b| b.before).chain(changed.iter().copied()));
    let changes = changed.iter().filter_map(|at| change(*at, &segments, series.more_is_better)).collect();
    Some(TrendChart { caption: caption(series, &nights), nights, segments, breaks, changes })
}

fn mark(night: &Night, summary: &Summary, first: Date) -> NightMark {
    let (low, high) = summary.ci.map_or((summary.min, summary.max), |ci| (ci.low, ci.high));
    let days = night.date.since((jiff::Unit::Day, first)).map_or(0, |span| span.get_days());
    NightMark {
        day: days,
        date: night.date.strftime("%m-%d").to_string(),
        value: summary.median,
        low,
        high,
        n: summary.n,
        suspect: !night.suspect.is_empty(),
    }
}

/// Stretches between the places where a new one begins.
fn segments(nights: &[NightMark], begins: impl Iterator<Item = usize>) -> Vec<Segment> {
    let mut begins: Vec<usize> = begins.chain([0]).filter(|at| *at < nights.len()).collect();
    begins.sort_unstable();
    begins.dedup();
    let ends = begins.iter().skip(1).copied().chain([nights.len()]);
    let segment = |(first, end): (&usize, usize)| {
        let values = nights[*first..end].iter().filter(|night| !night.suspect).map(|night| night.value);
        Some(Segment { first: *first, last: end - 1, level: Summary::of(values)?.median })
    };
    begins.iter().zip(ends).filter_map(segment).collect()
}

fn change(at: usize, segments: &[Segment], more_is_better: bool) -> Option<Change> {
    let after = segments.iter().find(|s| s.first == at)?;
    let before = segments.iter().rev().find(|s| s.last < at)?;
    let share = (after.level / before.level - 1.0) * 100.0;
    let sign = if share < 0.0 { '−' } else { '+' };
    Some(Change { at, label: format!("{sign}{:.1} %", share.abs()), worse: (share < 0.0) == more_is_better })
}

fn caption(series: &Nightly, nights: &[NightMark]) -> Caption {
    let least = nights.iter().map(|night| night.n).min().unwrap_or(0);
    let most = nights.iter().map(|night| night.n).max().unwrap_or(0);
    let n = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let processes = if most == 1 { "worker process" } else { "worker processes" };
    let n = format!("{n} {processes} a night");
    let intervals = series.nights.iter().filter(|night| !night.values.is_empty());
    let intervals = intervals.filter_map(|night| Summary::of(night.values.iter().copied())).all(|s| s.ci.is_some());
    let whiskers =
        if intervals { "95 % confidence interval of the median" } else { "interval, else minimum to maximum" };
    let hollow = if nights.iter().any(|night| night.suspect) { "hollow: suspect, in no level" } else { "" };
    let notes = [
        text::label(&series.subject),
        text::count(nights.len(), "night"),
        n,
        format!("whiskers: {whiskers}"),
        "thick line: median of the segment".to_owned(),
        hollow.to_owned(),
        "the axis does not begin at zero".to_owned(),
    ];
    Caption {
        slug: series.slug.clone(),
        title: "Night after night".to_owned(),
        subtitle: super::sentence(notes),
        value_axis: series.value_axis.clone(),
        series: vec![Series { label: "median of a night".to_owned(), style: series.style }],
    }
}
