//! Exports: the data for other programs, and a summary for people in a hurry.

mod csv;
mod json;
mod markdown;

use jiff::Timestamp;

use crate::dataset::Dataset;
use crate::error::Result;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line for each repetition.
    Csv,
    /// The whole view and the raw samples.
    Json,
    /// A summary fit for a comment on a pull request.
    Markdown,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Csv, Self::Json, Self::Markdown];

    /// The name on the command line, and the file's extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Markdown => "md",
        }
    }
}

/// `dataset` as text; `generated_at` is the time printed on it.
pub(crate) fn export(dataset: &Dataset, format: Format, generated_at: Timestamp) -> Result<String> {
    match format {
        Format::Csv => csv::csv(dataset),
        Format::Json => json::json(dataset, generated_at),
        Format::Markdown => Ok(markdown::markdown(&crate::view::report(dataset, generated_at))),
    }
}
