//! What the worker asks of the operating system. What differs by platform is in the modules below, behind functions of
//! the same names.

#[cfg(target_os = "linux")]
#[path = "process/linux.rs"]
mod platform;
#[cfg(all(unix, not(target_os = "linux")))]
#[path = "process/unix.rs"]
mod platform;
#[cfg(not(unix))]
#[path = "process/other.rs"]
mod platform;

use std::fs::File;
use std::io;

/// Takes the pipe that standard output is, and points standard output at standard error, so that whatever an engine
/// prints can't end up between frames. Call it before anything is printed.
pub fn take_frame_pipe() -> io::Result<File> {
    platform::take_frame_pipe()
}

/// Makes the process one that its agent can lose without harm: it dies with its parent, leaves no core dump, and is
/// the first to go when memory runs out. Best effort: what a platform lacks is left out.
pub fn harden() {
    platform::harden();
}

/// Takes a step, and lets go of what the system's libraries have made for it and nobody holds. Apple's keep that until somebody says
/// so: without it each token's Metal objects would stay for as long as the process lives. Elsewhere there is no such thing.
pub fn drained<T>(step: impl FnOnce() -> T) -> T {
    #[cfg(target_os = "macos")]
    return objc2::rc::autoreleasepool(|_| step());
    #[cfg(not(target_os = "macos"))]
    step()
}

/// Largest resident memory of this process since [`reset_peak_rss`], in bytes. `None` where the system does not tell.
pub fn peak_rss() -> Option<u64> {
    platform::peak_rss()
}

/// Begins to count the largest resident memory anew. The kernel counts it with every page, so no reading now and then could
/// miss less. Without effect on other systems than Linux, and where the kernel doesn't allow it: the peak is then that of the
/// process.
pub fn reset_peak_rss() {
    platform::reset_peak_rss();
}

/// Memory of the host that is free now, in bytes. `None` where the system does not tell.
pub fn free_memory() -> Option<u64> {
    platform::free_memory()
}

#[cfg(not(target_os = "linux"))]
fn available_memory() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    // What can't be read is told as 0.
    Some(system.available_memory()).filter(|bytes| *bytes > 0)
}

/// What is told beside an engine's settings of how its memory is asked for: `; huge pages`, or nothing. The C library reads it
/// from the environment when a process starts, and the agent puts it there.
pub fn page_note() -> &'static str {
    let is_asked = std::env::var("GLIBC_TUNABLES").is_ok_and(|tunables| tunables.contains("glibc.malloc.hugetlb=1"));
    if is_asked { "; huge pages" } else { "" }
}

/// Ends the process at once, without running the exit handlers of engines whose threads are still computing.
pub fn die() -> ! {
    platform::die()
}

/// Dies of a segmentation fault. For the `fake` backend.
pub fn die_of_segfault() -> ! {
    platform::die_of_segfault()
}

/// Limits the memory of this process to `bytes` more than it has. For the `fake` backend.
pub fn limit_memory(bytes: u64) {
    platform::limit_memory(bytes);
}

/// Fixes the number of threads of engines that read it from the environment only: rayon's pool and candle's own.
///
/// Call it while the process has one thread.
#[expect(unsafe_code, reason = "candle takes its thread count from the environment only")]
pub fn fix_threads(threads: u32) {
    let threads = threads.to_string();
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: the caller promises that there is no other thread that could be reading the environment.
        unsafe { std::env::set_var(name, &threads) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_read() {
        assert!(peak_rss().unwrap() > 1 << 20);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_that_was_before_is_forgotten() {
        const LARGE: usize = 256 << 20;
        drop(std::hint::black_box(vec![1u8; LARGE]));
        let before = peak_rss().unwrap();
        assert!(before > LARGE as u64, "{before}");
        reset_peak_rss();
        let after = peak_rss().unwrap();
        assert!(after < before - LARGE as u64 / 2, "{after} of {before}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn free_memory_is_read() {
        assert!(free_memory().unwrap() > 1 << 20);
    }
}
