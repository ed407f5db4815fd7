//! `regatta models list`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use regatta_core::artifact::ArtifactRef;
use regatta_models::incoming;
use regatta_models::library::{Library, Listed};
use regatta_proto::pb;
use serde_json::{Value, json};

use super::manifest;
use crate::connect::ConnectArgs;
use crate::exit::Exit;
use crate::output;
use crate::paths::Folders;
use crate::rpc;

/// Arguments of `regatta models list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Manifest of models in place of the built-in one
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a fleet has: agents by artifact.
type Fleet = BTreeMap<ArtifactRef, Vec<String>>;

/// Lists the manifest's models and the weights that are here; with a coordinator also those of its agents.
pub(super) async fn run(args: ListArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let models = manifest::read(args.models.as_deref())?;
    let root = folders.model_root()?;
    let library = Library::open(&root)?;
    let installed = library.list()?;
    let parts = incoming::left(&library);
    let fleet = match args.connect.named() {
        Some(_) => Some(fleet(&args.connect).await?),
        None => None,
    };
    if args.json {
        output::json(&json!({
            "models": models,
            "installed": installed.iter().map(listed_json).collect::<Vec<_>>(),
            "incomplete": parts.iter().map(|(artifact, bytes)| json!({ "artifact": artifact, "bytes": bytes })).collect::<Vec<_>>(),
            "fleet": fleet.as_ref().map(fleet_json),
        }));
        return Ok(Exit::Done);
    }
    for model in &models {
        let millions = model.shape.parameters() as f64 / 1e6;
        output::line(&format!("{:<18} {millions:>6.0} M parameters  {}", model.id.as_str(), model.description));
        for found in installed.iter().filter(|found| found.artifact.model == model.id) {
            output::line(&format!("  {}", listed_line(found)));
        }
        for (artifact, bytes) in parts.iter().filter(|(artifact, _)| artifact.model == model.id) {
            let ArtifactRef { format, precision, .. } = artifact;
            output::line(&format!(
                "  real {format} {precision} (not fetched to its end: {} so far)",
                mebibytes(*bytes)
            ));
        }
        for (artifact, agents) in fleet.iter().flatten().filter(|(artifact, _)| artifact.model == model.id) {
            let ArtifactRef { weights, format, precision, .. } = artifact;
            output::line(&format!("  {weights} {format} {precision} on {}", agents.join(", ")));
        }
    }
    let known = |artifact: &ArtifactRef| models.iter().any(|model| model.id == artifact.model);
    for found in installed.iter().filter(|found| !known(&found.artifact)) {
        output::line(&format!("{:<18} not in the manifest\n  {}", found.artifact.model.as_str(), listed_line(found)));
    }
    output::note(&format!("weights are kept in {}", root.display()));
    Ok(Exit::Done)
}

async fn fleet(connect: &ConnectArgs) -> anyhow::Result<Fleet> {
    let request = rpc::request(pb::ListAgentsRequest {});
    let answer = connect.client().await?.list_agents(request).await.map_err(|status| rpc::refused(&status))?;
    Ok(by_artifact(answer.into_inner().agents))
}

/// What can't be understood comes from a newer coordinator, and is passed over.
fn by_artifact(agents: Vec<pb::Agent>) -> Fleet {
    let mut fleet = Fleet::new();
    for agent in agents {
        for artifact in agent.cached.into_iter().filter_map(|artifact| ArtifactRef::try_from(artifact).ok()) {
            fleet.entry(artifact).or_default().push(agent.id.clone());
        }
    }
    fleet
}

fn listed_line(listed: &Listed) -> String {
    let artifact = &listed.artifact;
    let state = match &listed.state {
        Ok(manifest) => {
            let state = if listed.verified { "verified" } else { "changed since it was verified" };
            let mut state = format!("{}, {state}", mebibytes(manifest.weight_bytes));
            if let Some(seed) = manifest.seed {
                let _ = write!(state, ", seed {seed}");
            }
            state
        }
        Err(error) => format!("broken: {error}"),
    };
    format!("{} {} {} ({state})", artifact.weights, artifact.format, artifact.precision)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / (1024.0 * 1024.0))
}

fn listed_json(listed: &Listed) -> Value {
    json!({
        "artifact": listed.artifact,
        "folder": listed.folder,
        "weight_bytes": listed.state.as_ref().ok().map(|manifest| manifest.weight_bytes),
        "sha256": listed.state.as_ref().ok().map(regatta_models::library::Manifest::sha256),
        "seed": listed.state.as_ref().ok().and_then(|manifest| manifest.seed),
        "verified": listed.verified,
        "error": listed.state.as_ref().err().map(ToString::to_string),
    })
}

fn fleet_json(fleet: &Fleet) -> Value {
    let entry = |(artifact, agents)| json!({ "artifact": artifact, "agents": agents });
    fleet.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_shown_by_artifact() {
        let artifact = |precision: &str| pb::ArtifactRef {
            model: "m".to_owned(),
            weights: "real".to_owned(),
            format: "gguf".to_owned(),
            precision: precision.to_owned(),
        };
        let agent = |id: &str, cached: &[&str]| pb::Agent {
            id: id.to_owned(),
            cached: cached.iter().map(|precision| artifact(precision)).collect(),
            ..pb::Agent::default()
        };
        let fleet = by_artifact(vec![agent("a", &["f16", "q8_0", "of-tomorrow"]), agent("b", &["q8_0"])]);
        let shown: Vec<String> = fleet.iter().map(|(a, agents)| format!("{a}: {}", agents.join(" "))).collect();
        assert_eq!(shown, ["m gguf f16: a", "m gguf q8_0: a b"]);
    }
}
