//! From one file of weights to another: safetensors and GGUF, either way, plain numbers or quantised; and from both to ONNX.
//!
//! Numbers are dequantised here, bit for bit as ggml does it, so that candle and llama.cpp can be run on the same
//! weights. What is stored alike in both files is copied bit for bit. A tokenizer is turned from one format's form into the
//! other's by the workers, which link the library for it. Made-up weights stay marked as such.

use std::ops::Range;
use std::path::{Path, PathBuf};

use regatta_core::artifact::{Format, Precision};
use regatta_core::model::Shape;

use crate::codec::{self, READABLE};
use crate::config::{self, CONFIG, SpecialTokens};
use crate::error::ModelError;
use crate::gguf::{self, GgmlType, TensorInfo, Value};
use crate::layout::{self, TensorSpec};
use crate::onnx::Number;
use crate::safetensors::{self, Dtype};
use crate::synth::{self, SEED_KEY, file_type, of_shape, write_config};
use crate::transcode::{self, Order, Progress, Rows, Sink, Source, Storage, index, plain_types};
use crate::verify::{self, Tokenizer};

/// An artifact that was found whole, and whose types can all be read.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    shape: Shape,
    seed: Option<u64>,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Gguf(gguf::Reader),
    Safetensors(Vec<safetensors::Reader>),
}

impl Input {
    /// Opens a GGUF file, a folder of safetensors with `config.json`, or one of the latter's files.
    pub fn open(source: &Path) -> Result<Self, ModelError> {
        let found = verify::verify(source, Tokenizer::Optional)?;
        let seed = found.seed;
        let (path, files) = match found.format {
            Format::Gguf => {
                let path = if source.is_dir() { source.join(gguf::FILE) } else { source.to_owned() };
                let reader = gguf::Reader::open(&path)?;
                for tensor in &reader.header().tensors {
                    check_type(tensor, &path)?;
                }
                (path, Files::Gguf(reader))
            }
            Format::Safetensors => {
                let folder = if source.is_dir() { source } else { source.parent().unwrap_or(Path::new(".")) };
                let paths = safetensors::open_weights(folder)?.files.into_iter().map(|(path, _)| path);
                let readers = paths.map(|path| safetensors::Reader::open(&path)).collect::<Result<Vec<_>, _>>()?;
                (folder.to_owned(), Files::Safetensors(readers))
            }
            Format::Onnx => {
                return Err(ModelError::Storage {
                    path: source.to_owned(),
                    what: "the model".to_owned(),
                    found: "an ONNX graph, which is written and not converted again".to_owned(),
                    supported: vec!["safetensors", "gguf"],
                });
            }
        };
        Ok(Self { path, shape: found.shape, seed, files })
    }

    /// The network's dimensions, as the artifact describes them.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The seed that the weights were made of, where they are made up.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The GGUF file, or the folder of safetensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format.
    pub fn format(&self) -> Format {
        match self.files {
            Files::Gguf(_) => Format::Gguf,
            Files::Safetensors(_) => Format::Safetensors,
        }
    }

    /// The tokens that begin and end a text.
    pub fn special_tokens(&self) -> SpecialTokens {
        match &self.files {
            Files::Gguf(reader) => config::special_tokens(reader.header()),
            Files::Safetensors(_) => config::special_tokens_of(&self.path.join(CONFIG)),
        }
    }

    /// The shape with what GGUF doesn't keep (family and window) taken from `model`, which must fit.
    fn agree(&self, model: Option<&Shape>) -> Result<Shape, ModelError> {
        let Some(model) = model else { return Ok(self.shape.clone()) };
        let differences = config::differences(&self.shape, model, self.format() == Format::Gguf);
        if differences.is_empty() {
            return Ok(model.clone());
        }
        Err(ModelError::OtherModel { path: self.path.clone(), model: "asked for".to_owned(), differences })
    }
}

/// Writes `input` as `model.safetensors` (in shards where it is large) and `config.json` into the existing folder `out`.
///
/// `precision` is f32, f16 or bf16. GGUF doesn't tell Mistral from Llama, so `model` says which it is where that is known;
/// it must then fit the file. The result is the shape that `config.json` describes.
pub fn to_safetensors(
    mut input: Input,
    precision: Precision,
    model: Option<&Shape>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Shape, ModelError> {
    let (dtype, _) = plain_types(precision)?;
    let shape = input.agree(model)?;
    let specs = layout::tensors(&shape);
    let seed: Vec<_> = input.seed.map(|seed| (SEED_KEY, seed.to_string())).into_iter().collect();
    let sink = Sink::safetensors(out, &specs, dtype, &seed)?;
    let tokens = input.special_tokens();
    transcode::write(&shape, &specs, &mut input, sink, progress)?;
    write_config(&shape, precision, tokens, out)?;
    Ok(shape)
}

/// Writes `input` as an ONNX graph with its weights and `config.json` into the existing folder `out`.
///
/// `precision` is f32 or f16. `model` is as for [`to_safetensors`].
pub fn to_onnx(
    mut input: Input,
    precision: Precision,
    model: Option<&Shape>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<Shape, ModelError> {
    let shape = input.agree(model)?;
    let sink = Sink::onnx(out, &shape, Number::of(precision)?, input.seed)?;
    let tokens = input.special_tokens();
    transcode::write(&shape, &layout::tensors(&shape), &mut input, sink, progress)?;
    write_config(&shape, precision, tokens, out)?;
    Ok(shape)
}

/// Writes `input` as the GGUF file `out`, with the tensors stored as `storage` says.
///
/// Of a GGUF file all metadata are copied, and only `general.file_type` changes. For safetensors they are made: `name` is
/// the model's, `tokenizer` has the keys of its tokenizer. Without those the file says that it has none; made-up weights
/// get the tokenizer that they get when they are made.
pub fn to_gguf(
    mut input: Input,
    name: &str,
    tokenizer: Option<Vec<(String, Value)>>,
    storage: Storage<'_>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    let shape = input.shape.clone();
    let metadata = match &input.files {
        Files::Gguf(reader) => with_file_type(&reader.header().metadata, storage.precision()),
        Files::Safetensors(_) => {
            let mut metadata = of_shape(&shape, name, input.seed, storage.precision());
            metadata.extend(tokenizer.unwrap_or_else(|| synth::tokenizer(&shape, input.seed)));
            metadata
        }
    };
    let specs = layout::tensors(&shape);
    let sink = Sink::gguf(out, &specs, storage, &metadata)?;
    transcode::write(&shape, &specs, &mut input, sink, progress)
}

fn with_file_type(metadata: &[(String, Value)], precision: Precision) -> Vec<(String, Value)> {
    let key = "general.file_type";
    let mut copied: Vec<_> = metadata.iter().filter(|(name, _)| name != key).cloned().collect();
    copied.extend(file_type(precision).map(|id| (key.to_owned(), Value::U32(id))));
    copied
}

impl Source for Input {
    fn rows(&mut self, spec: &TensorSpec, rows: Range<u64>) -> Result<Rows, ModelError> {
        let missing = |name: &str, path: &Path| ModelError::Tensors {
            path: path.to_owned(),
            missing: vec![name.to_owned()],
            wrong: Vec::new(),
        };
        let first = rows.start;
        let count = rows.end - rows.start;
        match &mut self.files {
            Files::Gguf(reader) => {
                let tensor = reader.header().tensor(&spec.gguf).cloned();
                let tensor = tensor.ok_or_else(|| missing(&spec.gguf, &self.path))?;
                let row_bytes = tensor.bytes / spec.rows;
                let mut bytes = vec![0; index(count * row_bytes)];
                reader.read(&tensor, first * row_bytes, &mut bytes)?;
                Ok(Rows::Stored { kind: tensor.kind, order: Order::Gguf, first, bytes })
            }
            Files::Safetensors(readers) => {
                let place = readers.iter_mut().find_map(|reader| {
                    let tensor = reader.header().tensor(&spec.hf).cloned()?;
                    Some((reader, tensor))
                });
                let (reader, tensor) = place.ok_or_else(|| missing(&spec.hf, &self.path))?;
                let kind = match tensor.dtype {
                    Dtype::F16 => GgmlType::F16,
                    Dtype::Bf16 => GgmlType::Bf16,
                    // The artifact was verified: there are only these three.
                    _ => GgmlType::F32,
                };
                let row_bytes = tensor.bytes() / spec.rows;
                let mut bytes = vec![0; index(count * row_bytes)];
                reader.read(&tensor, first * row_bytes, &mut bytes)?;
                Ok(Rows::Stored { kind, order: Order::Safetensors, first, bytes })
            }
        }
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

#[cfg(test)]
mod tests;
