//! `regatta agent`: the service on a benchmarked machine.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgMatches, Args, ValueEnum};
use regatta_agent::fitness;
use regatta_agent::{Agent, AgentConfig, AgentError, CanaryConfig, CanaryWhen, CoolDown, Shutdown};
use regatta_core::id::AgentId;
use serde::{Deserialize, Serialize};

use crate::connect::{self, ConnectArgs};
use crate::exit::{BadInput, Exit};
use crate::local;
use crate::logs::{self, LogArgs};
use crate::output;
use crate::paths::Folders;
use crate::settings::{self, FileArgs};
use crate::signals;

/// The file of settings in the home folder.
const FILE: &str = "agent.toml";

/// How long a canary takes.
const CANARY_SECONDS: u32 = 10;

/// A canary longer than this tells nothing more.
const MAX_CANARY_SECONDS: u32 = 600;

/// Arguments of `regatta agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    settings: AgentSettings,
    #[command(flatten)]
    file: FileArgs,
}

/// The longest wait for a device to cool down, and how near it has to come to what it was at rest.
const COOL_DOWN_SECONDS: u32 = 120;
const COOL_DOWN_DEGREES: u32 = 5;

/// What can be set by flags, by the environment and in the file.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AgentSettings {
    #[command(flatten)]
    #[serde(flatten)]
    connect: ConnectArgs,
    /// The agent's name among the coordinator's agents [default: the host's name]
    #[arg(long, value_name = "NAME", env = "REGATTA_AGENT_NAME")]
    name: Option<AgentId>,
    /// A label for scenarios to ask for; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = checked_label, env = "REGATTA_AGENT_LABEL", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    label: Vec<String>,
    /// Folder that keeps samples until the coordinator has them [default: spool/NAME in the home folder]
    #[arg(long, value_name = "DIR", env = "REGATTA_AGENT_SPOOL")]
    spool: Option<PathBuf>,
    /// The most that it may hold, in bytes [default: 2 GiB]
    #[arg(long, value_name = "BYTES", env = "REGATTA_AGENT_SPOOL_QUOTA")]
    spool_quota: Option<u64>,
    /// Copies of each worker program to keep beside it, the newest, so that a night that looks slower can be measured in turns with
    /// the build of a good one; 0 keeps none [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=100), env = "REGATTA_AGENT_KEEP_WORKERS")]
    keep_workers: Option<u32>,
    /// When to measure what the devices can do at most, before connecting [default: start]
    #[arg(long, value_enum, value_name = "WHEN", env = "REGATTA_AGENT_CANARY")]
    canary: Option<Canary>,
    /// About how long that takes for each device, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", env = "REGATTA_AGENT_CANARY_SECONDS")]
    canary_seconds: Option<u32>,
    /// Watch machine and devices while a trial is measured: clocks, temperature, load by others [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", env = "REGATTA_AGENT_TELEMETRY")]
    telemetry: Option<bool>,
    /// How many times a second they are read, 1 to 100 [default: 10]
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..=100), env = "REGATTA_AGENT_TELEMETRY_RATE")]
    telemetry_rate: Option<u32>,
    /// Before a trial wait this long at most, in seconds, until its device is about as cool as at rest; 0 never waits [default: 120]
    #[arg(long, value_name = "SECONDS", env = "REGATTA_AGENT_COOL_DOWN")]
    cool_down: Option<u32>,
    /// How many degrees Celsius above that is cool enough [default: 5]
    #[arg(long, value_name = "DEGREES", env = "REGATTA_AGENT_COOL_DOWN_DEGREES")]
    cool_down_degrees: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    log: LogArgs,
}

/// When an agent measures its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Canary {
    /// At each start
    Start,
    /// At a start, unless it was done within the last 24 hours
    Daily,
    /// Never
    Off,
}

impl From<Canary> for CanaryWhen {
    fn from(canary: Canary) -> Self {
        match canary {
            Canary::Start => Self::Start,
            Canary::Daily => Self::Daily,
            Canary::Off => Self::Off,
        }
    }
}

/// A label as it is typed.
fn label(text: &str) -> Result<(String, String), BadInput> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            let shown = regatta_core::id::shown(text);
            Err(BadInput(format!("label '{shown}' is not KEY=VALUE, such as gpu=h100")))
        }
    }
}

fn checked_label(text: &str) -> Result<String, BadInput> {
    label(text).map(|_| text.to_owned())
}

fn defaults() -> AgentSettings {
    AgentSettings {
        connect: ConnectArgs { coordinator: Some(connect::DEFAULT.to_owned()), ..ConnectArgs::default() },
        name: Some(local::agent_id()),
        spool_quota: Some(AgentConfig::SPOOL_QUOTA),
        keep_workers: u32::try_from(AgentConfig::KEEP_WORKERS.get()).ok(),
        canary: Some(Canary::Start),
        canary_seconds: Some(CANARY_SECONDS),
        telemetry: Some(true),
        telemetry_rate: Some(AgentConfig::TELEMETRY_HZ.get()),
        cool_down: Some(COOL_DOWN_SECONDS),
        cool_down_degrees: Some(COOL_DOWN_DEGREES),
        log: LogArgs { log: Some("info".to_owned()), log_format: Some(logs::Format::Human) },
        ..AgentSettings::default()
    }
}

impl AgentSettings {
    /// Readings a second. A flag is checked when it is parsed, a file only here.
    fn telemetry_hz(&self) -> Result<Option<NonZeroU32>, BadInput> {
        let Some(rate) = self.telemetry_rate else { return Ok(Some(AgentConfig::TELEMETRY_HZ)) };
        match NonZeroU32::new(rate) {
            Some(hz) if rate <= 100 => Ok(Some(hz)),
            _ => Err(BadInput(format!("telemetry_rate is {rate}, but must be 1 to 100 readings a second"))),
        }
    }

    /// The wait for a device to cool down; `None` where nobody is to wait.
    fn cool_down(&self) -> Option<CoolDown> {
        let above_rest_c = self.cool_down_degrees.unwrap_or(COOL_DOWN_DEGREES).into();
        let at_most = Duration::from_secs(self.cool_down.unwrap_or(COOL_DOWN_SECONDS).into());
        (!at_most.is_zero()).then_some(CoolDown { above_rest_c, at_most })
    }

    fn config(&self, folders: &Folders) -> anyhow::Result<AgentConfig> {
        let name = self.name.clone().unwrap_or_else(local::agent_id);
        let spool = match &self.spool {
            Some(spool) => spool.clone(),
            None => folders.home()?.join("spool").join(name.as_str()),
        };
        let mut config = AgentConfig::new(name, self.connect.connection()?, folders.model_root()?, spool);
        config.spool_quota = self.spool_quota.unwrap_or(config.spool_quota);
        config.keep_workers = match self.keep_workers {
            None => Some(AgentConfig::KEEP_WORKERS),
            Some(count) => NonZeroUsize::new(usize::try_from(count)?),
        };
        config.telemetry = if self.telemetry == Some(false) { None } else { self.telemetry_hz()? };
        config.cool_down = self.cool_down();
        config.worker_dirs = folders.worker_dirs();
        config.search_beside_program = false;
        config.canary = CanaryConfig {
            when: self.canary.unwrap_or(Canary::Start).into(),
            time: Duration::from_secs(self.canary_seconds.unwrap_or(CANARY_SECONDS).min(MAX_CANARY_SECONDS).into()),
        };
        config.labels = self.label.iter().map(|text| label(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok(config)
    }
}

/// Serves the coordinator until it is told to stop: 0 after leaving in good order, 1 when it was stopped at once.
pub(crate) async fn run(args: AgentArgs, matches: &ArgMatches, folders: &Folders, verbose: u8) -> anyhow::Result<Exit> {
    let file = folders.home()?.join(FILE);
    let settings = settings::resolve(&args.settings, matches, &args.file, &file, &defaults())?;
    if args.file.print_config {
        output::text(&settings.shown());
        if settings.value.connect.token_file.is_none() && std::env::var_os(connect::TOKEN).is_some() {
            output::line(&format!("# token: set, from environment {}", connect::TOKEN));
        }
        return Ok(Exit::Done);
    }
    let mut config = settings.value.config(folders)?;
    logs::start_service(&settings.value.log, verbose)?;
    let shutdown = Shutdown::default();
    signals::watch("the agent", shutdown.soft.clone(), shutdown.hard.clone())?;
    let spool = &config.spool_dir;
    std::fs::create_dir_all(spool).with_context(|| format!("failed to make {}", spool.display()))?;
    let on_host = fitness::of_host();
    config.conditions = fitness::flags(&on_host);
    let agent = Agent::start(config).await.map_err(bad_input)?;
    for reason in on_host.into_iter().chain(fitness::of_workers(agent.workers())) {
        tracing::warn!("this machine is not fit to measure on, results will be marked: {reason}");
    }
    if let Some(words) = local::withheld() {
        tracing::warn!("{words}");
    }
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
