//! The host where there is no `/proc`: processor time through the `sysinfo` crate.
//!
//! It tells the load since the last look and not a counter, so the counter is made here: load times processors times the time
//! between two looks. Whether macOS runs on its battery or saves power is not read.

use std::collections::BTreeSet;
use std::time::Instant;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::{Snapshot, Source};

pub(super) struct Host {
    system: System,
    /// Processor time since the first look, in nanoseconds.
    busy_ns: f64,
    looked_at: Option<Instant>,
}

impl Host {
    /// The source, if the system can be asked.
    pub(super) fn open() -> Option<Self> {
        match System::new() {
            Ok(system) => Some(Self { system, busy_ns: 0.0, looked_at: None }),
            Err(error) => {
                tracing::info!(%error, "no telemetry of the host: the system can't be asked");
                None
            }
        }
    }

    /// Processor time of all processes since the first look.
    fn busy_ns(&mut self) -> u64 {
        let now = Instant::now();
        self.system.refresh_cpu_usage();
        if let Some(before) = self.looked_at.replace(now) {
            let cores = self.system.cpus().len() as f64 * f64::from(self.system.global_cpu_usage()) / 100.0;
            self.busy_ns += (now - before).as_nanos() as f64 * cores.max(0.0);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a sum of times, far below 2^63 ns"
        )]
        let whole = self.busy_ns as u64;
        whole
    }
}

impl Source for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn read(&mut self, workers: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        let processes: Vec<Pid> = workers.iter().map(|worker| Pid::from_u32(*worker)).collect();
        let kind = ProcessRefreshKind::nothing().with_cpu();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&processes), true, kind);
        into.host.host_busy_ns = Some(self.busy_ns());
        let busy_ns = |worker: &u32| {
            let process = self.system.process(Pid::from_u32(*worker))?;
            Some((*worker, process.accumulated_cpu_time() * 1_000_000))
        };
        into.busy_ns = workers.iter().filter_map(busy_ns).collect();
        Ok(())
    }
}
