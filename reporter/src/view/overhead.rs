//! What an answer costs beyond its forward passes: the time per output token end to end against that of steps alone at the
//! same depth. The two never share a chart; their difference is a number of its own.

use regatta_core::workload::Kind;
use serde::Serialize;

use super::Value;
use super::subject::{Measured, Subject};
use crate::text;

/// A workload that generates, against steps alone that begin where its prompt ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overhead {
    /// Model and device.
    pub place: String,
    /// The backend.
    pub backend: &'static str,
    /// Precision of the weights.
    pub precision: &'static str,
    /// The workload that generates.
    pub workload: String,
    /// The workload of steps alone.
    pub steps: String,
    /// Time per output token in ms: `steps → end to end`.
    pub tpot: Value,
    /// Their difference in ms.
    pub difference: Value,
    /// It, as a share of the time end to end.
    pub share: Value,
}

/// Every such pair of the run's subjects.
pub(super) fn overheads(subjects: &[Subject<'_>]) -> Vec<Overhead> {
    let cells = |kernel: bool| {
        let subjects = subjects.iter().filter(move |subject| subject.is_kernel() == kernel);
        subjects.flat_map(|subject| subject.cells.iter().filter(|m| m.is_ok).map(move |m| (subject, m)))
    };
    let pairs = cells(false).filter_map(|(subject, whole)| {
        let steps = cells(true).map(|(_, steps)| steps).find(|steps| belongs(steps, whole));
        steps.and_then(|steps| overhead(subject, steps, whole))
    });
    pairs.collect()
}

/// Whether these are the steps of that answer: the same but for the prompt, which is what they find in the cache.
fn belongs(steps: &Measured<'_>, whole: &Measured<'_>) -> bool {
    let (a, b) = (&steps.result.cell, &whole.result.cell);
    let same = (&a.agent, a.device, a.backend, &a.artifact) == (&b.agent, b.device, b.backend, &b.artifact);
    let Kind::Decode { depth } = a.workload.kind else { return false };
    same && a.workload.batch == b.workload.batch && Some(depth) == whole.prompt_tokens()
}

fn overhead(subject: &Subject<'_>, steps: &Measured<'_>, whole: &Measured<'_>) -> Option<Overhead> {
    let [a, b] = [steps, whole].map(|m| m.stats.tpot_ms.map(|summary| summary.median));
    let (a, b) = (a?, b?);
    let difference = b - a;
    Some(Overhead {
        place: subject.short_label(),
        backend: whole.backend().as_str(),
        precision: whole.precision().as_str(),
        workload: whole.workload().name.to_string(),
        steps: steps.workload().name.to_string(),
        tpot: Value::new(format!("{} → {}", text::number(a), text::number(b)), Some(b)),
        difference: Value::new(text::number(difference), Some(difference)),
        share: Value::new(format!("{:+.1} %", difference / b * 100.0), Some(difference / b)),
    })
}
