//! Backups by themselves (before migrations, every night) and the way back from one.

use std::path::Path;

use jiff::Timestamp;
use regatta_store::{Store, StoreError, backup_folder};

use crate::common;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

#[tokio::test]
async fn what_was_backed_up_is_there_again_after_a_restore() {
    let temp = common::store().await;
    let (path, backup) = (temp.path(), temp.dir.path().join("monday.sqlite"));
    let small = common::submitted(&temp.store, "run-a", 2).await;
    let epoch = common::leased(&temp.store, &small.trial).await;
    let records = common::whole_trial(&small.cells[..2], epoch);
    common::ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    let samples = temp.store.reader().samples(&small.run).await.unwrap();
    assert_eq!(samples.len(), 6);
    temp.store.reader().backup(&backup).await.unwrap();
    common::submitted(&temp.store, "run-b", 1).await;

    let now = at("2026-01-02T03:04:05Z");
    let error = Store::restore(&backup, &path, now).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "a coordinator has it: {error}");
    let common::Temp { dir, store } = temp;
    store.close().await;
    let replaced = Store::restore(&backup, &path, now).await.unwrap().unwrap();
    assert!(replaced.ends_with("regatta.db.replaced-2026-01-02T03-04-05Z"), "{}", replaced.display());

    let store = Store::open(&path, || Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(store.reader().samples(&small.run).await.unwrap(), samples);
    assert!(matches!(store.reader().run("run-b").await, Err(StoreError::RunNotFound { .. })));
    // It is a whole database: what was under way goes on.
    common::finish(&store, &small.trial, epoch, &records).await;
    store.close().await;
    let old = Store::open_read_only(&replaced).await.unwrap();
    assert_eq!(old.runs(9).await.unwrap().len(), 2, "what was replaced is kept");
    old.close().await;
    drop(dir);
}

#[tokio::test]
async fn a_damaged_database_is_replaced_and_its_log_does_not_come_back() {
    let temp = common::store().await;
    let (path, backup) = (temp.path(), temp.dir.path().join("monday.sqlite"));
    common::submitted(&temp.store, "run-a", 1).await;
    temp.store.reader().backup(&backup).await.unwrap();
    let common::Temp { dir, store } = temp;
    store.close().await;
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    let log = dir.path().join("regatta.db-wal");
    std::fs::write(&log, "y".repeat(5000)).unwrap();
    let replaced = Store::restore(&backup, &path, Timestamp::UNIX_EPOCH).await.unwrap().unwrap();
    assert_eq!(std::fs::read(&replaced).unwrap(), "x".repeat(5000).into_bytes());
    assert!(!log.exists());
    let reader = Store::open_read_only(&path).await.unwrap();
    assert_eq!(reader.runs(9).await.unwrap().len(), 1);
    reader.close().await;
}

#[tokio::test]
async fn what_is_no_backup_replaces_nothing() {
    let temp = common::store().await;
    let (path, text) = (temp.path(), temp.dir.path().join("notes.txt"));
    common::submitted(&temp.store, "run-a", 1).await;
    let common::Temp { dir, store } = temp;
    store.close().await;
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&text, "x".repeat(5000)).unwrap();
    for (file, part) in
        [(&text, "not a database"), (&dir.path().join("gone.sqlite"), "does not exist"), (&path, "itself")]
    {
        let error = Store::restore(file, &path, Timestamp::UNIX_EPOCH).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // Without a database it is a first start.
    let copy = dir.path().join("copy.sqlite");
    assert_eq!(Store::restore(&path, &copy, Timestamp::UNIX_EPOCH).await.unwrap(), None);
    Store::open_read_only(&copy).await.unwrap().close().await;
}

#[tokio::test]
async fn a_backup_a_night_is_kept_and_the_oldest_go() {
    let temp = common::store().await;
    let (reader, folder) = (temp.store.reader(), temp.dir.path().join("backups"));
    let made = async |time: &str| reader.nightly_backup(&folder, 2, at(time)).await.unwrap().is_some();
    assert!(made("2026-01-01T02:30:00Z").await);
    assert!(!made("2026-01-01T14:30:00Z").await, "one a night");
    std::fs::write(folder.join("regatta-notes.txt"), "mine").unwrap();
    std::fs::write(folder.join("other-2026-01-01T02-30-00Z-night.sqlite"), "of another one").unwrap();
    std::fs::write(folder.join("regatta-2026-01-01T00-00-00Z-schema-3.sqlite"), "of a migration").unwrap();
    assert!(made("2026-01-02T02:30:00Z").await);
    assert!(made("2026-01-03T02:29:00Z").await);
    assert_eq!(
        names(&folder),
        [
            "other-2026-01-01T02-30-00Z-night.sqlite",
            "regatta-2026-01-01T00-00-00Z-schema-3.sqlite",
            "regatta-2026-01-02T02-30-00Z-night.sqlite",
            "regatta-2026-01-03T02-29-00Z-night.sqlite",
            "regatta-notes.txt",
        ]
    );
}

#[tokio::test]
async fn before_its_schema_changes_a_database_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("regatta.db");
    let old = common::old_database(&path).await;
    let folder = backup_folder(&path);
    let now: fn() -> Timestamp = || Timestamp::from_second(1_767_225_600).unwrap();
    // Where no copy can be made, nothing is changed.
    std::fs::write(&folder, "a file where the folder should be").unwrap();
    let error = Store::open(&path, now).await.unwrap_err().to_string();
    assert!(error.contains("regatta.db.backups"), "{error}");
    std::fs::remove_file(&folder).unwrap();
    Store::open(&path, now).await.unwrap().close().await;
    let name = format!("regatta-2026-01-01T00-00-00Z-schema-{old}.sqlite");
    assert_eq!(names(&folder), std::slice::from_ref(&name));
    // The next start has nothing to bring up to date. The copy can be put back and is brought up to date again.
    Store::open(&path, now).await.unwrap().close().await;
    assert_eq!(names(&folder).len(), 1);
    let later: fn() -> Timestamp = || Timestamp::from_second(1_767_225_700).unwrap();
    Store::restore(&folder.join(name), &path, later()).await.unwrap();
    Store::open(&path, later).await.unwrap().close().await;
    assert_eq!(names(&folder).len(), 2);
}
