//! A night for a CI, in the XML of test reports: a test case for each metric of each cell and for each machine that moved.

use std::fmt::Write as _;

use regatta_core::nightly::{Direction, Finding};

use super::gate::{Event, Gate, GateVerdict};

/// The night for a CI: what is slower for certain has failed, of what nothing can be said is skipped, and what one night more
/// decides has passed and says so.
pub fn junit(gate: &Gate) -> String {
    let skipped = gate.verdicts.iter().filter(|verdict| skips(verdict)).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" timestamp=\"{}\">",
        escaped(&format!("regatta gate: {}", gate.scenario)),
        gate.verdicts.len() + gate.events.len(),
        gate.slowdowns,
        gate.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    );
    for Event { event, sentence } in &gate.events {
        let failed = event.confirmed && event.direction == Direction::Slower;
        case(&mut out, "machine", &event.machine, if failed { Part::Failure } else { Part::Output }, sentence);
    }
    for verdict in &gate.verdicts {
        let part = match &verdict.verdict.finding {
            _ if verdict.is_slower() => Part::Failure,
            _ if skips(verdict) => Part::Skipped,
            _ => Part::Output,
        };
        case(&mut out, &verdict.cell, verdict.metric, part, &verdict.sentence);
    }
    out.push_str("</testsuite>\n");
    out
}

fn skips(verdict: &GateVerdict) -> bool {
    matches!(verdict.verdict.finding, Finding::Unjudged { .. } | Finding::Began { .. } | Finding::Learning { .. })
}

/// What a test case holds.
#[derive(Debug, Clone, Copy)]
enum Part {
    Failure,
    Skipped,
    Output,
}

fn case(out: &mut String, class: &str, name: &str, part: Part, sentence: &str) {
    let (class, name, sentence) = (escaped(class), escaped(name), escaped(sentence));
    let inner = match part {
        Part::Failure => format!("<failure type=\"slower\" message=\"{sentence}\"/>"),
        Part::Skipped => format!("<skipped message=\"{sentence}\"/>"),
        Part::Output => format!("<system-out>{sentence}</system-out>"),
    };
    let _ = writeln!(out, "  <testcase classname=\"{class}\" name=\"{name}\">{inner}</testcase>");
}

/// Text in XML: marks of the language named, characters that XML forbids left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}
