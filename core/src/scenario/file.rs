//! The scenario file as written: types, ranges and spelling are checked here, meaning is not.

use std::time::Duration;

use crate::document::{At, Report, Section, grouped, human, quoted};
use crate::fleet::MAX_REPLICAS;
use crate::policy::{MAX_PASSES, Passes, Policy, Warmup};

/// The version of the format.
const SCHEMA: u32 = 1;

/// The most tokens a prompt or an output may have, whatever the model. The model's context is usually far below.
pub(super) const MAX_TOKENS: u32 = 10_000_000;

/// The most sequences side by side.
const MAX_BATCH: u32 = 256;

/// The most workloads in one file.
const MAX_WORKLOADS: usize = 1_000;

const DAY: Duration = Duration::from_hours(24);

const KEYS: [&str; 11] = [
    "schema",
    "name",
    "description",
    "models",
    "weights",
    "backends",
    "precisions",
    "devices",
    "policy",
    "fleet",
    "workload",
];
const POLICY_KEYS: [&str; 6] = ["repetitions", "passes", "timeout", "threads", "weights_seed", "warmup"];
const PASSES_KEYS: [&str; 4] = ["min", "max", "within", "budget"];
const WARMUP_KEYS: [&str; 5] = ["min_repetitions", "max_repetitions", "min_time", "max_time", "stable_within"];
const FLEET_KEYS: [&str; 4] = ["exclusive", "placement", "labels", "min_memory"];
const WORKLOAD_KEYS: [&str; 10] =
    ["name", "kind", "prompt_tokens", "prompt_seed", "prompt", "prompt_file", "generate", "depth", "batch", "replicas"];

/// A scenario as written. `None` is a key that is absent or was reported as wrong.
pub(super) struct ScenarioFile<'t> {
    pub(super) name: Option<At<&'t str>>,
    pub(super) description: String,
    pub(super) models: Option<Vec<At<&'t str>>>,
    pub(super) weights: Option<At<&'t str>>,
    pub(super) backends: Option<Vec<At<&'t str>>>,
    pub(super) precisions: Option<Vec<At<&'t str>>>,
    pub(super) devices: Option<Vec<At<&'t str>>>,
    /// Whether `devices` is absent, which means every device.
    pub(super) all_devices: bool,
    pub(super) policy: Policy,
    pub(super) fleet: FleetEntry<'t>,
    pub(super) workloads: Vec<WorkloadEntry<'t>>,
}

/// What is asked of the fleet, as written.
#[derive(Default)]
pub(super) struct FleetEntry<'t> {
    pub(super) exclusive: Option<At<&'t str>>,
    pub(super) placement: Option<At<&'t str>>,
    pub(super) labels: Vec<(At<&'t str>, At<String>)>,
    pub(super) min_memory: Option<u64>,
}

/// A workload as written.
pub(super) struct WorkloadEntry<'t> {
    pub(super) line: u32,
    pub(super) name: Option<At<&'t str>>,
    pub(super) kind: Option<At<&'t str>>,
    /// Lengths of the prompt: one workload for each.
    pub(super) prompt_tokens: Option<At<Vec<u32>>>,
    pub(super) prompt_seed: Option<At<u64>>,
    pub(super) prompt: Option<At<&'t str>>,
    pub(super) prompt_file: Option<At<&'t str>>,
    pub(super) generate: Option<At<u32>>,
    /// Tokens in the cache before: one workload for each.
    pub(super) depth: Option<At<Vec<u32>>>,
    /// Sequences side by side: one workload for each.
    pub(super) batch: Vec<u32>,
    /// Numbers of replicas: one workload for each.
    pub(super) replicas: Vec<u32>,
    /// Whether any key says what goes in, well-formed or not.
    pub(super) has_prompt: bool,
}

impl<'t> ScenarioFile<'t> {
    pub(super) fn read<'d>(report: &Report<'d>, tree: &'t toml::Spanned<toml::de::DeTable<'d>>) -> Self {
        let root = Section::root(report, tree, &KEYS);
        root.schema(SCHEMA);
        root.require("name", "name = \"my-scenario\"");
        root.require("models", "models = [\"tinyllama-1.1b\"]");
        root.require("backends", "backends = [\"candle\", \"llama.cpp\"]");
        root.require("precisions", "precisions = [\"f16\"]");
        Self {
            name: root.text("name"),
            description: root.label("description").map(|at| at.value).unwrap_or_default(),
            models: root.texts("models"),
            weights: root.text("weights"),
            backends: root.texts("backends"),
            precisions: root.texts("precisions"),
            devices: root.texts("devices"),
            all_devices: !root.has("devices"),
            policy: root.section("policy", &POLICY_KEYS).map(|s| policy(report, &s)).unwrap_or_default(),
            fleet: root.section("fleet", &FLEET_KEYS).map(|s| fleet(&s)).unwrap_or_default(),
            workloads: workloads(report, &root),
        }
    }
}

fn policy(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Policy {
    let default = Policy::default();
    Policy {
        repetitions: section.int32("repetitions", 1..=1_000).map_or(default.repetitions, |at| at.value),
        passes: passes(report, section).unwrap_or(default.passes),
        warmup: section.section("warmup", &WARMUP_KEYS).map(|s| warmup(report, &s)).unwrap_or_default(),
        timeout: section.duration("timeout", Duration::from_secs(1)..=DAY).map_or(default.timeout, |at| at.value),
        threads: section.int32("threads", 1..=1_024).map(|at| at.value),
        weights_seed: section.int("weights_seed", 0..=u64::MAX).map_or(default.weights_seed, |at| at.value),
        exclusive: default.exclusive,
        force: default.force,
    }
}

/// `6`, `"adaptive"`, or a table of when to stop.
fn passes(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Option<Passes> {
    if section.has_text("passes") {
        let at = section.text("passes")?;
        if at.value != "adaptive" {
            let rule = "is a number, \"adaptive\", or a table of min, max, within and budget".to_owned();
            report.value(at.line, "policy.passes", &quoted(at.value), rule, None);
        }
        return Some(Passes::ADAPTIVE);
    }
    if !section.has_table("passes") {
        return section.int32("passes", 1..=MAX_PASSES).map(|at| Passes::fixed(at.value));
    }
    let table = section.section("passes", &PASSES_KEYS)?;
    let default = Passes::ADAPTIVE;
    let passes = Passes {
        min: table.int32("min", 1..=MAX_PASSES).map_or(default.min, |at| at.value),
        max: table.int32("max", 1..=MAX_PASSES).map_or(default.max, |at| at.value),
        within: table.number("within", 0.0, 1.0).unwrap_or(default.within),
        budget: table.duration("budget", Duration::from_secs(1)..=DAY).map_or(default.budget, |at| at.value),
    };
    if passes.min > passes.max {
        let rule = format!("policy.passes: min {} > max {}", passes.min, passes.max);
        let fix = format!("set both (defaults {}, {})", default.min, default.max);
        report.rule(Some(table.line()), &table.key("max"), rule, Some(fix));
    }
    Some(passes)
}

fn warmup(report: &Report<'_>, section: &Section<'_, '_, '_>) -> Warmup {
    let default = Warmup::default();
    let warmup = Warmup {
        min_repetitions: section.int32("min_repetitions", 0..=100).map_or(default.min_repetitions, |at| at.value),
        max_repetitions: section.int32("max_repetitions", 0..=1_000).map_or(default.max_repetitions, |at| at.value),
        min_time: section.duration("min_time", Duration::ZERO..=DAY).map_or(default.min_time, |at| at.value),
        max_time: section.duration("max_time", Duration::ZERO..=DAY).map_or(default.max_time, |at| at.value),
        stable_within: section.number("stable_within", 0.0, 1.0).unwrap_or(default.stable_within),
    };
    let line = Some(section.line());
    if warmup.min_repetitions > warmup.max_repetitions {
        let (min, max) = (warmup.min_repetitions, warmup.max_repetitions);
        let rule = format!("policy.warmup: min_repetitions {min} > max_repetitions {max}");
        let fix = format!("set both (defaults {}, {})", default.min_repetitions, default.max_repetitions);
        report.rule(line, &section.key("max_repetitions"), rule, Some(fix));
    }
    if warmup.min_time > warmup.max_time {
        let (min, max) = (human(warmup.min_time), human(warmup.max_time));
        let rule = format!("policy.warmup: min_time {min} > max_time {max}");
        let fix = format!("set both (defaults {}, {})", human(default.min_time), human(default.max_time));
        report.rule(line, &section.key("max_time"), rule, Some(fix));
    }
    warmup
}

fn fleet<'t>(section: &Section<'_, 't, '_>) -> FleetEntry<'t> {
    let labels = section.open_section("labels").map(|labels| {
        let pair = |key: At<&'t str>| labels.label(key.value).map(|value| (key, value));
        labels.keys().into_iter().filter_map(pair).collect()
    });
    FleetEntry {
        exclusive: section.text("exclusive"),
        placement: section.text("placement"),
        labels: labels.unwrap_or_default(),
        min_memory: section.size("min_memory").map(|at| at.value),
    }
}

fn workloads<'t>(report: &Report<'_>, root: &Section<'_, 't, '_>) -> Vec<WorkloadEntry<'t>> {
    if !root.require("workload", "a table [[workload]]") {
        return Vec::new();
    }
    let Some(sections) = root.sections("workload", &WORKLOAD_KEYS) else { return Vec::new() };
    if sections.is_empty() || sections.len() > MAX_WORKLOADS {
        let rule =
            format!("needs 1 to {} workloads, has {}", grouped(MAX_WORKLOADS as u64), grouped(sections.len() as u64));
        report.rule(None, "workload", rule, None);
    }
    sections.iter().take(MAX_WORKLOADS).map(workload).collect()
}

fn workload<'t>(section: &Section<'_, 't, '_>) -> WorkloadEntry<'t> {
    section.require("name", "name = \"short-chat\"");
    let kind = section.text("kind");
    if kind.as_ref().is_none_or(|kind| kind.value != "prefill") {
        section.require("generate", "generate = 32");
    }
    WorkloadEntry {
        line: section.line(),
        name: section.text("name"),
        kind,
        prompt_tokens: section.numbers("prompt_tokens", 1..=MAX_TOKENS),
        prompt_seed: section.int("prompt_seed", 0..=u64::MAX),
        prompt: section.text("prompt"),
        prompt_file: section.text("prompt_file"),
        generate: section.int32("generate", 0..=MAX_TOKENS),
        depth: section.numbers("depth", 0..=MAX_TOKENS),
        batch: section.numbers("batch", 1..=MAX_BATCH).map_or_else(|| vec![1], |at| at.value),
        replicas: section.numbers("replicas", 1..=MAX_REPLICAS).map_or_else(|| vec![1], |at| at.value),
        has_prompt: ["prompt_tokens", "prompt", "prompt_file"].into_iter().any(|key| section.has(key)),
    }
}
