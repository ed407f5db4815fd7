//! `regatta verdict`: what a person says to a night.

use std::path::Path;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use regatta_core::cell::CellHash;
use regatta_core::id::RunId;
use regatta_proto::pb;
use regatta_store::{Answer, AnswerVerdicts, ExcludeNight, Reader, Store, StoreError};
use serde_json::json;

use crate::cells::{self, Named};
use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::rpc;
use crate::source::{self, Source, SourceArgs};
use crate::view::CellView;

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

const EXAMPLES: &str = "\
Examples:
  regatta verdict acknowledge 01935f --reason 'see issue 812'
  regatta verdict expected 01935f tinyllama candle --reason 'sampling moved to the host'
  regatta verdict exclude 01935f --reason 'the fans were being replaced'";

/// What a person says.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum VerdictCommand {
    /// Somebody has seen what is slower or faster
    Acknowledge(AnswerArgs),
    /// The change was to be expected: a new level begins with that run
    Expected(AnswerArgs),
    /// There is no change: the old level goes on
    Dismiss(AnswerArgs),
    /// Take a whole night out: it is judged no more, and nothing is held against it
    Exclude(ExcludeArgs),
    /// Put a night back that was taken out
    Include(NightArgs),
}

/// Which verdicts, and why.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// The run: its id or the beginning of it
    run: String,
    /// Words of the cell's name, or the beginning of its hash [default: all that moved]
    #[arg(value_name = "CELL")]
    cell: Vec<String>,
    /// Why: stored, and shown wherever the verdict is
    #[arg(long, value_parser = reason)]
    reason: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which night, and why.
#[derive(Debug, Args)]
pub(crate) struct ExcludeArgs {
    #[command(flatten)]
    night: NightArgs,
    /// Why: stored, and shown in histories
    #[arg(long, value_parser = reason)]
    reason: String,
}

/// Which night.
#[derive(Debug, Args)]
pub(crate) struct NightArgs {
    /// The run: its id or the beginning of it
    run: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A person's reason, without what can't be printed.
pub(crate) fn reason(text: &str) -> Result<String, BadInput> {
    let text = regatta_reporter::text::reason(text);
    match text.chars().count() {
        0 => Err(BadInput("say why: a reason has at least one character".to_owned())),
        1..MAX_REASON => Ok(text),
        _ => Err(BadInput(format!("that is too long: write a reason of less than {MAX_REASON} characters"))),
    }
}

/// Keeps what a person says.
pub(crate) async fn run(command: VerdictCommand, folders: &Folders) -> anyhow::Result<Exit> {
    match command {
        VerdictCommand::Acknowledge(args) => answer(args, Answer::Acknowledged, folders).await,
        VerdictCommand::Expected(args) => answer(args, Answer::Expected, folders).await,
        VerdictCommand::Dismiss(args) => answer(args, Answer::Dismissed, folders).await,
        VerdictCommand::Exclude(ExcludeArgs { night, reason }) => exclude(&night, Some(reason), folders).await,
        VerdictCommand::Include(night) => exclude(&night, None, folders).await,
    }
}

async fn answer(args: AnswerArgs, answer: Answer, folders: &Folders) -> anyhow::Result<Exit> {
    let (run, answered) = match args.source.source(folders).await? {
        Source::Database(path) => here(&path, async |store| answer_here(store, &args, answer).await).await?,
        Source::Coordinator(client) => answer_there(client, &args, answer).await?,
    };
    if answered == 0 {
        let text = format!("nothing of run {run} has moved, as far as it was judged: 'regatta gate {run}' judges it");
        return Err(BadInput(text).into());
    }
    if args.json {
        output::json(&json!({ "run": run.as_str(), "answer": answer.as_str(), "verdicts": answered }));
    } else {
        let plural = if answered == 1 { "" } else { "s" };
        output::line(&format!("{answered} verdict{plural} of run {run} {}", answer.as_str()));
    }
    Ok(Exit::Done)
}

async fn exclude(night: &NightArgs, reason: Option<String>, folders: &Folders) -> anyhow::Result<Exit> {
    let NightArgs { run, source, json } = night;
    let excluded = reason.is_some();
    let run = match source.source(folders).await? {
        Source::Database(path) => {
            here(&path, async |store| {
                let run = resolve(store.reader(), run).await?;
                store.writer().write(ExcludeNight { run: run.clone(), reason: reason.clone() }).await?;
                Ok(run)
            })
            .await?
        }
        Source::Coordinator(mut client) => {
            let run = source::get_run(&mut client, run).await?.id;
            let request = pb::ExcludeNightRequest { run_id: run.clone(), reason: reason.unwrap_or_default() };
            client.exclude_night(rpc::request(request)).await.map_err(|status| rpc::refused(&status))?;
            run.parse()?
        }
    };
    if *json {
        output::json(&json!({ "run": run.as_str(), "excluded": excluded }));
    } else {
        output::line(&format!("run {run} is {}", if excluded { "taken out" } else { "a night again" }));
    }
    Ok(Exit::Done)
}

/// Does something with a database here, and closes it.
async fn here<T>(path: &Path, what: impl AsyncFnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    // An error message of its own where there is none: opening would make one.
    source::open(path).await?.close().await;
    let store = Store::open(path, Timestamp::now).await.map_err(|error| match error {
        StoreError::Locked { .. } => BadInput(format!("{error}; or tell that coordinator, with --coordinator URL")),
        other => BadInput(other.to_string()),
    })?;
    let done = what(&store).await;
    store.close().await;
    done
}

async fn answer_here(store: &Store, args: &AnswerArgs, answer: Answer) -> anyhow::Result<(RunId, u64)> {
    let run = resolve(store.reader(), &args.run).await?;
    let cell = if args.cell.is_empty() { None } else { Some(cell(store.reader(), &run, &args.cell).await?) };
    let change = AnswerVerdicts { run: run.clone(), cell, answer, reason: args.reason.clone() };
    Ok((run, store.writer().write(change).await?))
}

async fn answer_there(mut client: RunClient, args: &AnswerArgs, answer: Answer) -> anyhow::Result<(RunId, u64)> {
    let run_id = source::get_run(&mut client, &args.run).await?.id;
    let mut cell_hash = Vec::new();
    if !args.cell.is_empty() {
        let request = rpc::request(pb::ListCellsRequest { run_id: run_id.clone() });
        let cells = client.list_cells(request).await.map_err(|status| rpc::refused(&status))?.into_inner().cells;
        cell_hash = cells::choose(&args.cell, cells.into_iter().map(CellView::from).map(named).collect())?;
    }
    let (answer, reason) = (answer.as_str().to_owned(), args.reason.clone());
    let request = pb::AnswerVerdictsRequest { run_id: run_id.clone(), cell_hash, answer, reason };
    let answered = client.answer_verdicts(rpc::request(request)).await.map_err(|status| rpc::refused(&status))?;
    Ok((run_id.parse()?, answered.into_inner().verdicts))
}

fn named(cell: CellView) -> Named<Vec<u8>> {
    let CellView { hash, agent, device, backend, artifact, workload, .. } = cell;
    let label = format!("{} · {backend} · {} · {workload} on {agent} {device}", artifact.model, artifact.precision);
    let digits = regatta_core::digest::Digest::try_from(hash.as_slice()).map(|digest| digest.to_string());
    Named { label, hash: digits.unwrap_or_default(), value: hash }
}

async fn resolve(reader: &Reader, named: &str) -> anyhow::Result<RunId> {
    Ok(reader.resolve_run(named).await.map_err(|error| BadInput(error.to_string()))?)
}

async fn cell(reader: &Reader, run: &RunId, words: &[String]) -> anyhow::Result<CellHash> {
    let cells = reader.cells(run).await?;
    let named = |cell: regatta_store::CellRecord| Named {
        label: cell.cell.label(),
        hash: cell.hash.to_string(),
        value: cell.hash,
    };
    Ok(cells::choose(words, cells.into_iter().map(named).collect())?)
}
