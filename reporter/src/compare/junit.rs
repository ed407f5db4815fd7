//! A comparison as XML in the form of `JUnit`, which every CI shows: a test for each primary metric of each cell. What is slower fails, what
//! has too few processes is skipped, everything else passes, with its figures beside it.

use std::fmt::Write as _;

use regatta_core::statistics::Verdict;

use super::Comparison;
use super::text::{line_of, row, word};
use crate::text;

/// The comparison as XML for CI, in the form of `JUnit`.
pub fn junit(comparison: &Comparison) -> String {
    let tests = comparison.primary();
    let count = |verdict| tests.iter().filter(|(_, _, found)| *found == verdict).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = escape(&format!("{} against {}", line_of(&comparison.candidate), line_of(&comparison.base)));
    let (failures, skipped) = (count(Verdict::Slower), count(Verdict::NoInterval));
    let _ = writeln!(
        out,
        "<testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">",
        tests.len()
    );
    for (cell, metric, verdict) in tests {
        let [label, metric_name, rates, change, interval, margin, detectable, n, verdict_word] =
            row(cell, metric, word(metric, verdict));
        let said = format!(
            "{verdict_word}: {rates}, {change} ({interval}), margin {margin}, MDE {detectable}, worker processes {n}"
        );
        let said = escape(&said);
        let _ = writeln!(out, "  <testcase classname=\"{}\" name=\"{}\">", escape(&label), escape(&metric_name));
        let _ = match verdict {
            Verdict::Slower => writeln!(out, "    <failure message=\"{said}\"/>"),
            Verdict::NoInterval => writeln!(out, "    <skipped message=\"{said}\"/>"),
            Verdict::Faster | Verdict::Equivalent | Verdict::Undecided => {
                writeln!(out, "    <system-out>{said}</system-out>")
            }
        };
        out.push_str("  </testcase>\n");
    }
    out.push_str("  <system-out>");
    for difference in &comparison.differences {
        let _ = writeln!(out, "{}", escape(&difference.to_string()));
    }
    out.push_str("</system-out>\n</testsuite>\n");
    out
}

/// Text that XML takes as text, also between quotation marks.
fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in text::block(words).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
