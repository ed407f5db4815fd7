//! GGUF: the file format of llama.cpp. A header of typed metadata and tensor descriptions, then the tensors' bytes.
//!
//! llama.cpp parses this format in C++ and has had memory errors in that parser, so the whole header is validated here,
//! by rules that are at least as strict as llama.cpp's own, before an engine sees the file.

mod read;
mod types;
mod value;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use read::{MAX_HEADER, MAX_STRING};
pub use types::{Block, GgmlType};
pub use value::{Array, Value};
pub use write::{NewTensor, Writer};

use crate::error::ModelError;
use crate::stream;

/// The file of a model in this format, in its folder.
pub const FILE: &str = "model.gguf";

/// The alignment of files that don't name one, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The metadata key that names the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Everything before the tensors' bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Tensors start at multiples of this many bytes.
    pub alignment: u64,
    /// Keys and values in the file's order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in the file's order, which is also the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensors' bytes begin, from the start of the file.
    pub data_start: u64,
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its dimensions, row length first (the reverse of other formats' order).
    pub dims: Vec<u64>,
    /// How its numbers are stored.
    pub kind: GgmlType,
    /// Where its bytes begin, from [`Header::data_start`].
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

impl Header {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Bytes of all tensors, without padding.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// How many tokens the embedded tokenizer has, where there is one.
    pub fn tokenizer_vocab(&self) -> Option<u64> {
        self.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|tokens| tokens.len() as u64)
    }
}

/// An open file whose header was found good.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    header: Header,
}

impl Reader {
    /// Opens a file, reads its header and checks it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        crate::content::refuse_code(path)?;
        let file = File::open(path).map_err(ModelError::io("open", path))?;
        let size = file.metadata().map_err(ModelError::io("read", path))?.len();
        let header = Header::read(&mut std::io::BufReader::new(&file), size, path)?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buffer` with the tensor's bytes from its `skip`-th on.
    pub fn read(&mut self, tensor: &TensorInfo, skip: u64, buffer: &mut [u8]) -> Result<(), ModelError> {
        stream::read_at(&mut self.file, &self.path, self.header.data_start + tensor.offset + skip, buffer)
    }
}

#[cfg(test)]
mod tests;
