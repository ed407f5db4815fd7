//! A small run, its samples, and a store on a temporary file.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::device::{Device, DeviceFacts, DeviceId};
use regatta_core::digest::Digest;
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::fleet::Place;
use regatta_core::id::{RunId, TrialId};
use regatta_core::matrix::{CellPlan, Matrix, PlannedCell, PlannedTrial};
use regatta_core::policy::Policy;
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::scenario::ScenarioBundle;
use regatta_core::telemetry::Telemetry;
use regatta_core::trial::Epoch;
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_store::{
    Batch, Content, EndedCell, Finish, Finished, Ingested, Lease, Leased, NewRun, Record, RunDevice, Seat, Store,
    Stored, Submitted, WorkerFacts,
};

/// Tokens that every cell generates.
pub(crate) const GENERATE: u32 = 3;

/// Samples that every cell asks for.
pub(crate) const REPETITIONS: u32 = 3;

/// A store, with the folder that goes away at the end of the test.
pub(crate) struct Temp {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Temp {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("regatta.db")
    }

    /// Closes the store and opens it again, as after a restart.
    pub(crate) async fn reopened(self) -> Self {
        let Self { dir, store } = self;
        store.close().await;
        let store = Store::open(&dir.path().join("regatta.db"), || Timestamp::UNIX_EPOCH).await.unwrap();
        Self { dir, store }
    }
}

pub(crate) async fn store() -> Temp {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("regatta.db"), || Timestamp::UNIX_EPOCH).await.unwrap();
    Temp { dir, store }
}

/// A run of one trial with `cells` cells, and one cell that is not tried.
pub(crate) fn run(id: &str, cells: u32) -> NewRun {
    let artifact = ArtifactRef {
        model: "tinyllama-1.1b".parse().unwrap(),
        weights: Weights::Synthetic,
        format: Format::Gguf,
        precision: Precision::Q8_0,
    };
    let planned = |prompt_tokens: u32, plan: CellPlan| {
        let workload = Workload {
            kind: Kind::Generate,
            name: format!("w{prompt_tokens}").parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: prompt_tokens },
            generate: GENERATE,
            batch: 1,
            replicas: 1,
        };
        let cell = Cell {
            agent: "host-a".parse().unwrap(),
            device: DeviceId::CPU,
            backend: BackendKind::Fake,
            artifact: artifact.clone(),
            workload: Arc::new(workload),
            replica: 0,
            build: None,
        };
        PlannedCell { hash: cell.hash(), cell, plan }
    };
    let mut all: Vec<_> = (1..=cells).map(|n| planned(n, CellPlan::Run { trial: 0 })).collect();
    all.push(planned(1000, CellPlan::Skip { reason: "no worker".to_owned() }));
    let trial = PlannedTrial {
        agent: "host-a".parse().unwrap(),
        device: DeviceId::CPU,
        backend: BackendKind::Fake,
        artifact,
        cells: 0..cells as usize,
        pool: None,
        group: None,
        work: Some(Digest::of(b"work")),
    };
    let trials = if cells > 0 { vec![trial] } else { Vec::new() };
    NewRun {
        id: id.parse().unwrap(),
        name: "small".to_owned(),
        bundle: ScenarioBundle {
            file: "small.toml".to_owned(),
            text: "name = \"small\"".to_owned(),
            prompts: BTreeMap::new(),
            models: String::new(),
            weights: None,
            force: false,
            passes: None,
            builds: vec![],
        },
        policy: Policy { repetitions: REPETITIONS, ..Policy::default() },
        matrix: Matrix { cells: all, trials },
        priority: 0,
        retry_of: None,
        devices: vec![RunDevice {
            device: Device {
                agent: "host-a".parse().unwrap(),
                id: DeviceId::CPU,
                name: "a processor".to_owned(),
                memory_bytes: Some(1 << 34),
                cores: Some(2),
                backends: vec![BackendKind::Fake],
                facts: DeviceFacts::default(),
            },
            agent_version: "0.1.0".to_owned(),
            host: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
        }],
    }
}

/// A run that is stored, and its only trial.
pub(crate) struct Small {
    pub(crate) run: RunId,
    pub(crate) trial: TrialId,
    pub(crate) cells: Vec<CellHash>,
}

pub(crate) async fn submitted(store: &Store, id: &str, cells: u32) -> Small {
    let new = run(id, cells);
    let hashes = new.matrix.cells.iter().map(|cell| cell.hash).collect();
    let id = new.id.clone();
    assert_eq!(store.writer().write(new).await.unwrap(), Submitted::Stored);
    Small { trial: TrialId::of(&id, 0), run: id, cells: hashes }
}

pub(crate) async fn leased(store: &Store, trial: &TrialId) -> Epoch {
    match store.writer().write(lease_of(trial)).await.unwrap() {
        Leased::Granted(granted) => granted[0].epoch,
        Leased::NotQueued => panic!("{trial} is not in the queue"),
    }
}

pub(crate) fn lease_of(trial: &TrialId) -> Lease {
    let place = Place { agent: "host-a".parse().unwrap(), device: DeviceId::CPU };
    Lease(vec![Seat { trial: trial.clone(), place, boot_id: "boot".to_owned() }])
}

pub(crate) fn sample(cell: CellHash, epoch: Epoch, repetition: u32) -> Sample {
    let start = u64::from(repetition) + 10;
    Sample {
        key: SampleKey { cell, epoch, repetition },
        started_at: Timestamp::UNIX_EPOCH,
        times: Times {
            tokenized: 1,
            prefill_start: 2,
            prefill_done: 3,
            tokens: (0..u64::from(GENERATE)).map(|i| start + i).collect(),
            end: start + 10,
        },
        prompt_tokens: 8,
        prompt_digest: Digest::of(b"prompt"),
        batch: 1,
        output: (0..GENERATE).collect(),
        load_ns: 12,
        first_repetition_ns: 13,
        warmup_repetitions: 4,
        peak_rss_bytes: Some(14),
        threads: 2,
        flags: regatta_core::flag::Flag::ALL.into_iter().collect(),
        telemetry: Some(Box::new(Telemetry {
            window_ns: start + 10,
            readings: repetition,
            load_by_others: Some(0.1),
            ..Telemetry::default()
        })),
    }
}

/// A record; its bytes only have to tell different records apart.
pub(crate) fn record(content: Content) -> Record {
    Record::new(format!("{content:?}").into_bytes(), content)
}

pub(crate) fn sample_record(sample: Sample) -> Record {
    record(Content::Sample(Box::new(sample)))
}

pub(crate) fn end_record(hash: CellHash, outcome: Outcome) -> Record {
    record(Content::CellEnd(EndedCell::new(hash, outcome)))
}

pub(crate) fn worker_record() -> Record {
    record(Content::Worker(WorkerFacts {
        worker: "{}".to_owned(),
        engine: "fake 1".to_owned(),
        build: None,
        load_ns: 5,
        weight_bytes: 6,
        artifact_digest: "ab".to_owned(),
        fingerprint: Fingerprint::default().with(fingerprint::DRIVER, Some("570.1")),
    }))
}

/// Everything an agent sends for these cells when all goes well.
pub(crate) fn whole_trial(cells: &[CellHash], epoch: Epoch) -> Vec<Record> {
    let mut records = vec![worker_record()];
    for &cell in cells {
        records.extend((0..REPETITIONS).map(|repetition| sample_record(sample(cell, epoch, repetition))));
        records.push(end_record(cell, Outcome::Ok));
    }
    records
}

pub(crate) async fn ingest(store: &Store, trial: &TrialId, epoch: Epoch, first_seq: u64, records: &[Record]) -> Stored {
    let batch = Batch { trial: trial.clone(), epoch, first_seq, records: records.to_vec() };
    match store.writer().write(batch).await.unwrap() {
        Ingested::Stored(stored) => stored,
        Ingested::UnknownLease => panic!("unknown lease"),
    }
}

pub(crate) fn finish_of(trial: &TrialId, epoch: Epoch, records: &[Record]) -> Finish {
    let digest = Digest::over(records.iter().map(Record::hash));
    Finish { trial: trial.clone(), epoch, last_seq: records.len() as u64, digest }
}

pub(crate) async fn finish(store: &Store, trial: &TrialId, epoch: Epoch, records: &[Record]) -> Finished {
    store.writer().write(finish_of(trial, epoch, records)).await.unwrap()
}

pub(crate) async fn event_kinds(store: &Store, run: &RunId) -> Vec<String> {
    store.reader().events(run, 0).await.unwrap().into_iter().map(|event| event.kind).collect()
}

/// A database that an earlier version has made: its schema version.
pub(crate) async fn old_database(path: &std::path::Path) -> i64 {
    use sqlx::migrate::{Migration, MigrationType, Migrator};
    use sqlx::{ConnectOptions, Connection, SqlSafeStr};
    let first = include_str!("../../../../migrations/0001_initial.sql");
    let migration = Migration::new(1, "initial".into(), MigrationType::Simple, first.into_sql_str(), false);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut db = options.connect().await.unwrap();
    Migrator::with_migrations(vec![migration]).run(&mut db).await.unwrap();
    db.close().await.unwrap();
    1
}
