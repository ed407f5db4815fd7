//! The schema and its versions. A migration is one transaction: the schema is the old one or the new one, never
//! something between.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Written into the database's header: tells our files from others ("RGTA").
pub(crate) const APPLICATION_ID: i64 = 0x5247_5441;

/// Every migration: version, name, text.
const MIGRATIONS: [(i64, &str, &str); 15] = [
    (1, "initial", include_str!("../../../migrations/0001_initial.sql")),
    (2, "fleet", include_str!("../../../migrations/0002_fleet.sql")),
    (3, "tokens", include_str!("../../../migrations/0003_tokens.sql")),
    (4, "arrival", include_str!("../../../migrations/0004_arrival.sql")),
    (5, "chain", include_str!("../../../migrations/0005_chain.sql")),
    (6, "kinds", include_str!("../../../migrations/0006_kinds.sql")),
    (7, "canaries_imports", include_str!("../../../migrations/0007_canaries_imports.sql")),
    (8, "telemetry", include_str!("../../../migrations/0008_telemetry.sql")),
    (9, "fingerprints", include_str!("../../../migrations/0009_fingerprints.sql")),
    (11, "builds", include_str!("../../../migrations/0011_builds.sql")),
    (13, "verdicts", include_str!("../../../migrations/0013_verdicts.sql")),
    (14, "schedules", include_str!("../../../migrations/0014_schedules.sql")),
    (15, "retention", include_str!("../../../migrations/0015_retention.sql")),
    (16, "outbox", include_str!("../../../migrations/0016_outbox.sql")),
    (17, "device_facts", include_str!("../../../migrations/0017_device_facts.sql")),
];

/// The newest schema version.
pub(crate) const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Runs the migrations that the database has not seen.
pub(crate) fn migrator() -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).to_vec())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

    use super::*;
    use crate::trap::Trap;

    /// Kills of migrations.
    const KILLS: usize = 24;

    /// What each version's tables may hold, inserted after its migration and before the next one.
    const SAMPLES: [&str; MIGRATIONS.len()] = [
        include_str!("../../../migrations/samples/0001_initial.sql"),
        include_str!("../../../migrations/samples/0002_fleet.sql"),
        include_str!("../../../migrations/samples/0003_tokens.sql"),
        include_str!("../../../migrations/samples/0004_arrival.sql"),
        include_str!("../../../migrations/samples/0005_chain.sql"),
        include_str!("../../../migrations/samples/0006_kinds.sql"),
        include_str!("../../../migrations/samples/0007_canaries_imports.sql"),
        include_str!("../../../migrations/samples/0008_telemetry.sql"),
        include_str!("../../../migrations/samples/0009_fingerprints.sql"),
        include_str!("../../../migrations/samples/0011_builds.sql"),
        include_str!("../../../migrations/samples/0013_verdicts.sql"),
        include_str!("../../../migrations/samples/0014_schedules.sql"),
        include_str!("../../../migrations/samples/0015_retention.sql"),
        include_str!("../../../migrations/samples/0016_outbox.sql"),
        include_str!("../../../migrations/samples/0017_device_facts.sql"),
    ];

    /// A database of the newest version, with a row at least in every table.
    pub(crate) async fn full(dir: &tempfile::TempDir) -> SqliteConnection {
        let mut db = empty(dir).await;
        for ((version, ..), data) in MIGRATIONS.into_iter().zip(SAMPLES) {
            migrator().run_to(version, &mut db).await.unwrap();
            sqlx::raw_sql(data).execute(&mut db).await.unwrap();
        }
        db
    }

    async fn empty(dir: &tempfile::TempDir) -> SqliteConnection {
        let path = dir.path().join("x.db");
        SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true).connect().await.unwrap()
    }

    #[tokio::test]
    async fn migrations_run_one_by_one_over_tables_that_hold_data() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = empty(&dir).await;
        for ((version, ..), data) in MIGRATIONS.into_iter().zip(SAMPLES) {
            migrator().run_to(version, &mut db).await.unwrap();
            sqlx::raw_sql(data).execute(&mut db).await.unwrap();
            let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut db).await.unwrap();
            assert!(broken.is_empty(), "version {version} leaves dangling references");
        }
        let tables =
            sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'")
                .fetch_all(&mut db)
                .await
                .unwrap();
        for table in &tables {
            let name: String = table.get("name");
            let count = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {name}")));
            assert_ne!(count.fetch_one(&mut db).await.unwrap().get::<i64, _>(0), 0, "{name} has no sample data");
        }
        db.close().await.unwrap();
    }

    /// The environment variables that name a database to [`die_in_a_migration`] of, and the moment.
    const DIE: &str = "REGATTA_TEST_DIE";
    const DIE_AT: &str = "REGATTA_TEST_DIE_AT";

    /// Another process, which dies without a chance to clean up while it brings a database up to date. As a test it does
    /// nothing.
    #[tokio::test]
    async fn die_in_a_migration() {
        let Some(path) = std::env::var_os(DIE) else { return };
        let at: usize = std::env::var(DIE_AT).unwrap().parse().unwrap();
        let passed = AtomicUsize::new(0);
        let trap = Trap::new(move |_| {
            if passed.fetch_add(1, Ordering::Relaxed) == at {
                std::process::abort();
            }
        });
        crate::open::writer(Path::new(&path), Some(&trap)).await.unwrap();
    }

    /// A database of the first version, with data.
    async fn old(path: &Path) {
        let mut db = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap();
        migrator().run_to(1, &mut db).await.unwrap();
        sqlx::raw_sql(SAMPLES[0]).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }

    /// The version of a database and its tables, as SQL.
    async fn version_and_schema(path: &Path) -> (i64, Vec<String>) {
        let mut db = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
        let versions = "SELECT max(version) FROM _sqlx_migrations WHERE success";
        let version = sqlx::query_scalar(versions).fetch_one(&mut db).await.unwrap();
        let tables = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name";
        let tables = sqlx::query_scalar(tables).fetch_all(&mut db).await.unwrap();
        db.close().await.unwrap();
        (version, tables)
    }

    #[tokio::test]
    async fn a_migration_killed_anywhere_leaves_the_old_schema_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = BTreeMap::new();
        for (version, ..) in MIGRATIONS {
            let path = dir.path().join(format!("whole-{version}.db"));
            old(&path).await;
            let mut db = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
            migrator().run_to(version, &mut db).await.unwrap();
            db.close().await.unwrap();
            let (found, tables) = version_and_schema(&path).await;
            whole.insert(found, tables);
        }
        let moments = Arc::new(AtomicUsize::new(0));
        let path = dir.path().join("counted.db");
        old(&path).await;
        let count = Arc::clone(&moments);
        let trap = Trap::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        crate::open::writer(&path, Some(&trap)).await.unwrap().close().await.unwrap();
        let moments = moments.load(Ordering::Relaxed);
        assert!(moments > KILLS, "{moments} moments");

        let mut left = BTreeMap::new();
        for kill in 0..KILLS {
            let path = dir.path().join(format!("killed-{kill}.db"));
            old(&path).await;
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", "schema::tests::die_in_a_migration"]).env(DIE, &path);
            let output = child.env(DIE_AT, (moments * kill / KILLS).to_string()).output().unwrap();
            assert!(!output.status.success(), "it was to die");
            let (version, tables) = version_and_schema(&path).await;
            assert_eq!(tables, whole[&version], "version {version} is not as it should be");
            *left.entry(version).or_insert(0) += 1;
            // And the next start goes on from there.
            let mut db = crate::open::writer(&path, None).await.unwrap();
            let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM runs").fetch_one(&mut db).await.unwrap();
            assert!(runs > 0, "the data is there still");
            db.close().await.unwrap();
            assert_eq!(version_and_schema(&path).await, (NEWEST, whole[&NEWEST].clone()));
        }
        assert!(left.len() >= 2, "kills strike in several migrations: {left:?}");
    }

    #[tokio::test]
    async fn every_table_is_strict() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = empty(&dir).await;
        migrator().run(&mut db).await.unwrap();
        let loose = sqlx::query(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND strict = 0
                AND name NOT LIKE 'sqlite%' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(loose.is_empty());
        db.close().await.unwrap();
    }
}
