//! The way to the disk: the page, the charts' files and the raw rows.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::chart::{self, Layout};
use crate::dataset::Dataset;
use crate::error::{ReportError, Result};
use crate::export::{self, Format};
use crate::view::{Chart, Report};
use crate::{html, text, view};

/// Rows of `samples.csv` at most: more than that are written when they are asked for.
pub(crate) const MAX_ROWS: usize = 50_000;

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
    /// Every repetition, as CSV; `None` where they are too many to be written unasked.
    pub csv: Option<PathBuf>,
    /// The charts, twice their size in pixels.
    pub pngs: Vec<PathBuf>,
    /// The charts as SVG, where that was asked for.
    pub svgs: Vec<PathBuf>,
}

/// Writes `report.html`, `samples.csv` and `charts/*.png` into `folder`, which is made where it is missing. Files of an earlier
/// report are replaced.
pub fn render(dataset: &Dataset, options: &ReportOptions, folder: &Path) -> Result<Written> {
    check(dataset, options)?;
    let report = view::report(dataset, options.generated_at);
    let charts = folder.join("charts");
    fs::create_dir_all(&charts).map_err(|source| ReportError::Write { path: charts.clone(), source })?;
    let csv = (view::samples(dataset) <= MAX_ROWS).then(|| folder.join("samples.csv"));
    let mut written = Written { html: folder.join("report.html"), csv, pngs: Vec::new(), svgs: Vec::new() };
    for drawn in draw_all(&report, true, options.svg, &charts)? {
        written.pngs.extend(drawn.png);
        written.svgs.extend(drawn.svg);
    }
    if let Some(csv) = &written.csv {
        samples(dataset, csv)?;
    }
    write(&written.html, html::page(&report)?.as_bytes())?;
    Ok(written)
}

/// Writes the page alone, of runs that go on: it looks for itself again every so often. Tells where it is.
pub fn render_live(dataset: &Dataset, options: &ReportOptions, every: Duration, folder: &Path) -> Result<PathBuf> {
    check(dataset, options)?;
    fs::create_dir_all(folder).map_err(|source| ReportError::Write { path: folder.to_owned(), source })?;
    let path = folder.join("report.html");
    let report = view::report(dataset, options.generated_at);
    write(&path, html::live_page(&report, every)?.as_bytes())?;
    Ok(path)
}

/// The page alone, for a server that shows it with nothing beside it.
pub fn render_served(dataset: &Dataset, options: &ReportOptions) -> Result<String> {
    check(dataset, options)?;
    let mut report = view::report(dataset, options.generated_at);
    let n = text::count(view::samples(dataset), "repetition");
    report.rows = format!("All columns of all {n}: regatta report --format csv.");
    html::served_page(&report)
}

/// What a chart is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// Pixels, twice the chart's size.
    Png,
    /// Vectors.
    Svg,
}

/// Writes the charts alone into `folder`, which is made where it is missing, and tells where they are.
pub fn pictures(dataset: &Dataset, options: &ReportOptions, picture: Picture, folder: &Path) -> Result<Vec<PathBuf>> {
    check(dataset, options)?;
    fs::create_dir_all(folder).map_err(|source| ReportError::Write { path: folder.to_owned(), source })?;
    let report = view::report(dataset, options.generated_at);
    let drawn = draw_all(&report, picture == Picture::Png, picture == Picture::Svg, folder)?;
    Ok(drawn.into_iter().flat_map(|drawn| drawn.png.into_iter().chain(drawn.svg)).collect())
}

/// The files of a chart.
struct Drawn {
    png: Option<PathBuf>,
    svg: Option<PathBuf>,
}

/// Draws every chart, on all processors: turning them into pixels is most of the work of a report.
fn draw_all(report: &Report, png: bool, svg: bool, folder: &Path) -> Result<Vec<Drawn>> {
    let charts: Vec<&Chart> = report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut drawn = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(chart) = charts.get(at) else { return Ok(drawn) };
            drawn.push((at, draw(chart, png, svg, folder)?));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(charts.len());
    let done: Vec<Result<Vec<(usize, Drawn)>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        // A thread that panicked takes the report down with it, as it would have without threads.
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = Vec::with_capacity(charts.len());
    for part in done {
        all.extend(part?);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, drawn)| drawn).collect())
}

fn draw(chart: &Chart, png: bool, svg: bool, folder: &Path) -> Result<Drawn> {
    let slug = &chart.caption().slug;
    let text = chart::svg(chart, Layout::WIDE)?;
    let path = |extension: &str| folder.join(format!("{slug}.{extension}"));
    let drawn = Drawn { png: png.then(|| path("png")), svg: svg.then(|| path("svg")) };
    if let Some(path) = &drawn.png {
        write(path, &chart::png(slug, &text)?)?;
    }
    if let Some(path) = &drawn.svg {
        write(path, text.as_bytes())?;
    }
    Ok(drawn)
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

/// Every repetition, written line by line: there may be a million of them.
fn samples(dataset: &Dataset, path: &Path) -> Result<()> {
    let fail = |source| ReportError::Write { path: path.to_owned(), source };
    let beside = beside(path);
    let file = BufWriter::new(fs::File::create(&beside).map_err(fail)?);
    export::csv::write(dataset, file)?;
    fs::rename(&beside, path).map_err(fail)
}

/// Writes beside the file first, so that a report is never half of one.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| ReportError::Write { path: path.to_owned(), source })
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    PathBuf::from(beside)
}
