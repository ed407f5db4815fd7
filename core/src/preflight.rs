//! The memory preflight: what a cell needs, roughly, and whether it is there. Pure.
//!
//! A cell that can't fit is skipped with the numbers instead of being killed half-way with everything else on its host.
//! The estimate is a lower one: what certainly has to be there at the same time. So a cell that is skipped would have
//! failed, and one that is let through may still run out of memory, which then is its outcome.
//!
//! It is asked twice: when a scenario is unfolded, with the size of each device's memory ([`crate::matrix`]), and by the
//! worker before it loads and before each cell, with what is free at that moment.

use crate::artifact::Precision;
use crate::backend::BackendKind;
use crate::document::grouped;
use crate::model::Shape;
use crate::workload::Workload;

/// Bytes of a 32-bit float.
const F32: u64 = 4;

/// Tokens that llama.cpp computes at once.
const MICRO_BATCH: u64 = 512;

/// Tokens of each sequence that the cache is filled with at a time, before the clock starts.
pub const DEPTH_STEP: u64 = 512;

/// What one cell needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The weights, as the engine holds them.
    pub weights: u64,
    /// Keys and values of every position of every sequence.
    pub cache: u64,
    /// The largest intermediate results of the prompt, and the logits.
    pub activations: u64,
}

impl Need {
    /// Everything together.
    pub fn total(self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.activations)
    }

    /// Why it can't be tried where there are `free` bytes, if it can't. `place` is what has them.
    pub fn shortage(self, place: &str, free: u64) -> Option<String> {
        let mib = |bytes: u64| grouped(bytes.div_ceil(1 << 20));
        (self.total() > free).then(|| {
            format!(
                "needs about {} MiB of memory (weights {}, key/value cache {}, activations {}), {place} has {} MiB \
                 (fix: a smaller precision, batch or prompt; --force tries it all the same)",
                mib(self.total()),
                mib(self.weights),
                mib(self.cache),
                mib(self.activations),
                grouped(free >> 20),
            )
        })
    }
}

/// What a workload needs of a network on an engine; nothing for the engine that runs no network.
pub fn need(shape: &Shape, backend: BackendKind, precision: Precision, workload: &Workload) -> Need {
    if backend == BackendKind::Fake {
        return Need { weights: 0, cache: 0, activations: 0 };
    }
    let [hidden, inner, vocab, layers] = [shape.hidden, shape.intermediate, shape.vocab, shape.layers].map(u64::from);
    let kv_width = u64::from(shape.kv_heads) * u64::from(shape.head_dim());
    let batch = u64::from(workload.batch.max(1));
    let prompt = u64::from(workload.prompt.tokens().unwrap_or(0));
    let depth = u64::from(workload.kind.depth());
    let positions = depth + prompt + u64::from(workload.generate);
    let fed = prompt.max(depth.min(DEPTH_STEP));
    let together = match backend {
        BackendKind::LlamaCpp => (batch * fed).min(MICRO_BATCH),
        BackendKind::Candle | BackendKind::OnnxRuntime | BackendKind::Fake => batch * fed,
    };
    // In a layer: the residual stream and its norm, and the three matrices of the MLP.
    let rows = together * (2 * hidden + 3 * inner) * number_bytes(backend, precision);
    Need {
        weights: weights(shape, backend, precision),
        cache: 2 * layers * kv_width * positions * batch * number_bytes(backend, precision),
        activations: rows + batch * vocab * F32,
    }
}

/// The weights as the engine holds them.
pub fn weights(shape: &Shape, backend: BackendKind, precision: Precision) -> u64 {
    let stored = shape.parameters() * hundredths_of_bits(precision) / 800;
    stored + unpacked(shape, backend, precision)
}

/// What an engine holds beside the weights of its file: candle's quantised network looks embeddings up in f32.
pub fn unpacked(shape: &Shape, backend: BackendKind, precision: Precision) -> u64 {
    let unpacks = backend == BackendKind::Candle && precision.is_quantised();
    if unpacks { u64::from(shape.vocab) * u64::from(shape.hidden) * F32 } else { 0 }
}

/// Bits to a weight, in hundredths. Of the mixture an average over models from 1 to 7 billion weights.
fn hundredths_of_bits(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 3200,
        Precision::F16 | Precision::Bf16 => 1600,
        Precision::Q8_0 => 850,
        Precision::Q4_1 => 500,
        Precision::Q4KM => 480,
    }
}

/// Bytes of a number in the key/value cache and between layers: both engines keep halves unless weights are f32; candle's
/// quantised network computes in f32.
pub fn number_bytes(backend: BackendKind, precision: Precision) -> u64 {
    match (backend, precision) {
        (_, Precision::F32) => F32,
        (BackendKind::Candle, precision) if precision.is_quantised() => F32,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BUILT_IN_MODELS, parse_manifest};
    use crate::workload::{Kind, Prompt};

    fn shape(id: &str) -> Shape {
        let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
        models.into_iter().find(|model| model.id.as_str() == id).unwrap().shape
    }

    fn workload(tokens: u32, generate: u32, batch: u32) -> Workload {
        let prompt = Prompt::Seeded { seed: 1, tokens };
        Workload { name: "w".parse().unwrap(), kind: Kind::Generate, prompt, generate, batch, replicas: 1 }
    }

    #[test]
    fn weights_are_what_files_of_that_shape_have() {
        // Measured on files that were made of these shapes.
        for (id, precision, bytes) in [
            ("tinyllama-1.1b", Precision::F16, 2_200_096_768u64),
            ("tinyllama-1.1b", Precision::Q8_0, 1_169_072_128),
            ("tinyllama-1.1b", Precision::Q4KM, 667_078_656),
        ] {
            let estimate = weights(&shape(id), BackendKind::LlamaCpp, precision);
            assert!(estimate.abs_diff(bytes) * 50 < bytes, "{id} {precision}: {estimate} for {bytes}");
        }
    }

    #[test]
    fn the_cache_is_two_numbers_for_each_layer_head_and_position() {
        // Mistral: 32 layers, 8 heads of 128; 4096 positions in halves are 512 MiB.
        let need = need(&shape("mistral-7b"), BackendKind::LlamaCpp, Precision::Q4KM, &workload(4000, 96, 1));
        assert_eq!(need.cache, 512 << 20);
        let batch = super::need(&shape("mistral-7b"), BackendKind::LlamaCpp, Precision::F32, &workload(4000, 96, 3));
        assert_eq!(batch.cache, 6 * (512 << 20));
    }

    #[test]
    fn what_does_not_fit_is_said_in_numbers() {
        let need = need(&shape("mistral-7b"), BackendKind::Candle, Precision::F16, &workload(512, 64, 1));
        assert!(need.shortage("cpu", 24 << 30).is_none());
        let reason = need.shortage("cpu of agent a", 8 << 30).unwrap();
        let expected = "needs about 13,947 MiB of memory (weights 13,825, key/value cache 72, activations 51), cpu of \
                        agent a has 8,192 MiB (fix: a smaller precision, batch or prompt; --force tries it all the same)";
        assert_eq!(reason, expected);
    }

    #[test]
    fn an_engine_that_runs_no_network_needs_nothing() {
        assert_eq!(need(&shape("mistral-7b"), BackendKind::Fake, Precision::F32, &workload(9, 9, 9)).total(), 0);
    }
}
