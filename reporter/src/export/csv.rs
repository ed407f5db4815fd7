//! CSV: one line for each stored repetition that passed its checks, those of earlier leases marked.
//!
//! | column | meaning |
//! | --- | --- |
//! | `run`, `cell` | run id; the cell's hash, the same for the same cell in other runs |
//! | `agent`, `device`, `backend`, `model`, `weights`, `format`, `precision`, `workload` | the cell |
//! | `replicas`, `replica` | devices that did it at the same time; the position of this one, from 0 |
//! | `build` | of the worker that measured it, where several are measured in turns |
//! | `kind`, `depth` | of the workload: `generate`, or forward passes alone; tokens in the cache before |
//! | `prompt_tokens`, `generated_tokens`, `batch` | per sequence; sequences side by side |
//! | `repetition`, `pass`, `epoch` | from 0, through all passes; the worker process, from 0; the lease |
//! | `counted` | whether statistics count it: `false` for earlier leases and for invalid quality |
//! | `cell_state` | how the cell ended |
//! | `started_at` | UTC, a label |
//! | `start_skew_ns` | how far apart the replicas began at most; empty for one by itself and where it is not known |
//! | `…_ms`, `…_per_s`, `…_mib` | as defined in `regatta_core::metrics`; empty where undefined |
//! | `mbu`, `prefill_mfu`, `decode_mfu` | shares of the device's peak, 1 for all of it |
//! | `mbu_peak`, `mfu_peak`, `mfu_number` | whose figure: `measured` or `vendor`; of which numbers: `f32`, … |
//! | `threads`, `warmup_repetitions` | of the worker |
//! | `prompt_digest`, `output_digest` | BLAKE3 over token ids |
//! | `flags` | separated by spaces |
//! | `method_version` | of the definitions |
//! | `quality` | `valid`, `suspect` or `invalid`, as the flags say |
//! | `load_by_others` … `device_memory_mib` | what was seen meanwhile, see `regatta_core::telemetry`: clocks are medians, temperatures and memory maxima; empty where no source told |
//! | `first_differing_token` | from 1, held against the cell's first repetition; empty where none differs |
//! | `reference_backend`, `first_differing_from_reference` | another backend that did the same work in this run, and the first token that differs from its own; empty where none does |

use std::io::Write;

use regatta_core::digest::Digest;
use regatta_core::flag::Flag;
use regatta_core::identity::Agreement;
use regatta_core::metrics::METHOD_VERSION;
use regatta_core::quality::Quality;
use regatta_core::sample::Sample;

use crate::dataset::{CellResult, Dataset, Run};
use crate::error::Result;
use crate::stats::{Repetition, ms};
use crate::text;

const COLUMNS: [&str; 62] = [
    "run",
    "cell",
    "agent",
    "device",
    "backend",
    "model",
    "weights",
    "format",
    "precision",
    "workload",
    "replicas",
    "replica",
    "build",
    "kind",
    "depth",
    "prompt_tokens",
    "generated_tokens",
    "batch",
    "repetition",
    "pass",
    "epoch",
    "counted",
    "cell_state",
    "started_at",
    "start_skew_ns",
    "ttft_ms",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "tpot_ms",
    "itl_p50_ms",
    "itl_p99_ms",
    "end_to_end_ms",
    "load_ms",
    "first_repetition_ms",
    "peak_rss_mib",
    "mbu",
    "mbu_peak",
    "prefill_mfu",
    "decode_mfu",
    "mfu_peak",
    "mfu_number",
    "threads",
    "warmup_repetitions",
    "prompt_digest",
    "output_digest",
    "flags",
    "method_version",
    "quality",
    "load_by_others",
    "clock_mhz",
    "cpu_mhz",
    "temperature_c",
    "cpu_temperature_c",
    "power_w",
    "energy_mj",
    "hw_slowdown_ms",
    "sw_thermal_ms",
    "foreign_processes",
    "device_memory_mib",
    "first_differing_token",
    "reference_backend",
    "first_differing_from_reference",
];

pub(super) fn csv(dataset: &Dataset) -> Result<String> {
    let mut bytes = Vec::new();
    write(dataset, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes the lines one after the other.
pub(crate) fn write(dataset: &Dataset, to: impl Write) -> Result<()> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(COLUMNS)?;
    for run in &dataset.runs {
        for cell in &run.cells {
            for (sample, counted) in cell.measured() {
                writer.write_record(line(run, cell, sample, counted).map(harmless))?;
            }
        }
    }
    writer.flush().map_err(csv::Error::from)?;
    Ok(())
}

fn line(run: &Run, result: &CellResult, sample: &Sample, counted: bool) -> [String; COLUMNS.len()] {
    let cell = &result.cell;
    let numbers = Repetition::of(sample);
    let used = result.utilisation(sample);
    let flags: Vec<&str> = result.flags_of(sample).into_iter().map(Flag::as_str).collect();
    let seen = sample.telemetry.as_deref().cloned().unwrap_or_default();
    let slowed = &seen.throttled_ns;
    let reference = run.counterpart(result);
    [
        run.id.to_string(),
        result.hash.to_string(),
        cell.agent.to_string(),
        cell.device.to_string(),
        cell.backend.to_string(),
        cell.artifact.model.to_string(),
        cell.artifact.weights.to_string(),
        cell.artifact.format.to_string(),
        cell.artifact.precision.to_string(),
        cell.workload.name.to_string(),
        cell.workload.replicas.to_string(),
        cell.replica.to_string(),
        cell.build.as_ref().map(ToString::to_string).unwrap_or_default(),
        cell.workload.kind.as_str().to_owned(),
        cell.workload.kind.depth().to_string(),
        sample.prompt_tokens.to_string(),
        sample.times.tokens.len().to_string(),
        sample.batch.to_string(),
        sample.key.repetition.to_string(),
        (sample.key.repetition / result.per_pass.max(1)).to_string(),
        sample.key.epoch.0.to_string(),
        counted.to_string(),
        result.state().to_owned(),
        sample.started_at.to_string(),
        result.start_skew_ns(sample).map(|skew| skew.to_string()).unwrap_or_default(),
        decimal(numbers.ttft_ms),
        decimal(numbers.prefill_rate),
        decimal(numbers.decode_rate),
        decimal(numbers.tpot_ms),
        decimal(numbers.itl.map(|i| i.p50)),
        decimal(numbers.itl.and_then(|i| i.p99)),
        decimal(Some(numbers.end_to_end_ms)),
        decimal(Some(numbers.load_ms)),
        decimal(Some(ms(sample.first_repetition_ns))),
        decimal(numbers.peak_rss_mib),
        decimal(used.mbu.map(|(share, _)| share)),
        used.mbu.map_or("", |(_, source)| source.as_str()).to_owned(),
        decimal(used.prefill_mfu.map(|(share, ..)| share)),
        decimal(used.decode_mfu.map(|(share, ..)| share)),
        used.prefill_mfu.map_or("", |(_, source, _)| source.as_str()).to_owned(),
        used.prefill_mfu.map_or("", |(.., number)| number.as_str()).to_owned(),
        sample.threads.to_string(),
        sample.warmup_repetitions.to_string(),
        sample.prompt_digest.to_string(),
        Digest::of_tokens(&sample.output).to_string(),
        flags.join(" "),
        METHOD_VERSION.to_string(),
        Quality::of(sample.flags).as_str().to_owned(),
        decimal(seen.load_by_others),
        decimal(seen.clock_mhz.map(|clock| clock.median)),
        decimal(seen.cpu_mhz.map(|clock| clock.median)),
        decimal(seen.temperature_c),
        decimal(seen.cpu_temperature_c),
        decimal(seen.power_w),
        seen.energy_mj.map(|energy| energy.to_string()).unwrap_or_default(),
        decimal(slowed.hardware().map(ms)),
        decimal(slowed.sw_thermal.map(ms)),
        seen.foreign_processes.map(|count| count.to_string()).unwrap_or_default(),
        decimal(numbers.device_memory_mib),
        first_differing(result.agreement(sample)),
        reference.map_or("", |reference| reference.cell.backend.as_str()).to_owned(),
        first_differing(reference.and_then(|reference| reference.agreement(sample))),
    ]
}

/// The first token that differs, from 1. Empty where none does, and where there is nothing to compare.
fn first_differing(agreement: Option<Agreement>) -> String {
    agreement.and_then(Agreement::first_differing).map(|token| token.to_string()).unwrap_or_default()
}

/// Six decimals: nanoseconds, for milliseconds.
fn decimal(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map(|v| format!("{v:.6}")).unwrap_or_default()
}

/// A field that no spreadsheet takes for a formula and that holds nothing invisible.
fn harmless(field: String) -> String {
    // Nearly all of them: numbers, hashes and names.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:- ".contains(&b);
    let bare = !field.starts_with(['-', ' ']) && !field.ends_with(' ');
    if bare && field.len() <= text::MAX_LABEL && field.bytes().all(plain) {
        return field;
    }
    let starts_formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let clean = text::label(&field);
    if starts_formula || clean.starts_with(['=', '+', '-', '@']) { format!("'{clean}") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_never_starts_a_formula() {
        for (field, expected) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("@SUM(1)", "'@SUM(1)"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("\t=1", "'=1"),
            ("\r=1", "'=1"),
            ("\0=1", "'=1"),
            ("plain", "plain"),
        ] {
            assert_eq!(harmless(field.to_owned()), expected);
        }
    }
}
