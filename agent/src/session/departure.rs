//! Leaving in good order: finish what is in hand, send what is in the spool, go. Or at once, when asked a second time.

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Timing;
use crate::trial::Stop;
use crate::trials::Trials;

/// How a running agent is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Finish the repetition, spool it, deliver what can be delivered, leave.
    pub soft: CancellationToken,
    /// Kill the workers and leave; the spool stays for the next start.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Two fresh tokens.
    pub fn new() -> Self {
        Self::default()
    }
}

/// How far the agent is with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not asked to.
    Staying,
    /// Trials come to an end.
    Finishing { until: Instant },
    /// What is left is sent.
    Draining { until: Instant },
    /// Time to go.
    Over,
}

/// Follows the stages.
pub(super) struct Departure {
    shutdown: Shutdown,
    stage: Stage,
}

impl Departure {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, stage: Stage::Staying }
    }

    /// Returns when there may be something to do for [`Self::advance`].
    pub(super) async fn wait(&self) {
        let until = match self.stage {
            Stage::Staying => {
                tokio::select! {
                    () = self.shutdown.soft.cancelled() => {}
                    () = self.shutdown.hard.cancelled() => {}
                }
                return;
            }
            Stage::Finishing { until } | Stage::Draining { until } => until,
            Stage::Over => return,
        };
        tokio::select! {
            () = self.shutdown.hard.cancelled() => {}
            () = sleep_until(until) => {}
        }
    }

    /// Goes on to the next stage where it is time.
    pub(super) fn advance(&mut self, trials: &Trials, timing: &Timing) {
        let now = Instant::now();
        if self.shutdown.hard.is_cancelled() && self.stage != Stage::Over {
            tracing::warn!("stopping at once");
            trials.stop_all(Stop::Kill);
            self.stage = Stage::Over;
        }
        if self.stage == Stage::Staying && self.shutdown.soft.is_cancelled() {
            tracing::info!("leaving after the current repetition");
            trials.stop_all(Stop::Leave);
            self.stage = Stage::Finishing { until: now + timing.leave };
        }
        if let Stage::Finishing { until } = self.stage {
            let idle = trials.held().is_empty();
            if !idle && now >= until {
                tracing::warn!("the current repetition takes too long: killing its worker");
                trials.stop_all(Stop::Kill);
            }
            if idle || now >= until {
                self.stage = Stage::Draining { until: now + timing.drain };
            }
        }
        if matches!(self.stage, Stage::Draining { until } if now >= until) {
            self.stage = Stage::Over;
        }
    }

    /// There is nothing to send: time to go.
    pub(super) fn nothing_left(&mut self) {
        self.stage = Stage::Over;
    }

    /// Whether nothing but sending keeps the agent here.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. })
    }

    /// Whether it is time to go.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }
}
