//! `regatta history`: a cell night by night, with breaks and verdicts.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use regatta_reporter::nights::{HistoryView, history};
use regatta_store::KnownCell;

use crate::cells::{self, Named};
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::source::{self, DatabaseArgs};

const EXAMPLES: &str = "\
Examples:
  regatta history tinyllama candle q8_0 chat              a cell by words of its name
  regatta history 3fa9c1                                  or by the beginning of its hash
  regatta history 3fa9c1 --metric decode --out decode.svg drawn as a chart
  regatta history tinyllama llama.cpp --metric prefill --json | jq '.[0].nights[-1]'

Nights are the runs of one scenario, told by its name, that have ended; docs/nightly.md says what breaks a series.";

/// Arguments of `regatta history`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HistoryArgs {
    /// Words of the cell's name, or the beginning of its hash
    #[arg(required = true, value_name = "CELL")]
    cell: Vec<String>,
    /// Only runs of this scenario, by its name
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Only this metric: decode or prefill
    #[arg(long, value_name = "METRIC")]
    metric: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Draw it: FILE.svg or FILE.png; one metric at a time
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the series of a cell.
pub(crate) async fn run(args: HistoryArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let metrics = ["decode", "prefill"];
    if let Some(other) = args.metric.as_deref().filter(|metric| !metrics.contains(metric)) {
        let shown = regatta_core::id::shown(other);
        return Err(BadInput(format!("'{shown}' is no metric with a history: write decode or prefill")).into());
    }
    let path = folders.database(args.database.db.as_deref())?;
    let reader = source::open(&path).await?;
    let known = reader.known_cells().await?;
    let of_scenario = |cell: &KnownCell| args.scenario.as_ref().is_none_or(|name| *name == cell.scenario);
    let cells = known.into_iter().filter(of_scenario).map(named).collect();
    let cell = cells::choose(&args.cell, cells)?;
    let histories = reader.history(&cell).await?;
    let wanted = |view: &HistoryView| args.metric.as_ref().is_none_or(|metric| view.metric == metric);
    let views: Vec<HistoryView> = histories.iter().map(|one| history(&cell.scenario, one)).filter(wanted).collect();
    if let Some(file) = &args.out {
        draw(&views, file)?;
    }
    if args.json {
        output::json(&serde_json::to_value(&views)?);
    } else {
        output::text(&views.iter().map(HistoryView::text).collect::<Vec<_>>().join("\n"));
    }
    Ok(Exit::Done)
}

/// Writes the chart of a series to a file.
fn draw(views: &[HistoryView], file: &Path) -> anyhow::Result<()> {
    let [view] = views else {
        return Err(BadInput("a chart shows one metric: add --metric decode or --metric prefill".to_owned()).into());
    };
    let drawn = match file.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => view.svg().map(|svg| svg.map(String::into_bytes)),
        Some("png") => view.png(),
        _ => return Err(BadInput(format!("{} is neither .svg nor .png: name it so", file.display())).into()),
    };
    let drawn = drawn.context("no night of this cell has a value: there is nothing to draw")??;
    std::fs::write(file, drawn).with_context(|| format!("failed to write {}", file.display()))?;
    output::note(&format!("chart {}", file.display()));
    Ok(())
}

fn named(cell: KnownCell) -> Named<KnownCell> {
    let label = format!("{} (scenario {})", cell.cell.label(), cell.scenario);
    Named { label, hash: cell.hash.to_string(), value: cell }
}
