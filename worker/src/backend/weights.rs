//! What engines need to know of the files of weights before they load them.

use std::path::{Path, PathBuf};

use regatta_core::artifact::{ArtifactRef, Format};
use regatta_core::model::Shape;
use regatta_models::{gguf, onnx, safetensors, verify};

use super::BackendError;

/// A verified artifact on disk.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// The network's dimensions.
    pub(super) shape: Shape,
    /// What an engine is pointed at: the GGUF file, the ONNX graph, or the folder of safetensors.
    pub(super) path: PathBuf,
    /// Bytes of weights that one decode step reads.
    pub(super) decode_bytes: u64,
}

/// Verifies the files in `folder` against the artifact they are said to be. Engines parse model files in memory-unsafe
/// code, so none sees a file that has not passed here.
pub(super) fn open(folder: &Path, artifact: &ArtifactRef) -> Result<Weights, BackendError> {
    let found = verify::verify(folder, verify::Tokenizer::Optional).map_err(BackendError::rejected)?;
    if found.format != artifact.format || found.precision != Some(artifact.precision) {
        let precision = found.precision.map_or("of mixed precision".to_owned(), |precision| precision.to_string());
        return Err(BackendError::rejected(format!(
            "{} holds {} weights {precision}, not {} {}",
            folder.display(),
            found.format,
            artifact.format,
            artifact.precision
        )));
    }
    let (path, embedding) = match found.format {
        Format::Gguf => {
            let path = folder.join(gguf::FILE);
            let reader = gguf::Reader::open(&path).map_err(BackendError::rejected)?;
            let embedding = reader.header().tensor("token_embd.weight").map_or(0, |tensor| tensor.bytes);
            (path, embedding)
        }
        Format::Safetensors => {
            let weights = safetensors::open_weights(folder).map_err(BackendError::rejected)?;
            let embedding = weights.tensors().find(|tensor| tensor.name == "model.embed_tokens.weight");
            (folder.to_owned(), embedding.map_or(0, safetensors::TensorInfo::bytes))
        }
        Format::Onnx => {
            let numbers = u64::from(found.shape.vocab) * u64::from(found.shape.hidden);
            (folder.join(onnx::FILE), numbers * found.weight_bytes / found.parameters)
        }
    };
    // A step looks up one row of the embeddings, but multiplies by all of them where they are the output matrix too.
    let unread = if found.shape.tied_embeddings { 0 } else { embedding };
    Ok(Weights { shape: found.shape, path, decode_bytes: found.weight_bytes - unread.min(found.weight_bytes) })
}
