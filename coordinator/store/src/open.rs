//! Opening a database: whose it is, which version, whether its file system can be trusted, and who else writes to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use crate::error::StoreError;
use crate::row::Columns;
use crate::schema;
use crate::snapshot;
use crate::trap::Trap;

/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Memory for pages of the connection that writes, in KiB. Each cell's part of the samples' index has pages of its own, so
/// a fleet keeps many in use.
const CACHE_KIB: &str = "-16384";

/// Pages that the write-ahead log may have before they are copied back into the database. The more, the more often a page
/// was changed several times and is copied once. Copying on a connection of its own, beside the one that writes, gained
/// nothing: both wait for the same disk.
const CHECKPOINT_PAGES: &str = "8192";

/// The write-ahead log is cut back to this many bytes after a checkpoint.
const JOURNAL_SIZE_LIMIT: &str = "67108864";

/// A database of up to so many bytes is checked at every start.
const ALWAYS_CHECKED: u64 = 512 * 1024 * 1024;

/// Connections that read at the same time.
const READERS: u32 = 4;

/// How long a read waits for a free connection. Calls have shorter deadlines of their own; who watches a run has none,
/// and would rather wait than fail.
const ACQUIRE_TIMEOUT: Duration = Duration::from_mins(10);

/// The first version without the bug that could corrupt a database with a write-ahead log.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];

/// Held while a coordinator writes to a database. The operating system lets go of it when the process ends, however
/// it ends; the file itself stays.
#[derive(Debug)]
pub(crate) struct WriterLock {
    _file: File,
}

/// Takes the right to write to the database at `path`.
pub(crate) fn lock(path: &Path) -> Result<WriterLock, StoreError> {
    let lock_path = beside(path, ".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|error| cannot_open(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked { path: path.to_owned(), pid: holder(&mut file) });
        }
        Err(TryLockError::Error(error)) => return Err(cannot_open(path, &error)),
    }
    write_pid(&mut file).map_err(|error| cannot_open(path, &error))?;
    Ok(WriterLock { _file: file })
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(20).read_to_string(&mut text);
    let pid = text.trim();
    if read.is_ok() && !pid.is_empty() && pid.bytes().all(|c| c.is_ascii_digit()) {
        pid.to_owned()
    } else {
        "unknown".to_owned()
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn cannot_open(path: &Path, error: &std::io::Error) -> StoreError {
    let fix = match error.kind() {
        ErrorKind::NotFound => "make its folder first, or name another file",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "give this user write access to the file and its folder, or name another file"
        }
        _ => "name another file",
    };
    StoreError::CannotOpen { path: path.to_owned(), reason: error.to_string(), fix }
}

/// Checks what can be checked without opening the file for writing, so that a file that is not ours stays as it is.
pub(crate) async fn check(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Err(StoreError::IsDirectory(path.to_owned()));
    }
    check_file_system(path)?;
    let length = match path.metadata() {
        Ok(metadata) if metadata.permissions().readonly() => {
            return Err(cannot_open(path, &std::io::Error::new(ErrorKind::PermissionDenied, "the file is read-only")));
        }
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(cannot_open(path, &error)),
    };
    if length == 0 {
        return Ok(());
    }
    match stored_version(path).await? {
        version if version > schema::NEWEST => {
            Err(StoreError::NewerSchema { path: path.to_owned(), found: version, known: schema::NEWEST })
        }
        _ => Ok(()),
    }
}

/// Whether a coordinator has to make the database or bring it up to date before anybody else can write to it.
pub(crate) async fn needs_migration(path: &Path) -> Result<bool, StoreError> {
    check(path).await?;
    if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(true);
    }
    Ok(stored_version(path).await? < schema::NEWEST)
}

/// The version of a database that holds something and is to be brought up to date.
pub(crate) async fn outdated(path: &Path) -> Result<Option<i64>, StoreError> {
    if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(None);
    }
    let version = stored_version(path).await?;
    Ok((1..schema::NEWEST).contains(&version).then_some(version))
}

/// A connection that writes while a coordinator may have the database.
pub(crate) async fn beside_coordinator(path: &Path) -> Result<SqliteConnection, StoreError> {
    write_options(path).connect().await.map_err(|error| not_a_database(path, error))
}

/// The same for removing runs: SQLite would look at every arrival for each lease that goes, so what belongs to what is looked
/// after by hand.
pub(crate) async fn without_foreign_keys(path: &Path) -> Result<SqliteConnection, StoreError> {
    write_options(path).foreign_keys(false).connect().await.map_err(|error| not_a_database(path, error))
}

/// Checks a database that will only be read.
pub(crate) async fn check_read_only(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Err(StoreError::IsDirectory(path.to_owned()));
    }
    if !path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        return Err(StoreError::NotFound(path.to_owned()));
    }
    let (found, known) = (stored_version(path).await?, schema::NEWEST);
    let path = path.to_owned();
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(StoreError::OlderSchema { path, found, known }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::NewerSchema { path, found, known }),
    }
}

/// The schema version in the file; 0 for a database in which nothing has been made yet.
async fn stored_version(path: &Path) -> Result<i64, StoreError> {
    let mut db = read_options(path).connect().await.map_err(|error| not_a_database(path, error))?;
    let version = read_version(&mut db, path).await;
    db.close().await?;
    version
}

async fn read_version(db: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    let header = sqlx::query("SELECT application_id FROM pragma_application_id()")
        .fetch_one(&mut *db)
        .await
        .map_err(|error| not_a_database(path, error))?;
    let id = header.integer("application_id")?;
    let tables = sqlx::query(
        "SELECT count(*) AS others, count(*) FILTER (WHERE name = '_sqlx_migrations') AS own
         FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )
    .fetch_one(&mut *db)
    .await?;
    let (all, own) = (tables.integer("others")?, tables.integer("own")?);
    // Killed between making the table of migrations and the first migration: still nothing in it.
    let untouched = id == 0 && all == own;
    if id != schema::APPLICATION_ID && !untouched {
        return Err(StoreError::NotOurs { path: path.to_owned(), found: id });
    }
    if own == 0 {
        return Ok(0);
    }
    let row = sqlx::query("SELECT COALESCE(max(version), 0) AS version FROM _sqlx_migrations WHERE success")
        .fetch_one(&mut *db)
        .await?;
    row.integer("version")
}

fn not_a_database(path: &Path, error: sqlx::Error) -> StoreError {
    let reason = match error.as_database_error() {
        Some(database) => database.message().to_owned(),
        None => return StoreError::from(error),
    };
    StoreError::CannotOpen { path: path.to_owned(), reason, fix: "nothing was changed; name another file" }
}

#[cfg(target_os = "linux")]
fn check_file_system(path: &Path) -> Result<(), StoreError> {
    /// Magic numbers of file systems whose locks and shared memory can't be trusted (statfs(2)).
    const NETWORK: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
        (0x00c3_6400, "Ceph"),
        (0x0bd0_0bd0, "Lustre"),
        (0x5346_414f, "AFS"),
        (0x0102_1997, "9p"),
    ];
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(found) = rustix::fs::statfs(folder) else {
        // The folder can't be looked at: opening the file will say why.
        return Ok(());
    };
    // The field's type and sign differ by architecture; the magic numbers are 32 bits wide everywhere.
    let same = |number: u64| u64::try_from(found.f_type & 0xffff_ffff).is_ok_and(|magic| magic == number);
    match NETWORK.into_iter().find(|(number, _)| same(*number)) {
        Some((_, kind)) => Err(StoreError::NetworkFileSystem { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Linux, where there is something to check")]
fn check_file_system(_path: &Path) -> Result<(), StoreError> {
    Ok(())
}

fn read_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("query_only", "1")
        .pragma("mmap_size", "0")
}

fn write_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: an acknowledgement promises that the data is on the disk, not only in the system's cache.
        .synchronous(SqliteSynchronous::Full)
        // What FULL means on macOS, where a plain fsync does not reach the disk. Without effect elsewhere.
        .pragma("fullfsync", "1")
        .pragma("checkpoint_fullfsync", "1")
        .pragma("cache_size", CACHE_KIB)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT)
        .pragma("mmap_size", "0")
}

/// The one connection that writes, with the schema brought up to date.
pub(crate) async fn writer(path: &Path, trap: Option<&Trap>) -> Result<SqliteConnection, StoreError> {
    let options = write_options(path).create_if_missing(true);
    let suspect = deserves_a_check(path);
    let mut db = options.connect().await.map_err(|error| not_a_database(path, error))?;
    check_sqlite(&mut db).await?;
    if suspect {
        check_pages(&mut db, path).await?;
    }
    if let Some(trap) = trap {
        trap.watch_migrations(&mut db).await?;
    }
    schema::migrator().run(&mut db).await.map_err(StoreError::Migrate)?;
    if let Some(trap) = trap {
        trap.watch_commits(&mut db).await?;
    }
    Ok(db)
}

async fn check_sqlite(db: &mut SqliteConnection) -> Result<(), StoreError> {
    let version = sqlx::query("SELECT sqlite_version() AS version").fetch_one(db).await?.text("version")?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found: [u32; 3] = std::array::from_fn(|_| parts.next().unwrap_or(0));
    if found < OLDEST_SQLITE { Err(StoreError::OldSqlite(version)) } else { Ok(()) }
}

/// Whether all pages are to be looked at before anything is written. That takes seconds for each gigabyte, so a large
/// database is spared it when the last coordinator has closed it in good order, leaving no write-ahead log behind.
fn deserves_a_check(path: &Path) -> bool {
    let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    bytes(path) <= ALWAYS_CHECKED || bytes(&beside(path, "-wal")) > 0
}

/// A damaged database is not written to: every further page could make it worse.
async fn check_pages(db: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(db).await.map_err(|error| not_a_database(path, error))?;
    match row.text("quick_check")? {
        ok if ok == "ok" => Ok(()),
        reason => Err(StoreError::CannotOpen {
            path: path.to_owned(),
            reason: format!("it is damaged: {reason}"),
            fix: "nothing was changed; restore a backup or name another file",
        }),
    }
}

/// The connections that read.
pub(crate) async fn readers(path: &Path, longest: Duration) -> Result<SqlitePool, StoreError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // The time runs from the moment that somebody takes the connection. This also shows that it works.
        .test_before_acquire(false)
        .after_connect(move |db, _| Box::pin(snapshot::limit(db, longest)))
        .before_acquire(move |db, _| Box::pin(async move { snapshot::limit(db, longest).await.map(|()| true) }));
    Ok(pool.connect_with(read_options(path)).await?)
}
