//! What this worker can do here, for the agent that found it.

use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceKind;
use regatta_core::worker::{Engine, Lack, WORKER_PROTOCOL, WorkerInfo};

use crate::backend::fake;
use crate::cpu;

/// The answer to `probe`.
pub fn info() -> WorkerInfo {
    let (found, lacking) = loaded();
    WorkerInfo {
        protocol: WORKER_PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engines: engines().into_iter().chain(found).collect(),
        lacking,
        simd_compiled: cpu::compiled(),
        simd_cpu: cpu::present(),
        optimised: cpu::OPTIMISED && !cfg!(debug_assertions),
        #[cfg(feature = "llama-cpp")]
        listed: crate::native::accelerators(),
        #[cfg(not(feature = "llama-cpp"))]
        listed: Vec::new(),
    }
}

fn engines() -> Vec<Engine> {
    vec![
        #[cfg(feature = "candle")]
        candle(),
        #[cfg(feature = "llama-cpp")]
        llama_cpp(),
        Engine {
            backend: BackendKind::Fake,
            version: fake::VERSION.to_owned(),
            build: "runs no model".to_owned(),
            devices: DeviceKind::ALL.to_vec(),
        },
    ]
}

/// The engines that are loaded at run time: those that are there, and why others aren't.
fn loaded() -> (Vec<Engine>, Vec<Lack>) {
    #[cfg(feature = "onnxruntime")]
    match crate::backend::onnxruntime::engine() {
        Ok(engine) => (vec![engine], Vec::new()),
        Err(error) => (Vec::new(), vec![Lack { backend: BackendKind::OnnxRuntime, reason: error.to_string() }]),
    }
    #[cfg(not(feature = "onnxruntime"))]
    (Vec::new(), Vec::new())
}

#[cfg(feature = "candle")]
fn candle() -> Engine {
    use crate::backend::candle;
    let mut devices = vec![DeviceKind::Cpu];
    if candle_core::utils::cuda_is_available() {
        devices.push(DeviceKind::Cuda);
    }
    if candle_core::utils::metal_is_available() {
        devices.push(DeviceKind::Metal);
    }
    Engine { backend: BackendKind::Candle, version: candle::VERSION.to_owned(), build: candle::build(), devices }
}

#[cfg(feature = "llama-cpp")]
fn llama_cpp() -> Engine {
    use crate::backend::llama_cpp;
    let mut devices = vec![DeviceKind::Cpu];
    let listed = crate::native::accelerators();
    let is_listed = |kind: &DeviceKind| listed.iter().any(|device| device.id.kind == *kind);
    devices.extend(crate::native::REGISTRIES.map(|(_, kind)| kind).into_iter().filter(is_listed));
    Engine {
        backend: BackendKind::LlamaCpp,
        version: llama_cpp::version(),
        build: crate::native::system_info(),
        devices,
    }
}
