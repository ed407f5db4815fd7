//! A comparison as text for a terminal.

use std::fmt::Write as _;

use regatta_core::ranks::Interval;
use regatta_core::statistics::Verdict;

use super::{CellComparison, Comparison, MetricComparison, Side};
use crate::text;

/// The comparison, what differs first.
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    for (name, side) in [("base", &comparison.base), ("candidate", &comparison.candidate)] {
        let _ = writeln!(out, "{name:<9}  {}", line_of(side));
    }
    if comparison.forced {
        out.push_str(
            "\nNOT COMPARABLE: what is marked with ! forbids a comparison. Made all the same, with --force.\n",
        );
    }
    differences(&mut out, comparison);
    let (threshold, paired) = (text::percent(comparison.threshold), in_pairs(comparison));
    let _ = writeln!(out, "\n{} (threshold {threshold}{paired})\n", comparison.summary());
    out.push_str(&table(&verdicts(comparison)));
    let moved = comparison.also_moved();
    if !moved.is_empty() {
        out.push_str("\nAlso beyond their margins, for information:\n");
        out.push_str(&table(&moved.iter().map(|(cell, metric)| row(cell, metric, "")).collect::<Vec<_>>()));
    }
    left_out(&mut out, comparison);
    for note in comparison.notes() {
        let _ = writeln!(out, "\n{note}");
    }
    out
}

/// `0195f1c2@candidate demo, 2026-03-02 21:40 UTC`.
pub(super) fn line_of(side: &Side) -> String {
    let build = side.build.as_ref().map(|build| format!("@{build}")).unwrap_or_default();
    format!("{}{build} {}, {}", side.run, side.scenario, text::minute(side.submitted_at))
}

/// How both sides were measured, where that is worth a word.
pub(super) fn in_pairs(comparison: &Comparison) -> &'static str {
    if comparison.paired { ", measured in turns and compared in pairs" } else { "" }
}

fn differences(out: &mut String, comparison: &Comparison) {
    if comparison.differences.is_empty() {
        out.push_str("\nNothing that is known of their circumstances differs.\n");
        return;
    }
    out.push_str("\nWhat differs between the two:\n");
    for difference in &comparison.differences {
        let _ = writeln!(out, "  {} {difference}", if difference.forbids { "!" } else { " " });
    }
}

fn left_out(out: &mut String, comparison: &Comparison) {
    for cell in &comparison.not_measured {
        let _ = writeln!(out, "\nnot compared: {} (base {}, candidate {})", cell.label, cell.base, cell.candidate);
    }
    for (side, cells) in [("base", &comparison.only_in_base), ("candidate", &comparison.only_in_candidate)] {
        if !cells.is_empty() {
            let _ = writeln!(out, "\nonly in the {side}: {}", cells.join(", "));
        }
    }
}

/// A row for each primary metric, the gravest verdicts first, under a row of names.
fn verdicts(comparison: &Comparison) -> Vec<[String; 9]> {
    let names = ["cell", "metric", "base → candidate", "change", "interval", "margin", "MDE", "n", "verdict"];
    let rows = comparison.primary().into_iter().map(|(cell, metric, verdict)| row(cell, metric, word(metric, verdict)));
    std::iter::once(names.map(str::to_owned)).chain(rows).collect()
}

/// The verdict, with a mark where it would be another one by itself.
pub(super) fn word(metric: &MetricComparison, verdict: Verdict) -> &'static str {
    if metric.held_back { "undecided*" } else { verdict.as_str() }
}

/// What is said of a metric, column by column.
pub(super) fn row(cell: &CellComparison, metric: &MetricComparison, verdict: &str) -> [String; 9] {
    let suspect = if cell.suspect { " (suspect)" } else { "" };
    [
        format!("{}{suspect}", cell.label),
        metric.metric.to_owned(),
        format!("{} → {} {}", text::number(metric.base), text::number(metric.candidate), metric.unit),
        change(metric.effect.ratio),
        interval(metric.effect.interval),
        text::percent(metric.effect.margin),
        metric.effect.detectable.map_or_else(|| text::MISSING.to_owned(), text::percent),
        format!("{}/{}", metric.base_processes, metric.candidate_processes),
        verdict.to_owned(),
    ]
}

/// A ratio as a change: `-4.4 %`.
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    // Never -0.0.
    format!("{:+.1} %", if percent.abs() < 0.05 { 0.0 } else { percent })
}

/// `-5.1 % … -3.8 %`.
fn interval(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || text::MISSING.to_owned(),
        |interval| format!("{} … {}", change(interval.low), change(interval.high)),
    )
}

/// Columns under each other.
fn table(rows: &[[String; 9]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(text, &width)| format!("{text:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}
