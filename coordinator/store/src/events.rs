//! Events: what happened, written in the transaction that made it happen.

use jiff::Timestamp;
use regatta_core::cell::CellHash;
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::trial::Epoch;
use sqlx::sqlite::SqliteConnection;

use crate::error::StoreError;
use crate::row::unix_ns;

/// Something that happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Event<'a> {
    pub(crate) kind: &'static str,
    pub(crate) run: Option<&'a RunId>,
    pub(crate) trial: Option<&'a TrialId>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) agent: Option<&'a AgentId>,
    pub(crate) cell: Option<&'a CellHash>,
    pub(crate) detail: &'a str,
}

/// Writes the event down.
pub(crate) async fn record(db: &mut SqliteConnection, at: Timestamp, event: Event<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO events (at_unix_ns, kind, run_id, trial_id, epoch, agent_id, cell_hash, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(unix_ns(at))
    .bind(event.kind)
    .bind(event.run.map(RunId::as_str))
    .bind(event.trial.map(TrialId::as_str))
    .bind(event.epoch.map(|epoch| epoch.0))
    .bind(event.agent.map(AgentId::as_str))
    .bind(event.cell.map(|cell| cell.0.as_bytes().as_slice()))
    .bind(event.detail)
    .execute(db)
    .await?;
    Ok(())
}
