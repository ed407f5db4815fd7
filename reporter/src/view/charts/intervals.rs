//! Strips: how evenly tokens arrive.

use regatta_core::workload::Workload;

use super::context::{Context, left_out, missing, value_scale};
use super::{MAX_PANELS, Strip, StripChart, StripPanel, StripRow};
use crate::view::subject::Measured;

impl Context<'_> {
    /// Times between tokens.
    pub(super) fn intervals(&self) -> Option<StripChart> {
        let with_steps: Vec<&Workload> = self.subject.workloads().into_iter().filter(|w| w.generate > 1).collect();
        let panels: Vec<StripPanel> = with_steps.iter().take(MAX_PANELS).map(|w| self.strip_panel(w)).collect();
        let strips: Vec<Strip> = panels.iter().flat_map(|p| p.rows.iter().filter_map(|r| r.strip)).collect();
        if strips.is_empty() {
            return None;
        }
        let notes = [
            "mark: median · bar: to the 90th percentile · line: minimum to 99th percentile · ring: maximum".to_owned(),
            left_out(with_steps.len()),
        ];
        let title = "How evenly tokens arrive: times between tokens, in ms";
        Some(StripChart {
            caption: self.caption("itl", title, "Time between tokens, ms", notes),
            value_scale: value_scale(strips.iter().flat_map(|s| [s.min, s.max])),
            panels,
        })
    }

    fn strip_panel(&self, workload: &Workload) -> StripPanel {
        let mut rows = Vec::new();
        for precision in self.subject.precisions() {
            for (series, backend) in self.backends.iter().enumerate() {
                let Some(measured) = self.subject.at(*backend, precision, workload) else { continue };
                let label = if series == 0 || rows.is_empty() { precision.to_string() } else { String::new() };
                rows.push(strip_row(label, series, measured));
            }
        }
        StripPanel { title: self.workload_title(workload), rows }
    }
}

fn strip_row(label: String, series: usize, measured: &Measured<'_>) -> StripRow {
    let itl = measured.stats.itl_ms.filter(|_| measured.is_ok);
    let strip = itl.map(|i| Strip { min: i.min, p50: i.p50, p90: i.p90, p99: i.p99, max: i.max });
    let missing = if strip.is_none() { missing(measured, "not defined") } else { String::new() };
    StripRow { label, series, strip, missing }
}
