//! The machines and the software on them.

use regatta_core::canary::Canary;
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
    for canary in &host.canaries {
        facts.push(fact(&format!("canary of {}", canary.device), &found(canary)));
    }
    facts.push(fact("agent version", &host.version));
    facts
}

/// What a device was found to do, in a line.
fn found(canary: &Canary) -> String {
    let reading = &canary.reading;
    let rate = |rate: Option<f64>, what: &str| rate.map(|rate| format!("{} GB/s {what}", text::number(rate / 1e9)));
    let memory = [rate(reading.read_bytes_per_s, "read"), rate(reading.mixed_bytes_per_s, "read and written")];
    let flops = reading.flops.iter().map(|(number, r)| format!("{} GFLOPS {}", text::number(r / 1e9), number.as_str()));
    let launch = reading.launch_ns.map(|ns| format!("{} µs a launch", text::number(ns as f64 / 1e3)));
    let cache = reading.cache_bytes.map(|bytes| format!("last-level caches {}", text::bytes(bytes)));
    let numbers: Vec<String> = memory.into_iter().flatten().chain(flops).chain(launch).chain(cache).collect();
    format!("{} ({})", numbers.join(", "), text::minute(canary.measured_at))
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
