//! Cells: each ends once, and stays as it ended.

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::failure::FailureKind;
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::Epoch;
use sqlx::sqlite::SqliteConnection;

use crate::error::StoreError;
use crate::events::{self, Event};
use crate::row::{Columns, unix_ns};

/// The longest reason stored, in characters.
const MAX_DETAIL: usize = 65_536;

/// A cell that has just ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedCell {
    /// Which.
    pub hash: CellHash,
    /// How.
    pub outcome: Outcome,
}

/// The lease under which something happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Under<'a> {
    pub(crate) run: &'a RunId,
    pub(crate) trial: &'a TrialId,
    pub(crate) epoch: Epoch,
}

/// Ends a cell that has not ended. `false` if it has: then nothing changes.
pub(crate) async fn end(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    ended: &EndedCell,
) -> Result<bool, StoreError> {
    let EndedCell { hash, outcome } = ended;
    let detail: Option<String> = outcome.detail().map(|text| text.chars().take(MAX_DETAIL).collect());
    let changed = sqlx::query(
        "UPDATE cells SET state = ?, failure = ?, detail = ?, ended_epoch = ?, ended_at_unix_ns = ?, retry = 0
         WHERE run_id = ? AND cell_hash = ? AND trial_id = ? AND state = 'waiting'",
    )
    .bind(outcome.state())
    .bind(outcome.failure().map(FailureKind::as_str))
    .bind(detail)
    .bind(under.epoch.0)
    .bind(unix_ns(at))
    .bind(under.run.as_str())
    .bind(hash.0.as_bytes().as_slice())
    .bind(under.trial.as_str())
    .execute(&mut *db)
    .await?
    .rows_affected();
    let kind = if changed == 1 { "cell_ended" } else { "cell_end_ignored" };
    let detail = outcome.to_string();
    let event = Event {
        kind,
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        cell: Some(hash),
        agent: None,
        detail: &detail,
    };
    events::record(db, at, event).await?;
    Ok(changed == 1)
}

/// Which of a trial's open cells are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// All of them.
    All,
    /// Those that the next lease does not try again.
    NoRetry,
}

/// The cells of a trial that have not ended, in order.
pub(crate) async fn open(db: &mut SqliteConnection, trial: &TrialId, which: Open) -> Result<Vec<CellHash>, StoreError> {
    let rows = sqlx::query(
        "SELECT cell_hash FROM cells WHERE trial_id = ? AND state = 'waiting' AND (retry = 0 OR ?) ORDER BY ordinal",
    )
    .bind(trial.as_str())
    .bind(which == Open::All)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| row.digest("cell_hash").map(CellHash)).collect()
}

/// Ends the trial's open cells, all in the same way.
pub(crate) async fn end_open(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    which: Open,
    outcome: &Outcome,
) -> Result<Vec<EndedCell>, StoreError> {
    let mut all = Vec::new();
    for hash in open(db, under.trial, which).await? {
        let ended = EndedCell { hash, outcome: outcome.clone() };
        if end(db, at, under, &ended).await? {
            all.push(ended);
        }
    }
    Ok(all)
}

/// Leaves a cell open for the next lease: what failed was the infrastructure, not the cell.
pub(crate) async fn retry(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    failed: &EndedCell,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE cells SET retry = 1 WHERE run_id = ? AND cell_hash = ? AND trial_id = ? AND state = 'waiting'")
        .bind(under.run.as_str())
        .bind(failed.hash.0.as_bytes().as_slice())
        .bind(under.trial.as_str())
        .execute(&mut *db)
        .await?;
    let detail = failed.outcome.to_string();
    let event = Event {
        kind: "cell_attempt_failed",
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        cell: Some(&failed.hash),
        agent: None,
        detail: &detail,
    };
    events::record(db, at, event).await
}
