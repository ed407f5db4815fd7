//! How many calls one peer may make: a bucket of tokens for each address, refilled at a steady rate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses that are remembered. When there are more, those whose bucket is full again are forgotten, and where that
/// is not enough, all.
const PEERS: usize = 4096;

/// How often calls may come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Calls in a second, for as long as one likes.
    pub per_second: f64,
    /// Calls at once.
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// Limits the calls of each peer.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes a call's token from the peer's bucket; `false` where it is empty.
    pub(crate) fn take(&self, peer: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= PEERS && !buckets.contains_key(&peer) {
            buckets.retain(|_, bucket| refilled(self.rate, *bucket, now) < self.rate.burst);
            if buckets.len() >= PEERS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(peer).or_insert(Bucket { left: self.rate.burst, at: now });
        bucket.left = refilled(self.rate, *bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

fn refilled(rate: Rate, bucket: Bucket, now: Instant) -> f64 {
    let since: Duration = now.saturating_duration_since(bucket.at);
    (bucket.left + since.as_secs_f64() * rate.per_second).min(rate.burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_burst_passes_then_the_steady_rate() {
        let limiter = Limiter::new(Rate { per_second: 10.0, burst: 3.0 });
        let start = Instant::now();
        let passed = |at: Duration| (0..100).filter(|_| limiter.take(peer(1), start + at)).count();
        assert_eq!(passed(Duration::ZERO), 3);
        assert_eq!(passed(Duration::from_millis(100)), 1);
        assert_eq!(passed(Duration::from_mins(1)), 3);
        assert!(limiter.take(peer(2), start));
    }

    #[test]
    fn memory_is_bounded_however_many_peers_come() {
        let limiter = Limiter::new(Rate { per_second: 1.0, burst: 2.0 });
        let start = Instant::now();
        for n in 0..100_000 {
            assert!(limiter.take(peer(n), start));
        }
        assert!(limiter.buckets.lock().unwrap().len() <= PEERS);
    }
}
