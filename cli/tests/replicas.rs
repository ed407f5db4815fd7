//! Replicas from end to end: a coordinator, two agents with workers of their own, and the report, over loopback.
//!
//! Two agents with a CPU each stand for two machines. They share this one, which the report says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_agent::{Agent, AgentConfig, AgentError, Shutdown, Timing};
use regatta_coordinator::{Config, Coordinator, CoordinatorError};
use regatta_core::model::BUILT_IN_MODELS;
use regatta_proto::pb;
use regatta_proto::pb::run_service_client::RunServiceClient;
use regatta_reporter::{load, view};
use regatta_store::Reader;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(1);

const RUN: &str = "run-a";

fn scenario(repetitions: u32, passes: u32) -> String {
    format!(
        r#"
schema = 1
name = "scaling"
models = ["regatta-15m"]
weights = "synthetic"
backends = ["fake"]
precisions = ["f32"]
devices = ["cpu"]

[policy]
repetitions = {repetitions}
passes = {passes}
threads = 1

[policy.warmup]
min_repetitions = 1
max_repetitions = 1
min_time = "0s"

[[workload]]
name = "chat"
prompt_tokens = 8
generate = 8
replicas = [1, 2]
"#
    )
}

/// A fleet of two.
struct Fleet {
    folder: tempfile::TempDir,
    uri: Uri,
    reader: Reader,
    people: RunServiceClient<Channel>,
    stop: CancellationToken,
    coordinator: JoinHandle<Result<(), CoordinatorError>>,
}

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Fleet {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // What an agent had before it crashed is waited for until its lease runs out.
        let (lease, heartbeat) = (Duration::from_secs(5), Duration::from_millis(500));
        let config = Config { lease, heartbeat, ..Config::new(folder.path().join("regatta.db")) };
        let bound = Coordinator::bind(config).await.unwrap();
        let (addr, reader, stop) = (bound.addr(), bound.reader(), CancellationToken::new());
        let coordinator = tokio::spawn(bound.serve(stop.clone()));
        let uri: Uri = format!("http://{addr}").parse().unwrap();
        let people = RunServiceClient::new(Channel::builder(uri.clone()).connect().await.unwrap());
        Self { folder, uri, reader, people, stop, coordinator }
    }

    fn config(&self, name: &str) -> AgentConfig {
        let folder = self.folder.path();
        let spool = folder.join(format!("spool-{name}"));
        let mut config = AgentConfig::new(name.parse().unwrap(), self.uri.clone(), folder.join("models"), spool);
        config.search_beside_program = false;
        config.worker_dirs = vec![worker_folder()];
        config.worker_env = vec![("REGATTA_FAKE".into(), r#"{"prefill_us": 2000, "decode_us": 1000}"#.into())];
        config.timing = Timing { backoff_max: Duration::from_millis(100), ..Timing::default() };
        config
    }

    /// Starts an agent. One that crashed may still be letting go of its spool.
    async fn agent(&self, name: &str) -> Running {
        let started = async {
            loop {
                match Agent::start(self.config(name)).await {
                    Ok(agent) => break agent,
                    Err(AgentError::Spool(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        let agent = timeout(PATIENCE, started).await.unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Running { shutdown, task }
    }

    /// Submits the scenario when both agents are connected.
    async fn submit(&mut self, repetitions: u32, passes: u32) {
        let connected = async {
            loop {
                let agents = self.people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
                if agents.iter().filter(|agent| agent.connected).count() == 2 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, connected).await.unwrap();
        let bundle = pb::ScenarioBundle {
            file: "scaling.toml".to_owned(),
            text: scenario(repetitions, passes),
            models: BUILT_IN_MODELS.to_owned(),
            ..pb::ScenarioBundle::default()
        };
        let request =
            pb::SubmitRunRequest { scenario: Some(bundle), run_id: RUN.to_owned(), ..pb::SubmitRunRequest::default() };
        self.people.submit_run(request).await.unwrap();
    }

    /// Follows the run until `enough` of it is there.
    async fn watch(&mut self, enough: impl Fn(&pb::Run) -> bool) {
        let request = pb::WatchRunRequest { run_id: RUN.to_owned() };
        let mut stream = self.people.watch_run(request).await.unwrap().into_inner();
        let watched = async {
            while let Some(update) = stream.message().await.unwrap() {
                if update.run.as_ref().is_some_and(&enough) {
                    return;
                }
            }
            panic!("the run ended");
        };
        timeout(PATIENCE, watched).await.unwrap();
    }

    async fn report(&self) -> view::RunView {
        let dataset = load(&self.reader, &[RUN.parse().unwrap()]).await.unwrap();
        view::report(&dataset, jiff::Timestamp::UNIX_EPOCH).runs.remove(0)
    }

    async fn end(self, agents: Vec<Running>) {
        for agent in agents {
            agent.shutdown.hard.cancel();
            timeout(PATIENCE, agent.task).await.unwrap().unwrap().unwrap();
        }
        self.stop.cancel();
        timeout(PATIENCE, self.coordinator).await.unwrap().unwrap().unwrap();
    }
}

fn worker_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_regatta")).parent().unwrap();
    let worker = folder.join(format!("regatta-worker{}", std::env::consts::EXE_SUFFIX));
    assert!(worker.is_file(), "{} is missing: build regatta-worker first", worker.display());
    folder.to_owned()
}

fn is_done(run: &pb::Run) -> bool {
    run.state == "done"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_measure_a_workload_one_by_one_and_together() {
    let mut fleet = Fleet::start().await;
    let agents = vec![fleet.agent("node-a").await, fleet.agent("node-b").await];
    fleet.submit(3, 2).await;
    fleet.watch(is_done).await;
    let run = fleet.report().await;
    // Each CPU alone, and both together.
    assert_eq!((run.rows.len(), run.groups.len(), run.problems.len()), (2, 1, 0), "{:#?}", run.problems);
    let group = &run.groups[0];
    // Three repetitions of each of two worker processes a replica, all begun together.
    assert_eq!((group.replicas, group.n, group.problem.as_str()), (2, 6, ""));
    assert_eq!(group.place, "regatta-15m on cpu of node-a; cpu of node-b");
    assert!(group.flags.iter().any(|flag| flag.name == "one machine"), "{:?}", group.flags);
    let (skew, efficiency) = (group.skew.sort.unwrap(), group.efficiency.sort.unwrap());
    assert!(skew > 0.0 && efficiency > 0.0, "{skew} ms, {efficiency}");
    assert_eq!(fleet.reader.begun(&RUN.parse().unwrap()).await.unwrap().len(), 6);
    let scaling = run.sections.iter().flat_map(|section| &section.charts).any(|c| c.caption().slug == "scaling");
    assert!(scaling, "no chart");
    fleet.end(agents).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_agent_crashes_is_repeated_whole() {
    const REPETITIONS: u32 = 30;
    let mut fleet = Fleet::start().await;
    let [first, second] = [fleet.agent("node-a").await, fleet.agent("node-b").await];
    fleet.submit(REPETITIONS, 1).await;
    // Singles are done, and the group has begun.
    fleet.watch(|run| run.samples > u64::from(2 * REPETITIONS)).await;
    second.task.abort();
    assert!(second.task.await.unwrap_err().is_cancelled());
    let second = fleet.agent("node-b").await;
    fleet.watch(is_done).await;
    let run = fleet.report().await;
    assert_eq!((run.rows.len(), run.groups.len(), run.problems.len()), (2, 1, 0), "{:#?}", run.problems);
    assert_eq!(run.groups[0].n, REPETITIONS as usize);
    // What the first lease measured is kept, and none of it counts: of the group all repetitions are of one lease.
    let id = RUN.parse().unwrap();
    let counted = fleet.reader.samples(&id).await.unwrap();
    assert_eq!(counted.len(), 4 * REPETITIONS as usize);
    assert!(fleet.reader.all_samples(&id).await.unwrap().len() > counted.len());
    let cells = fleet.reader.cells(&id).await.unwrap();
    let epochs: Vec<_> = cells.iter().filter(|cell| cell.cell.workload.replicas == 2).map(|cell| cell.epoch).collect();
    assert!(epochs.iter().all(|epoch| *epoch == Some(regatta_core::trial::Epoch(2))), "{epochs:?}");
    fleet.end(vec![first, second]).await;
}
