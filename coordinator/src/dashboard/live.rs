//! What agents are doing right now, and how warm their devices are: in memory only, as far as it was heard. Whoever looks at a
//! page that changes is told here when to look again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regatta_core::id::TrialId;
use regatta_core::telemetry::Telemetry;
use regatta_proto::pb;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::actor::Notice;

/// Trials that are remembered. When there are more, those that are silent are forgotten, and where that is not enough, all.
const TRIALS: usize = 1024;

/// A trial that was not heard of for this long is silent.
const SILENT: Duration = Duration::from_mins(10);

/// What was heard of a trial.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// What its agent is doing.
    pub(crate) progress: Option<pb::Progress>,
    /// How warm its device was in the last repetition.
    pub(crate) heat: Option<Heat>,
    at: Instant,
}

/// Temperatures of a repetition, at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heat {
    /// The device's, or the processors' where the device has none of its own.
    pub(crate) celsius: f64,
    /// At which it slows itself down.
    pub(crate) limit: Option<f64>,
}

impl Heat {
    fn of(seen: &Telemetry) -> Option<Self> {
        match seen.temperature_c {
            Some(celsius) => Some(Self { celsius, limit: seen.temperature_limit_c }),
            None => seen.cpu_temperature_c.map(|celsius| Self { celsius, limit: None }),
        }
    }
}

/// What was heard. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    trials: Arc<Mutex<HashMap<TrialId, Heard>>>,
    changes: watch::Sender<u64>,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self { trials: Arc::default(), changes: watch::Sender::new(0) }
    }

    /// What was heard of a trial.
    pub(crate) fn heard(&self, trial: &TrialId) -> Option<Heard> {
        self.trials().get(trial).cloned()
    }

    /// Changes when there may be something new to see.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A repetition came with what was seen around it.
    pub(crate) fn seen(&self, trial: &TrialId, telemetry: &Telemetry) {
        if let Some(heat) = Heat::of(telemetry) {
            self.note(trial, |heard| heard.heat = Some(heat));
        }
    }

    /// Listens to what the actor tells, until `stop`.
    pub(crate) async fn follow(self, mut notices: broadcast::Receiver<Notice>, stop: CancellationToken) {
        while let Some(notice) = stop.run_until_cancelled(notices.recv()).await {
            match notice {
                Ok(Notice::Progress(_, progress)) => {
                    if let Ok(trial) = progress.trial_id.parse::<TrialId>() {
                        self.note(&trial, |heard| heard.progress = Some(progress));
                    }
                }
                // Fallen behind: anything may have changed.
                Ok(Notice::Changed(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
            self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    fn note(&self, trial: &TrialId, change: impl FnOnce(&mut Heard)) {
        let now = Instant::now();
        let mut trials = self.trials();
        if trials.len() >= TRIALS && !trials.contains_key(trial) {
            trials.retain(|_, heard| now < heard.at + SILENT);
            if trials.len() >= TRIALS {
                trials.clear();
            }
        }
        let heard = trials.entry(trial.clone()).or_insert(Heard { progress: None, heat: None, at: now });
        heard.at = now;
        change(heard);
    }

    fn trials(&self) -> MutexGuard<'_, HashMap<TrialId, Heard>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm(celsius: f64) -> Telemetry {
        Telemetry { temperature_c: Some(celsius), temperature_limit_c: Some(90.0), ..Telemetry::default() }
    }

    #[test]
    fn a_device_is_as_warm_as_in_its_last_repetition() {
        let (live, trial) = (Live::new(), "t1".parse().unwrap());
        assert!(live.heard(&trial).is_none());
        live.seen(&trial, &Telemetry::default());
        assert!(live.heard(&trial).is_none(), "nothing was reported");
        live.seen(&trial, &warm(60.0));
        live.seen(&trial, &warm(71.5));
        assert_eq!(live.heard(&trial).unwrap().heat, Some(Heat { celsius: 71.5, limit: Some(90.0) }));
        let processor = Telemetry { cpu_temperature_c: Some(50.0), ..Telemetry::default() };
        assert_eq!(Heat::of(&processor), Some(Heat { celsius: 50.0, limit: None }));
    }

    #[test]
    fn memory_is_bounded_however_many_trials_come() {
        let live = Live::new();
        for n in 0..10 * TRIALS {
            live.seen(&format!("t{n}").parse().unwrap(), &warm(50.0));
        }
        assert!(live.trials().len() <= TRIALS);
    }
}
