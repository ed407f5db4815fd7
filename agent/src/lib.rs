//! The agent: runs on a benchmarked machine, finds its devices and workers, measures the trials that the coordinator gives
//! it, and keeps every sample on disk until the coordinator has it.
//!
//! Where to look:
//!
//! - [`Agent`]: start and run; [`config`]: what it has to be told.
//! - [`devices`], [`workers`]: what is here; [`fitness`]: whether it is worth measuring on; [`doctor`]: what
//!   could be better.
//! - [`builds`]: which build of the worker is at work, and those that are kept.
//! - `trials`, `trial`: what is held, and how one trial is measured with a fresh worker process at a time.
//! - `barriers`: replicas that begin their repetitions together.
//! - `canary`: what devices can do at most, measured at the start.
//! - `process`: child processes, their groups, frames, last words and ends.
//! - [`spool`]: records on disk.
//! - `telemetry`: what machine and devices are like meanwhile, from a thread that reads them now and then.
//! - `cooling`: the wait until a device is as cool as it was at rest.
//! - `session`: the one stream to the coordinator.
//!
//! An agent executes nothing that comes over the wire: a trial is an enum and numbers with local limits, and weights are
//! found by id under one root.

mod agent;
mod barriers;
pub mod builds;
mod canary;
pub mod config;
mod cooling;
pub mod devices;
pub mod doctor;
mod fingerprint;
pub mod fitness;
mod process;
mod session;

pub mod spool;
mod telemetry;
#[cfg(test)]
mod testing;
mod text;
mod trial;
mod trials;
pub mod workers;

pub use agent::{Agent, AgentError};
pub use config::{AgentConfig, CanaryConfig, CanaryWhen, CoolDown, Timing};
pub use session::{SessionError, Shutdown};
