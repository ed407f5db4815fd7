//! Models: architecture and shape, the sizes that follow from them, and where weights come from.

mod lock;
mod manifest;
mod source;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::lock::{Lock, LockError, Locked};
pub use self::manifest::{BUILT_IN_MODELS, parse_manifest};
pub use self::source::{MAX_FILE, Origin, Published, PublishedFile, is_sha256};
use crate::artifact::{Format, Precision};
use crate::id::ModelId;

/// A network family that both engines know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama: RMS norm, rotary positions, grouped-query attention, gated MLP.
    Llama,
    /// Mistral: as Llama, optionally with a sliding attention window.
    Mistral,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::Llama, Self::Mistral];

    /// The name in manifests and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The dimensions of a Llama-type network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Which family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Number of layers.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Key/value heads; fewer than `heads` with grouped-query attention.
    pub kv_heads: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// The longest context the model was made for, in tokens.
    pub context: u32,
    /// Base of the rotary position frequencies.
    pub rope_theta: f32,
    /// Epsilon of the RMS norm.
    pub norm_eps: f32,
    /// Whether the output matrix is the embedding matrix.
    pub tied_embeddings: bool,
    /// Attention window in tokens, where the model has one.
    pub sliding_window: Option<u32>,
}

impl Shape {
    /// Dimension of one attention head.
    pub fn head_dim(&self) -> u32 {
        self.hidden / self.heads.max(1)
    }

    /// Number of weights: `2Vh + L(2h·n_h·d + 2h·n_kv·d + 3hi + 2h) + h`, with one `Vh` where embeddings are tied.
    pub fn parameters(&self) -> u64 {
        let [hidden, vocab, layers] = [self.hidden, self.vocab, self.layers].map(u64::from);
        let head_dim = u64::from(self.head_dim());
        let heads = 2 * hidden * u64::from(self.heads) * head_dim;
        let kv_heads = 2 * hidden * u64::from(self.kv_heads) * head_dim;
        let mlp = 3 * hidden * u64::from(self.intermediate);
        let embeddings = if self.tied_embeddings { vocab * hidden } else { 2 * vocab * hidden };
        embeddings + layers * (heads + kv_heads + mlp + 2 * hidden) + hidden
    }
}

/// A named network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// A line for people.
    pub description: String,
    /// SPDX expression, or the licence's name.
    pub licence: String,
    /// Its dimensions.
    pub shape: Shape,
    /// Where its weights can be had.
    #[serde(default)]
    pub artifacts: Vec<Published>,
}

impl Model {
    /// The published weights of that format and precision.
    pub fn published(&self, format: Format, precision: Precision) -> Option<&Published> {
        self.artifacts.iter().find(|published| (published.format, published.precision) == (format, precision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_match_the_published_ones() {
        let tinyllama = Shape {
            architecture: Architecture::Llama,
            hidden: 2048,
            intermediate: 5632,
            layers: 22,
            heads: 32,
            kv_heads: 4,
            vocab: 32000,
            context: 2048,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            tied_embeddings: false,
            sliding_window: None,
        };
        assert_eq!(tinyllama.parameters(), 1_100_048_384);
        let mistral = Shape {
            architecture: Architecture::Mistral,
            hidden: 4096,
            intermediate: 14336,
            layers: 32,
            kv_heads: 8,
            vocab: 32768,
            ..tinyllama
        };
        assert_eq!(mistral.parameters(), 7_248_023_552);
    }
}
