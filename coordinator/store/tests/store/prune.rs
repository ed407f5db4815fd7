//! Removing runs: what goes, what stays, and what becomes of an agent that still has records of a run that is gone.

use jiff::Timestamp;
use regatta_core::id::TrialId;
use regatta_core::retention::{Held, Policy};
use regatta_core::trial::Epoch;
use regatta_store::{Batch, Finished, Ingested, Retention, Store, StoreError};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::common::{self, Small, Temp, finish, finish_of, ingest, leased, whole_trial};

const ALL: Policy =
    Policy { keep_last: Some(0), older_than: None, scenario: None, keep: std::collections::BTreeSet::new() };

async fn retention(temp: &Temp) -> Retention {
    Retention::open(&temp.path(), || Timestamp::UNIX_EPOCH).await.unwrap()
}

/// A run that has ended.
async fn ended(store: &Store, id: &str) -> (Small, Epoch) {
    let small = common::submitted(store, id, 2).await;
    let epoch = leased(store, &small.trial).await;
    let records = whole_trial(&small.cells[..2], epoch);
    ingest(store, &small.trial, epoch, 1, &records).await;
    finish(store, &small.trial, epoch, &records).await;
    (small, epoch)
}

async fn ids(store: &Store) -> Vec<String> {
    store.reader().runs(99).await.unwrap().iter().map(|run| run.id.to_string()).collect()
}

#[tokio::test]
async fn old_runs_go_while_a_coordinator_writes_and_what_goes_on_stays() {
    let temp = common::store().await;
    for id in ["run-1", "run-2", "run-3", "run-4"] {
        ended(&temp.store, id).await;
    }
    common::submitted(&temp.store, "run-5", 1).await;
    let mut retention = retention(&temp).await;
    assert!(retention.pin(&"run-2".parse().unwrap(), "the release", Timestamp::UNIX_EPOCH).await.unwrap());
    assert!(!retention.pin(&"run-9".parse().unwrap(), "nobody", Timestamp::UNIX_EPOCH).await.unwrap());
    assert_eq!(retention.pins().await.unwrap()[0].reason, "the release");

    let policy = Policy { keep_last: Some(2), ..ALL };
    let plan = retention.plan(&policy, Timestamp::UNIX_EPOCH).await.unwrap();
    let held: Vec<_> = plan.iter().map(|fate| fate.held).collect();
    assert_eq!(held, [None, Some(Held::Pinned), None, Some(Held::Newest), Some(Held::GoesOn)]);
    assert_eq!(plan[0].samples, 6);
    assert_eq!(ids(&temp.store).await.len(), 5, "a plan removes nothing");

    let mut gone = Vec::new();
    retention.prune(&policy, Timestamp::UNIX_EPOCH, |fate| gone.push(fate.run.to_string())).await.unwrap();
    assert_eq!(gone, ["run-3", "run-1"]);
    let mut left = ids(&temp.store).await;
    left.sort_unstable();
    assert_eq!(left, ["run-2", "run-4", "run-5"]);
    assert_eq!(temp.store.reader().all_samples(&"run-1".parse().unwrap()).await.unwrap(), []);
    assert!(free_pages(&temp).await > 0, "what comes next goes there before the file grows");
    // The coordinator goes on, and what is left is whole.
    ended(&temp.store, "run-6").await;
    assert_eq!(temp.store.reader().samples(&"run-4".parse().unwrap()).await.unwrap().len(), 6);
    assert!(retention.unpin(&"run-2".parse().unwrap()).await.unwrap());
    assert!(!retention.unpin(&"run-2".parse().unwrap()).await.unwrap());
    retention.close().await.unwrap();
}

#[tokio::test]
async fn records_of_a_run_that_is_gone_are_taken_and_dropped() {
    let temp = common::store().await;
    let (small, epoch) = ended(&temp.store, "run-1").await;
    // An agent delivers once more what it has not heard the answer to: the writer remembers the lease.
    let records = whole_trial(&small.cells[..2], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    let mut retention = retention(&temp).await;
    retention.prune(&ALL, Timestamp::UNIX_EPOCH, |_| {}).await.unwrap();
    retention.close().await.unwrap();

    let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    assert_eq!((stored.durable_through_seq, stored.stale, stored.samples), (records.len() as u64, true, 0));
    let finished = temp.store.writer().write(finish_of(&small.trial, epoch, &records)).await.unwrap();
    assert!(matches!(finished, Finished::Complete { state: None, .. }), "{finished:?}");
    assert_eq!(temp.store.reader().all_samples(&small.run).await.unwrap(), []);
    // What never was is still a mistake.
    let other = Batch { trial: TrialId::of(&"run-9".parse().unwrap(), 0), epoch, first_seq: 1, records };
    assert_eq!(temp.store.writer().write(other).await.unwrap(), Ingested::UnknownLease);
}

#[tokio::test]
async fn a_lease_that_is_delivered_to_right_now_does_not_bring_a_run_back() {
    let temp = common::store().await;
    let small = common::submitted(&temp.store, "run-1", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    // The cell has ended and the trial has not: the lease is in the writer's memory, and a person cancels the rest.
    ingest(&temp.store, &small.trial, epoch, 1, &records[..2]).await;
    sqlx_execute(
        &temp,
        "UPDATE trials SET state = 'cancelled'; UPDATE cells SET state = 'cancelled', ended_epoch = 1,
        ended_at_unix_ns = 1 WHERE state = 'waiting'; UPDATE runs SET state = 'cancelled', ended_at_unix_ns = 1",
    )
    .await;
    let mut retention = retention(&temp).await;
    retention.prune(&ALL, Timestamp::UNIX_EPOCH, |_| {}).await.unwrap();
    let stored = ingest(&temp.store, &small.trial, epoch, 3, &records[2..]).await;
    assert_eq!((stored.durable_through_seq, stored.samples), (records.len() as u64, 0));
    assert_eq!(temp.store.reader().all_samples(&small.run).await.unwrap(), []);
}

async fn sqlx_execute(temp: &Temp, sql: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let mut db = sqlx::sqlite::SqliteConnectOptions::new().filename(temp.path()).connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test]
async fn what_was_broken_off_goes_on_the_next_time() {
    let temp = common::store().await;
    ended(&temp.store, "run-1").await;
    // As a removal leaves it that is killed after the run has gone: its samples are there, and nobody sees them.
    sqlx_execute(
        &temp,
        "PRAGMA foreign_keys = OFF;
        INSERT INTO pruned_runs VALUES ('run-1', 'small', 0, 0, 1); DELETE FROM runs; DELETE FROM cells",
    )
    .await;
    assert!(!temp.store.reader().all_samples(&"run-1".parse().unwrap()).await.unwrap().is_empty());
    let mut retention = retention(&temp).await;
    retention.prune(&ALL, Timestamp::UNIX_EPOCH, |_| {}).await.unwrap();
    assert_eq!(temp.store.reader().all_samples(&"run-1".parse().unwrap()).await.unwrap(), []);
}

#[tokio::test]
async fn room_comes_back_when_nobody_else_has_the_database() {
    let temp = common::store().await;
    for id in 0..40 {
        ended(&temp.store, &format!("run-{id}")).await;
    }
    let path = temp.path();
    let mut retention = retention(&temp).await;
    retention.prune(&ALL, Timestamp::UNIX_EPOCH, |_| {}).await.unwrap();
    retention.close().await.unwrap();
    assert!(matches!(Store::vacuum(&path).await, Err(StoreError::Locked { .. })));
    temp.store.close().await;
    let before = path.metadata().unwrap().len();
    Store::vacuum(&path).await.unwrap();
    let after = path.metadata().unwrap().len();
    assert!(after < before, "{after} of {before}");
    Store::open_read_only(&path).await.unwrap().close().await;
}

/// Pages of the file that hold nothing.
async fn free_pages(temp: &Temp) -> i64 {
    let options = SqliteConnectOptions::new().filename(temp.path()).read_only(true);
    let mut db = options.connect().await.unwrap();
    sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut db).await.unwrap()
}
