//! Bars: a number of each cell, panels for workloads, groups for precisions.

use regatta_core::artifact::Precision;
use regatta_core::workload::{Kind, Workload};

use super::context::{Context, Of, Whiskers, left_out, missing};
use super::{Bar, BarChart, BarGroup, BarPanel, MAX_PANELS, Mark};
use crate::text;
use crate::view::subject::{Measured, Share};

/// A number of each cell.
struct Rate {
    /// For file names.
    name: &'static str,
    /// What the chart shows.
    title: &'static str,
    /// What is on the axis, with its unit.
    axis: &'static str,
    /// Whether workloads of a kind have it.
    applies: fn(Kind) -> bool,
    /// Where it is.
    of: Of,
    /// What stands in place of a measured cell that lacks it.
    undefined: &'static str,
    /// What must be known of it.
    note: String,
}

impl Context<'_> {
    /// Generated tokens per second.
    pub(super) fn decode(&self) -> Option<BarChart> {
        let steps = "How fast steps are computed, in tokens/s";
        self.bars(&Rate {
            name: "decode",
            title: if self.subject.is_kernel() { steps } else { "How fast tokens are generated, in tokens/s" },
            axis: "Decode rate, tokens/s",
            applies: |kind| !matches!(kind, Kind::Prefill { .. }),
            of: |m| m.stats.decode_rate,
            undefined: "not defined",
            note: String::new(),
        })
    }

    /// Prompt tokens per second.
    pub(super) fn prefill(&self) -> Option<BarChart> {
        self.bars(&Rate {
            name: "prefill",
            title: "How fast prompts are processed, in tokens/s",
            axis: "Prefill rate, tokens/s",
            applies: |kind| !kind.is_decode(),
            of: |m| m.stats.prefill_rate,
            undefined: "not defined",
            note: String::new(),
        })
    }

    /// Share of the memory's bandwidth.
    pub(super) fn mbu(&self) -> Option<BarChart> {
        self.bars(&Rate {
            name: "mbu",
            title: "How much of the memory's bandwidth decoding uses (MBU), in percent of the peak",
            axis: "MBU in decode, %",
            applies: |kind| !matches!(kind, Kind::Prefill { .. }),
            of: |m| m.used.mbu.as_ref().map(|share| share.percent),
            undefined: "no peak",
            note: self.peak(|m| m.used.mbu.as_ref()),
        })
    }

    /// Share of the device's arithmetic.
    pub(super) fn mfu(&self) -> Option<BarChart> {
        self.bars(&Rate {
            name: "mfu",
            title: "How much of the device's arithmetic prompts use (MFU), in percent of the peak",
            axis: "MFU in prefill, %",
            applies: |kind| !kind.is_decode(),
            of: |m| m.used.prefill_mfu.as_ref().map(|share| share.percent),
            undefined: "no peak",
            note: self.peak(|m| m.used.prefill_mfu.as_ref()),
        })
    }

    /// Joules for each generated token.
    pub(super) fn energy(&self) -> Option<BarChart> {
        self.bars(&Rate {
            name: "energy",
            title: "What a generated token costs, in joules",
            axis: "Energy of the device, J per token",
            applies: |kind| !matches!(kind, Kind::Prefill { .. }),
            of: |m| m.stats.joules_per_token,
            undefined: "not read",
            note: "prompt and idle power included".to_owned(),
        })
    }

    /// Whose figures the peaks are.
    fn peak(&self, share: impl for<'m> Fn(&'m Measured<'_>) -> Option<&'m Share>) -> String {
        let mut of: Vec<&str> = self.subject.cells.iter().filter_map(|m| Some(share(m)?.of.as_str())).collect();
        of.sort_unstable();
        of.dedup();
        if of.is_empty() { String::new() } else { format!("percent {}", of.join(", ")) }
    }

    fn bars(&self, rate: &Rate) -> Option<BarChart> {
        let mut workloads = self.subject.workloads();
        workloads.retain(|workload| (rate.applies)(workload.kind));
        let has =
            |w: &&Workload| self.subject.cells.iter().any(|m| m.workload().name == w.name && (rate.of)(m).is_some());
        if !workloads.iter().any(has) {
            return None;
        }
        let whiskers = self.whiskers(rate.of);
        let panels = workloads.iter().take(MAX_PANELS).map(|w| self.bar_panel(w, rate, whiskers)).collect();
        let notes = [self.counted(), whiskers.note(), self.hollow(), rate.note.clone(), left_out(workloads.len())];
        Some(BarChart { caption: self.caption(rate.name, rate.title, rate.axis, notes), panels })
    }

    fn bar_panel(&self, workload: &Workload, rate: &Rate, whiskers: Whiskers) -> BarPanel {
        let usual = self.usual_n();
        let group = |precision: Precision| BarGroup {
            label: precision.to_string(),
            bars: self
                .backends
                .iter()
                .map(|b| bar(self.subject.at(*b, precision, workload), usual, rate, whiskers))
                .collect(),
        };
        let groups = self.subject.precisions().into_iter().map(group).collect();
        BarPanel { title: self.workload_title(workload), value_axis: None, groups }
    }
}

fn bar(measured: Option<&Measured<'_>>, usual_n: usize, rate: &Rate, whiskers: Whiskers) -> Bar {
    let Some(measured) = measured else { return Bar { mark: Mark::Absent, suspect: false } };
    let mark = match (rate.of)(measured).filter(|_| measured.is_ok) {
        Some(s) => {
            let (low, high) = whiskers.ends(&s);
            let note = if s.n < usual_n { format!("n={}", s.n) } else { String::new() };
            Mark::Value { median: s.median, low, high, label: text::number(s.median), note }
        }
        None => Mark::Missing { state: missing(measured, rate.undefined) },
    };
    Bar { mark, suspect: measured.is_suspect() }
}
