//! Regatta's coordinator: takes scenarios, leases trials to agents, stores what they measure.
//!
//! ```text
//!  agent ──Session──► session ──Change──► writer task (SQLite) ──► ack
//!                        │ event                  ▲
//!                        ▼                        │ Change
//!  people ──RunService──► actor: sessions, open trials, leases ── tick: decide() ──► assign, expire
//! ```
//! One actor owns what changes in memory; the database is the truth, and every change of it is guarded by state and
//! epoch, so a restart loses nothing but open connections. Handlers only parse, call and answer.

mod accept;
mod actor;
mod artifacts;
mod auth;
pub mod barrier;
mod dashboard;
mod export;
mod health;
mod http;
mod limit;
mod metrics;
mod nights;
mod notice;
mod runs;
pub mod scheduler;
mod server;
mod session;
mod skew;
mod wal;
mod webhook;
mod wire;

pub use crate::accept::{Tls, TlsError};
pub use crate::dashboard::{Drawing, Night, Report, Series};
pub use crate::limit::Rate;
pub use crate::nights::{Backups, Planned};
pub use crate::server::{Bound, Config, Coordinator, CoordinatorError, DashboardAt, Limits};
pub use crate::webhook::{BadSecret, BadTarget, Pace as WebhookPace, Secret as WebhookSecret, Webhook};
