//! Reports and charts: what this crate has no means for is asked of who started the coordinator, one at a time, on a thread
//! that may take its time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use regatta_core::id::RunId;
use regatta_store::{KnownCell, Reader};
use tokio::sync::Semaphore;

/// Requests that may wait for their turn.
const WAITING: usize = 4;

/// Repetitions of a report that is drawn, and megabytes of what they hold, at most: it is drawn in the coordinator's memory,
/// and what it needs in all is some times as much.
const MAX_SAMPLES: u64 = 100_000;
const MAX_MEGABYTES: u64 = 64;

/// Draws what the dashboard shows and does not draw itself. Each call comes on a thread that may block, and no other while
/// one goes on.
pub trait Drawing: fmt::Debug + Send + Sync {
    /// The report of a run.
    fn report(&self, reader: &Reader, run: &RunId) -> Result<Report, String>;

    /// The series of a cell, one for each metric.
    fn history(&self, reader: &Reader, cell: &KnownCell) -> Result<Vec<Series>, String>;

    /// The style sheet of charts.
    fn style(&self) -> String;
}

/// A report as a page.
#[derive(Debug, Clone)]
pub struct Report {
    /// The page.
    pub html: String,
    /// Its content security policy.
    pub policy: String,
}

/// The series of a metric of a cell.
#[derive(Debug, Clone)]
pub struct Series {
    /// The metric, with its unit.
    pub title: String,
    /// Its chart: markup that is shown as it is. `None` where no night has a value.
    pub svg: Option<String>,
    /// Its nights, the newest first.
    pub nights: Vec<Night>,
}

/// A night.
#[derive(Debug, Clone)]
pub struct Night {
    /// Its run.
    pub run: String,
    /// The beginning of the run's id.
    pub short: String,
    /// When.
    pub at: String,
    /// Its value.
    pub value: String,
    /// How much that is more or less than before.
    pub change: String,
    /// Worker processes behind it.
    pub processes: String,
    /// What was said of it.
    pub said: String,
    /// In what it differs from the night before; empty where nothing began anew.
    pub breaks: String,
}

/// Why a report is too large to be drawn here; `None` if it is not.
pub(super) fn too_large(samples: u64, bytes: u64) -> Option<String> {
    let megabytes = bytes.div_ceil(1 << 20);
    (samples > MAX_SAMPLES || megabytes > MAX_MEGABYTES).then(|| {
        format!(
            "This run has {samples} repetitions of {megabytes} MiB. The dashboard draws reports of up to {MAX_SAMPLES} \
             repetitions and {MAX_MEGABYTES} MiB, so that the coordinator has room for its work. Draw this one on another \
             machine:"
        )
    })
}

/// Why nothing was drawn.
#[derive(Debug)]
pub(super) enum Undrawn {
    /// Others come first.
    Busy,
    /// It failed.
    Failed(String),
}

/// Draws one thing at a time.
pub(super) struct Drawer {
    drawing: Arc<dyn Drawing>,
    reader: Reader,
    turn: Arc<Semaphore>,
    asked: AtomicUsize,
}

/// Counts who waits or is served, until it is dropped.
struct Asked<'d>(&'d AtomicUsize);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drawer {
    pub(super) fn new(drawing: Arc<dyn Drawing>, reader: Reader) -> Self {
        Self { drawing, reader, turn: Arc::new(Semaphore::new(1)), asked: AtomicUsize::new(0) }
    }

    pub(super) async fn report(&self, run: RunId) -> Result<Report, Undrawn> {
        self.draw(move |drawing, reader| drawing.report(reader, &run)).await
    }

    pub(super) async fn history(&self, cell: KnownCell) -> Result<Vec<Series>, Undrawn> {
        self.draw(move |drawing, reader| drawing.history(reader, &cell)).await
    }

    async fn draw<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Drawing, &Reader) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Undrawn> {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        let _asked = Asked(&self.asked);
        if before > WAITING {
            return Err(Undrawn::Busy);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|_| Undrawn::Failed("nothing is drawn any more".to_owned()))?;
        let (drawing, reader) = (Arc::clone(&self.drawing), self.reader.clone());
        // A browser that goes away ends the wait for it; what is drawn already is drawn to its end, and has its turn until then.
        let drawn = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            what(drawing.as_ref(), &reader)
        });
        drawn.await.map_err(|error| Undrawn::Failed(error.to_string()))?.map_err(Undrawn::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_too_large_says_by_how_much() {
        assert_eq!(too_large(MAX_SAMPLES, MAX_MEGABYTES << 20), None);
        assert!(too_large(MAX_SAMPLES + 1, 0).unwrap().contains("100001 repetitions"));
        let why = too_large(1, (MAX_MEGABYTES << 20) + 1).unwrap();
        assert!(why.contains("of 65 MiB") && why.contains("up to 100000 repetitions and 64 MiB"), "{why}");
    }
}
