//! Backends: the inference engines, and what each of them can load and where.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::artifact::{Format, Precision};
use crate::device::DeviceKind;

/// An inference engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BackendKind {
    /// candle: safetensors through candle-transformers, GGUF through its quantised models.
    #[serde(rename = "candle")]
    Candle,
    /// llama.cpp: GGUF.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// ONNX Runtime, loaded at run time: ONNX graphs that Regatta writes.
    #[serde(rename = "onnxruntime")]
    OnnxRuntime,
    /// Scripted timings and faults, for tests: runs no model.
    #[serde(rename = "fake")]
    Fake,
}

impl BackendKind {
    /// Every backend, in the order of documentation.
    pub const ALL: [Self; 4] = [Self::Candle, Self::LlamaCpp, Self::OnnxRuntime, Self::Fake];

    /// The backends that run models, to be named in messages and help.
    pub const PUBLIC: [Self; 3] = [Self::Candle, Self::LlamaCpp, Self::OnnxRuntime];

    /// The name in scenarios, the database and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::LlamaCpp => "llama.cpp",
            Self::OnnxRuntime => "onnxruntime",
            Self::Fake => "fake",
        }
    }

    /// The devices the engine has code for.
    pub fn devices(self) -> &'static [DeviceKind] {
        match self {
            Self::Candle => &[DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal],
            Self::LlamaCpp => &[DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Vulkan],
            Self::OnnxRuntime => &[DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::DirectMl],
            Self::Fake => &DeviceKind::ALL,
        }
    }

    /// The precisions the engine loads.
    pub fn precisions(self) -> &'static [Precision] {
        match self {
            Self::OnnxRuntime => &[Precision::F32, Precision::F16],
            Self::Candle | Self::LlamaCpp | Self::Fake => &Precision::ALL,
        }
    }

    /// What to do where no worker has the engine, as the end of a sentence that says so; nothing where it is linked into
    /// workers.
    pub fn how_to_get(self) -> &'static str {
        match self {
            Self::OnnxRuntime => {
                " (fix: put ONNX Runtime's library beside the worker, or name it in REGATTA_ONNXRUNTIME; 'regatta \
                 devices' says where it was looked for)"
            }
            Self::Candle | Self::LlamaCpp | Self::Fake => "",
        }
    }

    /// Why the engine can't do `batch` sequences side by side at this precision, if it can't.
    pub fn cannot(self, precision: Precision, batch: u32) -> Option<String> {
        // candle-transformers hands the last rows of several sequences to the output matrix as a view with gaps, which
        // the kernels for blocks refuse. A caller can't get around it but by feeding prompts token by token.
        let refused = self == Self::Candle && precision.is_quantised() && batch > 1;
        refused.then(|| format!("candle takes one sequence at a time with {precision} weights; the batch is {batch}"))
    }

    /// The file format the engine reads for a precision: candle takes unquantised weights from safetensors and
    /// quantised ones from GGUF, llama.cpp takes GGUF only, ONNX Runtime ONNX only.
    pub fn format(self, precision: Precision) -> Format {
        match self {
            Self::Candle if !precision.is_quantised() => Format::Safetensors,
            Self::OnnxRuntime => Format::Onnx,
            Self::Candle | Self::LlamaCpp | Self::Fake => Format::Gguf,
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a backend: choose candle, llama.cpp or onnxruntime")]
pub struct UnknownBackend(String);

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        Self::ALL.into_iter().find(|b| b.as_str() == text).ok_or_else(|| UnknownBackend(crate::id::shown(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for backend in BackendKind::ALL {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
    }

    #[test]
    fn candle_takes_quantised_weights_from_gguf_only() {
        for precision in Precision::ALL {
            let expected = if precision.is_quantised() { Format::Gguf } else { Format::Safetensors };
            assert_eq!(BackendKind::Candle.format(precision), expected);
            assert_eq!(BackendKind::LlamaCpp.format(precision), Format::Gguf);
        }
    }

    #[test]
    fn each_backend_reads_its_precisions_from_a_format_that_holds_them() {
        for backend in BackendKind::ALL {
            for precision in backend.precisions() {
                assert!(backend.format(*precision).holds(*precision), "{backend} {precision}");
            }
        }
    }
}
