//! Writing cells as llama-bench's rows, as far as they are comparable.
//!
//! Workloads of kind `prefill` and `decode` are llama-bench's `pp` and `tg`: forward passes alone at a depth. What generates
//! has the sampler in it and feeds on what it generated, where llama-bench feeds random tokens, so it is left out. So are
//! batches, replicas, context sweeps, cells that are not well, and the fake engine.

use std::fmt::Write as _;

use jiff::Timestamp;
use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceKind;
use regatta_core::preflight::number_bytes;
use regatta_core::sample::Sample;
use regatta_core::workload::Kind;
use serde_json::{Map, Value, json};

use super::Row;
use crate::dataset::{CellResult, Dataset, Run};
use crate::error::Result;
use crate::text;

/// llama-bench's columns with their SQL types: those that are written here, and those that its comparison script asks for.
const COLUMNS: [(&str, &str); 28] = [
    ("build_commit", "TEXT"),
    ("build_number", "INTEGER"),
    ("cpu_info", "TEXT"),
    ("gpu_info", "TEXT"),
    ("backends", "TEXT"),
    ("model_filename", "TEXT"),
    ("model_type", "TEXT"),
    ("model_n_params", "INTEGER"),
    ("n_batch", "INTEGER"),
    ("n_ubatch", "INTEGER"),
    ("n_threads", "INTEGER"),
    ("type_k", "TEXT"),
    ("type_v", "TEXT"),
    ("n_gpu_layers", "INTEGER"),
    ("split_mode", "TEXT"),
    ("main_gpu", "INTEGER"),
    ("no_kv_offload", "INTEGER"),
    ("flash_attn", "INTEGER"),
    ("tensor_split", "TEXT"),
    ("embeddings", "INTEGER"),
    ("n_prompt", "INTEGER"),
    ("n_gen", "INTEGER"),
    ("n_depth", "INTEGER"),
    ("test_time", "TEXT"),
    ("avg_ns", "INTEGER"),
    ("stddev_ns", "INTEGER"),
    ("avg_ts", "REAL"),
    ("stddev_ts", "REAL"),
];

/// The rows of all runs; of what llama-bench would also tell and is not known here, a row has no field.
fn rows(dataset: &Dataset) -> Vec<Row> {
    let cells = dataset.runs.iter().flat_map(|run| run.cells.iter().map(move |cell| (run, cell)));
    cells.filter_map(|(run, result)| row(run, result)).collect()
}

/// What one repetition does and how long it took.
struct Test {
    prompt: u32,
    generate: u32,
    depth: u32,
    times: Vec<u64>,
}

impl Test {
    /// The cell as llama-bench would have it, if it would.
    fn of(result: &CellResult) -> Option<Self> {
        let (cell, workload) = (&result.cell, &result.cell.workload);
        let alone = workload.batch == 1 && workload.replicas == 1;
        if !(result.is_ok() && alone) || cell.backend == BackendKind::Fake {
            return None;
        }
        let times = |time: fn(&Sample) -> u64| result.samples.iter().map(time).collect();
        match workload.kind {
            Kind::Prefill { depth } => Some(Self {
                prompt: result.samples.first()?.prompt_tokens,
                generate: 0,
                depth,
                times: times(|sample| sample.times.prefill_done.saturating_sub(sample.times.prefill_start)),
            }),
            Kind::Decode { depth } => Some(Self {
                prompt: 0,
                generate: workload.generate,
                depth,
                times: times(|sample| {
                    sample.times.tokens.last().map_or(0, |last| last.saturating_sub(sample.times.prefill_done))
                }),
            }),
            Kind::Generate | Kind::ContextSweep => None,
        }
    }
}

fn row(run: &Run, result: &CellResult) -> Option<Row> {
    let Test { prompt, generate, depth, times } = Test::of(result)?;
    let rates: Vec<f64> = times.iter().map(|ns| f64::from(prompt + generate) * 1e9 / *ns as f64).collect();
    let (avg_ns, stddev_ns) = mean_and_deviation(&times.iter().map(|ns| *ns as f64).collect::<Vec<_>>());
    let (avg_ts, stddev_ts) = mean_and_deviation(&rates);
    let mut row = conditions(run, result);
    let measured = json!({
        "n_prompt": prompt,
        "n_gen": generate,
        "n_depth": depth,
        "avg_ns": whole(avg_ns),
        "stddev_ns": whole(stddev_ns),
        "avg_ts": avg_ts,
        "stddev_ts": stddev_ts,
        "samples_ns": times,
        "samples_ts": rates,
    });
    row.extend(measured.as_object().cloned().unwrap_or_default());
    Some(Row(row))
}

/// What is the same for all repetitions.
fn conditions(run: &Run, result: &CellResult) -> Map<String, Value> {
    let cell = &result.cell;
    let host = run.hosts.iter().find(|host| host.agent == cell.agent);
    let (engine, first) = (result.facts.as_ref().map(|facts| text::label(&facts.engine)), result.samples.first());
    let device = run.device(cell).map(|device| text::label(&device.name)).unwrap_or_default();
    let is_cpu = cell.device.kind == DeviceKind::Cpu;
    let cpu = host.and_then(|host| host.facts.get("cpu")).map(|cpu| text::label(cpu));
    let cpu = cpu.or_else(|| is_cpu.then(|| device.clone()));
    let mut row = Map::new();
    let mut put = |name: &str, value: Value| {
        row.insert(name.to_owned(), value);
    };
    put("build_commit", engine.unwrap_or_default().into());
    put("cpu_info", cpu.unwrap_or_default().into());
    put("gpu_info", if is_cpu { String::new() } else { device }.into());
    put("backends", backends(cell.backend, cell.device.kind).into());
    put("model_filename", cell.artifact.to_string().into());
    put("model_type", format!("{} {}", cell.artifact.model, cell.artifact.precision).into());
    put("n_threads", first.map_or(0, |sample| sample.threads).into());
    if is_cpu {
        put("n_gpu_layers", 0.into());
    }
    put("embeddings", false.into());
    put("test_time", first.map(|sample| time(sample.started_at)).into());
    if let Some(parameters) = result.ceiling.parameters() {
        put("model_n_params", parameters.into());
    }
    if cell.backend == BackendKind::LlamaCpp {
        let number = if number_bytes(cell.backend, cell.artifact.precision) == 4 { "f32" } else { "f16" };
        put("type_k", number.into());
        put("type_v", number.into());
    }
    row
}

/// As llama-bench names them; an engine that it does not know by its own name.
fn backends(backend: BackendKind, kind: DeviceKind) -> String {
    let device = match kind {
        DeviceKind::Cpu => "CPU",
        DeviceKind::Cuda => "CUDA",
        DeviceKind::Metal => "Metal",
        DeviceKind::DirectMl => "DirectML",
        DeviceKind::Vulkan => "Vulkan",
    };
    if backend == BackendKind::LlamaCpp { device.to_owned() } else { format!("{backend} {device}") }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Mean and sample standard deviation, which is 0 for one value, as llama-bench has it.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if n < 2.0 { 0.0 } else { (squares / (n - 1.0)).sqrt() })
}

fn whole(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of less than a day")]
    let whole = value.round() as u64;
    whole.into()
}

/// A JSON object a line.
pub(crate) fn jsonl(dataset: &Dataset) -> Result<String> {
    let mut out = String::new();
    for row in rows(dataset) {
        out += &serde_json::to_string(&row.0)?;
        out.push('\n');
    }
    Ok(out)
}

/// A table and its rows. Of columns that llama-bench has and this does not know there are none.
pub(crate) fn sql(dataset: &Dataset) -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("  {name} {kind}")).collect();
    let mut out = format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", columns.join(",\n"));
    for row in rows(dataset) {
        let present: Vec<&str> =
            COLUMNS.iter().map(|(name, _)| *name).filter(|name| row.0.contains_key(*name)).collect();
        let values: Vec<String> = present.iter().map(|name| literal(&row.0[*name])).collect();
        let _ = writeln!(out, "INSERT INTO llama_bench ({}) VALUES ({});", present.join(", "), values.join(", "));
    }
    out
}

/// A value as SQL has it, with quotes in texts doubled.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Bool(value) => u8::from(*value).to_string(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => other.to_string(),
    }
}

/// The table that people paste.
pub(crate) fn markdown(dataset: &Dataset) -> String {
    let mut out =
        "| model | params | backend | threads | test | t/s |\n| --- | ---: | --- | ---: | ---: | ---: |\n".to_owned();
    for row in rows(dataset) {
        let parameters = row.number("model_n_params").map_or_else(String::new, |n| format!("{:.2} B", n / 1e9));
        let rate =
            format!("{:.2} ± {:.2}", row.number("avg_ts").unwrap_or(0.0), row.number("stddev_ts").unwrap_or(0.0));
        let cells =
            [row.text("model_filename"), parameters, row.text("backends"), row.text("n_threads"), row.test(), rate];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_a_sample() {
        assert_eq!(mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (5.0, (32.0f64 / 7.0).sqrt()));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }

    #[test]
    fn texts_end_no_statement() {
        assert_eq!(literal(&"x'); DROP TABLE llama_bench; --".into()), "'x''); DROP TABLE llama_bench; --'");
        assert_eq!(
            (literal(&Value::Null), literal(&true.into()), literal(&1.5.into())),
            ("NULL".into(), "1".into(), "1.5".into())
        );
    }
}
