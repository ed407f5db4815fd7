//! Regatta's database: SQLite, the only crate with SQL.
//!
//! [`Store`] is a coordinator's: one task writes, a pool reads. [`Reader`] is a report's. Every change is a struct
//! that implements [`Change`], given to [`Writer::write`], which returns after the commit; each module holds the
//! changes of one aggregate. Rows are converted to the words of the domain here and nowhere else.

mod agents;
mod arrivals;
mod backup;
mod blob;
mod canaries;
mod cells;
mod error;
mod events;
mod export;
mod groups;
mod imports;
mod ingest;
mod nights;
mod open;
mod outbox;
mod prune;
mod queue;
mod read;
mod retry;
mod row;
mod runs;
mod schedules;
mod schema;
mod snapshot;
mod stream;
mod tokens;
mod trap;
mod trials;
mod writer;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::agents::{AgentLeft, AgentSeen, ClockSkew, ForgetAgent, Service, SetService};
pub use crate::backup::folder_of as backup_folder;
pub use crate::canaries::CanaryRecord;
pub use crate::cells::EndedCell;
pub use crate::error::StoreError;
pub use crate::groups::{Begun, ReplicaCell};
pub use crate::imports::{ImportRecord, Kept, NewImport};
pub use crate::ingest::{Batch, Content, Ingested, Record, Stored};
pub use crate::nights::{
    Answer, AnswerVerdicts, ExcludeNight, History, KeepVerdicts, KnownCell, MachineEventRecord, NightRecord, ToJudge,
    VerdictRecord,
};
pub use crate::outbox::{NewNotice, Notice, OutboxState, SendOutcome, Sent};
pub use crate::prune::{Fate, Pinned, Retention};
pub use crate::queue::QueueDepth;
pub use crate::read::{
    AgentRecord, CellRecord, Delivery, EventRecord, Reader, RejectedSample, RunDevice, RunRecord, RunSummary,
    TrialRecord, WorkerFacts, WorkerRecord,
};
pub use crate::runs::{CancelRun, Cancelled, HeldTrial, NewRun, ResumeRun, Resumed, Submitted};
pub use crate::schedules::{Accounted, Firing, FiringOutcome, SetStage, Stage};
pub use crate::snapshot::LONGEST_READ;
pub use crate::tokens::{NewToken, Standing, TokenRecord, Tokens};
pub use crate::trap::{Moment, Trap};
pub use crate::trials::{
    Finish, Finished, Granted, Lease, Leased, MAX_ATTEMPTS, Release, ReleaseReason, Released, Seat, Took,
};
pub use crate::writer::{Change, Writer};

/// What a coordinator's database is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What happens at certain moments. For tests.
    pub trap: Option<Trap>,
    /// The longest that a read may take: then it is cut off.
    pub longest_read: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { trap: None, longest_read: LONGEST_READ }
    }
}

/// A coordinator's database. One process at a time has it.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    writer: Writer,
    stop: CancellationToken,
    tasks: TaskTracker,
    _lock: open::WriterLock,
}

impl Store {
    /// Opens the database at `path`, makes it where there is none, and brings its schema up to date. `clock` gives
    /// the wall-clock time that changes are labelled with.
    pub async fn open(path: &Path, clock: fn() -> Timestamp) -> Result<Self, StoreError> {
        Self::open_with(path, clock, StoreOptions::default()).await
    }

    /// The same for those who want something else than the usual.
    pub async fn open_with(path: &Path, clock: fn() -> Timestamp, options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { trap, longest_read } = options;
        open::check(path).await?;
        let lock = open::lock(path)?;
        backup::before_migration(path, clock()).await?;
        let db = open::writer(path, trap.as_ref()).await?;
        let reader = Reader { pool: open::readers(path, longest_read).await?, longest: longest_read };
        let (writer, jobs) = writer::channel();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(writer::run(db, jobs, stop.clone(), clock, trap));
        tasks.close();
        Ok(Self { reader, writer, stop, tasks, _lock: lock })
    }

    /// Opens the database at `path` for reading, also while a coordinator writes to it.
    pub async fn open_read_only(path: &Path) -> Result<Reader, StoreError> {
        open::check_read_only(path).await?;
        Ok(Reader { pool: open::readers(path, LONGEST_READ).await?, longest: LONGEST_READ })
    }

    /// Reads.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Writes. Clones share the one writer task.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Takes no more changes, stores those that wait already, and closes the database.
    pub async fn close(self) {
        self.reader.close().await;
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
