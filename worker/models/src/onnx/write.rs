//! Writing: the graph in one piece, the weights as they come.
//!
//! Matrices inside layers come row by row and are stored column by column. They are collected in bands of rows, turned in
//! memory, and each column's share of the band goes to its place; a matrix that fits into one band is written in one go.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use regatta_core::model::Shape;

use super::graph::{self, Place};
use super::{DATA, FILE, Number};
use crate::error::ModelError;
use crate::layout::{self, TensorSpec};

/// Bytes of a band.
const BAND: u64 = 64 << 20;

/// Edge of the squares in which a band is turned: a square's rows and columns fit into the first cache.
const SQUARE: usize = 32;

/// A graph and its weights being written into a folder.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    number: Number,
    tensors: std::vec::IntoIter<(TensorSpec, Place)>,
    current: Option<Current>,
    band: u64,
}

/// The tensor whose turn it is.
#[derive(Debug)]
struct Current {
    spec: TensorSpec,
    place: Place,
    /// Bytes that are in the file, or for a matrix that is turned rows.
    done: u64,
    /// Rows that wait to be turned.
    rows: Vec<u8>,
}

impl Writer {
    /// Writes the graph into the existing folder `out` and begins its weights, which follow in the layout's order.
    pub(crate) fn create(out: &Path, shape: &Shape, number: Number, seed: Option<u64>) -> Result<Self, ModelError> {
        let graph = out.join(FILE);
        std::fs::write(&graph, graph::model(shape, number, seed).encode_to_vec())
            .map_err(ModelError::io("write", &graph))?;
        let specs = layout::tensors(shape);
        let (places, size) = graph::places(&specs, number);
        let path = out.join(DATA);
        let file = File::create(&path).map_err(ModelError::io("create", &path))?;
        file.set_len(size).map_err(ModelError::io("make room in", &path))?;
        let tensors = specs.into_iter().zip(places).collect::<Vec<_>>().into_iter();
        Ok(Self { path, file, number, tensors, current: None, band: BAND })
    }

    /// Appends whole rows of the tensor with this name, which must be the one whose turn it is.
    pub(crate) fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let mut current = match self.current.take().or_else(|| self.next()) {
            Some(current) if current.spec.hf == name => current,
            other => return Err(self.out_of_turn(name, other.as_ref())),
        };
        if graph::is_transposed(&current.spec) {
            self.turn(&mut current, bytes)?;
        } else {
            self.write_at(current.place.offset + current.done, bytes)?;
            current.done += bytes.len() as u64;
        }
        let size = if graph::is_transposed(&current.spec) { current.spec.rows } else { current.place.length };
        self.current = Some(current).filter(|current| current.done < size);
        Ok(())
    }

    fn next(&mut self) -> Option<Current> {
        let (spec, place) = self.tensors.next()?;
        Some(Current { spec, place, done: 0, rows: Vec::new() })
    }

    /// Collects rows, and writes a band of them when it is full or the last one.
    fn turn(&self, current: &mut Current, bytes: &[u8]) -> Result<(), ModelError> {
        let row = current.spec.cols * self.number.bytes();
        current.rows.extend_from_slice(bytes);
        let waiting = current.rows.len() as u64 / row;
        let is_last = current.done + waiting == current.spec.rows;
        if !is_last && (current.rows.len() as u64) < self.band {
            return Ok(());
        }
        let turned = match self.number {
            Number::F32 => turned::<4>(&current.rows, current.spec.cols),
            Number::F16 => turned::<2>(&current.rows, current.spec.cols),
        };
        if waiting == current.spec.rows {
            self.write_at(current.place.offset, &turned)?;
        } else {
            let share = usize::try_from(waiting * self.number.bytes()).unwrap_or(usize::MAX);
            for (column, share) in (0..).zip(turned.chunks_exact(share)) {
                let number = column * current.spec.rows + current.done;
                self.write_at(current.place.offset + number * self.number.bytes(), share)?;
            }
        }
        current.rows.clear();
        current.done += waiting;
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ModelError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(ModelError::io("write", &self.path))
    }

    /// Brings everything to the disk; an error if a tensor is missing.
    pub(crate) fn finish(mut self) -> Result<(), ModelError> {
        if let Some(current) = self.current.take().or_else(|| self.next()) {
            return Err(self.out_of_turn("the end", Some(&current)));
        }
        self.file.sync_all().map_err(ModelError::io("write", &self.path))
    }

    fn out_of_turn(&self, name: &str, current: Option<&Current>) -> ModelError {
        let problem = match current {
            Some(current) => format!("came where '{}' goes on", current.spec.hf),
            None => "came after the last tensor".to_owned(),
        };
        ModelError::config(&self.path, name, problem)
    }
}

/// Numbers of `N` bytes in rows of `cols`, column by column.
fn turned<const N: usize>(rows: &[u8], cols: u64) -> Vec<u8> {
    let (numbers, _) = rows.as_chunks::<N>();
    let cols = usize::try_from(cols).unwrap_or(usize::MAX);
    let count = numbers.len() / cols;
    let mut turned = vec![[0; N]; numbers.len()];
    for top in (0..count).step_by(SQUARE) {
        for left in (0..cols).step_by(SQUARE) {
            for column in left..cols.min(left + SQUARE) {
                for row in top..count.min(top + SQUARE) {
                    turned[column * count + row] = numbers[row * cols + column];
                }
            }
        }
    }
    turned.into_flattened()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// The data of a file written with bands of so many bytes.
    fn written(shape: &Shape, number: Number, band: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), shape, number, None).unwrap();
        writer.band = band;
        for spec in layout::tensors(shape) {
            for row in 0..spec.rows {
                let numbers = (0..spec.cols).map(|column| (row * 251 + column) as f32);
                let bytes: Vec<u8> = match number {
                    Number::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
                    Number::F16 => numbers.flat_map(|n| half::f16::from_f32(n).to_le_bytes()).collect(),
                };
                writer.append(&spec.hf, &bytes).unwrap();
            }
        }
        writer.finish().unwrap();
        std::fs::read(folder.path().join(DATA)).unwrap()
    }

    #[test]
    fn every_number_is_in_its_place_however_wide_the_bands() {
        let shape = testing::tied();
        for number in [Number::F32, Number::F16] {
            let whole = written(&shape, number, u64::MAX);
            assert!(whole == written(&shape, number, 1000) && whole == written(&shape, number, 1), "bands differ");
            let specs = layout::tensors(&shape);
            let (places, size) = graph::places(&specs, number);
            assert_eq!(whole.len() as u64, size);
            let at = |offset: u64| {
                let from = usize::try_from(offset).unwrap();
                match number {
                    Number::F32 => f32::from_le_bytes(whole[from..from + 4].try_into().unwrap()),
                    Number::F16 => half::f16::from_le_bytes(whole[from..from + 2].try_into().unwrap()).to_f32(),
                }
            };
            for (spec, place) in specs.iter().zip(places) {
                let (row, column) = (spec.rows - 1, spec.cols / 2);
                let place_of =
                    if graph::is_transposed(spec) { column * spec.rows + row } else { row * spec.cols + column };
                let expected = (row * 251 + column) as f32;
                let expected = if number == Number::F16 { half::f16::from_f32(expected).to_f32() } else { expected };
                assert!(at(place.offset + place_of * number.bytes()).to_bits() == expected.to_bits(), "{}", spec.hf);
            }
        }
    }

    #[test]
    fn tensors_out_of_turn_and_missing_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let shape = testing::llama();
        let mut writer = Writer::create(folder.path(), &shape, Number::F32, None).unwrap();
        let error = writer.append("model.norm.weight", &[0; 4]).unwrap_err().to_string();
        assert!(error.contains("came where 'model.embed_tokens.weight' goes on"), "{error}");
        let writer = Writer::create(folder.path(), &shape, Number::F32, None).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("the end"));
    }
}
