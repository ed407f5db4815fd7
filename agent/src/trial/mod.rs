//! One trial, from its assignment to its finish mark in the spool.
//!
//! A fresh worker process measures the cells one after the other; each sample is on disk before the worker goes on. Where the
//! policy asks for several passes, more processes follow, until every cell has been measured by enough of them ([`course`]). Before
//! the first one, and before one that makes up for a disturbed one, the device gets time to cool down. When
//! a worker dies, hangs or talks nonsense, the cell in hand ends with that outcome and another fresh worker goes on with
//! the next one: **one bad cell never ends a trial**. When the model itself can't be loaded, no cell can be measured, and
//! all that are left end with that outcome.

mod course;
pub(crate) mod lease;
mod pass;
mod verdict;
pub(crate) mod weights;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use prost::Message;
use regatta_core::artifact::Weights;
use regatta_core::backend::BackendKind;
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::device::DeviceKind;
use regatta_core::failure::FailureKind;
use regatta_core::fingerprint::{Fingerprint, WORKER_BUILD};
use regatta_core::flag::{Flag, Flags};
use regatta_core::id::BuildName;
use regatta_core::quality::{self, Quality};
use regatta_core::telemetry::Telemetry;
use regatta_core::trial::{Epoch, Trial};
use regatta_proto::convert::{cell_end, measured_cell_end};
use regatta_proto::frame::FrameError;
use regatta_proto::pb::{self, to_worker, trial_record};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::course::Course;
use self::lease::Lease;
use self::pass::{Pass, Phase, Step};
use self::verdict::Cut;
use self::weights::{Ready, Store};
use crate::barriers::{Barriers, Waiting, Word};
use crate::builds::Builds;
use crate::config::Timing;
use crate::cooling::{Cooling, Hot};
use crate::fingerprint::{self, Machine};
use crate::process::{Process, Surroundings};
use crate::spool::handle::SpoolHandle;
use crate::spool::{SpoolError, TrialKey};
use crate::telemetry::{Recorder, Watch};
use crate::workers::{self, Worker};

/// How a running trial is told to stop. Later ones outrank earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Go on.
    No,
    /// A person cancelled it: finish the repetition; cells that are left end as cancelled.
    Cancel,
    /// The agent leaves: finish the repetition and give the trial back.
    Leave,
    /// At once: kill the worker and give the trial back.
    Kill,
}

/// How a trial ended here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Every cell has ended and the spool says so.
    Finished,
    /// The trial is given back, for the reason given; what was measured stays in the spool.
    Released(String),
}

/// What every trial needs.
pub(crate) struct Context {
    pub(crate) workers: Vec<Worker>,
    pub(crate) builds: Builds,
    pub(crate) store: Store,
    pub(crate) surroundings: Surroundings,
    pub(crate) spool: SpoolHandle,
    pub(crate) lease: Lease,
    pub(crate) barriers: Barriers,
    pub(crate) telemetry: Recorder,
    pub(crate) machine: Machine,
    pub(crate) cooling: Cooling,
    /// What every sample must say.
    pub(crate) conditions: Flags,
    /// For live views. Full means that nobody looks: what doesn't fit is dropped.
    pub(crate) progress: mpsc::Sender<pb::Progress>,
    pub(crate) timing: Timing,
}

impl Context {
    /// The worker program of a build for an engine and a kind of device, under the build's name: one that is here, or a copy that
    /// was kept.
    async fn worker(
        &self,
        build: Option<&BuildName>,
        backend: BackendKind,
        device: DeviceKind,
    ) -> Option<Cow<'_, Worker>> {
        if let Some(worker) = workers::choose_build(&self.workers, build, backend, device) {
            let is_named = worker.build.as_ref() == build;
            let named = || Worker { build: build.cloned(), ..worker.clone() };
            return Some(if is_named { Cow::Borrowed(worker) } else { Cow::Owned(named()) });
        }
        let kept = self.builds.kept(build?, &self.surroundings, self.timing.probe).await?;
        workers::fits(&kept, backend, device).then_some(Cow::Owned(kept))
    }
}

/// Measures a trial. `stop` may change at any time.
pub(crate) async fn run(context: &Context, trial: Trial, epoch: Epoch, stop: watch::Receiver<Stop>) -> End {
    let key = TrialKey { trial: trial.id.clone(), epoch };
    let course = Course::new(&trial);
    let began = Instant::now();
    let mut run = Run {
        context,
        trial,
        key,
        stop,
        course,
        began,
        has_facts: HashSet::new(),
        machine: Fingerprint::default(),
        watch: None,
        is_hot: true,
        cooled: Duration::ZERO,
    };
    let end = match run.measure().await {
        Ok(()) => End::Finished,
        Err(Released(reason)) => End::Released(reason),
    };
    tracing::info!(trial = %run.key, ?end, "trial is over here");
    end
}

/// The trial is given back.
#[derive(Debug)]
struct Released(String);

impl Released {
    fn by(stop: Stop) -> Self {
        Self(match stop {
            Stop::Kill => "the agent was stopped at once".to_owned(),
            _ => "the agent is leaving".to_owned(),
        })
    }
}

/// Adds what only the worker could tell of the device's memory. The worker's own word goes before what others see of it.
fn with_video_memory(telemetry: Telemetry, told: Option<pb::VideoMemory>) -> Telemetry {
    let Some(told) = told else { return telemetry };
    Telemetry {
        own_memory_bytes: Some(told.local_bytes),
        memory_budget_bytes: Some(told.budget_bytes),
        spilled_bytes: Some(told.spilled_bytes),
        ..telemetry
    }
}

/// How one worker process's pass ended.
enum PassEnd {
    /// It said all there was to say.
    Complete,
    /// The cell in hand ended with this outcome, or, while the model was being loaded, all that are left.
    Broken { loading: bool, outcome: Outcome },
    /// It was stopped, by request.
    Stopped,
}

struct Run<'c> {
    context: &'c Context,
    trial: Trial,
    key: TrialKey,
    stop: watch::Receiver<Stop>,
    /// Which cells are to be measured yet.
    course: Course,
    /// When the first pass began.
    began: Instant,
    /// Builds of the worker of which the first record, about the worker, is written.
    has_facts: HashSet<Option<BuildName>>,
    /// The machine and the device as they were at the beginning.
    machine: Fingerprint,
    /// The view of the device while there is a worker.
    watch: Option<Watch>,
    /// Whether the device may be hot from something else than this trial's own passes in their order.
    is_hot: bool,
    /// How long the pass in hand had to wait for it to cool down.
    cooled: Duration,
}

impl Run<'_> {
    async fn measure(&mut self) -> Result<(), Released> {
        let (backend, device) = (self.trial.backend, self.trial.device.kind);
        let context = self.context;
        if let Some(worker) = workers::choose(&context.workers, backend, device) {
            match self.weights(worker).await? {
                Ok(ready) => self.passes(&ready).await?,
                Err(outcome) => self.end_all(&outcome).await?,
            }
        } else {
            self.end_all(&self.no_worker(None)).await?;
        }
        self.finish().await
    }

    /// The weights, made or fetched first if need be. The inner error is what all cells end with.
    async fn weights(&mut self, worker: &Worker) -> Result<Result<Ready, Outcome>, Released> {
        if self.trial.backend == BackendKind::Fake {
            return Ok(Ok(Ready::default()));
        }
        let (artifact, seed) = (self.trial.artifact.clone(), self.trial.policy.weights_seed);
        let store = &self.context.store;
        match store.find(&artifact, seed).await {
            Ok(Some(ready)) => return Ok(Ok(ready)),
            Ok(None) => {}
            Err(outcome) => return Ok(Err(outcome)),
        }
        self.progress(None, "preparing weights", 0, 0.0);
        tokio::select! {
            biased;
            stop = stopped(&mut self.stop, Stop::Cancel) => match stop {
                Stop::Cancel | Stop::No => Ok(Err(Outcome::Cancelled)),
                stop => Err(Released::by(stop)),
            },
            got = async {
                match artifact.weights {
                    Weights::Synthetic => store.make(worker, &artifact, seed).await,
                    Weights::Real => store.fetch(&artifact).await,
                }
            } => Ok(got),
        }
    }

    /// Worker after worker, until every cell has ended.
    async fn passes(&mut self, ready: &Ready) -> Result<(), Released> {
        self.machine = self.context.machine.with_device(self.trial.device).await;
        self.began = Instant::now();
        let context = self.context;
        while !self.course.is_over() {
            self.wait_for_lease().await;
            self.cool_down().await;
            let stop = *self.stop.borrow();
            match stop {
                Stop::No => {}
                Stop::Cancel => return self.end_all(&Outcome::Cancelled).await,
                Stop::Leave | Stop::Kill => return Err(Released::by(stop)),
            }
            let (build, backend, device) = (self.course.build(), self.trial.backend, self.trial.device.kind);
            let end = match context.worker(build.as_ref(), backend, device).await {
                Some(worker) => self.pass(&worker, ready).await?,
                None => PassEnd::Broken { loading: true, outcome: self.no_worker(build.as_ref()) },
            };
            match end {
                PassEnd::Complete | PassEnd::Stopped => {}
                PassEnd::Broken { loading: true, outcome } => self.end_build(&outcome).await?,
                PassEnd::Broken { loading: false, outcome } => self.end_cell(&outcome).await?,
            }
            for (cell, stopped) in self.course.go_on(self.began.elapsed()) {
                self.record(trial_record::Record::CellEnd(measured_cell_end(cell, stopped))).await?;
            }
        }
        Ok(())
    }

    /// Waits until the device has cooled down, before the first pass and before one that makes up for a disturbed one; a
    /// request to stop ends that.
    async fn cool_down(&mut self) {
        self.cooled = Duration::ZERO;
        if !std::mem::take(&mut self.is_hot) {
            return;
        }
        let (context, device) = (self.context, self.trial.device);
        let watch = context.telemetry.watch(device).await;
        let hot = |Hot { temperature_c, target_c }| {
            tracing::info!(trial = %self.key, %device, temperature_c, target_c, "waiting for the device to cool down");
            self.progress(None, "cooling down", 0, 0.0);
        };
        let wait = context.cooling.wait(device, || watch.heat(), hot);
        let mut stop = self.stop.clone();
        self.cooled = tokio::select! {
            biased;
            _ = stopped(&mut stop, Stop::Cancel) => Duration::ZERO,
            cooled = wait => cooled,
        };
        if !self.cooled.is_zero() {
            tracing::info!(trial = %self.key, %device, waited_s = self.cooled.as_secs(), "going on");
        }
    }

    /// One worker process, from its start to its end.
    async fn pass(&mut self, worker: &Worker, ready: &Ready) -> Result<PassEnd, Released> {
        self.progress(None, "loading", 0, 0.0);
        // Before the worker is there, for what is in use without it.
        let mut watch = self.context.telemetry.watch(self.trial.device).await;
        let mut process = match self.context.surroundings.start(&worker.path, &["run"]) {
            Ok(process) => process,
            Err(error) => {
                let outcome = Outcome::Failed(FailureKind::Spawn, format!("{}: {error}", worker.path.display()));
                return Ok(PassEnd::Broken { loading: true, outcome });
            }
        };
        tracing::debug!(trial = %self.key, pid = process.id(), worker = %worker.path.display(), "started a worker");
        watch.worker(process.id());
        self.watch = Some(watch);
        let heard = self.listen(worker, ready, &mut process).await;
        self.watch = None;
        self.context.cooling.used(self.trial.device);
        let (phase, heard) = heard?;
        let loading = phase == Phase::Loading;
        match heard {
            Heard::Everything => {
                process.end(self.context.timing.exit).await;
                Ok(PassEnd::Complete)
            }
            Heard::Stop => {
                process.end(Duration::ZERO).await;
                Ok(PassEnd::Stopped)
            }
            Heard::Cut(cut) => {
                let grace = if cut.ends_by_itself() { self.context.timing.exit } else { Duration::ZERO };
                let ending = process.end(grace).await;
                if *self.stop.borrow() != Stop::No && cut.ends_by_itself() && ending.is_clean() {
                    return Ok(PassEnd::Stopped);
                }
                let outcome = verdict::outcome(&cut, &ending);
                tracing::warn!(trial = %self.key, pass = self.course.pass(), state = outcome.state(), "a worker failed");
                Ok(PassEnd::Broken { loading, outcome })
            }
        }
    }

    /// Sends the worker its trial and takes what it says, as long as it keeps to the rules and the time.
    async fn listen(
        &mut self,
        worker: &Worker,
        ready: &Ready,
        process: &mut Process,
    ) -> Result<(Phase, Heard), Released> {
        let cells = self.course.ahead();
        let mut pass = Pass::new(&cells, self.key.epoch, self.trial.policy.repetitions).number(self.course.pass());
        if self.trial.group.as_ref().is_some_and(|group| group.replicas > 1) {
            pass = pass.of_replica();
        }
        let mut clock = Clock::start("loading the model", self.context.timing.load);
        let mut barrier = None;
        let start = self.start_message(ready);
        // A worker that is gone already shows on its output, with how it ended.
        if timeout_at(clock.deadline, process.send_start(&start)).await.is_err() {
            return Ok((Phase::Loading, Heard::Cut(clock.cut())));
        }
        let mut told = Stop::No;
        loop {
            let event = tokio::select! {
                biased;
                stop = stopped(&mut self.stop, next_level(told)) => Event::Stop(stop),
                frame = process.frames.next::<pb::FromWorker>() => Event::Frame(Box::new(frame)),
                word = word_at(&mut barrier, self.context) => Event::Word(word),
                () = sleep_until(clock.deadline), if barrier.is_none() => Event::Deadline,
            };
            let frame = match event {
                Event::Stop(stop) => {
                    // Nothing measured is lost while the model is being loaded.
                    if stop == Stop::Kill || pass.phase() == Phase::Loading {
                        return Ok((pass.phase(), Heard::Stop));
                    }
                    told = stop;
                    leave(&mut barrier, &mut clock);
                    process.send(&to_worker(to_worker::Message::Stop(pb::Stop {}))).await;
                    continue;
                }
                Event::Word(None) => return Err(self.give_up_barrier()),
                Event::Word(Some(word)) => {
                    leave(&mut barrier, &mut clock);
                    let abandon = word.err().unwrap_or_default();
                    process.send(&to_worker(to_worker::Message::OpenBarrier(pb::OpenBarrier { abandon }))).await;
                    continue;
                }
                Event::Deadline => return Ok((pass.phase(), Heard::Cut(clock.cut()))),
                Event::Frame(frame) => match *frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Ok((pass.phase(), Heard::Cut(Cut::EndOfOutput))),
                    Err(error) => return Ok((pass.phase(), Heard::Cut(Cut::Frame(error)))),
                },
            };
            let phase = pass.phase();
            let step = match pass.step(frame) {
                Ok(step) => step,
                Err(rule) => return Ok((phase, Heard::Cut(Cut::Violation(rule)))),
            };
            match step {
                // One that was told to stop meanwhile ends the cell without waiting.
                Step::AtBarrier(_) if told != Stop::No => continue,
                Step::AtBarrier(gate) => {
                    let waiting = self.context.barriers.wait(self.key.clone(), gate);
                    barrier = Some(AtBarrier { waiting, since: Instant::now() });
                    continue;
                }
                Step::Begun(_) if barrier.is_some() => {
                    let rule = "a replica began before it was told to".to_owned();
                    return Ok((phase, Heard::Cut(Cut::Violation(rule))));
                }
                _ => {}
            }
            if let Some(heard) = self.take(step, worker, ready, process, &mut clock).await? {
                return Ok((phase, heard));
            }
        }
    }

    /// Acts on what the worker said; `Some` where nothing more is to be heard from it.
    async fn take(
        &mut self,
        step: Step,
        worker: &Worker,
        ready: &Ready,
        process: &mut Process,
        clock: &mut Clock,
    ) -> Result<Option<Heard>, Released> {
        let busy_since = Instant::now();
        match step {
            Step::Loaded(loaded) => {
                self.write_facts(worker, ready, loaded).await?;
                *clock = Clock::start("the cell", self.trial.policy.timeout);
            }
            Step::CellStarted(cell) => self.progress(Some(cell), "warming up", 0, 0.0),
            Step::Warmup { cell, repetitions } => {
                clock.repetition_over(self.context.timing.repetition);
                self.progress(Some(cell), "warming up", repetitions, 0.0);
            }
            // Handled where the wait is; and a worker that was stopped there does not begin.
            Step::AtBarrier(_) => {}
            Step::Begun(gate) => self.context.barriers.begun(self.key.clone(), gate),
            Step::Sample { cell, sample, measured, repetitions, decode_rate, last } => {
                clock.repetition_over(self.context.timing.repetition);
                let telemetry = self.look_back(&sample).await;
                let flags = surroundings(telemetry.as_ref(), self.context.conditions);
                if let Some(watch) = &mut self.watch {
                    watch.next(sample.repetition.saturating_add(1));
                }
                let counts = Quality::of(flags).counts();
                self.is_hot |= !counts;
                self.course.add(&measured, counts);
                if let Some(cut) = self.write_sample(*sample, telemetry, flags).await? {
                    return Ok(Some(Heard::Cut(cut)));
                }
                self.progress(Some(cell), "measuring", repetitions, decode_rate);
                if last {
                    self.wait_for_lease().await;
                }
                process.send(&to_worker(to_worker::Message::Continue(pb::Continue {}))).await;
                clock.pause(busy_since.elapsed());
            }
            Step::CellEnded(Outcome::Cancelled) => {
                let stop = *self.stop.borrow();
                match stop {
                    Stop::No => {
                        return Ok(Some(Heard::Cut(Cut::Violation("a cell ended as cancelled unasked".to_owned()))));
                    }
                    Stop::Cancel => self.end_cell(&Outcome::Cancelled).await?,
                    // The agent leaves: what it did not get to is somebody else's.
                    Stop::Leave | Stop::Kill => return Ok(Some(Heard::Stop)),
                }
            }
            Step::CellEnded(outcome) => {
                match outcome {
                    Outcome::Ok => self.cell_measured().await?,
                    outcome => self.end_cell(&outcome).await?,
                }
                *clock = Clock::start("the cell", self.trial.policy.timeout);
            }
            Step::LoadFailed(outcome) => {
                self.end_build(&outcome).await?;
                return Ok(Some(Heard::Everything));
            }
            Step::TrialEnded => return Ok(Some(Heard::Everything)),
        }
        Ok(None)
    }

    /// Holds the worker back before a new cell as long as the lease has run out; a request to stop ends that.
    async fn wait_for_lease(&mut self) {
        let lease = &self.context.lease;
        if lease.has_run_out() {
            tracing::warn!(trial = %self.key, "the lease is not renewed: waiting before the next cell");
        }
        tokio::select! {
            biased;
            _ = stopped(&mut self.stop, Stop::Cancel) => {}
            () = lease.valid() => {}
        }
    }

    fn give_up_barrier(&self) -> Released {
        Released(if self.context.lease.has_run_out() {
            "the coordinator was out of reach while this replica waited for the others".to_owned()
        } else {
            format!("the other replicas were not ready within {:?}", self.context.timing.barrier)
        })
    }

    fn start_message(&self, ready: &Ready) -> pb::ToWorker {
        let ahead = Trial { cells: self.course.ahead(), ..self.trial.clone() };
        let (trial, epoch, artifact_dir) = (Some((&ahead).into()), self.key.epoch.0, ready.folder.clone());
        let start = pb::StartTrial { trial, epoch, artifact_dir, pass: self.course.pass() };
        to_worker(to_worker::Message::Start(start))
    }

    async fn write_facts(&mut self, worker: &Worker, ready: &Ready, loaded: pb::Loaded) -> Result<(), Released> {
        if self.has_facts.contains(&worker.build) {
            return Ok(());
        }
        let fingerprint = fingerprint::with_worker(self.machine.clone(), &worker.info, &loaded.engine, &ready.digest);
        let hash = self.context.builds.hash(&worker.path).await;
        let fingerprint = fingerprint.with(WORKER_BUILD, hash.map(|hash| hash.to_string()));
        let facts = pb::WorkerFacts {
            worker: worker.json.clone(),
            engine: loaded.engine,
            load_ns: loaded.load_ns,
            weight_bytes: loaded.weight_bytes,
            artifact_digest: ready.digest.clone(),
            fingerprint: fingerprint.into(),
            build: worker.build.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        self.record(trial_record::Record::Worker(facts)).await?;
        self.has_facts.insert(worker.build.clone());
        Ok(())
    }

    /// What was seen while this sample, which has just arrived, was measured.
    async fn look_back(&self, sample: &pb::Sample) -> Option<Telemetry> {
        let duration_ns = sample.times.as_ref()?.end_ns;
        let seen = self.watch.as_ref()?.repetition(duration_ns).await?;
        let cool_down_ns = u64::try_from(self.cooled.as_nanos()).ok().filter(|ns| *ns > 0);
        Some(with_video_memory(Telemetry { cool_down_ns, ..seen }, sample.video_memory))
    }

    /// Spools a sample; one that is too large for any message is the worker's fault.
    async fn write_sample(
        &mut self,
        sample: pb::Sample,
        telemetry: Option<Telemetry>,
        flags: Flags,
    ) -> Result<Option<Cut>, Released> {
        let record = sample_record(sample, telemetry.as_ref(), flags);
        if record.len() > crate::spool::MAX_RECORD {
            return Ok(Some(Cut::Violation(format!("a sample of {} bytes", record.len()))));
        }
        self.append(record).await.map(|()| None)
    }

    /// The pass in hand is through with the cell in hand, which may be enough.
    async fn cell_measured(&mut self) -> Result<(), Released> {
        match self.course.measured(self.began.elapsed()) {
            Some((cell, stopped)) => self.record(trial_record::Record::CellEnd(measured_cell_end(cell, stopped))).await,
            None => Ok(()),
        }
    }

    /// Ends the cell in hand.
    async fn end_cell(&mut self, outcome: &Outcome) -> Result<(), Released> {
        match self.course.take_in_hand() {
            Some(cell) => self.record(trial_record::Record::CellEnd(cell_end(cell, outcome))).await,
            None => Ok(()),
        }
    }

    /// Ends every cell that is left of the build in hand, which has failed before any of them; another one goes on.
    async fn end_build(&mut self, outcome: &Outcome) -> Result<(), Released> {
        for cell in self.course.take_build() {
            self.record(trial_record::Record::CellEnd(cell_end(cell, outcome))).await?;
        }
        Ok(())
    }

    fn no_worker(&self, build: Option<&BuildName>) -> Outcome {
        let which =
            build.map_or_else(|| "no worker".to_owned(), |build| format!("no build '{build}' of the worker here"));
        let reason = format!("{which} for {} on {}", self.trial.backend, self.trial.device);
        Outcome::Failed(FailureKind::Unsupported, reason)
    }

    /// Ends every cell that is left.
    async fn end_all(&mut self, outcome: &Outcome) -> Result<(), Released> {
        for cell in self.course.take_all() {
            self.record(trial_record::Record::CellEnd(cell_end(cell, outcome))).await?;
        }
        Ok(())
    }

    async fn record(&mut self, record: trial_record::Record) -> Result<(), Released> {
        self.append(encode(record)).await
    }

    async fn append(&mut self, record: Vec<u8>) -> Result<(), Released> {
        self.persist(Entry::Record(record)).await
    }

    async fn finish(&mut self) -> Result<(), Released> {
        self.persist(Entry::Finish).await
    }

    /// Writes to the spool, and while it can't be written to waits and tries again: the worker stands still meanwhile, so
    /// nothing is lost. After a time the trial is given back.
    async fn persist(&mut self, entry: Entry) -> Result<(), Released> {
        let give_up = Instant::now() + self.context.timing.spool;
        loop {
            let Err(error) = self.write(&entry).await else { return Ok(()) };
            let passing = matches!(error, SpoolError::Full { .. } | SpoolError::Io { .. });
            if !passing || Instant::now() >= give_up {
                return Err(Released(error.to_string()));
            }
            tracing::error!(trial = %self.key, %error, "measuring stands still until the spool can be written to");
            tokio::select! {
                biased;
                stop = stopped(&mut self.stop, Stop::Leave) => return Err(Released::by(stop)),
                () = sleep(self.context.timing.spool_retry) => {}
            }
        }
    }

    async fn write(&self, entry: &Entry) -> Result<(), SpoolError> {
        let (spool, key) = (&self.context.spool, self.key.clone());
        match entry {
            Entry::Record(record) => spool.append(key, record.clone()).await.map(drop),
            Entry::Finish => spool.finish(key).await.map(drop),
        }
    }

    /// Tells live views; never waits.
    fn progress(&self, cell: Option<CellHash>, phase: &str, repetitions: u32, decode_rate: f64) {
        let progress = pb::Progress {
            trial_id: self.key.trial.to_string(),
            epoch: self.key.epoch.0,
            cell_hash: cell.map(|cell| cell.0.as_bytes().to_vec()).unwrap_or_default(),
            phase: phase.to_owned(),
            repetitions,
            decode_rate,
            pass: self.course.pass(),
        };
        // No room or nobody there: it is for people who watch, and they will see the next one.
        let _ = self.context.progress.try_send(progress);
    }
}

/// Something to be written to the spool.
enum Entry {
    Record(Vec<u8>),
    Finish,
}

/// Something happened while a worker was at work.
enum Event {
    Stop(Stop),
    Frame(Box<Result<Option<pb::FromWorker>, FrameError>>),
    /// The coordinator's word at a barrier; `None` where there is no sense in waiting for it any longer.
    Word(Option<Word>),
    Deadline,
}

/// A worker that waits at a barrier. Its own time stands still.
struct AtBarrier {
    waiting: Waiting,
    since: Instant,
}

/// The word for the worker that waits; never returns where none does. `None` when the coordinator, who would have said by
/// now if another replica was lost, is out of reach for the length of the lease, or when it all takes far too long.
async fn word_at(barrier: &mut Option<AtBarrier>, context: &Context) -> Option<Word> {
    let Some(barrier) = barrier else { return std::future::pending().await };
    tokio::select! {
        biased;
        word = barrier.waiting.word() => Some(word),
        () = context.lease.run_out() => None,
        () = sleep_until(barrier.since + context.timing.barrier) => None,
    }
}

/// The wait is over: it is not the cell's time.
fn leave(barrier: &mut Option<AtBarrier>, clock: &mut Clock) {
    if let Some(barrier) = barrier.take() {
        clock.pause(barrier.since.elapsed());
    }
}

/// Why listening to a worker came to an end.
enum Heard {
    /// It said all it had to say.
    Everything,
    /// It is to be stopped at once.
    Stop,
    /// It can't be listened to any more.
    Cut(Cut),
}

/// A repetition that takes so many times as long as the longest one so far is not going to end.
const PATIENCE_FACTOR: u32 = 10;

/// The time that something may take. A cell may take long, but once it has shown how long its repetitions take, one that
/// takes far longer is stuck: there is no need to wait for the cell's end to know that.
struct Clock {
    what: &'static str,
    limit: Duration,
    /// When time is up: the end of the whole, or of the repetition in hand.
    deadline: Instant,
    /// The end of the whole.
    end: Instant,
    /// When the repetition in hand began.
    since: Instant,
    /// The longest repetition so far.
    longest: Duration,
    /// How long the repetition in hand may take; `None` before the first one.
    patience: Option<Duration>,
}

impl Clock {
    fn start(what: &'static str, limit: Duration) -> Self {
        let since = Instant::now();
        let end = since + limit;
        Self { what, limit, deadline: end, end, since, longest: Duration::ZERO, patience: None }
    }

    /// The agent was what took so long.
    fn pause(&mut self, duration: Duration) {
        self.deadline += duration;
        self.end += duration;
        self.since += duration;
    }

    /// A repetition is over, and the next one begins. `least` is what any repetition may take.
    fn repetition_over(&mut self, least: Duration) {
        let now = Instant::now();
        self.longest = self.longest.max(now.saturating_duration_since(self.since));
        self.since = now;
        let patience = least.max(self.longest.saturating_mul(PATIENCE_FACTOR));
        self.patience = Some(patience);
        self.deadline = self.end.min(now + patience);
    }

    fn cut(&self) -> Cut {
        match self.patience {
            Some(limit) if self.deadline < self.end => Cut::Deadline { what: "the next repetition", limit },
            _ => Cut::Deadline { what: self.what, limit: self.limit },
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Released(reason) => write!(f, "given back: {reason}"),
        }
    }
}

/// Waits until the request to stop is at least `level`; never returns where nobody can make one any more.
async fn stopped(stop: &mut watch::Receiver<Stop>, level: Stop) -> Stop {
    let reached = stop.wait_for(|stop| *stop >= level).await.map(|stop| *stop);
    match reached {
        Ok(stop) => stop,
        Err(_) => std::future::pending().await,
    }
}

/// The request that would be news to a worker that was told `told`.
fn next_level(told: Stop) -> Stop {
    match told {
        Stop::No => Stop::Cancel,
        Stop::Cancel | Stop::Leave | Stop::Kill => Stop::Kill,
    }
}

fn to_worker(message: to_worker::Message) -> pb::ToWorker {
    pb::ToWorker { message: Some(message) }
}

/// The flags that follow from what was seen around a sample, and those of the machine's `conditions`.
fn surroundings(telemetry: Option<&Telemetry>, conditions: Flags) -> Flags {
    let mut flags = conditions;
    if let Some(telemetry) = telemetry {
        flags.extend(quality::classify(telemetry).flags());
        flags.extend((!telemetry.lost.is_empty()).then_some(Flag::TelemetryLost));
    }
    flags
}

/// A sample with what was seen around it and what is to be said of that.
fn sample_record(mut sample: pb::Sample, telemetry: Option<&Telemetry>, flags: Flags) -> Vec<u8> {
    sample.flags.extend(flags.iter().map(|flag| flag.to_string()));
    sample.video_memory = None;
    let record = Some(trial_record::Record::Sample(sample));
    pb::TrialRecord { record, telemetry: telemetry.map(Into::into) }.encode_to_vec()
}

fn encode(record: trial_record::Record) -> Vec<u8> {
    pb::TrialRecord { record: Some(record), telemetry: None }.encode_to_vec()
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
