//! What this machine can run a model on, and what it is, as labels.
//!
//! Devices are numbered as the engines number them, because that is what engines are told. A number may come to stand for
//! another device: after a card was added, or where fewer are shown. So each device has an id beside it that stays
//! ([`DeviceFacts::stable_id`](regatta_core::device::DeviceFacts)): it goes into the fingerprint of every sample, so that no
//! two devices' numbers are ever compared unnoticed; what the numbers stood for is remembered beside the spool, and a change is
//! told; and workers are given CUDA's devices in the order in which they were found.

mod accelerators;
#[cfg(any(windows, test))]
mod dxgi;
#[cfg(windows)]
mod dxgi_windows;
#[cfg(target_os = "macos")]
mod metal;
mod nvidia;
mod scripted;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod other;

#[cfg(target_os = "linux")]
use self::linux as platform;
#[cfg(target_os = "macos")]
use self::macos as platform;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
use self::other as platform;

#[cfg(unix)]
#[path = "host_unix.rs"]
mod host;
#[cfg(not(unix))]
#[path = "host_other.rs"]
mod host;

use std::collections::BTreeMap;
use std::path::Path;

use regatta_core::device::{Device, DeviceFacts, DeviceId};
use regatta_core::id::{AgentId, is_unprintable};

use self::accelerators::Sighting;
use crate::process::withheld;
use crate::workers::{Found, Worker};

/// What the numbers of devices stood for, in the spool's folder.
const NUMBERING: &str = "devices.json";

/// The longest label, in characters.
const MAX_LABEL: usize = 128;

/// What the system tells of its processor; what it does not tell is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Processor {
    /// The vendor's name for it.
    name: Option<String>,
    /// Cores, hardware threads not counted.
    physical_cores: Option<u32>,
    /// The host's memory in bytes.
    memory_bytes: Option<u64>,
}

/// A device that is here and can't be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// The device; it has no backends.
    pub device: Device,
    /// Why not, and what to do about it.
    pub reason: String,
}

/// The devices of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The processor, and accelerators that a worker can drive.
    pub devices: Vec<Device>,
    /// Accelerators that no worker here can drive.
    pub idle: Vec<Idle>,
}

/// The devices of this machine, with the backends that the workers have for them.
pub fn discover(agent: &AgentId, found: &Found) -> Discovered {
    let (seen, is_scripted) = match scripted::of_environment() {
        Some(seen) => (seen, true),
        None => (accelerators::merged(of_system().into_iter().chain(accelerators::listed(&found.workers))), false),
    };
    let (accelerators, idle) = accelerators::sorted_out(agent, seen, found, is_scripted);
    let devices = std::iter::once(of_processor(agent, &found.workers)).chain(accelerators).collect();
    Discovered { devices, idle }
}

/// What the system and its drivers list.
fn of_system() -> Vec<Sighting> {
    let nvidia = nvidia::sightings();
    #[cfg(target_os = "macos")]
    let own = metal::sightings();
    #[cfg(windows)]
    let own = dxgi_windows::sightings();
    #[cfg(not(any(target_os = "macos", windows)))]
    let own = Vec::new();
    nvidia.into_iter().chain(own).collect()
}

fn of_processor(agent: &AgentId, workers: &[Worker]) -> Device {
    let processor = platform::processor();
    Device {
        agent: agent.clone(),
        id: DeviceId::CPU,
        name: label(&processor.name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
        memory_bytes: processor.memory_bytes,
        cores: std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()),
        backends: accelerators::backends(workers, DeviceId::CPU.kind).into_iter().collect(),
        facts: DeviceFacts::default(),
    }
}

/// The variable for workers, with its value, that has CUDA number its devices as they are numbered here.
pub(crate) fn order_for_workers(devices: &[Device]) -> Option<(&'static str, String)> {
    Some((crate::telemetry::nvml::VISIBLE, accelerators::visible_to_workers(devices.iter())?))
}

/// Compares what the numbers of devices stand for with what they stood for when `folder` was last used, tells what has changed,
/// and remembers it. Nothing depends on the file: one that can't be read or written is a line in the log.
pub(crate) fn remember(folder: &Path, found: &Discovered) -> Vec<String> {
    let file = folder.join(NUMBERING);
    let now = accelerators::numbering(found.devices.iter().chain(found.idle.iter().map(|idle| &idle.device)));
    let before: BTreeMap<DeviceId, String> =
        std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    // What is not here today may be back tomorrow.
    let mut all = before.clone();
    all.extend(now.clone());
    if all != before {
        let text = serde_json::to_vec_pretty(&all).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| std::fs::write(&file, text)) {
            tracing::warn!(file = %file.display(), %error, "what the numbers of devices stand for can't be remembered");
        }
    }
    accelerators::renumbered(&before, &now)
}

/// Labels of this machine. What can't be found out is absent.
pub fn host() -> BTreeMap<String, String> {
    let processor = platform::processor();
    let withheld = environment_withheld();
    let facts = [
        ("os", Some(std::env::consts::OS.to_owned())),
        ("arch", Some(std::env::consts::ARCH.to_owned())),
        ("kernel", host::kernel()),
        ("hostname", host::name()),
        ("cpu", processor.name),
        ("physical_cores", processor.physical_cores.map(|count| count.to_string())),
        ("huge_pages", huge_pages()),
        ("environment_withheld", Some(withheld).filter(|names| !names.is_empty())),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), label(&value?)))).collect()
}

/// When Linux gives huge pages to those who ask, as workers do: `always`, `madvise` or `never`.
pub(crate) fn huge_pages() -> Option<String> {
    chosen(&std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?)
}

/// The word in brackets.
fn chosen(words: &str) -> Option<String> {
    words.split_whitespace().find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
}

/// Variables of this process that would change measurements, separated by spaces; workers do not get them.
pub fn environment_withheld() -> String {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect::<Vec<_>>();
    withheld(names.iter().map(String::as_str)).join(" ")
}

/// Text of the system, short and printable.
fn label(text: &str) -> String {
    text.trim().chars().filter(|c| !is_unprintable(*c)).take(MAX_LABEL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_processor_with_a_name() {
        let Discovered { devices, .. } = discover(&"here".parse().unwrap(), &Found::default());
        assert_eq!(devices[0].id, DeviceId::CPU);
        assert!(!devices[0].name.is_empty());
        assert!(devices[0].backends.is_empty());
    }

    #[test]
    fn of_the_kernel_s_words_the_chosen_one_is_told() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise never"), None);
    }

    #[test]
    fn what_numbers_stand_for_is_remembered_also_of_devices_that_are_away() {
        let folder = tempfile::tempdir().unwrap();
        let with = |ids: &[(&str, &str)]| {
            let device = |&(name, id): &(&str, &str)| Idle {
                device: Device {
                    agent: "here".parse().unwrap(),
                    id: name.parse().unwrap(),
                    name: "H200".to_owned(),
                    memory_bytes: None,
                    cores: None,
                    backends: vec![],
                    facts: DeviceFacts { stable_id: Some(id.to_owned()), ..DeviceFacts::default() },
                },
                reason: String::new(),
            };
            let found = Discovered { devices: vec![], idle: ids.iter().map(device).collect() };
            remember(folder.path(), &found)
        };
        let both = [("cuda:0", "GPU-a"), ("cuda:1", "GPU-b")];
        assert!(with(&both).is_empty());
        assert!(with(&both[..1]).is_empty());
        assert!(with(&both).is_empty());
        assert_eq!(with(&[("cuda:0", "GPU-b")]).len(), 1);
        assert!(with(&[("cuda:0", "GPU-b")]).is_empty(), "told once");
    }

    #[test]
    fn labels_are_printable_and_never_empty() {
        for (name, value) in host() {
            assert!(!value.is_empty(), "{name}");
            assert!(!value.chars().any(is_unprintable), "{name}: {value:?}");
        }
        assert_eq!(label(&format!(" a\u{1b}b{} ", "c".repeat(200))).chars().count(), MAX_LABEL);
    }
}
