//! The recorder: a thread that reads the sources at a steady pace and keeps what they said for a while.
//!
//! It is a thread of the agent, never of a worker, and not pinned: the scheduler puts it where there is room, and it takes
//! well below a millisecond at a time. It rests while no trial is watched. A trial asks for one more reading when a sample
//! has arrived: the worker waits then, so nothing is disturbed, and counters are read where the window ends.
//!
//! A source that does not come back holds up this thread and nothing else: readings end, and the source in hand is lost.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regatta_core::device::DeviceId;
use regatta_core::telemetry::{self, Telemetry};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Snapshot, Source};
use crate::cooling::Heat;

/// Snapshots that are kept at most: an hour at the usual pace.
const MAX_KEPT: usize = 36_000;

/// How far before a window snapshots are of use: load is taken over a second at least, and read once a second.
const BEFORE_NS: u64 = 3_000_000_000;

/// A source that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);

/// A source that takes longer than this is as good as lost.
const STUCK: Duration = Duration::from_secs(1);

/// How long a trial waits for a reading that it asked for.
const ASK: Duration = Duration::from_millis(100);

/// Set, it leaves half of the repetitions without readings, in the order of Thue and Morse: 0, 3, 5, 6, 9, … are watched, so that
/// neither drift nor a place in the order weighs on one side. This is how `cargo xtask bench
/// telemetry` learns what watching costs, as nothing but neighbours in time can be compared so finely.
const IN_TURNS: &str = "REGATTA_TELEMETRY_IN_TURNS";

/// Reads the sources of this machine as long as somebody watches.
#[derive(Clone)]
pub(crate) struct Recorder(Option<Arc<Shared>>);

/// One trial's view of a device. Readings go on as long as there is any.
pub(crate) struct Watch {
    recorder: Recorder,
    device: DeviceId,
    worker: Option<u32>,
    /// Device memory that was in use before there was a worker.
    baseline_bytes: Option<u64>,
    /// See [`IN_TURNS`].
    in_turns: bool,
    /// It reads nothing now.
    rests: bool,
}

/// A moment, in nanoseconds since the recorder's epoch, and what was read then.
type Moment = (u64, Arc<Snapshot>);

/// What there is to look at from a moment on.
struct Kept {
    snapshots: Vec<Moment>,
    workers: BTreeSet<u32>,
    /// Sources that can't be read now.
    lost: Vec<String>,
}

struct Shared {
    epoch: Instant,
    state: Mutex<State>,
    /// There is something to do.
    wake: Condvar,
}

#[derive(Default)]
struct State {
    kept: VecDeque<Moment>,
    watches: u32,
    workers: BTreeSet<u32>,
    /// Told when a reading that began later is there.
    asked: Vec<oneshot::Sender<()>>,
    lost: BTreeSet<&'static str>,
    /// The source that is being read, since when.
    in_hand: Option<(&'static str, Instant)>,
    /// The agent is gone.
    is_over: bool,
}

impl Recorder {
    /// One that tells nothing.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Starts a thread that reads the sources for these devices so many times a second.
    pub(crate) fn start(devices: Vec<DeviceId>, rate_hz: NonZeroU32) -> Self {
        Self::with(move || super::sources(&devices), rate_hz)
    }

    fn with(sources: impl FnOnce() -> Vec<Box<dyn Source>> + Send + 'static, rate_hz: NonZeroU32) -> Self {
        let shared = Arc::new(Shared { epoch: Instant::now(), state: Mutex::default(), wake: Condvar::new() });
        let (thread, period) = (Arc::clone(&shared), Duration::from_secs(1) / rate_hz.get());
        let started = std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            let mut sources = sources().into_iter().map(Reader::new).collect::<Vec<_>>();
            thread.record(&mut sources, period);
        });
        match started {
            Ok(_) => Self(Some(shared)),
            Err(error) => {
                tracing::warn!(%error, "no telemetry: its thread could not be started");
                Self::off()
            }
        }
    }

    /// Begins to watch a device, before the worker is started.
    pub(crate) async fn watch(&self, device: DeviceId) -> Watch {
        if let Some(shared) = &self.0 {
            shared.lock().watches += 1;
        }
        let in_turns = std::env::var_os(IN_TURNS).is_some();
        let mut watch =
            Watch { recorder: self.clone(), device, worker: None, baseline_bytes: None, in_turns, rests: false };
        watch.baseline_bytes = watch.baseline().await;
        watch
    }

    /// The agent is about to end, and so is the thread.
    pub(crate) fn stop(&self) {
        if let Some(shared) = &self.0 {
            shared.lock().is_over = true;
            shared.wake.notify_all();
        }
    }
}

impl Watch {
    /// The worker is there.
    pub(crate) fn worker(&mut self, process: Option<u32>) {
        self.worker = process;
        if let Some(shared) = &self.recorder.0 {
            shared.lock().workers.extend(process);
        }
    }

    /// What was seen of a repetition that took so long and whose sample has just arrived: the worker sends it when it is
    /// over and waits for an answer, so arrival and end are less than a millisecond apart.
    pub(crate) async fn repetition(&self, duration_ns: u64) -> Option<Telemetry> {
        let shared = self.recorder.0.as_ref().filter(|_| !self.rests)?;
        let end = shared.now();
        let start = end.saturating_sub(duration_ns);
        shared.read_now().await;
        let Kept { snapshots, workers, lost } = shared.since(start.saturating_sub(BEFORE_NS));
        let seen = |(at, snapshot): &Moment| (*at, snapshot.seen_by(self.worker, &workers, self.device));
        let readings: Vec<_> = snapshots.iter().map(seen).collect();
        let summary = telemetry::summarise(&readings, start, end);
        if summary.is_none() && lost.is_empty() {
            return None;
        }
        let nothing = || Telemetry { window_ns: duration_ns, ..Telemetry::default() };
        let memory_baseline_bytes = self.baseline_bytes;
        Some(Telemetry { lost, memory_baseline_bytes, ..summary.unwrap_or_else(nothing) })
    }

    /// The repetition of this number is next.
    pub(crate) fn next(&mut self, repetition: u32) {
        let rests = self.in_turns && !repetition.count_ones().is_multiple_of(2);
        if let Some(shared) = self.recorder.0.as_ref().filter(|_| rests != self.rests) {
            let mut state = shared.lock();
            state.watches = if rests { state.watches - 1 } else { state.watches + 1 };
            drop(state);
            shared.wake.notify_all();
        }
        self.rests = rests;
    }

    /// How hot the device is now; of the processor, how hot the host says that it is. `None` where nobody tells a temperature.
    pub(crate) async fn heat(&self) -> Option<Heat> {
        let shared = self.recorder.0.as_ref()?;
        let asked_at = shared.now();
        shared.read_now().await;
        let kept = shared.since(asked_at);
        let (_, last) = kept.snapshots.last()?;
        let reading = last.seen_by(None, &kept.workers, self.device);
        let is_cpu = self.device == DeviceId::CPU;
        let temperature_c = if is_cpu { reading.cpu_temperature_c } else { reading.temperature_c };
        Some(Heat { temperature_c: temperature_c?, slowed_ns: reading.throttled_ns.by_heat() })
    }

    async fn baseline(&self) -> Option<u64> {
        let shared = self.recorder.0.as_ref()?;
        let asked_at = shared.now();
        shared.read_now().await;
        let kept = shared.since(asked_at);
        let (_, first) = kept.snapshots.first()?;
        first.seen_by(None, &kept.workers, self.device).memory_used_bytes
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(shared) = &self.recorder.0 else { return };
        let mut state = shared.lock();
        state.watches -= u32::from(!self.rests);
        if let Some(worker) = self.worker {
            state.workers.remove(&worker);
        }
        if state.watches == 0 {
            state.kept.clear();
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a reading that begins from now on, not for long.
    async fn read_now(&self) {
        let (told, reading) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.stuck().is_some() {
                return;
            }
            state.asked.push(told);
        }
        self.wake.notify_all();
        // Late or never: what there is has to do.
        let _ = timeout(ASK, reading).await;
    }

    fn since(&self, moment: u64) -> Kept {
        let state = self.lock();
        let first = state.kept.partition_point(|(at, _)| *at < moment);
        let snapshots = state.kept.range(first..).cloned().collect();
        let lost: BTreeSet<_> = state.lost.iter().copied().chain(state.stuck()).collect();
        Kept { snapshots, workers: state.workers.clone(), lost: lost.into_iter().map(str::to_owned).collect() }
    }

    /// The thread's work.
    fn record(&self, sources: &mut [Reader], period: Duration) {
        let mut next = Instant::now();
        while let Some(asked) = self.wait(&mut next, period) {
            let workers = self.lock().workers.clone();
            let (at, mut snapshot) = (self.now(), Snapshot { asked: !asked.is_empty(), ..Snapshot::default() });
            for source in &mut *sources {
                self.lock().in_hand = Some((source.source.name(), Instant::now()));
                source.read(&workers, &mut snapshot);
            }
            let mut state = self.lock();
            state.in_hand = None;
            state.lost = sources.iter().filter(|source| source.is_lost()).map(|source| source.source.name()).collect();
            state.keep(at, snapshot);
            drop(state);
            // Who does not wait any more misses nothing.
            for told in asked {
                let _ = told.send(());
            }
            pass_by(&mut next, period);
        }
    }

    /// Waits for the next reading's time, or for somebody who asks for one now. `None` at the end. Times that pass while nobody
    /// watches are not made up for.
    fn wait(&self, next: &mut Instant, period: Duration) -> Option<Vec<oneshot::Sender<()>>> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            let left = next.saturating_duration_since(Instant::now());
            if !state.asked.is_empty() || (state.watches > 0 && left.is_zero()) {
                return Some(std::mem::take(&mut state.asked));
            }
            if state.watches == 0 {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                pass_by(next, period);
            } else {
                state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// Moves the next reading's time on until it is to come.
fn pass_by(next: &mut Instant, period: Duration) {
    let now = Instant::now();
    while *next <= now {
        *next += period;
    }
}

impl State {
    fn keep(&mut self, at: u64, snapshot: Snapshot) {
        if self.kept.len() == MAX_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((at, Arc::new(snapshot)));
    }

    /// A source that does not come back.
    fn stuck(&self) -> Option<&'static str> {
        self.in_hand.filter(|(_, since)| since.elapsed() > STUCK).map(|(name, _)| name)
    }
}

/// A source, and whether it can be read.
struct Reader {
    source: Box<dyn Source>,
    /// Since when it can't, or when it was tried last.
    lost_at: Option<Instant>,
}

impl Reader {
    fn new(source: Box<dyn Source>) -> Self {
        Self { source, lost_at: None }
    }

    fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    fn read(&mut self, workers: &BTreeSet<u32>, into: &mut Snapshot) {
        if self.lost_at.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        // Into a copy: one that fails halfway says nothing.
        let mut said = into.clone();
        let name = self.source.name();
        match self.source.read(workers, &mut said) {
            Ok(()) => {
                if self.lost_at.take().is_some() {
                    tracing::info!(source = name, "telemetry can be read again");
                }
                *into = said;
            }
            Err(reason) => {
                if self.lost_at.is_none() {
                    tracing::warn!(source = name, reason, "telemetry is lost: measuring goes on without it");
                }
                self.lost_at = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
