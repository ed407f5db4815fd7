//! Text to token ids and back, by the same code for every backend, so that engines get the same ids.
//!
//! A tokenizer comes from `tokenizer.json` beside safetensors, or is built from a GGUF file's metadata. Building takes
//! the way over the text of a `tokenizer.json`, which `convert` writes out for candle's users too.

mod gguf_json;
mod json_gguf;

use std::path::Path;

use regatta_core::artifact::Format;
use regatta_models::ModelError;
use regatta_models::config::SpecialTokens;
use regatta_models::gguf;
use regatta_models::tokenizer::TOKENIZER;

/// Why there is no tokenizer, or why it failed.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The model's files can't be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer is of a kind that is not known here.
    #[error("the tokenizer has {what} '{found}', which is not known here; known are {known}")]
    Unknown {
        /// Which of its properties.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        known: &'static str,
    },
    /// Metadata don't fit together.
    #[error("the tokenizer's metadata are not usable: {0}")]
    Metadata(String),
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The library that does the work reported an error.
    #[error("tokenizer: {0}")]
    Library(#[from] tokenizers::Error),
}

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// The tokenizer of the artifact in `folder`; `None` where it has none, as synthetic weights don't.
    pub fn of_artifact(folder: &Path, format: Format) -> Result<Option<Self>, TokenizerError> {
        match format {
            Format::Safetensors | Format::Onnx => {
                let path = folder.join(TOKENIZER);
                if path.exists() { Self::from_file(&path).map(Some) } else { Ok(None) }
            }
            Format::Gguf => Self::from_gguf(gguf::Reader::open(&folder.join(gguf::FILE))?.header()),
        }
    }

    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Ok(Self(tokenizers::Tokenizer::from_file(path)?))
    }

    /// Builds the tokenizer that GGUF metadata describe; `None` where they describe none.
    pub fn from_gguf(header: &gguf::Header) -> Result<Option<Self>, TokenizerError> {
        let Some(json) = gguf_json::tokenizer_json(header)? else { return Ok(None) };
        Ok(Some(Self(tokenizers::Tokenizer::from_bytes(json.to_string())?)))
    }

    /// The token ids of a text, with the tokens that the model's tokenizer puts around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.0.encode_fast(text, true)?.get_ids().to_vec())
    }

    /// The text of token ids, control tokens included.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        Ok(self.0.decode(ids, false)?)
    }
}

/// Writes the tokenizer of a GGUF file as a `tokenizer.json`; false where the file has none.
pub fn write_tokenizer_json(gguf: &Path, path: &Path) -> Result<bool, TokenizerError> {
    let reader = gguf::Reader::open(gguf)?;
    let Some(json) = gguf_json::tokenizer_json(reader.header())? else { return Ok(false) };
    // Read back first: a file that the library refuses helps nobody.
    let text = json.to_string();
    tokenizers::Tokenizer::from_bytes(&text)?;
    std::fs::write(path, text).map_err(|source| TokenizerError::Write { path: path.to_owned(), source })?;
    Ok(true)
}

/// The tokenizer in a `tokenizer.json` as GGUF metadata: `vocab` tokens, of which `tokens` begin and end a text.
///
/// What GGUF can't say, or llama.cpp would do differently, is an error. The result is read back and must describe the
/// same vocabulary.
pub fn gguf_metadata(
    path: &Path,
    tokens: SpecialTokens,
    vocab: u32,
) -> Result<Vec<(String, gguf::Value)>, TokenizerError> {
    let text = std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
    let json = serde_json::from_slice(&text).map_err(|error| TokenizerError::Metadata(error.to_string()))?;
    json_gguf::metadata(&json, tokens, vocab)
}
