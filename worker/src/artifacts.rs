//! Artifacts that need an engine or a tokenizer to be made: synthetic weights in llama.cpp's quantised mixtures,
//! conversions, quantisation. Everything ends up in the library, verified and hashed.
//!
//! Quantised mixtures are llama.cpp's own by construction: its quantiser is run on a miniature of the model, which has
//! every tensor with two rows only, and tells the type of each; then the rows of the whole model go through the function
//! that its quantiser calls, straight from where they come to the new file. So nothing is written twice and no more than a
//! few million weights are in memory. A test holds the result against what llama.cpp makes of a whole file.

use std::collections::HashMap;
use std::path::Path;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::model::{Model, Shape};
use regatta_models::convert::{self, Input};
use regatta_models::gguf::GgmlType;
use regatta_models::library::{Install, Installed, Library};
use regatta_models::tokenizer::TOKENIZER;
use regatta_models::transcode::{Progress, Storage};
use regatta_models::{ModelError, gguf, synth};

use crate::tokenizer::{TokenizerError, gguf_metadata, write_tokenizer_json};

/// Makes synthetic weights of a model.
pub fn make(
    library: &Library,
    model: &Model,
    format: Format,
    precision: Precision,
    options: Install,
    progress: Progress<'_>,
) -> Result<Installed, ModelError> {
    let seed = options.seed.unwrap_or(1);
    let artifact = ArtifactRef { model: model.id.clone(), weights: Weights::Synthetic, format, precision };
    let options = Install { seed: Some(seed), ..options };
    library.install(&artifact, options, |folder| match format {
        Format::Safetensors => synth::safetensors(&model.shape, seed, precision, folder, progress),
        Format::Onnx => synth::onnx(&model.shape, seed, precision, folder, progress),
        Format::Gguf => with_storage(&model.shape, precision, |storage| {
            synth::gguf_as(&model.shape, model.id.as_str(), seed, storage, &folder.join(gguf::FILE), progress)
        }),
    })
}

/// What came of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// The new artifact.
    pub installed: Installed,
    /// Why it has no tokenizer although the source has one.
    pub without_tokenizer: Option<TokenizerError>,
}

/// Converts weights of `model` in `source` (a GGUF file, or a folder of safetensors) to a format and precision. Weights
/// that were made up stay marked as such.
pub fn convert(
    library: &Library,
    model: &Model,
    source: &Path,
    format: Format,
    precision: Precision,
    replace: bool,
    progress: Progress<'_>,
) -> Result<Converted, ModelError> {
    let input = Input::open(source)?;
    let (from, path, seed) = (input.format(), input.path().to_owned(), input.seed());
    let weights = if seed.is_some() { Weights::Synthetic } else { Weights::Real };
    let artifact = ArtifactRef { model: model.id.clone(), weights, format, precision };
    let mut without_tokenizer = None;
    let installed = library.install(&artifact, Install { seed, replace }, |folder| match format {
        Format::Safetensors => {
            convert::to_safetensors(input, precision, Some(&model.shape), folder, progress)?;
            without_tokenizer = keep_tokenizer(from, &path, &folder.join(TOKENIZER), seed).err();
            Ok(())
        }
        Format::Onnx => {
            convert::to_onnx(input, precision, Some(&model.shape), folder, progress)?;
            without_tokenizer = keep_tokenizer(from, &path, &folder.join(TOKENIZER), seed).err();
            Ok(())
        }
        Format::Gguf => {
            let file = path.join(TOKENIZER);
            let tokenizer = match from {
                Format::Safetensors if file.exists() => gguf_metadata(&file, input.special_tokens(), model.shape.vocab)
                    .map_err(|error| without_tokenizer = Some(error))
                    .ok(),
                _ => None,
            };
            let shape = input.shape().clone();
            with_storage(&shape, precision, |storage| {
                convert::to_gguf(input, model.id.as_str(), tokenizer, storage, &folder.join(gguf::FILE), progress)
            })
        }
    })?;
    Ok(Converted { installed, without_tokenizer })
}

/// Puts the source's tokenizer beside new safetensors or a new graph. The stand-in of made-up weights stays where it is: it means nothing.
fn keep_tokenizer(from: Format, source: &Path, to: &Path, seed: Option<u64>) -> Result<(), TokenizerError> {
    match from {
        Format::Gguf if seed.is_none() => write_tokenizer_json(source, to).map(drop),
        Format::Gguf => Ok(()),
        Format::Safetensors | Format::Onnx => {
            let file = source.join(TOKENIZER);
            if !file.exists() {
                return Ok(());
            }
            let copied = std::fs::copy(&file, to).map(drop);
            copied.map_err(|source| TokenizerError::Write { path: to.to_owned(), source })
        }
    }
}

/// Calls `write` with the way in which llama.cpp stores each tensor at this precision.
fn with_storage(
    shape: &Shape,
    precision: Precision,
    write: impl FnOnce(Storage<'_>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    if !matches!(precision, Precision::Q4_1 | Precision::Q4KM) {
        return write(Storage::plain(precision)?);
    }
    let kinds = mixture(shape, precision)?;
    write(Storage::mixed(precision, &kinds, quantiser()?))
}

/// The type of each tensor in llama.cpp's mixture for a precision, by GGUF name.
#[cfg(feature = "llama-cpp")]
pub fn mixture(shape: &Shape, precision: Precision) -> Result<HashMap<String, GgmlType>, ModelError> {
    let folder = tempfile::tempdir().map_err(|source| ModelError::Io {
        action: "create a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    let [plain, quantised] = ["plain.gguf", "quantised.gguf"].map(|name| folder.path().join(name));
    synth::gguf_miniature(shape, &plain)?;
    crate::native::quantize(&plain, &quantised, precision, 1).map_err(|error| ModelError::Io {
        action: "quantise a miniature of the model in",
        path: plain,
        source: std::io::Error::other(error),
    })?;
    let reader = gguf::Reader::open(&quantised)?;
    Ok(reader.header().tensors.iter().map(|tensor| (tensor.name.clone(), tensor.kind)).collect())
}

#[cfg(not(feature = "llama-cpp"))]
pub fn mixture(_: &Shape, precision: Precision) -> Result<HashMap<String, GgmlType>, ModelError> {
    Err(without_llama_cpp(precision))
}

#[cfg(feature = "llama-cpp")]
#[expect(clippy::unnecessary_wraps, reason = "there is none where llama.cpp is left out")]
fn quantiser() -> Result<regatta_models::transcode::Quantiser<'static>, ModelError> {
    Ok(&crate::native::quantize_rows)
}

#[cfg(not(feature = "llama-cpp"))]
fn quantiser() -> Result<regatta_models::transcode::Quantiser<'static>, ModelError> {
    Err(without_llama_cpp(Precision::Q4KM))
}

#[cfg(not(feature = "llama-cpp"))]
fn without_llama_cpp(precision: Precision) -> ModelError {
    let reason = "this worker was built without llama.cpp".to_owned();
    ModelError::Precision { precision, target: "gguf", reason }
}
