//! The session with an agent: hello first, then records in and acknowledgements out.
//!
//! A record is acknowledged after the commit that holds it. The commit is made by the writer task, so that a dropped
//! connection never cuts it short. The end of the stream proves nothing: leases and `Finish` decide.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::cell::Outcome;
use regatta_core::id::{AgentId, TrialId};
use regatta_core::trial::Epoch;
use regatta_proto::pb::agent_message::Message as FromAgent;
use regatta_proto::pb::agent_service_server::AgentService;
use regatta_proto::pb::coordinator_message::Message;
use regatta_proto::{PROTOCOL, convert, pb};
use regatta_store::{Batch, EndedCell, Finished, Ingested, Reader, Record, Store, Writer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::actor::{Event, Handle, Link, SessionId};
use crate::auth::Caller;
use crate::dashboard::live::Live;
use crate::metrics::{Metrics, OpenSession};
use crate::server::Config;
use crate::skew;
use crate::wire;

/// Messages that may wait for an agent to read them.
const OUTBOUND: usize = 64;

/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves agents.
#[derive(Debug, Clone)]
pub(crate) struct Agents {
    writer: Writer,
    reader: Reader,
    actor: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    heartbeat: Duration,
    clock: fn() -> Timestamp,
    boot_id: String,
    metrics: Metrics,
    live: Option<Live>,
}

impl Agents {
    pub(crate) fn new(
        store: &Store,
        actor: Handle,
        tasks: TaskTracker,
        stop: CancellationToken,
        config: &Config,
        metrics: Metrics,
        live: Option<Live>,
    ) -> Self {
        let (heartbeat, clock) = (config.heartbeat, config.clock);
        let (writer, reader) = (store.writer().clone(), store.reader().clone());
        let boot_id = uuid::Uuid::now_v7().to_string();
        Self { writer, reader, actor, tasks, stop, heartbeat, clock, boot_id, metrics, live }
    }

    /// How far ahead an agent's clock is that said this just now.
    fn ahead(&self, said_unix_ns: i64) -> Option<i64> {
        skew::ahead(said_unix_ns, convert::unix_ns((self.clock)()))
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    /// Answers at once: the peer waits for the headers before it sends anything.
    async fn session(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let link = Link { outbound, stop: self.stop.child_token() };
        let caller = Caller::of(&request);
        self.tasks.spawn(run(self.clone(), caller, request.into_inner(), link));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// One session, from hello to its end.
async fn run(agents: Agents, caller: Caller, mut inbound: Streaming<pb::AgentMessage>, link: Link) {
    let (session, agent) = match greet(&agents, &caller, &mut inbound, &link).await {
        Ok(greeted) => greeted,
        Err(status) => {
            warn!(%status, "session refused");
            let _ = link.outbound.send(Err(status)).await;
            return;
        }
    };
    let counted = agents.metrics.session(agent);
    let mut open = Open { agents, caller, session, counted, link, own: BTreeSet::new() };
    if let Err(status) = open.converse(&mut inbound).await {
        warn!(%status, "session ended by the coordinator");
        let _ = open.link.outbound.try_send(Err(status));
    }
    let _ = open.agents.actor.send(Event::Closed { session: open.session }).await;
}

async fn greet(
    agents: &Agents,
    caller: &Caller,
    inbound: &mut Streaming<pb::AgentMessage>,
    link: &Link,
) -> Result<(SessionId, AgentId), Status> {
    let first = tokio::select! {
        () = link.stop.cancelled() => return Err(Status::unavailable("the coordinator is stopping")),
        first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()) => first,
    };
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
    let Some(FromAgent::Hello(hello)) = first.and_then(|message| message.message) else {
        return Err(Status::failed_precondition("the first message must be hello"));
    };
    let hello = wire::hello(hello)?;
    let clock_ahead_ns = agents.ahead(hello.sent_at_unix_ns);
    let agent = hello.agent.id.clone();
    caller.may_be(&agent)?;
    let mut resume = Vec::with_capacity(hello.spool.len());
    for (trial, epoch) in &hello.spool {
        authorise(&agents.reader, &agent, trial, *epoch).await?;
        resume.extend(resume_from(&agents.reader, trial, *epoch).await?);
    }
    let greeting = pb::CoordinatorHello {
        protocol: PROTOCOL,
        boot_id: agents.boot_id.clone(),
        resume,
        heartbeat_interval_ns: u64::try_from(agents.heartbeat.as_nanos()).unwrap_or(u64::MAX),
    };
    let (hello, link) = (Box::new(hello), link.clone());
    let session = agents.actor.ask(|reply| Event::Hello { hello, clock_ahead_ns, link, greeting, reply }).await?;
    Ok((session, agent))
}

/// Sees to it that a lease is that agent's, or nobody's: what is said of a lease that was never given has no effect.
/// Leases that are over count too, because their records are welcome still. Returns whether there is such a lease.
async fn authorise(reader: &Reader, agent: &AgentId, trial: &TrialId, epoch: Epoch) -> Result<bool, Status> {
    let owner = reader.lease_owner(trial, epoch).await.map_err(|error| wire::status(&error))?;
    if owner.as_ref().is_none_or(|owner| owner == agent) {
        return Ok(owner.is_some());
    }
    Err(Status::permission_denied(format!(
        "trial {trial} under epoch {} is leased to another agent than '{agent}'",
        epoch.0
    )))
}

/// Where the agent is to go on with one lease. Nothing for a lease of another database: its records would have no
/// place here, and the agent keeps them.
async fn resume_from(reader: &Reader, trial: &TrialId, epoch: Epoch) -> Result<Option<pb::ResumeFrom>, Status> {
    let delivery = reader.delivery(trial, epoch).await.map_err(|error| wire::status(&error))?;
    if delivery.is_none() {
        warn!(%trial, epoch = epoch.0, "agent has records of a lease that is not in this database");
    }
    Ok(delivery.map(|delivery| pb::ResumeFrom {
        trial_id: trial.to_string(),
        epoch: epoch.0,
        seq: delivery.last_seq + 1,
        finished: delivery.finished,
    }))
}

/// Leases of one session that are remembered as its own. When there are more, they are looked up again.
const OWN: usize = 1024;

/// A session after hello.
struct Open {
    agents: Agents,
    caller: Caller,
    session: SessionId,
    counted: OpenSession,
    link: Link,
    /// Leases that are known to be this agent's.
    own: BTreeSet<(TrialId, Epoch)>,
}

impl Open {
    async fn converse(&mut self, inbound: &mut Streaming<pb::AgentMessage>) -> Result<(), Status> {
        loop {
            let message = tokio::select! {
                () = self.link.stop.cancelled() => return Ok(()),
                status = self.caller.gone() => return Err(status),
                message = inbound.message() => message,
            };
            match message {
                Ok(Some(message)) => self.handle(message).await?,
                // The peer's end of the stream, clean or not, says nothing about its trial.
                Ok(None) => return Ok(()),
                // The agent is there and has sent what can't be taken: it is told why.
                Err(status) if status.code() == Code::OutOfRange => return Err(status),
                Err(status) => {
                    debug!(%status, "session broke off");
                    return Ok(());
                }
            }
        }
    }

    /// Lets an agent speak of its own leases only.
    async fn authorise(&mut self, trial: &TrialId, epoch: Epoch) -> Result<(), Status> {
        let lease = (trial.clone(), epoch);
        if self.own.contains(&lease) {
            return Ok(());
        }
        // A lease that does not exist yet may become another agent's, so it is looked up again next time.
        if authorise(&self.agents.reader, self.counted.agent(), trial, epoch).await? {
            if self.own.len() >= OWN {
                self.own.clear();
            }
            self.own.insert(lease);
        }
        Ok(())
    }

    /// Checks whose leases a message speaks of, before anything is done about it.
    async fn authorise_message(&mut self, message: &FromAgent) -> Result<(), Status> {
        let mut leases = Vec::new();
        match message {
            FromAgent::Heartbeat(heartbeat) => {
                leases.extend(heartbeat.held.iter().map(|held| (held.trial_id.as_str(), held.epoch)));
            }
            FromAgent::Batch(batch) => leases.push((&batch.trial_id, batch.epoch)),
            FromAgent::Finish(finish) => leases.push((&finish.trial_id, finish.epoch)),
            FromAgent::Progress(progress) => leases.push((&progress.trial_id, progress.epoch)),
            FromAgent::Reject(reject) => leases.push((&reject.trial_id, reject.epoch)),
            FromAgent::AtBarrier(at) => leases.push((&at.trial_id, at.epoch)),
            FromAgent::PassedBarrier(passed) => leases.push((&passed.trial_id, passed.epoch)),
            FromAgent::Hello(_) => {}
        }
        for (trial, epoch) in leases {
            let (trial, epoch) = wire::lease(trial, epoch)?;
            self.authorise(&trial, epoch).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, message: pb::AgentMessage) -> Result<(), Status> {
        if let Some(message) = &message.message {
            self.authorise_message(message).await?;
        }
        let actor = &self.agents.actor;
        let session = self.session;
        match message.message {
            Some(FromAgent::Heartbeat(heartbeat)) => {
                let held = heartbeat.held.iter().map(|held| wire::lease(&held.trial_id, held.epoch));
                let held = held.collect::<Result<_, _>>()?;
                self.agents.metrics.spool(self.counted.agent(), heartbeat.spool_records);
                let clock_ahead_ns = self.agents.ahead(heartbeat.sent_at_unix_ns);
                let spool_records = heartbeat.spool_records;
                actor.send(Event::Heartbeat { session, held, spool_records, clock_ahead_ns }).await
            }
            Some(FromAgent::Batch(batch)) => self.ingest(batch).await,
            Some(FromAgent::Finish(finish)) => self.finish(&finish).await,
            Some(FromAgent::Progress(progress)) => {
                actor.offer(Event::Progress(progress));
                Ok(())
            }
            Some(FromAgent::Reject(reject)) => {
                let (trial, epoch) = wire::lease(&reject.trial_id, reject.epoch)?;
                let reason = regatta_core::id::shown(&reject.reason);
                actor.send(Event::Rejected { session, trial, epoch, reason, leaving: reject.leaving }).await
            }
            Some(FromAgent::AtBarrier(at)) => {
                let gate = wire::gate(&at.trial_id, at.epoch, &at.cell_hash, at.repetition)?;
                actor.send(Event::AtBarrier { session, gate }).await
            }
            Some(FromAgent::PassedBarrier(passed)) => {
                let at = Instant::now();
                let gate = wire::gate(&passed.trial_id, passed.epoch, &passed.cell_hash, passed.repetition)?;
                actor.send(Event::PassedBarrier { gate, at }).await
            }
            Some(FromAgent::Hello(_)) => Err(Status::failed_precondition("hello comes once, as the first message")),
            // A message of a newer agent of the same protocol: additions are made so that they may be ignored.
            None => Ok(()),
        }
    }

    async fn ingest(&self, batch: pb::RecordBatch) -> Result<(), Status> {
        let batch = wire::batch(batch)?;
        let (trial, epoch) = (batch.trial.clone(), batch.epoch);
        let began = tokio::time::Instant::now();
        let failed = failed_cells(&batch);
        // How warm a device was is of interest to those who look, if there are any, and known from the last repetition.
        if let Some(live) = &self.agents.live
            && let Some(seen) = batch.records.iter().rev().find_map(Record::telemetry)
        {
            live.seen(&trial, &seen);
        }
        let stored = match self.agents.writer.write(batch).await.map_err(|error| wire::status(&error))? {
            Ingested::Stored(stored) => stored,
            Ingested::UnknownLease => return Err(unknown_lease(&trial, epoch)),
        };
        self.agents.metrics.ingested(stored.samples, began.elapsed());
        if stored.conflicts > 0 {
            warn!(%trial, epoch = epoch.0, records = stored.conflicts, "records differ from those stored before");
        }
        let (trial_id, epoch_number) = (trial.to_string(), epoch.0);
        if let Some(from_seq) = stored.missing_from {
            self.send(Message::Missing(pb::Missing { trial_id: trial_id.clone(), epoch: epoch_number, from_seq }))
                .await?;
        }
        if !failed.is_empty() && !stored.stale {
            let (trial, ended) = (trial.clone(), failed);
            self.agents.actor.send(Event::CellsFailed { trial, epoch, ended }).await?;
        }
        let durable_through_seq = stored.durable_through_seq;
        self.send(Message::Ack(pb::Ack { trial_id, epoch: epoch_number, durable_through_seq })).await?;
        self.agents.actor.send(Event::Records { session: self.session, trial, epoch, run: stored.run }).await
    }

    async fn finish(&self, finish: &pb::Finish) -> Result<(), Status> {
        let finish = wire::finish(finish)?;
        let (trial, epoch) = (finish.trial.clone(), finish.epoch);
        let trial_id = trial.to_string();
        match self.agents.writer.write(finish).await.map_err(|error| wire::status(&error))? {
            Finished::UnknownLease => Err(unknown_lease(&trial, epoch)),
            Finished::Missing { from_seq } => {
                self.send(Message::Missing(pb::Missing { trial_id, epoch: epoch.0, from_seq })).await
            }
            Finished::Complete { run, state, failure, .. } => {
                // The actor first: when the agent hears of it, it may ask for the next trial.
                self.agents.actor.send(Event::Finished { trial, epoch, run, state, failure }).await?;
                self.send(Message::FinishAck(pb::FinishAck { trial_id, epoch: epoch.0 })).await
            }
        }
    }

    /// Waits for the agent to read what was sent before: it gets no more work done than it can hear of.
    async fn send(&self, message: Message) -> Result<(), Status> {
        tokio::select! {
            () = self.link.stop.cancelled() => Err(Status::unavailable("the session is over")),
            sent = self.link.outbound.send(Ok(wire::message(message))) => {
                sent.map_err(|_| Status::cancelled("the agent went away"))
            }
        }
    }
}

/// Cells that did not end well.
fn failed_cells(batch: &Batch) -> Vec<EndedCell> {
    let ended = batch.records.iter().filter_map(Record::cell_end);
    ended.filter(|ended| ended.outcome != Outcome::Ok).cloned().collect()
}

fn unknown_lease(trial: &TrialId, epoch: Epoch) -> Status {
    Status::failed_precondition(format!("trial {trial} was never leased under epoch {} here", epoch.0))
}
