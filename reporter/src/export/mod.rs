//! Exports: the data for other programs, and a summary for people in a hurry.

mod csv;
mod json;
pub(crate) mod markdown;
mod mlperf_client;

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
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::Csv,
        Self::Json,
        Self::Markdown,
        Self::LlamaBench,
        Self::LlamaBenchSql,
        Self::LlamaBenchMarkdown,
        Self::MlperfClient,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Markdown => "md",
            Self::LlamaBench => "llama-bench",
            Self::LlamaBenchSql => "llama-bench-sql",
            Self::LlamaBenchMarkdown => "llama-bench-md",
            Self::MlperfClient => "mlperf-client",
        }
    }
}

/// `dataset` as text; `generated_at` is the time printed on it.
pub(crate) fn export(dataset: &Dataset, format: Format, generated_at: Timestamp) -> Result<String> {
    match format {
        Format::Csv => csv::csv(dataset),
        Format::Json => json::json(dataset, generated_at),
        Format::Markdown => Ok(markdown::markdown(&crate::view::report(dataset, generated_at))),
        Format::LlamaBench => llama_bench::jsonl(dataset),
        Format::LlamaBenchSql => Ok(llama_bench::sql(dataset)),
        Format::LlamaBenchMarkdown => Ok(llama_bench::markdown(dataset)),
        Format::MlperfClient => mlperf_client::lines(dataset),
    }
}
