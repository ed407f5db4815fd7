//! What an agent has to be told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use regatta_core::flag::Flags;
use regatta_core::id::{AgentId, BuildName};
use regatta_net::Connection;

/// When an agent has its devices measured before it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CanaryWhen {
    /// Never.
    #[default]
    Off,
    /// At each start.
    Start,
    /// At a start, unless it was done within the last 24 hours.
    Daily,
}

/// Whether and how long an agent has its devices measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryConfig {
    /// When.
    pub when: CanaryWhen,
    /// About how long for each device.
    pub time: Duration,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self { when: CanaryWhen::Off, time: Duration::from_secs(10) }
    }
}

/// When a device is cool enough to be measured again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoolDown {
    /// So many degrees Celsius above what it was at rest, at most.
    pub above_rest_c: f64,
    /// Nobody waits longer than this.
    pub at_most: Duration,
}

impl Default for CoolDown {
    fn default() -> Self {
        Self { above_rest_c: 5.0, at_most: Duration::from_mins(2) }
    }
}

/// Everything an agent has to be told. [`AgentConfig::new`] fills in what rarely changes.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The agent's name; unique among the coordinator's agents.
    pub id: AgentId,
    /// Labels that scenarios may ask for.
    pub labels: BTreeMap<String, String>,
    /// The way to the coordinator.
    pub coordinator: Connection,
    /// The folder of artifacts.
    pub model_root: PathBuf,
    /// Whether weights that are not in that folder are asked of the coordinator.
    pub fetch_weights: bool,
    /// Text of the model manifest, for making synthetic weights.
    pub models_manifest: String,
    /// The folder of the spool. One agent, one spool; one spool, one coordinator database.
    pub spool_dir: PathBuf,
    /// The most that the spool may hold, in bytes.
    pub spool_quota: u64,
    /// Folders with worker programs.
    pub worker_dirs: Vec<PathBuf>,
    /// Whether the folder of the running program is searched for workers before `worker_dirs`.
    pub search_beside_program: bool,
    /// Builds of the worker program that are measured in turns, in place of every other worker. Their names may come with a
    /// trial; where they are is said here and nowhere else.
    pub builds: Vec<(BuildName, PathBuf)>,
    /// How many builds of each worker program are kept as copies beside the spool, for nights that look slower; `None` for none
    /// but those that are there.
    pub keep_workers: Option<NonZeroUsize>,
    /// Whether devices are measured at the start.
    pub canary: CanaryConfig,
    /// Environment variables for workers, on top of those that are passed on. For tests.
    pub worker_env: Vec<(OsString, OsString)>,
    /// Files with `oom_kill` counters to watch instead of the system's. For tests.
    pub oom_counters: Option<Vec<PathBuf>>,
    /// Readings of telemetry a second while a trial is measured; `None` for none at all.
    pub telemetry: Option<NonZeroU32>,
    /// What is waited for before a trial, and before a pass that makes up for a disturbed one; `None` for nothing.
    pub cool_down: Option<CoolDown>,
    /// What every sample must say, such as that the host ran on its battery when the agent was started.
    pub conditions: Flags,
    /// How long things may take.
    pub timing: Timing,
}

impl AgentConfig {
    /// The spool's quota unless another one is given: 2 GiB.
    pub const SPOOL_QUOTA: u64 = 2 * 1024 * 1024 * 1024;

    /// Builds of each worker program that are kept where nights are judged, unless another number is given: 3.
    pub const KEEP_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

    /// Readings of telemetry a second unless another number is given.
    pub const TELEMETRY_HZ: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

    /// A configuration with the usual limits, workers from beside the running program, and the built-in models.
    pub fn new(id: AgentId, coordinator: impl Into<Connection>, model_root: PathBuf, spool_dir: PathBuf) -> Self {
        Self {
            id,
            labels: BTreeMap::new(),
            coordinator: coordinator.into(),
            model_root,
            fetch_weights: true,
            models_manifest: regatta_core::model::BUILT_IN_MODELS.to_owned(),
            spool_dir,
            spool_quota: Self::SPOOL_QUOTA,
            worker_dirs: Vec::new(),
            search_beside_program: true,
            builds: Vec::new(),
            keep_workers: None,
            canary: CanaryConfig::default(),
            worker_env: Vec::new(),
            oom_counters: None,
            telemetry: Some(Self::TELEMETRY_HZ),
            cool_down: None,
            conditions: Flags::empty(),
            timing: Timing::default(),
        }
    }

    /// The folders that are searched for workers, in order.
    pub(crate) fn worker_folders(&self) -> Vec<PathBuf> {
        let beside = self.search_beside_program.then(|| std::env::current_exe().ok()?.parent().map(PathBuf::from));
        beside.flatten().into_iter().chain(self.worker_dirs.iter().cloned()).collect()
    }
}

/// How long things may take before they are given up, and how often things are done.
#[derive(Debug, Clone)]
pub struct Timing {
    /// A worker's answer to `probe`.
    pub probe: Duration,
    /// Loading a model.
    pub load: Duration,
    /// Making synthetic weights.
    pub make: Duration,
    /// A repetition, whatever those before it took: it is stuck when it takes this long and ten times as long as the
    /// longest one before it.
    pub repetition: Duration,
    /// A worker's exit after its last frame.
    pub exit: Duration,
    /// How long a lease counts as ours after the last sign that it was renewed.
    pub lease: Duration,
    /// How long a trial waits for a spool that can't be written to.
    pub spool: Duration,
    /// Pause before a write to the spool is tried again.
    pub spool_retry: Duration,
    /// Connecting, and the coordinator's hello.
    pub hello: Duration,
    /// The first pause before a reconnect; it doubles each time.
    pub backoff_min: Duration,
    /// The longest pause before a reconnect.
    pub backoff_max: Duration,
    /// A record waits this long for others to share a batch with.
    pub batch: Duration,
    /// An acknowledgement of a batch or of a trial's end.
    pub ack: Duration,
    /// Sending what is left when the agent leaves.
    pub drain: Duration,
    /// The current repetition when the agent leaves.
    pub leave: Duration,
    /// A replica's wait for the others: they may have to make and load weights first.
    pub barrier: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(10),
            load: Duration::from_mins(15),
            make: Duration::from_hours(2),
            repetition: Duration::from_mins(1),
            exit: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            spool: Duration::from_mins(5),
            spool_retry: Duration::from_secs(5),
            hello: Duration::from_secs(10),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            batch: Duration::from_millis(500),
            ack: Duration::from_mins(1),
            drain: Duration::from_secs(10),
            leave: Duration::from_mins(2),
            barrier: Duration::from_hours(3),
        }
    }
}
