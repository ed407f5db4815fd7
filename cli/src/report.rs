//! `regatta report`: the HTML page with charts, charts alone, or csv, json, md and what other tools read; of runs here or at
//! a coordinator, once or again and again while they go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use regatta_core::id::RunId;
use regatta_core::run::RunState;
use regatta_reporter::dataset::Dataset;
use regatta_reporter::{Format, Picture, ReportOptions, Written};
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
    /// One page, the charts as PNG and the repetitions as CSV, in a folder
    Html,
    /// The charts alone, in a folder
    Png,
    /// The same as SVG
    Svg,
    /// One row for each repetition
    Csv,
    /// Everything, raw samples included
    Json,
    /// The raw samples, one on a line
    Jsonl,
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
    /// A test case for each cell, for CI
    Junit,
    /// Bencher Metric Format
    Bmf,
    /// The line that Perfherder looks for in logs
    Perfherder,
}

/// Where it goes.
enum Target {
    /// To a folder: page, charts and repetitions.
    Report,
    /// To a folder: charts alone.
    Pictures(Picture),
    /// To standard output.
    Text(Format),
}

impl Kind {
    fn target(self) -> Target {
        match self {
            Self::Html => Target::Report,
            Self::Png => Target::Pictures(Picture::Png),
            Self::Svg => Target::Pictures(Picture::Svg),
            Self::Csv => Target::Text(Format::Csv),
            Self::Json => Target::Text(Format::Json),
            Self::Jsonl => Target::Text(Format::Jsonl),
            Self::Md => Target::Text(Format::Markdown),
            Self::LlamaBench => Target::Text(Format::LlamaBench),
            Self::LlamaBenchSql => Target::Text(Format::LlamaBenchSql),
            Self::LlamaBenchMd => Target::Text(Format::LlamaBenchMarkdown),
            Self::MlperfClient => Target::Text(Format::MlperfClient),
            Self::Junit => Target::Text(Format::Junit),
            Self::Bmf => Target::Text(Format::Bmf),
            Self::Perfherder => Target::Text(Format::Perfherder),
        }
    }

    /// Whether it goes to standard output.
    fn is_text(self) -> bool {
        matches!(self.target(), Target::Text(_))
    }
}

/// How often a report that follows its runs is written again. Reading and drawing take processor time that a measurement on
/// the same machine lacks.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  regatta report                                         the last run here: regatta-out/RUN/report.html
  regatta report 01935f --format csv > results.csv       one row for each repetition
  regatta report 01935f 01936a --format png --out charts the charts of two runs, and nothing else
  regatta report --follow                                the last run, again and again until it has ended
  regatta report --format junit > cells.xml              a test case for each cell: CI shows which have no result
  regatta report 01935f --coordinator https://bench:7600 a run of a fleet; its data comes along as run.sqlite";

/// Arguments of `regatta report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Ids or beginnings of ids of runs, or of imports [default: the last run]
    runs: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// What to make; all but html, png and svg go to standard output
    #[arg(long, value_enum, default_value_t = Kind::Html)]
    format: Kind,
    /// Folder for the report [default: regatta-out/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the page again every ten seconds until the runs have ended; charts as PNG come with the last one
    #[arg(long)]
    follow: bool,
    /// Print JSON: where the page and the charts are
    #[arg(long)]
    json: bool,
}

/// What was chosen.
struct Chosen {
    dataset: Dataset,
    /// Where the data come from.
    source: PathBuf,
    /// The first id: it names the folder.
    first: String,
}

/// Makes a report of runs.
pub(crate) async fn run(mut args: ReportArgs, folders: &Folders) -> anyhow::Result<Exit> {
    if args.json && args.format.is_text() {
        let text = "--json tells where the page is, and --format writes something else to standard output: leave one of \
                    them out (--format json prints the measurements themselves)";
        return Err(BadInput(text.to_owned()).into());
    }
    if args.follow && !matches!(args.format.target(), Target::Report) {
        let text =
            "--follow writes the page again and again, and --format asks for something else: leave one of them out";
        return Err(BadInput(text.to_owned()).into());
    }
    let mut chosen = gather(&args, folders).await?;
    if args.follow {
        // The last run stays the one that is followed, whatever is submitted meanwhile.
        if args.runs.is_empty() {
            args.runs = chosen.dataset.runs.iter().map(|run| run.id.to_string()).collect();
        }
        let mut said = false;
        while chosen.dataset.runs.iter().any(|run| run.state == RunState::Active) {
            let page = write_live(&args, &chosen)?;
            if !said {
                output::note(&format!("report  {}, again every ten seconds; Ctrl-C stops it", page.display()));
                said = true;
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
            chosen = gather(&args, folders).await?;
        }
    }
    finish(&args, &chosen)
}

/// Reads what was named, or the last run.
async fn gather(args: &ReportArgs, folders: &Folders) -> anyhow::Result<Chosen> {
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
                dataset.runs = match args.format.target() {
                    Target::Text(_) => regatta_reporter::load(&reader, &ids).await?.runs,
                    Target::Report | Target::Pictures(_) => regatta_reporter::load_for_page(&reader, &ids).await?.runs,
                };
            }
            reader.close().await;
            let first = ids.into_iter().next().or(first).context("neither a run nor an import was chosen")?;
            Ok(Chosen { dataset, source: path, first: first.to_string() })
        }
        Source::Coordinator(client) => elsewhere(args, client).await,
    }
}

/// Writes the page of runs that go on, and tells where it is.
fn write_live(args: &ReportArgs, chosen: &Chosen) -> anyhow::Result<PathBuf> {
    let out = args.out.clone().unwrap_or_else(|| folder(&chosen.first));
    let page = regatta_reporter::render_live(&chosen.dataset, &options(&chosen.source), FOLLOW_EVERY, &out)?;
    Ok(crate::local::shown(&page))
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
async fn elsewhere(args: &ReportArgs, mut client: RunClient) -> anyhow::Result<Chosen> {
    let mut ids = Vec::new();
    for run in &args.runs {
        ids.push(source::get_run(&mut client, run).await?.id);
    }
    if ids.is_empty() {
        let last = source::list_runs(&mut client, 1).await?.into_iter().next();
        ids.push(last.context("the coordinator has no runs yet: submit one with 'regatta submit SCENARIO'")?.id);
    }
    let temporary = tempfile::tempdir().context("failed to make a temporary folder")?;
    let out = match args.format.target() {
        Target::Report => args.out.clone().unwrap_or_else(|| folder(&ids[0])),
        Target::Pictures(_) | Target::Text(_) => temporary.path().to_owned(),
    };
    let mut dataset = Dataset::default();
    let mut source = PathBuf::new();
    for id in &ids {
        let name = if ids.len() == 1 { "run.sqlite".to_owned() } else { format!("run-{id}.sqlite") };
        let (fetched, file) = fetch(&mut client, id, &out.join(name)).await?;
        dataset.runs.extend(fetched.runs);
        source = file;
    }
    let first = ids.swap_remove(0);
    Ok(Chosen { dataset, source, first })
}

/// Fetches a run of a coordinator into `file`, and reads it.
pub(crate) async fn fetch(client: &mut RunClient, run: &str, file: &Path) -> anyhow::Result<(Dataset, PathBuf)> {
    fetch::run(client, run, file).await?;
    let reader = source::open(file).await?;
    let dataset = regatta_reporter::load(&reader, &[run.parse()?]).await?;
    reader.close().await;
    Ok((dataset, file.to_owned()))
}

fn finish(args: &ReportArgs, chosen: &Chosen) -> anyhow::Result<Exit> {
    let Chosen { dataset, source, first } = chosen;
    let out = args.out.clone().unwrap_or_else(|| folder(first));
    match args.format.target() {
        Target::Text(format) => output::text(&regatta_reporter::export(dataset, &options(source), format)?),
        Target::Report => write(dataset, source, &out, args.json)?,
        Target::Pictures(picture) => {
            say(None, &regatta_reporter::pictures(dataset, &options(source), picture, &out)?, args.json);
        }
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
    say(Some(&written), &written.pngs, json);
    Ok(())
}

/// Says where everything is.
fn say(written: Option<&Written>, charts: &[PathBuf], json: bool) {
    let shown = |path: &Path| crate::local::shown(path).display().to_string();
    if json {
        let files = match written {
            Some(written) => json!({ "event": "report", "html": written.html, "csv": written.csv, "png": charts }),
            None => json!({ "event": "charts", "files": charts }),
        };
        return output::line(&files.to_string());
    }
    if let Some(written) = written {
        output::line(&format!("report  {}", shown(&written.html)));
        if let Some(csv) = &written.csv {
            output::line(&format!("rows    {}", shown(csv)));
        }
    }
    for chart in charts {
        output::line(&format!("chart   {}", shown(chart)));
    }
}

fn options(source: &Path) -> ReportOptions {
    let source = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ReportOptions { generated_at: Timestamp::now(), source, svg: false }
}
