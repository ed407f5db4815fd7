//! What has arrived of each lease: the hash of every record, batch by batch in the order of arrival.
//!
//! Each arrival names the one before it of its lease, and the lease names its newest. The chain is followed back from
//! there, so that an arrival costs an append and nothing else, however many leases there are.

use std::collections::HashMap;

use regatta_core::digest::Digest;
use regatta_core::id::TrialId;
use regatta_core::trial::Epoch;
use sqlx::sqlite::SqliteConnection;

use crate::error::StoreError;
use crate::row::{Columns, stored, unreadable};
use crate::stream::{self, statements};

/// Records of a lease that are stored together.
#[derive(Debug)]
pub(crate) struct Arrival<'b> {
    pub(crate) id: i64,
    pub(crate) trial: &'b TrialId,
    pub(crate) epoch: Epoch,
    pub(crate) first_seq: i64,
    /// The arrival of the same lease before this one.
    pub(crate) before: Option<i64>,
    /// The hashes of its records, one after the other.
    pub(crate) hashes: Vec<u8>,
}

/// The number of the next arrival.
pub(crate) async fn next_id(db: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query("SELECT COALESCE(max(id), 0) + 1 AS next FROM arrivals").fetch_one(db).await?.integer("next")
}

/// Notes what has arrived.
pub(crate) async fn insert(db: &mut SqliteConnection, arrivals: &[Arrival<'_>]) -> Result<(), StoreError> {
    static INSERT: stream::Statements = stream::Statements::new(|| {
        statements("INSERT INTO arrivals (id, trial_id, epoch, first_seq, hashes, before)", 6, "")
    });
    for (size, piece) in stream::pieces(arrivals) {
        let mut query = sqlx::query(INSERT[size].as_str());
        for arrival in piece {
            query = query
                .bind(arrival.id)
                .bind(arrival.trial.as_str())
                .bind(arrival.epoch.0)
                .bind(arrival.first_seq)
                .bind(arrival.hashes.as_slice())
                .bind(arrival.before);
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// The hashes of a lease's records from `from_seq` on, as far as they are stored, by sequence number.
pub(crate) async fn hashes(
    db: &mut SqliteConnection,
    trial: &TrialId,
    epoch: Epoch,
    from_seq: u64,
) -> Result<HashMap<u64, Digest>, StoreError> {
    let mut known = HashMap::new();
    for (first_seq, digests) in chain(db, trial, epoch, from_seq).await? {
        known.extend((first_seq..).zip(digests).filter(|(seq, _)| *seq >= from_seq));
    }
    Ok(known)
}

/// [`Digest::over`] the hashes of all records of a lease.
pub(crate) async fn digest(db: &mut SqliteConnection, trial: &TrialId, epoch: Epoch) -> Result<Digest, StoreError> {
    let newest_first = chain(db, trial, epoch, 1).await?;
    Ok(Digest::over(newest_first.into_iter().rev().flat_map(|(_, digests)| digests)))
}

/// Arrivals of a lease, newest first, back to the one that holds record `from_seq`: the number of the first record of each,
/// and the hashes.
async fn chain(
    db: &mut SqliteConnection,
    trial: &TrialId,
    epoch: Epoch,
    from_seq: u64,
) -> Result<Vec<(u64, Vec<Digest>)>, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE chain (first_seq, hashes, before) AS (
            SELECT a.first_seq, a.hashes, a.before
            FROM deliveries d JOIN arrivals a ON a.id = d.last_arrival WHERE d.trial_id = ?1 AND d.epoch = ?2
            UNION ALL
            SELECT a.first_seq, a.hashes, a.before
            FROM chain c JOIN arrivals a ON a.id = c.before WHERE c.first_seq > ?3
         ) SELECT first_seq, hashes FROM chain ORDER BY first_seq DESC",
    )
    .bind(trial.as_str())
    .bind(epoch.0)
    .bind(stored("seq", from_seq)?)
    .fetch_all(db)
    .await?;
    let digests = |bytes: &[u8]| {
        bytes.chunks(32).map(Digest::try_from).collect::<Result<_, _>>().map_err(|error| unreadable("hashes", &error))
    };
    rows.iter().map(|row| Ok((row.unsigned("first_seq")?, digests(&row.bytes("hashes")?)?))).collect()
}
