//! A slow or full disk, a wall clock that jumps, many agents at once, batches that are too large.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use regatta_coordinator::Config;
use regatta_proto::pb;
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_store::{Moment, Trap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{Agent, Server, batch, hello, sample, sample_record, spool, submission, whole_trial};

/// A scenario whose cells take so many samples.
pub(crate) fn long_scenario(repetitions: u32) -> String {
    crate::support::SCENARIO.replace("repetitions = 2", &format!("repetitions = {repetitions}"))
}

/// A trap that makes each commit take as long as a sync of a bad disk, while it is switched on.
fn slow_disk(is_slow: &Arc<AtomicBool>) -> Trap {
    let is_slow = Arc::clone(is_slow);
    Trap::new(move |moment| {
        if moment == Moment::Committing && is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(2));
        }
    })
}

#[tokio::test]
async fn a_slow_disk_holds_agents_back_and_costs_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let is_slow = Arc::new(AtomicBool::new(false));
    let config = Config { trap: Some(slow_disk(&is_slow)), ..Config::new(dir.path().join("regatta.db")) };
    let server = Server::with(config).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.people().await.submit_run(submission("run-a", &long_scenario(1000))).await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let cell = &trial.cells[0].cell_hash;
    // Flags are kept as they come, so a record may be as large as one likes: here 100 KiB.
    let flag = vec!["fake_backend".to_owned(); 8000];
    let record = |n| sample_record(pb::Sample { flags: flag.clone(), ..sample(cell, epoch, n) });
    is_slow.store(true, Ordering::Relaxed);
    // An agent without a window of its own: it sends until the connection takes no more.
    let mut sent = 0;
    while sent < 500 {
        let message = ToCoordinator::Batch(batch(&trial.id, epoch, u64::from(sent) + 1, &[record(sent)]));
        if tokio::time::timeout(Duration::from_millis(500), agent.send(message)).await.is_err() {
            break;
        }
        sent += 1;
    }
    let bytes = sent as usize * 104_000;
    assert!(bytes < 16 << 20, "{sent} records of 100 KiB were taken while none could be stored");
    let mut acknowledged = 0;
    // One commit is waited for, others follow at once.
    while acknowledged < u64::from(sent) {
        acknowledged = agent.acknowledged().await;
        is_slow.store(false, Ordering::Relaxed);
    }
    assert_eq!(server.run("run-a").await.samples, u64::from(sent));
    server.stop().await;
}

static WALL: AtomicI64 = AtomicI64::new(1_700_000_000);

fn wall_clock() -> Timestamp {
    Timestamp::from_second(WALL.load(Ordering::Relaxed)).unwrap()
}

#[tokio::test]
async fn a_wall_clock_that_jumps_changes_labels_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { clock: wall_clock, ..Config::new(dir.path().join("regatta.db")) };
    let server = Server::with(config).await;
    let hour = SignedDuration::from_hours(1).as_secs();
    // An agent whose own clock is an hour behind, and is set in the middle of the run.
    let now_ns = || WALL.load(Ordering::Relaxed) * 1_000_000_000;
    let greeting =
        pb::AgentHello { sent_at_unix_ns: now_ns() - hour * 1_000_000_000, ..hello("host-a", "boot-1", Vec::new()) };
    let mut agent = Agent::greet(&server, greeting).await.unwrap().0;
    let listed = server.people().await.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
    assert_eq!(listed[0].clock_ahead_ns, Some(-hour * 1_000_000_000));
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    for (number, record) in records.iter().enumerate() {
        // An hour ahead, an hour back, and so on.
        WALL.fetch_add(if number % 2 == 0 { hour } else { -2 * hour }, Ordering::Relaxed);
        agent.deliver(&trial.id, epoch, number as u64 + 1, std::slice::from_ref(record)).await;
        let held = vec![pb::HeldTrial { trial_id: trial.id.clone(), epoch }];
        let beat = pb::Heartbeat { held, spool_records: 0, sent_at_unix_ns: now_ns() };
        agent.send(ToCoordinator::Heartbeat(beat)).await;
        // What is answered after it was handled after it.
        agent.deliver(&trial.id, epoch, number as u64 + 1, std::slice::from_ref(record)).await;
    }
    agent.finish(&trial.id, epoch, &records).await;
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples, run.cells["ok"]), ("done", 4, 2), "no lease ran out");
    let id = "run-a".parse().unwrap();
    let events = server.reader.events(&id, 0).await.unwrap();
    assert!(events.windows(2).any(|pair| pair[1].at < pair[0].at), "the clock did jump back");
    let skews = server.reader.agent_events(&"host-a".parse().unwrap()).await.unwrap();
    let skews: Vec<_> = skews.iter().filter(|event| event.kind == "clock_skew").map(|event| &event.detail).collect();
    assert_eq!(skews.len(), 2, "once at hello, once when it was set: {skews:?}");
    assert!(skews[0].contains("3600.000 s behind") && skews[1].contains("0.000 s"), "{skews:?}");
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    let place = |kind| kinds.iter().position(|of| *of == kind).unwrap();
    assert!(
        place("trial_leased") < place("trial_started") && place("trial_started") < place("trial_done"),
        "{kinds:?}"
    );
    let times: Vec<_> = server.reader.samples(&id).await.unwrap().into_iter().map(|s| s.times).collect();
    assert!(times.iter().all(|of| of.end == 9), "durations are the worker's: {times:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_that_come_back_at_once_are_all_served_within_two_seconds() {
    const AGENTS: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let greeting = |n: usize| {
        let name = format!("host-{n}");
        let mut hello = hello(&name, &format!("boot-{n}"), Vec::new());
        hello.agent_id = name;
        hello
    };
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        agents.push(Agent::greet(&server, greeting(number)).await.unwrap().0);
    }
    server.submit("run-a").await.unwrap();
    let mut trials = Vec::new();
    for agent in &mut agents {
        trials.push(agent.assigned().await);
    }
    drop(agents);
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let channels = server.channels(AGENTS).await;
    let mut tasks = JoinSet::new();
    for ((number, (trial, epoch)), channel) in trials.into_iter().enumerate().zip(channels) {
        let hello = pb::AgentHello { spool: spool(&trial, epoch, 7), ..greeting(number) };
        tasks.spawn(async move {
            let begun = Instant::now();
            let (mut agent, greeting) = Agent::greet_over(channel, hello).await.unwrap();
            assert_eq!(greeting.resume[0].seq, 1);
            let records = whole_trial(&trial, epoch);
            agent.deliver(&trial.id, epoch, 1, &records).await;
            let elapsed = begun.elapsed();
            agent.finish(&trial.id, epoch, &records).await;
            elapsed
        });
    }
    let mut longest = Duration::ZERO;
    while let Some(elapsed) = tasks.join_next().await {
        longest = longest.max(elapsed.unwrap());
    }
    assert!(longest < Duration::from_secs(2), "{longest:?} from hello to acknowledgement");
    let run = server.run("run-a").await;
    assert_eq!((run.state.as_str(), run.samples), ("done", 4 * AGENTS as u64));
    server.stop().await;
}

#[tokio::test]
async fn a_batch_beyond_the_limit_of_messages_is_refused_and_its_parts_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    // Ten mebibytes in one message.
    let huge = vec![vec![1; 1 << 20]; 10];
    agent.send_batch(&trial.id, epoch, 1, &huge).await;
    let status = agent.refused().await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let (mut agent, greeting) =
        Agent::greet(&server, hello("host-a", "boot-1", spool(&trial, epoch, 7))).await.unwrap();
    assert_eq!(greeting.resume[0].seq, 1, "nothing of it was stored");
    for (number, record) in records.iter().enumerate() {
        agent.deliver(&trial.id, epoch, number as u64 + 1, std::slice::from_ref(record)).await;
    }
    agent.finish(&trial.id, epoch, &records).await;
    server.stop().await;
}

/// The value of a metric.
async fn metric(address: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: regatta\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in:\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn a_long_reader_raises_an_alarm_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("regatta.db");
    // Above the size to which the log is cut when it is emptied.
    let wal_limit = 72 << 20;
    let config = Config { metrics: Some(([127, 0, 0, 1], 0).into()), wal_limit, ..Config::new(&db) };
    let server = Server::with(config).await;
    let metrics = server.metrics.unwrap();
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.people().await.submit_run(submission("run-a", &long_scenario(1000))).await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    // Records that nobody can read are kept as they came.
    let record = |n: u32| [n.to_le_bytes().as_slice(), vec![0xff; 100_000].as_slice()].concat();
    let mut stored = 0;
    let mut deliver = async |agent: &mut Agent| {
        let records: Vec<_> = (stored..stored + 20).map(record).collect();
        assert_eq!(agent.deliver(&trial.id, epoch, u64::from(stored) + 1, &records).await, u64::from(stored) + 20);
        stored += 20;
        stored
    };
    deliver(&mut agent).await;

    // Another program, in a transaction that it does not end.
    let reader = rusqlite::Connection::open(&db).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = || reader.query_row("SELECT count(*) FROM rejected_samples", [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(count(), 20);
    while metric(metrics, "regatta_wal_over_limit").await == 0 {
        assert!(deliver(&mut agent).await < 1000, "no alarm at {} bytes", metric(metrics, "regatta_wal_bytes").await);
    }
    assert!(metric(metrics, "regatta_wal_bytes").await > wal_limit);
    assert_eq!(count(), 20, "it sees its moment still");

    reader.execute_batch("ROLLBACK").unwrap();
    while metric(metrics, "regatta_wal_over_limit").await == 1 {
        assert!(deliver(&mut agent).await < 1000, "the log is not emptied");
    }
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder.path()).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: a small file system can't be mounted here: {mounted:?}");
        }
        return;
    }
    let server = Server::start(folder.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    server.submit("run-a").await.unwrap();
    let (trial, epoch) = agent.assigned().await;
    let records = whole_trial(&trial, epoch);
    let filler = folder.path().join("filler");
    let mut bytes = vec![0; 2 << 20];
    while std::fs::write(&filler, &bytes).is_err() {
        bytes.truncate(bytes.len() - 4096);
    }
    agent.send_batch(&trial.id, epoch, 1, &records).await;
    let status = agent.refused().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

    std::fs::remove_file(&filler).unwrap();
    let (mut agent, greeting) =
        Agent::greet(&server, hello("host-a", "boot-1", spool(&trial, epoch, 7))).await.unwrap();
    assert_eq!(greeting.resume[0].seq, 1);
    agent.deliver(&trial.id, epoch, 1, &records).await;
    agent.finish(&trial.id, epoch, &records).await;
    assert_eq!(server.run("run-a").await.state, "done");
    server.stop().await;
    assert!(std::process::Command::new("umount").arg("-l").arg(folder.path()).status().unwrap().success());
}
