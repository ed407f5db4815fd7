//! Windows.

use std::fs::File;
use std::io;
use std::os::windows::io::AsHandle;

use windows::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows::Win32::System::Threading::GetCurrentProcess;

pub(super) fn take_frame_pipe() -> io::Result<File> {
    // Standard output can't be redirected from safe code here. llama.cpp logs through a callback and candle prints
    // nothing, so nobody else writes to the pipe.
    Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
}

pub(super) fn harden() {}

/// That of the whole process: Windows does not let it be counted anew.
#[expect(unsafe_code, reason = "C functions that have no safe wrapper")]
pub(super) fn peak_rss() -> Option<u64> {
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = u32::try_from(size_of::<PROCESS_MEMORY_COUNTERS>()).ok()?;
    // SAFETY: the pointer is to a struct of the size that is told, and the handle, a constant, is always good.
    let read = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, size) };
    read.as_bool().then_some(counters.PeakWorkingSetSize as u64)
}

pub(super) fn reset_peak_rss() {}

pub(super) fn die() -> ! {
    std::process::abort()
}

pub(super) fn die_of_segfault() -> ! {
    std::process::abort()
}

pub(super) fn limit_memory(_: u64) {}

pub(super) fn free_memory() -> Option<u64> {
    super::available_memory()
}
