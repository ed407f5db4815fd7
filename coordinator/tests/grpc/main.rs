//! The coordinator over a real connection on loopback, with an agent that does what the test says.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test, an error is a failure")]

mod agents;
mod artifacts;
mod dashboard;
mod delivery;
mod export;
mod fleet;
mod leases;
mod nights;
mod replicas;
mod runs;
mod strain;
mod support;
#[path = "../web/mod.rs"]
mod web;
mod webhook;
