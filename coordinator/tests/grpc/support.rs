//! A coordinator on a temporary database, a scripted agent, and a scenario that unfolds to one trial of two cells.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use regatta_coordinator::{Config, Coordinator, CoordinatorError};
use regatta_core::digest::Digest;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::agent_service_client::AgentServiceClient;
use regatta_proto::pb::coordinator_message::Message;
use regatta_proto::pb::run_service_client::RunServiceClient;
use regatta_proto::pb::trial_record::Record;
use regatta_proto::{PROTOCOL, pb};
use regatta_store::Reader;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Samples of each cell.
pub(crate) const REPETITIONS: u32 = 2;

/// Tokens of each sample.
pub(crate) const GENERATE: u32 = 2;

/// Longer than anything takes; shorter than a person waits for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SCENARIO: &str = r#"
schema = 1
name = "small"
description = "one trial of two cells"
models = ["tinyllama-1.1b"]
weights = "synthetic"
backends = ["fake"]
precisions = ["q8_0"]
devices = ["cpu"]

[policy]
repetitions = 2

[[workload]]
name = "first"
prompt_tokens = 8
generate = 2

[[workload]]
name = "second"
prompt_tokens = 16
generate = 2
"#;

/// A coordinator that serves.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) dashboard: Option<SocketAddr>,
    pub(crate) reader: Reader,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), CoordinatorError>>,
}

impl Server {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::with(Config { clock: || Timestamp::UNIX_EPOCH, ..Config::new(dir.join("regatta.db")) }).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let bound = Coordinator::bind(config).await.unwrap();
        let (addr, metrics) = (bound.addr(), bound.metrics_addr());
        let dashboard = bound.dashboard_addr().map(|(address, _)| address);
        let (reader, shutdown) = (bound.reader(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.serve(shutdown.clone()));
        Self { addr, metrics, dashboard, reader, shutdown, tasks }
    }

    /// Stops it as a signal would, and waits until its database is closed.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.addr)).unwrap().connect().await.unwrap()
    }

    /// Connections that are open already.
    pub(crate) async fn channels(&self, count: usize) -> Vec<Channel> {
        let mut channels = Vec::new();
        for _ in 0..count {
            channels.push(self.channel().await);
        }
        channels
    }

    pub(crate) async fn people(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel().await)
    }

    /// Submits the scenario.
    pub(crate) async fn submit(&self, run: &str) -> Result<String, Status> {
        let response = self.people().await.submit_run(submission(run, SCENARIO)).await?;
        Ok(response.into_inner().run_id)
    }

    pub(crate) async fn run(&self, run: &str) -> pb::Run {
        let request = pb::GetRunRequest { run_id: run.to_owned() };
        self.people().await.get_run(request).await.unwrap().into_inner().run.unwrap()
    }

    pub(crate) async fn event_kinds(&self, run: &str) -> Vec<String> {
        let events = self.reader.events(&run.parse().unwrap(), 0).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }
}

pub(crate) fn submission(run: &str, text: &str) -> pb::SubmitRunRequest {
    let scenario = pb::ScenarioBundle {
        file: "small.toml".to_owned(),
        text: text.to_owned(),
        models: regatta_core::model::BUILT_IN_MODELS.to_owned(),
        ..pb::ScenarioBundle::default()
    };
    pb::SubmitRunRequest { scenario: Some(scenario), allow_large: false, run_id: run.to_owned(), priority: 0 }
}

pub(crate) fn hello(agent: &str, boot: &str, spool: Vec<pb::SpoolHead>) -> pb::AgentHello {
    pb::AgentHello {
        protocol: PROTOCOL,
        agent_id: agent.to_owned(),
        boot_id: boot.to_owned(),
        version: "0.1.0".to_owned(),
        devices: vec![pb::Device {
            agent_id: agent.to_owned(),
            id: "cpu".to_owned(),
            name: "a processor".to_owned(),
            memory_bytes: Some(1 << 36),
            cores: Some(2),
            backends: vec!["fake".to_owned()],
            ..pb::Device::default()
        }],
        workers: vec!["{}".to_owned()],
        spool,
        host: [("os".to_owned(), "linux".to_owned())].into(),
        ..pb::AgentHello::default()
    }
}

/// An agent that does what the test says.
pub(crate) struct Agent {
    outbound: Option<mpsc::Sender<pb::AgentMessage>>,
    inbound: Streaming<pb::CoordinatorMessage>,
}

impl Agent {
    pub(crate) async fn connect(server: &Server, boot: &str) -> Self {
        Self::greet(server, hello("host-a", boot, Vec::new())).await.unwrap().0
    }

    pub(crate) async fn greet(server: &Server, hello: pb::AgentHello) -> Result<(Self, pb::CoordinatorHello), Status> {
        Self::greet_over(server.channel().await, hello).await
    }

    pub(crate) async fn greet_over(
        channel: Channel,
        hello: pb::AgentHello,
    ) -> Result<(Self, pb::CoordinatorHello), Status> {
        let (outbound, messages) = mpsc::channel(64);
        let mut client = AgentServiceClient::new(channel);
        let inbound = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Self { outbound: Some(outbound), inbound };
        agent.send(ToCoordinator::Hello(hello)).await;
        match agent.try_next().await? {
            Some(Message::Hello(greeting)) => Ok((agent, greeting)),
            other => panic!("no greeting but {other:?}"),
        }
    }

    pub(crate) async fn send(&self, message: ToCoordinator) {
        let outbound = self.outbound.as_ref().expect("the session is open");
        outbound.send(pb::AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Ends its half of the stream.
    pub(crate) fn close(&mut self) {
        self.outbound = None;
    }

    pub(crate) async fn try_next(&mut self) -> Result<Option<Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("nothing came");
        Ok(next?.and_then(|message| message.message))
    }

    pub(crate) async fn next(&mut self) -> Message {
        self.try_next().await.unwrap().expect("the stream ended")
    }

    /// The status with which the coordinator ends the session.
    pub(crate) async fn refused(&mut self) -> Status {
        loop {
            match self.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => break status,
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> (pb::Trial, u32) {
        match self.next().await {
            Message::Assign(assign) => (assign.trial.unwrap(), assign.epoch),
            other => panic!("no trial but {other:?}"),
        }
    }

    pub(crate) async fn heartbeat(&self, held: &[(&pb::Trial, u32)], spool_records: u64) {
        let held =
            held.iter().map(|(trial, epoch)| pb::HeldTrial { trial_id: trial.id.clone(), epoch: *epoch }).collect();
        self.send(ToCoordinator::Heartbeat(pb::Heartbeat { held, spool_records, ..Default::default() })).await;
    }

    /// Sends records and leaves the answer where it is.
    pub(crate) async fn send_batch(&self, trial: &str, epoch: u32, first_seq: u64, records: &[Vec<u8>]) {
        self.send(ToCoordinator::Batch(batch(trial, epoch, first_seq, records))).await;
    }

    /// Sends records and waits for the acknowledgement.
    pub(crate) async fn deliver(&mut self, trial: &str, epoch: u32, first_seq: u64, records: &[Vec<u8>]) -> u64 {
        self.send_batch(trial, epoch, first_seq, records).await;
        self.acknowledged().await
    }

    pub(crate) async fn acknowledged(&mut self) -> u64 {
        match self.next().await {
            Message::Ack(ack) => ack.durable_through_seq,
            other => panic!("no acknowledgement but {other:?}"),
        }
    }

    pub(crate) async fn missing(&mut self) -> u64 {
        match self.next().await {
            Message::Missing(missing) => missing.from_seq,
            other => panic!("nothing missing but {other:?}"),
        }
    }

    pub(crate) async fn send_finish(&self, trial: &str, epoch: u32, records: &[Vec<u8>]) {
        let finish = pb::Finish {
            trial_id: trial.to_owned(),
            epoch,
            last_seq: records.len() as u64,
            digest: Digest::over(records.iter().map(|record| Digest::of(record))).as_bytes().to_vec(),
        };
        self.send(ToCoordinator::Finish(finish)).await;
    }

    pub(crate) async fn finish(&mut self, trial: &str, epoch: u32, records: &[Vec<u8>]) {
        self.send_finish(trial, epoch, records).await;
        match self.next().await {
            Message::FinishAck(ack) => assert_eq!((ack.trial_id.as_str(), ack.epoch), (trial, epoch)),
            other => panic!("no end but {other:?}"),
        }
    }

    /// Measures the trial as an agent does when all goes well.
    pub(crate) async fn measure(&mut self, trial: &pb::Trial, epoch: u32) {
        let records = whole_trial(trial, epoch);
        assert_eq!(self.deliver(&trial.id, epoch, 1, &records).await, records.len() as u64);
        self.finish(&trial.id, epoch, &records).await;
    }
}

pub(crate) fn batch(trial: &str, epoch: u32, first_seq: u64, records: &[Vec<u8>]) -> pb::RecordBatch {
    let crc32c = records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
    pb::RecordBatch { trial_id: trial.to_owned(), epoch, first_seq, records: records.to_vec(), crc32c }
}

pub(crate) fn record(record: Record) -> Vec<u8> {
    pb::TrialRecord { record: Some(record), telemetry: None }.encode_to_vec()
}

pub(crate) fn sample(cell_hash: &[u8], epoch: u32, repetition: u32) -> pb::Sample {
    pb::Sample {
        cell_hash: cell_hash.to_vec(),
        epoch,
        repetition,
        started_at_unix_ns: 1,
        times: Some(pb::Times {
            tokenized_ns: 0,
            prefill_start_ns: 1,
            prefill_done_ns: 2,
            token_ns: (0..u64::from(GENERATE)).map(|i| 3 + i).collect(),
            end_ns: 9,
        }),
        prompt_tokens: 8,
        prompt_digest: vec![7; 32],
        batch: 1,
        output: (0..GENERATE).collect(),
        load_ns: 1,
        first_repetition_ns: 1,
        warmup_repetitions: 4,
        peak_rss_bytes: None,
        threads: 2,
        flags: vec!["fake_backend".to_owned()],
        video_memory: None,
    }
}

pub(crate) fn sample_record(sample: pb::Sample) -> Vec<u8> {
    record(Record::Sample(sample))
}

pub(crate) fn end_record(cell_hash: &[u8], state: &str) -> Vec<u8> {
    let (state, detail) = (state.to_owned(), String::new());
    record(Record::CellEnd(pb::CellEnd { cell_hash: cell_hash.to_vec(), state, detail, ..pb::CellEnd::default() }))
}

/// Everything an agent sends for a trial when all goes well.
pub(crate) fn whole_trial(trial: &pb::Trial, epoch: u32) -> Vec<Vec<u8>> {
    let mut records =
        vec![record(Record::Worker(pb::WorkerFacts { engine: "fake 1".to_owned(), ..Default::default() }))];
    for cell in &trial.cells {
        records.extend((0..REPETITIONS).map(|repetition| sample_record(sample(&cell.cell_hash, epoch, repetition))));
        records.push(end_record(&cell.cell_hash, "ok"));
    }
    records
}

pub(crate) fn spool(trial: &pb::Trial, epoch: u32, last_seq: u64) -> Vec<pb::SpoolHead> {
    vec![pb::SpoolHead { trial_id: trial.id.clone(), epoch, last_seq }]
}

/// Real time, whatever the test's clock does: between questions that are asked again and again, which are limited.
pub(crate) async fn a_moment() {
    tokio::task::spawn_blocking(|| std::thread::sleep(std::time::Duration::from_millis(5))).await.unwrap();
}
