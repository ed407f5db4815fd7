//! `regatta models`: what weights are here, and fetching, making, converting, quantising and
//! verifying them.
//!
//! Here are the commands and their flags; what they do has a file each.

mod list;
mod manifest;
mod prune;
mod pull;
mod synth;
mod verify;
mod worker;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use regatta_core::artifact::{Format, Precision};
use regatta_core::id::ModelId;

use crate::exit::Exit;
use crate::paths::Folders;

/// `regatta models …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the manifest's models and the weights that are here
    List(list::ListArgs),
    /// Fetch weights: from where the manifest says, from an address, a file, or the coordinator
    #[command(after_help = pull::EXAMPLES)]
    Pull(pull::PullArgs),
    /// Remove weights that are not used
    #[command(after_help = prune::EXAMPLES)]
    Prune(prune::PruneArgs),
    /// Make seeded random weights in a model's exact shape
    Synth(synth::Synth),
    /// Turn safetensors into GGUF or back, dequantising and quantising as needed, or either into an ONNX graph
    Convert {
        /// The model's id
        model: ModelId,
        /// A GGUF file, or a folder of safetensors with config.json
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
        /// safetensors, gguf or onnx
        #[arg(long, visible_alias = "to")]
        format: Format,
        /// f32 or f16; for gguf and safetensors also bf16, for gguf `q8_0`, `q4_1`, `q4_k_m`
        #[arg(long)]
        precision: Precision,
        #[command(flatten)]
        common: Common,
    },
    /// Quantise safetensors or GGUF to GGUF, as llama.cpp does it
    Quantize {
        /// The model's id
        model: ModelId,
        /// A GGUF file, or a folder of safetensors with config.json
        #[arg(long, value_name = "PATH")]
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
        ModelsCommand::List(args) => list::run(args, folders).await,
        ModelsCommand::Pull(args) => pull::run(args, folders).await,
        ModelsCommand::Prune(args) => prune::run(&args, folders),
        ModelsCommand::Verify => verify::run(folders),
        ModelsCommand::Synth(command) => synth::run(&command, folders).await,
        ModelsCommand::Convert { model, from, format, precision, common } => {
            let arguments =
                ["--format".to_owned(), format.to_string(), "--precision".to_owned(), precision.to_string()];
            worker::run(folders, "convert", &model, Some(from), &arguments, &common).await
        }
        ModelsCommand::Quantize { model, from, precision, common } => {
            let arguments = ["--precision".to_owned(), precision.to_string()];
            worker::run(folders, "quantize", &model, Some(from), &arguments, &common).await
        }
    }
}
