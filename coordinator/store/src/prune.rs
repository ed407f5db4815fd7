//! Removing runs, and pinning those that are to stay; also while a coordinator writes to the database.
//!
//! A run goes at once, in one short transaction, and its samples after it piece by piece, so that a coordinator never waits long
//! for the disk. Whatever breaks that off leaves no half run behind: only samples that nobody sees any more, which go next time.
//! A person's changes go through a connection of their own, as those of tokens do.

use std::path::Path;

use jiff::Timestamp;
use regatta_core::id::{RunId, TrialId};
use regatta_core::retention::{self, Facts, Held, Policy};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Sqlite, Transaction};

use crate::Store;
use crate::error::StoreError;
use crate::open;
use crate::row::{Columns, unix_ns};

/// Samples that one transaction removes: some megabytes of log, a fraction of a second.
const PIECE: u32 = 2000;

/// What a row takes beside its blobs, in bytes, about.
const ROW: u32 = 250;

/// A run, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// The run.
    pub run: RunId,
    /// Its scenario's name.
    pub scenario: String,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// Why it stays; `None` where it goes.
    pub held: Option<Held>,
    /// Its samples. Of runs that go only.
    pub samples: u64,
    /// What they take, in bytes, about. Of runs that go only.
    pub bytes: u64,
}

/// A run that a person wants to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The run.
    pub run: RunId,
    /// Why.
    pub reason: String,
}

/// A person's way to old runs.
#[derive(Debug)]
pub struct Retention {
    db: SqliteConnection,
}

impl Retention {
    /// Opens the database at `path`, which has to be there.
    pub async fn open(path: &Path, clock: fn() -> Timestamp) -> Result<Self, StoreError> {
        if !path.is_file() {
            return Err(StoreError::NotFound(path.to_owned()));
        }
        if open::needs_migration(path).await? {
            Store::open(path, clock).await?.close().await;
        }
        Ok(Self { db: open::without_foreign_keys(path).await? })
    }

    /// What would become of each run, oldest first.
    pub async fn plan(&mut self, policy: &Policy, now: Timestamp) -> Result<Vec<Fate>, StoreError> {
        let mut look = self.db.begin().await?;
        let mut fates = fates(&mut look, policy, now).await?;
        for fate in fates.iter_mut().filter(|fate| fate.held.is_none()) {
            (fate.samples, fate.bytes) = size(&mut look, &fate.run).await?;
        }
        look.rollback().await?;
        Ok(fates)
    }

    /// Removes what the policy does not hold, the newest first: what repeats a run goes before that one. `gone` hears of each.
    pub async fn prune(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        mut gone: impl FnMut(&Fate),
    ) -> Result<(), StoreError> {
        self.finish().await?;
        for fate in self.plan(policy, now).await?.iter().rev().filter(|fate| fate.held.is_none()) {
            if self.remove(&fate.run, policy, now).await? {
                gone(fate);
            }
        }
        Ok(())
    }

    /// Removes a run with its samples, if it is still to go; whether it was.
    async fn remove(&mut self, run: &RunId, policy: &Policy, now: Timestamp) -> Result<bool, StoreError> {
        let mut change = self.db.begin_with("BEGIN IMMEDIATE").await?;
        // Since the plan was made it may have been pinned, or repeated.
        let goes = fates(&mut change, policy, now).await?.iter().any(|fate| fate.run == *run && fate.held.is_none());
        if !goes {
            change.rollback().await?;
            return Ok(false);
        }
        remove_run(&mut change, run, now).await?;
        change.commit().await?;
        self.remove_samples(run).await?;
        Ok(true)
    }

    /// Goes on with what an earlier removal has left, if anything.
    async fn finish(&mut self) -> Result<(), StoreError> {
        let left = sqlx::query("SELECT run_id FROM pruned_runs WHERE samples_left = 1").fetch_all(&mut self.db).await?;
        for row in left {
            self.remove_samples(&row.parsed("run_id")?).await?;
        }
        Ok(())
    }

    async fn remove_samples(&mut self, run: &RunId) -> Result<(), StoreError> {
        let piece = "DELETE FROM samples WHERE rowid IN (SELECT rowid FROM samples WHERE run_id = ? LIMIT ?)";
        loop {
            let removed = sqlx::query(piece).bind(run.as_str()).bind(PIECE).execute(&mut self.db).await?;
            if removed.rows_affected() == 0 {
                break;
            }
        }
        let done = sqlx::query("UPDATE pruned_runs SET samples_left = 0 WHERE run_id = ?").bind(run.as_str());
        done.execute(&mut self.db).await?;
        Ok(())
    }

    /// Pins a run; it takes the place of an earlier reason. Whether it is there.
    pub async fn pin(&mut self, run: &RunId, reason: &str, at: Timestamp) -> Result<bool, StoreError> {
        let pinned = sqlx::query(
            "INSERT INTO pins (run_id, reason, pinned_at_unix_ns) SELECT id, ?2, ?3 FROM runs WHERE id = ?1
             ON CONFLICT (run_id) DO UPDATE SET reason = excluded.reason, pinned_at_unix_ns = excluded.pinned_at_unix_ns",
        );
        let pinned = pinned.bind(run.as_str()).bind(reason).bind(unix_ns(at)).execute(&mut self.db).await?;
        Ok(pinned.rows_affected() == 1)
    }

    /// Unpins a run; whether it was pinned.
    pub async fn unpin(&mut self, run: &RunId) -> Result<bool, StoreError> {
        let unpinned =
            sqlx::query("DELETE FROM pins WHERE run_id = ?").bind(run.as_str()).execute(&mut self.db).await?;
        Ok(unpinned.rows_affected() == 1)
    }

    /// The runs that are pinned, oldest first.
    pub async fn pins(&mut self) -> Result<Vec<Pinned>, StoreError> {
        let rows = sqlx::query("SELECT run_id, reason FROM pins ORDER BY run_id").fetch_all(&mut self.db).await?;
        rows.iter().map(|row| Ok(Pinned { run: row.parsed("run_id")?, reason: row.text("reason")? })).collect()
    }

    /// Closes the database.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.db.close().await?)
    }
}

impl Store {
    /// Gives the room that removed runs have left back to the file system. It takes the database's size on the disk once more
    /// while it lasts, and nobody else may write meanwhile.
    pub async fn vacuum(path: &Path) -> Result<(), StoreError> {
        open::check_read_only(path).await?;
        let _lock = open::lock(path)?;
        let mut db = open::beside_coordinator(path).await?;
        let vacuumed = sqlx::query("VACUUM").execute(&mut db).await;
        let emptied = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut db).await;
        db.close().await?;
        vacuumed.and(emptied)?;
        Ok(())
    }
}

/// Whether a person has removed the run of that trial.
pub(crate) async fn was_pruned(db: &mut SqliteConnection, trial: &TrialId) -> Result<Option<RunId>, StoreError> {
    let Some((run, _)) = trial.as_str().rsplit_once(".t") else { return Ok(None) };
    let row = sqlx::query("SELECT run_id FROM pruned_runs WHERE run_id = ?").bind(run).fetch_optional(db).await?;
    row.map(|row| row.parsed("run_id")).transpose()
}

async fn fates(db: &mut SqliteConnection, policy: &Policy, now: Timestamp) -> Result<Vec<Fate>, StoreError> {
    let rows = sqlx::query(
        "SELECT r.id, r.name, r.created_at_unix_ns, r.ended_at_unix_ns, r.retry_of,
            EXISTS (SELECT 1 FROM pins WHERE run_id = r.id) AS pinned,
            EXISTS (SELECT 1 FROM firings WHERE run_id = r.id AND stage <> 'judged') AS to_be_judged,
            EXISTS (SELECT 1 FROM verdicts WHERE run_id = r.id AND answer IS NOT NULL) AS answered,
            (SELECT json_group_array(DISTINCT since) FROM verdicts WHERE run_id = r.id AND bears = 'changed') AS levels
         FROM runs r ORDER BY r.id",
    );
    let rows = rows.fetch_all(db).await?;
    let facts = rows.iter().map(facts).collect::<Result<Vec<Facts>, StoreError>>()?;
    let fate = |(row, (facts, held)): (&SqliteRow, (&Facts, Option<Held>))| {
        let created_at = row.time("created_at_unix_ns")?;
        let (run, scenario) = (facts.run.clone(), facts.scenario.clone());
        Ok(Fate { run, scenario, created_at, held, samples: 0, bytes: 0 })
    };
    rows.iter().zip(facts.iter().zip(retention::fates(&facts, policy, now))).map(fate).collect()
}

fn facts(row: &SqliteRow) -> Result<Facts, StoreError> {
    Ok(Facts {
        run: row.parsed("id")?,
        scenario: row.text("name")?,
        ended: row.optional_time("ended_at_unix_ns")?,
        repeats: row.optional_parsed("retry_of")?,
        to_be_judged: row.integer("to_be_judged")? != 0,
        pinned: row.integer("pinned")? != 0,
        answered: row.integer("answered")? != 0,
        levels: row.json("levels")?,
    })
}

/// A run's samples, and the bytes they take, about.
async fn size(db: &mut SqliteConnection, run: &RunId) -> Result<(u64, u64), StoreError> {
    // The lengths are in the rows' headers: no blob is read for them.
    let row = sqlx::query(
        "SELECT count(*) AS samples, COALESCE(sum(octet_length(token_times) + octet_length(output)
             + octet_length(COALESCE(telemetry, '')) + ?2), 0) AS bytes FROM samples WHERE run_id = ?1",
    );
    let row = row.bind(run.as_str()).bind(ROW).fetch_one(db).await?;
    Ok((row.unsigned("samples")?, row.unsigned("bytes")?))
}

/// What goes with a run beside its samples, each before what it belongs to.
const OF_RUN: [&str; 16] = [
    // From the leases back along the chains: there is no index by lease.
    "WITH RECURSIVE chain (id) AS (
        SELECT d.last_arrival FROM deliveries d JOIN trials t ON t.id = d.trial_id WHERE t.run_id = ?1
        UNION ALL SELECT a.before FROM arrivals a JOIN chain c ON a.id = c.id WHERE a.before IS NOT NULL)
     DELETE FROM arrivals WHERE id IN (SELECT id FROM chain)",
    "DELETE FROM worker_facts WHERE trial_id IN (SELECT id FROM trials WHERE run_id = ?1)",
    "DELETE FROM record_conflicts WHERE trial_id IN (SELECT id FROM trials WHERE run_id = ?1)",
    "DELETE FROM rejected_samples WHERE run_id = ?1",
    "DELETE FROM deliveries WHERE trial_id IN (SELECT id FROM trials WHERE run_id = ?1)",
    "DELETE FROM barriers WHERE group_id IN (SELECT id FROM trials WHERE run_id = ?1)",
    "DELETE FROM events WHERE run_id = ?1",
    "DELETE FROM verdicts WHERE run_id = ?1",
    "DELETE FROM machine_events WHERE run_id = ?1",
    "DELETE FROM excluded_nights WHERE run_id = ?1",
    "DELETE FROM firings WHERE run_id = ?1",
    "DELETE FROM pins WHERE run_id = ?1",
    "DELETE FROM run_devices WHERE run_id = ?1",
    "DELETE FROM cells WHERE run_id = ?1",
    "DELETE FROM trials WHERE run_id = ?1",
    "DELETE FROM fingerprints WHERE hash NOT IN (SELECT fingerprint FROM worker_facts WHERE fingerprint IS NOT NULL)",
];

async fn remove_run(change: &mut Transaction<'_, Sqlite>, run: &RunId, at: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO pruned_runs (run_id, name, created_at_unix_ns, pruned_at_unix_ns, samples_left)
         SELECT id, name, created_at_unix_ns, ?2, 1 FROM runs WHERE id = ?1",
    )
    .bind(run.as_str())
    .bind(unix_ns(at))
    .execute(&mut **change)
    .await?;
    for sql in OF_RUN {
        sqlx::query(sql).bind(run.as_str()).execute(&mut **change).await?;
    }
    sqlx::query("DELETE FROM runs WHERE id = ?").bind(run.as_str()).execute(&mut **change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    const RUN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    /// The rows of any table that name the run.
    async fn mentions(db: &mut SqliteConnection) -> Vec<String> {
        let columns = sqlx::query(
            "SELECT t.name AS tbl, c.name AS col FROM pragma_table_list t JOIN pragma_table_info(t.name) c
             WHERE t.schema = 'main' AND t.type = 'table' AND c.type = 'TEXT'",
        );
        let mut found = Vec::new();
        for column in columns.fetch_all(&mut *db).await.unwrap() {
            let (table, column) = (column.text("tbl").unwrap(), column.text("col").unwrap());
            let count = format!(
                "SELECT count(*) AS n FROM \"{table}\" WHERE \"{column}\" = ?1 OR \"{column}\" LIKE ?1 || '.t%'"
            );
            let count = sqlx::query(sqlx::AssertSqlSafe(count)).bind(RUN).fetch_one(&mut *db).await.unwrap();
            if count.integer("n").unwrap() > 0 {
                found.push(format!("{table}.{column}"));
            }
        }
        found
    }

    #[tokio::test]
    async fn nothing_of_a_run_is_left_in_any_table_but_that_it_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = schema::tests::full(&dir).await;
        let ended = "UPDATE runs SET state = 'done', ended_at_unix_ns = 1; UPDATE trials SET state = 'done', evidence = NULL;
            DELETE FROM pins; UPDATE verdicts SET answer = NULL, reason = NULL, answered_at_unix_ns = NULL, bears = NULL, since = NULL";
        let before = mentions(&mut db).await;
        assert!(before.len() > 12, "{before:?}");
        sqlx::raw_sql(ended).execute(&mut db).await.unwrap();
        let arrivals: i64 = sqlx::query_scalar("SELECT count(*) FROM arrivals").fetch_one(&mut db).await.unwrap();
        assert!(arrivals > 0);
        db.close().await.unwrap();

        let mut retention = Retention::open(&dir.path().join("x.db"), || Timestamp::UNIX_EPOCH).await.unwrap();
        let (policy, now) =
            (Policy { keep_last: Some(0), ..Policy::default() }, "2026-01-01T00:00:00Z".parse().unwrap());
        let plan = retention.plan(&policy, now).await.unwrap();
        assert!(plan.iter().all(|fate| fate.held.is_none()), "{plan:?}");
        assert!(plan.iter().any(|fate| fate.samples > 0 && fate.bytes > 0), "{plan:?}");
        let mut gone = Vec::new();
        retention.prune(&policy, now, |fate| gone.push(fate.clone())).await.unwrap();
        assert_eq!(gone, plan.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(mentions(&mut retention.db).await, ["pruned_runs.run_id"]);
        for table in ["samples", "cells", "arrivals", "deliveries", "fingerprints", "worker_facts"] {
            let count = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT count(*) AS n FROM {table}")));
            assert_eq!(count.fetch_one(&mut retention.db).await.unwrap().integer("n").unwrap(), 0, "{table}");
        }
        let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut retention.db).await.unwrap();
        assert!(broken.is_empty(), "{} references lead nowhere", broken.len());
        let trial: TrialId = format!("{RUN}.t3").parse().unwrap();
        assert_eq!(was_pruned(&mut retention.db, &trial).await.unwrap(), Some(RUN.parse().unwrap()));
        retention.close().await.unwrap();
    }
}
