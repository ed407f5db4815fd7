//! What Linux lets a parent arrange for its child, and how it tells of an out-of-memory kill.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// When memory runs out the worker is to be killed and not the agent; its death leaves no core file of many gigabytes.
pub(super) fn arrange(pid: u32) {
    // Neither is needed for a measurement, and both can be forbidden: errors mean less comfort only.
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "1000");
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = prlimit(Some(pid), Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
}

/// Files whose `oom_kill` lines count the processes that were killed for memory: of this process's control group, whose
/// limit may be what was hit, and of the machine.
pub(super) fn oom_counters() -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let events = unified.map(|group| PathBuf::from("/sys/fs/cgroup").join(group).join("memory.events"));
    events.into_iter().chain([PathBuf::from("/proc/vmstat")]).collect()
}
