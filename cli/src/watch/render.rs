//! A run as lines for a terminal: pure, so that every width can be tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::board::{Board, Working};
use crate::view::{CellView, State};

/// An agent that has said nothing for this long is shown with that.
const SILENT: Duration = Duration::from_secs(20);

/// Lines about what agents are doing, at most.
const WORKING_LINES: usize = 8;

/// What the terminal can show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub width: usize,
    pub height: usize,
    pub colour: bool,
}

/// The run as lines, none wider than the terminal and not more than it has.
pub(crate) fn render(board: &Board, look: Look, now: Duration) -> Vec<String> {
    let mut below = vec![legend(board, look)];
    below.extend(working(board, look, now));
    below.extend(board.run.waits.iter().map(|wait| paint(&cut(&format!("waiting: {wait}"), look.width), YELLOW, look)));
    if board.offline {
        let text = "connection lost; trying again …";
        below.push(paint(&cut(text, look.width), YELLOW, look));
    }
    let mut lines = vec![paint(&cut(&headline(board, now), look.width), BOLD, look)];
    // One line stays free for the cursor.
    let room = look.height.saturating_sub(lines.len() + below.len() + 1);
    lines.extend(grid(board, look, room));
    lines.extend(below);
    lines.truncate(look.height.saturating_sub(1).max(1));
    lines
}

/// The run in one line.
fn headline(board: &Board, now: Duration) -> String {
    let run = &board.run;
    let mut parts = vec![
        format!("{} {}", run.name, run.id),
        run.state.clone(),
        format!("{}/{} cells", board.ended(), board.total()),
    ];
    if board.bad() > 0 {
        parts.push(format!("{} not ok", board.bad()));
    }
    parts.push(format!("{} elapsed", duration(now)));
    parts.extend(board.remaining(now).map(|left| format!("about {} left", duration(left))));
    parts.join(", ")
}

/// How many cells stand how, which is also the key to the glyphs.
fn legend(board: &Board, look: Look) -> String {
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for cell in &board.cells {
        *counts.entry(cell.state).or_default() += 1;
    }
    let (mut text, mut used) = (String::new(), 0);
    for state in State::ALL {
        let Some(count) = counts.get(&state) else { continue };
        let words = format!(" {count} {}", state.word());
        let gap = if used == 0 { "" } else { "   " };
        used += gap.len() + 1 + words.len();
        if used > look.width {
            break;
        }
        text += gap;
        text += &paint(glyph(state), colour(state), look);
        text += &words;
    }
    text
}

fn working(board: &Board, look: Look, now: Duration) -> Vec<String> {
    let all = board.working.iter().take(WORKING_LINES);
    let mut lines: Vec<String> =
        all.map(|(trial, working)| cut(&doing(board, trial, working, now), look.width)).collect();
    if let Some(more) = board.working.len().checked_sub(WORKING_LINES).filter(|more| *more > 0) {
        lines.push(cut(&format!("… and {more} more trials"), look.width));
    }
    lines
}

/// What one agent is doing.
pub(crate) fn doing(board: &Board, trial: &str, working: &Working, now: Duration) -> String {
    let what = working.cell.map_or_else(|| format!("trial {trial}"), |at| board.cells[at].label());
    let mut text = format!("{what}: {}", working.phase);
    if working.phase == "measuring" {
        let _ = write!(text, " {}/{}", working.repetitions, board.run.repetitions);
    }
    if working.pass > 0 {
        let _ = write!(text, " of pass {}", working.pass + 1);
    }
    if let Some(rate) = working.rate {
        let _ = write!(text, ", {rate:.1} tokens/s");
    }
    let silence = now.saturating_sub(working.heard_at);
    if silence >= SILENT {
        let _ = write!(text, ", silent for {}", duration(silence));
    }
    text
}

/// A row: device, backend and precision, and as much else as tells rows apart.
struct Row<'a> {
    label: String,
    /// By column; more than one cell where replicas share it.
    cells: BTreeMap<usize, Vec<&'a CellView>>,
}

impl Row<'_> {
    /// Rows where something happens are shown first where not all fit.
    fn interest(&self) -> u8 {
        let any = |wanted: fn(&CellView) -> bool| self.cells.values().flatten().any(|cell| wanted(cell));
        if any(|cell| cell.state == State::Running) {
            0
        } else if any(|cell| cell.state.is_end() && !cell.is_as_expected()) {
            1
        } else {
            u8::from(!any(|cell| cell.state == State::Waiting)) + 2
        }
    }

    /// The state of a column; of replicas that stand differently, the one that says most.
    fn state(&self, column: usize) -> Option<State> {
        let cells = self.cells.get(&column)?;
        let rank = |state: State| match state {
            State::Running => 3,
            state if state.is_end() && state != State::Ok => 2,
            State::Waiting => 1,
            _ => 0,
        };
        cells.iter().map(|cell| cell.state).max_by_key(|state| rank(*state))
    }
}

fn rows(board: &Board) -> (Vec<Row<'_>>, Vec<String>) {
    let differ = |part: fn(&CellView) -> &str| board.cells.windows(2).any(|pair| part(&pair[0]) != part(&pair[1]));
    let agents = differ(|cell| &cell.agent);
    let models = differ(|cell| &cell.artifact.model);
    let weights = differ(|cell| &cell.artifact.weights);
    let (mut rows, mut columns): (Vec<Row<'_>>, Vec<String>) = (Vec::new(), Vec::new());
    for cell in &board.cells {
        let parts = [
            agents.then_some(&cell.agent),
            Some(&cell.device),
            Some(&cell.backend),
            models.then_some(&cell.artifact.model),
            Some(&cell.artifact.precision),
            weights.then_some(&cell.artifact.weights),
        ];
        let label = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        let column = place(&mut columns, cell.column(), |a, b| a == b);
        let row = place(&mut rows, Row { label, cells: BTreeMap::new() }, |a, b| a.label == b.label);
        rows[row].cells.entry(column).or_default().push(cell);
    }
    (rows, columns)
}

/// Where an item stands in a list; at its end, where it was not in it.
fn place<T>(list: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) -> usize {
    list.iter().position(|other| same(other, &item)).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// How wide columns are.
enum Columns {
    /// Each under its name.
    Named(Vec<usize>),
    /// A glyph each, names beside the grid.
    Narrow,
    /// No columns: what stands how is counted for each row.
    Counted,
}

fn grid(board: &Board, look: Look, room: usize) -> Vec<String> {
    let (rows, names) = rows(board);
    let widest = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or_default();
    let label_width = widest.min(look.width / 2);
    let space = look.width.saturating_sub(label_width + 2);
    let widths: Vec<usize> = names.iter().map(|name| name.chars().count() + 2).collect();
    let columns = if widths.iter().sum::<usize>() <= space {
        Columns::Named(widths)
    } else if names.len() <= space {
        Columns::Narrow
    } else {
        Columns::Counted
    };
    let mut lines = head(&columns, &names, label_width, look);
    let (shown, hidden) = fitting(&rows, room.saturating_sub(lines.len()));
    lines.extend(shown.into_iter().map(|row| {
        let label = cut(&row.label, label_width);
        let pad = " ".repeat(label_width - label.chars().count() + 2);
        format!("{label}{pad}{}", body(row, &columns, names.len(), space, look))
    }));
    if hidden > 0 {
        lines.push(cut(&format!("… and {hidden} more rows"), look.width));
    }
    lines
}

/// The names of the columns.
fn head(columns: &Columns, names: &[String], label_width: usize, look: Look) -> Vec<String> {
    let indent = " ".repeat(label_width + 2);
    match columns {
        Columns::Named(widths) => {
            let names = names.iter().zip(widths).map(|(name, width)| format!("{name:<width$}"));
            vec![format!("{indent}{}", names.collect::<String>()).trim_end().to_owned()]
        }
        Columns::Narrow => vec![cut(&format!("columns: {}", names.join(", ")), look.width)],
        Columns::Counted => Vec::new(),
    }
}

/// The cells of a row.
fn body(row: &Row<'_>, columns: &Columns, count: usize, space: usize, look: Look) -> String {
    let mark = |column: usize| {
        row.state(column).map_or_else(|| " ".to_owned(), |state| paint(glyph(state), colour(state), look))
    };
    match columns {
        Columns::Named(widths) => {
            let cells = widths.iter().enumerate().map(|(at, width)| mark(at) + &" ".repeat(width - 1));
            cells.collect::<String>().trim_end().to_owned()
        }
        Columns::Narrow => (0..count).map(mark).collect(),
        Columns::Counted => {
            let count = |state: State| row.cells.values().flatten().filter(|cell| cell.state == state).count();
            let counts = State::ALL.into_iter().map(|state| (count(state), state)).filter(|(n, _)| *n > 0);
            cut(&counts.map(|(n, state)| format!("{n}{}", glyph(state))).collect::<Vec<_>>().join(" "), space)
        }
    }
}

/// The rows that fit, in the order of the matrix, and how many do not.
fn fitting<'a, 'b>(rows: &'a [Row<'b>], room: usize) -> (Vec<&'a Row<'b>>, usize) {
    if rows.len() <= room {
        return (rows.iter().collect(), 0);
    }
    let room = room.saturating_sub(1);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| (rows[*at].interest(), *at));
    let mut shown: Vec<usize> = order.into_iter().take(room).collect();
    shown.sort_unstable();
    (shown.iter().map(|at| &rows[*at]).collect(), rows.len() - shown.len())
}

/// A state as one character that also says something without colour.
fn glyph(state: State) -> &'static str {
    match state {
        State::Ok => "✓",
        State::Running => "▶",
        State::Waiting => "·",
        State::Oom => "M",
        State::Failed => "F",
        State::Timeout => "T",
        State::Crashed => "C",
        State::Cancelled => "x",
        State::Skipped => "-",
        State::Other => "?",
    }
}

const BOLD: &str = "1";
const YELLOW: &str = "33";

fn colour(state: State) -> &'static str {
    match state {
        State::Ok => "32",
        State::Running => "36",
        State::Waiting | State::Skipped | State::Cancelled => "2",
        State::Oom | State::Failed | State::Timeout | State::Crashed | State::Other => "31",
    }
}

fn paint(text: &str, code: &str, look: Look) -> String {
    if look.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// As much of the text as fits. What comes over the wire gets no say over the terminal.
fn cut(text: &str, width: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.chars().count() <= width {
        return plain;
    }
    plain.chars().take(width.saturating_sub(1)).chain(['…'].into_iter().take(width)).collect()
}

/// A duration for people: `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::testing::{board, cell, end, progress, run};
    use super::*;

    const NOW: Duration = Duration::from_secs(200);
    const PLAIN: Look = Look { width: 100, height: 24, colour: false };

    const FLEET: [(&str, &str, &str, &str); 4] = [
        ("gpu-01", "cuda:0", "candle", "f16"),
        ("gpu-01", "cuda:0", "llama.cpp", "q8_0"),
        ("gpu-02", "cuda:1", "candle", "f16"),
        ("mac-01", "metal:0", "llama.cpp", "q8_0"),
    ];

    /// A fleet in the middle of a run, with something of everything.
    fn busy() -> Board {
        let mut board = board(&FLEET, &["short-chat", "long-prompt", "batch-8"]);
        for (number, state) in [(0, "ok"), (1, "oom"), (2, "timeout"), (3, "ok"), (4, "failed"), (9, "crashed")] {
            board.event(end(number, state, "a reason"), Duration::from_secs(100));
        }
        board.cells[11].state = State::Skipped;
        board.event(progress("t1", 5, "measuring", 41.26), Duration::from_secs(195));
        board.event(progress("t2", 6, "warming up", 0.0), Duration::from_secs(150));
        board
    }

    fn text(board: &Board, look: Look) -> String {
        let lines = render(board, look, NOW);
        assert!(lines.len() < look.height.max(2), "{} lines", lines.len());
        for line in lines.iter().filter(|_| !look.colour) {
            assert!(line.chars().count() <= look.width, "wider than {}: {line}", look.width);
        }
        lines.join("\n")
    }

    #[test]
    fn a_wide_terminal_names_the_columns() {
        insta::assert_snapshot!(text(&busy(), PLAIN));
    }

    #[test]
    fn a_narrow_terminal_gives_each_column_one_character() {
        insta::assert_snapshot!(text(&busy(), Look { width: 50, ..PLAIN }));
    }

    #[test]
    fn where_columns_do_not_fit_they_are_counted() {
        let names: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut board = board(&FLEET[..2], &names);
        for number in 0..50 {
            board.event(end(number, if number % 9 == 0 { "failed" } else { "ok" }, ""), NOW);
        }
        insta::assert_snapshot!(text(&board, Look { width: 40, ..PLAIN }));
    }

    #[test]
    fn a_low_terminal_shows_the_rows_where_something_happens() {
        let names: Vec<String> = (0..30).map(|n| format!("gpu-{n:02}")).collect();
        let rows: Vec<_> = names.iter().map(|name| (name.as_str(), "cuda:0", "candle", "f16")).collect();
        let mut board = board(&rows, &["a"]);
        for number in 0..10 {
            board.event(end(number, "ok", ""), NOW);
        }
        board.event(end(20, "failed", ""), NOW);
        board.event(progress("t", 29, "measuring", 10.0), NOW);
        insta::assert_snapshot!(text(&board, Look { height: 12, ..PLAIN }));
    }

    #[test]
    fn colours_are_only_used_where_they_are_wanted() {
        let mut board = board(&FLEET[..1], &["a", "b"]);
        board.event(end(0, "ok", ""), NOW);
        assert!(!text(&board, PLAIN).contains('\x1b'));
        insta::assert_snapshot!(text(&board, Look { colour: true, ..PLAIN }).replace('\x1b', "ESC"));
    }

    #[test]
    fn waits_and_a_lost_connection_are_said() {
        let mut board = board(&FLEET[..1], &["a"]);
        board.run.waits = vec!["no agent has label gpu=h100".to_owned()];
        board.offline = true;
        insta::assert_snapshot!(text(&board, PLAIN));
    }

    #[test]
    fn replicas_have_columns_of_their_own() {
        let mut cells = Vec::new();
        for (number, (replicas, device)) in (0..).zip([(1, "cuda:0"), (2, "cuda:0"), (2, "cuda:1")]) {
            let cell = cell(number, ("gpu-01", device, "candle", "f16"), "chat");
            cells.push(CellView { replicas, ..cell });
        }
        cells[1].state = State::Running;
        cells[2].state = State::Running;
        insta::assert_snapshot!(text(&Board::new(run("active"), cells), PLAIN));
    }

    #[test]
    fn nothing_is_too_small_and_nothing_from_elsewhere_reaches_the_terminal() {
        let mut board = busy();
        board.run.name = "evil\x1b[2J\nname".to_owned();
        for width in 0..30 {
            for height in 0..6 {
                let shown = render(&board, Look { width, height, colour: false }, NOW);
                assert!(shown.iter().all(|line| line.chars().count() <= width && !line.contains('\x1b')));
            }
        }
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(59_900)), "59 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_mins(125)), "2 h 5 min");
    }
}
