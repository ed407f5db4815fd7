//! Fetches weights into the model library: from the Hugging Face hub, from `https://`, from the hub's cache on this
//! disk, from a coordinator.
//!
//! - [`policy`]: which addresses may be asked at all. Pure.
//! - [`client`]: one HTTP request at a time, over a connection to an address that the policy has seen.
//! - [`hub`]: what the hub's own programs agree on: variables, token, cache on disk, metadata of files.
//! - [`download`]: one file: resumed after a cut, hashed while it arrives, never longer than announced.
//! - [`coordinator`]: an artifact from the coordinator that an agent belongs to.
//! - [`pull`]: an artifact: lock, disk space, its files, verification, installation, pins.
//!
//! # Why not `hf-hub`
//!
//! The hub's Rust client (1.0) brings `reqwest` with a second HTTP stack and another TLS provider, and `hf-xet`. It follows
//! redirects by itself and resolves names by itself, so neither can be checked before a connection is made; its downloads
//! know no expected hash and no `If-Range`. What it is good at (the layout of the cache, where token and settings are) is a
//! convention shared with `huggingface_hub` in Python; [`hub`] keeps to that, so that each finds what the others fetched.
//!
//! Requests go over `hyper` and `tokio-rustls`, which are here anyway for gRPC.

pub mod client;
pub mod coordinator;
pub mod download;
pub mod error;
pub mod hub;
pub mod policy;
pub mod pull;

pub use error::PullError;
