//! Random faults, by seed: kills, stops, cuts and delays over coordinator, agents and workers while a run is measured.
//!
//! `REGATTA_CHAOS=100..300` chooses the seeds; `cargo xtask chaos --seeds 200` does that. A seed decides which faults come
//! in which order and when they are to come; where they strike depends on the machine as well.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regatta_proto::pb;

use crate::harness::{Fleet, signal};
use crate::proxy::Way;

/// The environment variable that names other seeds than the usual ones.
const SEEDS: &str = "REGATTA_CHAOS";

const AGENTS: usize = 2;
const TRIALS: usize = 3;
const REPETITIONS: u32 = 30;

/// A fault and how long it lasts.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillCoordinator,
    KillAgent(usize),
    KillWorker(usize),
    StopAgent(usize),
    StopCoordinator,
    Cut,
    CutAfter(Way, usize),
    CloseHalf(Way),
    Delay(Duration),
    Blackhole,
    Swallow(Way),
}

impl Fault {
    fn random(rng: &mut impl Rng) -> Self {
        let agent = rng.random_range(0..AGENTS);
        let way = if rng.random_bool(0.5) { Way::Up } else { Way::Down };
        match rng.random_range(0..12) {
            0 | 1 => Self::KillCoordinator,
            2 | 3 => Self::KillAgent(agent),
            4 => Self::KillWorker(agent),
            5 => Self::StopAgent(agent),
            6 => Self::StopCoordinator,
            7 => Self::Cut,
            8 => Self::CutAfter(way, rng.random_range(1..4000)),
            9 => Self::CloseHalf(way),
            10 => Self::Delay(Duration::from_millis(rng.random_range(1..60))),
            _ => {
                if rng.random_bool(0.5) {
                    Self::Blackhole
                } else {
                    Self::Swallow(way)
                }
            }
        }
    }

    /// Makes it happen; `lasting` for those that last.
    async fn strike(self, fleet: &mut Fleet, lasting: Duration) {
        match self {
            Self::KillCoordinator => {
                fleet.kill_coordinator();
                tokio::time::sleep(lasting / 2).await;
                fleet.start_coordinator();
            }
            Self::KillAgent(number) => {
                fleet.kill_agent(number);
                tokio::time::sleep(lasting / 2).await;
                fleet.start_agent(number);
            }
            Self::KillWorker(number) => {
                for worker in fleet.workers_of(number) {
                    signal(worker, "KILL");
                }
            }
            Self::StopAgent(number) => {
                let agent = fleet.agents[number].as_ref().unwrap().id();
                signal(agent, "STOP");
                tokio::time::sleep(lasting * 3).await;
                signal(agent, "CONT");
            }
            Self::StopCoordinator => {
                let coordinator = fleet.coordinator.as_ref().unwrap().id();
                signal(coordinator, "STOP");
                tokio::time::sleep(lasting * 3).await;
                signal(coordinator, "CONT");
            }
            Self::Cut => fleet.proxy.cut(),
            Self::CutAfter(way, bytes) => fleet.proxy.cut_after(way, bytes),
            Self::CloseHalf(way) => fleet.proxy.close_half(way),
            Self::Delay(by) => {
                fleet.proxy.delay(by);
                tokio::time::sleep(lasting).await;
                fleet.proxy.heal();
            }
            Self::Blackhole | Self::Swallow(_) => {
                match self {
                    Self::Swallow(way) => fleet.proxy.swallow(way),
                    _ => fleet.proxy.blackhole(),
                }
                tokio::time::sleep(lasting).await;
                // As a router does that has forgotten the connection. Without it only keepalive would notice, which
                // takes longer than a seed may: that has a test of its own.
                fleet.proxy.cut();
                fleet.proxy.heal();
            }
        }
    }
}

/// What one seed came to.
#[derive(Debug)]
struct Outcome {
    faults: Vec<Fault>,
    samples: usize,
    taken: usize,
    cells: String,
    elapsed: Duration,
}

/// Puts agents back into service that were quarantined because they were killed so often, as a person would.
async fn look_after(fleet: &Fleet) {
    let mut people = fleet.people().await;
    loop {
        let listed = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
        for agent in listed.into_iter().filter(|agent| agent.state == "quarantined") {
            people.resume_agent(pb::ResumeAgentRequest { agent_id: agent.id }).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn seed(seed: u64) -> Outcome {
    let begun = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fleet = Fleet::start(AGENTS).await;
    let run = fleet.submit(TRIALS, &["one", "two"], REPETITIONS).await;
    let faults: Vec<_> = (0..rng.random_range(4..10)).map(|_| Fault::random(&mut rng)).collect();
    for fault in &faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
        let lasting = Duration::from_millis(rng.random_range(0..300));
        fault.strike(&mut fleet, lasting).await;
    }
    fleet.proxy.heal();
    let ended = tokio::select! {
        ended = fleet.done(&run) => ended,
        () = look_after(&fleet) => unreachable!("it never ends"),
    };
    // An agent whose lease was given away may still have samples of the old one.
    fleet.connected(AGENTS).await;
    fleet.stop();
    // A cell that is ok has all its samples, of one lease.
    let reader = regatta_store::Store::open_read_only(&fleet.db()).await.unwrap();
    for cell in reader.cells(&run).await.unwrap() {
        if cell.outcome == Some(regatta_core::cell::Outcome::Ok) {
            assert_eq!(cell.samples, REPETITIONS, "{cell:?}");
        }
    }
    reader.close().await;
    let (ledger, verdict) = fleet.verdict(&run).await;
    println!("seed {seed}: {faults:?}");
    if !verdict.is_good() {
        println!("{}", fleet.story());
        // Kept, to be looked at.
        println!("everything is in {}", fleet.folder.keep().display());
        panic!("seed {seed}: {verdict:#?}");
    }
    assert!(!ledger.taken.is_empty(), "seed {seed}: an empty book shows nothing");
    let waiting = ended.cells.get("waiting").copied().unwrap_or_default();
    assert_eq!(waiting, 0, "{:?}", ended.cells);
    let cells = format!("{:?}", ended.cells);
    Outcome { faults, samples: verdict.stored, taken: ledger.taken.len(), cells, elapsed: begun.elapsed() }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var(SEEDS) else { return 0..4 };
    let (from, to) = text.split_once("..").expect("REGATTA_CHAOS is such as 0..200");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn nothing_is_lost_and_nothing_is_counted_twice() {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut samples, mut faults, mut count) = (0, 0, 0);
    for number in seeds() {
        let outcome = runtime.block_on(seed(number));
        println!(
            "seed {number}: {} faults, {} samples stored, {} taken, {} in {:.1} s",
            outcome.faults.len(),
            outcome.samples,
            outcome.taken,
            outcome.cells,
            outcome.elapsed.as_secs_f64()
        );
        samples += outcome.samples;
        faults += outcome.faults.len();
        count += 1;
    }
    println!(
        "{count} seeds, {faults} faults, {samples} samples: 0 lost, 0 duplicated, in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
}
