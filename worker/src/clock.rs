//! The clock that repetitions are timed with.
//!
//! There are two. [`Clock::Monotonic`] is [`Instant`], and every engine is timed with it. [`Clock::Scripted`] belongs to the
//! `fake` backend: its time passes only when the fake says so, so that what a test has planned can be held against what comes
//! out at the other end, to the nanosecond and on a machine however busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the times of repetitions come from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's monotonic clock.
    #[default]
    Monotonic,
    /// A script.
    Scripted(Scripted),
}

impl Clock {
    /// Begins to take time.
    pub fn start(&self) -> Stopwatch<'_> {
        match self {
            Self::Monotonic => Stopwatch::Monotonic(Instant::now()),
            Self::Scripted(clock) => Stopwatch::Scripted { clock, start: clock.now() },
        }
    }
}

/// A clock that stands still unless it is told to go on. Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Scripted(Arc<AtomicU64>);

impl Scripted {
    /// Lets so much time pass.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(nanoseconds(duration), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Time since it was started.
#[derive(Debug, Clone, Copy)]
pub enum Stopwatch<'c> {
    /// On the system's monotonic clock.
    Monotonic(Instant),
    /// On a scripted one.
    Scripted {
        /// The clock.
        clock: &'c Scripted,
        /// Its time at the start.
        start: u64,
    },
}

impl Stopwatch<'_> {
    /// In nanoseconds.
    pub fn elapsed(&self) -> u64 {
        match self {
            Self::Monotonic(start) => nanoseconds(start.elapsed()),
            Self::Scripted { clock, start } => clock.now().saturating_sub(*start),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripted_clock_shows_what_it_was_told_and_nothing_else() {
        let scripted = Scripted::default();
        let clock = Clock::Scripted(scripted.clone());
        scripted.advance(Duration::from_secs(5));
        let watch = clock.start();
        assert_eq!(watch.elapsed(), 0);
        scripted.advance(Duration::from_micros(7));
        assert_eq!((watch.elapsed(), clock.start().elapsed()), (7_000, 0));
    }
}
