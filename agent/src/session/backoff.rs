//! How long to wait before a reconnect: full jitter, so that many agents do not come back all at once.

use std::time::Duration;

use rand::Rng;

/// Pauses that get longer, each a random part of its limit.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Limits from `min`, doubling, to `max`.
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// The next pause.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let limit = self.min.saturating_mul(2u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// The connection held.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn pauses_stay_within_limits_that_double() {
        let (min, max) = (Duration::from_millis(500), Duration::from_secs(30));
        for seed in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut backoff = Backoff::new(min, max);
            for (failures, limit) in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].into_iter().enumerate() {
                let pause = backoff.next(&mut rng);
                assert!(pause <= Duration::from_millis(limit), "{failures}: {pause:?}");
            }
            backoff.reset();
            assert!(backoff.next(&mut rng) <= min);
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(30), failures: u32::MAX };
        assert!(backoff.next(&mut ChaCha8Rng::seed_from_u64(1)) <= Duration::from_secs(30));
    }
}
