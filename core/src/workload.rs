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

/// What is timed.
///
/// [`Generate`](Self::Generate) is what an application does, end to end. The others time the engine's forward passes alone:
/// no tokenizer, no choice of tokens, one wait for the device after each step. Those are the numbers that llama-bench
/// prints as `pp` and `tg`. The two never stand in one chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A prompt, then token after token, each the likeliest one.
    #[default]
    Generate,
    /// A prompt and nothing after it: llama-bench's `pp`.
    Prefill {
        /// Tokens that are in the key/value cache before.
        depth: u32,
    },
    /// Steps of one random token each: llama-bench's `tg`.
    Decode {
        /// Tokens that are in the key/value cache before.
        depth: u32,
    },
    /// The same from an empty cache on, to see how steps slow down as it fills.
    ContextSweep,
}

impl Kind {
    /// The names in scenarios and exports.
    pub const NAMES: [&str; 4] = ["generate", "prefill", "decode", "context-sweep"];

    /// The name in scenarios and exports.
    pub fn as_str(self) -> &'static str {
        let at = match self {
            Self::Generate => 0,
            Self::Prefill { .. } => 1,
            Self::Decode { .. } => 2,
            Self::ContextSweep => 3,
        };
        Self::NAMES[at]
    }

    /// The kind of that name; `depth` counts where the kind has one.
    pub fn named(name: &str, depth: u32) -> Option<Self> {
        Some(match name {
            "generate" => Self::Generate,
            "prefill" => Self::Prefill { depth },
            "decode" => Self::Decode { depth },
            "context-sweep" => Self::ContextSweep,
            _ => return None,
        })
    }

    /// Tokens that are in the key/value cache before the clock starts.
    pub fn depth(self) -> u32 {
        match self {
            Self::Prefill { depth } | Self::Decode { depth } => depth,
            Self::Generate | Self::ContextSweep => 0,
        }
    }

    /// Whether forward passes alone are timed.
    pub fn is_kernel(self) -> bool {
        self != Self::Generate
    }

    /// Whether steps are timed that follow no prompt.
    pub fn is_decode(self) -> bool {
        matches!(self, Self::Decode { .. } | Self::ContextSweep)
    }
}

/// What one timed execution does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Its name in the scenario.
    pub name: WorkloadName,
    /// What is timed.
    #[serde(default)]
    pub kind: Kind,
    /// What goes in. Of no tokens where steps are timed that follow no prompt; then its seed is that of the steps.
    pub prompt: Prompt,
    /// Tokens to generate, end-of-sequence ignored; steps, where no tokens are chosen.
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
    /// The size of its work, for people: `512 + 128 tokens`, or of forward passes alone `512 tokens` or `128 steps at depth
    /// 4096`, and the batch where there is one. `prompt_tokens` is the prompt's length as far as it is known.
    pub fn size(&self, prompt_tokens: Option<u32>) -> String {
        let prompt = prompt_tokens.map_or_else(|| "text".to_owned(), |n| n.to_string());
        let work = match self.kind {
            Kind::Generate => format!("{prompt} + {} tokens", self.generate),
            Kind::Prefill { .. } => format!("{prompt} tokens"),
            Kind::Decode { .. } | Kind::ContextSweep => format!("{} steps", self.generate),
        };
        let depth = match self.kind.depth() {
            0 => String::new(),
            depth => format!(" at depth {depth}"),
        };
        let batch = if self.batch > 1 { format!(", batch {}", self.batch) } else { String::new() };
        format!("{work}{depth}{batch}")
    }

    /// Hash of everything but the name: two workloads with the same hash do the same work.
    pub fn digest(&self) -> Digest {
        let (kind, seed, tokens, text) = match &self.prompt {
            Prompt::Seeded { seed, tokens } => ("seeded", *seed, Some(*tokens), ""),
            Prompt::Text { text, tokens } => ("text", 0, *tokens, text.as_str()),
        };
        let tokens = tokens.map_or_else(|| "all".to_owned(), |n| n.to_string());
        // A workload that is executed alone keeps the hash it had before there were replicas.
        let replicas = if self.replicas == 1 { String::new() } else { format!("x{}|", self.replicas) };
        // And one that generates keeps the hash it had before there were other kinds.
        let timed = if self.kind == Kind::Generate {
            String::new()
        } else {
            format!("{}@{}|", self.kind.as_str(), self.kind.depth())
        };
        Digest::of(
            format!("{timed}{replicas}{kind}|{seed}|{tokens}|{}|{}|{text}", self.generate, self.batch).as_bytes(),
        )
    }
}
