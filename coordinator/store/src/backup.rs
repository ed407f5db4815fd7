//! A copy of the database, made while a coordinator writes to it: one moment of it, whole and checked, in one file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::error::StoreError;
use crate::read::Reader;
use crate::row::Columns;

impl Reader {
    /// Copies the database as it is now to a new file at `to`. Never copy the file itself while a coordinator runs: what
    /// was stored last is in the write-ahead log beside it.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        if to.exists() {
            return Err(failed(to, "it exists already"));
        }
        let unfinished = beside(to);
        remove(&unfinished)?;
        let copied = self.copy(&unfinished).await;
        if copied.is_err() {
            remove(&unfinished)?;
        }
        copied?;
        publish(&unfinished, to).map_err(|error| failed(to, &error.to_string()))
    }

    async fn copy(&self, to: &Path) -> Result<(), StoreError> {
        let source = self.pool.connect_options();
        let mut db = SqliteConnectOptions::new().filename(source.get_filename()).read_only(true).connect().await?;
        let name = to.to_str().ok_or_else(|| failed(to, "its name is not valid Unicode"))?;
        let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(&mut db).await;
        db.close().await?;
        copied?;
        let mut copy = SqliteConnectOptions::new().filename(to).read_only(true).connect().await?;
        let verdict = sqlx::query("PRAGMA integrity_check(1)").fetch_one(&mut copy).await?.text("integrity_check");
        copy.close().await?;
        match verdict? {
            ok if ok == "ok" => Ok(()),
            reason => Err(failed(to, &format!("the copy is damaged: {reason}"))),
        }
    }
}

/// Gives the copy its name when all of it is on the disk.
fn publish(unfinished: &Path, to: &Path) -> io::Result<()> {
    File::options().write(true).open(unfinished)?.sync_all()?;
    std::fs::rename(unfinished, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name is on the disk when the folder is. Only Unix lets a folder be synced, or needs it to be.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
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
