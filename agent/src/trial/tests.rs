//! Trials with scripted workers: shell scripts that write prepared frames and then die, hang, or talk nonsense. The real
//! worker is met in `tests/`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message as _;
use regatta_core::device::DeviceKind;
use regatta_core::digest::Digest;
use regatta_core::passes::order;
use regatta_core::policy::Passes;
use regatta_core::trial::TrialCell;
use regatta_core::worker::{Engine, SimdLevel, WORKER_PROTOCOL, WorkerInfo};
use regatta_models::library::Library;
use regatta_proto::frame;
use regatta_proto::pb::from_worker::Message as M;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::builds::Kept;
use crate::cooling::Cooling;
use crate::fingerprint::Machine;
use crate::spool::Spool;
use crate::testing;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_mins(1);

const EPOCH: Epoch = Epoch(1);

/// A worker that does at its n-th start what the n-th script says.
struct Scripted {
    folder: TempDir,
    launches: usize,
    timing: Timing,
    quota: u64,
    lease: Lease,
    barriers: Barriers,
}

impl Scripted {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let timing = Timing {
            load: Duration::from_secs(20),
            spool: Duration::from_millis(100),
            spool_retry: Duration::from_millis(10),
            ..Timing::default()
        };
        let lease = Lease::new(Duration::from_hours(1));
        Self { folder, launches: 0, timing, quota: 1 << 30, lease, barriers: Barriers::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// At its next start the worker writes these frames and then goes on with the shell commands.
    fn launch(mut self, messages: Vec<M>, then: &str) -> Self {
        let frames = messages.into_iter().map(|message| pb::FromWorker { message: Some(message) });
        let bytes: Vec<u8> = frames.flat_map(|frame| frame::encode(&frame).unwrap()).collect();
        fs::write(self.path(&format!("frames.{}", self.launches)), bytes).unwrap();
        fs::write(self.path(&format!("then.{}", self.launches)), then).unwrap();
        self.launches += 1;
        self
    }

    fn worker(&self) -> Worker {
        let path = self.path("regatta-worker");
        let folder = self.folder.path().display();
        let script = format!(
            "#!/bin/sh\ncd {folder}\nn=$(cat launches 2>/dev/null || echo 0)\necho $((n + 1)) > next\nmv next launches\n\
             cat frames.$n\n. ./then.$n\n"
        );
        testing::program(&path, &script);
        let engine = Engine {
            backend: BackendKind::Fake,
            version: "1".to_owned(),
            build: "script".to_owned(),
            devices: vec![DeviceKind::Cpu],
        };
        let info = WorkerInfo {
            protocol: WORKER_PROTOCOL,
            version: "1".to_owned(),
            engines: vec![engine],
            lacking: vec![],
            simd_compiled: SimdLevel::Baseline,
            simd_cpu: SimdLevel::Baseline,
            optimised: true,
            listed: Vec::new(),
        };
        Worker { build: None, path, info, json: "{}".to_owned() }
    }

    fn context(&self) -> Arc<Context> {
        let surroundings =
            Surroundings { oom_counters: Some(vec![self.path("memory.events")]), ..Surroundings::default() };
        let spool = Spool::open(&self.path("spool"), self.quota).unwrap();
        Arc::new(Context {
            workers: vec![self.worker()],
            builds: Builds::new(Kept::of(&self.path("spool"))),
            store: Store {
                library: Library::open(&self.path("models")).unwrap(),
                models: self.path("models.toml"),
                surroundings: surroundings.clone(),
                deadline: PATIENCE,
                coordinator: None,
            },
            surroundings,
            spool: SpoolHandle::new(spool),
            lease: self.lease.clone(),
            barriers: self.barriers.clone(),
            telemetry: Recorder::off(),
            machine: Machine::new("host".parse().unwrap(), Vec::new()),
            cooling: Cooling::new(None),
            conditions: Flags::empty(),
            progress: mpsc::channel(1).0,
            timing: self.timing.clone(),
        })
    }

    async fn run(&self, trial: &Trial) -> (End, Vec<String>) {
        let context = self.context();
        let (_stop, receiver) = watch::channel(Stop::No);
        let end = timeout(PATIENCE, super::run(&context, trial.clone(), EPOCH, receiver)).await.unwrap();
        (end, records(&context, trial).await)
    }

    fn launches(&self) -> usize {
        fs::read_to_string(self.path("launches")).map_or(0, |text| text.trim().parse().unwrap())
    }
}

/// What the spool has of the trial, in short: `worker`, `a 0`, `a ok`, `b crashed: …`.
async fn records(context: &Context, trial: &Trial) -> Vec<String> {
    let key = TrialKey { trial: trial.id.clone(), epoch: EPOCH };
    let name = |hash: &[u8]| {
        let cell = trial.cells.iter().find(|cell| cell.hash.0.as_bytes() == hash).unwrap();
        cell.workload.name.to_string()
    };
    let chunk = context.spool.read_from(key, 1, usize::MAX).await.unwrap();
    let describe = |bytes: &Vec<u8>| match pb::TrialRecord::decode(bytes.as_slice()).unwrap().record.unwrap() {
        trial_record::Record::Worker(facts) => format!("worker {}", facts.engine),
        trial_record::Record::Sample(sample) => format!("{} {}", name(&sample.cell_hash), sample.repetition),
        trial_record::Record::CellEnd(end) => {
            let (hash, outcome) = <(CellHash, Outcome)>::try_from(end).unwrap();
            format!("{} {outcome}", name(hash.0.as_bytes()))
        }
    };
    chunk.records.iter().map(describe).collect()
}

fn loaded() -> M {
    M::Loaded(pb::Loaded { load_ns: 1, weight_bytes: 2, engine: "fake 1".to_owned() })
}

fn started(cell: &TrialCell) -> M {
    M::CellStarted(pb::CellStarted { cell_hash: cell.hash.0.as_bytes().to_vec() })
}

fn sample(cell: &TrialCell, repetition: u32) -> M {
    M::Sample(testing::sample(cell, EPOCH, repetition))
}

/// A cell as it should be, with two repetitions.
fn measured(cell: &TrialCell) -> Vec<M> {
    vec![started(cell), sample(cell, 0), sample(cell, 1), M::CellEnded(cell_end(cell.hash, &Outcome::Ok))]
}

/// A worker's whole life, for these cells.
fn good(cells: &[TrialCell]) -> Vec<M> {
    let mut all = vec![loaded()];
    all.extend(cells.iter().flat_map(measured));
    all.push(M::TrialEnded(pb::TrialEnded { samples: 2 * cells.len() as u64 }));
    all
}

fn trial() -> Trial {
    testing::trial("run.t0", &["a", "b"], 2)
}

/// Compares beginnings: details end in whatever was on standard error.
fn assert_records(found: &[String], expected: &[&str]) {
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(fits, "found {found:#?}, expected {expected:#?}");
}

const B_MEASURED: [&str; 3] = ["b 0", "b 1", "b ok"];

#[tokio::test]
async fn a_good_worker_fills_the_spool_to_the_finish() {
    let trial = trial();
    let scripted = Scripted::new().launch(good(&trial.cells), "");
    let (end, records) = scripted.run(&trial).await;
    assert_eq!(end, End::Finished);
    assert_records(&records, &["worker fake 1", "a 0", "a 1", "a ok", "b 0", "b 1", "b ok"]);
    assert_eq!(scripted.launches(), 1);
}

#[tokio::test]
async fn another_pass_is_another_worker_with_repetitions_numbered_on() {
    let mut trial = trial();
    trial.policy.passes = Passes::fixed(2);
    let mut cells = trial.cells.clone();
    order(&Digest::of(b"run.t0"), 1, &mut cells);
    let again = |cell: &TrialCell| {
        vec![started(cell), sample(cell, 2), sample(cell, 3), M::CellEnded(cell_end(cell.hash, &Outcome::Ok))]
    };
    let mut second = vec![loaded()];
    second.extend(cells.iter().flat_map(again));
    second.push(M::TrialEnded(pb::TrialEnded { samples: 4 }));
    let scripted = Scripted::new().launch(good(&trial.cells), "").launch(second, "");
    let (end, mut records) = scripted.run(&trial).await;
    assert_eq!(end, End::Finished);
    records[5..].sort();
    assert_records(
        &records,
        &["worker fake 1", "a 0", "a 1", "b 0", "b 1", "a 2", "a 3", "a ok", "b 2", "b 3", "b ok"],
    );
    assert_eq!(scripted.launches(), 2);
}

#[tokio::test]
async fn a_cell_that_breaks_its_worker_ends_alone_and_keeps_what_was_measured() {
    let cells = trial().cells;
    let begun = || vec![loaded(), started(&cells[0]), sample(&cells[0], 0)];
    let mut wrong = testing::sample(&cells[0], EPOCH, 0);
    wrong.output.pop();
    let wrong =
        vec![loaded(), started(&cells[0]), sample(&cells[0], 0), M::Sample(pb::Sample { repetition: 1, ..wrong })];
    for (messages, then, end) in [
        (begun(), "echo stack overflow >&2; kill -SEGV $$", "a crashed: the worker was killed by SIGSEGV; standard"),
        (begun(), "kill -ABRT $$", "a crashed: the worker was killed by SIGABRT"),
        (begun(), "kill -KILL $$", "a crashed: the worker was killed by SIGKILL"),
        (begun(), "echo oom_kill 1 > memory.events; kill -KILL $$", "a oom: the host's memory ran out"),
        (begun(), "exit 3", "a crashed: the worker ended with exit code 3"),
        (begun(), "exit 0", "a failed (bad_output): the worker's output is not complete"),
        (
            begun(),
            "echo 'this is text, not frames'; sleep 600",
            "a failed (bad_output): the worker wrote what is no frame",
        ),
        (
            begun(),
            "printf '\\000\\000\\000\\100'; sleep 600",
            "a failed (bad_output): the worker wrote what is no frame",
        ),
        (begun(), "printf '\\100\\000\\000\\000half'", "a failed (bad_output): the worker's output is not complete"),
        (begun(), "sleep 600", "a timeout: no end of the cell within 400ms"),
        (wrong, "sleep 600", "a failed (bad_output): the worker broke the protocol: repetition 1 has"),
    ] {
        let mut trial = trial();
        if end.contains("timeout") {
            trial.policy.timeout = Duration::from_millis(400);
        }
        let scripted = Scripted::new().launch(messages, then).launch(good(&trial.cells[1..]), "");
        let (ended, records) = scripted.run(&trial).await;
        assert_eq!(ended, End::Finished, "{then}");
        let mut expected = vec!["worker fake 1", "a 0", end];
        expected.extend(B_MEASURED);
        assert_records(&records, &expected);
        assert_eq!(scripted.launches(), 2, "{then}");
    }
}

#[tokio::test]
async fn a_repetition_that_takes_far_longer_than_those_before_is_not_waited_for_until_the_cell_ends() {
    let trial = trial();
    let cells = &trial.cells;
    let stuck = vec![loaded(), started(&cells[0]), sample(&cells[0], 0)];
    let mut scripted = Scripted::new().launch(stuck, "sleep 600").launch(good(&cells[1..]), "");
    scripted.timing.repetition = Duration::from_millis(300);
    let begun = std::time::Instant::now();
    let (end, records) = scripted.run(&trial).await;
    assert_eq!(end, End::Finished);
    let mut expected = vec!["worker fake 1", "a 0", "a timeout: no end of the next repetition within"];
    expected.extend(B_MEASURED);
    assert_records(&records, &expected);
    assert!(begun.elapsed() < trial.policy.timeout / 2);
}

#[tokio::test]
async fn a_model_that_can_not_be_loaded_ends_all_cells_at_once() {
    let failed = M::LoadFailed(pb::LoadFailed { kind: "oom_device".to_owned(), detail: "14 GB".to_owned() });
    for (messages, then, detail) in [
        (vec![failed], "", "oom: 14 GB"),
        (vec![], "echo no such tensor >&2; exit 1", "crashed: the worker ended with exit code 1"),
        (vec![], "sleep 600", "timeout: no end of loading the model within 400ms"),
    ] {
        let mut scripted = Scripted::new().launch(messages, then);
        scripted.timing.load = if then.starts_with("sleep") { Duration::from_millis(400) } else { PATIENCE };
        let (end, records) = scripted.run(&trial()).await;
        assert_eq!(end, End::Finished);
        assert_records(&records, &[&format!("a {detail}"), &format!("b {detail}")]);
        assert_eq!(scripted.launches(), 1);
    }
}

#[tokio::test]
async fn a_worker_that_can_not_be_started_and_one_that_is_not_there_say_so() {
    let scripted = Scripted::new();
    let mut context = Arc::into_inner(scripted.context()).unwrap();
    context.workers[0].path = scripted.path("absent");
    let trial = trial();
    let (_stop, receiver) = watch::channel(Stop::No);
    assert_eq!(super::run(&context, trial.clone(), EPOCH, receiver).await, End::Finished);
    let records = records(&context, &trial).await;
    assert!(records[0].starts_with("a failed (spawn): ") && records[0].contains("absent"), "{records:?}");

    let elsewhere = Trial { id: "run.t1".parse().unwrap(), backend: BackendKind::Candle, ..trial };
    let (_stop, receiver) = watch::channel(Stop::No);
    assert_eq!(super::run(&context, elsewhere.clone(), EPOCH, receiver).await, End::Finished);
    assert_records(
        &super::tests::records(&context, &elsewhere).await,
        &["a failed (unsupported): no worker for candle on cpu", "b failed (unsupported): no worker"],
    );
}

#[tokio::test]
async fn without_a_lease_no_cell_begins() {
    let trial = trial();
    let scripted = Scripted::new().launch(good(&trial.cells), "");
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(2)).await;
    tokio::time::resume();
    let context = scripted.context();
    let (_stop, receiver) = watch::channel(Stop::No);
    let run = super::run(&context, trial, EPOCH, receiver);
    tokio::pin!(run);
    assert!(timeout(Duration::from_millis(50), &mut run).await.is_err());
    assert_eq!(scripted.launches(), 0);
    scripted.lease.renew();
    assert_eq!(timeout(PATIENCE, run).await.unwrap(), End::Finished);
    assert_eq!(scripted.launches(), 1);
}

#[tokio::test]
async fn a_spool_that_stays_full_gives_the_trial_back() {
    let trial = trial();
    let scripted = Scripted { quota: 200, ..Scripted::new() }.launch(good(&trial.cells), "");
    let (end, _) = scripted.run(&trial).await;
    assert!(matches!(&end, End::Released(reason) if reason.contains("is full")), "{end}");
}

#[tokio::test]
async fn a_trial_that_is_to_stop_at_once_kills_its_worker_and_is_given_back() {
    let trial = trial();
    let begun = vec![loaded(), started(&trial.cells[0]), sample(&trial.cells[0], 0)];
    let scripted = Scripted::new().launch(begun, "sleep 600");
    let context = scripted.context();
    let (stop, receiver) = watch::channel(Stop::No);
    let mut taken = context.spool.subscribe();
    let kill = async {
        // Facts and sample are in the spool: the worker hangs.
        while records(&context, &trial).await.len() < 2 {
            taken.changed().await.unwrap();
        }
        stop.send_replace(Stop::Kill);
    };
    let run = super::run(&context, trial.clone(), EPOCH, receiver);
    let (end, ()) = timeout(PATIENCE, async { tokio::join!(run, kill) }).await.unwrap();
    assert!(matches!(end, End::Released(_)), "{end}");
    assert_records(&records(&context, &trial).await, &["worker fake 1", "a 0"]);
}

#[tokio::test]
async fn a_trial_that_is_cancelled_while_loading_ends_all_cells() {
    let trial = trial();
    let scripted = Scripted::new().launch(vec![], "sleep 600");
    let context = scripted.context();
    let (stop, receiver) = watch::channel(Stop::No);
    let cancel = async {
        while scripted.launches() == 0 {
            tokio::task::yield_now().await;
        }
        stop.send_replace(Stop::Cancel);
    };
    let run = super::run(&context, trial.clone(), EPOCH, receiver);
    let (end, ()) = timeout(PATIENCE, async { tokio::join!(run, cancel) }).await.unwrap();
    assert_eq!(end, End::Finished);
    assert_records(&records(&context, &trial).await, &["a cancelled", "b cancelled"]);
}

#[test]
fn what_only_a_worker_can_tell_of_its_memory_goes_before_what_others_see() {
    let seen = Telemetry { own_memory_bytes: Some(1), foreign_processes: Some(0), ..Telemetry::default() };
    assert_eq!(with_video_memory(seen.clone(), None), seen);
    let told = pb::VideoMemory { local_bytes: 9, budget_bytes: 8, spilled_bytes: 7 };
    let expected = Telemetry {
        own_memory_bytes: Some(9),
        memory_budget_bytes: Some(8),
        spilled_bytes: Some(7),
        foreign_processes: Some(0),
        ..Telemetry::default()
    };
    assert_eq!(with_video_memory(seen, Some(told)), expected);
}
