//! The machines and the software on them.

use regatta_core::worker::SimdLevel;
use serde::Serialize;

use super::Meaning;
use crate::dataset::{Host, Run};
use crate::text;

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostView {
    /// The agent's name.
    pub agent: String,
    /// What is known of it: operating system, processor, devices.
    pub facts: Vec<Meaning>,
    /// The engines of its workers.
    pub engines: Vec<Engine>,
}

/// An engine of a worker program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// Which.
    pub backend: &'static str,
    /// Its version.
    pub version: String,
    /// How it was built, in its own words.
    pub build: String,
    /// SIMD level it was compiled for, against what the CPU has.
    pub simd: String,
}

/// The machines of a run.
pub(super) fn hosts(run: &Run) -> Vec<HostView> {
    run.hosts.iter().map(host).collect()
}

/// `bench-01 (AMD EPYC 9654): candle 0.11.1, llama.cpp b8146`, a line for each machine.
pub(super) fn setup(run: &Run) -> Vec<String> {
    let line = |host: &Host| {
        let devices: Vec<String> = host.devices.iter().map(|d| text::label(&d.name)).collect();
        let mut engines: Vec<String> = Vec::new();
        for engine in self::engines(host) {
            let name = format!("{} {}", engine.backend, engine.version);
            if !engines.contains(&name) {
                engines.push(name);
            }
        }
        let agent = text::label(host.agent.as_str());
        let devices = if devices.is_empty() { String::new() } else { format!(" ({})", devices.join(", ")) };
        let engines = if engines.is_empty() { String::new() } else { format!(": {}", engines.join(", ")) };
        format!("{agent}{devices}{engines}")
    };
    run.hosts.iter().map(line).collect()
}

fn host(host: &Host) -> HostView {
    HostView { agent: text::label(host.agent.as_str()), facts: facts(host), engines: engines(host) }
}

fn facts(host: &Host) -> Vec<Meaning> {
    let fact = |name: &str, meaning: &str| Meaning { name: text::label(name), meaning: text::reason(meaning) };
    let mut facts: Vec<Meaning> = host.facts.iter().map(|(name, value)| fact(name, value)).collect();
    for device in &host.devices {
        let memory = device.memory_bytes.map(text::bytes);
        let cores = device.cores.map(|n| text::count(n as usize, "logical core"));
        let details: Vec<String> = [Some(device.name.clone()), cores, memory].into_iter().flatten().collect();
        facts.push(fact(&device.id.to_string(), &details.join(", ")));
    }
    facts.push(fact("agent version", &host.version));
    facts
}

fn engines(host: &Host) -> Vec<Engine> {
    let workers = host.workers.iter().flat_map(|worker| worker.engines.iter().map(move |e| (worker, e)));
    workers
        .map(|(worker, engine)| Engine {
            backend: engine.backend.as_str(),
            version: text::label(&engine.version),
            build: text::reason(&engine.build),
            simd: simd(worker.simd_compiled, worker.simd_cpu),
        })
        .collect()
}

fn simd(compiled: SimdLevel, cpu: SimdLevel) -> String {
    let name = |level| match level {
        SimdLevel::Baseline => "baseline",
        SimdLevel::Avx => "AVX",
        SimdLevel::Avx2 => "AVX2",
        SimdLevel::Avx512 => "AVX-512",
    };
    if compiled == cpu { name(cpu).to_owned() } else { format!("{}, the CPU has {}", name(compiled), name(cpu)) }
}
