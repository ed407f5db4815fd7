//! Lines over a length in tokens: of the prompt, of what is in the cache, of the context as it grows.

use std::collections::BTreeMap;

use regatta_core::metrics::Metrics;
use regatta_core::workload::Kind;

use super::context::{Context, Of, Whiskers, length_scale, lengths, points, value_scale};
use super::{LineChart, Point, Scale};
use crate::stats::{Summary, ms, percentile, sorted};
use crate::view::subject::Measured;

/// Bins of the context axis at most.
const MAX_BINS: u32 = 32;

/// Times between tokens that a bin needs: with fewer the median is noise.
const MIN_PER_BIN: usize = 8;

/// A number of cells over a length.
struct Over<'o> {
    /// For file names.
    name: &'static str,
    /// What the chart shows.
    title: &'static str,
    /// What is on the value axis, with its unit.
    value_axis: &'static str,
    /// What is on the length axis, with its unit.
    length_axis: &'static str,
    /// The cells that have their place on it.
    which: &'o dyn Fn(&Measured<'_>) -> bool,
    /// Where.
    length: fn(&Measured<'_>) -> Option<u32>,
    /// The number.
    of: Of,
    /// What must be known.
    note: String,
}

impl Context<'_> {
    /// Time to first token over the prompt's length.
    pub(super) fn ttft(&self) -> Option<LineChart> {
        self.over(&Over {
            name: "ttft",
            title: "How long the first token takes as the prompt grows, in ms",
            value_axis: "TTFT, ms",
            length_axis: "prompt length, tokens",
            which: &|m| m.workload().kind == Kind::Generate,
            length: |m| m.prompt_tokens(),
            of: |m| m.stats.ttft_ms,
            note: String::new(),
        })
    }

    /// Prefill rate over the prompt's length: behind the smallest depth.
    pub(super) fn prompt_length(&self) -> Option<LineChart> {
        let prompts = || self.subject.cells.iter().filter(|m| !m.workload().kind.is_decode());
        let depth = prompts().map(|m| m.workload().kind.depth()).min()?;
        self.over(&Over {
            name: "prefill-length",
            title: "How fast prompts are processed as they grow, in tokens/s",
            value_axis: "Prefill rate, tokens/s",
            length_axis: "prompt length, tokens",
            which: &|m| !m.workload().kind.is_decode() && m.workload().kind.depth() == depth,
            length: |m| m.prompt_tokens(),
            of: |m| m.stats.prefill_rate,
            note: if depth == 0 { String::new() } else { format!("depth {depth}") },
        })
    }

    /// Decode rate over the tokens that were in the cache before.
    pub(super) fn depth(&self) -> Option<LineChart> {
        self.over(&Over {
            name: "depth",
            title: "How fast steps are computed behind a filled cache, in tokens/s",
            value_axis: "Decode rate, tokens/s",
            length_axis: "depth: tokens in the cache before",
            which: &|m| matches!(m.workload().kind, Kind::Decode { .. }),
            length: |m| Some(m.workload().kind.depth()),
            of: |m| m.stats.decode_rate,
            note: String::new(),
        })
    }

    fn over(&self, over: &Over<'_>) -> Option<LineChart> {
        let whiskers = self.whiskers(over.of);
        let panels = self.line_panels(|backend, precision| {
            let cells = self.charted(backend, precision).filter(|m| (over.which)(m));
            let points = over_points(cells, over, whiskers);
            if points.is_empty() { vec![] } else { vec![points] }
        });
        let lengths = lengths(&panels)?;
        let notes = [self.counted(), whiskers.note(), self.batch_note(), over.note.clone()];
        Some(LineChart {
            caption: self.caption(over.name, over.title, over.value_axis, notes),
            length_axis: over.length_axis.to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: value_scale(points(&panels).map(|p| p.value)),
            shared: true,
            panels,
        })
    }

    /// Decode rate over the context as it grows, from the times of all tokens.
    pub(super) fn context_length(&self) -> Option<LineChart> {
        let bin = self.bin_width()?;
        let panels = self.line_panels(|backend, precision| context_pieces(self.charted(backend, precision), bin));
        let lengths = lengths(&panels)?;
        let notes = [
            format!("median of each {bin} tokens of context, all workloads and repetitions"),
            "spread: quartiles".to_owned(),
            if panels.len() > 1 { "each panel has its own scale".to_owned() } else { String::new() },
            self.batch_note(),
        ];
        let title = "How the decode rate changes as the context grows, in tokens/s";
        Some(LineChart {
            caption: self.caption("context", title, "Decode rate, tokens/s", notes),
            length_axis: "context: prompt and tokens so far".to_owned(),
            length_scale: length_scale(&lengths),
            value_scale: Scale::Linear,
            shared: false,
            panels,
        })
    }

    /// Width of a context bin: a power of two that leaves no more than [`MAX_BINS`] of them.
    fn bin_width(&self) -> Option<u32> {
        let longest = self.subject.cells.iter().filter(|m| m.is_ok);
        let longest = longest.filter_map(|m| Some(m.prompt_tokens()? + m.workload().generate)).max()?;
        let mut bin = 8;
        while longest / bin > MAX_BINS {
            bin *= 2;
        }
        Some(bin)
    }
}

/// One point for each length; of several cells of the same length, that of the first.
fn over_points<'a, 'b: 'a>(
    cells: impl Iterator<Item = &'a Measured<'b>>,
    over: &Over<'_>,
    whiskers: Whiskers,
) -> Vec<Point> {
    let mut by_length = BTreeMap::<u32, Summary>::new();
    for cell in cells {
        let Some((length, summary)) = (over.length)(cell).zip((over.of)(cell)) else { continue };
        by_length.entry(length).or_insert(summary);
    }
    by_length.iter().map(|(length, summary)| whiskers.point(f64::from(*length), summary)).collect()
}

/// Decode rates by context length, in pieces of neighbouring bins of `bin` tokens.
fn context_pieces<'a, 'b: 'a>(cells: impl Iterator<Item = &'a Measured<'b>>, bin: u32) -> Vec<Vec<Point>> {
    let mut bins = BTreeMap::<u32, Vec<f64>>::new();
    let samples = cells.flat_map(|m| m.result.samples.iter().map(|sample| (m.workload().kind.depth(), sample)));
    for (depth, sample) in samples {
        for (step, ns) in Metrics::of(sample).itl_ns.into_iter().enumerate() {
            // The step reads what was there, the prompt, and every token before it.
            let before = depth.saturating_add(sample.prompt_tokens);
            let context = before.saturating_add(u32::try_from(step).unwrap_or(u32::MAX));
            bins.entry(context / bin).or_default().push(f64::from(sample.batch) * 1e3 / ms(ns));
        }
    }
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let mut previous = None;
    for (index, rates) in bins.into_iter().filter(|(_, rates)| rates.len() >= MIN_PER_BIN) {
        let rates = sorted(rates);
        let point = Point {
            length: (f64::from(index) + 0.5) * f64::from(bin),
            value: percentile(&rates, 0.5),
            low: percentile(&rates, 0.25),
            high: percentile(&rates, 0.75),
        };
        match pieces.last_mut() {
            Some(piece) if previous == Some(index - 1) => piece.push(point),
            _ => pieces.push(vec![point]),
        }
        previous = Some(index);
    }
    pieces
}
