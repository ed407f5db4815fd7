//! A whole fleet on one machine: coordinator, agents and workers as processes of their own, killed, stopped and cut off
//! from each other. Whatever happens, what the fake engine gave away and an agent took is in the database, once.
//!
//! The worker program has to stand beside `regatta`; `cargo xtask test` builds both before it runs the tests.

#![cfg_attr(unix, expect(clippy::print_stdout, reason = "seeds, and reasons for tests that are skipped"))]

#[cfg(unix)]
#[cfg(test)]
mod chaos;
#[cfg(unix)]
#[cfg(test)]
mod harness;
#[cfg(unix)]
#[cfg(test)]
mod kills;
#[cfg(unix)]
#[cfg(test)]
mod ledger;
#[cfg(target_os = "linux")]
#[cfg(test)]
mod netns;
#[cfg(unix)]
#[cfg(test)]
mod proxy;
#[cfg(unix)]
#[cfg(test)]
mod roles;
#[cfg(unix)]
#[cfg(test)]
mod security;
#[cfg(unix)]
#[cfg(test)]
mod weights;
#[cfg(unix)]
#[cfg(test)]
mod wire;
