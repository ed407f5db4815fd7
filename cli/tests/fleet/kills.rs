//! Processes that are killed, stopped or slowed down, at a chosen moment or at many random ones.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regatta_core::cell::Outcome;
use regatta_core::id::RunId;
use regatta_store::Store;

use crate::harness::{Fleet, LEASE, PATIENCE, Setting};
use crate::roles::{SLOW_SYNC, stored_records};

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

/// Agents that are killed by turns: while one comes up, the others measure.
const VICTIMS: usize = 6;

/// Kills of agents.
const KILLS: usize = 200;

/// Trials of a run on each agent, and samples of each of their cells. A trial is given up when three agents have died over it.
const TRIALS: usize = 2;
const SAMPLES: u32 = 100;

/// Whether the book has grown beyond that length, within a second.
async fn grows(book: &std::path::Path, beyond: u64) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        if std::fs::metadata(book).is_ok_and(|book| book.len() > beyond) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_killed_at_two_hundred_random_moments_lose_nothing_and_nothing_counts_twice() {
    let begun = Instant::now();
    // Whoever is killed again and again would be put aside otherwise.
    let mut fleet = Fleet::with(VICTIMS, Setting { quarantine: false, lease: LEASE / 2, ..Setting::default() }).await;
    let mut runs: Vec<RunId> = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut kills, mut while_measuring) = (0, 0);
    while kills < KILLS {
        // There is always something to do: the last run but one has not ended.
        while runs.len() < 2 || fleet.run(&runs[runs.len() - 2]).await.state != "active" {
            runs.push(submit_for_all(&fleet, runs.len()).await);
        }
        let victim = kills % VICTIMS;
        let book = fleet.ledger(victim);
        let length = std::fs::metadata(&book).map_or(0, |book| book.len());
        // Three of four while it measures, the others wherever it is: starting, connecting, loading, delivering.
        if rng.random_bool(0.75) {
            while !grows(&book, length).await {
                // It has nothing to do while others have.
                assert!(runs.len() < KILLS, "agent {victim} measures no more\n{}", fleet.story());
                runs.push(submit_for_all(&fleet, runs.len()).await);
            }
            while_measuring += 1;
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        fleet.kill_agent(victim);
        kills += 1;
        fleet.launch_agent(victim);
    }
    let killed = begun.elapsed();
    for run in &runs {
        fleet.done(run).await;
    }
    fleet.connected(VICTIMS).await;
    fleet.stop();
    let (ledger, verdict) = fleet.verdict_of(&runs).await;
    verdict.assert_nothing_lost();
    let cells = assert_whole(&fleet, &runs).await;
    println!(
        "{kills} kills ({while_measuring} surely while measuring) in {:.0} s, then {:.0} s to the end: {} samples given, \
         {} taken, {} stored, 0 lost, 0 duplicated; cells: {cells:?}",
        killed.as_secs_f64(),
        begun.elapsed().saturating_sub(killed).as_secs_f64(),
        ledger.given.len(),
        ledger.taken.len(),
        verdict.stored,
    );
    assert!((kills, while_measuring > 120) == (KILLS, true), "{kills} kills, {while_measuring} while measuring");
    let again = verdict.stored - cells.0 * SAMPLES as usize;
    assert!(again > KILLS, "what the killed had finished is there too: {again} samples of leases that were lost");
}

/// Submits a run with work for each of them. Those that were just killed come back first: a run has trials for whoever is
/// connected, and on a slow machine there are moments at which that is nobody.
async fn submit_for_all(fleet: &Fleet, number: usize) -> RunId {
    fleet.connected(VICTIMS).await;
    fleet.submit_as(&format!("run-{number}"), TRIALS, &["one", "two"], SAMPLES).await
}

/// A cell that is ok has all its samples, of one lease; one that is not was given up with its trial. Returns how many
/// there are of each.
async fn assert_whole(fleet: &Fleet, runs: &[RunId]) -> (usize, usize) {
    let reader = Store::open_read_only(&fleet.db()).await.unwrap();
    let (mut ok, mut given_up) = (0, 0);
    for run in runs {
        for cell in reader.cells(run).await.unwrap() {
            match cell.outcome {
                Some(Outcome::Ok) => {
                    assert_eq!(cell.samples, SAMPLES, "{cell:?}");
                    ok += 1;
                }
                Some(Outcome::Failed(..)) => given_up += 1,
                _ => panic!("{cell:?}"),
            }
        }
    }
    reader.close().await;
    (ok, given_up)
}

/// Three coordinators in a row are killed at that moment of a commit while a run is measured. What is there afterwards
/// is told to `check`: how many records were stored just before the kill, and how many after it.
async fn coordinators_killed_while(trap: &str, check: fn(before: i64, after: i64)) {
    let mut fleet = Fleet::start(1).await;
    let run = fleet.submit(1, &["one"], 120).await;
    for samples in [3, 30, 60] {
        fleet.stored(&run, samples).await;
        fleet.set_trap(Some(trap));
        let before = fleet.trapped();
        check(before, stored_records(&fleet.db()));
        fleet.start_coordinator();
    }
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 1, "{}", fleet.story());
    fleet.stop();
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (120, 120), "sent again, stored once, measured once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_between_commit_and_acknowledgement_gets_nothing_twice() {
    // What it counted through another connection is what it had committed, and the kill took nothing of it.
    coordinators_killed_while("committed kill", |before, after| assert!(before > 3 && after == before)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_before_its_commit_has_stored_and_acknowledged_nothing() {
    coordinators_killed_while("committing kill", |before, after| assert_eq!(before, after)).await;
}

/// The most memory that a process has had, in KiB.
#[cfg(target_os = "linux")]
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_two_seconds_for_a_sync_holds_agents_back_and_costs_no_connection() {
    let agents = 2;
    let mut fleet = Fleet::with(agents, Setting { lease: Duration::from_secs(40), ..Setting::default() }).await;
    let run = fleet.submit(1, &["one", "two", "three"], 1000).await;
    fleet.stored(&run, 20).await;
    let coordinator = fleet.coordinator.as_ref().unwrap().id();
    let memory = peak_kib(coordinator);
    fleet.set_trap(Some("committing sleep"));
    let (begun, mut commits, mut stored) = (Instant::now(), 0, stored_records(&fleet.db()));
    let ahead = || i64::try_from(fleet.ledgers().taken.len()).unwrap() - stored_records(&fleet.db());
    let mut most = 0;
    while commits < 4 {
        assert!(begun.elapsed() < PATIENCE, "{commits} commits\n{}", fleet.story());
        most = most.max(ahead());
        let now = stored_records(&fleet.db());
        commits += usize::from(now > stored);
        stored = now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= 3 * SLOW_SYNC, "{:?}", begun.elapsed());
    // Agents measure on, onto their own disks.
    assert!(most > 200, "{most} samples waited");
    assert_eq!(fleet.run(&run).await.state, "active");
    fleet.set_trap(None);
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 6, "{}", fleet.story());
    let grown = peak_kib(coordinator) - memory;
    assert!(grown < 32 * 1024, "{grown} KiB more");
    fleet.stop();
    let log = fleet.log("coordinator");
    assert_eq!(log.matches("agent connected").count(), agents, "{log}");
    assert_eq!(log.matches("lease taken back").count(), 0, "{log}");
    let (ledger, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (6000, 6000), "nothing was measured a second time");
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
