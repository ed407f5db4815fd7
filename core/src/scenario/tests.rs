//! What people write, rightly and wrongly, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::fleet::{Placement, labels_text};
use crate::model::BUILT_IN_MODELS;
use crate::policy::{Exclusive, Passes};
use crate::workload::{DEFAULT_PROMPT_SEED, Kind, Prompt};

const HEAD: &str = r#"schema = 1
name = "t"
models = ["tinyllama-1.1b"]
weights = "synthetic"
backends = ["candle"]
precisions = ["f16"]
"#;

const WORKLOAD: &str = r#"
[[workload]]
name = "w"
prompt_tokens = 64
generate = 32
"#;

fn bundle(text: impl Into<String>) -> ScenarioBundle {
    ScenarioBundle {
        file: "scenario.toml".to_owned(),
        text: text.into(),
        prompts: BTreeMap::new(),
        models: BUILT_IN_MODELS.to_owned(),
        weights: None,
        force: false,
        passes: None,
        builds: vec![],
    }
}

/// What is said about a text.
fn errors(text: impl Into<String>) -> String {
    parse(&bundle(text)).map_or_else(|errors| errors.to_string(), |_| "accepted".to_owned())
}

/// What is said about a good scenario in which one piece of text is replaced.
fn changed(from: &str, to: &str) -> String {
    let text = format!("{HEAD}{WORKLOAD}");
    assert!(text.contains(from), "{from}");
    errors(text.replace(from, to))
}

/// What is said about a scenario with this workload.
fn workload(lines: &str) -> String {
    errors(format!("{HEAD}[[workload]]\nname = \"w\"\n{lines}\n"))
}

#[test]
fn a_short_scenario_gets_the_defaults() {
    let scenario = parse(&bundle(format!("{HEAD}{WORKLOAD}"))).unwrap();
    assert_eq!(scenario.name, "t");
    assert_eq!(scenario.description, "");
    assert_eq!(scenario.devices, [DeviceSelector::All]);
    assert_eq!(scenario.policy, Policy::default());
    assert_eq!(scenario.workloads[0].prompt, Prompt::Seeded { seed: DEFAULT_PROMPT_SEED, tokens: 64 });
    assert_eq!(scenario.workloads[0].batch, 1);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        schema = 1
        name = "all-keys"
        description = "everything"
        models = ["mistral-7b", "tinyllama-1.1b"]
        weights = "real"
        backends = ["llama.cpp", "candle", "fake"]
        precisions = ["q4_k_m", "bf16"]
        devices = ["cpu", "cuda:1"]
        [policy]
        repetitions = 1_000
        timeout = "1h 30m"
        threads = 2
        weights_seed = 0xff
        [policy.passes]
        min = 7
        max = 9
        within = 0.02
        budget = "20m"
        [policy.warmup]
        min_repetitions = 0
        max_repetitions = 0
        min_time = "0s"
        max_time = "500ms"
        stable_within = 1
        [fleet]
        exclusive = "device"
        placement = "any"
        labels = { zone = "lab", rack = "7" }
        min_memory = "16 GiB"
        [[workload]]
        name = "inline"
        prompt = "Row!"
        prompt_tokens = 12
        generate = 2
        batch = 256
        [[workload]]
        name = "file"
        prompt_file = "prompts/a.txt"
        generate = 3
        replicas = [1, 4]
    "#;
    let prompts = BTreeMap::from([("prompts/a.txt".to_owned(), "Row, row.".to_owned())]);
    let scenario = parse(&ScenarioBundle { prompts, ..bundle(text) }).unwrap();
    assert_eq!(scenario.models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["mistral-7b", "tinyllama-1.1b"]);
    assert_eq!(scenario.weights, Weights::Real);
    assert_eq!(scenario.backends, [BackendKind::LlamaCpp, BackendKind::Candle, BackendKind::Fake]);
    assert_eq!(scenario.precisions, [Precision::Q4KM, Precision::Bf16]);
    let cuda1 = DeviceId { kind: DeviceKind::Cuda, index: 1 };
    assert_eq!(scenario.devices, [DeviceSelector::Kind(DeviceKind::Cpu), DeviceSelector::One(cuda1)]);
    let Policy { repetitions, passes, warmup, timeout, threads, weights_seed, exclusive, force } = scenario.policy;
    assert_eq!(passes, Passes { min: 7, max: 9, within: 0.02, budget: Duration::from_mins(20) });
    assert!(!force, "only the command line says so");
    assert_eq!((exclusive, scenario.fleet.placement), (Exclusive::Device, Placement::Any));
    assert_eq!(labels_text(&scenario.fleet.labels), "rack=7, zone=lab");
    assert_eq!(scenario.fleet.min_memory, Some(16 << 30));
    assert_eq!((repetitions, timeout, threads, weights_seed), (1000, Duration::from_mins(90), Some(2), 255));
    assert_eq!((warmup.min_repetitions, warmup.max_repetitions, warmup.min_time), (0, 0, Duration::ZERO));
    assert_eq!(warmup.max_time, Duration::from_millis(500));
    assert!((warmup.stable_within - 1.0).abs() < f64::EPSILON);
    assert_eq!(scenario.workloads[0].prompt, Prompt::Text { text: "Row!".to_owned(), tokens: Some(12) });
    assert_eq!((scenario.workloads[0].generate, scenario.workloads[0].batch), (2, 256));
    assert_eq!(scenario.workloads[1].prompt, Prompt::Text { text: "Row, row.".to_owned(), tokens: None });
    let replicas = |workload: &Arc<Workload>| (workload.name.to_string(), workload.replicas);
    let unfolded: Vec<_> = scenario.workloads.iter().map(replicas).collect();
    assert_eq!(unfolded, [("inline".to_owned(), 1), ("file".to_owned(), 1), ("file".to_owned(), 4)]);
}

/// The workloads of a scenario with these lines in its only entry.
fn unfolded(lines: &str) -> Vec<Workload> {
    let text = format!("{HEAD}[[workload]]\nname = \"w\"\n{lines}");
    parse(&bundle(text)).unwrap().workloads.iter().map(|workload| (**workload).clone()).collect()
}

#[test]
fn forward_passes_are_timed_at_a_depth() {
    let [pp] = &unfolded("kind = \"prefill\"\nprompt_tokens = 512\ndepth = 100")[..] else { panic!() };
    assert_eq!((pp.kind, pp.prompt.tokens(), pp.generate), (Kind::Prefill { depth: 100 }, Some(512), 0));
    let [tg] = &unfolded("kind = \"decode\"\ngenerate = 128")[..] else { panic!() };
    assert_eq!((tg.kind, tg.prompt.tokens(), tg.generate), (Kind::Decode { depth: 0 }, Some(0), 128));
    let [sweep] = &unfolded("kind = \"context-sweep\"\ngenerate = 1000")[..] else { panic!() };
    assert_eq!((sweep.kind, sweep.generate), (Kind::ContextSweep, 1000));
    assert_ne!(tg.digest(), sweep.digest());
    assert_ne!(pp.digest(), Workload { kind: Kind::Prefill { depth: 101 }, ..pp.clone() }.digest());
}

#[test]
fn lists_unfold_into_workloads_with_names_of_their_own() {
    let names = |lines: &str| unfolded(lines).iter().map(|w| w.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names("kind = \"prefill\"\nprompt_tokens = [128, 512]\nbatch = [4]"), ["w-p128", "w-p512"]);
    assert_eq!(
        names("kind = \"decode\"\ngenerate = 8\ndepth = [0, 512]\nbatch = [1, 2]"),
        ["w-d0-b1", "w-d0-b2", "w-d512-b1", "w-d512-b2"]
    );
    assert_eq!(names("prompt_tokens = 8\ngenerate = 8\nreplicas = [1, 2]"), ["w", "w"]);
    let long = "n".repeat(63);
    let said = errors(format!("{HEAD}[[workload]]\nname = \"{long}\"\nprompt_tokens = [8, 16]\ngenerate = 8"));
    assert!(said.contains("use 1 to 64 of a-z"), "{said}");
}

#[test]
fn keys_that_a_kind_has_not_are_named_with_the_reason() {
    assert_snapshot!(workload("kind = \"prefil\"\nprompt_tokens = 8\ngenerate = 8"), @r#"scenario.toml:9: workload.kind = "prefil": not a kind of workload (known: generate, prefill, decode, context-sweep); did you mean 'prefill'?"#);
    assert_snapshot!(workload("kind = \"prefill\"\nprompt = \"Row!\"\ngenerate = 8"), @r#"
        scenario.toml:10: kind 'prefill' takes no prompt: forward passes are timed with made-up token ids; remove it
        scenario.toml:10: workload.prompt = "Row!": synthetic weights have no tokenizer; give prompt_tokens without a text, or take real weights
        scenario.toml:11: kind 'prefill' takes no generate: only the prompt is timed; remove it
        "#);
    assert_snapshot!(workload("kind = \"decode\"\nprompt_tokens = 8\ngenerate = 0"), @r#"
        scenario.toml:10: kind 'decode' takes no prompt_tokens: steps follow what depth puts into the cache; remove it
        scenario.toml:11: workload.generate = 0: needs generate >= 1: the steps that are timed
        "#);
    assert_snapshot!(workload("kind = \"context-sweep\"\ndepth = 8"), @r#"
        scenario.toml:7: missing key 'workload.generate'; add generate = 32
        scenario.toml:10: kind 'context-sweep' takes no depth: steps begin with an empty cache; remove it
        "#);
    assert_snapshot!(workload("prompt_tokens = 8\ngenerate = 8\ndepth = 8"), @"scenario.toml:11: kind 'generate' takes no depth: a longer prompt does that here; remove it");
    assert_snapshot!(workload("kind = \"decode\"\ngenerate = 8\ndepth = [2048, 4096]"), @"scenario.toml:10: depth + generate of 'w-d2048': 2048 + 8 = 2056 > 2048 (context of tinyllama-1.1b)");
    assert_snapshot!(workload("kind = \"prefill\"\nprompt_tokens = 2000\ndepth = 100"), @"scenario.toml:10: depth + prompt_tokens of 'w': 100 + 2000 = 2100 > 2048 (context of tinyllama-1.1b)");
}

#[test]
fn passes_are_a_number_a_word_or_a_table() {
    let passes = |line: &str| {
        let text = format!("{HEAD}{line}\n{WORKLOAD}");
        parse(&bundle(text)).map(|scenario| scenario.policy.passes).map_err(|errors| errors.to_string())
    };
    assert_eq!(passes("policy.passes = 6"), Ok(Passes::fixed(6)));
    assert_eq!(passes("policy.passes = \"adaptive\""), Ok(Passes::ADAPTIVE));
    assert_eq!(passes("policy.passes = { max = 10 }"), Ok(Passes { max: 10, ..Passes::ADAPTIVE }));
    assert_snapshot!(passes("policy.passes = \"six\"").unwrap_err(), @r#"scenario.toml:7: policy.passes = "six": is a number, "adaptive", or a table of min, max, within and budget"#);
    assert_snapshot!(passes("policy.passes = 0").unwrap_err(), @"scenario.toml:7: policy.passes = 0: must be 1 to 1,000");
    assert_snapshot!(passes("policy.passes = { min = 40 }").unwrap_err(), @"scenario.toml:7: policy.passes: min 40 > max 30; set both (defaults 6, 30)");
}

#[test]
fn two_builds_are_measured_equally_often_and_nothing_else_makes_a_pair() {
    let with = |names: &[&str], passes: Option<Passes>, more: &str| {
        let builds = names.iter().map(|name| name.parse().unwrap()).collect();
        let text = format!("{HEAD}{more}\n{WORKLOAD}");
        let scenario = parse(&ScenarioBundle { passes, builds, ..bundle(text) });
        scenario.map(|scenario| scenario.policy.passes).map_err(|errors| errors.to_string())
    };
    let both = ["base", "candidate"];
    assert_eq!(with(&both, None, ""), Ok(Passes::fixed(10)));
    assert_eq!(with(&both, None, "policy.passes = 20"), Ok(Passes::fixed(20)));
    assert_eq!(with(&both, None, "policy.passes = \"adaptive\""), Ok(Passes::fixed(10)));
    assert_eq!(with(&both, Some(Passes::fixed(6)), ""), Ok(Passes::fixed(6)), "as asked for");
    for names in [&["base"][..], &["base", "base"], &["a", "b", "c"]] {
        let error = with(names, None, "").unwrap_err();
        assert!(error.contains("two with different names") && error.contains("--worker base=FILE"), "{error}");
    }
    let replicas = parse(&ScenarioBundle {
        builds: both.map(|name| name.parse().unwrap()).to_vec(),
        ..bundle(format!("{HEAD}{WORKLOAD}replicas = 2\n"))
    });
    assert!(replicas.unwrap_err().to_string().contains("can't be measured in turns"));
}

#[test]
fn what_is_asked_of_the_fleet_is_checked_all_at_once() {
    let fleet = "\n[fleet]\nexclusive = \"hots\"\nplacement = \"all\"\nmin_memory = \"16\"\nlable = 1\n\
                 labels = { Zone = \"lab\", rack = 7 }\n[[workload]]";
    assert_snapshot!(changed("[[workload]]", fleet), @r#"
    scenario.toml:10: fleet.exclusive = "hots": not a choice (known: host, device); did you mean 'host'?
    scenario.toml:11: fleet.placement = "all": not a placement (known: every, any)
    scenario.toml:12: fleet.min_memory = "16": is not a size above 0; write "512 MiB" or "16 GiB"
    scenario.toml:13: unknown key 'lable' (allowed: exclusive, placement, labels, min_memory); did you mean 'labels'?
    scenario.toml:14: fleet.labels.rack = 7: must be a text, is a whole number
    scenario.toml:14: fleet.labels = "Zone": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit
    "#);
    for size in ["512 MiB", "16GiB", "2 TB"] {
        assert_eq!(changed("[[workload]]", &format!("[fleet]\nmin_memory = \"{size}\"\n[[workload]]")), "accepted");
    }
    for size in ["0 GiB", "-1 GiB", "1.5 GiB", "99999999999999 TiB", "GiB"] {
        let said = changed("[[workload]]", &format!("[fleet]\nmin_memory = \"{size}\"\n[[workload]]"));
        assert!(said.contains("is not a size above 0"), "{said}");
    }
}

#[test]
fn replicas_are_a_number_or_several() {
    let said = |replicas: &str| workload(&format!("prompt_tokens = 8\ngenerate = 8\nreplicas = {replicas}"));
    assert_eq!(said("4"), "accepted");
    assert_eq!(said("[1, 2, 4, 8]"), "accepted");
    assert_snapshot!(said("0"), @"scenario.toml:11: workload.replicas = 0: must be 1 to 1,024");
    assert_snapshot!(said("[]"), @"scenario.toml:11: workload.replicas must have 1 to 100 values, has 0");
    assert_snapshot!(said("[2, 2, 2000]"), @"
    scenario.toml:11: workload.replicas = 2: named twice
    scenario.toml:11: workload.replicas = 2000: must be 1 to 1,024
    ");
    assert_snapshot!(said("[\"2\"]"), @r#"scenario.toml:11: workload.replicas = "2": must be a whole number or a list of them, is a text"#);
    let twice = "[[workload]]\nname = \"v\"\nprompt_tokens = 64\ngenerate = 32\nreplicas = [2, 1]\n";
    assert_snapshot!(errors(format!("{HEAD}{WORKLOAD}{twice}")), @"scenario.toml:12: workload 'v' does the same work as 'w' on line 8; remove one");
}

#[test]
fn unknown_keys_are_named_with_what_was_probably_meant() {
    assert_snapshot!(workload("prompt_tokens = 64\ngenerate = 32\nbacth = 2"), @"scenario.toml:11: unknown key 'bacth' (allowed: name, kind, prompt_tokens, prompt_seed, prompt, prompt_file, generate, depth, batch, replicas); did you mean 'batch'?");
    assert_snapshot!(changed("models", "modles"), @"scenario.toml:3: unknown key 'modles' (allowed: schema, name, description, models, weights, backends, precisions, devices, policy, fleet, workload); did you mean 'models'?");
    assert_snapshot!(errors(format!("{HEAD}{WORKLOAD}[policy]\nrepeat = 3\n[policy.warmup]\nmin_tiem = '1s'\n")), @"
    scenario.toml:13: unknown key 'repeat' (allowed: repetitions, passes, timeout, threads, weights_seed, warmup); did you mean 'repetitions'?
    scenario.toml:15: unknown key 'min_tiem' (allowed: min_repetitions, max_repetitions, min_time, max_time, stable_within); did you mean 'min_time'?
    ");
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    assert_snapshot!(errors(r#"
schema = 2
name = "No Spaces"
description = 7
models = ["tinylama-1.1b", "../etc/passwd", 3]
backends = ["cndle", "candle", "candle"]
precisions = []
devices = "cpu"
[policy]
repetitions = "three"
[[workload]]
name = "w"
prompt_tokens = 0
generate = 1
batch = 1000
"#), @r#"
    scenario.toml:2: schema = 2: this program reads version 1; write schema = 1
    scenario.toml:3: name = "No Spaces": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit
    scenario.toml:4: description = 7: must be a text, is a whole number
    scenario.toml:5: models = 3: must be a text, is a whole number
    scenario.toml:5: models = "tinylama-1.1b": not a model of models.toml (known: regatta-15m, smollm2-135m, tinyllama-1.1b, mistral-7b, mistral-7b-v0.1); did you mean 'tinyllama-1.1b'?
    scenario.toml:5: models = "../etc/passwd": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit
    scenario.toml:6: backends = "candle": named twice, first on line 6; remove one
    scenario.toml:6: backends = "cndle": not a backend (known: candle, llama.cpp, onnxruntime); did you mean 'candle'?
    scenario.toml:7: precisions must have 1 to 100 values, has 0
    scenario.toml:8: devices = "cpu": must be a list of texts, is a text
    scenario.toml:10: policy.repetitions = "three": must be a whole number, is a text
    scenario.toml:13: workload.prompt_tokens = 0: must be 1 to 10,000,000
    scenario.toml:14: workload.generate = 1: needs generate >= 2: time per output token lies between two tokens
    scenario.toml:15: workload.batch = 1000: must be 1 to 256
    "#);
}

#[test]
fn missing_keys_are_named() {
    assert_snapshot!(errors(""), @r#"
    scenario.toml:1: missing key 'schema'; add schema = 1
    scenario.toml:1: missing key 'name'; add name = "my-scenario"
    scenario.toml:1: missing key 'models'; add models = ["tinyllama-1.1b"]
    scenario.toml:1: missing key 'backends'; add backends = ["candle", "llama.cpp"]
    scenario.toml:1: missing key 'precisions'; add precisions = ["f16"]
    scenario.toml:1: missing key 'workload'; add a table [[workload]]
    "#);
    assert_snapshot!(errors(format!("{HEAD}[[workload]]\n")), @r#"
    scenario.toml:7: missing key 'workload.name'; add name = "short-chat"
    scenario.toml:7: missing key 'workload.generate'; add generate = 32
    scenario.toml:7: the workload has no prompt; add prompt_tokens = 64, prompt = "…" or prompt_file = "prompts/x.txt"
    "#);
    assert_snapshot!(errors(format!("workload = []\n{HEAD}")), @"scenario.toml: needs 1 to 1,000 workloads, has 0");
}

#[test]
fn a_broken_document_is_reported_as_such() {
    assert_snapshot!(errors("schema = 1\nname = \"demo\nmodels = [\"a\"\n"), @r#"
    scenario.toml:2: invalid basic string, expected `"`
    scenario.toml:3: unclosed array, expected `]`
    "#);
    assert_snapshot!(changed("schema = 1", "schema = 1\nschema = 1"), @"scenario.toml:2: duplicate key");
    assert_snapshot!(changed("schema = 1", "schema = 99"), @"scenario.toml:1: schema = 99: this program reads version 1; write schema = 1");
    assert_snapshot!(changed("schema = 1", "schema = 1.0"), @"scenario.toml:1: schema = 1.0: must be a whole number, is a number with a decimal point or exponent");
}

#[test]
fn unknown_backends_precisions_models_and_weights_are_named() {
    assert_snapshot!(changed("\"candle\"", "\"vllm\""), @r#"scenario.toml:5: backends = "vllm": not a backend (known: candle, llama.cpp, onnxruntime)"#);
    assert_snapshot!(changed("\"candle\"", "\"llamacpp\""), @r#"scenario.toml:5: backends = "llamacpp": not a backend (known: candle, llama.cpp, onnxruntime); did you mean 'llama.cpp'?"#);
    assert_snapshot!(changed("\"f16\"", "\"fp16\""), @r#"scenario.toml:6: precisions = "fp16": not a precision (known: f32, bf16, f16, q8_0, q4_1, q4_k_m); did you mean 'f16'?"#);
    assert_snapshot!(changed("\"f16\"", "\"q5_k_m\", \"F32\""), @r#"
    scenario.toml:6: precisions = "q5_k_m": not a precision (known: f32, bf16, f16, q8_0, q4_1, q4_k_m); did you mean 'q4_k_m'?
    scenario.toml:6: precisions = "F32": not a precision (known: f32, bf16, f16, q8_0, q4_1, q4_k_m); did you mean 'f32'?
    "#);
    assert_snapshot!(changed("tinyllama-1.1b", "tinyllama"), @r#"scenario.toml:3: models = "tinyllama": not a model of models.toml (known: regatta-15m, smollm2-135m, tinyllama-1.1b, mistral-7b, mistral-7b-v0.1); did you mean 'tinyllama-1.1b'?"#);
    assert_snapshot!(changed("tinyllama-1.1b", "../tinyllama"), @r#"scenario.toml:3: models = "../tinyllama": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"#);
    assert_snapshot!(changed("\"synthetic\"", "\"fake\""), @r#"scenario.toml:4: weights = "fake": not a kind of weights (known: real, synthetic)"#);
}

#[test]
fn devices_are_held_against_backends() {
    let devices = |list: &str| changed("precisions", &format!("devices = {list}\nprecisions"));
    assert_snapshot!(devices("[\"directml\"]"), @r#"scenario.toml:5: backends = "candle": candle supports cpu, cuda, metal, not directml; leave it out or add a device that it supports"#);
    assert_snapshot!(devices("[\"cpu\", \"vulkan:0\"]"), @r#"scenario.toml:6: devices = "vulkan:0": candle supports cpu, cuda, metal"#);
    assert_snapshot!(devices("[\"gpus\", \"cuda:x\", \"cpu:1\", \"cdua\"]"), @r#"
    scenario.toml:6: devices = "gpus": not a device (known: all, gpu, cpu, cuda, metal, directml, vulkan, cuda:0); did you mean 'gpu'?
    scenario.toml:6: devices = "cuda:x": not a device (known: all, gpu, cpu, cuda, metal, directml, vulkan, cuda:0); did you mean 'cuda:0'?
    scenario.toml:6: devices = "cpu:1": not a device (known: all, gpu, cpu, cuda, metal, directml, vulkan, cuda:0); did you mean 'cpu'?
    scenario.toml:6: devices = "cdua": not a device (known: all, gpu, cpu, cuda, metal, directml, vulkan, cuda:0); did you mean 'cuda'?
    "#);
    assert_snapshot!(devices("[\"cpu\", \"cpu\"]"), @r#"scenario.toml:6: devices = "cpu": named twice, first on line 6; remove one"#);
    assert_snapshot!(devices("[\"all\"]"), @"accepted");
    assert_snapshot!(changed("[\"candle\"]", "[\"candle\", \"llama.cpp\"]\ndevices = [\"vulkan\"]"), @r#"scenario.toml:5: backends = "candle": candle supports cpu, cuda, metal, not vulkan; leave it out or add a device that it supports"#);
    assert_snapshot!(changed("[\"candle\"]", "[\"candle\", \"llama.cpp\"]\ndevices = [\"vulkan\", \"cpu\"]"), @"accepted");
}

#[test]
fn numbers_out_of_range_are_shown_with_the_range() {
    let policy = |line: &str| errors(format!("{HEAD}{WORKLOAD}[policy]\n{line}\n"));
    assert_snapshot!(policy("repetitions = 0"), @"scenario.toml:13: policy.repetitions = 0: must be 1 to 1,000");
    assert_snapshot!(policy("repetitions = -3"), @"scenario.toml:13: policy.repetitions = -3: must be 1 to 1,000");
    assert_snapshot!(policy("repetitions = 1_000_000_000"), @"scenario.toml:13: policy.repetitions = 1_000_000_000: must be 1 to 1,000");
    assert_snapshot!(policy("repetitions = 1e9"), @"scenario.toml:13: policy.repetitions = 1e9: must be a whole number, is a number with a decimal point or exponent");
    assert_snapshot!(policy("repetitions = 99999999999999999999999999999999999999999999"), @"scenario.toml:13: policy.repetitions = 99999999999999999999999999999999999999999999: must be 1 to 1,000");
    assert_snapshot!(policy("threads = 0"), @"scenario.toml:13: policy.threads = 0: must be 1 to 1,024");
    assert_snapshot!(policy("timeout = \"25h\""), @r#"scenario.toml:13: policy.timeout = "25h": must be 1s to 24h"#);
    assert_snapshot!(policy("timeout = \"10 parsecs\""), @r#"scenario.toml:13: policy.timeout = "10 parsecs": is not a duration; write "500ms", "90s", "10m" or "2h""#);
    assert_snapshot!(policy("timeout = \"-5m\""), @r#"scenario.toml:13: policy.timeout = "-5m": must be 1s to 24h"#);
    assert_snapshot!(policy("timeout = 600"), @r#"scenario.toml:13: policy.timeout = 600: must be a duration such as "90s", is a whole number"#);
    assert_snapshot!(policy("warmup.stable_within = nan"), @"scenario.toml:13: policy.warmup.stable_within = nan: must be above 0 and at most 1");
    assert_snapshot!(policy("warmup.stable_within = 0"), @"scenario.toml:13: policy.warmup.stable_within = 0: must be above 0 and at most 1");
    assert_snapshot!(policy("warmup.min_repetitions = 50"), @"scenario.toml:13: policy.warmup: min_repetitions 50 > max_repetitions 20; set both (defaults 4, 20)");
    assert_snapshot!(policy("warmup.min_time = \"3m\""), @"scenario.toml:13: policy.warmup: min_time 3m > max_time 1m; set both (defaults 3s, 1m)");
    assert_snapshot!(policy("warmup = true"), @"scenario.toml:13: policy.warmup = true: must be a table, [policy.warmup], is true or false");
}

#[test]
fn lengths_are_held_against_the_context() {
    assert_snapshot!(workload("prompt_tokens = 2050\ngenerate = 32"), @"scenario.toml:9: prompt_tokens of 'w': 2050 > 2048 (context of tinyllama-1.1b)");
    assert_snapshot!(workload("prompt_tokens = 2000\ngenerate = 100"), @"scenario.toml:9: prompt_tokens + generate of 'w': 2000 + 100 = 2100 > 2048 (context of tinyllama-1.1b)");
    assert_snapshot!(workload("prompt_tokens = 1948\ngenerate = 100"), @"accepted");
    assert_snapshot!(workload("prompt_tokens = 64\ngenerate = 1"), @"scenario.toml:10: workload.generate = 1: needs generate >= 2: time per output token lies between two tokens");
    assert_snapshot!(workload("prompt_tokens = 64\ngenerate = 4_000_000_000"), @"scenario.toml:10: workload.generate = 4_000_000_000: must be 0 to 10,000,000");
}

#[test]
fn lengths_are_held_against_the_sliding_window() {
    let mistral = |tokens: u32| {
        let head = HEAD.replace("tinyllama-1.1b", "mistral-7b-v0.1");
        errors(format!("{head}[[workload]]\nname = \"w\"\nprompt_tokens = {tokens}\ngenerate = 96\n"))
    };
    assert_snapshot!(mistral(4000), @"accepted");
    assert_snapshot!(mistral(4001), @"scenario.toml:9: prompt_tokens + generate of 'w': 4001 + 96 = 4097 > 4096 (sliding window of mistral-7b-v0.1): sliding window differs between backends; stay within 4096 tokens or choose a model without a window");
    assert_snapshot!(mistral(32768), @"scenario.toml:9: prompt_tokens + generate of 'w': 32768 + 96 = 32864 > 32768 (context of mistral-7b-v0.1)");
}

#[test]
fn duplicates_are_shown_with_both_places() {
    let second = |name: &str, tokens: u32| {
        errors(format!("{HEAD}{WORKLOAD}[[workload]]\nname = \"{name}\"\nprompt_tokens = {tokens}\ngenerate = 32\n"))
    };
    assert_snapshot!(second("w", 65), @r#"scenario.toml:13: workload.name = "w": named twice, first on line 9; rename one"#);
    assert_snapshot!(second("v", 64), @"scenario.toml:12: workload 'v' does the same work as 'w' on line 8; remove one");
    assert_snapshot!(second("w", 64), @r#"
    scenario.toml:12: workload 'w' does the same work as 'w' on line 8; remove one
    scenario.toml:13: workload.name = "w": named twice, first on line 9; rename one
    "#);
    assert_snapshot!(second("v", 65), @"accepted");
    assert_snapshot!(changed("[\"tinyllama-1.1b\"]", "[\n\"tinyllama-1.1b\",\n\"tinyllama-1.1b\"\n]"), @r#"scenario.toml:5: models = "tinyllama-1.1b": named twice, first on line 4; remove one"#);
    assert_snapshot!(changed("[\"f16\"]", "[\"f16\", \"f32\", \"f16\"]"), @r#"scenario.toml:6: precisions = "f16": named twice, first on line 6; remove one"#);
}

#[test]
fn a_workload_has_exactly_one_prompt() {
    let real = |lines: &str| {
        let head = HEAD.replace("synthetic", "real");
        errors(format!("{head}[[workload]]\nname = \"w\"\ngenerate = 32\n{lines}\n"))
    };
    assert_snapshot!(real(""), @r#"scenario.toml:7: the workload has no prompt; add prompt_tokens = 64, prompt = "…" or prompt_file = "prompts/x.txt""#);
    assert_snapshot!(real("prompt = \"a\"\nprompt_file = \"b.txt\""), @"scenario.toml:11: prompt and prompt_file can't both be given; remove one");
    assert_snapshot!(real("prompt = \"a\"\nprompt_seed = 1"), @"scenario.toml:11: prompt_seed is for prompts without a text; remove it");
    assert_snapshot!(real("prompt = \" \""), @r#"scenario.toml:10: workload.prompt = " ": a prompt has some text, and no NUL"#);
    assert_snapshot!(real("prompt = \"a\\u0000b\""), @r#"scenario.toml:10: workload.prompt = "a�b": a prompt has some text, and no NUL"#);
    assert_snapshot!(real("prompt = \"a\""), @"accepted");
}

#[test]
fn prompt_files_stay_in_the_scenarios_folder() {
    for name in ["../a.txt", "/etc/passwd", "a/../../b", "a\\\\b", "C:/a", "", "a//b", "./a"] {
        let said = workload(&format!("prompt_file = \"{name}\"\ngenerate = 2"));
        let text =
            format!("{}[[workload]]\nname = \"w\"\nprompt_file = \"{name}\"\n", HEAD.replace("synthetic", "real"));
        assert!(said.contains("a prompt file is named relative"), "{name}: {said}");
        assert!(prompt_files(&text).is_empty(), "{name}");
    }
    let prompts = BTreeMap::from([("prompts/long.txt".to_owned(), "Row.".to_owned())]);
    let text = format!("{HEAD}[[workload]]\nname = \"w\"\nprompt_file = \"prompts/lang.txt\"\ngenerate = 2\n");
    let real = ScenarioBundle { prompts, weights: Some(Weights::Real), ..bundle(text) };
    assert_snapshot!(parse(&real).unwrap_err(), @r#"scenario.toml:9: workload.prompt_file = "prompts/lang.txt": there is no such prompt file; did you mean 'prompts/long.txt'?"#);
}

#[test]
fn made_up_weights_take_no_text() {
    assert_snapshot!(workload("prompt = \"Hello\"\ngenerate = 32"), @r#"scenario.toml:9: workload.prompt = "Hello": synthetic weights have no tokenizer; give prompt_tokens without a text, or take real weights"#);
    let text = format!("{HEAD}[[workload]]\nname = \"w\"\nprompt = \"Hello\"\ngenerate = 32\n");
    let real = ScenarioBundle { weights: Some(Weights::Real), ..bundle(text.as_str()) };
    assert_eq!(parse(&real).unwrap().weights, Weights::Real);
    let synthetic = ScenarioBundle { weights: Some(Weights::Synthetic), ..bundle(text.replace("synthetic", "real")) };
    assert_snapshot!(parse(&synthetic).unwrap_err(), @r#"scenario.toml:9: workload.prompt = "Hello": synthetic weights have no tokenizer; give prompt_tokens without a text, or take real weights"#);
}

#[test]
fn hostile_texts_are_refused() {
    assert_snapshot!(changed("\"t\"", "\"<script>alert(1)</script>\""), @r#"scenario.toml:2: name = "<script>alert(1)</script>": use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit"#);
    assert_snapshot!(changed("schema = 1", "schema = 1\ndescription = \"a\\u202eb\""), @r#"scenario.toml:2: description = "a�b": must have no control characters and no marks that reverse the direction of text"#);
    assert_snapshot!(changed("schema = 1", &format!("schema = 1\ndescription = \"{}\"", "x".repeat(5000))), @r#"scenario.toml:2: description = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…": must have at most 128 characters, has 5,000"#);
    assert_snapshot!(errors("\0"), @"scenario.toml: has a NUL byte: this is not a text file");
    assert_snapshot!(errors(" ".repeat(1 << 21)), @"scenario.toml: has 2,097,152 bytes: at most 1,048,576 are read");
    let said = changed("schema = 1", "schema = 1\n\"a\\u202e\\u001b[31m\" = 1\n");
    assert!(!said.chars().any(|c| crate::id::is_unprintable(c) && c != '\n'), "{said:?}");
}

#[test]
fn prompts_have_a_limit_together() {
    let text = HEAD.replace("synthetic", "real")
        + "[[workload]]\nname = \"a\"\ngenerate = 2\nprompt_file = \"a\"\n"
        + "[[workload]]\nname = \"b\"\ngenerate = 3\nprompt_file = \"a\"\n"
        + "[[workload]]\nname = \"c\"\ngenerate = 4\nprompt_file = \"a\"\n";
    let prompts = |bytes: usize| BTreeMap::from([("a".to_owned(), "x".repeat(bytes))]);
    let with = |bytes: usize| parse(&ScenarioBundle { prompts: prompts(bytes), ..bundle(text.as_str()) });
    assert!(with(1000).is_ok());
    assert_snapshot!(with(MAX_PROMPTS / 2 + 1).unwrap_err(), @r#"scenario.toml:14: workload.prompt_file = "a": prompts of all workloads have more than 4,194,304 bytes"#);
    assert_snapshot!(with(MAX_PROMPTS + 1).unwrap_err().0[0], @"scenario.toml: prompt files have 4,194,305 bytes together: at most 4,194,304 are read");
}

#[test]
fn a_file_full_of_errors_is_cut_in_the_message_only() {
    use std::fmt::Write as _;
    let mut text = format!("{HEAD}{WORKLOAD}");
    for i in 0..20_000 {
        writeln!(text, "k{i} = 1").unwrap();
    }
    let errors = parse(&bundle(text)).unwrap_err();
    assert_eq!(errors.0.len(), 20_000);
    assert_eq!(errors.to_string().lines().count(), 51);
    assert!(errors.to_string().ends_with("… and 19950 more"));
}

#[test]
fn a_broken_manifest_is_reported_under_its_own_name() {
    let broken = ScenarioBundle { models: "schema = 1\nmodel = 3\n".to_owned(), ..bundle(format!("{HEAD}{WORKLOAD}")) };
    assert_snapshot!(parse(&broken).unwrap_err(), @"models.toml:2: model = 3: must be a table, [model], is a whole number");
}

#[test]
fn nested_documents_and_long_keys_do_no_harm() {
    for text in ["[".repeat(100_000), format!("{} = 1", vec!["a"; 100_000].join(".")), "x = {".repeat(10_000)] {
        assert!(parse(&bundle(text.as_str())).is_err());
        assert!(prompt_files(&text).is_empty());
    }
}

#[test]
fn prompt_files_are_found_even_in_a_broken_text() {
    let text = "[[workload]]\nprompt_file = \"b.txt\"\nbatch = \n[[workload]]\nprompt_file = \"a/a.txt\"\n[[workload]]\nprompt_file = \"b.txt\"\n";
    assert_eq!(prompt_files(text), ["a/a.txt", "b.txt"]);
    assert_eq!(prompt_files("workload = 3"), Vec::<String>::new());
}

#[test]
fn device_selectors_are_read_back() {
    for text in ["all", "gpu", "cpu", "cuda", "cuda:1", "metal", "directml:0", "vulkan"] {
        assert_eq!(text.parse::<DeviceSelector>().unwrap().to_string(), text);
    }
}

#[test]
fn a_gpu_is_every_device_but_a_processor() {
    let gpu: DeviceSelector = "gpu".parse().unwrap();
    for (device, is_one) in
        [("cpu", false), ("cuda:0", true), ("metal:0", true), ("directml:1", true), ("vulkan:0", true)]
    {
        assert_eq!(gpu.matches(device.parse().unwrap()), is_one, "{device}");
    }
}

fn scenarios_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

/// The scenario of that file name, with its prompts, as the command line would load it.
fn load(path: &Path) -> ScenarioBundle {
    let text = fs::read_to_string(path).unwrap();
    let folder = path.parent().unwrap();
    let read = |name: String| (name.clone(), fs::read_to_string(folder.join(name)).unwrap());
    let prompts = prompt_files(&text).into_iter().map(read).collect();
    let file = path.file_name().unwrap().to_str().unwrap().to_owned();
    ScenarioBundle { file, prompts, ..bundle(text) }
}

#[test]
fn every_scenario_that_comes_with_regatta_is_valid() {
    let mut names = Vec::new();
    for entry in fs::read_dir(scenarios_folder()).unwrap() {
        let path = entry.unwrap().path();
        let is_scenario = path.extension().is_some_and(|e| e == "toml") && path.file_name().unwrap() != "models.toml";
        if is_scenario {
            let scenario = parse(&load(&path)).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(Some(scenario.name.as_str()), path.file_stem().unwrap().to_str());
            names.push(scenario.name);
        }
    }
    for name in ["demo", "smollm2", "tinyllama", "mistral"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing");
    }
}

#[test]
fn tinyllama_is_two_backends_by_four_workloads_by_three_repetitions() {
    let scenario = parse(&load(&scenarios_folder().join("tinyllama.toml"))).unwrap();
    assert_eq!((scenario.backends.len(), scenario.workloads.len(), scenario.precisions.len()), (2, 4, 1));
    assert_eq!(scenario.policy.repetitions, 3);
}

/// Lines that are good, and lines that are nearly good.
const PIECES: [&str; 24] = [
    "schema = 1",
    "name = \"t\"",
    "models = [\"tinyllama-1.1b\"]",
    "models = [\"mistral-7b-v0.1\", 3]",
    "weights = \"real\"",
    "backends = [\"candle\", \"fake\"]",
    "backends = []",
    "precisions = [\"f16\", \"f16\"]",
    "devices = [\"cuda:1\", \"all\"]",
    "[policy]",
    "[policy.warmup]",
    "policy = 1",
    "min_time = \"1s\"",
    "max_repetitions = -0x1",
    "stable_within = 1e400",
    "timeout = \"\"",
    "[[workload]]",
    "[workload]",
    "workload = [1, {}]",
    "prompt = \"\"\"a",
    "prompt_file = \"é/\\u202e\"",
    "prompt_tokens = 18446744073709551616",
    "generate = 2",
    "batch = 1979-05-27",
];

proptest! {
    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        prompt_files(&text);
        prop_assert!(parse(&bundle(text)).is_err());
    }

    #[test]
    fn shuffled_lines_do_not_panic(lines in prop::collection::vec(prop::sample::select(&PIECES), 0..30)) {
        let text = lines.join("\n");
        prompt_files(&text);
        if let Err(errors) = parse(&bundle(text)) {
            prop_assert!(!errors.0.is_empty());
        }
    }

    #[test]
    fn damaged_scenarios_do_not_panic(at in 0usize..300, length in 0usize..20, insert in any::<String>()) {
        let mut text: Vec<char> = format!("{HEAD}{WORKLOAD}").chars().collect();
        let start = at.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, insert.chars());
        let text: String = text.into_iter().collect();
        prompt_files(&text);
        if let Err(errors) = parse(&bundle(text)) {
            prop_assert!(!errors.0.is_empty());
        }
    }

    #[test]
    fn what_is_written_is_what_is_read(
        repetitions in 1u32..=1000,
        timeout in 1u64..=86_400,
        threads in prop::option::of(1u32..=1024),
        seed in any::<u64>(),
        tokens in prop::collection::btree_set(1u32..=1024, 1..6),
        generate in 2u32..=1024,
        batch in 1u32..=256,
    ) {
        use std::fmt::Write as _;
        let mut text = format!("{HEAD}[policy]\nrepetitions = {repetitions}\ntimeout = \"{timeout}s\"\nweights_seed = {seed}\n");
        if let Some(threads) = threads {
            writeln!(text, "threads = {threads}").unwrap();
        }
        for n in &tokens {
            writeln!(text, "[[workload]]\nname = \"w{n}\"\nprompt_tokens = {n}\nprompt_seed = {seed}\ngenerate = {generate}\nbatch = {batch}").unwrap();
        }
        let scenario = parse(&bundle(text)).unwrap();
        let Policy { repetitions: r, timeout: t, threads: th, weights_seed: s, .. } = scenario.policy;
        prop_assert_eq!((r, t, th, s), (repetitions, Duration::from_secs(timeout), threads, seed));
        let expected: Vec<_> = tokens.iter().map(|&tokens| (Prompt::Seeded { seed, tokens }, generate, batch)).collect();
        let read: Vec<_> = scenario.workloads.iter().map(|w| (w.prompt.clone(), w.generate, w.batch)).collect();
        prop_assert_eq!(read, expected);
    }
}
