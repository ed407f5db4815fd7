//! Files of weights: read and check them, make synthetic ones, convert them, keep them in a library on disk.
//!
//! No inference engine is linked here. Engines parse model files in memory-unsafe code, so every file passes through
//! this crate's header checks first, and only then does a worker hand its path to an engine.
//!
//! Where to look:
//!
//! - [`content`], [`gguf`], [`safetensors`], [`onnx`]: what a file is, and whether its header keeps the format's rules.
//! - [`config`], [`layout`]: what the network is, and which tensors it must therefore have.
//! - [`verify`]: both together, for one artifact.
//! - [`synth`], [`convert`]: files of weights out of a seed, or out of other files; [`transcode`] is what both do.
//! - [`library`], [`import`], [`incoming`]: the model root, where artifacts are found by id and never by path, and how
//!   they come there.

pub mod codec;
pub mod config;
pub mod content;
pub mod convert;
pub mod error;
pub mod gguf;
pub mod import;
pub mod incoming;
pub mod layout;
pub mod library;
pub mod onnx;
pub mod safetensors;
mod stream;
pub mod synth;
#[cfg(test)]
mod testing;
pub mod tokenizer;
pub mod transcode;
pub mod verify;

pub use error::ModelError;
