//! What the harness itself costs for each token, inside the timed region: a backend that takes no time, and the time
//! between its tokens. The goal is below a thousandth of a fast model's time per token, so below a microsecond.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regatta_core::cell::CellHash;
use regatta_core::digest::Digest;
use regatta_core::flag::Flags;
use regatta_core::policy::{Policy, Warmup};
use regatta_core::sample::Sample;
use regatta_core::trial::Epoch;
use regatta_core::workload::{Kind, Prompt, Workload};
use regatta_worker::argmax::argmax;
use regatta_worker::backend::Backend;
use regatta_worker::backend::fake::{Fake, Script};
use regatta_worker::clock::Clock;
use regatta_worker::measure::{Conditions, Halt, Observer, measure};
use regatta_worker::prompt::Input;

const TOKENS: u32 = 1001;

/// Adds up the times between first and last token.
struct Sum(Duration);

impl Observer for Sum {
    fn warmed(&mut self, _: u32, _: u64) -> Result<(), Halt> {
        Ok(())
    }

    fn measured(&mut self, sample: Sample) -> Result<(), Halt> {
        let tokens = &sample.times.tokens;
        self.0 += Duration::from_nanos(tokens[tokens.len() - 1] - tokens[0]);
        Ok(())
    }
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("harness");
    group.throughput(Throughput::Elements(u64::from(TOKENS - 1)));
    group.bench_function("thousand tokens", |bencher| bencher.iter_custom(repetitions));
    group.finish();
}

fn repetitions(count: u64) -> Duration {
    let mut fake = Fake::new(Script::INSTANT);
    let workload = Workload {
        kind: Kind::Generate,
        name: "bench".parse().unwrap(),
        prompt: Prompt::Seeded { seed: 1, tokens: 8 },
        generate: TOKENS,
        batch: 1,
        replicas: 1,
    };
    let input = Input::new(&workload, fake.limits(), None).unwrap();
    let warmup = Warmup { min_repetitions: 1, max_repetitions: 1, ..Warmup::default() };
    let policy = Policy { repetitions: u32::try_from(count).unwrap(), warmup, ..Policy::default() };
    let conditions = Conditions {
        pass: 0,
        cell: CellHash(Digest::of(b"bench")),
        epoch: Epoch(1),
        policy: &policy,
        load_ns: 0,
        threads: 1,
        flags: Flags::empty(),
        clock: Clock::Monotonic,
    };
    let mut sum = Sum(Duration::ZERO);
    let mut session = fake.open(&input.plan).unwrap();
    measure(&mut *session, &input, None, &conditions, &mut sum).unwrap();
    sum.0
}

fn sampling(criterion: &mut Criterion) {
    let logits: Vec<f32> = (0..49_152u32).map(|i| f32::from(u16::try_from(i * 7919 % 50_021).unwrap_or(0))).collect();
    criterion.bench_function("argmax of 49,152", |bencher| bencher.iter(|| argmax(std::hint::black_box(&logits))));
}

criterion_group!(benches, tokens, sampling);
criterion_main!(benches);
