//! The program as a person meets it: real processes, the `fake` engine, a real database.
//!
//! The worker program has to stand beside `regatta`; `cargo xtask test` builds both before it runs the tests.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod circumstances;
#[cfg(test)]
mod compare;
#[cfg(test)]
mod dashboard;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod follow;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod nights;
#[cfg(test)]
mod passes;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod services;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod truth;
