//! `JUnit`: a test suite for each run, a test case for each cell, so that CI shows which cells have no result. What went wrong
//! with a cell is an error, never a failure: failures are for slowdowns, which only a comparison can tell.

use std::fmt::Write as _;

use regatta_core::cell::Outcome;

use super::measured::{METRICS, name};
use crate::dataset::{CellResult, Dataset, Run};
use crate::text;

pub(super) fn junit(dataset: &Dataset) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"regatta\">\n");
    for run in &dataset.runs {
        suite(&mut out, run);
    }
    out.push_str("</testsuites>\n");
    out
}

/// What a test case says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Error,
}

impl Verdict {
    fn of(cell: &CellResult) -> Self {
        match &cell.outcome {
            Some(Outcome::Ok) if cell.is_ok() => Self::Passed,
            Some(Outcome::Skipped(_)) => Self::Skipped,
            _ => Self::Error,
        }
    }
}

fn suite(out: &mut String, run: &Run) {
    let count = |verdict| run.cells.iter().filter(|cell| Verdict::of(cell) == verdict).count();
    let _ = writeln!(
        out,
        "  <testsuite name=\"{}\" id=\"{}\" tests=\"{}\" failures=\"0\" errors=\"{}\" skipped=\"{}\" timestamp=\"{}\">",
        escape(&run.scenario),
        escape(run.id.as_str()),
        run.cells.len(),
        count(Verdict::Error),
        count(Verdict::Skipped),
        run.submitted_at.strftime("%Y-%m-%dT%H:%M:%S"),
    );
    for cell in &run.cells {
        case(out, cell);
    }
    out.push_str("  </testsuite>\n");
}

fn case(out: &mut String, cell: &CellResult) {
    let measured = cell.measured().map(|(sample, _)| sample.times.end).sum::<u64>();
    let class = format!("regatta.{}.{}", cell.cell.artifact.model, cell.cell.backend);
    let _ = writeln!(
        out,
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
        escape(&class),
        escape(&name(cell)),
        measured as f64 / 1e9
    );
    let detail = cell.outcome.as_ref().and_then(Outcome::detail).map(text::reason).unwrap_or_default();
    match Verdict::of(cell) {
        Verdict::Passed => properties(out, cell),
        Verdict::Skipped => {
            let _ = writeln!(out, "      <skipped message=\"{}\"/>", escape(&detail));
        }
        Verdict::Error => {
            let detail = if detail.is_empty() { cell.state().replace('_', " ") } else { detail };
            let _ = writeln!(out, "      <error type=\"{}\" message=\"{}\"/>", cell.state(), escape(&detail));
        }
    }
    out.push_str("    </testcase>\n");
}

fn properties(out: &mut String, cell: &CellResult) {
    out.push_str("      <properties>\n");
    for metric in &METRICS {
        let Some(values) = metric.values(cell) else { continue };
        let (name, value, unit) = (metric.name, values.summary.median, metric.unit);
        let _ = writeln!(out, "        <property name=\"{name}\" value=\"{value:.6} {unit}\"/>");
    }
    out.push_str("      </properties>\n");
}

/// Text that XML takes as text, whatever it holds.
fn escape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in text::reason(raw).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // Not characters in XML's eyes.
            '\u{fffe}' | '\u{ffff}' => {}
            c => out.push(c),
        }
    }
    out
}
