//! The health of agents: which of them fail trial after trial.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use regatta_core::id::{AgentId, TrialId};

/// Counts what the infrastructure did to trials, agent by agent, since each agent's last success. It is forgotten when
/// the coordinator is started again: an agent that is broken will show it again.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures in a row until an agent is quarantined; `None` for never.
    after: Option<usize>,
    failures: HashMap<AgentId, Vec<(TrialId, String)>>,
}

impl Health {
    pub(crate) fn new(after: Option<usize>) -> Self {
        Self { after, failures: HashMap::new() }
    }

    /// A trial failed on the agent. If that was once too often, the reason to quarantine it. One trial alone never is
    /// such a reason, however often it fails: then the trial is to blame.
    pub(crate) fn failed(&mut self, agent: &AgentId, trial: &TrialId, why: &str) -> Option<String> {
        let after = self.after?;
        let failures = self.failures.entry(agent.clone()).or_default();
        failures.push((trial.clone(), why.to_owned()));
        let trials: BTreeSet<_> = failures.iter().map(|(trial, _)| trial).collect();
        if failures.len() < after || trials.len() < 2 {
            return None;
        }
        let mut reason = format!("{} failures in a row without a success between", failures.len());
        for (trial, why) in &failures[failures.len() - after.min(failures.len())..] {
            let _ = write!(reason, "; {trial}: {why}");
        }
        Some(reason)
    }

    /// A trial came to its end on the agent, or a person vouches for it.
    pub(crate) fn succeeded(&mut self, agent: &AgentId) {
        self.failures.remove(agent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_fails_different_trials_in_a_row_is_named_with_what_happened() {
        let mut health = Health::new(Some(3));
        let (agent, trial): (AgentId, _) = ("a".parse().unwrap(), |id: &str| id.parse::<TrialId>().unwrap());
        assert_eq!(health.failed(&agent, &trial("r.t0"), "lost"), None);
        assert_eq!(health.failed(&agent, &trial("r.t1"), "lost"), None);
        health.succeeded(&agent);
        assert_eq!(health.failed(&agent, &trial("r.t2"), "lost"), None);
        assert_eq!(health.failed(&"b".parse().unwrap(), &trial("r.t9"), "lost"), None);
        assert_eq!(health.failed(&agent, &trial("r.t2"), "refused"), None);
        let reason = health.failed(&agent, &trial("r.t3"), "lost").unwrap();
        assert_eq!(reason, "3 failures in a row without a success between; r.t2: lost; r.t2: refused; r.t3: lost");
    }

    #[test]
    fn a_trial_that_fails_again_and_again_is_to_blame_itself() {
        let mut health = Health::new(Some(3));
        let (agent, poison) = ("a".parse().unwrap(), "r.t0".parse().unwrap());
        assert!((0..10).all(|_| health.failed(&agent, &poison, "lost").is_none()));
        assert!(health.failed(&agent, &"r.t1".parse().unwrap(), "lost").is_some());
        assert!((0..10).all(|_| Health::new(None).failed(&agent, &poison, "lost").is_none()));
    }
}
