//! `regatta devices`: what is here, and which workers can drive it.

use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::local;
use crate::output;
use crate::paths::Folders;

/// Arguments of `regatta devices`.
#[derive(Debug, Args)]
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
        let found = json!({ "devices": agent.devices(), "workers": workers, "disabled": disabled });
        output::line(&serde_json::to_string_pretty(&found)?);
        return Ok(Exit::Done);
    }
    for device in agent.devices() {
        let memory = device.memory_bytes.map_or_else(String::new, |b| format!(", {} GiB", b >> 30));
        let cores = device.cores.map_or_else(String::new, |n| format!(", {n} logical cores"));
        let backends: Vec<&str> = device.backends.iter().map(|backend| backend.as_str()).collect();
        output::line(&format!("{}  {}{cores}{memory}: {}", device.id, device.name, backends.join(", ")));
    }
    for worker in agent.workers() {
        let info = &worker.info;
        output::line(&format!("worker {} {}", worker.path.display(), info.version));
        for engine in &info.engines {
            output::line(&format!("  {} {}", engine.backend, engine.version));
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
