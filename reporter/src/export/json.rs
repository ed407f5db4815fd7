//! JSON: the whole view, and every raw sample with its token times, so that anything can be computed again.

use jiff::Timestamp;
use regatta_core::flag::Flag;
use regatta_core::identity::Agreement;
use regatta_core::metrics::METHOD_VERSION;
use regatta_core::quality::Quality;
use regatta_core::sample::Sample;
use regatta_core::telemetry::Telemetry;
use serde::Serialize;

use crate::dataset::{CellResult, Dataset, Run};
use crate::error::Result;
use crate::text;
use crate::view::{self, Report};

/// Version of this layout. It changes when a field is renamed or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document {
    schema: u32,
    method_version: u32,
    report: Report,
    samples: Vec<RawSample>,
}

/// A sample. Durations are nanoseconds since the repetition's start, on the worker's own clock.
#[derive(Serialize)]
struct RawSample {
    run: String,
    cell: String,
    label: String,
    replicas: u32,
    replica: u32,
    /// The build of the worker that measured it, where several are measured in turns.
    build: Option<String>,
    /// The group's name; the same for replicas that were measured together.
    group: Option<String>,
    start_skew_ns: Option<u64>,
    kind: &'static str,
    depth: u32,
    epoch: u32,
    repetition: u32,
    /// The worker process, from 0.
    pass: u32,
    counted: bool,
    started_at: String,
    tokenized_ns: u64,
    prefill_start_ns: u64,
    prefill_done_ns: u64,
    token_ns: Vec<u64>,
    end_ns: u64,
    prompt_tokens: u32,
    prompt_digest: String,
    batch: u32,
    output: Vec<u32>,
    /// The first token, from 1, that is not that of the cell's first repetition.
    first_differing_token: Option<usize>,
    load_ns: u64,
    first_repetition_ns: u64,
    warmup_repetitions: u32,
    peak_rss_bytes: Option<u64>,
    threads: u32,
    flags: Vec<&'static str>,
    /// `valid`, `suspect` or `invalid`, as the flags say.
    quality: &'static str,
    telemetry: Option<Telemetry>,
}

/// A sample by itself, on a line of its own.
#[derive(Serialize)]
struct Line {
    schema: u32,
    method_version: u32,
    #[serde(flatten)]
    sample: RawSample,
}

/// Every raw sample on a line: nothing has to be held in memory to read them.
pub(super) fn lines(dataset: &Dataset) -> Result<String> {
    let mut out = String::new();
    for sample in samples(dataset) {
        out.push_str(&serde_json::to_string(&Line { schema: SCHEMA, method_version: METHOD_VERSION, sample })?);
        out.push('\n');
    }
    Ok(out)
}

fn samples(dataset: &Dataset) -> impl Iterator<Item = RawSample> {
    let cells = dataset.runs.iter().flat_map(|run| run.cells.iter().map(move |cell| (run, cell)));
    cells.flat_map(|(run, cell)| cell.measured().map(move |(sample, counted)| raw(run, cell, sample, counted)))
}

pub(super) fn json(dataset: &Dataset, generated_at: Timestamp) -> Result<String> {
    let samples = samples(dataset).collect();
    let report = view::report(dataset, generated_at);
    let document = Document { schema: SCHEMA, method_version: METHOD_VERSION, report, samples };
    Ok(serde_json::to_string_pretty(&document)?)
}

fn raw(run: &Run, result: &CellResult, sample: &Sample, counted: bool) -> RawSample {
    let cell = &result.cell;
    let label = format!("{} {} {} {}", cell.backend, cell.artifact, cell.workload.name, cell.device);
    RawSample {
        run: run.id.to_string(),
        cell: result.hash.to_string(),
        label: text::label(&label),
        replicas: cell.workload.replicas,
        replica: cell.replica,
        build: cell.build.as_ref().map(ToString::to_string),
        group: result.group.as_ref().map(ToString::to_string),
        start_skew_ns: result.start_skew_ns(sample),
        kind: cell.workload.kind.as_str(),
        depth: cell.workload.kind.depth(),
        epoch: sample.key.epoch.0,
        repetition: sample.key.repetition,
        pass: sample.key.repetition / result.per_pass.max(1),
        counted,
        started_at: sample.started_at.to_string(),
        tokenized_ns: sample.times.tokenized,
        prefill_start_ns: sample.times.prefill_start,
        prefill_done_ns: sample.times.prefill_done,
        token_ns: sample.times.tokens.to_vec(),
        end_ns: sample.times.end,
        prompt_tokens: sample.prompt_tokens,
        prompt_digest: sample.prompt_digest.to_string(),
        batch: sample.batch,
        output: sample.output.to_vec(),
        first_differing_token: result.agreement(sample).and_then(Agreement::first_differing),
        load_ns: sample.load_ns,
        first_repetition_ns: sample.first_repetition_ns,
        warmup_repetitions: sample.warmup_repetitions,
        peak_rss_bytes: sample.peak_rss_bytes,
        threads: sample.threads,
        flags: result.flags_of(sample).into_iter().map(Flag::as_str).collect(),
        quality: Quality::of(sample.flags).as_str(),
        telemetry: sample.telemetry.as_deref().cloned(),
    }
}
