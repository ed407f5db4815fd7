//! The series of a cell.

use std::fmt::Write as _;

use jiff::Timestamp;
use regatta_core::nightly::{Said, Standing, segments};
use regatta_core::ranks::{median, sorted};
use regatta_store::{History, NightRecord};
use serde::Serialize;

use super::{short, table};
use crate::text;
use crate::view::style;

/// A metric of a cell, night by night.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryView {
    /// The scenario's name.
    pub scenario: String,
    /// What is measured.
    pub cell: String,
    /// Its hash.
    pub hash: String,
    /// The metric.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Colour of its backend.
    #[serde(skip)]
    pub(super) style: usize,
    /// Its nights, oldest first.
    pub nights: Vec<NightView>,
}

/// A night.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NightView {
    /// Its run.
    pub run: String,
    /// When that was submitted: a label.
    pub at: Timestamp,
    /// In what its circumstances differ from those of the night before; nothing is held against nights before such a break.
    pub breaks: Vec<String>,
    /// The median of its worker processes.
    pub value: Option<f64>,
    /// The value of each worker process.
    pub values: Vec<f64>,
    /// Its value over the middle of the valid nights before it in its segment, less 1.
    pub change: Option<f64>,
    /// Whether it may be held against others.
    pub standing: Standing,
    /// How the cell ended, where that was not well.
    pub ended: Option<String>,
    /// Why a person took it out.
    pub excluded: Option<String>,
    /// The word for what was said of it.
    pub finding: Option<String>,
    /// What was said of it.
    pub sentence: Option<String>,
    /// The first run of the new level, where one is said to begin.
    pub since: Option<String>,
    /// What a person answered, and why.
    pub answer: Option<String>,
}

/// Draws up a series.
pub fn history(scenario: &str, history: &History) -> HistoryView {
    let nights = &history.series.nights;
    let segments = segments(nights);
    let view = |(at, record): (usize, &NightRecord)| {
        let night = &nights[at];
        let segment = segments.iter().find(|segment| segment.nights.contains(&at));
        let start = segment.map_or(at, |segment| segment.nights.start);
        let because = segment.filter(|_| at == start).map(|segment| segment.because.as_slice()).unwrap_or_default();
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
        let before = nights[start..at].iter().filter(|night| night.standing == Standing::Valid);
        let level = median(&sorted(before.filter_map(regatta_core::nightly::Night::value)));
        let verdict = record.verdict.as_ref();
        NightView {
            run: night.run.to_string(),
            at: record.at,
            breaks: because
                .iter()
                .map(|d| text::label(&format!("{} {} → {}", d.part, said(&d.a), said(&d.b))))
                .collect(),
            value: night.value(),
            values: night.values.clone(),
            change: night.value().zip(level).map(|(value, level)| value / level - 1.0),
            standing: night.standing,
            ended: record.outcome.as_ref().map(|outcome| outcome.state().to_owned()).filter(|state| state != "ok"),
            excluded: record.excluded.as_deref().map(text::reason),
            finding: verdict.map(|verdict| verdict.finding.clone()),
            sentence: verdict.map(|verdict| text::reason(&verdict.sentence)),
            since: verdict.and_then(|verdict| match &verdict.said {
                Said::Changed { since } => Some(since.to_string()),
                Said::Nothing | Said::Pending(_) => None,
            }),
            answer: verdict.and_then(|verdict| {
                verdict.answer.as_ref().map(|(answer, why)| text::reason(&format!("{}: {why}", answer.as_str())))
            }),
        }
    };
    HistoryView {
        scenario: text::label(scenario),
        cell: text::label(&history.cell.label()),
        hash: history.hash.to_string(),
        metric: history.metric.as_str(),
        unit: "tokens/s",
        style: style(history.cell.backend),
        nights: history.nights.iter().enumerate().map(view).collect(),
    }
}

impl HistoryView {
    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}: {}, {}; nights of '{}'", self.cell, self.metric, self.unit, self.scenario);
        let names = ["night", "run", "value", "change", "n", "verdict"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(names).chain(self.nights.iter().map(NightView::row)).collect();
        for (at, line) in table(&rows).into_iter().enumerate() {
            let night = at.checked_sub(1).and_then(|at| self.nights.get(at));
            if let Some(night) = night.filter(|night| !night.breaks.is_empty()) {
                let _ = writeln!(out, "── a new series: {} ──", night.breaks.join(", "));
            }
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

impl NightView {
    /// When, its run, value, change, number of worker processes, and what there is to say of it.
    pub fn row(&self) -> [String; 6] {
        let change = self.change.map(|change| format!("{:+.1} %", 100.0 * change));
        [
            text::minute(self.at),
            short(&self.run).to_owned(),
            text::optional(self.value),
            change.unwrap_or_else(|| text::MISSING.to_owned()),
            self.values.len().to_string(),
            self.said(),
        ]
    }

    /// What there is to say of it, in a line.
    fn said(&self) -> String {
        let mut all: Vec<String> = Vec::new();
        all.extend(self.excluded.as_ref().map(|why| format!("excluded: {why}")));
        all.extend(self.ended.clone());
        if self.standing == Standing::Suspect {
            all.push("suspect".to_owned());
        }
        let moved = |finding: &str| !matches!(finding, "steady" | "learning" | "not measured" | "suspect" | "excluded");
        match (&self.finding, &self.sentence) {
            (Some(finding), Some(sentence)) if moved(finding) => all.push(sentence.clone()),
            (Some(finding), _) if !all.contains(finding) => all.push(finding.clone()),
            _ => {}
        }
        all.extend(self.answer.clone());
        if all.is_empty() { text::MISSING.to_owned() } else { all.join("; ") }
    }
}
