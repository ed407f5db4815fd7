//! The top of the page: when the run was, how its cells ended, and what must be known before a number is read.

use regatta_core::artifact::Weights;
use regatta_core::flag::{Flag, Flags};
use regatta_core::quality::Quality;
use regatta_core::run::RunState;
use serde::Serialize;

use super::Problem;
use crate::dataset::{CellResult, INVALID, Run};
use crate::text;

/// How many cells are in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The state.
    pub state: &'static str,
    /// How many.
    pub n: usize,
}

/// What must be known before any number is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Banner {
    /// What it is about, in a word or two.
    pub title: String,
    /// What it means.
    pub text: String,
}

/// States in the order in which they are counted up: good, unfinished, bad.
const STATES: [&str; 12] = [
    "ok",
    "measuring",
    "waiting",
    "skipped",
    "failed",
    "oom",
    "timeout",
    "crashed",
    "cancelled",
    INVALID,
    Flag::FasterThanPhysics.as_str(),
    Flag::NotWaitedFor.as_str(),
];

/// How many cells are in each state; states without cells are left out.
pub(super) fn counts(run: &Run) -> Vec<Count> {
    let count = |state| Count { state, n: run.cells.iter().filter(|c| c.state() == state).count() };
    STATES.into_iter().map(count).filter(|c| c.n > 0).collect()
}

/// When it ran and where it stands.
pub(super) fn status(run: &Run) -> String {
    let submitted = text::minute(run.submitted_at);
    let ended = run.ended_at.map(|end| format!(", ended {}", text::minute(end))).unwrap_or_default();
    match run.state {
        RunState::Active => format!("Submitted {submitted}, still running."),
        RunState::Done => format!("Submitted {submitted}{ended}."),
        RunState::Cancelled => format!("Submitted {submitted}{ended}, stopped by a person."),
    }
}

/// What must be known before any number is read.
pub(super) fn banners(run: &Run) -> Vec<Banner> {
    let flags: Vec<Flags> = run.cells.iter().map(CellResult::flags).collect();
    let with = |flag: Flag| flags.iter().filter(|flags| flags.contains(flag)).count();
    let synthetic = run.cells.iter().filter(|c| c.cell.artifact.weights == Weights::Synthetic).count();
    let banner = |title: &str, text: String| Some(Banner { title: title.to_owned(), text });
    [
        unfinished(run),
        refused(run),
        (synthetic > 0)
            .then(|| {
                banner(
                    "Synthetic weights",
                    format!(
                        "{} with seeded random numbers in the model's exact shape. Speed and memory are those of \
                         the real network; the generated text means nothing.",
                        ran(synthetic, run.cells.len())
                    ),
                )
            })
            .flatten(),
        (with(Flag::FakeBackend) > 0)
            .then(|| banner("Scripted timings", "Cells of the fake backend ran no model at all.".to_owned()))
            .flatten(),
        (with(Flag::DebugBuild) > 0)
            .then(|| {
                let text = "A worker was compiled without optimisation: its numbers say nothing about the engine.";
                banner("Debug build", text.to_owned())
            })
            .flatten(),
        (with(Flag::WarmupNotStable) > 0)
            .then(|| {
                let n = text::count(with(Flag::WarmupNotStable), "cell");
                let text =
                    format!("Warm-up of {n} reached its limit before repetitions agreed. Charts show them hollow.");
                banner("Unstable warm-up", text)
            })
            .flatten(),
        unsteady(with(Flag::OutputChanged), with(Flag::Trend)),
        not_counted(run),
        suspect(run),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Cells whose repetitions don't agree in what they gave, or get slower and slower.
fn unsteady(other_output: usize, trend: usize) -> Option<Banner> {
    let findings = [(other_output, "gave other tokens than the first one"), (trend, "got steadily slower, or faster")];
    let found = findings.into_iter().filter(|(n, _)| *n > 0);
    let said: Vec<_> = found.map(|(n, what)| format!("Repetitions of {} {what}.", text::count(n, "cell"))).collect();
    let text = format!("{} Flags say which; charts show them hollow.", said.join(" "));
    (!said.is_empty()).then(|| Banner { title: "Not repeatable".to_owned(), text })
}

fn ran(n: usize, total: usize) -> String {
    if n == total { "All cells ran".to_owned() } else { format!("{} of {total} cells ran", text::grouped(n as f64)) }
}

fn refused(run: &Run) -> Option<Banner> {
    let first = run.rejected.first()?;
    let n = text::count(run.rejected.len(), "record");
    let text = format!("{n} could not be read and belong to no cell; the first: {}.", text::reason(&first.reason));
    Some(Banner { title: "Refused records".to_owned(), text })
}

/// Repetitions whose surroundings forbid to count them.
fn not_counted(run: &Run) -> Option<Banner> {
    let cells = run.cells.iter().filter(|cell| !cell.unfit.is_empty());
    let (cells, repetitions) = cells.fold((0, 0), |(n, sum), cell| (n + 1, sum + cell.unfit.len()));
    let what = format!("{} of {}", text::count(repetitions, "repetition"), text::count(cells, "cell"));
    let text = format!("{what} were measured while the device was slowed down or used by others: kept, not counted.");
    (cells > 0).then(|| Banner { title: "Not counted".to_owned(), text })
}

/// Cells whose surroundings cast doubt on their numbers.
fn suspect(run: &Run) -> Option<Banner> {
    let is_suspect = |cell: &&CellResult| {
        let flags = cell.samples.iter().map(|sample| sample.flags).collect();
        matches!(Quality::of(flags), Quality::Suspect(_))
    };
    let cells = run.cells.iter().filter(is_suspect).count();
    let n = text::count(cells, "cell");
    let text =
        format!("Repetitions of {n} were measured in doubtful surroundings; flags say which. Charts show them hollow.");
    (cells > 0).then(|| Banner { title: "Suspect surroundings".to_owned(), text })
}

fn unfinished(run: &Run) -> Option<Banner> {
    let open = run.cells.iter().filter(|c| c.outcome.is_none()).count();
    let total = run.cells.len();
    if total == 0 {
        let text = "The scenario unfolded to no cell at all: there is nothing to show.".to_owned();
        return Some(Banner { title: "Empty run".to_owned(), text });
    }
    if run.state == RunState::Active || open > 0 {
        let text =
            format!("{open} of {} have not ended. Numbers below are those of the others.", text::count(total, "cell"));
        return Some(Banner { title: "Run not finished".to_owned(), text });
    }
    None
}

/// Reasons in the summary at most; the table has all.
const MAX_REASONS: usize = 6;

/// What ended without a result and why, the most frequent reason first: `6 × failed: no KV slot`.
pub(super) fn reasons(problems: &[Problem]) -> Vec<String> {
    let mut reasons: Vec<(&str, &str, usize)> = Vec::new();
    for problem in problems.iter().filter(|problem| !matches!(problem.state, "waiting" | "measuring")) {
        match reasons
            .iter_mut()
            .find(|(state, reason, _)| (*state, *reason) == (problem.state, problem.reason.as_str()))
        {
            Some((.., n)) => *n += 1,
            None => reasons.push((problem.state, &problem.reason, 1)),
        }
    }
    reasons.sort_by_key(|(.., n)| std::cmp::Reverse(*n));
    let more = reasons.len().saturating_sub(MAX_REASONS);
    let line = |(state, reason, n): &(&str, &str, usize)| format!("{n} × {}: {reason}", state.replace('_', " "));
    let mut lines: Vec<String> = reasons.iter().take(MAX_REASONS).map(line).collect();
    lines.extend((more > 0).then(|| format!("{more} more reasons below")));
    lines
}
