//! The worker program. Agents start it; people may ask it what it can do and have it make artifacts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::device::DeviceId;
use regatta_core::id::ModelId;
use regatta_core::model::{BUILT_IN_MODELS, Model, parse_manifest};
use regatta_models::library::{Install, Installed, Library};
use regatta_models::{ModelError, gguf};
use regatta_worker::{artifacts, canary, cpu, probe, process, run};

/// Holds one model on one device, runs workloads on it and takes the times.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this worker can do here, as JSON.
    Probe,
    /// Measure what a device can do at most, as JSON: memory bandwidth, matrix products, launch latency.
    Canary(Canary),
    /// Do one trial: frames on standard input and output. For agents.
    Run,
    /// Make synthetic weights.
    Make(Make),
    /// Convert weights between safetensors and GGUF, and from both to ONNX.
    Convert(Convert),
    /// Quantise weights as llama.cpp does it.
    Quantize(Quantize),
}

#[derive(Args)]
struct Canary {
    /// The device: cpu, cuda:0, metal:0.
    #[arg(long, default_value = "cpu")]
    device: DeviceId,
    /// About how long it may take.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = canary_time)]
    seconds: Duration,
    /// Size of the buffer that is read [default: 1 GiB, or four times the caches].
    #[arg(long, value_name = "MIB")]
    mib: Option<u64>,
}

#[derive(Args)]
struct Target {
    /// The model root.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The model's id.
    #[arg(long = "model", value_name = "ID")]
    id: ModelId,
    /// A manifest of models to use instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Replace the artifact if it is there already.
    #[arg(long)]
    replace: bool,
}

#[derive(Args)]
struct Make {
    #[command(flatten)]
    target: Target,
    /// A config.json whose shape to take, in place of a model of the manifest.
    #[arg(long, value_name = "FILE", conflicts_with = "models")]
    config: Option<PathBuf>,
    /// Where the numbers come from; only `synthetic` can be made.
    #[arg(long, default_value = "synthetic")]
    weights: Weights,
    /// File format: safetensors, gguf or onnx.
    #[arg(long)]
    format: Format,
    /// f32 or f16; for gguf and safetensors also bf16, for gguf `q8_0`, `q4_1` and `q4_k_m`.
    #[arg(long)]
    precision: Precision,
    /// The same seed gives the same numbers everywhere.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct Convert {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    source: Source,
    /// File format to write: safetensors, gguf or onnx.
    #[arg(long, visible_alias = "to")]
    format: Format,
    /// Precision to write: f32 or f16; for gguf and safetensors also bf16, for gguf `q8_0`, `q4_1` and `q4_k_m`.
    #[arg(long)]
    precision: Precision,
}

#[derive(Args)]
struct Quantize {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    source: Source,
    /// Precision to write: `q8_0`, `q4_1` or `q4_k_m`.
    #[arg(long)]
    precision: Precision,
}

/// Where weights come from: from the disk, or from an artifact of the library.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A GGUF file, or a folder of safetensors with config.json.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// The GGUF artifact of this precision in the library.
    #[arg(long, value_name = "PRECISION")]
    from_precision: Option<Precision>,
}

fn main() -> ExitCode {
    // llama.cpp's warnings and errors; what is below would be chatter on every load. To standard error, because standard
    // output is for frames and JSON.
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(io::stderr)
        .init();
    let done = match Cli::parse().command {
        Command::Probe => print(&probe::info()),
        Command::Canary(command) => measure(&command),
        Command::Run => run::run().map_err(Into::into),
        Command::Make(command) => make(&command),
        Command::Convert(command) => convert(&command),
        Command::Quantize(command) => quantize(&command),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    let _ = writeln!(io::stderr(), "error: {error:#}");
    // As the program that people type has it: 2 where what was given is bad, 1 where something failed.
    let is_bad_input = error.downcast_ref::<ModelError>().is_some_and(|error| !matches!(error, ModelError::Io { .. }));
    ExitCode::from(if is_bad_input { 2 } else { 1 })
}

/// The longest time that a canary may be given, in seconds.
const LONGEST_CANARY: f64 = 3600.0;

fn canary_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=LONGEST_CANARY).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("must be a number from 0 to {LONGEST_CANARY}"))
}

fn measure(command: &Canary) -> Result<()> {
    process::fix_threads(cpu::default_threads());
    let time = command.seconds;
    let buffer_bytes = command.mib.map(|mib| mib.saturating_mul(1 << 20));
    print(&canary::measure(command.device, canary::Effort { time, buffer_bytes })?)
}

fn make(command: &Make) -> Result<()> {
    if command.weights != Weights::Synthetic {
        bail!("only synthetic weights can be made; trained ones are pulled or converted");
    }
    let (library, model) = match &command.config {
        None => command.target.open()?,
        Some(config) => (Library::open(&command.target.root)?, shaped_like(config, &command.target.id)?),
    };
    let options = Install { seed: Some(command.seed), replace: command.target.replace };
    let progress = &mut progress();
    report(&artifacts::make(&library, &model, command.format, command.precision, options, progress)?)
}

/// A model of the shape that a `config.json` describes.
fn shaped_like(config: &Path, id: &ModelId) -> Result<Model> {
    let shape = regatta_models::config::read(config)?;
    let description = format!("the shape of {}", config.display());
    Ok(Model { id: id.clone(), description, licence: "none".to_owned(), shape, artifacts: Vec::new() })
}

fn convert(command: &Convert) -> Result<()> {
    let (library, model) = command.target.open()?;
    let source = command.source.find(&library, &model)?;
    let Convert { target, format, precision, .. } = command;
    let progress = &mut progress();
    let converted = artifacts::convert(&library, &model, &source, *format, *precision, target.replace, progress)?;
    if let Some(reason) = converted.without_tokenizer {
        writeln!(io::stderr(), "without a tokenizer: {reason}")?;
    }
    report(&converted.installed)
}

fn quantize(command: &Quantize) -> Result<()> {
    let (library, model) = command.target.open()?;
    let source = command.source.find(&library, &model)?;
    let Quantize { target, precision, .. } = command;
    if !precision.is_quantised() {
        bail!("{precision} is not quantised: use 'convert', or one of q8_0, q4_1 and q4_k_m");
    }
    let progress = &mut progress();
    let made = artifacts::convert(&library, &model, &source, Format::Gguf, *precision, target.replace, progress)?;
    if let Some(reason) = made.without_tokenizer {
        writeln!(io::stderr(), "without a tokenizer: {reason}")?;
    }
    report(&made.installed)
}

impl Target {
    fn open(&self) -> Result<(Library, Model)> {
        let models = match &self.models {
            None => parse_manifest("models.toml", BUILT_IN_MODELS)?,
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                parse_manifest(&path.display().to_string(), &text)?
            }
        };
        let known: Vec<String> = models.iter().map(|model| model.id.to_string()).collect();
        let model = models.into_iter().find(|model| model.id == self.id);
        let model = model.with_context(|| format!("no model '{}'; known are {}", self.id, known.join(", ")))?;
        Ok((Library::open(&self.root)?, model))
    }
}

impl Source {
    fn find(&self, library: &Library, model: &Model) -> Result<PathBuf> {
        if let Some(path) = &self.from {
            return Ok(path.clone());
        }
        let Some(precision) = self.from_precision else { bail!("name a file or a precision to start from") };
        let artifact = ArtifactRef { model: model.id.clone(), weights: Weights::Real, format: Format::Gguf, precision };
        Ok(library.find(&artifact)?.folder.join(gguf::FILE))
    }
}

/// Shows every twentieth part on standard error.
fn progress() -> impl FnMut(u64, u64) {
    let mut shown = 0;
    move |done, total| {
        let part = done * 20 / total.max(1);
        if part > shown {
            shown = part;
            let _ = writeln!(io::stderr(), "{} %", part * 5);
        }
    }
}

fn report(installed: &Installed) -> Result<()> {
    let folder: &Path = &installed.folder;
    print(&serde_json::json!({
        "folder": folder,
        "sha256": installed.manifest.sha256(),
        "weight_bytes": installed.manifest.weight_bytes,
        "parameters": installed.manifest.parameters,
    }))
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
