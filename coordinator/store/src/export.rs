//! One run as a database file of its own, with the whole schema, so that whoever can read the coordinator's database
//! can read this one. What is not the run's, such as tokens and other people's runs, is not in it.

use std::fmt::Write as _;
use std::path::Path;

use regatta_core::id::RunId;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::error::StoreError;
use crate::read::Reader;
use crate::schema;
use crate::snapshot;

/// Agents that the run was unfolded over or that measured something of it.
const AGENTS: &str = "SELECT agent_id FROM src.run_devices WHERE run_id = ?1
    UNION SELECT agent_id FROM src.trials WHERE run_id = ?1
    UNION SELECT d.agent_id FROM src.deliveries d JOIN src.trials t ON t.id = d.trial_id WHERE t.run_id = ?1";

/// The run's trials.
const TRIALS: &str = "SELECT id FROM src.trials WHERE run_id = ?1";

/// Every table, with the rows that go along: those of the run, of its trials, of its agents, or none.
const TABLES: [(&str, Rows); 21] = [
    ("runs", Rows::Where("id = ?1")),
    ("run_devices", Rows::OfRun),
    ("trials", Rows::OfRun),
    ("cells", Rows::OfRun),
    ("samples", Rows::OfRun),
    ("deliveries", Rows::OfTrials),
    ("arrivals", Rows::Arrivals),
    ("record_conflicts", Rows::OfTrials),
    ("rejected_samples", Rows::OfRun),
    ("worker_facts", Rows::OfTrials),
    ("fingerprints", Rows::Fingerprints),
    ("agents", Rows::OfAgents("id")),
    ("devices", Rows::OfAgents("agent_id")),
    ("canaries", Rows::OfAgents("agent_id")),
    ("events", Rows::Events),
    ("barriers", Rows::OfGroups),
    ("verdicts", Rows::OfRun),
    ("machine_events", Rows::OfRun),
    ("excluded_nights", Rows::OfRun),
    ("firings", Rows::OfRun),
    ("pins", Rows::OfRun),
];

/// Which rows of a table belong to a run.
#[derive(Debug, Clone, Copy)]
enum Rows {
    OfRun,
    OfTrials,
    /// Those of groups of its trials.
    OfGroups,
    /// Those of the chains of its leases: there is no index from a trial to what has arrived of it.
    Arrivals,
    /// Those of its worker processes.
    Fingerprints,
    /// Those of its agents, named by this column.
    OfAgents(&'static str),
    /// Those of the run, and those of its agents that belong to no run, from its submission to its end.
    Events,
    Where(&'static str),
}

impl Rows {
    fn condition(self) -> String {
        match self {
            Self::OfRun => "run_id = ?1".to_owned(),
            Self::OfTrials => format!("trial_id IN ({TRIALS})"),
            Self::OfGroups => format!("group_id IN ({TRIALS})"),
            Self::Arrivals => format!(
                "id IN (WITH RECURSIVE chain (id) AS (
                    SELECT last_arrival FROM src.deliveries WHERE trial_id IN ({TRIALS}) AND last_arrival IS NOT NULL
                    UNION ALL
                    SELECT before FROM chain JOIN src.arrivals USING (id) WHERE before IS NOT NULL
                 ) SELECT id FROM chain)"
            ),
            Self::Fingerprints => {
                format!("hash IN (SELECT fingerprint FROM src.worker_facts WHERE trial_id IN ({TRIALS}))")
            }
            Self::OfAgents(column) => format!("{column} IN ({AGENTS})"),
            Self::Events => format!(
                "run_id = ?1 OR (run_id IS NULL AND agent_id IN ({AGENTS}) AND at_unix_ns BETWEEN
                    (SELECT created_at_unix_ns FROM src.runs WHERE id = ?1) AND
                    (SELECT COALESCE(ended_at_unix_ns, {}) FROM src.runs WHERE id = ?1))",
                i64::MAX
            ),
            Self::Where(condition) => condition.to_owned(),
        }
    }
}

impl Reader {
    /// Writes the run, as it is now, to a new database at `into`, where there must be nothing yet or an empty file. All
    /// of it is one moment, so it takes no longer than reads may take.
    pub async fn export(&self, run: &RunId, into: &Path) -> Result<(), StoreError> {
        let source = self.pool.connect_options().get_filename().to_owned();
        let options = SqliteConnectOptions::new()
            .filename(into)
            .create_if_missing(true)
            // A file that is of no use unless it is complete needs no protection against a power cut.
            .synchronous(SqliteSynchronous::Off)
            // Checked once at the end: rows come table by table.
            .foreign_keys(false);
        let mut db = options.connect().await?;
        // `run` would take the connection in a way that keeps this future on its thread.
        schema::migrator().run_direct(None, &mut db, false).await.map_err(StoreError::Migrate)?;
        sqlx::query("ATTACH DATABASE ? AS src").bind(read_only_uri(&source)).execute(&mut db).await?;
        snapshot::limit(&mut db, self.longest).await?;
        copy(&mut db, run).await?;
        sqlx::query("DETACH DATABASE src").execute(&mut db).await?;
        db.close().await?;
        Ok(())
    }
}

/// Copies all tables within one transaction, so that they show the same moment.
async fn copy(db: &mut SqliteConnection, run: &RunId) -> Result<(), StoreError> {
    sqlx::query("BEGIN").execute(&mut *db).await?;
    for (table, rows) in TABLES {
        // Both sides have gone through the same migrations, so their columns stand in the same order.
        let sql = format!("INSERT INTO main.{table} SELECT * FROM src.{table} WHERE {}", rows.condition());
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(run.as_str()).execute(&mut *db).await?;
    }
    let dangling = sqlx::query("PRAGMA main.foreign_key_check").fetch_all(&mut *db).await?;
    if !dangling.is_empty() {
        return Err(StoreError::Guard(format!("the copy of run {run} has {} dangling references", dangling.len())));
    }
    sqlx::query("COMMIT").execute(&mut *db).await?;
    Ok(())
}

/// A path as SQLite takes it with options.
fn read_only_uri(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = "file:".to_owned();
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_') {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri + "?mode=ro"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::Row;

    use super::*;

    /// Tables that stay where they are, with the reason.
    const LEFT_OUT: [&str; 6] = [
        // Of whoever may speak to the coordinator, not of a run.
        "tokens",
        // Of other tools, not of a run.
        "imports",
        "imported_rows",
        // Of a coordinator.
        "schedules",
        "pruned_runs",
        "outbox",
    ];

    #[tokio::test]
    async fn every_table_is_copied_or_left_out_on_purpose() {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("x.db")).create_if_missing(true);
        let mut db = options.connect().await.unwrap();
        schema::migrator().run(&mut db).await.unwrap();
        let tables = sqlx::query(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'
                AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        let there: BTreeSet<String> = tables.iter().map(|row| row.get("name")).collect();
        let known: BTreeSet<String> =
            TABLES.iter().map(|(table, _)| *table).chain(LEFT_OUT).map(str::to_owned).collect();
        assert_eq!(there, known);
        db.close().await.unwrap();
    }

    #[test]
    fn odd_paths_become_uris() {
        assert_eq!(read_only_uri(Path::new("/a b/50%?#.db")), "file:/a%20b/50%25%3f%23.db?mode=ro");
    }
}
