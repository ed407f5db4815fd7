//! Artifacts: concrete weights of a model, and how a trial names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ModelId;

/// A file format for weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `model.safetensors` (or shards with an index) and `config.json`.
    Safetensors,
    /// One `model.gguf`.
    Gguf,
    /// `model.onnx`, `model.onnx.data` with its weights, and `config.json`.
    Onnx,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Gguf, Self::Onnx];

    /// Whether weights of this precision can be stored in it.
    pub fn holds(self, precision: Precision) -> bool {
        match self {
            Self::Safetensors => !precision.is_quantised(),
            Self::Gguf => true,
            Self::Onnx => matches!(precision, Precision::F32 | Precision::F16),
        }
    }

    /// The name in scenarios, the database, folder names and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Onnx => "onnx",
        }
    }
}

/// How weights are stored. Quantised ones are as llama.cpp defines them, mix of types per tensor included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    Bf16,
    /// 8-bit blocks of 32 with one scale.
    Q8_0,
    /// 4-bit blocks of 32 with scale and minimum.
    Q4_1,
    /// 4-bit super-blocks, some tensors in 6 bits.
    Q4KM,
}

impl Precision {
    /// Every precision, from most to fewest bits.
    pub const ALL: [Self; 6] = [Self::F32, Self::Bf16, Self::F16, Self::Q8_0, Self::Q4_1, Self::Q4KM];

    /// The name in scenarios, the database, folder names and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
            Self::Q4KM => "q4_k_m",
        }
    }

    /// Weights per block: rows of the big matrices must be a multiple of this. 1 where there are no blocks.
    pub fn block(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_1 => 32,
            Self::Q4KM => 256,
        }
    }

    /// Whether weights are stored in blocks of fewer than 16 bits.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_1 | Self::Q4KM)
    }
}

macro_rules! text {
    ($type:ident, $error:ident, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        #[doc = concat!("A text that names no ", $what, ".")]
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("'{0}' is not a {what}; known are {known}", what = $what, known = $type::ALL.map($type::as_str).join(", "))]
        pub struct $error(String);

        impl FromStr for $type {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::ALL.into_iter().find(|x| x.as_str() == text).ok_or_else(|| $error(crate::id::shown(text)))
            }
        }
    };
}
text!(Format, UnknownFormat, "format");
text!(Precision, UnknownPrecision, "precision");

/// Where the numbers in the weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Trained weights.
    Real,
    /// Seeded random numbers in the model's exact shape: same cost, no sense. Shown wherever the result is shown.
    Synthetic,
}

impl Weights {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Real, Self::Synthetic];

    /// The name in scenarios, the database, folder names and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Synthetic => "synthetic",
        }
    }
}
text!(Weights, UnknownWeights, "kind of weights");

/// How a trial names the weights it wants: by id and properties, never by path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// The model.
    pub model: ModelId,
    /// Trained or made up.
    pub weights: Weights,
    /// The file format.
    pub format: Format,
    /// How the weights are stored.
    pub precision: Precision,
}

impl fmt::Display for ArtifactRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.model, self.format, self.precision)?;
        if self.weights == Weights::Synthetic {
            f.write_str(" (synthetic)")?;
        }
        Ok(())
    }
}
