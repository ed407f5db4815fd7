//! ONNX Runtime: the ONNX graphs that Regatta writes.
//!
//! How it is used here, and why:
//!
//! - **The library** is loaded at run time ([`library`]). Which execution providers there are depends on it alone; the one for
//!   the device is asked for by name, and a graph of which it can't run every node is refused by ONNX Runtime itself: no
//!   part falls back to the processor.
//! - **Key/value cache** stays where the device has it, through I/O binding, and is sized for the cell. On the processor one
//!   buffer is input and output, so a step writes its positions in place. On other devices there are two that take turns:
//!   whether a kernel may write what it reads is known of the processor's only.
//! - **Depth** stays where it was computed: positions behind it are masked until they are written again.
//! - **Logits** of last positions come to the host in the same call that computes them, and are searched there.
//! - **Threads** are a pool of this session's size. They spin between operators, which is ONNX Runtime's default.
//! - **16 bits on the processor** are widened to 32 when the weights are loaded, all of them: the processor's provider has no
//!   16-bit products. Samples have a flag that says so, and the bytes that a step reads are those of 32 bits. The cache keeps
//!   16.

mod cache;
mod library;

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::memory::Allocator;
use ort::session::{IoBinding, Session as Graph};
use ort::value::Tensor;
use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::failure::FailureKind;
use regatta_core::model::Shape;
use regatta_core::worker::Engine;

use self::cache::Cache;
use self::library::{Library, LibraryError, library};
use super::{Backend, BackendError, Info, Limits, Load, Plan, Session, weights};
use crate::argmax::argmax;

/// The version of the crate that speaks to the library.
const ORT: &str = env!("REGATTA_ORT");

/// What a worker says of the engine; an error where its library isn't there.
pub fn engine() -> Result<Engine, BackendError> {
    let library = library()?;
    let kinds = DeviceKind::ALL.into_iter().filter(|kind| Provider::of(*kind).is_some_and(Provider::is_available));
    Ok(Engine {
        backend: BackendKind::OnnxRuntime,
        version: format!("{} (ort {ORT})", library.version),
        build: format!("{}; {}", library.path.display(), library.build),
        devices: kinds.collect(),
    })
}

/// Who runs the graph's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    Cpu,
    Cuda,
    CoreMl,
    DirectMl,
}

impl Provider {
    fn of(kind: DeviceKind) -> Option<Self> {
        match kind {
            DeviceKind::Cpu => Some(Self::Cpu),
            DeviceKind::Cuda => Some(Self::Cuda),
            DeviceKind::Metal => Some(Self::CoreMl),
            DeviceKind::DirectMl => Some(Self::DirectMl),
            DeviceKind::Vulkan => None,
        }
    }

    /// ONNX Runtime's name for it.
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => ep::CPU::NAME,
            Self::Cuda => ep::CUDA::NAME,
            Self::CoreMl => ep::CoreML::NAME,
            Self::DirectMl => ep::DirectML::NAME,
        }
    }

    /// Whether the library was built with it.
    fn is_available(self) -> bool {
        let available = match self {
            Self::Cpu => ep::CPU::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
            Self::CoreMl => ep::CoreML::is_available(),
            Self::DirectMl => ep::DirectML::is_available(),
        };
        available.unwrap_or(false)
    }

    /// The provider for the device of this index.
    fn on(self, index: u32) -> Result<ExecutionProviderDispatch, BackendError> {
        let index = i32::try_from(index).map_err(BackendError::unsupported)?;
        let provider = match self {
            Self::Cpu => ep::CPU::default().build(),
            Self::Cuda => ep::CUDA::default().with_device_id(index).build(),
            Self::CoreMl => ep::CoreML::default().build(),
            Self::DirectMl => ep::DirectML::default().with_device_id(index).build(),
        };
        Ok(provider.error_on_failure())
    }

    /// Whether it computes in 32 bits what is stored in 16.
    fn widens(self, precision: Precision) -> bool {
        self == Self::Cpu && precision == Precision::F16
    }

    /// What it means when memory runs out.
    fn oom(self) -> FailureKind {
        if self == Self::Cpu { FailureKind::OomHost } else { FailureKind::OomDevice }
    }
}

/// A graph in ONNX Runtime.
pub struct OnnxRuntime {
    graph: Graph,
    shape: Shape,
    precision: Precision,
    device: DeviceId,
    provider: Provider,
    info: Info,
}

impl OnnxRuntime {
    /// Loads a model.
    pub fn load(load: &Load) -> Result<Self, BackendError> {
        let precision = load.artifact.precision;
        let library = library()?;
        let provider = provider(load.device, library)?;
        let weights = weights::open(&load.folder, &load.artifact)?;
        let graph = session(load, provider, library, &weights.path)?;
        let is_widened = provider.widens(precision);
        Ok(Self {
            graph,
            info: Info {
                engine: words(load, provider, library),
                weight_bytes: weights.decode_bytes * if is_widened { 2 } else { 1 },
                threads: load.threads,
                is_widened,
            },
            shape: weights.shape,
            precision,
            device: load.device,
            provider,
        })
    }
}

/// The provider for a device, where the library has it.
fn provider(device: DeviceId, library: &Library) -> Result<Provider, BackendError> {
    let provider = Provider::of(device.kind)
        .ok_or_else(|| BackendError::unsupported(format!("ONNX Runtime has no code for {}", device.kind)))?;
    if provider.is_available() {
        return Ok(provider);
    }
    Err(BackendError::unsupported(format!(
        "{} was built without {}, which {device} needs (fix: a library that was built with it, beside the worker or \
         named in REGATTA_ONNXRUNTIME)",
        library.path.display(),
        provider.name()
    )))
}

fn session(load: &Load, provider: Provider, library: &Library, path: &Path) -> Result<Graph, BackendError> {
    let failed = |what: &str, error: &dyn Display| error_of(provider, &format!("{what}: {error}"));
    let builder = Graph::builder(&library.environment).map_err(|error| failed("no session", &error))?;
    let threads = load.threads as usize;
    let builder = builder.with_intra_threads(threads).map_err(|error| failed("no threads", &error))?;
    let builder = builder.with_inter_threads(1).map_err(|error| failed("no threads", &error))?;
    let registered = builder.with_execution_providers([provider.on(load.device.index)?]);
    let mut builder = registered.map_err(|error| failed(provider.name(), &error))?;
    if provider != Provider::Cpu {
        builder = builder.with_disable_cpu_fallback().map_err(|error| failed(provider.name(), &error))?;
    }
    if provider == Provider::DirectMl {
        // Sessions on DirectML fail with it.
        builder = builder.with_memory_pattern(false).map_err(|error| failed(provider.name(), &error))?;
    }
    builder.commit_from_file(path).map_err(|error| failed("ONNX Runtime can't load the graph", &error))
}

/// The engine's version, its build, and what was chosen.
fn words(load: &Load, provider: Provider, library: &Library) -> String {
    let Library { path, version, .. } = library;
    let precision = load.artifact.precision;
    let (name, path) = (provider.name(), path.display());
    let widened = if provider.widens(precision) { "; f16 weights widened to f32" } else { "" };
    let directml = if provider == Provider::DirectMl { format!("; {}", library::directml()) } else { String::new() };
    let place = if Cache::is_in_place(provider) { "in place" } else { "in two buffers" };
    format!(
        "onnxruntime {version} (ort {ORT}); {path}; provider {name}{directml}; threads {}; kv {precision} {place}{widened}",
        load.threads
    )
}

impl Backend for OnnxRuntime {
    fn info(&self) -> Info {
        self.info.clone()
    }

    /// A sliding window is in the graph's mask, for prompts and for steps, so it limits nothing.
    fn limits(&self) -> Limits {
        Limits { vocab: self.shape.vocab, context: self.shape.context }
    }

    fn open(&mut self, plan: &Plan) -> Result<Box<dyn Session + '_>, BackendError> {
        let provider = self.provider;
        let failed = |error: ort::Error| error_of(provider, &error.to_string());
        let mut binding = self.graph.create_binding().map_err(failed)?;
        let capacity = plan.positions().max(1);
        let positions: Vec<i64> = (0..i64::from(capacity)).collect();
        let positions = Tensor::from_array(([i64::from(capacity)], positions)).map_err(failed)?;
        binding.bind_input("cache_positions", &positions).map_err(failed)?;
        let rows = [i64::from(plan.batch), i64::from(self.shape.vocab)];
        let mut logits = Tensor::new(&Allocator::default(), rows).map_err(failed)?;
        binding.bind_output("logits", &mut logits).map_err(failed)?;
        let mut cache = Cache::new(&self.shape, self.precision, plan.batch, capacity);
        let place = cache::Place { graph: &self.graph, provider, device: self.device };
        cache.allocate(&place, &mut binding).map_err(failed)?;
        let mut session = Running {
            graph: &mut self.graph,
            binding,
            provider,
            cache,
            logits,
            kv_heads: self.shape.kv_heads,
            vocab: self.shape.vocab as usize,
            kept: 0,
            position: 0,
            is_fed: false,
        };
        session.settle(plan.batch as usize)?;
        Ok(Box::new(session))
    }
}

/// A cell's session.
struct Running<'m> {
    graph: &'m mut Graph,
    binding: IoBinding,
    provider: Provider,
    cache: Cache,
    /// Sequences × vocabulary, in the host's memory.
    logits: Tensor<f32>,
    kv_heads: u32,
    vocab: usize,
    /// Tokens that each sequence holds after a reset.
    kept: u32,
    /// Tokens that each sequence holds.
    position: u32,
    is_fed: bool,
}

impl Running<'_> {
    /// Brings empty caches to the device, where they can't be made there: a step reads them from the host, and leaves them
    /// where steps will find them.
    fn settle(&mut self, batch: usize) -> Result<(), BackendError> {
        if Cache::is_in_place(self.provider) {
            return Ok(());
        }
        self.feed(&vec![0; batch], batch)?;
        self.position = 0;
        self.is_fed = false;
        Ok(())
    }

    /// Feeds as many tokens to each sequence, one sequence after the other.
    fn feed(&mut self, tokens: &[u32], sequences: usize) -> Result<(), BackendError> {
        let provider = self.provider;
        self.bind(tokens, sequences).map_err(|error| error_of(provider, &error.to_string()))?;
        self.graph.run_binding(&self.binding).map_err(|error| error_of(provider, &error.to_string()))?;
        self.cache.swap();
        self.position += u32::try_from(tokens.len() / sequences.max(1)).map_err(BackendError::engine)?;
        self.is_fed = true;
        Ok(())
    }

    fn bind(&mut self, tokens: &[u32], sequences: usize) -> ort::Result<()> {
        let [count, length] = [sequences, tokens.len() / sequences.max(1)].map(signed);
        let heads = i64::from(self.kv_heads);
        let positions = i64::from(self.position)..i64::from(self.position) + length;
        let slots = Tensor::from_array(([count, heads, length, 3], slots(count, heads, &positions)))?;
        let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_array(([count, length], ids))?;
        let positions = Tensor::from_array(([length], positions.collect::<Vec<i64>>()))?;
        self.binding.bind_input("input_ids", &ids)?;
        self.binding.bind_input("position_ids", &positions)?;
        self.binding.bind_input("cache_slots", &slots)?;
        self.cache.bind(&mut self.binding)
    }

    fn row(&self, sequence: usize) -> Result<&[f32], BackendError> {
        let (_, logits) = self.logits.extract_tensor();
        let row = logits.chunks_exact(self.vocab).nth(sequence).filter(|_| self.is_fed);
        row.ok_or_else(|| BackendError::engine("no tokens were fed yet"))
    }
}

/// Where each new key and value goes: sequence, head, position.
fn slots(sequences: i64, heads: i64, positions: &Range<i64>) -> Vec<i64> {
    let heads = (0..sequences).flat_map(|sequence| (0..heads).map(move |head| (sequence, head)));
    heads.flat_map(|(sequence, head)| positions.clone().flat_map(move |at| [sequence, head, at])).collect()
}

/// A length, which is small.
fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

impl Session for Running<'_> {
    fn reset(&mut self) -> Result<(), BackendError> {
        // What stands behind in the cache is masked until it is written again.
        self.position = self.kept;
        self.is_fed = false;
        Ok(())
    }

    fn keep(&mut self) -> Result<(), BackendError> {
        self.kept = self.position;
        Ok(())
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError> {
        self.feed(&prompts.concat(), prompts.len())
    }

    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError> {
        for (sequence, id) in out.iter_mut().enumerate() {
            *id = argmax(self.row(sequence)?);
        }
        Ok(())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError> {
        self.feed(tokens, tokens.len())
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        let provider = self.provider;
        self.binding.synchronize_outputs().map_err(|error| error_of(provider, &error.to_string()))
    }

    fn logits(&self, sequence: usize) -> Result<Vec<f32>, BackendError> {
        self.row(sequence).map(<[f32]>::to_vec)
    }
}

impl From<LibraryError> for BackendError {
    fn from(error: LibraryError) -> Self {
        Self::unsupported(error)
    }
}

/// ONNX Runtime's error as ours. A lack of memory is told in words only.
fn error_of(provider: Provider, words: &str) -> BackendError {
    let lower = words.to_lowercase();
    let lacks = ["out of memory", "failed to allocate", "bad_alloc", "bad allocation", "8007000e"];
    let is_oom = lacks.iter().any(|words| lower.contains(words));
    BackendError { kind: if is_oom { provider.oom() } else { FailureKind::Engine }, detail: words.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_name_sequence_head_and_position() {
        assert_eq!(slots(1, 2, &(5..7)), [0, 0, 5, 0, 0, 6, 0, 1, 5, 0, 1, 6]);
        assert_eq!(slots(2, 1, &(0..1)), [0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_lack_of_memory_is_known_by_its_words() {
        let of = |provider, words| error_of(provider, words).kind;
        assert_eq!(of(Provider::Cpu, "Failed to allocate memory for requested buffer"), FailureKind::OomHost);
        assert_eq!(of(Provider::DirectMl, "error 8007000E"), FailureKind::OomDevice);
        assert_eq!(of(Provider::Cuda, "invalid rank"), FailureKind::Engine);
    }
}
