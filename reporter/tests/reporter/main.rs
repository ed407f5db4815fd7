//! Tests of whole reports: what they say, the files they are, and where they come from.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod common;
mod compare;
mod exchange;
mod identity;
mod load;
mod report;
mod view;
