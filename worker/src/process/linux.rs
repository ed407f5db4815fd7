//! Linux.

use rustix::process::{Resource, Rlimit, Signal};

#[path = "unix.rs"]
mod unix;

pub(crate) use unix::{die, die_of_segfault, take_frame_pipe};

pub(crate) fn harden() {
    // The signal comes when the *thread* that started this process ends, so agents must start workers from a thread that
    // lives as long as they do.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    unix::no_core_dump();
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

pub(crate) fn peak_rss() -> Option<u64> {
    status("VmHWM:")
}

/// Has the kernel count the peak anew, from what is resident now.
pub(crate) fn reset_peak_rss() {
    // Where a kernel doesn't let us, the peak is that of the process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// What is free now: of the machine, and of this process's control group where that has a limit.
pub(crate) fn free_memory() -> Option<u64> {
    let machine = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(free_in_group().map_or(machine, |group| group.min(machine)))
}

/// What the control group's limit leaves. Files in the page cache count as used there, but go when room is needed.
fn free_in_group() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = std::path::Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let cached = read("memory.stat")?;
    let cached = cached.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

pub(crate) fn limit_memory(bytes: u64) {
    let limit = Some(status("VmSize:").unwrap_or(0) + bytes);
    let _ = rustix::process::setrlimit(Resource::As, Rlimit { current: limit, maximum: limit });
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> Option<u64> {
    self::field(&std::fs::read_to_string("/proc/self/status").ok()?, field)
}

/// A field of a file of the kernel that counts in kB, in bytes.
fn field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
