//! What of the spool is to be sent next over one connection. Pure: the state of the conversation, no stream and no disk.
//!
//! For each trial and epoch the coordinator says at hello where to resume; from there records go out in order, at most
//! [`WINDOW`] batches ahead of their acknowledgement, and the finish only when all of them are acknowledged. A trial
//! that is not being measured and has no finish mark was interrupted: its records are delivered, and then forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use regatta_proto::pb;
use tokio::time::Instant;

use crate::spool::{FinishMark, Head, TrialKey};

/// Batches that may be on the way without an acknowledgement.
pub(super) const WINDOW: usize = 8;

/// The size of a batch, in bytes, unless a single record is larger.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// How often the coordinator may miss the same record before the connection is given up.
const MAX_MISSED: u32 = 3;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Send records from this sequence number on.
    Batch(TrialKey, u64),
    /// Send the trial's end.
    Finish(TrialKey, FinishMark),
    /// Forget the trial: it was interrupted and all there is of it was delivered.
    Discard(TrialKey),
}

/// How far the conversation about one trial is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// Last sequence number that was sent.
    sent: u64,
    /// Last sequence number that is on the coordinator's disk.
    acked: u64,
    /// When the finish was sent.
    finish_sent: Option<Instant>,
    /// First sequence number of the last complaint, and how often it came.
    missed: (u64, u32),
}

/// A batch without an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InFlight {
    key: TrialKey,
    last_seq: u64,
    since: Instant,
}

/// The conversation over one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    positions: BTreeMap<TrialKey, Position>,
    /// Trials that the coordinator does not know: kept, not sent.
    unknown: BTreeSet<TrialKey>,
    in_flight: VecDeque<InFlight>,
}

impl Outbox {
    /// The start of a conversation: `offered` is what our hello named, `resume` what the coordinator answered. The second
    /// value names the trials that are finished there.
    pub(super) fn new(offered: &[Head], resume: &[(TrialKey, pb::ResumeFrom)]) -> (Self, Vec<TrialKey>) {
        let mut outbox = Self::default();
        let mut finished = Vec::new();
        for (key, from) in resume {
            if from.finished {
                finished.push(key.clone());
                continue;
            }
            let stored = from.seq.saturating_sub(1);
            outbox.positions.insert(key.clone(), Position { sent: stored, acked: stored, ..Position::default() });
        }
        let known: BTreeSet<_> = resume.iter().map(|(key, _)| key).collect();
        outbox.unknown = offered.iter().map(|head| &head.key).filter(|key| !known.contains(key)).cloned().collect();
        (outbox, finished)
    }

    /// Trials of the spool that the coordinator does not know.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &TrialKey> {
        self.unknown.iter()
    }

    /// What to do next; `None` where there is nothing, or too much is on the way. `held` are the trials that are being
    /// measured.
    pub(super) fn next(&self, heads: &[Head], held: &[TrialKey]) -> Option<Next> {
        heads.iter().filter(|head| !self.unknown.contains(&head.key)).find_map(|head| self.next_of(head, held))
    }

    fn next_of(&self, head: &Head, held: &[TrialKey]) -> Option<Next> {
        let position = self.positions.get(&head.key).copied().unwrap_or_default();
        if position.sent < head.last_seq {
            return (self.in_flight.len() < WINDOW).then(|| Next::Batch(head.key.clone(), position.sent + 1));
        }
        let delivered = head.whole && position.acked >= head.last_seq;
        match head.finish {
            Some(mark) if delivered && position.finish_sent.is_none() => Some(Next::Finish(head.key.clone(), mark)),
            None if delivered && !held.contains(&head.key) => Some(Next::Discard(head.key.clone())),
            // A trial with a lost record is never finished; its lease runs out and it is measured again.
            _ => None,
        }
    }

    /// A batch up to `last_seq` was sent. Records behind a lost one are not waited for: they are stored, but never
    /// acknowledged.
    pub(super) fn sent_batch(&mut self, head: &Head, last_seq: u64, now: Instant) {
        let key = head.key.clone();
        self.positions.entry(key.clone()).or_default().sent = last_seq;
        if head.whole {
            self.in_flight.push_back(InFlight { key, last_seq, since: now });
        }
    }

    /// The finish was sent.
    pub(super) fn sent_finish(&mut self, key: &TrialKey, now: Instant) {
        self.positions.entry(key.clone()).or_default().finish_sent = Some(now);
    }

    /// Everything of the trial up to `through` is on the coordinator's disk. Repeated and late ones change nothing.
    pub(super) fn acked(&mut self, key: &TrialKey, through: u64) {
        let Some(position) = self.positions.get_mut(key) else { return };
        position.acked = position.acked.max(through.min(position.sent));
        let acked = position.acked;
        self.in_flight.retain(|batch| batch.key != *key || batch.last_seq > acked);
    }

    /// The coordinator misses records from `from` on: they are sent again. An error where that does not help.
    pub(super) fn missing(&mut self, key: &TrialKey, from: u64) -> Result<(), String> {
        let Some(position) = self.positions.get_mut(key) else { return Ok(()) };
        let times = if position.missed.0 == from { position.missed.1 + 1 } else { 1 };
        let before = from.saturating_sub(1);
        *position = Position {
            sent: position.sent.min(before),
            acked: position.acked.min(before),
            finish_sent: None,
            missed: (from, times),
        };
        self.in_flight.retain(|batch| batch.key != *key);
        if times > MAX_MISSED {
            return Err(format!("record {from} of trial {key} was sent {times} times and is still missing there"));
        }
        Ok(())
    }

    /// The trial is over and done with.
    pub(super) fn forget(&mut self, key: &TrialKey) {
        self.positions.remove(key);
        self.in_flight.retain(|batch| batch.key != *key);
    }

    /// Whether all that `heads` have was sent and acknowledged, ends included.
    pub(super) fn is_drained(&self, heads: &[Head]) -> bool {
        let open = |head: &&Head| {
            let position = self.positions.get(&head.key).copied().unwrap_or_default();
            head.finish.is_some() || position.acked < head.last_seq
        };
        !heads.iter().filter(|head| head.whole && !self.unknown.contains(&head.key)).any(|head| open(&head))
    }

    /// Whether every record of the trial was sent.
    pub(super) fn has_sent_all(&self, key: &TrialKey, heads: &[Head]) -> bool {
        let sent = self.positions.get(key).map_or(0, |position| position.sent);
        heads.iter().find(|head| head.key == *key).is_none_or(|head| sent >= head.last_seq)
    }

    /// Last acknowledged sequence number of each of `heads`.
    pub(super) fn acked_positions(&self, heads: &[Head]) -> Vec<(TrialKey, u64)> {
        let acked = |key| self.positions.get(key).map_or(0, |position| position.acked);
        heads.iter().map(|head| (head.key.clone(), acked(&head.key))).collect()
    }

    /// When an answer is overdue, given that one may take `patience`; `None` where none is waited for.
    pub(super) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let batch = self.in_flight.front().map(|batch| batch.since);
        let finish = self.positions.values().filter_map(|position| position.finish_sent).min();
        batch.into_iter().chain(finish).min().map(|since| since + patience)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regatta_core::digest::Digest;
    use regatta_core::trial::Epoch;

    use super::*;

    fn key(trial: u32) -> TrialKey {
        TrialKey { trial: format!("run.t{trial}").parse().unwrap(), epoch: Epoch(1) }
    }

    fn mark(last_seq: u64) -> FinishMark {
        FinishMark { last_seq, digest: Digest::of(b"") }
    }

    fn head(trial: u32, last_seq: u64, finished: bool) -> Head {
        Head { key: key(trial), last_seq, finish: finished.then(|| mark(last_seq)), whole: true }
    }

    fn resume(trial: u32, seq: u64, finished: bool) -> (TrialKey, pb::ResumeFrom) {
        let wire = pb::ResumeFrom { trial_id: key(trial).trial.to_string(), epoch: 1, seq, finished };
        (key(trial), wire)
    }

    #[test]
    fn a_trial_is_sent_acknowledged_and_finished() {
        let now = Instant::now();
        let heads = [head(0, 5, true)];
        let (mut outbox, _) = Outbox::new(&[], &[]);
        assert_eq!(outbox.next(&heads, &[]), Some(Next::Batch(key(0), 1)));
        outbox.sent_batch(&heads[0], 3, now);
        assert_eq!(outbox.next(&heads, &[]), Some(Next::Batch(key(0), 4)));
        outbox.sent_batch(&heads[0], 5, now);
        assert_eq!(outbox.next(&heads, &[]), None, "the finish waits for acknowledgements");
        outbox.acked(&key(0), 3);
        assert_eq!(outbox.next(&heads, &[]), None);
        outbox.acked(&key(0), 5);
        outbox.acked(&key(0), 3);
        assert_eq!(outbox.next(&heads, &[]), Some(Next::Finish(key(0), mark(5))));
        outbox.sent_finish(&key(0), now);
        assert_eq!(outbox.next(&heads, &[]), None);
        assert!(!outbox.is_drained(&heads));
        assert!(outbox.is_drained(&[]));
    }

    #[test]
    fn the_window_bounds_what_is_on_the_way() {
        let now = Instant::now();
        let heads = [head(0, 100, false)];
        let (mut outbox, _) = Outbox::new(&[], &[]);
        for seq in 1..=WINDOW as u64 {
            assert_eq!(outbox.next(&heads, &[key(0)]), Some(Next::Batch(key(0), seq)));
            outbox.sent_batch(&heads[0], seq, now);
        }
        assert_eq!(outbox.next(&heads, &[key(0)]), None);
        assert_eq!(outbox.overdue_at(Duration::from_secs(1)), Some(now + Duration::from_secs(1)));
        outbox.acked(&key(0), 1);
        assert_eq!(outbox.next(&heads, &[key(0)]), Some(Next::Batch(key(0), WINDOW as u64 + 1)));
    }

    #[test]
    fn a_reconnect_goes_on_where_the_coordinator_says() {
        let heads = [head(0, 5, true), head(1, 3, false), head(2, 2, true), head(3, 2, true)];
        let answers = [resume(0, 4, false), resume(1, 4, false), resume(2, 3, true)];
        let (outbox, finished) = Outbox::new(&heads, &answers);
        assert_eq!(finished, [key(2)]);
        assert_eq!(outbox.unknown().collect::<Vec<_>>(), [&key(3)]);
        assert_eq!(outbox.next(&heads, &[]), Some(Next::Batch(key(0), 4)));
        let interrupted = [heads[1].clone()];
        assert_eq!(outbox.next(&interrupted, &[key(1)]), None, "it is being measured");
        assert_eq!(outbox.next(&interrupted, &[]), Some(Next::Discard(key(1))));
        assert_eq!(outbox.next(&[heads[3].clone()], &[]), None, "nobody knows it there");
    }

    #[test]
    fn missing_records_are_sent_again_but_not_for_ever() {
        let now = Instant::now();
        let heads = [head(0, 5, true)];
        let (mut outbox, _) = Outbox::new(&[], &[]);
        outbox.sent_batch(&heads[0], 5, now);
        outbox.acked(&key(0), 5);
        outbox.sent_finish(&key(0), now);
        for _ in 0..MAX_MISSED {
            outbox.missing(&key(0), 2).unwrap();
            assert_eq!(outbox.next(&heads, &[]), Some(Next::Batch(key(0), 2)));
        }
        assert!(outbox.missing(&key(0), 2).unwrap_err().contains("still missing"));
    }

    #[test]
    fn a_trial_with_a_lost_record_is_delivered_but_never_finished() {
        let heads = [Head { whole: false, ..head(0, 5, true) }];
        let (mut outbox, _) = Outbox::new(&[], &[]);
        outbox.sent_batch(&heads[0], 5, Instant::now());
        outbox.acked(&key(0), 2);
        assert_eq!(outbox.next(&heads, &[]), None);
        assert_eq!(outbox.overdue_at(Duration::ZERO), None, "its acknowledgement is not waited for");
        assert!(outbox.is_drained(&heads));
    }

    #[derive(Debug, Clone)]
    enum Peer {
        Work,
        Ack(u64),
        Missing(u64),
    }

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![Just(Peer::Work), (0u64..30).prop_map(Peer::Ack), (1u64..20).prop_map(Peer::Missing)]
    }

    proptest! {
        #[test]
        fn whatever_the_peer_says_the_finish_comes_only_behind_all_records(peers in proptest::collection::vec(peer(), 0..60)) {
            let heads = [head(0, 20, true)];
            let (mut outbox, _) = Outbox::new(&[], &[]);
            let mut delivered = 0;
            for peer in peers {
                match peer {
                    Peer::Work => match outbox.next(&heads, &[]) {
                        Some(Next::Batch(_, from)) => {
                            prop_assert!(from <= 20);
                            let last = (from + 2).min(20);
                            delivered = delivered.max(last);
                            outbox.sent_batch(&heads[0], last, Instant::now());
                        }
                        Some(Next::Finish(..)) => {
                            prop_assert_eq!(delivered, 20);
                            outbox.sent_finish(&key(0), Instant::now());
                        }
                        Some(Next::Discard(_)) => prop_assert!(false, "a finished trial was thrown away"),
                        None => {}
                    },
                    Peer::Ack(through) => outbox.acked(&key(0), through),
                    Peer::Missing(from) => drop(outbox.missing(&key(0), from)),
                }
            }
        }
    }
}
