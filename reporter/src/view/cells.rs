//! Tables: the measured cells, those without a full result, and every repetition.

use regatta_core::cell::{Cell, Outcome};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::flag::Flag;
use regatta_core::passes::StopReason;
use regatta_core::quality::Quality;
use regatta_core::sample::Sample;
use serde::Serialize;

use super::Meaning;
use super::subject::{Measured, Share, Subject};
use super::surroundings::{self, Column, Head};
use crate::dataset::{self, CellResult, Rejected, Run};
use crate::stats::{Intervals, Repetition, Summary};
use crate::text;

/// Repetitions in a report at most, over all of its cells.
const MAX_REPETITIONS: usize = 3000;

/// Repetitions of a cell that are shown however many cells there are.
const MIN_REPETITIONS: usize = 3;

/// A number as a table shows it, and as it is sorted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// As shown.
    pub text: String,
    /// As sorted; `None` for missing values.
    pub sort: Option<f64>,
    /// A second, smaller line. Empty for none.
    pub note: String,
}

/// A measured cell in the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellRow {
    /// Name of the row's details, for links.
    pub anchor: String,
    /// The backend.
    pub backend: &'static str,
    /// Precision of the weights.
    pub precision: &'static str,
    /// File format of the weights.
    pub format: &'static str,
    /// The workload.
    pub workload: String,
    /// Prompt, generated tokens and batch.
    pub size: String,
    /// Model and device.
    pub place: String,
    /// Values behind the medians: worker processes, or repetitions of a single one.
    pub n: usize,
    /// Whether more repetitions are to come.
    pub partial: bool,
    /// Generated tokens per second: median and MAD.
    pub decode: Value,
    /// Confidence interval of the decode rate, or `no CI`.
    pub decode_ci: String,
    /// Prompt tokens per second: median and MAD.
    pub prefill: Value,
    /// Time to first token in ms: median and MAD.
    pub ttft: Value,
    /// Time per output token in ms: median and MAD.
    pub tpot: Value,
    /// Median time between tokens in ms.
    pub itl_p50: Value,
    /// 99th percentile of the time between tokens in ms.
    pub itl_p99: Value,
    /// End to end in ms: median and MAD.
    pub end_to_end: Value,
    /// Loading the model in seconds.
    pub load: Value,
    /// Largest resident memory in MiB.
    pub peak_rss: Value,
    /// Share of the device's memory bandwidth that decode used, in percent, and whose figure that is.
    pub mbu: Value,
    /// Share of the device's arithmetic that prefill used, in percent, and whose figure that is.
    pub prefill_mfu: Value,
    /// The same of decode.
    pub decode_mfu: Value,
    /// Device memory at most in MiB.
    pub device_memory: Value,
    /// Energy for each generated token in J: median and MAD.
    pub energy: Value,
    /// Flags with their meaning.
    pub flags: Vec<Meaning>,
}

/// A cell without a full result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The state.
    pub state: &'static str,
    /// The kind of failure. Empty where there is none.
    pub kind: &'static str,
    /// The cell.
    pub cell: String,
    /// Model and device.
    pub place: String,
    /// Why.
    pub reason: String,
    /// Repetitions that were measured all the same.
    pub repetitions: usize,
}

/// The repetitions of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellDetail {
    /// Its name, for links.
    pub anchor: String,
    /// The cell.
    pub title: String,
    /// Model and device.
    pub place: String,
    /// The state.
    pub state: &'static str,
    /// How many repetitions count, in words.
    pub counted: String,
    /// What is the same for all repetitions.
    pub facts: Vec<Meaning>,
    /// The flags that each of the repetitions shown has.
    pub common_flags: Vec<Meaning>,
    /// What was seen of the surroundings of any of the repetitions.
    pub seen: Vec<Head>,
    /// The repetitions, those that don't count last; of very many only the first.
    pub repetitions: Vec<RepetitionRow>,
    /// How many more there are.
    pub more: usize,
    /// Samples that were refused, with the rule they break.
    pub rejected: Vec<String>,
}

/// One repetition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RepetitionRow {
    /// Its number, from 1.
    pub repetition: u32,
    /// The lease under which it was measured.
    pub epoch: u32,
    /// Whether it counts: those of earlier leases don't, and those whose surroundings forbid it.
    pub counted: bool,
    /// Why it doesn't. Empty where it does.
    pub why: &'static str,
    /// When it started: a label.
    pub started_at: String,
    /// Time to first token in ms.
    pub ttft: String,
    /// Prompt tokens per second.
    pub prefill: String,
    /// Generated tokens per second.
    pub decode: String,
    /// Time per output token in ms.
    pub tpot: String,
    /// Median time between tokens in ms.
    pub itl_p50: String,
    /// 99th percentile of the time between tokens in ms.
    pub itl_p99: String,
    /// Longest time between tokens in ms.
    pub itl_max: String,
    /// End to end in ms.
    pub end_to_end: String,
    /// Hash of the generated token ids, cut.
    pub output: String,
    /// Where they part from those of the cell's first repetition. Empty where they don't.
    pub parts: String,
    /// What was seen of its surroundings, in the columns of [`CellDetail::seen`].
    pub seen: Vec<String>,
    /// Flags.
    pub flags: Vec<Meaning>,
}

/// Every cell with numbers, in the order of the matrix.
pub(super) fn rows(subjects: &[Subject<'_>]) -> Vec<CellRow> {
    let measured = subjects.iter().flat_map(|s| s.cells.iter().map(move |m| (s, m)));
    measured.filter(|(_, m)| !m.result.samples.is_empty()).map(|(s, m)| row(s, m)).collect()
}

fn row(subject: &Subject<'_>, measured: &Measured<'_>) -> CellRow {
    let stats = &measured.stats;
    let itl = stats.itl_ms;
    let used = &measured.used;
    CellRow {
        anchor: anchor(subject.run, measured.result),
        backend: measured.backend().as_str(),
        precision: measured.precision().as_str(),
        format: measured.result.cell.artifact.format.as_str(),
        workload: measured.workload().name.to_string(),
        size: measured.size(),
        place: subject.short_label(),
        n: stats.values(),
        partial: !measured.is_ok,
        decode: spread(stats.decode_rate),
        decode_ci: interval(stats.decode_rate),
        prefill: spread(stats.prefill_rate),
        ttft: spread(stats.ttft_ms),
        tpot: spread(stats.tpot_ms),
        itl_p50: plain(itl.map(|i| i.p50)),
        itl_p99: p99(itl),
        end_to_end: spread(stats.end_to_end_ms),
        load: plain(stats.load_ms.map(|s| s.median / 1e3)),
        peak_rss: plain(stats.peak_rss_mib),
        mbu: share(used.mbu.as_ref()),
        prefill_mfu: share(used.prefill_mfu.as_ref()),
        decode_mfu: share(used.decode_mfu.as_ref()),
        device_memory: plain(stats.device_memory_mib),
        energy: spread(stats.joules_per_token),
        flags: super::meanings(measured.result.flags()),
    }
}

impl Value {
    /// What a table sorts by, where the text by itself doesn't tell: empty for what has no place in an order.
    pub fn sort_key(&self) -> Option<String> {
        let plain = self.text == text::MISSING || self.text.replace(',', "").parse::<f64>().is_ok();
        // Six digits tell more than any text shows, and a large page has thousands of these.
        (!plain).then(|| self.sort.map(|n| format!("{n:.5e}")).unwrap_or_default())
    }

    pub(super) fn new(text: String, sort: Option<f64>) -> Self {
        Self { text, sort, note: String::new() }
    }

    /// A number, or none, and what stands below it.
    pub(super) fn of(value: Option<f64>, note: Option<String>) -> Self {
        Self { note: note.unwrap_or_default(), ..plain(value) }
    }

    pub(super) fn missing() -> Self {
        Self::new(text::MISSING.to_owned(), None)
    }
}

pub(super) fn plain(value: Option<f64>) -> Value {
    Value::new(text::optional(value), value)
}

/// Median, and the MAD below it.
pub(super) fn spread(summary: Option<Summary>) -> Value {
    let note = summary.filter(|s| s.n > 1).map(|s| format!("± {}", text::percent(s.relative_mad())));
    Value { note: note.unwrap_or_default(), ..plain(summary.map(|s| s.median)) }
}

/// Percent, and below it what they are of.
fn share(share: Option<&Share>) -> Value {
    let note = share.map(|share| share.of.clone()).unwrap_or_default();
    Value { note, ..plain(share.map(|share| share.percent.median)) }
}

fn interval(summary: Option<Summary>) -> String {
    match summary.and_then(|s| s.ci) {
        Some(ci) => format!("{} to {} ({:.1} %)", text::number(ci.low), text::number(ci.high), ci.confidence * 100.0),
        None => "no CI".to_owned(),
    }
}

fn p99(itl: Option<Intervals>) -> Value {
    let value = itl.and_then(|i| i.p99);
    let rough = itl.is_some_and(|i| !i.p99_is_firm());
    let mark = if value.is_some() && rough { "~" } else { "" };
    Value { text: format!("{mark}{}", text::optional(value)), ..plain(value) }
}

/// A name for links: ends of the run's id and of the cell's hash, since several runs may hold the same cell.
fn anchor(run: &Run, cell: &CellResult) -> String {
    let run = text::slug(run.id.as_str());
    format!("c-{}-{}", &run[run.len().saturating_sub(12)..], cell.hash.0.short())
}

/// Every cell by itself that did not end well, or has not ended.
pub(super) fn problems(run: &Run) -> Vec<Problem> {
    run.cells.iter().filter(|c| c.cell.workload.replicas == 1 && !c.is_ok()).map(problem).collect()
}

pub(super) fn problem(result: &CellResult) -> Problem {
    let cell = &result.cell;
    let detail = result.outcome.as_ref().and_then(Outcome::detail);
    let reason = match (detail, result.state()) {
        (Some(detail), _) if !detail.is_empty() => text::reason(detail),
        (_, "waiting") => "not started yet".to_owned(),
        (_, "measuring") => "being measured".to_owned(),
        (_, "cancelled") => "the run was stopped".to_owned(),
        (_, "faster_than_physics") => {
            result.impossibility().unwrap_or_else(|| Flag::FasterThanPhysics.meaning().to_owned())
        }
        (_, "not_waited_for") => Flag::NotWaitedFor.meaning().to_owned(),
        (_, dataset::INVALID) => unfit(result),
        (_, "ok") => "ended well, but no valid sample is stored".to_owned(),
        _ => "no reason was given".to_owned(),
    };
    Problem {
        state: result.state(),
        kind: result.outcome.as_ref().and_then(Outcome::failure).map_or("", FailureKind::as_str),
        cell: format!("{} · {} · {}{}", cell.backend, cell.artifact.precision, cell.workload.name, times(cell)),
        place: format!("{} on {} of {}", cell.artifact.model, cell.device, cell.agent),
        reason,
        repetitions: result.samples.len() + result.unfit.len(),
    }
}

/// Why none of its repetitions counts.
fn unfit(result: &CellResult) -> String {
    let Quality::Invalid(flags) = Quality::of(result.flags()) else { return String::new() };
    let invalid = |flag: &Flag| !Quality::of((*flag).into()).counts();
    let reasons: Vec<&str> = flags.iter().filter(|flag| invalid(flag)).map(Flag::meaning).collect();
    format!("no repetition may be counted: {}", reasons.join("; "))
}

/// ` × 4` for a cell with replicas.
fn times(cell: &Cell) -> String {
    if cell.workload.replicas > 1 { format!(" × {}", cell.workload.replicas) } else { String::new() }
}

/// How many repetitions of each cell a report shows: all of them, unless they are so many that nobody could read them.
pub(super) fn shown(runs: &[Run]) -> usize {
    let cells = || runs.iter().flat_map(|run| &run.cells).filter(|cell| cell.measured().next().is_some());
    shown_of_each(cells().map(|cell| cell.measured().count()).sum(), cells().count())
}

/// The same for so many repetitions of so many cells.
pub(crate) fn shown_of_each(repetitions: usize, cells: usize) -> usize {
    if repetitions <= MAX_REPETITIONS { usize::MAX } else { (MAX_REPETITIONS / cells.max(1)).max(MIN_REPETITIONS) }
}

/// The repetitions of every cell that has any, `shown` of each at most.
pub(super) fn details(subjects: &[Subject<'_>], shown: usize) -> Vec<CellDetail> {
    let measured = subjects.iter().flat_map(|s| s.cells.iter().map(move |m| (s, m)));
    let any = |r: &CellResult| r.measured().next().is_some() || !r.rejected.is_empty();
    measured.filter(|(_, m)| any(m.result)).map(|(s, m)| detail(s, m, shown)).collect()
}

fn detail(subject: &Subject<'_>, measured: &Measured<'_>, shown: usize) -> CellDetail {
    let result = measured.result;
    let columns = surroundings::columns(result.measured().take(shown).map(|(sample, _)| sample));
    let rejected = result.rejected.iter();
    let mut rows: Vec<RepetitionRow> =
        result.measured().take(shown).map(|(s, counted)| repetition(result, s, counted, &columns)).collect();
    name_days_once(&mut rows);
    CellDetail {
        anchor: anchor(subject.run, result),
        title: measured.label(),
        place: subject.short_label(),
        state: result.state(),
        counted: how_counted(measured),
        facts: facts(measured),
        common_flags: super::common(rows.iter().map(|row| &row.flags)),
        seen: columns.iter().map(Column::head).collect(),
        repetitions: rows,
        more: result.measured().count().saturating_sub(shown),
        rejected: rejected.map(refusal).collect(),
    }
}

impl CellDetail {
    /// Whether any repetition has a 99th percentile: few tokens have none.
    pub fn has_itl_p99(&self) -> bool {
        self.repetitions.iter().any(|row| row.itl_p99 != text::MISSING)
    }

    /// Whether repetitions have outputs of their own. Where they don't, what all generated is told with the cell's facts.
    pub fn outputs_differ(&self) -> bool {
        self.repetitions.iter().any(|row| row.output != self.repetitions[0].output)
    }

    /// Whether any repetition has a flag that another one has not.
    pub fn has_own_flags(&self) -> bool {
        self.repetitions.iter().any(|row| row.flags.len() > self.common_flags.len())
    }
}

/// `21 repetitions of 7 worker processes (the interval was narrow enough)`.
fn how_counted(measured: &Measured<'_>) -> String {
    let repetitions = text::count(measured.stats.n, "repetition");
    let of = match measured.stats.processes {
        0 | 1 => String::new(),
        processes => format!(" of {processes} worker processes"),
    };
    let why = measured.result.stopped.filter(|stopped| stopped.reason != StopReason::Fixed);
    let why = why.map(|stopped| format!(" ({})", stopped.reason.meaning())).unwrap_or_default();
    format!("{repetitions}{of}{why}")
}

/// Leaves a day out where it is that of the row above.
fn name_days_once(rows: &mut [RepetitionRow]) {
    let mut last = String::new();
    for row in rows {
        let Some((day, time)) = row.started_at.split_once(' ') else { continue };
        let (day, time) = (day.to_owned(), time.to_owned());
        if day == last {
            row.started_at = time;
        }
        last = day;
    }
}

fn refusal(rejected: &Rejected) -> String {
    let what = rejected.repetition.map_or_else(|| "a sample".to_owned(), |r| format!("repetition {}", r + 1));
    format!("{what} of lease {}: {}", rejected.epoch.0, text::reason(&rejected.reason))
}

fn facts(measured: &Measured<'_>) -> Vec<Meaning> {
    let fact = |name: &str, meaning: String| Meaning { name: name.to_owned(), meaning };
    let result = measured.result;
    let artifact = &result.cell.artifact;
    let mut facts = vec![
        fact("weights", format!("{} {} ({})", artifact.format, artifact.precision, artifact.weights)),
        fact("work", measured.size()),
    ];
    if let Some(first) = result.samples.first() {
        facts.push(fact("threads", first.threads.to_string()));
        facts.push(fact("warm-up", text::count(first.warmup_repetitions as usize, "repetition")));
        facts.push(fact(
            "first repetition",
            format!("{} ms", text::number(crate::stats::ms(first.first_repetition_ns))),
        ));
        facts.push(fact("prompt", first.prompt_digest.short()));
    }
    if !result.unfit.is_empty() {
        facts.push(fact(
            "not counted",
            format!("{} in unfit surroundings", text::count(result.unfit.len(), "repetition")),
        ));
    }
    facts.extend(output(result).map(|output| fact("output", output)));
    if let Some(change) = result.trend() {
        let direction = if change > 0.0 { "slower" } else { "faster" };
        facts.push(fact(
            "trend",
            format!("{} {direction} from the first repetition to the last", text::percent(change.abs())),
        ));
    }
    if let Some(itl) = measured.stats.itl_ms.filter(|i| i.spikes > 0) {
        facts.push(fact("spikes", format!("{} of {} times between tokens above 3 × median", itl.spikes, itl.n)));
    }
    if let Some(worker) = &result.facts {
        facts.push(fact("engine", text::reason(&worker.engine)));
        facts.extend(worker.weight_bytes.map(|b| fact("weights read per step", text::bytes(b))));
        // The fake has none.
        if !worker.artifact_digest.is_empty() {
            facts.push(fact("artifact", text::label(&worker.artifact_digest).chars().take(12).collect()));
        }
    }
    facts.push(fact("cell", result.hash.0.short()));
    facts
}

/// Whether its repetitions gave the same tokens, over all processes.
/// The hash of what was generated in all repetitions, or in how many they part.
fn output(result: &CellResult) -> Option<String> {
    let first = result.samples.first().filter(|first| !first.output.is_empty())?;
    let hash = Digest::of_tokens(&first.output).short();
    let all: Vec<_> = result.samples.iter().filter_map(|sample| result.agreement(sample)).collect();
    let parted: Vec<_> = all.iter().filter(|agreement| !agreement.is_full()).collect();
    let Some(earliest) = parted.iter().min_by_key(|agreement| agreement.same) else {
        return Some(if all.len() > 1 {
            format!("{hash} in all {}", text::count(all.len(), "repetition"))
        } else {
            hash
        });
    };
    Some(format!("{} of {} differ, {earliest}", parted.len(), text::count(all.len(), "repetition")))
}

fn repetition(result: &CellResult, sample: &Sample, counted: bool, columns: &[Column]) -> RepetitionRow {
    let numbers = Repetition::of(sample);
    let itl = numbers.itl;
    RepetitionRow {
        repetition: sample.key.repetition + 1,
        epoch: sample.key.epoch.0,
        counted,
        why: why_not(sample, counted),
        started_at: text::second(sample.started_at),
        ttft: text::optional(numbers.ttft_ms),
        prefill: text::optional(numbers.prefill_rate),
        decode: text::optional(numbers.decode_rate),
        tpot: text::optional(numbers.tpot_ms),
        itl_p50: text::optional(itl.map(|i| i.p50)),
        itl_p99: p99(itl).text,
        itl_max: text::optional(itl.map(|i| i.max)),
        end_to_end: text::number(numbers.end_to_end_ms),
        output: Digest::of_tokens(&sample.output).short(),
        parts: result.agreement(sample).filter(|it| !it.is_full()).map(|it| it.to_string()).unwrap_or_default(),
        seen: columns.iter().map(|column| column.value(sample)).collect(),
        flags: super::meanings(result.flags_of(sample)),
    }
}

fn why_not(sample: &Sample, counted: bool) -> &'static str {
    match Quality::of(sample.flags) {
        _ if counted => "",
        Quality::Invalid(_) => "its surroundings forbid to count it: kept, see its flags",
        _ => "measured under another lease: kept, not counted",
    }
}
