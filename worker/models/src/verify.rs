//! Whether an artifact is whole: headers keep their format's rules, and the tensors are those of the network that the
//! configuration describes. No weights are read; that the bytes are unchanged is the [`library`](crate::library)'s job.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use regatta_core::artifact::{Format, Precision};
use regatta_core::model::Shape;

use crate::config::{self, CONFIG};
use crate::error::ModelError;
use crate::gguf::{self, GgmlType, Value};
use crate::layout::{self, TensorSpec};
use crate::onnx;
use crate::safetensors::{self, Dtype};
use crate::synth::SEED_KEY;
use crate::tokenizer::{self, TOKENIZER};

/// What was found in a good artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The network's dimensions, as the artifact describes them.
    pub shape: Shape,
    /// The file format.
    pub format: Format,
    /// How the matrices are stored, where that has a name here.
    pub precision: Option<Precision>,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of all tensors, without headers and padding.
    pub weight_bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// Bits to a weight, on average over all tensors.
    pub bits_per_weight: f64,
    /// Number of tokens of the tokenizer, where there is one. Equal to the model's vocabulary.
    pub tokenizer_vocab: Option<u64>,
    /// The seed that the weights were made of, where they say that they are made up.
    pub seed: Option<u64>,
}

/// Whether an artifact without a tokenizer will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenizer {
    /// It will do: prompts are token ids anyway.
    Optional,
    /// It won't: text is to be tokenized.
    Required,
}

/// Checks the artifact at `path`: a folder of safetensors with `config.json`, a GGUF file, or a folder with `model.gguf` or
/// `model.onnx`.
pub fn verify(path: &Path, tokenizer: Tokenizer) -> Result<Verified, ModelError> {
    if !path.is_dir() {
        return match crate::content::check(path)? {
            Format::Gguf => verify_gguf(path, tokenizer),
            Format::Safetensors => verify_safetensors(path.parent().unwrap_or(Path::new(".")), tokenizer),
            Format::Onnx => verify_onnx(path.parent().unwrap_or(Path::new(".")), tokenizer),
        };
    }
    let gguf = path.join(gguf::FILE);
    if gguf.exists() {
        verify_gguf(&gguf, tokenizer)
    } else if path.join(onnx::FILE).exists() {
        verify_onnx(path, tokenizer)
    } else {
        verify_safetensors(path, tokenizer)
    }
}

/// [`verify`] for a file that must be GGUF.
pub(crate) fn verify_gguf(path: &Path, tokenizer: Tokenizer) -> Result<Verified, ModelError> {
    let reader = gguf::Reader::open(path)?;
    let header = reader.header();
    let shape = config::from_gguf(header, path)?;
    let found = header.tensors.iter().map(|tensor| Found {
        name: &tensor.name,
        shape: tensor.dims.iter().rev().copied().collect(),
        bytes: tensor.bytes,
        fault: None,
    });
    let expected = layout::tensors(&shape).into_iter().map(|spec| (spec.gguf.clone(), spec));
    let weight_bytes = compare(expected.collect(), found, path, |_| false)?;
    let vocab = header.tokenizer_vocab();
    check_vocab(vocab, &shape, tokenizer, path, "tokenizer.ggml.tokens in the metadata")?;
    let seed = header.get(SEED_KEY).and_then(Value::as_u64);
    let found = verified(shape, Format::Gguf, gguf_precision(header), header.tensors.len(), weight_bytes, vocab);
    Ok(Verified { seed, ..found })
}

fn verify_safetensors(folder: &Path, tokenizer: Tokenizer) -> Result<Verified, ModelError> {
    let weights = safetensors::open_weights(folder)?;
    let shape = config::read(&folder.join(CONFIG))?;
    let found = weights.tensors().map(|tensor| Found {
        name: &tensor.name,
        shape: tensor.shape.clone(),
        bytes: tensor.bytes(),
        fault: unreadable(tensor.dtype),
    });
    let expected = layout::tensors(&shape).into_iter().map(|spec| (spec.hf.clone(), spec));
    let weight_bytes = compare(expected.collect(), found, folder, |name| is_ignored(name, &shape))?;
    let vocab = vocab_beside(folder, &shape, tokenizer)?;
    let precision = safetensors_precision(&weights);
    let seed = weights.metadata(SEED_KEY).and_then(|seed| seed.parse().ok());
    let found = verified(shape, Format::Safetensors, precision, weights.tensors().count(), weight_bytes, vocab);
    Ok(Verified { seed, ..found })
}

fn verify_onnx(folder: &Path, tokenizer: Tokenizer) -> Result<Verified, ModelError> {
    let onnx::Reader { shape, number, seed, tensors, weight_bytes } = onnx::Reader::open(folder)?;
    let vocab = vocab_beside(folder, &shape, tokenizer)?;
    let tensors = usize::try_from(tensors).unwrap_or(usize::MAX);
    let found = verified(shape, Format::Onnx, Some(number.precision()), tensors, weight_bytes, vocab);
    Ok(Verified { seed, ..found })
}

/// The size of the tokenizer's vocabulary, where there is one in the folder.
fn vocab_beside(folder: &Path, shape: &Shape, wanted: Tokenizer) -> Result<Option<u64>, ModelError> {
    let file = folder.join(TOKENIZER);
    let vocab = if file.exists() { Some(tokenizer::vocab_size(&file)?) } else { None };
    check_vocab(vocab, shape, wanted, &file, TOKENIZER)?;
    Ok(vocab)
}

fn verified(
    shape: Shape,
    format: Format,
    precision: Option<Precision>,
    tensors: usize,
    weight_bytes: u64,
    tokenizer_vocab: Option<u64>,
) -> Verified {
    let parameters = shape.parameters();
    Verified {
        format,
        precision,
        tensors: tensors as u64,
        weight_bytes,
        parameters,
        bits_per_weight: weight_bytes as f64 * 8.0 / parameters as f64,
        tokenizer_vocab,
        seed: None,
        shape,
    }
}

/// A tensor of either format.
struct Found<'a> {
    name: &'a str,
    /// Row length last.
    shape: Vec<u64>,
    bytes: u64,
    /// Why its type won't do.
    fault: Option<String>,
}

/// Holds the tensors found against those expected, by name; the bytes of those that are used.
fn compare<'a>(
    mut expected: HashMap<String, TensorSpec>,
    found: impl Iterator<Item = Found<'a>>,
    path: &Path,
    ignored: impl Fn(&str) -> bool,
) -> Result<u64, ModelError> {
    let mut wrong = Vec::new();
    let mut bytes = 0;
    for tensor in found {
        let Some(spec) = expected.remove(tensor.name) else {
            if !ignored(tensor.name) {
                wrong.push(format!("{}: not part of this network", tensor.name));
            }
            continue;
        };
        bytes += tensor.bytes;
        if tensor.shape != spec.shape() {
            wrong.push(format!("{}: shape {:?}, expected {:?}", tensor.name, tensor.shape, spec.shape()));
        }
        wrong.extend(tensor.fault);
    }
    if expected.is_empty() && wrong.is_empty() {
        return Ok(bytes);
    }
    let mut missing: Vec<String> = expected.into_keys().collect();
    missing.sort();
    Err(ModelError::Tensors { path: path.to_owned(), missing, wrong })
}

/// Tensors that some checkpoints carry and no engine uses: rotary tables that follow from the configuration, and an
/// output matrix beside tied embeddings.
fn is_ignored(name: &str, shape: &Shape) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (shape.tied_embeddings && name == "lm_head.weight")
}

fn unreadable(dtype: Dtype) -> Option<String> {
    let readable = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    (!readable).then(|| format!("type {dtype}; supported are F32, F16, BF16"))
}

fn check_vocab(
    found: Option<u64>,
    shape: &Shape,
    wanted: Tokenizer,
    path: &Path,
    place: &'static str,
) -> Result<(), ModelError> {
    match found {
        None if wanted == Tokenizer::Required => {
            Err(ModelError::TokenizerMissing { path: path.to_owned(), expected: place })
        }
        Some(size) if size != u64::from(shape.vocab) => {
            Err(ModelError::Vocabulary { path: path.to_owned(), tokenizer: size, model: shape.vocab.into() })
        }
        _ => Ok(()),
    }
}

/// `general.file_type` by number, as llama.cpp's `llama_ftype` has them.
pub const FILE_TYPES: [(u64, Precision); 6] = [
    (0, Precision::F32),
    (1, Precision::F16),
    (3, Precision::Q4_1),
    (7, Precision::Q8_0),
    (15, Precision::Q4KM),
    (32, Precision::Bf16),
];

/// The precision that a GGUF file says it has; where it doesn't, the one type that all matrices have.
fn gguf_precision(header: &gguf::Header) -> Option<Precision> {
    let stated = header.get("general.file_type").and_then(Value::as_u64);
    if let Some(stated) = stated {
        return FILE_TYPES.iter().find(|(id, _)| *id == stated).map(|(_, precision)| *precision);
    }
    let mut kinds = header.tensors.iter().filter(|tensor| tensor.dims.len() > 1).map(|tensor| tensor.kind);
    let first = kinds.next()?;
    let precision = match first {
        GgmlType::F32 => Precision::F32,
        GgmlType::F16 => Precision::F16,
        GgmlType::Bf16 => Precision::Bf16,
        GgmlType::Q8_0 => Precision::Q8_0,
        GgmlType::Q4_1 => Precision::Q4_1,
        _ => return None,
    };
    kinds.all(|kind| kind == first).then_some(precision)
}

/// The one type that all matrices have.
fn safetensors_precision(weights: &safetensors::Weights) -> Option<Precision> {
    let mut dtypes = weights.tensors().filter(|tensor| tensor.shape.len() > 1).map(|tensor| tensor.dtype);
    let first = dtypes.next()?;
    let precision = match first {
        Dtype::F32 => Precision::F32,
        Dtype::F16 => Precision::F16,
        Dtype::Bf16 => Precision::Bf16,
        _ => return None,
    };
    dtypes.all(|dtype| dtype == first).then_some(precision)
}

/// The files of the artifact at `path` that [`verify`] looks at, for copying: paths with the names that they get in a
/// library.
pub(crate) fn files(path: &Path, format: Format) -> Result<Vec<(PathBuf, String)>, ModelError> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let mut files = match format {
        Format::Gguf if path.is_dir() => vec![(path.join(gguf::FILE), gguf::FILE.to_owned())],
        Format::Gguf => vec![(path.to_owned(), gguf::FILE.to_owned())],
        Format::Safetensors => {
            let weights = safetensors::open_weights(folder)?;
            let mut names = safetensors::file_names(folder, &weights);
            names.push(CONFIG.to_owned());
            names.into_iter().map(|name| (folder.join(&name), name)).collect()
        }
        Format::Onnx => {
            let names = [onnx::FILE, onnx::DATA, CONFIG];
            names.into_iter().map(|name| (folder.join(name), name.to_owned())).collect()
        }
    };
    let tokenizer = folder.join(TOKENIZER);
    if format != Format::Gguf && tokenizer.exists() {
        files.push((tokenizer, TOKENIZER.to_owned()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
