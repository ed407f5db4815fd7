//! Copies of the database, made while a coordinator writes to it: one moment of it, whole and checked, in one file. And the way
//! back from one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tracing::{info, warn};

use crate::Store;
use crate::error::StoreError;
use crate::open;
use crate::read::Reader;
use crate::row::Columns;

/// Time in the names of backups: UTC, with nothing in it that a file system would not have, and in order when sorted.
const STAMP: &str = "%Y-%m-%dT%H-%M-%SZ";

/// A backup of the night is not made again before that time has passed.
const NIGHT: SignedDuration = SignedDuration::from_hours(20);

/// Backups from before migrations that are kept.
const MIGRATIONS_KEPT: usize = 2;

/// Why a backup is made: the end of its file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// A schedule fires.
    Night,
    /// The schema is about to change from this version.
    Migration(i64),
}

impl Occasion {
    fn suffix(self) -> String {
        match self {
            Self::Night => "night.sqlite".to_owned(),
            Self::Migration(from) => format!("schema-{from}.sqlite"),
        }
    }

    /// Whether a backup was made for the same kind of reason.
    fn is_of(self, suffix: &str) -> bool {
        match self {
            Self::Night => suffix == self.suffix(),
            Self::Migration(_) => suffix.starts_with("schema-"),
        }
    }
}

impl Reader {
    /// Copies the database as it is now to a new file at `to`. Never copy the file itself while a coordinator runs: what
    /// was stored last is in the write-ahead log beside it.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        backup(self.pool.connect_options().get_filename(), to).await
    }

    /// Makes the night's backup in a folder and removes the oldest ones beyond `keep`; `None` where the last one is younger than a
    /// night.
    pub async fn nightly_backup(
        &self,
        folder: &Path,
        keep: usize,
        now: Timestamp,
    ) -> Result<Option<PathBuf>, StoreError> {
        let options = self.pool.connect_options();
        let database = options.get_filename();
        let newest = made(folder, database, Occasion::Night)?.pop();
        if newest.is_some_and(|(at, _)| now.duration_since(at) < NIGHT) {
            return Ok(None);
        }
        keep_one(database, folder, Occasion::Night, keep, now).await.map(Some)
    }
}

/// The folder of a database's backups, unless another one is named.
pub fn folder_of(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".backups");
    database.with_file_name(name)
}

/// Copies a database whose schema is about to change; without such a copy it is left as it is.
pub(crate) async fn before_migration(database: &Path, now: Timestamp) -> Result<(), StoreError> {
    let Some(version) = open::outdated(database).await? else { return Ok(()) };
    let copy = keep_one(database, &folder_of(database), Occasion::Migration(version), MIGRATIONS_KEPT, now).await?;
    info!(backup = %copy.display(), from = version, "the schema of the database changes; a copy from before is kept");
    Ok(())
}

/// Makes a backup, and removes the oldest ones of the same kind beyond `keep`.
async fn keep_one(
    database: &Path,
    folder: &Path,
    occasion: Occasion,
    keep: usize,
    now: Timestamp,
) -> Result<PathBuf, StoreError> {
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error.to_string()))?;
    let copy = folder.join(format!("{}-{}-{}", stem(database), now.strftime(STAMP), occasion.suffix()));
    backup(database, &copy).await?;
    let all = made(folder, database, occasion)?;
    for (_, old) in all.iter().take(all.len().saturating_sub(keep.max(1))) {
        // One that stays is no reason to call off what the backup was made for.
        if let Err(error) = std::fs::remove_file(old) {
            warn!(backup = %old.display(), %error, "an old backup could not be removed");
        }
    }
    Ok(copy)
}

/// The backups in a folder that were made of a database for the same kind of reason, oldest first.
fn made(folder: &Path, database: &Path, occasion: Occasion) -> Result<Vec<(Timestamp, PathBuf)>, StoreError> {
    let unreadable = |error: io::Error| failed(folder, &error.to_string());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let prefix = format!("{}-", stem(database));
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        // 2026-01-02T02-30-00Z-…
        let Some((stamp, suffix)) = rest.split_at_checked(20) else { continue };
        let of_occasion = suffix.strip_prefix('-').is_some_and(|suffix| occasion.is_of(suffix));
        let at = DateTime::strptime(STAMP, stamp).and_then(|at| at.to_zoned(TimeZone::UTC));
        if let (true, Ok(at)) = (of_occasion, at) {
            found.push((at.timestamp(), folder.join(&name)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn stem(database: &Path) -> String {
    database.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

async fn backup(database: &Path, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        return Err(failed(to, "it exists already"));
    }
    let unfinished = beside(to, ".unfinished");
    remove(&unfinished)?;
    let copied = copy(database, &unfinished).await;
    if copied.is_err() {
        remove(&unfinished)?;
    }
    copied?;
    publish(&unfinished, to).map_err(|error| failed(to, &error.to_string()))
}

async fn copy(database: &Path, to: &Path) -> Result<(), StoreError> {
    let mut db = SqliteConnectOptions::new().filename(database).read_only(true).connect().await?;
    let name = to.to_str().ok_or_else(|| failed(to, "its name is not valid Unicode"))?;
    let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(&mut db).await;
    db.close().await?;
    copied?;
    check_whole(to).await
}

/// Whether all pages of a database are as they should be.
async fn check_whole(path: &Path) -> Result<(), StoreError> {
    let mut copy = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    let verdict = sqlx::query("PRAGMA integrity_check(1)").fetch_one(&mut copy).await;
    copy.close().await?;
    match verdict?.text("integrity_check")? {
        ok if ok == "ok" => Ok(()),
        reason => Err(failed(path, &format!("the copy is damaged: {reason}"))),
    }
}

impl Store {
    /// Puts a backup in the place of a database. What was there is kept beside it; its name comes back. Nobody else may have the
    /// database meanwhile.
    pub async fn restore(backup: &Path, database: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
        if !backup.is_file() {
            return Err(StoreError::NotFound(backup.to_owned()));
        }
        open::check(backup).await?;
        let same = || Some(backup.canonicalize().ok()? == database.canonicalize().ok()?);
        if same() == Some(true) {
            return Err(StoreError::CannotOpen {
                path: backup.to_owned(),
                reason: "it is the database itself".to_owned(),
                fix: "name a backup of it",
            });
        }
        let _lock = open::lock(database)?;
        // First a whole copy beside the database, so that its place is never empty for longer than a renaming takes.
        let unfinished = beside(database, ".restoring");
        remove(&unfinished)?;
        let copied = copy(backup, &unfinished).await;
        if copied.is_err() {
            remove(&unfinished)?;
        }
        copied?;
        let replaced = if database.exists() { Some(set_aside(database, now).await?) } else { None };
        publish(&unfinished, database).map_err(|error| failed(database, &error.to_string()))?;
        Ok(replaced)
    }
}

/// Renames a database with what belongs to it. A write-ahead log that stayed behind would be taken for that of the backup.
async fn set_aside(database: &Path, now: Timestamp) -> Result<PathBuf, StoreError> {
    // In good order where it can be opened; where it can't, it is damaged, and is kept as it is.
    if let Ok(mut db) = open::beside_coordinator(database).await {
        let folded = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await;
        if let Err(error) = folded.and(db.close().await.map(drop)) {
            warn!(database = %database.display(), %error, "the database that is replaced could not be closed in good order");
        }
    }
    let aside = beside(database, &format!(".replaced-{}", now.strftime(STAMP)));
    if aside.exists() {
        return Err(failed(&aside, "it exists already"));
    }
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(beside(database, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&aside, &error.to_string())),
            _ => {}
        }
    }
    Ok(aside)
}

/// Gives the copy its name when all of it is on the disk.
fn publish(unfinished: &Path, to: &Path) -> io::Result<()> {
    File::options().write(true).open(unfinished)?.sync_all()?;
    std::fs::rename(unfinished, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name is on the disk when the folder is. Only Unix lets a folder be synced, or needs it to be.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error.to_string())),
        _ => Ok(()),
    }
}

fn failed(path: &Path, reason: &str) -> StoreError {
    let fix = "name another file, on a disk with as much room as the database takes";
    StoreError::CannotOpen { path: path.to_owned(), reason: reason.to_owned(), fix }
}
