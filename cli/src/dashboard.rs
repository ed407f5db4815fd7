//! What the coordinator's dashboard shows and the reporter draws: reports of runs and series of cells.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use regatta_coordinator::{DashboardAt, Drawing, Night, Report, Series};
use regatta_core::id::RunId;
use regatta_reporter::nights::{HistoryView, history};
use regatta_reporter::{ReportOptions, chart, html};
use regatta_store::{KnownCell, Reader};
use tokio::runtime::Handle;

/// A dashboard at that address, drawn by the reporter.
pub(crate) fn at(listen: SocketAddr) -> DashboardAt {
    DashboardAt { listen, drawing: Arc::new(Reporter) }
}

/// Draws with what `regatta report` and `regatta history` draw with.
#[derive(Debug)]
struct Reporter;

impl Drawing for Reporter {
    fn report(&self, reader: &Reader, run: &RunId) -> Result<Report, String> {
        said(report(reader, run))
    }

    fn history(&self, reader: &Reader, cell: &KnownCell) -> Result<Vec<Series>, String> {
        said(series(reader, cell))
    }

    fn style(&self) -> String {
        html::chart_style()
    }
}

/// An error with its causes, for a log.
fn said<T>(result: anyhow::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{error:#}"))
}

fn report(reader: &Reader, run: &RunId) -> anyhow::Result<Report> {
    let dataset = Handle::current().block_on(regatta_reporter::load_for_page(reader, std::slice::from_ref(run)))?;
    let options = ReportOptions { generated_at: Timestamp::now(), source: "the coordinator".to_owned(), svg: false };
    Ok(Report { html: regatta_reporter::render_served(&dataset, &options)?, policy: html::content_policy() })
}

fn series(reader: &Reader, cell: &KnownCell) -> anyhow::Result<Vec<Series>> {
    let histories = Handle::current().block_on(reader.history(cell)).context("read the cell's nights")?;
    histories.iter().map(|one| drawn(&history(&cell.scenario, one))).collect()
}

fn drawn(view: &HistoryView) -> anyhow::Result<Series> {
    let svg = view.svg().transpose()?.map(|svg| chart::compact(&svg));
    let nights = view.nights.iter().rev().map(|night| {
        let [at, short, value, change, processes, said] = night.row();
        Night { run: night.run.clone(), short, at, value, change, processes, said, breaks: night.breaks.join(", ") }
    });
    Ok(Series { title: format!("{}, {}", capital(view.metric), view.unit), svg, nights: nights.collect() })
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default() + chars.as_str()
}
