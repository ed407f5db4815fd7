//! The actor: owns the open sessions and the open trials, and is the only one that gives and takes leases.
//!
//! Leases are judged on the coordinator's monotonic clock. After a restart every lease gets its full length again.

mod groups;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use regatta_core::artifact::ArtifactRef;
use regatta_core::digest::Digest;
use regatta_core::fleet::{Fleet, Place};
use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::matrix::{self, MatrixError};
use regatta_core::scenario::{Scenario, ScenarioBundle};
use regatta_core::trial::{Epoch, Trial, TrialState};
use regatta_proto::pb;
use regatta_proto::pb::coordinator_message::Message;
use regatta_store::{
    AgentLeft, CancelRun, Cancelled, ClockSkew, EndedCell, ForgetAgent, Granted, Lease, Leased, NewRun, Reader,
    Release, ReleaseReason, Released, ResumeRun, Resumed, RunDevice, Seat, Service, SetService, Store, StoreError,
    Submitted, Took, TrialRecord, Writer,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

pub(crate) use self::groups::Gate;
use crate::health::Health;
use crate::scheduler::{self, Action, Hold, Host, Outlook, Snapshot, TrialView};
use crate::server::Config;
use crate::skew::Skew;
use crate::wire::{self, Hello};

/// Events that may wait for the actor.
const EVENTS: usize = 256;

/// Notices that a slow reader may be behind; then it reads the database again instead.
const NOTICES: usize = 1024;

/// How often leases are judged when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// How long a host gets no trial after it has refused one, or after storing a lease has failed.
const BACK_OFF: Duration = Duration::from_secs(5);

/// How long an outlook is good for: it takes a look at every trial of its run.
const OUTLOOK: Duration = Duration::from_secs(1);

/// An agent silent for this long may be replaced by another process of the same name.
const SILENCE: Duration = Duration::from_secs(25);

/// One connection of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

/// The way to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) outbound: mpsc::Sender<Result<pb::CoordinatorMessage, Status>>,
    /// Ends the session.
    pub(crate) stop: CancellationToken,
}

impl Link {
    /// Sends without waiting. An agent that does not read is cut off: it comes back, and asks again.
    fn send(&self, message: Message) {
        if self.outbound.try_send(Ok(wire::message(message))).is_err() {
            self.stop.cancel();
        }
    }
}

/// A submission whose scenario has been parsed.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RunId,
    pub(crate) bundle: ScenarioBundle,
    pub(crate) scenario: Scenario,
    pub(crate) allow_large: bool,
    pub(crate) priority: i32,
}

/// What is known of an agent besides what is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentView {
    /// Its session is open.
    pub(crate) connected: bool,
    /// Trials that it has.
    pub(crate) trials: Vec<TrialId>,
    /// Records in its spool that are not acknowledged.
    pub(crate) spool_records: u64,
    /// Nanoseconds that its clock is ahead of the one here.
    pub(crate) clock_ahead_ns: Option<i64>,
    /// Artifacts that are on its machine.
    pub(crate) cached: Vec<ArtifactRef>,
}

type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// Everything the actor reacts to.
#[derive(Debug)]
pub(crate) enum Event {
    /// An agent has said hello; `greeting` is the answer.
    Hello {
        hello: Box<Hello>,
        clock_ahead_ns: Option<i64>,
        link: Link,
        greeting: pb::CoordinatorHello,
        reply: Reply<SessionId>,
    },
    /// An agent lives.
    Heartbeat { session: SessionId, held: Vec<(TrialId, Epoch)>, spool_records: u64, clock_ahead_ns: Option<i64> },
    /// An agent did not take a trial.
    Rejected { session: SessionId, trial: TrialId, epoch: Epoch, reason: String, leaving: bool },
    /// Records of a lease were stored.
    Records { session: SessionId, trial: TrialId, epoch: Epoch, run: RunId },
    /// A replica is ready for a repetition.
    AtBarrier { session: SessionId, gate: Gate },
    /// A replica has begun a repetition, as was heard at that time.
    PassedBarrier { gate: Gate, at: Instant },
    /// Cells of a lease have failed, and are stored as failed.
    CellsFailed { trial: TrialId, epoch: Epoch, ended: Vec<EndedCell> },
    /// The end of a lease was stored, with what became of the trial.
    Finished { trial: TrialId, epoch: Epoch, run: RunId, state: Option<TrialState>, failure: Option<String> },
    /// What an agent is doing.
    Progress(pb::Progress),
    /// A session is over. Proves nothing about its trial.
    Closed { session: SessionId },
    /// A run to be.
    Submit { submission: Box<Submission>, reply: Reply<()> },
    /// A run that repeats what another one has left undone.
    Retry { run: Box<NewRun>, reply: Reply<()> },
    /// A person stops a run.
    Cancel { run: RunId, reply: Reply<()> },
    /// A person resumes a run.
    Resume { run: RunId, reply: Reply<u32> },
    /// What are the agents doing?
    Agents { reply: Reply<BTreeMap<AgentId, AgentView>> },
    /// How do these runs go on?
    Outlooks { runs: Vec<RunId>, reply: Reply<HashMap<RunId, Outlook>> },
    /// A person takes an agent out of service, or back into it.
    Service { agent: AgentId, service: Service, reason: String, reply: Reply<()> },
    /// A person removes an agent.
    Forget { agent: AgentId, reply: Reply<()> },
}

/// What those who watch get to know. Lossy: who falls behind reads the database.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// Something about the run has changed in the database.
    Changed(RunId),
    /// What an agent is doing.
    Progress(RunId, pb::Progress),
}

/// The way to the actor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    events: mpsc::Sender<Event>,
    pub(crate) notices: broadcast::Sender<Notice>,
}

impl Handle {
    /// Sends an event; waits for room.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Status> {
        self.events.send(event).await.map_err(|_| stopping())
    }

    /// Sends an event that may be lost.
    pub(crate) fn offer(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Sends an event and waits for its answer.
    pub(crate) async fn ask<T>(&self, event: impl FnOnce(Reply<T>) -> Event) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(event(reply)).await?;
        answer.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// The way to the actor and the events that come from it.
pub(crate) fn channel() -> (Handle, mpsc::Receiver<Event>) {
    let (events, received) = mpsc::channel(EVENTS);
    let (notices, _) = broadcast::channel(NOTICES);
    (Handle { events, notices }, received)
}

/// An open session.
struct Session {
    id: SessionId,
    link: Link,
    hello: Hello,
    heard_at: Duration,
    spool_records: u64,
    skew: Skew,
}

/// What is known of an open trial besides what the scheduler knows.
#[derive(Debug, Clone, Copy, Default)]
struct Tracked {
    /// A person has stopped its run.
    stopping: bool,
    /// The session that has it or has spoken of it since; `None` in the queue, and after a restart.
    session: Option<SessionId>,
    /// Its lease was given by this process, for all of its cells: what it takes is what such trials take.
    whole: bool,
    /// What it does: trials of the same work take about the same time.
    work: Option<Digest>,
}

/// Owns what changes in memory.
pub(crate) struct Actor {
    writer: Writer,
    reader: Reader,
    notices: broadcast::Sender<Notice>,
    lease: Duration,
    started: Instant,
    next_session: u64,
    sessions: BTreeMap<AgentId, Session>,
    agents: HashMap<SessionId, AgentId>,
    /// Agents that are out of service, and why.
    services: HashMap<AgentId, (Service, String)>,
    health: Health,
    snapshot: Snapshot,
    trials: HashMap<TrialId, Tracked>,
    /// Groups whose replicas come to barriers.
    groups: groups::Groups,
    /// How long work takes, as far as it was asked for.
    durations: HashMap<Digest, Duration>,
    /// What was learnt of that since the trials that wait were looked at.
    learnt: HashMap<Digest, Duration>,
    outlooks: HashMap<RunId, (Duration, Outlook)>,
    /// Something has happened that may give the scheduler work.
    changed: bool,
    /// Writes that nobody waits for, and how long work takes that one of them was about.
    background: JoinSet<Option<(Digest, Duration)>>,
}

impl Actor {
    /// The actor, with the trials that an earlier coordinator left open.
    pub(crate) async fn start(
        config: &Config,
        store: &Store,
        notices: broadcast::Sender<Notice>,
    ) -> Result<Self, StoreError> {
        let mut actor = Self {
            writer: store.writer().clone(),
            reader: store.reader().clone(),
            notices,
            lease: config.lease,
            started: Instant::now(),
            next_session: 0,
            sessions: BTreeMap::new(),
            agents: HashMap::new(),
            services: HashMap::new(),
            health: Health::new(config.quarantine_after),
            snapshot: Snapshot::default(),
            trials: HashMap::new(),
            groups: HashMap::new(),
            durations: HashMap::new(),
            learnt: HashMap::new(),
            outlooks: HashMap::new(),
            changed: true,
            background: JoinSet::new(),
        };
        for agent in actor.reader.agents().await? {
            if agent.service != Service::Ready {
                actor.services.insert(agent.id, (agent.service, agent.service_reason));
            }
        }
        let open = actor.reader.open_trials().await?;
        actor.track_all(open).await?;
        Ok(actor)
    }

    /// Reacts to events until `stop`, then says good-bye to the agents.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    self.learn();
                    self.changed = true;
                }
            }
            // A heartbeat that waits here was in time: leases are judged when everything is heard.
            while let Ok(event) = events.try_recv() {
                self.handle(event).await;
            }
            if std::mem::take(&mut self.changed) {
                self.tick().await;
            }
            while let Some(done) = self.background.try_join_next() {
                self.learnt.extend(done.ok().flatten());
            }
        }
        for session in self.sessions.values() {
            session.link.send(Message::GoingAway(pb::GoingAway { reason: "the coordinator is stopping".to_owned() }));
        }
        while self.background.join_next().await.is_some() {}
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn handle(&mut self, event: Event) {
        // What says that all goes on as it did gives the scheduler nothing to do.
        self.changed |= !matches!(
            event,
            Event::Heartbeat { .. }
                | Event::Records { .. }
                | Event::AtBarrier { .. }
                | Event::PassedBarrier { .. }
                | Event::CellsFailed { .. }
                | Event::Progress(_)
                | Event::Agents { .. }
                | Event::Outlooks { .. }
        );
        match event {
            Event::Hello { hello, clock_ahead_ns, link, greeting, reply } => {
                let opened = self.open_session(*hello, link, greeting).await;
                if let Ok(session) = opened {
                    self.clock_heard(session, clock_ahead_ns);
                }
                let _ = reply.send(opened);
            }
            Event::Heartbeat { session, held, spool_records, clock_ahead_ns } => {
                self.clock_heard(session, clock_ahead_ns);
                self.heartbeat(session, &held, spool_records).await;
            }
            Event::Rejected { session, trial, epoch, reason, leaving } => {
                let reason = if leaving { ReleaseReason::Leaving } else { ReleaseReason::Rejected(reason) };
                self.rejected(session, trial, epoch, reason).await;
            }
            Event::Records { session, trial, epoch, run } => {
                self.heard(session);
                self.renew(session, &trial, epoch);
                self.notify(run);
            }
            Event::AtBarrier { session, gate } => self.at_barrier(session, gate).await,
            Event::PassedBarrier { gate, at } => {
                self.passed_barrier(gate, at.saturating_duration_since(self.started)).await;
            }
            Event::CellsFailed { trial, epoch, ended } => self.cells_failed(&trial, epoch, &ended).await,
            Event::Finished { trial, epoch, run, state, failure } => {
                self.finished(&trial, epoch, run, state, failure).await;
            }
            Event::Progress(progress) => self.progress(progress),
            Event::Closed { session } => self.close_session(session),
            Event::Submit { submission, reply } => {
                let _ = reply.send(self.submit(*submission).await);
            }
            Event::Retry { run, reply } => {
                let _ = reply.send(self.store_run(*run).await);
            }
            Event::Cancel { run, reply } => {
                let _ = reply.send(self.cancel(run).await);
            }
            Event::Resume { run, reply } => {
                let _ = reply.send(self.resume(run).await);
            }
            Event::Agents { reply } => {
                let _ = reply.send(Ok(self.agent_views()));
            }
            Event::Outlooks { runs, reply } => {
                let outlooks = runs.into_iter().map(|run| (run.clone(), self.outlook(&run))).collect();
                let _ = reply.send(Ok(outlooks));
            }
            Event::Service { agent, service, reason, reply } => {
                let _ = reply.send(self.set_service(agent, service, reason).await);
            }
            Event::Forget { agent, reply } => {
                let _ = reply.send(self.forget(agent).await);
            }
        }
    }

    fn notify(&self, run: RunId) {
        // Nobody may be watching.
        let _ = self.notices.send(Notice::Changed(run));
    }

    /// Does what there is to do, until nothing is left.
    async fn tick(&mut self) {
        loop {
            let actions = scheduler::decide(&self.snapshot, self.now());
            if actions.is_empty() {
                break;
            }
            let mut assigned = Vec::new();
            for action in actions {
                match action {
                    Action::Assign { seats } => assigned.push(seats),
                    Action::Expire { trial, epoch } => self.release(&trial, epoch, ReleaseReason::Lost).await,
                }
            }
            self.assign(assigned).await;
        }
    }

    /// How a run goes on; not looked up more often than people read.
    fn outlook(&mut self, run: &RunId) -> Outlook {
        let now = self.now();
        if let Some((_, known)) = self.outlooks.get(run).filter(|(at, _)| now < *at + OUTLOOK) {
            return known.clone();
        }
        let outlook = scheduler::outlook(&self.snapshot, run, now);
        self.outlooks.retain(|_, (at, _)| now < *at + OUTLOOK);
        self.outlooks.insert(run.clone(), (now, outlook.clone()));
        outlook
    }

    /// Follows trials of the database.
    async fn track_all(&mut self, trials: Vec<TrialRecord>) -> Result<(), StoreError> {
        let works: BTreeSet<_> = trials.iter().filter_map(|trial| trial.work).collect();
        if !works.is_empty() {
            let durations = self.reader.durations(&works).await?;
            self.durations.extend(durations);
        }
        for trial in trials {
            self.track(trial);
        }
        Ok(())
    }

    /// Follows a trial of the database. A lease that is known keeps its time, another one gets a fresh one.
    fn track(&mut self, trial: TrialRecord) {
        if trial.state.is_final() {
            return self.untrack(&trial.id);
        }
        let now = self.now();
        let known = self.snapshot.trial(&trial.id).map(|view| view.hold.clone());
        let known = known.filter(|hold| matches!(hold, Hold::Held { epoch, .. } if *epoch == trial.epoch));
        let place = Place { agent: trial.agent, device: trial.device };
        let hold = match known {
            _ if !trial.state.is_held() => Hold::Queued,
            Some(known) => known,
            None => {
                let expires_at = Some(now + self.lease).filter(|_| !trial.delivered);
                Hold::Held { place: place.clone(), epoch: trial.epoch, since: now, expires_at }
            }
        };
        let tracked = self.trials.entry(trial.id.clone()).or_default();
        (tracked.stopping, tracked.work) = (trial.cancel_requested, trial.work);
        if hold == Hold::Queued {
            (tracked.session, tracked.whole) = (None, false);
        }
        self.snapshot.insert(TrialView {
            id: trial.id,
            run: trial.run,
            ordinal: trial.ordinal,
            priority: trial.priority,
            exclusive: trial.exclusive,
            places: trial.pool.unwrap_or_else(|| [place].into()),
            artifact: trial.artifact,
            group: trial.group,
            avoid: trial.failed_on,
            expected: trial.work.and_then(|work| self.durations.get(&work).copied()),
            hold,
        });
    }

    fn untrack(&mut self, trial: &TrialId) {
        self.trials.remove(trial);
        self.snapshot.remove(trial);
    }

    /// Reads a run's trials again after a change of the whole run.
    async fn reload(&mut self, run: &RunId) -> Result<(), StoreError> {
        let trials = self.reader.trials(run).await?;
        self.track_all(trials).await
    }

    /// Reads some trials again after a change of them.
    async fn reread(&mut self, trials: &[TrialId]) -> Result<(), StoreError> {
        for trial in trials {
            match self.reader.trial(trial).await? {
                Some(record) => self.track(record),
                None => self.untrack(trial),
            }
        }
        Ok(())
    }
}

/// Sessions.
impl Actor {
    async fn open_session(
        &mut self,
        hello: Hello,
        link: Link,
        greeting: pb::CoordinatorHello,
    ) -> Result<SessionId, Status> {
        let agent = hello.agent.id.clone();
        if let Some(open) = self.sessions.get(&agent) {
            let same_process = open.hello.agent.boot_id == hello.agent.boot_id;
            if !same_process && self.now() < open.heard_at + SILENCE {
                warn!(%agent, "refused a second process of the same name");
                return Err(Status::already_exists(format!(
                    "agent '{agent}' is connected from another process: stop that one, or choose another --name"
                )));
            }
            open.link.stop.cancel();
            let replaced = open.id;
            self.agents.remove(&replaced);
            self.barriers_without(replaced);
        }
        self.writer.write(hello.agent.clone()).await.map_err(|error| wire::status(&error))?;
        self.next_session += 1;
        let id = SessionId(self.next_session);
        info!(%agent, devices = hello.agent.devices.len(), "agent connected");
        // First of all, so that no trial overtakes it.
        link.send(Message::Hello(greeting));
        let now = self.now();
        let host = Host {
            agent: agent.clone(),
            free_from: now,
            alive_until: now + self.lease,
            out_of_service: self.services.get(&agent).map(out_of_service),
        };
        self.snapshot.insert_host(host, &hello.cached);
        self.agents.insert(id, agent.clone());
        self.sessions
            .insert(agent, Session { id, link, hello, heard_at: now, spool_records: 0, skew: Skew::default() });
        Ok(id)
    }

    /// An agent has said what time it is by its clock.
    fn clock_heard(&mut self, session: SessionId, ahead_ns: Option<i64>) {
        let Some(open) = self.session(session) else { return };
        let Some(ahead_ns) = open.skew.heard(ahead_ns) else { return };
        let agent = open.hello.agent.id.clone();
        warn!(%agent, ahead_s = ahead_ns as f64 / 1e9, "the agent's clock differs from the one here, or has been set");
        let writer = self.writer.clone();
        self.background.spawn(async move {
            if let Err(error) = writer.write(ClockSkew { agent, ahead_ns }).await {
                warn!(%error, "failed to store what an agent's clock says");
            }
            None
        });
    }

    fn close_session(&mut self, session: SessionId) {
        self.barriers_without(session);
        if let Some(agent) = self.agents.remove(&session) {
            self.sessions.remove(&agent);
            self.snapshot.remove_host(&agent);
            info!(%agent, "agent disconnected");
            let writer = self.writer.clone();
            self.background.spawn(async move {
                match writer.write(AgentLeft(agent)).await {
                    // The coordinator stops: so does everybody's session.
                    Ok(()) | Err(StoreError::Closed) => {}
                    Err(error) => warn!(%error, "failed to store when an agent was last seen"),
                }
                None
            });
        }
    }

    /// The open session of that id. One that has been replaced has no say any more.
    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(self.agents.get(&id)?)
    }

    fn heard(&mut self, id: SessionId) {
        let now = self.now();
        let Some(session) = self.session(id) else { return };
        session.heard_at = now;
        let agent = session.hello.agent.id.clone();
        if let Some(host) = self.snapshot.host_mut(&agent) {
            host.alive_until = now + self.lease;
        }
    }

    fn renew(&mut self, session: SessionId, trial: &TrialId, epoch: Epoch) {
        let until = self.now() + self.lease;
        let Some(agent) = self.agents.get(&session) else { return };
        let (Some(tracked), Some(view)) = (self.trials.get_mut(trial), self.snapshot.trial(trial)) else { return };
        if matches!(&view.hold, Hold::Held { place, epoch: held, .. } if *held == epoch && place.agent == *agent) {
            tracked.session = Some(session);
            self.snapshot.renew(trial, epoch, until);
        }
    }

    async fn heartbeat(&mut self, session: SessionId, held: &[(TrialId, Epoch)], spool_records: u64) {
        self.heard(session);
        for (trial, epoch) in held {
            self.renew(session, trial, *epoch);
        }
        let Some(open) = self.session(session) else { return };
        open.spool_records = spool_records;
        let (agent, link) = (open.hello.agent.id.clone(), open.link.clone());
        let spool = open.hello.spool.clone();
        for (trial, epoch) in held.iter().filter(|(trial, epoch)| !self.may_go_on(trial, *epoch)) {
            link.send(Message::Cancel(pb::CancelTrial { trial_id: trial.to_string(), epoch: epoch.0 }));
        }
        if spool_records > 0 {
            return;
        }
        for (trial, epoch) in self.forgotten(&agent, session, held, &spool) {
            warn!(%agent, %trial, epoch = epoch.0, "agent does not hold its trial any more");
            self.release(&trial, epoch, ReleaseReason::Lost).await;
        }
    }

    /// Whether an agent may go on with a trial: its lease is the current one, and nobody has stopped the run.
    fn may_go_on(&self, trial: &TrialId, epoch: Epoch) -> bool {
        self.trials.get(trial).is_some_and(|tracked| !tracked.stopping) && self.is_held(trial, epoch)
    }

    /// Whether that is the trial's lease.
    fn is_held(&self, trial: &TrialId, epoch: Epoch) -> bool {
        let hold = self.snapshot.trial(trial).map(|view| &view.hold);
        matches!(hold, Some(Hold::Held { epoch: held, .. }) if *held == epoch)
    }

    /// Leases of an earlier session of the agent that this one knows nothing of: neither does it hold them, nor has
    /// its spool anything of them. There is nothing to wait for.
    fn forgotten(
        &self,
        agent: &AgentId,
        session: SessionId,
        held: &[(TrialId, Epoch)],
        spool: &[(TrialId, Epoch)],
    ) -> Vec<(TrialId, Epoch)> {
        let leases = self.snapshot.held_by(agent).filter_map(|view| match view.hold {
            Hold::Held { epoch, expires_at: Some(_), .. } => Some((view.id.clone(), epoch)),
            _ => None,
        });
        let of_this_session =
            |trial: &TrialId| self.trials.get(trial).is_some_and(|tracked| tracked.session == Some(session));
        let leases = leases.filter(|(trial, _)| !of_this_session(trial));
        leases.filter(|lease| !held.contains(lease) && !spool.contains(lease)).collect()
    }

    async fn rejected(&mut self, session: SessionId, trial: TrialId, epoch: Epoch, reason: ReleaseReason) {
        let free_from = self.now() + BACK_OFF;
        let Some(agent) = self.agents.get(&session).cloned() else { return };
        warn!(%agent, %trial, %reason, "agent did not take a trial");
        if let Some(host) = self.snapshot.host_mut(&agent) {
            host.free_from = free_from;
            if reason == ReleaseReason::Leaving {
                // Until it comes back as another process, with another session.
                host.out_of_service = Some("leaving".to_owned());
            }
        }
        self.release(&trial, epoch, reason).await;
    }
}

/// A trial that is to be leased, and the way to its agent.
struct Prepared {
    seat: Seat,
    session: SessionId,
    permit: mpsc::OwnedPermit<Result<pb::CoordinatorMessage, Status>>,
}

/// Leases.
impl Actor {
    /// Leases trials, each list as a whole. Many leases share a commit.
    async fn assign(&mut self, assigned: Vec<Vec<(TrialId, Place)>>) {
        let mut writes = Vec::with_capacity(assigned.len());
        for seats in assigned {
            let prepared: Option<Vec<_>> = seats.into_iter().map(|(trial, place)| self.prepare(trial, place)).collect();
            let Some(prepared) = prepared else { continue };
            let (writer, seats) = (self.writer.clone(), prepared.iter().map(|one| one.seat.clone()).collect());
            writes.push((prepared, tokio::spawn(async move { writer.write(Lease(seats)).await })));
        }
        for (prepared, write) in writes {
            let leased = write.await.unwrap_or(Err(StoreError::Closed));
            self.leased(prepared, leased).await;
        }
    }

    /// `None` if there is no way to the agent. Until the lease is stored, the agent gets nothing else.
    fn prepare(&mut self, trial: TrialId, place: Place) -> Option<Prepared> {
        let back_at = self.now() + BACK_OFF;
        self.free(&place.agent, back_at);
        let session = self.sessions.get(&place.agent)?;
        let Ok(permit) = session.link.outbound.clone().try_reserve_owned() else {
            session.link.stop.cancel();
            return None;
        };
        let (session, boot_id) = (session.id, session.hello.agent.boot_id.clone());
        Some(Prepared { seat: Seat { trial, place, boot_id }, session, permit })
    }

    async fn leased(&mut self, prepared: Vec<Prepared>, leased: Result<Leased, StoreError>) {
        let now = self.now();
        match leased {
            Ok(Leased::Granted(granted)) => {
                for (prepared, granted) in prepared.into_iter().zip(granted) {
                    self.free(&prepared.seat.place.agent, now);
                    self.granted(prepared, granted);
                }
            }
            Ok(Leased::NotQueued) => {
                let trials: Vec<_> = prepared.iter().map(|one| one.seat.trial.clone()).collect();
                for one in &prepared {
                    self.free(&one.seat.place.agent, now);
                }
                if let Err(error) = self.reread(&trials).await {
                    warn!(trial = %trials[0], %error, "failed to read a trial again");
                }
            }
            Err(error) => warn!(trial = %prepared[0].seat.trial, %error, "failed to store a lease, trying again"),
        }
    }

    fn granted(&mut self, prepared: Prepared, granted: Granted) {
        let Prepared { seat: Seat { trial: id, place, .. }, session, permit } = prepared;
        let Granted { epoch, trial, whole } = granted;
        info!(agent = %place.agent, trial = %id, epoch = epoch.0, cells = trial.cells.len(), "trial leased");
        permit.send(Ok(wire::message(assignment(&trial, epoch, self.lease))));
        let now = self.now();
        let hold = Hold::Held { place, epoch, since: now, expires_at: Some(now + self.lease) };
        self.snapshot.set_hold(&id, hold);
        if let Some(tracked) = self.trials.get_mut(&id) {
            (tracked.session, tracked.whole) = (Some(session), whole);
        }
        self.notify(trial.run);
    }

    fn free(&mut self, agent: &AgentId, from: Duration) {
        if let Some(host) = self.snapshot.host_mut(agent) {
            host.free_from = from;
        }
    }

    async fn release(&mut self, trial: &TrialId, epoch: Epoch, reason: ReleaseReason) {
        let Some(run) = self.snapshot.trial(trial).map(|view| view.run.clone()) else { return };
        if let Err(error) = self.try_release(trial, epoch, reason).await {
            warn!(%trial, epoch = epoch.0, %error, "failed to take a lease back, trying again");
            let again_at = self.now() + BACK_OFF;
            self.snapshot.renew(trial, epoch, again_at);
        }
        self.changed = true;
        self.notify(run);
    }

    async fn try_release(&mut self, trial: &TrialId, epoch: Epoch, reason: ReleaseReason) -> Result<(), StoreError> {
        let members = self.snapshot.together(trial);
        // Where nobody is to blame, no agent is.
        let blame = !matches!(reason, ReleaseReason::Apart(_));
        let agent = self.holder(trial, epoch).filter(|_| blame);
        let (why, leaving) = (reason.to_string(), reason == ReleaseReason::Leaving);
        let released = self.writer.write(Release { trial: trial.clone(), epoch, reason }).await?;
        info!(%trial, epoch = epoch.0, ?released, "lease taken back");
        self.forget_group(trial);
        // A group's other trials have lost their leases too: their agents need not wait to be told.
        for member in members.iter().filter(|member| *member != trial) {
            self.tell_to_stop(member);
        }
        // Also where it was over before: its end is stored, and on its way here as another event.
        self.reread(&members).await?;
        let over = matches!(released, Released::Requeued | Released::Ended(TrialState::Failed | TrialState::Done));
        if let Some(agent) = agent.filter(|_| over && !leaving) {
            self.failed(&agent, trial, &why).await;
        }
        Ok(())
    }

    /// The agent that has the lease.
    fn holder(&self, trial: &TrialId, lease: Epoch) -> Option<AgentId> {
        match &self.snapshot.trial(trial)?.hold {
            Hold::Held { place, epoch, .. } if *epoch == lease => Some(place.agent.clone()),
            _ => None,
        }
    }

    /// Tells the agent that is at the trial to stop it.
    fn tell_to_stop(&self, trial: &TrialId) {
        let hold = self.snapshot.trial(trial).map(|view| &view.hold);
        let Some(Hold::Held { place, epoch, expires_at: Some(_), .. }) = hold else { return };
        if let Some(session) = self.sessions.get(&place.agent) {
            let message = pb::CancelTrial { trial_id: trial.to_string(), epoch: epoch.0 };
            session.link.send(Message::Cancel(message));
        }
    }

    async fn finished(
        &mut self,
        trial: &TrialId,
        epoch: Epoch,
        run: RunId,
        state: Option<TrialState>,
        failure: Option<String>,
    ) {
        info!(%trial, epoch = epoch.0, ?state, "records complete");
        let (agent, members) = (self.holder(trial, epoch), self.snapshot.together(trial));
        if state == Some(TrialState::Done) {
            self.took(trial, epoch);
        }
        match state {
            Some(TrialState::Cancelled) => self.untrack(trial),
            Some(state) if state.is_final() => members.iter().for_each(|member| self.untrack(member)),
            Some(TrialState::Queued) => {
                if let Err(error) = self.reread(&members).await {
                    warn!(%trial, %error, "failed to read a trial again");
                }
            }
            Some(_) => {
                self.replica_ended(trial, epoch).await;
                self.delivered(trial, failure.is_some(), &members);
            }
            None => {}
        }
        match (agent, failure) {
            (Some(agent), Some(failure)) => self.failed(&agent, trial, &failure).await,
            (Some(agent), None) if state.is_some() => self.health.succeeded(&agent),
            _ => {}
        }
        self.notify(run);
    }

    /// A trial whose agent has said all there is to say waits for the others of its group. Where it has failed, they have
    /// nobody to wait for at their barriers.
    fn delivered(&mut self, trial: &TrialId, failed: bool, members: &[TrialId]) {
        if let Some(Hold::Held { place, epoch, since, .. }) = self.snapshot.trial(trial).map(|view| view.hold.clone()) {
            self.snapshot.set_hold(trial, Hold::Held { place, epoch, since, expires_at: None });
        }
        if failed {
            members.iter().filter(|member| *member != trial).for_each(|member| self.tell_to_stop(member));
        }
    }

    /// Notes how long a trial took, where that says something of others.
    fn took(&mut self, trial: &TrialId, lease: Epoch) {
        let whole = self.trials.get(trial).is_some_and(|tracked| tracked.whole);
        if let Some(Hold::Held { epoch, since, .. }) = self.snapshot.trial(trial).map(|view| &view.hold)
            && whole
            && *epoch == lease
        {
            let took = Took { trial: trial.clone(), epoch: lease, took: self.now().saturating_sub(*since) };
            let (writer, reader) = (self.writer.clone(), self.reader.clone());
            let work = self.trials.get(trial).and_then(|tracked| tracked.work);
            self.background.spawn(async move {
                let learnt = async {
                    writer.write(took).await?;
                    reader.durations(&work.into_iter().collect()).await
                };
                match learnt.await {
                    Ok(learnt) => learnt.into_iter().next(),
                    Err(error) => {
                        warn!(%error, "failed to store how long a trial took");
                        None
                    }
                }
            });
        }
    }

    /// Lets trials that wait for an agent know how long such trials have taken meanwhile. That is a look at each of them,
    /// so it is done for all that was learnt since the last tick, and only where it is news.
    fn learn(&mut self) {
        let mut learnt = std::mem::take(&mut self.learnt);
        learnt.retain(|work, takes| self.durations.get(work).is_none_or(|known| takes.abs_diff(*known) > *known / 20));
        if learnt.is_empty() {
            return;
        }
        for (trial, tracked) in &self.trials {
            if let Some(takes) = tracked.work.and_then(|work| learnt.get(&work)) {
                self.snapshot.set_expected(trial, *takes);
            }
        }
        self.durations.extend(learnt);
        self.outlooks.clear();
    }

    fn progress(&self, progress: pb::Progress) {
        let trial = progress.trial_id.parse::<TrialId>().ok();
        let view = trial.and_then(|id| self.snapshot.trial(&id));
        if let Some(view) = view.filter(|view| self.is_held(&view.id, Epoch(progress.epoch))) {
            let _ = self.notices.send(Notice::Progress(view.run.clone(), progress));
        }
    }
}

fn assignment(trial: &Trial, epoch: Epoch, lease: Duration) -> Message {
    Message::Assign(pb::AssignTrial {
        trial: Some(trial.into()),
        epoch: epoch.0,
        lease_ns: u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX),
    })
}

/// Runs.
impl Actor {
    async fn submit(&mut self, submission: Submission) -> Result<(), Status> {
        let Submission { id, bundle, scenario, allow_large, priority } = submission;
        let devices = self.devices(&scenario.fleet)?;
        let plain: Vec<_> = devices.iter().map(|of_run| of_run.device.clone()).collect();
        matrix::check_devices(&scenario, &plain).map_err(|errors| {
            let text = wire::cut(&errors.to_string());
            let nothing_there = errors.0.contains(&MatrixError::NoDevices);
            if nothing_there { Status::failed_precondition(text) } else { Status::invalid_argument(text) }
        })?;
        let most = if allow_large { matrix::MAX_CELLS_LARGE } else { matrix::MAX_CELLS };
        matrix::check_size(&scenario, &plain, most).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let matrix = matrix::expand(&scenario, &plain);
        let (name, policy) = (scenario.name, scenario.policy);
        self.store_run(NewRun { id, name, bundle, policy, matrix, devices, priority, retry_of: None }).await
    }

    async fn store_run(&mut self, run: NewRun) -> Result<(), Status> {
        let (id, cells, trials) = (run.id.clone(), run.matrix.cells.len(), run.matrix.trials.len());
        match self.writer.write(run).await.map_err(|error| wire::status(&error))? {
            Submitted::Stored => info!(run = %id, cells, trials, "run submitted"),
            Submitted::AlreadyStored => {}
            Submitted::OtherScenario => {
                return Err(Status::already_exists(format!(
                    "run '{id}' is a run of another scenario: choose another id"
                )));
            }
        }
        self.reload(&id).await.map_err(|error| wire::status(&error))?;
        self.notify(id);
        Ok(())
    }

    /// The devices of the connected agents that are in service and have the labels, by agent.
    fn devices(&self, fleet: &Fleet) -> Result<Vec<RunDevice>, Status> {
        let in_service = || self.sessions.values().filter(|open| !self.services.contains_key(&open.hello.agent.id));
        if in_service().next().is_none() && !self.sessions.is_empty() {
            return Err(Status::failed_precondition(
                "every connected agent is out of service: see regatta agents, and put one back with regatta resume AGENT",
            ));
        }
        let admitted = || in_service().filter(|open| fleet.admits(&open.hello.agent.labels));
        if admitted().next().is_none() && !self.sessions.is_empty() {
            let error = MatrixError::NoLabels { labels: fleet.labels.clone() };
            return Err(Status::failed_precondition(error.to_string()));
        }
        let of_agent = |session: &Session| {
            let agent = session.hello.agent.clone();
            agent.devices.into_iter().map(move |device| RunDevice {
                device,
                agent_version: agent.version.clone(),
                host: agent.host.clone(),
            })
        };
        Ok(admitted().flat_map(of_agent).collect())
    }

    async fn cancel(&mut self, run: RunId) -> Result<(), Status> {
        let cancelled = self.writer.write(CancelRun(run.clone())).await.map_err(|error| wire::status(&error))?;
        let held = match cancelled {
            Cancelled::NotFound => return Err(no_run(&run)),
            // Stopping what has been stopped changes nothing.
            Cancelled::Ended(regatta_core::run::RunState::Cancelled) => return Ok(()),
            Cancelled::Ended(state) => return Err(has_ended(&run, state)),
            Cancelled::Stopping(held) => held,
        };
        info!(%run, held = held.len(), "run cancelled");
        self.reload(&run).await.map_err(|error| wire::status(&error))?;
        for held in held {
            let message = pb::CancelTrial { trial_id: held.trial.to_string(), epoch: held.epoch.0 };
            if let Some(session) = self.sessions.get(&held.agent) {
                session.link.send(Message::Cancel(message));
            }
        }
        self.notify(run);
        Ok(())
    }

    async fn resume(&mut self, run: RunId) -> Result<u32, Status> {
        let live = self.snapshot.trials_of(&run).filter(|view| self.is_live(view)).map(|view| view.id.clone());
        let live = live.collect();
        let resume = ResumeRun { run: run.clone(), live };
        let queued = match self.writer.write(resume).await.map_err(|error| wire::status(&error))? {
            Resumed::NotFound => return Err(no_run(&run)),
            Resumed::Ended(state) => return Err(has_ended(&run, state)),
            Resumed::Stopping => {
                return Err(Status::failed_precondition(format!("run '{run}' has been cancelled: submit it again")));
            }
            Resumed::Queued(queued) => queued,
        };
        info!(%run, trials = queued.len(), "run resumed");
        self.reload(&run).await.map_err(|error| wire::status(&error))?;
        self.notify(run);
        Ok(u32::try_from(queued.len()).unwrap_or(u32::MAX))
    }

    /// Whether an agent whose session is open has the trial, or has done its part of it.
    fn is_live(&self, view: &TrialView) -> bool {
        let Hold::Held { place, expires_at, .. } = &view.hold else { return false };
        let session = self.sessions.get(&place.agent).map(|session| session.id);
        let spoken = self.trials.get(&view.id).and_then(|tracked| tracked.session);
        expires_at.is_none() || (session.is_some() && spoken == session)
    }
}

/// Agents.
impl Actor {
    fn agent_views(&self) -> BTreeMap<AgentId, AgentView> {
        let mut views: BTreeMap<AgentId, AgentView> = BTreeMap::new();
        for (agent, session) in &self.sessions {
            let view = AgentView {
                connected: true,
                spool_records: session.spool_records,
                clock_ahead_ns: session.skew.ahead_ns,
                cached: self.snapshot.cached(agent),
                ..AgentView::default()
            };
            views.insert(agent.clone(), view);
        }
        for trial in self.snapshot.held() {
            if let Hold::Held { place, .. } = &trial.hold {
                views.entry(place.agent.clone()).or_default().trials.push(trial.id.clone());
            }
        }
        views
    }

    /// The infrastructure has failed a trial on an agent. One that fails again and again is taken out of service.
    async fn failed(&mut self, agent: &AgentId, trial: &TrialId, why: &str) {
        let Some(reason) = self.health.failed(agent, trial, why) else { return };
        if self.services.contains_key(agent) {
            return;
        }
        warn!(%agent, reason, "agent quarantined");
        if let Err(status) = self.set_service(agent.clone(), Service::Quarantined, reason).await {
            warn!(%agent, %status, "failed to quarantine an agent");
        }
    }

    async fn set_service(&mut self, agent: AgentId, service: Service, reason: String) -> Result<(), Status> {
        let change = SetService { agent: agent.clone(), service, reason: reason.clone() };
        if !self.writer.write(change).await.map_err(|error| wire::status(&error))? {
            return Err(no_agent(&agent));
        }
        info!(%agent, service = service.as_str(), reason, "agent's service changed");
        if service == Service::Ready {
            self.health.succeeded(&agent);
            self.services.remove(&agent);
        } else {
            self.services.insert(agent.clone(), (service, reason));
        }
        let out_of_service = self.services.get(&agent).map(out_of_service);
        if let Some(host) = self.snapshot.host_mut(&agent) {
            host.out_of_service = out_of_service;
        }
        self.outlooks.clear();
        self.changed = true;
        Ok(())
    }

    async fn forget(&mut self, agent: AgentId) -> Result<(), Status> {
        if self.sessions.contains_key(&agent) {
            return Err(Status::failed_precondition(format!("agent '{agent}' is connected: stop it first")));
        }
        if let Some(trial) = self.snapshot.held_by(&agent).next() {
            let id = &trial.id;
            return Err(Status::failed_precondition(format!(
                "agent '{agent}' has trial {id}: wait for its lease to end"
            )));
        }
        if !self.writer.write(ForgetAgent(agent.clone())).await.map_err(|error| wire::status(&error))? {
            return Err(no_agent(&agent));
        }
        info!(%agent, "agent forgotten");
        self.services.remove(&agent);
        self.health.succeeded(&agent);
        Ok(())
    }
}

/// Why an agent gets no trials, for people.
fn out_of_service((service, reason): &(Service, String)) -> String {
    let service = service.as_str();
    if reason.is_empty() { service.to_owned() } else { format!("{service}: {reason}") }
}

fn no_agent(agent: &AgentId) -> Status {
    Status::not_found(format!("there is no agent '{agent}'; see regatta agents"))
}

fn no_run(run: &RunId) -> Status {
    Status::not_found(format!("there is no run '{run}'"))
}

fn has_ended(run: &RunId, state: regatta_core::run::RunState) -> Status {
    Status::failed_precondition(format!("run '{run}' has ended: {}", state.as_str()))
}
