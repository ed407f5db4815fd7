//! In what the circumstances of both sides differ. Some differences forbid a comparison, because another model, another
//! machine or another definition was measured; the others are what a comparison may be about, and are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regatta_core::fingerprint::{self as part, Bearing};
use serde::Serialize;

use super::pairing::Matched;
use crate::dataset::{CellResult, Run};
use crate::text;

/// The token ids of the prompt: a circumstance that is told by samples.
const PROMPT: &str = "prompt";

/// Whether two sides that differ in this can't be compared.
fn forbids(part: &str) -> bool {
    part == PROMPT || Bearing::of(part) == Bearing::Incomparable
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What, such as `engine`.
    pub part: String,
    /// As the base has it.
    pub base: Option<String>,
    /// As the candidate has it.
    pub candidate: Option<String>,
    /// Whether it forbids a comparison.
    pub forbids: bool,
    /// In how many of the cells on both sides.
    pub cells: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
        let cells = text::count(self.cells, "cell");
        write!(f, "{}: {} → {} ({cells})", self.part, said(&self.base), said(&self.candidate))
    }
}

/// What differs, with the number of cells; what forbids a comparison comes first.
pub(super) fn differences(base: &Run, candidate: &Run, cells: &[Matched<'_>]) -> Vec<Difference> {
    let mut found: BTreeMap<(bool, String, Option<String>, Option<String>), usize> = BTreeMap::new();
    for pair in cells {
        let (mut a, mut b) = (parts(base, pair.base), parts(candidate, pair.candidate));
        if let (Some(more_a), Some(more_b)) = (fingerprint(pair.base), fingerprint(pair.candidate)) {
            a.extend(more_a);
            b.extend(more_b);
        }
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let (a, b) = (a.get(name), b.get(name));
            if a != b {
                *found.entry((!forbids(name), name.clone(), a.cloned(), b.cloned())).or_default() += 1;
            }
        }
    }
    let found = found.into_iter().map(|((allowed, part, base, candidate), cells)| Difference {
        part,
        base,
        candidate,
        forbids: !allowed,
        cells,
    });
    found.collect()
}

/// The circumstances as the agent told them; `None` for what earlier versions measured.
fn fingerprint(cell: &CellResult) -> Option<BTreeMap<String, String>> {
    let fingerprint = cell.facts.as_ref().map(|facts| &facts.fingerprint).filter(|known| !known.is_empty())?;
    Some(fingerprint.parts().iter().map(|(name, value)| (name.clone(), text::label(value))).collect())
}

/// What a run says of the circumstances of a cell by itself, by name.
fn parts(run: &Run, cell: &CellResult) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            parts.insert(name.to_owned(), text::label(&value));
        }
    };
    let host = run.hosts.iter().find(|host| host.agent == cell.cell.agent);
    let fact = |name: &str| host.and_then(|host| host.facts.get(name)).cloned();
    add(part::OS, fact("os"));
    add(part::KERNEL, fact("kernel"));
    add("agent", host.map(|host| host.version.clone()));
    let device = run.device(&cell.cell);
    add(part::DEVICE, device.map(|device| device.name.clone()));
    let gib = |bytes: u64| (bytes.saturating_add(1 << 29) >> 30).to_string();
    add(part::MEMORY, device.and_then(|device| device.memory_bytes).map(gib));
    add(part::CORES, device.and_then(|device| device.cores).map(|cores| cores.to_string()));
    let facts = cell.facts.as_ref();
    add(part::ARTIFACT, facts.map(|facts| facts.artifact_digest.clone()));
    add(part::ENGINE, facts.map(|facts| facts.engine.clone()));
    let sample = cell.samples.first();
    add(PROMPT, sample.map(|sample| sample.prompt_digest.short()));
    add("threads", sample.map(|sample| sample.threads.to_string()));
    let flags: Vec<String> = cell.flags().iter().map(|flag| flag.as_str().replace('_', " ")).collect();
    add("flags", Some(flags.join(", ")));
    parts
}
