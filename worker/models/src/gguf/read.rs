//! Reading a header, field by field, trusting none.
//!
//! Memory stays bounded whatever the bytes say: a count or length is compared with what is left of the file before
//! anything is allocated for it, and the header as a whole may not exceed [`MAX_HEADER`].

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use regatta_core::id::shown;

use super::value::{ARRAY, STRING, scalar_size};
use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgmlType, Header, TensorInfo, Value};
use crate::error::ModelError;

/// The longest header, in bytes. The largest vocabularies of today take 20 MB.
pub const MAX_HEADER: u64 = 64 << 20;

/// The longest string in the metadata, in bytes.
pub const MAX_STRING: u64 = 1 << 20;

/// The longest key, in bytes, as the format's specification says.
const MAX_KEY: u64 = 65_535;

/// The longest tensor name, in bytes: llama.cpp has room for 64 with the final zero.
const MAX_TENSOR_NAME: u64 = 63;

/// The most tensors, and the most metadata keys.
const MAX_COUNT: u64 = 65_536;

/// The most dimensions of a tensor.
const MAX_DIMS: u32 = 4;

impl Header {
    /// Reads and checks the header of a file of `size` bytes. `path` is only for messages.
    pub fn read(reader: &mut impl Read, size: u64, path: &Path) -> Result<Self, ModelError> {
        let mut fields = Fields { reader, path, position: 0, size };
        fields.magic()?;
        let version = fields.version()?;
        let tensor_count = fields.count("tensor count")?;
        let key_count = fields.count("metadata count")?;
        let (metadata, alignment) = fields.metadata(key_count)?;
        let described = fields.tensors(tensor_count)?;
        let data_start = padded(fields.position, alignment);
        check_layout(&described, data_start, alignment, size, path)?;
        let tensors = described.into_iter().map(|described| described.info).collect();
        Ok(Self { version, alignment, metadata, tensors, data_start })
    }
}

/// The next multiple of `alignment`. Positions are below 2⁶³ plus an alignment below 2³², so this can't overflow.
pub(super) fn padded(position: u64, alignment: u64) -> u64 {
    position.next_multiple_of(alignment)
}

/// A tensor, and where its description's offset field stands in the file.
struct Described {
    info: TensorInfo,
    offset_field: u64,
}

/// A reader that knows where it is.
struct Fields<'a, R> {
    reader: &'a mut R,
    path: &'a Path,
    position: u64,
    size: u64,
}

impl<R: Read> Fields<'_, R> {
    /// The error for a field that starts at `offset`.
    fn bad(&self, field: impl Into<String>, offset: u64, problem: impl Into<String>) -> ModelError {
        ModelError::Header { path: self.path.to_owned(), field: field.into(), offset, problem: problem.into() }
    }

    /// Refuses to go on where fewer than `length` bytes are left, or the header gets too long.
    fn need(&self, length: u64, field: &str) -> Result<(), ModelError> {
        let end = self.position.saturating_add(length);
        if end > self.size {
            return Err(ModelError::Truncated {
                path: self.path.to_owned(),
                what: field.to_owned(),
                expected: end,
                found: self.size,
            });
        }
        if end > MAX_HEADER {
            return Err(self.bad(field, self.position, format!("the header is longer than {MAX_HEADER} bytes")));
        }
        Ok(())
    }

    /// The next `length` bytes, which were found to be there.
    fn bytes(&mut self, length: u64, field: &str) -> Result<Vec<u8>, ModelError> {
        self.need(length, field)?;
        let Ok(room) = usize::try_from(length) else {
            return Err(self.bad(field, self.position, "too long for this machine"));
        };
        let mut bytes = vec![0; room];
        self.reader.read_exact(&mut bytes).map_err(ModelError::io("read", self.path))?;
        self.position += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], ModelError> {
        self.need(N as u64, field)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(ModelError::io("read", self.path))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32, ModelError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Result<u64, ModelError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn magic(&mut self) -> Result<(), ModelError> {
        let found: [u8; 4] = self.array("magic")?;
        if found == *b"GGUF" {
            return Ok(());
        }
        Err(self.bad("magic", 0, format!("found '{}', expected 'GGUF'", found.escape_ascii())))
    }

    fn version(&mut self) -> Result<u32, ModelError> {
        let offset = self.position;
        match self.u32("version")? {
            version @ (2 | 3) => Ok(version),
            // A big-endian file's 3 reads as 0x03000000 here.
            version if version.swap_bytes() <= 3 && version != 0 => {
                Err(self.bad("version", offset, "the file is big-endian; only little-endian files are read"))
            }
            version => Err(self.bad("version", offset, format!("{version}; 2 and 3 are read"))),
        }
    }

    fn count(&mut self, field: &str) -> Result<u64, ModelError> {
        let offset = self.position;
        let count = self.u64(field)?;
        if count > MAX_COUNT {
            return Err(self.bad(field, offset, format!("{count}; at most {MAX_COUNT} are allowed")));
        }
        Ok(count)
    }

    fn string(&mut self, field: &str, longest: u64) -> Result<String, ModelError> {
        let offset = self.position;
        let length = self.u64(field)?;
        if length > longest {
            return Err(self.bad(field, offset, format!("length {length}; at most {longest} bytes are allowed")));
        }
        String::from_utf8(self.bytes(length, field)?).map_err(|_| self.bad(field, offset, "not valid UTF-8"))
    }

    /// All keys and values, and the alignment that one of them names.
    fn metadata(&mut self, count: u64) -> Result<(Vec<(String, Value)>, u64), ModelError> {
        let mut metadata = Vec::new();
        let mut seen = HashSet::new();
        let mut alignment = DEFAULT_ALIGNMENT;
        for index in 0..count {
            let offset = self.position;
            let key = self.string(&format!("metadata key {index}"), MAX_KEY)?;
            let field = format!("metadata '{}'", shown(&key));
            if key.is_empty() {
                return Err(self.bad(format!("metadata key {index}"), offset, "empty"));
            }
            if !seen.insert(key.clone()) {
                return Err(self.bad(field, offset, "the key was there before"));
            }
            let value_at = self.position;
            let value = self.value(&field)?;
            if key == ALIGNMENT_KEY {
                alignment = self.alignment(&value, value_at)?;
            }
            metadata.push((key, value));
        }
        Ok((metadata, alignment))
    }

    fn alignment(&self, value: &Value, offset: u64) -> Result<u64, ModelError> {
        match *value {
            Value::U32(alignment) if alignment.is_power_of_two() => Ok(alignment.into()),
            Value::U32(alignment) => Err(self.bad(ALIGNMENT_KEY, offset, format!("{alignment} is not a power of two"))),
            _ => Err(self.bad(ALIGNMENT_KEY, offset, "must be stored as an unsigned 32-bit number")),
        }
    }

    fn value(&mut self, field: &str) -> Result<Value, ModelError> {
        let offset = self.position;
        match self.u32(field)? {
            STRING => self.string(field, MAX_STRING).map(Value::String),
            ARRAY => self.elements(field).map(Value::Array),
            id => {
                let size = scalar_size(id).ok_or_else(|| self.bad(field, offset, unknown_type(id)))?;
                let bytes = self.bytes(size, field)?;
                Value::scalar(id, &bytes).ok_or_else(|| self.bad(field, offset, unknown_type(id)))
            }
        }
    }

    fn elements(&mut self, field: &str) -> Result<Array, ModelError> {
        let offset = self.position;
        let id = self.u32(field)?;
        let length_at = self.position;
        let length = self.u64(field)?;
        if id == STRING {
            return self.strings(length, field);
        }
        let Some(size) = scalar_size(id) else {
            let problem = if id == ARRAY { "an array of arrays; none may be".to_owned() } else { unknown_type(id) };
            return Err(self.bad(field, offset, problem));
        };
        let Some(bytes) = length.checked_mul(size) else {
            return Err(self.bad(field, length_at, format!("{length} elements of {size} bytes overflow")));
        };
        let bytes = self.bytes(bytes, field)?;
        Array::scalars(id, &bytes).ok_or_else(|| self.bad(field, offset, unknown_type(id)))
    }

    fn strings(&mut self, length: u64, field: &str) -> Result<Array, ModelError> {
        // Each string has eight bytes of length at least.
        self.need(length.saturating_mul(8), field)?;
        (0..length).map(|_| self.string(field, MAX_STRING)).collect::<Result<_, _>>().map(Array::String)
    }

    fn tensors(&mut self, count: u64) -> Result<Vec<Described>, ModelError> {
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        for index in 0..count {
            let offset = self.position;
            let described = self.tensor(index)?;
            if !seen.insert(described.info.name.clone()) {
                let field = format!("tensor '{}'", shown(&described.info.name));
                return Err(self.bad(field, offset, "the name was there before"));
            }
            tensors.push(described);
        }
        Ok(tensors)
    }

    fn tensor(&mut self, index: u64) -> Result<Described, ModelError> {
        let name_at = self.position;
        let name = self.string(&format!("name of tensor {index}"), MAX_TENSOR_NAME)?;
        if name.is_empty() {
            return Err(self.bad(format!("name of tensor {index}"), name_at, "empty"));
        }
        let field = format!("tensor '{}'", shown(&name));
        let dims_at = self.position;
        let dims = self.dims(&field)?;
        let kind_at = self.position;
        let id = self.u32(&field)?;
        let Some(kind) = GgmlType::from_id(id) else {
            return Err(self.bad(field, kind_at, format!("unknown tensor type {id}; known are {}", known_types())));
        };
        let Some(bytes) = kind.size(&dims) else {
            return Err(self.bad(field, dims_at, impossible_size(&dims, kind)));
        };
        let offset_field = self.position;
        let offset = self.u64(&field)?;
        Ok(Described { info: TensorInfo { name, dims, kind, offset, bytes }, offset_field })
    }

    fn dims(&mut self, field: &str) -> Result<Vec<u64>, ModelError> {
        let offset = self.position;
        let count = self.u32(field)?;
        if !(1..=MAX_DIMS).contains(&count) {
            return Err(self.bad(field, offset, format!("{count} dimensions; 1 to {MAX_DIMS} are allowed")));
        }
        (0..count).map(|_| self.u64(field)).collect()
    }
}

/// Tensors must follow one another without overlap or hole, each padded to the alignment, and end inside the file.
/// llama.cpp demands the same order, so a file that passes here isn't refused there.
fn check_layout(
    tensors: &[Described],
    data_start: u64,
    alignment: u64,
    size: u64,
    path: &Path,
) -> Result<(), ModelError> {
    let mut next = 0u64;
    for Described { info, offset_field } in tensors {
        let bad = |problem: String| ModelError::Header {
            path: path.to_owned(),
            field: format!("offset of tensor '{}'", shown(&info.name)),
            offset: *offset_field,
            problem,
        };
        if !info.offset.is_multiple_of(alignment) {
            return Err(bad(format!("{} is not a multiple of the alignment {alignment}", info.offset)));
        }
        if info.offset < next {
            return Err(bad(format!("{} overlaps the tensor before, which reaches to {next}", info.offset)));
        }
        if info.offset > next {
            return Err(bad(format!("{} leaves a hole after the tensor before, which reaches to {next}", info.offset)));
        }
        let end = info.offset.checked_add(info.bytes).filter(|&end| i64::try_from(end).is_ok());
        let Some(end) = end else { return Err(bad(format!("{} plus {} bytes overflow", info.offset, info.bytes))) };
        let end_in_file = data_start + end;
        if end_in_file > size {
            return Err(ModelError::Truncated {
                path: path.to_owned(),
                what: format!("tensor '{}'", shown(&info.name)),
                expected: end_in_file,
                found: size,
            });
        }
        next = padded(end, alignment);
    }
    Ok(())
}

fn unknown_type(id: u32) -> String {
    format!("unknown value type {id}; 0 to 12 are known")
}

fn known_types() -> String {
    GgmlType::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

fn impossible_size(dims: &[u64], kind: GgmlType) -> String {
    let block = kind.block().elements;
    if dims.contains(&0) {
        return format!("dimensions {dims:?} have a zero");
    }
    if dims.first().is_some_and(|row| row % block != 0) {
        return format!("rows of {} numbers are no multiple of {kind}'s blocks of {block}", dims[0]);
    }
    format!("dimensions {dims:?} of type {kind} overflow")
}
