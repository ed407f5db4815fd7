//! The oracle: what the fake engine wrote into its own book, against what the database holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regatta_core::digest::Digest;
use regatta_core::id::RunId;
use regatta_core::sample::Sample;
use regatta_store::Store;

/// The book that the workers of a fleet have kept.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Written to an agent's pipe.
    pub(crate) given: BTreeSet<String>,
    /// On an agent's disk, as the agent has answered.
    pub(crate) taken: BTreeSet<String>,
}

impl Ledger {
    /// Reads the books of several agents as one.
    pub(crate) fn read(books: impl IntoIterator<Item = PathBuf>) -> Self {
        let texts = books.into_iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
        let text: String = texts.collect();
        let mut ledger = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("given", entry)) => assert!(ledger.given.insert(entry.to_owned()), "given twice: {entry}"),
                Some(("taken", entry)) => assert!(ledger.taken.insert(entry.to_owned()), "taken twice: {entry}"),
                // A worker that was killed while it wrote.
                _ => {}
            }
        }
        ledger
    }
}

/// What the engine's book says of a sample: written a second time, from the columns of the database.
pub(crate) fn entry(sample: &Sample) -> String {
    let mut measured: Vec<u8> = sample.times.tokens.iter().flat_map(|time| time.to_le_bytes()).collect();
    measured.extend(sample.output.iter().flat_map(|id| id.to_le_bytes()));
    measured.extend(sample.times.end.to_le_bytes());
    let key = &sample.key;
    format!("{}/{}/{}/{}", key.cell.0, key.epoch.0, key.repetition, Digest::of(&measured))
}

/// What came of the comparison.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Samples in the database.
    pub(crate) stored: usize,
    /// Taken by an agent and not in the database.
    pub(crate) lost: Vec<String>,
    /// In the database without ever having been given.
    pub(crate) invented: Vec<String>,
    /// In the database more than once.
    pub(crate) duplicated: Vec<String>,
}

impl Verdict {
    /// Compares the book with a closed or open database.
    pub(crate) async fn of(ledger: &Ledger, db: &Path, runs: &[RunId]) -> Self {
        let reader = Store::open_read_only(db).await.unwrap();
        let mut samples = Vec::new();
        for run in runs {
            samples.extend(reader.all_samples(run).await.unwrap());
            let rejected = reader.rejected_samples(run).await.unwrap();
            assert!(rejected.is_empty(), "{rejected:?}");
        }
        reader.close().await;
        let mut stored = BTreeSet::new();
        let mut duplicated = Vec::new();
        for sample in &samples {
            let entry = entry(sample);
            if !stored.insert(entry.clone()) {
                duplicated.push(entry);
            }
        }
        Self {
            stored: samples.len(),
            lost: ledger.taken.difference(&stored).cloned().collect(),
            invented: stored.difference(&ledger.given).cloned().collect(),
            duplicated,
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.invented.is_empty()
    }

    pub(crate) fn assert_nothing_lost(&self) {
        assert!(self.lost.is_empty(), "lost: {:#?}", self.lost);
        assert!(self.duplicated.is_empty(), "duplicated: {:#?}", self.duplicated);
        assert!(self.invented.is_empty(), "from nowhere: {:#?}", self.invented);
    }
}
