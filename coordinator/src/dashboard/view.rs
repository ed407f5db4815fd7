//! What pages show, as plain structs: pure, from what is stored and what was heard.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::cell::Outcome;
use regatta_core::id::{TrialId, is_unprintable};
use regatta_core::run::RunState;
use regatta_store::{AgentRecord, CellRecord, Firing, FiringOutcome, RunSummary, Service, TrialRecord};

use super::live::{Heard, Heat};
use crate::actor::AgentView;
use crate::nights::Planned;
use crate::scheduler::Outlook;

/// The longest label, in characters.
const MAX_LABEL: usize = 128;

/// The longest reason, in characters.
const MAX_REASON: usize = 400;

/// Rows and columns of a matrix that are shown, at most.
const MAX_ROWS: usize = 200;
const MAX_COLUMNS: usize = 60;

/// Cells that did not end well that are named, at most.
const MAX_PROBLEMS: usize = 50;

/// Firings of a schedule that are shown, to come and past.
pub(crate) const NEXT: usize = 3;
pub(crate) const LAST: u32 = 5;

/// States of cells in the order of legends, with what marks each: also without colour.
const STATES: [(&str, &str); 9] = [
    ("ok", "✓"),
    ("running", "▶"),
    ("waiting", "·"),
    ("failed", "✗"),
    ("crashed", "✗"),
    ("oom", "✗"),
    ("timeout", "✗"),
    ("cancelled", "–"),
    ("skipped", "–"),
];

/// A label from outside: one line, cut, without what changes how the text around it is shown.
pub(crate) fn label(text: &str) -> String {
    cut(text, MAX_LABEL)
}

/// The same with the room that a reason needs.
pub(crate) fn reason(text: &str) -> String {
    cut(text, MAX_REASON)
}

fn cut(text: &str, most: usize) -> String {
    let spaced = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let mut clean = spaced.filter(|c| !is_unprintable(*c) && !is_invisible(*c));
    let mut out: String = clean.by_ref().take(most).collect();
    if clean.next().is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// Characters of no width, which make two texts look the same.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{e0000}'..='\u{e007f}')
}

/// A time on the wall, to the minute.
pub(crate) fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A length of time in the unit that leaves a number of at least 1: `45 s`, `12 min`, `3 h 20 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 cell`, `2 cells`.
pub(crate) fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// A run in one line, with a bar of its cells.
#[derive(Debug)]
pub(crate) struct RunLine {
    pub(crate) id: String,
    /// The beginning of its id, by which people name it.
    pub(crate) short: String,
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) created: String,
    pub(crate) took: Option<String>,
    pub(crate) bar: Bar,
    pub(crate) remaining: Option<String>,
    pub(crate) waits: Vec<String>,
    pub(crate) retry_of: Option<String>,
}

/// How many cells stand how.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) total: u32,
    pub(crate) ended: u32,
    pub(crate) slices: Vec<Slice>,
}

/// The cells of one state.
#[derive(Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) state: String,
    pub(crate) mark: &'static str,
    pub(crate) n: u32,
    /// Where it begins and how long it is, of a bar of 100.
    pub(crate) x: f64,
    pub(crate) width: f64,
}

impl Bar {
    fn of(cells: &BTreeMap<String, u32>) -> Self {
        let total: u32 = cells.values().sum();
        let open = |state: &str| matches!(state, "waiting" | "running");
        let ended = cells.iter().filter(|(state, _)| !open(state)).map(|(_, n)| n).sum();
        let place = |state: &str| STATES.iter().position(|(known, _)| *known == state).unwrap_or(STATES.len());
        // What goes on and what waits stands at the end of the bar, as time does.
        let mut all: Vec<(&String, &u32)> = cells.iter().filter(|(_, n)| **n > 0).collect();
        all.sort_by_key(|(state, _)| (state.as_str() == "waiting", state.as_str() == "running", place(state)));
        let mut x = 0.0;
        let slice = |(state, n): (&String, &u32)| {
            let width = 100.0 * f64::from(*n) / f64::from(total.max(1));
            let slice = Slice { mark: glyph(state), state: label(state), n: *n, x, width };
            x += width;
            slice
        };
        let slices = all.into_iter().map(slice).collect();
        Self { total, ended, slices }
    }
}

fn glyph(state: &str) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("?", |(_, glyph)| glyph)
}

impl RunLine {
    pub(crate) fn new(run: &RunSummary, outlook: Option<&Outlook>, now: Timestamp) -> Self {
        let id = run.id.to_string();
        let until = run.ended_at.unwrap_or(now);
        let took = Duration::try_from(until.duration_since(run.created_at)).ok();
        Self {
            short: id.get(..13).unwrap_or(&id).to_owned(),
            name: label(&run.name),
            state: match run.state {
                RunState::Active if run.cancel_requested => "stopping",
                state => state.as_str(),
            },
            created: minute(run.created_at),
            took: took.map(duration),
            bar: Bar::of(&run.cells),
            remaining: outlook.and_then(|outlook| outlook.remaining).map(duration),
            waits: outlook.map(|outlook| outlook.waits.iter().map(|wait| reason(wait)).collect()).unwrap_or_default(),
            retry_of: run.retry_of.as_ref().map(ToString::to_string),
            id,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, "active" | "stopping")
    }
}

/// An agent.
#[derive(Debug)]
pub(crate) struct AgentRow {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
    pub(crate) labels: String,
    pub(crate) version: String,
    pub(crate) last_seen: String,
    /// Records that are not acknowledged.
    pub(crate) spool: String,
    pub(crate) devices: Vec<DeviceRow>,
}

/// A device, and what it is doing.
#[derive(Debug)]
pub(crate) struct DeviceRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) doing: Option<Doing>,
}

/// A trial that an agent has.
#[derive(Debug)]
pub(crate) struct Doing {
    pub(crate) run: String,
    pub(crate) short: String,
    /// Agent and device.
    pub(crate) place: String,
    /// Backend, model, precision.
    pub(crate) what: String,
    /// The workload, where it is known.
    pub(crate) workload: String,
    pub(crate) phase: String,
    pub(crate) rate: Option<String>,
    pub(crate) heat: Option<String>,
}

impl Doing {
    pub(crate) fn new(trial: &TrialRecord, heard: Option<&Heard>, workload: &str, repetitions: u32) -> Self {
        let run = trial.run.to_string();
        let progress = heard.and_then(|heard| heard.progress.as_ref()).filter(|said| said.epoch == trial.epoch.0);
        let phase = progress.map_or_else(
            || "at work".to_owned(),
            |said| {
                let mut phase = label(&said.phase);
                if phase == "measuring" {
                    let of = if repetitions > 0 { format!(" of {repetitions}") } else { String::new() };
                    phase = format!("{phase}, repetition {}{of}", said.repetitions);
                }
                if said.pass > 0 { format!("{phase}, process {}", said.pass + 1) } else { phase }
            },
        );
        Self {
            short: run.get(..13).unwrap_or(&run).to_owned(),
            run,
            place: format!("{} {}", trial.agent, trial.device),
            what: format!("{} {} {}", trial.backend, trial.artifact.model, trial.artifact.precision),
            workload: label(workload),
            phase,
            rate: progress
                .filter(|said| said.decode_rate > 0.0)
                .map(|said| format!("{:.1} tokens/s", said.decode_rate)),
            heat: heard.and_then(|heard| heard.heat).map(warm),
        }
    }
}

fn warm(heat: Heat) -> String {
    let limit = heat.limit.map(|limit| format!(" of {limit:.0} °C")).unwrap_or_default();
    format!("{:.0} °C{limit}", heat.celsius)
}

impl AgentRow {
    pub(crate) fn new(agent: &AgentRecord, view: &AgentView, trials: &[(TrialRecord, Option<Heard>)]) -> Self {
        let state = match agent.service {
            Service::Draining | Service::Quarantined => agent.service.as_str(),
            Service::Ready if !view.connected => "away",
            Service::Ready if view.trials.is_empty() => "ready",
            Service::Ready => "busy",
        };
        let labels: Vec<String> = agent.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let device = |device: &regatta_core::device::Device| {
            let of_it = |trial: &TrialRecord| (&trial.agent, trial.device) == (&agent.id, device.id);
            let trial = trials.iter().find(|(trial, _)| of_it(trial));
            DeviceRow {
                id: device.id.to_string(),
                name: label(&device.name),
                doing: trial.map(|(trial, heard)| Doing::new(trial, heard.as_ref(), "", 0)),
            }
        };
        Self {
            name: agent.id.to_string(),
            state,
            reason: reason(&agent.service_reason),
            labels: label(&labels.join(", ")),
            version: label(&agent.version),
            last_seen: minute(agent.last_seen_at),
            spool: if view.connected { count(view.spool_records, "record") } else { "not known".to_owned() },
            devices: agent.devices.iter().map(device).collect(),
        }
    }
}

/// The cells of a run, row by row.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<MatrixRow>,
    /// What is not shown.
    pub(crate) left_out: Option<String>,
}

/// What shares device, backend and artifact.
#[derive(Debug)]
pub(crate) struct MatrixRow {
    pub(crate) label: String,
    pub(crate) place: String,
    pub(crate) marks: Vec<Option<Mark>>,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    pub(crate) state: String,
    pub(crate) glyph: &'static str,
    pub(crate) title: String,
}

/// A cell that did not end well.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) cell: String,
    pub(crate) state: String,
    pub(crate) kind: String,
    pub(crate) reason: String,
}

/// The workload as a column: with the number of devices side by side, and the build of the worker.
pub(crate) fn column(cell: &CellRecord) -> String {
    let (name, replicas) = (&cell.cell.workload.name, cell.cell.workload.replicas);
    match &cell.cell.build {
        Some(build) => label(&format!("{name} @{build}")),
        None if replicas > 1 => label(&format!("{name} ×{replicas}")),
        None => label(name.as_str()),
    }
}

impl Matrix {
    /// `at_work`: trials that an agent has; of each of them the first open cell is running.
    pub(crate) fn new(cells: &[CellRecord], mut at_work: HashSet<TrialId>) -> Self {
        let (mut columns, mut rows): (Vec<String>, Vec<MatrixRow>) = (Vec::new(), Vec::new());
        let (mut more_rows, mut more_columns) = (HashSet::new(), HashSet::new());
        for record in cells {
            let cell = &record.cell;
            let running = record.outcome.is_none() && record.trial.as_ref().is_some_and(|trial| at_work.remove(trial));
            let synthetic =
                if cell.artifact.weights == regatta_core::artifact::Weights::Synthetic { " (synthetic)" } else { "" };
            let what = format!("{} {}{synthetic} {}", cell.backend, cell.artifact.model, cell.artifact.precision);
            let (what, place) = (label(&what), label(&format!("{} {}", cell.agent, cell.device)));
            let column = column(record);
            let at = |list: &[String], item: &String| list.iter().position(|known| known == item);
            let column = match at(&columns, &column) {
                Some(at) => at,
                None if columns.len() < MAX_COLUMNS => {
                    columns.push(column);
                    columns.len() - 1
                }
                None => {
                    more_columns.insert(column);
                    continue;
                }
            };
            let row = match rows.iter().position(|row| (&row.label, &row.place) == (&what, &place)) {
                Some(at) => at,
                None if rows.len() < MAX_ROWS => {
                    rows.push(MatrixRow { label: what, place, marks: Vec::new() });
                    rows.len() - 1
                }
                None => {
                    more_rows.insert((what, place));
                    continue;
                }
            };
            let marks = &mut rows[row].marks;
            if marks.len() <= column {
                marks.resize(column + 1, None);
            }
            let mark = Mark::of(record, running);
            // Replicas share a place: the one that says most is shown.
            if marks[column].as_ref().is_none_or(|known| known.weight() < mark.weight()) {
                marks[column] = Some(mark);
            }
        }
        for row in &mut rows {
            row.marks.resize(columns.len(), None);
        }
        let mut left_out = Vec::new();
        if !more_rows.is_empty() {
            left_out.push(count(more_rows.len() as u64, "row"));
        }
        if !more_columns.is_empty() {
            left_out.push(count(more_columns.len() as u64, "column"));
        }
        let left_out = (!left_out.is_empty()).then(|| left_out.join(" and "));
        Self { columns, rows, left_out }
    }
}

impl Mark {
    fn of(record: &CellRecord, running: bool) -> Self {
        let state = match &record.outcome {
            Some(outcome) => outcome.state(),
            None if running => "running",
            None => "waiting",
        };
        let detail = record.outcome.as_ref().and_then(Outcome::detail).unwrap_or_default();
        let title = if detail.is_empty() { state.to_owned() } else { format!("{state}: {detail}") };
        Self { state: state.to_owned(), glyph: glyph(state), title: reason(&title) }
    }

    fn weight(&self) -> u8 {
        match self.state.as_str() {
            "running" => 3,
            "ok" => 0,
            "waiting" => 1,
            _ => 2,
        }
    }
}

/// Cells that ended otherwise than they should, and how many more there are than are named.
pub(crate) fn problems(cells: &[CellRecord]) -> (Vec<Problem>, usize) {
    // What is left out already when a run is planned is no surprise.
    let bad = |record: &&CellRecord| match &record.outcome {
        None | Some(Outcome::Ok) => false,
        Some(outcome) => outcome.state() != "skipped" || record.trial.is_some(),
    };
    let all: Vec<&CellRecord> = cells.iter().filter(bad).collect();
    let problem = |record: &&CellRecord| {
        let outcome = record.outcome.as_ref();
        Problem {
            cell: label(&record.cell.label()),
            state: outcome.map(|outcome| outcome.state().to_owned()).unwrap_or_default(),
            kind: outcome.and_then(Outcome::failure).map(|kind| label(&kind.to_string())).unwrap_or_default(),
            reason: reason(outcome.and_then(Outcome::detail).unwrap_or_default()),
        }
    };
    (all.iter().take(MAX_PROBLEMS).map(problem).collect(), all.len().saturating_sub(MAX_PROBLEMS))
}

/// A schedule.
#[derive(Debug)]
pub(crate) struct ScheduleRow {
    pub(crate) name: String,
    pub(crate) cron: String,
    pub(crate) zone: String,
    pub(crate) scenario: String,
    pub(crate) next: Vec<String>,
    pub(crate) last: Vec<FiringRow>,
}

/// What came of a firing.
#[derive(Debug)]
pub(crate) struct FiringRow {
    pub(crate) due: String,
    pub(crate) outcome: &'static str,
    pub(crate) detail: String,
    pub(crate) run: Option<String>,
}

impl ScheduleRow {
    pub(crate) fn new(planned: &Planned, firings: &[Firing], now: Timestamp) -> Self {
        let schedule = &planned.schedule;
        let next = schedule.upcoming(now, NEXT);
        let firing = |firing: &Firing| {
            let (outcome, detail, run) = match &firing.outcome {
                FiringOutcome::Submitted(run, stage) => ("submitted", stage.as_str(), Some(run.to_string())),
                FiringOutcome::Missed(why) => ("missed", why.as_str(), None),
                FiringOutcome::Failed(why) => ("failed", why.as_str(), None),
            };
            FiringRow { due: minute(firing.due), outcome, detail: reason(detail), run }
        };
        Self {
            name: schedule.name.to_string(),
            cron: label(&schedule.cron),
            zone: label(&schedule.zone),
            scenario: label(&planned.bundle.file),
            next: next.iter().map(|at| at.strftime("%a %Y-%m-%d %H:%M %Z").to_string()).collect(),
            last: firings.iter().map(firing).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_outside_are_cut_and_hide_nothing() {
        assert_eq!(label("a\u{202e}b\u{200b}c\nd\0\x1b[31m"), "abc d[31m");
        assert_eq!(label(&"x".repeat(10_000)).chars().count(), MAX_LABEL);
        assert!(reason(&"y".repeat(10_000)).ends_with('…'));
    }

    #[test]
    fn a_bar_is_as_long_as_its_cells_and_what_waits_stands_last() {
        let cells = [("waiting", 5), ("ok", 3), ("failed", 1), ("running", 1)];
        let bar = Bar::of(&cells.map(|(state, n)| (state.to_owned(), n)).into());
        assert_eq!((bar.total, bar.ended), (10, 4));
        let states: Vec<&str> = bar.slices.iter().map(|slice| slice.state.as_str()).collect();
        assert_eq!(states, ["ok", "failed", "running", "waiting"]);
        assert!((bar.slices.iter().map(|slice| slice.width).sum::<f64>() - 100.0).abs() < 1e-9);
        assert!((bar.slices[3].x - 50.0).abs() < 1e-9);
        assert!(Bar::of(&BTreeMap::new()).slices.is_empty());
    }

    #[test]
    fn lengths_of_time_are_said_in_a_unit_that_fits() {
        let said = [0, 59, 60, 61, 3599, 3600, 12_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(said, ["0 s", "59 s", "1 min", "2 min", "60 min", "1 h 0 min", "3 h 20 min"]);
    }
}
