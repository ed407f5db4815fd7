//! A fleet: one coordinator behind a [`Proxy`], agents in front of it, each a process of its own.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use regatta_agent::AgentConfig;
use regatta_agent::spool::Spool;
use regatta_core::id::RunId;
use regatta_net::Credentials;
use regatta_proto::pb;
use regatta_proto::pb::run_service_client::RunServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::ledger::{Ledger, Verdict};
use crate::proxy::Proxy;
use crate::roles::{PLAY, READY, ROLE, Role, SPRUNG, way};
use crate::security::{PERSON, Security};

/// The longest that anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Fast enough for many repetitions a second, slow enough to be hit by a fault in the middle of one.
pub(crate) const FAKE: &str = r#"{"load_us": 1000, "prefill_us": 10, "decode_us": 300}"#;

/// The length of a lease.
pub(crate) const LEASE: Duration = Duration::from_millis(800);

/// The worker program, beside `regatta`.
pub(crate) fn worker_folder() -> PathBuf {
    let regatta = Path::new(env!("CARGO_BIN_EXE_regatta"));
    let worker = regatta.with_file_name(format!("regatta-worker{}", std::env::consts::EXE_SUFFIX));
    assert!(worker.is_file(), "{} is missing: cargo build -p regatta-worker --bins", worker.display());
    regatta.parent().unwrap().to_owned()
}

/// A process that plays a [`Role`].
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    /// What it said when it was ready.
    pub(crate) said: String,
}

impl Actor {
    /// Starts it and waits until it is ready. What it logs is appended to `log`.
    fn start(role: &Role, log: &Path) -> Self {
        Self::start_in(None, role, log)
    }

    /// The same, in a network namespace.
    fn start_in(namespace: Option<&String>, role: &Role, log: &Path) -> Self {
        let mut child = Self::spawn(namespace, role, log);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.find_map(|line| Some(line.ok()?.split_once(READY)?.1.to_owned()));
        // Nobody reads what it prints at its end.
        std::thread::spawn(move || lines.for_each(drop));
        Self { said: said.expect("the process ended before it was ready: see its log"), child }
    }

    /// Starts it and does not wait.
    fn launch(role: &Role, log: &Path) -> Self {
        let mut child = Self::spawn(None, role, log);
        let mut printed = child.stdout.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut printed, &mut std::io::sink()));
        Self { said: String::new(), child }
    }

    fn spawn(namespace: Option<&String>, role: &Role, log: &Path) -> Child {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let program = std::env::current_exe().unwrap();
        let mut command = match namespace {
            // It becomes the program, so the process id is the same.
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["--exact", PLAY, "--nocapture"])
            .env(ROLE, role.to_json())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// With no chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self, what: &str) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(id: u32, name: &str) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    let signal = match name {
        "KILL" => rustix::process::Signal::KILL,
        "TERM" => rustix::process::Signal::TERM,
        "STOP" => rustix::process::Signal::STOP,
        "CONT" => rustix::process::Signal::CONT,
        other => panic!("no signal {other}"),
    };
    // It may be gone already.
    let _ = rustix::process::kill_process(pid, signal);
}

/// One coordinator, its agents, the wire between them.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) proxy: Proxy,
    pub(crate) coordinator: Option<Actor>,
    pub(crate) agents: Vec<Option<Actor>>,
    workers: PathBuf,
    setting: Setting,
    security: Option<Security>,
}

/// What kind of fleet.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The length of a lease. Pauses of agents are measured by it.
    pub(crate) lease: Duration,
    /// Whether an agent that fails trial after trial is put aside.
    pub(crate) quarantine: bool,
    /// The network namespace of each agent; empty where they share the test's own.
    pub(crate) namespaces: Vec<String>,
    /// The coordinator's own address, for agents that reach it there, without a proxy: with TLS and tokens.
    pub(crate) listen: Option<IpAddr>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { lease: LEASE, quarantine: true, namespaces: Vec::new(), listen: None }
    }
}

impl Fleet {
    pub(crate) async fn start(agents: usize) -> Self {
        Self::with(agents, Setting::default()).await
    }

    pub(crate) async fn with(agents: usize, setting: Setting) -> Self {
        Self::of(agents, Proxy::start().await, setting).await
    }

    pub(crate) async fn of(agents: usize, proxy: Proxy, setting: Setting) -> Self {
        let mut fleet = Self {
            folder: tempfile::tempdir().unwrap(),
            proxy,
            coordinator: None,
            agents: Vec::new(),
            workers: worker_folder(),
            setting,
            security: None,
        };
        if let Some(listen) = fleet.setting.listen {
            let names: Vec<_> = (0..agents).map(|number| format!("agent-{number}")).collect();
            fleet.security = Some(Security::make(fleet.folder.path(), listen, &fleet.db(), &names).await);
        }
        fleet.start_coordinator();
        for number in 0..agents {
            fleet.agents.push(None);
            fleet.start_agent(number);
        }
        fleet.connected(agents).await;
        fleet
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.path().join("regatta.sqlite")
    }

    pub(crate) fn spool(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("agent-{number}/spool"))
    }

    /// The book of an agent's workers.
    pub(crate) fn ledger(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("ledger-{number}"))
    }

    /// All the books in one.
    pub(crate) fn ledgers(&self) -> Ledger {
        Ledger::read((0..self.agents.len()).map(|number| self.ledger(number)))
    }

    fn trap(&self) -> PathBuf {
        self.folder.path().join("trap")
    }

    /// Sets a trap for the coordinator; `None` takes it away.
    pub(crate) fn set_trap(&self, what: Option<&str>) {
        match what {
            Some(what) => {
                // Never seen half-written.
                let (new, trap) = (self.folder.path().join("trap.new"), self.trap());
                std::fs::write(&new, what).unwrap();
                std::fs::rename(new, trap).unwrap();
            }
            None => std::fs::remove_file(self.trap()).unwrap(),
        }
    }

    /// Waits until a trap has killed the coordinator. Returns how many records were stored just before it struck.
    pub(crate) fn trapped(&mut self) -> i64 {
        let status = self.coordinator.take().unwrap().wait("the coordinator in the trap");
        self.proxy.lead_to(None);
        assert_eq!(status.signal(), Some(9), "{status}");
        self.set_trap(None);
        let sprung = self.folder.path().join(SPRUNG);
        let before = std::fs::read_to_string(&sprung).unwrap().parse().unwrap();
        std::fs::remove_file(sprung).unwrap();
        before
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    pub(crate) fn start_coordinator(&mut self) {
        let Setting { lease, quarantine, .. } = self.setting;
        let (db, trap) = (self.db(), self.trap());
        let listen = self.security.as_ref().map_or(IpAddr::from([127, 0, 0, 1]), |security| security.listen);
        let tls = self.security.as_ref().map(|security| (security.cert(), security.key()));
        let role = Role::Coordinator { db, lease, quarantine, trap, listen: (listen, 0).into(), tls };
        let actor = Actor::start(&role, &self.folder.path().join("coordinator.log"));
        self.proxy.lead_to(Some(actor.said.parse().unwrap()));
        self.coordinator = Some(actor);
    }

    pub(crate) fn start_agent(&mut self, number: usize) {
        let (role, log) = self.agent(number);
        self.agents[number] = Some(Actor::start_in(self.setting.namespaces.get(number), &role, &log));
    }

    /// The same without waiting until it is ready.
    pub(crate) fn launch_agent(&mut self, number: usize) {
        let (role, log) = self.agent(number);
        self.agents[number] = Some(Actor::launch(&role, &log));
    }

    /// What that agent is, and where it logs.
    fn agent(&self, number: usize) -> (Role, PathBuf) {
        let role = Role::Agent {
            id: format!("agent-{number}"),
            coordinator: if self.security.is_some() { self.address() } else { self.proxy.addr },
            folder: self.folder.path().join(format!("agent-{number}")),
            workers: self.workers.clone(),
            fake: FAKE.to_owned(),
            ledger: self.ledger(number),
            lease: self.setting.lease,
            trust: self.trust(&format!("agent-{number}")),
        };
        (role, self.folder.path().join(format!("agent-{number}.log")))
    }

    pub(crate) fn kill_coordinator(&mut self) {
        self.proxy.lead_to(None);
        self.coordinator.take().unwrap().kill();
    }

    pub(crate) fn kill_agent(&mut self, number: usize) {
        self.agents[number].take().unwrap().kill();
    }

    /// Worker processes of an agent.
    pub(crate) fn workers_of(&self, number: usize) -> Vec<u32> {
        let agent = self.agents[number].as_ref().unwrap().id();
        let tasks = std::fs::read_dir(format!("/proc/{agent}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        children.flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
    }

    fn address(&self) -> SocketAddr {
        self.coordinator.as_ref().unwrap().said.parse().unwrap()
    }

    /// The files that somebody of that name shows and checks, where that is needed.
    fn trust(&self, name: &str) -> Option<(PathBuf, PathBuf)> {
        self.security.as_ref().map(|security| (security.ca(), security.token(name)))
    }

    pub(crate) async fn people(&self) -> RunServiceClient<InterceptedService<Channel, Credentials>> {
        let way = way(self.address(), self.trust(PERSON));
        let channel = way.endpoint().unwrap().connect().await.unwrap();
        RunServiceClient::with_interceptor(channel, way.credentials().unwrap())
    }

    /// Waits until so many agents are connected.
    pub(crate) async fn connected(&self, agents: usize) {
        let mut people = self.people().await;
        self.wait_for("the agents to connect", async || {
            let listed = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
            listed.iter().filter(|agent| agent.connected).count() == agents
        })
        .await;
    }

    /// Asks again and again until it is so.
    pub(crate) async fn wait_for(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.story());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Submits a run of so many trials on each agent, with these workloads in each.
    pub(crate) async fn submit(&self, trials: usize, workloads: &[&str], repetitions: u32) -> RunId {
        self.submit_as("run-a", trials, workloads, repetitions).await
    }

    /// The same, under a name.
    pub(crate) async fn submit_as(&self, run: &str, trials: usize, workloads: &[&str], repetitions: u32) -> RunId {
        let request = scenario(run, trials, workloads, repetitions);
        let run = self.people().await.submit_run(request).await.unwrap().into_inner().run_id;
        run.parse().unwrap()
    }

    pub(crate) async fn run(&self, run: &RunId) -> pb::Run {
        let request = pb::GetRunRequest { run_id: run.to_string() };
        self.people().await.get_run(request).await.unwrap().into_inner().run.unwrap()
    }

    /// Waits until every cell has ended.
    pub(crate) async fn done(&self, run: &RunId) -> pb::Run {
        self.wait_for("the run to end", async || self.run(run).await.state != "active").await;
        self.run(run).await
    }

    /// Waits until at least so many samples are stored.
    pub(crate) async fn stored(&self, run: &RunId, samples: u64) {
        self.wait_for("samples", async || self.run(run).await.samples >= samples).await;
    }

    /// Ends agents and coordinator in good order. Nothing may be left in a spool.
    pub(crate) fn stop(&mut self) {
        for number in 0..self.agents.len() {
            if let Some(agent) = self.agents[number].take() {
                agent.signal("TERM");
                let status = agent.wait("the agent");
                assert!(status.success(), "agent {number}: {status}\n{}", self.story());
            }
            let spool = Spool::open(&self.spool(number), AgentConfig::SPOOL_QUOTA).unwrap();
            assert!(spool.heads().is_empty(), "left in spool {number}: {:?}\n{}", spool.heads(), self.story());
        }
        let coordinator = self.coordinator.take().unwrap();
        coordinator.signal("TERM");
        let status = coordinator.wait("the coordinator");
        assert!(status.success(), "coordinator: {status}\n{}", self.story());
    }

    /// Compares the engine's book with the database.
    pub(crate) async fn verdict(&self, run: &RunId) -> (Ledger, Verdict) {
        self.verdict_of(std::slice::from_ref(run)).await
    }

    /// The same for several runs, which have to be all that there are.
    pub(crate) async fn verdict_of(&self, runs: &[RunId]) -> (Ledger, Verdict) {
        let ledger = self.ledgers();
        let verdict = Verdict::of(&ledger, &self.db(), runs).await;
        (ledger, verdict)
    }

    /// The end of what everybody has logged, for a test that fails.
    pub(crate) fn story(&self) -> String {
        let names =
            std::iter::once("coordinator".to_owned()).chain((0..self.agents.len()).map(|n| format!("agent-{n}")));
        let tail = |name: String| {
            let log = self.log(&name);
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"))
        };
        names.map(tail).collect()
    }
}

/// A request for a run of so many trials on each agent, with these workloads in each.
pub(crate) fn scenario(run: &str, trials: usize, workloads: &[&str], repetitions: u32) -> pb::SubmitRunRequest {
    let precisions = ["\"f32\"", "\"f16\"", "\"q8_0\"", "\"q4_k_m\""][..trials].join(", ");
    let mut text = format!(
        "schema = 1\nname = \"fleet\"\nmodels = [\"regatta-15m\"]\nweights = \"synthetic\"\nbackends = [\"fake\"]\n\
         precisions = [{precisions}]\n[policy]\nrepetitions = {repetitions}\ntimeout = \"30m\"\n[policy.warmup]\n\
         min_repetitions = 0\nmax_repetitions = 0\nmin_time = \"0s\"\n"
    );
    for (number, name) in workloads.iter().enumerate() {
        let _ = write!(text, "[[workload]]\nname = \"{name}\"\nprompt_tokens = 8\ngenerate = {}\n", 6 + number);
    }
    let scenario = pb::ScenarioBundle {
        file: "fleet.toml".to_owned(),
        text,
        models: regatta_core::model::BUILT_IN_MODELS.to_owned(),
        ..pb::ScenarioBundle::default()
    };
    let (scenario, run_id) = (Some(scenario), run.to_owned());
    pb::SubmitRunRequest { scenario, allow_large: false, run_id, priority: 0 }
}
