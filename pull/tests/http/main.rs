//! Downloads from servers that cut, stall, lie and redirect; pulls from a hub made here. Loopback only.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

mod client;
mod download;
mod pull;
mod server;
