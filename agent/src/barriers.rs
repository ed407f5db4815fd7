//! Barriers: where this agent's replicas stand, between the trials that wait and the session that carries messages.
//!
//! A trial says that it is ready for a repetition and waits; the session tells the coordinator, and brings its answer.
//! What was on the way when a connection broke is lost, so the session says again who waits after each reconnect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regatta_core::cell::CellHash;
use tokio::sync::{Notify, oneshot};

use crate::spool::TrialKey;

/// A repetition that replicas begin together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) cell: CellHash,
    /// From 0.
    pub(crate) repetition: u32,
}

/// The coordinator's word: begin, or end the cell for the reason given.
pub(crate) type Word = Result<(), String>;

/// The barriers of this agent's trials.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barriers {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<TrialKey, Waiter>,
    /// Trials that have begun; the coordinator was not told.
    begun: Vec<(TrialKey, Gate)>,
}

#[derive(Debug)]
struct Waiter {
    gate: Gate,
    answer: oneshot::Sender<Word>,
    told: bool,
}

/// A trial that waits. When it goes away, nobody waits any more.
#[derive(Debug)]
pub(crate) struct Waiting {
    barriers: Barriers,
    key: TrialKey,
    gate: Gate,
    word: oneshot::Receiver<Word>,
}

impl Barriers {
    /// The trial is ready for the repetition.
    pub(crate) fn wait(&self, key: TrialKey, gate: Gate) -> Waiting {
        let (answer, word) = oneshot::channel();
        self.lock().waiting.insert(key.clone(), Waiter { gate, answer, told: false });
        self.changed.notify_one();
        Waiting { barriers: self.clone(), key, gate, word }
    }

    /// The trial has begun the repetition.
    pub(crate) fn begun(&self, key: TrialKey, gate: Gate) {
        self.lock().begun.push((key, gate));
        self.changed.notify_one();
    }

    /// The coordinator's word for a trial. One for another repetition than it waits for is late, and changes nothing.
    pub(crate) fn answer(&self, key: &TrialKey, gate: Gate, word: Word) {
        let mut state = self.lock();
        if state.waiting.get(key).is_none_or(|waiter| waiter.gate != gate) {
            tracing::debug!(trial = %key, repetition = gate.repetition, "a late word for a barrier");
            return;
        }
        if let Some(waiter) = state.waiting.remove(key) {
            let _ = waiter.answer.send(word);
        }
    }

    /// Returns after a trial has begun to wait or to measure.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Those who wait and of whom the coordinator was not told.
    pub(crate) fn untold(&self) -> Vec<(TrialKey, Gate)> {
        let state = self.lock();
        state
            .waiting
            .iter()
            .filter(|(_, waiter)| !waiter.told)
            .map(|(key, waiter)| (key.clone(), waiter.gate))
            .collect()
    }

    /// The coordinator was told.
    pub(crate) fn told(&self, key: &TrialKey) {
        if let Some(waiter) = self.lock().waiting.get_mut(key) {
            waiter.told = true;
        }
    }

    /// Those who have begun since the last call.
    pub(crate) fn take_begun(&self) -> Vec<(TrialKey, Gate)> {
        std::mem::take(&mut self.lock().begun)
    }

    /// A new connection: who waits is to be told again. That somebody has begun is news only at that moment.
    pub(crate) fn forget_told(&self) {
        let mut state = self.lock();
        state.waiting.values_mut().for_each(|waiter| waiter.told = false);
        state.begun.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The coordinator's word. Can be called again if it was not waited for to its end.
    pub(crate) async fn word(&mut self) -> Word {
        match (&mut self.word).await {
            Ok(word) => word,
            // Somebody else waits under the same key: not for this word.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.barriers.lock();
        if state.waiting.get(&self.key).is_some_and(|waiter| waiter.gate == self.gate) {
            state.waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use regatta_core::digest::Digest;
    use regatta_core::trial::Epoch;

    use super::*;

    fn gate(repetition: u32) -> Gate {
        Gate { cell: CellHash(Digest::of(b"cell")), repetition }
    }

    fn key() -> TrialKey {
        TrialKey { trial: "run.t0".parse().unwrap(), epoch: Epoch(1) }
    }

    #[tokio::test]
    async fn only_the_word_for_this_repetition_counts() {
        let barriers = Barriers::default();
        let mut waiting = barriers.wait(key(), gate(1));
        barriers.answer(&key(), gate(0), Ok(()));
        barriers.answer(&TrialKey { epoch: Epoch(2), ..key() }, gate(1), Ok(()));
        assert!(waiting.word.try_recv().is_err());
        barriers.answer(&key(), gate(1), Err("no memory".to_owned()));
        barriers.answer(&key(), gate(1), Ok(()));
        assert_eq!(waiting.word().await, Err("no memory".to_owned()));
    }

    #[test]
    fn after_a_reconnect_it_is_said_again_who_waits() {
        let barriers = Barriers::default();
        let waiting = barriers.wait(key(), gate(0));
        assert_eq!(barriers.untold(), [(key(), gate(0))]);
        barriers.told(&key());
        assert_eq!(barriers.untold(), []);
        barriers.begun(key(), gate(0));
        barriers.forget_told();
        assert_eq!((barriers.untold().len(), barriers.take_begun().len()), (1, 0));
        drop(waiting);
        assert_eq!(barriers.untold(), []);
    }
}
