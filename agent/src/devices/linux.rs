//! The processor as Linux describes it.

use std::collections::BTreeSet;
use std::fs;

use super::Processor;

/// Reads `/proc`.
pub(super) fn processor() -> Processor {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Processor {
        name: field(&cpuinfo, "model name").map(str::to_owned),
        physical_cores: physical_cores(&cpuinfo),
        memory_bytes: memory_bytes(&meminfo),
    }
}

/// The value of the first line `name : value`.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| value(line, name))
}

fn value<'t>(line: &'t str, name: &str) -> Option<&'t str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == name && !value.trim().is_empty()).then(|| value.trim())
}

/// Pairs of socket and core that differ. Processors that don't tell (AArch64) have none.
fn physical_cores(cpuinfo: &str) -> Option<u32> {
    let core = |block: &str| Some((field(block, "physical id")?.to_owned(), field(block, "core id")?.to_owned()));
    let cores: BTreeSet<_> = cpuinfo.split("\n\n").filter_map(core).collect();
    u32::try_from(cores.len()).ok().filter(|&count| count > 0)
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kilobytes: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_with_two_threads_per_core_is_read() {
        let thread =
            |core| format!("processor\t: 0\nmodel name\t: Fast CPU @ 3\nphysical id\t: 0\ncore id\t\t: {core}\n");
        let cpuinfo = [0, 1, 0, 1].map(thread).join("\n");
        assert_eq!(field(&cpuinfo, "model name"), Some("Fast CPU @ 3"));
        assert_eq!(physical_cores(&cpuinfo), Some(2));
    }

    #[test]
    fn what_is_not_told_is_absent() {
        assert_eq!(physical_cores("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(memory_bytes("MemTotal:       24606816 kB\n"), Some(24_606_816 * 1024));
    }
}
