//! Moments of the one connection that writes at which a test may stop it, or the whole process: a slow disk and a kill
//! are played where they happen. Without a trap nothing is asked and nothing is installed.

use std::fmt;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;

/// How often a migration is interrupted, in instructions of SQLite.
const MIGRATING: i32 = 20;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Within a migration; comes many times.
    Migrating,
    /// A transaction is complete, and nothing of it is on the disk. The lock for writing is held.
    Committing,
    /// It is on the disk, and nobody has been told.
    Committed,
}

/// What a test does at those moments. It may block: then everything waits that would wait for a disk.
#[derive(Clone)]
pub struct Trap(Arc<dyn Fn(Moment) + Send + Sync>);

impl fmt::Debug for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trap")
    }
}

impl Trap {
    /// A trap that does this.
    pub fn new(spring: impl Fn(Moment) + Send + Sync + 'static) -> Self {
        Self(Arc::new(spring))
    }

    pub(crate) fn spring(&self, moment: Moment) {
        (self.0)(moment);
    }

    /// Set while the schema is brought up to date.
    pub(crate) async fn watch_migrations(&self, db: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let trap = self.clone();
        db.lock_handle().await?.set_progress_handler(MIGRATING, move || {
            trap.spring(Moment::Migrating);
            true
        });
        Ok(())
    }

    /// Set from then on.
    pub(crate) async fn watch_commits(&self, db: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let trap = self.clone();
        let mut handle = db.lock_handle().await?;
        handle.remove_progress_handler();
        handle.set_commit_hook(move || {
            trap.spring(Moment::Committing);
            true
        });
        Ok(())
    }
}
