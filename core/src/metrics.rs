//! Metrics: what is derived from a sample, each with its formula. Times are those of [`Times`](crate::sample::Times).
//!
//! | metric | formula | unit |
//! | --- | --- | --- |
//! | TTFT | `t_1 - t_0` | ns |
//! | engine TTFT | `t_1 - t_tok` | ns |
//! | prefill rate | `batch · n_prompt / (t_ps - t_p)` | tokens/s |
//! | decode rate | `batch · (N - 1) / (t_N - t_1)` | tokens/s |
//! | TPOT | `(t_N - t_1) / (N - 1)`, undefined for N < 2 | ns |
//! | decode rate, steps without a prompt | `batch · N / (t_N - t_p)` | tokens/s |
//! | TPOT, steps without a prompt | `(t_N - t_p) / N` | ns |
//! | ITL | `t_i - t_(i-1)` for i = 2 … N: a distribution | ns |
//! | end to end | `t_e - t_0` | ns |
//!
//! Decode rate is `batch / TPOT`: it leaves out the first token, which belongs to TTFT. Steps that follow no prompt have no
//! TTFT, and there all of them count: so llama-bench has its `tg`, and its `pp` is the prefill rate of a prompt with nothing
//! after it.

use crate::sample::Sample;

/// Version of the definitions above. It changes when a formula does, and is stored beside derived numbers.
pub const METHOD_VERSION: u32 = 2;

/// What one sample says.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Time to first token, in nanoseconds. `None` where no token follows a prompt.
    pub ttft_ns: Option<u64>,
    /// Time to first token without tokenising, in nanoseconds. `None` where no token follows a prompt.
    pub engine_ttft_ns: Option<u64>,
    /// Prompt tokens per second over all sequences. `None` without a prompt.
    pub prefill_rate: Option<f64>,
    /// Generated tokens per second over all sequences, the first token left out. `None` with fewer than two.
    pub decode_rate: Option<f64>,
    /// Time per output token, in nanoseconds. `None` with fewer than two tokens.
    pub tpot_ns: Option<f64>,
    /// Times between tokens, in nanoseconds, in order.
    pub itl_ns: Vec<u64>,
    /// From prompt to last piece of text, in nanoseconds.
    pub end_to_end_ns: u64,
}

const NS: f64 = 1e9;

/// Bytes per second that no memory or cache of today's processors and accelerators delivers. A coarse net: it catches a
/// forgotten synchronisation, not a doubtful one; that needs the device's own measured peak.
const CEILING_BYTES_PER_S: f64 = 20e12;

/// Whether tokens came faster than `weight_bytes`, read once for each step, can be read at all:
/// `(t_N - t_1) / (N - 1) < weight_bytes / ceiling`.
pub fn faster_than_physics(sample: &Sample, weight_bytes: u64) -> bool {
    let floor_ns = weight_bytes as f64 / CEILING_BYTES_PER_S * NS;
    tpot_ns(sample).is_some_and(|tpot| tpot < floor_ns)
}

/// Time per output token of a sample that has passed [`Sample::check`], in nanoseconds: [`Metrics::tpot_ns`] by itself.
pub fn tpot_ns(sample: &Sample) -> Option<f64> {
    let times = &sample.times;
    let mean = |from: u64, last: u64, tokens: usize| last.saturating_sub(from) as f64 / tokens as f64;
    match times.tokens.as_ref() {
        [.., last] if sample.is_decode() => Some(mean(times.prefill_done, *last, times.tokens.len())),
        [first, .., last] => Some(mean(*first, *last, times.tokens.len() - 1)),
        _ => None,
    }
}

/// Prompt tokens per second of a sample that has passed [`Sample::check`]: [`Metrics::prefill_rate`] by itself.
pub fn prefill_rate(sample: &Sample) -> Option<f64> {
    let prefill_ns = sample.times.prefill_done.saturating_sub(sample.times.prefill_start) as f64;
    let prompt = (!sample.is_decode()).then_some(f64::from(sample.prompt_tokens));
    prompt.map(|prompt| f64::from(sample.batch) * prompt * NS / prefill_ns)
}

impl Metrics {
    /// Derives the metrics of a sample that has passed [`Sample::check`].
    pub fn of(sample: &Sample) -> Self {
        let times = &sample.times;
        let first = times.tokens.first().copied().filter(|_| !sample.is_decode());
        let batch = f64::from(sample.batch);
        let tpot_ns = tpot_ns(sample);
        Self {
            ttft_ns: first,
            engine_ttft_ns: first.map(|first| first.saturating_sub(times.tokenized)),
            prefill_rate: prefill_rate(sample),
            decode_rate: tpot_ns.map(|tpot| batch * NS / tpot),
            tpot_ns,
            itl_ns: times.tokens.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect(),
            end_to_end_ns: times.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::sample;

    const MS: u64 = 1_000_000;

    /// Tokenised after 1 ms, prefill from 2 to 22 ms, tokens at 25, 35, 55, 65 ms, text at 66 ms; 10 prompt tokens.
    #[test]
    fn golden_numbers() {
        let metrics = Metrics::of(&sample());
        assert_eq!(metrics.ttft_ns, Some(25 * MS));
        assert_eq!(metrics.engine_ttft_ns, Some(24 * MS));
        assert_eq!(metrics.end_to_end_ns, 66 * MS);
        assert_eq!(metrics.itl_ns, [10 * MS, 20 * MS, 10 * MS]);
        // 10 tokens in 20 ms.
        assert_close(metrics.prefill_rate.unwrap(), 500.0);
        // 3 tokens after the first in 40 ms.
        assert_close(metrics.tpot_ns.unwrap(), 40e6 / 3.0);
        assert_close(metrics.decode_rate.unwrap(), 75.0);
    }

    #[test]
    fn a_batch_multiplies_rates_and_no_latency() {
        let mut batch = sample();
        batch.batch = 4;
        let (one, four) = (Metrics::of(&sample()), Metrics::of(&batch));
        assert_close(four.prefill_rate.unwrap(), 2000.0);
        assert_close(four.decode_rate.unwrap(), 300.0);
        assert_eq!((four.ttft_ns, four.tpot_ns, four.itl_ns), (one.ttft_ns, one.tpot_ns, one.itl_ns));
    }

    #[test]
    fn one_token_has_no_time_per_output_token() {
        let mut short = sample();
        short.times.tokens = short.times.tokens[..1].into();
        let metrics = Metrics::of(&short);
        assert_eq!((metrics.tpot_ns, metrics.decode_rate, metrics.itl_ns.len()), (None, None, 0));
        assert_eq!(metrics.ttft_ns, Some(25 * MS));
    }

    /// 4 steps from 22 to 65 ms.
    #[test]
    fn steps_without_a_prompt_count_from_the_first_on() {
        let mut steps = sample();
        (steps.prompt_tokens, steps.output) = (0, [].into());
        let metrics = Metrics::of(&steps);
        assert_eq!((metrics.ttft_ns, metrics.engine_ttft_ns, metrics.prefill_rate), (None, None, None));
        assert_close(metrics.tpot_ns.unwrap(), 43e6 / 4.0);
        assert_close(metrics.decode_rate.unwrap(), 4000.0 / 43.0);
        steps.times.tokens = steps.times.tokens[..1].into();
        assert_close(Metrics::of(&steps).tpot_ns.unwrap(), 3e6);
    }

    #[test]
    fn a_prompt_alone_has_a_rate_and_no_first_token() {
        let mut prompt = sample();
        (prompt.times.tokens, prompt.output) = ([].into(), [].into());
        let metrics = Metrics::of(&prompt);
        assert_close(metrics.prefill_rate.unwrap(), 500.0);
        assert_eq!((metrics.ttft_ns, metrics.decode_rate, metrics.tpot_ns), (None, None, None));
    }

    #[test]
    fn two_tokens_are_enough() {
        let mut short = sample();
        short.times.tokens = short.times.tokens[..2].into();
        assert_close(Metrics::of(&short).decode_rate.unwrap(), 100.0);
    }

    /// 13.3 ms for each token: at 20 TB/s that is 267 GB of weights.
    #[test]
    fn tokens_faster_than_memory_are_told() {
        assert!(!faster_than_physics(&sample(), 200_000_000_000));
        assert!(faster_than_physics(&sample(), 300_000_000_000));
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs(), "{found} is not {expected}");
    }
}
