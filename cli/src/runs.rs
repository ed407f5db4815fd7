//! `regatta runs` and `regatta show`: what is in the database.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use regatta_core::cell::Outcome;
use regatta_store::{CellRecord, Reader, RunSummary, Store};
use serde_json::{Value, json};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;

/// Which database.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The database file [default: regatta.sqlite in the home folder]
    #[arg(long, env = "REGATTA_DB", value_name = "FILE")]
    pub db: Option<PathBuf>,
}

impl DatabaseArgs {
    /// Opens it for reading.
    pub(crate) async fn open(&self, folders: &Folders) -> anyhow::Result<(PathBuf, Reader)> {
        let path = folders.database(self.db.as_deref())?;
        let reader = open(&path).await?;
        Ok((path, reader))
    }
}

/// Opens a database for reading; what is wrong with the path is bad input.
pub(crate) async fn open(path: &Path) -> Result<Reader, BadInput> {
    Store::open_read_only(path).await.map_err(|error| BadInput(error.to_string()))
}

/// Arguments of `regatta runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// At most this many, newest first
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists runs.
pub(crate) async fn list(args: RunsArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (path, reader) = args.database.open(folders).await?;
    let runs = reader.runs(args.limit).await?;
    if args.json {
        let runs: Vec<Value> = runs.iter().map(run_json).collect();
        output::text(&(serde_json::to_string_pretty(&runs)? + "\n"));
    } else if runs.is_empty() {
        output::note(&format!("no runs in {}: start one with 'regatta run SCENARIO'", path.display()));
    } else {
        for run in &runs {
            output::line(&run_line(run));
        }
    }
    Ok(Exit::Done)
}

fn run_line(run: &RunSummary) -> String {
    let cells: Vec<String> = run.cells.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let created = run.created_at.strftime("%Y-%m-%d %H:%M");
    format!("{}  {created}  {:<9} {}: {}", run.id, run.state.as_str(), run.name, cells.join(", "))
}

fn run_json(run: &RunSummary) -> Value {
    json!({
        "run": run.id,
        "name": run.name,
        "state": run.state.as_str(),
        "created_at": run.created_at.to_string(),
        "ended_at": run.ended_at.map(|at| at.to_string()),
        "cells": run.cells,
        "samples": run.samples,
    })
}

/// Arguments of `regatta show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A run id or the beginning of one
    run: String,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the cells of one run.
pub(crate) async fn show(args: ShowArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (_, reader) = args.database.open(folders).await?;
    let id = reader.resolve_run(&args.run).await.map_err(|error| BadInput(error.to_string()))?;
    let run = reader.run(id.as_str()).await?.summary;
    let cells = reader.cells(&id).await?;
    if args.json {
        let mut shown = run_json(&run);
        shown["cells"] = cells.iter().map(cell_json).collect();
        output::text(&(serde_json::to_string_pretty(&shown)? + "\n"));
    } else {
        let mut text = run_line(&run) + "\n";
        for cell in &cells {
            let _ = writeln!(text, "  {}", cell_line(cell));
        }
        output::text(&text);
    }
    Ok(Exit::Done)
}

fn cell_line(record: &CellRecord) -> String {
    let cell = &record.cell;
    let outcome = record.outcome.as_ref().map_or_else(|| "waiting".to_owned(), Outcome::to_string);
    let first_line = outcome.lines().next().unwrap_or_default();
    format!(
        "{}  {} {} on {}, {}: {first_line} ({} samples)",
        record.hash.0.short(),
        cell.backend,
        cell.artifact,
        cell.device,
        cell.workload.name,
        record.samples
    )
}

fn cell_json(record: &CellRecord) -> Value {
    let cell = &record.cell;
    json!({
        "cell": record.hash.to_string(),
        "agent": cell.agent,
        "device": cell.device,
        "backend": cell.backend.to_string(),
        "artifact": cell.artifact,
        "workload": cell.workload.name,
        "state": record.outcome.as_ref().map_or("waiting", Outcome::state),
        "detail": record.outcome.as_ref().and_then(Outcome::detail),
        "samples": record.samples,
        "superseded": record.superseded,
        "rejected": record.rejected,
    })
}
