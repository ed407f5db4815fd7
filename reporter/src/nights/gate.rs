//! What is said of a night.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use regatta_core::nightly::{Direction, Finding, Judgement, MachineEvent, Verdict};
use regatta_store::{History, ToJudge};
use serde::Serialize;

use super::table;
use crate::text;

/// A night with its verdicts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// Its run.
    pub run: String,
    /// The scenario's name.
    pub scenario: String,
    /// When it was submitted: a label.
    pub at: Timestamp,
    /// What is slower for certain: metrics of cells, and machines.
    pub slowdowns: usize,
    /// Machines whose cells moved together.
    pub events: Vec<Event>,
    /// What is said of each metric of each cell.
    pub verdicts: Vec<GateVerdict>,
    /// Hashes of the cells to measure again.
    pub to_measure: Vec<String>,
}

/// A machine that moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// What is said of it.
    pub sentence: String,
    /// The numbers.
    #[serde(flatten)]
    pub event: MachineEvent,
}

/// What is said of a metric of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateVerdict {
    /// What is measured.
    pub cell: String,
    /// Its hash.
    pub hash: String,
    /// The metric.
    pub metric: &'static str,
    /// The machine.
    pub machine: String,
    /// What is said of it.
    pub sentence: String,
    /// What, and why.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Draws up what is said of a night.
pub fn gate(scenario: &str, at: Timestamp, night: &ToJudge, judgement: &Judgement) -> Gate {
    let verdict = |(history, verdict): (&History, &Verdict)| GateVerdict {
        cell: text::label(&history.cell.label()),
        hash: history.hash.to_string(),
        metric: history.metric.as_str(),
        machine: text::label(&history.series.machine),
        sentence: text::reason(&verdict.sentence()),
        verdict: verdict.clone(),
    };
    let mut to_measure: Vec<String> =
        judgement.to_measure().into_iter().map(|at| night.histories[at].hash.to_string()).collect();
    to_measure.sort_unstable();
    to_measure.dedup();
    Gate {
        run: night.run.to_string(),
        scenario: text::label(scenario),
        at,
        slowdowns: judgement.slowdowns(),
        events: judgement
            .events
            .iter()
            .map(|event| Event { sentence: text::reason(&event.sentence()), event: event.clone() })
            .collect(),
        verdicts: night.histories.iter().zip(&judgement.verdicts).map(verdict).collect(),
        to_measure,
    }
}

impl Gate {
    /// As text for a terminal: what moved first, what did not in numbers only.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ =
            writeln!(out, "night {} of '{}', {}: {}", self.run, self.scenario, text::minute(self.at), self.summary());
        for Event { event, sentence } in &self.events {
            let state = if event.confirmed { "MACHINE" } else { "machine" };
            let _ = writeln!(out, "\n{state} {}: {sentence}", text::label(&event.machine));
        }
        let alone: Vec<&GateVerdict> = self.verdicts.iter().filter(|verdict| verdict.is_worth_a_line()).collect();
        if !alone.is_empty() {
            out.push('\n');
            let row = |verdict: &&GateVerdict| {
                [verdict.word().to_owned(), verdict.cell.clone(), verdict.metric.to_owned(), verdict.sentence.clone()]
            };
            for line in table(&alone.iter().map(row).collect::<Vec<_>>()) {
                let _ = writeln!(out, "{line}");
            }
        }
        out
    }

    /// How many of what: `1 slower, 2 flagged and 57 steady of 60`.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for verdict in &self.verdicts {
            *counts.entry(verdict.word()).or_default() += 1;
        }
        if counts.is_empty() {
            return "nothing to judge".to_owned();
        }
        format!("{} of {}", counted(|word| counts.get(word).copied()), self.verdicts.len())
    }
}

/// `1 slower, 2 flagged and 57 steady`: what matters first. `number` tells how many got a word.
pub(crate) fn counted(number: impl Fn(&str) -> Option<usize>) -> String {
    const ORDER: [&str; 11] = [
        "slower",
        "faster",
        "with machine",
        "suspected",
        "flagged",
        "new series",
        "suspect",
        "not measured",
        "excluded",
        "learning",
        "steady",
    ];
    let some: Vec<String> = ORDER.iter().filter_map(|word| Some(format!("{} {word}", number(word)?))).collect();
    text::list(&some)
}

impl GateVerdict {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        self.verdict.finding.as_str()
    }

    /// Whether it is slower for certain, on its own.
    pub(super) fn is_slower(&self) -> bool {
        matches!(self.verdict.finding, Finding::Confirmed { direction: Direction::Slower, .. })
    }

    /// What is as usual is only counted, and so is what its machine explains.
    fn is_worth_a_line(&self) -> bool {
        !matches!(
            self.verdict.finding,
            Finding::Steady
                | Finding::Learning { .. }
                | Finding::Unjudged { why: regatta_core::nightly::Unjudged::NotMeasured }
                | Finding::WithMachine { .. }
        )
    }
}
