//! Apple silicon, through the `macmon` crate: clocks, temperatures and power, without privileges.
//!
//! It reads interfaces that Apple has not documented and that may change with any release of macOS; where they can't be
//! read the source is absent. It measures over an interval, which takes as long as the interval, so it does that on a thread
//! of its own, one interval for each reading asked for, and a reading gets the last one. There is no memory by process here.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use macmon::{Metrics, Sampler};
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::telemetry::Reading;

use super::{Snapshot, Source};

/// Over which clocks and power are measured, in milliseconds.
const INTERVAL_MS: u32 = 80;

/// What was measured longer ago than this says nothing of now.
const OLD: Duration = Duration::from_secs(1);

/// The GPU, of which there is one.
const GPU: DeviceId = DeviceId { kind: DeviceKind::Metal, index: 0 };

/// What is measured last, and when.
type Latest = Arc<Mutex<Result<(Instant, Measured), String>>>;

/// The numbers that are used.
#[derive(Debug, Clone, Copy)]
struct Measured {
    cpu_mhz: Option<f64>,
    cpu_temperature_c: Option<f64>,
    gpu_mhz: f64,
    gpu_temperature_c: Option<f64>,
    gpu_power_w: f64,
    gpu_is_idle: bool,
}

pub(super) struct Apple {
    latest: Latest,
    /// Asks for one more interval; the thread ends when this goes away.
    ask: SyncSender<()>,
    has_gpu: bool,
}

impl Apple {
    /// The source, if the machine can be measured.
    pub(super) fn open(devices: &[DeviceId]) -> Option<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (ready, is_ready) = mpsc::sync_channel(1);
        let latest: Latest = Arc::new(Mutex::new(Err("nothing is measured yet".to_owned())));
        let shared = Arc::clone(&latest);
        let started = std::thread::Builder::new().name("telemetry-apple".to_owned()).spawn(move || {
            // It can't go from thread to thread, so it is made here.
            let mut sampler = match Sampler::new() {
                Ok(sampler) => sampler,
                Err(error) => return drop(ready.send(Err(error.to_string()))),
            };
            let _ = ready.send(Ok(()));
            while asked.recv().is_ok() {
                let measured = sampler.get_metrics(INTERVAL_MS).map_err(|error| error.to_string());
                let measured = measured.map(|metrics| (Instant::now(), Measured::of(&metrics)));
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = measured;
            }
        });
        let ready = started.map_err(|error| error.to_string()).and_then(|_| match is_ready.recv() {
            Ok(ready) => ready,
            Err(error) => Err(error.to_string()),
        });
        match ready {
            Ok(()) => Some(Self { latest, ask, has_gpu: devices.contains(&GPU) }),
            Err(reason) => {
                tracing::info!(reason, "no telemetry of Apple silicon: it can't be read here");
                None
            }
        }
    }
}

impl Measured {
    fn of(metrics: &Metrics) -> Self {
        // The fastest kind of core is the one that engines run on.
        let tier = metrics.cpu_tiers.last().filter(|tier| tier.freq_mhz > 0);
        let celsius = |value: Option<f32>| value.filter(|value| *value > 0.0).map(f64::from);
        Self {
            cpu_mhz: tier.map(|tier| f64::from(tier.freq_mhz)),
            cpu_temperature_c: celsius(metrics.temp.cpu_temp_avg),
            gpu_mhz: f64::from(metrics.gpu_freq_mhz),
            gpu_temperature_c: celsius(metrics.temp.gpu_temp_avg),
            gpu_power_w: f64::from(metrics.gpu_power),
            gpu_is_idle: metrics.gpu_active_ratio <= 0.0,
        }
    }
}

impl Source for Apple {
    fn name(&self) -> &'static str {
        "apple"
    }

    fn read(&mut self, _: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        match self.ask.try_send(()) {
            // One that is asked for already is one that will come.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => return Err("its thread has ended".to_owned()),
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (at, measured) = match latest {
            Ok(latest) => latest,
            Err(reason) => return Err(reason),
        };
        if at.elapsed() > OLD {
            // After a rest: the next reading will have it.
            return Ok(());
        }
        into.host.cpu_mhz = measured.cpu_mhz;
        into.host.cpu_temperature_c = measured.cpu_temperature_c;
        if self.has_gpu {
            into.devices.entry(GPU).or_default().reading = Reading {
                clock_mhz: (measured.gpu_mhz > 0.0).then_some(measured.gpu_mhz),
                temperature_c: measured.gpu_temperature_c,
                power_w: Some(measured.gpu_power_w),
                is_idle: Some(measured.gpu_is_idle),
                ..Reading::default()
            };
        }
        Ok(())
    }
}
