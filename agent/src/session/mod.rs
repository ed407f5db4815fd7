//! The session with the coordinator: one stream that carries everything, opened again for ever.
//!
//! Trials go on while there is no connection; the spool holds what they measure. After each reconnect the coordinator says
//! from where it needs the records of each trial, so nothing depends on what was on the way when a connection broke. The
//! end of the stream proves nothing.

mod backoff;
mod departure;
mod outbox;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use regatta_core::canary::Canary;
use regatta_core::cell::CellHash;
use regatta_core::device::Device;
use regatta_core::digest::Digest;
use regatta_core::trial::Epoch;
use regatta_models::library::Library;
use regatta_net::{Connection, ConnectionError, chain, explain};
use regatta_proto::pb::agent_service_client::AgentServiceClient;
use regatta_proto::pb::{self, agent_message, coordinator_message};
use regatta_proto::{MAX_MESSAGE, PROTOCOL};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use self::backoff::Backoff;
use self::departure::Departure;
pub use self::departure::Shutdown;
use self::outbox::{BATCH_BYTES, Next, Outbox};
use crate::barriers::{Barriers, Gate};
use crate::config::Timing;
use crate::spool::handle::SpoolHandle;
use crate::spool::{Head, TrialKey};
use crate::text;
use crate::trial::Stop;
use crate::trial::lease::Lease;
use crate::trials::{Refusal, Release, Trials};

/// Messages that may wait for the connection to take them.
const OUTBOUND: usize = 64;

/// Places among them that are not for progress, which may be dropped.
const RESERVED: usize = 32;

/// A connection that held this long makes the next reconnect a quick one.
const HELD: Duration = Duration::from_secs(5);

/// How long the coordinator may take to close its side after we have closed ours, and trials to be over.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long to wait before trying to send again when there was no room.
const CONGESTED: Duration = Duration::from_millis(100);

/// Artifacts named at hello, at most.
const MAX_CACHED: usize = 4096;

/// The interval of heartbeats where the coordinator names none.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What keeps the session from ever working, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The two sides speak different versions.
    #[error("the coordinator speaks protocol {coordinator}, this agent {PROTOCOL} (fix: upgrade {})", behind(*.coordinator))]
    Protocol {
        /// The coordinator's version.
        coordinator: u32,
    },
    /// The coordinator does not take who this agent says it is, or the other way round.
    #[error("{0}; what is in the spool is kept")]
    Credentials(String),
    /// The coordinator won't have this agent.
    #[error("the coordinator refuses this agent, which speaks protocol {PROTOCOL}: {0}")]
    Refused(String),
}

/// Which side is to be upgraded.
fn behind(coordinator: u32) -> &'static str {
    if coordinator > PROTOCOL { "this agent" } else { "the coordinator" }
}

/// What the agent says of itself at hello.
pub(crate) struct Identity {
    pub(crate) agent: String,
    pub(crate) boot_id: String,
    pub(crate) devices: Vec<Device>,
    /// Answers to `probe`, as JSON.
    pub(crate) workers: Vec<String>,
    pub(crate) host: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Where its artifacts are.
    pub(crate) library: Library,
    /// What its devices were found to do.
    pub(crate) canaries: Vec<Canary>,
}

/// What a session is made of.
pub(crate) struct Setup {
    pub(crate) identity: Identity,
    pub(crate) connection: Connection,
    pub(crate) timing: Timing,
    pub(crate) spool: SpoolHandle,
    pub(crate) lease: Lease,
    pub(crate) barriers: Barriers,
    pub(crate) progress: mpsc::Receiver<pb::Progress>,
    /// Source of jitter.
    pub(crate) rng: ChaCha8Rng,
}

/// How a connection ended.
enum Ended {
    /// The agent is done.
    Left,
    /// It will never work.
    Refused(SessionError),
    /// One side does not take the other's credentials.
    Unwelcome(String),
    /// It is to be opened again.
    Lost(String),
}

/// The session. See the module.
pub(crate) struct Session {
    identity: Identity,
    connection: Connection,
    timing: Timing,
    spool: SpoolHandle,
    trials: Trials,
    lease: Lease,
    barriers: Barriers,
    progress: mpsc::Receiver<pb::Progress>,
    departure: Departure,
    rng: ChaCha8Rng,
    /// Trials that were given back; the coordinator does not know yet.
    releases: Vec<Release>,
    /// The coordinator has taken this agent once. From then on no refusal of its credentials is final: a trial may be
    /// going on, and a person may put it right.
    known: bool,
}

/// An open connection.
struct Link {
    outbound: mpsc::Sender<pb::AgentMessage>,
    inbound: Streaming<pb::CoordinatorMessage>,
    outbox: Outbox,
    heartbeat: Duration,
    heartbeat_at: Instant,
    /// When to look for records to send; `None` where nothing is new.
    flush_at: Option<Instant>,
    /// Bytes taken by the spool when records were last sent.
    flushed: u64,
}

/// Something happened while a connection was open.
enum Event {
    Inbound(Box<Result<Option<pb::CoordinatorMessage>, Status>>),
    Heartbeat,
    Taken,
    Flush,
    TrialEnded,
    Barrier,
    Progress(pb::Progress),
    Overdue,
    Departure,
}

impl Session {
    pub(crate) fn new(setup: Setup, trials: Trials, shutdown: Shutdown) -> Self {
        let Setup { identity, connection, timing, spool, lease, barriers, progress, rng } = setup;
        let departure = Departure::new(shutdown);
        Self {
            identity,
            connection,
            timing,
            spool,
            trials,
            lease,
            barriers,
            progress,
            departure,
            rng,
            releases: Vec::new(),
            known: false,
        }
    }

    /// Keeps the session up until the agent leaves.
    pub(crate) async fn run(mut self) -> Result<(), SessionError> {
        let mut backoff = Backoff::new(self.timing.backoff_min, self.timing.backoff_max);
        let ended = loop {
            let since = Instant::now();
            match self.converse().await {
                Ended::Left => break Ok(()),
                Ended::Refused(error) => break Err(error),
                Ended::Unwelcome(reason) if !self.known => break Err(SessionError::Credentials(reason)),
                Ended::Lost(reason) | Ended::Unwelcome(reason) => {
                    if since.elapsed() >= HELD {
                        backoff.reset();
                    }
                    let pause = backoff.next(&mut self.rng);
                    tracing::warn!(reason, ?pause, "no connection to the coordinator; measuring goes on");
                    self.pause(pause).await;
                }
            }
            if self.departure.is_over() {
                break Ok(());
            }
        };
        self.trials.stop_all(Stop::Kill);
        self.trials.join(GOODBYE).await;
        ended
    }

    /// Waits before a reconnect, and sees to leaving meanwhile.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        let trial_ended = self.trials.ended();
        loop {
            self.departure.advance(&self.trials, &self.timing);
            if self.departure.is_draining() && self.spool.heads().await.is_empty() {
                self.departure.nothing_left();
            }
            if self.departure.is_over() {
                return;
            }
            tokio::select! {
                biased;
                () = self.departure.wait() => {}
                () = trial_ended.notified() => self.trials.start_next().await,
                () = sleep_until(until) => return,
            }
        }
    }

    /// One connection, from hello to its end.
    async fn converse(&mut self) -> Ended {
        let opened = tokio::select! {
            biased;
            () = self.departure.wait() => {
                self.departure.advance(&self.trials, &self.timing);
                if self.departure.is_over() {
                    return Ended::Left;
                }
                return Ended::Lost("asked to leave while connecting".to_owned());
            }
            opened = open(&self.identity, &self.connection, &self.timing, &self.spool) => opened,
        };
        let (link, resume) = match opened {
            Ok(opened) => opened,
            Err(ended) => return ended,
        };
        let mut link = link;
        self.known = true;
        self.take_up(&mut link, &resume).await;
        let mut taken = self.spool.subscribe();
        let ended = match self.serve(&mut link, &mut taken).await {
            Ok(()) => Ended::Left,
            Err(ended) => ended,
        };
        if matches!(ended, Ended::Left) && self.departure.is_draining() {
            say_goodbye(link).await;
        }
        ended
    }

    /// Drops what the coordinator has finished, and says what it does not know.
    async fn take_up(&mut self, link: &mut Link, finished: &[TrialKey]) {
        let held = self.trials.held();
        for key in finished {
            if held.contains(key) {
                // Its task may still write: it is dropped when it has stopped and all was delivered.
                self.trials.abandon(key);
            } else {
                self.discard(key).await;
            }
        }
        for key in link.outbox.unknown() {
            tracing::warn!(trial = %key, "the coordinator does not know a trial in the spool; it is kept");
        }
        // What was done while nobody could watch is not shown as if it were now.
        while self.progress.try_recv().is_ok() {}
        self.barriers.forget_told();
        self.lease.renew();
        tracing::info!(agent = %self.identity.agent, "connected to the coordinator");
    }

    /// Serves an open connection until it ends or the agent leaves.
    async fn serve(&mut self, link: &mut Link, taken: &mut watch::Receiver<u64>) -> Result<(), Ended> {
        let trial_ended = self.trials.ended();
        loop {
            if link.flush_at.is_some_and(|at| at <= Instant::now()) {
                link.flush_at = None;
                link.flushed = *taken.borrow_and_update();
                self.pump(link).await?;
            }
            self.departure.advance(&self.trials, &self.timing);
            if self.departure.is_over() || (self.departure.is_draining() && self.is_drained(link).await) {
                return Ok(());
            }
            let flush_at = link.flush_at;
            let overdue_at = link.outbox.overdue_at(self.timing.ack);
            let event = tokio::select! {
                () = self.departure.wait() => Event::Departure,
                message = link.inbound.message() => Event::Inbound(Box::new(message)),
                () = sleep_until(link.heartbeat_at) => Event::Heartbeat,
                _ = taken.changed() => Event::Taken,
                () = until(flush_at) => Event::Flush,
                () = trial_ended.notified() => Event::TrialEnded,
                () = self.barriers.changed() => Event::Barrier,
                Some(progress) = self.progress.recv() => Event::Progress(progress),
                () = until(overdue_at) => Event::Overdue,
            };
            self.handle(event, link, taken).await?;
        }
    }

    async fn handle(&mut self, event: Event, link: &mut Link, taken: &mut watch::Receiver<u64>) -> Result<(), Ended> {
        match event {
            Event::Departure | Event::Flush => {}
            Event::Inbound(message) => self.receive(*message, link).await?,
            Event::Heartbeat => self.beat(link).await,
            Event::Taken => {
                let waiting = taken.borrow_and_update().saturating_sub(link.flushed);
                let delay = if waiting >= BATCH_BYTES as u64 { Duration::ZERO } else { self.timing.batch };
                link.flush_within(delay);
            }
            Event::TrialEnded => {
                self.trials.start_next().await;
                link.flush_within(Duration::ZERO);
            }
            Event::Barrier => {
                self.tell_begun(link)?;
                link.flush_within(Duration::ZERO);
            }
            Event::Progress(progress) => {
                if link.outbound.capacity() > RESERVED {
                    let _ = link.outbound.try_send(message(agent_message::Message::Progress(progress)));
                }
            }
            Event::Overdue => {
                return Err(Ended::Lost(format!("no acknowledgement within {:?}", self.timing.ack)));
            }
        }
        Ok(())
    }

    /// Acts on what the coordinator says.
    async fn receive(
        &mut self,
        received: Result<Option<pb::CoordinatorMessage>, Status>,
        link: &mut Link,
    ) -> Result<(), Ended> {
        use coordinator_message::Message as M;
        let received = match received {
            Ok(Some(received)) => received,
            Ok(None) => return Err(Ended::Lost("the stream ended".to_owned())),
            Err(status) => return Err(lost(&status)),
        };
        self.lease.renew();
        match received.message {
            Some(M::Assign(assign)) => self.assign(assign, link).await,
            Some(M::Ack(ack)) => {
                if let Some(key) = key(&ack.trial_id, ack.epoch) {
                    link.outbox.acked(&key, ack.durable_through_seq);
                    link.flush_within(Duration::ZERO);
                }
            }
            Some(M::FinishAck(ack)) => {
                if let Some(key) = key(&ack.trial_id, ack.epoch) {
                    self.finished(&key, link).await;
                }
            }
            Some(M::Missing(missing)) => {
                if let Some(key) = key(&missing.trial_id, missing.epoch) {
                    tracing::warn!(trial = %key, from = missing.from_seq, "the coordinator misses records");
                    link.outbox.missing(&key, missing.from_seq).map_err(Ended::Lost)?;
                    link.flush_within(Duration::ZERO);
                }
            }
            Some(M::Cancel(cancel)) => {
                if let Some(key) = key(&cancel.trial_id, cancel.epoch) {
                    tracing::info!(trial = %key, "the coordinator cancels a trial");
                    self.trials.cancel(&key);
                }
            }
            Some(M::GoingAway(away)) => {
                tracing::info!(reason = text::clean(&away.reason), "the coordinator is about to stop");
            }
            Some(M::Hello(_)) => return Err(Ended::Lost("the coordinator said hello twice".to_owned())),
            Some(M::ReleaseBarrier(release)) => self.release_barrier(&release),
            // A kind of message that a newer coordinator knows.
            None => {}
        }
        Ok(())
    }

    async fn assign(&mut self, assign: pb::AssignTrial, link: &mut Link) {
        let trial_id = assign.trial.as_ref().map(|trial| trial.id.clone()).unwrap_or_default();
        let epoch = assign.epoch;
        let (reason, leaving) = match self.trials.take(assign).await {
            Err(Refusal::Because(reason)) => (reason, false),
            Err(Refusal::Leaving) => ("the agent is leaving".to_owned(), true),
            Err(Refusal::AlreadyHere) | Ok(()) => return,
        };
        tracing::warn!(trial = regatta_core::id::shown(&trial_id), epoch, reason, "not taking a trial");
        let reject = pb::Reject { trial_id, epoch, reason, leaving };
        // If there is no room the coordinator learns from the heartbeats that the trial is not held.
        let _ = link.outbound.try_send(message(agent_message::Message::Reject(reject)));
    }

    /// The coordinator has all of a trial.
    async fn finished(&mut self, key: &TrialKey, link: &mut Link) {
        if self.trials.held().contains(key) {
            tracing::warn!(trial = %key, "the coordinator acknowledges the end of a trial that goes on");
            return;
        }
        self.discard(key).await;
        link.outbox.forget(key);
        link.flush_within(Duration::ZERO);
    }

    async fn discard(&self, key: &TrialKey) {
        if let Err(error) = self.spool.discard(key.clone()).await {
            tracing::error!(trial = %key, %error, "records that are no longer needed could not be deleted");
        }
    }

    /// Sends what there is to send, as far as the window allows.
    async fn pump(&mut self, link: &mut Link) -> Result<(), Ended> {
        loop {
            // In this order: a trial that is over before the heads are read has written all it will ever write.
            let held = self.trials.held();
            let heads = self.spool.heads().await;
            match link.outbox.next(&heads, &held) {
                Some(Next::Batch(key, from)) => {
                    let Some(head) = heads.iter().find(|head| head.key == key) else { break };
                    if !self.send_batch(link, head, from).await? {
                        break;
                    }
                }
                Some(Next::Finish(key, mark)) => {
                    let finish = pb::Finish {
                        trial_id: key.trial.to_string(),
                        epoch: key.epoch.0,
                        last_seq: mark.last_seq,
                        digest: mark.digest.as_bytes().to_vec(),
                    };
                    if !link.send(agent_message::Message::Finish(finish))? {
                        break;
                    }
                    link.outbox.sent_finish(&key, Instant::now());
                }
                Some(Next::Discard(key)) => {
                    self.discard(&key).await;
                    link.outbox.forget(&key);
                }
                None => break,
            }
        }
        self.send_releases(link).await?;
        self.tell_waiting(link).await
    }

    /// Tells of replicas that wait at a barrier, each behind its records: the coordinator then knows how the cells before
    /// ended, and nothing is left to be sent while the repetition is measured.
    async fn tell_waiting(&self, link: &mut Link) -> Result<(), Ended> {
        let untold = self.barriers.untold();
        if untold.is_empty() {
            return Ok(());
        }
        let heads = self.spool.heads().await;
        for (key, gate) in untold {
            if !link.outbox.has_sent_all(&key, &heads) {
                continue;
            }
            let at = pb::AtBarrier {
                trial_id: key.trial.to_string(),
                epoch: key.epoch.0,
                cell_hash: gate.cell.0.as_bytes().to_vec(),
                repetition: gate.repetition,
            };
            if link.send(agent_message::Message::AtBarrier(at))? {
                self.barriers.told(&key);
            }
        }
        Ok(())
    }

    /// Tells of replicas that have begun. Late it would be no news, so it is said now or never.
    fn tell_begun(&self, link: &mut Link) -> Result<(), Ended> {
        for (key, gate) in self.barriers.take_begun() {
            let passed = pb::PassedBarrier {
                trial_id: key.trial.to_string(),
                epoch: key.epoch.0,
                cell_hash: gate.cell.0.as_bytes().to_vec(),
                repetition: gate.repetition,
            };
            link.send(agent_message::Message::PassedBarrier(passed))?;
        }
        Ok(())
    }

    /// The coordinator's word for a replica that waits.
    fn release_barrier(&self, release: &pb::ReleaseBarrier) {
        let Some(key) = key(&release.trial_id, release.epoch) else { return };
        let Ok(cell) = Digest::try_from(release.cell_hash.as_slice()) else {
            tracing::warn!(trial = %key, "a barrier of no cell");
            return;
        };
        let reason = text::clean(&release.abandon);
        let word = if reason.is_empty() { Ok(()) } else { Err(reason) };
        self.barriers.answer(&key, Gate { cell: CellHash(cell), repetition: release.repetition }, word);
    }

    /// Sends one batch; `false` where it has to be tried again later.
    async fn send_batch(&self, link: &mut Link, head: &Head, from: u64) -> Result<bool, Ended> {
        let key = &head.key;
        let chunk = match self.spool.read_from(key.clone(), from, BATCH_BYTES).await {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::error!(trial = %key, %error, "records could not be read");
                link.flush_within(self.timing.spool_retry);
                return Ok(false);
            }
        };
        let whole = head.whole && chunk.first_seq == from;
        let head = Head { whole, ..head.clone() };
        if chunk.records.is_empty() {
            // None of the rest can be read; it was reported when that was found.
            link.outbox.sent_batch(&head, head.last_seq, Instant::now());
            return Ok(true);
        }
        let last_seq = chunk.first_seq + chunk.records.len() as u64 - 1;
        let crc32c = chunk.records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
        let batch = pb::RecordBatch {
            trial_id: key.trial.to_string(),
            epoch: key.epoch.0,
            first_seq: chunk.first_seq,
            records: chunk.records,
            crc32c,
        };
        let sent = link.send(agent_message::Message::Batch(batch))?;
        if sent {
            link.outbox.sent_batch(&head, last_seq, Instant::now());
        }
        Ok(sent)
    }

    /// Gives trials back, each behind its records.
    async fn send_releases(&mut self, link: &mut Link) -> Result<(), Ended> {
        self.releases.extend(self.trials.take_releases());
        if self.releases.is_empty() {
            return Ok(());
        }
        let heads = self.spool.heads().await;
        let mut left = Vec::new();
        for release in std::mem::take(&mut self.releases) {
            let reject = pb::Reject {
                trial_id: release.key.trial.to_string(),
                epoch: release.key.epoch.0,
                reason: release.reason.clone(),
                leaving: false,
            };
            let sent =
                link.outbox.has_sent_all(&release.key, &heads) && link.send(agent_message::Message::Reject(reject))?;
            if !sent {
                left.push(release);
            }
        }
        self.releases = left;
        Ok(())
    }

    /// Sends a heartbeat, which renews the leases of what it names.
    async fn beat(&mut self, link: &mut Link) {
        let jitter = self.rng.random_range(0.8..=1.2);
        link.heartbeat_at = Instant::now() + link.heartbeat.mul_f64(jitter);
        let measured = self.trials.held();
        let heads = self.spool.heads().await;
        let finished = heads.iter().filter(|head| head.finish.is_some() && head.whole).map(|head| &head.key);
        let held = measured.iter().chain(finished.filter(|key| !measured.contains(key)));
        let held = held.map(|key| pb::HeldTrial { trial_id: key.trial.to_string(), epoch: key.epoch.0 }).collect();
        let spool_records = self.spool.count_after(link.outbox.acked_positions(&heads)).await;
        let heartbeat = pb::Heartbeat { held, spool_records, sent_at_unix_ns: wall_clock() };
        // No room means that the coordinator does not read: then it is not heard of either.
        if link.outbound.try_send(message(agent_message::Message::Heartbeat(heartbeat))).is_ok() {
            self.lease.renew();
        }
    }

    async fn is_drained(&self, link: &Link) -> bool {
        self.releases.is_empty() && link.outbox.is_drained(&self.spool.heads().await)
    }
}

impl Link {
    /// Sees to it that records are sent within this time.
    fn flush_within(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        self.flush_at = Some(self.flush_at.map_or(at, |already| already.min(at)));
    }

    /// Hands a message to the connection; `false` where it has no room now.
    fn send(&mut self, content: agent_message::Message) -> Result<bool, Ended> {
        match self.outbound.try_send(message(content)) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.flush_within(CONGESTED);
                Ok(false)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Ended::Lost("the connection broke".to_owned())),
        }
    }
}

/// Connects and says hello. Also returns the trials that are finished at the coordinator.
async fn open(
    identity: &Identity,
    connection: &Connection,
    timing: &Timing,
    spool: &SpoolHandle,
) -> Result<(Link, Vec<TrialKey>), Ended> {
    let late = |what: &str| Ended::Lost(format!("{what} took more than {:?}", timing.hello));
    let here = |error: ConnectionError| Ended::Unwelcome(error.to_string());
    let (endpoint, credentials) = (connection.endpoint().map_err(here)?, connection.credentials().map_err(here)?);
    let channel = timeout(timing.hello, endpoint.connect()).await.map_err(|_| late("connecting"))?;
    let channel = channel.map_err(|error| broken(connection, &error))?;
    let mut client = AgentServiceClient::with_interceptor(channel, credentials)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let heads = spool.heads().await;
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    let cached = cached(&identity.library).await;
    let _ = outbound.try_send(message(agent_message::Message::Hello(hello(identity, &heads, cached))));
    let session = client.session(ReceiverStream::new(messages));
    let response = timeout(timing.hello, session).await.map_err(|_| late("opening the session"))?;
    let mut inbound = response.map_err(|status| refused_or_lost(connection, &status))?.into_inner();
    let first = timeout(timing.hello, inbound.message()).await.map_err(|_| late("the coordinator's hello"))?;
    let greeting = match first.map_err(|status| refused_or_lost(connection, &status))? {
        Some(pb::CoordinatorMessage { message: Some(coordinator_message::Message::Hello(greeting)) }) => greeting,
        Some(_) => return Err(Ended::Lost("the coordinator did not say hello first".to_owned())),
        None => return Err(Ended::Lost("the stream ended before the coordinator's hello".to_owned())),
    };
    if greeting.protocol != PROTOCOL {
        return Err(Ended::Refused(SessionError::Protocol { coordinator: greeting.protocol }));
    }
    let resume: Vec<_> =
        greeting.resume.into_iter().filter_map(|from| Some((key(&from.trial_id, from.epoch)?, from))).collect();
    let (outbox, finished) = Outbox::new(&heads, &resume);
    let heartbeat = match Duration::from_nanos(greeting.heartbeat_interval_ns) {
        Duration::ZERO => HEARTBEAT,
        named => named.clamp(Duration::from_millis(10), Duration::from_mins(1)),
    };
    let now = Instant::now();
    let link = Link { outbound, inbound, outbox, heartbeat, heartbeat_at: now, flush_at: Some(now), flushed: 0 };
    Ok((link, finished))
}

/// The artifacts whose files are on this machine, so that trials of them come here first. Their hashes are checked when
/// they are used.
async fn cached(library: &Library) -> Vec<pb::ArtifactRef> {
    let library = library.clone();
    let listed = tokio::task::spawn_blocking(move || library.list()).await;
    let listed = listed.ok().and_then(Result::ok).unwrap_or_default();
    let whole = listed.iter().filter(|listed| listed.state.is_ok()).take(MAX_CACHED);
    whole.map(|listed| (&listed.artifact).into()).collect()
}

fn hello(identity: &Identity, heads: &[Head], cached: Vec<pb::ArtifactRef>) -> pb::AgentHello {
    let spool = heads.iter().map(|head| pb::SpoolHead {
        trial_id: head.key.trial.to_string(),
        epoch: head.key.epoch.0,
        last_seq: head.last_seq,
    });
    pb::AgentHello {
        protocol: PROTOCOL,
        agent_id: identity.agent.clone(),
        boot_id: identity.boot_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        devices: identity.devices.iter().map(Into::into).collect(),
        workers: identity.workers.clone(),
        spool: spool.collect(),
        host: identity.host.clone().into_iter().collect(),
        labels: identity.labels.clone(),
        cached,
        sent_at_unix_ns: wall_clock(),
        canaries: identity.canaries.iter().map(Into::into).collect(),
    }
}

/// Nanoseconds since 1970 by this machine's clock: a label.
fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Closes our side and lets the coordinator close its own, so that the last messages arrive.
async fn say_goodbye(link: Link) {
    let Link { outbound, mut inbound, .. } = link;
    drop(outbound);
    let _ = timeout(GOODBYE, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
}

/// What a refusal at hello means: whether trying again can help.
fn refused_or_lost(connection: &Connection, status: &Status) -> Ended {
    match status.code() {
        Code::FailedPrecondition => Ended::Refused(SessionError::Refused(text::clean(status.message()))),
        Code::Unauthenticated | Code::PermissionDenied => {
            Ended::Unwelcome(format!("the coordinator refuses this agent: {}", text::clean(status.message())))
        }
        _ => match lost(status) {
            Ended::Lost(reason) => Ended::Lost(format!("{reason}{}", connection.hint(status))),
            other => other,
        },
    }
}

/// A connection that broke off with an error. With TLS 1.3 a refused certificate shows only here, after connecting.
fn lost(status: &Status) -> Ended {
    match explain(status) {
        Some(reason) => Ended::Unwelcome(reason),
        None => Ended::Lost(format!("{}: {}", status.code(), text::clean(status.message()))),
    }
}

/// A connection that could not be made.
fn broken(connection: &Connection, error: &tonic::transport::Error) -> Ended {
    match explain(error) {
        Some(reason) => Ended::Unwelcome(format!("{}: {reason}", connection.described())),
        None => Ended::Lost(format!("{}: {}", connection.described(), text::clean(&chain(error)))),
    }
}

/// A trial as the wire names it; one that can't be ours is nobody's.
fn key(trial_id: &str, epoch: u32) -> Option<TrialKey> {
    let trial = trial_id.parse().inspect_err(|error| tracing::warn!(%error, "a message about no trial")).ok()?;
    Some(TrialKey { trial, epoch: Epoch(epoch) })
}

fn message(content: agent_message::Message) -> pb::AgentMessage {
    pb::AgentMessage { message: Some(content) }
}

/// Waits until then; for ever where there is no then.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
