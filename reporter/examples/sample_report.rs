//! Renders reports of test data, and measures what large ones take:
//!
//! ```text
//! cargo run --release --workspace --example sample_report -- [FOLDER]
//! cargo run --release --workspace --example sample_report -- [FOLDER] CELLS REPETITIONS TOKENS
//! ```

#![expect(clippy::print_stdout, reason = "a program for people")]

#[path = "../tests/reporter/common.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use regatta_reporter::chart::{self, Layout};
use regatta_reporter::view::{self, Chart};
use regatta_reporter::{Format, ReportOptions, export, html, render};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(args.first().map_or("sample-report", String::as_str));
    match args.get(1..) {
        Some([cells, repetitions, tokens]) => measure(&folder, cells.parse()?, repetitions.parse()?, tokens.parse()?),
        _ => samples(&folder),
    }
}

fn options(svg: bool) -> ReportOptions {
    ReportOptions { generated_at: common::start(), source: "test data".to_owned(), svg }
}

fn samples(folder: &Path) -> anyhow::Result<()> {
    let options = options(true);
    let mut demo = common::demo();
    demo.runs = demo.runs.into_iter().map(|run| common::with_canary(run, 1e11, 2e12)).collect();
    let datasets = [
        ("demo", demo),
        ("troubled", common::troubled()),
        ("fleet", common::fleet()),
        ("scaling", common::with_vendors_peaks(common::scaling())),
        ("sweeps", common::sweeps()),
    ];
    for (name, dataset) in datasets {
        render(&dataset, &options, &folder.join(name))?;
        for format in Format::ALL {
            let path = folder.join(name).join(format!("report.{}", format.as_str()));
            std::fs::write(path, export(&dataset, &options, format)?)?;
        }
    }
    let trend = Chart::Trend(view::trend(&common::nightly()).context("the series has nights")?);
    for (name, layout) in [("trend", Layout::WIDE), ("trend-narrow", Layout::NARROW)] {
        let svg = chart::svg(&trend, layout)?;
        std::fs::write(folder.join(format!("{name}.png")), chart::png("trend", &svg)?)?;
    }
    Ok(())
}

/// How long a report takes, how large it is, and how much memory it needs.
fn measure(folder: &Path, cells: u32, repetitions: u32, tokens: u32) -> anyhow::Result<()> {
    let dataset = common::large(cells, repetitions, tokens);
    let samples: usize = dataset.runs.iter().flat_map(|run| &run.cells).map(|cell| cell.samples.len()).sum();
    println!("data    {cells} cells, {samples} samples of {tokens} tokens: {} MiB", peak_mib());
    let begin = Instant::now();
    let report = view::report(&dataset, common::start());
    println!("view    {:>7.3} s, {} MiB at most", begin.elapsed().as_secs_f64(), peak_mib());
    let begin = Instant::now();
    let page = html::page(&report)?;
    let size = page.len() as f64 / 1e6;
    println!("page    {:>7.3} s, {size:.2} MB, {} MiB at most", begin.elapsed().as_secs_f64(), peak_mib());
    drop((report, page));
    let begin = Instant::now();
    let pngs = render(&dataset, &options(false), folder)?.pngs.len();
    println!("all     {:>7.3} s with {pngs} PNG files, {} MiB at most", begin.elapsed().as_secs_f64(), peak_mib());
    Ok(())
}

/// The process's largest resident memory, where Linux tells it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse().ok());
    peak.unwrap_or(0u64) / 1024
}
