//! What Linux tells in files.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Machine;

/// Whether the kernel has NVIDIA's driver.
pub(super) fn has_nvidia() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

/// The machine, as far as files tell.
pub(super) fn machine() -> Machine {
    below(Path::new("/"))
}

fn below(root: &Path) -> Machine {
    let sys = root.join("sys");
    let counter = sys.join("class/powercap/intel-rapl:0/energy_uj");
    Machine {
        boost: boost(&sys.join("devices/system/cpu")),
        memory_available_bytes: line_of(&root.join("proc/meminfo"), "MemAvailable:").and_then(|text| kilobytes(&text)),
        denied: device_files(&root.join("dev"))
            .into_iter()
            .filter(|path| access(path, Access::READ_OK | Access::WRITE_OK).is_err())
            .collect(),
        energy_denied: Some(counter).filter(|path| path.exists() && access(path, Access::READ_OK).is_err()),
        ..Machine::default()
    }
}

/// Files of GPUs that whoever computes on them has to open.
fn device_files(dev: &Path) -> Vec<PathBuf> {
    let numbered = |name: &str, prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let names = |folder: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
    };
    let nvidia = |name: &str| numbered(name, "nvidia") || matches!(name, "nvidiactl" | "nvidia-uvm" | "kfd");
    let own = names(dev).into_iter().filter(|(name, _)| nvidia(name));
    let render = names(&dev.join("dri")).into_iter().filter(|(name, _)| numbered(name, "renderD"));
    let mut all: Vec<PathBuf> = own.chain(render).map(|(_, path)| path).collect();
    all.sort();
    all
}

fn boost(cpu: &Path) -> Option<bool> {
    let off = line(&cpu.join("intel_pstate/no_turbo")).map(|text| text == "0");
    off.or_else(|| line(&cpu.join("cpufreq/boost")).map(|text| text == "1"))
}

fn line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn line_of(path: &Path, name: &str) -> Option<String> {
    line(path)?.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = below(root.path());
        (root, machine)
    }

    #[test]
    fn files_are_read() {
        let (_root, machine) = machine_of(&[
            ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"),
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"),
            ("dev/nvidia0", ""),
            ("dev/nvidia-uvm", ""),
            ("dev/dri/renderD128", ""),
        ]);
        assert_eq!((machine.boost, machine.memory_available_bytes), (Some(true), Some(2 << 20)));
        assert!(machine.denied.is_empty() && machine.energy_denied.is_none());
    }

    #[test]
    fn files_that_gpus_are_opened_by_are_known() {
        let (root, _) = machine_of(&[
            ("dev/nvidia0", ""),
            ("dev/nvidia-modeset", ""),
            ("dev/nvidiactl", ""),
            ("dev/dri/card0", ""),
            ("dev/dri/renderD129", ""),
        ]);
        let dev = root.path().join("dev");
        let found = device_files(&dev);
        assert_eq!(found, [dev.join("dri/renderD129"), dev.join("nvidia0"), dev.join("nvidiactl")]);
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        assert_eq!(machine_of(&[]).1, Machine::default());
        let (_root, amd) = machine_of(&[("sys/devices/system/cpu/cpufreq/boost", "0\n")]);
        assert_eq!(amd.boost, Some(false));
    }
}
