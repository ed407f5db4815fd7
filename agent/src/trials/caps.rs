//! Local limits of what a trial may ask for, whatever the coordinator says.

use std::time::Duration;

use regatta_core::trial::Trial;
use regatta_core::workload::Prompt;

const MAX_CELLS: usize = 100_000;
const MAX_REPETITIONS: u32 = 1_000_000;
const MAX_PASSES: u32 = 100_000;
const MAX_TIMEOUT: Duration = Duration::from_hours(24);
const MAX_THREADS: u32 = 4_096;
const MAX_TOKENS: u32 = 10_000_000;
const MAX_BATCH: u32 = 256;

/// Which limit the trial exceeds, if any.
pub(super) fn check(trial: &Trial) -> Result<(), String> {
    let policy = &trial.policy;
    within("cells", trial.cells.len(), 1, MAX_CELLS)?;
    within("repetitions", policy.repetitions, 1, MAX_REPETITIONS)?;
    within("passes", policy.passes.max, 1, MAX_PASSES)?;
    within("warm-up repetitions", policy.warmup.max_repetitions, 0, MAX_REPETITIONS)?;
    within("timeout (ms)", policy.timeout.as_millis(), 1, MAX_TIMEOUT.as_millis())?;
    within("threads", policy.threads.unwrap_or(1), 1, MAX_THREADS)?;
    for cell in &trial.cells {
        let workload = &cell.workload;
        within("generate", workload.generate, 0, MAX_TOKENS)?;
        within("depth", workload.kind.depth(), 0, MAX_TOKENS)?;
        within("batch", workload.batch, 1, MAX_BATCH)?;
        match &workload.prompt {
            Prompt::Seeded { tokens, .. } => {
                let least = u32::from(!workload.kind.is_decode());
                within("prompt tokens", *tokens, least, MAX_TOKENS)?;
            }
            Prompt::Text { tokens, .. } => within("prompt tokens", tokens.unwrap_or(1), 1, MAX_TOKENS)?,
        }
    }
    Ok(())
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(what: &str, value: T, least: T, most: T) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{what}: {value} is not within this agent's limits, {least} to {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_trial_beyond_the_limits_is_named() {
        let good = testing::trial("t", &["a"], 3);
        assert_eq!(check(&good), Ok(()));
        let mut trial = good.clone();
        trial.policy.timeout = Duration::ZERO;
        assert!(check(&trial).unwrap_err().contains("timeout"));
        let mut trial = good.clone();
        trial.policy.repetitions = 0;
        assert!(check(&trial).unwrap_err().contains("repetitions: 0"));
        let mut trial = good;
        trial.cells.clear();
        assert!(check(&trial).unwrap_err().contains("cells"));
    }
}
