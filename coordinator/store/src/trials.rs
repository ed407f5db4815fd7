//! Trials: leased, released, finished. Every change is guarded by state and epoch; a stale epoch changes no state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::fleet::Place;
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::{Epoch, Trial, TrialCell, TrialState};
use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use crate::arrivals;
use crate::cells::{self, EndedCell, Open, Under};
use crate::error::StoreError;
use crate::events::{self, Event};
use crate::prune;
use crate::row::{self, Columns, stored, to_json, unix_ns};
use crate::runs;
use crate::writer::Change;

/// Leases that a trial gets until it is given up.
pub const MAX_ATTEMPTS: u32 = 3;

/// What is known of a trial and one of its leases.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) run: RunId,
    pub(crate) state: TrialState,
    /// The lease asked for is the trial's newest.
    pub(crate) newest: bool,
    pub(crate) attempts: u32,
    pub(crate) cancel_requested: bool,
    /// The group it is measured with.
    pub(crate) group: Option<TrialId>,
    /// Timed executions per cell and pass.
    pub(crate) repetitions: u32,
    /// Passes at most.
    pub(crate) passes: u32,
    pub(crate) last_seq: u64,
    /// Its newest arrival.
    pub(crate) last_arrival: Option<i64>,
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
        "SELECT t.run_id, t.state, t.epoch, t.attempts, t.group_id, r.cancel_requested,
                json_extract(r.policy, '$.repetitions') AS repetitions,
                coalesce(json_extract(r.policy, '$.passes.max'), 1) AS passes,
                d.last_seq, d.last_arrival, d.mismatches, d.finished_at_unix_ns
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
        group: row.optional_parsed("group_id")?,
        repetitions: row.unsigned32("repetitions")?,
        passes: row.unsigned32("passes")?,
        last_seq: row.unsigned("last_seq")?,
        last_arrival: row.optional_integer("last_arrival")?,
        mismatches: row.unsigned32("mismatches")?,
        finished: row.optional_integer("finished_at_unix_ns")?.is_some(),
    }))
}

/// Gives queued trials to agents: one by itself, or all those of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(
    /// Who gets what.
    pub Vec<Seat>,
);

/// A trial and the device that it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Which trial.
    pub trial: TrialId,
    /// The agent and its device.
    pub place: Place,
    /// The agent's process.
    pub boot_id: String,
}

/// What came of a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Leased {
    /// The agents hold the trials, in the order asked for.
    Granted(Vec<Granted>),
    /// One of the trials is not in the queue any more: nothing was leased.
    NotQueued,
}

/// A trial that an agent holds; its cells are those that have not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// The fencing token.
    pub epoch: Epoch,
    /// What to measure.
    pub trial: Trial,
    /// These are all of the trial's cells.
    pub whole: bool,
}

impl Change for Lease {
    type Outcome = Leased;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Leased, StoreError> {
        let mut epoch = Epoch::default();
        for seat in &self.0 {
            let row = sqlx::query("SELECT epoch FROM trials WHERE id = ? AND state = 'queued'")
                .bind(seat.trial.as_str())
                .fetch_optional(&mut *db)
                .await?;
            let Some(row) = row else { return Ok(Leased::NotQueued) };
            epoch = epoch.max(row.epoch("epoch")?.next());
        }
        // The trials of a group have their leases together, under one epoch.
        let mut granted = Vec::with_capacity(self.0.len());
        for seat in &self.0 {
            granted.push(grant(db, at, seat, epoch).await?);
        }
        Ok(Leased::Granted(granted))
    }

    fn rows(&self) -> usize {
        4 * self.0.len()
    }
}

async fn grant(db: &mut SqliteConnection, at: Timestamp, seat: &Seat, epoch: Epoch) -> Result<Granted, StoreError> {
    let (id, agent, device) = (seat.trial.as_str(), seat.place.agent.as_str(), seat.place.device.to_string());
    let row = sqlx::query(
        "UPDATE trials SET state = 'leased', epoch = ?, attempts = attempts + 1, agent_id = ?, device = ?
         WHERE id = ? AND state = 'queued' RETURNING *",
    )
    .bind(epoch.0)
    .bind(agent)
    .bind(&device)
    .bind(id)
    .fetch_one(&mut *db)
    .await?;
    sqlx::query(
        "INSERT INTO deliveries (trial_id, epoch, boot_id, leased_at_unix_ns, agent_id, device) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(epoch.0)
    .bind(&seat.boot_id)
    .bind(unix_ns(at))
    .bind(agent)
    .bind(&device)
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE cells SET retry = 0, agent_id = ?, device = ? WHERE trial_id = ? AND state = 'waiting'")
        .bind(agent)
        .bind(&device)
        .bind(id)
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
        detail: &seat.boot_id,
    };
    events::record(db, at, event).await?;
    let cells = sqlx::query("SELECT count(*) AS n FROM cells WHERE trial_id = ?").bind(id).fetch_one(db).await?;
    let whole = cells.unsigned("n")? == trial.cells.len() as u64;
    Ok(Granted { epoch, trial, whole })
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
    let rows = sqlx::query(
        "SELECT cell_hash, workload, build FROM cells WHERE trial_id = ? AND state = 'waiting' ORDER BY ordinal",
    )
    .bind(id.as_str())
    .fetch_all(&mut *db)
    .await?;
    let cell = |row: &sqlx::sqlite::SqliteRow| -> Result<TrialCell, StoreError> {
        Ok(TrialCell {
            hash: CellHash(row.digest("cell_hash")?),
            workload: Arc::new(row.json("workload")?),
            build: row.optional_parsed("build")?,
        })
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
        group: row::group(row)?,
    })
}

/// Why an agent does not hold a trial any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseReason {
    /// It was not heard of for the length of the lease, or holds the trial no more.
    Lost,
    /// It did not take the trial, for the reason given.
    Rejected(String),
    /// The replicas of its group can't begin together any more, for the reason given.
    Apart(String),
    /// It did not take the trial because it is about to leave: nothing has failed.
    Leaving,
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("agent was lost"),
            Self::Apart(reason) => write!(f, "group came apart: {reason}"),
            Self::Rejected(reason) => write!(f, "agent did not take the trial: {reason}"),
            Self::Leaving => f.write_str("agent is leaving"),
        }
    }
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
        let detail = self.reason.to_string();
        let kind = match &self.reason {
            ReleaseReason::Lost | ReleaseReason::Apart(_) => FailureKind::AgentLost,
            ReleaseReason::Rejected(_) | ReleaseReason::Leaving => FailureKind::Spawn,
        };
        let released = if lease.cancel_requested {
            cancel(db, at, under).await?;
            Released::Ended(TrialState::Cancelled)
        } else {
            // A group is measured together: without one of its trials the others come to nothing.
            let members = together(db, under, &lease).await?;
            if self.reason == ReleaseReason::Leaving {
                let released = requeue_all(db, at, under, &members, &detail).await?;
                uncount(db, &members).await?;
                released
            } else if lease.attempts < MAX_ATTEMPTS {
                note_failure(db, under, &detail).await?;
                requeue_all(db, at, under, &members, &detail).await?
            } else {
                note_failure(db, under, &detail).await?;
                quarantine(db, at, under, &members, kind, &detail).await?;
                Released::Ended(TrialState::Failed)
            }
        };
        runs::settle(db, at, &lease.run).await?;
        Ok(released)
    }
}

/// Notes what the infrastructure did to a lease. The first failure counts.
pub(crate) async fn note_failure(db: &mut SqliteConnection, under: Under<'_>, detail: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE deliveries SET failure = ? WHERE trial_id = ? AND epoch = ? AND failure IS NULL")
        .bind(detail)
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .execute(db)
        .await?;
    Ok(())
}

async fn failure(db: &mut SqliteConnection, under: Under<'_>) -> Result<Option<String>, StoreError> {
    sqlx::query("SELECT failure FROM deliveries WHERE trial_id = ? AND epoch = ?")
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .fetch_one(db)
        .await?
        .optional_text("failure")
}

/// The trial and those of its group that are held, in order.
async fn together(db: &mut SqliteConnection, under: Under<'_>, lease: &LeaseState) -> Result<Vec<TrialId>, StoreError> {
    let Some(group) = &lease.group else { return Ok(vec![under.trial.clone()]) };
    let rows = sqlx::query(
        "SELECT id FROM trials WHERE group_id = ? AND epoch = ? AND state IN ('leased', 'running') ORDER BY ordinal",
    )
    .bind(group.as_str())
    .bind(under.epoch.0)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// Puts a trial back into the queue, and with it those that it is measured with.
async fn requeue_all(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    members: &[TrialId],
    why: &str,
) -> Result<Released, StoreError> {
    let mut again = false;
    for trial in members {
        let why = if trial == under.trial { why.to_owned() } else { format!("{}: {why}", under.trial) };
        again |= requeue(db, at, Under { trial, ..under }, &why).await?;
    }
    Ok(if again { Released::Requeued } else { Released::Ended(TrialState::Done) })
}

/// Gives a trial up, and with it those that it is measured with: its open cells end, and the evidence is kept.
async fn quarantine(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    members: &[TrialId],
    kind: FailureKind,
    detail: &str,
) -> Result<(), StoreError> {
    let attempts = attempts(db, members).await?;
    let evidence = to_json("trials.evidence", &attempts)?;
    let told: Vec<_> = attempts.iter().map(|a| format!("{}/{}: {}", a.agent, a.device, a.reason)).collect();
    let detail = format!("{detail}; quarantined after {MAX_ATTEMPTS} attempts ({})", told.join("; "));
    for trial in members {
        let under = Under { trial, ..under };
        cells::unsay(db, trial).await?;
        cells::end_open(db, at, under, Open::All, &Outcome::of_failure(kind, detail.clone())).await?;
        set_state(db, at, under, TrialState::Failed, &detail).await?;
        sqlx::query("UPDATE trials SET evidence = ? WHERE id = ?")
            .bind(&evidence)
            .bind(trial.as_str())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// An attempt that the infrastructure failed: what `trials.evidence` is a list of.
#[derive(Debug, Serialize)]
struct Attempt {
    epoch: u32,
    agent: String,
    device: String,
    reason: String,
}

async fn attempts(db: &mut SqliteConnection, members: &[TrialId]) -> Result<Vec<Attempt>, StoreError> {
    let rows = sqlx::query(
        "SELECT epoch, agent_id, device, failure FROM deliveries
         WHERE trial_id IN (SELECT value FROM json_each(?)) AND failure IS NOT NULL ORDER BY epoch, trial_id",
    )
    .bind(to_json("trials.id", &members.iter().map(TrialId::as_str).collect::<Vec<_>>())?)
    .fetch_all(db)
    .await?;
    let attempt = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Attempt {
            epoch: row.unsigned32("epoch")?,
            agent: row.optional_text("agent_id")?.unwrap_or_default(),
            device: row.optional_text("device")?.unwrap_or_default(),
            reason: row.text("failure")?,
        })
    };
    rows.iter().map(attempt).collect()
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
        TrialState::Failed => "trial_quarantined",
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
    cells::unsay(db, under.trial).await?;
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
    /// [`Digest::over`] the digests of all records of the lease, in order.
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
        /// What the infrastructure did to the lease.
        failure: Option<String>,
    },
}

impl Change for Finish {
    type Outcome = Finished;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Finished, StoreError> {
        let Some(lease) = lease_state(db, &self.trial, self.epoch).await? else {
            return Ok(match prune::was_pruned(db, &self.trial).await? {
                Some(run) => Finished::Complete { run, state: None, ended: Vec::new(), failure: None },
                None => Finished::UnknownLease,
            });
        };
        if lease.finished {
            return Ok(Finished::Complete { run: lease.run, state: None, ended: Vec::new(), failure: None });
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
            return Ok(Finished::Complete { run: lease.run, state: None, ended: Vec::new(), failure: None });
        }
        let failure = failure(db, under).await?;
        let (state, ended) = end_trial(db, at, under, &lease, failure.as_deref()).await?;
        runs::settle(db, at, &lease.run).await?;
        Ok(Finished::Complete { run: lease.run.clone(), state: Some(state), ended, failure })
    }
}

impl Finish {
    /// What does not fit between the announced and the stored records.
    async fn mismatch(&self, db: &mut SqliteConnection, stored_seq: u64) -> Result<Option<String>, StoreError> {
        if self.last_seq != stored_seq {
            return Ok(Some(format!("agent counts {} records, {stored_seq} are stored", self.last_seq)));
        }
        let found = arrivals::digest(db, &self.trial, self.epoch).await?;
        let problem = || format!("agent's records have the digest {}, the stored ones {found}", self.digest);
        Ok((found != self.digest).then(problem))
    }
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

/// Marks the lease's records as complete.
async fn close_delivery(db: &mut SqliteConnection, at: Timestamp, under: Under<'_>) -> Result<(), StoreError> {
    sqlx::query("UPDATE deliveries SET finished_at_unix_ns = ? WHERE trial_id = ? AND epoch = ?")
        .bind(unix_ns(at))
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Ends the trial of a checked finish. Cells without an end get one, unless the next lease is to try them again. A trial
/// of a group stays as it is until all of its group have come so far.
async fn end_trial(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    lease: &LeaseState,
    failure: Option<&str>,
) -> Result<(TrialState, Vec<EndedCell>), StoreError> {
    if lease.cancel_requested {
        return Ok((TrialState::Cancelled, cancel(db, at, under).await?));
    }
    let silent = Outcome::Failed(FailureKind::BadOutput, "worker ended without a result".to_owned());
    let mut ended = Vec::new();
    if lease.group.is_some() {
        for hash in cells::open(db, under.trial, Open::Silent).await? {
            ended.extend(cells::say(db, at, under, &EndedCell::new(hash, silent.clone())).await?);
        }
        if others_at_work(db, under, lease).await? {
            return Ok((lease.state, ended));
        }
    } else {
        ended = cells::end_open(db, at, under, Open::Silent, &silent).await?;
    }
    let members = together(db, under, lease).await?;
    let state = end_all(db, at, under, lease, &members, failure).await?;
    Ok((state, ended))
}

/// Whether another trial of the group is held by an agent that has not yet said all there is to say.
async fn others_at_work(db: &mut SqliteConnection, under: Under<'_>, lease: &LeaseState) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT count(*) AS n FROM trials t JOIN deliveries d ON d.trial_id = t.id AND d.epoch = t.epoch
         WHERE t.group_id = ? AND t.state IN ('leased', 'running') AND d.finished_at_unix_ns IS NULL AND t.id <> ?",
    )
    .bind(lease.group.as_ref().map(TrialId::as_str))
    .bind(under.trial.as_str())
    .fetch_one(db)
    .await?;
    Ok(row.unsigned("n")? > 0)
}

/// What becomes of trials whose records are complete: another lease for what is left, or the end.
async fn end_all(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    lease: &LeaseState,
    members: &[TrialId],
    failure: Option<&str>,
) -> Result<TrialState, StoreError> {
    let attempts = attempts(db, members).await?;
    let given_up = lease.attempts >= MAX_ATTEMPTS && attempts.iter().any(|attempt| attempt.epoch == under.epoch.0);
    if given_up {
        let last = attempts.last().map_or("", |attempt| attempt.reason.as_str());
        let detail = failure.unwrap_or(last).to_owned();
        quarantine(db, at, under, members, FailureKind::Spawn, &detail).await?;
        return Ok(TrialState::Failed);
    }
    let again = requeue_all(db, at, under, members, failure.unwrap_or_default()).await? == Released::Requeued;
    let failed = attempts.iter().any(|attempt| attempt.epoch == under.epoch.0);
    if again && !failed {
        // Its agent left, and said so.
        uncount(db, members).await?;
    }
    Ok(if again { TrialState::Queued } else { TrialState::Done })
}

/// Nothing has failed: the attempt does not count.
async fn uncount(db: &mut SqliteConnection, members: &[TrialId]) -> Result<(), StoreError> {
    for trial in members {
        sqlx::query("UPDATE trials SET attempts = attempts - 1 WHERE id = ? AND state = 'queued' AND attempts > 0")
            .bind(trial.as_str())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// How long a lease took from start to end, by the coordinator's monotonic clock. Kept where the lease did the trial as
/// a whole, for [`Reader::durations`](crate::Reader::durations).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Took {
    /// Which trial.
    pub trial: TrialId,
    /// Which lease.
    pub epoch: Epoch,
    /// How long.
    pub took: Duration,
}

impl Change for Took {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, _at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET took_ns = ?3 WHERE trial_id = ?1 AND epoch = ?2
             AND (SELECT state FROM trials WHERE id = ?1) = 'done'
             AND NOT EXISTS (SELECT 1 FROM cells WHERE trial_id = ?1 AND ended_epoch <> ?2)",
        )
        .bind(self.trial.as_str())
        .bind(self.epoch.0)
        .bind(i64::try_from(self.took.as_nanos()).unwrap_or(i64::MAX))
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Advances the lease's count of records from `from` to `to`, by what has arrived as `arrival`.
pub(crate) async fn advance(
    db: &mut SqliteConnection,
    under: Under<'_>,
    from: u64,
    to: u64,
    arrival: i64,
) -> Result<(), StoreError> {
    let changed = sqlx::query(
        "UPDATE deliveries SET last_seq = ?, last_arrival = ? WHERE trial_id = ? AND epoch = ? AND last_seq = ?",
    )
    .bind(stored("last_seq", to)?)
    .bind(arrival)
    .bind(under.trial.as_str())
    .bind(under.epoch.0)
    .bind(stored("last_seq", from)?)
    .execute(db)
    .await?
    .rows_affected();
    if changed == 1 { Ok(()) } else { Err(StoreError::Guard(format!("{} is not at record {from}", under.trial))) }
}
