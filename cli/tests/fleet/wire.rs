//! Long silences, in virtual time: coordinator and agent in the test's own process, a proxy between them.
//!
//! Time stands still and moves only when told to: as long as a blocking task is under way, tokio does not jump to the next
//! timer by itself. Sockets and worker processes go on as ever.

use std::path::Path;
use std::time::Duration;

use regatta_agent::{Agent, AgentConfig, Shutdown};
use regatta_coordinator::{Config, Coordinator, CoordinatorError};
use regatta_proto::pb;
use regatta_proto::pb::run_service_client::RunServiceClient;
use regatta_store::Reader;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::harness::{FAKE, scenario, worker_folder};
use crate::ledger::{Ledger, Verdict};
use crate::proxy::Proxy;

/// Repetitions of a cell: more than are measured while the coordinator stops.
const REPETITIONS: u32 = 250;

/// Samples of a cell.
const CELL: usize = REPETITIONS as usize;

/// Keeps the clock from moving by itself until it is dropped.
struct StoppedClock {
    _release: std::sync::mpsc::Sender<()>,
}

impl StoppedClock {
    fn new() -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || released.recv()));
        Self { _release: release }
    }
}

/// Lets everybody work for a moment, then moves the clock.
async fn step(by: Duration) {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    std::thread::sleep(Duration::from_millis(1));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(by).await;
}

/// Moves the clock until it is so; the virtual time that took.
async fn until(what: &str, limit: Duration, holds: impl AsyncFnMut() -> bool) -> Duration {
    until_by(Duration::from_millis(250), what, limit, holds).await
}

/// The same in steps of one's own: the smaller they are, the more real time others have before a lease of virtual time
/// runs out.
async fn until_by(by: Duration, what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "waited in vain for {what}");
        step(by).await;
    }
    begun.elapsed()
}

/// A coordinator in this process.
struct Server {
    reader: Reader,
    people: RunServiceClient<Channel>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), CoordinatorError>>,
}

impl Server {
    async fn start(folder: &Path, proxy: &Proxy) -> Self {
        let bound = Coordinator::bind(Config::new(folder.join("regatta.sqlite"))).await.unwrap();
        let (addr, reader, shutdown) = (bound.addr(), bound.reader(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.serve(shutdown.clone()));
        proxy.lead_to(Some(addr));
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        Self { reader, people: RunServiceClient::new(channel), shutdown, tasks }
    }

    async fn connected(&mut self) -> bool {
        let listed = self.people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
        listed.iter().any(|agent| agent.connected)
    }

    async fn run(&mut self) -> pb::Run {
        let request = pb::GetRunRequest { run_id: "run-a".to_owned() };
        self.people.get_run(request).await.unwrap().into_inner().run.unwrap()
    }

    async fn stop(self) {
        let Self { people, shutdown, mut tasks, .. } = self;
        drop(people);
        shutdown.cancel();
        while tasks.try_join_next().is_none() {
            step(Duration::from_millis(100)).await;
        }
    }
}

async fn agent(folder: &Path, proxy: &Proxy) -> (Shutdown, JoinSet<()>) {
    let uri: tonic::transport::Uri = format!("http://{}", proxy.addr).parse().unwrap();
    let mut config = AgentConfig::new("agent-0".parse().unwrap(), uri, folder.join("models"), folder.join("spool"));
    config.search_beside_program = false;
    config.worker_dirs = vec![worker_folder()];
    let ledger = folder.join("ledger");
    config.worker_env = vec![("REGATTA_FAKE".into(), FAKE.into()), ("REGATTA_FAKE_LEDGER".into(), ledger.into())];
    let agent = Agent::start(config).await.unwrap();
    let shutdown = Shutdown::new();
    let run = agent.run(shutdown.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { run.await.unwrap() });
    (shutdown, tasks)
}

#[tokio::test(start_paused = true)]
async fn both_sides_notice_within_25_seconds_that_the_other_one_is_gone_without_a_word() {
    let _clock = StoppedClock::new();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start().await;
    let mut server = Server::start(folder.path(), &proxy).await;
    let (shutdown, _agent) = agent(folder.path(), &proxy).await;
    let minute = Duration::from_mins(1);
    until("the agent to connect", minute, async || server.connected().await).await;
    let connections = proxy.connections();
    proxy.blackhole();
    let (mut here, mut there) = (None, None);
    let begun = Instant::now();
    until("both to notice", minute, async || {
        if here.is_none() && proxy.connections() > connections {
            here = Some(begun.elapsed());
        }
        if there.is_none() && !server.connected().await {
            there = Some(begun.elapsed());
        }
        here.is_some() && there.is_some()
    })
    .await;
    let limit = Duration::from_secs(26);
    assert!(here.unwrap() <= limit && there.unwrap() <= limit, "agent: {here:?}, coordinator: {there:?}");
    proxy.cut();
    proxy.heal();
    until("the agent to connect again", 2 * minute, async || server.connected().await).await;
    shutdown.hard.cancel();
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_coordinator_is_away_for_ten_minutes_the_agent_measures_on_and_delivers_later() {
    let _clock = StoppedClock::new();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start().await;
    let mut server = Server::start(folder.path(), &proxy).await;
    let (shutdown, _agent) = agent(folder.path(), &proxy).await;
    let minute = Duration::from_mins(1);
    until("the agent to connect", minute, async || server.connected().await).await;
    server.people.submit_run(scenario("run-a", 1, &["one", "two"], REPETITIONS)).await.unwrap();
    until("samples", minute, async || server.run().await.samples > 3).await;
    proxy.lead_to(None);
    server.stop().await;
    proxy.cut();
    let ledger = folder.path().join("ledger");
    let gone = Instant::now();
    // From now on it has no right to begin another cell.
    step(Duration::from_secs(31)).await;
    let before = Ledger::read([ledger.clone()]).given.len();
    until("the cell in hand to be finished", 9 * minute, async || Ledger::read([ledger.clone()]).given.len() >= CELL)
        .await;
    assert!(before < CELL, "the coordinator was still there for all of the first cell");
    until("ten minutes", 11 * minute, async || gone.elapsed() >= 10 * minute).await;
    assert_eq!(Ledger::read([ledger.clone()]).given.len(), CELL, "a cell was begun without a lease");

    let mut server = Server::start(folder.path(), &proxy).await;
    let by = Duration::from_millis(20);
    until_by(by, "the run to end", 15 * minute, async || server.run().await.state == "done").await;
    let run = "run-a".parse().unwrap();
    let samples = server.reader.samples(&run).await.unwrap();
    assert_eq!((samples.len(), server.run().await.cells["ok"]), (2 * CELL, 2));
    assert!(samples.iter().all(|sample| sample.key.epoch.0 == 1), "no second lease was needed");
    shutdown.hard.cancel();
    server.stop().await;
    let ledger = Ledger::read([ledger]);
    let verdict = Verdict::of(&ledger, &folder.path().join("regatta.sqlite"), std::slice::from_ref(&run)).await;
    verdict.assert_nothing_lost();
    assert_eq!((ledger.given.len(), verdict.stored), (2 * CELL, 2 * CELL));
}
