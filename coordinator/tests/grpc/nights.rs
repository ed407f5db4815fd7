//! Schedules: fired by an injected clock, each firing accounted for, and what they ran judged.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use regatta_coordinator::{Backups, Config, Planned, Webhook, WebhookSecret};
use regatta_core::id::{RunId, ScheduleName};
use regatta_core::model::BUILT_IN_MODELS;
use regatta_core::policy::Passes;
use regatta_core::scenario::ScenarioBundle;
use regatta_core::schedule::Schedule;
use regatta_proto::pb;
use regatta_store::{Firing, FiringOutcome, Stage};
use tonic::Code;

use crate::leases::StoppedClock;
use crate::support::{Agent, SCENARIO, Server, a_moment};

/// Seconds on the clock on the wall.
static WALL: AtomicI64 = AtomicI64::new(0);

fn wall() -> Timestamp {
    Timestamp::from_second(WALL.load(Ordering::SeqCst)).unwrap()
}

fn set(time: &str) {
    let time: Timestamp = time.parse().unwrap();
    WALL.store(time.as_second(), Ordering::SeqCst);
}

fn name() -> ScheduleName {
    "nightly".parse().unwrap()
}

async fn start(dir: &Path) -> Server {
    start_with(dir, |planned| vec![planned]).await
}

async fn start_with(dir: &Path, schedules: fn(Planned) -> Vec<Planned>) -> Server {
    let bundle = ScenarioBundle {
        file: "small.toml".to_owned(),
        text: SCENARIO.to_owned(),
        models: BUILT_IN_MODELS.to_owned(),
        prompts: std::collections::BTreeMap::new(),
        weights: None,
        force: false,
        passes: None,
        builds: Vec::new(),
    };
    let schedule = Schedule::new("nightly", "30 2 * * *", "UTC", wall()).unwrap();
    let planned = Planned { schedule, bundle, priority: -10, confirm: true };
    // Nobody is there: what is told stays in the outbox.
    let secret = WebhookSecret::new("a secret of sixteen bytes at least").unwrap();
    let webhook = Some(Webhook::new("http://127.0.0.1:9/", secret).unwrap());
    let backups = Some(Backups { folder: dir.join("backups"), keep: 2 });
    let config = Config::new(dir.join("regatta.db"));
    Server::with(Config { clock: wall, schedules: schedules(planned), backups, webhook, ..config }).await
}

/// Lets time pass until the newest firing is what is wanted.
async fn firing(server: &Server, what: &str, wanted: impl Fn(&Firing) -> bool) -> Firing {
    for _ in 0..200 {
        if let Some(firing) = server.reader.firings(&name(), 1).await.unwrap().pop().filter(&wanted) {
            return firing;
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        a_moment().await;
    }
    panic!("{what}: {:?}", server.reader.firings(&name(), 9).await.unwrap());
}

fn run_of(firing: &Firing) -> RunId {
    let FiringOutcome::Submitted(run, _) = &firing.outcome else { panic!("{firing:?}") };
    run.clone()
}

#[tokio::test(start_paused = true)]
async fn a_schedule_fires_when_it_is_due_and_its_run_is_judged() {
    let _clock = StoppedClock::new();
    let dir = tempfile::tempdir().unwrap();
    set("2026-01-01T02:00:00Z");
    let server = start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    for _ in 0..200 {
        if server.reader.accounted(&name()).await.unwrap().is_some() {
            break;
        }
        a_moment().await;
    }
    assert_eq!(server.reader.accounted(&name()).await.unwrap(), Some(wall()), "a new schedule has missed nothing");

    set("2026-01-01T02:30:01Z");
    let mut fired = None;
    for _ in 0..200 {
        fired = server.reader.firings(&name(), 1).await.unwrap().pop();
        if fired.is_some() {
            break;
        }
        // It lives while time passes.
        agent.heartbeat(&[], 0).await;
        tokio::time::advance(Duration::from_secs(3)).await;
        a_moment().await;
    }
    let fired = fired.expect("it fires");
    let run = run_of(&fired);
    assert_eq!(fired.due, "2026-01-01T02:30:00Z".parse().unwrap());
    assert_eq!(server.run(run.as_str()).await.priority, -10);
    let backup = dir.path().join("backups/regatta-2026-01-01T02-30-01Z-night.sqlite");
    let backup = regatta_store::Store::open_read_only(&backup).await.unwrap();
    assert_eq!(backup.runs(9).await.unwrap(), [], "it was made before the run was submitted");
    let (trial, epoch) = agent.assigned().await;
    agent.measure(&trial, epoch).await;
    let judged = |firing: &Firing| matches!(firing.outcome, FiringOutcome::Submitted(_, Stage::Judged));
    firing(&server, "judged", judged).await;
    let verdicts = server.reader.verdicts(&run).await.unwrap();
    assert!(verdicts.len() == 4 && verdicts.iter().all(|verdict| verdict.finding == "learning"), "{verdicts:?}");

    assert_eq!(told(dir.path()), ["night.judged"]);

    // The next one comes while this one goes on.
    set("2026-01-02T02:30:00Z");
    let second = firing(&server, "second", |firing| firing.due != fired.due).await;
    set("2026-01-03T02:30:00Z");
    let third = firing(&server, "third", |firing| firing.due != second.due && firing.due != fired.due).await;
    let still = format!("run {} still went on", run_of(&second));
    assert_eq!(third.outcome, FiringOutcome::Missed(still.clone()));
    set("2026-01-04T02:30:00Z");
    let fourth = firing(&server, "fourth", |firing| firing.due > third.due).await;
    assert_eq!(
        fourth.outcome,
        FiringOutcome::Missed(still),
        "the one that was missed does not hide the one that goes on"
    );
    server.stop().await;

    // Nobody is there for two nights; when it comes back it is too late for the second as well.
    set("2026-01-06T08:00:00Z");
    let server = start(dir.path()).await;
    let last = firing(&server, "missed", |firing| firing.due == "2026-01-06T02:30:00Z".parse().unwrap()).await;
    let missed = FiringOutcome::Missed("the coordinator was not running".to_owned());
    assert_eq!(last.outcome, missed);
    let all = server.reader.firings(&name(), 9).await.unwrap();
    assert_eq!(all.len(), 6, "{all:?}");
    assert_eq!(all[1].outcome, missed);
    let all = told(dir.path());
    assert_eq!(
        all,
        ["firing.missed", "firing.missed", "firing.missed", "night.judged"],
        "two nights are told of at once"
    );
    server.stop().await;

    // The schedule is taken out, and what it has run is judged all the same when it has ended.
    let server = start_with(dir.path(), |_| Vec::new()).await;
    let run_id = run_of(&second).to_string();
    server.people().await.cancel_run(pb::CancelRunRequest { run_id }).await.unwrap();
    let is_judged = async || {
        let all = server.reader.firings(&name(), 9).await.unwrap();
        all.iter().any(|firing| firing.due == second.due && judged(firing))
    };
    for _ in 0..200 {
        if is_judged().await {
            break;
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        a_moment().await;
    }
    assert!(is_judged().await);
    server.stop().await;
}

/// Kinds of the notices that were put into the outbox, whatever came of them.
fn told(dir: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(dir.join("regatta.db")).unwrap();
    let mut kinds = db.prepare("SELECT json_extract(body, '$.type') AS kind FROM outbox ORDER BY kind").unwrap();
    kinds.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn people_answer_verdicts_and_take_nights_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    agent.measure(&trial, epoch).await;
    let mut people = server.people().await;
    let answer = |answer: &str, reason: &str, cell_hash: Vec<u8>| pb::AnswerVerdictsRequest {
        run_id: "run-a".to_owned(),
        cell_hash,
        answer: answer.to_owned(),
        reason: reason.to_owned(),
    };
    // Nothing was judged, so nothing moved.
    let answered = people.answer_verdicts(answer("expected", "because", vec![])).await.unwrap().into_inner();
    assert_eq!(answered.verdicts, 0);
    for (request, part) in [
        (answer("fine", "because", vec![]), "acknowledged"),
        (answer("expected", " \u{202e}", vec![]), "say why"),
        (answer("expected", &"x".repeat(501), vec![]), "at most 500"),
        (answer("expected", "because", vec![1]), "cell_hash"),
    ] {
        let refused = people.answer_verdicts(request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(part), "{refused:?}");
    }
    let night = |reason: &str| pb::ExcludeNightRequest { run_id: "run-a".to_owned(), reason: reason.to_owned() };
    let run: RunId = "run-a".parse().unwrap();
    let excluded = async || {
        let night = server.reader.to_judge(&run).await.unwrap();
        night.histories.iter().all(|history| history.nights[0].excluded.as_deref() == Some("fans"))
    };
    people.exclude_night(night("fans")).await.unwrap();
    assert!(excluded().await);
    people.exclude_night(night("")).await.unwrap();
    assert!(!excluded().await);
    server.stop().await;
}

#[tokio::test]
async fn a_night_is_judged_when_somebody_asks_and_what_is_said_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let mut people = server.people().await;
    let judge = |run: &str, threshold: f64| pb::JudgeRunRequest { run_id: run.to_owned(), threshold };
    let (trial, epoch) = agent.assigned().await;
    let refused = people.judge_run(judge("run-a", 0.0)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("still goes on"), "{refused:?}");
    agent.measure(&trial, epoch).await;
    for threshold in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
        let refused = people.judge_run(judge("run-a", threshold)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains("above 0"), "{refused:?}");
    }
    assert_eq!(people.judge_run(judge("run-z", 0.0)).await.unwrap_err().code(), Code::NotFound);

    let run: RunId = "run-a".parse().unwrap();
    assert_eq!(server.reader.verdicts(&run).await.unwrap(), []);
    let judged = people.judge_run(judge("run-a", 0.05)).await.unwrap().into_inner();
    assert_eq!((judged.run_id.as_str(), judged.scenario.as_str(), judged.slowdowns), ("run-a", "small", 0));
    let mut said: Vec<(Vec<u8>, String)> =
        judged.verdicts.into_iter().map(|verdict| (verdict.cell_hash, verdict.verdict)).collect();
    let kept = server.reader.verdicts(&run).await.unwrap();
    let mut kept: Vec<(Vec<u8>, String)> =
        kept.into_iter().map(|verdict| (verdict.cell.0.as_bytes().to_vec(), verdict.evidence)).collect();
    said.sort_unstable();
    kept.sort_unstable();
    assert_eq!(said.len(), 4, "two metrics of two cells");
    assert_eq!(said, kept, "what is said is what is kept, with its evidence");
    server.stop().await;
}

#[tokio::test]
async fn named_cells_are_measured_again_however_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    agent.measure(&trial, epoch).await;
    let again = |cell_hashes: Vec<Vec<u8>>, passes: u32| pb::RetryRunRequest {
        run_id: "run-a".to_owned(),
        new_run_id: "run-b".to_owned(),
        cell_hashes,
        passes,
        in_turns: false,
    };
    let mut people = server.people().await;
    let one = trial.cells[0].cell_hash.clone();
    for (request, code) in [
        (again(vec![vec![1]], 0), Code::InvalidArgument),
        (again(vec![one.clone()], 101), Code::InvalidArgument),
        (again(vec![vec![7; 32]], 10), Code::FailedPrecondition),
    ] {
        assert_eq!(people.retry_run(request).await.unwrap_err().code(), code);
    }
    let answer = people.retry_run(again(vec![one.clone()], 10)).await.unwrap().into_inner();
    assert_eq!(answer.cells, 1);
    let (again, epoch) = agent.assigned().await;
    assert_eq!((again.run_id.as_str(), &again.cells[0].cell_hash, again.cells.len()), ("run-b", &one, 1));
    let policy = server.reader.run("run-b").await.unwrap().policy;
    assert_eq!(policy.passes, Passes::fixed(10));
    agent.measure(&again, epoch).await;
    server.stop().await;
}
