//! What people want to know of a run: how long it will take, and what it waits for.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use regatta_core::id::{AgentId, RunId, TrialId};

use super::snapshot::{Hold, Snapshot, TrialView};

/// Agents that a reason to wait names, at most.
const NAMED: usize = 3;

/// How a run goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Time that is left if nothing else takes its agents, from what such trials took before; `None` where one of its
    /// trials is of a kind that was never seen, or can't go on as things are.
    pub remaining: Option<Duration>,
    /// Why trials wait that no agent in service may take, each reason once.
    pub waits: Vec<String>,
}

/// How the run goes on, as far as one can tell.
pub fn outlook(snapshot: &Snapshot, run: &RunId, now: Duration) -> Outlook {
    let mut waits = BTreeSet::new();
    let mut seen: BTreeSet<*const regatta_core::fleet::Place> = BTreeSet::new();
    for trial in snapshot.trials_of(run).filter(|trial| trial.hold == Hold::Queued) {
        // Trials of one pool wait for the same.
        if trial.group.is_some() || seen.insert(trial.places.as_ptr()) {
            waits.extend(waits_for(snapshot, trial, now));
        }
    }
    let remaining = if waits.is_empty() { remaining(snapshot, run, now) } else { None };
    Outlook { remaining, waits: waits.into_iter().collect() }
}

/// Why the trial can't begin even if all was idle; `None` if it can.
fn waits_for(snapshot: &Snapshot, trial: &TrialView, now: Duration) -> Option<String> {
    let needed = trial.group.as_ref().map_or(1, |group| group.replicas as usize);
    let members = snapshot.together(&trial.id);
    let mut places: Vec<_> =
        members.iter().filter_map(|id| snapshot.trial(id)).flat_map(|view| view.places.iter()).collect();
    places.sort_unstable();
    places.dedup();
    let in_service = |agent: &AgentId| snapshot.slot(agent).is_some_and(|slot| slot.is_in_service(now));
    let (up, down): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| in_service(&place.agent));
    if up.len() >= needed {
        return None;
    }
    let mut agents: Vec<&AgentId> = down.iter().map(|place| &place.agent).collect();
    agents.dedup();
    let mut reasons: Vec<_> = agents.iter().take(NAMED).map(|agent| why_down(snapshot, agent)).collect();
    if agents.len() > NAMED {
        reasons.push(format!("and {} more", agents.len() - NAMED));
    }
    let reasons = reasons.join("; ");
    Some(if needed == 1 { reasons } else { format!("{needed} devices at a time, {} in service: {reasons}", up.len()) })
}

fn why_down(snapshot: &Snapshot, agent: &AgentId) -> String {
    match snapshot.host(agent) {
        None => format!("agent {agent} is not connected"),
        Some(host) => match &host.out_of_service {
            Some(reason) => format!("agent {agent} is {reason}"),
            None => format!("agent {agent} is silent"),
        },
    }
}

/// Time until the last trial ends, each going to the agent that is free first, the longest first.
fn remaining(snapshot: &Snapshot, run: &RunId, now: Duration) -> Option<Duration> {
    let mut load: HashMap<&AgentId, Duration> = HashMap::new();
    let mut waiting = Vec::new();
    for trial in snapshot.trials_of(run) {
        let expected = trial.expected?;
        match &trial.hold {
            Hold::Held { place, since, .. } => {
                let left = expected.saturating_sub(now.saturating_sub(*since));
                *load.entry(&place.agent).or_default() += left;
            }
            Hold::Queued => waiting.push((Reverse(expected), trial)),
        }
    }
    waiting.sort_by_key(|(expected, trial)| (*expected, trial.ordinal));
    let mut placed: BTreeSet<&TrialId> = BTreeSet::new();
    for (Reverse(expected), trial) in waiting {
        // The trials of a group run at the same time: they count once for each agent.
        if trial.group.as_ref().is_some_and(|group| !placed.insert(&group.id)) {
            continue;
        }
        let first = trial.places.iter().min_by_key(|place| load.get(&place.agent).copied().unwrap_or_default())?;
        *load.entry(&first.agent).or_default() += expected;
    }
    Some(load.into_values().max().unwrap_or_default())
}
