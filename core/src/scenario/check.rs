//! What a scenario means: names are looked up, workloads are held against models, engines against devices.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use super::file::{FleetEntry, ScenarioFile, WorkloadEntry};
use super::{DeviceSelector, MAX_PROMPTS, Scenario, ScenarioBundle};
use crate::artifact::{Precision, Weights};
use crate::backend::BackendKind;
use crate::document::{At, Report, closest, did_you_mean, grouped, quoted};
use crate::fleet::{Fleet, Placement};
use crate::id::{BuildName, ModelId, WorkloadName, name_rule, shown};
use crate::model::{self, Model};
use crate::policy::{Exclusive, Passes, Policy};
use crate::workload::{DEFAULT_PROMPT_SEED, Kind, Prompt, Workload};

/// The name of the model manifest in messages.
const MODELS_FILE: &str = "models.toml";

/// The longest name of a prompt file, in bytes.
const MAX_FILE_NAME: usize = 255;

/// The devices a person can write, the last one standing for one of a kind.
const DEVICES: [&str; 8] = ["all", "gpu", "cpu", "cuda", "metal", "directml", "vulkan", "cuda:0"];

/// The scenario, as far as it makes sense; what makes none is reported.
pub(super) fn check(report: &Report<'_>, file: &ScenarioFile<'_>, bundle: &ScenarioBundle) -> Option<Scenario> {
    let name = file.name.as_ref().and_then(|at| identifier::<WorkloadName>(report, "name", at));
    let models = models(report, file.models.as_deref().unwrap_or_default(), &bundle.models);
    let weights = bundle.weights.or(weights(report, file)).unwrap_or(Weights::Real);
    let backends = choices(
        report,
        "backends",
        "a backend",
        &BackendKind::PUBLIC.map(BackendKind::as_str),
        file.backends.as_deref(),
    );
    let precisions = choices(
        report,
        "precisions",
        "a precision",
        &Precision::ALL.map(Precision::as_str),
        file.precisions.as_deref(),
    );
    let devices = if file.all_devices {
        Some(vec![At { value: DeviceSelector::All, line: 0 }])
    } else {
        choices(report, "devices", "a device", &DEVICES, file.devices.as_deref())
    };
    if let (Some(backends), Some(devices)) = (&backends, &devices) {
        check_devices(report, backends, devices);
    }
    if let (Some(backends), Some(precisions)) = (&backends, &precisions) {
        check_precisions(report, backends, precisions);
    }
    let prompts = Prompts { report, weights, files: &bundle.prompts, bytes: Cell::new(0) };
    let workloads = workloads(report, &file.workloads, &prompts, &models);
    check_builds(report, &bundle.builds, &workloads);
    let fleet = fleet(report, &file.fleet);
    let exclusive = exclusive(report, &file.fleet);
    Some(Scenario {
        name: name?.to_string(),
        description: file.description.clone(),
        models,
        weights,
        backends: values(backends?),
        precisions: values(precisions?),
        devices: values(devices?),
        workloads,
        policy: Policy {
            exclusive,
            force: bundle.force,
            passes: passes(bundle, file.policy.passes),
            ..file.policy.clone()
        },
        builds: bundle.builds.clone(),
        fleet,
    })
}

/// Worker processes for each build, unless somebody asks for another number.
const PAIRS: u32 = 10;

/// How many worker processes measure each cell. Builds that are measured in turns are measured equally often, so a number is
/// fixed beforehand.
fn passes(bundle: &ScenarioBundle, of_file: Passes) -> Passes {
    if bundle.builds.is_empty() {
        return bundle.passes.unwrap_or(of_file);
    }
    Passes::fixed(bundle.passes.map_or(of_file.min.max(PAIRS), |passes| passes.min))
}

fn check_builds(report: &Report<'_>, builds: &[BuildName], workloads: &[Arc<Workload>]) {
    let named: Vec<&str> = builds.iter().map(BuildName::as_str).collect();
    match builds {
        [] => return,
        [base, candidate] if base != candidate => {}
        _ => {
            let rule = format!("builds of the worker in turns: two with different names, not {}", named.join(" and "));
            report.rule(None, "", rule, Some("give --worker base=FILE --worker candidate=FILE".to_owned()));
        }
    }
    if let Some(workload) = workloads.iter().find(|workload| workload.replicas > 1) {
        let rule = format!("workload {} has replicas, which can't be measured in turns by two builds", workload.name);
        report.rule(None, "", rule, Some("leave the workloads with replicas out".to_owned()));
    }
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

/// Reads an identifier that the person chooses.
fn identifier<T: FromStr>(report: &Report<'_>, key: &str, at: &At<&str>) -> Option<T> {
    let found = at.value.parse().ok();
    if found.is_none() {
        report.value(at.line, key, &quoted(at.value), name_rule(), None);
    }
    found
}

/// Reads one of a few words.
fn choice<T: FromStr>(report: &Report<'_>, key: &str, what: &str, known: &[&str], at: &At<&str>) -> Option<At<T>> {
    let found = at.value.parse().ok();
    if found.is_none() {
        let rule = format!("not {what} (known: {})", known.join(", "));
        let fix = closest(at.value, known.iter().copied()).map(did_you_mean);
        report.value(at.line, key, &quoted(at.value), rule, fix);
    }
    found.map(|value| At { value, line: at.line })
}

/// Reads a list of such words; `None` if one of them is wrong, after reporting each that is.
fn choices<T: FromStr>(
    report: &Report<'_>,
    key: &str,
    what: &str,
    known: &[&str],
    list: Option<&[At<&str>]>,
) -> Option<Vec<At<T>>> {
    let found: Vec<_> = list?.iter().map(|at| choice(report, key, what, known, at)).collect();
    found.into_iter().collect()
}

fn weights(report: &Report<'_>, file: &ScenarioFile<'_>) -> Option<Weights> {
    let known = Weights::ALL.map(Weights::as_str);
    choice(report, "weights", "a kind of weights", &known, file.weights.as_ref()?).map(|at| at.value)
}

fn exclusive(report: &Report<'_>, entry: &FleetEntry<'_>) -> Exclusive {
    let known = Exclusive::ALL.map(Exclusive::as_str);
    let choice = |at| choice(report, "fleet.exclusive", "a choice", &known, at);
    entry.exclusive.as_ref().and_then(choice).map(|at| at.value).unwrap_or_default()
}

fn fleet(report: &Report<'_>, entry: &FleetEntry<'_>) -> Fleet {
    let known = Placement::ALL.map(Placement::as_str);
    let choice = |at| choice(report, "fleet.placement", "a placement", &known, at);
    let placement = entry.placement.as_ref().and_then(choice).map(|at| at.value).unwrap_or_default();
    for (key, _) in &entry.labels {
        // Labels are named as everything that people name.
        identifier::<WorkloadName>(report, "fleet.labels", key);
    }
    let labels = entry.labels.iter().map(|(key, value)| (key.value.to_owned(), value.value.clone())).collect();
    Fleet { placement, labels, min_memory: entry.min_memory }
}

/// The models of that ids. A broken manifest is reported instead of the ids that can't be found in it.
fn models(report: &Report<'_>, ids: &[At<&str>], manifest: &str) -> Vec<Model> {
    let known = match model::parse_manifest(MODELS_FILE, manifest) {
        Ok(known) => known,
        Err(errors) => {
            report.append(errors);
            return Vec::new();
        }
    };
    ids.iter().filter_map(|at| find_model(report, at, &known)).collect()
}

fn find_model(report: &Report<'_>, at: &At<&str>, known: &[Model]) -> Option<Model> {
    let id: ModelId = identifier(report, "models", at)?;
    let found = known.iter().find(|model| model.id == id);
    if found.is_none() {
        let ids = || known.iter().map(|model| model.id.as_str());
        let rule = format!("not a model of {MODELS_FILE} (known: {})", ids().collect::<Vec<_>>().join(", "));
        report.value(at.line, "models", &quoted(at.value), rule, closest(at.value, ids()).map(did_you_mean));
    }
    found.cloned()
}

/// Reports engines that run on none of the devices, and kinds of device that none of the engines runs on. What
/// remains are combinations that a mixed fleet leaves out; the matrix says so cell by cell.
fn check_devices(report: &Report<'_>, backends: &[At<BackendKind>], devices: &[At<DeviceSelector>]) {
    let runs = |backend: BackendKind, device: DeviceSelector| backend.devices().iter().any(|kind| device.may_be(*kind));
    let supports = |backend: BackendKind| {
        let kinds: Vec<_> = backend.devices().iter().map(|kind| kind.as_str()).collect();
        format!("{backend} supports {}", kinds.join(", "))
    };
    let mut every_backend_runs = true;
    for backend in backends {
        if !devices.iter().any(|device| runs(backend.value, device.value)) {
            every_backend_runs = false;
            let wanted: Vec<_> = devices.iter().map(|device| device.value.to_string()).collect();
            let rule = format!("{}, not {}", supports(backend.value), wanted.join(", "));
            let fix = "leave it out or add a device that it supports".to_owned();
            report.value(backend.line, "backends", &quoted(backend.value.as_str()), rule, Some(fix));
        }
    }
    let unused = |device: &&At<DeviceSelector>| !backends.iter().any(|backend| runs(backend.value, device.value));
    for device in devices.iter().filter(unused).filter(|_| every_backend_runs) {
        let rule = backends.iter().map(|backend| supports(backend.value)).collect::<Vec<_>>().join("; ");
        report.value(device.line, "devices", &quoted(&device.value.to_string()), rule, None);
    }
}

fn check_precisions(report: &Report<'_>, backends: &[At<BackendKind>], precisions: &[At<Precision>]) {
    for backend in backends {
        let loads = backend.value.precisions();
        for precision in precisions.iter().filter(|precision| !loads.contains(&precision.value)) {
            let known: Vec<_> = loads.iter().map(|precision| precision.as_str()).collect();
            let rule = format!("{} loads {}", backend.value, known.join(", "));
            report.value(precision.line, "precisions", &quoted(precision.value.as_str()), rule, None);
        }
    }
}

/// The workloads that make sense. Two of one name or of the same work are reported with both places.
fn workloads(
    report: &Report<'_>,
    entries: &[WorkloadEntry<'_>],
    prompts: &Prompts<'_, '_>,
    models: &[Model],
) -> Vec<Arc<Workload>> {
    let mut names = HashMap::new();
    let mut work = HashMap::new();
    let mut workloads = Vec::new();
    for entry in entries {
        let name = entry.name.as_ref().and_then(|at| identifier::<WorkloadName>(report, "workload.name", at));
        let Some(kind) = kind(report, entry) else { continue };
        let prompt = if kind.is_decode() { Some(unprompted(entry)) } else { prompts.read(entry) };
        check_generate(report, entry, kind);
        let (Some(name), Some(prompt)) = (name, prompt) else { continue };
        if entry.generate.is_none() && !matches!(kind, Kind::Prefill { .. }) {
            continue;
        }
        let mut same = None;
        let mut said = HashSet::new();
        for workload in unfold(entry, &name, kind, &prompt) {
            let workload = match workload {
                Ok(workload) => workload,
                Err(name) => {
                    report.value(entry.line, "workload.name", &quoted(&name), name_rule(), None);
                    continue;
                }
            };
            if workload.replicas == entry.replicas.first().copied().unwrap_or(1) {
                check_lengths(report, entry, &workload, models, &mut said);
                let line = entry.name.as_ref().map_or(entry.line, |at| at.line);
                if let Some(first) = names.insert(workload.name.clone(), line) {
                    let rule = format!("named twice, first on line {first}");
                    report.value(
                        line,
                        "workload.name",
                        &quoted(workload.name.as_str()),
                        rule,
                        Some("rename one".to_owned()),
                    );
                }
            }
            same = same.or(work.insert(workload.digest(), (workload.name.clone(), entry.line)));
            workloads.push(Arc::new(workload));
        }
        if let Some((first, line)) = same {
            let rule = format!("workload '{name}' does the same work as '{first}' on line {line}");
            report.rule(Some(entry.line), "workload", rule, Some("remove one".to_owned()));
        }
    }
    workloads
}

/// The kind of a workload at depth 0, with the keys that it has and those that it must not have.
fn kind(report: &Report<'_>, entry: &WorkloadEntry<'_>) -> Option<Kind> {
    let kind = match &entry.kind {
        None => Kind::Generate,
        Some(at) => {
            let found = Kind::named(at.value, 0);
            if found.is_none() {
                let rule = format!("not a kind of workload (known: {})", Kind::NAMES.join(", "));
                let fix = closest(at.value, Kind::NAMES).map(did_you_mean);
                report.value(at.line, "workload.kind", &quoted(at.value), rule, fix);
            }
            found?
        }
    };
    let refuse = |line: Option<u32>, key: &str, why: &str| {
        if let Some(line) = line {
            let rule = format!("kind '{}' takes no {key}: {why}", kind.as_str());
            report.rule(Some(line), &format!("workload.{key}"), rule, Some("remove it".to_owned()));
        }
    };
    if kind.is_kernel() {
        let why = "forward passes are timed with made-up token ids";
        refuse(entry.prompt.as_ref().map(|at| at.line), "prompt", why);
        refuse(entry.prompt_file.as_ref().map(|at| at.line), "prompt_file", why);
    }
    match kind {
        Kind::Generate => {
            refuse(entry.depth.as_ref().map(|at| at.line), "depth", "a longer prompt does that here");
        }
        Kind::Prefill { .. } => {
            refuse(entry.generate.as_ref().map(|at| at.line), "generate", "only the prompt is timed");
        }
        Kind::Decode { .. } => {
            let why = "steps follow what depth puts into the cache";
            refuse(entry.prompt_tokens.as_ref().map(|at| at.line), "prompt_tokens", why);
        }
        Kind::ContextSweep => {
            let why = "steps begin with an empty cache";
            refuse(entry.prompt_tokens.as_ref().map(|at| at.line), "prompt_tokens", why);
            refuse(entry.depth.as_ref().map(|at| at.line), "depth", why);
        }
    }
    Some(kind)
}

/// The prompt of a workload that has none: its seed is that of the steps.
fn unprompted(entry: &WorkloadEntry<'_>) -> Prompt {
    let seed = entry.prompt_seed.as_ref().map_or(DEFAULT_PROMPT_SEED, |at| at.value);
    Prompt::Seeded { seed, tokens: 0 }
}

/// The workloads that an entry stands for, one for each value of its lists. Where a list has several, each name says which
/// it is: `pp` becomes `pp-p128` and `pp-p512`. An error is a name that has grown too long.
fn unfold<'e>(
    entry: &'e WorkloadEntry<'_>,
    name: &'e WorkloadName,
    kind: Kind,
    prompt: &'e Prompt,
) -> impl Iterator<Item = Result<Workload, String>> + 'e {
    let lengths: Vec<Option<u32>> = match (&entry.prompt_tokens, kind.is_decode()) {
        (Some(at), false) => at.value.iter().copied().map(Some).collect(),
        _ => vec![None],
    };
    let depths = entry.depth.as_ref().map_or_else(|| vec![0], |at| at.value.clone());
    let suffix = |letter: char, of: usize, value: u32| match of {
        0 | 1 => String::new(),
        _ => format!("-{letter}{value}"),
    };
    let mut points = Vec::new();
    for length in &lengths {
        for depth in &depths {
            for batch in &entry.batch {
                let marks = [
                    suffix('p', lengths.len(), length.unwrap_or(0)),
                    suffix('d', depths.len(), *depth),
                    suffix('b', entry.batch.len(), *batch),
                ];
                points
                    .extend(entry.replicas.iter().map(|replicas| (*length, *depth, *batch, *replicas, marks.concat())));
            }
        }
    }
    let generate = entry.generate.as_ref().map_or(0, |at| at.value);
    points.into_iter().map(move |(length, depth, batch, replicas, mark)| {
        let name = format!("{name}{mark}");
        let name = name.parse().map_err(|_| name)?;
        let prompt = match (prompt, length) {
            (Prompt::Seeded { seed, .. }, Some(tokens)) => Prompt::Seeded { seed: *seed, tokens },
            (Prompt::Text { text, .. }, tokens) => Prompt::Text { text: text.clone(), tokens },
            (prompt, None) => prompt.clone(),
        };
        let kind = Kind::named(kind.as_str(), depth).unwrap_or(kind);
        Ok(Workload { name, kind, prompt, generate, batch, replicas })
    })
}

/// Holds the number of generated tokens against what can be measured.
fn check_generate(report: &Report<'_>, entry: &WorkloadEntry<'_>, kind: Kind) {
    let Some(generate) = &entry.generate else { return };
    if kind == Kind::Generate && generate.value < 2 {
        let rule = "needs generate >= 2: time per output token lies between two tokens".to_owned();
        report.value(generate.line, "workload.generate", &generate.value, rule, None);
    }
    if kind.is_decode() && generate.value == 0 {
        let rule = "needs generate >= 1: the steps that are timed".to_owned();
        report.value(generate.line, "workload.generate", &generate.value, rule, None);
    }
}

/// Holds the number of tokens against what the models can take. Of several workloads of one entry the first that is too
/// long is reported, once for each model; `said` has the models that were.
fn check_lengths<'m>(
    report: &Report<'_>,
    entry: &WorkloadEntry<'_>,
    workload: &Workload,
    models: &'m [Model],
    said: &mut HashSet<&'m ModelId>,
) {
    // The length of a text without `prompt_tokens` is known only to the tokenizer; the least it can be is one token.
    let known = workload.prompt.tokens();
    let (depth, prompt, generate) = (workload.kind.depth(), known.unwrap_or(1), workload.generate);
    let parts = [
        ("depth", depth, entry.depth.is_some()),
        (if known.is_some() { "prompt_tokens" } else { "prompt of 1 or more" }, prompt, !workload.kind.is_decode()),
        ("generate", generate, entry.generate.is_some()),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(_, _, there)| *there).collect();
    let words = parts.iter().map(|(word, ..)| *word).collect::<Vec<_>>().join(" + ");
    let numbers = parts.iter().map(|(_, number, _)| number.to_string()).collect::<Vec<_>>().join(" + ");
    let lines = [
        entry.prompt_tokens.as_ref().map(|at| ("workload.prompt_tokens", at.line)),
        entry.generate.as_ref().map(|at| ("workload.generate", at.line)),
    ];
    let (key, line) = lines.into_iter().flatten().next().unwrap_or(("workload", entry.line));
    let key = if workload.kind.is_decode() { key } else { "workload.prompt_tokens" };
    let name = format!(" of '{}'", shown(workload.name.as_str()));
    for model in models {
        let (context, id) = (model.shape.context, &model.id);
        let sum = u64::from(depth) + u64::from(prompt) + u64::from(generate);
        let window = model.shape.sliding_window.filter(|&window| sum > u64::from(window));
        if sum <= u64::from(context) && window.is_none() || !said.insert(id) {
            continue;
        }
        if prompt > context {
            let rule = format!("prompt_tokens{name}: {prompt} > {context} (context of {id})");
            report.rule(Some(line), key, rule, None);
        } else if sum > u64::from(context) {
            let rule = format!("{words}{name}: {numbers} = {sum} > {context} (context of {id})");
            report.rule(Some(line), key, rule, None);
        } else if let Some(window) = window {
            let rule = format!(
                "{words}{name}: {numbers} = {sum} > {window} (sliding window of {id}): \
                 sliding window differs between backends"
            );
            let fix = format!("stay within {window} tokens or choose a model without a window");
            report.rule(Some(line), key, rule, Some(fix));
        }
    }
}

/// Where prompts come from.
struct Prompts<'a, 'd> {
    report: &'a Report<'d>,
    weights: Weights,
    files: &'a BTreeMap<String, String>,
    /// Size of all texts so far: one file named by a thousand workloads counts a thousand times.
    bytes: Cell<usize>,
}

impl Prompts<'_, '_> {
    fn read(&self, entry: &WorkloadEntry<'_>) -> Option<Prompt> {
        if let (Some(_), Some(at)) = (&entry.prompt, &entry.prompt_file) {
            let rule = "prompt and prompt_file can't both be given".to_owned();
            self.report.rule(Some(at.line), "workload.prompt_file", rule, Some("remove one".to_owned()));
            return None;
        }
        let text = match (&entry.prompt, &entry.prompt_file) {
            (Some(at), _) => self.text(at, "workload.prompt", at.value)?,
            (None, Some(at)) => self.text(at, "workload.prompt_file", self.file(at)?)?,
            (None, None) => return self.seeded(entry),
        };
        if let Some(seed) = &entry.prompt_seed {
            let rule = "prompt_seed is for prompts without a text".to_owned();
            self.report.rule(Some(seed.line), "workload.prompt_seed", rule, Some("remove it".to_owned()));
        }
        Some(Prompt::Text { text, tokens: None })
    }

    fn seeded(&self, entry: &WorkloadEntry<'_>) -> Option<Prompt> {
        if !entry.has_prompt {
            let rule = "the workload has no prompt".to_owned();
            let fix = "add prompt_tokens = 64, prompt = \"…\" or prompt_file = \"prompts/x.txt\"".to_owned();
            self.report.rule(Some(entry.line), "workload", rule, Some(fix));
        }
        let seed = entry.prompt_seed.as_ref().map_or(DEFAULT_PROMPT_SEED, |at| at.value);
        entry.prompt_tokens.as_ref().map(|_| Prompt::Seeded { seed, tokens: 0 })
    }

    /// A text that is fit to be a prompt; `at` is where it is asked for.
    fn text(&self, at: &At<&str>, key: &str, text: &str) -> Option<String> {
        if self.weights == Weights::Synthetic {
            let rule = "synthetic weights have no tokenizer".to_owned();
            let fix = "give prompt_tokens without a text, or take real weights".to_owned();
            self.report.value(at.line, key, &quoted(at.value), rule, Some(fix));
            return None;
        }
        if text.trim().is_empty() || text.contains('\0') {
            let rule = "a prompt has some text, and no NUL".to_owned();
            self.report.value(at.line, key, &quoted(at.value), rule, None);
            return None;
        }
        let before = self.bytes.get();
        self.bytes.set(before.saturating_add(text.len()));
        if self.bytes.get() > MAX_PROMPTS {
            // Said once, where the limit is passed.
            if before <= MAX_PROMPTS {
                let rule = format!("prompts of all workloads have more than {} bytes", grouped(MAX_PROMPTS as u64));
                self.report.value(at.line, key, &quoted(at.value), rule, None);
            }
            return None;
        }
        Some(text.to_owned())
    }

    fn file(&self, at: &At<&str>) -> Option<&str> {
        let found = self.files.get(at.value).map(String::as_str);
        if !is_prompt_file(at.value) {
            let rule = format!(
                "a prompt file is named relative to the scenario, with '/', without '..', in {MAX_FILE_NAME} bytes"
            );
            self.report.value(at.line, "workload.prompt_file", &quoted(at.value), rule, None);
            return None;
        }
        if found.is_none() {
            let rule = "there is no such prompt file".to_owned();
            let fix = closest(at.value, self.files.keys().map(String::as_str)).map(did_you_mean);
            self.report.value(at.line, "workload.prompt_file", &quoted(at.value), rule, fix);
        }
        found
    }
}

/// Whether a name stays within the scenario's folder on every platform.
pub(super) fn is_prompt_file(name: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..");
    name.len() <= MAX_FILE_NAME && !name.contains(['\\', ':', '\0']) && name.split('/').all(part)
}
