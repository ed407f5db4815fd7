//! Ingest: records come at least once and in any grouping; each is stored exactly once, and acknowledged after the
//! commit that holds it.
//!
//! A record is identified by trial, epoch and sequence number, a sample by run, cell, epoch and repetition. The same
//! record again is acknowledged again; another one under the same number is kept beside the first, with an event.
//! Records are stored in sequence: what comes after a gap is not stored, and the gap's start is asked for.

use std::collections::HashMap;
use std::fmt::Write;

use jiff::Timestamp;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::fingerprint::Fingerprint;
use regatta_core::id::{BuildName, RunId, TrialId};
use regatta_core::quality::MAX_REPEATS;
use regatta_core::sample::{InvalidSample, Sample};
use regatta_core::telemetry::Telemetry;
use regatta_core::trial::{Epoch, TrialState};
use sqlx::sqlite::SqliteConnection;

use crate::arrivals::{self, Arrival};
use crate::blob::SampleRow;
use crate::cells::{self, EndedCell, Under};
use crate::error::StoreError;
use crate::events::{self, Event};
use crate::prune;
use crate::read::WorkerFacts;
use crate::row::{self, Columns, stored, unix_ns};
use crate::stream;
use crate::trials::{self, LeaseState, MAX_ATTEMPTS};
use crate::writer::Change;

/// Records of one lease, in sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The trial.
    pub trial: TrialId,
    /// The lease under which they were measured.
    pub epoch: Epoch,
    /// Number of the first record, from 1.
    pub first_seq: u64,
    /// The records.
    pub records: Vec<Record>,
}

/// A record as it came, and what it says, ready to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    bytes: Vec<u8>,
    hash: Digest,
    content: Ready,
}

impl Record {
    /// A record from its bytes, as in the agent's spool, and what they say. All work that needs no database is done
    /// here, by whoever receives the record: the writer is one task, and everybody waits for it.
    pub fn new(bytes: Vec<u8>, content: Content) -> Self {
        let hash = Digest::of(&bytes);
        let content = match content {
            Content::Sample(sample) => Ready::Sample(Box::new(Measured::of(&sample))),
            Content::CellEnd(ended) => Ready::CellEnd(ended),
            Content::Worker(facts) => Ready::Worker(facts),
            Content::Unreadable(reason) => Ready::Unreadable(reason),
        };
        Self { bytes, hash, content }
    }

    /// How a cell ended, if it says that.
    pub fn cell_end(&self) -> Option<&EndedCell> {
        match &self.content {
            Ready::CellEnd(ended) => Some(ended),
            _ => None,
        }
    }

    /// BLAKE3 over its bytes.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// What was seen of machine and device around the repetition, for the record of one.
    pub fn telemetry(&self) -> Option<Telemetry> {
        match &self.content {
            Ready::Sample(measured) => measured.row.as_ref().ok()?.seen(),
            _ => None,
        }
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One repetition.
    Sample(Box<Sample>),
    /// How a cell ended.
    CellEnd(EndedCell),
    /// What is known of the worker process.
    Worker(WorkerFacts),
    /// Nothing that could be understood, for the reason given.
    Unreadable(String),
}

/// What a record says, as far as it can be judged and converted without the database.
#[derive(Debug, Clone, PartialEq)]
enum Ready {
    Sample(Box<Measured>),
    CellEnd(EndedCell),
    Worker(WorkerFacts),
    Unreadable(String),
}

/// A sample on its way into the database.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    cell: CellHash,
    epoch: Epoch,
    repetition: u32,
    batch: u32,
    /// Token times that it has.
    steps: usize,
    /// Its row, or the rule of its own that it breaks.
    row: Result<SampleRow, String>,
}

impl Measured {
    fn of(sample: &Sample) -> Self {
        let steps = sample.times.tokens.len();
        // Whether there are as many steps as the workload asks for is not known yet; everything else is.
        let checked = sample.check_itself(u32::try_from(steps).unwrap_or(u32::MAX)).map_err(|error| error.to_string());
        let row = checked.and_then(|()| SampleRow::of(sample).map_err(|error| error.to_string()));
        let key = &sample.key;
        Self { cell: key.cell, epoch: key.epoch, repetition: key.repetition, batch: sample.batch, steps, row }
    }
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Ingested {
    /// There is no such lease: nothing was stored.
    UnknownLease,
    /// What is stored now.
    Stored(Stored),
}

/// What is stored of a lease after a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The run.
    pub run: RunId,
    /// Every record from 1 to this one is on the disk.
    pub durable_through_seq: u64,
    /// The batch began after a gap: records from this one on must be sent (again).
    pub missing_from: Option<u64>,
    /// The lease was over: samples are stored, no state has changed.
    pub stale: bool,
    /// Samples stored by this batch.
    pub samples: u64,
    /// Samples set apart by this batch.
    pub rejected: u64,
    /// Records that differ from the stored ones of the same number.
    pub conflicts: u64,
    /// Cells that ended by this batch.
    pub ended: Vec<EndedCell>,
}

impl Change for Batch {
    type Outcome = Ingested;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Ingested, StoreError> {
        let Some(lease) = trials::lease_state(db, &self.trial, self.epoch).await? else {
            return Ok(match prune::was_pruned(db, &self.trial).await? {
                Some(run) => Ingested::Stored(self.dropped(run)),
                None => Ingested::UnknownLease,
            });
        };
        let mut stored = Stored {
            run: lease.run.clone(),
            durable_through_seq: lease.last_seq,
            missing_from: None,
            stale: !lease.is_current(),
            samples: 0,
            rejected: 0,
            conflicts: 0,
            ended: Vec::new(),
        };
        let first_new = lease.last_seq + 1;
        if self.first_seq > first_new {
            stored.missing_from = Some(first_new);
            return Ok(Ingested::Stored(stored));
        }
        let known = usize::try_from(first_new - self.first_seq).unwrap_or(usize::MAX).min(self.records.len());
        let (repeated, fresh) = self.records.split_at(known);
        let under = Under { run: &lease.run, trial: &self.trial, epoch: self.epoch };
        stored.conflicts += keep_conflicts(db, at, under, self.first_seq, repeated).await?;
        if fresh.is_empty() {
            return Ok(Ingested::Stored(stored));
        }
        if lease.finished {
            // Its end was checked: what comes behind it contradicts the agent's own count.
            stored.conflicts += keep_conflicts(db, at, under, first_new, fresh).await?;
            return Ok(Ingested::Stored(stored));
        }
        if lease.is_current() && lease.state == TrialState::Leased {
            trials::start(db, at, under).await?;
        }
        if stored.stale && lease.last_seq == 0 {
            note_stale(db, at, under).await?;
        }
        store_fresh(db, at, under, &lease, first_new, fresh, &mut stored).await?;
        Ok(Ingested::Stored(stored))
    }

    fn rows(&self) -> usize {
        self.records.len() + 1
    }
}

impl Batch {
    /// What came of records of a run that a person has removed: they are taken, and go nowhere.
    fn dropped(&self, run: RunId) -> Stored {
        Stored {
            run,
            durable_through_seq: self.first_seq + self.records.len() as u64 - u64::from(!self.records.is_empty()),
            missing_from: None,
            stale: true,
            samples: 0,
            rejected: 0,
            conflicts: 0,
            ended: Vec::new(),
        }
    }
}

/// Compares records with the stored ones of the same number, and keeps those that differ beside them.
async fn keep_conflicts(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    first_seq: u64,
    records: &[Record],
) -> Result<u64, StoreError> {
    if records.is_empty() {
        return Ok(0);
    }
    let known = arrivals::hashes(db, under.trial, under.epoch, first_seq).await?;
    let mut conflicts = 0;
    for (seq, record) in (first_seq..).zip(records) {
        let hash = record.hash;
        if known.get(&seq) == Some(&hash) {
            continue;
        }
        let kept = sqlx::query(
            "INSERT INTO record_conflicts (trial_id, epoch, seq, hash, bytes, received_at_unix_ns)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(under.trial.as_str())
        .bind(under.epoch.0)
        .bind(stored("seq", seq)?)
        .bind(hash.as_bytes().as_slice())
        .bind(record.bytes.as_slice())
        .bind(unix_ns(at))
        .execute(&mut *db)
        .await?
        .rows_affected();
        conflicts += 1;
        if kept == 1 {
            let detail = match known.get(&seq) {
                Some(first) => {
                    format!("record {seq} came again with other bytes ({} after {})", hash.short(), first.short())
                }
                None => format!("record {seq} came after the lease's records were complete"),
            };
            trials::conflict_event(db, at, under, &detail).await?;
        }
    }
    Ok(conflicts)
}

async fn note_stale(db: &mut SqliteConnection, at: Timestamp, under: Under<'_>) -> Result<(), StoreError> {
    let event = Event {
        kind: "stale_records",
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        agent: None,
        cell: None,
        detail: "records of a lease that is over: samples are stored, no state changes",
    };
    events::record(db, at, event).await
}

/// What a sample must fit.
#[derive(Debug)]
pub(crate) struct CellRules {
    /// Tokens its workload generates.
    generate: u32,
    /// Sequences its workload has side by side.
    batch: u32,
}

pub(crate) async fn cell_rules(
    db: &mut SqliteConnection,
    trial: &TrialId,
) -> Result<HashMap<CellHash, CellRules>, StoreError> {
    let rows = sqlx::query(
        "SELECT cell_hash, generate, json_extract(workload, '$.batch') AS batch FROM cells WHERE trial_id = ?",
    )
    .bind(trial.as_str())
    .fetch_all(db)
    .await?;
    let rules = |row: &sqlx::sqlite::SqliteRow| {
        let rules = CellRules { generate: row.unsigned32("generate")?, batch: row.unsigned32("batch")? };
        Ok((CellHash(row.digest("cell_hash")?), rules))
    };
    rows.iter().map(rules).collect()
}

async fn store_fresh(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    lease: &LeaseState,
    first_seq: u64,
    records: &[Record],
    stored: &mut Stored,
) -> Result<(), StoreError> {
    let rules = cell_rules(db, under.trial).await?;
    let arrival = Arrival {
        id: arrivals::next_id(db).await?,
        trial: under.trial,
        epoch: under.epoch,
        first_seq: row::stored("seq", first_seq)?,
        before: lease.last_arrival,
        hashes: hashes(records),
    };
    let id = arrival.id;
    arrivals::insert(db, &[arrival]).await?;
    let mut samples = Vec::new();
    for (seq, record) in (first_seq..).zip(records) {
        match &record.content {
            Ready::Sample(sample) => match accept(sample, under.epoch, lease, &rules) {
                Ok(row) => samples.push(Accepted { seq, row, bytes: &record.bytes }),
                Err(reason) => {
                    reject(db, at, under, seq, Some(&sample.cell), &reason, &record.bytes).await?;
                    stored.rejected += 1;
                }
            },
            Ready::CellEnd(ended) => {
                // Its samples come before it, and its end is judged by them.
                insert_samples(db, at, under, &mut samples, stored).await?;
                if !stored.stale {
                    stored.ended.extend(end_cell(db, at, under, lease, ended).await?);
                }
            }
            Ready::Worker(facts) => insert_worker(db, under, facts).await?,
            Ready::Unreadable(reason) => {
                reject(db, at, under, seq, None, reason, &record.bytes).await?;
                stored.rejected += 1;
            }
        }
    }
    insert_samples(db, at, under, &mut samples, stored).await?;
    let last_seq = lease.last_seq + records.len() as u64;
    trials::advance(db, under, lease.last_seq, last_seq, id).await?;
    stored.durable_through_seq = last_seq;
    Ok(())
}

/// A sample that keeps the rules, with the record it came in.
struct Accepted<'a> {
    seq: u64,
    row: &'a SampleRow,
    bytes: &'a [u8],
}

/// The sample's row, or the rule it breaks.
fn accept<'s>(
    sample: &'s Measured,
    epoch: Epoch,
    lease: &LeaseState,
    rules: &HashMap<CellHash, CellRules>,
) -> Result<&'s SampleRow, String> {
    let cell = &sample.cell;
    let rules = rules.get(cell).ok_or_else(|| format!("cell {} is not part of the trial", cell.0.short()))?;
    if sample.epoch != epoch {
        return Err(format!("sample of epoch {} in a batch of epoch {}", sample.epoch.0, epoch.0));
    }
    // A pass that was disturbed may be made up for.
    let most = lease.repetitions.saturating_mul(lease.passes + MAX_REPEATS);
    if sample.repetition >= most {
        return Err(format!("repetition {} where at most {most} were to come", sample.repetition));
    }
    if sample.batch != rules.batch {
        return Err(format!("batch is {} where the workload has {}", sample.batch, rules.batch));
    }
    let expected = rules.generate as usize;
    if sample.steps != expected {
        return Err(InvalidSample::TokenCount { found: sample.steps, expected }.to_string());
    }
    sample.row.as_ref().map_err(Clone::clone)
}

/// The rows of a batch that is nothing but samples which keep the rules; `None` for any other one.
pub(crate) fn plain_samples<'b>(
    batch: &'b Batch,
    lease: &LeaseState,
    rules: &HashMap<CellHash, CellRules>,
) -> Option<Vec<&'b SampleRow>> {
    let row = |record: &'b Record| match &record.content {
        Ready::Sample(sample) => accept(sample, batch.epoch, lease, rules).ok(),
        _ => None,
    };
    batch.records.iter().map(row).collect()
}

/// The hashes of records, one after the other.
pub(crate) fn hashes(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(|record| *record.hash.as_bytes()).collect()
}

/// Stores samples and empties the list.
async fn insert_samples(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    samples: &mut Vec<Accepted<'_>>,
    stored: &mut Stored,
) -> Result<(), StoreError> {
    let rows: Vec<_> = samples.iter().map(|sample| (under.run, sample.row)).collect();
    let inserted = stream::insert_samples(db, &rows).await?;
    stored.samples += inserted;
    if inserted < samples.len() as u64 {
        for sample in samples.iter() {
            keep_if_different(db, at, under, sample, stored).await?;
        }
    }
    samples.clear();
    Ok(())
}

/// A repetition that was stored before, under another sequence number: the first one counts, another one is kept.
async fn keep_if_different(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    sample: &Accepted<'_>,
    stored: &mut Stored,
) -> Result<(), StoreError> {
    let first =
        sqlx::query("SELECT * FROM samples WHERE run_id = ? AND cell_hash = ? AND epoch = ? AND repetition = ?")
            .bind(under.run.as_str())
            .bind(sample.row.cell.as_slice())
            .bind(sample.row.epoch)
            .bind(sample.row.repetition)
            .fetch_one(&mut *db)
            .await?;
    if SampleRow::read(&first)? == *sample.row {
        return Ok(());
    }
    let reason = format!("repetition {} differs from the one stored before", sample.row.repetition);
    let cell = first.optional_cell("cell_hash")?;
    reject(db, at, under, sample.seq, cell.as_ref(), &reason, sample.bytes).await?;
    stored.rejected += 1;
    stored.conflicts += 1;
    trials::conflict_event(db, at, under, &reason).await
}

/// Keeps a record apart, with the reason.
async fn reject(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    seq: u64,
    cell: Option<&CellHash>,
    reason: &str,
    bytes: &[u8],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO rejected_samples (trial_id, epoch, seq, run_id, cell_hash, reason, bytes, received_at_unix_ns)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(under.trial.as_str())
    .bind(under.epoch.0)
    .bind(stored("seq", seq)?)
    .bind(under.run.as_str())
    .bind(cell.map(|cell| cell.0.as_bytes().as_slice()))
    .bind(reason)
    .bind(bytes)
    .bind(unix_ns(at))
    .execute(&mut *db)
    .await?;
    let event = Event {
        kind: "sample_rejected",
        run: Some(under.run),
        trial: Some(under.trial),
        epoch: Some(under.epoch),
        agent: None,
        cell,
        detail: reason,
    };
    events::record(db, at, event).await
}

async fn insert_worker(db: &mut SqliteConnection, under: Under<'_>, facts: &WorkerFacts) -> Result<(), StoreError> {
    let fingerprint = insert_fingerprint(db, &facts.fingerprint).await?;
    sqlx::query(
        "INSERT INTO worker_facts (trial_id, epoch, worker, engine, load_ns, weight_bytes, artifact_digest, fingerprint,
                                   build)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(under.trial.as_str())
    .bind(under.epoch.0)
    .bind(&facts.worker)
    .bind(&facts.engine)
    // Facts, not measurements: a number beyond the column's range is stored as its largest.
    .bind(i64::try_from(facts.load_ns).unwrap_or(i64::MAX))
    .bind(i64::try_from(facts.weight_bytes).unwrap_or(i64::MAX))
    .bind(&facts.artifact_digest)
    .bind(fingerprint.as_ref().map(|hash| hash.as_bytes().as_slice()))
    .bind(facts.build.as_ref().map_or("", BuildName::as_str))
    .execute(db)
    .await?;
    Ok(())
}

/// Stores the circumstances, which most leases share, and returns their hash; `None` where nothing is known.
async fn insert_fingerprint(
    db: &mut SqliteConnection,
    fingerprint: &Fingerprint,
) -> Result<Option<Digest>, StoreError> {
    if fingerprint.is_empty() {
        return Ok(None);
    }
    let hash = fingerprint.hash();
    sqlx::query("INSERT INTO fingerprints (hash, parts) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(hash.as_bytes().as_slice())
        .bind(row::to_json("fingerprints.parts", fingerprint)?)
        .execute(db)
        .await?;
    Ok(Some(hash))
}

/// Ends a cell as its worker says, if what is stored bears it out. A replica's cell ends with those of its group.
async fn end_cell(
    db: &mut SqliteConnection,
    at: Timestamp,
    under: Under<'_>,
    lease: &LeaseState,
    said: &EndedCell,
) -> Result<Vec<EndedCell>, StoreError> {
    // A cell that its agent gave up, although nobody has stopped the run, was given up because the agent stops.
    let infrastructure = said.outcome.failure().is_some_and(FailureKind::is_infrastructure);
    if infrastructure {
        trials::note_failure(db, under, &said.outcome.to_string()).await?;
    }
    let again = infrastructure || said.outcome == Outcome::Cancelled;
    if again && lease.attempts < MAX_ATTEMPTS && !lease.cancel_requested {
        cells::retry(db, at, under, said).await?;
        return Ok(Vec::new());
    }
    let outcome = judged(db, under, lease, said).await?;
    let ended = EndedCell { outcome, ..said.clone() };
    if lease.group.is_some() {
        return cells::say(db, at, under, &ended).await;
    }
    Ok(if cells::end(db, at, under, &ended).await? { vec![ended] } else { Vec::new() })
}

/// A cell is ok only with all its samples.
async fn judged(
    db: &mut SqliteConnection,
    under: Under<'_>,
    lease: &LeaseState,
    said: &EndedCell,
) -> Result<Outcome, StoreError> {
    if said.outcome != Outcome::Ok {
        return Ok(said.outcome.clone());
    }
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM samples WHERE run_id = ?1 AND cell_hash = ?2 AND epoch = ?4) AS samples,
            (SELECT count(*) FROM rejected_samples WHERE trial_id = ?3 AND epoch = ?4 AND cell_hash = ?2) AS rejected,
            (SELECT min(reason) FROM rejected_samples WHERE trial_id = ?3 AND epoch = ?4 AND cell_hash = ?2) AS reason",
    )
    .bind(under.run.as_str())
    .bind(said.hash.0.as_bytes().as_slice())
    .bind(under.trial.as_str())
    .bind(under.epoch.0)
    .fetch_one(db)
    .await?;
    let (samples, rejected) = (row.unsigned("samples")?, row.unsigned("rejected")?);
    let passes = said.stopped.map_or(1, |stopped| stopped.passes);
    let expected = u64::from(lease.repetitions) * u64::from(passes);
    if samples == expected && passes <= lease.passes + MAX_REPEATS {
        return Ok(Outcome::Ok);
    }
    let mut detail = format!("worker said ok with {samples} of {expected} samples");
    if let Some(reason) = row.optional_text("reason")? {
        let _ = write!(detail, "; {rejected} rejected, such as: {reason}");
    }
    Ok(Outcome::Failed(FailureKind::BadOutput, detail))
}
