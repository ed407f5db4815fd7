//! What the dashboard shows: texts as text, progress as it comes, reports one at a time.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};

use regatta_coordinator::{Config, DashboardAt, Drawing, Report, Series};
use regatta_core::id::RunId;
use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_store::{KnownCell, Reader};
use tokio::task::JoinSet;

use crate::support::{Agent, SCENARIO, Server, end_record, hello, record, sample, submission};
use crate::web::{Events, dashboard, get, loopback};

async fn server(dir: &std::path::Path, dashboard: DashboardAt) -> (Server, SocketAddr) {
    let server = Server::with(Config { dashboard: Some(dashboard), ..Config::new(dir.join("regatta.db")) }).await;
    let address = server.dashboard.unwrap();
    (server, address)
}

/// A record of a repetition with the temperature that was seen.
fn warm(sample: pb::Sample, celsius: f64) -> Vec<u8> {
    use prost::Message as _;
    let telemetry = pb::Telemetry { temperature_c: Some(celsius), readings: 1, ..pb::Telemetry::default() };
    let record = pb::trial_record::Record::Sample(sample);
    pb::TrialRecord { record: Some(record), telemetry: Some(telemetry) }.encode_to_vec()
}

#[tokio::test]
async fn texts_from_outside_stay_text() {
    let evil = format!("<script>alert(1)</script>\"'&\u{202e}\u{200b}{}", "A".repeat(10_000));
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = server(dir.path(), dashboard(loopback())).await;
    let mut hostile = hello("host-a", "boot", Vec::new());
    hostile.version.clone_from(&evil);
    hostile.devices[0].name.clone_from(&evil);
    hostile.labels.insert(evil.clone(), evil.clone());
    let (mut agent, _) = Agent::greet(&server, hostile).await.unwrap();
    server.submit("run").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let progress = pb::Progress {
        trial_id: trial.id.clone(),
        epoch,
        phase: evil.clone(),
        cell_hash: trial.cells[0].cell_hash.clone(),
        ..pb::Progress::default()
    };
    agent.send(ToCoordinator::Progress(progress)).await;
    let failed = pb::CellEnd {
        cell_hash: trial.cells[0].cell_hash.clone(),
        state: "failed".to_owned(),
        kind: Some("engine".to_owned()),
        detail: format!("</td>{evil}"),
        ..pb::CellEnd::default()
    };
    agent.deliver(&trial.id, epoch, 1, &[record(pb::trial_record::Record::CellEnd(failed))]).await;

    let mut events = Events::open(address, "/runs/run/events", &[]).await;
    let live = events.wait_for("Without a result").await + &events.wait_for("data: </section>").await;
    let overview = get(address, "/").await.body;
    let run = get(address, "/runs/run").await.body;
    assert!(run.contains("&#60;script&#62;alert(1)") || run.contains("&lt;script&gt;alert(1)"), "{run}");
    for page in [&overview, &run, &live] {
        assert!(!page.contains("<script>alert") && !page.contains("</td><script"), "{page}");
        assert!(!page.contains(['\u{202e}', '\u{200b}']) && !page.contains(&"A".repeat(500)), "{page}");
    }
    for page in [&overview, &run] {
        assert_eq!(page.matches("<script").count(), 1, "the page's own");
    }
    for path in ["/runs/%3Cscript%3E", "/cells/%3Cscript%3E", "/%3Cscript%3Ealert(1)%3C/script%3E"] {
        let page = get(address, path).await;
        assert!(page.status == 404 && page.body.matches("<script").count() == 1, "{page:?}");
    }
    let search = get(address, "/cells?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E").await;
    assert!(search.status == 200 && search.body.matches("<script").count() == 1, "{search:?}");
    server.stop().await;
}

#[tokio::test]
async fn progress_comes_as_it_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = server(dir.path(), dashboard(loopback())).await;
    let (mut agent, _) = Agent::greet(&server, hello("host-a", "boot", Vec::new())).await.unwrap();
    let mut fleet = Events::open(address, "/events", &[]).await;
    fleet.wait_for("No run goes on").await;
    server.submit("run").await.unwrap();
    fleet.wait_for("0 of 2 cells have ended").await;
    let (trial, epoch) = agent.assigned().await;
    let mut run = Events::open(address, "/runs/run/events", &[]).await;
    run.wait_for("data-ended=\"0\"").await;

    let hash = |at: usize| trial.cells[at].cell_hash.clone();
    let progress = pb::Progress {
        trial_id: trial.id.clone(),
        epoch,
        cell_hash: hash(0),
        phase: "measuring".to_owned(),
        repetitions: 1,
        decode_rate: 41.54,
        pass: 0,
    };
    agent.send(ToCoordinator::Progress(progress)).await;
    let seen = run.wait_for("measuring, repetition 1 of 2").await + &run.wait_for("41.5 tokens/s").await;
    assert!(seen.contains("first"), "the workload is named: {seen}");
    fleet.wait_for("measuring, repetition 1").await;

    let records = [warm(sample(&hash(0), epoch, 0), 71.4), warm(sample(&hash(0), epoch, 1), 68.0)];
    agent.deliver(&trial.id, epoch, 1, &records).await;
    run.wait_for("68 °C").await;
    fleet.wait_for("68 °C").await;
    agent.deliver(&trial.id, epoch, 3, &[end_record(&hash(0), "ok")]).await;
    run.wait_for("data-ended=\"1\"").await;
    let oom = pb::CellEnd { cell_hash: hash(1), state: "oom".to_owned(), ..pb::CellEnd::default() };
    let all =
        [records.to_vec(), vec![end_record(&hash(0), "ok"), record(pb::trial_record::Record::CellEnd(oom))]].concat();
    agent.deliver(&trial.id, epoch, 4, &all[3..]).await;
    agent.finish(&trial.id, epoch, &all).await;
    run.wait_for("data-ended=\"2\"").await;
    run.wait_for("Without a result").await;
    fleet.wait_for("No run goes on").await;

    // What ended is found again: by its cell, by its run, and by the beginning of the run's id.
    let cells = get(address, "/cells?q=FAKE+first").await.body;
    let key = cells.split("href=\"/cells/").nth(1).unwrap().split('"').next().unwrap();
    let cell = get(address, &format!("/cells/{key}")).await.body;
    assert!(
        cell.contains("Decode of fake") && cell.contains("<svg></svg>") && !cell.contains("<b>steady</b>"),
        "{cell}"
    );
    assert!(!get(address, "/cells?q=second").await.body.contains("/cells/"), "it has no result");
    assert_eq!(get(address, "/cells/0123456789abcdef").await.status, 404);
    assert_eq!(get(address, "/runs/ru").await.header("location"), Some("/runs/run"));
    let report = get(address, "/runs/run/report").await;
    assert_eq!(report.body, "<p>report of run</p>");
    assert_eq!(report.header("content-security-policy"), Some("default-src 'none'; frame-ancestors 'none'"));
    let missing = get(address, "/runs/other/report").await;
    assert!(missing.status == 404 && missing.body.contains("There is no run other"), "{missing:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_report_that_fails_says_so_and_not_why() {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = server(dir.path(), dashboard(loopback())).await;
    let _agent = Agent::connect(&server, "boot").await;
    server.people().await.submit_run(submission("broken", SCENARIO)).await.unwrap();
    let page = get(address, "/runs/broken/report").await;
    assert!(page.status == 500 && page.body.contains("log says why") && !page.body.contains("secret"), "{page:?}");
    server.stop().await;
}

/// Draws when it is let, and counts.
#[derive(Debug, Default)]
struct Slow {
    state: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// Drawn at this moment, and at most.
    now: usize,
    most: usize,
    /// Ever begun.
    begun: usize,
    open: bool,
}

impl Slow {
    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    /// How many were drawn, and how many at a time at most.
    fn counted(&self) -> (usize, usize) {
        let turns = self.state.lock().unwrap();
        (turns.begun, turns.most)
    }

    fn begun(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |turns| turns.begun == 0).unwrap());
    }
}

impl Drawing for Slow {
    fn report(&self, _: &Reader, _: &RunId) -> Result<Report, String> {
        let mut turns = self.state.lock().unwrap();
        turns.now += 1;
        turns.begun += 1;
        turns.most = turns.most.max(turns.now);
        self.changed.notify_all();
        let mut turns = self.changed.wait_while(turns, |turns| !turns.open).unwrap();
        turns.now -= 1;
        Ok(Report { html: "drawn".to_owned(), policy: "default-src 'none'".to_owned() })
    }

    fn history(&self, _: &Reader, _: &KnownCell) -> Result<Vec<Series>, String> {
        Ok(Vec::new())
    }

    fn style(&self) -> String {
        String::new()
    }
}

#[tokio::test]
async fn reports_are_drawn_one_at_a_time_and_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow::default());
    let drawing: Arc<dyn Drawing> = slow.clone();
    let (server, address) = server(dir.path(), DashboardAt { listen: loopback(), drawing }).await;
    let mut agent = Agent::connect(&server, "boot").await;
    server.submit("run").await.unwrap();
    let (trial, epoch) = agent.assigned().await;

    let mut readers = JoinSet::new();
    for _ in 0..8 {
        readers.spawn(async move { get(address, "/runs/run/report").await });
    }
    let begun = slow.clone();
    tokio::task::spawn_blocking(move || begun.begun()).await.unwrap();
    // One is drawn and four wait: the others are told to come back.
    for _ in 0..3 {
        let refused = readers.join_next().await.unwrap().unwrap();
        assert!(refused.status == 503 && refused.body.contains("try again"), "{refused:?}");
    }
    // Meanwhile the coordinator does what it is there for, and shows it.
    agent.measure(&trial, epoch).await;
    assert_eq!(server.run("run").await.state, "done");
    assert!(get(address, "/runs/run").await.body.contains("2 of 2 cells have ended"));
    slow.open();
    while let Some(drawn) = readers.join_next().await {
        assert_eq!(drawn.unwrap().body, "drawn");
    }
    assert_eq!(slow.counted(), (5, 1));
    server.stop().await;
}
