//! `regatta report`: the HTML page with charts, or csv, json, md.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use regatta_core::id::RunId;
use regatta_reporter::{Format, ReportOptions};
use regatta_store::Reader;
use serde_json::json;

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::runs::DatabaseArgs;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One page and the charts as PNG, in a folder
    Html,
    /// One row for each repetition
    Csv,
    /// Everything, raw samples included
    Json,
    /// A summary for a comment
    Md,
}

/// Arguments of `regatta report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run ids or beginnings of ids [default: the last run]
    runs: Vec<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// What to make; all but html go to standard output
    #[arg(long, value_enum, default_value_t = Kind::Html)]
    format: Kind,
    /// Folder for the report [default: regatta-out/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Makes a report of runs in the database.
pub(crate) async fn run(args: ReportArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (path, reader) = args.database.open(folders).await?;
    let mut ids = Vec::new();
    for run in &args.runs {
        ids.push(reader.resolve_run(run).await.map_err(|error| BadInput(error.to_string()))?);
    }
    if ids.is_empty() {
        let last = reader.runs(1).await?.into_iter().next();
        ids.push(
            last.with_context(|| format!("no runs in {}: start one with 'regatta run SCENARIO'", path.display()))?.id,
        );
    }
    let format = match args.format {
        Kind::Html => {
            let out = args.out.unwrap_or_else(|| Path::new("regatta-out").join(ids[0].as_str()));
            write(&reader, &path, &ids, &out, false).await?;
            return Ok(Exit::Done);
        }
        Kind::Csv => Format::Csv,
        Kind::Json => Format::Json,
        Kind::Md => Format::Markdown,
    };
    let dataset = regatta_reporter::load(&reader, &ids).await?;
    output::text(&regatta_reporter::export(&dataset, &options(&path), format)?);
    Ok(Exit::Done)
}

/// Writes page and charts, and says where they are.
pub(crate) async fn write(
    reader: &Reader,
    database: &Path,
    runs: &[RunId],
    out: &Path,
    json: bool,
) -> anyhow::Result<()> {
    let dataset = regatta_reporter::load(reader, runs).await?;
    let written = regatta_reporter::render(&dataset, &options(database), out)?;
    if json {
        output::line(&json!({ "event": "report", "html": written.html, "png": written.pngs }).to_string());
        return Ok(());
    }
    output::line(&format!("report  {}", crate::local::shown(&written.html).display()));
    for png in &written.pngs {
        output::line(&format!("chart   {}", crate::local::shown(png).display()));
    }
    Ok(())
}

fn options(database: &Path) -> ReportOptions {
    let source = database.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ReportOptions { generated_at: Timestamp::now(), source, svg: false }
}
