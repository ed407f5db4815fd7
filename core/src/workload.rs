//! Workloads: what one timed execution does.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::WorkloadName;

/// The seed of prompts whose scenario names none.
pub const DEFAULT_PROMPT_SEED: u64 = 42;

/// Where the prompt's token ids come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Pseudo-random ids from a seed: the same on every backend and platform, no tokenizer needed.
    Seeded {
        /// The seed.
        seed: u64,
        /// How many tokens.
        tokens: u32,
    },
    /// A text, tokenised by the model's own tokenizer inside the timed region.
    Text {
        /// The text itself (not a path: a run carries all it needs).
        text: String,
        /// Exact length: the text's tokens are repeated or cut to this many. `None` takes them as they are.
        tokens: Option<u32>,
    },
}

impl Prompt {
    /// The prompt's length in tokens, where it is known before a tokenizer has seen the text.
    pub fn tokens(&self) -> Option<u32> {
        match self {
            Self::Seeded { tokens, .. } => Some(*tokens),
            Self::Text { tokens, .. } => *tokens,
        }
    }
}

/// What one timed execution does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Its name in the scenario.
    pub name: WorkloadName,
    /// What goes in.
    pub prompt: Prompt,
    /// Tokens to generate, end-of-sequence ignored.
    pub generate: u32,
    /// Sequences processed side by side; all get the same prompt length.
    pub batch: u32,
    /// Devices that execute it at the same time, each with its own copy of the model.
    #[serde(default = "alone")]
    pub replicas: u32,
}

/// The replicas of workloads stored before there were any.
fn alone() -> u32 {
    1
}

impl Workload {
    /// Hash of everything but the name: two workloads with the same hash do the same work.
    pub fn digest(&self) -> Digest {
        let (kind, seed, tokens, text) = match &self.prompt {
            Prompt::Seeded { seed, tokens } => ("seeded", *seed, Some(*tokens), ""),
            Prompt::Text { text, tokens } => ("text", 0, *tokens, text.as_str()),
        };
        let tokens = tokens.map_or_else(|| "all".to_owned(), |n| n.to_string());
        // A workload that is executed alone keeps the hash it had before there were replicas.
        let replicas = if self.replicas == 1 { String::new() } else { format!("x{}|", self.replicas) };
        Digest::of(format!("{replicas}{kind}|{seed}|{tokens}|{}|{}|{text}", self.generate, self.batch).as_bytes())
    }
}
