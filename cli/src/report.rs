//! `regatta report`: the HTML page with charts, or csv, json, md; of runs here or at a coordinator.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use regatta_core::id::RunId;
use regatta_reporter::dataset::Dataset;
use regatta_reporter::{Format, ReportOptions};
use regatta_store::Reader;
use serde_json::json;

use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::fetch;
use crate::output;
use crate::paths::Folders;
use crate::source::{self, Source, SourceArgs};

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
    /// Rows of llama-bench (jsonl) of what is comparable
    LlamaBench,
    /// The same as SQL
    LlamaBenchSql,
    /// The same as Markdown
    LlamaBenchMd,
    /// Metrics under MLPerf Client's names (jsonl)
    MlperfClient,
}

impl Kind {
    /// The format that goes to standard output; `None` for the page, which goes to a folder.
    fn to_stdout(self) -> Option<Format> {
        match self {
            Self::Html => None,
            Self::Csv => Some(Format::Csv),
            Self::Json => Some(Format::Json),
            Self::Md => Some(Format::Markdown),
            Self::LlamaBench => Some(Format::LlamaBench),
            Self::LlamaBenchSql => Some(Format::LlamaBenchSql),
            Self::LlamaBenchMd => Some(Format::LlamaBenchMarkdown),
            Self::MlperfClient => Some(Format::MlperfClient),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  regatta report                                         the last run here: regatta-out/RUN/report.html
  regatta report 01935f --format csv > results.csv       one row for each repetition
  regatta report 01935f --coordinator https://bench:7600 a run of a fleet; its data comes along as run.sqlite";

/// Arguments of `regatta report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Ids or beginnings of ids of runs, or of imports [default: the last run]
    runs: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// What to make; all but html go to standard output
    #[arg(long, value_enum, default_value_t = Kind::Html)]
    format: Kind,
    /// Folder for the report [default: regatta-out/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON: where the page and the charts are
    #[arg(long)]
    json: bool,
}

/// Makes a report of runs.
pub(crate) async fn run(args: ReportArgs, folders: &Folders) -> anyhow::Result<Exit> {
    if args.json && args.format.to_stdout().is_some() {
        let text = "--json tells where the page is, and --format writes something else to standard output: leave one of \
                    them out (--format json prints the measurements themselves)";
        return Err(BadInput(text.to_owned()).into());
    }
    match args.source.source(folders).await? {
        Source::Database(path) => {
            let reader = source::open(&path).await?;
            let (imports, runs) = imports(&reader, &args.runs).await?;
            let first = imports.first().cloned();
            let mut dataset =
                Dataset { runs: Vec::new(), imports: regatta_reporter::load_imports(&reader, &imports).await? };
            let mut ids = Vec::new();
            if imports.is_empty() || !runs.is_empty() {
                ids = chosen(&reader, &runs, &path).await?;
                dataset.runs = regatta_reporter::load(&reader, &ids).await?.runs;
            }
            let first = ids.into_iter().next().or(first).context("neither a run nor an import was chosen")?;
            finish(&args, &dataset, &path, first.as_str())
        }
        Source::Coordinator(client) => elsewhere(args, client).await,
    }
}

/// Which of what was named are imports; the rest are runs, or nothing.
async fn imports(reader: &Reader, named: &[String]) -> anyhow::Result<(Vec<RunId>, Vec<String>)> {
    let known: Vec<RunId> = reader.imports().await?.into_iter().map(|import| import.id).collect();
    let (mut imports, mut runs) = (Vec::new(), Vec::new());
    for name in named {
        let fits: Vec<&RunId> =
            known.iter().filter(|id| !name.is_empty() && id.as_str().starts_with(name.as_str())).collect();
        // A beginning that a run has too is the run's to resolve.
        match fits.as_slice() {
            [only] if reader.resolve_run(name).await.is_err() => imports.push((*only).clone()),
            _ => runs.push(name.clone()),
        }
    }
    Ok((imports, runs))
}

/// The runs that were named, or the newest.
async fn chosen(reader: &Reader, named: &[String], path: &Path) -> anyhow::Result<Vec<RunId>> {
    let mut ids = Vec::new();
    for run in named {
        ids.push(reader.resolve_run(run).await.map_err(|error| BadInput(error.to_string()))?);
    }
    if ids.is_empty() {
        let last = reader.runs(1).await?.into_iter().next();
        ids.push(
            last.with_context(|| format!("no runs in {}: start one with 'regatta run SCENARIO'", path.display()))?.id,
        );
    }
    Ok(ids)
}

/// Fetches the runs, and keeps them beside the page. What goes to standard output leaves no file behind.
async fn elsewhere(args: ReportArgs, mut client: RunClient) -> anyhow::Result<Exit> {
    let mut ids = Vec::new();
    for run in &args.runs {
        ids.push(source::get_run(&mut client, run).await?.id);
    }
    if ids.is_empty() {
        let last = source::list_runs(&mut client, 1).await?.into_iter().next();
        ids.push(last.context("the coordinator has no runs yet: submit one with 'regatta submit SCENARIO'")?.id);
    }
    let temporary = tempfile::tempdir().context("failed to make a temporary folder")?;
    let out = match args.format.to_stdout() {
        Some(_) => temporary.path().to_owned(),
        None => args.out.clone().unwrap_or_else(|| folder(&ids[0])),
    };
    let mut dataset = Dataset::default();
    let mut source = PathBuf::new();
    for id in &ids {
        let name = if ids.len() == 1 { "run.sqlite".to_owned() } else { format!("run-{id}.sqlite") };
        let (fetched, file) = fetch(&mut client, id, &out.join(name)).await?;
        dataset.runs.extend(fetched.runs);
        source = file;
    }
    finish(&args, &dataset, &source, &ids[0])
}

/// Fetches a run of a coordinator into `file`, and reads it.
pub(crate) async fn fetch(client: &mut RunClient, run: &str, file: &Path) -> anyhow::Result<(Dataset, PathBuf)> {
    fetch::run(client, run, file).await?;
    let reader = source::open(file).await?;
    let dataset = regatta_reporter::load(&reader, &[run.parse()?]).await?;
    reader.close().await;
    Ok((dataset, file.to_owned()))
}

fn finish(args: &ReportArgs, dataset: &Dataset, source: &Path, first: &str) -> anyhow::Result<Exit> {
    match args.format.to_stdout() {
        Some(format) => output::text(&regatta_reporter::export(dataset, &options(source), format)?),
        None => write(dataset, source, &args.out.clone().unwrap_or_else(|| folder(first)), args.json)?,
    }
    Ok(Exit::Done)
}

/// Where a run's report goes, if nobody says otherwise.
pub(crate) fn folder(run: &str) -> PathBuf {
    Path::new("regatta-out").join(run)
}

/// Writes page and charts, and says where they are.
pub(crate) fn write(dataset: &Dataset, source: &Path, out: &Path, json: bool) -> anyhow::Result<()> {
    let written = regatta_reporter::render(dataset, &options(source), out)?;
    if json {
        output::line(
            &json!({ "event": "report", "html": written.html, "csv": written.csv, "png": written.pngs }).to_string(),
        );
        return Ok(());
    }
    output::line(&format!("report  {}", crate::local::shown(&written.html).display()));
    if let Some(csv) = &written.csv {
        output::line(&format!("rows    {}", crate::local::shown(csv).display()));
    }
    for png in &written.pngs {
        output::line(&format!("chart   {}", crate::local::shown(png).display()));
    }
    Ok(())
}

fn options(source: &Path) -> ReportOptions {
    let source = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ReportOptions { generated_at: Timestamp::now(), source, svg: false }
}
