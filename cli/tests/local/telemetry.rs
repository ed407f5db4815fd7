//! Surroundings of a measurement, with readings that the test scripts while a real run goes on.

use std::path::{Path, PathBuf};

use regatta_core::flag::Flag;
use regatta_core::quality::Quality;
use regatta_core::sample::Sample;
use regatta_core::telemetry::Telemetry;
use serde_json::{Value, json};

use crate::harness::{Home, Running};

/// Repetitions of the one cell, some 40 ms each.
const REPETITIONS: u32 = 100;

/// A run whose readings are in a file.
struct Watched {
    home: Home,
    readings: PathBuf,
}

impl Watched {
    fn new(reading: &Value) -> Self {
        let home = Home::new();
        let watched = Self { readings: home.path("reading.json"), home };
        watched.say(reading);
        watched
    }

    /// From now on this is read. Never half of it.
    fn say(&self, reading: &Value) {
        let half = self.home.file("reading.half", &reading.to_string());
        std::fs::rename(half, &self.readings).unwrap();
    }

    fn start(&self) -> Running {
        let scenario = self.home.scenario(&["only"], REPETITIONS, "60s");
        let mut command = self.home.command(&["run", scenario.to_str().unwrap(), "--out", "out"]);
        command.env("REGATTA_FAKE_TELEMETRY", &self.readings);
        Home::read_events(command)
    }

    async fn samples(&self) -> Vec<Sample> {
        let reader = self.home.database().await;
        let run = reader.runs(1).await.unwrap().remove(0);
        let samples = reader.all_samples(&run.id).await.unwrap();
        reader.close().await;
        samples
    }

    fn csv(&self) -> Vec<Vec<String>> {
        let output = self.home.regatta(&["report", "--format", "csv"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
    }
}

/// Waits until so many more repetitions have been reported.
fn repetitions(running: &mut Running, count: u64) {
    let measuring = |event: &Value| event["event"] == "progress" && event["phase"] == "measuring";
    let now = running.wait_for(measuring)["repetitions"].as_u64().unwrap();
    running.wait_for(|event| measuring(event) && event["repetitions"].as_u64().unwrap() >= now + count);
}

fn seen(sample: &Sample) -> &Telemetry {
    sample.telemetry.as_deref().unwrap()
}

fn with(samples: &[Sample], flag: Flag) -> usize {
    samples.iter().filter(|sample| sample.flags.contains(flag)).count()
}

#[tokio::test]
async fn repetitions_that_were_disturbed_are_marked_kept_and_not_counted() {
    let quiet = json!({"foreign_processes": 0, "throttled_ns": {"hw_thermal": 0}, "clock_mhz": 1500.0});
    let watched = Watched::new(&quiet);
    let mut running = watched.start();
    repetitions(&mut running, 3);
    watched.say(&json!({"foreign_processes": 1, "throttled_ns": {"hw_thermal": 0}, "clock_mhz": 1500.0}));
    repetitions(&mut running, 6);
    // The counter grows once and stays: it is its growth that tells.
    watched.say(&json!({"foreign_processes": 0, "throttled_ns": {"hw_thermal": 5_000_000}, "clock_mhz": 1500.0}));
    repetitions(&mut running, 6);
    assert_eq!(running.finish().code(), Some(0));

    let samples = watched.samples().await;
    assert_eq!(samples.len(), 2 * REPETITIONS as usize, "all are kept, and measured again in another process");
    assert!(with(&samples, Flag::ForeignProcess) >= 4, "{}", with(&samples, Flag::ForeignProcess));
    let slowed = with(&samples, Flag::HardwareSlowdown);
    assert!((1..=3).contains(&slowed), "the counter grew once, {slowed} repetitions have it");
    let clean = samples.iter().filter(|sample| Quality::of(sample.flags) == Quality::Valid).count();
    assert!(clean > 20, "{clean} of {REPETITIONS} are clean");
    for sample in &samples {
        assert_eq!(sample.flags.contains(Flag::ForeignProcess), seen(sample).foreign_processes == Some(1));
        let slowed = seen(sample).throttled_ns.hw_thermal;
        assert_eq!(sample.flags.contains(Flag::HardwareSlowdown), slowed == Some(5_000_000), "{slowed:?}");
        assert_eq!(seen(sample).clock_mhz.map(|clock| clock.median), Some(1500.0));
    }

    let lines = watched.csv();
    let column = |name: &str| lines[0].iter().position(|head| head == name).unwrap();
    let (counted, quality) = (column("counted"), column("quality"));
    assert_eq!(lines.len() - 1, samples.len());
    assert!(lines[1..].iter().all(|line| (line[counted] == "true") == (line[quality] != "invalid")));
    assert_eq!(lines[1..].iter().filter(|line| line[counted] == "true").count(), clean, "medians are of these");
    let report = std::fs::read_to_string(watched.home.path("out/report.html")).unwrap();
    assert!(report.contains("Not counted") && report.contains(Flag::ForeignProcess.meaning()));
}

#[tokio::test]
async fn a_source_that_dies_costs_its_numbers_and_nothing_else() {
    let watched = Watched::new(&json!({"clock_mhz": 1500.0, "temperature_c": 60.0, "energy_mj": 1}));
    let mut running = watched.start();
    repetitions(&mut running, 3);
    std::fs::remove_file(&watched.readings).unwrap();
    repetitions(&mut running, 6);
    assert_eq!(running.finish().code(), Some(0));

    let samples = watched.samples().await;
    assert_eq!(samples.len(), REPETITIONS as usize);
    let lost = with(&samples, Flag::TelemetryLost);
    assert!(lost >= 6 && lost < samples.len(), "{lost}");
    for sample in &samples {
        let (telemetry, lost) = (seen(sample), sample.flags.contains(Flag::TelemetryLost));
        assert_eq!(telemetry.lost, if lost { vec!["script"] } else { vec![] });
        assert!(lost || telemetry.clock_mhz.is_some(), "neither there nor said to be missing: {telemetry:?}");
    }
    let last = samples.iter().max_by_key(|sample| sample.key.repetition).unwrap();
    let nothing = Telemetry {
        window_ns: seen(last).window_ns,
        readings: seen(last).readings,
        lost: vec!["script".to_owned()],
        ..Telemetry::default()
    };
    assert_eq!(*seen(last), nothing, "absent, not zero");
    let database = rusqlite::Connection::open(watched.home.path("regatta.sqlite")).unwrap();
    let clocks = "SELECT count(*) FROM samples WHERE repetition = ? AND telemetry LIKE '%clock%'";
    let count: i64 = database.query_row(clocks, [last.key.repetition], |row| row.get(0)).unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_hot_device_gets_time_to_cool_down_before_the_next_trial() {
    let cool = |celsius: f64| json!({"cpu_temperature_c": celsius});
    let watched = Watched::new(&cool(40.0));
    let scenario = watched.home.scenario(&["only"], REPETITIONS, "60s");
    let text = std::fs::read_to_string(&scenario).unwrap().replace("[\"f32\"]", "[\"f32\", \"f16\"]");
    std::fs::write(&scenario, text).unwrap();
    let mut command = watched.home.command(&["run", scenario.to_str().unwrap(), "--cool-down", "--out", "out"]);
    command.env("REGATTA_FAKE_TELEMETRY", &watched.readings);
    let mut running = Home::read_events(command);
    repetitions(&mut running, 3);
    watched.say(&cool(80.0));
    running.wait_for(|event| event["event"] == "progress" && event["phase"] == "cooling down");
    watched.say(&cool(45.0));
    assert_eq!(running.finish().code(), Some(0));

    let samples = watched.samples().await;
    assert_eq!(samples.len(), 2 * REPETITIONS as usize);
    let waited: Vec<_> = samples.iter().filter_map(|sample| seen(sample).cool_down_ns).collect();
    assert_eq!(waited.len(), REPETITIONS as usize, "the second trial waited, the first one did not");
    assert!(waited.iter().all(|ns| (1_000_000_000..60_000_000_000).contains(ns)), "{waited:?}");
    let report = std::fs::read_to_string(watched.home.path("out/report.html")).unwrap();
    assert!(report.contains("Cooled before"));
}

#[tokio::test]
async fn without_telemetry_nothing_is_read_and_nothing_is_stored() {
    let watched = Watched::new(&json!({"foreign_processes": 1}));
    let scenario = watched.home.scenario(&["only"], 3, "60s");
    let mut command = watched.home.command(&["run", scenario.to_str().unwrap(), "--no-telemetry"]);
    let output = command.env("REGATTA_FAKE_TELEMETRY", Path::new("nowhere")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let samples = watched.samples().await;
    assert_eq!(samples.len(), 3);
    assert!(samples.iter().all(|sample| sample.telemetry.is_none() && !sample.flags.contains(Flag::TelemetryLost)));
    let heads = &watched.csv()[0];
    assert!(heads.iter().any(|head| head == "load_by_others"), "{heads:?}");
}

#[tokio::test]
async fn a_machine_that_is_not_fit_is_refused_unless_allowed_and_then_marked() {
    let watched = Watched::new(&json!({"on_battery": true, "low_power_mode": true}));
    let scenario = watched.home.scenario(&["only"], 2, "60s");
    let run = |more: &[&str]| {
        let mut command = watched.home.command(&[&["run", scenario.to_str().unwrap()], more].concat());
        command.env("REGATTA_FAKE_TELEMETRY", &watched.readings).output().unwrap()
    };
    let refused = run(&[]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    for part in ["it runs on its battery: plug it in", "power profile", "--allow-unfit"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(!watched.home.path("regatta.sqlite").exists(), "a database was made for a run that was refused");
    // Marked even where nothing is watched.
    let allowed = run(&["--allow-unfit", "--no-telemetry"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", String::from_utf8_lossy(&allowed.stderr));
    let samples = watched.samples().await;
    assert_eq!((with(&samples, Flag::OnBattery), with(&samples, Flag::LowPowerMode)), (2, 2));
}

#[cfg(unix)]
#[test]
fn a_worker_that_is_not_optimised_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let real = PathBuf::from(env!("CARGO_BIN_EXE_regatta")).with_file_name("regatta-worker");
    let probe = std::process::Command::new(real).arg("probe").output().unwrap();
    let mut info: Value = serde_json::from_slice(&probe.stdout).unwrap();
    info["optimised"] = false.into();
    let worker = home.file("workers/regatta-worker-slow", &format!("#!/bin/sh\ncat <<'END'\n{info}\nEND\n"));
    std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).unwrap();
    let scenario = home.scenario(&["only"], 2, "60s");
    let mut command = home.command(&["run", scenario.to_str().unwrap()]);
    let output = command.env("REGATTA_WORKER_DIR", worker.parent().unwrap()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("regatta-worker-slow is compiled without optimisation"), "{message}");
    assert!(message.contains("--allow-unfit"), "{message}");
}
