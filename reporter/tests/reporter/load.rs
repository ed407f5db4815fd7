//! From a database to a dataset.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::canary::Canary;
use regatta_core::cell::Outcome;
use regatta_core::digest::Digest;
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::fleet::Place;
use regatta_core::id::TrialId;
use regatta_core::matrix::{CellPlan, Matrix, PlannedCell, PlannedTrial};
use regatta_core::model::BUILT_IN_MODELS;
use regatta_core::policy::Policy;
use regatta_core::scenario::ScenarioBundle;
use regatta_core::trial::Epoch;
use regatta_reporter::dataset::{CellResult, Run};
use regatta_reporter::roofline::Source;
use regatta_reporter::{Format, ReportError, ReportOptions, export, load, load_imports, render};
use regatta_store::{
    AgentSeen, Batch, Content, EndedCell, Ingested, Kept, Lease, Leased, NewImport, NewRun, Record, RunDevice, Seat,
    Store, WorkerFacts,
};

use crate::common::{self, Plan};

fn small() -> Run {
    let plan = Plan {
        backends: vec![BackendKind::LlamaCpp],
        precisions: vec![Precision::Q8_0],
        workloads: vec![("short", 32, 8, 1), ("chat", 64, 24, 1)],
        repetitions: 3,
    };
    common::run(common::cells(&plan, "bench-01", Weights::Synthetic))
}

/// The run as it is submitted: one trial, its last cell not tried.
fn submission(run: &Run) -> NewRun {
    let (last, tried) = run.cells.split_last().unwrap();
    let planned = |c: &CellResult, plan| PlannedCell { hash: c.hash, cell: c.cell.clone(), plan };
    let skip = CellPlan::Skip { reason: "no such worker".to_owned() };
    let cells: Vec<PlannedCell> =
        tried.iter().map(|c| planned(c, CellPlan::Run { trial: 0 })).chain([planned(last, skip)]).collect();
    let cell = &run.cells[0].cell;
    let trial = PlannedTrial {
        agent: cell.agent.clone(),
        device: cell.device,
        backend: cell.backend,
        artifact: cell.artifact.clone(),
        cells: 0..tried.len(),
        pool: None,
        group: None,
        work: None,
    };
    NewRun {
        id: run.id.clone(),
        name: run.scenario.clone(),
        bundle: ScenarioBundle {
            file: run.scenario_file.clone(),
            text: run.scenario_text.clone(),
            prompts: BTreeMap::new(),
            models: String::new(),
            weights: None,
            force: false,
            passes: None,
            builds: vec![],
        },
        policy: Policy::default(),
        matrix: Matrix { cells, trials: vec![trial] },
        priority: 0,
        retry_of: None,
        devices: vec![RunDevice {
            device: run.hosts[0].devices[0].clone(),
            agent_version: "0.1.0".to_owned(),
            host: run.hosts[0].facts.clone(),
        }],
    }
}

/// Everything that the worker sends for the first cell, and a record that nobody understands.
fn batch(run: &Run, trial: &TrialId, epoch: Epoch) -> Batch {
    let worker = WorkerFacts {
        build: None,
        worker: serde_json::to_string(&run.hosts[0].workers[0]).unwrap(),
        engine: "llama.cpp b8146".to_owned(),
        load_ns: 1_000_000,
        weight_bytes: 1 << 30,
        artifact_digest: Digest::of(b"weights").to_string(),
        fingerprint: Fingerprint::default().with(fingerprint::DRIVER, Some("570.1")),
    };
    let cell = &run.cells[0];
    let samples = cell.samples.iter().cloned().map(|s| Content::Sample(Box::new(s)));
    let end = EndedCell::new(cell.hash, Outcome::Ok);
    let contents = [Content::Worker(worker), Content::Unreadable("is not a record".to_owned())]
        .into_iter()
        .chain(samples)
        .chain([Content::CellEnd(end)]);
    let records = contents.enumerate().map(|(i, content)| Record::new(vec![u8::try_from(i).unwrap()], content));
    Batch { trial: trial.clone(), epoch, first_seq: 1, records: records.collect() }
}

#[tokio::test]
async fn what_was_stored_is_what_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("regatta.sqlite"), common::start).await.unwrap();
    let expected = small();
    store.writer().write(submission(&expected)).await.unwrap();
    let trial = TrialId::of(&expected.id, 0);
    let place = Place::of(&expected.hosts[0].devices[0]);
    let lease = Lease(vec![Seat { trial: trial.clone(), place, boot_id: "boot".to_owned() }]);
    let Leased::Granted(granted) = store.writer().write(lease).await.unwrap() else { panic!("no lease") };
    let epoch = granted[0].epoch;
    let ingested = store.writer().write(batch(&expected, &trial, epoch)).await.unwrap();
    assert!(matches!(ingested, Ingested::Stored(_)), "{ingested:?}");

    let dataset = load(store.reader(), std::slice::from_ref(&expected.id)).await.unwrap();
    let run = &dataset.runs[0];
    assert_eq!(
        (&run.id, &run.scenario, &run.scenario_text),
        (&expected.id, &expected.scenario, &expected.scenario_text)
    );
    assert_eq!(run.hosts, expected.hosts);
    assert_eq!(run.cells[0].samples, expected.cells[0].samples);
    assert_eq!(run.cells[0].outcome, Some(Outcome::Ok));
    assert_eq!(run.cells[0].facts.as_ref().unwrap().engine, "llama.cpp b8146");
    assert_eq!(run.cells[1].outcome, Some(Outcome::Skipped("no such worker".to_owned())));
    assert_eq!(run.rejected.len(), 1);
    assert_eq!(load(store.reader(), &[]).await.unwrap(), dataset, "the newest run is the only one");
    store.close().await;
}

#[tokio::test]
async fn a_report_of_an_exported_run_is_the_report_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("regatta.sqlite"), common::start).await.unwrap();
    let run = small();
    store.writer().write(submission(&run)).await.unwrap();
    let trial = TrialId::of(&run.id, 0);
    let place = Place::of(&run.hosts[0].devices[0]);
    let lease = Lease(vec![Seat { trial: trial.clone(), place, boot_id: "boot".to_owned() }]);
    let Leased::Granted(granted) = store.writer().write(lease).await.unwrap() else { panic!("no lease") };
    store.writer().write(batch(&run, &trial, granted[0].epoch)).await.unwrap();

    let copy = folder.path().join("run.sqlite");
    store.reader().export(&run.id, &copy).await.unwrap();
    let copy = Store::open_read_only(&copy).await.unwrap();
    let options = ReportOptions { generated_at: common::start(), source: "a database".to_owned(), svg: false };
    let mut texts = Vec::new();
    for reader in [store.reader(), &copy] {
        let dataset = load(reader, std::slice::from_ref(&run.id)).await.unwrap();
        texts.push(export(&dataset, &options, Format::Json).unwrap());
    }
    assert_eq!(texts[0], texts[1]);
    assert!(texts[0].contains("llama.cpp b8146"));
    copy.close().await;
    store.close().await;
}

#[tokio::test]
async fn an_empty_database_has_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("regatta.sqlite");
    let store = Store::open(&path, common::start).await.unwrap();
    let dataset = load(store.reader(), &[]).await.unwrap();
    let options = ReportOptions { generated_at: common::start(), source: path.display().to_string(), svg: false };
    let error = render(&dataset, &options, folder.path()).unwrap_err();
    assert!(matches!(error, ReportError::NoRuns(_)));
    assert!(error.to_string().contains("regatta.sqlite"));
    store.close().await;
}

/// A canary of the run's processor that reads this many bytes a second.
fn canary(measured_at: i64, name: &str, read: f64) -> Canary {
    let with = common::with_canary(small(), read, 1e12);
    let mut canary = with.hosts[0].canaries[0].clone();
    canary.measured_at = Timestamp::from_second(measured_at).unwrap();
    name.clone_into(&mut canary.device_name);
    canary
}

#[tokio::test]
async fn a_run_is_held_against_the_canary_of_its_own_device() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("regatta.sqlite"), common::start).await.unwrap();
    let run = small();
    let device = &run.hosts[0].devices[0];
    let seen = AgentSeen {
        id: run.hosts[0].agent.clone(),
        boot_id: "boot".to_owned(),
        version: "0.1.0".to_owned(),
        host: BTreeMap::new(),
        workers: Vec::new(),
        devices: Vec::new(),
        labels: BTreeMap::new(),
        canaries: vec![canary(1, &device.name, 2e11), canary(2, &device.name, 1e11), canary(3, "another", 3e11)],
    };
    store.writer().write(seen).await.unwrap();
    let mut new = submission(&run);
    BUILT_IN_MODELS.clone_into(&mut new.bundle.models);
    store.writer().write(new).await.unwrap();
    let trial = TrialId::of(&run.id, 0);
    let lease = Lease(vec![Seat { trial: trial.clone(), place: Place::of(device), boot_id: "boot".to_owned() }]);
    let Leased::Granted(granted) = store.writer().write(lease).await.unwrap() else { panic!("no lease") };
    store.writer().write(batch(&run, &trial, granted[0].epoch)).await.unwrap();

    // In the run, and in a copy of it.
    let copy = folder.path().join("run.sqlite");
    store.reader().export(&run.id, &copy).await.unwrap();
    let copy = Store::open_read_only(&copy).await.unwrap();
    for reader in [store.reader(), &copy] {
        let run = load(reader, std::slice::from_ref(&run.id)).await.unwrap().runs.remove(0);
        let [found] = run.hosts[0].canaries.as_slice() else { panic!("{:?}", run.hosts[0].canaries) };
        assert_eq!(found.reading.read_bytes_per_s, Some(2e11), "the best one of that device");
        let cell = &run.cells[0];
        let (share, source) = cell.utilisation(&cell.samples[0]).mbu.unwrap();
        assert!((0.1..0.3).contains(&share) && source == Source::Measured, "{share}");
    }
    copy.close().await;
    store.close().await;
}

#[tokio::test]
async fn rows_of_other_tools_are_kept_as_they_came_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("regatta.sqlite"), common::start).await.unwrap();
    let row = r#"{"avg_ts":1.5,"n_gen":0,"n_prompt":8,"of_tomorrow":[1,2]}"#;
    let new = |id: &str| NewImport {
        id: id.parse().unwrap(),
        tool: "llama-bench".to_owned(),
        file: "x.jsonl".to_owned(),
        digest: Digest::of(row.as_bytes()),
        rows: vec![row.to_owned()],
    };
    assert_eq!(store.writer().write(new("import-a")).await.unwrap(), Kept::New);
    let first = new("import-a").id;
    assert_eq!(store.writer().write(new("import-b")).await.unwrap(), Kept::Before(first.clone()));
    let [import] = load_imports(store.reader(), &[first]).await.unwrap().try_into().unwrap();
    assert_eq!((import.tool.as_str(), import.file.as_str(), import.rows.len()), ("llama-bench", "x.jsonl", 1));
    assert_eq!(serde_json::to_string(&import.rows[0].0).unwrap(), row);
    store.close().await;
}
