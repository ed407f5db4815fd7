//! The alarm on the write-ahead log. It is emptied all the time, but never beyond the oldest moment that somebody still
//! reads; our own readers are cut off in time, so a log that grows beyond its limit is the work of another program.

use std::time::Duration;

use regatta_store::Reader;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the log is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    TooLarge,
    Over,
}

/// Says it once when the log grows beyond the limit, and once when that is over.
#[derive(Debug)]
struct Alarm {
    limit: u64,
    raised: bool,
}

impl Alarm {
    fn look(&mut self, bytes: u64) -> Option<News> {
        let was_raised = std::mem::replace(&mut self.raised, bytes > self.limit);
        match (was_raised, self.raised) {
            (false, true) => Some(News::TooLarge),
            (true, false) => Some(News::Over),
            _ => None,
        }
    }
}

/// Watches the log until `stop`.
pub(crate) async fn watch(reader: Reader, limit: u64, stop: CancellationToken) {
    let mut alarm = Alarm { limit, raised: false };
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let bytes = reader.wal_bytes();
        match alarm.look(bytes) {
            Some(News::TooLarge) => warn!(
                bytes,
                limit,
                "the database's write-ahead log can't be emptied, because another program has been reading the database \
                 for long: end that program (on Linux 'lsof' with the database's name and -wal shows it), or the disk \
                 fills up"
            ),
            Some(News::Over) => info!(bytes, "the write-ahead log has been emptied"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_is_raised_once_and_taken_back_once() {
        let mut alarm = Alarm { limit: 100, raised: false };
        let said: Vec<_> = [0, 100, 101, 500, 101, 100, 0, 101].into_iter().map(|bytes| alarm.look(bytes)).collect();
        let (raised, over) = (Some(News::TooLarge), Some(News::Over));
        assert_eq!(said, [None, None, raised, None, None, over, None, raised]);
    }
}
