//! `regatta compare`: what became faster or slower from one run to another, and an exit code that says so.

use std::str::FromStr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use regatta_core::id::{BuildName, InvalidName};
use regatta_reporter::compare::{self, Chosen, Comparison, Conclusion, Options};
use regatta_reporter::dataset::Run;
use serde_json::json;

use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::report;
use crate::source::{self, Source, SourceArgs};
use crate::threshold::Threshold;

const EXAMPLES: &str = "\
Examples:
  regatta compare 01935f 01936a                           two runs, by the beginnings of their ids
  regatta compare 01935f 01936a --threshold 5             changes up to 5 % do not count
  regatta compare 01935f 01936a --format md > comment.md  for a pull request
  regatta compare 01935f@base 01935f@candidate            two builds that one run measured in turns; 01935f alone does too
  regatta compare 01935f 01936a --json | jq .conclusion   for a program

Measure both with several worker processes, such as 'regatta run SCENARIO --passes 10': fewer than 6 give no verdict.
docs/compare.md says what the verdicts mean.

Exit codes: 0 nothing is known to be slower, 1 something failed, 2 bad input or not comparable, 3 something is slower,
5 too few worker processes for a verdict (0 with --allow-few)";

/// Changes up to this one do not count, unless another threshold is given.
const DEFAULT_THRESHOLD: f64 = 0.02;

/// How to print a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A table for people
    Text,
    /// Everything, for programs
    Json,
    /// A summary for a comment
    Md,
    /// A test for each verdict, for CI: what is slower fails
    Junit,
    /// The ratio of each cell, for Bencher
    Bmf,
}

/// Arguments of `regatta compare`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// The run that is taken as it is: its id or the beginning of it, with @BUILD for one of several builds of the worker
    base: Named,
    /// The run that may be faster or slower [default: the second build of the worker that BASE measured in turns]
    candidate: Option<Named>,
    #[command(flatten)]
    source: SourceArgs,
    /// Changes up to so many percent do not count; a cell whose noise is more than a third of that has a wider margin
    #[arg(long, value_name = "PERCENT", default_value = "2")]
    threshold: Threshold,
    /// Compare even where models, machines or definitions differ; the output is marked
    #[arg(long)]
    force: bool,
    /// Accept cells with fewer than 6 worker processes, of which nothing can be said
    #[arg(long)]
    allow_few: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Kind::Text, conflicts_with = "json")]
    format: Kind,
    /// Print JSON: the same as --format json
    #[arg(long)]
    json: bool,
}

/// A run, or one build of the worker in it: `01935f@candidate`.
#[derive(Debug, Clone)]
struct Named {
    run: String,
    build: Option<BuildName>,
}

impl FromStr for Named {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let Some((run, build)) = text.split_once('@') else { return Ok(Self { run: text.to_owned(), build: None }) };
        let build = build.parse().map_err(|error: InvalidName| BadInput(error.to_string()))?;
        Ok(Self { run: run.to_owned(), build: Some(build) })
    }
}

/// Compares two runs, or two builds of the worker in one.
pub(crate) async fn run(args: CompareArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let named: Vec<&Named> = std::iter::once(&args.base).chain(&args.candidate).collect();
    let runs = match args.source.source(folders).await? {
        Source::Database(path) => {
            let reader = source::open(&path).await?;
            let mut ids = Vec::new();
            for named in &named {
                ids.push(reader.resolve_run(&named.run).await.map_err(|error| BadInput(error.to_string()))?);
            }
            regatta_reporter::load(&reader, &ids).await?.runs
        }
        Source::Coordinator(client) => fetch(client, &named).await?,
    };
    let (base, candidate) = sides(&runs, &named)?;
    let options = Options { threshold: args.threshold.share(), force: args.force };
    let comparison = compare::compare(base, candidate, options).map_err(|refused| BadInput(refused.to_string()))?;
    let kind = if args.json { Kind::Json } else { args.format };
    output::text(&printed(&comparison, kind)?);
    Ok(match comparison.conclusion() {
        Conclusion::Slower => Exit::Slower,
        Conclusion::TooFew if !args.allow_few => Exit::TooFew,
        Conclusion::TooFew | Conclusion::NoSlowdown => Exit::Done,
    })
}

/// Base and candidate: what was named, or the two builds of the worker in the only run that was.
fn sides<'a>(runs: &'a [Run], named: &[&'a Named]) -> Result<(Chosen<'a>, Chosen<'a>), BadInput> {
    match (runs, named) {
        ([base, candidate], [first, second]) => Ok((chosen(base, first)?, chosen(candidate, second)?)),
        ([run], [Named { build: None, .. }]) => match compare::builds(run)[..] {
            [base, candidate] => Ok((Chosen { run, build: Some(base) }, Chosen { run, build: Some(candidate) })),
            _ => Err(BadInput(format!("run {} measured one worker: name a second run to compare it with", run.id))),
        },
        _ => Err(BadInput("name base and candidate: two runs, or two builds of a run as RUN@BUILD".to_owned())),
    }
}

fn chosen<'a>(run: &'a Run, named: &'a Named) -> Result<Chosen<'a>, BadInput> {
    let builds = compare::builds(run);
    match &named.build {
        Some(build) if !builds.contains(&build) => {
            let known: Vec<&str> = builds.iter().map(|build| build.as_str()).collect();
            let known = if known.is_empty() { "none by name".to_owned() } else { known.join(" and ") };
            Err(BadInput(format!("run {} has no build '{build}' of the worker: it measured {known}", run.id)))
        }
        build => Ok(Chosen { run, build: build.as_ref() }),
    }
}

/// Says how two builds of the worker compare that a run has just measured in turns; nothing of other runs.
pub(crate) fn in_turns(runs: &[Run], json: bool) {
    let [run] = runs else { return };
    let [base, candidate] = compare::builds(run)[..] else { return };
    let (base, candidate) = (Chosen { run, build: Some(base) }, Chosen { run, build: Some(candidate) });
    let options = Options { threshold: DEFAULT_THRESHOLD, force: false };
    match compare::compare(base, candidate, options) {
        Ok(comparison) if json => {
            let conclusion = comparison.conclusion();
            output::line(
                &json!({ "event": "comparison", "conclusion": conclusion, "comparison": comparison }).to_string(),
            );
        }
        Ok(comparison) => output::text(&format!("\n{}", compare::text(&comparison))),
        // The run's own result says what went wrong.
        Err(refused) => output::note(&format!("the builds can't be compared: {refused}")),
    }
}

/// Fetches the runs of a coordinator; no file stays behind.
async fn fetch(mut client: RunClient, named: &[&Named]) -> anyhow::Result<Vec<Run>> {
    let folder = tempfile::tempdir().context("failed to make a temporary folder")?;
    let mut runs = Vec::new();
    for (number, named) in named.iter().enumerate() {
        let id = source::get_run(&mut client, &named.run).await?.id;
        let file = folder.path().join(format!("{number}.sqlite"));
        let (dataset, _) = report::fetch(&mut client, &id, &file).await?;
        runs.extend(dataset.runs);
    }
    Ok(runs)
}

fn printed(comparison: &Comparison, kind: Kind) -> anyhow::Result<String> {
    Ok(match kind {
        Kind::Text => compare::text(comparison),
        Kind::Md => compare::markdown(comparison),
        Kind::Junit => compare::junit(comparison),
        Kind::Bmf => compare::bmf(comparison)?,
        Kind::Json => {
            let mut value = json!({ "conclusion": comparison.conclusion() });
            let fields = serde_json::to_value(comparison)?;
            if let (Some(all), serde_json::Value::Object(fields)) = (value.as_object_mut(), fields) {
                all.extend(fields);
            }
            format!("{value:#}\n")
        }
    })
}
