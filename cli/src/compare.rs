//! `regatta compare`: what became faster or slower from one run to another, and an exit code that says so.

use std::str::FromStr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use regatta_core::id::shown;
use regatta_reporter::compare::{self, Comparison, Conclusion, Options};
use regatta_reporter::dataset::Run;
use serde_json::json;

use crate::connect::RunClient;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::report;
use crate::source::{self, Source, SourceArgs};

const EXAMPLES: &str = "\
Examples:
  regatta compare 01935f 01936a                           two runs, by the beginnings of their ids
  regatta compare 01935f 01936a --threshold 5             changes up to 5 % do not count
  regatta compare 01935f 01936a --format md > comment.md  for a pull request
  regatta compare 01935f 01936a --json | jq .conclusion   for a program

Measure both with several worker processes, such as 'regatta run SCENARIO --passes 10': fewer than 6 give no verdict.
docs/compare.md says what the verdicts mean.

Exit codes: 0 nothing is known to be slower, 1 something failed, 2 bad input or not comparable, 3 something is slower,
5 too few worker processes for a verdict (0 with --allow-few)";

/// How to print a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A table for people
    Text,
    /// Everything, for programs
    Json,
    /// A summary for a comment
    Md,
}

/// Arguments of `regatta compare`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// The run that is taken as it is: its id or the beginning of it
    base: String,
    /// The run that may be faster or slower
    candidate: String,
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

/// Percent above 0 and up to 100, as a share.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Threshold(f64);

impl FromStr for Threshold {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let percent = number.parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
        let invalid =
            || format!("'{}' is no threshold: write percent above 0 and up to 100, such as 2 or 0.5", shown(text));
        percent.map(|percent| Self(percent / 100.0)).ok_or_else(|| BadInput(invalid()))
    }
}

/// Compares two runs.
pub(crate) async fn run(args: CompareArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let [base, candidate] = match args.source.source(folders).await? {
        Source::Database(path) => {
            let reader = source::open(&path).await?;
            let mut ids = Vec::new();
            for named in [&args.base, &args.candidate] {
                ids.push(reader.resolve_run(named).await.map_err(|error| BadInput(error.to_string()))?);
            }
            both(regatta_reporter::load(&reader, &ids).await?.runs)?
        }
        Source::Coordinator(client) => both(fetch(client, [&args.base, &args.candidate]).await?)?,
    };
    let options = Options { threshold: args.threshold.0, force: args.force };
    let comparison = compare::compare(&base, &candidate, options).map_err(|refused| BadInput(refused.to_string()))?;
    let kind = if args.json { Kind::Json } else { args.format };
    output::text(&printed(&comparison, kind)?);
    Ok(match comparison.conclusion() {
        Conclusion::Slower => Exit::Slower,
        Conclusion::TooFew if !args.allow_few => Exit::TooFew,
        Conclusion::TooFew | Conclusion::NoSlowdown => Exit::Done,
    })
}

fn both(runs: Vec<Run>) -> anyhow::Result<[Run; 2]> {
    runs.try_into().ok().context("two runs were named, and others were read")
}

/// Fetches the runs of a coordinator; no file stays behind.
async fn fetch(mut client: RunClient, named: [&String; 2]) -> anyhow::Result<Vec<Run>> {
    let folder = tempfile::tempdir().context("failed to make a temporary folder")?;
    let mut runs = Vec::new();
    for (number, run) in named.into_iter().enumerate() {
        let id = source::get_run(&mut client, run).await?.id;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_percent_above_0_and_up_to_100() {
        for (text, share) in [("2", 0.02), ("0.5", 0.005), ("100", 1.0), ("3%", 0.03), ("3 %", 0.03)] {
            assert!((text.parse::<Threshold>().unwrap().0 - share).abs() < 1e-12, "{text}");
        }
        for text in ["0", "-1", "100.1", "NaN", "inf", "two", "", "1e999", "2%%"] {
            let error = text.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains("above 0 and up to 100"), "{text}: {error}");
        }
    }
}
