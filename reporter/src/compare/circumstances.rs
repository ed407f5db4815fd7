//! In what the circumstances of both sides differ. Some differences forbid a comparison, because another model, another
//! machine or another definition was measured; the others are what a comparison may be about, and are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::pairing::Matched;
use crate::dataset::{CellResult, Run};
use crate::text;

/// What forbids a comparison where it differs.
const FORBIDDING: [&str; 6] = ["artifact", "device", "device memory", "cores", "method", "prompt"];

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
        let (a, b) = (parts(base, pair.base), parts(candidate, pair.candidate));
        let names: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
        for name in names {
            let (a, b) = (a.get(name), b.get(name));
            if a != b {
                let allowed = !FORBIDDING.contains(&name);
                *found.entry((allowed, name.to_owned(), a.cloned(), b.cloned())).or_default() += 1;
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

/// What is known of the circumstances of a cell, by name.
fn parts(run: &Run, cell: &CellResult) -> BTreeMap<&'static str, String> {
    let mut parts = BTreeMap::new();
    let mut add = |name, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            parts.insert(name, text::label(&value));
        }
    };
    let host = run.hosts.iter().find(|host| host.agent == cell.cell.agent);
    let fact = |name: &str| host.and_then(|host| host.facts.get(name)).cloned();
    for name in ["cpu", "governor", "kernel", "memory", "os"] {
        add(name, fact(name));
    }
    add("agent", host.map(|host| host.version.clone()));
    let device = run.device(&cell.cell);
    add("device", device.map(|device| format!("{} {}", device.id.kind, device.name)));
    add("device memory", device.and_then(|device| device.memory_bytes).map(text::bytes));
    add("cores", device.and_then(|device| device.cores).map(|cores| cores.to_string()));
    let facts = cell.facts.as_ref();
    add("artifact", facts.map(|facts| facts.artifact_digest.clone()));
    add("engine", facts.map(|facts| facts.engine.clone()));
    let sample = cell.samples.first();
    add("prompt", sample.map(|sample| sample.prompt_digest.short()));
    add("threads", sample.map(|sample| sample.threads.to_string()));
    let flags: Vec<String> = cell.flags().iter().map(|flag| flag.as_str().replace('_', " ")).collect();
    add("flags", Some(flags.join(", ")));
    parts
}
