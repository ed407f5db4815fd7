//! The agent as a whole: what is found at its start, and its run.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use regatta_core::device::Device;
use regatta_core::worker::KEPT_WORKERS;
use regatta_models::ModelError;
use regatta_models::library::Library;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::barriers::Barriers;
use crate::builds::{self, Builds, Kept};
use crate::canary;
use crate::config::AgentConfig;
use crate::cooling::Cooling;
use crate::devices::{self, Discovered, Idle};
use crate::fingerprint::Machine;
use crate::process::Surroundings;
use crate::session::{Identity, Session, SessionError, Setup, Shutdown};
use crate::spool::handle::SpoolHandle;
use crate::spool::{Spool, SpoolError};
use crate::telemetry::{self, Recorder};
use crate::trial::Context;
use crate::trial::lease::Lease;
use crate::trial::weights::Store;
use crate::trials::Trials;
use crate::workers::{self, Disabled, Found, Worker};

/// Progress messages that may wait to be sent; more are dropped.
const PROGRESS: usize = 32;

/// The manifest's name in the spool's folder.
const MODELS: &str = "models.toml";

/// Why an agent can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The spool can't be used.
    #[error("the spool can't be used")]
    Spool(#[from] SpoolError),
    /// The model root can't be used.
    #[error("the model root can't be used")]
    Models(#[from] ModelError),
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The session with the coordinator will never work.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// An agent that has found its workers and devices and holds its spool.
pub struct Agent {
    config: AgentConfig,
    spool: SpoolHandle,
    store: Store,
    found: Found,
    devices: Vec<Device>,
    idle: Vec<Idle>,
    renumbered: Vec<String>,
}

/// Says in the log what is worth knowing of the devices.
fn log(idle: &[Idle], renumbered: &[String]) {
    for change in renumbered {
        tracing::warn!("{change}");
    }
    for Idle { device, reason } in idle {
        tracing::info!(device = %device.id, name = device.name, reason, "a device that can't be measured");
    }
}

impl Agent {
    /// Opens the spool, asks the workers what they can do, and finds the devices.
    pub async fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let spool = Spool::open(&config.spool_dir, config.spool_quota)?;
        let library = Library::open(&config.model_root)?;
        let models = config.spool_dir.join(MODELS);
        std::fs::write(&models, &config.models_manifest)
            .map_err(|source| AgentError::Write { path: models.clone(), source })?;
        let mut surroundings =
            Surroundings { extra: config.worker_env.clone(), oom_counters: config.oom_counters.clone() };
        let found = if config.builds.is_empty() {
            workers::find(&config.worker_folders(), &surroundings, config.timing.probe).await
        } else {
            workers::ask(&config.builds, &surroundings, config.timing.probe).await
        };
        if let Some(most) = config.keep_workers {
            builds::keep_those(&Kept::of(&config.spool_dir), &config.worker_folders(), most.get(), |_| true);
        }
        let discovered = devices::discover(&config.id, &found);
        let renumbered = devices::remember(&config.spool_dir, &discovered);
        let Discovered { devices, idle } = discovered;
        log(&idle, &renumbered);
        let order = devices::order_for_workers(&devices);
        surroundings.extra.extend(order.map(|(name, value)| (name.into(), value.into())));
        let coordinator = config.fetch_weights.then(|| config.coordinator.clone());
        let store = Store { library, models, surroundings, deadline: config.timing.make, coordinator };
        Ok(Self { config, spool: SpoolHandle::new(spool), store, found, devices, idle, renumbered })
    }

    /// The devices it offers, with their backends.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Numbers that stand for another device than when the spool was last used, in words.
    pub fn renumbered(&self) -> &[String] {
        &self.renumbered
    }

    /// Devices that are here and that no worker can drive, with reasons.
    pub fn idle_devices(&self) -> &[Idle] {
        &self.idle
    }

    /// The workers that it found.
    pub fn workers(&self) -> &[Worker] {
        &self.found.workers
    }

    /// Programs that look like workers and can't be used, with reasons.
    pub fn disabled_workers(&self) -> &[Disabled] {
        &self.found.disabled
    }

    /// The copies of worker programs that it has, as a fact of the host.
    fn kept_workers(&self) -> Option<(String, String)> {
        let names: Vec<String> = Kept::of(&self.config.spool_dir).names().iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| (KEPT_WORKERS.to_owned(), names.join(" ")))
    }

    /// Serves the coordinator until it is told to stop. An error only where no reconnect can ever help.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AgentError> {
        let boot = Uuid::now_v7();
        let canaries = tokio::select! {
            biased;
            () = shutdown.soft.cancelled() => Vec::new(),
            () = shutdown.hard.cancelled() => Vec::new(),
            canaries = canary::run(
                &self.config.canary,
                &self.config.spool_dir,
                &self.devices,
                &self.found.workers,
                &self.store.surroundings,
                Timestamp::now(),
            ) => canaries,
        };
        let watched: Vec<_> = self.devices.iter().map(|device| device.id).collect();
        let identity = Identity {
            agent: self.config.id.to_string(),
            boot_id: boot.to_string(),
            devices: self.devices.clone(),
            workers: self.found.workers.iter().map(|worker| worker.json.clone()).collect(),
            host: devices::host().into_iter().chain(telemetry::facts(&watched)).chain(self.kept_workers()).collect(),
            labels: self.config.labels,
            library: self.store.library.clone(),
            canaries,
        };
        let timing = self.config.timing.clone();
        let lease = Lease::new(timing.lease);
        let barriers = Barriers::default();
        let telemetry = self.config.telemetry.map_or_else(Recorder::off, |rate| Recorder::start(watched, rate));
        let (progress, progress_receiver) = mpsc::channel(PROGRESS);
        let context = Arc::new(Context {
            workers: self.found.workers,
            builds: Builds::new(Kept::of(&self.config.spool_dir)),
            surroundings: self.store.surroundings.clone(),
            store: self.store,
            spool: self.spool.clone(),
            lease: lease.clone(),
            barriers: barriers.clone(),
            telemetry: telemetry.clone(),
            machine: Machine::new(self.config.id, self.devices.clone()),
            cooling: Cooling::new(self.config.cool_down),
            conditions: self.config.conditions,
            progress,
            timing: timing.clone(),
        });
        let trials = Trials::new(context, self.devices);
        let setup = Setup {
            identity,
            connection: self.config.coordinator,
            timing,
            spool: self.spool,
            lease,
            barriers,
            progress: progress_receiver,
            rng: ChaCha8Rng::seed_from_u64(boot.as_u64_pair().1),
        };
        let result = Session::new(setup, trials, shutdown).run().await;
        telemetry.stop();
        Ok(result?)
    }
}
