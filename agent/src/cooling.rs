//! Cooling: a trial begins when its device is about as cool as it was at rest and its clock is its own again, so that none is
//! measured in the heat of the one before.
//!
//! At rest is what a device was like before a trial when none had run on it for ten minutes, or at any such moment since then
//! at which it was cooler still. Where nobody tells a temperature there is nothing to wait for; a processor's is that of the
//! host. No wait is longer than its limit: what is measured then says how hot it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regatta_core::device::DeviceId;
use tokio::time::{Instant, sleep};

use crate::config::CoolDown;

/// A device that nothing ran on for so long is at rest.
const REST: Duration = Duration::from_mins(10);

/// How often a device is looked at while it cools.
const POLL: Duration = Duration::from_secs(1);

/// What is known of this machine's devices at rest. Clones share it.
#[derive(Clone)]
pub(crate) struct Cooling {
    limits: Option<CoolDown>,
    at_rest: Arc<Mutex<BTreeMap<DeviceId, Rest>>>,
}

/// A device at rest.
#[derive(Debug, Clone, Copy)]
struct Rest {
    temperature_c: f64,
    /// When it was used last.
    used: Instant,
}

/// How hot a device is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heat {
    /// In degrees Celsius.
    pub(crate) temperature_c: f64,
    /// For how long its clock was held down for heat, in nanoseconds since its counter began. `None` where it has none.
    pub(crate) slowed_ns: Option<u64>,
}

/// A wait that is about to begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hot {
    /// What it is now.
    pub(crate) temperature_c: f64,
    /// What is waited for.
    pub(crate) target_c: f64,
}

impl Cooling {
    /// With these limits; without any nothing is ever waited for.
    pub(crate) fn new(limits: Option<CoolDown>) -> Self {
        Self { limits, at_rest: Arc::default() }
    }

    /// Waits until `device` is cool enough, with a clock that is no longer held down for heat, and returns how long that
    /// took. `read` says how hot it is; `hot` is told where there is something to wait for. It may be dropped at any time.
    pub(crate) async fn wait<F: Future<Output = Option<Heat>>>(
        &self,
        device: DeviceId,
        mut read: impl FnMut() -> F,
        hot: impl FnOnce(Hot),
    ) -> Duration {
        let Some(limits) = self.limits else { return Duration::ZERO };
        let Some(mut last) = read().await else { return Duration::ZERO };
        let temperature_c = last.temperature_c;
        let target_c = self.at_rest(device, temperature_c) + limits.above_rest_c;
        if temperature_c <= target_c {
            return Duration::ZERO;
        }
        hot(Hot { temperature_c, target_c });
        let begun = Instant::now();
        loop {
            let left = limits.at_most.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            sleep(POLL.min(left)).await;
            // A source that dies meanwhile has nothing more to wait for.
            let Some(now) = read().await else { break };
            let is_slowed = last.slowed_ns.zip(now.slowed_ns).is_some_and(|(before, after)| after > before);
            if now.temperature_c <= target_c && !is_slowed {
                break;
            }
            last = now;
        }
        begun.elapsed()
    }

    /// Something ran on a device until now.
    pub(crate) fn used(&self, device: DeviceId) {
        let mut at_rest = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rest) = at_rest.get_mut(&device) {
            rest.used = Instant::now();
        }
    }

    /// What a device is like at rest, given what it is like now.
    fn at_rest(&self, device: DeviceId, now_c: f64) -> f64 {
        let mut at_rest = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = at_rest.get(&device).filter(|rest| rest.used.elapsed() < REST);
        let temperature_c = known.map_or(now_c, |rest| rest.temperature_c.min(now_c));
        at_rest.insert(device, Rest { temperature_c, used: Instant::now() });
        temperature_c
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    const LIMITS: CoolDown = CoolDown { above_rest_c: 5.0, at_most: Duration::from_mins(2) };

    /// A source that says this, reading after reading; then nothing.
    fn source(readings: impl IntoIterator<Item = Heat>) -> impl FnMut() -> Ready<Option<Heat>> {
        let mut left = readings.into_iter();
        move || ready(left.next())
    }

    /// Temperatures of a device without a counter.
    fn degrees(readings: &[f64]) -> impl Iterator<Item = Heat> {
        readings.iter().map(|&temperature_c| Heat { temperature_c, slowed_ns: None })
    }

    /// How long it waits, in seconds, and what for.
    async fn wait(cooling: &Cooling, readings: &[f64]) -> (u64, Option<f64>) {
        let mut target = None;
        let read = source(degrees(readings));
        let waited = cooling.wait(DeviceId::CPU, read, |hot| target = Some(hot.target_c)).await;
        (waited.as_secs(), target)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_waits_until_its_device_is_as_cool_as_at_rest_and_a_little() {
        let cooling = Cooling::new(Some(LIMITS));
        assert_eq!(wait(&cooling, &[40.0]).await, (0, None), "at rest");
        assert_eq!(wait(&cooling, &[45.0]).await, (0, None), "5 degrees above is cool enough");
        assert_eq!(wait(&cooling, &[80.0, 60.0, 50.0, 45.0, 44.0]).await, (3, Some(45.0)));
        // One that began in the warm finds its rest later.
        assert_eq!(wait(&cooling, &[30.0]).await, (0, None));
        assert_eq!(wait(&cooling, &[36.0, 35.0]).await, (1, Some(35.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_longer_than_its_limit() {
        let cooling = Cooling::new(Some(LIMITS));
        wait(&cooling, &[40.0]).await;
        assert_eq!(wait(&cooling, &[90.0; 1000]).await, (120, Some(45.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_still_held_down_is_waited_for() {
        let cooling = Cooling::new(Some(LIMITS));
        wait(&cooling, &[40.0]).await;
        let heat =
            |(temperature_c, slowed_ms): (f64, u64)| Heat { temperature_c, slowed_ns: Some(slowed_ms * 1_000_000) };
        let readings = [(90.0, 500), (50.0, 900), (44.0, 1300), (43.0, 1400), (42.0, 1400), (41.0, 1400)];
        let waited = cooling.wait(DeviceId::CPU, source(readings.map(heat)), |_| ()).await;
        assert_eq!(waited.as_secs(), 4, "cool enough after two seconds, its own clock after four");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_sensor_or_with_one_that_dies_there_is_nothing_to_wait_for() {
        let cooling = Cooling::new(Some(LIMITS));
        assert_eq!(wait(&cooling, &[]).await, (0, None));
        wait(&cooling, &[40.0]).await;
        assert_eq!(wait(&cooling, &[90.0, 80.0]).await, (2, Some(45.0)), "no reading after two");
        let off = Cooling::new(None);
        wait(&off, &[40.0]).await;
        assert_eq!(wait(&off, &[90.0; 1000]).await, (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn after_ten_minutes_without_a_trial_a_device_is_at_rest_again() {
        let cooling = Cooling::new(Some(LIMITS));
        wait(&cooling, &[40.0]).await;
        sleep(Duration::from_mins(9)).await;
        cooling.used(DeviceId::CPU);
        sleep(Duration::from_mins(9)).await;
        assert_eq!(wait(&cooling, &[60.0, 45.0]).await, (1, Some(45.0)), "used nine minutes ago");
        sleep(Duration::from_mins(11)).await;
        // The room has become warmer.
        assert_eq!(wait(&cooling, &[60.0]).await, (0, None));
        assert_eq!(wait(&cooling, &[70.0, 65.0]).await, (1, Some(65.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_device_has_its_own_rest() {
        let cooling = Cooling::new(Some(LIMITS));
        wait(&cooling, &[40.0]).await;
        let gpu: DeviceId = "cuda:0".parse().unwrap();
        assert_eq!(cooling.wait(gpu, source(degrees(&[60.0])), |_| ()).await, Duration::ZERO);
    }
}
