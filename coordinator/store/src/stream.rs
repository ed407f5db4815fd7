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
use regatta_core::id::{RunId, TrialId};
use regatta_core::trial::{Epoch, TrialState};
use serde_json::json;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

use crate::arrivals::{self, Arrival};
use crate::blob::SampleRow;
use crate::cells::Under;
use crate::error::StoreError;
use crate::ingest::{self, Batch, CellRules, Ingested, Stored};
use crate::row::stored;
use crate::trials::{self, LeaseState};
use crate::writer::Job;

/// Rows of one statement, largest first. Few sizes, so that each statement is prepared once and then found again.
const ROWS_PER_STATEMENT: [usize; 4] = [256, 64, 8, 1];

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
#[derive(Debug)]
struct Waiting<'b> {
    next_arrival: i64,
    /// Each batch's run and rows.
    samples: Vec<(RunId, Vec<&'b SampleRow>)>,
    arrivals: Vec<Arrival<'b>>,
    /// The leases, each from where its first batch here began to where its last one ended.
    advances: HashMap<(&'b TrialId, Epoch), Advance>,
}

/// How far a lease moves on.
#[derive(Debug, Clone, Copy)]
struct Advance {
    /// Its last sequence number so far.
    from: i64,
    /// Its last sequence number from now on.
    to: i64,
    /// Its newest arrival.
    arrival: i64,
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
            let stored = self.plain_ones(db, at, &batches).await?;
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
    async fn plain_ones(
        &mut self,
        db: &mut SqliteConnection,
        at: Timestamp,
        batches: &[&Batch],
    ) -> Result<Vec<Stored>, StoreError> {
        let mut all = Vec::new();
        if batches.is_empty() {
            return Ok(all);
        }
        let mut waiting = Waiting::from(arrivals::next_id(db).await?);
        for batch in batches {
            let Some(stored) = self.plain(db, at, batch, &mut waiting).await? else { break };
            all.push(stored);
        }
        waiting.store(db).await?;
        Ok(all)
    }

    /// Puts the rows of a plain batch with those that wait; `None` where the batch is not plain.
    async fn plain<'b>(
        &mut self,
        db: &mut SqliteConnection,
        at: Timestamp,
        batch: &'b Batch,
        waiting: &mut Waiting<'b>,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(stream) = self.stream(db, batch).await? else { return Ok(None) };
        let lease = &mut stream.lease;
        // Of the first records under a lease that is over a note is made.
        let late = lease.last_seq == 0 && !lease.is_current();
        if late || lease.finished || batch.first_seq != lease.last_seq + 1 || batch.records.is_empty() {
            return Ok(None);
        }
        let Some(rows) = ingest::plain_samples(batch, lease, &stream.rules) else { return Ok(None) };
        if lease.is_current() && lease.state == TrialState::Leased {
            trials::start(db, at, Under { run: &lease.run, trial: &batch.trial, epoch: batch.epoch }).await?;
            lease.state = TrialState::Running;
        }
        let samples = rows.len() as u64;
        let (before, after) = (lease.last_seq, lease.last_seq + batch.records.len() as u64);
        let (from, to) = (stored("last_seq", before)?, stored("last_seq", after)?);
        waiting.samples.push((lease.run.clone(), rows));
        let arrival = waiting.arrive(batch, from + 1, lease.last_arrival);
        let advance = waiting.advances.entry((&batch.trial, batch.epoch)).or_insert(Advance { from, to, arrival });
        (advance.to, advance.arrival) = (to, arrival);
        (lease.last_seq, lease.last_arrival) = (after, Some(arrival));
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

impl<'b> Waiting<'b> {
    /// Nothing yet; the first arrival will have that number.
    fn from(next_arrival: i64) -> Self {
        Self { next_arrival, samples: Vec::new(), arrivals: Vec::new(), advances: HashMap::new() }
    }

    /// Takes note of a batch and returns its number.
    fn arrive(&mut self, batch: &'b Batch, first_seq: i64, before: Option<i64>) -> i64 {
        let id = self.next_arrival;
        self.next_arrival += 1;
        let (trial, epoch, hashes) = (&batch.trial, batch.epoch, ingest::hashes(&batch.records));
        self.arrivals.push(Arrival { id, trial, epoch, first_seq, before, hashes });
        id
    }

    async fn store(self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        if self.advances.is_empty() {
            return Ok(());
        }
        arrivals::insert(db, &self.arrivals).await?;
        let rows: Vec<_> =
            self.samples.iter().flat_map(|(run, rows)| rows.iter().map(move |row| (run, *row))).collect();
        if insert_samples(db, &rows).await? != rows.len() as u64 {
            // One by one it will show which repetition had been stored before.
            return Err(StoreError::Guard("a repetition came again under another number".to_owned()));
        }
        advance(db, &self.advances).await
    }
}

/// Moves the leases on, each from where it is thought to be.
async fn advance(db: &mut SqliteConnection, leases: &HashMap<(&TrialId, Epoch), Advance>) -> Result<(), StoreError> {
    let list: Vec<_> = leases
        .iter()
        .map(|((trial, epoch), Advance { from, to, arrival })| json!([trial.as_str(), epoch.0, from, to, arrival]))
        .collect();
    let moved = sqlx::query(
        "UPDATE deliveries SET last_seq = lease.value ->> 3, last_arrival = lease.value ->> 4 FROM json_each(?) AS lease
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
pub(crate) fn pieces<T>(mut list: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let size = ROWS_PER_STATEMENT.iter().position(|size| *size <= list.len())?;
        let (piece, rest) = list.split_at(ROWS_PER_STATEMENT[size]);
        list = rest;
        Some((size, piece))
    })
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// The text of a statement for each size.
pub(crate) type Statements = LazyLock<[String; 4]>;

/// One statement for each size: `head`, then as many rows of `columns` placeholders, then `tail`.
pub(crate) fn statements(head: &str, columns: usize, tail: &str) -> [String; 4] {
    let row = format!("({})", vec!["?"; columns].join(", "));
    ROWS_PER_STATEMENT.map(|rows| format!("{head} VALUES {}{tail}", vec![row.as_str(); rows].join(", ")))
}

/// Stores samples; one that is stored already is left as it is. Returns how many were new.
pub(crate) async fn insert_samples(
    db: &mut SqliteConnection,
    samples: &[(&RunId, &SampleRow)],
) -> Result<u64, StoreError> {
    static INSERT: Statements = Statements::new(|| {
        let columns = "run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns,
            prefill_done_ns, token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns,
            first_repetition_ns, warmup_repetitions, peak_rss_bytes, threads, flags, telemetry";
        statements(&format!("INSERT INTO samples ({columns})"), 21, " ON CONFLICT DO NOTHING")
    });
    let bound = |(size, piece): (usize, &[(&RunId, &SampleRow)])| {
        piece.iter().fold(sqlx::query(INSERT[size].as_str()), |query, (run, row)| bind_sample(query, run, row))
    };
    let mut pieces = pieces(samples);
    let mut ready = pieces.next().map(bound);
    let mut inserted = 0;
    while let Some(query) = ready {
        // The next statement's rows are bound while SQLite's thread is at this one's.
        let (executed, next) = tokio::join!(query.execute(&mut *db), async { pieces.next().map(bound) });
        inserted += executed?.rows_affected();
        ready = next;
    }
    Ok(inserted)
}

/// Binds the columns of one row, in their order.
fn bind_sample<'q>(query: Query<'q>, run: &RunId, row: &SampleRow) -> Query<'q> {
    query
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
        .bind(row.flags.as_str())
        .bind(row.telemetry.as_deref())
}
