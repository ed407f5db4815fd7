//! candle: safetensors through its Llama and Mistral, GGUF through its quantised Llama.
//!
//! How it is used here, and why:
//!
//! - **Threads.** candle computes on two pools: rayon's (plain matrices, soft-max, rotary positions) and a pool of its
//!   own that spins between quantised products. Both take their size from environment variables on first use, so the
//!   worker sets those before any thread exists ([`crate::process::fix_threads`]).
//! - **Context.** Forward passes run inside `Device::with_context`, which keeps rayon's threads warm on the CPU.
//! - **Memory.** Decoding reads all weights in every step. In small pages their place in the machine's memory decides how fast
//!   that is, so agents have glibc ask for huge ones. SmolLM2 in f32 on two cores of a virtual machine decodes 33 tokens/s
//!   without and 43 to 50 with them, and a bare loop over candle-transformers 37 to 44 and 40 to 48.
//! - **Weights** are read tensor by tensor into their final place: no memory map (which would need `unsafe`) and no
//!   second copy of the file.
//! - **Key/value cache.** candle grows it by concatenation in every step, and repeats it for grouped-query attention.
//!   That is the engine's real cost and stays in the time.
//! - **Streams.** On CUDA a stream of its own is made: the default one belongs to a thread, not to a device.

mod tensors;

use std::fs::File;
use std::io::BufReader;

use candle_core::quantized::gguf_file;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, mistral, quantized_llama};
use regatta_core::artifact::{Format, Precision};
use regatta_core::backend::BackendKind;
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::failure::FailureKind;
use regatta_core::model::{Architecture, Shape};

use super::weights::{self, Weights};
use super::{Backend, BackendError, Info, Limits, Load, Plan, Session};
use crate::argmax::argmax;
use crate::{cpu, process};

/// Rotary tables of candle's quantised Llama end here, whatever the model's context.
const QUANTISED_CONTEXT: u32 = 4096;

/// The engine's version.
pub const VERSION: &str = env!("REGATTA_CANDLE");

/// The engine's build: its kernels are chosen by what the compiler was allowed to use.
pub fn build() -> String {
    format!("target features: {}", cpu::TARGET_FEATURES)
}

/// A model in candle.
pub struct Candle {
    network: Network,
    device: Device,
    info: Info,
    limits: Limits,
    precision: Precision,
}

/// The networks that candle has for us.
enum Network {
    Llama { model: llama::Llama, empty: llama::Cache },
    Mistral(mistral::Model),
    Quantised(quantized_llama::ModelWeights),
}

impl Candle {
    /// Loads a model.
    pub fn load(load: &Load) -> Result<Self, BackendError> {
        let weights = weights::open(&load.folder, &load.artifact)?;
        let device = device(load.device)?;
        let (network, cache) = match load.artifact.format {
            Format::Onnx => return Err(BackendError::unsupported("candle takes safetensors and gguf here, not onnx")),
            Format::Gguf => (quantised(&weights, &device)?, "f32"),
            Format::Safetensors => {
                (plain(&weights, load.artifact.precision, &device)?, load.artifact.precision.as_str())
            }
        };
        device.synchronize().map_err(error)?;
        let shape = &weights.shape;
        let pages = process::page_note();
        let engine = format!("candle {VERSION}; {}; threads {}; kv {cache}{pages}", build(), load.threads);
        Ok(Self {
            info: Info { engine, weight_bytes: weights.decode_bytes, threads: load.threads, is_widened: false },
            limits: Limits { vocab: shape.vocab, context: context(shape, load.artifact.format) },
            precision: load.artifact.precision,
            network,
            device,
        })
    }
}

/// The longest sequence that is computed right.
fn context(shape: &Shape, format: Format) -> u32 {
    match format {
        Format::Gguf => shape.context.min(QUANTISED_CONTEXT),
        // Decoding has no mask, so a window would be honoured in the prompt only.
        Format::Safetensors | Format::Onnx => shape.context.min(shape.sliding_window.unwrap_or(u32::MAX)),
    }
}

/// The device as candle has it.
pub(crate) fn device(id: DeviceId) -> Result<Device, BackendError> {
    let device = match id.kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => Device::new_cuda_with_stream(id.index as usize),
        DeviceKind::Metal => Device::new_metal(id.index as usize),
        DeviceKind::DirectMl | DeviceKind::Vulkan => {
            return Err(BackendError::unsupported(format!("candle has no code for {id}")));
        }
    };
    device.map_err(|error| BackendError::unsupported(format!("candle can't use {id}: {error}")))
}

fn plain(weights: &Weights, precision: Precision, device: &Device) -> Result<Network, BackendError> {
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
        other => return Err(BackendError::unsupported(format!("candle takes {other} weights from GGUF only"))),
    };
    let tensors = tensors::Safetensors::open(&weights.path)?;
    let vars = VarBuilder::from_backend(Box::new(tensors), dtype, device.clone());
    let shape = &weights.shape;
    match shape.architecture {
        Architecture::Llama => {
            let config = llama_config(shape);
            let model = llama::Llama::load(vars, &config).map_err(error)?;
            let empty = llama::Cache::new(true, dtype, &config, device).map_err(error)?;
            Ok(Network::Llama { model, empty })
        }
        Architecture::Mistral if shape.tied_embeddings => {
            Err(BackendError::unsupported("candle's Mistral has no tied embeddings"))
        }
        Architecture::Mistral => {
            Ok(Network::Mistral(mistral::Model::new(&mistral_config(shape), vars).map_err(error)?))
        }
    }
}

fn quantised(weights: &Weights, device: &Device) -> Result<Network, BackendError> {
    let read = |what| {
        move |error: std::io::Error| {
            BackendError::rejected(format!("cannot {what} {}: {error}", weights.path.display()))
        }
    };
    let mut file = BufReader::new(File::open(&weights.path).map_err(read("open"))?);
    let content = gguf_file::Content::read(&mut file).map_err(error)?;
    Ok(Network::Quantised(quantized_llama::ModelWeights::from_gguf(content, &mut file, device).map_err(error)?))
}

fn llama_config(shape: &Shape) -> llama::Config {
    llama::Config {
        hidden_size: shape.hidden as usize,
        intermediate_size: shape.intermediate as usize,
        vocab_size: shape.vocab as usize,
        num_hidden_layers: shape.layers as usize,
        num_attention_heads: shape.heads as usize,
        num_key_value_heads: shape.kv_heads as usize,
        use_flash_attn: false,
        rms_norm_eps: f64::from(shape.norm_eps),
        rope_theta: shape.rope_theta,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: shape.context as usize,
        tie_word_embeddings: shape.tied_embeddings,
    }
}

fn mistral_config(shape: &Shape) -> mistral::Config {
    mistral::Config {
        vocab_size: shape.vocab as usize,
        hidden_size: shape.hidden as usize,
        intermediate_size: shape.intermediate as usize,
        num_hidden_layers: shape.layers as usize,
        num_attention_heads: shape.heads as usize,
        head_dim: None,
        num_key_value_heads: shape.kv_heads as usize,
        hidden_act: Activation::Silu,
        max_position_embeddings: shape.context as usize,
        rms_norm_eps: f64::from(shape.norm_eps),
        rope_theta: f64::from(shape.rope_theta),
        sliding_window: shape.sliding_window.map(|window| window as usize),
        use_flash_attn: false,
    }
}

impl Backend for Candle {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn open(&mut self, plan: &Plan) -> Result<Box<dyn Session + '_>, BackendError> {
        if let Some(reason) = BackendKind::Candle.cannot(self.precision, plan.batch) {
            return Err(BackendError::unsupported(reason));
        }
        let network = match &mut self.network {
            Network::Llama { model, empty } => Running::Llama { model, cache: empty.clone(), kept: empty.clone() },
            Network::Mistral(model) => {
                model.clear_kv_cache();
                Running::Mistral { kept: model.clone(), model }
            }
            Network::Quantised(model) => {
                model.clear_kv_cache();
                Running::Quantised { kept: model.clone(), model }
            }
        };
        let mut session = Candling {
            network,
            device: &self.device,
            vocab: self.limits.vocab as usize,
            prompt: Vec::with_capacity(plan.batch as usize * plan.fed() as usize),
            kept: 0,
            position: 0,
            logits: None,
        };
        session.reset()?;
        Ok(Box::new(session))
    }
}

/// A network with its cache, and what a reset comes back to. Copies share the weights, and the tensors of the cache, which
/// never change: a longer cache is a new one.
enum Running<'m> {
    Llama { model: &'m llama::Llama, cache: llama::Cache, kept: llama::Cache },
    Mistral { model: &'m mut mistral::Model, kept: mistral::Model },
    Quantised { model: &'m mut quantized_llama::ModelWeights, kept: quantized_llama::ModelWeights },
}

impl Running<'_> {
    fn forward(&mut self, tokens: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        match self {
            Self::Llama { model, cache, .. } => model.forward(tokens, position, cache),
            Self::Mistral { model, .. } => model.forward(tokens, position),
            Self::Quantised { model, .. } => model.forward(tokens, position),
        }
    }

    fn restore(&mut self) {
        match self {
            Self::Llama { cache, kept, .. } => *cache = kept.clone(),
            Self::Mistral { model, kept } => **model = kept.clone(),
            Self::Quantised { model, kept } => **model = kept.clone(),
        }
    }

    fn keep(&mut self) {
        match self {
            Self::Llama { cache, kept, .. } => *kept = cache.clone(),
            Self::Mistral { model, kept } => *kept = model.clone(),
            Self::Quantised { model, kept } => *kept = model.clone(),
        }
    }
}

/// A cell's session.
struct Candling<'m> {
    network: Running<'m>,
    device: &'m Device,
    vocab: usize,
    /// Room for the prompts' ids, one sequence after the other.
    prompt: Vec<u32>,
    /// Tokens that each sequence holds after a reset.
    kept: usize,
    /// Tokens that each sequence holds.
    position: usize,
    /// Logits of the last positions: sequences × vocabulary, 32-bit.
    logits: Option<Tensor>,
}

impl Candling<'_> {
    fn feed(&mut self, tokens: &[u32], sequences: usize) -> Result<(), BackendError> {
        let length = tokens.len() / sequences.max(1);
        let (device, network, position, vocab) = (self.device, &mut self.network, self.position, self.vocab);
        let logits = device.with_context(|| {
            let tokens = Tensor::from_slice(tokens, (sequences, length), device)?;
            let logits = network.forward(&tokens, position)?;
            logits.reshape((sequences, vocab))?.to_dtype(DType::F32)
        });
        self.logits = Some(logits.map_err(error)?);
        self.position += length;
        Ok(())
    }

    fn ready(&self) -> Result<&Tensor, BackendError> {
        self.logits.as_ref().ok_or_else(|| BackendError::engine("no tokens were fed yet"))
    }
}

impl Session for Candling<'_> {
    fn reset(&mut self) -> Result<(), BackendError> {
        self.network.restore();
        self.logits = None;
        self.position = self.kept;
        self.device.synchronize().map_err(error)
    }

    fn keep(&mut self) -> Result<(), BackendError> {
        self.network.keep();
        self.kept = self.position;
        Ok(())
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        self.device.synchronize().map_err(error)
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError> {
        let mut ids = std::mem::take(&mut self.prompt);
        ids.clear();
        for prompt in prompts {
            ids.extend_from_slice(prompt);
        }
        let fed = self.feed(&ids, prompts.len());
        self.prompt = ids;
        fed?;
        self.device.synchronize().map_err(error)
    }

    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError> {
        let logits = self.ready()?;
        if logits.device().is_cpu() {
            return sample_on_host(logits, self.vocab, out);
        }
        // On an accelerator only the ids travel, and their arrival is the synchronisation.
        let ids = logits.argmax(candle_core::D::Minus1).and_then(|ids| ids.to_vec1::<u32>()).map_err(error)?;
        out.copy_from_slice(&ids);
        Ok(())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError> {
        self.feed(tokens, tokens.len())
    }

    fn logits(&self, sequence: usize) -> Result<Vec<f32>, BackendError> {
        self.ready()?.get(sequence).and_then(|row| row.to_vec1::<f32>()).map_err(error)
    }
}

/// The likeliest ids, straight from the tensor's memory: logits are not copied.
fn sample_on_host(logits: &Tensor, vocab: usize, out: &mut [u32]) -> Result<(), BackendError> {
    let (storage, layout) = logits.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(numbers)) = &*storage else {
        return Err(BackendError::engine("logits are not 32-bit floats in host memory"));
    };
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| BackendError::engine("logits are not contiguous"))?;
    for (row, id) in numbers[start..end].chunks_exact(vocab).zip(out) {
        *id = argmax(row);
    }
    Ok(())
}

/// candle's error as ours. Accelerators report a lack of memory in words only.
#[expect(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
fn error(error: candle_core::Error) -> BackendError {
    let detail = error.to_string();
    // Where the environment asks for backtraces, candle puts one into its message.
    let detail = detail.split("\n   0: ").next().unwrap_or_default().to_owned();
    let lower = detail.to_lowercase();
    let oom = ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|words| lower.contains(words));
    BackendError { kind: if oom { FailureKind::OomDevice } else { FailureKind::Engine }, detail }
}
