//! The numbers of a synthetic tensor.
//!
//! Number `i` of a tensor is made of the `i`-th 64-bit word of a `ChaCha8` stream whose key is the SHA-256 of the seed
//! and the tensor's name. Any number can be computed without the others, so neither order nor threads matter.
//!
//! A word is four 16-bit integers. Their sum, less its mean, is close to normally distributed (an Irwin-Hall
//! distribution of order 4, cut off at 3.46 standard deviations). The sum is exact and a single multiplication follows:
//! no logarithm or cosine, whose last bit differs between platforms, and no chance to order additions differently.
//!
//! ## How large the numbers are
//!
//! The networks normalise what enters each block to a mean square of 1. With a standard deviation of 1/√inputs, each
//! matrix keeps that size: attention scores have a variance of about 1, so attention is neither uniform nor stuck, and
//! each block adds less than 1 to the mean square of the residual stream. After 30 layers its standard deviation is
//! about 3.5 and its largest number about 15, far from the 65504 at which f16 ends.
//!
//! Greedy decoding must not fall to one token repeated for ever, or comparing the tokens of two backends would show
//! little. So the stream must keep knowing which token came in, and the output must not simply point back at it:
//!
//! - Attention averages over the context, which hardly changes from one token to the next. Its output matrix is a
//!   quarter of the others' size, so that it doesn't drown the token (it did: 29 different tokens in 64), and still
//!   changing the first of 64 tokens changes what is chosen.
//! - Where input and output are separate matrices, embeddings have a standard deviation of 1.
//! - Where they are one matrix, the token's own row would win each time: its score would be √hidden times larger than
//!   the others spread. There embeddings have 1/√hidden like any matrix; the first blocks carry the token into the
//!   stream, and its own row has no more than a standard deviation of advantage.
//!
//! Tried with the shape of a 135-million-parameter model, tied and not, this gives a new token at each of 48 steps. A
//! relative error of 10⁻⁴ on the embeddings becomes one of 3·10⁻⁴ (tied: 10⁻³) of the scores' spread, where a trained
//! model makes 1.4·10⁻⁴ of it, and the best token is ahead of the second by 0.15 of the spread in half of the steps. So
//! backends that compute rightly mostly agree, and one that doesn't is soon found out.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use regatta_core::model::Shape;
use sha2::{Digest, Sha256};

use crate::layout::{Role, TensorSpec};

/// Part of each key: change it when the numbers change, so that old and new can't be taken for each other.
const METHOD: &[u8] = b"regatta synthetic weights 1";

/// The mean of the sum of four 16-bit integers.
const MEAN: i32 = 2 * 65_535;

/// Its standard deviation: √(4/12 · (2³² - 1)).
const DEVIATION: f32 = 37_837.23;

/// All numbers of one tensor.
#[derive(Debug, Clone)]
pub struct Numbers {
    key: [u8; 32],
    /// What the sums are multiplied with; nothing where all numbers are 1.
    scale: Option<f32>,
}

impl Numbers {
    /// The numbers of one tensor of a network.
    pub fn new(seed: u64, spec: &TensorSpec, shape: &Shape) -> Self {
        let mut hash = Sha256::new();
        hash.update(METHOD);
        hash.update(seed.to_le_bytes());
        hash.update(spec.hf.as_bytes());
        Self { key: hash.finalize().into(), scale: deviation(spec, shape).map(|deviation| deviation / DEVIATION) }
    }

    /// Fills `out` with the numbers from the `first` on, in the order of the safetensors tensor.
    pub fn fill(&self, first: u64, out: &mut [f32]) {
        let Some(scale) = self.scale else { return out.fill(1.0) };
        let mut stream = ChaCha8Rng::from_seed(self.key);
        // The stream counts 32-bit words.
        stream.set_word_pos(2 * u128::from(first));
        let mut words = [0; 8 * WORDS];
        for numbers in out.chunks_mut(WORDS) {
            let words = &mut words[..8 * numbers.len()];
            stream.fill_bytes(words);
            for (number, &word) in numbers.iter_mut().zip(words.as_chunks().0) {
                *number = centred_sum(u64::from_le_bytes(word)) * scale;
            }
        }
    }
}

/// Words that are drawn at a time: many together take half the time of one by one.
const WORDS: usize = 256;

/// The sum of the word's four 16-bit integers, less its mean. Exact: 18 bits fit into an f32. Written as sums of halves
/// of the word, so that compilers use the processor's widest registers.
fn centred_sum(word: u64) -> f32 {
    const EVEN: u64 = 0x0000_ffff_0000_ffff;
    let pairs = (word & EVEN) + (word >> 16 & EVEN);
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the sum has 18 bits")]
    let sum = (pairs as u32 + (pairs >> 32) as u32) as i32;
    (sum - MEAN) as f32
}

/// How much smaller the attention's output matrix is than other matrices.
const ATTENTION_SHARE: f32 = 0.25;

/// The standard deviation of a tensor's numbers; nothing where all are 1. Square roots and quotients are exactly rounded
/// on every platform.
fn deviation(spec: &TensorSpec, shape: &Shape) -> Option<f32> {
    match spec.role {
        Role::Norm => None,
        Role::Embedding if !shape.tied_embeddings => Some(1.0),
        Role::Embedding | Role::Output | Role::Linear => Some(1.0 / (spec.cols as f32).sqrt()),
        Role::AttentionOutput => Some(ATTENTION_SHARE / (spec.cols as f32).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;
    use crate::testing;

    #[test]
    fn numbers_have_the_mean_and_deviation_that_were_asked_for() {
        let shape = testing::llama();
        let specs = layout::tensors(&shape);
        let embedding = Numbers::new(7, &specs[0], &shape);
        let mut numbers = vec![0.0; 19_200];
        embedding.fill(0, &mut numbers);
        let count = numbers.len() as f32;
        let mean = numbers.iter().sum::<f32>() / count;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f32>() / count;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
        assert!(numbers.iter().all(|number| number.abs() < 3.5));
    }

    #[test]
    fn any_number_is_the_same_whether_computed_alone_or_in_a_row() {
        let shape = testing::llama();
        let numbers = Numbers::new(7, &layout::tensors(&shape)[2], &shape);
        let mut row = vec![0.0; 64];
        numbers.fill(100, &mut row);
        for (index, &expected) in row.iter().enumerate() {
            let mut one = [0.0];
            numbers.fill(100 + index as u64, &mut one);
            assert_eq!(one[0].to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn seeds_and_tensors_have_their_own_numbers() {
        let shape = testing::llama();
        let specs = layout::tensors(&shape);
        let first = |seed, spec| {
            let mut out = [0.0; 4];
            Numbers::new(seed, spec, &shape).fill(0, &mut out);
            out.map(f32::to_bits)
        };
        assert_ne!(first(1, &specs[2]), first(2, &specs[2]));
        assert_ne!(first(1, &specs[2]), first(1, &specs[3]));
    }
}
