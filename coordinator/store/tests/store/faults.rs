//! What goes wrong around a database: other programs, long readers, a full disk, copies.

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use regatta_store::{Store, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::common;

/// Transactions of each of two programs.
const TRANSACTIONS: u32 = 1000;

/// The environment variable that names a database to [`scribble`] in.
const SCRIBBLE: &str = "REGATTA_TEST_SCRIBBLE";

/// Another program that writes to the database, as somebody with `sqlite3` would. As a test it does nothing.
#[tokio::test]
async fn scribble() {
    let Some(path) = std::env::var_os(SCRIBBLE) else { return };
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(5));
    let mut db = options.connect().await.unwrap();
    for number in 0..TRANSACTIONS {
        let mut transaction = db.begin_with("BEGIN IMMEDIATE").await.unwrap();
        sqlx::query("INSERT INTO events (at_unix_ns, kind, detail) VALUES (?, 'scribble', '')")
            .bind(number)
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_write_a_thousand_times_each_and_none_is_locked_out() {
    let temp = common::store().await;
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::scribble"])
        .env(SCRIBBLE, temp.path())
        .spawn()
        .unwrap();
    for number in 0..TRANSACTIONS {
        common::submitted(&temp.store, &format!("run-{number}"), 0).await;
    }
    let status = tokio::task::spawn_blocking(move || other.wait().unwrap()).await.unwrap();
    assert!(status.success());
    assert_eq!(temp.store.reader().runs(TRANSACTIONS + 1).await.unwrap().len(), TRANSACTIONS as usize);
    temp.store.close().await;
}

#[tokio::test]
async fn a_long_reader_sees_its_moment_and_holds_nobody_up() {
    let temp = common::store().await;
    common::submitted(&temp.store, "run-0", 3).await;
    let options = SqliteConnectOptions::new().filename(temp.path()).read_only(true);
    let mut reader = options.connect().await.unwrap();
    let mut moment = reader.begin().await.unwrap();
    let count = "SELECT count(*) FROM runs";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut *moment).await.unwrap();
    for number in 1..200 {
        common::submitted(&temp.store, &format!("run-{number}"), 20).await;
    }
    let same: i64 = sqlx::query_scalar(count).fetch_one(&mut *moment).await.unwrap();
    assert_eq!((before, same), (1, 1));
    moment.rollback().await.unwrap();
    reader.close().await.unwrap();
    let path = temp.path();
    temp.store.close().await;
    // With the reader gone, nothing is left in the write-ahead log.
    assert!(!path.with_extension("db-wal").exists());
    let reader = Store::open_read_only(&path).await.unwrap();
    assert_eq!(reader.runs(1000).await.unwrap().len(), 200);
}

#[tokio::test]
async fn a_backup_made_while_records_come_in_is_whole() {
    let temp = common::store().await;
    let small = common::submitted(&temp.store, "run-a", 50).await;
    let epoch = common::leased(&temp.store, &small.trial).await;
    let records = common::whole_trial(&small.cells[..50], epoch);
    let folder = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for (number, chunk) in records.chunks(20).enumerate() {
        let first = number as u64 * 20 + 1;
        let copy = folder.path().join(format!("copy-{number}.db"));
        let (stored, backup) = tokio::join!(
            common::ingest(&temp.store, &small.trial, epoch, first, chunk),
            temp.store.reader().backup(&copy)
        );
        backup.unwrap();
        copies.push((copy, first - 1, stored.durable_through_seq));
    }
    for (copy, before, after) in copies {
        let restored = Store::open(&copy, || Timestamp::UNIX_EPOCH).await.unwrap();
        let delivery = restored.reader().delivery(&small.trial, epoch).await.unwrap().unwrap();
        // A beginning of what was stored: all that was acknowledged before, perhaps what came meanwhile.
        assert!((before..=after).contains(&delivery.last_seq), "{} of {before}..={after}", delivery.last_seq);
        // What it has not got can be delivered to it.
        let rest = usize::try_from(delivery.last_seq).unwrap();
        common::ingest(&restored, &small.trial, epoch, delivery.last_seq + 1, &records[rest..]).await;
        let finished = common::finish(&restored, &small.trial, epoch, &records).await;
        assert!(matches!(finished, regatta_store::Finished::Complete { .. }), "{finished:?}");
        restored.close().await;
    }
    temp.store.close().await;
}

#[tokio::test]
async fn a_backup_never_replaces_a_file() {
    let temp = common::store().await;
    let path = temp.dir.path().join("notes.txt");
    std::fs::write(&path, "mine").unwrap();
    let error = temp.store.reader().backup(&path).await.unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    temp.store.close().await;
}

/// A small file system of its own; `None`, with the reason printed, where this process may not make one.
#[cfg(target_os = "linux")]
pub(crate) struct SmallDisk {
    pub(crate) folder: tempfile::TempDir,
}

#[cfg(target_os = "linux")]
impl SmallDisk {
    pub(crate) fn new(kib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: a small file system can't be mounted here: {mounted:?}");
        }
        None
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_stores_nothing_and_takes_more_when_there_is_room_again() {
    let Some(disk) = SmallDisk::new(2048) else { return };
    let path = disk.folder.path().join("regatta.db");
    let store = Store::open(&path, || Timestamp::UNIX_EPOCH).await.unwrap();
    let small = common::submitted(&store, "run-a", 50).await;
    let epoch = common::leased(&store, &small.trial).await;
    let records = common::whole_trial(&small.cells[..50], epoch);
    common::ingest(&store, &small.trial, epoch, 1, &records[..10]).await;
    let filler = disk.folder.path().join("filler");
    let mut bytes = 1 << 20;
    while bytes > 0 {
        let mut all = std::fs::read(&filler).unwrap_or_default();
        all.resize(all.len() + bytes, 0);
        if std::fs::write(&filler, &all).is_err() {
            bytes /= 2;
        }
    }
    let batch =
        || regatta_store::Batch { trial: small.trial.clone(), epoch, first_seq: 11, records: records[10..].to_vec() };
    let error = store.writer().write(batch()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error}");
    let delivery = store.reader().delivery(&small.trial, epoch).await.unwrap().unwrap();
    assert_eq!(delivery.last_seq, 10, "nothing of the batch was stored");

    std::fs::remove_file(&filler).unwrap();
    common::ingest(&store, &small.trial, epoch, 11, &records[10..]).await;
    let finished = common::finish(&store, &small.trial, epoch, &records).await;
    assert!(matches!(finished, regatta_store::Finished::Complete { .. }), "{finished:?}");
    store.close().await;
}
