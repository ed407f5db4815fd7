//! How Regatta's programs connect: addresses, certificates, tokens, and what went wrong in plain words.
//!
//! - [`Connection`]: the way to a coordinator, for agents and for people. Its files are read again for every new
//!   connection, so that a certificate or a token can be replaced while a program runs.
//! - [`pem`]: certificates and keys from files, checked before they are used.
//! - [`secret`]: files that only their owner may read.
//! - [`explain`]: why a handshake failed, and which side's certificate is meant.
//!
//! Enrolment and rotation of certificates would come in here: a [`Connection`] names files, not their contents.

mod client;
mod explain;
pub mod pem;
pub mod secret;

pub use client::{Connection, ConnectionError, Credentials, TokenSource, is_loopback};
pub use explain::{chain, explain};
