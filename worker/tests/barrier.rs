//! A replica of a group: the worker begins a repetition only when it is told that all replicas are ready.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use regatta_core::artifact::{ArtifactRef, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::device::DeviceId;
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::id::{RunId, TrialId};
use regatta_core::policy::{Policy, Warmup};
use regatta_core::trial::{Group, Trial, TrialCell};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_proto::frame;
use regatta_proto::pb;
use regatta_proto::pb::from_worker::Message as Said;
use regatta_proto::pb::to_worker::Message as Order;

const FAST: &str = r#"{"load_us": 1, "prefill_us": 1, "decode_us": 100}"#;

/// The worker as the agent has it in hand.
struct Worker {
    child: Child,
    orders: ChildStdin,
    frames: ChildStdout,
}

impl Worker {
    fn start(trial: &Trial) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_regatta-worker"))
            .arg("run")
            .env("REGATTA_FAKE", FAST)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (orders, frames) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut worker = Self { child, orders, frames };
        let artifact_dir = Path::new("nowhere").display().to_string();
        worker.order(Order::Start(pb::StartTrial { trial: Some(trial.into()), epoch: 1, artifact_dir, pass: 0 }));
        worker
    }

    fn order(&mut self, message: Order) {
        frame::write(&mut self.orders, &pb::ToWorker { message: Some(message) }).unwrap();
    }

    fn open(&mut self, abandon: &str) {
        self.order(Order::OpenBarrier(pb::OpenBarrier { abandon: abandon.to_owned() }));
    }

    fn next(&mut self) -> Said {
        frame::read::<pb::FromWorker>(&mut self.frames).unwrap().unwrap().message.unwrap()
    }

    /// The repetition for which the worker stands at a barrier next; what comes before must be no sample.
    fn at_barrier(&mut self) -> u32 {
        loop {
            match self.next() {
                Said::AtBarrier(at) => return at.repetition,
                Said::Loaded(_) | Said::CellStarted(_) | Said::Warmup(_) | Said::CellEnded(_) => {}
                other => panic!("{other:?} before the barrier"),
            }
        }
    }

    fn ended(&mut self) -> Outcome {
        loop {
            if let Said::CellEnded(end) = self.next() {
                return <(CellHash, Outcome)>::try_from(end).unwrap().1;
            }
        }
    }

    /// Waits for its end after the last frame.
    fn end(mut self) {
        assert!(matches!(self.next(), Said::TrialEnded(_)));
        assert!(self.child.wait().unwrap().success());
    }
}

/// A replica's trial with two repetitions of each cell.
fn replica(workloads: &[&str]) -> Trial {
    let run: RunId = "r1".parse().unwrap();
    let warmup = Warmup { min_repetitions: 1, max_repetitions: 1, ..Warmup::default() };
    let cell = |name: &&str| TrialCell {
        build: None,
        hash: CellHash(Digest::of(name.as_bytes())),
        workload: Arc::new(Workload {
            kind: Kind::Generate,
            name: name.parse().unwrap(),
            prompt: Prompt::Seeded { seed: 4, tokens: 8 },
            generate: 4,
            batch: 1,
            replicas: 2,
        }),
    };
    Trial {
        id: TrialId::of(&run, 1),
        agent: "here".parse().unwrap(),
        device: DeviceId::CPU,
        backend: BackendKind::Fake,
        artifact: ArtifactRef {
            model: "tiny".parse().unwrap(),
            weights: Weights::Synthetic,
            format: BackendKind::Fake.format(Precision::F32),
            precision: Precision::F32,
        },
        cells: workloads.iter().map(cell).collect(),
        policy: Policy { repetitions: 2, warmup, threads: Some(1), ..Policy::default() },
        group: Some(Group { id: TrialId::of(&run, 0), replica: 1, replicas: 2 }),
        run,
    }
}

#[test]
fn every_repetition_begins_at_the_barrier_and_is_announced_before_it_is_measured() {
    let mut worker = Worker::start(&replica(&["a", "b"]));
    for repetition in [0, 1, 0, 1] {
        assert_eq!(worker.at_barrier(), repetition);
        worker.open("");
        // Passed first, then the sample, and nothing between.
        assert!(matches!(worker.next(), Said::BarrierPassed(passed) if passed.repetition == repetition));
        assert!(matches!(worker.next(), Said::Sample(sample) if sample.repetition == repetition));
        worker.order(Order::Continue(pb::Continue {}));
    }
    assert_eq!(worker.ended(), Outcome::Ok);
    worker.end();
}

#[test]
fn an_abandoned_barrier_ends_the_cell_with_the_reason_and_the_next_one_goes_on() {
    let mut worker = Worker::start(&replica(&["a", "b"]));
    assert_eq!(worker.at_barrier(), 0);
    worker.open("replica 0 failed: oom: no memory");
    let reason = "replica 0 failed: oom: no memory".to_owned();
    assert_eq!(worker.ended(), Outcome::Failed(FailureKind::Replica, reason));
    for repetition in [0, 1] {
        assert_eq!(worker.at_barrier(), repetition);
        worker.open("");
        assert!(matches!(worker.next(), Said::BarrierPassed(_)));
        assert!(matches!(worker.next(), Said::Sample(_)));
        worker.order(Order::Continue(pb::Continue {}));
    }
    assert_eq!(worker.ended(), Outcome::Ok);
    worker.end();
}

#[test]
fn a_stop_at_the_barrier_cancels_the_rest() {
    let mut worker = Worker::start(&replica(&["a", "b"]));
    assert_eq!(worker.at_barrier(), 0);
    worker.order(Order::Stop(pb::Stop {}));
    assert_eq!(worker.ended(), Outcome::Cancelled);
    assert_eq!(worker.ended(), Outcome::Cancelled);
    worker.end();
}
