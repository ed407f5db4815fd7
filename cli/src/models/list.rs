//! `regatta models list`.

use regatta_core::model::{BUILT_IN_MODELS, parse_manifest};
use regatta_models::library::{Library, Listed};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output;
use crate::paths::Folders;

/// Lists the manifest's models and the weights that are here.
pub(super) fn run(folders: &Folders, json: bool) -> anyhow::Result<Exit> {
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
