//! Many agents at once: how many samples a second the coordinator takes over gRPC, checksummed and committed to the disk
//! (`synchronous=FULL`), how long an acknowledgement takes, and how much memory that needs. Beside it, in the same run,
//! what SQLite alone does with the same rows.
//!
//! The coordinator is a process of its own, so that its memory and processor time are its own. Agents are simulated: one
//! connection and one trial each, records of the size of a real repetition of 128 tokens. Two phases:
//!
//! - *paced*: each agent sends a batch every half second, as real ones do. What counts is the acknowledgement's latency.
//! - *saturated*: each agent sends its next batch as soon as the last one is acknowledged. What counts is the rate.
//!
//! Afterwards every row is compared with what was sent. `REGATTA_LOAD` changes the size, such as `agents=100 rate=5000`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prost::Message as _;
use regatta_coordinator::{Config, Coordinator};
use regatta_core::digest::Digest;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::pb::agent_service_client::AgentServiceClient;
use regatta_proto::pb::coordinator_message::Message;
use regatta_proto::pb::run_service_client::RunServiceClient;
use regatta_proto::{PROTOCOL, pb};
use regatta_store::Store;
use rusqlite::Connection;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

/// Tokens of a sample.
const TOKENS: u32 = 128;

/// How often an agent sends a batch in the paced phase.
const INTERVAL: Duration = Duration::from_millis(500);

/// Rows of one commit of the bare database, as in the writer.
const GROUP: usize = 1000;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    agents: usize,
    /// Samples a second in the paced phase, all agents together.
    rate: usize,
    /// Length of the paced phase.
    seconds: usize,
    /// Samples of each agent in the saturated phase.
    saturated: usize,
    /// Samples of a batch in the saturated phase.
    batch: usize,
}

impl Size {
    fn from_environment() -> Self {
        let mut size = Self { agents: 1000, rate: 22_000, seconds: 15, saturated: 480, batch: 16 };
        for word in std::env::var("REGATTA_LOAD").unwrap_or_default().split_whitespace() {
            let (key, value) = word.split_once('=').expect("REGATTA_LOAD has words such as agents=100");
            let value = value.parse().expect("a number");
            match key {
                "agents" => size.agents = value,
                "rate" => size.rate = value,
                "seconds" => size.seconds = value,
                "saturated" => size.saturated = value,
                "batch" => size.batch = value,
                _ => panic!("REGATTA_LOAD: no {key}"),
            }
        }
        size
    }

    /// Samples of a batch in the paced phase.
    fn paced_batch(self) -> usize {
        (self.rate * usize::try_from(INTERVAL.as_millis()).unwrap() / 1000 / self.agents).max(1)
    }

    fn paced(self) -> usize {
        self.paced_batch() * 2 * self.seconds
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, db] = arguments.as_slice()
        && role == "serve"
    {
        return serve(Path::new(db));
    }
    let size = Size::from_environment();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{} agents, samples of {TOKENS} tokens", size.agents);
    runtime.block_on(through_the_coordinator(size, folder.path()));
    bare(size, folder.path());
}

/// The coordinator's process: serves until its standard input ends.
fn serve(db: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bound = Coordinator::bind(Config::new(db)).await.unwrap();
        println!("{}", bound.addr());
        std::io::stdout().flush().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.cancel();
        });
        bound.serve(shutdown).await.unwrap();
    });
}

/// The coordinator, seen from outside.
struct Process {
    child: Child,
    stop: Option<ChildStdin>,
    url: String,
}

impl Process {
    fn start(db: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .arg(db)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { stop: child.stdin.take(), url: format!("http://{}", line.trim()), child }
    }

    /// Its largest resident memory so far, in bytes; `None` where the system does not say.
    fn peak_memory(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }

    fn stop(mut self) {
        self.stop = None;
        assert!(self.child.wait().unwrap().success());
    }
}

/// Processor time of a process so far; `None` where the system does not say.
fn processor_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // A tick is 10 ms on every Linux that matters.
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Duration {
    after.zip(before).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before))
}

async fn through_the_coordinator(size: Size, folder: &Path) {
    let db = folder.join("load.sqlite");
    let process = Process::start(&db);
    let mut agents = Vec::new();
    for number in 0..size.agents {
        agents.push(Agent::connect(&process.url, number).await);
    }
    let agents = phase(&process, agents, "paced", size.paced(), size.paced_batch(), Pace::Every(INTERVAL)).await;
    let agents = phase(&process, agents, "saturated", size.saturated, size.batch, Pace::Acknowledged).await;
    println!("coordinator: peak memory {} MiB", process.peak_memory().map_or(0, |bytes| bytes >> 20));
    drop(agents);
    process.stop();
    verify(&db, size);
}

/// When an agent sends its next batch.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Every(Duration),
    Acknowledged,
}

/// One run of one cell an agent, `samples` repetitions each. Prints what came of it.
async fn phase(
    process: &Process,
    agents: Vec<Agent>,
    name: &str,
    samples: usize,
    batch: usize,
    pace: Pace,
) -> Vec<Agent> {
    submit(&process.url, name, samples).await;
    // All of them have their trial and their records before the first one begins.
    let ready = Arc::new(Barrier::new(agents.len() + 1));
    let mut tasks = JoinSet::new();
    for agent in agents {
        tasks.spawn(agent.run(samples, batch, pace, Arc::clone(&ready)));
    }
    ready.wait().await;
    let processors = || [process.child.id(), std::process::id()].map(processor_time);
    let (begun, before) = (Instant::now(), processors());
    ready.wait().await;
    let (elapsed, total) = (begun.elapsed(), samples * tasks.len());
    let after = processors();
    let a_sample = |of: usize| spent(before[of], after[of]).as_secs_f64() * 1e6 / total as f64;
    let mut agents = Vec::new();
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let done = done.unwrap();
        latencies.extend(done.latencies);
        agents.push(done.agent);
    }
    latencies.sort_unstable();
    let quantile = |part: usize| latencies[(latencies.len() - 1) * part / 1000];
    println!(
        "{name}: {total} samples in batches of {batch} in {:.2} s: {:.0} samples/s; acknowledged after {:.1} ms (median), \
         {:.1} ms (p99), {:.1} ms (longest); processor a sample: coordinator {:.1} us, all agents {:.1} us",
        elapsed.as_secs_f64(),
        total as f64 / elapsed.as_secs_f64(),
        quantile(500).as_secs_f64() * 1e3,
        quantile(990).as_secs_f64() * 1e3,
        quantile(1000).as_secs_f64() * 1e3,
        a_sample(0),
        a_sample(1),
    );
    agents
}

async fn submit(url: &str, name: &str, samples: usize) {
    let text = format!(
        "schema = 1\nname = \"{name}\"\nmodels = [\"tinyllama-1.1b\"]\nweights = \"synthetic\"\nbackends = [\"fake\"]\n\
         precisions = [\"q8_0\"]\ndevices = [\"cpu\"]\n[policy]\nrepetitions = {samples}\n[[workload]]\n\
         name = \"w\"\nprompt_tokens = 64\ngenerate = {TOKENS}\n"
    );
    let scenario = pb::ScenarioBundle {
        file: "load.toml".to_owned(),
        text,
        models: regatta_core::model::BUILT_IN_MODELS.to_owned(),
        ..pb::ScenarioBundle::default()
    };
    let request =
        pb::SubmitRunRequest { scenario: Some(scenario), allow_large: true, run_id: name.to_owned(), priority: 0 };
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let mut people = RunServiceClient::new(channel);
    people.submit_run(request).await.unwrap();
}

/// A simulated agent: one connection.
struct Agent {
    outbound: mpsc::Sender<pb::AgentMessage>,
    inbound: Streaming<pb::CoordinatorMessage>,
}

/// An agent that has delivered a trial.
struct Done {
    agent: Agent,
    latencies: Vec<Duration>,
}

impl Agent {
    async fn connect(url: &str, number: usize) -> Self {
        let channel = Channel::from_shared(url.to_owned()).unwrap().tcp_nodelay(true).connect().await.unwrap();
        let (outbound, messages) = mpsc::channel(64);
        outbound.try_send(message(ToCoordinator::Hello(hello(number)))).unwrap();
        let mut client = AgentServiceClient::new(channel);
        let inbound = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut agent = Self { outbound, inbound };
        assert!(matches!(agent.next().await, Message::Hello(_)));
        agent
    }

    async fn next(&mut self) -> Message {
        self.inbound.message().await.unwrap().expect("the stream ended").message.expect("an empty message")
    }

    async fn send(&self, content: ToCoordinator) {
        self.outbound.send(message(content)).await.unwrap();
    }

    /// Delivers one trial.
    async fn run(mut self, samples: usize, batch: usize, pace: Pace, ready: Arc<Barrier>) -> Done {
        let (trial, epoch) = self.assigned().await;
        let records = records(&trial, epoch, samples);
        let batches: Vec<pb::AgentMessage> = (0..)
            .zip(records.chunks(batch))
            .map(|(number, chunk)| {
                message(ToCoordinator::Batch(batch_of(&trial, epoch, number * batch as u64 + 1, chunk)))
            })
            .collect();
        ready.wait().await;
        let latencies = match pace {
            Pace::Every(interval) => self.paced(&trial, batches, interval).await,
            Pace::Acknowledged => self.saturated(batches).await,
        };
        // The ends of trials, all at once, are not part of what is measured.
        ready.wait().await;
        self.finish(&trial, epoch, &records).await;
        Done { agent: self, latencies }
    }

    async fn assigned(&mut self) -> (pb::Trial, u32) {
        loop {
            if let Message::Assign(assign) = self.next().await {
                return (assign.trial.unwrap(), assign.epoch);
            }
        }
    }

    /// Sends a batch every `interval`, whatever became of those before; agents are spread over the interval.
    async fn paced(&mut self, trial: &pb::Trial, batches: Vec<pb::AgentMessage>, interval: Duration) -> Vec<Duration> {
        let phase = u64::from(blake3::hash(trial.id.as_bytes()).as_bytes()[0]);
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + interval.mul_f64(phase as f64 / 256.0), interval);
        let mut sent: std::collections::VecDeque<Instant> = std::collections::VecDeque::new();
        let mut latencies = Vec::with_capacity(batches.len());
        let mut batches = batches.into_iter().peekable();
        while batches.peek().is_some() || !sent.is_empty() {
            tokio::select! {
                _ = ticks.tick(), if batches.peek().is_some() => {
                    sent.push_back(Instant::now());
                    self.outbound.send(batches.next().unwrap()).await.unwrap();
                }
                received = self.inbound.message() => {
                    if matches!(received.unwrap().unwrap().message, Some(Message::Ack(_))) {
                        latencies.push(sent.pop_front().unwrap().elapsed());
                    }
                }
            }
        }
        latencies
    }

    /// Sends a batch as soon as the one before is acknowledged.
    async fn saturated(&mut self, batches: Vec<pb::AgentMessage>) -> Vec<Duration> {
        let mut latencies = Vec::with_capacity(batches.len());
        for batch in batches {
            let sent = Instant::now();
            self.outbound.send(batch).await.unwrap();
            while !matches!(self.next().await, Message::Ack(_)) {}
            latencies.push(sent.elapsed());
        }
        latencies
    }

    async fn finish(&mut self, trial: &pb::Trial, epoch: u32, records: &[Vec<u8>]) {
        let digest = Digest::over(records.iter().map(|record| Digest::of(record))).as_bytes().to_vec();
        let finish = pb::Finish { trial_id: trial.id.clone(), epoch, last_seq: records.len() as u64, digest };
        self.send(ToCoordinator::Finish(finish)).await;
        while !matches!(self.next().await, Message::FinishAck(_)) {}
    }
}

fn message(content: ToCoordinator) -> pb::AgentMessage {
    pb::AgentMessage { message: Some(content) }
}

fn agent_name(number: usize) -> String {
    format!("agent-{number:04}")
}

fn hello(number: usize) -> pb::AgentHello {
    let agent = agent_name(number);
    pb::AgentHello {
        protocol: PROTOCOL,
        agent_id: agent.clone(),
        boot_id: format!("boot-{number}"),
        version: "0.1.0".to_owned(),
        devices: vec![pb::Device {
            agent_id: agent,
            id: "cpu".to_owned(),
            name: "a processor".to_owned(),
            memory_bytes: Some(1 << 36),
            cores: Some(2),
            backends: vec!["fake".to_owned()],
            ..pb::Device::default()
        }],
        ..pb::AgentHello::default()
    }
}

fn batch_of(trial: &pb::Trial, epoch: u32, first_seq: u64, records: &[Vec<u8>]) -> pb::RecordBatch {
    let crc32c = records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
    pb::RecordBatch { trial_id: trial.id.clone(), epoch, first_seq, records: records.to_vec(), crc32c }
}

fn records(trial: &pb::Trial, epoch: u32, samples: usize) -> Vec<Vec<u8>> {
    let cell = &trial.cells[0].cell_hash;
    let record = |repetition| {
        let sample = sample(cell, epoch, repetition);
        pb::TrialRecord { record: Some(pb::trial_record::Record::Sample(sample)), telemetry: None }.encode_to_vec()
    };
    (0..u32::try_from(samples).unwrap()).map(record).collect()
}

/// A sample with the numbers of a small model: a function of cell, epoch and repetition, so that it can be checked later.
fn sample(cell: &[u8], epoch: u32, repetition: u32) -> pb::Sample {
    let mut state = u64::from_le_bytes(*cell.first_chunk().unwrap()) ^ u64::from(repetition) << 32 | 1;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let start = 40_000_000 + random(2_000_000);
    let mut time = start;
    let token_ns: Vec<u64> = (0..TOKENS)
        .map(|_| {
            time += 11_000_000 + random(1_000_000);
            time
        })
        .collect();
    pb::Sample {
        cell_hash: cell.to_vec(),
        epoch,
        repetition,
        started_at_unix_ns: 1_780_000_000_000_000_000 + i64::from(repetition),
        times: Some(pb::Times {
            tokenized_ns: 0,
            prefill_start_ns: 1_000 + random(1_000),
            prefill_done_ns: start,
            end_ns: time,
            token_ns,
        }),
        prompt_tokens: 64,
        prompt_digest: vec![7; 32],
        batch: 1,
        output: (0..TOKENS).map(|_| u32::try_from(random(32_000)).unwrap()).collect(),
        load_ns: 812_000_000,
        first_repetition_ns: 1_600_000_000,
        warmup_repetitions: 4,
        peak_rss_bytes: Some(1_400_000_000),
        threads: 2,
        flags: vec!["synthetic_weights".to_owned()],
        video_memory: None,
    }
}

/// The blobs as they are stored.
fn blobs(sample: &pb::Sample) -> (Vec<u8>, Vec<u8>) {
    let times = sample.times.as_ref().unwrap();
    let times = times.token_ns.iter().flat_map(|time| time.to_le_bytes()).collect();
    (times, sample.output.iter().flat_map(|id| id.to_le_bytes()).collect())
}

/// Every sample that was sent is there, once and unchanged, and nothing else.
fn verify(db: &Path, size: Size) {
    let db = Connection::open(db).unwrap();
    let mut statement = db
        .prepare(
            "SELECT run_id, cell_hash, epoch, repetition, token_times, output, started_at_unix_ns FROM samples
             ORDER BY run_id, cell_hash, epoch, repetition",
        )
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found: BTreeMap<(String, Vec<u8>), u32> = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let (run, cell): (String, Vec<u8>) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (epoch, repetition): (u32, u32) = (row.get(2).unwrap(), row.get(3).unwrap());
        let sent = sample(&cell, epoch, repetition);
        let (times, output) = blobs(&sent);
        assert!(row.get_ref(4).unwrap().as_blob().unwrap() == times, "other times in {run}, repetition {repetition}");
        assert!(row.get_ref(5).unwrap().as_blob().unwrap() == output, "other ids in {run}, repetition {repetition}");
        assert_eq!(row.get::<_, i64>(6).unwrap(), sent.started_at_unix_ns);
        // Rows come in the order of their key, so a repetition that is missing shows here.
        let next = found.entry((run, cell)).or_default();
        assert_eq!(repetition, *next);
        *next += 1;
    }
    for (run, expected) in [("paced", size.paced()), ("saturated", size.saturated)] {
        let cells: Vec<_> = found.iter().filter(|((of, _), _)| of == run).map(|(_, count)| *count as usize).collect();
        assert_eq!(cells, vec![expected; size.agents]);
    }
    println!("verified: {} samples sent, all stored once and unchanged", size.agents * (size.paced() + size.saturated));
}

/// SQLite alone: the same rows in the same order, one prepared statement, a commit every [`GROUP`] rows.
fn bare(size: Size, folder: &Path) {
    let path = empty_database(folder);
    let db = Connection::open(&path).unwrap();
    // The pragmas of the coordinator's own connection, without the check of foreign keys.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;
         PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 8192; PRAGMA mmap_size = 0",
    )
    .unwrap();
    let cells: Vec<[u8; 32]> = (0..size.agents).map(|n| *blake3::hash(agent_name(n).as_bytes()).as_bytes()).collect();
    let rounds = (size.saturated / size.batch).min(20);
    let mut samples = Vec::new();
    for round in 0..rounds {
        for cell in &cells {
            for within in 0..size.batch {
                let sample = sample(cell, 1, u32::try_from(round * size.batch + within).unwrap());
                let blobs = blobs(&sample);
                samples.push((sample, blobs));
            }
        }
    }
    let mut insert = db
        .prepare(
            "INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns,
                prefill_start_ns, prefill_done_ns, token_times, end_ns, prompt_tokens, prompt_digest, batch, output,
                load_ns, first_repetition_ns, warmup_repetitions, peak_rss_bytes, threads, flags)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .unwrap();
    let (begun, processor) = (Instant::now(), processor_time(std::process::id()));
    for group in samples.chunks(GROUP) {
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        for (sample, (times, output)) in group {
            let phases = sample.times.as_ref().unwrap();
            let whole = |number: u64| i64::try_from(number).unwrap();
            let values: [&dyn rusqlite::ToSql; 20] = [
                &"saturated",
                &sample.cell_hash,
                &sample.epoch,
                &sample.repetition,
                &sample.started_at_unix_ns,
                &whole(phases.tokenized_ns),
                &whole(phases.prefill_start_ns),
                &whole(phases.prefill_done_ns),
                times,
                &whole(phases.end_ns),
                &sample.prompt_tokens,
                &sample.prompt_digest,
                &sample.batch,
                output,
                &whole(sample.load_ns),
                &whole(sample.first_repetition_ns),
                &sample.warmup_repetitions,
                &sample.peak_rss_bytes.map(whole),
                &sample.threads,
                &sample.flags[0],
            ];
            insert.execute(values).unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
    }
    let elapsed = begun.elapsed();
    let processor = spent(processor, processor_time(std::process::id()));
    println!(
        "bare SQLite: {} samples: {:.0} samples/s; {:.1} us of processor a sample",
        samples.len(),
        samples.len() as f64 / elapsed.as_secs_f64(),
        processor.as_secs_f64() * 1e6 / samples.len() as f64
    );
}

/// A database with the coordinator's schema and nothing in it.
fn empty_database(folder: &Path) -> PathBuf {
    let path = folder.join("bare.sqlite");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Store::open(&path, || Timestamp::UNIX_EPOCH).await.unwrap().close().await });
    path
}
