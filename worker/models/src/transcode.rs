//! Files of weights out of a seed or out of other files: the way from rows of numbers to rows of bytes.
//!
//! A few million weights are on their way at a time, however large the model is: this thread reads them, all processors
//! turn them into the new file's bytes, and a thread of its own writes those meanwhile. A file's bytes depend neither on
//! the number of threads nor on how rows are shared out.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rayon::prelude::*;
use regatta_core::artifact::Precision;
use regatta_core::model::Shape;

use crate::codec;
use crate::error::ModelError;
use crate::gguf::{self, GgmlType};
use crate::layout::{Role, TensorSpec};
use crate::onnx;
use crate::safetensors::{self, Dtype};
use crate::synth::numbers::Numbers;

/// Told how many weights are done, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Turns whole rows of numbers into blocks of a type that this crate doesn't write, and appends them: numbers, numbers in
/// a row. False where it can't. It is called by several threads.
pub type Quantiser<'a> = &'a (dyn Fn(GgmlType, &[f32], usize, &mut Vec<u8>) -> bool + Sync);

/// Weights that are in memory at a time (16 MiB as f32).
const BATCH: u64 = 4 << 20;

/// Weights that a processor takes at a time.
const SHARE: u64 = 64 << 10;

/// Batches that wait for the disk.
const WAITING: usize = 2;

/// How the tensors of a GGUF file are to be stored.
#[derive(Clone, Copy)]
pub struct Storage<'a> {
    precision: Precision,
    kinds: Kinds<'a>,
}

#[derive(Clone, Copy)]
enum Kinds<'a> {
    /// All matrices alike, norms as f32.
    One(GgmlType),
    /// Each by its GGUF name.
    Mixed(&'a HashMap<String, GgmlType>, Quantiser<'a>),
}

impl fmt::Debug for Storage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({})", self.precision)
    }
}

impl<'a> Storage<'a> {
    /// All matrices of one type that this crate writes itself: f32, f16, bf16 or `q8_0`. Norms are f32 in every one of
    /// them, as llama.cpp's converter does it.
    pub fn plain(precision: Precision) -> Result<Self, ModelError> {
        let kind = match precision {
            Precision::F32 => GgmlType::F32,
            Precision::F16 => GgmlType::F16,
            Precision::Bf16 => GgmlType::Bf16,
            Precision::Q8_0 => GgmlType::Q8_0,
            Precision::Q4_1 | Precision::Q4KM => {
                return Err(ModelError::Precision {
                    precision,
                    target: "gguf without llama.cpp",
                    reason: "only f32, f16, bf16 and q8_0 can (fix: use a worker with llama.cpp, which quantises)"
                        .to_owned(),
                });
            }
        };
        Ok(Self { precision, kinds: Kinds::One(kind) })
    }

    /// A type for each tensor, by its GGUF name, and who makes the blocks that this crate can't.
    pub fn mixed(precision: Precision, kinds: &'a HashMap<String, GgmlType>, quantiser: Quantiser<'a>) -> Self {
        Self { precision, kinds: Kinds::Mixed(kinds, quantiser) }
    }

    /// What the file will say it is.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The tensor as it will be written.
    pub(crate) fn tensor(&self, spec: &TensorSpec) -> gguf::NewTensor {
        let kind = match self.kinds {
            Kinds::One(_) if spec.role == Role::Norm => GgmlType::F32,
            Kinds::One(kind) => kind,
            Kinds::Mixed(kinds, _) => kinds.get(&spec.gguf).copied().unwrap_or(GgmlType::F32),
        };
        gguf::NewTensor { name: spec.gguf.clone(), dims: spec.dims(), kind }
    }

    fn quantiser(&self) -> Option<Quantiser<'a>> {
        match self.kinds {
            Kinds::One(_) => None,
            Kinds::Mixed(_, quantiser) => Some(quantiser),
        }
    }
}

/// The types of both formats for a precision that isn't quantised.
pub(crate) fn plain_types(precision: Precision) -> Result<(Dtype, GgmlType), ModelError> {
    match precision {
        Precision::F32 => Ok((Dtype::F32, GgmlType::F32)),
        Precision::F16 => Ok((Dtype::F16, GgmlType::F16)),
        Precision::Bf16 => Ok((Dtype::Bf16, GgmlType::Bf16)),
        Precision::Q8_0 | Precision::Q4_1 | Precision::Q4KM => Err(ModelError::Precision {
            precision,
            target: "safetensors",
            reason: "only f32, f16 and bf16 can (fix: use the gguf format for quantised weights)".to_owned(),
        }),
    }
}

/// In which format's order rows stand: see [`crate::layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Safetensors,
    Gguf,
}

/// Some rows of a tensor, on their way.
pub(crate) enum Rows {
    /// Made up as they are needed; in the order of safetensors.
    Made(Numbers),
    /// As another file has them, from its row `first` on.
    Stored { kind: GgmlType, order: Order, first: u64, bytes: Vec<u8> },
}

/// Where a tensor's rows come from.
pub(crate) trait Source {
    /// Fetches rows of a tensor; whole attention heads where rows are reordered.
    fn rows(&mut self, spec: &TensorSpec, rows: Range<u64>) -> Result<Rows, ModelError>;
}

/// The new file.
pub(crate) enum Sink<'a> {
    Safetensors(safetensors::Shards, Dtype),
    Gguf(gguf::Writer, Storage<'a>),
    Onnx(onnx::Writer, onnx::Number),
}

impl<'a> Sink<'a> {
    /// Begins safetensors in the folder `out`, in shards where the model is large. `metadata` go into each file.
    pub(crate) fn safetensors(
        out: &Path,
        specs: &[TensorSpec],
        dtype: Dtype,
        metadata: &[(&str, String)],
    ) -> Result<Self, ModelError> {
        let describe = |spec: &TensorSpec| safetensors::NewTensor { name: spec.hf.clone(), dtype, shape: spec.shape() };
        let described: Vec<_> = specs.iter().map(describe).collect();
        safetensors::Shards::create(out, metadata, described).map(|shards| Self::Safetensors(shards, dtype))
    }

    /// Begins the GGUF file `out`.
    pub(crate) fn gguf(
        out: &Path,
        specs: &[TensorSpec],
        storage: Storage<'a>,
        metadata: &[(String, gguf::Value)],
    ) -> Result<Self, ModelError> {
        let described: Vec<_> = specs.iter().map(|spec| storage.tensor(spec)).collect();
        gguf::Writer::create(out, metadata, &described).map(|writer| Self::Gguf(writer, storage))
    }

    /// Begins an ONNX graph and its weights in the folder `out`. `seed` is said where they are made up.
    pub(crate) fn onnx(out: &Path, shape: &Shape, number: onnx::Number, seed: Option<u64>) -> Result<Self, ModelError> {
        onnx::Writer::create(out, shape, number, seed).map(|writer| Self::Onnx(writer, number))
    }

    fn order(&self) -> Order {
        match self {
            Self::Safetensors(..) | Self::Onnx(..) => Order::Safetensors,
            Self::Gguf(..) => Order::Gguf,
        }
    }

    fn kind(&self, spec: &TensorSpec) -> GgmlType {
        match self {
            Self::Safetensors(_, Dtype::F16) | Self::Onnx(_, onnx::Number::F16) => GgmlType::F16,
            Self::Safetensors(_, Dtype::Bf16) => GgmlType::Bf16,
            Self::Safetensors(..) | Self::Onnx(_, onnx::Number::F32) => GgmlType::F32,
            Self::Gguf(_, storage) => storage.tensor(spec).kind,
        }
    }

    fn append(&mut self, spec: &TensorSpec, bytes: &[u8]) -> Result<(), ModelError> {
        match self {
            Self::Safetensors(shards, _) => shards.append(&spec.hf, bytes),
            Self::Gguf(writer, _) => writer.append(&spec.gguf, bytes),
            Self::Onnx(writer, _) => writer.append(&spec.hf, bytes),
        }
    }

    fn finish(self) -> Result<(), ModelError> {
        match self {
            Self::Safetensors(shards, _) => shards.finish(),
            Self::Gguf(writer, _) => writer.finish(),
            Self::Onnx(writer, _) => writer.finish(),
        }
    }
}

/// Writes all tensors of a network of this shape.
pub(crate) fn write(
    shape: &Shape,
    specs: &[TensorSpec],
    source: &mut impl Source,
    sink: Sink<'_>,
    progress: Progress<'_>,
) -> Result<(), ModelError> {
    let order = sink.order();
    let kinds: Vec<GgmlType> = specs.iter().map(|spec| sink.kind(spec)).collect();
    let quantiser = if let Sink::Gguf(_, storage) = &sink { storage.quantiser() } else { None };
    let (batches_out, inbox) = sync_channel(WAITING);
    thread::scope(|scope| {
        let writing = scope.spawn(move || write_batches(specs, sink, &inbox));
        let made = (|| {
            let mut done = 0;
            for (at, (spec, &kind)) in specs.iter().zip(&kinds).enumerate() {
                let target = Target { spec, kind, order, quantiser };
                for rows in batches(spec, BATCH) {
                    let count = (rows.end - rows.start) * spec.cols;
                    let fetched = source.rows(spec, rows.clone())?;
                    let pieces =
                        shares(spec, &rows).into_par_iter().map(|rows| target.encode(&fetched, rows)).collect();
                    if batches_out.send(Batch { tensor: at, pieces }).is_err() {
                        // The writer has failed, and says why below.
                        return Ok(());
                    }
                    done += count;
                    progress(done, shape.parameters());
                }
            }
            Ok(())
        })();
        drop(batches_out);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        made.and(written)
    })
}

/// Bytes for a tensor, in order.
struct Batch {
    tensor: usize,
    pieces: Vec<Vec<u8>>,
}

fn write_batches(specs: &[TensorSpec], mut sink: Sink<'_>, inbox: &Receiver<Batch>) -> Result<(), ModelError> {
    for batch in inbox {
        for piece in batch.pieces {
            sink.append(&specs[batch.tensor], &piece)?;
        }
    }
    sink.finish()
}

/// The rows of a tensor in groups of about `numbers` weights, whole attention heads together where rows are reordered.
pub(crate) fn batches(spec: &TensorSpec, numbers: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let unit = spec.head.unwrap_or(1);
    let step = (numbers / (spec.cols * unit)).max(1) * unit;
    let rows = spec.rows;
    (0..rows.div_ceil(step)).map(move |batch| batch * step..rows.min((batch + 1) * step))
}

/// A batch's rows for each processor to take.
fn shares(spec: &TensorSpec, rows: &Range<u64>) -> Vec<Range<u64>> {
    let step = (SHARE / spec.cols).max(1);
    let count = (rows.end - rows.start).div_ceil(step);
    (0..count).map(|share| rows.start + share * step..rows.end.min(rows.start + (share + 1) * step)).collect()
}

/// What becomes of a tensor.
struct Target<'a> {
    spec: &'a TensorSpec,
    kind: GgmlType,
    order: Order,
    quantiser: Option<Quantiser<'a>>,
}

impl Target<'_> {
    /// The bytes of some rows of the new file.
    fn encode(&self, from: &Rows, rows: Range<u64>) -> Vec<u8> {
        let cols = index(self.spec.cols);
        let mut bytes = Vec::new();
        let mut numbers = vec![0.0; index(rows.end - rows.start) * cols];
        let mut done = true;
        for (row, numbers) in rows.zip(numbers.chunks_exact_mut(cols)) {
            match from {
                Rows::Made(made) => made.fill(self.row(row, Order::Safetensors) * self.spec.cols, numbers),
                Rows::Stored { kind, order, first, bytes: stored } => {
                    let row_bytes = index(kind.block().bytes * self.spec.cols / kind.block().elements);
                    let from = index(self.row(row, *order) - first) * row_bytes;
                    let stored = &stored[from..from + row_bytes];
                    if *kind == self.kind {
                        // Nothing to convert: the same bits, even of numbers that are none.
                        bytes.extend_from_slice(stored);
                    } else {
                        done &= codec::decode(*kind, stored, numbers);
                    }
                }
            }
        }
        if bytes.is_empty() {
            done &= codec::encode(self.kind, &numbers, &mut bytes)
                || self.quantiser.is_some_and(|quantise| quantise(self.kind, &numbers, cols, &mut bytes));
        }
        debug_assert!(done, "types are checked before a file is begun");
        bytes
    }

    /// Which row of the source, whose rows stand in `order`, is at a row of the new file.
    fn row(&self, row: u64, order: Order) -> u64 {
        match (order, self.order) {
            (Order::Safetensors, Order::Gguf) => self.spec.hf_row(row),
            (Order::Gguf, Order::Safetensors) => self.spec.gguf_row(row),
            _ => row,
        }
    }
}

/// A number of rows or bytes of one batch, which is small.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout, testing};

    #[test]
    fn groups_of_rows_cover_a_tensor_and_keep_heads_whole() {
        let shape = testing::llama();
        for spec in layout::tensors(&shape) {
            for numbers in [1, 1000, 100_000] {
                let groups: Vec<_> = batches(&spec, numbers).collect();
                assert_eq!(groups.first().map(|group| group.start), Some(0));
                assert_eq!(groups.last().map(|group| group.end), Some(spec.rows));
                assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(groups.iter().all(|group| group.start.is_multiple_of(spec.head.unwrap_or(1))));
                for group in groups {
                    let shares = shares(&spec, &group);
                    assert_eq!(shares.first().map(|share| share.start), Some(group.start));
                    assert_eq!(shares.last().map(|share| share.end), Some(group.end));
                    assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
                }
            }
        }
    }

    #[test]
    fn a_disk_that_refuses_ends_it_with_its_words() {
        struct Ones;
        impl Source for Ones {
            fn rows(&mut self, spec: &TensorSpec, rows: Range<u64>) -> Result<Rows, ModelError> {
                let bytes = vec![0; index((rows.end - rows.start) * spec.cols * 4)];
                Ok(Rows::Stored { kind: GgmlType::F32, order: Order::Gguf, first: rows.start, bytes })
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (shape, mut specs) = (testing::llama(), layout::tensors(&testing::llama()));
        let storage = Storage::plain(Precision::F32).unwrap();
        let sink = Sink::gguf(&folder.path().join("x.gguf"), &specs, storage, &[]).unwrap();
        // Tensors in another order than they were announced in: the writer refuses the first.
        specs.swap(0, 2);
        let error = write(&shape, &specs, &mut Ones, sink, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("token_embd"), "{error}");
    }
}
