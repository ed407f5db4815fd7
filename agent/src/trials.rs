//! The trials that this agent holds: taking them, stopping them, and knowing which were given back.
//!
//! A trial runs in a task of its own and outlives the connection it came by. One per device; another one that comes while
//! the first is already stopping is kept until the device is free.

mod caps;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regatta_core::device::{Device, DeviceId};
use regatta_core::trial::{Epoch, Trial};
use regatta_proto::pb;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::spool::{Room, TrialKey};
use crate::trial::{self, Context, End, Stop};

/// Why a trial was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The coordinator is to be told why.
    Because(String),
    /// The agent takes no more trials.
    Leaving,
    /// The trial is here already; nothing is to be said.
    AlreadyHere,
}

impl Refusal {
    fn because(reason: impl Into<String>) -> Self {
        Self::Because(reason.into())
    }
}

/// A trial that was given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) key: TrialKey,
    pub(crate) reason: String,
}

/// The trials of this agent.
pub(crate) struct Trials {
    context: Arc<Context>,
    devices: Vec<Device>,
    state: Arc<Mutex<State>>,
    /// A trial has ended here.
    ended: Arc<Notify>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<TrialKey, Held>,
    /// Trials whose device is about to be free.
    next: BTreeMap<DeviceId, (TrialKey, Trial)>,
    releases: Vec<Release>,
    /// No new trial is taken.
    closed: bool,
}

impl State {
    /// Gives back trials that have not begun.
    fn release_next(&mut self, which: impl Fn(&TrialKey) -> bool, reason: &str) {
        let Self { next, releases, .. } = self;
        next.retain(|_, (key, _)| {
            if which(key) {
                releases.push(Release { key: key.clone(), reason: reason.to_owned() });
            }
            !which(key)
        });
    }
}

/// Whether a device can take a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Now.
    Free,
    /// When the trial that is there has stopped.
    SoonFree,
}

struct Held {
    device: DeviceId,
    stop: watch::Sender<Stop>,
}

impl Trials {
    pub(crate) fn new(context: Arc<Context>, devices: Vec<Device>) -> Self {
        Self { context, devices, state: Arc::default(), ended: Arc::default(), tasks: JoinSet::new() }
    }

    /// Starts a trial, if it keeps to the local limits and its device is free.
    pub(crate) async fn take(&mut self, assign: pb::AssignTrial) -> Result<(), Refusal> {
        while self.tasks.try_join_next().is_some() {}
        let wire = assign.trial.ok_or_else(|| Refusal::because("field trial is missing"))?;
        let trial = Trial::try_from(wire).map_err(|error| Refusal::because(error.to_string()))?;
        let key = TrialKey { trial: trial.id.clone(), epoch: Epoch(assign.epoch) };
        caps::check(&trial).map_err(Refusal::Because)?;
        self.check_device(&trial)?;
        if self.check_free(&trial, &key)? == Place::SoonFree {
            self.park(trial, key);
            return Ok(());
        }
        self.begin(trial, key).await
    }

    /// Starts a trial whose device is free.
    async fn begin(&mut self, trial: Trial, key: TrialKey) -> Result<(), Refusal> {
        if self.context.spool.holds(key.trial.clone(), key.epoch).await {
            return self.already_measured(&key).await;
        }
        if self.context.spool.room().await == Room::Tight {
            return Err(Refusal::because("the spool is at 80 % of its quota: records wait for the coordinator"));
        }
        self.start(trial, key);
        Ok(())
    }

    fn check_device(&self, trial: &Trial) -> Result<(), Refusal> {
        let Some(device) = self.devices.iter().find(|device| device.id == trial.device) else {
            return Err(Refusal::because(format!("this agent has no device {}", trial.device)));
        };
        if device.agent != trial.agent {
            return Err(Refusal::because(format!("this is agent {}, not {}", device.agent, trial.agent)));
        }
        if !device.backends.contains(&trial.backend) {
            return Err(Refusal::because(format!("no worker for {} on {}", trial.backend, trial.device)));
        }
        Ok(())
    }

    fn check_free(&self, trial: &Trial, key: &TrialKey) -> Result<Place, Refusal> {
        let state = self.lock();
        if state.held.contains_key(key) || state.next.values().any(|(next, _)| next == key) {
            return Err(Refusal::AlreadyHere);
        }
        if state.closed {
            return Err(Refusal::Leaving);
        }
        let Some((other, held)) = state.held.iter().find(|(_, held)| held.device == trial.device) else {
            return Ok(Place::Free);
        };
        if other.trial == key.trial && other.epoch < key.epoch {
            // Somebody decided that we had lost it: then it makes no sense to go on under the old lease.
            held.stop.send_modify(|stop| *stop = Stop::Kill);
        }
        if *held.stop.borrow() != Stop::No {
            return Ok(Place::SoonFree);
        }
        Err(Refusal::because(format!("{} is busy with trial {other}", trial.device)))
    }

    /// What to do about a lease that was measured under before: nothing if all of it is in the spool; else, another lease
    /// is needed, because the same sequence numbers must not stand for other records.
    async fn already_measured(&self, key: &TrialKey) -> Result<(), Refusal> {
        let heads = self.context.spool.heads().await;
        let finished = heads.iter().any(|head| head.key == *key && head.finish.is_some());
        if finished {
            return Err(Refusal::AlreadyHere);
        }
        Err(Refusal::because("an earlier process of this agent measured under this lease and was interrupted"))
    }

    /// Keeps a trial until its device is free. Of two that come, the later one knows better.
    fn park(&self, trial: Trial, key: TrialKey) {
        tracing::info!(trial = %key, device = %trial.device, "a trial waits until its device is free");
        let mut state = self.lock();
        if let Some((earlier, _)) = state.next.insert(trial.device, (key, trial)) {
            state.releases.push(Release { key: earlier, reason: "another trial came for its device".to_owned() });
        }
    }

    /// Starts the trials that have waited for a device that is free now.
    pub(crate) async fn start_next(&mut self) {
        while let Some((key, trial)) = self.take_next() {
            if let Err(Refusal::Because(reason)) = self.begin(trial, key.clone()).await {
                self.lock().releases.push(Release { key, reason });
            }
        }
    }

    fn take_next(&self) -> Option<(TrialKey, Trial)> {
        let mut state = self.lock();
        let busy = |device: &DeviceId| state.held.values().any(|held| held.device == *device);
        let device = *state.next.keys().find(|device| !busy(device))?;
        state.next.remove(&device)
    }

    fn start(&mut self, trial: Trial, key: TrialKey) {
        let (stop, receiver) = watch::channel(Stop::No);
        tracing::info!(trial = %key, cells = trial.cells.len(), backend = %trial.backend, artifact = %trial.artifact,
            "taking a trial");
        self.lock().held.insert(key.clone(), Held { device: trial.device, stop });
        let context = Arc::clone(&self.context);
        let mut guard = Guard {
            state: Arc::clone(&self.state),
            ended: Arc::clone(&self.ended),
            key,
            end: End::Released("the agent failed in an unexpected way".to_owned()),
        };
        self.tasks.spawn(async move {
            let epoch = guard.key.epoch;
            let end = trial::run(&context, trial, epoch, receiver).await;
            guard.ended_as(end);
        });
    }

    /// Stops a trial after its repetition, for a person who cancelled it.
    pub(crate) fn cancel(&self, key: &TrialKey) {
        let mut state = self.lock();
        if let Some(held) = state.held.get(key) {
            held.stop.send_if_modified(|stop| raise(stop, Stop::Cancel));
        }
        state.release_next(|next| next == key, "cancelled before it began");
    }

    /// Takes no more trials and stops all of them.
    pub(crate) fn stop_all(&self, level: Stop) {
        let mut state = self.lock();
        state.closed = true;
        for held in state.held.values() {
            held.stop.send_if_modified(|stop| raise(stop, level));
        }
        state.release_next(|_| true, "the agent is leaving");
    }

    /// Drops a trial whose end the coordinator has from elsewhere.
    pub(crate) fn abandon(&self, key: &TrialKey) {
        if let Some(held) = self.lock().held.get(key) {
            held.stop.send_if_modified(|stop| raise(stop, Stop::Kill));
        }
    }

    /// The trials that are being measured, or wait for their device.
    pub(crate) fn held(&self) -> Vec<TrialKey> {
        let state = self.lock();
        state.held.keys().chain(state.next.values().map(|(key, _)| key)).cloned().collect()
    }

    /// Trials that were given back since the last call.
    pub(crate) fn take_releases(&self) -> Vec<Release> {
        std::mem::take(&mut self.lock().releases)
    }

    /// Told whenever a trial ends here.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// Waits for all trials to be over, `grace` at most; those that are not are aborted, and their workers killed.
    pub(crate) async fn join(mut self, grace: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(stop: &mut Stop, level: Stop) -> bool {
    let higher = level > *stop;
    if higher {
        *stop = level;
    }
    higher
}

/// Lets go of a trial however its task ends, a panic included.
struct Guard {
    state: Arc<Mutex<State>>,
    ended: Arc<Notify>,
    key: TrialKey,
    end: End,
}

impl Guard {
    fn ended_as(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.held.remove(&self.key);
        if let End::Released(reason) = &self.end {
            state.releases.push(Release { key: self.key.clone(), reason: reason.clone() });
        }
        drop(state);
        self.ended.notify_one();
    }
}
