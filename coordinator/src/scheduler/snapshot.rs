//! What the scheduler knows at one moment, indexed by what it asks for. The actor keeps one and changes it as things
//! happen, so that a decision looks only at what may have to be done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use regatta_core::artifact::ArtifactRef;
use regatta_core::device::DeviceId;
use regatta_core::fleet::Place;
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::policy::Exclusive;
use regatta_core::trial::{Epoch, Group};

/// An agent whose session is open. Times are the coordinator's monotonic clock, since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub agent: AgentId,
    /// It gets no trial before this time: it has refused one, or storing a lease failed.
    pub free_from: Duration,
    /// It gets no trial after this time, unless it is heard of: an open connection alone proves nothing.
    pub alive_until: Duration,
    /// Why it gets no trial at all: it is drained or quarantined. `None` for one in service.
    pub out_of_service: Option<String>,
}

/// A trial that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialView {
    /// Its id: [`TrialId::of`] its run and ordinal.
    pub id: TrialId,
    /// Its run. Run ids sort by age.
    pub run: RunId,
    /// Its position in the run.
    pub ordinal: u32,
    /// The run's priority.
    pub priority: i32,
    /// What it has to itself.
    pub exclusive: Exclusive,
    /// Where it may go, at least one place.
    pub places: Arc<[Place]>,
    /// Its weights.
    pub artifact: ArtifactRef,
    /// The trials that it begins together with.
    pub group: Option<Group>,
    /// Agents on which it failed: others are asked first.
    pub avoid: Vec<AgentId>,
    /// How long it will take, from what such trials took before.
    pub expected: Option<Duration>,
    /// Whether it is leased.
    pub hold: Hold,
}

/// Whether a trial is leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It waits in the queue.
    Queued,
    /// An agent has it.
    Held {
        /// Where.
        place: Place,
        /// The lease.
        epoch: Epoch,
        /// When it was given; after a restart, the restart.
        since: Duration,
        /// When the lease runs out, unless it is renewed. `None` for a trial whose agent has nothing more to say of it,
        /// and which waits for the others of its group.
        expires_at: Option<Duration>,
    },
}

/// Handle of a run within a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RunKey(usize);

/// Handle of an artifact within a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ArtifactKey(usize);

/// Handle of a pool within a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolKey(usize);

impl RunKey {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

impl PoolKey {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// What is known of a run with open trials.
#[derive(Debug)]
pub(super) struct RunInfo {
    pub(super) id: RunId,
    pub(super) priority: i32,
    /// Trials that agents have.
    pub(super) held: usize,
    /// Its trials, by ordinal.
    pub(super) trials: BTreeSet<u32>,
}

/// Waiting trials that differ only in how long they take: the longest first, one of which nothing is known before all.
pub(super) type Queue = BTreeSet<Waiting>;

/// A trial, or the first of a group, in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    pub(super) expected: Reverse<Duration>,
    pub(super) ordinal: u32,
}

/// What waiting trials of a run and a pool have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub(super) artifact: ArtifactKey,
    pub(super) exclusive: Exclusive,
    pub(super) avoid: Vec<AgentId>,
}

/// Places that stand for each other, and what waits for them.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) places: Arc<[Place]>,
    pub(super) waiting: BTreeMap<RunKey, BTreeMap<Bucket, Queue>>,
    /// Trials and groups that refer to it.
    users: usize,
}

/// Trials that begin together.
#[derive(Debug)]
pub(super) struct GroupInfo {
    /// By replica.
    pub(super) members: BTreeMap<u32, TrialId>,
    replicas: u32,
    queued: usize,
    /// Where it waits, while all its members do.
    entry: Option<Entry>,
}

/// Where something waits.
#[derive(Debug, Clone)]
struct Entry {
    pool: PoolKey,
    run: RunKey,
    bucket: Bucket,
    waiting: Waiting,
}

/// What an agent has.
#[derive(Debug, Default)]
pub(super) struct Busy {
    trials: BTreeSet<TrialId>,
    /// How many of them are on which device.
    pub(super) devices: BTreeMap<DeviceId, u32>,
    /// How many of them have the whole host.
    pub(super) whole: u32,
}

#[derive(Debug)]
struct Slot {
    view: TrialView,
    run: RunKey,
    pool: PoolKey,
    artifact: ArtifactKey,
}

impl Slot {
    /// Where it waits for these places.
    fn entry(&self, pool: PoolKey, avoid: Vec<AgentId>) -> Entry {
        let bucket = Bucket { artifact: self.artifact, exclusive: self.view.exclusive, avoid };
        let expected = Reverse(self.view.expected.unwrap_or(Duration::MAX));
        Entry { pool, run: self.run, bucket, waiting: Waiting { expected, ordinal: self.view.ordinal } }
    }
}

#[derive(Debug)]
pub(super) struct HostSlot {
    pub(super) host: Host,
    /// Artifacts that are on its disk.
    cached: HashSet<ArtifactKey>,
    /// The one used last: it may still be in memory.
    last: Option<ArtifactKey>,
}

/// What is known at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    hosts: BTreeMap<AgentId, HostSlot>,
    trials: HashMap<TrialId, Slot>,
    groups: HashMap<TrialId, GroupInfo>,
    held: BTreeMap<AgentId, Busy>,
    /// Leases by the time at which they run out.
    expiries: BTreeSet<(Duration, TrialId)>,
    runs: Vec<RunInfo>,
    free_runs: Vec<RunKey>,
    run_keys: HashMap<RunId, RunKey>,
    artifacts: HashMap<ArtifactRef, ArtifactKey>,
    pools: Vec<Option<Pool>>,
    free_pools: Vec<PoolKey>,
    pool_keys: HashMap<Arc<[Place]>, PoolKey>,
    /// Pools by the address of their places: most trials share them with others.
    pool_addresses: HashMap<usize, PoolKey>,
    /// The pools that each device belongs to.
    devices: HashMap<AgentId, BTreeMap<DeviceId, Vec<PoolKey>>>,
}

/// What hosts and trials there are.
impl Snapshot {
    /// The open session of that agent.
    pub fn host(&self, agent: &AgentId) -> Option<&Host> {
        self.hosts.get(agent).map(|slot| &slot.host)
    }

    /// The open session of that agent, to be changed.
    pub fn host_mut(&mut self, agent: &AgentId) -> Option<&mut Host> {
        self.hosts.get_mut(agent).map(|slot| &mut slot.host)
    }

    /// A session was opened; it takes the place of an earlier one of the same agent.
    pub fn insert_host(&mut self, host: Host, cached: &[ArtifactRef]) {
        let cached = cached.iter().map(|artifact| self.artifact_key(artifact)).collect();
        let last = self.hosts.get(&host.agent).and_then(|slot| slot.last);
        self.hosts.insert(host.agent.clone(), HostSlot { host, cached, last });
    }

    /// Artifacts that are on an agent's machine, in order.
    pub fn cached(&self, agent: &AgentId) -> Vec<ArtifactRef> {
        let Some(slot) = self.hosts.get(agent) else { return Vec::new() };
        let there = self.artifacts.iter().filter(|(_, key)| slot.cached.contains(key));
        let mut there: Vec<ArtifactRef> = there.map(|(artifact, _)| artifact.clone()).collect();
        there.sort();
        there
    }

    /// A session is over.
    pub fn remove_host(&mut self, agent: &AgentId) {
        self.hosts.remove(agent);
    }

    /// The trial of that id, if it has not ended.
    pub fn trial(&self, id: &TrialId) -> Option<&TrialView> {
        self.trials.get(id).map(|slot| &slot.view)
    }

    /// Trials that have not ended.
    pub fn len(&self) -> usize {
        self.trials.len()
    }

    /// Whether every trial has ended.
    pub fn is_empty(&self) -> bool {
        self.trials.is_empty()
    }

    /// The trials that the agent has.
    pub fn held_by(&self, agent: &AgentId) -> impl Iterator<Item = &TrialView> {
        self.held.get(agent).into_iter().flat_map(|busy| &busy.trials).filter_map(|id| self.trial(id))
    }

    /// The trials that agents have.
    pub fn held(&self) -> impl Iterator<Item = &TrialView> {
        self.held.values().flat_map(|busy| &busy.trials).filter_map(|id| self.trial(id))
    }

    /// The trials of a group, by replica; only the trial itself where it has none.
    pub fn together(&self, id: &TrialId) -> Vec<TrialId> {
        let group = self.trial(id).and_then(|view| view.group.as_ref()).and_then(|group| self.groups.get(&group.id));
        group.map_or_else(|| vec![id.clone()], |group| group.members.values().cloned().collect())
    }

    /// The run's trials that have not ended, in order.
    pub fn trials_of<'s>(&'s self, run: &RunId) -> impl Iterator<Item = &'s TrialView> {
        let info = self.run_keys.get(run).map(|key| self.run(*key));
        info.into_iter()
            .flat_map(|info| info.trials.iter().filter_map(|ordinal| self.trial(&TrialId::of(&info.id, *ordinal))))
    }
}

/// What changes.
impl Snapshot {
    /// A trial that has not ended; it takes the place of what was known of it.
    pub fn insert(&mut self, view: TrialView) {
        self.remove(&view.id);
        let run = self.run_key(&view);
        let info = &mut self.runs[run.0];
        info.trials.insert(view.ordinal);
        info.priority = view.priority;
        let (pool, artifact) = (self.pool_key(&view.places), self.artifact_key(&view.artifact));
        // The same places as others': only one copy is kept.
        let places = self.pool(pool).map_or_else(|| Arc::clone(&view.places), |pool| Arc::clone(&pool.places));
        let id = view.id.clone();
        if let Some(group) = &view.group {
            let info = self.groups.entry(group.id.clone()).or_insert_with(|| GroupInfo {
                members: BTreeMap::new(),
                replicas: group.replicas,
                queued: 0,
                entry: None,
            });
            info.members.insert(group.replica, id.clone());
        }
        self.trials.insert(id.clone(), Slot { view: TrialView { places, ..view }, run, pool, artifact });
        self.enter(&id);
    }

    /// A trial has ended.
    pub fn remove(&mut self, id: &TrialId) {
        self.leave(id);
        let Some(slot) = self.trials.remove(id) else { return };
        if let Some(group) = &slot.view.group
            && let Some(info) = self.groups.get_mut(&group.id)
        {
            info.members.remove(&group.replica);
            if info.members.is_empty() {
                self.groups.remove(&group.id);
            }
        }
        self.release_pool(slot.pool);
        let info = &mut self.runs[slot.run.0];
        info.trials.remove(&slot.view.ordinal);
        if info.trials.is_empty() {
            self.run_keys.remove(&slot.view.run);
            self.free_runs.push(slot.run);
        }
    }

    /// A trial was leased, or is in the queue again. A lease makes its artifact the one that was used last there.
    pub fn set_hold(&mut self, id: &TrialId, hold: Hold) {
        self.leave(id);
        if let Some(slot) = self.trials.get_mut(id) {
            if let Hold::Held { place, .. } = &hold
                && let Some(host) = self.hosts.get_mut(&place.agent)
            {
                host.cached.insert(slot.artifact);
                host.last = Some(slot.artifact);
            }
            slot.view.hold = hold;
        }
        self.enter(id);
    }

    /// More is known of how long a trial takes: it waits at another place of its queue now.
    pub fn set_expected(&mut self, id: &TrialId, expected: Duration) {
        self.leave(id);
        if let Some(slot) = self.trials.get_mut(id) {
            slot.view.expected = Some(expected);
        }
        self.enter(id);
    }

    /// The lease lives until then. Does nothing for another lease.
    pub fn renew(&mut self, id: &TrialId, renewed: Epoch, until: Duration) {
        if let Some(Hold::Held { epoch, expires_at: Some(at), .. }) =
            self.trials.get_mut(id).map(|slot| &mut slot.view.hold)
            && *epoch == renewed
        {
            self.expiries.remove(&(*at, id.clone()));
            *at = until;
            self.expiries.insert((until, id.clone()));
        }
    }

    /// Puts a trial where it is looked for: among those that wait, or among those that agents have.
    fn enter(&mut self, id: &TrialId) {
        let Some(slot) = self.trials.get(id) else { return };
        match (&slot.view.hold, &slot.view.group) {
            (Hold::Held { place, expires_at, .. }, _) => {
                let busy = self.held.entry(place.agent.clone()).or_default();
                busy.trials.insert(id.clone());
                *busy.devices.entry(place.device).or_default() += 1;
                busy.whole += u32::from(slot.view.exclusive == Exclusive::Host);
                self.runs[slot.run.0].held += 1;
                self.expiries.extend(expires_at.map(|at| (at, id.clone())));
            }
            (Hold::Queued, None) => {
                let entry = slot.entry(slot.pool, slot.view.avoid.clone());
                self.wait(entry);
            }
            (Hold::Queued, Some(group)) => {
                let group = group.id.clone();
                if let Some(info) = self.groups.get_mut(&group) {
                    info.queued += 1;
                }
                self.enter_group(&group);
            }
        }
    }

    /// Undoes [`Snapshot::enter`].
    fn leave(&mut self, id: &TrialId) {
        let Some(slot) = self.trials.get(id) else { return };
        match (&slot.view.hold, &slot.view.group) {
            (Hold::Held { place, expires_at, .. }, _) => {
                self.runs[slot.run.0].held -= 1;
                if let Some(at) = expires_at {
                    self.expiries.remove(&(*at, id.clone()));
                }
                let Some(busy) = self.held.get_mut(&place.agent) else { return };
                busy.trials.remove(id);
                busy.whole -= u32::from(slot.view.exclusive == Exclusive::Host);
                if let Some(trials) = busy.devices.get_mut(&place.device) {
                    *trials -= 1;
                    if *trials == 0 {
                        busy.devices.remove(&place.device);
                    }
                }
                if busy.trials.is_empty() {
                    self.held.remove(&place.agent);
                }
            }
            (Hold::Queued, None) => {
                let entry = slot.entry(slot.pool, slot.view.avoid.clone());
                self.unwait(&entry);
            }
            (Hold::Queued, Some(group)) => {
                let Some(info) = self.groups.get_mut(&group.id) else { return };
                info.queued -= 1;
                if let Some(entry) = info.entry.take() {
                    self.unwait(&entry);
                    self.release_pool(entry.pool);
                }
            }
        }
    }

    /// A group waits when all of its trials do: for the places of all of them.
    fn enter_group(&mut self, id: &TrialId) {
        let Some(group) = self.groups.get(id) else { return };
        let whole = group.queued == group.replicas as usize && group.members.len() == group.queued;
        let Some(first) = group.members.values().next().filter(|_| whole) else { return };
        let members = || group.members.values().filter_map(|member| self.trials.get(member));
        let mut avoid: Vec<_> = members().flat_map(|slot| slot.view.avoid.iter().cloned()).collect();
        avoid.sort_unstable();
        avoid.dedup();
        let mut places: Vec<Place> = Vec::new();
        let mut pools = BTreeSet::new();
        for slot in members().filter(|slot| pools.insert(slot.pool)) {
            places.extend(slot.view.places.iter().cloned());
        }
        let first = first.clone();
        let pool = self.pool_key(&places.into());
        let Some(slot) = self.trials.get(&first) else { return };
        let entry = slot.entry(pool, avoid);
        self.wait(entry.clone());
        if let Some(group) = self.groups.get_mut(id) {
            group.entry = Some(entry);
        }
    }

    fn wait(&mut self, entry: Entry) {
        let Some(pool) = self.pools[entry.pool.0].as_mut() else { return };
        pool.waiting.entry(entry.run).or_default().entry(entry.bucket).or_default().insert(entry.waiting);
    }

    fn unwait(&mut self, entry: &Entry) {
        let Some(pool) = self.pools[entry.pool.0].as_mut() else { return };
        let Some(buckets) = pool.waiting.get_mut(&entry.run) else { return };
        if let Some(queue) = buckets.get_mut(&entry.bucket) {
            queue.remove(&entry.waiting);
            if queue.is_empty() {
                buckets.remove(&entry.bucket);
            }
        }
        if buckets.is_empty() {
            pool.waiting.remove(&entry.run);
        }
    }
}

/// Handles.
impl Snapshot {
    fn run_key(&mut self, view: &TrialView) -> RunKey {
        if let Some(key) = self.run_keys.get(&view.run) {
            return *key;
        }
        let (id, priority) = (view.run.clone(), view.priority);
        let info = RunInfo { id, priority, held: 0, trials: BTreeSet::new() };
        let key = self.free_runs.pop().unwrap_or(RunKey(self.runs.len()));
        if key.0 == self.runs.len() {
            self.runs.push(info);
        } else {
            self.runs[key.0] = info;
        }
        self.run_keys.insert(view.run.clone(), key);
        key
    }

    fn artifact_key(&mut self, artifact: &ArtifactRef) -> ArtifactKey {
        if let Some(key) = self.artifacts.get(artifact) {
            return *key;
        }
        let key = ArtifactKey(self.artifacts.len());
        self.artifacts.insert(artifact.clone(), key);
        key
    }

    /// The pool of these places, with one more user.
    fn pool_key(&mut self, places: &Arc<[Place]>) -> PoolKey {
        let known = self.pool_addresses.get(&address(places)).or_else(|| self.pool_keys.get(places)).copied();
        if let Some(key) = known
            && let Some(pool) = self.pools[key.0].as_mut()
        {
            pool.users += 1;
            return key;
        }
        let pool = Some(Pool { places: Arc::clone(places), waiting: BTreeMap::new(), users: 1 });
        let key = self.free_pools.pop().unwrap_or(PoolKey(self.pools.len()));
        if key.0 == self.pools.len() {
            self.pools.push(pool);
        } else {
            self.pools[key.0] = pool;
        }
        self.pool_addresses.insert(address(places), key);
        self.pool_keys.insert(Arc::clone(places), key);
        for place in places.iter() {
            self.devices.entry(place.agent.clone()).or_default().entry(place.device).or_default().push(key);
        }
        key
    }

    fn release_pool(&mut self, key: PoolKey) {
        let Some(pool) = self.pools[key.0].as_mut() else { return };
        pool.users -= 1;
        if pool.users > 0 {
            return;
        }
        let Some(Pool { places, .. }) = self.pools[key.0].take() else { return };
        self.free_pools.push(key);
        self.pool_addresses.remove(&address(&places));
        self.pool_keys.remove(&places);
        for place in places.iter() {
            let Some(devices) = self.devices.get_mut(&place.agent) else { continue };
            if let Some(pools) = devices.get_mut(&place.device) {
                pools.retain(|other| *other != key);
                if pools.is_empty() {
                    devices.remove(&place.device);
                }
            }
            if devices.is_empty() {
                self.devices.remove(&place.agent);
            }
        }
    }

    pub(super) fn run(&self, key: RunKey) -> &RunInfo {
        &self.runs[key.0]
    }

    pub(super) fn pool(&self, key: PoolKey) -> Option<&Pool> {
        self.pools.get(key.0).and_then(Option::as_ref)
    }

    /// How many handles of pools and of runs there may be.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.pools.len(), self.runs.len())
    }

    /// What the agent has, if anything.
    pub(super) fn busy(&self, agent: &AgentId) -> Option<&Busy> {
        self.held.get(agent)
    }

    /// The leases that have run out.
    pub(super) fn expired(&self, now: Duration) -> impl Iterator<Item = &TrialView> {
        self.expiries.iter().take_while(move |(at, _)| *at <= now).filter_map(|(_, id)| self.trial(id))
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &HostSlot> {
        self.hosts.values()
    }

    pub(super) fn slot(&self, agent: &AgentId) -> Option<&HostSlot> {
        self.hosts.get(agent)
    }

    /// The agent's devices that trials wait for or run on, each with its pools.
    pub(super) fn devices_of(&self, agent: &AgentId) -> Option<&BTreeMap<DeviceId, Vec<PoolKey>>> {
        self.devices.get(agent)
    }

    /// The trials of the group of that id.
    pub(super) fn group(&self, id: &TrialId) -> Option<&GroupInfo> {
        self.groups.get(id)
    }
}

/// Where the places lie in memory: tells copies of one pool from other pools, as long as the pool is kept.
fn address(places: &Arc<[Place]>) -> usize {
    Arc::as_ptr(places).cast::<Place>().addr()
}

impl HostSlot {
    /// How near the artifact is: 2 where it was used last, 1 where it is on disk.
    pub(super) fn nearness(&self, artifact: ArtifactKey) -> u8 {
        if self.last == Some(artifact) { 2 } else { u8::from(self.cached.contains(&artifact)) }
    }

    /// Whether it may get a trial now.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        self.is_in_service(now) && self.host.free_from <= now
    }

    /// Whether it may get a trial now or soon.
    pub(super) fn is_in_service(&self, now: Duration) -> bool {
        self.host.out_of_service.is_none() && now < self.host.alive_until
    }
}
