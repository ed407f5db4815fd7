//! Scenarios: what a person wrote, checked as a whole, all errors at once.

//!
//! The way from text to [`Scenario`]: `document` reads the TOML tree with the place of every value, `file` checks
//! types, ranges and spelling, `check` looks names up and holds workloads against models and engines against devices.

mod check;
mod error;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

pub use self::error::{ScenarioError, ScenarioErrors};
use self::file::ScenarioFile;
use crate::artifact::{Precision, Weights};
use crate::backend::BackendKind;
use crate::device::{DeviceId, DeviceKind, InvalidDevice};
use crate::document::{Report, check_text, grouped};
use crate::fleet::Fleet;
use crate::id::BuildName;
use crate::model::Model;
use crate::policy::{Passes, Policy};
use crate::workload::Workload;

/// The most bytes that the prompts of a scenario may have together.
pub const MAX_PROMPTS: usize = 4 << 20;

/// Everything a scenario needs, with no path left to resolve: it travels to the coordinator and is frozen into the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioBundle {
    /// The file's name, for messages.
    pub file: String,
    /// The scenario's text (TOML).
    pub text: String,
    /// The prompt files it names, by the name used in the scenario.
    pub prompts: BTreeMap<String, String>,
    /// The model manifest's text (TOML).
    pub models: String,
    /// Kind of weights chosen on the command line in place of the scenario's.
    pub weights: Option<Weights>,
    /// Whether cells are tried that the memory preflight would skip; chosen on the command line.
    #[serde(default)]
    pub force: bool,
    /// How many worker processes measure each cell, chosen on the command line in place of the scenario's choice.
    #[serde(default)]
    pub passes: Option<Passes>,
    /// Names of builds of the worker program that measure every cell in turns, chosen on the command line: two, or none.
    #[serde(default)]
    pub builds: Vec<BuildName>,
}

/// A scenario that has passed every check which needs no device.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// A short name.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// The models.
    pub models: Vec<Model>,
    /// Trained or made-up weights.
    pub weights: Weights,
    /// The engines.
    pub backends: Vec<BackendKind>,
    /// The precisions.
    pub precisions: Vec<Precision>,
    /// Which devices.
    pub devices: Vec<DeviceSelector>,
    /// What to execute.
    pub workloads: Vec<Arc<Workload>>,
    /// How to measure.
    pub policy: Policy,
    /// Builds of the worker program that measure every cell in turns: two, or none.
    pub builds: Vec<BuildName>,
    /// Where.
    pub fleet: Fleet,
}

/// Which devices a scenario wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSelector {
    /// Every device: `all`.
    All,
    /// Every device but processors, of whatever kind: `gpu`.
    Gpu,
    /// Every device of a kind: `cuda`.
    Kind(DeviceKind),
    /// One device of each agent: `cuda:1`.
    One(DeviceId),
}

impl DeviceSelector {
    /// Whether it means this device.
    pub fn matches(self, device: DeviceId) -> bool {
        match self {
            Self::One(id) => device == id,
            wider => wider.may_be(device.kind),
        }
    }

    /// The same for every device of the kind.
    pub(crate) fn widened(self) -> Self {
        match self {
            Self::One(id) => Self::Kind(id.kind),
            wider => wider,
        }
    }

    /// Whether it may mean a device of this kind.
    fn may_be(self, kind: DeviceKind) -> bool {
        match self {
            Self::All => true,
            Self::Gpu => kind != DeviceKind::Cpu,
            Self::Kind(wanted) => kind == wanted,
            Self::One(id) => kind == id.kind,
        }
    }
}

impl FromStr for DeviceSelector {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        match text {
            "all" => return Ok(Self::All),
            "gpu" => return Ok(Self::Gpu),
            _ => {}
        }
        match DeviceKind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            Some(kind) => Ok(Self::Kind(kind)),
            None => text.parse().map(Self::One),
        }
    }
}

impl fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Gpu => f.write_str("gpu"),
            Self::Kind(kind) => kind.fmt(f),
            Self::One(id) => id.fmt(f),
        }
    }
}

/// Reads and checks a scenario, with everything that is wrong with it.
pub fn parse(bundle: &ScenarioBundle) -> Result<Scenario, ScenarioErrors> {
    let report = Report::new(&bundle.file, &bundle.text);
    let prompts: usize = bundle.prompts.values().map(String::len).sum();
    if prompts > MAX_PROMPTS {
        let (found, most) = (grouped(prompts as u64), grouped(MAX_PROMPTS as u64));
        report.rule(None, "", format!("prompt files have {found} bytes together: at most {most} are read"), None);
    }
    let tree = report.parse();
    let scenario = tree.and_then(|tree| {
        let file = ScenarioFile::read(&report, &tree);
        check::check(&report, &file, bundle)
    });
    report.finish(scenario)
}

/// The prompt files that a scenario's text names, for the caller to load into [`ScenarioBundle::prompts`]. Names that
/// leave the scenario's folder are left out, and so is what a broken text hides: [`parse`] reports both.
pub fn prompt_files(text: &str) -> Vec<String> {
    if check_text(text).is_err() {
        return Vec::new();
    }
    let (tree, _) = DeTable::parse_recoverable(text);
    let workloads = tree.get_ref().get("workload").and_then(|w| w.get_ref().as_array()).map(|w| &w[..]);
    let name = |workload: &toml::Spanned<DeValue<'_>>| -> Option<String> {
        workload.get_ref().as_table()?.get("prompt_file")?.get_ref().as_str().map(str::to_owned)
    };
    let names: BTreeSet<_> = workloads.unwrap_or_default().iter().filter_map(name).collect();
    names.into_iter().filter(|name| check::is_prompt_file(name)).collect()
}

#[cfg(test)]
mod tests;
