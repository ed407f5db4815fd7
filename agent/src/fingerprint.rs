//! The fingerprint of a trial: what this agent knows of the machine, the device, the worker program, the engine and the
//! weights, as parts of which the coordinator keeps each set once.

use std::collections::BTreeMap;

use regatta_core::device::{Device, DeviceId};
use regatta_core::fingerprint::{self as part, Fingerprint};
use regatta_core::id::AgentId;
use regatta_core::metrics::METHOD_VERSION;
use regatta_core::worker::{SimdLevel, WorkerInfo};

use crate::{devices, telemetry};

/// What stays the same as long as the agent runs.
pub(crate) struct Machine {
    agent: AgentId,
    host: BTreeMap<String, String>,
    devices: Vec<Device>,
}

impl Machine {
    /// This machine, with the devices that are offered.
    pub(crate) fn new(agent: AgentId, devices: Vec<Device>) -> Self {
        Self { agent, host: devices::host(), devices }
    }

    /// The machine and a device as they are now.
    pub(crate) async fn with_device(&self, device: DeviceId) -> Fingerprint {
        // Settings may change while an agent runs, so they are read for each trial; on a thread where that may take time.
        let settings = tokio::task::spawn_blocking(move || telemetry::settings(device)).await.unwrap_or_default();
        let host = |name: &str| self.host.get(name).cloned();
        let os = host("os").map(|os| format!("{os} {}", host("arch").unwrap_or_default()));
        let fingerprint = settings
            .with(part::MACHINE, Some(self.agent.as_str()))
            .with(part::OS, os)
            .with(part::KERNEL, host("kernel"))
            .with(part::HUGE_PAGES, host("huge_pages"))
            .with(part::ENVIRONMENT_WITHHELD, host("environment_withheld"));
        match self.devices.iter().find(|found| found.id == device) {
            Some(device) => of_device(fingerprint, device),
            None => fingerprint,
        }
    }
}

fn of_device(fingerprint: Fingerprint, device: &Device) -> Fingerprint {
    // In GiB, rounded: what firmware and kernel keep for themselves changes with each of them.
    let gib = |bytes: u64| (bytes.saturating_add(1 << 29) >> 30).to_string();
    // What the driver says now goes before what was found at the agent's start.
    let unless_known =
        |part: &str, value: &Option<String>| value.clone().filter(|_| !fingerprint.parts().contains_key(part));
    let (driver, id) =
        (unless_known(part::DRIVER, &device.facts.driver), unless_known(part::DEVICE_UUID, &device.facts.stable_id));
    fingerprint
        .with(part::DRIVER, driver)
        .with(part::DEVICE_UUID, id)
        .with(part::DEVICE, Some(device.name.as_str()))
        .with(part::MEMORY, device.memory_bytes.map(gib))
        .with(part::CORES, device.cores.map(|cores| cores.to_string()))
}

/// The same with a worker program that has loaded the weights.
pub(crate) fn with_worker(machine: Fingerprint, worker: &WorkerInfo, engine: &str, weights: &str) -> Fingerprint {
    machine
        .with(part::WORKER, Some(worker.version.as_str()))
        .with(part::WORKER_SIMD, Some(simd(worker.simd_compiled)))
        .with(part::ENGINE, Some(engine))
        .with(part::ARTIFACT, Some(weights))
        .with(part::METHOD, Some(METHOD_VERSION.to_string()))
}

fn simd(level: SimdLevel) -> &'static str {
    match level {
        SimdLevel::Baseline => "baseline",
        SimdLevel::Avx => "avx",
        SimdLevel::Avx2 => "avx2",
        SimdLevel::Avx512 => "avx512",
    }
}

#[cfg(test)]
mod tests {
    use regatta_core::device::DeviceFacts;

    use super::*;

    #[tokio::test]
    async fn a_trial_s_fingerprint_names_machine_device_worker_engine_and_weights() {
        let agent: AgentId = "host-a".parse().unwrap();
        let device = Device {
            agent: agent.clone(),
            id: DeviceId::CPU,
            name: "AMD EPYC".to_owned(),
            memory_bytes: Some(25_769_000_000),
            cores: Some(2),
            backends: vec![],
            facts: DeviceFacts::default(),
        };
        let machine = Machine::new(agent, vec![device]).with_device(DeviceId::CPU).await;
        let worker = WorkerInfo {
            protocol: 2,
            version: "0.1.0".to_owned(),
            engines: vec![],
            lacking: vec![],
            simd_compiled: SimdLevel::Avx2,
            simd_cpu: SimdLevel::Avx512,
            optimised: true,
            listed: Vec::new(),
        };
        let fingerprint = with_worker(machine, &worker, "llama.cpp 1; threads 2", "ab");
        let part = |name: &str| fingerprint.parts().get(name).map(String::as_str);
        let method = METHOD_VERSION.to_string();
        for (name, value) in [
            (part::MACHINE, "host-a"),
            (part::DEVICE, "AMD EPYC"),
            (part::MEMORY, "24"),
            (part::CORES, "2"),
            (part::WORKER, "0.1.0"),
            (part::WORKER_SIMD, "avx2"),
            (part::ENGINE, "llama.cpp 1; threads 2"),
            (part::ARTIFACT, "ab"),
            (part::METHOD, &method),
        ] {
            assert_eq!(part(name), Some(value), "{name}");
        }
        assert!(part(part::OS).is_some_and(|os| os.contains(std::env::consts::ARCH)));
        assert_eq!(part(part::DRIVER), None, "a processor has none");
    }

    #[test]
    fn a_device_is_told_by_its_lasting_id_and_the_drivers_own_word_goes_first() {
        let facts = DeviceFacts {
            stable_id: Some("GPU-found".to_owned()),
            driver: Some("580.1".to_owned()),
            ..DeviceFacts::default()
        };
        let device = Device {
            agent: "host-a".parse().unwrap(),
            id: "cuda:0".parse().unwrap(),
            name: "H200".to_owned(),
            memory_bytes: None,
            cores: None,
            backends: vec![],
            facts,
        };
        let read = |before: Fingerprint| {
            let parts = of_device(before, &device).parts().clone();
            (parts[part::DEVICE_UUID].clone(), parts[part::DRIVER].clone())
        };
        assert_eq!(read(Fingerprint::default()), ("GPU-found".to_owned(), "580.1".to_owned()));
        let told = Fingerprint::default().with(part::DEVICE_UUID, Some("GPU-now")).with(part::DRIVER, Some("581.0"));
        assert_eq!(read(told), ("GPU-now".to_owned(), "581.0".to_owned()));
    }
}
