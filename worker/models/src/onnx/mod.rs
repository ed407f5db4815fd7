//! ONNX: the network as a graph in `model.onnx`, its weights beside it in `model.onnx.data`, its shape in `config.json`.
//!
//! ONNX says what to compute, so a file of anybody's may compute anything, and read any file as its weights. Here a graph is
//! written, and read back only where it is byte for byte the one that would be written for its shape: an engine never sees
//! another one. Graphs of other programs are refused, with the way to get one of ours.
//!
//! [`graph`] says what the network looks like, [`write`] puts it on the disk, [`read`] checks it.

mod graph;
mod proto;
mod read;
mod write;

use regatta_core::artifact::Precision;

pub use self::read::Reader;
pub(crate) use self::read::{is_anybodys, is_ours};
pub(crate) use self::write::Writer;
use crate::error::ModelError;

/// The graph's file in an artifact's folder.
pub const FILE: &str = "model.onnx";

/// The file of the weights, in the same folder.
pub const DATA: &str = "model.onnx.data";

/// What every graph that is written here begins with: the format's version and who wrote it.
pub(crate) const START: [u8; 9] = *b"\x08\x08\x12\x07regat";

/// The numbers that weights are stored in, and the network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
}

impl Number {
    /// The numbers of a precision; an error where ONNX graphs aren't written with it.
    pub fn of(precision: Precision) -> Result<Self, ModelError> {
        match precision {
            Precision::F32 => Ok(Self::F32),
            Precision::F16 => Ok(Self::F16),
            Precision::Bf16 | Precision::Q8_0 | Precision::Q4_1 | Precision::Q4KM => Err(ModelError::Precision {
                precision,
                target: "onnx",
                reason: "only f32 and f16 can (fix: take f16, or the gguf format for quantised weights)".to_owned(),
            }),
        }
    }

    /// Its name among precisions.
    pub fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F16 => Precision::F16,
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    fn data_type(self) -> i32 {
        match self {
            Self::F32 => proto::number::FLOAT,
            Self::F16 => proto::number::FLOAT16,
        }
    }

    fn of_data_type(data_type: i32) -> Option<Self> {
        [Self::F32, Self::F16].into_iter().find(|number| number.data_type() == data_type)
    }
}

#[cfg(test)]
mod tests;
