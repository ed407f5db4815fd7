//! How long a decision takes with 10,000 devices and 100,000 waiting trials: on an idle fleet, where every device gets
//! one, and on a busy one, where a single device has become free. And how long it takes to note that a trial has ended.

#![expect(clippy::unwrap_used, reason = "the inputs are written below")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use regatta_coordinator::scheduler::{Action, Hold, Host, Snapshot, TrialView, decide};
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::fleet::Place;
use regatta_core::id::{RunId, TrialId};
use regatta_core::policy::Exclusive;
use regatta_core::trial::Epoch;

const HOSTS: u32 = 2_500;
const DEVICES: u32 = 4;
const RUNS: u32 = 20;
const TRIALS: u32 = 100_000;
const CLASSES: u32 = 5;
const NOW: Duration = Duration::from_secs(10);

fn place(host: u32, index: u32) -> Place {
    Place { agent: format!("host-{host}").parse().unwrap(), device: DeviceId { kind: DeviceKind::Cuda, index } }
}

fn artifact(number: u32) -> ArtifactRef {
    ArtifactRef {
        model: format!("m{number}").parse().unwrap(),
        weights: Weights::Synthetic,
        format: Format::Gguf,
        precision: Precision::F16,
    }
}

/// Half of the trials are bound to a device, half may go to any device of a class. Four devices a host, each of them
/// with a trial to itself; twenty runs, ten artifacts.
fn fleet() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..HOSTS {
        let agent = place(number, 0).agent;
        let alive_until = Duration::from_secs(1_000);
        let host = Host { agent, free_from: Duration::ZERO, alive_until, out_of_service: None };
        snapshot.insert_host(host, &[artifact(number % 10)]);
    }
    let devices = |host: u32| (0..DEVICES).map(move |index| place(host, index));
    let class = |class: u32| (0..HOSTS).filter(|host| host % CLASSES == class).flat_map(devices).collect();
    let classes: Vec<Arc<[Place]>> = (0..CLASSES).map(class).collect();
    for number in 0..TRIALS {
        let (run, ordinal) = (number % RUNS, number / RUNS);
        let run: RunId = format!("01890a5d-ac96-774b-bcce-b302099a{run:04}").parse().unwrap();
        let own = [place(number / 8 % HOSTS, number / 2 % DEVICES)];
        let any = &classes[(number / 2 % CLASSES) as usize];
        snapshot.insert(TrialView {
            id: TrialId::of(&run, ordinal),
            run,
            ordinal,
            priority: 0,
            exclusive: Exclusive::Device,
            places: if number.is_multiple_of(2) { own.into() } else { Arc::clone(any) },
            artifact: artifact(number / 7 % 10),
            group: None,
            avoid: Vec::new(),
            expected: Some(Duration::from_secs(u64::from(number % 600))),
            hold: Hold::Queued,
        });
    }
    snapshot
}

fn lease(snapshot: &mut Snapshot, actions: Vec<Action>) {
    for action in actions {
        let Action::Assign { seats } = action else { continue };
        for (trial, place) in seats {
            let expires_at = Some(Duration::from_secs(1_000));
            snapshot.set_hold(&trial, Hold::Held { place, epoch: Epoch(1), since: NOW, expires_at });
        }
    }
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide with 10,000 devices and 100,000 waiting trials");
    group.sample_size(20);
    let mut snapshot = fleet();
    group.bench_function("all idle", |b| b.iter(|| decide(black_box(&snapshot), NOW)));
    let actions = decide(&snapshot, NOW);
    assert_eq!(actions.len(), (HOSTS * DEVICES) as usize, "every device gets a trial");
    lease(&mut snapshot, actions);
    let ended = snapshot.held().next().unwrap().clone();
    snapshot.remove(&ended.id);
    assert_eq!(decide(&snapshot, NOW).len(), 1);
    group.bench_function("one free", |b| b.iter(|| decide(black_box(&snapshot), NOW)));
    group.bench_function("a trial comes and goes", |b| {
        b.iter(|| {
            snapshot.insert(ended.clone());
            snapshot.remove(&ended.id);
        });
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
