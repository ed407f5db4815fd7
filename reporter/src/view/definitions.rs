//! What each number means, with its formula: printed in every report, so that it can be read without this code.

use regatta_core::roofline::peaks::Peaks;
use serde::Serialize;

use crate::stats::{FIRM_P99, MIN_FOR_CI, MIN_FOR_P99};

/// A term, its formula and what to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// The term.
    pub term: &'static str,
    /// The formula. Empty for terms without one.
    pub formula: &'static str,
    /// The unit. Empty for terms without one.
    pub unit: &'static str,
    /// What to know.
    pub note: String,
}

/// Every definition, in reading order.
pub(super) fn all() -> Vec<Definition> {
    let define = |term, formula, unit, note: &str| Definition { term, formula, unit, note: note.to_owned() };
    vec![
        define(
            "Events",
            "t₀ … tₑ",
            "",
            "One monotonic clock in the worker process. t₀: prompt handed over. t_tok: token ids ready. t_p: first \
             forward pass begins. t_ps: prompt processed, device synchronised. t₁ … t_N: token ids of each step are on \
             the host. tₑ: last piece of text detokenised.",
        ),
        define("TTFT", "t₁ − t₀", "ms", "Time to first token. Loading the model is never part of it."),
        define(
            "Prefill rate",
            "batch · n_prompt / (t_ps − t_p)",
            "tokens/s",
            "Prompt tokens per second over all sequences, without sampling. Not prompt length over TTFT.",
        ),
        define(
            "Decode rate",
            "batch · (N − 1) / (t_N − t₁)",
            "tokens/s",
            "Generated tokens per second over all sequences; the first token belongs to TTFT. Tools that divide all \
             tokens by the whole time report another number under the same name.",
        ),
        define("TPOT", "(t_N − t₁) / (N − 1)", "ms", "Time per output token: batch / decode rate. None for N < 2."),
        define(
            "Forward passes alone",
            "batch · N / (t_N − t_p)",
            "tokens/s",
            "Of workloads of kind prefill, decode and context-sweep: no tokenizer, no choice of tokens, one wait for the \
             device after each step, random token ids, as in llama-bench's pp and tg. All steps count, and TPOT is \
             (t_N − t_p) / N. Depth is what the key/value cache holds before the clock starts. Never charted with what is \
             timed end to end.",
        ),
        Definition {
            term: "ITL",
            formula: "tᵢ − tᵢ₋₁, i = 2 … N",
            unit: "ms",
            note: format!(
                "Inter-token latency: a distribution, pooled over the repetitions of a cell. p99 needs \
                 {MIN_FOR_P99} intervals and is marked ~ below {FIRM_P99}."
            ),
        },
        define("End to end", "tₑ − t₀", "ms", "From prompt to last piece of text, the model being loaded already."),
        define(
            "Together (replicas)",
            "Σ batch · N / max (tₑ − t₀)",
            "tokens/s",
            "Replicas do the same work at the same time, each on a device of its own. Tokens of all of them over the time \
             of the slowest, each time from that replica's own clock; the prompt is part of the time.",
        ),
        define(
            "Each (replicas)",
            "batch · N / (tₑ − t₀)",
            "tokens/s",
            "The same for one replica: median over repetitions, then over replicas, with the slowest and the fastest.",
        ),
        define(
            "Efficiency",
            "together of n / (n · each of 1)",
            "%",
            "In relation to as many times what one device of the kind does alone with the same workload.",
        ),
        define(
            "Start skew",
            "",
            "ms",
            "From the moment the coordinator let the replicas go to the moment it heard of the last that it had begun, on \
             the coordinator's clock. All of them began between the two: an upper bound, with both ways over the network \
             in it. Clocks of machines are never compared.",
        ),
        Definition {
            term: "MBU (decode)",
            formula: "(W + batch · T · KV) / TPOT / peak",
            unit: "%",
            note: format!(
                "Model bandwidth utilisation: bytes of weights W and of keys and values that the mathematics has to read \
                 in a step, T = n_prompt + depth + (N − 1) / 2 tokens of context on average, over the device's peak. Peaks are \
                 measured where there is a canary of the device (the best one before the run's end), else the vendor's (table {}); devices that are in \
                 neither have none. None where the weights fit into the caches. An engine that copies its cache has a \
                 lower MBU for it.",
                Peaks::built_in().version
            ),
        },
        define(
            "MFU",
            "batch · FLOPs / time / peak",
            "%",
            "Model FLOPs utilisation: operations that the mathematics needs, logits of the last position only, over the \
             device's peak. On a processor the peak is the product of f32 matrices as measured, whatever the precision; \
             on an accelerator dense products of the weights' own format, and none for quantised weights, which engines \
             compute in several formats.",
        ),
        define(
            "Floor of TPOT",
            "(W − caches) / (margin · peak)",
            "ms",
            "A cell that is below it is faster than physics: kept, not charted. The margin is 3 for a measured peak, \
             because canaries on a busy machine differ by a factor of two, and 1.1 for a vendor's, because memory is sold \
             overclocked. Without a peak only what no memory of today can deliver is told.",
        ),
        define("Load", "", "s", "Reading the weights into a fresh worker process. Depends on the page cache."),
        define(
            "Peak RSS",
            "",
            "MiB",
            "Largest resident memory of the worker process while it had to do with the cell, mapped weights included. Counted by \
             the kernel, page by page. Loading is before it.",
        ),
        define(
            "Device memory",
            "",
            "MiB",
            "Memory of the device that the worker process used at most, read ten times a second. Where the driver does not \
             tell it by process: what was in use beyond what was in use before the worker was started.",
        ),
        define(
            "Energy",
            "(E(tₑ) − E(t₀)) / (batch · N)",
            "J per token",
            "What the device drew over the whole repetition, idle power and prompt included, for each generated token: an \
             estimate from the device's own counter. Only for repetitions of ten seconds and more.",
        ),
        define(
            "Others",
            "",
            "cores",
            "Processor time of everything but the worker process, over the repetition or its last second. Above half a core \
             a repetition is suspect.",
        ),
        define(
            "Quality",
            "",
            "",
            "What was seen around a repetition makes it valid, suspect (counted, flagged, its cell drawn hollow) or invalid \
             (kept, never counted): slowed down by the device's hardware, or another program on the device.",
        ),
        Definition {
            term: "Median, MAD, CI",
            formula: "MAD = median |xᵢ − median|",
            unit: "",
            note: format!(
                "The unit is the worker process: the median of its repetitions is one value. From {MIN_FOR_CI} processes on, \
                 an interval between two order statistics covers their median with at least 95 % confidence; with fewer \
                 there is no CI. Repetitions of a single process are shown with their spread, which is not that of fresh \
                 processes: they share caches and memory layout."
            ),
        },
        define(
            "Percentile",
            "linear interpolation at p · (n − 1)",
            "",
            "Type 7 of Hyndman and Fan, the default of R and NumPy.",
        ),
        define(
            "Token identity",
            "min { i : aᵢ ≠ bᵢ }",
            "",
            "The first generated token that differs, in any sequence. Repetitions of a cell, in all its worker processes, have \
             to give the tokens of the first one; where they don't, they are flagged. Two backends need not: they add up in \
             another order, and of two tokens that are nearly as likely each may choose another. Worked out from the stored \
             ids each time.",
        ),
        define(
            "Trend",
            "Σ sign(xⱼ − xᵢ), i < j",
            "%",
            "Repetitions that get steadily slower, or faster, while they are measured: the test of Mann and Kendall over the \
             repetitions of each process, added up, beyond what chance brings once in a thousand cells, and a change of 1 % or \
             more from the first to the last. It takes eight repetitions of a process to be told, or three of each of six.",
        ),
        define(
            "Not waited for",
            "",
            "",
            "After the last time is taken the worker waits until the device has nothing left to do. Where that takes more \
             than a tenth of the repetition, and more than 1 ms, the backend forgot to wait, and its times are too short. A \
             cell of which that is so for most repetitions is kept, not charted.",
        ),
        define(
            "Equal work",
            "",
            "",
            "Every backend gets the same token ids and generates the same number of tokens, greedily, with \
             end-of-sequence ignored.",
        ),
    ]
}
