//! `regatta prune` and `regatta pin`: which runs stay. Both work on the database, also while a coordinator has it.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args};
use jiff::{SignedDuration, Timestamp};
use regatta_core::retention::{Held, Policy};
use regatta_reporter::text::count;
use regatta_store::{Fate, Retention, Store};
use serde_json::{Value, json};

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::source::{self, DatabaseArgs};
use crate::verdict;

const EXAMPLES: &str = "\
Examples:
  regatta prune --older-than 90 --dry-run                what would go: runs that ended more than 90 days ago
  regatta prune --older-than 90 --keep-last 30           of those all but the newest 30 of each scenario
  regatta prune --keep-last 1 --scenario demo            all but the newest run of demo
  regatta pin 01935f --reason 'release 2.1'              never remove that one

A run goes as a whole, with its samples and what was said of it; with it goes what repeats cells of it (regatta retry, gate
--confirm). What goes on, is pinned, is still to be judged, has a verdict that a person answered, or is where a level began by a
verdict stays whatever is said. Spools, weights, reports and backups are not touched.

The room is used again by what comes next; --vacuum gives it back to the disk, which needs the database for itself and as much
room again for a while. Runs that are removed are gone: 'regatta backup FILE' first.";

/// Arguments of `regatta prune`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("which").required(true).multiple(true)
    .args(["older_than", "keep_last", "vacuum"]))]
pub(crate) struct PruneArgs {
    /// Runs that ended more than so many days ago
    #[arg(long, value_name = "DAYS",
        value_parser = clap::value_parser!(i64).range(1..=36_500))]
    older_than: Option<i64>,
    /// All but the newest so many runs of each scenario
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Only runs of this scenario, by its name
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Runs to keep, by id or the beginning of it (may be given several times)
    #[arg(long, value_name = "RUN", value_delimiter = ',')]
    keep: Vec<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Give the room back to the disk afterwards; no coordinator may have the database
    #[arg(long, conflicts_with = "dry_run")]
    vacuum: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Removes old runs.
pub(crate) async fn run(args: PruneArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let path = folders.database(args.database.db.as_deref())?;
    let now = Timestamp::now();
    let (mut gone, mut held): (Vec<Fate>, Vec<Fate>) = (Vec::new(), Vec::new());
    if let Some(policy) = policy(&args, &path).await? {
        let mut retention = open(&path).await?;
        (held, gone) = retention.plan(&policy, now).await?.into_iter().partition(|fate| fate.held.is_some());
        if !args.dry_run {
            gone.clear();
            retention.prune(&policy, now, |fate| gone.push(fate.clone())).await?;
        }
        retention.close().await?;
    }
    if args.vacuum {
        Store::vacuum(&path).await.map_err(|error| BadInput(error.to_string()))?;
    }
    if args.json {
        output::json(&object(&args, &gone, &held));
    } else {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        for fate in &gone {
            output::line(&format!("{verb}  {}", line(fate)));
        }
        output::note(&summary(&args, &gone, &held));
    }
    Ok(Exit::Done)
}

/// What was asked for; `None` where it is only to give room back.
async fn policy(args: &PruneArgs, path: &std::path::Path) -> anyhow::Result<Option<Policy>> {
    let reader = source::open(path).await?;
    let mut policy = Policy {
        keep_last: args.keep_last,
        older_than: args.older_than.map(|days| SignedDuration::from_hours(24 * days)),
        scenario: args.scenario.clone(),
        ..Policy::default()
    };
    for run in &args.keep {
        policy.keep.insert(reader.resolve_run(run).await.map_err(|error| BadInput(format!("--keep: {error}")))?);
    }
    if let Some(name) = &args.scenario {
        let names = reader.scenarios().await?;
        if !names.contains(name) {
            let (name, there) = (regatta_core::id::shown(name), names.join(", "));
            return Err(
                BadInput(format!("--scenario {name}: there are no runs of it; there are runs of {there}")).into()
            );
        }
    }
    reader.close().await;
    Ok((args.keep_last.is_some() || args.older_than.is_some()).then_some(policy))
}

async fn open(path: &std::path::Path) -> anyhow::Result<Retention> {
    Ok(Retention::open(path, Timestamp::now).await.map_err(|error| BadInput(error.to_string()))?)
}

fn line(fate: &Fate) -> String {
    let Fate { run, scenario, created_at, samples, bytes, .. } = fate;
    let (at, samples) =
        (created_at.strftime("%Y-%m-%d"), count(usize::try_from(*samples).unwrap_or(usize::MAX), "sample"));
    format!("{run}  {at}  {}  {samples}  {}", regatta_core::id::shown(scenario), size(*bytes))
}

fn summary(args: &PruneArgs, gone: &[Fate], held: &[Fate]) -> String {
    let mut why: BTreeMap<Held, usize> = BTreeMap::new();
    for reason in held.iter().filter_map(|fate| fate.held) {
        *why.entry(reason).or_default() += 1;
    }
    let kept = why.iter().map(|(reason, runs)| format!("{} ({reason})", count(*runs, "run"))).collect::<Vec<_>>();
    let kept = if kept.is_empty() { String::new() } else { format!("; kept: {}", kept.join(", ")) };
    let (runs, bytes) = (count(gone.len(), "run"), size(gone.iter().map(|fate| fate.bytes).sum()));
    match (args.dry_run, args.vacuum) {
        (true, _) => format!("would remove {runs} and free about {bytes}{kept}"),
        (_, true) => format!("removed {runs}, about {bytes}, and gave the room back{kept}"),
        _ => format!("removed {runs}: about {bytes} of the file are free for what comes next{kept}"),
    }
}

fn object(args: &PruneArgs, gone: &[Fate], held: &[Fate]) -> Value {
    let removed = |fate: &Fate| {
        let Fate { run, scenario, created_at, samples, bytes, .. } = fate;
        json!({ "run": run.as_str(), "scenario": scenario, "created_at": created_at, "samples": samples, "bytes": bytes })
    };
    let kept = |fate: &Fate| json!({ "run": fate.run.as_str(), "because": fate.held.map(|held| held.to_string()) });
    json!({
        "dry_run": args.dry_run,
        "removed": gone.iter().map(removed).collect::<Vec<_>>(),
        "kept": held.iter().map(kept).collect::<Vec<_>>(),
        "bytes": gone.iter().map(|fate| fate.bytes).sum::<u64>(),
    })
}

fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Arguments of `regatta pin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  regatta pin 01935f --reason 'release 2.1'     'regatta prune' leaves that run alone
  regatta pin 01935f --off                      not any more
  regatta pin                                   the runs that are pinned")]
pub(crate) struct PinArgs {
    /// The run: its id or the beginning of it [default: list what is pinned]
    #[arg(requires = "what")]
    run: Option<String>,
    /// Why: stored, and shown in the list
    #[arg(long, group = "what", requires = "run", value_parser = verdict::reason)]
    reason: Option<String>,
    /// Unpin it
    #[arg(long, group = "what", requires = "run")]
    off: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Pins a run, unpins it, or lists what is pinned.
pub(crate) async fn pin(args: PinArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let path = folders.database(args.database.db.as_deref())?;
    let run = match &args.run {
        Some(run) => {
            let reader = source::open(&path).await?;
            let run = reader.resolve_run(run).await.map_err(|error| BadInput(error.to_string()))?;
            reader.close().await;
            Some(run)
        }
        None => None,
    };
    let mut retention = open(&path).await?;
    match (&run, &args.reason) {
        (Some(run), Some(reason)) => {
            if !retention.pin(run, reason, Timestamp::now()).await? {
                return Err(BadInput(format!("run {run} was removed a moment ago")).into());
            }
        }
        (Some(run), None) => {
            if !retention.unpin(run).await? {
                return Err(BadInput(format!("run {run} is not pinned: 'regatta pin' lists what is")).into());
            }
        }
        (None, _) => {}
    }
    let pins = retention.pins().await?;
    retention.close().await?;
    if args.json {
        let pin = |pin: &regatta_store::Pinned| json!({ "run": pin.run.as_str(), "reason": pin.reason });
        output::json(&Value::Array(pins.iter().map(pin).collect()));
    } else if let Some(run) = run {
        output::line(&format!("run {run} is {}", if args.off { "not pinned any more" } else { "pinned" }));
    } else if pins.is_empty() {
        output::note("no run is pinned: 'regatta pin RUN --reason …' pins one");
    } else {
        for pin in &pins {
            output::line(&format!("{}  {}", pin.run, pin.reason));
        }
    }
    Ok(Exit::Done)
}
