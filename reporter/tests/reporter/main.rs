//! Tests of whole reports: what they say, the files they are, and where they come from.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[cfg(target_os = "linux")]
mod bare;
mod browser;
mod charts;
mod common;
mod compare;
mod exchange;
mod identity;
mod load;
mod nights;
mod report;
mod view;
