//! `regatta devices`: what is here, and which workers can drive it.

use std::fmt::Write;

use clap::Args;
use regatta_agent::devices::Idle;
use regatta_core::device::{Device, DeviceFacts};
use serde_json::json;

use crate::exit::Exit;
use crate::local;
use crate::output;
use crate::paths::Folders;

/// Arguments of `regatta devices`.
#[derive(Debug, Args)]
#[command(after_help = "\
Under each device stands what tells it from others whatever its number is, and what is known of it. What keeps this machine from \
measuring well: regatta doctor.

Examples:
  regatta devices                                 what scenarios may name on this machine
  regatta devices --json | jq '.idle[].reason'    why a device can't be measured")]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists devices and workers.
pub(crate) async fn run(args: DevicesArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (agent, _spool) = local::look(folders).await?;
    if args.json {
        let workers: Vec<_> = agent.workers().iter().map(|w| json!({ "path": w.path, "info": w.info })).collect();
        let disabled: Vec<_> =
            agent.disabled_workers().iter().map(|w| json!({ "path": w.path, "reason": w.reason })).collect();
        let idle: Vec<_> =
            agent.idle_devices().iter().map(|i| json!({ "device": i.device, "reason": i.reason })).collect();
        let found = json!({ "devices": agent.devices(), "idle": idle, "workers": workers, "disabled": disabled });
        output::line(&serde_json::to_string_pretty(&found)?);
        return Ok(Exit::Done);
    }
    output::text(&devices_text(agent.devices(), agent.idle_devices()));
    for worker in agent.workers() {
        let info = &worker.info;
        output::line(&format!("worker {} {}", worker.path.display(), info.version));
        for engine in &info.engines {
            let kinds: Vec<&str> = engine.devices.iter().map(|kind| kind.as_str()).collect();
            output::line(&format!("  {} {}: {}", engine.backend, engine.version, kinds.join(", ")));
        }
        for lack in &info.lacking {
            output::line(&format!("  without {}: {}", lack.backend, lack.reason));
        }
        if info.simd_compiled < info.simd_cpu {
            output::line(&format!(
                "  compiled for {:?}, this CPU has {:?}: slower than it could be; build from source on this machine",
                info.simd_compiled, info.simd_cpu
            ));
        }
    }
    for disabled in agent.disabled_workers() {
        output::line(&disabled.to_string());
    }
    Ok(Exit::Done)
}

/// Each device with its backends or the reason why it has none, and under it what is known of it.
fn devices_text(devices: &[Device], idle: &[Idle]) -> String {
    let driven = devices.iter().map(|device| {
        let backends: Vec<&str> = device.backends.iter().map(|backend| backend.as_str()).collect();
        (device, backends.join(", "))
    });
    let mut text = String::new();
    for (device, ends) in
        driven.chain(idle.iter().map(|idle| (&idle.device, format!("can't be measured: {}", idle.reason))))
    {
        let memory = device.memory_bytes.map_or_else(String::new, |b| format!(", {} GiB", b >> 30));
        let cores = device.cores.map_or_else(String::new, |n| format!(", {n} logical cores"));
        let _ = writeln!(text, "{}  {}{cores}{memory}: {ends}", device.id, device.name);
        if let Some(facts) = facts_text(&device.facts) {
            let _ = writeln!(text, "  {facts}");
        }
    }
    text
}

fn facts_text(facts: &DeviceFacts) -> Option<String> {
    let address =
        facts.pci_address.clone().filter(|address| !facts.stable_id.as_ref().is_some_and(|id| id.ends_with(address)));
    let all = [
        facts.stable_id.clone(),
        facts.architecture.clone(),
        facts.driver.as_ref().map(|driver| format!("driver {driver}")),
        address.map(|address| format!("at {address}")),
        facts.pci_link.as_ref().map(|link| format!("PCIe {link}")),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use regatta_core::backend::BackendKind;
    use regatta_core::device::DeviceId;

    use super::*;

    fn device(id: &str, name: &str, backends: &[BackendKind]) -> Device {
        Device {
            agent: "here".parse().unwrap(),
            id: id.parse().unwrap(),
            name: name.to_owned(),
            memory_bytes: Some(141 << 30),
            cores: None,
            backends: backends.to_vec(),
            facts: DeviceFacts::default(),
        }
    }

    #[test]
    fn devices_in_text() {
        let text = |text: &str| Some(text.to_owned());
        let cpu = Device { cores: Some(16), ..device(&DeviceId::CPU.to_string(), "AMD EPYC", &BackendKind::PUBLIC) };
        let facts = DeviceFacts {
            stable_id: text("GPU-4b5e2c9a-0f3d"),
            system_id: None,
            driver: text("580.82.07"),
            architecture: text("sm_90"),
            pci_address: text("0000:01:00.0"),
            pci_link: text("gen 5 x16"),
        };
        let gpu = Device { facts, ..device("cuda:0", "NVIDIA H200", &[BackendKind::Candle, BackendKind::LlamaCpp]) };
        let facts = DeviceFacts {
            stable_id: text("pci:0000:0a:00.0"),
            pci_address: text("0000:0a:00.0"),
            ..DeviceFacts::default()
        };
        let idle = Idle {
            device: Device { memory_bytes: None, facts, ..device("vulkan:0", "Radeon", &[]) },
            reason: "no worker here is built for vulkan".to_owned(),
        };
        insta::assert_snapshot!(devices_text(&[cpu, gpu], &[idle]), @r"
        cpu  AMD EPYC, 16 logical cores, 141 GiB: candle, llama.cpp, onnxruntime
        cuda:0  NVIDIA H200, 141 GiB: candle, llama.cpp
          GPU-4b5e2c9a-0f3d, sm_90, driver 580.82.07, at 0000:01:00.0, PCIe gen 5 x16
        vulkan:0  Radeon: can't be measured: no worker here is built for vulkan
          pci:0000:0a:00.0
        ");
    }
}
