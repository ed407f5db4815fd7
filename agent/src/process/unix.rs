//! Processes on Unix: a group of their own, signals.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::Status;

/// Puts the process to be at the head of a group of its own, so that its children can be killed with it.
pub(super) fn prepare(command: &mut Command) {
    command.process_group(0);
}

/// Kills every process of the group that `leader` was put at the head of, as long as there are any.
///
/// Safe to call after the leader was waited for: while the group has members its number is not given to anyone else, and
/// when it has none, the system would have to go through all numbers between two lines of ours to reuse it.
pub(super) fn kill_group(leader: u32) {
    let pid = i32::try_from(leader).ok().and_then(Pid::from_raw);
    // An error means that there is nobody left to kill.
    let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
}

/// How a process ended.
pub(super) fn status(status: ExitStatus) -> Status {
    match (status.signal(), status.code()) {
        (Some(number), _) => Status::Signal { name: name(number), kill: number == Signal::KILL.as_raw() },
        (None, Some(code)) => Status::Exit(code),
        (None, None) => Status::Exit(-1),
    }
}

fn name(number: i32) -> String {
    const NAMES: [(Signal, &str); 12] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    let named = NAMES.iter().find(|(signal, _)| signal.as_raw() == number);
    named.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned())
}
