//! Speed of an engine on an artifact, by the worker's own timing loop: for comparing with the engines' own tools.
//!
//! ```text
//! cargo run --release -p regatta-worker --example speed -- llama.cpp q4_1 FOLDER [PROMPT GENERATE BATCH]
//! ```

use std::io::Write;

use anyhow::{Context, Result};
use regatta_core::artifact::{ArtifactRef, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::CellHash;
use regatta_core::device::DeviceId;
use regatta_core::digest::Digest;
use regatta_core::flag::Flags;
use regatta_core::metrics::Metrics;
use regatta_core::policy::Policy;
use regatta_core::sample::Sample;
use regatta_core::trial::Epoch;
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_worker::backend::{Load, load};
use regatta_worker::clock::Clock;
use regatta_worker::measure::{Conditions, Halt, Observer, measure};
use regatta_worker::prompt::Input;
use regatta_worker::{cpu, process};

struct Printer;

impl Observer for Printer {
    fn warmed(&mut self, _: u32, _: u64) -> Result<(), Halt> {
        Ok(())
    }

    fn measured(&mut self, sample: Sample) -> Result<(), Halt> {
        let metrics = Metrics::of(&sample);
        let decode = metrics.decode_rate.unwrap_or_default();
        let ttft = std::time::Duration::from_nanos(metrics.ttft_ns.unwrap_or_default());
        let line = format!(
            "prefill {:.1} t/s, decode {decode:.1} t/s, TTFT {ttft:?}",
            metrics.prefill_rate.unwrap_or_default()
        );
        writeln!(std::io::stdout(), "{line}").map_err(|_| Halt::Disconnected)
    }
}

fn main() -> Result<()> {
    process::fix_threads(cpu::default_threads());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |at: usize| arguments.get(at).map(String::as_str).context("BACKEND PRECISION FOLDER [NUMBERS]");
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (backend, precision): (BackendKind, Precision) = (text(0)?.parse()?, text(1)?.parse()?);
    let folder = text(2)?.into();
    let format = if std::path::Path::new(text(2)?).join("model.gguf").exists() {
        regatta_core::artifact::Format::Gguf
    } else {
        regatta_core::artifact::Format::Safetensors
    };
    let artifact = ArtifactRef { model: "speed".parse()?, weights: Weights::Real, format, precision };
    let mut backend =
        load(&Load { backend, device: DeviceId::CPU, artifact, folder, threads: cpu::default_threads() })?;
    writeln!(std::io::stdout(), "{:?}", backend.info())?;
    let workload = Workload {
        kind: Kind::Generate,
        name: "speed".parse()?,
        prompt: Prompt::Seeded { seed: 1, tokens: number(3, 64)? },
        generate: number(4, 64)?,
        batch: number(5, 1)?,
        replicas: 1,
    };
    let input = Input::new(&workload, backend.limits(), None)?;
    let policy = Policy::default();
    let conditions = Conditions {
        pass: 0,
        cell: CellHash(Digest::of(b"speed")),
        epoch: Epoch(0),
        policy: &policy,
        load_ns: 0,
        threads: cpu::default_threads(),
        flags: Flags::empty(),
        clock: Clock::Monotonic,
    };
    let mut session = backend.open(&input.plan)?;
    let ended = measure(&mut *session, &input, None, &conditions, &mut Printer);
    ended.map_err(|halt| anyhow::anyhow!("{halt:?}"))
}
