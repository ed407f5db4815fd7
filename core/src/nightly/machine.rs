//! Machines whose cells move together: one event instead of an alarm for each cell.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Direction, Finding, Rules, Series, Verdict};
use crate::id::RunId;
use crate::ranks;

/// A machine that moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    /// The machine.
    pub machine: String,
    /// Which way.
    pub direction: Direction,
    /// Whether most of its cells that moved did so for certain. Until then one night more decides.
    pub confirmed: bool,
    /// The first run of the new level, where it is certain.
    pub since: Option<RunId>,
    /// Positions of the series that moved, those that moved most first.
    pub moved: Vec<usize>,
    /// Cells that moved.
    pub cells: usize,
    /// Cells of the machine that were judged.
    pub of: usize,
    /// The middle of their changes, tonight over level, less 1.
    pub change: f64,
}

/// Finds the machines that moved. Where that is certain a new level begins for all of their series: those that moved less than
/// the rest, or were not flagged by chance, belong to the same event.
pub(super) fn group(series: &[Series], verdicts: &mut [Verdict], rules: &Rules) -> Vec<MachineEvent> {
    let mut machines: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, series) in series.iter().enumerate().filter(|(at, _)| verdicts[*at].evidence.is_some()) {
        machines.entry(&series.machine).or_default().push(at);
    }
    let mut events = Vec::new();
    for (machine, all) in machines {
        let cells = |positions: &[usize]| positions.iter().map(|&at| &series[at].cell).collect::<BTreeSet<_>>().len();
        for direction in [Direction::Slower, Direction::Faster] {
            let moved: Vec<usize> =
                all.iter().copied().filter(|&at| verdicts[at].finding.direction() == Some(direction)).collect();
            let (cells, of) = (cells(&moved), cells(&all));
            if cells < rules.machine_cells || cells as f64 <= rules.machine_share * of as f64 {
                continue;
            }
            let event = event(machine, direction, moved, [cells, of], verdicts);
            if let Some(since) = &event.since {
                begin(&all, &event.moved, direction, since, verdicts);
            }
            events.push(event);
        }
    }
    events
}

fn event(
    machine: &str,
    direction: Direction,
    mut moved: Vec<usize>,
    [cells, of]: [usize; 2],
    verdicts: &[Verdict],
) -> MachineEvent {
    let change = |at: &usize| verdicts[*at].evidence.as_ref().map_or(0.0, |evidence| evidence.change);
    moved.sort_by(|a, b| change(b).abs().total_cmp(&change(a).abs()));
    let mut since: BTreeMap<&RunId, usize> = BTreeMap::new();
    for &at in &moved {
        if let Finding::Confirmed { since: run, .. } = &verdicts[at].finding {
            *since.entry(run).or_default() += 1;
        }
    }
    let confirmed = since.values().sum::<usize>() * 2 > moved.len();
    let most = since.into_iter().max_by_key(|(_, cells)| *cells).map(|(run, _)| run.clone());
    MachineEvent {
        machine: machine.to_owned(),
        direction,
        confirmed,
        since: most.filter(|_| confirmed),
        change: ranks::median(&ranks::sorted(moved.iter().map(change))).unwrap_or(0.0),
        moved,
        cells,
        of,
    }
}

fn begin(all: &[usize], moved: &[usize], direction: Direction, since: &RunId, verdicts: &mut [Verdict]) {
    for at in all {
        let other_way = verdicts[*at].finding.direction().is_some_and(|own| own != direction);
        if !other_way {
            let moved = moved.contains(at);
            verdicts[*at].finding = Finding::WithMachine { direction, since: since.clone(), moved };
        }
    }
}
