//! `regatta models`: what weights are here, and making, importing, converting, quantising and verifying them.
//!
//! Whatever needs an engine (quantising, tokenizers) is done by the worker program, so that this one links none.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use clap::{Args, Subcommand};
use regatta_core::artifact::{Format, Precision};
use regatta_core::id::ModelId;
use regatta_core::model::{BUILT_IN_MODELS, parse_manifest};
use regatta_models::library::{Library, Listed};
use regatta_models::verify::{self, Tokenizer};
use serde_json::{Value, json};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

/// `regatta models …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the manifest's models and the weights that are here
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make seeded random weights in a model's exact shape
    Synth {
        /// The model's id
        model: ModelId,
        /// safetensors or gguf
        #[arg(long)]
        format: Format,
        /// f32, f16, bf16; for gguf also `q8_0`, `q4_1`, `q4_k_m`
        #[arg(long)]
        precision: Precision,
        /// The same seed gives the same numbers everywhere
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Take weights that are on disk into the library, checked against the manifest
    Import {
        /// The model's id
        model: ModelId,
        /// A GGUF file, or a folder of safetensors with config.json
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Turn GGUF into safetensors, or into GGUF of plain numbers
    Convert {
        /// The model's id
        model: ModelId,
        /// A GGUF file
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// safetensors or gguf
        #[arg(long)]
        format: Format,
        /// f32, f16 or bf16
        #[arg(long)]
        precision: Precision,
        #[command(flatten)]
        common: Common,
    },
    /// Quantise GGUF with llama.cpp's quantiser
    Quantize {
        /// The model's id
        model: ModelId,
        /// A GGUF file
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// `q8_0`, `q4_1` or `q4_k_m`
        #[arg(long)]
        precision: Precision,
        #[command(flatten)]
        common: Common,
    },
    /// Check every file of the library: hashes, headers, shapes
    Verify,
}

/// Flags of the commands that write.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Manifest of models in place of the built-in one
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    replace: bool,
}

/// Carries out a `regatta models` command.
pub(crate) async fn run(command: ModelsCommand, folders: &Folders) -> anyhow::Result<Exit> {
    match command {
        ModelsCommand::List { json } => list(folders, json),
        ModelsCommand::Verify => verify(folders),
        ModelsCommand::Synth { model, format, precision, seed, common } => {
            let arguments = [
                "--format".to_owned(),
                format.to_string(),
                "--precision".to_owned(),
                precision.to_string(),
                "--seed".to_owned(),
                seed.to_string(),
            ];
            worker(folders, "make", &model, None, &arguments, &common).await
        }
        ModelsCommand::Import { model, from, common } => {
            worker(folders, "import", &model, Some(from), &[], &common).await
        }
        ModelsCommand::Convert { model, from, format, precision, common } => {
            let arguments =
                ["--format".to_owned(), format.to_string(), "--precision".to_owned(), precision.to_string()];
            worker(folders, "convert", &model, Some(from), &arguments, &common).await
        }
        ModelsCommand::Quantize { model, from, precision, common } => {
            let arguments = ["--precision".to_owned(), precision.to_string()];
            worker(folders, "quantize", &model, Some(from), &arguments, &common).await
        }
    }
}

/// Has the worker program do it; its messages go to the terminal as they are.
async fn worker(
    folders: &Folders,
    verb: &str,
    model: &ModelId,
    from: Option<PathBuf>,
    arguments: &[String],
    common: &Common,
) -> anyhow::Result<Exit> {
    let name = format!("regatta-worker{}", std::env::consts::EXE_SUFFIX);
    let program = folders.worker_dirs().into_iter().map(|dir| dir.join(&name)).find(|path| path.is_file());
    let program = program.with_context(|| {
        format!("no {name} beside this program: build it with 'cargo build --release --workspace --bins' or give --worker-dir DIR")
    })?;
    let mut command = tokio::process::Command::new(&program);
    command.arg(verb).arg("--root").arg(folders.model_root()?).arg("--model").arg(model.as_str()).args(arguments);
    if let Some(from) = from {
        command.arg("--from").arg(from);
    }
    if let Some(models) = &common.models {
        command.arg("--models").arg(models);
    }
    if common.replace {
        command.arg("--replace");
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| format!("failed to start {}", program.display()))?;
    Ok(if status.success() { Exit::Done } else { Exit::Failed })
}

fn list(folders: &Folders, json: bool) -> anyhow::Result<Exit> {
    let models = parse_manifest("models.toml", BUILT_IN_MODELS)?;
    let root = folders.model_root()?;
    let installed = Library::open(&root)?.list()?;
    if json {
        let here: Vec<_> = installed.iter().map(listed_json).collect();
        output::line(&serde_json::to_string_pretty(&json!({ "models": models, "installed": here }))?);
        return Ok(Exit::Done);
    }
    for model in &models {
        let millions = model.shape.parameters() as f64 / 1e6;
        output::line(&format!("{:<18} {millions:>6.0} M parameters  {}", model.id.as_str(), model.description));
        for found in installed.iter().filter(|found| found.artifact.model == model.id) {
            output::line(&format!("  {}", listed_line(found)));
        }
    }
    output::note(&format!("weights are kept in {}", root.display()));
    Ok(Exit::Done)
}

fn listed_line(listed: &Listed) -> String {
    let artifact = &listed.artifact;
    let state = match &listed.state {
        Ok(manifest) => format!("{:.0} MiB", manifest.weight_bytes as f64 / (1024.0 * 1024.0)),
        Err(error) => format!("broken: {error}"),
    };
    format!("{} {} {} ({state})", artifact.weights, artifact.format, artifact.precision)
}

fn listed_json(listed: &Listed) -> Value {
    json!({
        "artifact": listed.artifact,
        "folder": listed.folder,
        "weight_bytes": listed.state.as_ref().ok().map(|manifest| manifest.weight_bytes),
        "seed": listed.state.as_ref().ok().and_then(|manifest| manifest.seed),
        "error": listed.state.as_ref().err().map(ToString::to_string),
    })
}

fn verify(folders: &Folders) -> anyhow::Result<Exit> {
    let library = Library::open(&folders.model_root()?)?;
    let installed = library.list()?;
    if installed.is_empty() {
        return Err(BadInput(format!("no weights in {}", library.root().display())).into());
    }
    let mut exit = Exit::Done;
    for listed in installed {
        match library.find_hashed(&listed.artifact).and_then(|found| verify::verify(&found.path(), Tokenizer::Optional))
        {
            Ok(_) => output::line(&format!("ok      {}", listed.artifact)),
            Err(error) => {
                exit = Exit::Failed;
                output::line(&format!("broken  {}: {error}", listed.artifact));
            }
        }
    }
    Ok(exit)
}
