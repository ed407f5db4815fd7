//! What can go wrong with the database.

use std::path::PathBuf;

use regatta_core::id::RunId;

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The path names a folder.
    #[error("database {0} is a directory: name a file inside it, such as {0}/regatta.db")]
    IsDirectory(PathBuf),
    /// There is nothing to read.
    #[error("database {0} does not exist: name one that a run has written, or run a scenario first")]
    NotFound(PathBuf),
    /// The file can't be opened, made or written to.
    #[error("can't open database {path}: {reason}; {fix}")]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// The file system gives no locks and no shared memory that SQLite could trust.
    #[error("database {path} is on a network file system ({kind}): write-ahead logging needs a local disk")]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// Another program's database. It is left as it was.
    #[error("database {path} was not made by regatta (application id {found}): nothing was changed; name another file")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// The id in the file.
        found: i64,
    },
    /// A newer program has written it. It is left as it was.
    #[error(
        "database {path} has schema version {found}, this program knows {known}: nothing was changed; \
         use the newer program"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// An older program has written it, and only a coordinator may bring it up to date.
    #[error(
        "database {path} has schema version {found}, this program needs {known}: \
         start a coordinator or a run on it once, which brings it up to date"
    )]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Version needed.
        known: i64,
    },
    /// Another coordinator writes to it.
    #[error("database {path} is locked by pid {pid}: stop that program, or name another file")]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process that holds it, or `unknown`.
        pid: String,
    },
    /// SQLite before the fix of the bug that could corrupt a database with a write-ahead log.
    #[error("sqlite {0} can corrupt a database with a write-ahead log: 3.51.3 or later is needed")]
    OldSqlite(String),
    /// The disk is full.
    #[error("the disk of the database is full: nothing was stored; make room and try again")]
    Full,
    /// It kept the write-ahead log from being emptied.
    #[error(
        "the read took too long and was cut off, because the database's write-ahead log grows as long as it lasts: \
         try again when there is less to do, or copy the database with 'regatta backup FILE' and read the copy"
    )]
    ReadTooLong,
    /// A stored value that no version of this program writes.
    #[error("database has an unreadable value in {column}: {value}")]
    Unreadable {
        /// Table and column, or column.
        column: String,
        /// The value, cut.
        value: String,
    },
    /// A value that does not fit its column.
    #[error("{column} is {value}, more than the database can hold")]
    TooLarge {
        /// Its column.
        column: &'static str,
        /// The value.
        value: u64,
    },
    /// A change whose conditions did not hold: it was not made. A mistake of the program.
    #[error("a guarded change did not apply: {0}")]
    Guard(String),
    /// No run of that id.
    #[error("there is no run '{id}'; {}", newest_text(newest))]
    RunNotFound {
        /// What was asked for.
        id: String,
        /// The newest runs there are.
        newest: Vec<RunId>,
    },
    /// More than one run begins so.
    #[error("run '{id}' is ambiguous: it may be {}", join(candidates))]
    AmbiguousRun {
        /// What was asked for.
        id: String,
        /// Runs whose ids begin so.
        candidates: Vec<RunId>,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    /// The writer has stopped.
    #[error("the database is closed")]
    Closed,
    /// A migration failed; the schema is as it was before.
    #[error("failed to bring the database up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    /// Anything else.
    #[error("database failed: {0}")]
    Sql(sqlx::Error),
}

/// The result code of a full disk.
const SQLITE_FULL: &str = "13";

/// The result code of a statement that was cut off. Only reads are.
const SQLITE_INTERRUPT: &str = "9";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
            Some(code) if code == SQLITE_FULL => Self::Full,
            Some(code) if code == SQLITE_INTERRUPT => Self::ReadTooLong,
            _ => Self::Sql(error),
        }
    }
}

fn join(ids: &[RunId]) -> String {
    ids.iter().map(RunId::as_str).collect::<Vec<_>>().join(", ")
}

fn newest_text(newest: &[RunId]) -> String {
    if newest.is_empty() { "no run is stored yet".to_owned() } else { format!("the newest are {}", join(newest)) }
}
