//! What a device can do at most, measured in some seconds: memory bandwidth, rate of matrix products, and the latency of a
//! launch where there is one.
//!
//! Each number is the best of many rounds, as STREAM (`McCalpin`, 1995) has it: what disturbs a round only makes it
//! slower. On a processor all threads read one large buffer, then compute STREAM's triad in it; matrices are multiplied
//! by candle. On an accelerator candle does all of it: bandwidth is that of `x · a + b` over a large tensor. That part is
//! written for CUDA and Metal against candle's common interface, and has not been run on either so far.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta_core::canary::{CANARY_VERSION, Reading};
use regatta_core::device::{DeviceId, DeviceKind};

use crate::backend::BackendError;
use crate::{cpu, process};

/// How to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// The time of the whole, roughly.
    pub time: Duration,
    /// Bytes of the buffer; a size far above that of caches where nothing is said.
    pub buffer_bytes: Option<u64>,
}

/// The smallest buffer, unless somebody wants a smaller one.
const MIN_BUFFER: u64 = 1 << 30;

/// Measures the device.
pub fn measure(device: DeviceId, effort: Effort) -> Result<Reading, BackendError> {
    match device.kind {
        DeviceKind::Cpu => processor(effort),
        _ => accelerator(device, effort),
    }
}

fn processor(effort: Effort) -> Result<Reading, BackendError> {
    let threads = num_cpus::get().max(1);
    let cache_bytes = cpu::last_level_cache();
    let buffer_bytes = effort.buffer_bytes.unwrap_or_else(|| buffer(cache_bytes));
    let memory = memory(threads, buffer_bytes, effort.time.mul_f64(0.4), effort.time.mul_f64(0.2));
    Ok(Reading {
        version: CANARY_VERSION,
        engine: engine(),
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        buffer_bytes,
        cache_bytes,
        read_bytes_per_s: memory.read,
        mixed_bytes_per_s: memory.mixed,
        flops: matrices(effort.time.mul_f64(0.4))?,
        launch_ns: None,
    })
}

/// Four times the caches, and no more than a quarter of what is free.
fn buffer(cache: Option<u64>) -> u64 {
    let wanted = cache.unwrap_or(0).saturating_mul(4).max(MIN_BUFFER);
    process::free_memory().map_or(wanted, |free| wanted.min(free / 4))
}

/// Bandwidths in bytes per second.
struct Memory {
    read: Option<f64>,
    mixed: Option<f64>,
}

/// What all threads of the measurement share.
struct Shared {
    /// Before and after each round.
    gate: Barrier,
    mixed: AtomicBool,
    over: AtomicBool,
}

fn memory(threads: usize, bytes: u64, read: Duration, mixed: Duration) -> Memory {
    // Three arrays for each thread, which it touches first itself, so that they lie near it.
    let length = usize::try_from(bytes).unwrap_or(usize::MAX) / threads / 3 / size_of::<f64>();
    let shared =
        Shared { gate: Barrier::new(threads + 1), mixed: AtomicBool::new(false), over: AtomicBool::new(false) };
    let size = (threads * length * 3 * size_of::<f64>()) as f64;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| rounds(&shared, length));
        }
        shared.gate.wait();
        let read = best_round(read, || shared.round()).map(|seconds| size / seconds);
        shared.mixed.store(true, Ordering::Relaxed);
        let mixed = best_round(mixed, || shared.round()).map(|seconds| size / seconds);
        shared.over.store(true, Ordering::Relaxed);
        shared.gate.wait();
        Memory { read, mixed }
    })
}

impl Shared {
    fn round(&self) {
        self.gate.wait();
        self.gate.wait();
    }
}

/// One thread's part of all rounds.
fn rounds(shared: &Shared, length: usize) {
    let mut a = vec![1.0f64; length];
    let b = vec![2.0f64; length];
    let c = vec![3.0f64; length];
    shared.gate.wait();
    loop {
        shared.gate.wait();
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        if shared.mixed.load(Ordering::Relaxed) {
            for ((a, b), c) in a.iter_mut().zip(&b).zip(&c) {
                *a = b + 3.0 * c;
            }
            black_box(&a);
        } else {
            black_box([&a, &b, &c].map(|array| sum(array)));
        }
        shared.gate.wait();
    }
}

/// Reads everything. As whole numbers, whose sum may be taken in any order, so that the compiler makes wide loads of it.
fn sum(numbers: &[f64]) -> u64 {
    numbers.iter().fold(0, |sum, number| sum.wrapping_add(number.to_bits()))
}

/// Seconds of the shortest round, of as many as fit into the time and at least two: the first one warms up.
fn best_round(time: Duration, mut round: impl FnMut()) -> Option<f64> {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut count = 0;
    while count < 2 || start.elapsed() < time {
        // The clock starts before anybody can begin, so that a late start of this thread never flatters the round.
        let began = Instant::now();
        round();
        best = best.min(began.elapsed().as_secs_f64());
        count += 1;
    }
    (best.is_finite() && best > 0.0).then_some(best)
}

#[cfg(feature = "candle")]
mod engine {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use candle_core::{DType, Device, Tensor};
    use regatta_core::canary::{CANARY_VERSION, Reading};
    use regatta_core::device::DeviceId;
    use regatta_core::roofline::peaks::Number;

    use super::{Effort, best_round};
    use crate::backend::{BackendError, candle};

    /// Edges of matrices: the first that keeps the device busy is taken.
    const EDGES: [usize; 5] = [512, 1024, 2048, 4096, 8192];

    /// A product that takes this long is no longer one of launches and caches.
    const LONG_ENOUGH: Duration = Duration::from_millis(50);

    pub(super) fn name() -> String {
        format!("candle {}", candle::VERSION)
    }

    /// Products of f32 matrices on the processor.
    pub(super) fn matrices(time: Duration) -> Result<BTreeMap<Number, f64>, BackendError> {
        Ok(BTreeMap::from([(Number::F32, product(&Device::Cpu, DType::F32, time)?)]))
    }

    /// Operations per second of the product of two square matrices: `2 · edge³` over the time of the best round.
    fn product(device: &Device, number: DType, time: Duration) -> Result<f64, BackendError> {
        let multiply = |edge: usize, time: Duration| -> Result<f64, BackendError> {
            let matrix = || Tensor::rand(0f32, 1f32, (edge, edge), device)?.to_dtype(number);
            let (a, b) = (matrix().map_err(failed)?, matrix().map_err(failed)?);
            let mut outcome = Ok(());
            let seconds = device.with_context(|| {
                best_round(time, || {
                    let done = a.matmul(&b).and_then(|_| device.synchronize());
                    outcome = outcome.as_ref().map_err(Clone::clone).and(done.map_err(failed));
                })
            });
            outcome?;
            seconds.ok_or_else(|| BackendError::engine("a product of matrices took no time"))
        };
        let mut edge = EDGES[0];
        for next in EDGES {
            edge = next;
            if multiply(edge, Duration::ZERO)? >= LONG_ENOUGH.as_secs_f64() {
                break;
            }
        }
        Ok(2.0 * (edge as f64).powi(3) / multiply(edge, time)?)
    }

    pub(super) fn accelerator(id: DeviceId, effort: Effort) -> Result<Reading, BackendError> {
        let device = candle::device(id)?;
        let bytes = effort.buffer_bytes.unwrap_or(4 * super::MIN_BUFFER);
        let numbers = [(Number::F32, DType::F32), (Number::F16, DType::F16), (Number::Bf16, DType::BF16)];
        let mut flops = BTreeMap::new();
        for (number, dtype) in numbers {
            // A format that the device has no kernel for has no rate.
            if let Ok(rate) = product(&device, dtype, effort.time.mul_f64(0.2)) {
                flops.insert(number, rate);
            }
        }
        Ok(Reading {
            version: CANARY_VERSION,
            engine: name(),
            threads: 1,
            buffer_bytes: bytes,
            cache_bytes: None,
            read_bytes_per_s: None,
            mixed_bytes_per_s: Some(scale(&device, bytes, effort.time.mul_f64(0.3))?),
            flops,
            launch_ns: Some(launch(&device, effort.time.mul_f64(0.1))?),
        })
    }

    /// Bytes per second of `x · a + b`: each number is read once and written once.
    fn scale(device: &Device, bytes: u64, time: Duration) -> Result<f64, BackendError> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX) / 2 / size_of::<f32>();
        let tensor = Tensor::zeros(length, DType::F32, device).map_err(failed)?;
        let mut outcome = Ok(());
        let seconds = best_round(time, || {
            let done = tensor.affine(2.0, 1.0).and_then(|_| device.synchronize());
            outcome = outcome.as_ref().map_err(Clone::clone).and(done.map_err(failed));
        });
        outcome?;
        let seconds = seconds.ok_or_else(|| BackendError::engine("a copy took no time"))?;
        Ok((2 * length * size_of::<f32>()) as f64 / seconds)
    }

    /// Nanoseconds from the launch of an operation on one number to its end: the median.
    fn launch(device: &Device, time: Duration) -> Result<u64, BackendError> {
        let one = Tensor::zeros(1, DType::F32, device).map_err(failed)?;
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < 100 || start.elapsed() < time {
            let began = Instant::now();
            one.affine(2.0, 1.0).and_then(|_| device.synchronize()).map_err(failed)?;
            times.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    fn failed(error: candle_core::Error) -> BackendError {
        BackendError::engine(error)
    }
}

#[cfg(feature = "candle")]
fn engine() -> String {
    engine::name()
}

#[cfg(feature = "candle")]
fn matrices(time: Duration) -> Result<BTreeMap<regatta_core::roofline::peaks::Number, f64>, BackendError> {
    engine::matrices(time)
}

#[cfg(feature = "candle")]
fn accelerator(device: DeviceId, effort: Effort) -> Result<Reading, BackendError> {
    engine::accelerator(device, effort)
}

/// A worker without candle has nothing that multiplies matrices by themselves.
#[cfg(not(feature = "candle"))]
fn engine() -> String {
    String::new()
}

#[cfg(not(feature = "candle"))]
fn matrices(_: Duration) -> Result<BTreeMap<regatta_core::roofline::peaks::Number, f64>, BackendError> {
    Ok(BTreeMap::new())
}

#[cfg(not(feature = "candle"))]
fn accelerator(device: DeviceId, _: Effort) -> Result<Reading, BackendError> {
    Err(BackendError::unsupported(format!("this worker was built without candle, which would measure {device}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read() {
        let numbers: Vec<f64> = (0..1000).map(|bits| f64::from_bits(bits * 7)).collect();
        assert_eq!(sum(&numbers), 7 * 999 * 1000 / 2);
        assert_eq!(sum(&numbers[..33]), 7 * 32 * 33 / 2);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn the_best_round_counts_and_there_are_two_at_least() {
        let mut rounds = 0;
        let best = best_round(Duration::ZERO, || {
            rounds += 1;
            thread::sleep(Duration::from_millis(if rounds == 1 { 40 } else { 10 }));
        });
        assert_eq!(rounds, 2);
        assert!((0.010..0.040).contains(&best.unwrap()), "{best:?}");
    }

    #[test]
    fn memory_has_a_bandwidth_that_a_machine_can_have() {
        let memory = memory(2, 48 << 20, Duration::from_millis(20), Duration::from_millis(20));
        for rate in [memory.read.unwrap(), memory.mixed.unwrap()] {
            assert!((1e8..1e14).contains(&rate), "{rate}");
        }
    }

    /// The way that accelerators are measured, on the one device that is everywhere.
    #[test]
    #[cfg(feature = "candle")]
    fn an_accelerators_reading_has_all_its_numbers() {
        let effort = Effort { time: Duration::ZERO, buffer_bytes: Some(8 << 20) };
        let reading = accelerator(DeviceId::CPU, effort).unwrap();
        assert_eq!((reading.check(), reading.read_bytes_per_s), (Ok(()), None));
        assert!(reading.mixed_bytes_per_s.is_some() && reading.launch_ns.is_some_and(|ns| ns > 0));
        assert!(reading.flops.contains_key(&regatta_core::roofline::peaks::Number::F32), "{:?}", reading.flops);
    }

    #[test]
    fn a_device_that_candle_has_no_code_for_is_refused() {
        let effort = Effort { time: Duration::ZERO, buffer_bytes: Some(1 << 20) };
        let error = measure("vulkan:0".parse().unwrap(), effort).unwrap_err();
        assert!(error.detail.contains("vulkan:0"), "{error}");
    }
}
