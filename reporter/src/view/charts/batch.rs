//! Batches: what more sequences side by side bring all of them together, and what they cost each of them.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::workload::{Kind, Workload};

use super::context::{Context, Whiskers, left_out};
use super::{Guide, Line, LineChart, LinePanel, MAX_PANELS, Note, Place, Point, Scale};
use crate::stats::Summary;
use crate::text;
use crate::view::subject::Measured;

/// Cells that differ in nothing but their batch.
struct Sweep<'a> {
    title: String,
    precision: Precision,
    /// Of each backend that has any, in ascending order of batches.
    cells: Vec<Vec<&'a Measured<'a>>>,
}

/// Rate over all sequences.
fn rate(measured: &Measured<'_>) -> Option<Summary> {
    if matches!(measured.workload().kind, Kind::Prefill { .. }) {
        measured.stats.prefill_rate
    } else {
        measured.stats.decode_rate
    }
}

impl<'a> Context<'a> {
    /// Aggregate rate over the batch, beside as many times that of the smallest batch.
    pub(super) fn batch(&self) -> Option<LineChart> {
        let sweeps = self.sweeps(|_| true);
        let whiskers = self.whiskers(rate);
        let panels = self.panels(&sweeps, |panel, series, cells| batch_line(panel, series, cells, whiskers))?;
        let notes = [
            self.counted(),
            whiskers.note(),
            "percent: of the ideal, as many times the smallest batch (thin line)".to_owned(),
            left_out(sweeps.len()),
        ];
        let title = "How much more several sequences side by side bring together, in tokens/s";
        Some(LineChart {
            caption: self.caption("batch", title, "All sequences together, tokens/s", notes),
            length_axis: "batch: sequences side by side".to_owned(),
            length_scale: Scale::Log2,
            // Both axes by factors: the ideal is a straight line.
            value_scale: Scale::Log10,
            shared: false,
            panels,
        })
    }

    /// Aggregate rate over the rate of each sequence: what there is to choose from.
    pub(super) fn pareto(&self) -> Option<LineChart> {
        let sweeps = self.sweeps(|kind| !matches!(kind, Kind::Prefill { .. }));
        let whiskers = self.whiskers(rate);
        let panels = self.panels(&sweeps, |panel, series, cells| pareto_line(panel, series, cells, whiskers))?;
        let notes = [
            self.counted(),
            whiskers.note(),
            "up and to the right is better; numbers are batches".to_owned(),
            left_out(sweeps.len()),
        ];
        let title = "What a batch costs each sequence and brings all of them, in tokens/s";
        Some(LineChart {
            caption: self.caption("pareto", title, "All sequences together, tokens/s", notes),
            length_axis: "each sequence, tokens/s (1 / TPOT)".to_owned(),
            length_scale: Scale::Linear,
            value_scale: Scale::Linear,
            shared: false,
            panels,
        })
    }

    fn sweeps(&'a self, applies: fn(Kind) -> bool) -> Vec<Sweep<'a>> {
        let key = |w: &Workload| (w.kind, w.prompt.tokens(), w.generate);
        let mut alike: Vec<&Workload> = Vec::new();
        for workload in self.subject.workloads() {
            if applies(workload.kind) && !alike.iter().any(|known| key(known) == key(workload)) {
                alike.push(workload);
            }
        }
        let mut sweeps = Vec::new();
        for workload in alike {
            for precision in self.subject.precisions() {
                let of = |backend: &BackendKind| {
                    let cells = self.measured(*backend, precision).filter(|m| key(m.workload()) == key(workload));
                    let mut cells: Vec<&Measured<'_>> = cells.filter(|m| rate(m).is_some()).collect();
                    cells.sort_by_key(|m| m.workload().batch);
                    cells.dedup_by_key(|m| m.workload().batch);
                    cells
                };
                let cells: Vec<_> = self.backends.iter().map(of).collect();
                if cells.iter().any(|cells| cells.len() > 1) {
                    let one = Workload { batch: 1, ..workload.clone() };
                    let title = format!("{} · {precision}", one.size(workload.prompt.tokens()));
                    sweeps.push(Sweep { title, precision, cells });
                }
            }
        }
        sweeps
    }

    /// A panel for each sweep; `None` without any.
    fn panels(
        &self,
        sweeps: &[Sweep<'_>],
        line: impl Fn(&mut LinePanel, usize, &[&Measured<'_>]),
    ) -> Option<Vec<LinePanel>> {
        let panel = |sweep: &Sweep<'_>| {
            let mut panel = LinePanel::titled(sweep.title.clone());
            for (series, cells) in sweep.cells.iter().enumerate() {
                if cells.is_empty() {
                    let (backend, state) = (self.backends[series], self.state(self.backends[series], sweep.precision));
                    panel.missing.push(format!("{backend}: {state}"));
                } else {
                    line(&mut panel, series, cells);
                }
            }
            panel
        };
        let panels: Vec<LinePanel> = sweeps.iter().take(MAX_PANELS).map(panel).collect();
        (!panels.is_empty()).then_some(panels)
    }
}

fn batch_line(panel: &mut LinePanel, series: usize, cells: &[&Measured<'_>], whiskers: Whiskers) {
    let points = line(cells, whiskers, |measured, _| f64::from(measured.workload().batch));
    if let [first, .., last] = points.as_slice() {
        let each = first.value / first.length;
        panel.guides.push(Guide { series, from: (first.length, first.value), to: (last.length, each * last.length) });
        panel.notes.extend(points[1..].iter().map(|point| Note {
            series,
            length: point.length,
            value: point.value,
            text: text::percent(point.value / (each * point.length)),
            place: Place::Beyond,
        }));
    }
    panel.lines.push(Line { series, pieces: vec![points] });
}

fn pareto_line(panel: &mut LinePanel, series: usize, cells: &[&Measured<'_>], whiskers: Whiskers) {
    let points = line(cells, whiskers, |measured, rate| rate.median / f64::from(measured.workload().batch));
    panel.notes.extend(points.iter().zip(cells).map(|(point, measured)| Note {
        series,
        length: point.length,
        value: point.value,
        text: measured.workload().batch.to_string(),
        place: Place::Beside,
    }));
    panel.lines.push(Line { series, pieces: vec![points] });
}

fn line(cells: &[&Measured<'_>], whiskers: Whiskers, length: fn(&Measured<'_>, &Summary) -> f64) -> Vec<Point> {
    let point = |measured: &&Measured<'_>| {
        let rate = rate(measured)?;
        Some(whiskers.point(length(measured, &rate), &rate))
    };
    cells.iter().filter_map(point).collect()
}
