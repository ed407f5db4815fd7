use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use regatta_core::telemetry::Reading;

use super::*;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says what it is told to, reading after reading; the last word holds.
struct Told<F>(F);

impl<F: FnMut(u64) -> Result<Reading, String> + Send> Source for (Told<F>, AtomicU64) {
    fn name(&self) -> &'static str {
        "told"
    }

    fn read(&mut self, _: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        let count = self.1.fetch_add(1, Ordering::Relaxed);
        into.scripted = Some((self.0.0)(count)?);
        Ok(())
    }
}

/// A recorder that reads on request only, as good as.
fn recorder(tell: impl FnMut(u64) -> Result<Reading, String> + Send + 'static) -> Recorder {
    let source = (Told(tell), AtomicU64::new(0));
    Recorder::with(move || vec![Box::new(source)], NonZeroU32::MIN)
}

fn clock(mhz: f64) -> Reading {
    Reading { clock_mhz: Some(mhz), ..Reading::default() }
}

#[tokio::test]
async fn a_repetition_gets_a_reading_at_its_end() {
    let counter = |count: u64| {
        let throttled_ns = telemetry::Throttled { hw_thermal: Some(count * 1000), ..telemetry::Throttled::default() };
        Ok(Reading { throttled_ns, memory_used_bytes: Some(70 + count), ..Reading::default() })
    };
    let recorder = recorder(counter);
    let watch = recorder.watch(DeviceId::CPU).await;
    let seen = watch.repetition(1_000).await.unwrap();
    // Too short to have a reading of its own; the baseline's is before it, the one that was asked for behind it.
    assert_eq!(seen.readings, 0);
    assert!(seen.throttled_ns.hw_thermal.is_some_and(|ns| ns >= 1000), "{seen:?}");
    assert!(seen.memory_baseline_bytes.is_some_and(|bytes| bytes >= 70), "{seen:?}");
    assert!(seen.memory_used_bytes > seen.memory_baseline_bytes);
    recorder.stop();
}

#[tokio::test]
async fn a_source_that_dies_is_lost_and_its_numbers_are_absent() {
    let recorder = recorder(|count| if count < 3 { Ok(clock(2.0)) } else { Err("gone".to_owned()) });
    let watch = recorder.watch(DeviceId::CPU).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(watch.repetition(1).await.unwrap());
    }
    assert!(all[0].lost.is_empty() && all[0].clock_mhz.is_some(), "{all:?}");
    let last = &all[4];
    assert_eq!(last.lost, ["told"]);
    assert_eq!((last.clock_mhz, last.throttled_ns), (None, telemetry::Throttled::default()), "absent, not zero");
    recorder.stop();
}

#[tokio::test]
async fn a_source_that_never_comes_back_holds_nobody_up() {
    let (_never, wait) = mpsc::channel::<()>();
    let recorder = recorder(move |_| {
        let _ = wait.recv_timeout(PATIENCE);
        Ok(clock(1.0))
    });
    let begun = Instant::now();
    let watch = recorder.watch(DeviceId::CPU).await;
    let seen = loop {
        // Nothing is known as long as it may still answer.
        if let Some(seen) = watch.repetition(1).await {
            break seen;
        }
    };
    assert!(begun.elapsed() > STUCK);
    assert_eq!((seen.lost, seen.clock_mhz), (vec!["told".to_owned()], None));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    recorder.stop();
}

#[tokio::test]
async fn without_a_recorder_there_is_no_telemetry() {
    let mut watch = Recorder::off().watch(DeviceId::CPU).await;
    watch.worker(Some(1));
    assert_eq!(watch.repetition(1).await, None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut state = State::default();
    for at in 0..MAX_KEPT as u64 + 5 {
        state.keep(at, Snapshot::default());
    }
    assert_eq!((state.kept.len(), state.kept[0].0), (MAX_KEPT, 5));
}

#[tokio::test]
async fn readings_are_taken_at_a_pace_only_while_somebody_watches() {
    let (tell, told) = mpsc::channel();
    let source =
        (Told(move |count| tell.send(count).map(|()| clock(1.0)).map_err(|e| e.to_string())), AtomicU64::new(0));
    let recorder = Recorder::with(move || vec![Box::new(source)], NonZeroU32::new(200).unwrap());
    let watch = recorder.watch(DeviceId::CPU).await;
    for _ in 0..10 {
        told.recv_timeout(PATIENCE).unwrap();
    }
    drop(watch);
    // The one that may have been under way, and then none.
    let after: Vec<_> = std::iter::from_fn(|| told.recv_timeout(Duration::from_millis(100)).ok()).collect();
    assert!(after.len() < 20, "{after:?}");
    recorder.stop();
    assert_eq!(told.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "the thread has ended");
}
