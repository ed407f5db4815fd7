//! Artifacts that need an engine or a tokenizer to be made: synthetic weights in llama.cpp's quantised mixtures,
//! conversions of trained weights, quantisation. Everything ends up in the library, verified and hashed.

use std::path::Path;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::model::Model;
use regatta_models::library::{Install, Installed, Library};
use regatta_models::synth::Progress;
use regatta_models::tokenizer::TOKENIZER;
use regatta_models::{ModelError, convert, gguf, synth};

use crate::tokenizer::{TokenizerError, write_tokenizer_json};

/// The intermediate file of what is made in two steps; it does not stay.
const INTERMEDIATE: &str = "f32.gguf";

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
    library.install(&artifact, options, |folder| write_synthetic(model, format, precision, seed, folder, progress))
}

fn write_synthetic(
    model: &Model,
    format: Format,
    precision: Precision,
    seed: u64,
    folder: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    let out = folder.join(gguf::FILE);
    match format {
        Format::Safetensors => synth::safetensors(&model.shape, seed, precision, folder, progress),
        Format::Gguf if matches!(precision, Precision::Q4_1 | Precision::Q4KM) => {
            let plain = folder.join(INTERMEDIATE);
            synth::gguf(&model.shape, model.id.as_str(), seed, Precision::F32, &plain, progress)?;
            quantise_file(&plain, &out, precision)?;
            std::fs::remove_file(&plain).map_err(|source| ModelError::Io { action: "remove", path: plain, source })
        }
        Format::Gguf => synth::gguf(&model.shape, model.id.as_str(), seed, precision, &out, progress),
    }
}

/// What came of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// The new artifact.
    pub installed: Installed,
    /// Why it has no tokenizer although the source has one.
    pub without_tokenizer: Option<TokenizerError>,
}

/// Converts the GGUF file `source`, trained weights of `model`, to plain numbers in either format.
pub fn convert_gguf(
    library: &Library,
    model: &Model,
    source: &Path,
    format: Format,
    precision: Precision,
    replace: bool,
    progress: Progress<'_>,
) -> Result<Converted, ModelError> {
    let artifact = ArtifactRef { model: model.id.clone(), weights: Weights::Real, format, precision };
    let mut without_tokenizer = None;
    let installed = library.install(&artifact, Install { seed: None, replace }, |folder| match format {
        Format::Gguf => convert::gguf_to_gguf(source, precision, &folder.join(gguf::FILE), progress),
        Format::Safetensors => {
            convert::gguf_to_safetensors(source, precision, Some(&model.shape), folder, progress)?;
            without_tokenizer = write_tokenizer_json(source, &folder.join(TOKENIZER)).err();
            Ok(())
        }
    })?;
    Ok(Converted { installed, without_tokenizer })
}

/// Quantises the GGUF file `source`, trained weights of `model` in plain numbers, with llama.cpp's quantiser.
pub fn quantise(
    library: &Library,
    model: &Model,
    source: &Path,
    precision: Precision,
    replace: bool,
) -> Result<Installed, ModelError> {
    // Headers are checked before llama.cpp sees the file.
    regatta_models::verify::verify(source, regatta_models::verify::Tokenizer::Optional)?;
    let artifact = ArtifactRef { model: model.id.clone(), weights: Weights::Real, format: Format::Gguf, precision };
    library.install(&artifact, Install { seed: None, replace }, |folder| {
        quantise_file(source, &folder.join(gguf::FILE), precision)
    })
}

#[cfg(feature = "llama-cpp")]
fn quantise_file(from: &Path, to: &Path, precision: Precision) -> Result<(), ModelError> {
    crate::native::quantize(from, to, precision, crate::cpu::default_threads()).map_err(|error| ModelError::Io {
        action: "quantise",
        path: from.to_owned(),
        source: std::io::Error::other(error),
    })
}

#[cfg(not(feature = "llama-cpp"))]
fn quantise_file(_: &Path, _: &Path, precision: Precision) -> Result<(), ModelError> {
    let reason = "this worker was built without llama.cpp".to_owned();
    Err(ModelError::Precision { precision, target: "gguf", reason })
}
