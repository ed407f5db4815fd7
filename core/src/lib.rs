//! Regatta's domain: what is measured, how a matrix unfolds, what a sample holds, what is derived from it.
//!
//! Everything here is pure: no clock, no file, no network, no database. Time and randomness come in as arguments.
//! Wire types live in `regatta-proto`, rows in `regatta-store`; both convert from and to the types of this crate.

pub mod artifact;
pub mod backend;
pub mod canary;
pub mod cell;
pub mod device;
pub mod digest;
mod document;
pub mod failure;
pub mod fingerprint;
pub mod flag;
pub mod fleet;
pub mod id;
pub mod identity;
pub mod matrix;
pub mod metrics;
pub mod model;
pub mod nightly;
pub mod passes;
pub mod policy;
pub mod preflight;
pub mod quality;
pub mod random;
pub mod ranks;
pub mod retention;
pub mod roofline;
pub mod run;
pub mod sample;
pub mod scenario;
pub mod schedule;
pub mod statistics;
pub mod telemetry;
pub mod token;
pub mod trend;
pub mod trial;
pub mod worker;
pub mod workload;
