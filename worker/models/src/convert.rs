//! From GGUF to safetensors, and from quantised GGUF to plain GGUF.
//!
//! Numbers are dequantised here, bit for bit as ggml does it, so that candle and llama.cpp can be run on the same
//! weights. Turning safetensors into GGUF is not done yet. A GGUF file's tokenizer is turned into a `tokenizer.json` by
//! the workers, which link the library for it.

use std::path::Path;

use regatta_core::artifact::Precision;
use regatta_core::model::Shape;

use crate::codec::{self, READABLE};
use crate::config;
use crate::error::ModelError;
use crate::gguf::{self, GgmlType, TensorInfo, Value};
use crate::layout::{self, TensorSpec};
use crate::safetensors::{self, SINGLE};
use crate::synth::{Counter, Progress, batches, file_type, new_gguf_tensor, plain_types, write_config};
use crate::verify::{self, Tokenizer};

/// Weights that are in memory at a time (16 MiB as f32), however large the model is.
const BATCH: u64 = 4 << 20;

/// Writes the GGUF file `source` as `model.safetensors` and `config.json` into the existing folder `out`.
///
/// `precision` is f32, f16 or bf16. GGUF doesn't tell Mistral from Llama, so `model` says which it is where that is known;
/// it must then fit the file. The result is the shape that `config.json` describes.
pub fn gguf_to_safetensors(
    source: &Path,
    precision: Precision,
    model: Option<&Shape>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Shape, ModelError> {
    let (dtype, kind) = plain_types(precision)?;
    let mut input = Input::open(source)?;
    let shape = agree(&input, model)?;
    let specs = layout::tensors(&shape);
    let describe = |spec: &TensorSpec| safetensors::NewTensor { name: spec.hf.clone(), dtype, shape: spec.shape() };
    let described: Vec<_> = specs.iter().map(describe).collect();
    let mut writer = safetensors::Writer::create(&out.join(SINGLE), &[], &described)?;
    let mut counter = Counter::new(&shape, progress);
    for spec in &specs {
        input.convert(spec, |row| spec.gguf_row(row), kind, &mut counter, |bytes| writer.append(&spec.hf, bytes))?;
    }
    writer.finish()?;
    write_config(&shape, precision, config::special_tokens(input.reader.header()), out)?;
    Ok(shape)
}

/// Writes the GGUF file `source` as the GGUF file `out` with plain numbers: `precision` is f32, f16 or bf16, norms stay
/// f32. All metadata are copied; only `general.file_type` changes.
pub fn gguf_to_gguf(source: &Path, precision: Precision, out: &Path, progress: Progress<'_>) -> Result<(), ModelError> {
    let (_, matrix) = plain_types(precision)?;
    let mut input = Input::open(source)?;
    let specs = layout::tensors(&input.shape);
    let described: Vec<_> = specs.iter().map(|spec| new_gguf_tensor(spec, matrix)).collect();
    let metadata = with_file_type(&input.reader.header().metadata, precision);
    let mut writer = gguf::Writer::create(out, &metadata, &described)?;
    let mut counter = Counter::new(&input.shape.clone(), progress);
    for (spec, new) in specs.iter().zip(&described) {
        input.convert(spec, |row| row, new.kind, &mut counter, |bytes| writer.append(&spec.gguf, bytes))?;
    }
    writer.finish()
}

/// The shape for `config.json`: the file's, with what GGUF doesn't keep taken from `model`.
fn agree(input: &Input, model: Option<&Shape>) -> Result<Shape, ModelError> {
    let Some(model) = model else { return Ok(input.shape.clone()) };
    let differences = config::differences(&input.shape, model, true);
    if differences.is_empty() {
        return Ok(model.clone());
    }
    let path = input.reader.path().to_owned();
    Err(ModelError::OtherModel { path, model: "asked for".to_owned(), differences })
}

fn with_file_type(metadata: &[(String, Value)], precision: Precision) -> Vec<(String, Value)> {
    let key = "general.file_type";
    let mut copied: Vec<_> = metadata.iter().filter(|(name, _)| name != key).cloned().collect();
    copied.extend(file_type(precision).map(|id| (key.to_owned(), Value::U32(id))));
    copied
}

/// A GGUF file that was found whole, and whose types can all be read.
struct Input {
    reader: gguf::Reader,
    shape: Shape,
}

impl Input {
    fn open(source: &Path) -> Result<Self, ModelError> {
        let reader = gguf::Reader::open(source)?;
        let shape = verify::verify_gguf(source, Tokenizer::Optional)?.shape;
        for tensor in &reader.header().tensors {
            check_type(tensor, source)?;
        }
        Ok(Self { reader, shape })
    }

    /// Reads a tensor in groups of rows, and hands each on as `kind`; `order` says which of its rows stands at a row of
    /// the output.
    fn convert(
        &mut self,
        spec: &TensorSpec,
        order: impl Fn(u64) -> u64,
        kind: GgmlType,
        counter: &mut Counter<'_>,
        mut write: impl FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let tensor = self.reader.header().tensor(&spec.gguf).cloned();
        let Some(tensor) = tensor else { return Err(missing(spec, self.reader.path())) };
        let row_bytes = tensor.bytes / spec.rows;
        let cols = index(spec.cols);
        for rows in batches(spec, BATCH) {
            let count = rows.end - rows.start;
            let mut stored = vec![0; index(count * row_bytes)];
            self.reader.read(&tensor, rows.start * row_bytes, &mut stored)?;
            let mut numbers = vec![0.0; index(count) * cols];
            let mut bytes = Vec::new();
            let mut done = codec::decode(tensor.kind, &stored, &mut numbers);
            for row in rows.clone() {
                let from = index(order(row) - rows.start) * cols;
                done &= codec::encode(kind, &numbers[from..from + cols], &mut bytes);
            }
            debug_assert!(done, "types were checked when the file was opened");
            write(&bytes)?;
            counter.add(count * spec.cols);
        }
        Ok(())
    }
}

fn check_type(tensor: &TensorInfo, path: &Path) -> Result<(), ModelError> {
    if READABLE.contains(&tensor.kind) {
        return Ok(());
    }
    Err(ModelError::Storage {
        path: path.to_owned(),
        what: format!("tensor '{}'", tensor.name),
        found: tensor.kind.to_string(),
        supported: codec::names(&READABLE),
    })
}

fn missing(spec: &TensorSpec, path: &Path) -> ModelError {
    ModelError::Tensors { path: path.to_owned(), missing: vec![spec.gguf.clone()], wrong: Vec::new() }
}

/// A number of rows or bytes of one batch, which is small.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
