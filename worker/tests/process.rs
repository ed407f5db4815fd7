//! The worker as an agent sees it: a process with frames on its pipes, whatever happens inside.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says what it saw")]

#[expect(dead_code, reason = "this program uses a part")]
mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::canary::{CANARY_VERSION, Reading};
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::device::DeviceId;
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::flag::Flag;
use regatta_core::id::{RunId, TrialId};
use regatta_core::policy::{Policy, Warmup};
use regatta_core::roofline::peaks::Number;
use regatta_core::sample::Sample;
use regatta_core::trial::{Trial, TrialCell};
use regatta_core::worker::{SimdLevel, WORKER_PROTOCOL, WorkerInfo};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_proto::frame::{self, FrameError};
use regatta_proto::pb::{self, from_worker, to_worker};
use support::{Harbour, llama, model};

const WORKER: &str = env!("CARGO_BIN_EXE_regatta-worker");

/// A worker in the hands of a test that plays the agent.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    frames: ChildStdout,
}

/// How a worker's life ended.
struct Ended {
    status: ExitStatus,
    stderr: String,
}

impl Worker {
    fn start(trial: &Trial, folder: &Path, script: &str) -> Self {
        let mut child = Command::new(WORKER)
            .arg("run")
            .env("REGATTA_FAKE", script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, frames) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut worker = Self { child, orders, frames };
        worker.order(to_worker::Message::Start(pb::StartTrial {
            trial: Some(trial.into()),
            epoch: 5,
            artifact_dir: folder.to_str().unwrap().to_owned(),
            pass: 0,
        }));
        worker
    }

    fn order(&mut self, message: to_worker::Message) {
        frame::write(self.orders.as_mut().unwrap(), &pb::ToWorker { message: Some(message) }).unwrap();
    }

    fn next(&mut self) -> Result<Option<from_worker::Message>, FrameError> {
        Ok(frame::read::<pb::FromWorker>(&mut self.frames)?.map(|frame| frame.message.unwrap()))
    }

    /// Reads to the end, answering each sample; the frames, and why reading ended if not by the pipe's end.
    fn all(&mut self) -> (Vec<from_worker::Message>, Option<FrameError>) {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Ok(Some(message)) => {
                    if matches!(message, from_worker::Message::Sample(_)) {
                        let message = to_worker::Message::Continue(pb::Continue {});
                        // A worker that was told to die may be dead already.
                        let frame = pb::ToWorker { message: Some(message) };
                        let _ = frame::write(self.orders.as_mut().unwrap(), &frame);
                    }
                    seen.push(message);
                }
                Ok(None) => return (seen, None),
                Err(error) => return (seen, Some(error)),
            }
        }
    }

    fn end(mut self) -> Ended {
        drop(self.orders.take());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ended { status: self.child.wait().unwrap(), stderr }
    }
}

fn trial(backend: BackendKind, workloads: &[&str]) -> Trial {
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
            batch: 2,
            replicas: 1,
        }),
    };
    Trial {
        id: TrialId::of(&run, 0),
        run,
        agent: "here".parse().unwrap(),
        device: DeviceId::CPU,
        backend,
        artifact: ArtifactRef {
            model: "tiny".parse().unwrap(),
            weights: Weights::Synthetic,
            format: backend.format(Precision::F32),
            precision: Precision::F32,
        },
        cells: workloads.iter().map(cell).collect(),
        policy: Policy { repetitions: 3, warmup, threads: Some(2), ..Policy::default() },
        group: None,
    }
}

const FAST: &str = r#"{"load_us": 1, "prefill_us": 1, "decode_us": 100}"#;

fn samples(messages: &[from_worker::Message]) -> Vec<Sample> {
    let sample = |message: &from_worker::Message| match message {
        from_worker::Message::Sample(sample) => Some(sample.clone().try_into().unwrap()),
        _ => None,
    };
    messages.iter().filter_map(sample).collect()
}

fn outcomes(messages: &[from_worker::Message]) -> Vec<Outcome> {
    let outcome = |message: &from_worker::Message| match message {
        from_worker::Message::CellEnded(end) => Some(<(CellHash, Outcome)>::try_from(end.clone()).unwrap().1),
        _ => None,
    };
    messages.iter().filter_map(outcome).collect()
}

fn fake(workloads: &[&str]) -> (Vec<from_worker::Message>, Option<FrameError>, Ended) {
    let mut worker = Worker::start(&trial(BackendKind::Fake, workloads), Path::new("nowhere"), FAST);
    let (messages, error) = worker.all();
    (messages, error, worker.end())
}

/// The worker's canary, as text.
fn canary(arguments: &[&str]) -> std::process::Output {
    Command::new(WORKER).arg("canary").args(arguments).output().unwrap()
}

#[test]
fn a_canary_tells_what_the_processor_can_do() {
    let output = canary(&["--seconds", "0.2", "--mib", "48"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reading: Reading = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((reading.version, reading.check()), (CANARY_VERSION, Ok(())));
    assert_eq!((reading.buffer_bytes, reading.launch_ns), (48 << 20, None));
    let (read, mixed) = (reading.read_bytes_per_s.unwrap(), reading.mixed_bytes_per_s.unwrap());
    let flops = reading.flops[&Number::F32];
    println!("read {read:.3e}, mixed {mixed:.3e}, f32 {flops:.3e}, caches {:?}", reading.cache_bytes);
    assert!((1e8..1e14).contains(&read) && (1e8..1e14).contains(&mixed) && (1e8..1e15).contains(&flops));
}

#[test]
fn a_canary_that_makes_no_sense_is_refused() {
    for (arguments, part) in [
        (["--seconds", "-1"], "unexpected argument"),
        (["--seconds", "soon"], "must be a number from 0 to 3600"),
        (["--device", "gpu"], "'gpu' is not a device"),
    ] {
        let output = canary(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.contains(part)), (Some(2), true), "{said}");
    }
    let output = canary(&["--device", "vulkan:0", "--seconds", "0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("candle has no code for vulkan:0"), "{said}");
}

/// What a worker says of itself, with the library of ONNX Runtime that is named.
fn probe(library: Option<&str>) -> WorkerInfo {
    let mut command = Command::new(WORKER);
    command.arg("probe").envs(library.map(|path| ("REGATTA_ONNXRUNTIME", path)));
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

#[test]
fn a_library_that_is_not_there_is_told_with_its_path_and_how_to_get_one() {
    let info = probe(Some("/no/such/libonnxruntime.so"));
    assert!(info.engines.iter().all(|engine| engine.backend != BackendKind::OnnxRuntime));
    let [lack] = &info.lacking[..] else { panic!("{:?}", info.lacking) };
    assert_eq!(lack.backend, BackendKind::OnnxRuntime);
    let said = ["/no/such/libonnxruntime.so", "can't be used", "Python package onnxruntime", "REGATTA_ONNXRUNTIME"];
    assert!(said.iter().all(|words| lack.reason.contains(words)), "{}", lack.reason);
}

#[test]
fn it_says_what_it_can_do() {
    let info = probe(None);
    println!("{info:#?}");
    assert_eq!(info.protocol, WORKER_PROTOCOL);
    assert!(info.simd_compiled <= info.simd_cpu && info.simd_cpu >= SimdLevel::Baseline);
    let backends: Vec<BackendKind> = info.engines.iter().map(|engine| engine.backend).collect();
    let mut expected = vec![BackendKind::Candle, BackendKind::LlamaCpp, BackendKind::Fake];
    // Where its library is.
    expected.extend(backends.contains(&BackendKind::OnnxRuntime).then_some(BackendKind::OnnxRuntime));
    assert_eq!(backends, expected);
    assert_eq!(info.lacking.is_empty(), backends.contains(&BackendKind::OnnxRuntime), "{:?}", info.lacking);
    assert!(info.engines.iter().all(|engine| !engine.version.is_empty() && !engine.version.contains("unknown")));
}

#[test]
fn a_trial_is_told_frame_by_frame() {
    let (messages, error, ended) = fake(&["a", "b"]);
    assert!(error.is_none() && ended.status.success(), "{error:?} {}", ended.stderr);
    let kinds: Vec<&str> = messages
        .iter()
        .map(|message| match message {
            from_worker::Message::Loaded(_) => "loaded",
            from_worker::Message::CellStarted(_) => "started",
            from_worker::Message::Warmup(_) => "warmup",
            from_worker::Message::Sample(_) => "sample",
            from_worker::Message::CellEnded(_) => "ended",
            from_worker::Message::TrialEnded(_) => "trial ended",
            from_worker::Message::LoadFailed(_) => "load failed",
            from_worker::Message::AtBarrier(_) | from_worker::Message::BarrierPassed(_) => "barrier",
        })
        .collect();
    let cell = ["started", "warmup", "sample", "sample", "sample", "ended"];
    let expected: Vec<&str> = ["loaded"].into_iter().chain(cell).chain(cell).chain(["trial ended"]).collect();
    assert_eq!(kinds, expected);
    let samples = samples(&messages);
    for (i, sample) in samples.iter().enumerate() {
        sample.check_itself(4).unwrap();
        assert_eq!((sample.key.repetition as usize, sample.key.epoch.0, sample.batch), (i % 3, 5, 2));
        assert!(sample.flags.contains(Flag::FakeBackend) && sample.flags.contains(Flag::SyntheticWeights));
        assert!(sample.peak_rss_bytes.is_some() == cfg!(target_os = "linux"));
    }
    assert_eq!(outcomes(&messages), [Outcome::Ok, Outcome::Ok]);
}

#[test]
fn a_failing_cell_is_one_cell() {
    let (messages, error, ended) = fake(&["a", "fault-oom", "fault-panic", "b"]);
    assert!(error.is_none() && ended.status.success(), "{}", ended.stderr);
    let outcomes = outcomes(&messages);
    assert!(
        matches!(&outcomes[..], [
        Outcome::Ok,
        Outcome::Oom(_),
        Outcome::Failed(FailureKind::Engine, words),
        Outcome::Ok
    ] if words.contains("scripted panic")),
        "{outcomes:?}"
    );
    // Two whole cells, and what was measured before each fault.
    assert_eq!(samples(&messages).len(), 3 + 1 + 1 + 3);
}

#[test]
#[cfg(unix)]
fn deaths_keep_what_was_measured_before() {
    use std::os::unix::process::ExitStatusExt;
    for (name, signal) in [("fault-abort", 6), ("fault-segfault", 11), ("fault-kill", 9), ("fault-oom-host", 6)] {
        let (messages, error, ended) = fake(&["a", name, "b"]);
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(ended.status.signal(), Some(signal), "{name}: {}", ended.stderr);
        assert_eq!(samples(&messages).len(), 4, "{name}");
        assert_eq!(outcomes(&messages), [Outcome::Ok], "{name}");
    }
    let (messages, _, ended) = fake(&["fault-exit"]);
    assert_eq!((ended.status.code(), samples(&messages).len()), (Some(3), 1));
}

#[test]
fn bad_frames_are_seen_as_such() {
    for (name, expected) in [
        ("fault-garbage", "not a valid message"),
        ("fault-half-frame", "ended inside a frame"),
        ("fault-huge-frame", "larger than the limit"),
    ] {
        let mut worker = Worker::start(&trial(BackendKind::Fake, &[name]), Path::new("nowhere"), FAST);
        let (messages, error) = worker.all();
        let error = error.unwrap().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(samples(&messages).len(), 1, "{name}");
        worker.child.kill().unwrap();
        worker.end();
    }
}

#[test]
fn broken_samples_break_their_rules() {
    for name in ["fault-order", "fault-count"] {
        let (messages, ..) = fake(&[name]);
        let checks: Vec<bool> = samples(&messages).iter().map(|sample| sample.check_itself(4).is_ok()).collect();
        assert_eq!(checks, [true, false, true], "{name}");
    }
}

#[test]
fn a_device_that_is_not_waited_for_is_too_fast() {
    let (honest, ..) = fake(&["honest"]);
    let (hasty, ..) = fake(&["fault-no-sync"]);
    let last = |messages: &[from_worker::Message]| samples(messages)[1].times.end;
    assert!(last(&hasty) * 3 < last(&honest));
    let flagged = |messages: &[from_worker::Message]| samples(messages)[1].flags.contains(Flag::FasterThanPhysics);
    assert!(flagged(&hasty) && !flagged(&honest));
}

#[test]
#[cfg(target_os = "linux")]
fn a_grandchild_outlives_its_parent_until_its_group_is_killed() {
    use std::io::{BufRead, BufReader};
    let mut worker = Worker::start(&trial(BackendKind::Fake, &["fault-grandchild"]), Path::new("nowhere"), FAST);
    worker.all();
    // The grandchild holds standard error open: whoever reads it to the end waits for the grandchild too.
    let mut stderr = BufReader::new(worker.child.stderr.take().unwrap()).lines();
    let line = stderr.find_map(|line| line.unwrap().strip_prefix("grandchild ").map(str::to_owned));
    let pid: u32 = line.unwrap().parse().unwrap();
    assert!(!worker.child.wait().unwrap().success());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    Command::new("kill").arg(pid.to_string()).status().unwrap();
}

#[test]
fn a_worker_without_an_agent_dies() {
    let slow = r#"{"decode_us": 100000000}"#;
    let mut worker = Worker::start(&trial(BackendKind::Fake, &["a"]), Path::new("nowhere"), slow);
    while !matches!(worker.next(), Ok(Some(from_worker::Message::CellStarted(_)))) {}
    let start = std::time::Instant::now();
    assert!(!worker.end().status.success());
    assert!(start.elapsed() < Duration::from_secs(20));
    let mut early = Command::new(WORKER).arg("run").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(early.wait().unwrap().code(), Some(1));
}

#[test]
fn a_stop_cancels_the_rest() {
    let mut worker = Worker::start(&trial(BackendKind::Fake, &["a", "b"]), Path::new("nowhere"), FAST);
    while !matches!(worker.next(), Ok(Some(from_worker::Message::Sample(_)))) {}
    worker.order(to_worker::Message::Stop(pb::Stop {}));
    let (messages, error) = worker.all();
    assert!(error.is_none());
    assert_eq!(outcomes(&messages), [Outcome::Cancelled, Outcome::Cancelled]);
    assert!(matches!(messages.last(), Some(from_worker::Message::TrialEnded(end)) if end.samples == 1));
    assert!(worker.end().status.success());
}

#[test]
fn what_is_not_a_model_is_refused_before_an_engine_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), b"GGUF\x03\0\0\0 and nothing that makes sense").unwrap();
    for (backend, folder) in [(BackendKind::LlamaCpp, folder.path()), (BackendKind::Candle, Path::new("nowhere"))] {
        let mut worker = Worker::start(&trial(backend, &["a"]), folder, "{}");
        let (messages, error) = worker.all();
        assert!(error.is_none());
        let [from_worker::Message::LoadFailed(failed)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(failed.kind, "model_rejected", "{}", failed.detail);
        assert!(worker.end().status.success());
    }
}

#[test]
fn engines_measure_synthetic_weights_through_the_same_frames() {
    let harbour = Harbour::new();
    let model = model("tiny", llama());
    let mut outputs = Vec::new();
    for backend in [BackendKind::Candle, BackendKind::LlamaCpp] {
        let folder = harbour.make(&model, backend.format(Precision::F32), Precision::F32);
        let mut worker = Worker::start(&trial(backend, &["a"]), &folder, "{}");
        let (messages, error) = worker.all();
        let ended = worker.end();
        assert!(error.is_none() && ended.status.success(), "{error:?} {}", ended.stderr);
        println!("{backend}: {:?}\n{}", messages[0], ended.stderr);
        for sample in samples(&messages) {
            sample.check_itself(4).unwrap();
            assert!(!sample.flags.contains(Flag::OutputChanged));
            assert_eq!(sample.threads, 2);
            outputs.push((sample.prompt_digest, sample.output));
        }
    }
    assert_eq!(outputs.len(), 6);
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
}

#[test]
fn a_text_prompt_without_a_tokenizer_fails_in_its_cell_with_the_fix() {
    let harbour = Harbour::new();
    let folder = harbour.make(&model("tiny", llama()), Format::Gguf, Precision::F32);
    let mut trial = trial(BackendKind::LlamaCpp, &["a", "b", "c"]);
    let prompt = Prompt::Text { text: "Hello".to_owned(), tokens: None };
    trial.cells[0].workload = Arc::new(Workload { prompt, ..(*trial.cells[0].workload).clone() });
    trial.cells[1].workload = Arc::new(Workload { generate: 1000, ..(*trial.cells[1].workload).clone() });
    let mut worker = Worker::start(&trial, &folder, "{}");
    let (messages, _) = worker.all();
    worker.end();
    let outcomes = outcomes(&messages);
    assert!(
        matches!(&outcomes[..], [
        Outcome::Failed(FailureKind::Unsupported, text),
        Outcome::Failed(FailureKind::Unsupported, size),
        Outcome::Ok
    ] if text.contains("tokenizer") && size.contains("1008 positions")),
        "{outcomes:?}"
    );
}
