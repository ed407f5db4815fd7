//! Cells: each ends once, and stays as it ended.

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::failure::FailureKind;
use regatta_core::id::{RunId, TrialId};
use regatta_core::passes::Stopped;
use regatta_core::trial::Epoch;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnection;

use crate::error::StoreError;
use crate::events::{self, Event};
use crate::row::{self, Columns, to_json, unix_ns};

/// The longest reason stored, in characters.
const MAX_DETAIL: usize = 65_536;

/// A cell that has just ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedCell {
    /// Which.
    pub hash: CellHash,
    /// How.
    pub outcome: Outcome,
    /// How many worker processes measured it and why no more, where that was said.
    pub stopped: Option<Stopped>,
}

impl EndedCell {
    /// A cell of which nothing more is said.
    pub fn new(hash: CellHash, outcome: Outcome) -> Self {
        Self { hash, outcome, stopped: None }
    }
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
    let EndedCell { hash, outcome, stopped } = ended;
    let detail: Option<String> = outcome.detail().map(|text| text.chars().take(MAX_DETAIL).collect());
    let changed = sqlx::query(
        "UPDATE cells SET state = ?, failure = ?, detail = ?, ended_epoch = ?, ended_at_unix_ns = ?, retry = 0,
                          said = NULL, passes = ?, stop_reason = ?
         WHERE run_id = ? AND cell_hash = ? AND trial_id = ? AND state = 'waiting'",
    )
    .bind(outcome.state())
    .bind(outcome.failure().map(FailureKind::as_str))
    .bind(detail)
    .bind(under.epoch.0)
    .bind(unix_ns(at))
    .bind(stopped.map(|stopped| stopped.passes))
    .bind(stopped.map(|stopped| stopped.reason.as_str()))
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
    /// Those that the next lease does not try again, and of which nothing was said.
    Silent,
}

/// The cells of a trial that have not ended, in order.
pub(crate) async fn open(db: &mut SqliteConnection, trial: &TrialId, which: Open) -> Result<Vec<CellHash>, StoreError> {
    let rows = sqlx::query(
        "SELECT cell_hash FROM cells
         WHERE trial_id = ? AND state = 'waiting' AND ((retry = 0 AND said IS NULL) OR ?) ORDER BY ordinal",
    )
    .bind(trial.as_str())
    .bind(which == Open::All)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| row.digest("cell_hash").map(CellHash)).collect()
}

/// What `cells.said` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    epoch: u32,
    state: String,
    failure: Option<String>,
    detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<Stopped>,
}

impl Said {
    fn of(EndedCell { outcome, stopped, .. }: &EndedCell, epoch: Epoch) -> Self {
        Self {
            stopped: *stopped,
            epoch: epoch.0,
            state: outcome.state().to_owned(),
            failure: outcome.failure().map(|kind| kind.to_string()),
            detail: outcome.detail().map(|text| text.chars().take(MAX_DETAIL).collect()),
        }
    }

    /// The outcome, and the lease under which it was said.
    pub(crate) fn read(self) -> Result<(Epoch, Outcome), StoreError> {
        Ok((Epoch(self.epoch), self.outcome()?))
    }

    fn outcome(self) -> Result<Outcome, StoreError> {
        let unreadable = || row::unreadable("cells.said", &self.state);
        let kind = self.failure.as_deref().map(str::parse).transpose().map_err(|_| unreadable())?;
        Outcome::from_parts(&self.state, kind, self.detail.clone()).ok_or_else(unreadable)
    }
}

/// Notes how a replica's cell ended. The cells of the workload end when every replica has said so, all at once; where one
/// failed, none of them is ok, because together they are one point of a chart.
pub(crate) async fn say(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    ended: &EndedCell,
) -> Result<Vec<EndedCell>, StoreError> {
    let said = to_json("cells.said", &Said::of(ended, under.epoch))?;
    sqlx::query(
        "UPDATE cells SET said = ? WHERE run_id = ? AND cell_hash = ? AND trial_id = ? AND state = 'waiting' AND retry = 0",
    )
    .bind(said)
    .bind(under.run.as_str())
    .bind(ended.hash.0.as_bytes().as_slice())
    .bind(under.trial.as_str())
    .execute(&mut *db)
    .await?;
    let mut all = Vec::new();
    for replica in replicas(db, under, &ended.hash).await? {
        match replica.said {
            Some(said) if said.epoch == under.epoch.0 => {
                let stopped = said.stopped;
                all.push((replica.trial, EndedCell { hash: replica.hash, outcome: said.outcome()?, stopped }));
            }
            _ => return Ok(Vec::new()),
        }
    }
    let is_cause = |outcome: &Outcome| {
        !matches!(outcome, Outcome::Ok | Outcome::Cancelled | Outcome::Failed(FailureKind::Replica, _))
    };
    let bad = (0..).zip(&all).find(|(_, (_, ended))| is_cause(&ended.outcome));
    let reason = bad.map(|(replica, (_, ended)): (u32, _)| format!("replica {replica} failed: {}", ended.outcome));
    let mut over = Vec::with_capacity(all.len());
    for (trial, mut ended) in all {
        if let (Some(reason), Outcome::Ok) = (&reason, &ended.outcome) {
            ended.outcome = Outcome::Failed(FailureKind::Replica, reason.clone());
        }
        if end(db, at, Under { trial: &trial, ..under }, &ended).await? {
            over.push(ended);
        }
    }
    Ok(over)
}

/// One replica's cell of a workload.
struct Replica {
    trial: TrialId,
    hash: CellHash,
    said: Option<Said>,
}

/// The cells that are measured together with this one, itself among them.
async fn replicas(db: &mut SqliteConnection, under: Under<'_>, cell: &CellHash) -> Result<Vec<Replica>, StoreError> {
    let rows = sqlx::query(
        "SELECT c.trial_id, c.cell_hash, c.said FROM trials t JOIN cells c ON c.trial_id = t.id
         WHERE t.group_id = (SELECT group_id FROM trials WHERE id = ?1)
           AND c.workload = (SELECT workload FROM cells WHERE run_id = ?2 AND cell_hash = ?3)
         ORDER BY t.ordinal",
    )
    .bind(under.trial.as_str())
    .bind(under.run.as_str())
    .bind(cell.0.as_bytes().as_slice())
    .fetch_all(db)
    .await?;
    let replica = |row: &sqlx::sqlite::SqliteRow| {
        let said = match row.optional_text("said")? {
            Some(_) => Some(row.json("said")?),
            None => None,
        };
        Ok(Replica { trial: row.parsed("trial_id")?, hash: CellHash(row.digest("cell_hash")?), said })
    };
    rows.iter().map(replica).collect()
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
        let ended = EndedCell::new(hash, outcome.clone());
        if end(db, at, under, &ended).await? {
            all.push(ended);
        }
    }
    Ok(all)
}

/// Leaves a cell open for the next lease, and its replicas with it: what failed was the infrastructure, not the cell.
pub(crate) async fn retry(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    failed: &EndedCell,
) -> Result<(), StoreError> {
    let mut again = vec![(under.trial.clone(), failed.hash)];
    let replicas = replicas(db, under, &failed.hash).await?;
    again.extend(replicas.into_iter().map(|replica| (replica.trial, replica.hash)));
    for (trial, hash) in again {
        sqlx::query(
            "UPDATE cells SET retry = 1, said = NULL
             WHERE run_id = ? AND cell_hash = ? AND trial_id = ? AND state = 'waiting'",
        )
        .bind(under.run.as_str())
        .bind(hash.0.as_bytes().as_slice())
        .bind(trial.as_str())
        .execute(&mut *db)
        .await?;
    }
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

/// Forgets what replicas have said of cells that have not ended.
pub(crate) async fn unsay(db: &mut SqliteConnection, trial: &TrialId) -> Result<(), StoreError> {
    sqlx::query("UPDATE cells SET said = NULL WHERE trial_id = ? AND said IS NOT NULL")
        .bind(trial.as_str())
        .execute(db)
        .await?;
    Ok(())
}
