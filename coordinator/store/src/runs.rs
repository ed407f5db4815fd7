//! Runs: submitted with their cells and trials in one transaction; stopped, resumed, and ended when their last cell
//! has ended.

use jiff::Timestamp;
use regatta_core::cell::Outcome;
use regatta_core::id::{AgentId, BuildName, RunId, TrialId};
use regatta_core::matrix::{CellPlan, Matrix, PlannedCell, PlannedTrial};
use regatta_core::policy::Policy;
use regatta_core::run::RunState;
use regatta_core::scenario::ScenarioBundle;
use regatta_core::trial::Epoch;
use sqlx::sqlite::SqliteConnection;

use crate::cells::Under;
use crate::error::StoreError;
use crate::events::{self, Event};
use crate::read::RunDevice;
use crate::row::{Columns, to_json, trial_state, unix_ns, unreadable};
use crate::trials;
use crate::writer::Change;

/// A run to be stored: cells that are not tried end at once.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its id, made by the caller: storing the same run again changes nothing.
    pub id: RunId,
    /// The scenario's name.
    pub name: String,
    /// The scenario with everything it needs.
    pub bundle: ScenarioBundle,
    /// How its cells are measured.
    pub policy: Policy,
    /// The scenario unfolded over `devices`.
    pub matrix: Matrix,
    /// The devices, as they are now.
    pub devices: Vec<RunDevice>,
    /// Runs of a higher priority go first; from -100 to 100.
    pub priority: i32,
    /// The run whose failed cells this one repeats.
    pub retry_of: Option<RunId>,
}

/// What came of storing a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is stored.
    Stored,
    /// It was stored before, with the same scenario.
    AlreadyStored,
    /// The id belongs to a run of another scenario.
    OtherScenario,
}

impl Change for NewRun {
    type Outcome = Submitted;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Submitted, StoreError> {
        let bundle = to_json("runs.bundle", &self.bundle)?;
        let earlier = sqlx::query("SELECT bundle, retry_of FROM runs WHERE id = ?")
            .bind(self.id.as_str())
            .fetch_optional(&mut *db)
            .await?;
        if let Some(row) = earlier {
            let same = row.text("bundle")? == bundle && row.optional_parsed("retry_of")? == self.retry_of;
            return Ok(if same { Submitted::AlreadyStored } else { Submitted::OtherScenario });
        }
        sqlx::query(
            "INSERT INTO runs (id, name, state, bundle, policy, created_at_unix_ns, priority, retry_of)
             VALUES (?, ?, 'active', ?, ?, ?, ?, ?)",
        )
        .bind(self.id.as_str())
        .bind(&self.name)
        .bind(bundle)
        .bind(to_json("runs.policy", &self.policy)?)
        .bind(unix_ns(at))
        .bind(self.priority)
        .bind(self.retry_of.as_ref().map(RunId::as_str))
        .execute(&mut *db)
        .await?;
        let detail = format!("{} cells in {} trials", self.matrix.cells.len(), self.matrix.trials.len());
        let event = Event { kind: "run_submitted", run: Some(&self.id), detail: &detail, ..Event::default() };
        events::record(db, at, event).await?;
        for device in &self.devices {
            insert_device(db, &self.id, device).await?;
        }
        for (ordinal, trial) in (0..).zip(&self.matrix.trials) {
            insert_trial(db, &self.id, ordinal, trial).await?;
        }
        for (ordinal, cell) in (0..).zip(&self.matrix.cells) {
            insert_cell(db, at, &self.id, ordinal, cell).await?;
        }
        settle(db, at, &self.id).await?;
        Ok(Submitted::Stored)
    }

    fn rows(&self) -> usize {
        1 + self.matrix.cells.len() + self.matrix.trials.len()
    }
}

async fn insert_device(db: &mut SqliteConnection, run: &RunId, of: &RunDevice) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO run_devices (run_id, agent_id, device, facts, agent_version, host) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(run.as_str())
    .bind(of.device.agent.as_str())
    .bind(of.device.id.to_string())
    .bind(to_json("run_devices.facts", &of.device)?)
    .bind(&of.agent_version)
    .bind(to_json("run_devices.host", &of.host)?)
    .execute(db)
    .await?;
    Ok(())
}

async fn insert_trial(
    db: &mut SqliteConnection,
    run: &RunId,
    ordinal: u32,
    trial: &PlannedTrial,
) -> Result<(), StoreError> {
    let artifact = &trial.artifact;
    let first = trial.group.map(|group| position(group.first)).transpose()?;
    let pool = trial.pool.as_deref().map(|pool| to_json("trials.pool", &pool)).transpose()?;
    sqlx::query(
        "INSERT INTO trials (id, run_id, ordinal, agent_id, device, backend, model, weights, format, precision, state,
                             group_id, replica, replicas, pool, work)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?)",
    )
    .bind(TrialId::of(run, ordinal).as_str())
    .bind(run.as_str())
    .bind(ordinal)
    .bind(trial.agent.as_str())
    .bind(trial.device.to_string())
    .bind(trial.backend.as_str())
    .bind(artifact.model.as_str())
    .bind(artifact.weights.as_str())
    .bind(artifact.format.as_str())
    .bind(artifact.precision.as_str())
    .bind(first.map(|first| TrialId::of(run, first).to_string()))
    .bind(trial.group.map_or(0, |group| group.replica))
    .bind(trial.group.map_or(1, |group| group.replicas))
    .bind(pool)
    .bind(trial.work.map(|work| work.to_string()))
    .execute(db)
    .await?;
    Ok(())
}

/// A trial's position as its id has it.
fn position(trial: usize) -> Result<u32, StoreError> {
    u32::try_from(trial).map_err(|_| unreadable("matrix.trials", &trial))
}

async fn insert_cell(
    db: &mut SqliteConnection,
    at: Timestamp,
    run: &RunId,
    ordinal: u32,
    planned: &PlannedCell,
) -> Result<(), StoreError> {
    let cell = &planned.cell;
    let (trial, skipped) = match &planned.plan {
        CellPlan::Run { trial } => (Some(TrialId::of(run, position(*trial)?)), None),
        CellPlan::Skip { reason } => (None, Some(reason)),
    };
    sqlx::query(
        "INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format,
                            precision, workload, replica, build, generate, state, detail, ended_epoch, ended_at_unix_ns)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(run.as_str())
    .bind(planned.hash.0.as_bytes().as_slice())
    .bind(ordinal)
    .bind(trial.as_ref().map(TrialId::as_str))
    .bind(cell.agent.as_str())
    .bind(cell.device.to_string())
    .bind(cell.backend.as_str())
    .bind(cell.artifact.model.as_str())
    .bind(cell.artifact.weights.as_str())
    .bind(cell.artifact.format.as_str())
    .bind(cell.artifact.precision.as_str())
    .bind(to_json("cells.workload", cell.workload.as_ref())?)
    .bind(cell.replica)
    .bind(cell.build.as_ref().map(BuildName::as_str))
    .bind(cell.workload.generate)
    .bind(if skipped.is_some() { "skipped" } else { "waiting" })
    .bind(skipped)
    .bind(skipped.map(|_| 0))
    .bind(skipped.map(|_| unix_ns(at)))
    .execute(&mut *db)
    .await?;
    let Some(reason) = skipped else { return Ok(()) };
    let detail = Outcome::Skipped(reason.clone()).to_string();
    let event =
        Event { kind: "cell_ended", run: Some(run), cell: Some(&planned.hash), detail: &detail, ..Event::default() };
    events::record(db, at, event).await
}

/// Ends the run if all its cells have ended.
pub(crate) async fn settle(db: &mut SqliteConnection, at: Timestamp, run: &RunId) -> Result<bool, StoreError> {
    let ended = sqlx::query(
        "UPDATE runs SET state = CASE cancel_requested WHEN 1 THEN 'cancelled' ELSE 'done' END, ended_at_unix_ns = ?2
         WHERE id = ?1 AND state = 'active'
           AND NOT EXISTS (SELECT 1 FROM cells WHERE run_id = ?1 AND state = 'waiting')
           AND NOT EXISTS (SELECT 1 FROM trials WHERE run_id = ?1 AND state IN ('queued', 'leased', 'running'))
         RETURNING state",
    )
    .bind(run.as_str())
    .bind(unix_ns(at))
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = ended else { return Ok(false) };
    let state = row.text("state")?;
    events::record(db, at, Event { kind: "run_ended", run: Some(run), detail: &state, ..Event::default() }).await?;
    Ok(true)
}

async fn run_state(db: &mut SqliteConnection, run: &RunId) -> Result<Option<(RunState, bool)>, StoreError> {
    let row = sqlx::query("SELECT state, cancel_requested FROM runs WHERE id = ?")
        .bind(run.as_str())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let text = row.text("state")?;
    let state = RunState::parse(&text).ok_or_else(|| unreadable("runs.state", &text))?;
    Ok(Some((state, row.integer("cancel_requested")? != 0)))
}

/// A trial that an agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTrial {
    /// Which.
    pub trial: TrialId,
    /// Who.
    pub agent: AgentId,
    /// Under which lease.
    pub epoch: Epoch,
}

/// A person stops a run. Cells that wait in the queue end as cancelled now, those that an agent holds when it has
/// stopped or its lease has run out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRun(
    /// Which run.
    pub RunId,
);

/// What came of stopping a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// There is no such run.
    NotFound,
    /// It has ended before.
    Ended(RunState),
    /// It ends as soon as the agents that hold these trials have stopped.
    Stopping(Vec<HeldTrial>),
}

impl Change for CancelRun {
    type Outcome = Cancelled;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Cancelled, StoreError> {
        let run = &self.0;
        match run_state(db, run).await? {
            None => return Ok(Cancelled::NotFound),
            Some((RunState::Active, _)) => {}
            Some((state, _)) => return Ok(Cancelled::Ended(state)),
        }
        let asked = sqlx::query("UPDATE runs SET cancel_requested = 1 WHERE id = ? AND cancel_requested = 0")
            .bind(run.as_str())
            .execute(&mut *db)
            .await?
            .rows_affected();
        if asked == 1 {
            events::record(db, at, Event { kind: "run_cancel_requested", run: Some(run), ..Event::default() }).await?;
        }
        let mut held = Vec::new();
        for open in open_trials(db, run).await? {
            if open.held && !open.delivered {
                held.push(HeldTrial { trial: open.id, agent: open.agent, epoch: open.epoch });
            } else {
                trials::cancel(db, at, Under { run, trial: &open.id, epoch: open.epoch }).await?;
            }
        }
        settle(db, at, run).await?;
        Ok(Cancelled::Stopping(held))
    }
}

struct OpenTrial {
    id: TrialId,
    agent: AgentId,
    epoch: Epoch,
    held: bool,
    /// Its agent has said all there is to say of it, and waits for the other replicas.
    delivered: bool,
    group: Option<TrialId>,
}

async fn open_trials(db: &mut SqliteConnection, run: &RunId) -> Result<Vec<OpenTrial>, StoreError> {
    let rows = sqlx::query(
        "SELECT t.id, t.agent_id, t.epoch, t.state, t.group_id, d.finished_at_unix_ns FROM trials t
         LEFT JOIN deliveries d ON d.trial_id = t.id AND d.epoch = t.epoch
         WHERE t.run_id = ? AND t.state IN ('queued', 'leased', 'running') ORDER BY t.ordinal",
    )
    .bind(run.as_str())
    .fetch_all(db)
    .await?;
    let open = |row: &sqlx::sqlite::SqliteRow| {
        Ok(OpenTrial {
            id: row.parsed("id")?,
            agent: row.parsed("agent_id")?,
            epoch: row.epoch("epoch")?,
            held: trial_state(row)?.is_held(),
            delivered: row.optional_integer("finished_at_unix_ns")?.is_some(),
            group: row.optional_parsed("group_id")?,
        })
    };
    rows.iter().map(open).collect()
}

/// Queues again what a broken-off run has not finished: cells that have ended stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeRun {
    /// Which run.
    pub run: RunId,
    /// Trials that an agent is working on right now: they go on undisturbed.
    pub live: Vec<TrialId>,
}

/// What came of resuming a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// There is no such run.
    NotFound,
    /// It has ended before.
    Ended(RunState),
    /// A person has stopped it.
    Stopping,
    /// These trials are in the queue, with all their attempts.
    Queued(Vec<TrialId>),
}

impl Change for ResumeRun {
    type Outcome = Resumed;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Resumed, StoreError> {
        let run = &self.run;
        match run_state(db, run).await? {
            None => return Ok(Resumed::NotFound),
            Some((RunState::Active, false)) => {}
            Some((RunState::Active, true)) => return Ok(Resumed::Stopping),
            Some((state, _)) => return Ok(Resumed::Ended(state)),
        }
        let mut queued = Vec::new();
        let all = open_trials(db, run).await?;
        // A group goes on as long as one of its trials does: a lost one takes the others with it.
        let live_groups: Vec<_> =
            all.iter().filter(|open| self.live.contains(&open.id)).filter_map(|open| open.group.clone()).collect();
        for open in all {
            if self.live.contains(&open.id) || open.group.as_ref().is_some_and(|group| live_groups.contains(group)) {
                continue;
            }
            let under = Under { run, trial: &open.id, epoch: open.epoch };
            if trials::requeue(db, at, under, "run resumed").await? {
                sqlx::query("UPDATE trials SET attempts = 0 WHERE id = ?")
                    .bind(open.id.as_str())
                    .execute(&mut *db)
                    .await?;
                queued.push(open.id);
            }
        }
        settle(db, at, run).await?;
        Ok(Resumed::Queued(queued))
    }
}
