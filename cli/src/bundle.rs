//! Reads a scenario with all it needs into a bundle that can travel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use regatta_core::artifact::Weights;
use regatta_core::model::BUILT_IN_MODELS;
use regatta_core::policy::Passes;
use regatta_core::scenario::{self, Scenario, ScenarioBundle};

use crate::exit::BadInput;

/// Flags about the scenario, shared by `run` and `plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScenarioArgs {
    /// Weights to use in place of the scenario's choice: real or synthetic
    #[arg(long, value_name = "KIND")]
    weights: Option<Weights>,
    /// Manifest of models in place of the built-in one
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Try cells that the estimate of memory says won't fit, instead of skipping them
    #[arg(long)]
    force: bool,
    /// Worker processes that measure each cell, in place of the scenario's choice: a number, or "adaptive" for 6 to 30 until
    /// the interval of the median is within 1 %
    #[arg(long, value_name = "N|adaptive")]
    passes: Option<Passes>,
    /// One worker process a cell: a quick look, without intervals
    #[arg(long, conflicts_with = "passes")]
    quick: bool,
    /// Accept more than 2,000 cells
    #[arg(long)]
    pub allow_large: bool,
}

/// Reads `path`, the prompt files it names (relative to its folder) and the manifest.
pub(crate) fn read(path: &Path, args: &ScenarioArgs) -> Result<ScenarioBundle, BadInput> {
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut prompts = BTreeMap::new();
    for name in scenario::prompt_files(&text) {
        // A name that leaves the folder is reported with its line by the scenario's check, so it isn't read here.
        if is_inside(&name)
            && let Ok(prompt) = std::fs::read_to_string(folder.join(&name))
        {
            prompts.insert(name, prompt);
        }
    }
    let models = match &args.models {
        Some(file) => read_text(file)?,
        None => BUILT_IN_MODELS.to_owned(),
    };
    Ok(ScenarioBundle {
        file: path.display().to_string(),
        text,
        prompts,
        models,
        weights: args.weights,
        force: args.force,
        passes: if args.quick { Some(Passes::fixed(1)) } else { args.passes },
        builds: Vec::new(),
    })
}

/// Reads `path` as it is, with the built-in manifest.
pub(crate) fn plain(path: &Path) -> Result<ScenarioBundle, BadInput> {
    let args =
        ScenarioArgs { weights: None, models: None, force: false, passes: None, quick: false, allow_large: false };
    read(path, &args)
}

/// Checks the bundle; the error holds everything that is wrong with it.
pub(crate) fn check(bundle: &ScenarioBundle) -> Result<Scenario, BadInput> {
    scenario::parse(bundle).map_err(|errors| BadInput(errors.to_string()))
}

fn read_text(path: &Path) -> Result<String, BadInput> {
    std::fs::read_to_string(path).map_err(|error| BadInput(format!("failed to read {}: {error}", path.display())))
}

fn is_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
