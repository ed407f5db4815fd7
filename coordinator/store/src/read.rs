//! What is stored, for reports and people: plain structs in the words of the domain.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::artifact::ArtifactRef;
use regatta_core::backend::BackendKind;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::device::{Device, DeviceId};
use regatta_core::digest::Digest;
use regatta_core::fingerprint::Fingerprint;
use regatta_core::fleet::{Labels, Place};
use regatta_core::id::{AgentId, BuildName, RunId, TrialId};
use regatta_core::passes::Stopped;
use regatta_core::policy::{Exclusive, Policy};
use regatta_core::run::RunState;
use regatta_core::sample::Sample;
use regatta_core::scenario::ScenarioBundle;
use regatta_core::trial::{Epoch, Group, TrialState};
use sqlx::sqlite::{SqlitePool, SqliteRow};

use crate::agents::Service;
use crate::error::StoreError;
use crate::row::Columns;
use crate::{blob, row};

/// Candidates named at most where a run id is unknown or ambiguous.
const CANDIDATES: u32 = 10;

/// Reads the database; can't write to it.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) pool: SqlitePool,
    /// The longest that a read may take.
    pub(crate) longest: Duration,
}

/// A run in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// Its id.
    pub id: RunId,
    /// The scenario's name.
    pub name: String,
    /// Where it stands.
    pub state: RunState,
    /// A person has stopped it; it may still be active until its agents have stopped.
    pub cancel_requested: bool,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its last cell ended.
    pub ended_at: Option<Timestamp>,
    /// Number of cells by state: `waiting`, `running`, `ok`, `oom`, ….
    pub cells: BTreeMap<String, u32>,
    /// Samples stored, those of older epochs included, rejected ones not.
    pub samples: u64,
    /// Runs of a higher priority go first.
    pub priority: i32,
    /// The run whose failed cells this one repeats.
    pub retry_of: Option<RunId>,
    /// Timed executions of each cell.
    pub repetitions: u32,
}

/// A run with what was frozen into it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The run in one line.
    pub summary: RunSummary,
    /// The scenario with everything it needs, as submitted.
    pub bundle: ScenarioBundle,
    /// How its cells are measured.
    pub policy: Policy,
}

/// A device as it was when a run was submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDevice {
    /// The device.
    pub device: Device,
    /// Version of its agent.
    pub agent_version: String,
    /// Operating system and processor of its host, as labels.
    pub host: BTreeMap<String, String>,
}

/// A cell of a run and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CellRecord {
    /// The cell.
    pub cell: Cell,
    /// Its hash.
    pub hash: CellHash,
    /// Its position in the matrix, from 0.
    pub ordinal: u32,
    /// The trial that measures it; `None` for a cell that is not tried.
    pub trial: Option<TrialId>,
    /// How it ended; `None` while it waits or runs.
    pub outcome: Option<Outcome>,
    /// How many worker processes measured it and why no more, where that was said.
    pub stopped: Option<Stopped>,
    /// The lease whose samples count; `None` while there are none and the cell has not ended.
    pub epoch: Option<Epoch>,
    /// Samples of that lease: what [`Reader::samples`] gives.
    pub samples: u32,
    /// Samples of other leases: stored, not counted.
    pub superseded: u32,
    /// Samples that broke a rule: stored with the reason, not counted.
    pub rejected: u32,
}

/// A sample that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedSample {
    /// Who sent it.
    pub trial: TrialId,
    /// Under which lease.
    pub epoch: Epoch,
    /// Its number among the records of that lease.
    pub seq: u64,
    /// The cell, where the record could be read that far.
    pub cell: Option<CellHash>,
    /// The rule it broke.
    pub reason: String,
}

/// What is known of the worker process behind one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// The trial it measured.
    pub trial: TrialId,
    /// Under which lease.
    pub epoch: Epoch,
    /// The facts.
    pub facts: WorkerFacts,
}

/// What an agent tells of a worker process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerFacts {
    /// The worker's answer to `probe`: JSON of [`WorkerInfo`](regatta_core::worker::WorkerInfo).
    pub worker: String,
    /// The engine's version and build.
    pub engine: String,
    /// Time to load the model, in nanoseconds.
    pub load_ns: u64,
    /// Bytes of weights that one decode step reads.
    pub weight_bytes: u64,
    /// Hash over the artifact's file hashes, as hexadecimal digits.
    pub artifact_digest: String,
    /// The circumstances; empty for records of earlier versions.
    pub fingerprint: Fingerprint,
    /// The build of the worker program, where several were measured in turns.
    pub build: Option<BuildName>,
}

/// A trial and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialRecord {
    /// Its id.
    pub id: TrialId,
    /// Its run.
    pub run: RunId,
    /// Its position among the run's trials, from 0.
    pub ordinal: u32,
    /// The agent that has it or had it last; before, one that may get it.
    pub agent: AgentId,
    /// The device on that agent.
    pub device: DeviceId,
    /// The engine.
    pub backend: BackendKind,
    /// The weights.
    pub artifact: ArtifactRef,
    /// Where it may go; `None` if only to its own device.
    pub pool: Option<Arc<[Place]>>,
    /// The group it is measured with.
    pub group: Option<Group>,
    /// What it does, as a hash: trials of the same work take about the same time.
    pub work: Option<Digest>,
    /// What it has to itself while it is measured.
    pub exclusive: Exclusive,
    /// Runs of a higher priority go first.
    pub priority: i32,
    /// Agents on which the infrastructure failed it.
    pub failed_on: Vec<AgentId>,
    /// Why it is not tried any more, attempt by attempt (JSON), for a quarantined trial.
    pub evidence: Option<String>,
    /// Where it stands.
    pub state: TrialState,
    /// The current or last lease; 0 before the first.
    pub epoch: Epoch,
    /// The agent's process that got that lease.
    pub boot_id: Option<String>,
    /// The agent has said all there is to say of that lease.
    pub delivered: bool,
    /// A person has stopped its run.
    pub cancel_requested: bool,
}

/// An agent seen at least once.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRecord {
    /// Its name.
    pub id: AgentId,
    /// Its process seen last.
    pub boot_id: String,
    /// Version of the program.
    pub version: String,
    /// Operating system and processor, as labels.
    pub host: BTreeMap<String, String>,
    /// Answers of its worker programs to `probe`, as JSON.
    pub workers: Vec<String>,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Labels that its owner gave it.
    pub labels: Labels,
    /// Whether it gets trials.
    pub service: Service,
    /// Why not, for one that does not.
    pub service_reason: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Its number; later events have higher ones.
    pub id: i64,
    /// When, by the coordinator's wall clock.
    pub at: Timestamp,
    /// What: `run_submitted`, `trial_leased`, `cell_ended`, `data_conflict`, ….
    pub kind: String,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// The trial it belongs to.
    pub trial: Option<TrialId>,
    /// The lease it belongs to.
    pub epoch: Option<Epoch>,
    /// The agent it belongs to.
    pub agent: Option<AgentId>,
    /// The cell it belongs to.
    pub cell: Option<CellHash>,
    /// For people.
    pub detail: String,
}

/// How much of one lease's records is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Every record from 1 to this one is stored.
    pub last_seq: u64,
    /// The end was checked.
    pub finished: bool,
}

/// The lease whose samples count, for each cell: the one it ended under, or the newest that has samples.
pub(crate) const CANONICAL: &str = "COALESCE(c.ended_epoch,
    (SELECT max(s.epoch) FROM samples s WHERE s.run_id = c.run_id AND s.cell_hash = c.cell_hash))";

/// A row of [`TrialRecord`] for each trial.
const TRIALS: &str = "SELECT t.*, r.cancel_requested, r.priority, json_extract(r.policy, '$.exclusive') AS exclusive,
        d.boot_id, d.finished_at_unix_ns,
        (SELECT json_group_array(DISTINCT f.agent_id) FROM deliveries f
         WHERE f.trial_id = t.id AND f.failure IS NOT NULL AND f.agent_id IS NOT NULL) AS failed_on
     FROM trials t JOIN runs r ON r.id = t.run_id
     LEFT JOIN deliveries d ON d.trial_id = t.id AND d.epoch = t.epoch";

/// The middle of sorted numbers, the lower one of two.
fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

impl Reader {
    /// The newest runs, newest first, `limit` at most.
    pub async fn runs(&self, limit: u32) -> Result<Vec<RunSummary>, StoreError> {
        let rows = sqlx::query("SELECT * FROM runs ORDER BY created_at_unix_ns DESC, id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in &rows {
            runs.push(self.summary(row).await?);
        }
        Ok(runs)
    }

    /// The id of the run that `text` names: a run id or the beginning of exactly one. The error of any other text
    /// names candidates.
    pub async fn resolve_run(&self, text: &str) -> Result<RunId, StoreError> {
        let found = sqlx::query(
            "SELECT id FROM runs WHERE id = ?1 OR (length(?1) > 0 AND substr(id, 1, length(?1)) = ?1)
             ORDER BY id = ?1 DESC, id DESC LIMIT ?2",
        )
        .bind(text)
        .bind(CANDIDATES)
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<RunId> = found.iter().map(|row| row.parsed("id")).collect::<Result<_, _>>()?;
        let id = regatta_core::id::shown(text);
        match ids.as_slice() {
            [only] => Ok(only.clone()),
            [first, ..] if first.as_str() == text => Ok(first.clone()),
            [] => Err(StoreError::RunNotFound { id, newest: self.newest_runs().await? }),
            _ => Err(StoreError::AmbiguousRun { id, candidates: ids }),
        }
    }

    /// The names of the scenarios there are runs of.
    pub async fn scenarios(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT DISTINCT name FROM runs ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(|row| row.text("name")).collect()
    }

    async fn newest_runs(&self) -> Result<Vec<RunId>, StoreError> {
        let rows =
            sqlx::query("SELECT id FROM runs ORDER BY id DESC LIMIT ?").bind(CANDIDATES).fetch_all(&self.pool).await?;
        rows.iter().map(|row| row.parsed("id")).collect()
    }

    /// The run of that id, or whose id begins so (see [`Reader::resolve_run`]).
    pub async fn run(&self, id_or_prefix: &str) -> Result<RunRecord, StoreError> {
        let id = self.resolve_run(id_or_prefix).await?;
        let row = sqlx::query("SELECT * FROM runs WHERE id = ?").bind(id.as_str()).fetch_one(&self.pool).await?;
        Ok(RunRecord { summary: self.summary(&row).await?, bundle: row.json("bundle")?, policy: row.json("policy")? })
    }

    async fn summary(&self, row: &SqliteRow) -> Result<RunSummary, StoreError> {
        let id: RunId = row.parsed("id")?;
        let samples = sqlx::query("SELECT count(*) AS n FROM samples WHERE run_id = ?")
            .bind(id.as_str())
            .fetch_one(&self.pool)
            .await?
            .unsigned("n")?;
        let state = row.text("state")?;
        Ok(RunSummary {
            cells: self.cell_counts(&id).await?,
            id,
            name: row.text("name")?,
            state: RunState::parse(&state).ok_or_else(|| row::unreadable("runs.state", &state))?,
            cancel_requested: row.integer("cancel_requested")? != 0,
            created_at: row.time("created_at_unix_ns")?,
            ended_at: row.optional_time("ended_at_unix_ns")?,
            samples,
            priority: row.signed32("priority")?,
            retry_of: row.optional_parsed("retry_of")?,
            repetitions: row.json::<Policy>("policy")?.repetitions,
        })
    }

    /// Cells by state. A held trial runs one of its open cells; the others wait.
    async fn cell_counts(&self, run: &RunId) -> Result<BTreeMap<String, u32>, StoreError> {
        let rows = sqlx::query("SELECT state, count(*) AS n FROM cells WHERE run_id = ? GROUP BY state")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        let mut counts = BTreeMap::new();
        for row in &rows {
            counts.insert(row.text("state")?, row.unsigned32("n")?);
        }
        let running = sqlx::query(
            "SELECT count(*) AS n FROM trials t WHERE t.run_id = ? AND t.state IN ('leased', 'running')
             AND EXISTS (SELECT 1 FROM cells c WHERE c.trial_id = t.id AND c.state = 'waiting')",
        )
        .bind(run.as_str())
        .fetch_one(&self.pool)
        .await?
        .unsigned32("n")?;
        if let Some(waiting) = counts.get_mut("waiting").filter(|_| running > 0) {
            *waiting -= running.min(*waiting);
            counts.insert("running".to_owned(), running);
        }
        counts.retain(|_, count| *count > 0);
        Ok(counts)
    }

    /// The devices the run was unfolded over.
    pub async fn run_devices(&self, run: &RunId) -> Result<Vec<RunDevice>, StoreError> {
        let rows = sqlx::query("SELECT * FROM run_devices WHERE run_id = ? ORDER BY agent_id, device")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        let device = |row: &SqliteRow| {
            Ok(RunDevice {
                device: row.json("facts")?,
                agent_version: row.text("agent_version")?,
                host: row.json("host")?,
            })
        };
        rows.iter().map(device).collect()
    }

    /// Every cell of the run, in the order of the matrix.
    pub async fn cells(&self, run: &RunId) -> Result<Vec<CellRecord>, StoreError> {
        let sql = format!(
            "WITH canonical AS (SELECT c.*, {CANONICAL} AS epoch FROM cells c WHERE c.run_id = ?)
             SELECT c.*,
                (SELECT count(*) FROM samples s WHERE s.run_id = c.run_id AND s.cell_hash = c.cell_hash
                    AND s.epoch = c.epoch) AS samples,
                (SELECT count(*) FROM samples s WHERE s.run_id = c.run_id AND s.cell_hash = c.cell_hash
                    AND s.epoch <> c.epoch) AS superseded,
                (SELECT count(*) FROM rejected_samples r WHERE r.run_id = c.run_id AND r.cell_hash = c.cell_hash)
                    AS rejected
             FROM canonical c ORDER BY c.ordinal"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(row::cell_record).collect()
    }

    /// The samples that count: for each cell those of the lease it ended under, or of the newest lease that has
    /// samples where it has not ended. By the cell's place in the matrix, then by repetition.
    pub async fn samples(&self, run: &RunId) -> Result<Vec<Sample>, StoreError> {
        let sql = format!(
            "SELECT s.* FROM cells c JOIN samples s
                ON s.run_id = c.run_id AND s.cell_hash = c.cell_hash AND s.epoch = {CANONICAL}
             WHERE c.run_id = ? ORDER BY c.ordinal, s.repetition"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(blob::sample).collect()
    }

    /// Every stored sample of the run, those of older leases included.
    pub async fn all_samples(&self, run: &RunId) -> Result<Vec<Sample>, StoreError> {
        let rows = sqlx::query("SELECT * FROM samples WHERE run_id = ? ORDER BY cell_hash, epoch, repetition")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(blob::sample).collect()
    }

    /// Every stored sample of one cell, those of older leases included, by lease and repetition. Reading a run cell by cell takes
    /// little more memory than its samples do; all of its rows at once take several times as much.
    pub async fn samples_of_cell(&self, run: &RunId, cell: CellHash) -> Result<Vec<Sample>, StoreError> {
        let sql = "SELECT * FROM samples WHERE run_id = ? AND cell_hash = ? ORDER BY epoch, repetition";
        let query = sqlx::query(sql).bind(run.as_str()).bind(cell.0.as_bytes().as_slice());
        query.fetch_all(&self.pool).await?.iter().map(blob::sample).collect()
    }

    /// Bytes of the run's token times and outputs: what reading its samples takes, and the better part of a report of it.
    pub async fn sample_bytes(&self, run: &RunId) -> Result<u64, StoreError> {
        // Lengths stand before the blobs, which are not read for them.
        sqlx::query("SELECT COALESCE(sum(length(token_times) + length(output)), 0) AS n FROM samples WHERE run_id = ?")
            .bind(run.as_str())
            .fetch_one(&self.pool)
            .await?
            .unsigned("n")
    }

    /// Samples of the run that broke a rule, with the reason.
    pub async fn rejected_samples(&self, run: &RunId) -> Result<Vec<RejectedSample>, StoreError> {
        let rows = sqlx::query("SELECT * FROM rejected_samples WHERE run_id = ? ORDER BY trial_id, epoch, seq")
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await?;
        let rejected = |row: &SqliteRow| {
            Ok(RejectedSample {
                trial: row.parsed("trial_id")?,
                epoch: row.epoch("epoch")?,
                seq: row.unsigned("seq")?,
                cell: row.optional_cell("cell_hash")?,
                reason: row.text("reason")?,
            })
        };
        rows.iter().map(rejected).collect()
    }

    /// What is known of the run's worker processes, by trial and lease.
    pub async fn worker_facts(&self, run: &RunId) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT w.*, f.parts FROM worker_facts w JOIN trials t ON t.id = w.trial_id
             LEFT JOIN fingerprints f ON f.hash = w.fingerprint WHERE t.run_id = ?
             ORDER BY t.ordinal, w.epoch",
        )
        .bind(run.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(row::worker_record).collect()
    }

    /// The run's trials, in order.
    pub async fn trials(&self, run: &RunId) -> Result<Vec<TrialRecord>, StoreError> {
        let sql = format!("{TRIALS} WHERE t.run_id = ? ORDER BY t.ordinal");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run.as_str()).fetch_all(&self.pool).await?;
        row::trial_records(&rows)
    }

    /// One trial; `None` where there is none of that id.
    pub async fn trial(&self, trial: &TrialId) -> Result<Option<TrialRecord>, StoreError> {
        let sql = format!("{TRIALS} WHERE t.id = ?");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(trial.as_str()).fetch_all(&self.pool).await?;
        Ok(row::trial_records(&rows)?.pop())
    }

    /// Every trial that has not ended, over all runs, oldest run first.
    pub async fn open_trials(&self) -> Result<Vec<TrialRecord>, StoreError> {
        let sql = format!("{TRIALS} WHERE t.state IN ('queued', 'leased', 'running') ORDER BY t.run_id, t.ordinal");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.pool).await?;
        row::trial_records(&rows)
    }

    /// How long trials of these kinds of work took before: the median of those that one lease did as a whole. Work that
    /// was never done is not named.
    pub async fn durations(&self, works: &BTreeSet<Digest>) -> Result<HashMap<Digest, Duration>, StoreError> {
        let works: Vec<String> = works.iter().map(Digest::to_string).collect();
        let rows = sqlx::query(
            "SELECT t.work, d.took_ns FROM trials t JOIN deliveries d ON d.trial_id = t.id
             WHERE t.work IN (SELECT value FROM json_each(?)) AND d.took_ns IS NOT NULL ORDER BY t.work, d.took_ns",
        )
        .bind(row::to_json("works", &works)?)
        .fetch_all(&self.pool)
        .await?;
        let mut took: HashMap<Digest, Vec<u64>> = HashMap::new();
        for row in &rows {
            took.entry(row.parsed("work")?).or_default().push(row.unsigned("took_ns")?);
        }
        Ok(took.into_iter().map(|(work, sorted)| (work, Duration::from_nanos(median(&sorted)))).collect())
    }

    /// How much of a lease's records is stored; `None` for a lease that was never given.
    pub async fn delivery(&self, trial: &TrialId, epoch: Epoch) -> Result<Option<Delivery>, StoreError> {
        let row = sqlx::query("SELECT * FROM deliveries WHERE trial_id = ? AND epoch = ?")
            .bind(trial.as_str())
            .bind(epoch.0)
            .fetch_optional(&self.pool)
            .await?;
        let delivery = |row: SqliteRow| {
            let finished = row.optional_time("finished_at_unix_ns")?.is_some();
            Ok(Delivery { last_seq: row.unsigned("last_seq")?, finished })
        };
        row.map(delivery).transpose()
    }

    /// Every agent seen at least once, by name.
    pub async fn agents(&self) -> Result<Vec<AgentRecord>, StoreError> {
        let mut devices: BTreeMap<AgentId, Vec<Device>> = BTreeMap::new();
        for device in self.devices().await? {
            devices.entry(device.agent.clone()).or_default().push(device);
        }
        let rows = sqlx::query("SELECT * FROM agents ORDER BY id").fetch_all(&self.pool).await?;
        let agent = |row: &SqliteRow| {
            let id: AgentId = row.parsed("id")?;
            Ok(AgentRecord {
                devices: devices.remove(&id).unwrap_or_default(),
                id,
                boot_id: row.text("boot_id")?,
                version: row.text("version")?,
                host: row.json("host")?,
                workers: row.json("workers")?,
                last_seen_at: row.time("last_seen_at_unix_ns")?,
                labels: row.json("labels")?,
                service: row::service(row)?,
                service_reason: row.text("service_reason")?,
            })
        };
        rows.iter().map(agent).collect()
    }

    /// Every device of every agent, as last reported.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let rows = sqlx::query("SELECT * FROM devices ORDER BY agent_id, device").fetch_all(&self.pool).await?;
        rows.iter().map(row::device).collect()
    }

    /// Events of the run with a number above `after`, in order; 0 gives all.
    pub async fn events(&self, run: &RunId, after: i64) -> Result<Vec<EventRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM events WHERE run_id = ? AND id > ? ORDER BY id")
            .bind(run.as_str())
            .bind(after)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(row::event).collect()
    }

    /// Events of the agent that belong to no run, in order.
    pub async fn agent_events(&self, agent: &AgentId) -> Result<Vec<EventRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM events WHERE agent_id = ? AND run_id IS NULL ORDER BY id")
            .bind(agent.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(row::event).collect()
    }

    /// The number of the run's newest event; 0 where there is none.
    pub async fn last_event(&self, run: &RunId) -> Result<i64, StoreError> {
        sqlx::query("SELECT COALESCE(max(id), 0) AS id FROM events WHERE run_id = ?")
            .bind(run.as_str())
            .fetch_one(&self.pool)
            .await?
            .integer("id")
    }

    /// How a cell ended; `None` while it has not, or where there is no such cell.
    pub async fn outcome(&self, run: &RunId, cell: &CellHash) -> Result<Option<Outcome>, StoreError> {
        let row = sqlx::query("SELECT state, failure, detail FROM cells WHERE run_id = ? AND cell_hash = ?")
            .bind(run.as_str())
            .bind(cell.0.as_bytes().as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map_or(Ok(None), row::outcome)
    }

    /// Waits until nothing reads any more, and closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
