//! Ingest: at least once on the wire, exactly once on the disk.

use crate::common::{
    self, REPETITIONS, event_kinds, finish, finish_of, ingest, leased, sample, sample_record, store, submitted,
    whole_trial,
};
use proptest::prelude::*;
use regatta_core::cell::Outcome;
use regatta_core::digest::Digest;
use regatta_core::trial::{Epoch, TrialState};
use regatta_store::{Batch, Content, Finished, Ingested, Record, Store};

#[tokio::test]
async fn a_batch_sent_twice_is_stored_once_and_acknowledged_twice() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    for samples in [u64::from(REPETITIONS), 0] {
        let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
        assert_eq!((stored.durable_through_seq, stored.samples, stored.conflicts), (5, samples, 0));
    }
    assert_eq!(temp.store.reader().samples(&small.run).await.unwrap().len(), 3);
    temp.store.close().await;
}

#[tokio::test]
async fn a_gap_is_asked_for_and_nothing_behind_it_is_acknowledged() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records[..1]).await;
    let stored = ingest(&temp.store, &small.trial, epoch, 4, &records[3..]).await;
    assert_eq!((stored.durable_through_seq, stored.missing_from, stored.samples), (1, Some(2), 0));
    let early = finish(&temp.store, &small.trial, epoch, &records).await;
    assert_eq!(early, Finished::Missing { from_seq: 2 });
    let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    assert_eq!((stored.durable_through_seq, stored.missing_from), (5, None));
    temp.store.close().await;
}

#[tokio::test]
async fn another_record_under_the_same_number_is_kept_beside_the_first() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let first = sample(small.cells[0], epoch, 0);
    let mut second = first.clone();
    second.times.end += 1;
    ingest(&temp.store, &small.trial, epoch, 1, &[sample_record(first.clone())]).await;
    for _ in 0..2 {
        let stored = ingest(&temp.store, &small.trial, epoch, 1, &[sample_record(second.clone())]).await;
        assert_eq!((stored.conflicts, stored.durable_through_seq), (1, 1));
    }
    // The same repetition under another number.
    let stored = ingest(&temp.store, &small.trial, epoch, 2, &[sample_record(second)]).await;
    assert_eq!((stored.conflicts, stored.rejected, stored.samples), (1, 1, 0));
    assert_eq!(temp.store.reader().samples(&small.run).await.unwrap(), [first]);
    let kinds = event_kinds(&temp.store, &small.run).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "data_conflict").count(), 2, "{kinds:?}");
    temp.store.close().await;
}

#[tokio::test]
async fn samples_that_break_a_rule_are_set_apart_with_the_reason() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let good = sample(small.cells[0], epoch, 0);
    let broken = |change: fn(&mut regatta_core::sample::Sample)| {
        let mut sample = good.clone();
        change(&mut sample);
        sample_record(sample)
    };
    let records = [
        broken(|s| s.times.prefill_done = s.times.prefill_start),
        broken(|s| s.times.tokens = s.times.tokens[..1].into()),
        broken(|s| s.batch = 2),
        broken(|s| s.key.epoch = Epoch(7)),
        broken(|s| s.key.repetition = 3 * REPETITIONS),
        broken(|s| s.key.cell.0 = Digest::of(b"another cell")),
        broken(|s| s.load_ns = u64::MAX),
        common::record(Content::Unreadable("not a record".to_owned())),
    ];
    let stored = ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    assert_eq!((stored.rejected, stored.samples, stored.durable_through_seq), (8, 0, 8));
    let rejected = temp.store.reader().rejected_samples(&small.run).await.unwrap();
    let reasons: Vec<_> = rejected.iter().map(|r| r.reason.as_str()).collect();
    for (reason, part) in reasons.iter().zip([
        "prefill took 0 ns",
        "1 token times where 3",
        "batch is 2 where",
        "epoch 7",
        "repetition 9 where at most 9",
        "not part of the trial",
        "load_ns is",
        "not a record",
    ]) {
        assert!(reason.contains(part), "{reason:?} lacks {part:?}");
    }
    assert_eq!(temp.store.reader().samples(&small.run).await.unwrap().len(), 0);
    temp.store.close().await;
}

#[tokio::test]
async fn a_finish_that_does_not_fit_is_answered_once_with_a_request_for_everything() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records).await;
    let mut wrong = finish_of(&small.trial, epoch, &records);
    wrong.last_seq -= 1;
    let writer = temp.store.writer();
    assert_eq!(writer.write(wrong.clone()).await.unwrap(), Finished::Missing { from_seq: 1 });
    let events = temp.store.reader().events(&small.run, 0).await.unwrap();
    let detail = &events.last().unwrap().detail;
    assert!(detail.contains("4 records") && detail.contains("5 are stored"), "{detail}");
    let last = writer.write(wrong).await.unwrap();
    assert!(matches!(last, Finished::Complete { state: Some(TrialState::Done), .. }), "{last:?}");
    temp.store.close().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_restart_and_its_digest_is_checked_over_it() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 2).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..2], epoch);
    ingest(&temp.store, &small.trial, epoch, 1, &records[..4]).await;
    let temp = temp.reopened().await;
    let delivery = temp.store.reader().delivery(&small.trial, epoch).await.unwrap().unwrap();
    assert_eq!((delivery.last_seq, delivery.finished), (4, false));
    ingest(&temp.store, &small.trial, epoch, 3, &records[2..]).await;
    let done = finish(&temp.store, &small.trial, epoch, &records).await;
    assert!(matches!(done, Finished::Complete { state: Some(TrialState::Done), .. }), "{done:?}");
    // Asked again, because the first answer was lost on its way.
    let again = finish(&temp.store, &small.trial, epoch, &records).await;
    assert!(matches!(again, Finished::Complete { state: None, .. }), "{again:?}");
    // And a batch again: compared by its hashes, although the bytes are gone.
    assert_eq!(ingest(&temp.store, &small.trial, epoch, 1, &records).await.conflicts, 0);
    temp.store.close().await;
}

#[tokio::test]
async fn a_lease_that_was_never_given_stores_nothing() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let records = whole_trial(&small.cells[..1], Epoch(1));
    let batch = Batch { trial: small.trial.clone(), epoch: Epoch(1), first_seq: 1, records };
    assert_eq!(temp.store.writer().write(batch).await.unwrap(), Ingested::UnknownLease);
    temp.store.close().await;
}

#[tokio::test]
async fn one_broken_change_does_not_take_its_neighbours_down() {
    let temp = store().await;
    let small = submitted(&temp.store, "run-a", 1).await;
    let epoch = leased(&temp.store, &small.trial).await;
    let records = whole_trial(&small.cells[..1], epoch);
    let mut broken = common::run("run-b", 1);
    // Two cells in one place: the database refuses them.
    broken.matrix.cells.push(broken.matrix.cells[0].clone());
    let writer = temp.store.writer();
    let batch = Batch { trial: small.trial.clone(), epoch, first_seq: 1, records };
    let (refused, stored) = tokio::join!(writer.write(broken), writer.write(batch));
    assert!(refused.is_err());
    assert!(matches!(stored, Ok(Ingested::Stored(_))), "{stored:?}");
    assert_eq!(temp.store.reader().runs(10).await.unwrap().len(), 1);
    assert_eq!(temp.store.reader().samples(&small.run).await.unwrap().len(), 3);
    temp.store.close().await;
}

/// Sends slices of the records as the script says, resends from every gap, and finishes.
async fn deliver(store: &Store, small: &common::Small, epoch: Epoch, records: &[Record], script: &[(usize, usize)]) {
    for &(start, length) in script {
        let start = start % records.len();
        let end = (start + 1 + length).min(records.len());
        let stored = ingest(store, &small.trial, epoch, start as u64 + 1, &records[start..end]).await;
        assert_eq!(stored.conflicts, 0);
    }
    loop {
        match finish(store, &small.trial, epoch, records).await {
            Finished::Missing { from_seq } => {
                let start = usize::try_from(from_seq).unwrap() - 1;
                ingest(store, &small.trial, epoch, from_seq, &records[start..(start + 3).min(records.len())]).await;
            }
            Finished::Complete { state, .. } => break assert_eq!(state, Some(TrialState::Done)),
            Finished::UnknownLease => panic!("unknown lease"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shuffled_and_repeated_batches_give_exactly_the_set(
        script in prop::collection::vec((0_usize..20, 0_usize..6), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let temp = store().await;
            let small = submitted(&temp.store, "run-a", 4).await;
            let epoch = leased(&temp.store, &small.trial).await;
            let cells = &small.cells[..4];
            deliver(&temp.store, &small, epoch, &whole_trial(cells, epoch), &script).await;
            let expected: Vec<_> = cells
                .iter()
                .flat_map(|&cell| (0..REPETITIONS).map(move |repetition| sample(cell, epoch, repetition)))
                .collect();
            assert_eq!(temp.store.reader().all_samples(&small.run).await.unwrap().len(), expected.len());
            assert_eq!(temp.store.reader().samples(&small.run).await.unwrap(), expected);
            let ended = temp.store.reader().cells(&small.run).await.unwrap();
            assert!(ended[..4].iter().all(|cell| cell.outcome == Some(Outcome::Ok)));
            temp.store.close().await;
        });
    }
}
