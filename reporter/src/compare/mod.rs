//! Base against candidate: what changed from one run to another, cell by cell, with a verdict that holds.
//!
//! Values are those of worker **processes**, the median of their repetitions. The effect on each primary metric is a shift of
//! Hodges and Lehmann with its exact interval ([`Effect`]); the verdict is what that interval allows to say, and a change is
//! certain only if it still is with all tests of the comparison taken together (Benjamini and Hochberg). What differs
//! between the circumstances of both sides is found first: some of it forbids a comparison.

mod bmf;
mod circumstances;
mod junit;
mod markdown;
mod pairing;
mod text;

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::id::BuildName;
use regatta_core::metrics::METHOD_VERSION;
use regatta_core::quality::Quality;
use regatta_core::ranks::{Interval, MIN_FOR_CI, median, sorted};
use regatta_core::run::RunState;
use regatta_core::statistics::{Effect, Samples, Verdict, adjusted, ratio_of_medians};
use serde::Serialize;

pub use self::bmf::bmf;
pub use self::circumstances::Difference;
pub use self::junit::junit;
pub use self::markdown::markdown;
pub use self::pairing::{Matched, Pairing, pair};
pub use self::text::text;
use crate::dataset::{CellResult, Run};
use crate::stats::{self, Repetition};
use crate::text as texts;

/// The seed of the bootstrap: any will do, as long as it stays the same.
const SEED: u64 = 0x7265_6761_7474_6121;

/// How often the bootstrap draws.
const RESAMPLES: usize = 2_000;

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Changes up to this one do not count, 0.02 for 2 %.
    pub threshold: f64,
    /// Whether sides are compared that are not comparable.
    pub force: bool,
}

/// What is held against something else: a run, or what one build of the worker measured in it.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// The run.
    pub run: &'a Run,
    /// The build; `None` for all that the run has.
    pub build: Option<&'a BuildName>,
}

impl<'a> Chosen<'a> {
    /// All that a run has.
    pub fn all(run: &'a Run) -> Self {
        Self { run, build: None }
    }

    /// The cells that are meant.
    fn cells(self) -> impl Iterator<Item = &'a CellResult> {
        self.run.cells.iter().filter(move |cell| self.build.is_none() || cell.cell.build.as_ref() == self.build)
    }
}

/// The builds of the worker that were measured in turns, in the order of the cells.
pub fn builds(run: &Run) -> Vec<&BuildName> {
    let mut builds = Vec::new();
    for build in run.cells.iter().filter_map(|cell| cell.cell.build.as_ref()) {
        if !builds.contains(&build) {
            builds.push(build);
        }
    }
    builds
}

/// Why there is no comparison.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Their circumstances differ in what forbids a comparison.
    #[error(
        "base and candidate are not comparable, because they differ in what is measured or on what:\n{}\ncompare them all the \
         same with --force: the output will be marked",
        lines(.0)
    )]
    Incomparable(Vec<Difference>),
    /// No cell was measured on both sides.
    #[error(
        "base and candidate have no measured cell in common (model, weights, precision, backend, workload and kind of \
         device have to be the same):\n  base       {}\n  candidate  {}",
        some(base),
        some(candidate)
    )]
    NothingInCommon {
        /// Cells of the base.
        base: Vec<String>,
        /// Cells of the candidate.
        candidate: Vec<String>,
    },
    /// Both are the same.
    #[error(
        "base and candidate are both {0}: name two runs, or two builds that one run measured in turns, as RUN@BUILD"
    )]
    Same(String),
}

fn lines(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(|difference| format!("  {difference}")).collect();
    lines.join("\n")
}

/// The first few of a list.
fn some(labels: &[String]) -> String {
    const SHOWN: usize = 5;
    match labels {
        [] => "none".to_owned(),
        few if few.len() <= SHOWN => few.join(", "),
        many => format!("{}, and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

/// Two sides held against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What is taken as it is.
    pub base: Side,
    /// What may have changed.
    pub candidate: Side,
    /// Version of the definitions behind derived numbers.
    pub method_version: u32,
    /// Changes up to this one do not count, 0.02 for 2 %.
    pub threshold: f64,
    /// Whether both sides were measured in turns, so that pairs of worker processes are compared.
    pub paired: bool,
    /// Whether it was made although circumstances forbid it.
    pub forced: bool,
    /// In what the circumstances of both sides differ, what forbids a comparison first.
    pub differences: Vec<Difference>,
    /// Cells that were measured on both sides, in the order of the base.
    pub cells: Vec<CellComparison>,
    /// Cells that are on both sides and were not measured on both, with the reason.
    pub not_measured: Vec<NotMeasured>,
    /// Cells that the candidate does not have.
    pub only_in_base: Vec<String>,
    /// Cells that the base does not have.
    pub only_in_candidate: Vec<String>,
}

/// One side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The run's id.
    pub run: String,
    /// The build of the worker, where one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The scenario's name.
    pub scenario: String,
    /// When it was submitted: a label.
    pub submitted_at: Timestamp,
    /// Whether the run still goes on.
    pub active: bool,
}

/// A cell on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellComparison {
    /// What is measured, for people: `tinyllama-1.1b · candle · q8_0 · chat on cpu`.
    pub label: String,
    /// Identifies the cell on both sides, as hexadecimal digits.
    pub base_cell: String,
    /// The same of the candidate.
    pub candidate_cell: String,
    /// The gravest verdict on its primary metrics.
    pub verdict: Verdict,
    /// Whether some repetitions were measured in doubtful surroundings.
    pub suspect: bool,
    /// Its metrics, primary ones first.
    pub metrics: Vec<MetricComparison>,
}

/// A metric of a cell on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricComparison {
    /// Its name.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whether larger values are better.
    pub larger_is_better: bool,
    /// Whether it has a verdict; others are for information.
    pub primary: bool,
    /// Median over the worker processes of the base.
    pub base: f64,
    /// Median over the worker processes of the candidate.
    pub candidate: f64,
    /// Worker processes of the base.
    pub base_processes: usize,
    /// Worker processes of the candidate; of pairs as many as of the base.
    pub candidate_processes: usize,
    /// Candidate over base, and how sure that is.
    #[serde(flatten)]
    pub effect: Effect,
    /// A second opinion on primary metrics: the bootstrap interval of the ratio of medians.
    pub bootstrap: Option<Interval>,
    /// `p` adjusted for all verdicts of the comparison.
    pub q: Option<f64>,
    /// What may be said of it; `None` for information.
    pub verdict: Option<Verdict>,
    /// The interval alone would say slower or faster, but among so many tests it may be chance.
    pub held_back: bool,
}

/// A cell that was not measured on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotMeasured {
    /// What was to be measured.
    pub label: String,
    /// Its state in the base.
    pub base: &'static str,
    /// Its state in the candidate.
    pub candidate: &'static str,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Something is slower for certain.
    Slower,
    /// Of something nothing can be said, for want of worker processes.
    TooFew,
    /// Nothing is known to be slower.
    NoSlowdown,
}

/// A metric as a comparison sees it.
struct Metric {
    name: &'static str,
    unit: &'static str,
    larger_is_better: bool,
    primary: bool,
    of: fn(&Repetition) -> Option<f64>,
}

/// One primary metric each for prefill and decode, so that nothing is tested twice.
const METRICS: [Metric; 5] = [
    Metric { name: "decode", unit: "tokens/s", larger_is_better: true, primary: true, of: |r| r.decode_rate },
    Metric { name: "prefill", unit: "tokens/s", larger_is_better: true, primary: true, of: |r| r.prefill_rate },
    Metric { name: "ttft", unit: "ms", larger_is_better: false, primary: false, of: |r| r.ttft_ms },
    Metric { name: "end to end", unit: "ms", larger_is_better: false, primary: false, of: |r| Some(r.end_to_end_ms) },
    Metric { name: "load", unit: "ms", larger_is_better: false, primary: false, of: |r| Some(r.load_ms) },
];

/// Holds `candidate` against `base`. Two builds of one run were measured in turns, so their worker processes are pairs.
pub fn compare(base: Chosen<'_>, candidate: Chosen<'_>, options: Options) -> Result<Comparison, Refused> {
    let paired = base.run.id == candidate.run.id;
    if paired && (base.build == candidate.build || base.build.is_none() || candidate.build.is_none()) {
        let build = base.build.map(|build| format!("@{build}")).unwrap_or_default();
        return Err(Refused::Same(format!("run {}{build}", base.run.id)));
    }
    let Pairing { matched, only_in_base, only_in_candidate } = pair(base, candidate);
    let (measured, missing): (Vec<Matched<'_>>, Vec<Matched<'_>>) =
        matched.into_iter().partition(|pair| pair.base.is_ok() && pair.candidate.is_ok());
    if measured.is_empty() {
        let labels = |chosen: Chosen<'_>| chosen.cells().map(|cell| pairing::label(&cell.cell)).collect();
        return Err(Refused::NothingInCommon { base: labels(base), candidate: labels(candidate) });
    }
    let differences = circumstances::differences(base.run, candidate.run, &measured);
    let forbidden: Vec<Difference> = differences.iter().filter(|difference| difference.forbids).cloned().collect();
    if !forbidden.is_empty() && !options.force {
        return Err(Refused::Incomparable(forbidden));
    }
    let mut cells: Vec<CellComparison> = measured.iter().map(|pair| cell(pair, paired, options.threshold)).collect();
    judge(&mut cells);
    let labels = |cells: Vec<&CellResult>| cells.into_iter().map(|cell| pairing::label(&cell.cell)).collect();
    let not_measured = |pair: Matched<'_>| NotMeasured {
        label: pairing::label(&pair.base.cell),
        base: pair.base.state(),
        candidate: pair.candidate.state(),
    };
    Ok(Comparison {
        base: Side::of(base),
        candidate: Side::of(candidate),
        method_version: METHOD_VERSION,
        threshold: options.threshold,
        paired,
        forced: !forbidden.is_empty(),
        differences,
        cells,
        not_measured: missing.into_iter().map(not_measured).collect(),
        only_in_base: labels(only_in_base),
        only_in_candidate: labels(only_in_candidate),
    })
}

impl Side {
    fn of(Chosen { run, build }: Chosen<'_>) -> Self {
        Self {
            build: build.map(ToString::to_string),
            run: texts::label(run.id.as_str()),
            scenario: texts::label(&run.scenario),
            submitted_at: run.submitted_at,
            active: run.state == RunState::Active,
        }
    }
}

impl Comparison {
    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        let any = |verdict| self.verdicts().any(|found| found == verdict);
        if any(Verdict::Slower) {
            Conclusion::Slower
        } else if any(Verdict::NoInterval) {
            Conclusion::TooFew
        } else {
            Conclusion::NoSlowdown
        }
    }

    /// The verdicts on all primary metrics.
    fn verdicts(&self) -> impl Iterator<Item = Verdict> + '_ {
        self.cells.iter().flat_map(|cell| &cell.metrics).filter_map(|metric| metric.verdict)
    }

    /// What is said of all of it: `1 slower, 3 equivalent and 2 undecided of 6`.
    fn summary(&self) -> String {
        let counts = Verdict::ALL.map(|verdict| (verdict, self.verdicts().filter(|found| *found == verdict).count()));
        let some = counts.iter().filter(|(_, n)| *n > 0).map(|(verdict, n)| format!("{n} {}", verdict.as_str()));
        format!("{} of {}", texts::list(&some.collect::<Vec<_>>()), self.verdicts().count())
    }

    /// Primary metrics with their cells, the gravest verdicts first.
    fn primary(&self) -> Vec<(&CellComparison, &MetricComparison, Verdict)> {
        let mut all = Vec::new();
        for cell in &self.cells {
            let of_cell = cell.metrics.iter().filter_map(|metric| Some((cell, metric, metric.verdict?)));
            all.extend(of_cell);
        }
        all.sort_by_key(|(_, _, verdict)| *verdict);
        all
    }

    /// Metrics for information whose interval is beyond their margin, with their cells.
    fn also_moved(&self) -> Vec<(&CellComparison, &MetricComparison)> {
        let with_cell = |cell| move |metric| (cell, metric);
        let others = self.cells.iter().flat_map(|cell| cell.metrics.iter().map(with_cell(cell)));
        others.filter(|(_, metric)| !metric.primary && metric.has_moved()).collect()
    }

    /// What has to be read beside the verdicts.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.verdicts().any(|verdict| verdict == Verdict::NoInterval) {
            notes.push(format!(
                "no CI: fewer than {MIN_FOR_CI} worker processes on a side give no interval and no verdict. Measure with \
                 'regatta run SCENARIO --passes 10', or accept it with --allow-few."
            ));
        }
        if self.cells.iter().flat_map(|cell| &cell.metrics).any(|metric| metric.held_back) {
            notes.push(format!(
                "undecided*: the interval alone says slower or faster, but among {} tests that may be chance. Measure these \
                 cells again with more worker processes.",
                self.verdicts().count()
            ));
        }
        if self.cells.iter().any(|cell| cell.suspect) {
            notes.push(
                "suspect: some repetitions were measured in doubtful surroundings; 'regatta report' says which."
                    .to_owned(),
            );
        }
        for (name, side) in [("base", &self.base), ("candidate", &self.candidate)] {
            if side.active {
                notes.push(format!("the {name}'s run still goes on: what it has so far is compared."));
            }
        }
        notes
    }
}

impl MetricComparison {
    /// Whether its interval lies beyond its margin.
    fn has_moved(&self) -> bool {
        matches!(self.effect.verdict(self.larger_is_better, 0.0), Verdict::Slower | Verdict::Faster)
    }
}

fn cell(pair: &Matched<'_>, paired: bool, threshold: f64) -> CellComparison {
    let sides = [pair.base, pair.candidate];
    let processes = sides.map(|cell| stats::processes(&cell.samples, cell.per_pass));
    let metric = |metric: &Metric| {
        let (base, candidate) = (medians(&processes[0], metric.of), medians(&processes[1], metric.of));
        let both = |(process, base): (&u32, &f64)| Some((*base, *candidate.get(process)?));
        let pairs: Vec<(f64, f64)> = base.iter().filter_map(both).collect();
        let (base, candidate): (Vec<f64>, Vec<f64>) = if paired {
            pairs.iter().copied().unzip()
        } else {
            (base.into_values().collect(), candidate.into_values().collect())
        };
        let samples =
            if paired { Samples::Pairs(&pairs) } else { Samples::Apart { base: &base, candidate: &candidate } };
        let effect = Effect::of(samples, threshold)?;
        let bootstrap = effect
            .interval
            .filter(|_| metric.primary)
            .and_then(|_| ratio_of_medians(&base, &candidate, SEED, RESAMPLES));
        Some(MetricComparison {
            metric: metric.name,
            unit: metric.unit,
            larger_is_better: metric.larger_is_better,
            primary: metric.primary,
            base: median(&sorted(base.iter().copied()))?,
            candidate: median(&sorted(candidate.iter().copied()))?,
            base_processes: base.len(),
            candidate_processes: candidate.len(),
            effect,
            bootstrap: bootstrap.map(|b| Interval { low: b.low, high: b.high, confidence: b.confidence }),
            q: None,
            verdict: None,
            held_back: false,
        })
    };
    CellComparison {
        label: pairing::label(&pair.base.cell),
        base_cell: pair.base.hash.to_string(),
        candidate_cell: pair.candidate.hash.to_string(),
        verdict: Verdict::NoInterval,
        suspect: sides.iter().any(|cell| Quality::of(cell.flags()) != Quality::Valid),
        metrics: METRICS.iter().filter_map(metric).collect(),
    }
}

/// The median of each worker process, by its number.
fn medians(processes: &BTreeMap<u32, Vec<Repetition>>, of: fn(&Repetition) -> Option<f64>) -> BTreeMap<u32, f64> {
    let median_of = |reps: &[Repetition]| median(&sorted(reps.iter().filter_map(of).filter(|value| *value > 0.0)));
    processes.iter().filter_map(|(process, reps)| Some((*process, median_of(reps)?))).collect()
}

/// Gives each primary metric its verdict, by all of them together, and each cell the gravest of its own.
fn judge(cells: &mut [CellComparison]) {
    let mut tested: Vec<&mut MetricComparison> =
        cells.iter_mut().flat_map(|cell| &mut cell.metrics).filter(|metric| metric.primary).collect();
    let p: Vec<f64> = tested.iter().filter_map(|metric| metric.effect.p).collect();
    let mut adjusted = adjusted(&p).into_iter();
    for metric in &mut tested {
        metric.q = metric.effect.p.and_then(|_| adjusted.next());
        let verdict = metric.effect.verdict(metric.larger_is_better, metric.q.unwrap_or(1.0));
        metric.verdict = Some(verdict);
        metric.held_back = verdict == Verdict::Undecided && metric.has_moved();
    }
    for cell in cells {
        let gravest = cell.metrics.iter().filter_map(|metric| metric.verdict).min();
        cell.verdict = gravest.unwrap_or(Verdict::NoInterval);
    }
}
