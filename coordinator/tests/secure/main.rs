//! Who gets in and who does not: certificates, tokens, roles, limits; and what the coordinator shows of itself.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test, an error is a failure")]

mod certificates;
mod dashboard;
mod leases;
mod listeners;
mod reflection;
mod roles;
mod support;
mod tokens;
#[path = "../web/mod.rs"]
mod web;
