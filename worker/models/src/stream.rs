//! Plain positions in files: tensors written one after another, and read from anywhere.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// Fills `buffer` from `offset` on.
pub(crate) fn read_at(file: &mut File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<(), ModelError> {
    file.seek(SeekFrom::Start(offset)).map_err(ModelError::io("seek in", path))?;
    file.read_exact(buffer).map_err(ModelError::io("read", path))
}

/// One tensor that is still to be written.
#[derive(Debug)]
struct Slot {
    name: String,
    bytes: u64,
}

/// A file whose header is written and whose tensors follow in the header's order, in pieces of any size.
#[derive(Debug)]
pub(crate) struct TensorStream {
    path: PathBuf,
    out: BufWriter<File>,
    slots: Vec<Slot>,
    /// The slot being filled, and how much of it is.
    current: usize,
    filled: u64,
    /// Zeros follow each tensor up to a multiple of this.
    alignment: u64,
}

impl TensorStream {
    /// Creates the file and writes `header`, which must already be padded to the alignment.
    pub(crate) fn create(
        path: &Path,
        header: &[u8],
        tensors: impl Iterator<Item = (String, u64)>,
        alignment: u64,
    ) -> Result<Self, ModelError> {
        let file = File::create(path).map_err(ModelError::io("create", path))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(header).map_err(ModelError::io("write", path))?;
        let slots = tensors.map(|(name, bytes)| Slot { name, bytes }).collect();
        Ok(Self { path: path.to_owned(), out, slots, current: 0, filled: 0, alignment })
    }

    /// Appends the next bytes of the tensor `name`, which must be the one whose turn it is.
    pub(crate) fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let length = bytes.len() as u64;
        let slot = self.slots.get(self.current).filter(|slot| slot.name == name && self.filled + length <= slot.bytes);
        let Some(size) = slot.map(|slot| slot.bytes) else { return Err(self.out_of_turn(name)) };
        self.out.write_all(bytes).map_err(ModelError::io("write", &self.path))?;
        self.filled += length;
        if self.filled == size {
            self.pad(size)?;
            self.current += 1;
            self.filled = 0;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), ModelError> {
        for _ in size..size.next_multiple_of(self.alignment) {
            self.out.write_all(&[0]).map_err(ModelError::io("write", &self.path))?;
        }
        Ok(())
    }

    /// Brings everything to the disk; an error if a tensor is missing.
    pub(crate) fn finish(mut self) -> Result<(), ModelError> {
        if self.current < self.slots.len() {
            return Err(self.out_of_turn("the end"));
        }
        self.out.flush().map_err(ModelError::io("write", &self.path))?;
        self.out.get_ref().sync_all().map_err(ModelError::io("write", &self.path))
    }

    fn out_of_turn(&self, name: &str) -> ModelError {
        let problem = match self.slots.get(self.current) {
            Some(slot) => format!("came while {} of {} bytes of '{}' were written", self.filled, slot.bytes, slot.name),
            None => "came after the last tensor".to_owned(),
        };
        ModelError::Header { path: self.path.clone(), field: name.to_owned(), offset: self.filled, problem }
    }
}
