//! The way to the disk: the page and the charts' files.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::chart::{self, Layout};
use crate::dataset::Dataset;
use crate::error::{ReportError, Result};
use crate::export::{self, Format};
use crate::{html, view};

/// What a report needs besides the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportOptions {
    /// The time printed on it.
    pub generated_at: Timestamp,
    /// Where the data come from, for messages: the database's file name or an address.
    pub source: String,
    /// Whether charts are also written as SVG files.
    pub svg: bool,
}

/// The files of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// The charts, twice their size in pixels.
    pub pngs: Vec<PathBuf>,
    /// The charts as SVG, where that was asked for.
    pub svgs: Vec<PathBuf>,
}

/// Writes `report.html` and `charts/*.png` into `folder`, which is made where it is missing. Files of an earlier
/// report are replaced.
pub fn render(dataset: &Dataset, options: &ReportOptions, folder: &Path) -> Result<Written> {
    check(dataset, options)?;
    let report = view::report(dataset, options.generated_at);
    let charts = folder.join("charts");
    fs::create_dir_all(&charts).map_err(|source| ReportError::Write { path: charts.clone(), source })?;
    let mut written = Written { html: folder.join("report.html"), pngs: Vec::new(), svgs: Vec::new() };
    for chart in report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts) {
        let slug = &chart.caption().slug;
        let svg = chart::svg(chart, Layout::WIDE)?;
        let path = charts.join(format!("{slug}.png"));
        write(&path, &chart::png(slug, &svg)?)?;
        written.pngs.push(path);
        if options.svg {
            let path = charts.join(format!("{slug}.svg"));
            write(&path, svg.as_bytes())?;
            written.svgs.push(path);
        }
    }
    write(&written.html, html::page(&report)?.as_bytes())?;
    Ok(written)
}

/// The data as text in `format`.
pub fn export(dataset: &Dataset, options: &ReportOptions, format: Format) -> Result<String> {
    check(dataset, options)?;
    export::export(dataset, format, options.generated_at)
}

fn check(dataset: &Dataset, options: &ReportOptions) -> Result<()> {
    if dataset.runs.is_empty() && dataset.imports.is_empty() {
        Err(ReportError::NoRuns(options.source.clone()))
    } else {
        Ok(())
    }
}

/// Writes beside the file first, so that a report is never half of one.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| ReportError::Write { path: path.to_owned(), source })
}
