//! The canary: at its start the agent has a worker measure what each device can do at most.
//!
//! Nothing depends on it: a canary that fails, or that takes too long, is a line in the log and a device without one.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regatta_core::backend::BackendKind;
use regatta_core::canary::{Canary, Reading};
use regatta_core::device::Device;

use crate::config::{CanaryConfig, CanaryWhen};
use crate::process::Surroundings;
use crate::workers::{self, Worker, choose};

/// The last canaries' file in the spool's folder.
const FILE: &str = "canary.json";

/// Canaries that are younger are not taken again where one a day is wanted.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

/// The longest answer of a worker, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long a worker may take longer than it was told to.
const GRACE: Duration = Duration::from_mins(1);

/// The canaries of the devices: measured now, or those of the last day where that is enough.
pub(crate) async fn run(
    config: &CanaryConfig,
    folder: &Path,
    devices: &[Device],
    workers: &[Worker],
    surroundings: &Surroundings,
    now: Timestamp,
) -> Vec<Canary> {
    let file = folder.join(FILE);
    let known = match config.when {
        CanaryWhen::Off => return Vec::new(),
        CanaryWhen::Start => Vec::new(),
        CanaryWhen::Daily => recent(read(&file), now),
    };
    let mut canaries = Vec::new();
    for device in devices {
        let same = |canary: &&Canary| canary.device == device.id && canary.device_name == device.name;
        match known.iter().find(same) {
            Some(canary) => canaries.push(canary.clone()),
            None => canaries.extend(measure(config.time, device, workers, surroundings, now).await),
        }
    }
    write(&file, &canaries);
    canaries
}

fn recent(canaries: Vec<Canary>, now: Timestamp) -> Vec<Canary> {
    // One of the future was taken under another clock.
    let age = |canary: &Canary| now.duration_since(canary.measured_at);
    canaries.into_iter().filter(|canary| (SignedDuration::ZERO..A_DAY).contains(&age(canary))).collect()
}

async fn measure(
    time: Duration,
    device: &Device,
    workers: &[Worker],
    surroundings: &Surroundings,
    now: Timestamp,
) -> Option<Canary> {
    let id = device.id;
    // candle multiplies matrices by themselves; another worker tells the memory's bandwidth.
    let engines = [BackendKind::Candle, BackendKind::LlamaCpp, BackendKind::Fake];
    let worker = engines.into_iter().find_map(|engine| choose(workers, engine, id.kind))?;
    tracing::info!(device = %id, seconds = time.as_secs_f64(), "measuring what the device can do");
    match ask(worker, time, device, surroundings).await {
        Ok(reading) => {
            let (read, flops) = (reading.bandwidth(), reading.flops.values().copied().reduce(f64::max));
            tracing::info!(device = %id, bytes_per_s = read, flops, "the canary is over");
            Some(Canary { device: id, device_name: device.name.clone(), measured_at: now, reading })
        }
        Err(reason) => {
            tracing::warn!(device = %id, reason, "no canary; measuring goes on without a peak of its own");
            None
        }
    }
}

async fn ask(worker: &Worker, time: Duration, device: &Device, surroundings: &Surroundings) -> Result<Reading, String> {
    let (device, seconds) = (device.id.to_string(), time.as_secs_f64().to_string());
    let arguments = ["canary", "--device", &device, "--seconds", &seconds];
    let output = surroundings.output(&worker.path, &arguments, time + GRACE, MAX_ANSWER).await;
    let output = output.map_err(|error| workers::describe(&error))?;
    let reading: Reading =
        serde_json::from_str(&output).map_err(|error| format!("its answer can't be used: {error}"))?;
    reading.check().map_err(|error| format!("its answer can't be used: {error}"))?;
    Ok(reading)
}

/// The canaries of the last start; none where there are none that can be read.
fn read(file: &Path) -> Vec<Canary> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Keeps them for the next start, which measures again where that fails.
fn write(file: &Path, canaries: &[Canary]) {
    let written = serde_json::to_string(canaries).map_err(std::io::Error::other);
    if let Err(error) = written.and_then(|text| std::fs::write(file, text)) {
        tracing::warn!(file = %file.display(), %error, "the canary can't be kept for the next start");
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use regatta_core::device::{DeviceFacts, DeviceId};
    use tempfile::TempDir;

    use super::*;

    const PROBE: &str = r#"{"protocol":1,"version":"0.1.0","engines":[{"backend":"fake","version":"1","build":"b",
        "devices":["cpu"]}],"simd_compiled":"avx2","simd_cpu":"avx2","optimised":true}"#;
    const READING: &str = r#"{"version":1,"engine":"","threads":2,"buffer_bytes":5,"cache_bytes":null,
        "read_bytes_per_s":2e10,"mixed_bytes_per_s":null,"flops":{},"launch_ns":null}"#;

    struct Here {
        folder: TempDir,
        worker: Worker,
        device: Device,
    }

    impl Here {
        /// A worker that counts how often it is asked and answers with `script`.
        fn new(script: &str) -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("regatta-worker");
            let count = folder.path().join("asked");
            crate::testing::program(&path, &format!("#!/bin/sh\necho \"$@\" >> {}\n{script}\n", count.display()));
            let worker =
                Worker { build: None, path, info: serde_json::from_str(PROBE).unwrap(), json: PROBE.to_owned() };
            let device = Device {
                agent: "here".parse().unwrap(),
                id: DeviceId::CPU,
                name: "a processor".to_owned(),
                memory_bytes: None,
                cores: None,
                backends: vec![BackendKind::Fake],
                facts: DeviceFacts::default(),
            };
            Self { folder, worker, device }
        }

        async fn run(&self, when: CanaryWhen, now: &str) -> Vec<Canary> {
            let config = CanaryConfig { when, time: Duration::from_millis(1500) };
            let (devices, workers) = (std::slice::from_ref(&self.device), std::slice::from_ref(&self.worker));
            let now = now.parse().unwrap();
            run(&config, self.folder.path(), devices, workers, &Surroundings::default(), now).await
        }

        fn asked(&self) -> Vec<String> {
            let asked = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
            asked.lines().map(str::to_owned).collect()
        }
    }

    #[tokio::test]
    async fn a_worker_is_asked_and_its_answer_taken() {
        let here = Here::new(&format!("echo '{READING}'"));
        let canaries = here.run(CanaryWhen::Start, "2026-01-01T00:00:00Z").await;
        assert_eq!(here.asked(), ["canary --device cpu --seconds 1.5"]);
        assert_eq!(canaries.len(), 1);
        assert_eq!((canaries[0].device, canaries[0].device_name.as_str()), (DeviceId::CPU, "a processor"));
        assert_eq!(canaries[0].reading.bandwidth(), Some(2e10));
        assert!(here.run(CanaryWhen::Off, "2026-01-01T00:00:00Z").await.is_empty());
        assert_eq!(here.asked().len(), 1);
    }

    #[tokio::test]
    async fn once_a_day_is_enough_where_that_is_wanted() {
        let mut here = Here::new(&format!("echo '{READING}'"));
        let first = here.run(CanaryWhen::Daily, "2026-01-01T00:00:00Z").await;
        let again = here.run(CanaryWhen::Daily, "2026-01-01T23:59:00Z").await;
        assert_eq!((&again, here.asked().len()), (&first, 1));
        let next = here.run(CanaryWhen::Daily, "2026-01-02T00:00:00Z").await;
        assert_eq!((next[0].measured_at.to_string().as_str(), here.asked().len()), ("2026-01-02T00:00:00Z", 2));
        // A clock that was set back, another device in its place, a file that can't be read: each is measured anew.
        here.run(CanaryWhen::Daily, "2026-01-01T00:00:00Z").await;
        assert_eq!(here.asked().len(), 3);
        here.device.name = "another processor".to_owned();
        here.run(CanaryWhen::Daily, "2026-01-01T00:00:01Z").await;
        assert_eq!(here.asked().len(), 4);
        std::fs::write(here.folder.path().join(FILE), "[{").unwrap();
        here.run(CanaryWhen::Daily, "2026-01-01T00:00:02Z").await;
        assert_eq!(here.asked().len(), 5);
    }

    #[tokio::test]
    async fn a_canary_that_fails_is_no_canary_and_no_error() {
        for script in [
            "exit 3".to_owned(),
            "echo dead".to_owned(),
            format!("echo '{}'", READING.replace("2e10", "0.0")),
            format!("echo '{}'", READING.replace("2e10", "1e300")),
        ] {
            let here = Here::new(&script);
            assert!(here.run(CanaryWhen::Start, "2026-01-01T00:00:00Z").await.is_empty(), "{script}");
            assert_eq!(here.asked().len(), 1);
        }
    }
}
