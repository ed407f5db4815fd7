//! `regatta run`: a scenario in, samples in a database, a report out; on this machine, or on a coordinator's fleet.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use regatta_agent::CanaryWhen;
use regatta_core::id::{BuildName, RunId, shown};
use regatta_core::scenario::ScenarioBundle;
use regatta_proto::pb;
use regatta_store::Reader;

use crate::bundle::{self, ScenarioArgs};
use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::local::{Conditions, Local};
use crate::paths::Folders;
use crate::report;
use crate::signals;
use crate::source::{self, DatabaseArgs, Source, SourceArgs};
use crate::submit::{self, PriorityArgs};
use crate::watch::{self, Place, Screen, Watched};
use crate::{compare, output, rpc};

const EXAMPLES: &str = "\
Examples:
  regatta run scenarios/demo.toml                            on this machine; nothing else is needed
  regatta run scenarios/tinyllama.toml --weights synthetic   made-up weights of the right shape
  regatta run nightly.toml --coordinator https://bench:7600  on a fleet: submit, watch, report
  regatta run --resume                                       go on with the last run that was broken off
  regatta run demo.toml --worker base=a/regatta-worker --worker candidate=b/regatta-worker
                                                             two builds of the worker in turns, compared in pairs

Ctrl-C here ends a run after the current repetition; with --coordinator it ends only the watching.
Exit codes: 0 all cells ok, 1 something failed, 2 bad input, 4 some cells are not ok or it was stopped";

/// A build of the worker program and its name.
#[derive(Debug, Clone)]
struct NamedWorker {
    name: BuildName,
    path: PathBuf,
}

impl FromStr for NamedWorker {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let (name, path) = text.split_once('=').ok_or_else(|| {
            BadInput(format!("'{}' is not NAME=FILE, such as candidate=target/release/regatta-worker", shown(text)))
        })?;
        let name = name.parse().map_err(|error: regatta_core::id::InvalidName| BadInput(error.to_string()))?;
        let absent = |error: std::io::Error| BadInput(format!("there is no worker program at {path}: {error}"));
        Ok(Self { name, path: Path::new(path).canonicalize().map_err(absent)? })
    }
}

/// Arguments of `regatta run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command are independent of each other")]
pub(crate) struct RunArgs {
    /// The scenario file
    #[arg(required_unless_present = "resume")]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    options: ScenarioArgs,
    #[command(flatten)]
    priority: PriorityArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Folder for the report [default: regatta-out/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was broken off: the one named, or the last
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "", conflicts_with = "scenario")]
    resume: Option<String>,
    /// Measure two builds of the worker in turns (A, B, B, A, …) and compare them in pairs: give it twice
    #[arg(long = "worker", value_name = "NAME=FILE", conflicts_with = "coordinator")]
    workers: Vec<NamedWorker>,
    /// First measure for some ten seconds what this machine's devices can do at most; --coordinator's agents have done so
    #[arg(long, conflicts_with = "coordinator")]
    canary: bool,
    /// Measure without watching machine and devices (clocks, temperature, load by others, …)
    #[arg(long)]
    no_telemetry: bool,
    /// Before each trial wait until its device is about as cool as at rest, two minutes at most
    #[arg(long, conflicts_with = "no_telemetry")]
    cool_down: bool,
    /// Measure on a battery, in power-saving mode or with a worker that is not optimised; results are marked
    #[arg(long)]
    allow_unfit: bool,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
}

/// Runs a scenario, or the rest of a run, and reports.
pub(crate) async fn run(args: RunArgs, folders: &Folders) -> anyhow::Result<Exit> {
    match args.source.source(folders).await? {
        Source::Database(database) => here(args, &database, folders).await,
        Source::Coordinator(client) => elsewhere(args, client).await,
    }
}

/// On this machine: a coordinator and an agent in this process.
async fn here(args: RunArgs, database: &Path, folders: &Folders) -> anyhow::Result<Exit> {
    let job = Job::of(&args, database).await?;
    let builds = args.workers.iter().map(|worker| (worker.name.clone(), worker.path.clone())).collect();
    let canary = if args.canary { CanaryWhen::Start } else { CanaryWhen::Off };
    let (telemetry, cool_down) = (!args.no_telemetry, args.cool_down);
    let conditions = Conditions { telemetry, allow_unfit: args.allow_unfit, canary, cool_down };
    let mut local = Local::start(database, folders, &job.bundle().models, conditions, builds).await?;
    let id: RunId = job.queue(&mut local.client, &args).await?.parse()?;
    let screen = Screen::new(args.json, Place::Stderr);
    let watched = watch::follow(local.client.clone(), id.as_str(), screen, stopped(&local)).await;
    local.stop().await?;
    let watched = watched?;
    if let Watched::Stopped = watched {
        output::note(&format!(
            "stopped; what is measured is kept. Go on with: regatta run --resume {id}{}",
            flag(&args.source.database)
        ));
    }
    let out = args.out.unwrap_or_else(|| report::folder(id.as_str()));
    let reader = source::open(database).await?;
    let dataset = regatta_reporter::load_for_page(&reader, std::slice::from_ref(&id)).await?;
    report::write(&dataset, database, &out, args.json)?;
    compare::in_turns(&dataset.runs, args.json);
    Ok(watched.exit())
}

/// On a fleet: submit, watch, fetch, report.
async fn elsewhere(args: RunArgs, mut client: RunClient) -> anyhow::Result<Exit> {
    if !args.workers.is_empty() {
        let why = "an agent runs only workers that its owner gave it";
        return Err(BadInput(format!("--worker is for a run on this machine: {why}")).into());
    }
    if args.no_telemetry {
        let instead = "on a fleet each agent decides: start it with --telemetry false";
        return Err(BadInput(format!("--no-telemetry is for a run on this machine; {instead}")).into());
    }
    if args.cool_down {
        let instead = "on a fleet each agent decides, and waits unless it was started with --cool-down 0";
        return Err(BadInput(format!("--cool-down is for a run on this machine; {instead}")).into());
    }
    let id = match &args.resume {
        Some(run) => resume(&mut client, run).await?,
        None => submit::queue(&mut client, new_bundle(&args)?, args.options.allow_large, args.priority).await?,
    };
    if !args.json {
        output::note(&format!("run {id}"));
    }
    let screen = Screen::new(args.json, Place::Stderr);
    let watched = watch::remotely(client.clone(), &id, screen).await?;
    if let Watched::Ended(_) = watched {
        let out = args.out.unwrap_or_else(|| report::folder(&id));
        let (dataset, file) = report::fetch(&mut client, &id, &out.join("run.sqlite")).await?;
        report::write(&dataset, &file, &out, args.json)?;
    }
    Ok(watched.exit())
}

/// Done when the agent has stopped because a person wants it to.
async fn stopped(local: &Local) {
    signals::ctrl_c().await;
    output::note("stopping after the current repetition (Ctrl-C again stops at once) …");
    local.stop_agent.soft.cancel();
    loop {
        tokio::select! {
            () = signals::ctrl_c() => local.stop_agent.hard.cancel(),
            () = local.agent_stopped() => break,
        }
    }
}

/// The `--db` that was given, to be repeated in advice.
fn flag(database: &DatabaseArgs) -> String {
    database.db.as_ref().map_or_else(String::new, |path| format!(" --db {}", path.display()))
}

fn new_bundle(args: &RunArgs) -> anyhow::Result<ScenarioBundle> {
    let path = args.scenario.as_deref().context("no scenario was given")?;
    let mut bundle = bundle::read(path, &args.options)?;
    bundle.builds = args.workers.iter().map(|worker| worker.name.clone()).collect();
    bundle::check(&bundle)?;
    Ok(bundle)
}

/// What is to be done.
enum Job {
    New(ScenarioBundle),
    Resume(RunId, ScenarioBundle),
}

impl Job {
    /// Everything that can be wrong with the input is found here, before anything is started.
    async fn of(args: &RunArgs, database: &Path) -> anyhow::Result<Self> {
        let Some(run) = &args.resume else { return Ok(Self::New(new_bundle(args)?)) };
        let reader = source::open(database).await?;
        let id = resumable(&reader, run).await?;
        let bundle = reader.run(id.as_str()).await?.bundle;
        same_builds(&bundle.builds, &args.workers)?;
        Ok(Self::Resume(id, bundle))
    }

    fn bundle(&self) -> &ScenarioBundle {
        match self {
            Self::New(bundle) | Self::Resume(_, bundle) => bundle,
        }
    }

    /// Hands it to the coordinator.
    async fn queue(self, client: &mut RunClient, args: &RunArgs) -> anyhow::Result<String> {
        match self {
            Self::New(bundle) => submit::queue(client, bundle, args.options.allow_large, args.priority).await,
            Self::Resume(id, _) => resume(client, id.as_str()).await,
        }
    }
}

/// Whether those of a run that was broken off are named again: where they are is stored nowhere.
fn same_builds(builds: &[BuildName], workers: &[NamedWorker]) -> Result<(), BadInput> {
    let named: Vec<&BuildName> = workers.iter().map(|worker| &worker.name).collect();
    if builds.iter().collect::<Vec<_>>() == named {
        return Ok(());
    }
    let again: Vec<String> = builds.iter().map(|build| format!("--worker {build}=FILE")).collect();
    Err(BadInput(if builds.is_empty() {
        "the run measures one worker: leave --worker out".to_owned()
    } else {
        format!(
            "the run measures builds of the worker in turns: name them again, in this order, with {}",
            again.join(" ")
        )
    }))
}

/// Queues again what a run has not finished: the run that was named, or the newest that has not ended.
async fn resume(client: &mut RunClient, named: &str) -> anyhow::Result<String> {
    let run = if named.is_empty() {
        let runs = source::list_runs(client, 100).await?;
        runs.into_iter().find(|run| run.state == "active").ok_or_else(nothing_to_resume)?
    } else {
        source::get_run(client, named).await?
    };
    let request = rpc::request(pb::ResumeRunRequest { run_id: run.id.clone() });
    client.resume_run(request).await.map_err(|status| rpc::refused(&status))?;
    Ok(run.id)
}

async fn resumable(reader: &Reader, named: &str) -> anyhow::Result<RunId> {
    if !named.is_empty() {
        return Ok(reader.resolve_run(named).await.map_err(|error| BadInput(error.to_string()))?);
    }
    let runs = reader.runs(100).await?;
    Ok(runs.into_iter().find(|run| run.ended_at.is_none()).ok_or_else(nothing_to_resume)?.id)
}

fn nothing_to_resume() -> BadInput {
    BadInput("no run in this database is waiting to be resumed".to_owned())
}
