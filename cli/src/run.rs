//! `regatta run`: a scenario in, samples in the database, a report out, on this machine.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use regatta_core::id::RunId;
use regatta_core::scenario::ScenarioBundle;
use regatta_proto::pb;
use regatta_store::Reader;
use uuid::Uuid;

use crate::bundle::{self, ScenarioArgs};
use crate::exit::{BadInput, Exit};
use crate::local::Local;
use crate::output;
use crate::paths::Folders;
use crate::progress::{Progress, Style};
use crate::report;
use crate::runs::DatabaseArgs;

/// Arguments of `regatta run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The scenario file
    #[arg(required_unless_present = "resume")]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    options: ScenarioArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Folder for the report [default: regatta-out/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was broken off: the one named, or the last
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "", conflicts_with = "scenario")]
    resume: Option<String>,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
}

/// Runs a scenario, or the rest of a run, and reports.
pub(crate) async fn run(args: RunArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let database = folders.database(args.database.db.as_deref())?;
    let job = Job::of(&args, &database).await?;
    let mut local = Local::start(&database, folders, &job.bundle().models).await?;
    let id = job.queue(&mut local, args.options.allow_large).await?;
    let reader = crate::runs::open(&database).await?;
    let ended = watch(&mut local, &reader, &id, style(args.json)).await?;
    local.stop().await?;
    let out = args.out.unwrap_or_else(|| Path::new("regatta-out").join(id.as_str()));
    if !ended {
        output::note(&format!(
            "stopped; what is measured is kept. Go on with: regatta run --resume {id}{}",
            flag(&args.database)
        ));
    }
    report::write(&reader, &database, std::slice::from_ref(&id), &out, args.json).await?;
    exit_code(&reader, &id, ended).await
}

/// The `--db` that was given, to be repeated in advice.
fn flag(database: &DatabaseArgs) -> String {
    database.db.as_ref().map_or_else(String::new, |path| format!(" --db {}", path.display()))
}

fn style(json: bool) -> Style {
    match (json, std::io::stderr().is_terminal()) {
        (true, _) => Style::Json,
        (false, true) => Style::Bar,
        (false, false) => Style::Lines,
    }
}

/// What is to be done.
enum Job {
    New(ScenarioBundle),
    Resume(RunId, ScenarioBundle),
}

impl Job {
    /// Everything that can be wrong with the input is found here, before anything is started.
    async fn of(args: &RunArgs, database: &Path) -> anyhow::Result<Self> {
        if let Some(run) = &args.resume {
            let reader = crate::runs::open(database).await?;
            let id = resumable(&reader, run).await?;
            let bundle = reader.run(id.as_str()).await?.bundle;
            return Ok(Self::Resume(id, bundle));
        }
        let path = args.scenario.as_deref().context("no scenario was given")?;
        let bundle = bundle::read(path, &args.options)?;
        bundle::check(&bundle)?;
        Ok(Self::New(bundle))
    }

    fn bundle(&self) -> &ScenarioBundle {
        match self {
            Self::New(bundle) | Self::Resume(_, bundle) => bundle,
        }
    }

    /// Hands it to the coordinator.
    async fn queue(self, local: &mut Local, allow_large: bool) -> anyhow::Result<RunId> {
        match self {
            Self::New(bundle) => {
                let run_id = Uuid::now_v7().to_string();
                let request = pb::SubmitRunRequest {
                    scenario: Some(bundle.into()),
                    allow_large,
                    run_id: run_id.clone(),
                    priority: 0,
                };
                local.client.submit_run(request).await.map_err(|status| refused(&status))?;
                Ok(run_id.parse()?)
            }
            Self::Resume(id, _) => {
                let request = pb::ResumeRunRequest { run_id: id.to_string() };
                local.client.resume_run(request).await.map_err(|status| refused(&status))?;
                Ok(id)
            }
        }
    }
}

/// What the coordinator said, without the transport's words around it.
fn refused(status: &tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::FailedPrecondition => {
            BadInput(status.message().to_owned()).into()
        }
        code => anyhow::anyhow!("{} ({code})", status.message()),
    }
}

/// The run that was named, or the newest that has not ended.
async fn resumable(reader: &Reader, named: &str) -> anyhow::Result<RunId> {
    if !named.is_empty() {
        return Ok(reader.resolve_run(named).await.map_err(|error| BadInput(error.to_string()))?);
    }
    let runs = reader.runs(100).await?;
    let open = runs.into_iter().find(|run| run.ended_at.is_none());
    Ok(open.ok_or_else(|| BadInput("no run in this database is waiting to be resumed".to_owned()))?.id)
}

/// Shows the run's events until it has ended. Returns `false` where a person stopped it before.
async fn watch(local: &mut Local, reader: &Reader, id: &RunId, style: Style) -> anyhow::Result<bool> {
    let cells = reader.cells(id).await?;
    let repetitions = reader.run(id.as_str()).await?.policy.repetitions;
    let ended = cells.iter().filter(|cell| cell.outcome.is_some()).count();
    let labels: HashMap<Vec<u8>, String> = cells
        .iter()
        .map(|record| {
            let cell = &record.cell;
            let label = format!("{} {} {}", cell.backend, cell.artifact.precision, cell.workload.name);
            (record.hash.0.as_bytes().to_vec(), label)
        })
        .collect();
    let mut progress = Progress::new(style, labels, repetitions, cells.len() as u64, ended as u64);
    let request = pb::WatchRunRequest { run_id: id.to_string() };
    let mut events = local.client.watch_run(request).await?.into_inner();
    let mut interrupted = false;
    loop {
        tokio::select! {
            event = events.message() => match event? {
                Some(event) => {
                    progress.event(&event);
                    if event.run.is_some_and(|run| run.state != "active") {
                        progress.finish();
                        return Ok(true);
                    }
                }
                None => break,
            },
            signal = tokio::signal::ctrl_c() => {
                signal?;
                if interrupted {
                    local.stop_agent.hard.cancel();
                } else {
                    interrupted = true;
                    output::note("stopping after the current repetition (Ctrl-C again stops at once) …");
                    local.stop_agent.soft.cancel();
                }
            }
            () = local.agent_stopped(), if interrupted => break,
        }
    }
    progress.finish();
    Ok(false)
}

/// 0 where all cells are ok, 4 where some failed or the run was stopped.
async fn exit_code(reader: &Reader, id: &RunId, ended: bool) -> anyhow::Result<Exit> {
    let cells = reader.run(id.as_str()).await?.summary.cells;
    let good =
        cells.iter().filter(|(state, _)| matches!(state.as_str(), "ok" | "skipped")).map(|(_, n)| n).sum::<u32>();
    let all = cells.values().sum::<u32>();
    Ok(if ended && good == all { Exit::Done } else { Exit::Incomplete })
}
