//! Windows, with what the standard library offers.

use std::fs::File;
use std::io;
use std::os::windows::io::AsHandle;

pub(super) fn take_frame_pipe() -> io::Result<File> {
    // Standard output can't be redirected from safe code here. llama.cpp logs through a callback and candle prints
    // nothing, so nobody else writes to the pipe.
    Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
}

pub(super) fn harden() {}

pub(super) fn peak_rss() -> Option<u64> {
    None
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
    None
}
