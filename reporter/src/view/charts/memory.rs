//! Memory over the context, beside what arithmetic predicts: the weights, and keys and values for each token.

use std::collections::BTreeMap;

use super::context::{Context, length_scale, lengths};
use super::{Guide, LineChart, Point, Scale};
use crate::view::subject::Measured;

const MIB_PER_GIB: f64 = 1024.0;
const BYTES_PER_GIB: f64 = 1_073_741_824.0;

impl Context<'_> {
    /// What the worker needed at most: of the device where that is known, else of the host.
    pub(super) fn memory(&self) -> Option<LineChart> {
        let device = self.subject.cells.iter().any(|m| m.stats.device_memory_mib.is_some());
        let of = move |m: &Measured<'_>| if device { m.stats.device_memory_mib } else { m.stats.peak_rss_mib };
        let mut panels = self.line_panels(|backend, precision| {
            let points = memory_points(self.measured(backend, precision), of);
            if points.is_empty() { vec![] } else { vec![points] }
        });
        let lengths = lengths(&panels)?;
        let mut predicted = false;
        for (panel, precision) in panels.iter_mut().zip(self.subject.precisions()) {
            for line in &panel.lines {
                let guide = self.predicted(line.series, precision, &lengths);
                predicted |= guide.is_some();
                panel.guides.extend(guide);
            }
        }
        let axis = if device { "Device memory at most, GiB" } else { "Resident memory at most, GiB" };
        let grows = "the process's memory never falls: a cell after a larger one shows that one's";
        let notes = [
            if predicted { "thin line: weights, keys and values as computed".to_owned() } else { String::new() },
            if device { String::new() } else { grows.to_owned() },
        ];
        Some(LineChart {
            caption: self.caption("memory", "How much memory is needed as the context grows, in GiB", axis, notes),
            length_axis: "tokens in the cache at the end, all sequences".to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: Scale::Linear,
            shared: false,
            panels,
        })
    }

    /// Weights, and keys and values of so many tokens, as the engine holds them.
    fn predicted(&self, series: usize, precision: regatta_core::artifact::Precision, lengths: &[f64]) -> Option<Guide> {
        let cell = self.measured(*self.backends.get(series)?, precision).next()?;
        let (weights, token) = cell.result.ceiling.predicted_memory(&cell.result.cell)?;
        let at = |tokens: f64| (tokens, (weights as f64 + tokens * token as f64) / BYTES_PER_GIB);
        Some(Guide { series, from: at(*lengths.first()?), to: at(*lengths.last()?) })
    }
}

/// Tokens whose keys and values are in the cache when the last one has been generated.
fn tokens(measured: &Measured<'_>) -> Option<u32> {
    let workload = measured.workload();
    let each = workload.kind.depth().checked_add(measured.prompt_tokens()?)?.checked_add(workload.generate)?;
    each.checked_mul(workload.batch)
}

/// The most that any cell of that length needed.
fn memory_points<'a, 'b: 'a>(
    cells: impl Iterator<Item = &'a Measured<'b>>,
    of: impl Fn(&Measured<'_>) -> Option<f64>,
) -> Vec<Point> {
    let mut by_length = BTreeMap::<u32, f64>::new();
    for cell in cells {
        let Some((tokens, mib)) = tokens(cell).zip(of(cell)) else { continue };
        let most = by_length.entry(tokens).or_insert(0.0);
        *most = most.max(mib / MIB_PER_GIB);
    }
    let point = |(tokens, gib)| Point { length: f64::from(tokens), value: gib, low: gib, high: gib };
    by_length.into_iter().map(point).collect()
}
