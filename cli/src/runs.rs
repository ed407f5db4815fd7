//! `regatta runs` and `regatta show`: what is in the database, or at the coordinator.

use std::fmt::Write as _;

use clap::Args;
use regatta_proto::pb;
use serde_json::Value;

use crate::against;
use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::rpc;
use crate::source::{self, Source, SourceArgs};
use crate::view::{CellView, RunView};

/// Arguments of `regatta runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// At most this many, newest first
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists runs.
pub(crate) async fn list(args: RunsArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (runs, place): (Vec<RunView>, _) = match args.source.source(folders).await? {
        Source::Database(path) => {
            let runs = source::open(&path).await?.runs(args.limit).await?;
            (runs.iter().map(RunView::from).collect(), path.display().to_string())
        }
        Source::Coordinator(mut client) => {
            let runs = source::list_runs(&mut client, args.limit).await?;
            (runs.into_iter().map(RunView::from).collect(), "the coordinator's database".to_owned())
        }
    };
    if args.json {
        output::json(&Value::Array(runs.iter().map(RunView::json).collect()));
    } else if runs.is_empty() {
        output::note(&format!("no runs in {place}: start one with 'regatta run SCENARIO'"));
    } else {
        for run in &runs {
            output::line(&run.line());
        }
    }
    Ok(Exit::Done)
}

/// Arguments of `regatta show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A run id or the beginning of one
    run: String,
    /// Say in what the circumstances of this other run differ, and what that means for a comparison
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the cells of one run, or how another run differs from it.
pub(crate) async fn show(args: ShowArgs, folders: &Folders) -> anyhow::Result<Exit> {
    if let Some(other) = &args.against {
        let against = against::load(&args.run, other, &args.source, folders).await?;
        if args.json {
            output::json(&against.json());
        } else {
            output::text(&against.text());
        }
        return Ok(Exit::Done);
    }
    let (run, cells): (RunView, Vec<CellView>) = match args.source.source(folders).await? {
        Source::Database(path) => {
            let reader = source::open(&path).await?;
            let id = reader.resolve_run(&args.run).await.map_err(|error| BadInput(error.to_string()))?;
            let run = reader.run(id.as_str()).await?.summary;
            ((&run).into(), reader.cells(&id).await?.iter().map(CellView::from).collect())
        }
        Source::Coordinator(mut client) => {
            let run = source::get_run(&mut client, &args.run).await?;
            let cells = list_cells(&mut client, &run.id).await?;
            (run.into(), cells)
        }
    };
    if args.json {
        let mut shown = run.json();
        shown["cells"] = cells.iter().map(CellView::json).collect();
        output::json(&shown);
    } else {
        let mut text = run.line() + "\n";
        for wait in &run.waits {
            let _ = writeln!(text, "  waiting: {wait}");
        }
        for cell in &cells {
            let _ = writeln!(text, "  {}", cell.line());
        }
        output::text(&text);
    }
    Ok(Exit::Done)
}

async fn list_cells(client: &mut RunClient, run: &str) -> anyhow::Result<Vec<CellView>> {
    let request = rpc::request(pb::ListCellsRequest { run_id: run.to_owned() });
    let cells = client.list_cells(request).await.map_err(|status| rpc::refused(&status))?.into_inner().cells;
    Ok(cells.into_iter().map(CellView::from).collect())
}
