//! The timing loop: one for all engines.
//!
//! Rules that never bend, here more than anywhere:
//!
//! 1. Between the first and the last time of a repetition the harness does no I/O, takes no lock, logs nothing and
//!    allocates nothing. Times and token ids go into room that was made before. (Tokenising and detokenising text
//!    allocates; both lie outside the token times, and are part of what is measured.)
//! 2. A time is taken only after the token ids of its step are on the host.
//! 3. Every backend gets the same ids, generates the same number of tokens, greedily, whatever they are.
//!
//! The only clock is the backend's [`Clock`], which is monotonic. The wall-clock label of a sample is taken before it starts.
//!
//! When the last time is taken the device must have nothing left to do. Whether that is so is looked at afterwards: a backend
//! whose device goes on working forgot to wait for it, and all its times are too short.

use std::time::Duration;

use jiff::Timestamp;
use regatta_core::cell::CellHash;
use regatta_core::flag::{Flag, Flags};
use regatta_core::policy::{Policy, Warmup};
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::trial::Epoch;

use crate::backend::{BackendError, DEPTH_STEP, Session};
use crate::clock::{Clock, Stopwatch};
use crate::process;
use crate::prompt::Input;
use crate::tokenizer::Tokenizer;

/// Why a cell ends before its last repetition.
#[derive(Debug)]
pub enum Halt {
    /// It was asked to.
    Stopped,
    /// The engine failed.
    Failed(BackendError),
    /// Nobody listens any more.
    Disconnected,
}

impl From<BackendError> for Halt {
    fn from(error: BackendError) -> Self {
        Self::Failed(error)
    }
}

/// Hears of repetitions as they end, never while one is running.
pub trait Observer {
    /// A warm-up repetition is over: how many so far, and how long this one took, in nanoseconds.
    fn warmed(&mut self, repetitions: u32, duration_ns: u64) -> Result<(), Halt>;

    /// Everything is ready for a repetition that is to be measured. Its clock starts as soon as this returns.
    fn begins(&mut self, _repetition: u32) -> Result<(), Halt> {
        Ok(())
    }

    /// A repetition was measured.
    fn measured(&mut self, sample: Sample) -> Result<(), Halt>;
}

/// What all samples of a cell have in common.
#[derive(Debug, Clone)]
pub struct Conditions<'a> {
    /// The cell.
    pub cell: CellHash,
    /// The lease.
    pub epoch: Epoch,
    /// Which of the trial's passes this process is: its repetitions are numbered on from those of the ones before.
    pub pass: u32,
    /// How to measure.
    pub policy: &'a Policy,
    /// Time to load the model, in nanoseconds.
    pub load_ns: u64,
    /// Threads of the engine.
    pub threads: u32,
    /// What is to be said of every sample.
    pub flags: Flags,
    /// The backend's clock.
    pub clock: Clock,
}

/// A device that is still at work for longer than this when the last time was taken, and for longer than a tenth of the
/// repetition, was not waited for. Shorter than that may be the system's doing.
const LATE: Duration = Duration::from_millis(1);

/// Warms up and measures one cell.
pub fn measure(
    session: &mut dyn Session,
    input: &Input<'_>,
    tokenizer: Option<&Tokenizer>,
    conditions: &Conditions<'_>,
    observer: &mut dyn Observer,
) -> Result<(), Halt> {
    let mut record = Record::new(input);
    let mut first = None;
    fill(session, input)?;
    let warm = warm_up(session, input, tokenizer, conditions, &mut record, observer, &mut first)?;
    let before = conditions.pass.saturating_mul(conditions.policy.repetitions);
    for repetition in before..before.saturating_add(conditions.policy.repetitions) {
        session.reset()?;
        observer.begins(repetition)?;
        let started_at = execute(session, input, tokenizer, &conditions.clock, &mut record)?;
        let first = first.get_or_insert_with(|| First::of(&record));
        let sample = sample(repetition, started_at, input, conditions, &record, warm, first);
        observer.measured(sample)?;
    }
    Ok(())
}

/// Puts into the cache what is to be there before the clock starts, once: each reset comes back to it.
fn fill(session: &mut dyn Session, input: &Input<'_>) -> Result<(), BackendError> {
    let depth = input.plan.depth as usize;
    if depth == 0 {
        return Ok(());
    }
    session.reset()?;
    let step = DEPTH_STEP as usize;
    for start in (0..depth).step_by(step) {
        let end = (start + step).min(depth);
        let pieces: Vec<_> = input.depth.iter().map(|ids| ids[start..end].to_vec()).collect();
        session.prefill(&pieces)?;
    }
    session.keep()
}

/// The cell's first repetition in this process.
struct First {
    duration_ns: u64,
    output: Vec<u32>,
}

impl First {
    fn of(record: &Record) -> Self {
        Self { duration_ns: record.end, output: record.output.clone() }
    }
}

/// How warm-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Warm {
    repetitions: u32,
    stable: bool,
}

fn warm_up(
    session: &mut dyn Session,
    input: &Input<'_>,
    tokenizer: Option<&Tokenizer>,
    conditions: &Conditions<'_>,
    record: &mut Record,
    observer: &mut dyn Observer,
    first: &mut Option<First>,
) -> Result<Warm, Halt> {
    let mut durations = Vec::new();
    loop {
        match judge(&conditions.policy.warmup, &durations) {
            Judgement::More => {}
            Judgement::Done { stable } => {
                let repetitions = u32::try_from(durations.len()).unwrap_or(u32::MAX);
                return Ok(Warm { repetitions, stable });
            }
        }
        session.reset()?;
        execute(session, input, tokenizer, &conditions.clock, record)?;
        durations.push(record.end);
        first.get_or_insert_with(|| First::of(record));
        observer.warmed(u32::try_from(durations.len()).unwrap_or(u32::MAX), record.end)?;
    }
}

/// What follows from the warm-up so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    More,
    Done { stable: bool },
}

/// Judges warm-up by the durations of its repetitions, in nanoseconds.
fn judge(policy: &Warmup, durations: &[u64]) -> Judgement {
    let count = u32::try_from(durations.len()).unwrap_or(u32::MAX);
    let busy = Duration::from_nanos(durations.iter().sum());
    let stable = is_stable(durations, policy.stable_within);
    if count >= policy.min_repetitions && busy >= policy.min_time && stable {
        return Judgement::Done { stable: true };
    }
    if count >= policy.max_repetitions || busy >= policy.max_time {
        return Judgement::Done { stable };
    }
    Judgement::More
}

/// Whether the last three durations lie within `(max - min) / median` of each other. Fewer than three never do.
fn is_stable(durations: &[u64], within: f64) -> bool {
    let Some(mut last) = durations.last_chunk::<3>().copied() else { return false };
    last.sort_unstable();
    let [min, median, max] = last;
    (max - min) as f64 <= within * median as f64
}

/// Room for what one repetition brings. Made once for a cell, and large enough that nothing grows.
struct Record {
    tokenized: u64,
    prefill_start: u64,
    prefill_done: u64,
    tokens: Vec<u64>,
    end: u64,
    /// When the device had nothing left to do. Not stored.
    settled: u64,
    /// Token ids as they come: step after step, in each step sequence after sequence.
    steps: Vec<u32>,
    /// Token ids as they are stored: sequence after sequence. Empty where none are chosen.
    output: Vec<u32>,
    batch: usize,
}

impl Record {
    fn new(input: &Input<'_>) -> Self {
        let (batch, generate) = (input.plan.batch as usize, input.plan.generate as usize);
        let chosen = if input.steps.is_empty() { batch * generate } else { 0 };
        Self {
            tokenized: 0,
            prefill_start: 0,
            prefill_done: 0,
            tokens: vec![0; generate],
            end: 0,
            settled: 0,
            steps: vec![0; chosen],
            output: vec![0; chosen],
            batch,
        }
    }

    /// Whether the device was still at work when the last time was taken.
    fn is_unfinished(&self) -> bool {
        let late = Duration::from_nanos(self.settled.saturating_sub(self.end));
        late > LATE.max(Duration::from_nanos(self.end / 10))
    }

    fn transpose(&mut self) {
        let generate = self.tokens.len();
        for (at, &id) in self.steps.iter().enumerate() {
            self.output[at % self.batch * generate + at / self.batch] = id;
        }
    }
}

/// Runs the workload once in a session that was reset, and takes the times. Returns the wall-clock time of its start.
fn execute(
    session: &mut dyn Session,
    input: &Input<'_>,
    tokenizer: Option<&Tokenizer>,
    clock: &Clock,
    record: &mut Record,
) -> Result<Timestamp, BackendError> {
    let started_at = Timestamp::now();
    let watch = clock.start();
    if input.plan.prompt == 0 {
        record.tokenized = 0;
        step(session, &input.steps, watch, record)?;
    } else if let Some(ids) = input.ids() {
        record.tokenized = 0;
        generate(session, ids, watch, record)?;
    } else {
        let ids = input.tokenise()?;
        record.tokenized = watch.elapsed();
        generate(session, &ids, watch, record)?;
    }
    finish(tokenizer, watch, record)?;
    session.wait()?;
    record.settled = watch.elapsed();
    Ok(started_at)
}

/// The timed heart: prefill, then one token after the other.
fn generate(
    session: &mut dyn Session,
    prompts: &[Vec<u32>],
    watch: Stopwatch<'_>,
    record: &mut Record,
) -> Result<(), BackendError> {
    let batch = record.batch;
    record.prefill_start = watch.elapsed();
    process::drained(|| session.prefill(prompts))?;
    record.prefill_done = watch.elapsed();
    for step in 0..record.tokens.len() {
        let (before, now) = record.steps.split_at_mut(step * batch);
        process::drained(|| {
            if step > 0 {
                session.decode(&before[(step - 1) * batch..])?;
            }
            session.sample(&mut now[..batch])
        })?;
        record.tokens[step] = watch.elapsed();
    }
    Ok(())
}

/// Steps alone, each with a token that was chosen before, and one wait for the device after each.
fn step(
    session: &mut dyn Session,
    steps: &[u32],
    watch: Stopwatch<'_>,
    record: &mut Record,
) -> Result<(), BackendError> {
    record.prefill_start = watch.elapsed();
    record.prefill_done = record.prefill_start;
    for (tokens, time) in steps.chunks_exact(record.batch).zip(&mut record.tokens) {
        process::drained(|| {
            session.decode(tokens)?;
            session.wait()
        })?;
        *time = watch.elapsed();
    }
    Ok(())
}

/// Turns the output into text where there is a tokenizer, and takes the last time.
fn finish(tokenizer: Option<&Tokenizer>, watch: Stopwatch<'_>, record: &mut Record) -> Result<(), BackendError> {
    let last = record.tokens.last().copied().unwrap_or(record.prefill_done);
    record.transpose();
    let generate = record.tokens.len();
    record.end = match tokenizer {
        Some(tokenizer) if generate > 0 && !record.output.is_empty() => {
            for output in record.output.chunks_exact(generate) {
                tokenizer.decode(output).map_err(BackendError::engine)?;
            }
            watch.elapsed()
        }
        _ => last,
    };
    Ok(())
}

fn sample(
    repetition: u32,
    started_at: Timestamp,
    input: &Input<'_>,
    conditions: &Conditions<'_>,
    record: &Record,
    warm: Warm,
    first: &First,
) -> Sample {
    let mut flags = conditions.flags;
    if !warm.stable {
        flags.insert(Flag::WarmupNotStable);
    }
    if record.output != first.output {
        flags.insert(Flag::OutputChanged);
    }
    if record.is_unfinished() {
        flags.insert(Flag::NotWaitedFor);
    }
    Sample {
        key: SampleKey { cell: conditions.cell, epoch: conditions.epoch, repetition },
        started_at,
        times: Times {
            tokenized: record.tokenized,
            prefill_start: record.prefill_start,
            prefill_done: record.prefill_done,
            tokens: record.tokens.as_slice().into(),
            end: record.end,
        },
        prompt_tokens: input.plan.prompt,
        prompt_digest: input.digest,
        batch: input.plan.batch,
        output: record.output.as_slice().into(),
        load_ns: conditions.load_ns,
        first_repetition_ns: first.duration_ns,
        warmup_repetitions: warm.repetitions,
        peak_rss_bytes: process::peak_rss(),
        threads: conditions.threads,
        flags,
        telemetry: None,
    }
}

#[cfg(test)]
mod tests;
