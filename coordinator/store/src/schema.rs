//! The schema and its versions. A migration is one transaction: the schema is the old one or the new one, never
//! something between.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Written into the database's header: tells our files from others ("RGTA").
pub(crate) const APPLICATION_ID: i64 = 0x5247_5441;

/// Every migration: version, name, text.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "initial", include_str!("../../../migrations/0001_initial.sql")),
    (2, "fleet", include_str!("../../../migrations/0002_fleet.sql")),
    (3, "tokens", include_str!("../../../migrations/0003_tokens.sql")),
    (4, "arrival", include_str!("../../../migrations/0004_arrival.sql")),
    (5, "chain", include_str!("../../../migrations/0005_chain.sql")),
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
mod tests {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

    use super::*;

    /// What each version's tables may hold, inserted after its migration and before the next one.
    const SAMPLES: [&str; MIGRATIONS.len()] = [
        include_str!("../../../migrations/samples/0001_initial.sql"),
        include_str!("../../../migrations/samples/0002_fleet.sql"),
        include_str!("../../../migrations/samples/0003_tokens.sql"),
        include_str!("../../../migrations/samples/0004_arrival.sql"),
        include_str!("../../../migrations/samples/0005_chain.sql"),
    ];

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
