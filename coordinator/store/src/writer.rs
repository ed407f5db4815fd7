//! The one task that writes. Changes come in through a bounded channel; those that wait while a commit is on its way
//! to the disk share the next one. A change is answered after the commit that holds it, so an answer is a promise.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::error::StoreError;
use crate::ingest::{Batch, Ingested};
use crate::stream::Streams;
use crate::trap::{Moment, Trap};

/// Changes that may wait.
const QUEUE: usize = 256;

/// Rows that one commit takes, about: enough for the wait for the disk to be shared by many, few enough for nobody to
/// wait long.
const GROUP_ROWS: usize = 1000;

/// A change of the database: applied as a whole or not at all, and safe to apply a second time when the first one was
/// rolled back.
pub trait Change: Send + Sync + 'static {
    /// What came of it.
    type Outcome: Send + 'static;

    /// Applies the change within a transaction. `at` is the coordinator's wall-clock time, a label.
    fn apply(
        &self,
        db: &mut SqliteConnection,
        at: Timestamp,
    ) -> impl Future<Output = Result<Self::Outcome, StoreError>> + Send;

    /// Rows it writes, about: how much of a commit it takes up.
    fn rows(&self) -> usize {
        1
    }
}

/// Sends changes to the writer task.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Applies a change and waits until it is on the disk. If the caller goes away, the change is applied all the same.
    pub async fn write<C: Change>(&self, change: C) -> Result<C::Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { change, outcome: None, reply });
        self.queue.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

pub(crate) type JobFuture<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// A change whose outcome has no type any more.
pub(crate) trait Job: Send {
    fn apply<'a>(&'a mut self, db: &'a mut SqliteConnection, at: Timestamp) -> JobFuture<'a>;
    fn rows(&self) -> usize;
    /// The change, if it is a batch of records.
    fn batch(&self) -> Option<&Batch>;
    /// What came of the batch, which was applied together with others.
    fn ingested(&mut self, ingested: Ingested);
    /// Sends the outcome of the last `apply`.
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: StoreError);
}

struct Pending<C: Change> {
    change: C,
    outcome: Option<C::Outcome>,
    reply: oneshot::Sender<Result<C::Outcome, StoreError>>,
}

impl<C: Change> Job for Pending<C> {
    fn apply<'a>(&'a mut self, db: &'a mut SqliteConnection, at: Timestamp) -> JobFuture<'a> {
        Box::pin(async move {
            self.outcome = Some(self.change.apply(db, at).await?);
            Ok(())
        })
    }

    fn rows(&self) -> usize {
        self.change.rows()
    }

    fn batch(&self) -> Option<&Batch> {
        (&self.change as &dyn Any).downcast_ref()
    }

    fn ingested(&mut self, ingested: Ingested) {
        if let Some(outcome) = (&mut self.outcome as &mut dyn Any).downcast_mut() {
            *outcome = Some(ingested);
        }
    }

    fn answer(self: Box<Self>) {
        // Nobody listens any more where the caller has gone away; the change is stored all the same.
        let _ = self.reply.send(self.outcome.ok_or(StoreError::Closed));
    }

    fn fail(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

/// The writer and the queue of its task.
pub(crate) fn channel() -> (Writer, mpsc::Receiver<Box<dyn Job>>) {
    let (queue, jobs) = mpsc::channel(QUEUE);
    (Writer { queue }, jobs)
}

/// Applies changes until `stop`, then those that wait already, and closes the database.
pub(crate) async fn run(
    mut db: SqliteConnection,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
    stop: CancellationToken,
    clock: fn() -> Timestamp,
    trap: Option<Trap>,
) {
    let mut streams = Streams::default();
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = stop.cancelled(), if !jobs.is_closed() => {
                jobs.close();
                continue;
            }
        };
        let Some(first) = job else { break };
        let group = gather(first, &mut jobs);
        commit(&mut db, &mut streams, group, clock(), trap.as_ref()).await;
    }
    close(db).await;
}

/// The first change and those that wait behind it, up to the size of a commit.
fn gather(first: Box<dyn Job>, jobs: &mut mpsc::Receiver<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    let mut rows = first.rows();
    let mut group = vec![first];
    while rows < GROUP_ROWS {
        let Ok(job) = jobs.try_recv() else { break };
        rows += job.rows();
        group.push(job);
    }
    group
}

/// Commits the group; where that fails, each change by itself, so that a broken one fails alone.
async fn commit(
    db: &mut SqliteConnection,
    streams: &mut Streams,
    mut group: Vec<Box<dyn Job>>,
    at: Timestamp,
    trap: Option<&Trap>,
) {
    match try_commit(db, &mut group, at, Some(&mut *streams)).await {
        Ok(()) => {
            if let Some(trap) = trap {
                trap.spring(Moment::Committed);
            }
            // Elsewhere: what waits in the queue need not wait for the memory of a thousand rows to be given back.
            tokio::spawn(async { group.into_iter().for_each(Job::answer) });
            return;
        }
        Err(error) => debug!(changes = group.len(), %error, "group rolled back, trying its changes one by one"),
    }
    streams.forget();
    for job in group {
        let mut single = [job];
        let result = try_commit(db, &mut single, at, None).await;
        let [job] = single;
        match result {
            Ok(()) => job.answer(),
            Err(error) => job.fail(error),
        }
    }
}

/// No timeout and no `select!` around this: a transaction is committed or rolled back, never dropped half-way.
///
/// In plain SQL: a full disk makes SQLite itself roll back, and a transaction that is counted elsewhere would then be one
/// too many for ever.
async fn try_commit(
    db: &mut SqliteConnection,
    group: &mut [Box<dyn Job>],
    at: Timestamp,
    together: Option<&mut Streams>,
) -> Result<(), StoreError> {
    let committed = async {
        execute(db, "BEGIN IMMEDIATE").await?;
        match together {
            Some(streams) => streams.apply(db, group, at).await?,
            None => apply_in_turn(db, group, at).await?,
        }
        execute(db, "COMMIT").await
    }
    .await;
    if committed.is_err() {
        // It may have been rolled back already; what counts is that no transaction is open when the next one begins.
        if let Err(error) = execute(db, "ROLLBACK").await {
            debug!(%error, "nothing to roll back");
        }
    }
    committed
}

async fn execute(db: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(db).await?;
    Ok(())
}

async fn apply_in_turn(db: &mut SqliteConnection, group: &mut [Box<dyn Job>], at: Timestamp) -> Result<(), StoreError> {
    for job in group.iter_mut() {
        job.apply(db, at).await?;
    }
    Ok(())
}

async fn close(mut db: SqliteConnection) {
    // Readers need no write-ahead log then, and a copy of the one file is the whole database.
    if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await {
        debug!(%error, "write-ahead log is left in place");
    }
    if let Err(error) = db.close().await {
        error!(%error, "failed to close the database");
    }
}
