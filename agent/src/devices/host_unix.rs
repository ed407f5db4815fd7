//! The host's labels on Unix.

use rustix::system::uname;

/// Release of the kernel.
pub(super) fn kernel() -> Option<String> {
    text(uname().release())
}

/// The host's name.
pub(super) fn name() -> Option<String> {
    text(uname().nodename())
}

fn text(text: &std::ffi::CStr) -> Option<String> {
    text.to_str().ok().filter(|text| !text.is_empty()).map(str::to_owned)
}
