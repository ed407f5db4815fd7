//! Precisions side by side: what they take of memory, and how fast they are for it.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::workload::Workload;

use super::context::{Context, Whiskers};
use super::{Bar, BarChart, BarGroup, BarPanel, Mark};
use crate::stats::geometric_mean;
use crate::text;
use crate::view::subject::Measured;

impl Context<'_> {
    /// Bits for each weight, and beside them the decode rate over the workloads that all precisions have.
    pub(super) fn precision(&self) -> Option<BarChart> {
        let precisions = self.subject.precisions();
        let bits = |b: BackendKind, p: Precision| self.measured(b, p).find_map(bits_per_weight);
        let known = precisions.iter().filter(|p| self.backends.iter().any(|b| bits(*b, **p).is_some()));
        if known.count() < 2 {
            return None;
        }
        let common = self.common_workloads();
        if common.is_empty() {
            return None;
        }
        let whiskers = self.whiskers(|m| m.stats.decode_rate);
        let panel = |title: String, axis: &str, mark: &dyn Fn(BackendKind, Precision) -> Bar| BarPanel {
            title,
            value_axis: Some(axis.to_owned()),
            groups: precisions
                .iter()
                .map(|p| BarGroup { label: p.to_string(), bars: self.backends.iter().map(|b| mark(*b, *p)).collect() })
                .collect(),
        };
        let weights = |b: BackendKind, p: Precision| Bar { mark: exact(bits(b, p)), suspect: false };
        let speed = |b: BackendKind, p: Precision| self.mean(b, p, &common, whiskers);
        let over = match common.as_slice() {
            [only] => only.name.to_string(),
            several => format!("geometric mean of {} workloads", several.len()),
        };
        let notes =
            [self.counted(), whiskers.note(), self.hollow(), "bits: of the weights that a step reads".to_owned()];
        let title = "What precisions take of memory, and how fast they are for it";
        Some(BarChart {
            caption: self.caption("precision", title, "Decode rate, tokens/s", notes),
            panels: vec![
                panel("Weights".to_owned(), "Bits per weight", &weights),
                panel(format!("Speed: {over}"), "Decode rate, tokens/s", &speed),
            ],
        })
    }

    /// Workloads that have a decode rate wherever a backend has any at a precision: only those can be averaged fairly.
    fn common_workloads(&self) -> Vec<&Workload> {
        let rated = |b: BackendKind, p: Precision, w: &Workload| {
            self.subject.at(b, p, w).is_some_and(|m| m.is_ok && m.stats.decode_rate.is_some())
        };
        let mut pairs: Vec<(BackendKind, Precision)> = Vec::new();
        for backend in &self.backends {
            for precision in self.subject.precisions() {
                if self.measured(*backend, precision).any(|m| m.stats.decode_rate.is_some()) {
                    pairs.push((*backend, precision));
                }
            }
        }
        let mut workloads = self.subject.workloads();
        workloads.retain(|w| pairs.iter().all(|(b, p)| rated(*b, *p, w)));
        workloads
    }

    fn mean(&self, backend: BackendKind, precision: Precision, workloads: &[&Workload], whiskers: Whiskers) -> Bar {
        let cells: Vec<_> = workloads.iter().filter_map(|w| self.subject.at(backend, precision, w)).collect();
        let rates: Vec<_> = cells.iter().filter_map(|m| m.stats.decode_rate.filter(|_| m.is_ok)).collect();
        let mean = |values: Vec<f64>| geometric_mean(&values);
        let median = mean(rates.iter().map(|s| s.median).collect());
        let low = mean(rates.iter().map(|s| whiskers.ends(s).0).collect());
        let high = mean(rates.iter().map(|s| whiskers.ends(s).1).collect());
        let mark = match (median, low, high) {
            (Some(median), Some(low), Some(high)) => {
                Mark::Value { median, low, high, label: text::number(median), note: String::new() }
            }
            _ if cells.is_empty() => Mark::Absent,
            _ => Mark::Missing {
                state: cells.iter().find(|m| !m.is_ok).map_or("no data", |m| m.result.state()).to_owned(),
            },
        };
        Bar { mark, suspect: cells.iter().any(|m| m.is_suspect()) }
    }
}

/// Bits for each weight that a step reads, its scales included.
fn bits_per_weight(measured: &Measured<'_>) -> Option<f64> {
    let bytes = measured.result.facts.as_ref()?.weight_bytes?;
    let weights = measured.result.ceiling.decode_weights()?;
    Some(bytes as f64 * 8.0 / weights as f64)
}

fn exact(value: Option<f64>) -> Mark {
    value.map_or(Mark::Absent, |v| Mark::Value {
        median: v,
        low: v,
        high: v,
        label: text::number(v),
        note: String::new(),
    })
}
