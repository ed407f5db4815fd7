//! What to do next: a pure function of what is known and the time.
//!
//! - A host measures one trial at a time, because neighbours share power, cooling, memory and processor. Trials that have
//!   only their device to themselves may run side by side, one on each device, but never beside one that has the host.
//! - Which run: the highest priority first; among equals the run of which agents have the fewest trials, then the oldest.
//!   So runs of equal priority share the fleet whatever their sizes, and none starves.
//! - Which of its trials: one whose artifact the host used last, then one whose artifact is on its disk; among these the
//!   one that is expected to take longest, so that no long trial is left over at the end. A trial of which nothing is
//!   known may be long, so it comes before all.
//! - A trial that failed on an agent goes to another one as long as its pool has another in service.
//! - The trials of a group are given all at once, or none of them; on one agent where one has devices enough.
//! - When the trial whose turn it is needs more of the host than is free (all of it, or several devices), the host is
//!   kept for it: what is running there ends, and nothing else is begun. So large trials do not starve behind small ones.

mod outlook;
mod snapshot;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_set};
use std::iter::Peekable;
use std::time::Duration;

use regatta_core::device::DeviceId;
use regatta_core::fleet::Place;
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::policy::Exclusive;
use regatta_core::trial::Epoch;

pub use self::outlook::{Outlook, outlook};
use self::snapshot::{Bucket, Busy, HostSlot, PoolKey, Queue, RunKey, Waiting};
pub use self::snapshot::{Hold, Host, Snapshot, TrialView};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give queued trials to agents: one by itself, or all those of a group.
    Assign {
        /// Which trials, and where.
        seats: Vec<(TrialId, Place)>,
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
    let expire = snapshot.expired(now).filter_map(|trial| match trial.hold {
        Hold::Held { epoch, .. } => Some(Action::Expire { trial: trial.id.clone(), epoch }),
        Hold::Queued => None,
    });
    let mut actions: Vec<_> = expire.collect();
    let mut plan = Plan::new(snapshot, now);
    plan.assign();
    actions.append(&mut plan.actions);
    actions
}

/// A decision in the making.
struct Plan<'s> {
    snapshot: &'s Snapshot,
    now: Duration,
    /// Hosts that get trials by this decision, or are kept for one.
    hosts: HashMap<&'s AgentId, Occupied>,
    /// What is left of the pools that were looked at, by their keys.
    pools: Vec<Option<PoolLeft<'s>>>,
    /// Trials given by this decision, by the keys of their runs.
    given: Vec<usize>,
    actions: Vec<Action>,
}

/// What a host has to do already.
#[derive(Debug, Clone, Default)]
struct Occupied {
    /// Devices in use or kept.
    devices: BTreeSet<DeviceId>,
    /// Nothing more may begin there: one trial has the whole host, or the host is kept for one that will.
    closed: bool,
}

impl Occupied {
    fn of(busy: &Busy) -> Self {
        Self { devices: busy.devices.keys().copied().collect(), closed: busy.whole > 0 }
    }
}

/// What is left of a pool.
struct PoolLeft<'s> {
    runs: Vec<RunLeft<'s>>,
    /// Places of hosts in service, counted when first needed.
    in_service: Option<usize>,
}

impl<'s> PoolLeft<'s> {
    fn of(snapshot: &'s Snapshot, key: PoolKey) -> Self {
        let waiting = snapshot.pool(key).map(|pool| &pool.waiting);
        let left = |(&run, buckets): (&RunKey, &'s BTreeMap<Bucket, Queue>)| RunLeft {
            run,
            buckets: buckets.iter().map(|(bucket, queue)| (bucket, queue.iter().peekable())).collect(),
        };
        Self { runs: waiting.into_iter().flatten().map(left).collect(), in_service: None }
    }
}

/// What is left of a run in a pool.
struct RunLeft<'s> {
    run: RunKey,
    buckets: Vec<(&'s Bucket, Peekable<btree_set::Iter<'s, Waiting>>)>,
}

/// A run's turn: lower ones go first.
type Turn<'s> = (Reverse<i32>, usize, &'s RunId);

/// What a host would do next.
struct Candidate<'s> {
    turn: Turn<'s>,
    /// Within the run: lower ones go first.
    order: (Reverse<u8>, Waiting),
    device: DeviceId,
    pool: PoolKey,
    run: RunKey,
    bucket: &'s Bucket,
}

impl<'s> Plan<'s> {
    fn new(snapshot: &'s Snapshot, now: Duration) -> Self {
        let (pools, runs) = snapshot.sizes();
        let pools = std::iter::repeat_with(|| None).take(pools).collect();
        Self { snapshot, now, hosts: HashMap::new(), pools, given: vec![0; runs], actions: Vec::new() }
    }

    /// Gives trials to hosts: to those first that have none, so that no busy host is kept for a trial that may begin now.
    fn assign(&mut self) {
        let snapshot = self.snapshot;
        let ready = || snapshot.hosts().filter(|slot| slot.is_ready(self.now));
        let has_trials = |slot: &&HostSlot| snapshot.busy(&slot.host.agent).is_some();
        let (busy, idle): (Vec<_>, Vec<_>) = ready().partition(has_trials);
        for slot in idle.into_iter().chain(busy) {
            while let Some(candidate) = self.best(slot) {
                self.begin(slot, &candidate);
            }
        }
    }

    fn is_closed(&self, agent: &AgentId) -> bool {
        match self.hosts.get(agent) {
            Some(host) => host.closed,
            None => self.snapshot.busy(agent).is_some_and(|busy| busy.whole > 0),
        }
    }

    fn is_in_use(&self, agent: &AgentId, device: DeviceId) -> bool {
        match self.hosts.get(agent) {
            Some(host) => host.devices.contains(&device),
            None => self.snapshot.busy(agent).is_some_and(|busy| busy.devices.contains_key(&device)),
        }
    }

    /// Whether nothing is done there at all.
    fn is_idle(&self, agent: &AgentId) -> bool {
        self.hosts.get(agent).map_or_else(|| self.snapshot.busy(agent).is_none(), |host| host.devices.is_empty())
    }

    fn is_free(&self, place: &Place) -> bool {
        !self.is_closed(&place.agent) && !self.is_in_use(&place.agent, place.device)
    }

    fn turn(&self, run: RunKey) -> Turn<'s> {
        let info = self.snapshot.run(run);
        (Reverse(info.priority), info.held + self.given[run.index()], &info.id)
    }

    /// What the host would do next, on any of its free devices.
    fn best(&mut self, slot: &'s HostSlot) -> Option<Candidate<'s>> {
        let agent = &slot.host.agent;
        let devices = self.snapshot.devices_of(agent).filter(|_| !self.is_closed(agent))?;
        let mut best: Option<Candidate<'s>> = None;
        for (&device, pools) in devices {
            if self.is_in_use(agent, device) {
                continue;
            }
            for &pool in pools {
                self.better(slot, device, pool, &mut best);
            }
        }
        best
    }

    /// Puts the pool's best candidate for the host in the place of `best`, if it is better.
    fn better(&mut self, slot: &'s HostSlot, device: DeviceId, pool: PoolKey, best: &mut Option<Candidate<'s>>) {
        let agent = &slot.host.agent;
        let mut left = self.pools[pool.index()].take().unwrap_or_else(|| PoolLeft::of(self.snapshot, pool));
        for RunLeft { run, buckets } in &mut left.runs {
            let (run, turn) = (*run, self.turn(*run));
            if best.as_ref().is_some_and(|best| best.turn < turn) {
                continue;
            }
            for (bucket, queue) in buckets {
                let Some(&&waiting) = queue.peek() else { continue };
                if bucket.avoid.contains(agent) && has_another(self.snapshot, self.now, pool, &bucket.avoid) {
                    continue;
                }
                let order = (Reverse(slot.nearness(bucket.artifact)), waiting);
                if best.as_ref().is_none_or(|best| (turn, order) < (best.turn, best.order)) {
                    *best = Some(Candidate { turn, order, device, pool, run, bucket });
                }
            }
        }
        self.pools[pool.index()] = Some(left);
    }

    /// Begins what the host would do next, or keeps the host for it.
    fn begin(&mut self, slot: &'s HostSlot, candidate: &Candidate<'s>) {
        self.take(candidate);
        let run = &self.snapshot.run(candidate.run).id;
        let id = TrialId::of(run, candidate.order.1.ordinal);
        let whole = candidate.bucket.exclusive == Exclusive::Host;
        let group = self.snapshot.trial(&id).and_then(|view| view.group.as_ref());
        if let Some(group) = group.and_then(|group| self.snapshot.group(&group.id)) {
            let members = group.members.values().cloned().collect();
            return self.begin_group(members, candidate, whole);
        }
        let agent = &slot.host.agent;
        let idle = self.is_idle(agent);
        let place = Place { agent: agent.clone(), device: candidate.device };
        self.occupy(&place, whole);
        if idle || !whole {
            self.give(candidate.run, vec![(id, place)]);
        }
    }

    /// Takes the candidate out of its queue.
    fn take(&mut self, candidate: &Candidate<'s>) {
        let Some(left) = &mut self.pools[candidate.pool.index()] else { return };
        let Some(run) = left.runs.iter_mut().find(|left| left.run == candidate.run) else { return };
        if let Some((_, queue)) = run.buckets.iter_mut().find(|(bucket, _)| *bucket == candidate.bucket) {
            queue.next();
        }
        run.buckets.retain_mut(|(_, queue)| queue.peek().is_some());
        if run.buckets.is_empty() {
            left.runs.retain(|left| left.run != candidate.run);
        }
    }

    fn occupy(&mut self, place: &Place, whole: bool) {
        let Some(slot) = self.snapshot.slot(&place.agent) else { return };
        let before = || self.snapshot.busy(&place.agent).map(Occupied::of).unwrap_or_default();
        let host = self.hosts.entry(&slot.host.agent).or_insert_with(before);
        host.devices.insert(place.device);
        host.closed |= whole;
    }

    fn give(&mut self, run: RunKey, seats: Vec<(TrialId, Place)>) {
        self.given[run.index()] += seats.len();
        self.actions.push(Action::Assign { seats });
    }

    /// Begins a group if there are places enough, or keeps as many as it needs for it. A group that has not so many
    /// places in service waits, and keeps nothing.
    fn begin_group(&mut self, members: Vec<TrialId>, candidate: &Candidate<'s>, whole: bool) {
        let Some(pool) = self.snapshot.pool(candidate.pool) else { return };
        if self.in_service(candidate.pool) < members.len() {
            return;
        }
        let avoid = &candidate.bucket.avoid;
        let places = || pool.places.iter().filter(|place| self.may_use(place));
        let fresh: Vec<_> = places().filter(|place| !avoid.contains(&place.agent)).collect();
        let usable = if fresh.len() >= members.len() { fresh } else { places().collect() };
        let idle = |place: &&Place| !whole || self.is_idle(&place.agent);
        let ready = |place: &&Place| self.snapshot.slot(&place.agent).is_some_and(|slot| slot.is_ready(self.now));
        let (free, taken): (Vec<&Place>, Vec<&Place>) =
            usable.into_iter().partition(|place| self.is_free(place) && idle(place) && ready(place));
        if free.len() >= members.len() {
            let chosen = on_one_agent(&free, members.len());
            for place in &chosen {
                self.occupy(place, whole);
            }
            let seats = self.seat(members, &chosen);
            return self.give(candidate.run, seats);
        }
        let kept: Vec<_> = free.into_iter().chain(taken).take(members.len()).cloned().collect();
        for place in &kept {
            self.occupy(place, whole);
        }
    }

    /// Who of a group goes where: each to its own place, or to any of its pool.
    fn seat(&self, members: Vec<TrialId>, chosen: &[Place]) -> Vec<(TrialId, Place)> {
        let own = |id: &TrialId| match self.snapshot.trial(id).map(|view| &*view.places) {
            Some([only]) => Some(only.clone()),
            _ => None,
        };
        let seat = |(id, place): (TrialId, &Place)| {
            let place = own(&id).unwrap_or_else(|| place.clone());
            (id, place)
        };
        members.into_iter().zip(chosen).map(seat).collect()
    }

    fn may_use(&self, place: &Place) -> bool {
        self.snapshot.slot(&place.agent).is_some_and(|slot| slot.is_in_service(self.now))
    }

    /// Places of the pool whose hosts are in service.
    fn in_service(&mut self, key: PoolKey) -> usize {
        let known = self.pools[key.index()].as_ref().and_then(|left| left.in_service);
        known.unwrap_or_else(|| {
            let places =
                self.snapshot.pool(key).map_or(0, |pool| pool.places.iter().filter(|p| self.may_use(p)).count());
            if let Some(left) = &mut self.pools[key.index()] {
                left.in_service = Some(places);
            }
            places
        })
    }
}

/// Whether the pool has an agent in service that is not to be avoided.
fn has_another(snapshot: &Snapshot, now: Duration, pool: PoolKey, avoid: &[AgentId]) -> bool {
    let in_service = |agent: &AgentId| snapshot.slot(agent).is_some_and(|slot| slot.is_in_service(now));
    let other = |place: &Place| !avoid.contains(&place.agent) && in_service(&place.agent);
    snapshot.pool(pool).is_some_and(|pool| pool.places.iter().any(other))
}

/// As many of the places as are needed: those of one agent if it has enough.
fn on_one_agent(places: &[&Place], needed: usize) -> Vec<Place> {
    let mut counts: HashMap<&AgentId, usize> = HashMap::new();
    for place in places {
        *counts.entry(&place.agent).or_default() += 1;
    }
    let enough = places.iter().map(|place| &place.agent).find(|agent| counts[agent] >= needed);
    let fits = |place: &&&Place| enough.is_none_or(|agent| place.agent == *agent);
    places.iter().filter(fits).take(needed).map(|place| (*place).clone()).collect()
}

#[cfg(test)]
mod tests;
