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

pub(crate) fn limit_memory(bytes: u64) {
    let limit = Some(status("VmSize:").unwrap_or(0) + bytes);
    let _ = rustix::process::setrlimit(Resource::As, Rlimit { current: limit, maximum: limit });
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
