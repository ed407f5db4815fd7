//! Unix in general. Linux uses parts of it.

use std::fs::File;
use std::io;

use rustix::process::{Resource, Rlimit, Signal};

pub(crate) fn take_frame_pipe() -> io::Result<File> {
    // Closed on exec, so that no grandchild holds the pipe open; above 2, so that it is none of the standard three.
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(pipe))
}

pub(crate) fn no_core_dump() {
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

pub(crate) fn die() -> ! {
    signal_self(Signal::KILL)
}

pub(crate) fn die_of_segfault() -> ! {
    signal_self(Signal::SEGV)
}

fn signal_self(signal: Signal) -> ! {
    // More than once: Rust's own handler for segmentation faults swallows the first that is no stack overflow, and any
    // thread may be the one that takes the signal. On a busy machine that thread may wait for a processor for a while.
    for _ in 0..3000 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::process::abort()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn harden() {
    no_core_dump();
}

/// That of the whole process: other systems than Linux don't let it be counted anew.
#[cfg(not(target_os = "linux"))]
#[expect(unsafe_code, reason = "a C function that has no safe wrapper")]
pub(crate) fn peak_rss() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to room for one such struct, of which all zeros are a valid one, so it may be read in any case.
    let (failed, usage) = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), usage.assume_init()) };
    let peak = u64::try_from(usage.ru_maxrss).ok().filter(|peak| failed == 0 && *peak > 0)?;
    // Apple counts bytes, everybody else KiB.
    Some(if cfg!(target_vendor = "apple") { peak } else { peak * 1024 })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn reset_peak_rss() {}

#[cfg(not(target_os = "linux"))]
pub(crate) fn limit_memory(bytes: u64) {
    let limit = Some(bytes);
    let _ = rustix::process::setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit });
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn free_memory() -> Option<u64> {
    super::available_memory()
}
