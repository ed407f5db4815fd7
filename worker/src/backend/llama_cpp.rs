//! llama.cpp: GGUF.
//!
//! How it is used here, and why:
//!
//! - **Context** is sized for the cell: one stream of `prompt + generate` positions for each sequence. The whole prompt
//!   goes in one call, which llama.cpp cuts into micro-batches of [`MICRO_BATCH`] tokens, its default.
//! - **Key/value cache and flash attention** are fixed: f16 and on, llama.cpp's defaults on the CPU; under f32 weights
//!   f32 and off, because the fused kernels round to 16 bits where candle keeps 32 (see [`Attention`]).
//! - **Depth** stays where it was computed: a reset takes the positions behind it out of the cache. llama-bench writes a saved
//!   copy back instead; the cells are the same ones, and nothing is copied here.
//! - **Logits** are computed for the last token of each prompt only, and read where llama.cpp put them.
//! - **Logs** go through `tracing`, so that the worker decides what is shown; nothing is logged in a step.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::OnceLock;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{DecodeError, LogOptions, list_llama_ggml_backend_devices, send_logs_to_tracing};
use llama_cpp_sys_2::{LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_flash_attn_type};
use regatta_core::artifact::Precision;
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::failure::FailureKind;

use super::{Backend, BackendError, Info, Limits, Load, Plan, Session, weights};
use crate::argmax::argmax;
use crate::{native, process};

/// Tokens that are computed at once, llama.cpp's default for `n_ubatch`.
pub const MICRO_BATCH: u32 = 512;

/// Positions are allocated in multiples of this; llama.cpp rounds up by itself and would warn.
const POSITIONS_STEP: u32 = 256;

/// The version of the crate that vendors llama.cpp's sources, and ggml's own.
pub fn version() -> String {
    format!(
        "{} (llama-cpp-2 {}, ggml {})",
        env!("REGATTA_LLAMA_CPP"),
        env!("REGATTA_LLAMA_CPP_2"),
        native::ggml_version()
    )
}

/// llama.cpp's one-time initialisation. It is never undone: the process ends with its trial.
pub fn engine() -> Result<&'static LlamaBackend, BackendError> {
    static ENGINE: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    let init = || {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().ok()
    };
    ENGINE.get_or_init(init).as_ref().ok_or_else(|| BackendError::engine("llama.cpp did not start"))
}

/// A model in llama.cpp.
pub struct LlamaCpp {
    engine: &'static LlamaBackend,
    model: LlamaModel,
    info: Info,
    limits: Limits,
    attention: Attention,
    /// What it means when memory runs out.
    oom: FailureKind,
}

/// How attention is computed and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    /// 32-bit keys and values, plain kernels: agrees with other engines to six digits. The fused kernels round to 16
    /// bits on the way, which costs three of them.
    Exact,
    /// 16-bit keys and values, fused kernels: what llama.cpp's own programs do.
    Fast,
}

impl Attention {
    /// Weights of 32 bits are asked for where exactness counts.
    fn of(precision: Precision) -> Self {
        if precision == Precision::F32 { Self::Exact } else { Self::Fast }
    }

    fn cache(self) -> KvCacheType {
        match self {
            Self::Exact => KvCacheType::F32,
            Self::Fast => KvCacheType::F16,
        }
    }

    fn policy(self) -> llama_flash_attn_type {
        match self {
            Self::Exact => LLAMA_FLASH_ATTN_TYPE_DISABLED,
            Self::Fast => LLAMA_FLASH_ATTN_TYPE_ENABLED,
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "flash attention off; kv f32",
            Self::Fast => "flash attention on; kv f16",
        })
    }
}

impl LlamaCpp {
    /// Loads a model.
    pub fn load(load: &Load) -> Result<Self, BackendError> {
        let weights = weights::open(&load.folder, &load.artifact)?;
        let engine = engine()?;
        let params = model_params(load.device)?;
        let model = LlamaModel::load_from_file(engine, &weights.path, &params).map_err(|error| {
            BackendError::engine(format!("llama.cpp can't load {}: {error}", weights.path.display()))
        })?;
        let attention = Attention::of(load.artifact.precision);
        let settings =
            format!("threads {}; ubatch {MICRO_BATCH}; {attention}; mmap{}", load.threads, process::page_note());
        Ok(Self {
            engine,
            info: Info {
                engine: format!("llama.cpp {}; {}; {settings}", version(), native::system_info()),
                weight_bytes: weights.decode_bytes,
                threads: load.threads,
                is_widened: false,
            },
            limits: Limits { vocab: weights.shape.vocab, context: weights.shape.context },
            model,
            attention,
            oom: if load.device.kind == DeviceKind::Cpu { FailureKind::OomHost } else { FailureKind::OomDevice },
        })
    }

    fn context_params(&self, plan: &Plan) -> Result<LlamaContextParams, BackendError> {
        let too_many = || BackendError::unsupported("more positions than llama.cpp can count");
        let positions = plan.positions().checked_next_multiple_of(POSITIONS_STEP).ok_or_else(too_many)?;
        let all = positions.checked_mul(plan.batch).filter(|&n| i32::try_from(n).is_ok()).ok_or_else(too_many)?;
        let threads = i32::try_from(self.info.threads).map_err(BackendError::unsupported)?;
        Ok(LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(all))
            .with_n_seq_max(plan.batch)
            .with_n_batch(plan.batch.saturating_mul(plan.fed()).max(MICRO_BATCH))
            .with_n_ubatch(MICRO_BATCH)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_type_k(self.attention.cache())
            .with_type_v(self.attention.cache())
            .with_flash_attention_policy(self.attention.policy())
            .with_no_perf(true))
    }
}

/// On the processor no layer may go anywhere else; on an accelerator all of them must.
fn model_params(device: DeviceId) -> Result<LlamaModelParams, BackendError> {
    let params = LlamaModelParams::default().with_use_mmap(true);
    let engine = match device.kind {
        DeviceKind::Cpu => return Ok(params.with_n_gpu_layers(0)),
        kind => native::REGISTRIES.into_iter().find(|(_, drives)| *drives == kind).map(|(name, _)| name),
    };
    let engine =
        engine.ok_or_else(|| BackendError::unsupported(format!("llama.cpp has no code for {}", device.kind)))?;
    let mut found = list_llama_ggml_backend_devices().into_iter().filter(|found| found.backend == engine);
    let found = found
        .nth(device.index as usize)
        .ok_or_else(|| BackendError::unsupported(format!("llama.cpp, as built here, has no device {device}")))?;
    params.with_n_gpu_layers(u32::MAX).with_devices(&[found.index]).map_err(BackendError::unsupported)
}

impl Backend for LlamaCpp {
    fn info(&self) -> Info {
        self.info.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn open(&mut self, plan: &Plan) -> Result<Box<dyn Session + '_>, BackendError> {
        let params = self.context_params(plan)?;
        // The only words that come back are "null reference"; with valid settings what is lacking is memory.
        let context = self.model.new_context(self.engine, params).map_err(|error| BackendError {
            kind: self.oom,
            detail: format!(
                "llama.cpp can't allocate a context of {} x {} positions: {error}",
                plan.batch,
                plan.positions()
            ),
        })?;
        let sequences = i32::try_from(plan.batch).map_err(BackendError::unsupported)?;
        let tokens = plan.batch as usize * plan.fed() as usize;
        Ok(Box::new(Running {
            context,
            prompt: LlamaBatch::new(tokens, 1),
            step: LlamaBatch::new(plan.batch as usize, 1),
            sequences,
            oom: self.oom,
            kept: 0,
            position: 0,
            rows: Vec::with_capacity(plan.batch as usize),
        }))
    }
}

/// A cell's session.
struct Running<'m> {
    context: LlamaContext<'m>,
    /// Room for the prompts of all sequences.
    prompt: LlamaBatch<'static>,
    /// Room for one token of each sequence.
    step: LlamaBatch<'static>,
    sequences: i32,
    oom: FailureKind,
    /// Tokens that each sequence holds after a reset.
    kept: i32,
    /// Tokens that each sequence holds.
    position: i32,
    /// Where in the last batch each sequence's logits are.
    rows: Vec<i32>,
}

impl Running<'_> {
    fn row(&self, sequence: usize) -> Result<&[f32], BackendError> {
        let row = self.rows.get(sequence).ok_or_else(|| BackendError::engine("no tokens were fed yet"))?;
        Ok(self.context.get_logits_ith(*row))
    }
}

impl Session for Running<'_> {
    fn reset(&mut self) -> Result<(), BackendError> {
        if let Some(kept) = u32::try_from(self.kept).ok().filter(|kept| *kept > 0) {
            let done = self.context.clear_kv_cache_seq(None, Some(kept), None).map_err(BackendError::engine)?;
            if !done {
                return Err(BackendError::engine("llama.cpp can't take positions out of this model's cache"));
            }
        } else {
            self.context.clear_kv_cache();
        }
        self.context.synchronize();
        self.position = self.kept;
        self.rows.clear();
        Ok(())
    }

    fn keep(&mut self) -> Result<(), BackendError> {
        self.kept = self.position;
        Ok(())
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        self.context.synchronize();
        Ok(())
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError> {
        self.prompt.clear();
        self.rows.clear();
        for (sequence, prompt) in (0..self.sequences).zip(prompts) {
            for (at, (position, &id)) in (1..).zip((self.position..).zip(prompt)) {
                self.prompt.add(token(id)?, position, &[sequence], at == prompt.len()).map_err(BackendError::engine)?;
            }
            self.rows.push(self.prompt.n_tokens() - 1);
        }
        self.context.decode(&mut self.prompt).map_err(|error| failure(&error, self.oom))?;
        self.position += prompts.first().map_or(0, |prompt| i32::try_from(prompt.len()).unwrap_or(i32::MAX));
        self.context.synchronize();
        Ok(())
    }

    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError> {
        for (sequence, id) in out.iter_mut().enumerate() {
            *id = argmax(self.row(sequence)?);
        }
        Ok(())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError> {
        self.step.clear();
        self.rows.clear();
        for (sequence, &id) in (0..self.sequences).zip(tokens) {
            self.step.add(token(id)?, self.position, &[sequence], true).map_err(BackendError::engine)?;
            self.rows.push(sequence);
        }
        self.context.decode(&mut self.step).map_err(|error| failure(&error, self.oom))?;
        self.position += 1;
        Ok(())
    }

    fn logits(&self, sequence: usize) -> Result<Vec<f32>, BackendError> {
        self.row(sequence).map(<[f32]>::to_vec)
    }
}

fn token(id: u32) -> Result<LlamaToken, BackendError> {
    i32::try_from(id).map(LlamaToken).map_err(BackendError::engine)
}

/// What `llama_decode` returns: 1 no room in the cache, 2 aborted, -2 no memory, -3 computation failed.
fn failure(error: &DecodeError, oom: FailureKind) -> BackendError {
    let (kind, words) = match error {
        DecodeError::NoKvCacheSlot => (FailureKind::Engine, "no room left in the key/value cache".to_owned()),
        DecodeError::NTokensZero => (FailureKind::Engine, "nothing was fed".to_owned()),
        DecodeError::Unknown(2) => (FailureKind::Engine, "aborted".to_owned()),
        DecodeError::Unknown(-2) => (oom, "no memory for the computation".to_owned()),
        DecodeError::Unknown(-3) => (FailureKind::Engine, "the computation failed".to_owned()),
        DecodeError::Unknown(code) => (FailureKind::Engine, format!("code {code}")),
    };
    BackendError { kind, detail: format!("llama_decode: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_return_code_has_its_kind() {
        let failure = |error| failure(&error, FailureKind::OomHost);
        assert_eq!(failure(DecodeError::Unknown(-2)).kind, FailureKind::OomHost);
        assert_eq!(failure(DecodeError::NoKvCacheSlot).kind, FailureKind::Engine);
        assert!(failure(DecodeError::Unknown(-7)).detail.contains("-7"));
    }
}
