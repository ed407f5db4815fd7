//! What a watcher knows of a run: pure. Events go in, what is new comes out; nothing is reported twice, however often
//! the connection breaks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use regatta_proto::pb;

use crate::exit::Exit;
use crate::view::{CellView, RunView, State};

/// Cells that must have ended before a guess is made from them.
const PACE_FROM: u32 = 3;

/// What an agent is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Working {
    /// Its place among the cells; `None` while the model loads.
    pub cell: Option<usize>,
    /// `cooling down`, `loading`, `warming up` or `measuring`.
    pub phase: String,
    /// Repetitions of that phase so far.
    pub repetitions: u32,
    /// Which worker process of the cell's it is, from 0.
    pub pass: u32,
    /// Tokens per second of the last repetition.
    pub rate: Option<f64>,
    /// When it was last heard of.
    pub heard_at: Duration,
}

/// A run being watched. All times are on the watcher's own monotonic clock, from the start of watching.
#[derive(Debug)]
pub(crate) struct Board {
    pub run: RunView,
    pub cells: Vec<CellView>,
    /// What agents are doing, by trial.
    pub working: BTreeMap<String, Working>,
    /// The connection is lost.
    pub offline: bool,
    by_hash: HashMap<Vec<u8>, usize>,
    /// When the run was last described.
    run_at: Duration,
    /// Cells that had ended before anybody watched.
    ended_before: u32,
}

impl Board {
    /// The run as it stands when watching starts.
    pub(crate) fn new(run: RunView, cells: Vec<CellView>) -> Self {
        let by_hash = cells.iter().enumerate().map(|(at, cell)| (cell.hash.clone(), at)).collect();
        let mut board = Self {
            run,
            cells,
            working: BTreeMap::new(),
            offline: false,
            by_hash,
            run_at: Duration::ZERO,
            ended_before: 0,
        };
        board.ended_before = board.ended();
        board
    }

    /// Takes the state after a break. Gives the cells that have ended since.
    pub(crate) fn refresh(&mut self, cells: Vec<CellView>) -> Vec<usize> {
        self.working.clear();
        let mut ended = Vec::new();
        for cell in cells {
            let Some(&at) = self.by_hash.get(&cell.hash) else {
                self.by_hash.insert(cell.hash.clone(), self.cells.len());
                if cell.state.is_end() {
                    ended.push(self.cells.len());
                }
                self.cells.push(cell);
                continue;
            };
            if cell.state.is_end() && !self.cells[at].state.is_end() {
                ended.push(at);
            }
            self.cells[at] = cell;
        }
        ended
    }

    /// Takes an event. Gives the cell that has ended, where one has.
    pub(crate) fn event(&mut self, event: pb::WatchRunResponse, now: Duration) -> Option<usize> {
        if let Some(run) = event.run {
            self.run = run.into();
            self.run_at = now;
            // Whatever was under way is not any more: its agent is gone.
            if !self.run.cells.contains_key("running") {
                self.stop_working();
            }
        }
        if let Some(progress) = event.progress {
            self.progress(progress, now);
        }
        event.cell_end.and_then(|end| self.cell_end(end))
    }

    fn stop_working(&mut self) {
        self.working.clear();
        for cell in self.cells.iter_mut().filter(|cell| cell.state == State::Running) {
            cell.state = State::Waiting;
        }
    }

    fn progress(&mut self, progress: pb::Progress, now: Duration) {
        let cell = self.by_hash.get(&progress.cell_hash).copied();
        let before = self.working.get(&progress.trial_id).and_then(|working| working.cell);
        if let Some(at) = before.filter(|_| before != cell) {
            self.set_back(at);
        }
        if let Some(at) = cell {
            if self.cells[at].state.is_end() {
                return;
            }
            self.cells[at].state = State::Running;
        }
        let rate = Some(progress.decode_rate).filter(|rate| *rate > 0.0);
        let (repetitions, pass) = (progress.repetitions, progress.pass);
        let working = Working { cell, phase: progress.phase, repetitions, pass, rate, heard_at: now };
        self.working.insert(progress.trial_id, working);
    }

    fn set_back(&mut self, at: usize) {
        if self.cells[at].state == State::Running {
            self.cells[at].state = State::Waiting;
        }
    }

    fn cell_end(&mut self, end: pb::CellEnd) -> Option<usize> {
        let at = self.by_hash.get(&end.cell_hash).copied()?;
        self.working.retain(|_, working| working.cell != Some(at));
        let cell = &mut self.cells[at];
        if cell.state.is_end() {
            return None;
        }
        cell.state = State::parse(&end.state);
        cell.kind = end.kind;
        cell.detail = end.detail;
        Some(at)
    }

    /// Cells that have ended.
    pub(crate) fn ended(&self) -> u32 {
        count(self.cells.iter().filter(|cell| cell.state.is_end()))
    }

    /// All cells.
    pub(crate) fn total(&self) -> u32 {
        count(self.cells.iter())
    }

    /// Cells that have ended otherwise than they should.
    pub(crate) fn bad(&self) -> u32 {
        count(self.cells.iter().filter(|cell| cell.state.is_end() && !cell.is_as_expected()))
    }

    /// The time that is left: as the coordinator says, or as this run has gone while it was watched.
    pub(crate) fn remaining(&self, now: Duration) -> Option<Duration> {
        if self.run.has_ended() {
            return None;
        }
        if let Some(ns) = self.run.remaining_ns {
            return Some(Duration::from_nanos(ns).saturating_sub(now.saturating_sub(self.run_at)));
        }
        let done = self.ended().saturating_sub(self.ended_before);
        let left = self.total() - self.ended();
        (done >= PACE_FROM).then(|| now / done * left)
    }

    /// The exit code of a run that has ended.
    pub(crate) fn exit(&self) -> Exit {
        let good = self.run.state == "done" && self.cells.iter().all(CellView::is_as_expected);
        if good { Exit::Done } else { Exit::Incomplete }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Boards for tests.

    use super::*;
    use crate::view::time;

    /// A run of that many cells in that state.
    pub(crate) fn run(state: &str) -> RunView {
        RunView {
            id: "01935f2e-7c31-7a10-9f00-000000000001".to_owned(),
            name: "demo".to_owned(),
            state: state.to_owned(),
            created_at: time(1_700_000_000_000_000_000),
            ended_at: None,
            cells: BTreeMap::new(),
            samples: 0,
            priority: 0,
            repetitions: 10,
            remaining_ns: None,
            waits: Vec::new(),
            retry_of: None,
        }
    }

    /// A cell that waits.
    pub(crate) fn cell(number: u8, row: (&str, &str, &str, &str), workload: &str) -> CellView {
        let (agent, device, backend, precision) = row;
        CellView {
            hash: vec![number; 32],
            agent: agent.to_owned(),
            device: device.to_owned(),
            backend: backend.to_owned(),
            artifact: pb::ArtifactRef {
                model: "tinyllama-1.1b".to_owned(),
                weights: "real".to_owned(),
                format: "gguf".to_owned(),
                precision: precision.to_owned(),
            },
            workload: workload.to_owned(),
            replicas: 1,
            replica: 0,
            build: None,
            state: State::Waiting,
            kind: None,
            detail: String::new(),
            samples: 0,
            superseded: 0,
            rejected: 0,
            trial: Some("t0".to_owned()),
        }
    }

    /// The matrix of these rows and workloads.
    pub(crate) fn board(rows: &[(&str, &str, &str, &str)], workloads: &[&str]) -> Board {
        let cells = rows.iter().flat_map(|row| workloads.iter().map(move |workload| (*row, *workload)));
        let cells = (0..).zip(cells).map(|(number, (row, workload))| cell(number, row, workload)).collect();
        Board::new(run("active"), cells)
    }

    /// An event that says how a cell ended.
    pub(crate) fn end(number: u8, state: &str, detail: &str) -> pb::WatchRunResponse {
        let end = pb::CellEnd {
            cell_hash: vec![number; 32],
            state: state.to_owned(),
            detail: detail.to_owned(),
            ..Default::default()
        };
        pb::WatchRunResponse { cell_end: Some(end), ..pb::WatchRunResponse::default() }
    }

    /// An event that says what an agent is doing.
    pub(crate) fn progress(trial: &str, number: u8, phase: &str, rate: f64) -> pb::WatchRunResponse {
        let progress = pb::Progress {
            trial_id: trial.to_owned(),
            epoch: 1,
            cell_hash: vec![number; 32],
            phase: phase.to_owned(),
            repetitions: 3,
            decode_rate: rate,
            pass: 0,
        };
        pb::WatchRunResponse { progress: Some(progress), ..pb::WatchRunResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{board, end, progress, run};
    use super::*;

    const ROW: (&str, &str, &str, &str) = ("host-a", "cpu", "candle", "f32");
    const NOW: Duration = Duration::from_mins(1);

    fn state(run: RunView, cells: &[(&str, u32)]) -> pb::WatchRunResponse {
        let cells = cells.iter().map(|(state, n)| ((*state).to_owned(), *n)).collect();
        let run = pb::Run { id: run.id, state: run.state, cells, ..pb::Run::default() };
        pb::WatchRunResponse { run: Some(run), ..pb::WatchRunResponse::default() }
    }

    #[test]
    fn no_cell_ends_twice_whatever_is_said_twice() {
        let mut board = board(&[ROW], &["a", "b", "c"]);
        assert_eq!(board.event(end(0, "ok", ""), NOW), Some(0));
        assert_eq!(board.event(end(0, "ok", ""), NOW), None);
        // While the connection was away, another one ended.
        let mut after = board.cells.clone();
        after[1].state = State::Failed;
        assert_eq!(board.refresh(after.clone()), [1]);
        assert_eq!(board.refresh(after), [0_usize; 0]);
        assert_eq!(board.event(end(1, "failed", ""), NOW), None);
        assert_eq!(board.event(end(9, "ok", ""), NOW), None, "a cell that nobody knows");
        assert_eq!((board.ended(), board.bad(), board.total()), (2, 1, 3));
    }

    #[test]
    fn what_an_agent_does_is_shown_until_its_cell_ends_or_it_is_gone() {
        let mut board = board(&[ROW], &["a", "b"]);
        board.event(progress("t0", 0, "measuring", 41.5), NOW);
        assert_eq!(board.cells[0].state, State::Running);
        assert_eq!(board.working["t0"].rate, Some(41.5));
        board.event(end(0, "ok", ""), NOW);
        assert!(board.working.is_empty());
        board.event(progress("t0", 0, "measuring", 41.5), NOW);
        assert_eq!(board.cells[0].state, State::Ok, "a late word changes nothing");
        board.event(progress("t0", 1, "warming up", 0.0), NOW);
        assert_eq!(board.working["t0"].rate, None);
        board.event(state(run("active"), &[("ok", 1), ("waiting", 1)]), NOW);
        assert_eq!((board.cells[1].state, board.working.len()), (State::Waiting, 0));
    }

    #[test]
    fn time_remaining_is_the_coordinators_or_the_pace_of_this_run() {
        let mut board = board(&[ROW], &["a", "b", "c", "d", "e"]);
        for number in 0..2 {
            board.event(end(number, "ok", ""), NOW);
        }
        assert_eq!(board.remaining(NOW), None, "two cells are no pace");
        board.event(end(2, "ok", ""), NOW);
        assert_eq!(board.remaining(NOW), Some(Duration::from_secs(40)));
        let mut event = state(run("active"), &[("running", 1)]);
        event.run.as_mut().unwrap().remaining_ns = Some(100_000_000_000);
        board.event(event, NOW);
        assert_eq!(board.remaining(NOW + Duration::from_secs(30)), Some(Duration::from_secs(70)));
        board.event(state(run("done"), &[]), NOW);
        assert_eq!(board.remaining(NOW), None);
    }

    #[test]
    fn the_exit_code_tells_planned_skips_from_others() {
        let mut board = board(&[ROW], &["a", "b"]);
        board.event(end(0, "ok", ""), NOW);
        board.event(end(1, "skipped", "no such device any more"), NOW);
        board.event(state(run("done"), &[]), NOW);
        assert_eq!(board.exit(), Exit::Incomplete);
        board.cells[1].trial = None;
        assert_eq!(board.exit(), Exit::Done);
        board.event(state(run("cancelled"), &[]), NOW);
        assert_eq!(board.exit(), Exit::Incomplete);
    }
}
