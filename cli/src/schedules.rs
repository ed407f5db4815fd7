//! Schedules: the file that says what is run when, and `regatta schedules`, which checks and shows it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{Timestamp, Zoned};
use regatta_coordinator::Planned;
use regatta_core::schedule::Schedule;
use regatta_reporter::text::count;
use regatta_store::{Firing, FiringOutcome, OutboxState, Reader};
use serde::Deserialize;
use serde_json::{Value, json};
use toml::Spanned;

use crate::bundle;
use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::source::{self, DatabaseArgs};

/// Firings that are shown.
const NEXT: usize = 3;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

const EXAMPLES: &str = "\
Example of a file:
  [[schedule]]
  name = \"nightly\"
  cron = \"30 2 * * *\"              # minute, hour, day of month, month, day of week
  time_zone = \"Europe/Berlin\"
  scenario = \"nightly.toml\"        # beside this file
  priority = -10

  regatta schedules schedules.toml
  regatta coordinator --schedules schedules.toml";

/// Arguments of `regatta schedules`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SchedulesArgs {
    /// The file of schedules
    #[arg(env = "REGATTA_COORDINATOR_SCHEDULES")]
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    schedule: Vec<Spanned<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    cron: String,
    #[serde(default = "utc")]
    time_zone: String,
    scenario: PathBuf,
    #[serde(default)]
    priority: i32,
    #[serde(default = "yes")]
    confirm: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn yes() -> bool {
    true
}

/// Reads a file of schedules with the scenarios it names; everything that is wrong is said at once.
pub(crate) fn read(path: &Path, now: Timestamp) -> Result<Vec<Planned>, BadInput> {
    let shown = path.display();
    let wrong = |error: std::io::Error| BadInput(format!("failed to read {shown}: {error}"));
    let length = path.metadata().map_err(wrong)?.len();
    if length > MAX_FILE {
        return Err(BadInput(format!("{shown} has {length} bytes, and at most {MAX_FILE} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(wrong)?;
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(span.start));
        BadInput(format!("{shown}:{line}: {}", error.message()))
    })?;
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    let mut planned = Vec::new();
    for entry in file.schedule {
        let line = line(entry.span().start);
        let entry = entry.into_inner();
        let mut found = Vec::new();
        if !names.insert(entry.name.clone()) {
            found.push(format!("name: '{}' is there twice", regatta_core::id::shown(&entry.name)));
        }
        match plan(&entry, path, now) {
            Ok(plan) => planned.push(plan),
            Err(of_entry) => found.extend(of_entry),
        }
        errors.extend(found.into_iter().map(|error| format!("{shown}:{line}: {error}")));
    }
    if errors.is_empty() { Ok(planned) } else { Err(BadInput(errors.join("\n"))) }
}

fn plan(entry: &Entry, file: &Path, now: Timestamp) -> Result<Planned, Vec<String>> {
    let mut errors = Vec::new();
    let schedule = Schedule::new(&entry.name, &entry.cron, &entry.time_zone, now);
    let schedule = schedule.map_err(|all| errors.extend(all.iter().map(ToString::to_string))).ok();
    if !(-100..=100).contains(&entry.priority) {
        errors.push(format!("priority: {} is not within -100 and 100", entry.priority));
    }
    let scenario = file.parent().unwrap_or(Path::new(".")).join(&entry.scenario);
    let bundle = bundle::plain(&scenario).and_then(|bundle| bundle::check(&bundle).map(|_| bundle));
    let bundle = bundle.map_err(|error| errors.push(format!("scenario: {error}"))).ok();
    match (schedule, bundle) {
        (Some(schedule), Some(bundle)) if errors.is_empty() => {
            Ok(Planned { schedule, bundle, priority: entry.priority, confirm: entry.confirm })
        }
        _ => Err(errors),
    }
}

/// Checks a file of schedules, and shows what fires when.
pub(crate) async fn run(args: SchedulesArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let now = Timestamp::now();
    let planned = read(&args.file, now)?;
    let path = folders.database(args.database.db.as_deref())?;
    // What came of earlier firings is in the coordinator's database, where that is on this machine.
    let reader = if path.is_file() { Some(source::open(&path).await?) } else { None };
    let outbox = match &reader {
        Some(reader) => reader.outbox().await?,
        None => OutboxState::default(),
    };
    let mut all = Vec::new();
    for planned in &planned {
        let firings = match &reader {
            Some(reader) => last(reader, planned).await?,
            None => Vec::new(),
        };
        all.push((planned, planned.schedule.upcoming(now, NEXT), firings));
    }
    if args.json {
        output::json(&Value::Array(
            all.iter().map(|(planned, next, firings)| object(planned, next, firings)).collect(),
        ));
    } else {
        output::text(&all.iter().map(|(planned, next, firings)| text(planned, next, firings)).collect::<String>());
        undelivered(&outbox);
    }
    Ok(Exit::Done)
}

/// Says which notices somebody waits for in vain.
fn undelivered(outbox: &OutboxState) {
    let OutboxState { waiting, given_up, last_error } = outbox;
    if waiting + given_up > 0 {
        let why = last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let waiting = count(usize::try_from(*waiting).unwrap_or(usize::MAX), "notice");
        output::note(&format!("webhook: {waiting} not taken yet, {given_up} given up in the last 30 days{why}"));
    }
}

async fn last(reader: &Reader, planned: &Planned) -> anyhow::Result<Vec<Firing>> {
    const SHOWN: u32 = 5;
    Ok(reader.firings(&planned.schedule.name, SHOWN).await?)
}

fn object(planned: &Planned, next: &[Zoned], firings: &[Firing]) -> Value {
    let firing = |firing: &Firing| {
        let (outcome, detail, run) = said(&firing.outcome);
        json!({ "due": firing.due, "outcome": outcome, "detail": detail, "run": run })
    };
    json!({
        "name": planned.schedule.name.as_str(),
        "cron": planned.schedule.cron,
        "time_zone": planned.schedule.zone,
        "scenario": planned.bundle.file,
        "priority": planned.priority,
        "confirm": planned.confirm,
        "next": next.iter().map(Zoned::to_string).collect::<Vec<_>>(),
        "last": firings.iter().map(firing).collect::<Vec<_>>(),
    })
}

fn said(outcome: &FiringOutcome) -> (&'static str, &str, Option<&str>) {
    match outcome {
        FiringOutcome::Submitted(run, stage) => ("submitted", stage.as_str(), Some(run.as_str())),
        FiringOutcome::Missed(why) => ("missed", why, None),
        FiringOutcome::Failed(why) => ("failed", why, None),
    }
}

fn text(planned: &Planned, next: &[Zoned], firings: &[Firing]) -> String {
    let Schedule { name, cron, zone, .. } = &planned.schedule;
    let mut out = format!("{name}: {cron} in {zone}, {}\n", planned.bundle.file);
    for firing in next {
        let _ = writeln!(out, "  next  {}", firing.strftime("%a %Y-%m-%d %H:%M %Z"));
    }
    for firing in firings {
        let (outcome, detail, run) = said(&firing.outcome);
        let due = firing.due.strftime("%Y-%m-%d %H:%M UTC");
        let _ = writeln!(
            out,
            "  last  {due}  {outcome}{} ({detail})",
            run.map(|run| format!(" {run}")).unwrap_or_default()
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "schema = 1\nname = \"n\"\nmodels = [\"regatta-15m\"]\nweights = \"synthetic\"\nbackends = [\"fake\"]\n\
                            precisions = [\"f32\"]\n[[workload]]\nname = \"w\"\nprompt_tokens = 8\ngenerate = 4\n";

    fn of(text: &str) -> Result<Vec<Planned>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("n.toml"), SCENARIO).unwrap();
        let file = folder.path().join("schedules.toml");
        std::fs::write(&file, text).unwrap();
        let read = read(&file, "2026-01-01T00:00:00Z".parse().unwrap());
        read.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "."))
    }

    #[test]
    fn a_schedule_needs_a_name_a_time_and_a_scenario() {
        let planned = of("[[schedule]]\nname = 'n'\ncron = '30 2 * * *'\nscenario = 'n.toml'\n").unwrap();
        assert_eq!((planned.len(), planned[0].schedule.zone.as_str(), planned[0].confirm), (1, "UTC", true));
        let next = planned[0].schedule.upcoming("2026-01-01T00:00:00Z".parse().unwrap(), NEXT);
        let shown = text(&planned[0], &next, &[]);
        assert!(shown.contains("next  Thu 2026-01-01 02:30 UTC"), "{shown}");
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_line() {
        let good = "[[schedule]]\nname = 'n'\ncron = '30 2 * * *'\nscenario = 'n.toml'\n";
        let bad = format!(
            "{good}{good}[[schedule]]\nname = 'feb'\ncron = '0 0 31 2 *'\ntime_zone = 'Mars'\nscenario = 'gone.toml'\npriority = 101\n"
        );
        let error = of(&bad).unwrap_err();
        for part in [
            ":5: name: 'n' is there twice",
            ":9: time_zone: there is no 'Mars'",
            ":9: priority: 101",
            ":9: scenario: failed to read",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        let never = of("[[schedule]]\nname = 'feb'\ncron = '0 0 31 2 *'\nscenario = 'n.toml'\n").unwrap_err();
        assert!(never.contains(":1: cron: '0 0 31 2 *' never comes"), "{never}");
        for (text, part) in [
            ("[[schedule]]\nnme = 'n'\n", ":2: unknown field `nme`"),
            ("x = 1", "unknown field `x`"),
            ("[[schedule]]\nname = 'n'\n", "missing field `cron`"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
