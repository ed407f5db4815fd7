//! Writing: the header first, then the tensors one by one, so that no more than a piece of one is in memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Dtype, LENGTH_BYTES};
use crate::error::ModelError;
use crate::stream::TensorStream;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its number type.
    pub dtype: Dtype,
    /// Its dimensions, row length last.
    pub shape: Vec<u64>,
}

/// A file being written.
#[derive(Debug)]
pub struct Writer(TensorStream);

impl Writer {
    /// Creates the file and writes its header. The tensors' bytes must follow in the same order.
    ///
    /// `metadata` are added to `format = "pt"`, without which Python's transformers doesn't load a file.
    pub fn create(path: &Path, metadata: &[(&str, String)], tensors: &[NewTensor]) -> Result<Self, ModelError> {
        let sizes = tensors.iter().map(|tensor| size(tensor, path)).collect::<Result<Vec<_>, _>>()?;
        let header = header(metadata, tensors, &sizes, path)?;
        let named = tensors.iter().map(|tensor| tensor.name.clone()).zip(sizes);
        TensorStream::create(path, &header, named, 1).map(Self)
    }

    /// Appends bytes of the tensor `name`: all of them, or piece by piece.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        self.0.append(name, bytes)
    }

    /// Ends the file and brings it to the disk.
    pub fn finish(self) -> Result<(), ModelError> {
        self.0.finish()
    }
}

fn size(tensor: &NewTensor, path: &Path) -> Result<u64, ModelError> {
    tensor.dtype.size(&tensor.shape).ok_or_else(|| ModelError::Header {
        path: path.to_owned(),
        field: format!("tensor '{}'", tensor.name),
        offset: LENGTH_BYTES,
        problem: format!("shape {:?} of {} overflows", tensor.shape, tensor.dtype),
    })
}

/// One tensor's entry. Written by hand from parts, because the order of keys in a `serde_json::Map` depends on how the
/// whole program is built, and the same tensors must give the same bytes everywhere.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

fn header(
    metadata: &[(&str, String)],
    tensors: &[NewTensor],
    sizes: &[u64],
    path: &Path,
) -> Result<Vec<u8>, ModelError> {
    let failed = |error: serde_json::Error| ModelError::config(path, "header", error.to_string());
    let mut texts = BTreeMap::from([("format", "pt")]);
    texts.extend(metadata.iter().map(|(key, value)| (*key, value.as_str())));
    let mut json = format!("{{\"__metadata__\":{}", serde_json::to_string(&texts).map_err(failed)?);
    let mut begin = 0;
    for (NewTensor { name, dtype, shape }, size) in tensors.iter().zip(sizes) {
        let entry = Entry { dtype: dtype.as_str(), shape, data_offsets: [begin, begin + size] };
        json.push(',');
        json.push_str(&serde_json::to_string(name).map_err(failed)?);
        json.push(':');
        json.push_str(&serde_json::to_string(&entry).map_err(failed)?);
        begin += size;
    }
    json.push('}');
    // The format wants the data aligned to eight bytes, and pads the JSON with spaces for it.
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.into_bytes());
    Ok(out)
}
