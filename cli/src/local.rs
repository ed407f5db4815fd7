//! This machine as a fleet of one: an embedded coordinator on a loopback port and an agent that connects to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use regatta_agent::fitness::{self, Unfit};
use regatta_agent::{Agent, AgentConfig, AgentError, CanaryWhen, CoolDown, Shutdown};
use regatta_coordinator::{Config, Coordinator, CoordinatorError};
use regatta_core::device::Device;
use regatta_core::id::{AgentId, BuildName};
use regatta_proto::pb;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

use crate::connect::{self, RunClient};
use crate::exit::BadInput;
use crate::output;
use crate::paths::{self, Folders, local_spool};

/// How long the agent may take to find its workers and connect.
const CONNECT: Duration = Duration::from_mins(1);

/// A coordinator and an agent in this process.
pub(crate) struct Local {
    /// For submitting and watching.
    pub client: RunClient,
    coordinator: JoinHandle<Result<(), CoordinatorError>>,
    agent: JoinHandle<Result<(), AgentError>>,
    stop_coordinator: CancellationToken,
    /// Tells the agent to leave.
    pub stop_agent: Shutdown,
}

/// How a person wants this machine to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Whether machine and devices are watched meanwhile.
    pub telemetry: bool,
    /// Whether it is measured even where its numbers are not worth having.
    pub allow_unfit: bool,
    /// When it is measured what its devices can do at most.
    pub canary: CanaryWhen,
    /// Whether a device gets time to cool down before each trial.
    pub cool_down: bool,
}

impl Conditions {
    fn check(self, unfit: &[Unfit]) -> Result<(), BadInput> {
        if unfit.is_empty() || self.allow_unfit {
            return Ok(());
        }
        let reasons: Vec<String> = unfit.iter().map(|reason| format!("  {reason}")).collect();
        Err(BadInput(format!(
            "this machine is not fit to measure on:\n{}\nor measure all the same with --allow-unfit: every result will be \
             marked",
            reasons.join("\n")
        )))
    }
}

impl Local {
    /// Starts both, and waits until the agent is connected.
    pub(crate) async fn start(
        database: &Path,
        folders: &Folders,
        models: &str,
        conditions: Conditions,
        builds: Vec<(BuildName, PathBuf)>,
    ) -> anyhow::Result<Self> {
        let mut unfit = fitness::of_host();
        conditions.check(&unfit)?;
        paths::make_parent(database)?;
        // There is no other agent that could do what this one fails to do, and nobody to put it back into service.
        let config = Config { quarantine_after: None, ..Config::new(database) };
        let bound = Coordinator::bind(config).await.map_err(|error| BadInput(error.to_string()))?;
        let uri: Uri = format!("http://{}", bound.addr()).parse()?;
        let stop_coordinator = CancellationToken::new();
        let coordinator = tokio::spawn(bound.serve(stop_coordinator.clone()));

        let mut config = agent_config(uri.clone(), &local_spool(database), folders, models)?;
        config.canary.when = conditions.canary;
        config.conditions = fitness::flags(&unfit);
        config.cool_down = conditions.cool_down.then(CoolDown::default);
        config.builds = builds;
        if !conditions.telemetry {
            config.telemetry = None;
        }
        let in_turns = !config.builds.is_empty();
        let agent = start_agent(config).await?;
        if let Some(words) = withheld() {
            output::note(&words);
        }
        agent.renumbered().iter().for_each(|change| output::note(change));
        if in_turns && let [disabled, ..] = agent.disabled_workers() {
            let (path, reason) = (disabled.path.display(), &disabled.reason);
            return Err(BadInput(format!("{path} can't be measured as a build of the worker: {reason}")).into());
        }
        unfit.extend(fitness::of_workers(agent.workers()));
        conditions.check(&unfit)?;
        let stop_agent = Shutdown::default();
        let agent = tokio::spawn(agent.run(stop_agent.clone()));
        let client = connect::client(uri);
        let local = Self { client, coordinator, agent, stop_coordinator, stop_agent };
        match tokio::time::timeout(CONNECT, local.connected()).await {
            Ok(Ok(true)) => Ok(local),
            Ok(Ok(false)) => {
                local.agent.await.context("the agent broke down")?.context("the agent stopped with an error")?;
                bail!("the agent stopped before it was connected")
            }
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("the agent did not connect within {} s", CONNECT.as_secs()),
        }
    }

    /// Waits for the connection; `false` where the agent has stopped instead.
    async fn connected(&self) -> anyhow::Result<bool> {
        let mut client = self.client.clone();
        loop {
            let agents = client.list_agents(pb::ListAgentsRequest {}).await?.into_inner().agents;
            if agents.iter().any(|agent| agent.connected) {
                return Ok(true);
            }
            if self.agent.is_finished() {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns when the agent has stopped.
    pub(crate) async fn agent_stopped(&self) {
        while !self.agent.is_finished() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the agent after its current repetition, then the coordinator.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop_agent.soft.cancel();
        self.agent.await.context("the agent broke down")?.context("the agent stopped with an error")?;
        self.stop_coordinator.cancel();
        self.coordinator.await.context("the coordinator broke down")?.context("the coordinator stopped with an error")
    }
}

/// What the agent of this machine has to be told.
fn agent_config(coordinator: Uri, spool: &Path, folders: &Folders, models: &str) -> anyhow::Result<AgentConfig> {
    let mut config = AgentConfig::new(agent_id(), coordinator, folders.model_root()?, spool.to_owned());
    config.worker_dirs = folders.worker_dirs();
    config.search_beside_program = false;
    // The coordinator beside it has the same model root.
    config.fetch_weights = false;
    config.canary.when = CanaryWhen::Off;
    models.clone_into(&mut config.models_manifest);
    Ok(config)
}

async fn start_agent(config: AgentConfig) -> anyhow::Result<Agent> {
    Agent::start(config).await.context("failed to start the agent")
}

/// This machine's agent for a look at its devices and workers; it never runs.
pub(crate) async fn look(folders: &Folders) -> anyhow::Result<(Agent, tempfile::TempDir)> {
    let spool = tempfile::tempdir().context("failed to make a temporary folder")?;
    let nowhere = Uri::from_static("http://127.0.0.1:1");
    let mut config = agent_config(nowhere, spool.path(), folders, regatta_core::model::BUILT_IN_MODELS)?;
    // A look makes no folders of this person's.
    config.model_root = spool.path().join("models");
    Ok((start_agent(config).await?, spool))
}

/// The devices of this machine.
pub(crate) async fn devices(folders: &Folders) -> anyhow::Result<Vec<Device>> {
    let (agent, _spool) = look(folders).await?;
    Ok(agent.devices().to_vec())
}

/// The host's name made into an agent's name.
pub(crate) fn agent_id() -> AgentId {
    let host = regatta_agent::devices::host().remove("hostname").unwrap_or_default();
    let plain: String = host
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' })
        .take(regatta_core::id::MAX_NAME)
        .collect();
    plain.parse().or_else(|_| "local".parse()).unwrap_or_else(|_| unreachable!("'local' is a valid name"))
}

/// Which variables of this process workers don't get, where there are any.
pub(crate) fn withheld() -> Option<String> {
    let names = Some(regatta_agent::devices::environment_withheld()).filter(|names| !names.is_empty())?;
    Some(format!("not passed on to workers: {names} (even empty they change what is measured; this is recorded)"))
}

/// The folder of a database, for messages.
pub(crate) fn shown(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
