//! The worker: the process that holds one loaded model on one device, runs workloads on it and takes the times.
//!
//! An agent starts a fresh worker for each trial and speaks to it in frames over a pipe ([`run`]). Engines are behind
//! one trait ([`backend`]); the timing loop ([`measure`]) is the same for all of them, so a number from one engine
//! means what it means from another. Everything that differs by platform is in [`process`].

pub mod argmax;
pub mod artifacts;
pub mod backend;
pub mod canary;
pub mod clock;
pub mod cpu;
pub mod measure;
#[cfg(feature = "llama-cpp")]
pub mod native;
pub mod probe;
pub mod process;
pub mod prompt;
pub mod run;
pub mod tokenizer;
mod video_memory;
