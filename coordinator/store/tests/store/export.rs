//! One run as a file of its own.

use std::collections::BTreeMap;

use regatta_core::cell::Outcome;
use regatta_core::id::RunId;
use regatta_store::{
    AgentRecord, AgentSeen, CellRecord, Content, EventRecord, Reader, RejectedSample, Release, ReleaseReason,
    RunRecord, Store, TrialRecord, WorkerRecord,
};

use crate::common::{self, Small};

/// Everything that can be read of a run.
#[derive(Debug, PartialEq)]
struct Everything {
    run: RunRecord,
    cells: Vec<CellRecord>,
    samples: Vec<regatta_core::sample::Sample>,
    all_samples: Vec<regatta_core::sample::Sample>,
    rejected: Vec<RejectedSample>,
    workers: Vec<WorkerRecord>,
    trials: Vec<TrialRecord>,
    events: Vec<EventRecord>,
    agents: Vec<AgentRecord>,
}

async fn everything(reader: &Reader, run: &RunId) -> Everything {
    Everything {
        run: reader.run(run.as_str()).await.unwrap(),
        cells: reader.cells(run).await.unwrap(),
        samples: reader.samples(run).await.unwrap(),
        all_samples: reader.all_samples(run).await.unwrap(),
        rejected: reader.rejected_samples(run).await.unwrap(),
        workers: reader.worker_facts(run).await.unwrap(),
        trials: reader.trials(run).await.unwrap(),
        events: reader.events(run, 0).await.unwrap(),
        agents: reader.agents().await.unwrap(),
    }
}

/// A run whose first lease was lost after a cell and some samples of the next, and whose second is complete.
async fn eventful(store: &Store, id: &str) -> Small {
    let small = common::submitted(store, id, 2).await;
    let first = common::leased(store, &small.trial).await;
    let mut records = common::whole_trial(&small.cells[..1], first);
    records.push(common::sample_record(common::sample(small.cells[1], first, 0)));
    records.push(common::record(Content::Unreadable("is not a record".to_owned())));
    common::ingest(store, &small.trial, first, 1, &records).await;
    let lost = Release { trial: small.trial.clone(), epoch: first, reason: ReleaseReason::Lost };
    store.writer().write(lost).await.unwrap();
    let second = common::leased(store, &small.trial).await;
    let records = common::whole_trial(&small.cells[1..2], second);
    common::ingest(store, &small.trial, second, 1, &records).await;
    common::finish(store, &small.trial, second, &records).await;
    small
}

async fn seen(store: &Store, agent: &str) {
    let seen = AgentSeen {
        id: agent.parse().unwrap(),
        boot_id: "boot".to_owned(),
        version: "0.1.0".to_owned(),
        host: BTreeMap::new(),
        labels: BTreeMap::new(),
        workers: Vec::new(),
        devices: Vec::new(),
        canaries: Vec::new(),
    };
    store.writer().write(seen).await.unwrap();
}

#[tokio::test]
async fn an_export_holds_all_of_the_run_and_nothing_of_others() {
    let temp = common::store().await;
    for agent in ["host-a", "host-b"] {
        seen(&temp.store, agent).await;
    }
    let small = eventful(&temp.store, "run-a").await;
    let other = eventful(&temp.store, "run-b").await;
    let path = temp.dir.path().join("copy of 100 %.sqlite");
    temp.store.reader().export(&small.run, &path).await.unwrap();

    let copy = Store::open_read_only(&path).await.unwrap();
    let (mut expected, found) =
        (everything(temp.store.reader(), &small.run).await, everything(&copy, &small.run).await);
    assert!(!expected.rejected.is_empty() && expected.all_samples.len() > expected.samples.len());
    assert!(expected.cells.iter().any(|cell| cell.outcome == Some(Outcome::Ok)));
    expected.agents.retain(|agent| agent.id.as_str() == "host-a");
    assert_eq!(found, expected);
    assert_eq!(copy.runs(10).await.unwrap().len(), 1);
    assert!(copy.run(other.run.as_str()).await.is_err());
    copy.close().await;

    // A coordinator takes it as a database of its own.
    let store = Store::open(&path, || jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(everything(store.reader(), &small.run).await, expected);
    store.close().await;
    temp.store.close().await;
}

#[tokio::test]
async fn a_run_that_goes_on_can_be_exported_while_it_is_written() {
    let temp = common::store().await;
    let small = common::submitted(&temp.store, "run-a", 3).await;
    let epoch = common::leased(&temp.store, &small.trial).await;
    let records = common::whole_trial(&small.cells[..3], epoch);
    let (writer, reader) = (temp.store.writer().clone(), temp.store.reader().clone());
    let (trial, all) = (small.trial.clone(), records.clone());
    let writing = tokio::spawn(async move {
        for (seq, record) in (1..).zip(all) {
            let batch = regatta_store::Batch { trial: trial.clone(), epoch, first_seq: seq, records: vec![record] };
            writer.write(batch).await.unwrap();
        }
    });
    let mut before = 0;
    for number in 0..5 {
        let path = temp.dir.path().join(format!("copy-{number}.sqlite"));
        reader.export(&small.run, &path).await.unwrap();
        let copy = Store::open_read_only(&path).await.unwrap();
        let samples = copy.all_samples(&small.run).await.unwrap();
        assert!(samples.len() >= before, "a later copy holds less");
        before = samples.len();
        copy.close().await;
    }
    writing.await.unwrap();
    temp.store.close().await;
}
