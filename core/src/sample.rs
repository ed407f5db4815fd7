//! Samples: the raw record of one repetition. Everything else is derived from it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::cell::CellHash;
use crate::digest::Digest;
use crate::flag::Flags;
use crate::telemetry::Telemetry;
use crate::trial::Epoch;
use crate::workload::Workload;

/// Which repetition a sample records. Unique over all samples there will ever be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleKey {
    /// The cell.
    pub cell: CellHash,
    /// The lease under which it was measured.
    pub epoch: Epoch,
    /// The repetition, from 0.
    pub repetition: u32,
}

/// The times of one repetition, in nanoseconds since its start (`t0`, the prompt handed over), all from the
/// worker's one monotonic clock. A time is taken only after the token ids of its step are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// `t_tok`: token ids ready. 0 for a prompt that is token ids already.
    pub tokenized: u64,
    /// `t_p`: first forward pass begins.
    pub prefill_start: u64,
    /// `t_ps`: the prompt is processed, device synchronised.
    pub prefill_done: u64,
    /// `t_1 … t_N`: the step's token ids are on the host, one time per step for all sequences of a batch.
    pub tokens: Box<[u64]>,
    /// `t_e`: the last piece of text is detokenised; equals `t_N` where there is no tokenizer.
    pub end: u64,
}

/// One timed execution of one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which one.
    pub key: SampleKey,
    /// Wall-clock time of its start: a label, never subtracted.
    pub started_at: Timestamp,
    /// When what happened.
    pub times: Times,
    /// Prompt length of each sequence, in tokens. 0 where steps were timed that follow no prompt.
    pub prompt_tokens: u32,
    /// Hash of the prompt's token ids.
    pub prompt_digest: Digest,
    /// Sequences side by side.
    pub batch: u32,
    /// Generated token ids, sequence after sequence: `batch × N`. Empty where none were chosen. Shared by those of a cell that are
    /// the same, which nearly all are.
    pub output: Arc<[u32]>,
    /// Time to load the model into this worker process, in nanoseconds.
    pub load_ns: u64,
    /// Time of the first warm-up repetition in this process, in nanoseconds.
    pub first_repetition_ns: u64,
    /// Warm-up repetitions before the first measured one.
    pub warmup_repetitions: u32,
    /// Largest resident memory of the worker process since it began with the cell, in bytes. `None` where it can't be read.
    pub peak_rss_bytes: Option<u64>,
    /// Threads the engine used.
    pub threads: u32,
    /// What must be said beside its numbers.
    pub flags: Flags,
    /// What its surroundings were like; `None` where nobody watched. Added by the agent.
    pub telemetry: Option<Box<Telemetry>>,
}

/// A sample that breaks a rule: it is kept apart with the reason, never charted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSample {
    /// It did other work than it was to do.
    #[error("did other work than was asked: {what} {found} where {expected} was asked for")]
    OtherWork {
        /// What differs.
        what: &'static str,
        /// As the sample has it.
        found: u32,
        /// As the workload has it.
        expected: u32,
    },
    /// Fewer or more token times than were to be generated.
    #[error("has {found} token times where {expected} tokens were to be generated")]
    TokenCount {
        /// Times in the sample.
        found: usize,
        /// Tokens that the workload generates.
        expected: usize,
    },
    /// Output ids don't fill batch × steps.
    #[error("has {found} output token ids where batch x steps is {expected}")]
    OutputCount {
        /// Ids in the sample.
        found: usize,
        /// Ids there should be.
        expected: usize,
    },
    /// A token came before its predecessor, or at the same time.
    #[error("token {index} at {time} ns is not later than token {previous} at {previous_time} ns")]
    TokenOrder {
        /// Position of the token, from 1.
        index: usize,
        /// Position of the one before.
        previous: usize,
        /// Its time.
        time: u64,
        /// The time of the one before.
        previous_time: u64,
    },
    /// The phases are not in order.
    #[error("{later} at {later_ns} ns is earlier than {earlier} at {earlier_ns} ns")]
    PhaseOrder {
        /// The phase that should come first.
        earlier: &'static str,
        /// Its time.
        earlier_ns: u64,
        /// The phase that should come second.
        later: &'static str,
        /// Its time.
        later_ns: u64,
    },
    /// The prompt took no time at all.
    #[error("prefill took 0 ns: the clock stood still or nothing was executed")]
    ZeroPrefill,
    /// A repetition longer than any timeout.
    #[error("lasted {0} ns, more than a day: not a duration in nanoseconds")]
    TooLong(u64),
    /// A batch or prompt of nothing.
    #[error("{0} is 0")]
    Zero(&'static str),
}

/// A day in nanoseconds: no repetition lasts longer.
const DAY_NS: u64 = 86_400_000_000_000;

impl Sample {
    /// Checks the sample against its own rules and against what it was to do.
    pub fn check(&self, workload: &Workload) -> Result<(), InvalidSample> {
        let mut asked = vec![("batch", self.batch, workload.batch)];
        asked.extend(workload.prompt.tokens().map(|tokens| ("a prompt of", self.prompt_tokens, tokens)));
        for (what, found, expected) in asked {
            if found != expected {
                return Err(InvalidSample::OtherWork { what, found, expected });
            }
        }
        self.check_itself(workload.generate)
    }

    /// Whether steps were timed that follow no prompt.
    pub fn is_decode(&self) -> bool {
        self.prompt_tokens == 0
    }

    /// Checks the sample against its own rules; `generate` is how many tokens it was to generate.
    pub fn check_itself(&self, generate: u32) -> Result<(), InvalidSample> {
        let times = &self.times;
        let steps = times.tokens.len();
        let expected = generate as usize;
        if steps != expected {
            return Err(InvalidSample::TokenCount { found: steps, expected });
        }
        let ids = self.batch as usize * steps;
        if self.output.len() != ids && !(self.is_decode() && self.output.is_empty()) {
            return Err(InvalidSample::OutputCount { found: self.output.len(), expected: ids });
        }
        if self.batch == 0 {
            return Err(InvalidSample::Zero("batch"));
        }
        if self.is_decode() && steps == 0 {
            return Err(InvalidSample::Zero("prompt_tokens"));
        }
        self.check_order()
    }

    fn check_order(&self) -> Result<(), InvalidSample> {
        let times = &self.times;
        let mut phases = vec![
            ("tokenized", times.tokenized),
            ("prefill_start", times.prefill_start),
            ("prefill_done", times.prefill_done),
        ];
        phases.extend(times.tokens.first().map(|&t| ("first token", t)));
        phases.extend(times.tokens.last().map(|&t| ("last token", t)));
        phases.push(("end", times.end));
        for pair in phases.windows(2) {
            let [(earlier, earlier_ns), (later, later_ns)] = [pair[0], pair[1]];
            if later_ns < earlier_ns {
                return Err(InvalidSample::PhaseOrder { earlier, earlier_ns, later, later_ns });
            }
        }
        if times.prefill_done == times.prefill_start && !self.is_decode() {
            return Err(InvalidSample::ZeroPrefill);
        }
        for (i, pair) in times.tokens.windows(2).enumerate() {
            if pair[1] <= pair[0] {
                return Err(InvalidSample::TokenOrder {
                    index: i + 2,
                    previous: i + 1,
                    time: pair[1],
                    previous_time: pair[0],
                });
            }
        }
        if times.end > DAY_NS {
            return Err(InvalidSample::TooLong(times.end));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::workload::{Kind, Prompt};

    /// A good sample with round numbers, in milliseconds: 1, 2, 22, then tokens at 25, 35, 55, 65, text at 66.
    pub(crate) fn sample() -> Sample {
        const MS: u64 = 1_000_000;
        Sample {
            key: SampleKey { cell: CellHash(Digest::of(b"cell")), epoch: Epoch(1), repetition: 0 },
            started_at: Timestamp::UNIX_EPOCH,
            times: Times {
                tokenized: MS,
                prefill_start: 2 * MS,
                prefill_done: 22 * MS,
                tokens: [25 * MS, 35 * MS, 55 * MS, 65 * MS].into(),
                end: 66 * MS,
            },
            prompt_tokens: 10,
            prompt_digest: Digest::of_tokens(&[1, 2, 3]),
            batch: 1,
            output: [7, 8, 9, 10].into(),
            load_ns: 1,
            first_repetition_ns: 1,
            warmup_repetitions: 4,
            peak_rss_bytes: None,
            threads: 2,
            flags: Flags::empty(),
            telemetry: None,
        }
    }

    /// What is said about a sample after this change; 4 tokens were to be generated.
    fn said(change: impl FnOnce(&mut Sample)) -> String {
        let mut sample = sample();
        change(&mut sample);
        sample.check_itself(4).map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_good_sample_is_accepted() {
        assert_eq!(sample().check_itself(4), Ok(()));
        assert_eq!(said(|s| (s.batch, s.output) = (2, [0; 8].into())), "accepted");
        // Token ids that need no tokenizer, and a worker that starts at once.
        assert_eq!(said(|s| (s.times.tokenized, s.times.prefill_start) = (0, 0)), "accepted");
    }

    #[test]
    fn durations_of_nothing_and_of_days_are_rejected() {
        assert_snapshot!(said(|s| s.times.prefill_start = s.times.prefill_done), @"prefill took 0 ns: the clock stood still or nothing was executed");
        assert_snapshot!(said(|s| s.times.end = 86_400_000_000_001), @"lasted 86400000000001 ns, more than a day: not a duration in nanoseconds");
        assert_snapshot!(said(|s| s.times.end = u64::MAX), @"lasted 18446744073709551615 ns, more than a day: not a duration in nanoseconds");
        assert_snapshot!(said(|s| (s.prompt_tokens, s.times.tokens, s.output) = (0, [].into(), [].into())), @"has 0 token times where 4 tokens were to be generated");
        assert_snapshot!(said(|s| (s.batch, s.output) = (0, [].into())), @"batch is 0");
    }

    #[test]
    fn forward_passes_alone_are_samples_too() {
        let decode = |s: &mut Sample| {
            (s.prompt_tokens, s.output) = (0, [].into());
            (s.times.tokenized, s.times.prefill_start, s.times.prefill_done) = (0, 0, 0);
        };
        assert_eq!(said(decode), "accepted");
        let mut prefill = sample();
        (prefill.times.tokens, prefill.output) = ([].into(), [].into());
        assert_eq!(prefill.check_itself(0), Ok(()));
        prefill.prompt_tokens = 0;
        assert_eq!(prefill.check_itself(0).unwrap_err().to_string(), "prompt_tokens is 0");
    }

    #[test]
    fn other_work_than_was_asked_for_is_named() {
        let prompt = Prompt::Seeded { seed: 1, tokens: 10 };
        let kind = Kind::Generate;
        let asked = Workload { name: "w".parse().unwrap(), kind, prompt, generate: 4, batch: 1, replicas: 1 };
        assert_eq!(sample().check(&asked), Ok(()));
        let said = |asked: Workload| sample().check(&asked).unwrap_err().to_string();
        assert_snapshot!(said(Workload { batch: 2, ..asked.clone() }), @"did other work than was asked: batch 1 where 2 was asked for");
        let prompt = Prompt::Seeded { seed: 1, tokens: 11 };
        assert_snapshot!(said(Workload { prompt, ..asked.clone() }), @"did other work than was asked: a prompt of 10 where 11 was asked for");
    }

    #[test]
    fn tokens_out_of_order_are_rejected() {
        assert_snapshot!(said(|s| s.times.tokens[2] = s.times.tokens[1]), @"token 3 at 35000000 ns is not later than token 2 at 35000000 ns");
        assert_snapshot!(said(|s| s.times.tokens.swap(1, 2)), @"token 3 at 35000000 ns is not later than token 2 at 55000000 ns");
        assert_snapshot!(said(|s| s.times.tokens[1] = 35), @"token 2 at 35 ns is not later than token 1 at 25000000 ns");
    }

    #[test]
    fn phases_out_of_order_are_rejected() {
        assert_snapshot!(said(|s| s.times.tokenized = s.times.prefill_start + 1), @"prefill_start at 2000000 ns is earlier than tokenized at 2000001 ns");
        assert_snapshot!(said(|s| s.times.prefill_start = s.times.prefill_done + 1), @"prefill_done at 22000000 ns is earlier than prefill_start at 22000001 ns");
        assert_snapshot!(said(|s| s.times.prefill_done = s.times.tokens[0] + 1), @"first token at 25000000 ns is earlier than prefill_done at 25000001 ns");
        assert_snapshot!(said(|s| s.times.end = s.times.tokens[3] - 1), @"end at 64999999 ns is earlier than last token at 65000000 ns");
    }

    #[test]
    fn counts_that_differ_are_shown() {
        assert_snapshot!(said(|s| s.times.tokens = s.times.tokens[..3].into()), @"has 3 token times where 4 tokens were to be generated");
        assert_snapshot!(said(|s| s.times.tokens = [].into()), @"has 0 token times where 4 tokens were to be generated");
        assert_snapshot!(said(|s| s.output = s.output[..3].into()), @"has 3 output token ids where batch x steps is 4");
        assert_snapshot!(said(|s| s.batch = u32::MAX), @"has 4 output token ids where batch x steps is 17179869180");
    }
}
