//! The store on temporary files, through its public interface.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test, an error is a failure")]

mod canaries;
mod common;
mod export;
mod faults;
mod groups;
mod ingest;
mod lifecycle;
mod nights;
mod open;
mod prune;
mod restore;
