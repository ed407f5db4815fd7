//! How fast weights are quantised here and by llama.cpp's own quantiser, one after the other, three times:
//! `cargo run --release --workspace --example quantise -- FILE.gguf [q4_k_m]`.
//!
//! Both write whole files beside the first one, which are removed again, and both use every processor.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regatta_core::artifact::{Format, Precision};
use regatta_core::id::ModelId;
use regatta_core::model::{BUILT_IN_MODELS, Model, parse_manifest};
use regatta_models::library::Library;
use regatta_models::verify::{Tokenizer, verify};
use regatta_worker::{artifacts, native};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let source = PathBuf::from(args.next().context("usage: quantise FILE.gguf [PRECISION]")?);
    let precision: Precision = args.next().unwrap_or_else(|| "q4_k_m".to_owned()).parse()?;
    let threads = u32::try_from(std::thread::available_parallelism()?.get())?;
    let model = model(&source)?;
    for round in 1..=3 {
        let ours = ours(&source, &model, precision)?;
        let theirs = theirs(&source, precision, threads)?;
        writeln!(
            std::io::stdout(),
            "{round}: {precision} in {:.1} s, llama.cpp {:.1} s: {:.2} of its speed",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            theirs.as_secs_f64() / ours.as_secs_f64()
        )?;
    }
    Ok(())
}

/// The built-in model of the file's shape.
fn model(source: &Path) -> Result<Model> {
    let shape = verify(source, Tokenizer::Optional)?.shape;
    let models = parse_manifest("models.toml", BUILT_IN_MODELS)?;
    let found = models.into_iter().find(|model| model.shape.parameters() == shape.parameters());
    let id: ModelId = "model".parse()?;
    let other = Model { id, description: String::new(), licence: String::new(), shape, artifacts: Vec::new() };
    Ok(found.unwrap_or(other))
}

fn ours(source: &Path, model: &Model, precision: Precision) -> Result<Duration> {
    let folder = tempfile::tempdir_in(source.parent().unwrap_or(Path::new(".")))?;
    let library = Library::open(folder.path())?;
    let start = Instant::now();
    artifacts::convert(&library, model, source, Format::Gguf, precision, false, &mut |_, _| {})?;
    Ok(start.elapsed())
}

fn theirs(source: &Path, precision: Precision, threads: u32) -> Result<Duration> {
    let folder = tempfile::tempdir_in(source.parent().unwrap_or(Path::new(".")))?;
    let start = Instant::now();
    native::quantize(source, &folder.path().join("model.gguf"), precision, threads)?;
    Ok(start.elapsed())
}
