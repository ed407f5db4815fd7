//! `regatta gate`: the verdict on a night, kept beside it, and an exit code that says so.

mod remote;

use std::path::Path;

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use regatta_agent::builds::{self, Kept};
use regatta_agent::{AgentConfig, CanaryWhen};
use regatta_core::id::RunId;
use regatta_core::nightly::Rules;
use regatta_core::run::RunState;
use regatta_proto::pb;
use regatta_reporter::nights::{self, Gate};
use regatta_store::{RunRecord, Store, StoreError};
use uuid::Uuid;

use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::local::{Conditions, Local};
use crate::paths::{self, Folders};
use crate::signals;
use crate::source::{self, Source, SourceArgs};
use crate::threshold::Threshold;
use crate::watch::{self, Place, Screen, Watched};
use crate::{output, rpc};

const EXAMPLES: &str = "\
Examples:
  regatta run nightly.toml && regatta gate --confirm     tonight's run; what is flagged is measured again at once
  regatta gate 01935f --json | jq .slowdowns             a run by the beginning of its id
  regatta gate --format junit > gate.xml                 for a CI
  regatta gate 01935f --coordinator URL                  judged and kept by the coordinator that has the runs
  regatta verdict expected 01935f --reason '…'           what a person says to it

A night is held against the runs of the same scenario before it; docs/nightly.md says how, and how often it is wrong.

Exit codes: 0 nothing is known to be slower, 1 something failed, 2 bad input, 3 something is slower for certain";

/// How to print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For people
    Text,
    /// Everything, for programs
    Json,
    /// A test case for each metric of each cell
    Junit,
}

/// Arguments of `regatta gate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command are independent of each other")]
pub(crate) struct GateArgs {
    /// The run: its id or the beginning of it [default: the newest that has ended]
    run: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Changes below so many percent do not count; a cell that varies from night to night needs three times of that
    #[arg(long, value_name = "PERCENT", default_value = "2")]
    threshold: Threshold,
    /// Measure the cells that are flagged again, with 10 worker processes, before judging: on this machine, or where a
    /// coordinator's agents measured them; in turns with the worker of the last good night, where that was another one
    #[arg(long)]
    confirm: bool,
    /// With --confirm: measure where it is not worth it (battery, power saving, unoptimised worker); results are marked
    #[arg(long, requires = "confirm")]
    allow_unfit: bool,
    /// With --confirm: measure without watching machine and devices
    #[arg(long, requires = "confirm")]
    no_telemetry: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Kind::Text, conflicts_with = "json")]
    format: Kind,
    /// Print JSON: the same as --format json
    #[arg(long)]
    json: bool,
}

/// Judges a night.
pub(crate) async fn run(args: GateArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let rules = Rules { threshold: args.threshold.share(), ..Rules::default() };
    let gate = match args.source.source(folders).await? {
        Source::Database(path) => here(&args, &path, folders, &rules).await?,
        Source::Coordinator(client) => there(&args, client, &rules).await?,
    };
    let kind = if args.json { Kind::Json } else { args.format };
    match kind {
        Kind::Text => {
            output::text(&gate.text());
            advise(&args, &gate);
        }
        Kind::Json => output::json(&serde_json::to_value(&gate)?),
        Kind::Junit => output::text(&nights::junit(&gate)),
    }
    Ok(if gate.slowdowns > 0 { Exit::Slower } else { Exit::Done })
}

/// Judges a night in a database of this machine, and measures here what is to be measured again.
async fn here(args: &GateArgs, path: &Path, folders: &Folders, rules: &Rules) -> anyhow::Result<Gate> {
    let night = chosen(path, args.run.as_deref()).await?;
    let gate = judged(path, &night, folders, rules).await?;
    if !args.confirm || gate.to_measure.is_empty() {
        return Ok(gate);
    }
    measure_again(args, path, folders, &night, &gate, rules).await?;
    judged(path, &night, folders, rules).await
}

/// Has a coordinator judge a night; its agents measure what is to be measured again.
async fn there(args: &GateArgs, mut client: RunClient, rules: &Rules) -> anyhow::Result<Gate> {
    if args.allow_unfit || args.no_telemetry {
        let text = "--allow-unfit and --no-telemetry are about this machine: a coordinator's agents measure as they were started";
        return Err(BadInput(text.to_owned()).into());
    }
    let run = match &args.run {
        Some(run) => source::get_run(&mut client, run).await?.id,
        None => newest(source::list_runs(&mut client, 100).await?)?,
    };
    let gate = remote::judge(&mut client, &run, rules).await?;
    if !args.confirm || gate.to_measure.is_empty() {
        return Ok(gate);
    }
    ended(repeat(&mut client, &run.parse()?, &gate, rules, signals::ctrl_c()).await?)?;
    remote::judge(&mut client, &run, rules).await
}

/// The newest night of a coordinator that has ended.
fn newest(runs: Vec<pb::Run>) -> Result<String, BadInput> {
    let newest = runs.into_iter().find(|run| run.ended_at_unix_ns.is_some() && run.retry_of.is_empty());
    let none = || BadInput("no run of this coordinator has ended: start one with 'regatta submit SCENARIO'".to_owned());
    newest.map(|run| run.id).ok_or_else(none)
}

/// The run that is meant, if it is a night that can be judged.
async fn chosen(path: &Path, named: Option<&str>) -> anyhow::Result<RunRecord> {
    let reader = crate::source::open(path).await?;
    let named = if let Some(named) = named {
        named.to_owned()
    } else {
        let runs = reader.runs(100).await?;
        let newest = runs.into_iter().find(|run| run.ended_at.is_some() && run.retry_of.is_none());
        let none =
            || BadInput(format!("no run in {} has ended: start one with 'regatta run SCENARIO'", path.display()));
        newest.ok_or_else(none)?.id.to_string()
    };
    let id = reader.resolve_run(&named).await.map_err(|error| BadInput(error.to_string()))?;
    let night = reader.run(id.as_str()).await?;
    reader.close().await;
    if night.summary.state == RunState::Active {
        return Err(
            BadInput(format!("run {id} still goes on: judge it when it has ended ('regatta watch {id}')")).into()
        );
    }
    if let Some(of) = &night.summary.retry_of {
        let text = format!(
            "run {id} repeats cells of run {of}, and is no night of its own: judge that one with 'regatta gate {of}'"
        );
        return Err(BadInput(text).into());
    }
    Ok(night)
}

/// Judges a night, and keeps what is said of it, unless a coordinator has the database: then that one keeps its own. A copy of the
/// worker that measured it is kept as well, so that a later night that looks slower can be measured in turns with it.
async fn judged(path: &Path, night: &RunRecord, folders: &Folders, rules: &Rules) -> anyhow::Result<Gate> {
    let store = match Store::open(path, Timestamp::now).await {
        Ok(store) => store,
        Err(StoreError::Locked { .. }) => {
            output::note(
                "a coordinator writes to this database: the verdict is shown, and not kept; with --coordinator URL that one keeps it",
            );
            let reader = crate::source::open(path).await?;
            let to_judge = reader.to_judge(&night.summary.id).await.context("failed to judge the night")?;
            let judgement = to_judge.judge(rules);
            return Ok(nights::gate(&night.summary.name, night.summary.created_at, &to_judge, &judgement));
        }
        Err(error) => return Err(BadInput(error.to_string()).into()),
    };
    let judged = async {
        let to_judge = store.reader().to_judge(&night.summary.id).await?;
        let judgement = to_judge.judge(rules);
        store.writer().write(to_judge.keep(&judgement)?).await?;
        let (tonight, kept) = (to_judge.builds(), Kept::of(&paths::local_spool(path)));
        let most = AgentConfig::KEEP_WORKERS.get();
        builds::keep_those(&kept, &folders.worker_dirs(), most, |digest| tonight.contains(digest));
        Ok::<Gate, regatta_store::StoreError>(nights::gate(
            &night.summary.name,
            night.summary.created_at,
            &to_judge,
            &judgement,
        ))
    };
    let judged = judged.await;
    store.close().await;
    judged.context("failed to judge the night")
}

/// Measures what is flagged again, in a run that repeats these cells of the night.
async fn measure_again(
    args: &GateArgs,
    path: &Path,
    folders: &Folders,
    night: &RunRecord,
    gate: &Gate,
    rules: &Rules,
) -> anyhow::Result<()> {
    if !night.bundle.builds.is_empty() {
        let text = "this night was measured by two builds of the worker in turns: measure it again with 'regatta run --worker'";
        return Err(BadInput(text.to_owned()).into());
    }
    let (telemetry, allow_unfit) = (!args.no_telemetry, args.allow_unfit);
    let conditions = Conditions { telemetry, allow_unfit, canary: CanaryWhen::Off, cool_down: false };
    let local = Local::start(path, folders, &night.bundle.models, conditions, Vec::new()).await?;
    let (mut client, stop) = (local.client.clone(), local.stop_agent.soft.clone());
    let interrupted = async {
        signals::ctrl_c().await;
        stop.cancel();
    };
    let watched = repeat(&mut client, &night.summary.id, gate, rules, interrupted).await;
    local.stop().await?;
    ended(watched?)
}

fn ended(watched: Watched) -> anyhow::Result<()> {
    match watched {
        Watched::Ended(Exit::Done) => {}
        Watched::Ended(_) => output::note("some of these cells did not end well; the others are judged"),
        Watched::Stopped => anyhow::bail!("stopped before the cells were measured again"),
    }
    Ok(())
}

async fn repeat(
    client: &mut RunClient,
    night: &RunId,
    gate: &Gate,
    rules: &Rules,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Watched> {
    let hashes =
        gate.to_measure.iter().map(|hash| Ok(hash.parse::<regatta_core::digest::Digest>()?.as_bytes().to_vec()));
    let request = pb::RetryRunRequest {
        run_id: night.to_string(),
        new_run_id: Uuid::now_v7().to_string(),
        cell_hashes: hashes.collect::<anyhow::Result<_>>()?,
        passes: u32::try_from(rules.again).unwrap_or(u32::MAX),
        in_turns: true,
    };
    let response = client.retry_run(rpc::request(request)).await.map_err(|status| rpc::refused(&status))?;
    let pb::RetryRunResponse { run_id: run, cells_of_kept_builds: in_turns, .. } = response.into_inner();
    let turns = match in_turns {
        0 => String::new(),
        _ => format!(", {in_turns} of them in turns with the build of the last good night"),
    };
    output::note(&format!(
        "measuring again with {} worker processes: {}{turns}, in run {run}",
        rules.again,
        cells(gate)
    ));
    watch::follow(client.clone(), &run, Screen::new(false, Place::Stderr), interrupted).await
}

fn cells(gate: &Gate) -> String {
    regatta_reporter::text::count(gate.to_measure.len(), "cell")
}

/// What a person may do next.
fn advise(args: &GateArgs, gate: &Gate) {
    if !gate.to_measure.is_empty() && !args.confirm {
        output::note(&format!(
            "to be measured again: {}. 'regatta gate {} --confirm' does that here; without it the next night decides",
            cells(gate),
            gate.run
        ));
    }
    if gate.slowdowns > 0 {
        output::note(&format!(
            "say what you make of it with: regatta verdict acknowledge|expected|dismiss {} --reason …",
            gate.run
        ));
    }
}
