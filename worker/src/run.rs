//! The worker as an agent's child: one trial, from the first frame to the last.
//!
//! Two threads. The *engine* thread owns model and clock: it loads, warms up, measures, and between repetitions writes
//! frames and waits for the agent's answer, so that nothing else moves while it measures. A replica of a group also waits
//! before each repetition until all of them are ready. The *orders* thread blocks on standard input; when that closes while
//! there is work, the agent is gone and the process dies at once.

use std::any::Any;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::Outcome;
use regatta_core::device::DeviceId;
use regatta_core::failure::FailureKind;
use regatta_core::flag::{Flag, Flags};
use regatta_core::metrics::faster_than_physics;
use regatta_core::model::Shape;
use regatta_core::policy::Exclusive;
use regatta_core::preflight::{self, Need};
use regatta_core::sample::Sample;
use regatta_core::trial::{Epoch, Trial, TrialCell};
use regatta_models::verify::{Tokenizer as Required, verify};
use regatta_proto::convert::{WireError, cell_end};
use regatta_proto::frame::{self, FrameError};
use regatta_proto::pb::{self, from_worker, to_worker};

use crate::backend::fake::{Fault, Ledger};
use crate::backend::{Backend, BackendError, Info, Load, load};
use crate::measure::{self, Conditions, Halt, Observer};
use crate::prompt::Input;
use crate::tokenizer::Tokenizer;
use crate::video_memory::VideoMemory;
use crate::{cpu, process};

/// The longest reason in a frame, in bytes.
const MAX_DETAIL: usize = 64 * 1024;

/// Why the worker could not do its trial at all. What goes wrong in a trial is said in frames.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Standard output could not be taken over.
    #[error("failed to take over standard output")]
    Pipe(#[source] io::Error),
    /// A frame could not be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The agent closed standard input before it said what to do.
    #[error("standard input closed before a trial came")]
    NoTrial,
    /// The first frame was another one.
    #[error("the first frame must be the trial")]
    NotATrial,
    /// The trial is not valid.
    #[error("the trial is not valid: {0}")]
    Invalid(#[from] WireError),
    /// A thread could not be started.
    #[error("failed to start a thread")]
    Thread(#[source] io::Error),
    /// The agent no longer reads.
    #[error("the agent no longer reads frames")]
    Disconnected,
}

/// What the agent says after the trial.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Continue,
    Stop,
    /// The replicas begin a repetition together; or never do, for the reason given.
    Barrier(Result<(), String>),
}

/// A trial as it came.
struct Assignment {
    trial: Trial,
    epoch: Epoch,
    pass: u32,
    folder: PathBuf,
    threads: u32,
}

/// Does one trial: reads it from standard input, writes frames to what is standard output now.
///
/// Call it while the process has one thread.
pub fn run() -> Result<(), RunError> {
    let pipe = process::take_frame_pipe().map_err(RunError::Pipe)?;
    process::harden();
    let assignment = read_assignment()?;
    process::fix_threads(assignment.threads);
    let done = Arc::new(AtomicBool::new(false));
    // An agent sends one order for each sample, so there is never more than one on the way, and perhaps a stop.
    let (orders, inbox) = sync_channel(4);
    let listener_done = Arc::clone(&done);
    thread::Builder::new()
        .name("orders".to_owned())
        .spawn(move || listen(&orders, &listener_done))
        .map_err(RunError::Thread)?;
    let link = Link { pipe, inbox, stopped: false, samples: 0 };
    let engine = thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || work(&assignment, link, &done))
        .map_err(RunError::Thread)?;
    match engine.join() {
        Ok(Ok(())) => Ok(()),
        // A panic outside of a cell has already been printed; the agent sees the exit code.
        Ok(Err(_)) | Err(_) => Err(RunError::Disconnected),
    }
}

fn read_assignment() -> Result<Assignment, RunError> {
    let first: pb::ToWorker = frame::read(&mut io::stdin().lock())?.ok_or(RunError::NoTrial)?;
    let Some(to_worker::Message::Start(start)) = first.message else { return Err(RunError::NotATrial) };
    let trial: Trial = start.trial.ok_or(WireError::Missing("trial"))?.try_into()?;
    let threads = trial.policy.threads.unwrap_or_else(cpu::default_threads).max(1);
    let (epoch, pass) = (Epoch(start.epoch), start.pass);
    Ok(Assignment { trial, epoch, pass, folder: start.artifact_dir.into(), threads })
}

/// Passes orders on until standard input closes.
fn listen(orders: &SyncSender<Order>, done: &AtomicBool) {
    loop {
        let order = match frame::read::<pb::ToWorker>(&mut io::stdin().lock()) {
            Ok(Some(pb::ToWorker { message: Some(to_worker::Message::Continue(_)) })) => Order::Continue,
            Ok(Some(pb::ToWorker { message: Some(to_worker::Message::Stop(_)) })) => Order::Stop,
            Ok(Some(pb::ToWorker { message: Some(to_worker::Message::OpenBarrier(open)) })) => {
                Order::Barrier(if open.abandon.is_empty() { Ok(()) } else { Err(open.abandon) })
            }
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => break,
        };
        if orders.send(order).is_err() {
            break;
        }
    }
    if !done.load(Ordering::Acquire) {
        process::die();
    }
}

/// The engine thread's connection to the agent.
struct Link {
    pipe: File,
    inbox: Receiver<Order>,
    stopped: bool,
    samples: u64,
}

impl Link {
    fn send(&mut self, message: from_worker::Message) -> Result<(), Halt> {
        let frame = pb::FromWorker { message: Some(message) };
        frame::write(&mut self.pipe, &frame).map_err(|_| Halt::Disconnected)
    }

    /// Waits for the answer to a sample.
    fn wait(&mut self) -> Result<(), Halt> {
        self.receive().map(drop)
    }

    /// Waits until the replicas begin together.
    fn wait_at_barrier(&mut self) -> Result<(), Halt> {
        loop {
            if let Order::Barrier(opened) = self.receive()? {
                return opened
                    .map_err(|reason| Halt::Failed(BackendError { kind: FailureKind::Replica, detail: reason }));
            }
        }
    }

    fn receive(&mut self) -> Result<Order, Halt> {
        let order = self.inbox.recv().map_err(|_| Halt::Disconnected)?;
        self.heed(order)
    }

    /// Looks for a stop without waiting.
    fn poll(&mut self) -> Result<(), Halt> {
        self.inbox.try_recv().map_or(Ok(()), |order| self.heed(order).map(drop))
    }

    fn heed(&mut self, order: Order) -> Result<Order, Halt> {
        self.stopped |= order == Order::Stop;
        if self.stopped { Err(Halt::Stopped) } else { Ok(order) }
    }
}

/// The engine thread: loads the model and measures its cells.
fn work(assignment: &Assignment, mut link: Link, done: &AtomicBool) -> Result<(), Halt> {
    let loaded = match guarded(|| Loaded::load(assignment)) {
        Ok(loaded) => loaded,
        Err(error) => {
            done.store(true, Ordering::Release);
            let detail = cut(error.detail);
            return link
                .send(from_worker::Message::LoadFailed(pb::LoadFailed { kind: error.kind.to_string(), detail }));
        }
    };
    link.send(from_worker::Message::Loaded(pb::Loaded {
        load_ns: loaded.load_ns,
        weight_bytes: loaded.info.weight_bytes,
        engine: loaded.info.engine.clone(),
    }))?;
    cells(assignment, loaded, &mut link)?;
    done.store(true, Ordering::Release);
    let samples = link.samples;
    link.send(from_worker::Message::TrialEnded(pb::TrialEnded { samples }))
}

fn cells(assignment: &Assignment, mut loaded: Loaded, link: &mut Link) -> Result<(), Halt> {
    for cell in &assignment.trial.cells {
        let outcome = if link.stopped { Outcome::Cancelled } else { one_cell(assignment, &mut loaded, cell, link)? };
        link.send(from_worker::Message::CellEnded(cell_end(cell.hash, &outcome)))?;
    }
    Ok(())
}

/// Measures a cell; an error only where nobody listens any more.
fn one_cell(assignment: &Assignment, loaded: &mut Loaded, cell: &TrialCell, link: &mut Link) -> Result<Outcome, Halt> {
    let hash = cell.hash;
    link.send(from_worker::Message::CellStarted(pb::CellStarted { cell_hash: hash.0.as_bytes().to_vec() }))?;
    let halt = match guarded(|| loaded.measure(assignment, cell, link).map_or_else(caught, |()| Ok(None))) {
        Ok(None) => return Ok(Outcome::Ok),
        Ok(Some(halt)) => halt,
        Err(error) => Halt::Failed(error),
    };
    match halt {
        Halt::Failed(error) => Ok(Outcome::of_failure(error.kind, cut(error.detail))),
        Halt::Stopped => Ok(Outcome::Cancelled),
        Halt::Disconnected => Err(Halt::Disconnected),
    }
}

/// Tells failures, which [`guarded`] passes on, from the other ways to end.
fn caught(halt: Halt) -> Result<Option<Halt>, BackendError> {
    match halt {
        Halt::Failed(error) => Err(error),
        other => Ok(Some(other)),
    }
}

/// Calls an engine; a panic in it becomes an error. Sessions are dropped on the way out, and nothing else changes while
/// an engine runs, so what is left is usable.
fn guarded<T>(call: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(BackendError::engine(words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the engine panicked: {}", words.as_deref().unwrap_or("no message"))
}

fn cut(mut detail: String) -> String {
    let end = (0..=MAX_DETAIL.min(detail.len())).rev().find(|&at| detail.is_char_boundary(at)).unwrap_or(0);
    detail.truncate(end);
    detail
}

/// A model that is ready.
struct Loaded {
    backend: Box<dyn Backend>,
    tokenizer: Option<Tokenizer>,
    info: Info,
    load_ns: u64,
    flags: Flags,
    room: Room,
    /// Of a device that only this process can ask.
    video_memory: Option<VideoMemory>,
}

/// The memory preflight with what is free at this moment.
struct Room {
    /// The network, the engine, and how the weights are stored. `None` where nothing is asked: for an engine that runs no
    /// network, on devices whose free memory isn't known here, and where a person said to try all the same.
    asked: Option<(Shape, BackendKind, Precision)>,
    /// Bytes of weights that loading will take.
    weights: u64,
}

impl Room {
    fn new(request: &Load, trial: &Trial) -> Result<Self, BackendError> {
        let (backend, precision) = (request.backend, request.artifact.precision);
        if backend == BackendKind::Fake || request.device != DeviceId::CPU || trial.policy.force {
            return Ok(Self { asked: None, weights: 0 });
        }
        let found = verify(&request.folder, Required::Optional).map_err(BackendError::rejected)?;
        let unpacked = preflight::unpacked(&found.shape, backend, precision);
        // On the processor, which is where this is asked, ONNX Runtime holds halves in 32 bits.
        let is_widened = backend == BackendKind::OnnxRuntime && precision == Precision::F16;
        let weights = found.weight_bytes * if is_widened { 2 } else { 1 } + unpacked;
        Ok(Self { asked: Some((found.shape, backend, precision)), weights })
    }

    /// Refuses to load what can't fit.
    fn for_weights(&self) -> Result<(), BackendError> {
        let need = self.asked.as_ref().map(|_| Need { weights: self.weights, cache: 0, activations: 0 });
        refuse(need, process::free_memory())
    }

    /// Refuses a cell that can't fit beside the weights, which are loaded.
    fn for_cell(&self, cell: &TrialCell) -> Result<(), BackendError> {
        let need = |(shape, backend, precision): &(Shape, BackendKind, Precision)| Need {
            weights: 0,
            ..preflight::need(shape, *backend, *precision, &cell.workload)
        };
        refuse(self.asked.as_ref().map(need), process::free_memory())
    }
}

/// What doesn't fit into what is free is not tried. Where either isn't known it is.
fn refuse(need: Option<Need>, free: Option<u64>) -> Result<(), BackendError> {
    let shortage = need.zip(free).and_then(|(need, free)| need.shortage("this host, as busy as it is,", free));
    shortage.map_or(Ok(()), |detail| Err(BackendError { kind: FailureKind::NoRoom, detail }))
}

impl Loaded {
    fn load(assignment: &Assignment) -> Result<Self, BackendError> {
        let trial = &assignment.trial;
        let request = Load {
            backend: trial.backend,
            device: trial.device,
            artifact: trial.artifact.clone(),
            folder: assignment.folder.clone(),
            threads: assignment.threads,
        };
        check_request(&request)?;
        let room = Room::new(&request, trial)?;
        room.for_weights()?;
        let start = Instant::now();
        let backend = load(&request)?;
        let load_ns = nanoseconds(start.elapsed());
        let tokenizer = tokenizer(&request)?;
        let video_memory = VideoMemory::of(trial.device);
        let info = backend.info();
        let mut flags = flags(assignment);
        flags.extend(info.is_widened.then_some(Flag::Widened));
        Ok(Self { backend, tokenizer, info, load_ns, flags, room, video_memory })
    }

    fn measure(&mut self, assignment: &Assignment, cell: &TrialCell, link: &mut Link) -> Result<(), Halt> {
        process::reset_peak_rss();
        let input = Input::new(&cell.workload, self.backend.limits(), self.tokenizer.as_ref())?;
        self.room.for_cell(cell)?;
        let conditions = Conditions {
            cell: cell.hash,
            epoch: assignment.epoch,
            pass: assignment.pass,
            policy: &assignment.trial.policy,
            load_ns: self.load_ns,
            threads: self.info.threads,
            flags: self.flags,
            clock: self.backend.clock(),
        };
        let fault = match assignment.trial.backend {
            BackendKind::Fake => Fault::of(cell.workload.name.as_str()),
            _ => None,
        };
        let (repetitions, weight_bytes) = (assignment.trial.policy.repetitions, self.info.weight_bytes);
        let ledger = match assignment.trial.backend {
            BackendKind::Fake => Ledger::from_environment().map_err(BackendError::engine)?,
            _ => None,
        };
        let in_group = assignment.trial.group.as_ref().is_some_and(|group| group.replicas > 1);
        let barrier = in_group.then(|| cell.hash.0.as_bytes().to_vec());
        let video_memory = self.video_memory.as_ref();
        let mut reporter = Reporter { link, fault, ledger, repetitions, weight_bytes, barrier, video_memory };
        let mut session = self.backend.open(&input.plan)?;
        measure::measure(&mut *session, &input, self.tokenizer.as_ref(), &conditions, &mut reporter)
    }
}

/// Refuses what the engine would fail on with less helpful words.
fn check_request(request: &Load) -> Result<(), BackendError> {
    let precision = request.artifact.precision;
    if !request.backend.precisions().contains(&precision) {
        return Err(BackendError::unsupported(format!("{} does not load {precision}", request.backend)));
    }
    Ok(())
}

/// The model's tokenizer. Synthetic weights have none that means anything: text would come out as noise.
fn tokenizer(request: &Load) -> Result<Option<Tokenizer>, BackendError> {
    if request.backend == BackendKind::Fake || request.artifact.weights == Weights::Synthetic {
        return Ok(None);
    }
    Tokenizer::of_artifact(&request.folder, request.artifact.format).map_err(BackendError::rejected)
}

/// What must be said of every sample of this trial.
fn flags(assignment: &Assignment) -> Flags {
    let trial = &assignment.trial;
    let facts = [
        (Flag::SyntheticWeights, trial.artifact.weights == Weights::Synthetic),
        (Flag::SimdBelowCpu, cpu::compiled() < cpu::present()),
        (Flag::DebugBuild, cfg!(debug_assertions) || !cpu::OPTIMISED),
        (Flag::FakeBackend, trial.backend == BackendKind::Fake),
        (Flag::ThreadsOverridden, assignment.threads != cpu::default_threads()),
        (Flag::SharedHost, trial.policy.exclusive == Exclusive::Device),
    ];
    facts.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect()
}

/// Tells the agent of repetitions.
struct Reporter<'l> {
    link: &'l mut Link,
    fault: Option<Fault>,
    ledger: Option<Ledger>,
    repetitions: u32,
    /// Bytes that a decode step reads.
    weight_bytes: u64,
    /// The cell, as messages name it, where its repetitions begin together with those of other replicas.
    barrier: Option<Vec<u8>>,
    video_memory: Option<&'l VideoMemory>,
}

impl Observer for Reporter<'_> {
    fn warmed(&mut self, repetitions: u32, duration_ns: u64) -> Result<(), Halt> {
        self.link.send(from_worker::Message::Warmup(pb::WarmupRepetition { repetitions, duration_ns }))?;
        self.link.poll()
    }

    /// Both messages are written before the clock starts, by this thread: nothing is written while it runs.
    fn begins(&mut self, repetition: u32) -> Result<(), Halt> {
        let Some(cell_hash) = self.barrier.clone() else { return Ok(()) };
        let passed =
            from_worker::Message::BarrierPassed(pb::BarrierPassed { cell_hash: cell_hash.clone(), repetition });
        self.link.send(from_worker::Message::AtBarrier(pb::ReadyAtBarrier { cell_hash, repetition }))?;
        self.link.wait_at_barrier()?;
        self.link.send(passed)
    }

    fn measured(&mut self, mut sample: Sample) -> Result<(), Halt> {
        if let Some(fault) = self.fault {
            fault.strike(&mut sample, self.repetitions, &mut self.link.pipe)?;
        }
        if faster_than_physics(&sample, self.weight_bytes) {
            sample.flags.insert(Flag::FasterThanPhysics);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.given(&sample).map_err(BackendError::engine)?;
        }
        let video_memory = self.video_memory.and_then(VideoMemory::read);
        self.link.send(from_worker::Message::Sample(pb::Sample { video_memory, ..(&sample).into() }))?;
        self.link.samples += 1;
        let answer = self.link.wait();
        // Told to stop instead, nobody knows whether the agent has read it yet.
        if let (Some(ledger), Ok(())) = (&mut self.ledger, &answer) {
            ledger.taken(&sample).map_err(BackendError::engine)?;
        }
        answer
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_engine_failure_with_its_words() {
        let error = guarded::<()>(|| panic!("at token {}", 3)).unwrap_err();
        assert_eq!(error, BackendError::engine("the engine panicked: at token 3"));
    }

    #[test]
    fn what_does_not_fit_is_skipped_with_the_numbers() {
        let need = Some(Need { weights: 3 << 30, cache: 1 << 30, activations: 0 });
        assert_eq!(refuse(need, Some(4 << 30)), Ok(()));
        assert_eq!((refuse(need, None), refuse(None, Some(0))), (Ok(()), Ok(())));
        let error = refuse(need, Some(3 << 30)).unwrap_err();
        let outcome = Outcome::of_failure(error.kind, error.detail);
        assert_eq!(outcome.state(), "skipped");
        let detail = outcome.detail().unwrap();
        assert!(detail.contains("needs about 4,096 MiB") && detail.contains("has 3,072 MiB"), "{detail}");
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let text = "\u{e4}".repeat(MAX_DETAIL);
        let cut = cut(text.clone());
        assert!(cut.len() <= MAX_DETAIL && cut.len() > MAX_DETAIL - 2 && text.starts_with(&cut));
    }
}
