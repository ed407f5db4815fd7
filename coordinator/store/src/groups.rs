//! Groups of replicas: which cells stand at the same position, and how far apart their repetitions began.

use std::time::Duration;

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::Epoch;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::cells::Said;
use crate::error::StoreError;
use crate::read::Reader;
use crate::row::{Columns, stored, unix_ns};
use crate::writer::Change;

/// A replica's cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaCell {
    /// The trial.
    pub trial: TrialId,
    /// Its position in the group, from 0.
    pub replica: u32,
    /// The cell.
    pub cell: CellHash,
    /// How its worker said that it ended, and under which lease, while its replicas are still at it.
    pub said: Option<(Epoch, Outcome)>,
}

/// A repetition that every replica of a group has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The group.
    pub group: TrialId,
    /// The lease, which its trials have together.
    pub epoch: Epoch,
    /// The cell of replica 0.
    pub cell: CellHash,
    /// The repetition, from 0.
    pub repetition: u32,
    /// Trials in the group.
    pub replicas: u32,
    /// From the release to the moment when the last replica said that it had begun, by the coordinator's monotonic
    /// clock: an upper bound of how far apart they began.
    pub skew: Duration,
}

impl Change for Begun {
    type Outcome = ();

    /// A repetition that begins again under the same lease, after a restart of the coordinator, replaces the first one:
    /// nobody heard of that.
    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO barriers (group_id, epoch, cell_hash, repetition, replicas, skew_ns, released_at_unix_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET skew_ns = excluded.skew_ns, released_at_unix_ns = excluded.released_at_unix_ns",
        )
        .bind(self.group.as_str())
        .bind(self.epoch.0)
        .bind(self.cell.0.as_bytes().as_slice())
        .bind(self.repetition)
        .bind(self.replicas)
        .bind(stored("skew_ns", u64::try_from(self.skew.as_nanos()).unwrap_or(u64::MAX))?)
        .bind(unix_ns(at))
        .execute(db)
        .await?;
        Ok(())
    }
}

impl Reader {
    /// The cells of a group, trial by trial, each in order: cells at the same position are measured together.
    pub async fn replica_cells(&self, group: &TrialId) -> Result<Vec<ReplicaCell>, StoreError> {
        let rows = sqlx::query(
            "SELECT c.trial_id, t.replica, c.cell_hash, c.said FROM trials t JOIN cells c ON c.trial_id = t.id
             WHERE t.group_id = ? ORDER BY t.replica, c.ordinal",
        )
        .bind(group.as_str())
        .fetch_all(&self.pool)
        .await?;
        let cell = |row: &SqliteRow| {
            let said = match row.optional_text("said")? {
                Some(_) => Some(row.json::<Said>("said")?.read()?),
                None => None,
            };
            Ok(ReplicaCell {
                trial: row.parsed("trial_id")?,
                replica: row.unsigned32("replica")?,
                cell: CellHash(row.digest("cell_hash")?),
                said,
            })
        };
        rows.iter().map(cell).collect()
    }

    /// Every repetition of the run that replicas began together, those of earlier leases included.
    pub async fn begun(&self, run: &RunId) -> Result<Vec<Begun>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.* FROM barriers b JOIN trials t ON t.id = b.group_id WHERE t.run_id = ? AND b.skew_ns IS NOT NULL
             ORDER BY t.ordinal, b.epoch, b.cell_hash, b.repetition",
        )
        .bind(run.as_str())
        .fetch_all(&self.pool)
        .await?;
        let begun = |row: &SqliteRow| {
            Ok(Begun {
                group: row.parsed("group_id")?,
                epoch: row.epoch("epoch")?,
                cell: CellHash(row.digest("cell_hash")?),
                repetition: row.unsigned32("repetition")?,
                replicas: row.unsigned32("replicas")?,
                skew: Duration::from_nanos(row.unsigned("skew_ns")?),
            })
        };
        rows.iter().map(begun).collect()
    }
}
