//! What the processor has, and what this program was compiled for.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::Path;

use regatta_core::worker::SimdLevel;

/// The instructions the compiler was allowed to use, as it names them.
pub const TARGET_FEATURES: &str = env!("REGATTA_TARGET_FEATURES");

/// Whether this program was compiled with optimisation.
pub const OPTIMISED: bool = !matches!(env!("REGATTA_OPT_LEVEL").as_bytes(), b"0");

/// Threads for an engine when nobody says otherwise: one per physical core that this process may use.
pub fn default_threads() -> u32 {
    u32::try_from(num_cpus::get_physical().min(num_cpus::get())).unwrap_or(1).max(1)
}

/// Where Linux describes its processors.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Size of all last-level caches together, in bytes. `None` where the system does not tell.
pub fn last_level_cache() -> Option<u64> {
    last_level_cache_in(Path::new(PROCESSORS))
}

fn last_level_cache_in(processors: &Path) -> Option<u64> {
    // By level and by the processors that share it: one that is shared is named by each of them.
    let mut caches: BTreeMap<(u32, String), u64> = BTreeMap::new();
    let named = |entry: &DirEntry, start: &str| {
        let name = entry.file_name();
        let number = name.to_string_lossy().strip_prefix(start).map(str::to_owned);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    for processor in entries(processors).filter(|entry| named(entry, "cpu")) {
        for index in entries(&processor.path().join("cache")).filter(|entry| named(entry, "index")) {
            let text = |name| std::fs::read_to_string(index.path().join(name)).map(|text| text.trim().to_owned());
            let (Ok(level), Ok(shared), Ok(size)) = (text("level"), text("shared_cpu_list"), text("size")) else {
                continue;
            };
            if let (Ok(level), Some(bytes)) = (level.parse(), cache_size(&size)) {
                caches.insert((level, shared), bytes);
            }
        }
    }
    let last = caches.keys().map(|(level, _)| *level).max()?;
    Some(caches.iter().filter(|((level, _), _)| *level == last).map(|(_, bytes)| bytes).sum())
}

/// `32768K` in bytes.
fn cache_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The level that both engines' kernels were compiled for.
pub fn compiled() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        if cfg!(all(target_feature = "avx512f", target_feature = "avx512bw", target_feature = "avx512vl")) {
            SimdLevel::Avx512
        } else if cfg!(all(target_feature = "avx2", target_feature = "fma")) {
            SimdLevel::Avx2
        } else if cfg!(target_feature = "avx") {
            SimdLevel::Avx
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if cfg!(any(target_feature = "sve", target_feature = "i8mm")) {
            SimdLevel::Avx512
        } else if cfg!(target_feature = "dotprod") {
            SimdLevel::Avx2
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    SimdLevel::Baseline
}

/// The level that this processor has.
pub fn present() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") {
            SimdLevel::Avx512
        } else if has!("avx2") && has!("fma") {
            SimdLevel::Avx2
        } else if has!("avx") {
            SimdLevel::Avx
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        if has!("sve") || has!("i8mm") {
            SimdLevel::Avx512
        } else if has!("dotprod") {
            SimdLevel::Avx2
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    SimdLevel::Baseline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_shared_counts_once_and_only_the_last_level_counts() {
        let folder = tempfile::tempdir().unwrap();
        let describe = |cpu: &str, index: &str, level: &str, shared: &str, size: &str| {
            let index = folder.path().join(cpu).join("cache").join(index);
            std::fs::create_dir_all(&index).unwrap();
            for (name, text) in [("level", level), ("shared_cpu_list", shared), ("size", size)] {
                std::fs::write(index.join(name), format!("{text}\n")).unwrap();
            }
        };
        assert_eq!(last_level_cache_in(folder.path()), None);
        for cpu in ["cpu0", "cpu1", "cpu2", "cpu3"] {
            describe(cpu, "index2", "2", cpu, "1024K");
        }
        for (cpu, shared) in [("cpu0", "0-1"), ("cpu1", "0-1"), ("cpu2", "2-3"), ("cpu3", "2-3")] {
            describe(cpu, "index3", "3", shared, "32M");
        }
        describe("cpufreq", "index3", "9", "0", "1G");
        assert_eq!(last_level_cache_in(folder.path()), Some(64 << 20));
        assert_eq!((cache_size("12X"), cache_size("7"), cache_size("")), (None, Some(7), None));
    }

    #[test]
    fn a_program_that_runs_was_not_compiled_for_more_than_there_is() {
        assert!(compiled() <= present());
        assert!(default_threads() >= 1);
    }
}
