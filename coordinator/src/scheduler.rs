//! What to do next: a pure function of what is known and the time.
//!
//! One trial at a time per host: neighbours share power, cooling, memory and processor. Older runs go first, trials
//! of a run in their order.

use std::time::Duration;

use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::trial::Epoch;

/// What is known at one moment. Times are the coordinator's monotonic clock, since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Agents whose session is open.
    pub hosts: Vec<Host>,
    /// Trials that have not ended.
    pub trials: Vec<TrialView>,
}

/// An agent whose session is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub agent: AgentId,
    /// It gets no trial before this time: it has refused one, or storing a lease failed.
    pub free_from: Duration,
    /// It gets no trial after this time, unless it is heard of: an open connection alone proves nothing.
    pub alive_until: Duration,
}

/// A trial that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialView {
    /// Its id.
    pub id: TrialId,
    /// Its run. Run ids sort by age.
    pub run: RunId,
    /// Its position in the run.
    pub ordinal: u32,
    /// The agent whose device is meant.
    pub agent: AgentId,
    /// Whether it is leased.
    pub hold: Hold,
}

/// Whether a trial is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It waits in the queue.
    Queued,
    /// Its agent has it.
    Held {
        /// The lease.
        epoch: Epoch,
        /// When the lease runs out, unless it is renewed.
        expires_at: Duration,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give a queued trial to its agent.
    Assign {
        /// Which.
        trial: TrialId,
    },
    /// Take back a lease that has run out.
    Expire {
        /// Which trial.
        trial: TrialId,
        /// Which lease.
        epoch: Epoch,
    },
}

/// What is to be done now. A host whose lease runs out gets its next trial one decision later, when the lease has
/// been taken back.
pub fn decide(snapshot: &Snapshot, now: Duration) -> Vec<Action> {
    let expire = snapshot.trials.iter().filter_map(|trial| match trial.hold {
        Hold::Held { epoch, expires_at } if expires_at <= now => {
            Some(Action::Expire { trial: trial.id.clone(), epoch })
        }
        _ => None,
    });
    let ready = |host: &&Host| (host.free_from..host.alive_until).contains(&now);
    let assign = snapshot.hosts.iter().filter(ready).filter_map(|host| next_trial(snapshot, &host.agent));
    expire.chain(assign).collect()
}

/// The trial that the agent gets next; `None` while it has one.
fn next_trial(snapshot: &Snapshot, agent: &AgentId) -> Option<Action> {
    let mut of_agent: Vec<_> = snapshot.trials.iter().filter(|trial| trial.agent == *agent).collect();
    if of_agent.iter().any(|trial| trial.hold != Hold::Queued) {
        return None;
    }
    of_agent.sort_by_key(|trial| (&trial.run, trial.ordinal));
    of_agent.first().map(|trial| Action::Assign { trial: trial.id.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn host(agent: &str) -> Host {
        Host { agent: agent.parse().unwrap(), free_from: Duration::ZERO, alive_until: Duration::from_secs(140) }
    }

    fn trial(run: &str, ordinal: u32, agent: &str, hold: Hold) -> TrialView {
        let run: RunId = run.parse().unwrap();
        TrialView { id: TrialId::of(&run, ordinal), run, ordinal, agent: agent.parse().unwrap(), hold }
    }

    fn held(expires_at: Duration) -> Hold {
        Hold::Held { epoch: Epoch(1), expires_at }
    }

    fn assign(id: &str) -> Action {
        Action::Assign { trial: id.parse().unwrap() }
    }

    #[test]
    fn the_oldest_run_goes_first_and_its_trials_in_order() {
        let trials =
            vec![trial("b", 0, "x", Hold::Queued), trial("a", 10, "x", Hold::Queued), trial("a", 9, "x", Hold::Queued)];
        assert_eq!(decide(&Snapshot { hosts: vec![host("x")], trials }, NOW), [assign("a.t9")]);
    }

    #[test]
    fn a_host_with_a_trial_gets_no_second_one_but_its_neighbour_does() {
        let trials = vec![
            trial("a", 0, "x", held(NOW + Duration::from_secs(1))),
            trial("a", 1, "x", Hold::Queued),
            trial("a", 2, "y", Hold::Queued),
            trial("a", 3, "gone", Hold::Queued),
        ];
        assert_eq!(decide(&Snapshot { hosts: vec![host("x"), host("y")], trials }, NOW), [assign("a.t2")]);
    }

    #[test]
    fn a_lease_runs_out_at_its_time_and_nothing_is_assigned_along_with_it() {
        let trials = vec![trial("a", 0, "x", held(NOW)), trial("a", 1, "x", Hold::Queued)];
        let snapshot = Snapshot { hosts: vec![host("x")], trials };
        assert_eq!(decide(&snapshot, NOW.checked_sub(Duration::from_nanos(1)).unwrap()), []);
        let expire = Action::Expire { trial: "a.t0".parse().unwrap(), epoch: Epoch(1) };
        assert_eq!(decide(&snapshot, NOW), [expire]);
    }

    #[test]
    fn a_host_that_refused_or_fell_silent_gets_nothing() {
        let trials = vec![trial("a", 0, "x", Hold::Queued)];
        let refused = Host { free_from: NOW + Duration::from_secs(5), ..host("x") };
        let silent = Host { alive_until: NOW, ..host("x") };
        for host in [refused, silent] {
            assert_eq!(decide(&Snapshot { hosts: vec![host], trials: trials.clone() }, NOW), []);
        }
    }
}
