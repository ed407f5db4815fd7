//! `regatta agent`: the service on a benchmarked machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use regatta_agent::{Agent, AgentConfig, AgentError, Shutdown};
use regatta_core::id::AgentId;

use crate::connect::ConnectArgs;
use crate::exit::{BadInput, Exit};
use crate::local;
use crate::paths::Folders;
use crate::signals;

/// Arguments of `regatta agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The agent's name among the coordinator's agents [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<AgentId>,
    /// A label for scenarios to ask for; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Folder that keeps samples until the coordinator has them [default: spool/NAME in the home folder]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

/// A label as it is typed.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE, such as gpu=h100".to_owned()),
    }
}

/// Serves the coordinator until it is told to stop: 0 after leaving in good order, 1 when it was stopped at once.
pub(crate) async fn run(args: AgentArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let shutdown = Shutdown::default();
    signals::watch("the agent", shutdown.soft.clone(), shutdown.hard.clone())?;
    let name = args.name.clone().unwrap_or_else(local::agent_id);
    let spool = args
        .spool
        .clone()
        .map_or_else(|| Ok(folders.home()?.join("spool").join(name.as_str())), Ok::<_, anyhow::Error>)?;
    std::fs::create_dir_all(&spool).with_context(|| format!("failed to make {}", spool.display()))?;
    let mut config = AgentConfig::new(name, args.connect.uri()?, folders.model_root()?, spool);
    config.worker_dirs = folders.worker_dirs();
    config.search_beside_program = false;
    config.labels = args.labels.into_iter().collect::<BTreeMap<_, _>>();
    let agent = Agent::start(config).await.map_err(bad_input)?;
    for disabled in agent.disabled_workers() {
        tracing::warn!("{disabled}");
    }
    let devices: Vec<String> = agent.devices().iter().map(|device| device.id.to_string()).collect();
    tracing::info!(devices = devices.join(", "), workers = agent.workers().len(), "agent is ready");
    let hard = shutdown.hard.clone();
    agent.run(shutdown).await.context("the agent stopped")?;
    Ok(if hard.is_cancelled() { Exit::Failed } else { Exit::Done })
}

/// What is wrong with a folder that was named is bad input.
fn bad_input(error: AgentError) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    BadInput(format!("{error:#}")).into()
}
