//! Engines behind one trait.
//!
//! A [`Backend`] is a loaded model on a device. For each cell it opens a [`Session`], whose key/value cache is sized for
//! that cell, and the timing loop drives the session: `reset`, `prefill`, `sample`, then `decode` and `sample` for each
//! further token; or `decode` and `wait` where steps alone are timed. Two contracts make times comparable across engines:
//! `prefill` and `wait` return when the device is done, not when work is enqueued; `sample` returns when the token ids are in
//! host memory.

#[cfg(feature = "candle")]
pub mod candle;
pub mod fake;
#[cfg(feature = "llama-cpp")]
pub mod llama_cpp;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;
#[cfg(any(feature = "candle", feature = "llama-cpp", feature = "onnxruntime"))]
mod weights;

use std::path::PathBuf;

use regatta_core::artifact::ArtifactRef;
use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceId;
use regatta_core::failure::FailureKind;
use regatta_core::preflight;

use crate::clock::Clock;

/// What went wrong in an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BackendError {
    /// What follows from it.
    pub kind: FailureKind,
    /// The engine's words, and what to do about it where that is known.
    pub detail: String,
}

impl BackendError {
    /// The engine reported an error.
    #[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub fn engine(detail: impl ToString) -> Self {
        Self { kind: FailureKind::Engine, detail: detail.to_string() }
    }

    /// The engine can't do what was asked.
    #[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub fn unsupported(detail: impl ToString) -> Self {
        Self { kind: FailureKind::Unsupported, detail: detail.to_string() }
    }

    /// The weights can't be used.
    #[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub fn rejected(detail: impl ToString) -> Self {
        Self { kind: FailureKind::ModelRejected, detail: detail.to_string() }
    }
}

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The engine's version, its build, and the settings that were chosen for it: part of the fingerprint.
    pub engine: String,
    /// Bytes of weights that one decode step reads.
    pub weight_bytes: u64,
    /// Threads it computes with.
    pub threads: u32,
    /// Whether it holds the weights, and computes, in wider numbers than they are stored in.
    pub is_widened: bool,
}

/// What a model on an engine can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab: u32,
    /// Prompt and generated tokens together, at most, for each sequence.
    pub context: u32,
}

/// Tokens of each sequence that are fed at a time until the depth of a cell is reached. Not timed.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub const DEPTH_STEP: u32 = preflight::DEPTH_STEP as u32;

/// The size of a cell's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The workload's name. Engines don't look at it, but `fake` reads its script from it.
    pub name: String,
    /// Sequences side by side.
    pub batch: u32,
    /// Prompt tokens of each sequence.
    pub prompt: u32,
    /// Tokens to generate for each sequence.
    pub generate: u32,
    /// Tokens that each sequence holds before the clock starts.
    pub depth: u32,
}

impl Plan {
    /// Positions that each sequence needs in the key/value cache.
    pub fn positions(&self) -> u32 {
        self.depth.saturating_add(self.prompt).saturating_add(self.generate)
    }

    /// Tokens that are fed to each sequence at once, at most.
    pub fn fed(&self) -> u32 {
        self.prompt.max(self.depth.min(DEPTH_STEP)).max(1)
    }
}

/// A model, loaded on a device.
pub trait Backend {
    /// What is loaded, and how.
    fn info(&self) -> Info;

    /// What it can take.
    fn limits(&self) -> Limits;

    /// What its sessions are timed with.
    fn clock(&self) -> Clock {
        Clock::Monotonic
    }

    /// Makes room for a cell's work. Not timed.
    fn open(&mut self, plan: &Plan) -> Result<Box<dyn Session + '_>, BackendError>;
}

/// A model with a key/value cache for one cell.
pub trait Session {
    /// Forgets all tokens, or those since [`keep`](Self::keep). Not timed.
    fn reset(&mut self) -> Result<(), BackendError>;

    /// From here on `reset` comes back to the tokens that are held now. Not timed.
    fn keep(&mut self) -> Result<(), BackendError>;

    /// Feeds one prompt to each sequence, all of the same length, after what they already hold. Returns when the device
    /// is done and the logits of the last positions are ready.
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError>;

    /// Writes the likeliest next token of each sequence to `out`, the first of equally likely ones.
    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError>;

    /// Feeds one token to each sequence.
    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError>;

    /// Returns when the device has done all that it was given.
    fn wait(&mut self) -> Result<(), BackendError>;

    /// The logits of a sequence's last position. For checks, not for timing.
    fn logits(&self, sequence: usize) -> Result<Vec<f32>, BackendError>;
}

/// What to load, and where.
#[derive(Debug, Clone)]
pub struct Load {
    /// The engine.
    pub backend: BackendKind,
    /// Where the model is to run.
    pub device: DeviceId,
    /// The weights.
    pub artifact: ArtifactRef,
    /// The folder of their files, already verified. Not used by `fake`.
    pub folder: PathBuf,
    /// Threads to compute with.
    pub threads: u32,
}

/// Loads a model whose files have been verified.
pub fn load(load: &Load) -> Result<Box<dyn Backend>, BackendError> {
    match load.backend {
        #[cfg(feature = "candle")]
        BackendKind::Candle => Ok(Box::new(candle::Candle::load(load)?)),
        #[cfg(feature = "llama-cpp")]
        BackendKind::LlamaCpp => Ok(Box::new(llama_cpp::LlamaCpp::load(load)?)),
        #[cfg(feature = "onnxruntime")]
        BackendKind::OnnxRuntime => Ok(Box::new(onnxruntime::OnnxRuntime::load(load)?)),
        BackendKind::Fake => Ok(Box::new(fake::Fake::load(load)?)),
        #[cfg(not(all(feature = "candle", feature = "llama-cpp", feature = "onnxruntime")))]
        other => Err(BackendError::unsupported(format!("this worker was built without {other}"))),
    }
}
