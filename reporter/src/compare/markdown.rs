//! A comparison for a comment on a pull request: what changed is in sight, the rest is folded away.

use std::fmt::Write as _;

use regatta_core::statistics::Verdict;

use super::text::{in_pairs, line_of, row, word};
use super::{CellComparison, Comparison, Conclusion, MetricComparison};
use crate::export::markdown::escape;
use crate::text;

/// Rows of a table at most: comments have a limit, and readers too.
const MAX_ROWS: usize = 60;

type Row<'a> = (&'a CellComparison, &'a MetricComparison, Verdict);

/// The comparison as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "## {}\n", title(comparison));
    let _ = writeln!(
        out,
        "{} (threshold {}{}). Base: {}. Candidate: {}.\n",
        comparison.summary(),
        text::percent(comparison.threshold),
        in_pairs(comparison),
        escape(&line_of(&comparison.base)),
        escape(&line_of(&comparison.candidate))
    );
    if comparison.forced {
        out.push_str(
            "> **Not comparable.** What is marked with ❗ forbids a comparison. Made all the same, with `--force`.\n\n",
        );
    }
    for difference in &comparison.differences {
        let mark = if difference.forbids { "❗ " } else { "" };
        let _ = writeln!(out, "- {mark}{}", escape(&difference.to_string()));
    }
    if !comparison.differences.is_empty() {
        out.push('\n');
    }
    let is_change = |(_, _, verdict): &Row<'_>| matches!(verdict, Verdict::Slower | Verdict::Faster);
    let (changed, rest): (Vec<Row<'_>>, Vec<Row<'_>>) = comparison.primary().into_iter().partition(is_change);
    table(&mut out, &changed);
    if !rest.is_empty() {
        let _ = writeln!(
            out,
            "<details><summary>{} without a certain change</summary>\n",
            text::count(rest.len(), "other")
        );
        table(&mut out, &rest);
        out.push_str("</details>\n\n");
    }
    left_out(&mut out, comparison);
    for note in comparison.notes() {
        let _ = writeln!(out, "{}\n", escape(&note));
    }
    let _ = writeln!(
        out,
        "<sub>Regatta {}, method version {}. Medians of worker processes; change and interval: Hodges-Lehmann shift of logarithms, \
         exact at 95 %; verdicts adjusted for the number of tests.</sub>",
        env!("CARGO_PKG_VERSION"),
        comparison.method_version
    );
    out
}

fn title(comparison: &Comparison) -> &'static str {
    match comparison.conclusion() {
        Conclusion::Slower => "🔴 Slower",
        Conclusion::TooFew => "⚪ Too few worker processes for a verdict",
        Conclusion::NoSlowdown if comparison.primary().iter().any(|(_, _, verdict)| *verdict == Verdict::Faster) => {
            "🟢 Faster"
        }
        Conclusion::NoSlowdown => "🟢 No slowdown found",
    }
}

fn table(out: &mut String, rows: &[Row<'_>]) {
    if rows.is_empty() {
        return;
    }
    out.push_str("| cell | metric | base → candidate | change | interval | margin | MDE | n | verdict |\n");
    out.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --- |\n");
    for (cell, metric, verdict) in rows.iter().take(MAX_ROWS) {
        let row = row(cell, metric, word(metric, *verdict)).map(|text| escape(&text));
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    if rows.len() > MAX_ROWS {
        let _ = writeln!(out, "\n… and {} more: `regatta compare` shows them.", rows.len() - MAX_ROWS);
    }
    out.push('\n');
}

fn left_out(out: &mut String, comparison: &Comparison) {
    for cell in comparison.not_measured.iter().take(MAX_ROWS) {
        let _ =
            writeln!(out, "- not compared: {} (base {}, candidate {})", escape(&cell.label), cell.base, cell.candidate);
    }
    for (side, cells) in [("base", &comparison.only_in_base), ("candidate", &comparison.only_in_candidate)] {
        if !cells.is_empty() {
            let _ = writeln!(out, "- only in the {side}: {}", escape(&super::some(cells)));
        }
    }
    if !(comparison.not_measured.is_empty()
        && comparison.only_in_base.is_empty()
        && comparison.only_in_candidate.is_empty())
    {
        out.push('\n');
    }
}
