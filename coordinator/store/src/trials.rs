//! Trials: leased, released, finished. Every change is guarded by state and epoch; a stale epoch changes no state.

use std::sync::Arc;

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::{Epoch, Trial, TrialCell, TrialState};
use sqlx::sqlite::SqliteConnection;

use crate::cells::{self, EndedCell, Open, Under};
use crate::error::StoreError;
use crate::events::{self, Event};
use crate::row::{self, Columns, stored, unix_ns};
use crate::runs;
use crate::writer::Change;

/// Leases that a trial gets until it is given up.
pub const MAX_ATTEMPTS: u32 = 3;

/// Records read at a time while a digest is computed.
const DIGEST_PAGE: i64 = 1000;

/// What is known of a trial and one of its leases.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) run: RunId,
    pub(crate) state: TrialState,
    /// The lease asked for is the trial's newest.
    pub(crate) newest: bool,
    pub(crate) attempts: u32,
    pub(crate) cancel_requested: bool,
    /// Timed executions per cell.
    pub(crate) repetitions: u32,
    pub(crate) last_seq: u64,
    pub(crate) mismatches: u32,
    pub(crate) finished: bool,
}

impl LeaseState {
    /// Whether the lease still has a say in the trial's state.
    pub(crate) fn is_current(&self) -> bool {
        self.newest && self.state.is_held()
    }
}

/// `None` for a lease that was never given.
pub(crate) async fn lease_state(
    db: &mut SqliteConnection,
    trial: &TrialId,
    epoch: Epoch,
) -> Result<Option<LeaseState>, StoreError> {
    let row = sqlx::query(
        "SELECT t.run_id, t.state, t.epoch, t.attempts, r.cancel_requested,
                json_extract(r.policy, '$.repetitions') AS repetitions,
                d.last_seq, d.mismatches, d.finished_at_unix_ns
         FROM deliveries d JOIN trials t ON t.id = d.trial_id JOIN runs r ON r.id = t.run_id
         WHERE d.trial_id = ? AND d.epoch = ?",
    )
    .bind(trial.as_str())
    .bind(epoch.0)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(LeaseState {
        run: row.parsed("run_id")?,
        state: row::trial_state(&row)?,
        newest: row.epoch("epoch")? == epoch,
        attempts: row.unsigned32("attempts")?,
        cancel_requested: row.integer("cancel_requested")? != 0,
        repetitions: row.unsigned32("repetitions")?,
        last_seq: row.unsigned("last_seq")?,
        mismatches: row.unsigned32("mismatches")?,
        finished: row.optional_integer("finished_at_unix_ns")?.is_some(),
    }))
}

/// Gives a queued trial to the process `boot_id` of its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which trial.
    pub trial: TrialId,
    /// The agent's process.
    pub boot_id: String,
}

/// What came of a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Leased {
    /// The agent holds the trial; its cells are those that have not ended.
    Granted {
        /// The fencing token.
        epoch: Epoch,
        /// What to measure.
        trial: Box<Trial>,
    },
    /// The trial is not in the queue any more.
    NotQueued,
}

impl Change for Lease {
    type Outcome = Leased;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Leased, StoreError> {
        let row = sqlx::query(
            "UPDATE trials SET state = 'leased', epoch = epoch + 1, attempts = attempts + 1
             WHERE id = ? AND state = 'queued' RETURNING *",
        )
        .bind(self.trial.as_str())
        .fetch_optional(&mut *db)
        .await?;
        let Some(row) = row else { return Ok(Leased::NotQueued) };
        let epoch = row.epoch("epoch")?;
        sqlx::query("INSERT INTO deliveries (trial_id, epoch, boot_id, leased_at_unix_ns) VALUES (?, ?, ?, ?)")
            .bind(self.trial.as_str())
            .bind(epoch.0)
            .bind(&self.boot_id)
            .bind(unix_ns(at))
            .execute(&mut *db)
            .await?;
        sqlx::query("UPDATE cells SET retry = 0 WHERE trial_id = ?")
            .bind(self.trial.as_str())
            .execute(&mut *db)
            .await?;
        let trial = load(db, &row).await?;
        let event = Event {
            kind: "trial_leased",
            run: Some(&trial.run),
            trial: Some(&trial.id),
            epoch: Some(epoch),
            agent: Some(&trial.agent),
            cell: None,
            detail: &self.boot_id,
        };
        events::record(db, at, event).await?;
        Ok(Leased::Granted { epoch, trial: Box::new(trial) })
    }
}

/// The trial with its open cells.
async fn load(db: &mut SqliteConnection, row: &sqlx::sqlite::SqliteRow) -> Result<Trial, StoreError> {
    let id: TrialId = row.parsed("id")?;
    let run: RunId = row.parsed("run_id")?;
    let policy = sqlx::query("SELECT policy FROM runs WHERE id = ?")
        .bind(run.as_str())
        .fetch_one(&mut *db)
        .await?
        .json("policy")?;
    let rows =
        sqlx::query("SELECT cell_hash, workload FROM cells WHERE trial_id = ? AND state = 'waiting' ORDER BY ordinal")
            .bind(id.as_str())
            .fetch_all(&mut *db)
            .await?;
    let cell = |row: &sqlx::sqlite::SqliteRow| -> Result<TrialCell, StoreError> {
        Ok(TrialCell { hash: CellHash(row.digest("cell_hash")?), workload: Arc::new(row.json("workload")?) })
    };
    Ok(Trial {
        id,
        run,
        agent: row.parsed("agent_id")?,
        device: row.parsed("device")?,
        backend: row.parsed("backend")?,
        artifact: row::artifact(row)?,
        cells: rows.iter().map(cell).collect::<Result<_, _>>()?,
        policy,
        group: None,
    })
}

/// Why an agent does not hold a trial any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseReason {
    /// It was not heard of for the length of the lease, or holds the trial no more.
    Lost,
    /// It did not take the trial, for the reason given.
    Rejected(String),
}

/// Takes a lease back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which trial.
    pub trial: TrialId,
    /// Which lease.
    pub epoch: Epoch,
    /// Why.
    pub reason: ReleaseReason,
}

/// What became of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lease was over before: nothing changed.
    Stale,
    /// The trial waits for another attempt.
    Requeued,
    /// The trial has ended.
    Ended(TrialState),
}

impl Change for Release {
    type Outcome = Released;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Released, StoreError> {
        let Some(lease) = lease_state(db, &self.trial, self.epoch).await?.filter(LeaseState::is_current) else {
            return Ok(Released::Stale);
        };
        let under = Under { run: &lease.run, trial: &self.trial, epoch: self.epoch };
        let (kind, detail) = match &self.reason {
            ReleaseReason::Lost => (FailureKind::AgentLost, "agent was lost".to_owned()),
            ReleaseReason::Rejected(reason) => (FailureKind::Spawn, format!("agent did not take the trial: {reason}")),
        };
        let released = if lease.cancel_requested {
            cancel(db, at, under).await?;
            Released::Ended(TrialState::Cancelled)
        } else if lease.attempts < MAX_ATTEMPTS {
            let again = requeue(db, at, under, &detail).await?;
            if again { Released::Requeued } else { Released::Ended(TrialState::Done) }
        } else {
            let detail = format!("{detail} in {MAX_ATTEMPTS} attempts");
            cells::end_open(db, at, under, Open::All, &Outcome::of_failure(kind, detail.clone())).await?;
            set_state(db, at, under, TrialState::Failed, &detail).await?;
            Released::Ended(TrialState::Failed)
        };
        runs::settle(db, at, &lease.run).await?;
        Ok(released)
    }
}

/// Moves a trial that has not ended to `state`.
async fn set_state(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    state: TrialState,
    detail: &str,
) -> Result<(), StoreError> {
    let changed = sqlx::query(
        "UPDATE trials SET state = ? WHERE id = ? AND epoch = ? AND state IN ('queued', 'leased', 'running')",
    )
    .bind(state.as_str())
    .bind(under.trial.as_str())
    .bind(under.epoch.0)
    .execute(&mut *db)
    .await?
    .rows_affected();
    if changed != 1 {
        return Err(StoreError::Guard(format!("trial {} is not open at epoch {}", under.trial, under.epoch.0)));
    }
    let kind = match state {
        TrialState::Queued => "trial_queued_again",
        TrialState::Leased => "trial_leased",
        TrialState::Running => "trial_started",
        TrialState::Done => "trial_done",
        TrialState::Failed => "trial_failed",
        TrialState::Cancelled => "trial_cancelled",
    };
    let event = Event {
        kind,
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        agent: None,
        cell: None,
        detail,
    };
    events::record(db, at, event).await
}

/// Puts a trial back into the queue; `false` if it has ended because none of its cells is open.
pub(crate) async fn requeue(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    why: &str,
) -> Result<bool, StoreError> {
    let open = !cells::open(db, under.trial, Open::All).await?.is_empty();
    let state = if open { TrialState::Queued } else { TrialState::Done };
    set_state(db, at, under, state, why).await?;
    Ok(open)
}

/// Ends a trial and its open cells as cancelled.
pub(crate) async fn cancel(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
) -> Result<Vec<EndedCell>, StoreError> {
    let ended = cells::end_open(db, at, under, Open::All, &Outcome::Cancelled).await?;
    set_state(db, at, under, TrialState::Cancelled, "").await?;
    Ok(ended)
}

/// Notes the first sign of life of a lease.
pub(crate) async fn start(db: &mut SqliteConnection, at: Timestamp, under: Under<'_>) -> Result<(), StoreError> {
    set_state(db, at, under, TrialState::Running, "").await
}

/// An agent says that its part of a trial is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// Which trial.
    pub trial: TrialId,
    /// Which lease.
    pub epoch: Epoch,
    /// Number of the last record; also their count.
    pub last_seq: u64,
    /// BLAKE3 over all records of the lease, one after the other.
    pub digest: Digest,
}

/// What came of a finish.
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// There is no such lease.
    UnknownLease,
    /// Records from this one on must be sent (again).
    Missing {
        /// The first.
        from_seq: u64,
    },
    /// Everything is stored; the agent may delete it.
    Complete {
        /// The run.
        run: RunId,
        /// Where the trial stands now; `None` if a stale lease changed nothing.
        state: Option<TrialState>,
        /// Cells that ended by this.
        ended: Vec<EndedCell>,
    },
}

impl Change for Finish {
    type Outcome = Finished;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Finished, StoreError> {
        let Some(lease) = lease_state(db, &self.trial, self.epoch).await? else { return Ok(Finished::UnknownLease) };
        if lease.finished {
            return Ok(Finished::Complete { run: lease.run, state: None, ended: Vec::new() });
        }
        if self.last_seq > lease.last_seq {
            return Ok(Finished::Missing { from_seq: lease.last_seq + 1 });
        }
        let under = Under { run: &lease.run, trial: &self.trial, epoch: self.epoch };
        if let Some(problem) = self.mismatch(db, lease.last_seq).await? {
            note_mismatch(db, at, under, &problem).await?;
            // Sent once more, every record is compared with the stored one, and those that differ are kept beside
            // it. After that the agent has nothing left to tell.
            if lease.mismatches == 0 {
                return Ok(Finished::Missing { from_seq: 1 });
            }
        }
        close_delivery(db, at, under).await?;
        if !lease.is_current() {
            stale_finish(db, at, under).await?;
            return Ok(Finished::Complete { run: lease.run, state: None, ended: Vec::new() });
        }
        let (state, ended) = end_trial(db, at, under, lease.cancel_requested).await?;
        runs::settle(db, at, &lease.run).await?;
        Ok(Finished::Complete { run: lease.run.clone(), state: Some(state), ended })
    }
}

impl Finish {
    /// What does not fit between the announced and the stored records.
    async fn mismatch(&self, db: &mut SqliteConnection, stored_seq: u64) -> Result<Option<String>, StoreError> {
        if self.last_seq != stored_seq {
            return Ok(Some(format!("agent counts {} records, {stored_seq} are stored", self.last_seq)));
        }
        let found = records_digest(db, &self.trial, self.epoch).await?;
        let problem = || format!("agent's records have the digest {}, the stored ones {found}", self.digest);
        Ok((found != self.digest).then(problem))
    }
}

/// BLAKE3 over the stored records, one after the other.
async fn records_digest(db: &mut SqliteConnection, trial: &TrialId, epoch: Epoch) -> Result<Digest, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut after = 0;
    loop {
        let rows = sqlx::query(
            "SELECT seq, bytes FROM records WHERE trial_id = ? AND epoch = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(trial.as_str())
        .bind(epoch.0)
        .bind(after)
        .bind(DIGEST_PAGE)
        .fetch_all(&mut *db)
        .await?;
        let Some(last) = rows.last() else { break };
        after = last.integer("seq")?;
        for row in &rows {
            hasher.update(&row.bytes("bytes")?);
        }
    }
    Digest::try_from(hasher.finalize().as_bytes().as_slice()).map_err(|error| row::unreadable("records", &error))
}

async fn note_mismatch(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    problem: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE deliveries SET mismatches = mismatches + 1 WHERE trial_id = ? AND epoch = ?")
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .execute(&mut *db)
        .await?;
    conflict_event(db, at, under, problem).await
}

/// Notes that two sides disagree on what was measured.
pub(crate) async fn conflict_event(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    problem: &str,
) -> Result<(), StoreError> {
    let event = Event {
        kind: "data_conflict",
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        agent: None,
        cell: None,
        detail: problem,
    };
    events::record(db, at, event).await
}

async fn stale_finish(db: &mut SqliteConnection, at: Timestamp, under: Under<'_>) -> Result<(), StoreError> {
    let event = Event {
        kind: "stale_finish",
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        agent: None,
        cell: None,
        detail: "the lease was over: its samples are stored, the trial's state is not touched",
    };
    events::record(db, at, event).await
}

/// Marks the lease's records as complete. Their bytes are not needed any more; their hashes stay.
async fn close_delivery(db: &mut SqliteConnection, at: Timestamp, under: Under<'_>) -> Result<(), StoreError> {
    sqlx::query("UPDATE deliveries SET finished_at_unix_ns = ? WHERE trial_id = ? AND epoch = ?")
        .bind(unix_ns(at))
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .execute(&mut *db)
        .await?;
    sqlx::query("UPDATE records SET bytes = NULL WHERE trial_id = ? AND epoch = ?")
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Ends the trial of a checked finish. Cells without an end get one, unless the next lease is to try them again.
async fn end_trial(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    cancel_requested: bool,
) -> Result<(TrialState, Vec<EndedCell>), StoreError> {
    if cancel_requested {
        return Ok((TrialState::Cancelled, cancel(db, at, under).await?));
    }
    let silent = Outcome::Failed(FailureKind::BadOutput, "worker ended without a result".to_owned());
    let ended = cells::end_open(db, at, under, Open::NoRetry, &silent).await?;
    let again = requeue(db, at, under, "").await?;
    Ok((if again { TrialState::Queued } else { TrialState::Done }, ended))
}

/// Advances the lease's count of records from `from` to `to`.
pub(crate) async fn advance(db: &mut SqliteConnection, under: Under<'_>, from: u64, to: u64) -> Result<(), StoreError> {
    let changed = sqlx::query("UPDATE deliveries SET last_seq = ? WHERE trial_id = ? AND epoch = ? AND last_seq = ?")
        .bind(stored("last_seq", to)?)
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .bind(stored("last_seq", from)?)
        .execute(db)
        .await?
        .rows_affected();
    if changed == 1 { Ok(()) } else { Err(StoreError::Guard(format!("{} is not at record {from}", under.trial))) }
}
