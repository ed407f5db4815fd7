//! Samples per second through the writer, with every commit on the disk (`synchronous=FULL`).

#![expect(clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/store/common.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod common;

use std::time::{Duration, Instant};

use common::{GENERATE, REPETITIONS};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regatta_core::trial::Epoch;
use regatta_store::{Record, Store};

/// Samples of one batch: about 64 KiB on the wire.
const BATCH: u32 = 240;

/// A batch of samples of the right shape, of a trial of its own.
async fn prepared(store: &Store, id: &str) -> (common::Small, Epoch, Vec<Record>) {
    let cells = BATCH / REPETITIONS;
    let small = common::submitted(store, id, cells).await;
    let epoch = common::leased(store, &small.trial).await;
    let samples = small.cells[..cells as usize]
        .iter()
        .flat_map(|&cell| (0..REPETITIONS).map(move |repetition| common::sample(cell, epoch, repetition)));
    let records = samples.map(common::sample_record).collect();
    (small, epoch, records)
}

async fn measure(iterations: u64) -> Duration {
    let temp = common::store().await;
    let mut batches = Vec::new();
    for i in 0..iterations {
        batches.push(prepared(&temp.store, &format!("run-{i}")).await);
    }
    let start = Instant::now();
    for (small, epoch, records) in &batches {
        common::ingest(&temp.store, &small.trial, *epoch, 1, records).await;
    }
    let elapsed = start.elapsed();
    temp.store.close().await;
    elapsed
}

fn ingest(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("ingest");
    group.throughput(Throughput::Elements(u64::from(BATCH))).sample_size(10).measurement_time(Duration::from_secs(3));
    group.bench_function(format!("{BATCH} samples of {GENERATE} tokens a batch"), |bencher| {
        bencher.iter_custom(|iterations| runtime.block_on(measure(iterations)));
    });
    group.finish();
}

criterion_group!(benches, ingest);
criterion_main!(benches);
