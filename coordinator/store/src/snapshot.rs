//! How long a reader of ours may see one moment of the database.
//!
//! As long as anybody does, the write-ahead log can't be emptied beyond that moment, and grows with all that is written
//! meanwhile. Writing goes on; the disk fills up. So our own readers are cut off in time. Other people's programs can't be:
//! for those there is an alarm on the size of the log.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use crate::read::Reader;

/// The longest that a statement, or the copy of a run, may take.
pub const LONGEST_READ: Duration = Duration::from_mins(2);

/// How often the time is looked at, in instructions of SQLite.
const INSTRUCTIONS: i32 = 1000;

/// Cuts off whatever this connection is doing when that time has passed from now.
pub(crate) async fn limit(db: &mut SqliteConnection, longest: Duration) -> Result<(), sqlx::Error> {
    let begun = Instant::now();
    db.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || begun.elapsed() < longest);
    Ok(())
}

impl Reader {
    /// Bytes of the write-ahead log.
    pub fn wal_bytes(&self) -> u64 {
        let mut name = self.pool.connect_options().get_filename().as_os_str().to_owned();
        name.push("-wal");
        PathBuf::from(name).metadata().map_or(0, |log| log.len())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Connection};

    use super::*;
    use crate::error::StoreError;

    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

    #[tokio::test]
    async fn a_statement_without_end_is_cut_off_and_the_connection_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        crate::open::writer(&path, None).await.unwrap().close().await.unwrap();
        let pool = crate::open::readers(&path, Duration::from_millis(50)).await.unwrap();
        // More often than there are connections: each use has the whole time to itself.
        for _ in 0..6 {
            let error = StoreError::from(sqlx::query(ENDLESS).fetch_one(&pool).await.unwrap_err());
            assert!(matches!(error, StoreError::ReadTooLong), "{error}");
            sqlx::query("SELECT 1").fetch_one(&pool).await.unwrap();
        }
        pool.close().await;
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_cut_off() {
        let mut db = sqlx::sqlite::SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
        limit(&mut db, LONGEST_READ).await.unwrap();
        let bounded = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             SELECT count(*) FROM n";
        let count: i64 = sqlx::query_scalar(bounded).fetch_one(&mut db).await.unwrap();
        assert_eq!(count, 100_000);
        db.close().await.unwrap();
    }
}
