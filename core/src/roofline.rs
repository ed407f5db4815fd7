//! Roofline: what a Llama-type network asks of memory and arithmetic, and how much of a device's peak that is.
//!
//! Everything is arithmetic on a [`Shape`] and a [`Work`]; which peak a number is held against is [`peaks`]' or a
//! canary's ([`crate::canary`]) to say. With `P` weights, `V` vocabulary, `h` hidden width, `L` layers, `n_h` and `n_kv`
//! heads of dimension `d`, batch `B`, prompt `n`, `N` generated tokens and `D` tokens that are in the cache before:
//!
//! | quantity | formula |
//! | --- | --- |
//! | weights read in a decode step | `W = (P - Vh) · b_w`; `P · b_w` where embeddings are tied |
//! | key/value bytes of a token | `2 · L · n_kv · d · b_kv` |
//! | mean context of decode | `T = n + D + (N - 1) / 2` |
//! | FLOPs of a decode step, one sequence | `2 (P - Vh) + 4 · L · n_h · d · T` |
//! | FLOPs of prefill, one sequence | `2 (P - 2Vh) n + 2Vh + 2 · L · n_h · d · n (n + 1 + 2D)` |
//! | MBU | `(W + B · T · KV) / TPOT / peak bandwidth` |
//! | MFU | `B · FLOPs / time / peak dense FLOPs per second` |
//! | floor of TPOT | `W / peak bandwidth` |
//!
//! They count what the mathematics needs, not what an engine does: one that copies its cache in each step, or computes
//! the logits of all prompt positions, has a lower MBU or MFU for it. That is the point of them.

pub mod peaks;

use crate::model::Shape;

/// What a workload asks of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Sequences side by side.
    pub batch: u32,
    /// Prompt tokens of each.
    pub prompt: u32,
    /// Tokens in the cache of each before the prompt.
    pub depth: u32,
    /// Tokens generated for each.
    pub generate: u32,
}

impl Work {
    /// Tokens that a decode step attends to, on average over the steps: `n + D + (N - 1) / 2`, and never more than the
    /// network's window. (Mean of an arithmetic series.)
    pub fn mean_context(self, shape: &Shape) -> f64 {
        let steps = f64::from(self.generate.saturating_sub(1));
        let context = f64::from(self.prompt) + f64::from(self.depth) + steps / 2.0;
        shape.sliding_window.map_or(context, |window| context.min(f64::from(window)))
    }
}

/// Weights that a decode step multiplies by: all but the input embedding, of which it looks up one row; with tied
/// embeddings that matrix is the output matrix too, and is read as such.
///
/// Source: the shape's matrices counted one by one, as in [`Shape::parameters`].
pub fn decode_weights(shape: &Shape) -> u64 {
    let embedding = u64::from(shape.vocab) * u64::from(shape.hidden);
    shape.parameters() - if shape.tied_embeddings { 0 } else { embedding }
}

/// Bytes of weights read in a decode step where each weight takes `bytes_per_weight`. For quantised files take the bytes
/// of their tensors instead: a mixture has no such number.
pub fn decode_weight_bytes(shape: &Shape, bytes_per_weight: u64) -> u64 {
    decode_weights(shape) * bytes_per_weight
}

/// Bytes of keys and values of one token: `2 · L · n_kv · d · b_kv`.
///
/// Source: a key and a value vector for each layer and key/value head, as grouped-query attention has it (Ainslie and
/// others, 2023).
pub fn kv_bytes_per_token(shape: &Shape, bytes_per_number: u64) -> u64 {
    let [layers, heads, dimension] = [shape.layers, shape.kv_heads, shape.head_dim()].map(u64::from);
    2 * layers * heads * dimension * bytes_per_number
}

/// FLOPs of one decode step of one sequence that attends to `context` tokens: `2 (P - Vh) + 4 · L · n_h · d · T`.
///
/// Source: a multiplication and an addition for each weight, and for each position and head one dot product with the
/// keys and one weighted sum of the values (Kaplan and others, 2020, appendix of formulas, with attention written out).
pub fn decode_flops(shape: &Shape, context: f64) -> f64 {
    2.0 * decode_weights(shape) as f64 + 4.0 * attention_width(shape) * context
}

/// FLOPs of the prefill of one sequence of `prompt` tokens behind `depth` others:
/// `2 (P - 2Vh) n + 2Vh + 2 · L · n_h · d · n (n + 1 + 2D)`.
///
/// Source: as for [`decode_flops`], each position attending to those before it and to itself; the output matrix is
/// multiplied for the last position only, as both engines do it.
pub fn prefill_flops(shape: &Shape, prompt: u32, depth: u32) -> f64 {
    let output = f64::from(shape.vocab) * f64::from(shape.hidden);
    let (n, d) = (f64::from(prompt), f64::from(depth));
    let body = decode_weights(shape) as f64 - output;
    2.0 * body * n + 2.0 * output + 2.0 * attention_width(shape) * n * (n + 1.0 + 2.0 * d)
}

/// `L · n_h · d`.
fn attention_width(shape: &Shape) -> f64 {
    f64::from(shape.layers) * f64::from(shape.heads) * f64::from(shape.head_dim())
}

/// Model bandwidth utilisation of decode: bytes that a step has to read, over the time it took, over the device's peak.
///
/// Source: Databricks, "LLM Inference Performance Engineering: Best Practices" (2023): parameters and key/value cache over
/// TPOT, over peak bandwidth.
pub fn mbu(weight_bytes: u64, shape: &Shape, kv_number_bytes: u64, work: Work, tpot_s: f64, peak: f64) -> f64 {
    let cache = f64::from(work.batch) * work.mean_context(shape) * kv_bytes_per_token(shape, kv_number_bytes) as f64;
    (weight_bytes as f64 + cache) / tpot_s / peak
}

/// Model FLOPs utilisation of prefill.
///
/// Source: Chowdhery and others, "`PaLM`" (2022), appendix B: FLOPs that the mathematics needs over those that the device
/// could have done in the time.
pub fn prefill_mfu(shape: &Shape, work: Work, prefill_s: f64, peak: f64) -> f64 {
    f64::from(work.batch) * prefill_flops(shape, work.prompt, work.depth) / prefill_s / peak
}

/// Model FLOPs utilisation of decode; see [`prefill_mfu`].
pub fn decode_mfu(shape: &Shape, work: Work, tpot_s: f64, peak: f64) -> f64 {
    f64::from(work.batch) * decode_flops(shape, work.mean_context(shape)) / tpot_s / peak
}

/// The shortest possible time per output token in seconds: each step reads all of the weights once, whatever the batch,
/// and only `cache_bytes` of them may still be in a cache from the step before: `(W - C) / peak`.
pub fn tpot_floor_s(weight_bytes: u64, cache_bytes: u64, peak: f64) -> f64 {
    weight_bytes.saturating_sub(cache_bytes) as f64 / peak
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BUILT_IN_MODELS, parse_manifest};

    fn shape(id: &str) -> Shape {
        let models = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
        models.into_iter().find(|model| model.id.as_str() == id).unwrap().shape
    }

    fn mistral_v01() -> Shape {
        Shape { vocab: 32000, sliding_window: Some(4096), ..shape("mistral-7b") }
    }

    fn assert_close(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() <= within * expected.abs(), "{found} is not {expected}");
    }

    const HALF: u64 = 2;

    #[test]
    fn weights_read_in_a_step_leave_the_input_embedding_out() {
        assert_eq!(shape("tinyllama-1.1b").parameters(), 1_100_048_384);
        assert_eq!(mistral_v01().parameters(), 7_241_732_096);
        assert_eq!(shape("mistral-7b").parameters(), 7_248_023_552);
        assert_eq!(decode_weights(&shape("tinyllama-1.1b")), 1_100_048_384 - 32_000 * 2048);
        assert_eq!(decode_weight_bytes(&mistral_v01(), HALF), (7_241_732_096 - 32_000 * 4096) * 2);
        // Tied: one matrix is embedding and output, and the output reads it whole.
        let tied = shape("smollm2-135m");
        assert!(tied.tied_embeddings);
        assert_eq!(decode_weights(&tied), tied.parameters());
        assert_eq!(decode_weights(&tied), 134_515_008);
    }

    #[test]
    fn keys_and_values_of_a_token() {
        assert_eq!(kv_bytes_per_token(&shape("tinyllama-1.1b"), HALF), 22_528);
        assert_eq!(kv_bytes_per_token(&shape("mistral-7b"), HALF), 131_072);
        assert_eq!(kv_bytes_per_token(&shape("mistral-7b"), 4), 262_144);
    }

    /// Floors in milliseconds at 4.8 TB/s, 1.008 TB/s and 400 GB/s.
    #[test]
    fn floors_of_the_time_per_token() {
        let floor = |shape: &Shape, peak| 1e3 * tpot_floor_s(decode_weight_bytes(shape, HALF), 0, peak);
        let (mistral, tiny) = (mistral_v01(), shape("tinyllama-1.1b"));
        for (shape, peak, expected) in [
            (&mistral, 4.8e12, 2.96),
            (&mistral, 1.008e12, 14.1),
            (&mistral, 4e11, 35.6),
            (&tiny, 4.8e12, 0.43),
            (&tiny, 1.008e12, 2.05),
            (&tiny, 4e11, 5.17),
        ] {
            assert_close(floor(shape, peak), expected, 0.005);
        }
        // As rates: 338, 71 and 28 tokens/s.
        assert_close(1e3 / floor(&mistral, 4.8e12), 338.0, 0.002);
        // What fits into a cache has no floor.
        assert_close(tpot_floor_s(1000, 999, 1.0), 1.0, 0.0);
        assert_close(tpot_floor_s(1000, 1001, 1.0), 0.0, 0.0);
    }

    #[test]
    fn contexts_are_averages_over_the_steps_and_end_at_the_window() {
        let work = Work { batch: 1, prompt: 512, depth: 1024, generate: 129 };
        assert_close(work.mean_context(&shape("tinyllama-1.1b")), 512.0 + 1024.0 + 64.0, 0.0);
        let long = Work { prompt: 8000, ..work };
        assert_close(long.mean_context(&mistral_v01()), 4096.0, 0.0);
        assert_close(Work { generate: 0, ..work }.mean_context(&mistral_v01()), 1536.0, 0.0);
    }

    #[test]
    fn flops_of_a_step_and_of_a_prompt() {
        let tiny = shape("tinyllama-1.1b");
        // 2 · 1,034,512,384 for the weights, 4 · 22 · 32 · 64 for each token of the context.
        assert_close(decode_flops(&tiny, 0.0), 2_069_024_768.0, 0.0);
        assert_close(decode_flops(&tiny, 1000.0), 2_069_024_768.0 + 180_224_000.0, 0.0);
        // 2 · 968,976,384 for each token but the output matrix, that once, and attention over 1 + 2 + … + 512 tokens.
        let expected = 2.0 * 968_976_384.0 * 512.0 + 2.0 * 65_536_000.0 + 2.0 * 45_056.0 * 512.0 * 513.0;
        assert_close(prefill_flops(&tiny, 512, 0), expected, 1e-12);
    }

    /// A prompt in two pieces costs what it costs in one, but for one more row of logits.
    #[test]
    fn prefill_at_depth_is_the_rest_of_a_longer_prefill() {
        let shape = shape("mistral-7b");
        let output = 2.0 * f64::from(shape.vocab) * f64::from(shape.hidden);
        let pieces = prefill_flops(&shape, 300, 0) + prefill_flops(&shape, 212, 300) - output;
        assert_close(pieces, prefill_flops(&shape, 512, 0), 1e-12);
    }

    /// And a step of decode is a prefill of one token.
    #[test]
    fn a_decode_step_is_a_prefill_of_one_token() {
        for shape in [shape("mistral-7b"), shape("smollm2-135m")] {
            assert_close(prefill_flops(&shape, 1, 99), decode_flops(&shape, 100.0), 1e-12);
        }
    }

    #[test]
    fn utilisation_is_what_was_needed_over_what_there_was() {
        let tiny = shape("tinyllama-1.1b");
        let bytes = decode_weight_bytes(&tiny, HALF);
        let work = Work { batch: 4, prompt: 100, depth: 0, generate: 1 };
        // At the floor of the weights alone, the cache of 4 · 100 tokens comes on top.
        let tpot = tpot_floor_s(bytes, 0, 1e12);
        let cache = 4.0 * 100.0 * 22_528.0;
        assert_close(mbu(bytes, &tiny, HALF, work, tpot, 1e12), 1.0 + cache / bytes as f64, 1e-12);
        assert_close(prefill_mfu(&tiny, work, 0.5, 1e13), 4.0 * prefill_flops(&tiny, 100, 0) / 5e12, 1e-12);
        assert_close(decode_mfu(&tiny, work, 0.5, 1e13), 4.0 * decode_flops(&tiny, 100.0) / 5e12, 1e-12);
    }
}
