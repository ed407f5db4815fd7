//! The actor: owns the open sessions and the open trials, and is the only one that gives and takes leases.
//!
//! Leases are judged on the coordinator's monotonic clock. After a restart every lease gets its full length again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use regatta_core::id::{AgentId, RunId, TrialId};
use regatta_core::matrix::{self, MatrixError};
use regatta_core::scenario::{Scenario, ScenarioBundle};
use regatta_core::trial::{Epoch, Trial, TrialState};
use regatta_proto::pb;
use regatta_proto::pb::coordinator_message::Message;
use regatta_store::{
    CancelRun, Cancelled, Lease, Leased, NewRun, Reader, Release, ReleaseReason, ResumeRun, Resumed, RunDevice, Store,
    StoreError, Submitted, Writer,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

use crate::scheduler::{self, Action, Hold, Host, Snapshot, TrialView};
use crate::server::Config;
use crate::wire::{self, Hello};

/// Events that may wait for the actor.
const EVENTS: usize = 256;

/// Notices that a slow reader may be behind; then it reads the database again instead.
const NOTICES: usize = 1024;

/// How often leases are judged when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// How long a host gets no trial after it has refused one, or after storing a lease has failed.
const BACK_OFF: Duration = Duration::from_secs(5);

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
}

type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// Everything the actor reacts to.
#[derive(Debug)]
pub(crate) enum Event {
    /// An agent has said hello; `greeting` is the answer.
    Hello { hello: Box<Hello>, link: Link, greeting: pb::CoordinatorHello, reply: Reply<SessionId> },
    /// An agent lives.
    Heartbeat { session: SessionId, held: Vec<(TrialId, Epoch)>, spool_records: u64 },
    /// An agent did not take a trial.
    Rejected { session: SessionId, trial: TrialId, epoch: Epoch, reason: String },
    /// Records of a lease were stored.
    Records { session: SessionId, trial: TrialId, epoch: Epoch, run: RunId },
    /// The end of a lease was stored, with what became of the trial.
    Finished { trial: TrialId, epoch: Epoch, run: RunId, state: Option<TrialState> },
    /// What an agent is doing.
    Progress(pb::Progress),
    /// A session is over. Proves nothing about its trial.
    Closed { session: SessionId },
    /// A run to be.
    Submit { submission: Box<Submission>, reply: Reply<()> },
    /// A person stops a run.
    Cancel { run: RunId, reply: Reply<()> },
    /// A person resumes a run.
    Resume { run: RunId, reply: Reply<u32> },
    /// Whose session is open?
    Connected { reply: oneshot::Sender<BTreeSet<AgentId>> },
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

    /// The agents whose session is open.
    pub(crate) async fn connected(&self) -> Result<BTreeSet<AgentId>, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Connected { reply }).await?;
        answer.await.map_err(|_| stopping())
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
    free_from: Duration,
}

/// A trial that has not ended.
struct Tracked {
    run: RunId,
    ordinal: u32,
    agent: AgentId,
    /// A person has stopped its run.
    stopping: bool,
    lease: Option<Held>,
}

/// A lease.
#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: Epoch,
    expires_at: Duration,
    /// The session that got it or has spoken of it since; `None` after a restart.
    session: Option<SessionId>,
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
    trials: HashMap<TrialId, Tracked>,
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
            trials: HashMap::new(),
        };
        for trial in actor.reader.open_trials().await? {
            actor.track(trial);
        }
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
                _ = ticks.tick() => {}
            }
            // A heartbeat that waits here was in time: leases are judged when everything is heard.
            while let Ok(event) = events.try_recv() {
                self.handle(event).await;
            }
            self.tick().await;
        }
        for session in self.sessions.values() {
            session.link.send(Message::GoingAway(pb::GoingAway { reason: "the coordinator is stopping".to_owned() }));
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Hello { hello, link, greeting, reply } => {
                let _ = reply.send(self.open_session(*hello, link, greeting).await);
            }
            Event::Heartbeat { session, held, spool_records } => self.heartbeat(session, &held, spool_records).await,
            Event::Rejected { session, trial, epoch, reason } => self.rejected(session, trial, epoch, reason).await,
            Event::Records { session, trial, epoch, run } => {
                self.heard(session);
                self.renew(session, &trial, epoch);
                self.notify(run);
            }
            Event::Finished { trial, epoch, run, state } => self.finished(&trial, epoch, run, state),
            Event::Progress(progress) => self.progress(progress),
            Event::Closed { session } => self.close_session(session),
            Event::Submit { submission, reply } => {
                let _ = reply.send(self.submit(*submission).await);
            }
            Event::Cancel { run, reply } => {
                let _ = reply.send(self.cancel(run).await);
            }
            Event::Resume { run, reply } => {
                let _ = reply.send(self.resume(run).await);
            }
            Event::Connected { reply } => {
                let _ = reply.send(self.sessions.keys().cloned().collect());
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
            let actions = scheduler::decide(&self.snapshot(), self.now());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Assign { trial } => self.assign(&trial).await,
                    Action::Expire { trial, epoch } => self.release(&trial, epoch, ReleaseReason::Lost).await,
                }
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let host = |(agent, session): (&AgentId, &Session)| Host {
            agent: agent.clone(),
            free_from: session.free_from,
            alive_until: session.heard_at + self.lease,
        };
        let trial = |(id, tracked): (&TrialId, &Tracked)| TrialView {
            id: id.clone(),
            run: tracked.run.clone(),
            ordinal: tracked.ordinal,
            agent: tracked.agent.clone(),
            hold: match tracked.lease {
                Some(held) => Hold::Held { epoch: held.epoch, expires_at: held.expires_at },
                None => Hold::Queued,
            },
        };
        Snapshot { hosts: self.sessions.iter().map(host).collect(), trials: self.trials.iter().map(trial).collect() }
    }

    /// Follows a trial of the database. A lease that is known keeps its time, another one gets a fresh one.
    fn track(&mut self, trial: regatta_store::TrialRecord) {
        let expires_at = self.now() + self.lease;
        let known = self.trials.get(&trial.id).and_then(|tracked| tracked.lease);
        let fresh = Held { epoch: trial.epoch, expires_at, session: None };
        let lease = trial.state.is_held().then(|| known.filter(|held| held.epoch == trial.epoch).unwrap_or(fresh));
        let tracked = Tracked {
            run: trial.run,
            ordinal: trial.ordinal,
            agent: trial.agent,
            stopping: trial.cancel_requested,
            lease,
        };
        self.trials.insert(trial.id, tracked);
    }

    /// Reads a run's trials again after a change of the whole run.
    async fn reload(&mut self, run: &RunId) -> Result<(), StoreError> {
        for trial in self.reader.trials(run).await? {
            if trial.state.is_final() {
                self.trials.remove(&trial.id);
            } else {
                self.track(trial);
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
        }
        self.writer.write(hello.agent.clone()).await.map_err(|error| wire::status(&error))?;
        self.next_session += 1;
        let id = SessionId(self.next_session);
        info!(%agent, devices = hello.agent.devices.len(), "agent connected");
        // First of all, so that no trial overtakes it.
        link.send(Message::Hello(greeting));
        let now = self.now();
        self.sessions.insert(agent, Session { id, link, hello, heard_at: now, free_from: now });
        Ok(id)
    }

    fn close_session(&mut self, session: SessionId) {
        self.sessions.retain(|agent, open| {
            let keep = open.id != session;
            if !keep {
                info!(%agent, "agent disconnected");
            }
            keep
        });
    }

    /// The open session of that id. One that has been replaced has no say any more.
    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.values_mut().find(|session| session.id == id)
    }

    fn heard(&mut self, id: SessionId) {
        let now = self.now();
        if let Some(session) = self.session(id) {
            session.heard_at = now;
        }
    }

    fn renew(&mut self, session: SessionId, trial: &TrialId, epoch: Epoch) {
        let expires_at = self.now() + self.lease;
        if self.session(session).is_none() {
            return;
        }
        let lease = self.trials.get_mut(trial).and_then(|tracked| tracked.lease.as_mut());
        if let Some(held) = lease.filter(|held| held.epoch == epoch) {
            *held = Held { epoch, expires_at, session: Some(session) };
        }
    }

    async fn heartbeat(&mut self, session: SessionId, held: &[(TrialId, Epoch)], spool_records: u64) {
        self.heard(session);
        for (trial, epoch) in held {
            self.renew(session, trial, *epoch);
        }
        let Some(open) = self.session(session) else { return };
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
        let tracked = self.trials.get(trial).filter(|tracked| !tracked.stopping);
        tracked.and_then(|tracked| tracked.lease).is_some_and(|held| held.epoch == epoch)
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
        let of_agent = self.trials.iter().filter(|(_, tracked)| tracked.agent == *agent);
        let leases = of_agent.filter_map(|(id, tracked)| {
            tracked.lease.filter(|held| held.session != Some(session)).map(|held| (id.clone(), held.epoch))
        });
        leases.filter(|lease| !held.contains(lease) && !spool.contains(lease)).collect()
    }

    async fn rejected(&mut self, session: SessionId, trial: TrialId, epoch: Epoch, reason: String) {
        let free_from = self.now() + BACK_OFF;
        if let Some(open) = self.session(session) {
            warn!(agent = %open.hello.agent.id, %trial, reason, "agent did not take a trial");
            open.free_from = free_from;
            self.release(&trial, epoch, ReleaseReason::Rejected(reason)).await;
        }
    }
}

/// Leases.
impl Actor {
    async fn assign(&mut self, trial: &TrialId) {
        let now = self.now();
        let Some(agent) = self.trials.get(trial).map(|tracked| tracked.agent.clone()) else { return };
        let Some(session) = self.sessions.get_mut(&agent) else { return };
        session.free_from = now + BACK_OFF;
        let Ok(permit) = session.link.outbound.clone().try_reserve_owned() else {
            session.link.stop.cancel();
            return;
        };
        let (id, boot_id) = (session.id, session.hello.agent.boot_id.clone());
        match self.writer.write(Lease { trial: trial.clone(), boot_id }).await {
            Ok(Leased::Granted { epoch, trial: granted }) => {
                info!(%agent, %trial, epoch = epoch.0, cells = granted.cells.len(), "trial leased");
                permit.send(Ok(wire::message(assignment(&granted, epoch, self.lease))));
                let held = Held { epoch, expires_at: now + self.lease, session: Some(id) };
                let run = granted.run.clone();
                if let Some(tracked) = self.trials.get_mut(trial) {
                    tracked.lease = Some(held);
                }
                self.free(&agent, now);
                self.notify(run);
            }
            Ok(Leased::NotQueued) => {
                self.trials.remove(trial);
                self.free(&agent, now);
            }
            Err(error) => warn!(%agent, %trial, %error, "failed to store a lease, trying again"),
        }
    }

    fn free(&mut self, agent: &AgentId, from: Duration) {
        if let Some(session) = self.sessions.get_mut(agent) {
            session.free_from = from;
        }
    }

    async fn release(&mut self, trial: &TrialId, epoch: Epoch, reason: ReleaseReason) {
        let Some(run) = self.trials.get(trial).map(|tracked| tracked.run.clone()) else { return };
        if let Err(error) = self.try_release(&run, trial, epoch, reason).await {
            warn!(%trial, epoch = epoch.0, %error, "failed to take a lease back, trying again");
            let again_at = self.now() + BACK_OFF;
            let lease = self.trials.get_mut(trial).and_then(|tracked| tracked.lease.as_mut());
            if let Some(held) = lease.filter(|held| held.epoch == epoch) {
                held.expires_at = again_at;
            }
        }
        self.notify(run);
    }

    async fn try_release(
        &mut self,
        run: &RunId,
        trial: &TrialId,
        epoch: Epoch,
        reason: ReleaseReason,
    ) -> Result<(), StoreError> {
        let released = self.writer.write(Release { trial: trial.clone(), epoch, reason }).await?;
        info!(%trial, epoch = epoch.0, ?released, "lease taken back");
        // Also where it was over before: its end is stored, and on its way here as another event.
        self.reload(run).await
    }

    fn finished(&mut self, trial: &TrialId, epoch: Epoch, run: RunId, state: Option<TrialState>) {
        info!(%trial, epoch = epoch.0, ?state, "records complete");
        self.apply(trial, epoch, state);
        self.notify(run);
    }

    /// Follows what has happened to a lease in the database.
    fn apply(&mut self, trial: &TrialId, epoch: Epoch, state: Option<TrialState>) {
        match state {
            Some(state) if state.is_final() => {
                self.trials.remove(trial);
            }
            Some(_) => {
                let tracked = self.trials.get_mut(trial);
                if let Some(tracked) = tracked.filter(|t| t.lease.is_some_and(|held| held.epoch == epoch)) {
                    tracked.lease = None;
                }
            }
            None => {}
        }
    }

    fn progress(&self, progress: pb::Progress) {
        let trial = progress.trial_id.parse::<TrialId>().ok();
        let tracked = trial.and_then(|id| self.trials.get(&id));
        if let Some(tracked) = tracked.filter(|t| t.lease.is_some_and(|held| held.epoch.0 == progress.epoch)) {
            let _ = self.notices.send(Notice::Progress(tracked.run.clone(), progress));
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
        let Submission { id, bundle, scenario, allow_large } = submission;
        let devices = self.devices();
        let plain: Vec<_> = devices.iter().map(|of_run| of_run.device.clone()).collect();
        matrix::check_devices(&scenario, &plain).map_err(|errors| {
            let text = wire::cut(&errors.to_string());
            let nothing_there = errors.0.contains(&MatrixError::NoDevices);
            if nothing_there { Status::failed_precondition(text) } else { Status::invalid_argument(text) }
        })?;
        let most = if allow_large { matrix::MAX_CELLS_LARGE } else { matrix::MAX_CELLS };
        matrix::check_size(&scenario, &plain, most).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let matrix = matrix::expand(&scenario, &plain);
        let (cells, trials) = (matrix.cells.len(), matrix.trials.len());
        let (name, policy) = (scenario.name, scenario.policy);
        let run = NewRun { id: id.clone(), name, bundle, policy, matrix, devices };
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

    /// The devices of the connected agents, by agent.
    fn devices(&self) -> Vec<RunDevice> {
        let of_agent = |session: &Session| {
            let agent = session.hello.agent.clone();
            agent.devices.into_iter().map(move |device| RunDevice {
                device,
                agent_version: agent.version.clone(),
                host: agent.host.clone(),
            })
        };
        self.sessions.values().flat_map(of_agent).collect()
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
        let live = self.trials.iter().filter(|(_, tracked)| tracked.run == run && self.is_live(tracked));
        let live = live.map(|(id, _)| id.clone()).collect();
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

    /// Whether an agent whose session is open has the trial.
    fn is_live(&self, tracked: &Tracked) -> bool {
        let session = self.sessions.get(&tracked.agent).map(|session| session.id);
        session.is_some() && tracked.lease.is_some_and(|held| held.session == session)
    }
}

fn no_run(run: &RunId) -> Status {
    Status::not_found(format!("there is no run '{run}'"))
}

fn has_ended(run: &RunId, state: regatta_core::run::RunState) -> Status {
    Status::failed_precondition(format!("run '{run}' has ended: {}", state.as_str()))
}
