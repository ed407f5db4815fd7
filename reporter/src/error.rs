//! What can go wrong while a report is made.

use std::path::PathBuf;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The database, or the choice made from it, holds no run.
    #[error("no runs in {0}: submit a scenario first, or name the database that holds the run")]
    NoRuns(String),
    /// The store could not be read, or holds what fits no type of the domain.
    #[error("read runs from the database")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The drawing library refused.
    #[error("draw chart '{chart}': {message}")]
    Chart {
        /// Which chart.
        chart: String,
        /// The library's own words.
        message: String,
    },
    /// The page's template failed.
    #[error("fill in the report page")]
    Template(#[from] askama::Error),
    /// A file or folder could not be written.
    #[error("write {}", path.display())]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// CSV could not be encoded.
    #[error("encode csv")]
    Csv(#[from] csv::Error),
    /// JSON could not be encoded.
    #[error("encode json")]
    Json(#[from] serde_json::Error),
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;
