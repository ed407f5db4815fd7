//! Prompts: from a workload to token ids, the same on every backend and platform.

use regatta_core::digest::Digest;
use regatta_core::random::SplitMix;
use regatta_core::workload::{Prompt, Workload};

use crate::backend::{BackendError, Limits, Plan};
use crate::tokenizer::Tokenizer;

/// Seeded prompts leave out the first ids: in the vocabularies of Llama and its relatives those mean "unknown",
/// "begin" and "end".
const FIRST_ID: u32 = 3;

/// A workload's input, made ready before the clock starts.
#[derive(Debug)]
pub struct Input<'a> {
    source: Source<'a>,
    /// What each sequence holds before the clock starts.
    pub(crate) depth: Vec<Vec<u32>>,
    /// Where steps alone are timed: the token that each sequence is fed in each, step after step. Else empty.
    pub(crate) steps: Vec<u32>,
    /// The size of the work.
    pub plan: Plan,
    /// Hash of the token ids of all sequences, one after the other.
    pub digest: Digest,
}

#[derive(Debug)]
enum Source<'a> {
    Ids(Vec<Vec<u32>>),
    Text { text: &'a str, tokens: Option<u32>, tokenizer: &'a Tokenizer },
}

impl<'a> Input<'a> {
    /// Makes a workload ready for a model; refuses what doesn't fit it.
    pub fn new(workload: &'a Workload, limits: Limits, tokenizer: Option<&'a Tokenizer>) -> Result<Self, BackendError> {
        if workload.kind.is_kernel() {
            Self::kernel(workload, limits)
        } else {
            Self::generate(workload, limits, tokenizer)
        }
    }

    /// Forward passes alone: all token ids are made up, those before the clock starts, those of the prompt and those of the
    /// steps, one after the other from one stream.
    fn kernel(workload: &Workload, limits: Limits) -> Result<Self, BackendError> {
        let (depth, batch) = (workload.kind.depth(), workload.batch.max(1));
        let Prompt::Seeded { seed, tokens } = workload.prompt else {
            return Err(BackendError::unsupported("forward passes are timed with made-up token ids, not with a text"));
        };
        let plan = Plan { name: workload.name.to_string(), batch, prompt: tokens, generate: workload.generate, depth };
        check_size(&plan, limits)?;
        let all = seeded(seed, plan.positions(), batch, limits.vocab)?;
        let digest = Digest::of_tokens(&all.concat());
        let (start, end) = (depth as usize, (depth + tokens) as usize);
        let steps = (end..plan.positions() as usize).flat_map(|at| all.iter().map(move |ids| ids[at])).collect();
        Ok(Self {
            source: Source::Ids(all.iter().map(|ids| ids[start..end].to_vec()).collect()),
            depth: if depth == 0 { Vec::new() } else { all.iter().map(|ids| ids[..start].to_vec()).collect() },
            steps,
            plan,
            digest,
        })
    }

    fn generate(
        workload: &'a Workload,
        limits: Limits,
        tokenizer: Option<&'a Tokenizer>,
    ) -> Result<Self, BackendError> {
        let batch = workload.batch.max(1);
        let (source, prompts) = match &workload.prompt {
            Prompt::Seeded { seed, tokens } => {
                let ids = seeded(*seed, *tokens, batch, limits.vocab)?;
                (Source::Ids(ids.clone()), ids)
            }
            Prompt::Text { text, tokens } => {
                let tokenizer = tokenizer.ok_or_else(no_tokenizer)?;
                let source = Source::Text { text, tokens: *tokens, tokenizer };
                let ids = tokenised(text, *tokens, tokenizer, batch)?;
                (source, ids)
            }
        };
        let prompt = prompts.first().map_or(0, Vec::len);
        let prompt = u32::try_from(prompt).map_err(BackendError::unsupported)?;
        if let Some(id) = prompts.iter().flatten().find(|id| **id >= limits.vocab) {
            return Err(BackendError::rejected(format!(
                "the tokenizer gives token id {id}, the model's vocabulary ends at {}",
                limits.vocab
            )));
        }
        let plan = Plan { name: workload.name.to_string(), batch, prompt, generate: workload.generate, depth: 0 };
        check_size(&plan, limits)?;
        let digest = Digest::of_tokens(&prompts.concat());
        Ok(Self { source, depth: Vec::new(), steps: Vec::new(), plan, digest })
    }

    /// The token ids, where they don't come from a text.
    pub(crate) fn ids(&self) -> Option<&[Vec<u32>]> {
        match &self.source {
            Source::Ids(ids) => Some(ids),
            Source::Text { .. } => None,
        }
    }

    /// The token ids of each sequence; this is where a text is tokenised.
    pub(crate) fn tokenise(&self) -> Result<Vec<Vec<u32>>, BackendError> {
        match &self.source {
            Source::Ids(ids) => Ok(ids.clone()),
            Source::Text { text, tokens, tokenizer } => tokenised(text, *tokens, tokenizer, self.plan.batch),
        }
    }
}

fn no_tokenizer() -> BackendError {
    BackendError::unsupported(
        "the workload's prompt is a text, and these weights come without a tokenizer \
         (fix: use a seeded prompt, or weights with a tokenizer.json)",
    )
}

fn check_size(plan: &Plan, limits: Limits) -> Result<(), BackendError> {
    if plan.prompt == 0 && plan.generate == 0 {
        return Err(BackendError::unsupported("there is nothing to time: no prompt and no tokens to generate"));
    }
    if plan.positions() > limits.context {
        let depth = if plan.depth == 0 { String::new() } else { format!("{} tokens in the cache, ", plan.depth) };
        return Err(BackendError::unsupported(format!(
            "{depth}{} prompt tokens and {} generated ones need {} positions; this model on this engine has {}",
            plan.prompt,
            plan.generate,
            plan.positions(),
            limits.context
        )));
    }
    Ok(())
}

fn tokenised(
    text: &str,
    tokens: Option<u32>,
    tokenizer: &Tokenizer,
    batch: u32,
) -> Result<Vec<Vec<u32>>, BackendError> {
    let ids = tokenizer.encode(text).map_err(BackendError::engine)?;
    let ids = match tokens {
        Some(length) => ids.into_iter().cycle().take(length as usize).collect(),
        None => ids,
    };
    Ok(vec![ids; batch as usize])
}

/// Token ids for each sequence of a batch, from a seed: sequence `b` draws from a stream of its own.
pub fn seeded(seed: u64, tokens: u32, batch: u32, vocab: u32) -> Result<Vec<Vec<u32>>, BackendError> {
    let ids = vocab.saturating_sub(FIRST_ID);
    if ids == 0 {
        return Err(BackendError::unsupported(format!("a vocabulary of {vocab} leaves no ids for a seeded prompt")));
    }
    let sequence = |b: u32| {
        let mut stream = SplitMix(SplitMix(seed).draw().wrapping_add(u64::from(b)));
        (0..tokens).map(|_| FIRST_ID + stream.below(ids)).collect()
    };
    Ok((0..batch).map(sequence).collect())
}

#[cfg(test)]
mod tests {
    use regatta_core::workload::Kind;

    use super::*;

    #[test]
    fn forward_passes_get_ids_from_one_stream_depth_first() {
        let limits = Limits { vocab: 100, context: 128 };
        let prompt = Prompt::Seeded { seed: 1, tokens: 3 };
        let kind = Kind::Prefill { depth: 2 };
        let prefill = Workload { name: "w".parse().unwrap(), kind, prompt, generate: 0, batch: 2, replicas: 1 };
        let prompt = Prompt::Seeded { seed: 1, tokens: 0 };
        let kind = Kind::Decode { depth: 2 };
        let decode = Workload { kind, prompt, generate: 3, ..prefill.clone() };
        let all = seeded(1, 5, 2, 100).unwrap();
        let [prefill, decode] = [&prefill, &decode].map(|workload| Input::new(workload, limits, None).unwrap());
        assert_eq!(prefill.ids().unwrap(), [&all[0][2..], &all[1][2..]]);
        assert_eq!(prefill.depth, [&all[0][..2], &all[1][..2]]);
        assert!(prefill.steps.is_empty());
        assert_eq!(decode.depth, prefill.depth);
        assert_eq!(decode.steps, [all[0][2], all[1][2], all[0][3], all[1][3], all[0][4], all[1][4]]);
        assert_eq!((decode.plan.prompt, decode.plan.positions()), (0, 5));
    }

    #[test]
    fn a_seeded_prompt_never_changes() {
        let prompts = seeded(42, 4, 2, 32_000).unwrap();
        assert_eq!(prompts, seeded(42, 4, 2, 32_000).unwrap());
        assert_ne!(prompts[0], prompts[1]);
        // Stored samples refer to these ids by their hash.
        assert_eq!(prompts[0], GOLDEN);
    }

    const GOLDEN: [u32; 4] = [10_987, 30_584, 15_564, 2_158];

    #[test]
    fn the_first_sequence_does_not_depend_on_the_batch_and_ids_stay_in_the_vocabulary() {
        let alone = seeded(7, 500, 1, 10).unwrap();
        let many = seeded(7, 500, 8, 10).unwrap();
        assert_eq!(alone[0], many[0]);
        assert!(many.iter().flatten().all(|id| (FIRST_ID..10).contains(id)));
        assert!((FIRST_ID..10).all(|id| many[3].contains(&id)));
        assert!(seeded(7, 5, 1, 3).is_err());
    }

    #[test]
    fn what_does_not_fit_is_said_in_numbers() {
        let workload = Workload {
            kind: Kind::Generate,
            name: "w".parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: 100 },
            generate: 29,
            batch: 1,
            replicas: 1,
        };
        let limits = Limits { vocab: 100, context: 128 };
        let error = Input::new(&workload, limits, None).unwrap_err();
        assert_eq!(error.kind, regatta_core::failure::FailureKind::Unsupported);
        assert!(error.detail.contains("129 positions") && error.detail.contains("has 128"), "{error}");
    }

    #[test]
    fn a_text_without_a_tokenizer_is_refused() {
        let prompt = Prompt::Text { text: "Hello".to_owned(), tokens: None };
        let workload =
            Workload { kind: Kind::Generate, name: "w".parse().unwrap(), prompt, generate: 1, batch: 1, replicas: 1 };
        let error = Input::new(&workload, Limits { vocab: 100, context: 128 }, None).unwrap_err();
        assert!(error.detail.contains("tokenizer"), "{error}");
    }
}
