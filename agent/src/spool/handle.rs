//! The spool for asynchronous code: every call runs on a blocking thread, and whoever sends records is told of new ones.

use std::sync::{Arc, Mutex, PoisonError};

use regatta_core::trial::Epoch;
use tokio::sync::watch;

use super::{Chunk, FinishMark, Head, Room, Spool, SpoolError, TrialKey};

/// A shared spool. Cloning it is cheap.
#[derive(Clone)]
pub struct SpoolHandle {
    spool: Arc<Mutex<Spool>>,
    /// Bytes taken since the process started; its changes wake the sender.
    taken: watch::Sender<u64>,
}

impl SpoolHandle {
    /// Takes the spool over.
    pub fn new(spool: Spool) -> Self {
        Self { spool: Arc::new(Mutex::new(spool)), taken: watch::Sender::new(0) }
    }

    /// Changes with every record and every finished trial: bytes taken since the process started.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.taken.subscribe()
    }

    /// See [`Spool::append`].
    pub async fn append(&self, key: TrialKey, body: Vec<u8>) -> Result<u64, SpoolError> {
        let bytes = body.len() as u64;
        let seq = self.call(move |spool| spool.append(&key, &body)).await?;
        self.taken.send_modify(|taken| *taken += bytes);
        Ok(seq)
    }

    /// See [`Spool::finish`].
    pub async fn finish(&self, key: TrialKey) -> Result<FinishMark, SpoolError> {
        let mark = self.call(move |spool| spool.finish(&key)).await?;
        self.taken.send_modify(|_| {});
        Ok(mark)
    }

    /// See [`Spool::read_from`].
    pub async fn read_from(&self, key: TrialKey, seq: u64, max_bytes: usize) -> Result<Chunk, SpoolError> {
        self.call(move |spool| spool.read_from(&key, seq, max_bytes)).await
    }

    /// See [`Spool::discard`].
    pub async fn discard(&self, key: TrialKey) -> Result<(), SpoolError> {
        self.call(move |spool| spool.discard(&key)).await
    }

    /// See [`Spool::heads`].
    pub async fn heads(&self) -> Vec<Head> {
        self.call(|spool| spool.heads()).await
    }

    /// Whether the spool has records of the trial under this lease.
    pub async fn holds(&self, trial: regatta_core::id::TrialId, epoch: Epoch) -> bool {
        self.call(move |spool| spool.head(&TrialKey { trial, epoch }).is_some()).await
    }

    /// See [`Spool::count_after`], summed up over `positions`.
    pub async fn count_after(&self, positions: Vec<(TrialKey, u64)>) -> u64 {
        self.call(move |spool| positions.iter().map(|(key, seq)| spool.count_after(key, *seq)).sum()).await
    }

    /// See [`Spool::room`].
    pub async fn room(&self) -> Room {
        self.call(|spool| spool.room()).await
    }

    async fn call<T: Send + 'static>(&self, call: impl FnOnce(&mut Spool) -> T + Send + 'static) -> T {
        let spool = Arc::clone(&self.spool);
        let task = tokio::task::spawn_blocking(move || {
            // A panic in an earlier call left the index as it was before or after it: each call changes it last.
            call(&mut spool.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match task.await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
