//! Safetensors: a length, a JSON header that names each tensor's type, shape and place, then the tensors' bytes.
//!
//! The header is checked without reading the data. Besides single files there are models in shards, with an index.

mod index;
mod parse;
mod write;

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

pub(crate) use index::file_names;
pub use index::{INDEX, SINGLE, Weights, open_weights};
use regatta_core::id::shown;
pub use write::{NewTensor, Shards, Writer};

use crate::error::ModelError;
use crate::stream;

/// The longest header that the format allows, in bytes.
pub const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length, which is the first thing in the file.
const LENGTH_BYTES: u64 = 8;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// A number type of the format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in headers.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Bits of one number.
            pub fn bits(self) -> u64 {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }
        }
    };
}

dtypes! {
    /// 64-bit float.
    F64 = "F64", 64;
    /// 32-bit float.
    F32 = "F32", 32;
    /// 16-bit IEEE float.
    F16 = "F16", 16;
    /// 16-bit brain float.
    Bf16 = "BF16", 16;
    /// 8-bit float with 4 bits of exponent.
    F8E4M3 = "F8_E4M3", 8;
    /// 8-bit float with 5 bits of exponent.
    F8E5M2 = "F8_E5M2", 8;
    /// 64-bit integer.
    I64 = "I64", 64;
    /// 32-bit integer.
    I32 = "I32", 32;
    /// 16-bit integer.
    I16 = "I16", 16;
    /// 8-bit integer.
    I8 = "I8", 8;
    /// 64-bit unsigned integer.
    U64 = "U64", 64;
    /// 32-bit unsigned integer.
    U32 = "U32", 32;
    /// 16-bit unsigned integer.
    U16 = "U16", 16;
    /// 8-bit unsigned integer.
    U8 = "U8", 8;
    /// One byte, true or false.
    Bool = "BOOL", 8;
}

impl Dtype {
    /// The type that headers call `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.as_str() == name)
    }

    /// Bytes of a tensor of this shape; nothing on overflow.
    pub fn size(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        elements.checked_mul(self.bits()).map(|bits| bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything before the tensors' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Free text by key, such as `format`.
    pub metadata: Vec<(String, String)>,
    /// Tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensors' bytes begin, from the start of the file.
    pub data_start: u64,
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its number type.
    pub dtype: Dtype,
    /// Its dimensions, row length last.
    pub shape: Vec<u64>,
    /// Where its bytes begin, from [`Header::data_start`].
    pub begin: u64,
    /// Where they end.
    pub end: u64,
}

impl Header {
    /// Reads and checks the header of a file of `size` bytes. `path` is only for messages.
    pub fn read(reader: &mut impl Read, size: u64, path: &Path) -> Result<Self, ModelError> {
        let length = header_length(reader, size, path)?;
        let data_start = LENGTH_BYTES + length;
        // Decoded straight from the file, so that a hostile header isn't held twice.
        let raw: parse::RawHeader = serde_json::from_reader(reader.by_ref().take(length))
            .map_err(|error| bad(path, "header", LENGTH_BYTES, error))?;
        let mut tensors = raw.tensors.into_iter().map(|raw| tensor(raw, path)).collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
        check_layout(&tensors, data_start, size, path)?;
        Ok(Self { metadata: raw.metadata, tensors, data_start })
    }

    /// Opens a file, reads its header and checks it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Reader::open(path).map(|reader| reader.header)
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl TensorInfo {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.end - self.begin
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
        let header = Header::read(&mut BufReader::new(&file), size, path)?;
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
        stream::read_at(&mut self.file, &self.path, self.header.data_start + tensor.begin + skip, buffer)
    }
}

fn bad(path: &Path, field: impl Into<String>, offset: u64, problem: impl fmt::Display) -> ModelError {
    ModelError::Header { path: path.to_owned(), field: field.into(), offset, problem: problem.to_string() }
}

fn truncated(path: &Path, what: impl Into<String>, expected: u64, found: u64) -> ModelError {
    ModelError::Truncated { path: path.to_owned(), what: what.into(), expected, found }
}

fn header_length(reader: &mut impl Read, size: u64, path: &Path) -> Result<u64, ModelError> {
    if size < LENGTH_BYTES {
        return Err(truncated(path, "the header's length", LENGTH_BYTES, size));
    }
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).map_err(ModelError::io("read", path))?;
    let length = u64::from_le_bytes(bytes);
    if length > MAX_HEADER {
        return Err(bad(path, "header length", 0, format!("{length}; at most {MAX_HEADER} bytes are allowed")));
    }
    if LENGTH_BYTES + length > size {
        return Err(truncated(path, "the header", LENGTH_BYTES + length, size));
    }
    Ok(length)
}

fn tensor(raw: parse::RawTensor, path: &Path) -> Result<TensorInfo, ModelError> {
    let bad = |problem: String| bad(path, format!("tensor '{}'", shown(&raw.name)), LENGTH_BYTES, problem);
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        let known = Dtype::ALL.iter().map(|dtype| dtype.as_str()).collect::<Vec<_>>().join(", ");
        return Err(bad(format!("unknown dtype '{}'; known are {known}", shown(&raw.dtype))));
    };
    let Some(size) = dtype.size(&raw.shape) else {
        return Err(bad(format!("shape {:?} of {dtype} overflows", raw.shape)));
    };
    let [begin, end] = raw.data_offsets;
    if end < begin {
        return Err(bad(format!("data_offsets [{begin}, {end}] end before they begin")));
    }
    if end - begin != size {
        return Err(bad(format!(
            "data_offsets [{begin}, {end}] span {} bytes, shape {:?} of {dtype} takes {size}",
            end - begin,
            raw.shape
        )));
    }
    Ok(TensorInfo { name: raw.name, dtype, shape: raw.shape, begin, end })
}

/// Tensors, in the order of their bytes, must cover the data exactly: no overlap, no hole, no rest.
fn check_layout(tensors: &[TensorInfo], data_start: u64, size: u64, path: &Path) -> Result<(), ModelError> {
    let mut next = 0;
    let mut before = "the start of the data";
    for TensorInfo { name, begin, end, .. } in tensors {
        let problem = match begin.cmp(&next) {
            Ordering::Less => "overlap",
            Ordering::Greater => "leave a hole after",
            Ordering::Equal => {
                (next, before) = (*end, name);
                continue;
            }
        };
        let problem = format!("data_offsets [{begin}, {end}] {problem} '{}', which reaches to {next}", shown(before));
        return Err(bad(path, format!("tensor '{}'", shown(name)), LENGTH_BYTES, problem));
    }
    check_end(next, before, data_start, size, path)
}

fn check_end(end: u64, last: &str, data_start: u64, size: u64, path: &Path) -> Result<(), ModelError> {
    let length = size - data_start;
    if end > length {
        let what = format!("tensor '{}', whose data_offsets end at {end} of {length} bytes of data,", shown(last));
        return Err(truncated(path, what, data_start.saturating_add(end), size));
    }
    if end < length {
        let problem = format!("{} bytes follow the last tensor, which ends at {end}; none may", length - end);
        return Err(bad(path, "data", data_start, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
