//! From the end of a worker process to the outcome of a cell. Pure.

use std::time::Duration;

use regatta_core::cell::Outcome;
use regatta_core::failure::FailureKind;
use regatta_proto::frame::FrameError;

use crate::process::{Ending, Status};
use crate::text::with_last_words;

/// Why the agent stopped listening to a worker before the trial was over.
#[derive(Debug)]
pub(crate) enum Cut {
    /// Its output ended between two frames.
    EndOfOutput,
    /// Its output could not be read, or is no frame.
    Frame(FrameError),
    /// A frame came that must not come.
    Violation(String),
    /// The time was up.
    Deadline {
        /// For what: `loading the model`, `the cell`.
        what: &'static str,
        /// How much there was.
        limit: Duration,
    },
}

impl Cut {
    /// Whether the worker is about to end by itself, so that it is worth waiting to see how.
    pub(crate) fn ends_by_itself(&self) -> bool {
        matches!(self, Self::EndOfOutput | Self::Frame(FrameError::Torn { .. } | FrameError::Io(_)))
    }
}

/// What became of the work in hand when a worker was cut off.
pub(crate) fn outcome(cut: &Cut, ending: &Ending) -> Outcome {
    let (kind, reason) = judge(cut, ending);
    Outcome::of_failure(kind, with_last_words(&reason, &ending.stderr))
}

fn judge(cut: &Cut, ending: &Ending) -> (FailureKind, String) {
    match cut {
        Cut::Deadline { what, limit } => {
            (FailureKind::Timeout, format!("no end of {what} within {limit:?}; the worker was killed"))
        }
        Cut::Violation(rule) => (FailureKind::BadOutput, format!("the worker broke the protocol: {rule}")),
        Cut::Frame(error @ (FrameError::TooLarge(_) | FrameError::Decode(_))) => {
            (FailureKind::BadOutput, format!("the worker wrote what is no frame: {error}"))
        }
        // A process that died in the middle of a frame did not mean to write half of one.
        Cut::EndOfOutput | Cut::Frame(FrameError::Torn { .. } | FrameError::Io(_)) => died(cut, ending),
    }
}

fn died(cut: &Cut, ending: &Ending) -> (FailureKind, String) {
    if ending.out_of_memory {
        return (FailureKind::OomHost, format!("the host's memory ran out: the worker {}", how(ending)));
    }
    let half = match cut {
        Cut::Frame(error) => error.to_string(),
        _ => "it ended before the trial did".to_owned(),
    };
    match &ending.status {
        _ if ending.killed => (FailureKind::BadOutput, format!("the worker closed its output and stayed: {half}")),
        Some(Status::Exit(0)) => (FailureKind::BadOutput, format!("the worker's output is not complete: {half}")),
        _ => (FailureKind::Crash, format!("the worker {}", how(ending))),
    }
}

fn how(ending: &Ending) -> String {
    match &ending.status {
        Some(Status::Signal { name, .. }) => format!("was killed by {name}"),
        Some(Status::Exit(code)) => format!("ended with exit code {code}"),
        None => "ended in an unknown way".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(status: Status) -> Ending {
        Ending { status: Some(status), killed: false, out_of_memory: false, stderr: "last words\n".to_owned() }
    }

    fn signal(name: &str) -> Ending {
        ending(Status::Signal { name: name.to_owned(), kill: name == "SIGKILL" })
    }

    fn torn() -> Cut {
        Cut::Frame(FrameError::Torn { found: 1, expected: 2 })
    }

    #[test]
    fn every_way_to_end_has_its_outcome() {
        let oom = Ending { out_of_memory: true, ..signal("SIGKILL") };
        let stayed = Ending { killed: true, ..signal("SIGKILL") };
        let violation = || Cut::Violation("rule".to_owned());
        let deadline = || Cut::Deadline { what: "the cell", limit: Duration::from_secs(1) };
        for (cut, ending, state, words) in [
            (Cut::EndOfOutput, signal("SIGSEGV"), "crashed", "the worker was killed by SIGSEGV"),
            (Cut::EndOfOutput, signal("SIGKILL"), "crashed", "SIGKILL"),
            (Cut::EndOfOutput, oom, "oom", "memory ran out"),
            (Cut::EndOfOutput, ending(Status::Exit(3)), "crashed", "exit code 3"),
            (Cut::EndOfOutput, ending(Status::Exit(0)), "failed", "ended before the trial did"),
            (Cut::EndOfOutput, stayed, "failed", "closed its output and stayed"),
            (torn(), signal("SIGABRT"), "crashed", "SIGABRT"),
            (torn(), ending(Status::Exit(0)), "failed", "inside a frame"),
            (Cut::Frame(FrameError::TooLarge(1 << 30)), signal("SIGKILL"), "failed", "no frame"),
            (violation(), signal("SIGKILL"), "failed", "broke the protocol: rule"),
            (deadline(), signal("SIGKILL"), "timeout", "no end of the cell within 1s"),
        ] {
            let outcome = outcome(&cut, &ending);
            let detail = outcome.detail().unwrap();
            assert_eq!(outcome.state(), state, "{detail}");
            assert!(detail.contains(words), "{detail}");
            assert!(detail.contains("last words"), "{detail}");
            let kind = (state == "failed").then_some(FailureKind::BadOutput);
            assert_eq!(outcome.failure(), kind);
        }
    }
}
