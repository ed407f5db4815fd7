//! Telemetry: what this machine and its devices are like while trials are measured.
//!
//! A [`Source`] reads one thing (the kernel's files, a driver's library) into a [`Snapshot`]; there is a small module for
//! each. The [`Recorder`] reads all of them on a thread of its own, ten times a second as long as there is a trial, and
//! keeps the last snapshots. A trial looks at them through its [`Watch`]. What the numbers mean, how they are summarised and
//! judged is all in `regatta_core`.
//!
//! Every source is optional. One that is not there is left out with a line in the log; one that fails is said to be lost,
//! its numbers are absent from then on, and it is tried again now and then. No failure of a source ever reaches a trial.

pub(crate) mod nvml;
mod recorder;
mod scripted;

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
mod apple;
#[cfg(any(windows, test))]
mod gpu_counters;
#[cfg(not(target_os = "linux"))]
mod host;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use regatta_core::device::DeviceId;
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::telemetry::Reading;

pub(crate) use self::recorder::{Recorder, Watch};

/// One way to learn something of this machine.
trait Source: Send {
    /// Its name in flags, logs and records.
    fn name(&self) -> &'static str;

    /// Adds what it can tell now; `workers` are the processes that measure. An error says why it can tell nothing at all.
    fn read(&mut self, workers: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String>;
}

/// Everything that was read at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Snapshot {
    /// Somebody waits for it, the worker at rest: what takes long to read is read.
    asked: bool,
    /// The host; fields of devices are absent.
    host: Reading,
    /// Processor time of each worker so far, in nanoseconds, by process id.
    busy_ns: BTreeMap<u32, u64>,
    devices: BTreeMap<DeviceId, DeviceState>,
    /// A reading that stands for all of them. For tests.
    scripted: Option<Reading>,
}

/// One device at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct DeviceState {
    /// Fields of the host and of the worker are absent.
    reading: Reading,
    /// Processes that compute on it, with the memory that each has there, where that is told. `None` where they can't be
    /// told at all.
    processes: Option<BTreeMap<u32, Option<u64>>>,
}

impl Snapshot {
    /// What it says to a worker, process `worker`, on a device. Before there is a worker, of host and device.
    fn seen_by(&self, worker: Option<u32>, workers: &BTreeSet<u32>, device: DeviceId) -> Reading {
        if let Some(scripted) = &self.scripted {
            return scripted.clone();
        }
        let DeviceState { reading, processes } = self.devices.get(&device).cloned().unwrap_or_default();
        let own = worker.and_then(|worker| processes.as_ref()?.get(&worker).copied());
        // Inside a container a driver may know processes by other numbers. Where the worker is not among them, who is a
        // stranger can't be told.
        let foreign = |_| {
            let count = processes.as_ref()?.keys().filter(|process| !workers.contains(process)).count();
            u32::try_from(count).ok()
        };
        Reading {
            host_busy_ns: self.host.host_busy_ns,
            own_busy_ns: worker.and_then(|worker| self.busy_ns.get(&worker).copied()),
            cpu_mhz: self.host.cpu_mhz,
            cpu_temperature_c: self.host.cpu_temperature_c,
            governor: self.host.governor.clone(),
            on_battery: self.host.on_battery,
            low_power_mode: self.host.low_power_mode,
            own_memory_bytes: own.flatten(),
            foreign_processes: own.and_then(foreign),
            ..reading
        }
    }
}

/// The sources of this machine, for these devices. Called on the recorder's thread: libraries take their time to load.
fn sources(devices: &[DeviceId]) -> Vec<Box<dyn Source>> {
    if let Some(script) = scripted::Script::of_environment() {
        return vec![Box::new(script)];
    }
    let mut sources = platform(devices);
    sources.extend(boxed(nvml::Nvml::open(devices)));
    let names: Vec<_> = sources.iter().map(|source| source.name()).collect();
    tracing::info!(sources = names.join(", "), "telemetry");
    sources
}

/// What is set on the devices and changes what is measured, as labels for people.
pub(crate) fn facts(devices: &[DeviceId]) -> BTreeMap<String, String> {
    let line = |(device, settings): (DeviceId, Fingerprint)| {
        let settings: Vec<_> = settings.parts().iter().map(|(name, value)| format!("{name} {value}")).collect();
        (device.to_string(), settings.join(", "))
    };
    nvml::Nvml::open(devices).map(|nvml| nvml.settings().map(line).collect()).unwrap_or_default()
}

/// What is set on the host and on a device now and changes what is measured. Takes its time: libraries are loaded.
pub(crate) fn settings(device: DeviceId) -> Fingerprint {
    let of_device = nvml::Nvml::open(&[device]).and_then(|nvml| nvml.settings().next());
    let settings = of_device.map(|(_, settings)| settings).unwrap_or_default();
    settings.with(fingerprint::GOVERNOR, host().governor)
}

/// The host as it is now, as far as it can be told.
pub(crate) fn host() -> Reading {
    let mut sources = scripted::Script::of_environment().map_or_else(|| platform(&[]), |script| vec![Box::new(script)]);
    let mut snapshot = Snapshot::default();
    for source in &mut sources {
        if let Err(reason) = source.read(&BTreeSet::new(), &mut snapshot) {
            tracing::debug!(source = source.name(), reason, "the host can't be read");
        }
    }
    snapshot.scripted.unwrap_or(snapshot.host)
}

/// Processors that were busy for `look`, whoever kept them so. Blocks for that time.
pub(crate) fn busy_processors(look: Duration) -> Option<f64> {
    let mut sources = scripted::Script::of_environment().map_or_else(|| platform(&[]), |script| vec![Box::new(script)]);
    let mut busy_ns = || {
        let mut snapshot = Snapshot { asked: true, ..Snapshot::default() };
        for source in &mut sources {
            source.read(&BTreeSet::new(), &mut snapshot).ok();
        }
        snapshot.scripted.unwrap_or(snapshot.host).host_busy_ns
    };
    let (before, start) = (busy_ns()?, Instant::now());
    std::thread::sleep(look);
    let busy = busy_ns()?.saturating_sub(before);
    Some(busy as f64 / start.elapsed().as_nanos() as f64)
}

#[cfg(target_os = "linux")]
fn platform(_: &[DeviceId]) -> Vec<Box<dyn Source>> {
    vec![Box::new(linux::Linux::open())]
}

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
fn platform(devices: &[DeviceId]) -> Vec<Box<dyn Source>> {
    [boxed(host::Host::open()), boxed(apple::Apple::open(devices))].into_iter().flatten().collect()
}

#[cfg(windows)]
fn platform(devices: &[DeviceId]) -> Vec<Box<dyn Source>> {
    let all = [boxed(host::Host::open()), boxed(Some(windows::Power)), boxed(windows::Gpus::open(devices))];
    all.into_iter().flatten().collect()
}

#[cfg(not(any(target_os = "linux", windows, all(target_os = "macos", target_arch = "aarch64"))))]
fn platform(_: &[DeviceId]) -> Vec<Box<dyn Source>> {
    boxed(host::Host::open()).into_iter().collect()
}

/// A source, if it is there.
fn boxed<S: Source + 'static>(source: Option<S>) -> Option<Box<dyn Source>> {
    source.map(|source| Box::new(source) as Box<dyn Source>)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: &str = "cuda:0";

    fn snapshot(processes: &[(u32, Option<u64>)]) -> Snapshot {
        let state = DeviceState {
            reading: Reading { clock_mhz: Some(1500.0), ..Reading::default() },
            processes: Some(processes.iter().copied().collect()),
        };
        Snapshot {
            asked: false,
            host: Reading { host_busy_ns: Some(9), ..Reading::default() },
            busy_ns: BTreeMap::from([(7, 5)]),
            devices: BTreeMap::from([(CUDA.parse().unwrap(), state)]),
            scripted: None,
        }
    }

    fn seen(processes: &[(u32, Option<u64>)], worker: Option<u32>) -> Reading {
        let workers = worker.into_iter().chain([8]).collect();
        snapshot(processes).seen_by(worker, &workers, CUDA.parse().unwrap())
    }

    #[test]
    fn a_worker_sees_its_own_part_and_counts_strangers() {
        let reading = seen(&[(7, Some(100)), (8, Some(1)), (666, None)], Some(7));
        assert_eq!((reading.host_busy_ns, reading.own_busy_ns, reading.clock_mhz), (Some(9), Some(5), Some(1500.0)));
        assert_eq!((reading.own_memory_bytes, reading.foreign_processes), (Some(100), Some(1)));
        assert_eq!(seen(&[(7, None)], Some(7)).foreign_processes, Some(0));
    }

    #[test]
    fn where_the_worker_is_not_among_the_processes_nobody_is_called_a_stranger() {
        assert_eq!(seen(&[(666, Some(1))], Some(7)).foreign_processes, None);
        assert_eq!(seen(&[(666, Some(1))], None).foreign_processes, None);
    }

    #[test]
    fn of_a_device_that_no_source_knows_only_the_host_is_told() {
        let reading = snapshot(&[]).seen_by(Some(7), &BTreeSet::new(), DeviceId::CPU);
        assert_eq!(reading, Reading { host_busy_ns: Some(9), own_busy_ns: Some(5), ..Reading::default() });
    }
}
