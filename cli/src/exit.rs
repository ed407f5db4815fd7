//! How the program ends: every error knows its exit code.

use std::fmt;
use std::process::ExitCode;

/// The documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// Bad input: a scenario, a flag, a file.
    BadInput = 2,
    /// A comparison found something slower for certain.
    Slower = 3,
    /// Finished, but with failed or unexpectedly skipped cells, or stopped before the end.
    Incomplete = 4,
    /// A comparison has too few worker processes for a verdict.
    TooFew = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error whose cause is what the person typed or wrote: exit code 2.
#[derive(Debug)]
pub(crate) struct BadInput(pub String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// The exit code of an error: 2 where bad input is in its chain, otherwise 1.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    let bad_input = error.chain().any(<dyn std::error::Error>::is::<BadInput>);
    if bad_input { Exit::BadInput } else { Exit::Failed }
}
