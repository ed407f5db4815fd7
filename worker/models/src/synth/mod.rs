//! Synthetic weights: a model of a given shape, filled with numbers that follow from a seed.
//!
//! They cost an engine exactly what trained weights of that shape cost and mean nothing, which is why every result made
//! with them says so. The same seed gives the same numbers on every platform, in both formats and whatever the number of
//! threads: see [`numbers`]. For GGUF's quantised mixtures (such as `q4_k_m`) the worker hands in llama.cpp's own choice of
//! types and its quantiser: see [`Storage::mixed`](crate::transcode::Storage::mixed).

mod metadata;
pub mod numbers;

use std::fs;
use std::ops::Range;
use std::path::Path;

use regatta_core::artifact::Precision;
use regatta_core::model::Shape;

pub use self::metadata::SEED_KEY;
pub(crate) use self::metadata::{file_type, of_shape, tokenizer};
use self::numbers::Numbers;
use crate::config::{self, CONFIG, SpecialTokens};
use crate::error::ModelError;
use crate::layout::{self, Role, TensorSpec};
use crate::onnx::Number;
pub use crate::transcode::Progress;
use crate::transcode::{self, Rows, Sink, Source, Storage, plain_types};

/// Writes a synthetic model as `model.safetensors` (in shards where it is large) and `config.json` into the existing
/// folder `out`.
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
    let (dtype, _) = plain_types(precision)?;
    let specs = layout::tensors(shape);
    let sink = Sink::safetensors(out, &specs, dtype, &[(SEED_KEY, seed.to_string())])?;
    transcode::write(shape, &specs, &mut Seeded { shape, seed }, sink, progress)?;
    write_config(shape, precision, SpecialTokens::default(), out)
}

/// Writes a synthetic model as an ONNX graph with its weights and `config.json` into the existing folder `out`, from the
/// same numbers as [`safetensors()`].
///
/// `precision` is f32 or f16.
pub fn onnx(
    shape: &Shape,
    seed: u64,
    precision: Precision,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    config::check(shape, out)?;
    let sink = Sink::onnx(out, shape, Number::of(precision)?, Some(seed))?;
    transcode::write(shape, &layout::tensors(shape), &mut Seeded { shape, seed }, sink, progress)?;
    write_config(shape, precision, SpecialTokens::default(), out)
}

/// Writes a synthetic model called `name` as the GGUF file `out`, from the same numbers as [`safetensors()`].
///
/// `precision` is f32, f16, bf16 or `q8_0`; [`gguf_as`] takes others. The file has a tokenizer that knows bytes, so that
/// llama.cpp loads it.
pub fn gguf(
    shape: &Shape,
    name: &str,
    seed: u64,
    precision: Precision,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    gguf_as(shape, name, seed, Storage::plain(precision)?, out, progress)
}

/// [`gguf()`] with tensors stored in any way.
pub fn gguf_as(
    shape: &Shape,
    name: &str,
    seed: u64,
    storage: Storage<'_>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    config::check(shape, out)?;
    let specs = layout::tensors(shape);
    let metadata = metadata::of(shape, name, seed, storage.precision());
    let sink = Sink::gguf(out, &specs, storage, &metadata)?;
    transcode::write(shape, &specs, &mut Seeded { shape, seed }, sink, progress)
}

/// Writes a GGUF file that says it is a model of this shape and has each of its tensors, but with two rows only. A
/// quantiser that looks at names, counts and row lengths treats it as it would the whole model.
pub fn gguf_miniature(shape: &Shape, out: &Path) -> Result<(), ModelError> {
    config::check(shape, out)?;
    let mut specs = layout::tensors(shape);
    for spec in specs.iter_mut().filter(|spec| spec.role != Role::Norm) {
        spec.rows = 2;
        spec.head = None;
    }
    let metadata = of_shape(shape, "miniature", None, Precision::F32);
    let sink = Sink::gguf(out, &specs, Storage::plain(Precision::F32)?, &metadata)?;
    transcode::write(shape, &specs, &mut Seeded { shape, seed: 0 }, sink, &mut |_, _| {})
}

/// Numbers out of a seed.
struct Seeded<'a> {
    shape: &'a Shape,
    seed: u64,
}

impl Source for Seeded<'_> {
    fn rows(&mut self, spec: &TensorSpec, _: Range<u64>) -> Result<Rows, ModelError> {
        Ok(Rows::Made(Numbers::new(self.seed, spec, self.shape)))
    }
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

#[cfg(test)]
mod tests;
