//! What this machine can run a model on, and what it is, as labels.

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

use std::collections::{BTreeMap, BTreeSet};

use regatta_core::device::{Device, DeviceId};
use regatta_core::id::{AgentId, is_unprintable};

use crate::process::withheld;
use crate::workers::Worker;

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

/// The devices of this machine, with the backends that `workers` have for them. So far the processor is the only one.
pub fn discover(agent: &AgentId, workers: &[Worker]) -> Vec<Device> {
    let processor = platform::processor();
    let engines = workers.iter().flat_map(|worker| &worker.info.engines);
    let for_cpu = engines.filter(|engine| engine.devices.contains(&DeviceId::CPU.kind));
    let backends: BTreeSet<_> = for_cpu.map(|engine| engine.backend).collect();
    vec![Device {
        agent: agent.clone(),
        id: DeviceId::CPU,
        name: label(&processor.name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
        memory_bytes: processor.memory_bytes,
        cores: std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()),
        backends: backends.into_iter().collect(),
    }]
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
fn huge_pages() -> Option<String> {
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
        let devices = discover(&"here".parse().unwrap(), &[]);
        assert_eq!(devices.len(), 1);
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
    fn labels_are_printable_and_never_empty() {
        for (name, value) in host() {
            assert!(!value.is_empty(), "{name}");
            assert!(!value.chars().any(is_unprintable), "{name}: {value:?}");
        }
        assert_eq!(label(&format!(" a\u{1b}b{} ", "c".repeat(200))).chars().count(), MAX_LABEL);
    }
}
