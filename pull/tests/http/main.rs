//! Downloads from servers that cut, stall, lie and redirect; pulls from a hub made here. Loopback only.

mod client;
mod download;
mod pull;
mod server;
