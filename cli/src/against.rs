//! `regatta show RUN --against OTHER`: in what the circumstances of two runs differ, cell by cell, and what follows.
//!
//! Cells are paired as a comparison pairs them; the machine may be another one, which is then among the differences. Pure
//! but for loading the runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use regatta_core::fingerprint::{Difference, Fingerprint};
use regatta_reporter::compare::{self, Chosen, Pairing};
use regatta_reporter::dataset::{CellResult, Run};
use serde_json::{Value, json};

use crate::exit::BadInput;
use crate::paths::Folders;
use crate::report;
use crate::source::{self, Source, SourceArgs};

/// How many characters of a value a line shows.
const SHOWN: usize = 100;

/// What differs, and its values on both sides.
type Values = Vec<(String, Option<String>, Option<String>)>;

/// Two runs side by side.
#[derive(Debug)]
pub(crate) struct Against {
    a: String,
    b: String,
    /// Cells that share a set of differences; those without any come first.
    groups: Vec<(Vec<Difference>, Vec<String>)>,
    /// Cells of both of which the circumstances are not known for both.
    unknown: usize,
    only_a: usize,
    only_b: usize,
}

/// Loads both runs and compares their circumstances.
pub(crate) async fn load(a: &str, b: &str, source: &SourceArgs, folders: &Folders) -> anyhow::Result<Against> {
    let temporary = tempfile::tempdir().context("failed to make a temporary folder")?;
    let mut loaded = Vec::new();
    match source.source(folders).await? {
        Source::Database(path) => {
            let reader = source::open(&path).await?;
            for run in [a, b] {
                let id = reader.resolve_run(run).await.map_err(|error| BadInput(error.to_string()))?;
                loaded.extend(regatta_reporter::load(&reader, &[id]).await?.runs);
            }
        }
        Source::Coordinator(mut client) => {
            for run in [a, b] {
                let id = source::get_run(&mut client, run).await?.id;
                let file = temporary.path().join(format!("{id}.sqlite"));
                loaded.extend(report::fetch(&mut client, &id, &file).await?.0.runs);
            }
        }
    }
    let [a, b] = loaded.as_slice() else { anyhow::bail!("both runs were to be read") };
    Ok(Against::of(a, b))
}

impl Against {
    fn of(a: &Run, b: &Run) -> Self {
        let Pairing { matched, only_in_base, only_in_candidate } = compare::pair(Chosen::all(a), Chosen::all(b));
        let mut groups: BTreeMap<Values, (Vec<Difference>, Vec<String>)> = BTreeMap::new();
        let mut unknown = 0;
        for pair in matched {
            let (Some(x), Some(y)) = (known(pair.base), known(pair.candidate)) else {
                unknown += 1;
                continue;
            };
            let differences = x.differences(y);
            let same = differences.iter().map(|d| (d.part.clone(), d.a.clone(), d.b.clone())).collect();
            groups.entry(same).or_insert_with(|| (differences, Vec::new())).1.push(pair.base.cell.label());
        }
        let groups = groups.into_values().collect();
        let (only_a, only_b) = (only_in_base.len(), only_in_candidate.len());
        Self { a: a.id.to_string(), b: b.id.to_string(), groups, unknown, only_a, only_b }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} against {}\n", self.a, self.b);
        for (differences, cells) in &self.groups {
            let what = if differences.is_empty() { ": measured in the same circumstances" } else { ":" };
            let _ = writeln!(text, "\n{}{what}", count(cells.len()));
            for cell in cells {
                let _ = writeln!(text, "  {cell}");
            }
            for Difference { part, a, b, bearing } in differences {
                let [a, b] = [a, b].map(|value| value.as_deref().map_or_else(|| "(not known)".to_owned(), shown));
                let _ = writeln!(text, "    {bearing}: {part}\n      - {a}\n      + {b}");
            }
        }
        let others = [
            (self.unknown, "in both, of which the circumstances are not known for both"),
            (self.only_a, "only in the first"),
            (self.only_b, "only in the second"),
        ];
        for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
            let _ = writeln!(text, "\n{} {what}", count(number));
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let groups =
            self.groups.iter().map(|(differences, cells)| json!({ "differences": differences, "cells": cells }));
        json!({
            "a": self.a,
            "b": self.b,
            "groups": groups.collect::<Vec<_>>(),
            "unknown": self.unknown,
            "only_a": self.only_a,
            "only_b": self.only_b,
        })
    }
}

fn known(cell: &CellResult) -> Option<&Fingerprint> {
    cell.facts.as_ref().map(|facts| &facts.fingerprint).filter(|fingerprint| !fingerprint.is_empty())
}

fn count(cells: usize) -> String {
    if cells == 1 { "1 cell".to_owned() } else { format!("{cells} cells") }
}

fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use regatta_core::fingerprint::Bearing;

    use super::*;

    fn difference(part: &str, a: Option<&str>, b: Option<&str>) -> Difference {
        let (a, b) = (a.map(str::to_owned), b.map(str::to_owned));
        Difference { part: part.to_owned(), a, b, bearing: Bearing::of(part) }
    }

    #[test]
    fn people_read_what_differs_and_what_it_means() {
        let against = Against {
            a: "01935f".to_owned(),
            b: "018aaa".to_owned(),
            groups: vec![
                (vec![], vec!["fake tinyllama-1.1b, short on cpu".to_owned()]),
                (
                    vec![
                        difference("artifact", Some("ab12"), Some("cd34")),
                        difference("driver", Some("570.1"), None),
                        difference("kernel", Some("6.1"), Some(&"6".repeat(120))),
                    ],
                    vec!["llama.cpp a, one on cuda:0".to_owned(), "llama.cpp a, two on cuda:0".to_owned()],
                ),
            ],
            unknown: 2,
            only_a: 0,
            only_b: 1,
        };
        insta::assert_snapshot!(against.text());
        assert_eq!(against.json()["groups"][1]["differences"][0]["bearing"], "incomparable");
    }

    #[test]
    fn values_too_long_for_a_line_are_cut_between_characters() {
        assert_eq!(shown(&"é".repeat(SHOWN)), "é".repeat(SHOWN));
        assert_eq!(shown(&"é".repeat(SHOWN + 1)), "é".repeat(SHOWN) + "…");
    }
}
