//! Processes that are killed or stopped at a chosen moment.

use std::time::Duration;

use regatta_store::Store;

use crate::harness::Fleet;
use crate::proxy::Way;

/// With nothing going wrong, what was given, taken and stored is the same set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fault_the_book_and_the_database_agree() {
    let mut fleet = Fleet::start(2).await;
    let run = fleet.submit(1, &["one", "two"], 5).await;
    let ended = fleet.done(&run).await;
    assert_eq!((ended.state.as_str(), ended.cells["ok"]), ("done", 4));
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), ledger.taken.len(), verdict.stored), (20, 20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_the_middle_of_repetitions_loses_none_that_it_had_finished() {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one", "two"], 60).await;
    for samples in [5, 30] {
        fleet.stored(&run, samples).await;
        fleet.kill_agent(0);
        fleet.start_agent(0);
    }
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 2, "{}", fleet.story());
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert!(ledger.taken.len() >= 120, "each cell was measured whole under its last lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_between_commit_and_acknowledgement_gets_nothing_twice() {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one"], 80).await;
    fleet.stored(&run, 3).await;
    // From here on what is committed is not acknowledged.
    fleet.proxy.swallow(Way::Down);
    let committed = fleet.run(&run).await.samples;
    fleet.stored(&run, committed + 1).await;
    fleet.kill_coordinator();
    fleet.proxy.cut();
    fleet.proxy.heal();
    fleet.start_coordinator();
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 1);
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (80, 80), "sent again, stored once, measured once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_before_its_commit_has_acknowledged_nothing() {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one"], 80).await;
    fleet.stored(&run, 3).await;
    // Somebody else's transaction keeps the coordinator's own from beginning.
    let db = rusqlite::Connection::open(fleet.db()).unwrap();
    db.execute_batch("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE").unwrap();
    let count = || db.query_row("SELECT count(*) FROM samples", [], |row| row.get::<_, i64>(0)).unwrap();
    let committed = count();
    let taken = || std::fs::read_to_string(fleet.folder.path().join("ledger")).unwrap().matches("taken").count();
    // The agent has more by now than is stored, so a batch is on its way or waits for the lock.
    fleet.wait_for("the agent to be ahead", async || taken() > usize::try_from(committed).unwrap() + 10).await;
    fleet.kill_coordinator();
    assert_eq!(count(), committed);
    db.execute_batch("ROLLBACK").unwrap();
    drop(db);
    fleet.start_coordinator();
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 1);
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (80, 80));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_agent_changes_no_state_and_its_samples_are_kept_apart() {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one"], 200).await;
    fleet.stored(&run, 5).await;
    fleet.agents[0].as_ref().unwrap().signal("STOP");
    let reader = Store::open_read_only(&fleet.db()).await.unwrap();
    let lease_was_taken_back = async || {
        let events = reader.events(&run, 0).await.unwrap();
        events.iter().any(|event| event.kind == "trial_queued_again")
    };
    fleet.wait_for("the lease to run out", lease_was_taken_back).await;
    // By now its worker has given a sample that nobody has read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    fleet.agents[0].as_ref().unwrap().signal("CONT");
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 1, "{}", fleet.story());
    fleet.stop();
    let (_, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    let all = reader.all_samples(&run).await.unwrap();
    let counted = reader.samples(&run).await.unwrap();
    assert!(all.iter().any(|sample| sample.key.epoch.0 == 1), "what the zombie had measured is kept");
    assert!(counted.iter().all(|sample| sample.key.epoch == counted[0].key.epoch), "an aggregate has one epoch");
    assert_eq!((counted.len(), counted[0].key.epoch.0 > 1), (200, true));
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_told_to_leave_finishes_its_repetition_and_leaves_an_empty_spool() {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one", "two"], 60).await;
    fleet.stored(&run, 5).await;
    let agent = fleet.agents[0].take().unwrap();
    agent.signal("TERM");
    let status = agent.wait("the agent");
    assert!(status.success(), "{status}\n{}", fleet.story());
    let spool = regatta_agent::spool::Spool::open(&fleet.spool(0), 1 << 30).unwrap();
    assert!(spool.heads().is_empty(), "{:?}", spool.heads());
    drop(spool);
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!(ledger.given.len(), verdict.stored, "the repetition in hand was finished and delivered");
    // The lease was given back, so the trial goes on as soon as somebody is there for it.
    fleet.start_agent(0);
    assert_eq!(fleet.done(&run).await.cells["ok"], 2);
    fleet.stop();
    fleet.verdict(&run).await.1.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_told_to_stop_under_load_ends_in_good_order() {
    let mut fleet = Fleet::start(2).await;
    let run = fleet.submit(2, &["one", "two"], 30).await;
    fleet.stored(&run, 10).await;
    let coordinator = fleet.coordinator.take().unwrap();
    coordinator.signal("TERM");
    let status = coordinator.wait("the coordinator");
    assert!(status.success(), "{status}\n{}", fleet.story());
    assert!(!fleet.folder.path().join("regatta.sqlite-wal").exists(), "the database is one file again");
    fleet.start_coordinator();
    assert_eq!(fleet.done(&run).await.cells["ok"], 8, "{}", fleet.story());
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (240, 240), "nothing was measured a second time");
}
