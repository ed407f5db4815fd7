//! Exports: the data for other programs, and a summary for people in a hurry.

pub(crate) mod bmf;
pub(crate) mod csv;
mod json;
mod junit;
pub(crate) mod markdown;
mod measured;
mod mlperf_client;
mod perfherder;

use jiff::Timestamp;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::llama_bench;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line for each repetition.
    Csv,
    /// The whole view and the raw samples.
    Json,
    /// The raw samples, a JSON object a line.
    Jsonl,
    /// A summary fit for a comment on a pull request.
    Markdown,
    /// Rows of llama-bench of what is comparable, a JSON object a line.
    LlamaBench,
    /// The same as SQL.
    LlamaBenchSql,
    /// The same as llama-bench's Markdown table.
    LlamaBenchMarkdown,
    /// Metrics under MLPerf Client's names, a JSON object a line.
    MlperfClient,
    /// A test case for each cell, as `JUnit` has them.
    Junit,
    /// Bencher Metric Format.
    Bmf,
    /// The line that Perfherder looks for in logs.
    Perfherder,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::Csv,
        Self::Json,
        Self::Jsonl,
        Self::Markdown,
        Self::LlamaBench,
        Self::LlamaBenchSql,
        Self::LlamaBenchMarkdown,
        Self::MlperfClient,
        Self::Junit,
        Self::Bmf,
        Self::Perfherder,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Markdown => "md",
            Self::LlamaBench => "llama-bench",
            Self::LlamaBenchSql => "llama-bench-sql",
            Self::LlamaBenchMarkdown => "llama-bench-md",
            Self::MlperfClient => "mlperf-client",
            Self::Junit => "junit",
            Self::Bmf => "bmf",
            Self::Perfherder => "perfherder",
        }
    }
}

/// `dataset` as text; `generated_at` is the time printed on it.
pub(crate) fn export(dataset: &Dataset, format: Format, generated_at: Timestamp) -> Result<String> {
    match format {
        Format::Csv => csv::csv(dataset),
        Format::Json => json::json(dataset, generated_at),
        Format::Jsonl => json::lines(dataset),
        Format::Markdown => Ok(markdown::markdown(&crate::view::report(dataset, generated_at))),
        Format::LlamaBench => llama_bench::jsonl(dataset),
        Format::LlamaBenchSql => Ok(llama_bench::sql(dataset)),
        Format::LlamaBenchMarkdown => Ok(llama_bench::markdown(dataset)),
        Format::MlperfClient => mlperf_client::lines(dataset),
        Format::Junit => Ok(junit::junit(dataset)),
        Format::Bmf => bmf::bmf(dataset),
        Format::Perfherder => perfherder::perfherder(dataset),
    }
}
