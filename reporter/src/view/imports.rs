//! Imports: what another tool's file says, apart from everything that was measured here.

use serde::Serialize;

use super::Banner;
use super::cells::Value;
use crate::dataset::Import;
use crate::llama_bench::Row;
use crate::text;

/// A file of another tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportView {
    /// Its id.
    pub id: String,
    /// A name for anchors.
    pub anchor: String,
    /// What it is.
    pub title: String,
    /// What must be known before a number is read.
    pub banner: Banner,
    /// Its rows.
    pub rows: Vec<ImportRow>,
}

/// A row of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportRow {
    /// The model.
    pub model: String,
    /// Where it ran.
    pub place: String,
    /// The tool's own backend, and its threads.
    pub backend: String,
    /// The tool's build.
    pub build: String,
    /// What was measured.
    pub test: String,
    /// Tokens per second: mean and standard deviation.
    pub rate: Value,
    /// Repetitions; empty where the file does not tell.
    pub n: String,
    /// When, by the tool's own words.
    pub measured_at: String,
}

pub(super) fn imports(imports: &[Import]) -> Vec<ImportView> {
    imports.iter().map(import).collect()
}

fn import(import: &Import) -> ImportView {
    let (tool, file) = (text::label(&import.tool), text::label(&import.file));
    ImportView {
        id: text::label(import.id.as_str()),
        anchor: text::slug(import.id.as_str()),
        title: format!("{file} of {tool}"),
        banner: Banner {
            title: "Imported".to_owned(),
            text: format!(
                "{} that {tool} measured and Regatta did not; taken from {file} on {}. Means, ± standard deviation. \
                 Its tg feeds random tokens and has no sampler in it, so it is a kernel's rate: it stands in no chart \
                 beside rates of generated text.",
                text::count(import.rows.len(), "row"),
                text::minute(import.imported_at)
            ),
        },
        rows: import.rows.iter().map(row).collect(),
    }
}

fn row(row: &Row) -> ImportRow {
    let label = |name: &str| text::label(&row.text(name));
    let or = |first: String, second: String| if first.is_empty() { second } else { first };
    let rate = row.number("avg_ts");
    let spread = row.number("stddev_ts").zip(rate).map(|(sd, rate)| format!("± {}", text::percent(sd / rate)));
    let threads = Some(row.count("n_threads"))
        .filter(|n| *n > 0)
        .map(|n| format!(", {}", text::count(usize::try_from(n).unwrap_or(usize::MAX), "thread")));
    ImportRow {
        model: or(label("model_type"), or(label("model_filename"), text::MISSING.to_owned())),
        place: or(label("gpu_info"), or(label("cpu_info"), text::MISSING.to_owned())),
        backend: format!("{}{}", or(label("backends"), text::MISSING.to_owned()), threads.unwrap_or_default()),
        build: or(label("build_commit"), text::MISSING.to_owned()),
        test: row.test(),
        rate: Value::of(rate, spread),
        n: Some(row.samples().len()).filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default(),
        measured_at: or(label("test_time"), text::MISSING.to_owned()),
    }
}
