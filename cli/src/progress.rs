//! What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, JSON lines for programs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use regatta_proto::pb;
use serde_json::json;

use crate::output;

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A moving bar.
    Bar,
    /// A line for each cell.
    Lines,
    /// A JSON object for each event.
    Json,
}

/// Shows a run's events as they come.
pub(crate) struct Progress {
    style: Style,
    /// What to call each cell, by its hash.
    labels: HashMap<Vec<u8>, String>,
    repetitions: u32,
    total: u64,
    ended: u64,
    /// Cells that had ended before this program watched.
    ended_before: u64,
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// For a run of `total` cells of which `ended` have ended already.
    pub(crate) fn new(
        style: Style,
        labels: HashMap<Vec<u8>, String>,
        repetitions: u32,
        total: u64,
        ended: u64,
    ) -> Self {
        let bar = if style == Style::Bar { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(look) = ProgressStyle::with_template("{bar:24} {pos}/{len} cells  {elapsed}{prefix}  {wide_msg}") {
            bar.set_style(look);
        }
        bar.set_position(ended);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { style, labels, repetitions, total, ended, ended_before: ended, bar, started: Instant::now() }
    }

    /// One event of the run's watch stream.
    pub(crate) fn event(&mut self, event: &pb::WatchRunResponse) {
        if let Some(progress) = &event.progress {
            self.working(progress);
        }
        if let Some(end) = &event.cell_end {
            self.cell_ended(end);
        }
    }

    fn working(&self, progress: &pb::Progress) {
        match self.style {
            Style::Bar => self.bar.set_message(self.describe(progress)),
            Style::Lines => {}
            Style::Json => output::line(
                &json!({
                    "event": "progress",
                    "trial": progress.trial_id,
                    "cell": hex(&progress.cell_hash),
                    "phase": progress.phase,
                    "repetitions": progress.repetitions,
                    "decode_tokens_per_s": (progress.decode_rate > 0.0).then_some(progress.decode_rate),
                })
                .to_string(),
            ),
        }
    }

    fn describe(&self, progress: &pb::Progress) -> String {
        let label = self.label(&progress.cell_hash);
        let mut text = format!("{label}: {}", progress.phase);
        if progress.phase == "measuring" {
            let _ = write!(text, " {}/{}", progress.repetitions, self.repetitions);
        }
        if progress.decode_rate > 0.0 {
            let _ = write!(text, ", {:.1} tokens/s", progress.decode_rate);
        }
        text
    }

    fn label(&self, cell_hash: &[u8]) -> &str {
        self.labels.get(cell_hash).map_or("preparing", String::as_str)
    }

    fn cell_ended(&mut self, end: &pb::CellEnd) {
        self.ended += 1;
        self.bar.set_position(self.ended);
        if let Some(left) = self.remaining() {
            self.bar.set_prefix(format!(", about {} left", seconds(left)));
        }
        let label = self.label(&end.cell_hash);
        let detail = end.detail.lines().next().unwrap_or_default();
        let outcome = if detail.is_empty() { end.state.clone() } else { format!("{}: {detail}", end.state) };
        match self.style {
            Style::Bar if end.state == "ok" => {}
            Style::Bar => self.bar.println(format!("{label}: {outcome}")),
            Style::Lines => output::note(&format!(
                "[{}/{}] {label}: {outcome} ({} elapsed{})",
                self.ended,
                self.total,
                seconds(self.started.elapsed()),
                self.remaining().map_or_else(String::new, |left| format!(", about {} left", seconds(left)))
            )),
            Style::Json => output::line(
                &json!({
                    "event": "cell_ended",
                    "cell": hex(&end.cell_hash),
                    "label": label,
                    "state": end.state,
                    "kind": end.kind,
                    "detail": end.detail,
                    "ended": self.ended,
                    "cells": self.total,
                })
                .to_string(),
            ),
        }
    }

    /// A guess from the cells of this run so far; none before the third.
    fn remaining(&self) -> Option<Duration> {
        let done = u32::try_from(self.ended - self.ended_before).ok().filter(|n| *n >= 3)?;
        let left = u32::try_from(self.total.saturating_sub(self.ended)).ok()?;
        Some(self.started.elapsed() / done * left)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A duration for people: `42 s`, `3 min 20 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s => format!("{} min {} s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(59_900)), "59 s");
        assert_eq!(seconds(Duration::from_secs(200)), "3 min 20 s");
    }
}
