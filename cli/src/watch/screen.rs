//! Where a watched run is shown: a grid that is drawn again and again on a terminal, plain lines elsewhere, JSON lines
//! for programs.

use std::io::IsTerminal;
use std::time::Duration;

use console::Term;
use regatta_proto::pb;
use serde_json::{Value, json};

use super::board::{Board, Working};
use super::render::{Look, doing, duration, render};
use crate::output;
use crate::view::hex;

/// Size of a terminal that does not say.
const USUAL: (u16, u16) = (24, 80);

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Grid,
    Lines,
    Json,
}

/// Where a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Watching is the command's result.
    Stdout,
    /// Watching goes beside the command's result.
    Stderr,
}

/// Shows a run.
pub(crate) struct Screen {
    style: Style,
    place: Place,
    term: Term,
    colour: bool,
    /// Lines of the grid that stand on the terminal.
    drawn: usize,
}

impl Screen {
    /// As fits the place, or JSON on standard output.
    pub(crate) fn new(json: bool, place: Place) -> Self {
        let (term, is_terminal) = match place {
            Place::Stdout => (Term::buffered_stdout(), std::io::stdout().is_terminal()),
            Place::Stderr => (Term::buffered_stderr(), std::io::stderr().is_terminal()),
        };
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match (json, is_terminal && !dumb) {
            (true, _) => Style::Json,
            (false, true) => Style::Grid,
            (false, false) => Style::Lines,
        };
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { style, place, term, colour, drawn: 0 }
    }

    /// The run as it stands when watching starts.
    pub(crate) fn started(&mut self, board: &Board) {
        match self.style {
            Style::Json => json_line("run", board.run.json()),
            Style::Lines => {
                self.line(&format!("{}, {} of {} cells ended", board.run.line(), board.ended(), board.total()));
            }
            Style::Grid => self.redraw(board, Duration::ZERO),
        }
    }

    /// A cell has ended.
    pub(crate) fn ended(&mut self, board: &Board, at: usize, now: Duration) {
        let cell = &board.cells[at];
        let detail = cell.detail.lines().next().unwrap_or_default();
        let outcome =
            if detail.is_empty() { cell.state.word().to_owned() } else { format!("{}: {detail}", cell.state.word()) };
        match self.style {
            Style::Grid if cell.is_as_expected() => {}
            Style::Grid => self.above(&format!("{}: {outcome}", cell.label())),
            Style::Lines => {
                let left = board.remaining(now);
                let left = left.map_or_else(String::new, |left| format!(", about {} left", duration(left)));
                self.line(&format!(
                    "[{}/{}] {}: {outcome} ({} elapsed{left})",
                    board.ended(),
                    board.total(),
                    cell.label(),
                    duration(now)
                ));
            }
            Style::Json => json_line(
                "cell_ended",
                json!({
                    "cell": hex(&cell.hash),
                    "label": cell.label(),
                    "state": cell.state.word(),
                    "kind": cell.kind,
                    "detail": cell.detail,
                    "ended": board.ended(),
                    "cells": board.total(),
                }),
            ),
        }
    }

    /// An agent has said what it is doing.
    pub(crate) fn progress(&mut self, board: &Board, progress: &pb::Progress, now: Duration) {
        if self.style == Style::Json {
            let remaining = board.remaining(now);
            json_line(
                "progress",
                json!({
                    "trial": progress.trial_id,
                    "cell": hex(&progress.cell_hash),
                    "phase": progress.phase,
                    "repetitions": progress.repetitions,
                    "decode_tokens_per_s": (progress.decode_rate > 0.0).then_some(progress.decode_rate),
                    "remaining_s": remaining.map(|left| left.as_secs_f64().round()),
                }),
            );
        }
    }

    /// A trial has got going on a cell: a sign of life for those who see only lines.
    pub(crate) fn began(&mut self, board: &Board, trial: &str, working: &Working, now: Duration) {
        if self.style == Style::Lines {
            self.line(&doing(board, trial, working, now));
        }
    }

    /// The connection is lost: said once, until it is back.
    pub(crate) fn lost(&mut self, board: &Board, reason: &str, now: Duration) {
        match self.style {
            Style::Json => json_line("connection_lost", json!({ "reason": reason })),
            Style::Lines => self.line(&format!("connection lost ({reason}); trying again …")),
            Style::Grid => self.redraw(board, now),
        }
    }

    /// The connection is back.
    pub(crate) fn back(&mut self) {
        match self.style {
            Style::Json => json_line("connected_again", json!({})),
            Style::Lines => self.line("connected again"),
            Style::Grid => {}
        }
    }

    /// The run has ended.
    pub(crate) fn over(&mut self, board: &Board, now: Duration) {
        match self.style {
            Style::Json => json_line("run_ended", board.run.json()),
            Style::Lines => self.line(&format!("{} ({} elapsed)", board.run.line(), duration(now))),
            Style::Grid => self.redraw(board, now),
        }
    }

    /// Draws the grid in the place of the one that stands there.
    pub(crate) fn redraw(&mut self, board: &Board, now: Duration) {
        if self.style != Style::Grid {
            return;
        }
        let (height, width) = self.term.size_checked().unwrap_or(USUAL);
        let look = Look { width: width.into(), height: height.into(), colour: self.colour };
        let lines = render(board, look, now);
        self.draw(&lines);
    }

    fn draw(&mut self, lines: &[String]) {
        self.back_to_top();
        for line in lines {
            let _ = self.term.write_line(line);
        }
        self.drawn = lines.len();
        let _ = self.term.flush();
    }

    fn back_to_top(&mut self) {
        // A terminal that can't be written to has nobody who looks at it.
        let _ = self.term.move_cursor_up(self.drawn);
        let _ = self.term.clear_to_end_of_screen();
        self.drawn = 0;
    }

    /// A line that stays, above the grid.
    fn above(&mut self, line: &str) {
        self.back_to_top();
        let plain: String = line.chars().filter(|c| !c.is_control()).collect();
        let _ = self.term.write_line(&plain);
        let _ = self.term.flush();
    }

    fn line(&self, line: &str) {
        match self.place {
            Place::Stdout => output::line(line),
            Place::Stderr => output::note(line),
        }
    }
}

/// One JSON object in one line: the event's name, then its fields.
fn json_line(event: &str, fields: Value) {
    let mut object = json!({ "event": event });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    output::line(&object.to_string());
}
