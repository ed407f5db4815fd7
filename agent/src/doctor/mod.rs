//! The doctor: what keeps this machine from measuring, or its numbers from being worth much, and what to do about it.
//!
//! [`Machine::examine`] gathers facts, which takes a second or two and needs no rights that a person doesn't have; [`findings`]
//! judges them and is pure. What the system doesn't tell is said, and held against nobody.

mod judge;
mod tools;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod platform;

use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_core::device::{Device, DeviceId, DeviceKind};
use serde::Serialize;

pub use self::judge::findings;
use crate::Agent;
use crate::devices::Idle;
use crate::process::Surroundings;
use crate::telemetry::{self, nvml};
use crate::workers::{Disabled, Worker};

/// For how long it is looked at what others do.
const LOOK: Duration = Duration::from_millis(700);

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Numbers will be worse or less steady than they could be.
    Warning,
    /// Nothing can be measured like that.
    Problem,
}

impl Level {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// Why it matters to a measurement; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do about it; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Everything that is judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The machine itself.
    pub machine: Machine,
    /// Folders that are written to.
    pub disks: Vec<Disk>,
    /// The coordinator that it is to measure for.
    pub coordinator: Coordinator,
}

/// What the machine tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// Workers that answered.
    pub workers: Vec<Worker>,
    /// Workers that can't be used.
    pub disabled: Vec<Disabled>,
    /// Devices that can be measured.
    pub devices: Vec<Device>,
    /// Devices that can't.
    pub idle: Vec<Idle>,
    /// NVIDIA's driver.
    pub nvidia: Nvidia,
    /// Processors' time of others, in processors.
    pub busy_processors: Option<f64>,
    /// How processors' clocks are chosen.
    pub governor: Option<String>,
    /// Whether processors may go beyond the clock that they can keep.
    pub boost: Option<bool>,
    /// Whether it runs on its battery.
    pub on_battery: Option<bool>,
    /// Whether it is set to save power.
    pub low_power_mode: Option<bool>,
    /// The chosen power plan, where there are such.
    pub power_plan: Option<PowerPlan>,
    /// When the kernel uses huge pages: `always`, `madvise`, `never`.
    pub huge_pages: Option<String>,
    /// The host's memory that is free for use, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Files that should be open to this person and are not.
    pub denied: Vec<PathBuf>,
    /// A counter of the processors' energy that this person may not read.
    pub energy_denied: Option<PathBuf>,
    /// Whether the clock is kept right by a service of time.
    pub clock_is_synchronised: Option<bool>,
}

/// A plan of Windows for power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerPlan {
    /// High or ultimate performance.
    Performance,
    /// Windows' own choice.
    Balanced,
    /// As little power as possible.
    Saver,
    /// Somebody's own.
    Other,
}

/// NVIDIA's driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Nvidia {
    /// There is no sign of it.
    #[default]
    Absent,
    /// The kernel has it, and its library can't be used.
    NoLibrary(String),
    /// It answers.
    Here {
        /// Its version.
        driver: String,
        /// Its devices that can be told.
        cards: Vec<Card>,
    },
}

/// What NVIDIA's driver says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Which.
    pub device: DeviceId,
    /// Processes that use it, with what is known of them.
    pub users: Vec<String>,
    /// Whether the driver stays loaded while nobody uses the device.
    pub is_persistent: Option<bool>,
    /// Whether somebody has set its clocks.
    pub clocks_are_set: bool,
}

/// A folder that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What it holds.
    pub holds: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Its free bytes, or why nothing can be written there.
    pub free: Result<u64, String>,
}

/// The way to a coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Coordinator {
    /// None was named.
    #[default]
    NotNamed,
    /// It answers and knows us.
    Reached {
        /// Where it is.
        address: String,
        /// What it said of us where we may not do everything.
        limits: Option<String>,
    },
    /// It does not.
    Failed {
        /// Where it should be.
        address: String,
        /// What went wrong, and what to do about it.
        reason: String,
    },
}

impl Machine {
    /// Looks at this machine, whose devices and workers `agent` has found.
    pub async fn examine(agent: &Agent) -> Self {
        let devices = agent.devices().to_vec();
        let ids: Vec<DeviceId> = devices.iter().map(|device| device.id).collect();
        let idle = agent.idle_devices().to_vec();
        let looked = tokio::task::spawn_blocking(move || (of_host(), of_nvidia(&ids))).await;
        let (host, nvidia) = looked.unwrap_or_default();
        let told = tools::ask(&Surroundings::default()).await;
        Self {
            workers: agent.workers().to_vec(),
            disabled: agent.disabled_workers().to_vec(),
            devices,
            idle,
            nvidia,
            on_battery: host.on_battery.or(told.on_battery),
            low_power_mode: host.low_power_mode.or(told.low_power_mode),
            power_plan: told.power_plan,
            clock_is_synchronised: told.clock_is_synchronised,
            ..host
        }
    }
}

/// Looks at a folder; where it is not there yet, at the one that it would be made in.
pub fn disk(holds: &'static str, path: &Path) -> Disk {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let free = || {
        // A file without a name: nothing stays.
        tempfile::tempfile_in(there)?;
        fs4::available_space(there)
    };
    Disk { holds, path: path.to_owned(), free: free().map_err(|error| error.to_string()) }
}

fn of_host() -> Machine {
    let reading = telemetry::host();
    Machine {
        busy_processors: telemetry::busy_processors(LOOK),
        governor: reading.governor,
        huge_pages: crate::devices::huge_pages(),
        on_battery: reading.on_battery,
        low_power_mode: reading.low_power_mode,
        ..platform::machine()
    }
}

fn of_nvidia(devices: &[DeviceId]) -> Nvidia {
    match nvml::cards(devices) {
        Ok((driver, cards)) => Nvidia::Here { driver, cards },
        Err(_) if !platform::has_nvidia() && !devices.iter().any(|id| id.kind == DeviceKind::Cuda) => Nvidia::Absent,
        Err(reason) => Nvidia::NoLibrary(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_where_it_would_be_and_not_made() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        assert!(disk("results", &path).free.unwrap() > 0);
        assert!(!root.path().join("a").exists());
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(disk("results", &file.join("below")).free.is_err());
    }
}
