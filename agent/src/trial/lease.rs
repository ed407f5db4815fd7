//! The lease as the agent sees it: as long as the coordinator was heard of lately, a new cell may begin.
//!
//! The coordinator judges leases; this is the agent's own caution. Samples that are measured under a lease that has run
//! out are kept all the same; only new work is not begun, because somebody else may be at it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// When a sign was last seen that the coordinator renews leases.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    renewed: watch::Sender<Instant>,
    lasts: Duration,
}

impl Lease {
    /// A lease that was just renewed and lasts this long after each renewal.
    pub(crate) fn new(lasts: Duration) -> Self {
        Self { renewed: watch::Sender::new(Instant::now()), lasts }
    }

    /// The coordinator was heard of.
    pub(crate) fn renew(&self) {
        self.renewed.send_replace(Instant::now());
    }

    /// Whether it has run out.
    pub(crate) fn has_run_out(&self) -> bool {
        self.renewed.borrow().elapsed() > self.lasts
    }

    /// Returns as soon as it has not run out.
    pub(crate) async fn valid(&self) {
        let mut renewed = self.renewed.subscribe();
        while self.has_run_out() {
            if renewed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns as soon as it has run out.
    pub(crate) async fn run_out(&self) {
        while !self.has_run_out() {
            let until = *self.renewed.borrow() + self.lasts + Duration::from_nanos(1);
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_runs_out_and_comes_back() {
        let lease = Lease::new(Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(30)).await;
        lease.valid().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(timeout(Duration::from_hours(1), lease.valid()).await.is_err());
        let (waited, ()) = tokio::join!(timeout(Duration::from_hours(1), lease.valid()), async { lease.renew() });
        waited.unwrap();
    }
}
