//! How long a matrix takes to unfold: a nightly one, and the largest that is allowed.

#![expect(clippy::unwrap_used, reason = "the inputs are written below")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::device::{Device, DeviceFacts, DeviceId, DeviceKind};
use regatta_core::fleet::Fleet;
use regatta_core::matrix::{count, expand};
use regatta_core::model::{BUILT_IN_MODELS, Model, parse_manifest};
use regatta_core::policy::Policy;
use regatta_core::scenario::{DeviceSelector, Scenario};
use regatta_core::workload::{Kind, Prompt, Workload};

fn scenario(models: u32, workloads: u32) -> Scenario {
    let built_in = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap().remove(0);
    let workload = |i: u32| Workload {
        kind: Kind::Generate,
        name: format!("w{i}").parse().unwrap(),
        prompt: Prompt::Seeded { seed: 1, tokens: i + 1 },
        generate: 32,
        batch: 1,
        replicas: 1,
    };
    Scenario {
        name: "bench".to_owned(),
        description: String::new(),
        models: (0..models).map(|i| Model { id: format!("m{i}").parse().unwrap(), ..built_in.clone() }).collect(),
        weights: Weights::Synthetic,
        backends: BackendKind::PUBLIC.to_vec(),
        precisions: vec![Precision::F16, Precision::Q4KM],
        devices: vec![DeviceSelector::All],
        workloads: (0..workloads).map(|i| Arc::new(workload(i))).collect(),
        policy: Policy::default(),
        builds: vec![],
        fleet: Fleet::default(),
    }
}

fn devices(number: u32) -> Vec<Device> {
    let device = |index| Device {
        agent: "agent".parse().unwrap(),
        id: DeviceId { kind: DeviceKind::Cuda, index },
        name: "a device".to_owned(),
        memory_bytes: None,
        cores: None,
        backends: BackendKind::PUBLIC.to_vec(),
        facts: DeviceFacts::default(),
    };
    (0..number).map(device).collect()
}

fn unfold(c: &mut Criterion) {
    let mut group = c.benchmark_group("expand");
    group.sample_size(10);
    for (models, workloads, fleet) in [(5, 10, 10), (100, 250, 10)] {
        let (scenario, devices) = (scenario(models, workloads), devices(fleet));
        let cells = count(&scenario, &devices);
        group.throughput(Throughput::Elements(cells as u64));
        group.bench_function(BenchmarkId::from_parameter(cells), |b| {
            b.iter(|| expand(black_box(&scenario), black_box(&devices)));
        });
    }
    group.finish();
}

criterion_group!(benches, unfold);
criterion_main!(benches);
