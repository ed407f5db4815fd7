//! How scenarios unfold, and what is said where they can't.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::device::{DeviceFacts, DeviceKind};
use crate::fleet::{Fleet, Placement};
use crate::model::{BUILT_IN_MODELS, parse_manifest};
use crate::policy::Policy;
use crate::workload::{Kind, Prompt, Workload};

fn device(agent: &str, id: &str, backends: &[BackendKind]) -> Device {
    Device {
        agent: agent.parse().unwrap(),
        id: id.parse().unwrap(),
        name: "a device".to_owned(),
        memory_bytes: None,
        cores: None,
        backends: backends.to_vec(),
        facts: DeviceFacts::default(),
    }
}

fn workloads(count: u32) -> Vec<Arc<Workload>> {
    let workload = |i: u32| Workload {
        kind: Kind::Generate,
        name: format!("w{i}").parse().unwrap(),
        prompt: Prompt::Seeded { seed: 1, tokens: i + 1 },
        generate: 2,
        batch: 1,
        replicas: 1,
    };
    (0..count).map(|i| Arc::new(workload(i))).collect()
}

/// Models of one shape, so that there can be any number of them.
fn models(count: usize) -> Vec<Model> {
    let built_in = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    (0..count).map(|i| Model { id: format!("m{i}").parse().unwrap(), ..built_in[0].clone() }).collect()
}

/// Two engines, of which one reads two formats.
const BOTH: [BackendKind; 2] = [BackendKind::Candle, BackendKind::LlamaCpp];

fn scenario(selectors: &[&str]) -> Scenario {
    Scenario {
        name: "t".to_owned(),
        description: String::new(),
        models: models(1),
        weights: Weights::Synthetic,
        backends: BOTH.to_vec(),
        precisions: vec![Precision::F16, Precision::Q4KM],
        devices: selectors.iter().map(|text| text.parse().unwrap()).collect(),
        workloads: workloads(2),
        policy: Policy::default(),
        builds: vec![],
        fleet: Fleet::default(),
    }
}

/// The matrix as `regatta plan` might show it.
fn shown(matrix: &Matrix) -> String {
    let line = |planned: &PlannedCell| {
        let PlannedCell { cell, plan, .. } = planned;
        let plan = match plan {
            CellPlan::Run { trial } => format!("trial {trial}"),
            CellPlan::Skip { reason } => format!("skip: {reason}"),
        };
        format!("{}/{} {} {} {}: {plan}", cell.agent, cell.device, cell.backend, cell.artifact, cell.workload.name)
    };
    matrix.cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_order_is_device_model_backend_precision_workload() {
    let devices = [device("a", "cpu", &BOTH), device("a", "vulkan:0", &[BackendKind::LlamaCpp])];
    let matrix = expand(&scenario(&["all"]), &devices);
    assert_snapshot!(shown(&matrix), @"
    a/cpu candle m0 safetensors f16 (synthetic) w0: trial 0
    a/cpu candle m0 safetensors f16 (synthetic) w1: trial 0
    a/cpu candle m0 gguf q4_k_m (synthetic) w0: trial 1
    a/cpu candle m0 gguf q4_k_m (synthetic) w1: trial 1
    a/cpu llama.cpp m0 gguf f16 (synthetic) w0: trial 2
    a/cpu llama.cpp m0 gguf f16 (synthetic) w1: trial 2
    a/cpu llama.cpp m0 gguf q4_k_m (synthetic) w0: trial 3
    a/cpu llama.cpp m0 gguf q4_k_m (synthetic) w1: trial 3
    a/vulkan:0 candle m0 safetensors f16 (synthetic) w0: skip: candle supports cpu, cuda, metal, not vulkan
    a/vulkan:0 candle m0 safetensors f16 (synthetic) w1: skip: candle supports cpu, cuda, metal, not vulkan
    a/vulkan:0 candle m0 gguf q4_k_m (synthetic) w0: skip: candle supports cpu, cuda, metal, not vulkan
    a/vulkan:0 candle m0 gguf q4_k_m (synthetic) w1: skip: candle supports cpu, cuda, metal, not vulkan
    a/vulkan:0 llama.cpp m0 gguf f16 (synthetic) w0: trial 4
    a/vulkan:0 llama.cpp m0 gguf f16 (synthetic) w1: trial 4
    a/vulkan:0 llama.cpp m0 gguf q4_k_m (synthetic) w0: trial 5
    a/vulkan:0 llama.cpp m0 gguf q4_k_m (synthetic) w1: trial 5
    ");
    assert_eq!(matrix.trials.len(), 6);
    assert_eq!(matrix.trials[5].cells, 14..16);
}

#[test]
fn what_an_agent_has_no_worker_for_is_skipped() {
    let matrix = expand(
        &Scenario { workloads: workloads(1), ..scenario(&["cpu"]) },
        &[device("a", "cpu", &[BackendKind::Candle])],
    );
    assert_snapshot!(shown(&matrix), @"
    a/cpu candle m0 safetensors f16 (synthetic) w0: trial 0
    a/cpu candle m0 gguf q4_k_m (synthetic) w0: trial 1
    a/cpu llama.cpp m0 gguf f16 (synthetic) w0: skip: agent a has no worker for llama.cpp on cpu
    a/cpu llama.cpp m0 gguf q4_k_m (synthetic) w0: skip: agent a has no worker for llama.cpp on cpu
    ");
}

#[test]
fn onnxruntime_runs_its_own_format_and_says_how_its_library_is_got() {
    let scenario = Scenario { workloads: workloads(1), backends: vec![BackendKind::OnnxRuntime], ..scenario(&["all"]) };
    let devices = [
        device("a", "cpu", &[BackendKind::OnnxRuntime]),
        device("b", "directml:0", &[BackendKind::Candle]),
        device("c", "vulkan:0", &[]),
    ];
    assert_snapshot!(shown(&expand(&scenario, &devices)), @"
    a/cpu onnxruntime m0 onnx f16 (synthetic) w0: trial 0
    a/cpu onnxruntime m0 onnx q4_k_m (synthetic) w0: skip: onnxruntime loads f32, f16, not q4_k_m
    b/directml:0 onnxruntime m0 onnx f16 (synthetic) w0: skip: agent b has no worker for onnxruntime on directml:0 (fix: put ONNX Runtime's library beside the worker, or name it in REGATTA_ONNXRUNTIME; 'regatta devices' says where it was looked for)
    b/directml:0 onnxruntime m0 onnx q4_k_m (synthetic) w0: skip: onnxruntime loads f32, f16, not q4_k_m
    c/vulkan:0 onnxruntime m0 onnx f16 (synthetic) w0: skip: onnxruntime supports cpu, cuda, metal, directml, not vulkan
    c/vulkan:0 onnxruntime m0 onnx q4_k_m (synthetic) w0: skip: onnxruntime supports cpu, cuda, metal, directml, not vulkan
    ");
}

#[test]
fn made_up_weights_that_fit_no_block_are_skipped() {
    let mut narrow = scenario(&["cpu"]);
    narrow.models[0].shape.hidden = 576;
    narrow.workloads = workloads(1);
    let devices = [device("a", "cpu", &BOTH)];
    assert_snapshot!(shown(&expand(&narrow, &devices)), @"
    a/cpu candle m0 safetensors f16 (synthetic) w0: trial 0
    a/cpu candle m0 gguf q4_k_m (synthetic) w0: skip: q4_k_m needs rows of a multiple of 256, m0 has 576
    a/cpu llama.cpp m0 gguf f16 (synthetic) w0: trial 1
    a/cpu llama.cpp m0 gguf q4_k_m (synthetic) w0: skip: q4_k_m needs rows of a multiple of 256, m0 has 576
    ");
    let real = Scenario { weights: Weights::Real, ..narrow };
    assert_eq!(expand(&real, &devices).trials.len(), 4);
}

#[test]
fn a_batch_that_an_engine_refuses_is_skipped_and_the_rest_of_its_trial_is_not() {
    let mut batches = scenario(&["cpu"]);
    batches.workloads = workloads(2);
    batches.workloads[0] = Arc::new(Workload { batch: 4, ..(*batches.workloads[0]).clone() });
    let devices = [device("a", "cpu", &[BackendKind::Candle])];
    assert_snapshot!(shown(&expand(&Scenario { backends: vec![BackendKind::Candle], ..batches }, &devices)), @"
    a/cpu candle m0 safetensors f16 (synthetic) w0: trial 0
    a/cpu candle m0 safetensors f16 (synthetic) w1: trial 0
    a/cpu candle m0 gguf q4_k_m (synthetic) w1: trial 1
    a/cpu candle m0 gguf q4_k_m (synthetic) w0: skip: candle takes one sequence at a time with q4_k_m weights; the batch is 4
    ");
}

#[test]
fn only_the_devices_asked_for_have_cells() {
    let both = &BOTH;
    let devices = [
        device("a", "cuda:0", both),
        device("a", "cuda:1", both),
        device("b", "cuda:1", both),
        device("b", "cpu", both),
    ];
    let used = |selectors: &[&str]| {
        let matrix = expand(&scenario(selectors), &devices);
        let mut used: Vec<_> = matrix.trials.iter().map(|trial| format!("{}/{}", trial.agent, trial.device)).collect();
        used.dedup();
        used.join(" ")
    };
    assert_eq!(used(&["all"]), "a/cuda:0 a/cuda:1 b/cuda:1 b/cpu");
    assert_eq!(used(&["cuda"]), "a/cuda:0 a/cuda:1 b/cuda:1");
    assert_eq!(used(&["cuda:1"]), "a/cuda:1 b/cuda:1");
    assert_eq!(used(&["cpu", "cuda:0"]), "a/cuda:0 b/cpu");
    assert_eq!(used(&["cuda:1", "cuda", "all"]), "a/cuda:0 a/cuda:1 b/cuda:1 b/cpu");
}

#[test]
fn a_device_that_is_reported_twice_has_its_cells_once() {
    let cpu = device("a", "cpu", &BOTH);
    assert_eq!(expand(&scenario(&["all"]), &[cpu.clone(), cpu.clone()]), expand(&scenario(&["all"]), &[cpu]));
}

/// As [`shown`], with replicas, the pool and the group.
fn shown_fleet(matrix: &Matrix) -> String {
    let line = |trial: &PlannedTrial| {
        let cells: Vec<_> = matrix.cells[trial.cells.clone()]
            .iter()
            .map(|c| format!("{}x{}#{}", c.cell.workload.name, c.cell.workload.replicas, c.cell.replica))
            .collect();
        let pool = trial.pool.as_ref().map(|pool| format!(" of {}", list(pool))).unwrap_or_default();
        let group = trial.group.map(|g| format!(" group {} {}/{}", g.first, g.replica, g.replicas)).unwrap_or_default();
        format!("{}/{}{pool}{group}: {}", trial.agent, trial.device, cells.join(" "))
    };
    let skipped = matrix.cells.iter().filter_map(|planned| match &planned.plan {
        CellPlan::Skip { reason } => {
            let Cell { agent, device, workload, replica, .. } = &planned.cell;
            Some(format!("{agent}/{device} {}x{}#{replica}: skip: {reason}", workload.name, workload.replicas))
        }
        CellPlan::Run { .. } => None,
    });
    matrix.trials.iter().map(line).chain(skipped).collect::<Vec<_>>().join("\n")
}

fn gpu(agent: &str, id: &str, name: &str) -> Device {
    Device { name: name.to_owned(), memory_bytes: Some(80 << 30), ..device(agent, id, &[BackendKind::LlamaCpp]) }
}

/// One model, backend and precision; a workload for each number of replicas.
fn scaling(placement: Placement, replicas: &[u32]) -> Scenario {
    let workload = |&replicas: &u32| Arc::new(Workload { replicas, ..(*workloads(1)[0]).clone() });
    Scenario {
        backends: vec![BackendKind::LlamaCpp],
        precisions: vec![Precision::F16],
        workloads: replicas.iter().map(workload).collect(),
        fleet: Fleet { placement, ..Fleet::default() },
        ..scenario(&["all"])
    }
}

#[test]
fn devices_of_a_class_stand_for_each_other_where_any_will_do() {
    let devices = [
        gpu("a", "cuda:0", "X"),
        gpu("a", "cuda:1", "Y"),
        gpu("b", "cuda:0", "X"),
        Device { backends: Vec::new(), ..gpu("c", "cuda:0", "X") },
    ];
    let scenario = scaling(Placement::Any, &[1]);
    let matrix = expand(&scenario, &devices);
    assert_snapshot!(shown_fleet(&matrix), @"
    a/cuda:0 of a/cuda:0, b/cuda:0: w0x1#0
    a/cuda:1 of a/cuda:1: w0x1#0
    ");
    assert_eq!(matrix.cells.len(), count(&scenario, &devices));
    // The cell is the same whoever is there to measure it.
    let elsewhere = expand(&scenario, &devices[2..3]);
    assert_eq!(elsewhere.cells[0].hash, matrix.cells[0].hash);
    assert_ne!(matrix.cells[0].hash, matrix.cells[1].hash);
    assert_ne!(matrix.cells[0].hash, matrix.cells[0].cell.hash(), "a device's own cell is another one");
    assert_eq!(elsewhere.trials[0].work, matrix.trials[0].work);
    let without = expand(&scenario, &[Device { backends: Vec::new(), ..devices[0].clone() }, devices[3].clone()]);
    assert_snapshot!(shown_fleet(&without), @"a/cuda:0 w0x1#0: skip: no agent has a worker for llama.cpp on cuda X, 80 GiB");
}

#[test]
fn replicas_are_a_group_of_trials_on_devices_of_a_kind() {
    let devices = [
        gpu("a", "cuda:0", "X"),
        gpu("b", "cuda:0", "X"),
        gpu("b", "cuda:1", "X"),
        gpu("b", "cuda:2", "Y"),
        gpu("c", "cuda:0", "X"),
    ];
    let scenario = scaling(Placement::Every, &[1, 2, 3, 8]);
    let matrix = expand(&scenario, &devices);
    assert_snapshot!(shown_fleet(&matrix), @"
    a/cuda:0: w0x1#0
    b/cuda:0: w0x1#0
    b/cuda:1: w0x1#0
    b/cuda:2: w0x1#0
    c/cuda:0: w0x1#0
    b/cuda:0 group 5 0/2: w0x2#0
    b/cuda:1 group 5 1/2: w0x2#1
    a/cuda:0 group 7 0/3: w0x3#0
    b/cuda:0 group 7 1/3: w0x3#1
    b/cuda:1 group 7 2/3: w0x3#2
    a/cuda:0 w0x8#0: skip: needs 8 devices of a kind, 4 are there
    b/cuda:0 w0x8#1: skip: needs 8 devices of a kind, 4 are there
    b/cuda:1 w0x8#2: skip: needs 8 devices of a kind, 4 are there
    c/cuda:0 w0x8#3: skip: needs 8 devices of a kind, 4 are there
    a/cuda:0 w0x8#4: skip: needs 8 devices of a kind, 4 are there
    b/cuda:0 w0x8#5: skip: needs 8 devices of a kind, 4 are there
    b/cuda:1 w0x8#6: skip: needs 8 devices of a kind, 4 are there
    c/cuda:0 w0x8#7: skip: needs 8 devices of a kind, 4 are there
    b/cuda:2 w0x2#0: skip: needs 2 devices of a kind, 1 is there
    b/cuda:2 w0x2#1: skip: needs 2 devices of a kind, 1 is there
    b/cuda:2 w0x3#0: skip: needs 3 devices of a kind, 1 is there
    b/cuda:2 w0x3#1: skip: needs 3 devices of a kind, 1 is there
    b/cuda:2 w0x3#2: skip: needs 3 devices of a kind, 1 is there
    b/cuda:2 w0x8#0: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#1: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#2: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#3: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#4: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#5: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#6: skip: needs 8 devices of a kind, 1 is there
    b/cuda:2 w0x8#7: skip: needs 8 devices of a kind, 1 is there
    ");
    assert_eq!(matrix.cells.len(), count(&scenario, &devices));
    assert!(matrix.cells.iter().all(|planned| planned.hash == planned.cell.hash()));

    let any = expand(&scaling(Placement::Any, &[2]), &devices[..4]);
    assert_snapshot!(shown_fleet(&any), @"
    b/cuda:0 of a/cuda:0, b/cuda:0, b/cuda:1 group 0 0/2: w0x2#0
    b/cuda:1 of a/cuda:0, b/cuda:0, b/cuda:1 group 0 1/2: w0x2#1
    b/cuda:2 w0x2#0: skip: needs 2 devices of a kind, 1 is there
    b/cuda:2 w0x2#1: skip: needs 2 devices of a kind, 1 is there
    ");
    let few = check_devices(&scaling(Placement::Every, &[8]), &devices).unwrap_err();
    assert_snapshot!(few, @"nothing can run: needs 8 devices of a kind, 1 is there; needs 8 devices of a kind, 4 are there");
}

#[test]
fn devices_with_too_little_memory_are_skipped() {
    let mut scenario = scaling(Placement::Every, &[1]);
    scenario.fleet.min_memory = Some(100 << 30);
    let unknown = Device { memory_bytes: None, ..gpu("b", "cuda:0", "X") };
    let large = Device { memory_bytes: Some(100 << 30), ..gpu("c", "cuda:0", "X") };
    assert_snapshot!(shown_fleet(&expand(&scenario, &[gpu("a", "cuda:0", "X"), unknown, large])), @"
    c/cuda:0: w0x1#0
    a/cuda:0 w0x1#0: skip: needs 102,400 MiB of memory, cuda:0 of agent a has 81,920 MiB
    b/cuda:0 w0x1#0: skip: needs 102,400 MiB of memory, cuda:0 of agent b has an unknown amount
    ");
}

#[test]
fn trials_of_the_same_work_are_known_by_it() {
    let work = |scenario: &Scenario, name: &str| expand(scenario, &[gpu("a", "cuda:0", name)]).trials[0].work;
    let scenario = scaling(Placement::Every, &[1]);
    let same = work(&scenario, "X");
    assert!(same.is_some());
    assert_eq!(work(&Scenario { name: "another".to_owned(), ..scenario.clone() }, "X"), same);
    assert_ne!(work(&scenario, "Y"), same);
    let mut longer = scenario.clone();
    longer.policy.repetitions += 1;
    assert_ne!(work(&longer, "X"), same);
    assert_ne!(work(&Scenario { workloads: workloads(2), ..scenario }, "X"), same);
}

#[test]
fn missing_devices_are_named_with_those_there_are() {
    let both = &BOTH;
    let said = |selectors: &[&str], devices: &[Device]| {
        check_devices(&scenario(selectors), devices)
            .map_or_else(|errors| errors.to_string(), |()| "accepted".to_owned())
    };
    let gpus = [device("a", "cpu", both), device("a", "cuda:0", both), device("a", "cuda:1", both)];
    assert_snapshot!(said(&["cuda:7"], &gpus), @r#"no device cuda:7 here: available devices: cpu, cuda:0, cuda:1; use one of these, or devices = ["cuda"]"#);
    assert_snapshot!(said(&["cuda:1"], &gpus), @"accepted");
    assert_snapshot!(said(&["cuda"], &gpus[..1]), @r#"no device cuda here: available devices: cpu; use devices = ["cpu"]"#);
    assert_snapshot!(said(&["metal", "cuda:0", "cpu"], &gpus[..1]), @r#"
    no device metal here: available devices: cpu; use devices = ["cpu"]
    no device cuda:0 here: available devices: cpu; use devices = ["cpu"]
    "#);
    assert_snapshot!(said(&["all"], &gpus), @"accepted");
    assert_snapshot!(said(&["all"], &[]), @"there are no devices: start an agent, and see `regatta devices` if it finds none");
}

#[test]
fn a_matrix_in_which_nothing_can_run_is_an_error() {
    let said = |backends: &[BackendKind]| {
        let devices = [device("a", "cpu", backends), device("b", "vulkan:0", &[])];
        check_devices(&scenario(&["all"]), &devices)
            .map_or_else(|errors| errors.to_string(), |()| "accepted".to_owned())
    };
    assert_snapshot!(said(&[]), @"nothing can run: agent a has no worker for candle on cpu; agent a has no worker for llama.cpp on cpu; agent b has no worker for llama.cpp on vulkan:0; candle supports cpu, cuda, metal, not vulkan");
    assert_snapshot!(said(&[BackendKind::LlamaCpp]), @"accepted");
}

#[test]
fn large_matrices_need_a_word() {
    let large = Scenario { models: models(60), workloads: workloads(52), ..scenario(&["all"]) };
    let devices = [device("a", "cpu", &BOTH)];
    assert_snapshot!(check_size(&large, &devices, MAX_CELLS).unwrap_err(), @"12,480 cells > 2,000: narrow the scenario, or pass --allow-large");
    assert_eq!(check_size(&large, &devices, MAX_CELLS_LARGE), Ok(12_480));
    assert_eq!(check_size(&large, &devices, 12_480), Ok(12_480));
    let vast = Scenario { models: models(1000), workloads: workloads(1000), ..large };
    assert_snapshot!(check_size(&vast, &devices, MAX_CELLS_LARGE).unwrap_err(), @"4,000,000 cells > 1,000,000: narrow the scenario");
}

#[test]
fn builds_have_cells_of_their_own_and_share_a_trial() {
    let devices = [device("a", "cpu", &BOTH)];
    let one = expand(&scenario(&["all"]), &devices);
    let builds = ["base", "candidate"].map(|name| name.parse().unwrap()).to_vec();
    let both = Scenario { builds, ..scenario(&["all"]) };
    let two = expand(&both, &devices);
    assert_eq!((two.cells.len(), two.trials.len()), (2 * one.cells.len(), one.trials.len()));
    assert_eq!(count(&both, &devices), two.cells.len());
    for trial in &two.trials {
        let named = |cell: &PlannedCell| cell.cell.build.as_ref().map(ToString::to_string).unwrap();
        let builds: Vec<_> = two.cells[trial.cells.clone()].iter().map(named).collect();
        assert_eq!(builds, ["base", "candidate", "base", "candidate"]);
    }
    let hashes: BTreeSet<_> = two.cells.iter().chain(&one.cells).map(|planned| planned.hash).collect();
    assert_eq!(hashes.len(), two.cells.len() + one.cells.len());
    assert!(two.cells.iter().all(|planned| planned.hash == planned.cell.hash()));
    assert_ne!(one.trials[0].work, two.trials[0].work, "it takes twice as long");
}

#[test]
fn trials_of_which_a_build_was_kept_are_measured_in_turns_and_others_as_they_were() {
    let devices = [device("a", "cpu", &BOTH), device("b", "cpu", &BOTH)];
    let one = expand(&scenario(&["all"]), &devices);
    let kept: BuildName = "kept-1".parse().unwrap();
    let turns = one.clone().in_turns(|cell| (cell.agent.as_str() == "a").then(|| kept.clone()));
    assert_eq!(turns.trials.len(), one.trials.len());
    for (position, (before, trial)) in one.trials.iter().zip(&turns.trials).enumerate() {
        let (before, cells) = (&one.cells[before.cells.clone()], &turns.cells[trial.cells.clone()]);
        assert!(cells.iter().all(|cell| cell.plan == CellPlan::Run { trial: position }));
        if trial.agent.as_str() == "b" {
            assert_eq!(before, cells);
            continue;
        }
        let builds: Vec<_> = cells.iter().map(|cell| cell.cell.build.as_ref().unwrap().as_str()).collect();
        assert_eq!(builds, ["kept-1", PRESENT].repeat(before.len()));
        for (cell, of) in cells.iter().zip(before.iter().flat_map(|cell| [cell, cell])) {
            assert_eq!(Cell { build: None, ..cell.cell.clone() }, of.cell);
        }
        assert_eq!(trial.work, None);
    }
    let hashes: BTreeSet<_> = one.cells.iter().chain(&turns.cells).map(|planned| planned.hash).collect();
    let of_b = one.cells.iter().filter(|cell| cell.cell.agent.as_str() == "b").count();
    assert_eq!(hashes.len(), one.cells.len() + turns.cells.len() - of_b, "each build has hashes of its own");
    assert_eq!(one.clone().in_turns(|_| None), one);
}

#[test]
fn hashes_are_those_of_the_cells() {
    let matrix = expand(&scenario(&["all"]), &[device("a", "cpu", &BOTH)]);
    assert!(matrix.cells.iter().all(|planned| planned.hash == planned.cell.hash()));
    // Stored results are found by this hash, so it must never change.
    assert_snapshot!(matrix.cells[0].hash, @"a0420e1acc173fa8198a593e4bf8d6bf493239fc12347ea478bc164c531ede94");
}

fn any_devices() -> impl Strategy<Value = Vec<Device>> {
    let backends = prop::sample::subsequence(BackendKind::ALL.to_vec(), 0..=3);
    let id = (prop::sample::select(DeviceKind::ALL.to_vec()), 0u32..3).prop_map(|(kind, index)| match kind {
        DeviceKind::Cpu => DeviceId::CPU,
        kind => DeviceId { kind, index },
    });
    let device =
        (0..3, id, backends).prop_map(|(agent, id, backends)| device(&format!("a{agent}"), &id.to_string(), &backends));
    prop::collection::vec(device, 0..8)
}

prop_compose! {
    fn any_scenario()(
        models in (0usize..3).prop_map(models),
        backends in prop::sample::subsequence(BackendKind::ALL.to_vec(), 0..=3),
        precisions in prop::sample::subsequence(Precision::ALL.to_vec(), 0..=6),
        selectors in prop::sample::subsequence(vec!["all", "cpu", "cuda", "cuda:1", "metal:0"], 0..=5),
        workloads in (0u32..4).prop_map(workloads),
    ) -> Scenario {
        Scenario { models, backends, precisions, workloads, ..scenario(&selectors) }
    }
}

proptest! {
    #[test]
    fn cells_are_the_product_and_trials_part_the_runnable_ones(scenario in any_scenario(), devices in any_devices()) {
        let matrix = expand(&scenario, &devices);
        let product = scenario.models.len() * scenario.backends.len() * scenario.precisions.len() * scenario.workloads.len();
        let used: HashSet<_> = devices
            .iter()
            .filter(|device| scenario.devices.iter().any(|selector| selector.matches(device.id)))
            .map(|device| (&device.agent, device.id))
            .collect();
        prop_assert_eq!(matrix.cells.len(), used.len() * product);
        prop_assert_eq!(matrix.cells.len(), count(&scenario, &devices));

        let hashes: HashSet<_> = matrix.cells.iter().map(|planned| planned.hash).collect();
        prop_assert_eq!(hashes.len(), matrix.cells.len());

        let mut trial_of = vec![None; matrix.cells.len()];
        for (number, trial) in matrix.trials.iter().enumerate() {
            prop_assert!(!trial.cells.is_empty());
            for position in trial.cells.clone() {
                let cell = &matrix.cells[position].cell;
                prop_assert_eq!(trial_of[position].replace(number), None);
                prop_assert_eq!(
                    (&cell.agent, cell.device, cell.backend, &cell.artifact),
                    (&trial.agent, trial.device, trial.backend, &trial.artifact)
                );
            }
        }
        for (planned, trial) in matrix.cells.iter().zip(trial_of) {
            match &planned.plan {
                CellPlan::Run { trial: number } => prop_assert_eq!(trial, Some(*number)),
                CellPlan::Skip { reason } => prop_assert!(trial.is_none() && !reason.is_empty()),
            }
        }
        prop_assert_eq!(check_devices(&scenario, &devices).is_ok() && !matrix.cells.is_empty(),
            !matrix.trials.is_empty() && scenario.devices.iter().all(|s| devices.iter().any(|d| s.matches(d.id))));
    }
}

#[test]
fn what_cannot_fit_is_skipped_with_the_numbers_unless_forced() {
    let mistral = parse_manifest("models.toml", BUILT_IN_MODELS).unwrap();
    let mistral: Vec<_> = mistral.into_iter().filter(|model| model.id.as_str() == "mistral-7b").collect();
    let small = Device { memory_bytes: Some(8 << 30), ..device("a", "cpu", &[BackendKind::LlamaCpp]) };
    let backends = vec![BackendKind::LlamaCpp];
    let mut asked = Scenario { models: mistral, backends, workloads: workloads(1), ..scenario(&["cpu"]) };
    assert_snapshot!(shown(&expand(&asked, std::slice::from_ref(&small))), @"
    a/cpu llama.cpp mistral-7b gguf f16 (synthetic) w0: skip: needs about 13,826 MiB of memory (weights 13,825, key/value cache 1, activations 1), cpu of agent a has 8,192 MiB (fix: a smaller precision, batch or prompt; --force tries it all the same)
    a/cpu llama.cpp mistral-7b gguf q4_k_m (synthetic) w0: trial 0
    ");
    let unknown = Device { memory_bytes: None, ..small.clone() };
    assert_eq!(expand(&asked, &[unknown]).trials.len(), 2, "what isn't known is tried");
    // Devices of other sizes are a class of their own, so a pool doesn't hide one that is too small.
    let large = Device { agent: "b".parse().unwrap(), memory_bytes: Some(16 << 30), ..small.clone() };
    asked.fleet.placement = Placement::Any;
    assert_eq!(expand(&asked, &[small.clone(), large]).trials.len(), 3);
    asked.policy.force = true;
    assert_eq!(expand(&asked, &[small]).trials.len(), 2);
}
