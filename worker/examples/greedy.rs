//! What one engine says to a prompt: prompt ids, greedy ids and the logits of the first step, as JSON. For checks against
//! other implementations (`tests/reference/compare.py`).
//!
//! ```text
//! cargo run --release -p regatta-worker --example greedy -- candle FOLDER PROMPT_FILE COUNT > candle.json
//! ```
//! FOLDER is an artifact's: `model.safetensors` with its `config.json`, or `model.gguf`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::device::DeviceId;
use regatta_worker::backend::{self, Load, Plan};
use regatta_worker::cpu;
use regatta_worker::tokenizer::Tokenizer;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("{what} is missing"));
    let engine: regatta_core::backend::BackendKind = next("the engine")?.parse()?;
    let folder = PathBuf::from(next("the artifact's folder")?);
    let prompt = std::fs::read_to_string(next("the prompt's file")?)?;
    let generate: u32 = next("the count")?.parse()?;

    let format = if folder.join("model.gguf").is_file() { Format::Gguf } else { Format::Safetensors };
    let artifact = ArtifactRef { model: "checked".parse()?, weights: Weights::Real, format, precision: Precision::F32 };
    let ids = Tokenizer::of_artifact(&folder, format)?.context("the artifact has no tokenizer")?.encode(&prompt)?;
    let load = Load { backend: engine, device: DeviceId::CPU, artifact, folder, threads: cpu::default_threads() };
    let mut backend = backend::load(&load)?;
    let plan = Plan { name: "check".to_owned(), batch: 1, prompt: u32::try_from(ids.len())?, generate, depth: 0 };
    let mut session = backend.open(&plan)?;
    session.reset()?;
    session.prefill(std::slice::from_ref(&ids))?;
    let first_logits = session.logits(0)?;
    let mut output = vec![0];
    session.sample(&mut output)?;
    while output.len() < generate as usize {
        let last = output.len() - 1;
        session.decode(&output[last..])?;
        output.push(0);
        session.sample(&mut output[last + 1..])?;
    }
    let said = serde_json::json!({
        "backend": engine.as_str(),
        "prompt": ids,
        "output": output,
        "first_logits": first_logits,
    });
    serde_json::to_writer(std::io::stdout(), &said)?;
    Ok(())
}
