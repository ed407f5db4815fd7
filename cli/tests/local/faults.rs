//! Cells that go wrong, and a program that is killed.

use std::collections::{BTreeMap, BTreeSet};

use regatta_core::cell::Outcome;
use regatta_store::Reader;

use crate::harness::{Home, signal};

async fn outcomes(reader: &Reader) -> BTreeMap<String, String> {
    let run = reader.runs(1).await.unwrap().remove(0);
    let cells = reader.cells(&run.id).await.unwrap();
    let state = |outcome: &Option<Outcome>| outcome.as_ref().map_or("open", Outcome::state).to_owned();
    cells.iter().map(|record| (record.cell.workload.name.to_string(), state(&record.outcome))).collect()
}

#[tokio::test]
async fn one_bad_cell_never_ends_a_run_and_every_cell_has_an_end() {
    let home = Home::new();
    let workloads =
        ["first", "fault-abort", "second", "fault-hang", "third", "fault-oom-host", "fourth", "fault-garbage", "last"];
    let scenario = home.scenario(&workloads, 3, "3s");
    let output = home.regatta(&["run", scenario.to_str().unwrap(), "--out", "out"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));

    let reader = home.database().await;
    let expected = [
        ("first", "ok"),
        ("fault-abort", "crashed"),
        ("second", "ok"),
        ("fault-hang", "timeout"),
        ("third", "ok"),
        ("fault-oom-host", "oom"),
        ("fourth", "ok"),
        ("fault-garbage", "failed"),
        ("last", "ok"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(outcomes(&reader).await, expected);
    let report = std::fs::read_to_string(home.path("out/report.html")).unwrap();
    assert!(report.contains("fault-hang") && report.contains("timeout"));
}

#[tokio::test]
async fn what_was_saved_survives_a_kill_and_nothing_is_counted_twice() {
    let home = Home::new();
    let scenario = home.scenario(&["one", "two", "three", "four", "five", "six"], 5, "60s");
    let mut running = home.start(&["run", scenario.to_str().unwrap()]);
    running.wait_for(|event| event["event"] == "cell_ended");
    running.wait_for(|event| event["event"] == "progress" && event["phase"] == "measuring");
    running.kill();

    let reader = home.database().await;
    let run = reader.runs(1).await.unwrap().remove(0);
    let saved = reader.all_samples(&run.id).await.unwrap();
    assert!(saved.len() >= 5, "a cell had ended, so its samples must be there; there are {}", saved.len());
    let ended: Vec<_> =
        reader.cells(&run.id).await.unwrap().into_iter().filter(|cell| cell.outcome.is_some()).collect();
    reader.close().await;

    let output = home.regatta(&["run", "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let reader = home.database().await;
    let all = reader.all_samples(&run.id).await.unwrap();
    for sample in &saved {
        assert!(all.contains(sample), "lost: {:?}", sample.key);
    }
    let keys: BTreeSet<_> = all.iter().map(|sample| sample.key.clone()).collect();
    assert_eq!(keys.len(), all.len());
    let counted = reader.samples(&run.id).await.unwrap();
    assert_eq!(counted.len(), 6 * 5);
    let after = reader.cells(&run.id).await.unwrap();
    assert!(after.iter().all(|cell| cell.outcome == Some(Outcome::Ok) && cell.samples == 5));
    for before in ended {
        let same = after.iter().find(|cell| cell.hash == before.hash).unwrap();
        assert_eq!(same.epoch, before.epoch, "a cell that had ended was measured again");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_keeps_what_is_measured_and_says_how_to_go_on() {
    let home = Home::new();
    let scenario = home.scenario(&["one", "two", "three", "four"], 20, "60s");
    let mut running = home.start(&["run", scenario.to_str().unwrap()]);
    running.wait_for(|event| event["event"] == "cell_ended");
    signal(running.id(), "INT");
    assert_eq!(running.finish().code(), Some(4));

    let reader = home.database().await;
    let open = outcomes(&reader).await.into_values().filter(|state| state == "open").count();
    assert!(open > 0, "nothing was left to be resumed");
    reader.close().await;

    let output = home.regatta(&["run", "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(outcomes(&home.database().await).await.into_values().all(|state| state == "ok"));
}
