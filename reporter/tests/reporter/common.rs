//! Datasets for tests and for the sample report: timings with the shape of real ones, from a seed.

#![expect(clippy::unwrap_used, reason = "test data: everything in here is written to be valid")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data: small positive numbers")]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use regatta_core::artifact::{ArtifactRef, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::canary::{CANARY_VERSION, Canary, Reading};
use regatta_core::cell::{Cell, Outcome};
use regatta_core::device::{Device, DeviceFacts, DeviceId, DeviceKind};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::flag::{Flag, Flags};
use regatta_core::id::AgentId;
use regatta_core::model::{BUILT_IN_MODELS, parse_manifest};
use regatta_core::roofline::peaks::Number;
use regatta_core::run::RunState;
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::telemetry::{Spread, Telemetry};
use regatta_core::trial::Epoch;
use regatta_core::worker::{Engine, SimdLevel, WORKER_PROTOCOL, WorkerInfo};
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_reporter::dataset::{CellResult, Dataset, Host, Run, WorkerFacts};
use regatta_reporter::roofline::Ceiling;
use regatta_reporter::view::{Break, Night, Nightly};

/// What an agent on Linux sees of a processor while a sample is measured.
fn of_a_processor(sample: &Sample) -> Telemetry {
    let n = f64::from(sample.key.repetition % 7);
    Telemetry {
        window_ns: sample.times.end,
        readings: 12,
        load_by_others: Some(0.02 + n / 100.0),
        cpu_mhz: Some(Spread { min: 3100.0, median: 3400.0 + n, max: 3700.0 }),
        cpu_temperature_c: Some(61.0 + n),
        governor: Some("performance".to_owned()),
        ..Telemetry::default()
    }
}

/// When every run of the test data began.
pub(crate) const START: &str = "2026-03-02T21:40:07Z";

const SCENARIO: &str = r#"name = "demo"
description = "Both engines at four precisions on this machine"
models = ["tinyllama-1.1b"]
weights = "synthetic"
backends = ["candle", "llama.cpp"]
precisions = ["f32", "f16", "q8_0", "q4_k_m"]
devices = ["cpu"]

[policy]
repetitions = 3

[[workloads]]
name = "short"
prompt = { seed = 1, tokens = 32 }
generate = 64
"#;

/// What to build.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Backends.
    pub(crate) backends: Vec<BackendKind>,
    /// Precisions.
    pub(crate) precisions: Vec<Precision>,
    /// Name, prompt length, generated tokens, batch.
    pub(crate) workloads: Vec<(&'static str, u32, u32, u32)>,
    /// Repetitions of each cell.
    pub(crate) repetitions: u32,
}

impl Plan {
    /// 2 backends × 4 precisions × 4 workloads × 3 repetitions.
    pub(crate) fn demo() -> Self {
        Self {
            backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
            precisions: vec![Precision::F32, Precision::F16, Precision::Q8_0, Precision::Q4KM],
            workloads: vec![
                ("short", 32, 64, 1),
                ("chat", 128, 128, 1),
                ("long-prompt", 512, 128, 1),
                ("document", 1024, 64, 1),
            ],
            repetitions: 3,
        }
    }
}

/// A small generator (SplitMix64): the same numbers everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A factor around 1: mostly within `spread`, now and then a longer tail.
    fn factor(&mut self, spread: f64) -> f64 {
        let tail = if self.next() > 0.985 { 0.6 * self.next() } else { 0.0 };
        1.0 + spread * (self.next() + self.next() - 1.0) + tail
    }
}

/// A device of the test data.
pub(crate) fn device(agent: &str) -> (AgentId, DeviceId) {
    (agent.parse().unwrap(), DeviceId::CPU)
}

/// The cells of `plan`, all measured and well.
pub(crate) fn cells(plan: &Plan, agent: &str, weights: Weights) -> Vec<CellResult> {
    cells_of(plan, agent, weights, &plan.workloads)
}

fn cells_of(plan: &Plan, agent: &str, weights: Weights, workloads: &[(&str, u32, u32, u32)]) -> Vec<CellResult> {
    let mut cells = Vec::new();
    let (agent, device) = device(agent);
    for backend in &plan.backends {
        for precision in &plan.precisions {
            for (name, prompt, generate, batch) in workloads {
                let cell = Cell {
                    agent: agent.clone(),
                    device,
                    backend: *backend,
                    artifact: ArtifactRef {
                        model: "tinyllama-1.1b".parse().unwrap(),
                        weights,
                        format: backend.format(*precision),
                        precision: *precision,
                    },
                    workload: Arc::new(Workload {
                        kind: Kind::Generate,
                        name: name.parse().unwrap(),
                        prompt: Prompt::Seeded { seed: 1, tokens: *prompt },
                        generate: *generate,
                        batch: *batch,
                        replicas: 1,
                    }),
                    replica: 0,
                    build: None,
                };
                cells.push(measured(cell, plan.repetitions));
            }
        }
    }
    cells
}

/// A cell that ended well.
pub(crate) fn measured(cell: Cell, repetitions: u32) -> CellResult {
    let samples = (0..repetitions).map(|r| sample(&cell, Epoch(1), r)).collect();
    let mut result = CellResult::new(cell, Some(Outcome::Ok), Some(Epoch(1)), samples);
    result.facts = Some(WorkerFacts {
        engine: format!("{} 0.11.1", result.cell.backend),
        weight_bytes: Some(1_169_000_000),
        artifact_digest: Digest::of(result.cell.artifact.to_string().as_bytes()).to_string(),
        fingerprint: Fingerprint::default().with(fingerprint::DRIVER, Some("570.1")),
    });
    result
}

/// Milliseconds per decode step at no context, and prompt tokens per second, of a backend at a precision.
fn speed(backend: BackendKind, precision: Precision) -> (f64, f64) {
    let (step, rate) = match precision {
        Precision::F32 => (118.0, 210.0),
        Precision::Bf16 => (66.0, 180.0),
        Precision::F16 => (61.0, 240.0),
        Precision::Q8_0 => (34.0, 260.0),
        Precision::Q4_1 => (22.0, 230.0),
        Precision::Q4KM => (21.0, 190.0),
    };
    match (backend, precision) {
        (BackendKind::LlamaCpp, _) => (step, rate),
        (BackendKind::Candle, Precision::F32) => (step * 1.05, rate * 0.8),
        (BackendKind::Candle, Precision::F16 | Precision::Bf16) => (step * 1.6, rate * 0.4),
        (BackendKind::Candle, _) => (step * 1.85, rate * 0.3),
        (BackendKind::OnnxRuntime | BackendKind::Fake, _) => (10.0, 1000.0),
    }
}

/// One repetition as a machine might time it.
pub(crate) fn sample(cell: &Cell, epoch: Epoch, repetition: u32) -> Sample {
    let workload = &cell.workload;
    let prompt = workload.prompt.tokens().unwrap();
    let seed = cell.hash().0.as_bytes().iter().fold(u64::from(repetition), |s, b| s.wrapping_mul(31) + u64::from(*b));
    let mut noise = Noise(seed);
    let (step_ms, rate) = speed(cell.backend, cell.artifact.precision);
    let drift = 1.0 + 0.015 * noise.next();
    let ns = |ms: f64| (ms * 1e6) as u64;
    // Attention makes long prompts a little slower per token.
    let slow_down = 1.0 + f64::from(prompt) / 6000.0;
    let prefill_done = 40_000 + ns(f64::from(prompt * workload.batch) / rate * 1e3 * drift * slow_down);
    let mut now = prefill_done + 180_000;
    let mut tokens = vec![now];
    for i in 1..workload.generate {
        let context = f64::from(prompt + i);
        let per_context = if cell.backend == BackendKind::Candle { 4000.0 } else { 9000.0 };
        now += ns(step_ms * drift * (1.0 + context / per_context) * noise.factor(0.03));
        tokens.push(now);
    }
    let output = (0..workload.generate * workload.batch).map(|i| (i * 7919 + prompt) % 32_000).collect();
    Sample {
        key: SampleKey { cell: cell.hash(), epoch, repetition },
        started_at: start() + SignedDuration::from_secs(60 * i64::from(repetition)),
        times: Times { tokenized: 0, prefill_start: 40_000, prefill_done, end: now, tokens: tokens.into() },
        prompt_tokens: prompt,
        prompt_digest: Digest::of(&prompt.to_le_bytes()),
        batch: workload.batch,
        output,
        load_ns: ns(900.0 + step_ms * 20.0),
        first_repetition_ns: prefill_done * 2,
        warmup_repetitions: 4,
        peak_rss_bytes: Some((step_ms * 38e6) as u64 + 400_000_000),
        threads: 16,
        flags: match cell.artifact.weights {
            Weights::Synthetic => Flag::SyntheticWeights.into(),
            Weights::Real => Flags::empty(),
        },
        telemetry: None,
    }
}

/// When every run of the test data began.
pub(crate) fn start() -> Timestamp {
    START.parse().unwrap()
}

/// A machine with two engines.
pub(crate) fn host(agent: &str) -> Host {
    let (agent, id) = device(agent);
    let facts = [
        ("cpu", "AMD EPYC 9654 96-Core Processor"),
        ("kernel", "Linux 6.12.48"),
        ("memory", "125 GiB"),
        ("os", "Debian GNU/Linux 13 (trixie)"),
    ];
    let device = Device {
        agent: agent.clone(),
        id,
        name: "AMD EPYC 9654, 16 cores".to_owned(),
        memory_bytes: Some(134_217_728_000),
        cores: Some(32),
        backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
        facts: DeviceFacts::default(),
    };
    let engine = |backend, version: &str, build: &str| Engine {
        backend,
        version: version.to_owned(),
        build: build.to_owned(),
        devices: vec![DeviceKind::Cpu],
    };
    let worker = WorkerInfo {
        protocol: WORKER_PROTOCOL,
        version: "0.1.0".to_owned(),
        engines: vec![
            engine(BackendKind::Candle, "0.11.1", "gemm, avx512 kernels"),
            engine(BackendKind::LlamaCpp, "b8146", "AVX512 = 1 | AVX512_VNNI = 1 | LLAMAFILE = 1 | OPENMP = 1"),
        ],
        lacking: vec![],
        simd_compiled: SimdLevel::Avx512,
        simd_cpu: SimdLevel::Avx512,
        optimised: true,
        listed: Vec::new(),
    };
    Host {
        agent,
        version: "0.1.0".to_owned(),
        facts: facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        devices: vec![device],
        workers: vec![worker],
        canaries: vec![],
    }
}

/// A finished run with these cells.
pub(crate) fn run(cells: Vec<CellResult>) -> Run {
    Run {
        id: "0195f1c2-7a3e-7c41-9d20-5b7e4f0a1c22".parse().unwrap(),
        scenario: "demo".to_owned(),
        description: "Both engines at four precisions on this machine".to_owned(),
        state: RunState::Done,
        submitted_at: start(),
        ended_at: Some(start() + SignedDuration::from_mins(41)),
        scenario_file: "scenarios/demo.toml".to_owned(),
        scenario_text: SCENARIO.to_owned(),
        hosts: vec![host("bench-01")],
        cells,
        night: None,
        rejected: vec![],
    }
}

/// The run on a machine whose processor was found to do this much, in bytes and operations per second.
pub(crate) fn with_canary(mut run: Run, read: f64, f32: f64) -> Run {
    let host = &mut run.hosts[0];
    let device = &host.devices[0];
    let canary = Canary {
        device: device.id,
        device_name: device.name.clone(),
        measured_at: start(),
        reading: Reading {
            version: CANARY_VERSION,
            engine: "candle 0.11.1".to_owned(),
            threads: 32,
            buffer_bytes: 1 << 30,
            cache_bytes: Some(384 << 20),
            read_bytes_per_s: Some(read),
            mixed_bytes_per_s: Some(0.8 * read),
            flops: [(Number::F32, f32)].into(),
            launch_ns: None,
        },
    };
    let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    for result in &mut run.cells {
        let shape = models.iter().find(|model| model.id == result.cell.artifact.model).map(|model| &model.shape);
        result.ceiling = Ceiling::new(&result.cell, shape, Some(device), Some(&canary));
    }
    host.canaries = vec![canary];
    run
}

/// The demo: everything measured.
pub(crate) fn demo() -> Dataset {
    Dataset { runs: vec![run(cells(&Plan::demo(), "bench-01", Weights::Synthetic))], imports: vec![] }
}

/// The demo, interrupted: of its cells some failed, some were skipped, one is half done, one late and one refused
/// sample came in, and some have not begun.
pub(crate) fn troubled() -> Dataset {
    let mut run = demo().runs.remove(0);
    run.state = RunState::Active;
    run.ended_at = None;
    for cell in &mut run.cells {
        let Cell { backend, artifact, workload, .. } = &cell.cell;
        let outcome = match (backend, artifact.precision, workload.name.as_str()) {
            (BackendKind::Candle, Precision::F32, "document") => {
                Some(Outcome::Oom("asked for 4.4 GB, 3.1 GB were free".to_owned()))
            }
            (BackendKind::Candle, Precision::Q4KM, _) => {
                Some(Outcome::Skipped("candle has no weights for q4_k_m on this machine".to_owned()))
            }
            (BackendKind::LlamaCpp, Precision::F16, "long-prompt") => {
                Some(Outcome::Failed(FailureKind::Engine, "llama_decode returned 1: no KV slot".to_owned()))
            }
            (BackendKind::LlamaCpp, Precision::F16, "document") => {
                Some(Outcome::Crashed("signal 11 after 3 s".to_owned()))
            }
            (BackendKind::LlamaCpp, Precision::Q4KM, "long-prompt") => {
                cell.samples.truncate(1);
                cell.outcome = None;
                continue;
            }
            (BackendKind::LlamaCpp, Precision::Q4KM, "document") => None,
            (BackendKind::LlamaCpp, Precision::Q8_0, "short") => {
                flag(cell, Flag::WarmupNotStable);
                continue;
            }
            (BackendKind::LlamaCpp, Precision::Q8_0, "chat") => {
                cell.samples.truncate(2);
                continue;
            }
            (BackendKind::Candle, Precision::Q8_0, "short") => {
                late_and_refused(cell);
                continue;
            }
            _ => continue,
        };
        *cell = CellResult::new(cell.cell.clone(), outcome, None, vec![]);
    }
    Dataset { runs: vec![run], imports: vec![] }
}

fn flag(cell: &mut CellResult, flag: Flag) {
    for sample in &mut cell.samples {
        sample.flags.insert(flag);
    }
}

fn late_and_refused(cell: &mut CellResult) {
    let plain = cell.cell.clone();
    let late = sample(&plain, Epoch(1), 0);
    let mut refused = sample(&plain, Epoch(2), 3);
    refused.times.tokens.swap(10, 11);
    let mut samples: Vec<Sample> = (0..3).map(|r| sample(&plain, Epoch(2), r)).collect();
    samples.extend([late, refused]);
    let facts = cell.facts.take();
    *cell = CellResult::new(plain, Some(Outcome::Ok), Some(Epoch(2)), samples);
    cell.facts = facts;
}

/// One workload on 1, 2, 4 and 8 GPUs of two machines: it scales, if not quite; the last group of one engine failed.
pub(crate) fn scaling() -> Dataset {
    let hosts = ["node-01", "node-02"];
    let mut all = Vec::new();
    for backend in [BackendKind::Candle, BackendKind::LlamaCpp] {
        for precision in [Precision::F16, Precision::Q8_0] {
            for replicas in [1, 2, 4, 8] {
                let trials: Vec<Cell> =
                    (0..replicas).map(|n| replica(hosts, backend, precision, replicas, n)).collect();
                let oom = backend == BackendKind::Candle && precision == Precision::F16 && replicas == 8;
                all.extend(
                    trials.into_iter().map(|cell| if oom { failed_together(cell) } else { begun_together(cell) }),
                );
            }
        }
    }
    let mut run = run(all);
    "gpu-scaling".clone_into(&mut run.scenario);
    "One workload on one GPU, and on more and more of them at once".clone_into(&mut run.description);
    run.hosts = hosts.iter().map(|agent| gpu_host(agent)).collect();
    Dataset { runs: vec![run], imports: vec![] }
}

/// A machine with four GPUs.
fn gpu_host(agent: &str) -> Host {
    let mut host = host(agent);
    host.facts.insert("hostname".to_owned(), agent.to_owned());
    let device = |n: u32| Device {
        agent: host.agent.clone(),
        id: format!("cuda:{n}").parse().unwrap(),
        name: "NVIDIA H200".to_owned(),
        memory_bytes: Some(150_754_820_096),
        cores: None,
        backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
        facts: DeviceFacts::default(),
    };
    host.devices = (0..4).map(device).collect();
    host
}

/// One replica's cell: on the first machine as long as it has GPUs.
fn replica(hosts: [&str; 2], backend: BackendKind, precision: Precision, replicas: u32, replica: u32) -> Cell {
    Cell {
        agent: hosts[replica as usize / 4].parse().unwrap(),
        device: format!("cuda:{}", replica % 4).parse().unwrap(),
        backend,
        artifact: ArtifactRef {
            model: "tinyllama-1.1b".parse().unwrap(),
            weights: Weights::Synthetic,
            format: backend.format(precision),
            precision,
        },
        workload: Arc::new(Workload {
            kind: Kind::Generate,
            name: "chat".parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: 128 },
            generate: 128,
            batch: 1,
            replicas,
        }),
        replica,
        build: None,
    }
}

/// A replica that is slower the more of them there are, begun within 0.4 ms or so of the others.
fn begun_together(cell: Cell) -> CellResult {
    let replicas = cell.workload.replicas;
    let slow_down =
        1.0 + 0.03 * f64::from(replicas - 1).sqrt() * if cell.backend == BackendKind::Candle { 2.5 } else { 1.0 };
    let mut result = measured(cell, 5);
    for sample in &mut result.samples {
        let Times { prefill_done, tokens, end, .. } = &mut sample.times;
        for time in tokens.iter_mut().chain([prefill_done, end]) {
            *time = (*time as f64 * slow_down) as u64;
        }
    }
    if replicas > 1 {
        result.group =
            Some(format!("r.{}.{}.{replicas}", result.cell.backend, result.cell.artifact.precision).parse().unwrap());
        let skew = |r: u32| ((Epoch(1), r), 310_000 + 40_000 * u64::from(r) + 20_000 * u64::from(replicas));
        result.skews = (0..5).map(skew).collect();
    }
    result
}

/// A replica of a group of which one had too little memory.
fn failed_together(cell: Cell) -> CellResult {
    let reason = "asked for 2.2 GB, 0.9 GB were free";
    let outcome = match cell.replica {
        5 => Outcome::Oom(reason.to_owned()),
        _ => Outcome::Failed(FailureKind::Replica, format!("replica 5 failed: oom: {reason}")),
    };
    let mut result = CellResult::new(cell, Some(outcome), None, vec![]);
    result.group = Some("r.failed".parse().unwrap());
    result
}

/// Two runs: one on two machines with all precisions, a batch and trained weights on one of them; one without cells.
pub(crate) fn fleet() -> Dataset {
    let mut plan = Plan::demo();
    plan.precisions = Precision::ALL.to_vec();
    plan.repetitions = 7;
    plan.workloads.push(("batch-of-eight-with-a-name-that-is-about-as-long-as-names-may-be", 128, 64, 8));
    let mut both = cells(&plan, "bench-01", Weights::Real);
    plan.precisions = vec![Precision::Q8_0];
    plan.backends = vec![BackendKind::LlamaCpp];
    both.extend(cells(&plan, "bench-02", Weights::Synthetic));
    // Each repetition is of a process of its own.
    for cell in &mut both {
        cell.per_pass = 1;
    }
    let mut full = run(both);
    full.hosts.push(host("bench-02"));
    let mut empty = run(vec![]);
    empty.id = "0195f1c2-7a3e-7c41-9d20-5b7e4f0a1c23".parse().unwrap();
    Dataset { runs: vec![full, empty], imports: vec![] }
}

/// The runs, held against what vendors say of their devices.
pub(crate) fn with_vendors_peaks(mut dataset: Dataset) -> Dataset {
    let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    for run in &mut dataset.runs {
        let device = run.hosts[0].devices[0].clone();
        for result in &mut run.cells {
            let shape = models.iter().find(|model| model.id == result.cell.artifact.model).map(|model| &model.shape);
            result.ceiling = Ceiling::new(&result.cell, shape, Some(&device), None);
        }
    }
    dataset
}

/// Everything there is a chart of: two models at three precisions on two GPUs, batches, prompts and depths by themselves,
/// seven worker processes each, device memory and energy. Of the second machine some cells were skipped, some failed.
pub(crate) fn sweeps() -> Dataset {
    let kinds = [
        (
            Kind::Generate,
            "chat",
            vec![(128, 128, 1), (128, 128, 2), (128, 128, 4), (128, 128, 8), (128, 128, 16), (1024, 128, 1)],
        ),
        (Kind::Prefill { depth: 0 }, "pp", vec![(128, 0, 1), (512, 0, 1), (2048, 0, 1), (4096, 0, 1)]),
        (Kind::Decode { depth: 0 }, "tg", vec![(0, 64, 1)]),
        (Kind::Decode { depth: 512 }, "tg", vec![(0, 64, 1)]),
        (Kind::Decode { depth: 2048 }, "tg", vec![(0, 64, 1)]),
        (Kind::Decode { depth: 8192 }, "tg", vec![(0, 64, 1)]),
    ];
    let mut all = Vec::new();
    for agent in ["gpu-01", "gpu-02"] {
        for model in ["tinyllama-1.1b", "mistral-7b"] {
            for backend in [BackendKind::Candle, BackendKind::LlamaCpp] {
                for precision in [Precision::F16, Precision::Q8_0, Precision::Q4KM] {
                    for (kind, name, sizes) in &kinds {
                        for (prompt, generate, batch) in sizes {
                            let depth = kind.depth();
                            let name = format!("{name}-{prompt}-{generate}-d{depth}-b{batch}");
                            let size = (*prompt, *generate, *batch);
                            all.extend(swept(agent, model, backend, precision, *kind, &name, size));
                        }
                    }
                }
            }
        }
    }
    let mut run = run(all);
    "sweeps".clone_into(&mut run.scenario);
    "Batches, prompts and depths of two models on two GPUs".clone_into(&mut run.description);
    run.hosts = ["gpu-01", "gpu-02"].iter().map(|agent| gpu_host(agent)).collect();
    with_vendors_peaks(Dataset { runs: vec![run], imports: vec![] })
}

/// A cell of the sweeps, where the matrix has it.
fn swept(
    agent: &str,
    model: &str,
    backend: BackendKind,
    precision: Precision,
    kind: Kind,
    name: &str,
    (prompt, generate, batch): (u32, u32, u32),
) -> Option<CellResult> {
    let cell = Cell {
        build: None,
        agent: agent.parse().unwrap(),
        device: "cuda:0".parse().unwrap(),
        backend,
        artifact: ArtifactRef {
            model: model.parse().unwrap(),
            weights: Weights::Real,
            format: backend.format(precision),
            precision,
        },
        workload: Arc::new(Workload {
            kind,
            name: name.parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: prompt },
            generate,
            batch,
            replicas: 1,
        }),
        replica: 0,
    };
    let outcome = match (agent, model, backend, precision, batch, kind) {
        ("gpu-02", "mistral-7b", BackendKind::Candle, Precision::Q4KM, ..) => return None,
        ("gpu-02", "mistral-7b", BackendKind::Candle, Precision::Q8_0, ..) => {
            Some(Outcome::Skipped("needs about 9,100 MiB of memory, cuda:0 has 8,192 MiB".to_owned()))
        }
        ("gpu-02", "mistral-7b", _, Precision::F16, 16, _) => {
            Some(Outcome::Oom("asked for 15 GiB, 8 GiB were free".to_owned()))
        }
        ("gpu-02", _, BackendKind::LlamaCpp, _, _, Kind::Decode { depth: 8192 }) => {
            Some(Outcome::Failed(FailureKind::Engine, "llama_decode returned 1: no KV slot".to_owned()))
        }
        _ => None,
    };
    if outcome.is_some() {
        return Some(CellResult::new(cell, outcome, None, vec![]));
    }
    let samples = (0..7).map(|r| swept_sample(&cell, r)).collect();
    let mut result = CellResult::new(cell, Some(Outcome::Ok), Some(Epoch(1)), samples);
    result.per_pass = 1;
    result.facts = Some(WorkerFacts {
        engine: format!("{} 0.11.1", result.cell.backend),
        weight_bytes: Some(weight_bytes(&result.cell)),
        artifact_digest: Digest::of(result.cell.artifact.to_string().as_bytes()).to_string(),
        fingerprint: Fingerprint::default(),
    });
    Some(result)
}

fn weight_bytes(cell: &Cell) -> u64 {
    let weights = if cell.artifact.model.as_str() == "mistral-7b" { 7_113_822_208.0 } else { 1_034_512_384.0 };
    let bits = match cell.artifact.precision {
        Precision::Q8_0 => 8.5,
        Precision::Q4KM => 4.85,
        _ => 16.0,
    };
    (weights * bits / 8.0) as u64
}

/// A repetition on a GPU: steps wait for memory, and a batch costs a little more than one sequence.
fn swept_sample(cell: &Cell, repetition: u32) -> Sample {
    let Workload { kind, generate, batch, prompt, .. } = cell.workload.as_ref();
    let prompt = prompt.tokens().unwrap();
    let mut sample = sample(cell, Epoch(1), repetition);
    let mut noise = Noise(u64::from(repetition) * 7 + u64::from(prompt + generate + batch));
    let slow = if cell.agent.as_str() == "gpu-02" { 1.7 } else { 1.0 };
    let engine = if cell.backend == BackendKind::Candle { 1.45 } else { 1.0 };
    let step = weight_bytes(cell) as f64 / 3.4e12 * 1e9 * slow * engine * (1.0 + 0.06 * f64::from(batch - 1));
    let rate = 3.0e13 / weight_bytes(cell) as f64 / slow / engine;
    let drift = 1.0 + 0.02 * noise.next();
    let prefill = f64::from(prompt * batch) / rate * 1e9 * drift * (1.0 + f64::from(prompt) / 9000.0);
    let mut now = 40_000.0 + prefill;
    sample.times.prefill_done = now as u64;
    let mut tokens = Vec::new();
    for i in 0..*generate {
        let context = f64::from(prompt + i + kind.depth());
        now += step * drift * (1.0 + context / 20_000.0) * noise.factor(0.02);
        tokens.push(now as u64);
    }
    sample.times.tokens = tokens.into();
    sample.times.end = now as u64 + 20_000;
    sample.output = if kind.is_kernel() { [].into() } else { sample.output };
    let positions = f64::from((prompt + generate + kind.depth()) * batch);
    let kv = if cell.artifact.model.as_str() == "mistral-7b" { 131_072.0 } else { 22_528.0 };
    let memory = weight_bytes(cell) as f64 * 1.03 + positions * kv + 4e8;
    sample.telemetry = Some(Box::new(Telemetry {
        own_memory_bytes: Some(memory as u64),
        energy_mj: Some((f64::from(generate * batch) * step * 4.1e-4) as u64),
        ..Telemetry::default()
    }));
    sample
}

/// Sixty nights of a cell: a new driver after night 25, a slowdown from night 43 on, and a few nights that are suspect.
pub(crate) fn nightly() -> Nightly {
    let mut noise = Noise(11);
    let first = jiff::civil::date(2026, 1, 5);
    let night = |i: i32| {
        let level = match i {
            0..25 => 61.0,
            25..43 => 64.5,
            _ => 61.8,
        };
        let suspect = matches!(i, 7 | 31 | 50);
        let level = if suspect { level * 0.93 } else { level };
        Night {
            date: first.checked_add(jiff::Span::new().days(i)).unwrap(),
            values: if i == 17 {
                vec![]
            } else {
                (0..6).map(|_| level * (1.0 + 0.012 * (noise.next() - 0.5))).collect()
            },
            suspect: if suspect { "throttled".to_owned() } else { String::new() },
        }
    };
    Nightly {
        slug: "history".to_owned(),
        subject: "llama.cpp · q8_0 · chat: tinyllama-1.1b on cuda:0 of gpu-01".to_owned(),
        value_axis: "Decode rate, tokens/s".to_owned(),
        style: 1,
        more_is_better: true,
        nights: (0..60).map(night).collect(),
        breaks: vec![Break { before: 25, label: "driver 550.54 → 560.35".to_owned() }],
        changes: vec![43],
    }
}

/// So many cells on machines of a hundred cells each, with so many repetitions of so many tokens.
pub(crate) fn large(cells: u32, repetitions: u32, tokens: u32) -> Dataset {
    large_of(25, cells, repetitions, tokens)
}

/// The same of so many workloads, each on two backends in two precisions.
pub(crate) fn large_of(workloads: u32, cells: u32, repetitions: u32, tokens: u32) -> Dataset {
    let names: Vec<String> = (0..workloads).map(|n| format!("work-{n:02}")).collect();
    let mut all = Vec::new();
    let mut hosts = Vec::new();
    let of_machine = 4 * workloads;
    for machine in 0..cells.div_ceil(of_machine) {
        let agent = format!("bench-{machine:02}");
        let plan = Plan {
            backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
            precisions: vec![Precision::F16, Precision::Q8_0],
            workloads: vec![],
            repetitions,
        };
        let first = all.len() as u32;
        for (n, name) in names.iter().enumerate() {
            let workload = (name.as_str(), 32 << (n % 5), tokens, 1 << (n % 3));
            all.extend(cells_of(&plan, &agent, Weights::Real, &[workload]));
        }
        all.truncate((first + of_machine).min(cells) as usize);
        hosts.push(host(&agent));
    }
    for cell in &mut all {
        cell.per_pass = 5;
        for sample in &mut cell.samples {
            sample.telemetry = Some(Box::new(of_a_processor(sample)));
        }
        // As is done where so many are read for a page.
        if cells * repetitions > 50_000 {
            cell.forget_surroundings_after(3);
        }
    }
    let mut run = run(all);
    run.hosts = hosts;
    Dataset { runs: vec![run], imports: vec![] }
}
