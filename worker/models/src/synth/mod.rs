//! Synthetic weights: a model of a given shape, filled with numbers that follow from a seed.
//!
//! They cost an engine exactly what trained weights of that shape cost and mean nothing, which is why every result made
//! with them says so. The same seed gives the same numbers on every platform, in both formats and whatever the number of
//! threads: see [`numbers`]. GGUF's quantised mixtures (such as `q4_k_m`) are made by the worker with llama.cpp's own
//! quantiser, from the f32 GGUF file that is written here.

mod metadata;
pub mod numbers;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;

use regatta_core::artifact::Precision;
use regatta_core::model::Shape;

pub(crate) use self::metadata::file_type;
use self::numbers::Numbers;
use crate::codec;
use crate::config::{self, CONFIG, SpecialTokens};
use crate::error::ModelError;
use crate::gguf::{self, GgmlType};
use crate::layout::{self, Role, TensorSpec};
use crate::safetensors::{self, Dtype, SINGLE};

/// Told how many weights are written, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Weights that are in memory at a time (16 MiB as f32), however large the model is.
const BATCH: u64 = 4 << 20;

/// Writes a synthetic model as `model.safetensors` and `config.json` into the existing folder `out`.
///
/// `precision` is f32, f16 or bf16.
pub fn safetensors(
    shape: &Shape,
    seed: u64,
    precision: Precision,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    config::check(shape, out)?;
    let (dtype, kind) = plain_types(precision)?;
    let specs = layout::tensors(shape);
    let describe = |spec: &TensorSpec| safetensors::NewTensor { name: spec.hf.clone(), dtype, shape: spec.shape() };
    let described: Vec<_> = specs.iter().map(describe).collect();
    let seed_text = [(metadata::SEED_KEY, seed.to_string())];
    let mut writer = safetensors::Writer::create(&out.join(SINGLE), &seed_text, &described)?;
    let mut counter = Counter::new(shape, progress);
    for spec in &specs {
        let numbers = Numbers::new(seed, spec, shape);
        for rows in batches(spec, BATCH) {
            let count = (rows.end - rows.start) * spec.cols;
            writer.append(&spec.hf, &encode(&numbers, spec, rows, |row| row, kind))?;
            counter.add(count);
        }
    }
    writer.finish()?;
    write_config(shape, precision, SpecialTokens::default(), out)
}

/// Writes a synthetic model called `name` as the GGUF file `out`, from the same numbers as [`safetensors()`].
///
/// `precision` is f32, f16, bf16 or `q8_0`. Norms are f32 in every one of them, as llama.cpp's converter does it. The
/// file has a tokenizer that knows bytes, so that llama.cpp loads it.
pub fn gguf(
    shape: &Shape,
    name: &str,
    seed: u64,
    precision: Precision,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    config::check(shape, out)?;
    let matrix = gguf_type(precision)?;
    let specs = layout::tensors(shape);
    let described: Vec<_> = specs.iter().map(|spec| new_gguf_tensor(spec, matrix)).collect();
    let metadata = metadata::of(shape, name, seed, precision);
    let mut writer = gguf::Writer::create(out, &metadata, &described)?;
    let mut counter = Counter::new(shape, progress);
    for (spec, new) in specs.iter().zip(&described) {
        let numbers = Numbers::new(seed, spec, shape);
        for rows in batches(spec, BATCH) {
            let count = (rows.end - rows.start) * spec.cols;
            writer.append(&spec.gguf, &encode(&numbers, spec, rows, |row| spec.hf_row(row), new.kind))?;
            counter.add(count);
        }
    }
    writer.finish()
}

/// The types of both formats for a precision that isn't quantised.
pub(crate) fn plain_types(precision: Precision) -> Result<(Dtype, GgmlType), ModelError> {
    match precision {
        Precision::F32 => Ok((Dtype::F32, GgmlType::F32)),
        Precision::F16 => Ok((Dtype::F16, GgmlType::F16)),
        Precision::Bf16 => Ok((Dtype::Bf16, GgmlType::Bf16)),
        Precision::Q8_0 | Precision::Q4_1 | Precision::Q4KM => Err(ModelError::Precision {
            precision,
            target: "safetensors",
            reason: "only f32, f16 and bf16 can (fix: use the gguf format for quantised weights)".to_owned(),
        }),
    }
}

fn gguf_type(precision: Precision) -> Result<GgmlType, ModelError> {
    match precision {
        Precision::F32 => Ok(GgmlType::F32),
        Precision::F16 => Ok(GgmlType::F16),
        Precision::Bf16 => Ok(GgmlType::Bf16),
        Precision::Q8_0 => Ok(GgmlType::Q8_0),
        Precision::Q4_1 | Precision::Q4KM => Err(ModelError::Precision {
            precision,
            target: "synthetic gguf",
            reason: "only f32, f16, bf16 and q8_0 can (fix: write f32 and quantise it with llama.cpp)".to_owned(),
        }),
    }
}

/// The tensor of a GGUF file whose matrices have the type `matrix`; norms stay f32.
pub(crate) fn new_gguf_tensor(spec: &TensorSpec, matrix: GgmlType) -> gguf::NewTensor {
    let kind = if spec.role == Role::Norm { GgmlType::F32 } else { matrix };
    gguf::NewTensor { name: spec.gguf.clone(), dims: spec.dims(), kind }
}

pub(crate) fn write_config(
    shape: &Shape,
    precision: Precision,
    tokens: SpecialTokens,
    folder: &Path,
) -> Result<(), ModelError> {
    let path = folder.join(CONFIG);
    let Some(text) = config::text(shape, precision, tokens) else { return plain_types(precision).map(|_| ()) };
    fs::write(&path, text + "\n").map_err(ModelError::io("write", &path))
}

/// The rows of a tensor in groups of about `numbers` weights, whole attention heads together where rows are reordered.
pub(crate) fn batches(spec: &TensorSpec, numbers: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let unit = spec.head.unwrap_or(1);
    let step = (numbers / (spec.cols * unit)).max(1) * unit;
    let rows = spec.rows;
    (0..rows.div_ceil(step)).map(move |batch| batch * step..rows.min((batch + 1) * step))
}

/// Counts weights and reports them.
pub(crate) struct Counter<'a> {
    done: u64,
    total: u64,
    progress: Progress<'a>,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(shape: &Shape, progress: Progress<'a>) -> Self {
        Self { done: 0, total: shape.parameters(), progress }
    }

    pub(crate) fn add(&mut self, weights: u64) {
        self.done += weights;
        (self.progress)(self.done, self.total);
    }
}

/// The bytes of some rows of a file, made by all processors; `order` says which row of numbers stands at a row.
fn encode(
    numbers: &Numbers,
    spec: &TensorSpec,
    rows: Range<u64>,
    order: impl Fn(u64) -> u64 + Sync,
    kind: GgmlType,
) -> Vec<u8> {
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let share = (rows.end - rows.start).div_ceil(threads).max(1);
    let shares = (0..threads).map(|thread| {
        let start = rows.end.min(rows.start + thread * share);
        start..rows.end.min(start + share)
    });
    let order = &order;
    thread::scope(|scope| {
        let spawned: Vec<_> =
            shares.map(|rows| scope.spawn(move || encode_share(numbers, spec.cols, rows, order, kind))).collect();
        spawned
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn encode_share(numbers: &Numbers, cols: u64, rows: Range<u64>, order: impl Fn(u64) -> u64, kind: GgmlType) -> Vec<u8> {
    let mut row_numbers = vec![0.0; usize::try_from(cols).unwrap_or(usize::MAX)];
    let mut bytes = Vec::new();
    for row in rows {
        numbers.fill(order(row) * cols, &mut row_numbers);
        let written = codec::encode(kind, &row_numbers, &mut bytes);
        debug_assert!(written, "the types chosen above are all writable");
    }
    bytes
}

#[cfg(test)]
mod tests;
