//! Writing: the header from metadata and tensor descriptions, then the tensors one by one.

use std::path::Path;

use super::read::padded;
use super::value::write_string;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgmlType, Value};
use crate::error::ModelError;
use crate::stream::TensorStream;

/// The version that is written.
const VERSION: u32 = 3;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, row length first.
    pub dims: Vec<u64>,
    /// How its numbers will be stored.
    pub kind: GgmlType,
}

/// A file being written.
#[derive(Debug)]
pub struct Writer(TensorStream);

impl Writer {
    /// Creates the file and writes its header. The tensors' bytes must follow in the same order.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Self, ModelError> {
        let sizes = tensors.iter().map(|tensor| size(tensor, path)).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(metadata);
        let header = header(metadata, tensors, &sizes, alignment);
        let named = tensors.iter().map(|tensor| tensor.name.clone()).zip(sizes);
        TensorStream::create(path, &header, named, alignment).map(Self)
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

/// The alignment that the metadata name; readers refuse a bad one.
fn alignment(metadata: &[(String, Value)]) -> u64 {
    let named = metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY).and_then(|(_, value)| value.as_u64());
    named.filter(|alignment| alignment.is_power_of_two()).unwrap_or(DEFAULT_ALIGNMENT)
}

fn size(tensor: &NewTensor, path: &Path) -> Result<u64, ModelError> {
    tensor.kind.size(&tensor.dims).ok_or_else(|| ModelError::Storage {
        path: path.to_owned(),
        what: format!("tensor '{}' of dimensions {:?}", tensor.name, tensor.dims),
        found: format!("{} in blocks of {}, which don't divide its rows,", tensor.kind, tensor.kind.block().elements),
        supported: vec![GgmlType::F32.as_str(), GgmlType::F16.as_str(), GgmlType::Bf16.as_str()],
    })
}

fn header(metadata: &[(String, Value)], tensors: &[NewTensor], sizes: &[u64], alignment: u64) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_string(key, &mut out);
        out.extend(value.id().to_le_bytes());
        value.write(&mut out);
    }
    let mut offset = 0;
    for (tensor, size) in tensors.iter().zip(sizes) {
        write_tensor(tensor, offset, &mut out);
        offset = padded(offset + size, alignment);
    }
    let length = padded(out.len() as u64, alignment);
    while (out.len() as u64) < length {
        out.push(0);
    }
    out
}

fn write_tensor(tensor: &NewTensor, offset: u64, out: &mut Vec<u8>) {
    write_string(&tensor.name, out);
    // Dimensions were counted when the size was computed; more than four are refused by readers.
    out.extend(u32::try_from(tensor.dims.len()).unwrap_or(u32::MAX).to_le_bytes());
    for dim in &tensor.dims {
        out.extend(dim.to_le_bytes());
    }
    out.extend(tensor.kind.id().to_le_bytes());
    out.extend(offset.to_le_bytes());
}
