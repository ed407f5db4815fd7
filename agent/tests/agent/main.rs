//! The agent as a whole, over loopback, against a coordinator that the test plays.

#[cfg(test)]
mod barrier;
#[cfg(test)]
mod common;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod raw;
mod session;
#[cfg(test)]
mod worker;
