//! Renders reports of test data: `cargo run --release -p regatta-reporter --example sample_report [FOLDER]`.

#[path = "../tests/reporter/common.rs"]
mod common;

use std::path::PathBuf;

use regatta_reporter::{Format, ReportOptions, export, render};

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "sample-report".to_owned()));
    let options = ReportOptions { generated_at: common::start(), source: "test data".to_owned(), svg: true };
    let mut demo = common::demo();
    demo.runs = demo.runs.into_iter().map(|run| common::with_canary(run, 1e11, 2e12)).collect();
    let datasets = [
        ("demo", demo),
        ("troubled", common::troubled()),
        ("fleet", common::fleet()),
        ("scaling", common::with_vendors_peaks(common::scaling())),
    ];
    for (name, dataset) in datasets {
        render(&dataset, &options, &folder.join(name))?;
        for format in Format::ALL {
            let path = folder.join(name).join(format!("report.{}", format.as_str()));
            std::fs::write(path, export(&dataset, &options, format)?)?;
        }
    }
    Ok(())
}
