//! Processes on Windows: no process groups to kill and no signals; the process itself is killed by its handle.

use std::process::ExitStatus;

use tokio::process::Command;

use super::Status;

/// Nothing to prepare.
pub(super) fn prepare(_: &mut Command) {}

/// Nothing to do: the process itself is killed by its handle; children that it left behind are not found.
pub(super) fn kill_group(_: u32) {}

/// How a process ended. Exceptions show as exit codes such as 0xC0000005.
pub(super) fn status(status: ExitStatus) -> Status {
    Status::Exit(status.code().unwrap_or(-1))
}
