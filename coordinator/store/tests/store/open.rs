//! Opening: whose file, which version, who else has it.

use std::path::Path;

use jiff::Timestamp;
use regatta_store::{Store, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::common;

async fn refused(path: &Path) -> StoreError {
    Store::open(path, || Timestamp::UNIX_EPOCH).await.expect_err("was opened")
}

async fn execute(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut db = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test]
async fn a_folder_is_refused_with_a_better_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(dir.path()).await;
    assert!(matches!(error, StoreError::IsDirectory(_)));
    assert!(error.to_string().contains("regatta.db"), "{error}");
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(&dir.path().join("no/such/x.db")).await.to_string();
    assert!(error.contains("make its folder first"), "{error}");
}

#[tokio::test]
async fn a_read_only_file_is_refused() {
    let temp = common::store().await;
    let path = temp.path();
    temp.store.close().await;
    let mut permissions = path.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    let error = refused(&path).await.to_string();
    assert!(error.contains("write access"), "{error}");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    execute(&path, "PRAGMA application_id = 7; CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);").await;
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(refused(&path).await, StoreError::NotOurs { found: 7, .. }));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(matches!(Store::open_read_only(&path).await, Err(StoreError::NotOurs { .. })));
}

#[tokio::test]
async fn a_text_file_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    let error = refused(&path).await.to_string();
    assert!(error.contains("not a database"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), "x".repeat(5000).into_bytes());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let temp = common::store().await;
    let path = temp.path();
    temp.store.close().await;
    execute(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'later', TRUE, x'00', 0)",
    )
    .await;
    assert!(matches!(refused(&path).await, StoreError::NewerSchema { found: 999, .. }));
    assert!(matches!(Store::open_read_only(&path).await, Err(StoreError::NewerSchema { .. })));
}

#[tokio::test]
async fn a_second_coordinator_is_told_who_has_the_database() {
    let temp = common::store().await;
    let error = refused(&temp.path()).await;
    let pid = std::process::id().to_string();
    assert!(matches!(&error, StoreError::Locked { pid: holder, .. } if *holder == pid), "{error}");
    let path = temp.path();
    temp.store.close().await;
    Store::open(&path, || Timestamp::UNIX_EPOCH).await.unwrap().close().await;
}

#[tokio::test]
async fn reports_read_while_a_coordinator_writes_and_cant_write() {
    let temp = common::store().await;
    common::submitted(&temp.store, "run-a", 1).await;
    let reader = Store::open_read_only(&temp.path()).await.unwrap();
    assert_eq!(reader.runs(10).await.unwrap().len(), 1);
    common::submitted(&temp.store, "run-b", 1).await;
    assert_eq!(reader.runs(10).await.unwrap().len(), 2);
    reader.close().await;
    temp.store.close().await;
}

#[tokio::test]
async fn a_report_on_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::open_read_only(&dir.path().join("x.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)));
}

#[tokio::test]
async fn a_damaged_database_is_not_written_to() {
    let temp = common::store().await;
    for i in 0..20 {
        common::submitted(&temp.store, &format!("run-{i}"), 20).await;
    }
    let path = temp.path();
    temp.store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, StoreError::CannotOpen { .. } | StoreError::Sql(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
