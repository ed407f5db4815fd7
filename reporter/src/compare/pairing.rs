//! Which cell of one run is which of the other: the same model, weights, backend and workload on the same kind of device.

use regatta_core::cell::Cell;

use super::Chosen;
use crate::dataset::{CellResult, Run};
use crate::text;

/// A cell that is on both sides.
#[derive(Debug)]
pub struct Matched<'a> {
    /// Of the base.
    pub base: &'a CellResult,
    /// Of the candidate.
    pub candidate: &'a CellResult,
}

/// The cells of both sides.
#[derive(Debug)]
pub struct Pairing<'a> {
    /// Those on both, in the order of the base.
    pub matched: Vec<Matched<'a>>,
    /// Cells that only the base has.
    pub only_in_base: Vec<&'a CellResult>,
    /// Cells that only the candidate has.
    pub only_in_candidate: Vec<&'a CellResult>,
}

/// Finds each cell's partner: on the same device if that is there, else on one of the same name, else on one of its kind.
pub fn pair<'a>(base: Chosen<'a>, candidate: Chosen<'a>) -> Pairing<'a> {
    let mut left: Vec<&CellResult> = candidate.cells().collect();
    let mut waiting: Vec<&CellResult> = base.cells().collect();
    // Where no build is chosen, what one measured is held against what the one of that name measured.
    let any_build = base.build.is_some() || candidate.build.is_some();
    let (base, candidate) = (base.run, candidate.run);
    let mut found: Vec<(usize, Matched<'a>)> = Vec::new();
    for furthest in 0..=2 {
        waiting.retain(|cell| {
            let close = |other: &CellResult| distance((base, cell), (candidate, other)) <= furthest;
            let at = left.iter().position(|other| same_work(&cell.cell, &other.cell, any_build) && close(other));
            let Some(at) = at else { return true };
            let order = base.cells.iter().position(|other| std::ptr::eq(other, *cell)).unwrap_or_default();
            found.push((order, Matched { base: cell, candidate: left.remove(at) }));
            false
        });
    }
    found.sort_by_key(|(order, _)| *order);
    let matched = found.into_iter().map(|(_, matched)| matched).collect();
    Pairing { matched, only_in_base: waiting, only_in_candidate: left }
}

/// How far apart two cells are measured: 0 on the same device, 1 on another one of its name, 2 on another one of its kind.
fn distance((base, a): (&Run, &CellResult), (candidate, b): (&Run, &CellResult)) -> u8 {
    let (a, b) = (&a.cell, &b.cell);
    if (&a.agent, a.device) == (&b.agent, b.device) {
        0
    } else if base.kind_of_device(a) == candidate.kind_of_device(b) {
        1
    } else if a.device.kind == b.device.kind {
        2
    } else {
        u8::MAX
    }
}

/// Whether both do the same, wherever that is.
fn same_work(a: &Cell, b: &Cell, any_build: bool) -> bool {
    (&a.artifact, a.backend, a.replica) == (&b.artifact, b.backend, b.replica)
        && (any_build || a.build == b.build)
        && a.workload.digest() == b.workload.digest()
}

/// `tinyllama-1.1b · candle · q8_0 · chat on cpu`.
pub(super) fn label(cell: &Cell) -> String {
    text::label(&format!("{} on {}", cell.work(), cell.device))
}
