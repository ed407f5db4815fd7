//! Ingest of many batches in few statements.
//!
//! Nearly every batch is the plain continuation of a lease: samples that keep the rules, right behind those stored before.
//! Such batches of one commit are stored together: rows of all of them in one statement after the other, and what is known
//! of their leases is remembered from commit to commit. Each statement is a trip to SQLite's thread and back, which costs
//! more than a small batch itself.
//!
//! Everything else, and whatever turns out not to be plain, goes the way of [`Batch::apply`]. The memory is right because
//! there is one writer: any other change that it makes empties it, and so does a commit that fails.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use regatta_core::cell::CellHash;
use regatta_core::digest::Digest;
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::{Epoch, TrialState};
use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use crate::blob::SampleRow;
use crate::error::StoreError;
use crate::ingest::{self, Batch, CellRules, Ingested, Stored};
use crate::row::stored;
use crate::trials::{self, LeaseState};
use crate::writer::Job;

/// Rows of one statement, largest first. Few sizes, so that each statement is prepared once and then found again.
const ROWS_PER_STATEMENT: [usize; 4] = [256, 32, 4, 1];

/// Leases that are remembered.
const MAX_KNOWN: usize = 20_000;

/// What is known of the leases under which records come.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: HashMap<TrialId, Stream>,
}

/// One lease, and the rules for its samples.
#[derive(Debug)]
struct Stream {
    epoch: Epoch,
    lease: LeaseState,
    rules: Arc<HashMap<CellHash, CellRules>>,
}

/// Rows that wait for their statement.
#[derive(Debug, Default)]
struct Waiting<'b> {
    samples: Vec<(RunId, &'b SampleRow)>,
    records: Vec<RecordRow<'b>>,
    /// The trial, the lease, its last sequence number so far and from now on.
    advances: Vec<(&'b TrialId, Epoch, i64, i64)>,
}

/// A row of the table `records`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordRow<'b> {
    pub(crate) trial: &'b TrialId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: i64,
    pub(crate) hash: Digest,
}

impl Streams {
    /// Forgets everything.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// Applies changes in their order, plain batches together.
    pub(crate) async fn apply(
        &mut self,
        db: &mut SqliteConnection,
        mut group: &mut [Box<dyn Job>],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        loop {
            let batches: Vec<&Batch> = group.iter().map_while(|job| job.batch()).collect();
            let stored = self.plain_ones(db, &batches).await?;
            let (plain, rest) = group.split_at_mut(stored.len());
            for (job, stored) in plain.iter_mut().zip(stored) {
                job.ingested(Ingested::Stored(stored));
            }
            let Some((job, rest)) = rest.split_first_mut() else { return Ok(()) };
            match job.batch() {
                Some(batch) => drop(self.known.remove(&batch.trial)),
                None => self.forget(),
            }
            job.apply(db, at).await?;
            group = rest;
        }
    }

    /// Stores the plain ones at the head of the list, as far as they go.
    async fn plain_ones(&mut self, db: &mut SqliteConnection, batches: &[&Batch]) -> Result<Vec<Stored>, StoreError> {
        let mut waiting = Waiting::default();
        let mut all = Vec::new();
        for batch in batches {
            let Some(stored) = self.plain(db, batch, &mut waiting).await? else { break };
            all.push(stored);
        }
        waiting.store(db).await?;
        Ok(all)
    }

    /// Puts the rows of a plain batch with those that wait; `None` where the batch is not plain.
    async fn plain<'b>(
        &mut self,
        db: &mut SqliteConnection,
        batch: &'b Batch,
        waiting: &mut Waiting<'b>,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(stream) = self.stream(db, batch).await? else { return Ok(None) };
        let lease = &mut stream.lease;
        let begun = lease.last_seq > 0 && lease.state != TrialState::Leased;
        if !begun || lease.finished || batch.first_seq != lease.last_seq + 1 || batch.records.is_empty() {
            return Ok(None);
        }
        let Some(rows) = ingest::plain_samples(batch, lease, &stream.rules) else { return Ok(None) };
        let samples = rows.len() as u64;
        let (before, after) = (lease.last_seq, lease.last_seq + batch.records.len() as u64);
        let (from, to) = (stored("last_seq", before)?, stored("last_seq", after)?);
        waiting.samples.extend(rows.into_iter().map(|row| (lease.run.clone(), row)));
        waiting.records.extend((from + 1..).zip(&batch.records).map(|(seq, record)| RecordRow {
            trial: &batch.trial,
            epoch: batch.epoch,
            seq,
            hash: record.hash(),
        }));
        waiting.advances.push((&batch.trial, batch.epoch, from, to));
        lease.last_seq = after;
        Ok(Some(Stored {
            run: lease.run.clone(),
            durable_through_seq: after,
            missing_from: None,
            stale: !lease.is_current(),
            samples,
            rejected: 0,
            conflicts: 0,
            ended: Vec::new(),
        }))
    }

    /// What is known of the batch's lease, looked up where it is not.
    async fn stream(&mut self, db: &mut SqliteConnection, batch: &Batch) -> Result<Option<&mut Stream>, StoreError> {
        let known = self.known.get(&batch.trial).is_some_and(|stream| stream.epoch == batch.epoch);
        if !known {
            let Some(lease) = trials::lease_state(db, &batch.trial, batch.epoch).await? else { return Ok(None) };
            let rules = Arc::new(ingest::cell_rules(db, &batch.trial).await?);
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(batch.trial.clone(), Stream { epoch: batch.epoch, lease, rules });
        }
        Ok(self.known.get_mut(&batch.trial))
    }
}

impl Waiting<'_> {
    async fn store(self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        if self.advances.is_empty() {
            return Ok(());
        }
        insert_records(db, &self.records).await?;
        let rows: Vec<_> = self.samples.iter().map(|(run, row)| (run, *row)).collect();
        if insert_samples(db, &rows).await? != rows.len() as u64 {
            // One by one it will show which repetition had been stored before.
            return Err(StoreError::Guard("a repetition came again under another number".to_owned()));
        }
        advance(db, &self.advances).await
    }
}

/// Moves the leases on, each from where it is thought to be.
async fn advance(db: &mut SqliteConnection, advances: &[(&TrialId, Epoch, i64, i64)]) -> Result<(), StoreError> {
    // A lease may have come several times: from where its first batch began to where its last one ended.
    let mut leases: HashMap<(&TrialId, u32), (i64, i64)> = HashMap::new();
    for (trial, epoch, from, to) in advances {
        leases.entry((trial, epoch.0)).and_modify(|(_, last)| *last = *to).or_insert((*from, *to));
    }
    let list: Vec<_> =
        leases.iter().map(|((trial, epoch), (from, to))| json!([trial.as_str(), epoch, from, to])).collect();
    let moved = sqlx::query(
        "UPDATE deliveries SET last_seq = lease.value ->> 3 FROM json_each(?) AS lease
         WHERE trial_id = lease.value ->> 0 AND epoch = lease.value ->> 1 AND last_seq = lease.value ->> 2",
    )
    .bind(serde_json::Value::from(list).to_string())
    .execute(db)
    .await?
    .rows_affected();
    if moved == leases.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Guard("a lease is not where it was thought to be".to_owned()))
    }
}

/// A list cut into pieces of the sizes that statements have, each with the number of its size.
fn pieces<T>(mut list: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let size = ROWS_PER_STATEMENT.iter().position(|size| *size <= list.len())?;
        let (piece, rest) = list.split_at(ROWS_PER_STATEMENT[size]);
        list = rest;
        Some((size, piece))
    })
}

/// One statement for each size: `head`, then as many rows of `columns` placeholders, then `tail`.
fn statements(head: &str, columns: usize, tail: &str) -> [String; 4] {
    let row = format!("({})", vec!["?"; columns].join(", "));
    ROWS_PER_STATEMENT.map(|rows| format!("{head} VALUES {}{tail}", vec![row.as_str(); rows].join(", ")))
}

/// Notes which records have come. Their hashes are enough to know each of them again and to check the lease's end; what
/// they say is in the other tables.
pub(crate) async fn insert_records(db: &mut SqliteConnection, records: &[RecordRow<'_>]) -> Result<(), StoreError> {
    static INSERT: LazyLock<[String; 4]> =
        LazyLock::new(|| statements("INSERT INTO records (trial_id, epoch, seq, hash)", 4, ""));
    for (size, piece) in pieces(records) {
        let mut query = sqlx::query(INSERT[size].as_str());
        for record in piece {
            query = query
                .bind(record.trial.as_str())
                .bind(record.epoch.0)
                .bind(record.seq)
                .bind(record.hash.as_bytes().as_slice());
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// Stores samples; one that is stored already is left as it is. Returns how many were new.
pub(crate) async fn insert_samples(
    db: &mut SqliteConnection,
    samples: &[(&RunId, &SampleRow)],
) -> Result<u64, StoreError> {
    static INSERT: LazyLock<[String; 4]> = LazyLock::new(|| {
        let columns = "run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns,
            prefill_done_ns, token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns,
            first_repetition_ns, warmup_repetitions, peak_rss_bytes, threads, flags";
        statements(&format!("INSERT INTO samples ({columns})"), 20, " ON CONFLICT DO NOTHING")
    });
    let mut inserted = 0;
    for (size, piece) in pieces(samples) {
        let mut query = sqlx::query(INSERT[size].as_str());
        for (run, row) in piece {
            query = query
                .bind(run.as_str())
                .bind(row.cell.as_slice())
                .bind(row.epoch)
                .bind(row.repetition)
                .bind(row.started_at_unix_ns)
                .bind(row.tokenized_ns)
                .bind(row.prefill_start_ns)
                .bind(row.prefill_done_ns)
                .bind(row.token_times.as_slice())
                .bind(row.end_ns)
                .bind(row.prompt_tokens)
                .bind(row.prompt_digest.as_slice())
                .bind(row.batch)
                .bind(row.output.as_slice())
                .bind(row.load_ns)
                .bind(row.first_repetition_ns)
                .bind(row.warmup_repetitions)
                .bind(row.peak_rss_bytes)
                .bind(row.threads)
                .bind(row.flags.as_str());
        }
        inserted += query.execute(&mut *db).await?.rows_affected();
    }
    Ok(inserted)
}
