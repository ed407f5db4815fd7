//! Accelerators: what the sources have seen, made into devices that can be measured and others with the reason why not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use regatta_core::backend::BackendKind;
use regatta_core::device::{Device, DeviceFacts, DeviceId, DeviceKind};
use regatta_core::id::AgentId;
use serde::Deserialize;

use super::{Idle, label};
use crate::workers::{Disabled, Found, NAME, Worker};

/// An accelerator as a source has seen it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sighting {
    /// Its name to the engines: kind and number among those of the kind.
    pub(super) id: DeviceId,
    /// The vendor's name for it.
    pub(super) name: String,
    /// Its memory in bytes.
    #[serde(default)]
    pub(super) memory_bytes: Option<u64>,
    /// What else is known.
    #[serde(default)]
    pub(super) facts: DeviceFacts,
}

/// What the engines of workers list. Where two list the same device the first is taken.
pub(super) fn listed(workers: &[Worker]) -> Vec<Sighting> {
    let all = workers.iter().flat_map(|worker| &worker.info.listed);
    let sighting = |device: &regatta_core::worker::ListedDevice| Sighting {
        id: device.id,
        name: device.name.clone(),
        memory_bytes: device.memory_bytes.filter(|&bytes| bytes > 0),
        facts: DeviceFacts {
            stable_id: device.pci_address.as_deref().map(by_address),
            pci_address: device.pci_address.clone(),
            ..DeviceFacts::default()
        },
    };
    all.map(sighting).collect()
}

/// What tells a device from others of its host where nothing but its place on the bus does.
fn by_address(address: &str) -> String {
    format!("pci:{address}")
}

/// One sighting for each device: the first, which is the system's, with what it does not know from later ones, which are the
/// engines'.
pub(super) fn merged(sightings: impl IntoIterator<Item = Sighting>) -> Vec<Sighting> {
    let mut all: BTreeMap<DeviceId, Sighting> = BTreeMap::new();
    for next in sightings {
        match all.get_mut(&next.id) {
            Some(first) => first.memory_bytes = first.memory_bytes.or(next.memory_bytes),
            None => {
                all.insert(next.id, next);
            }
        }
    }
    all.into_values().collect()
}

/// The devices that a worker can drive, and the others with what is missing.
pub(super) fn sorted_out(
    agent: &AgentId,
    seen: Vec<Sighting>,
    found: &Found,
    with_fake: bool,
) -> (Vec<Device>, Vec<Idle>) {
    let (mut devices, mut idle) = (Vec::new(), Vec::new());
    for sighting in seen {
        let kind = sighting.id.kind;
        let device = Device {
            agent: agent.clone(),
            id: sighting.id,
            name: label(&sighting.name),
            memory_bytes: sighting.memory_bytes,
            cores: None,
            backends: backends(&found.workers, kind).into_iter().collect(),
            facts: sighting.facts.map(label),
        };
        // The fake claims to drive everything: with it alone nothing can be measured.
        let is_driven = device.backends.iter().any(|&backend| with_fake || backend != BackendKind::Fake);
        if is_driven {
            devices.push(device);
        } else {
            idle.push(Idle {
                reason: missing(kind, &found.disabled),
                device: Device { backends: Vec::new(), ..device },
            });
        }
    }
    (devices, idle)
}

/// The engines that `workers` have for a kind of device.
pub(super) fn backends(workers: &[Worker], kind: DeviceKind) -> BTreeSet<BackendKind> {
    let engines = workers.iter().flat_map(|worker| &worker.info.engines);
    engines.filter(|engine| engine.devices.contains(&kind)).map(|engine| engine.backend).collect()
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [others @ .., before, last] if !others.is_empty() => format!("{}, {before} or {last}", others.join(", ")),
        words => words.join(" or "),
    }
}

/// Why no worker can drive a kind of device, and what would.
fn missing(kind: DeviceKind, disabled: &[Disabled]) -> String {
    let is_for_it = |worker: &&Disabled| {
        worker.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(kind.as_str()))
    };
    if let Some(worker) = disabled.iter().find(is_for_it) {
        return worker.to_string();
    }
    let able = BackendKind::PUBLIC.into_iter().filter(|backend| backend.devices().contains(&kind));
    let able: Vec<&str> = able.map(BackendKind::as_str).collect();
    if able.is_empty() {
        return format!("no backend of this version drives {kind}");
    }
    format!(
        "no worker here is built for {kind}, which {} can drive (fix: put a {NAME}-{kind} beside regatta; docs/platforms.md \
         tells how to build one)",
        either(&able)
    )
}

/// What each numbered name stands for, of devices that something tells from others.
pub(super) fn numbering<'d>(devices: impl Iterator<Item = &'d Device>) -> BTreeMap<DeviceId, String> {
    devices.filter_map(|device| Some((device.id, device.facts.stable_id.clone()?))).collect()
}

/// Names that stand for another device than they did before, in words.
pub(super) fn renumbered(before: &BTreeMap<DeviceId, String>, now: &BTreeMap<DeviceId, String>) -> Vec<String> {
    let place = |id: &String, all: &BTreeMap<DeviceId, String>| {
        all.iter().find(|(_, other)| *other == id).map_or_else(|| "not here".to_owned(), |(name, _)| name.to_string())
    };
    let changed =
        now.iter().filter_map(|(name, id)| before.get(name).filter(|was| *was != id).map(|was| (name, was, id)));
    let line = |(name, was, id): (&DeviceId, &String, &String)| {
        format!(
            "{name} is another device than before: {id}, which was {}; {was} is {} now",
            place(id, before),
            place(was, now)
        )
    };
    changed.map(line).collect()
}

/// The value of `CUDA_VISIBLE_DEVICES` that has CUDA number its devices as they are numbered here, where that could differ:
/// left to itself CUDA puts the fastest first.
pub(super) fn visible_to_workers<'d>(devices: impl Iterator<Item = &'d Device>) -> Option<String> {
    let mut cuda: Vec<&Device> = devices.filter(|device| device.id.kind == DeviceKind::Cuda).collect();
    cuda.sort_by_key(|device| device.id);
    let ids: Option<Vec<&str>> = cuda.iter().map(|device| device.facts.stable_id.as_deref()).collect();
    // Of parts of devices (MIG) CUDA shows one alone, so there is no order to set.
    ids.filter(|ids| ids.len() > 1 && ids.iter().all(|id| id.starts_with("GPU-"))).map(|ids| ids.join(","))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn sighting(id: &str, stable_id: &str) -> Sighting {
        let facts = DeviceFacts { stable_id: Some(stable_id.to_owned()), ..DeviceFacts::default() };
        Sighting { id: id.parse().unwrap(), name: "H\u{1b}200".to_owned(), memory_bytes: None, facts }
    }

    fn worker(devices: &str, listed: &str) -> Worker {
        let json = format!(
            r#"{{"protocol":2,"version":"1","engines":[{{"backend":"llama.cpp","version":"1","build":"b","devices":{devices}}},
               {{"backend":"fake","version":"1","build":"b","devices":["cpu","cuda","vulkan","directml"]}}],
               "simd_compiled":"avx2","simd_cpu":"avx2","optimised":true,"listed":{listed}}}"#
        );
        Worker { build: None, path: PathBuf::from(NAME), info: serde_json::from_str(&json).unwrap(), json }
    }

    fn sort(seen: Vec<Sighting>, found: &Found) -> (Vec<Device>, Vec<Idle>) {
        sorted_out(&"here".parse().unwrap(), seen, found, false)
    }

    fn stable(ids: &[(&str, &str)]) -> BTreeMap<DeviceId, String> {
        ids.iter().map(|(name, id)| (name.parse().unwrap(), (*id).to_owned())).collect()
    }

    #[test]
    fn a_device_that_a_worker_can_drive_is_offered_with_its_backends() {
        let found = Found { workers: vec![worker(r#"["cpu","cuda"]"#, "[]")], disabled: vec![] };
        let (devices, idle) = sort(vec![sighting("cuda:0", "GPU-a")], &found);
        assert!(idle.is_empty());
        assert_eq!(devices[0].name, "H200", "what a driver says is made printable");
        assert_eq!(devices[0].backends, [BackendKind::LlamaCpp, BackendKind::Fake]);
        assert_eq!(devices[0].facts.stable_id.as_deref(), Some("GPU-a"));
    }

    #[test]
    fn a_device_that_no_worker_can_drive_is_told_with_the_reason() {
        let reason = |kind: &str, disabled: Vec<Disabled>| {
            let found = Found { workers: vec![worker(r#"["cpu"]"#, "[]")], disabled };
            let (devices, idle) = sort(vec![sighting(kind, "x")], &found);
            assert!(devices.is_empty(), "the fake alone is no reason to offer it");
            assert!(idle[0].device.backends.is_empty());
            idle[0].reason.clone()
        };
        let none = reason("cuda:0", vec![]);
        assert!(
            none.starts_with("no worker here is built for cuda, which candle, llama.cpp or onnxruntime can drive"),
            "{none}"
        );
        assert!(none.contains("regatta-worker-cuda"), "{none}");
        let broken =
            Disabled { path: "/x/regatta-worker-cuda".into(), reason: "libcublas.so.13 is missing".to_owned() };
        assert!(reason("cuda:0", vec![broken.clone()]).ends_with("libcublas.so.13 is missing"));
        assert!(reason("vulkan:0", vec![broken]).starts_with("no worker here is built for vulkan, which llama.cpp"));
    }

    #[test]
    fn what_engines_list_fills_in_what_the_system_does_not_tell() {
        let listed_there = r#"[{"id":"cuda:0","name":"L","memory_bytes":5},
            {"id":"vulkan:0","name":"V","memory_bytes":0,"pci_address":"0000:0a:00.0"}]"#;
        let engines = listed(&[worker(r#"["cuda"]"#, listed_there), worker(r#"["cuda"]"#, listed_there)]);
        let all = merged([sighting("cuda:0", "GPU-a")].into_iter().chain(engines));
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].memory_bytes, all[0].facts.stable_id.as_deref()), (Some(5), Some("GPU-a")));
        assert_eq!((all[1].memory_bytes, all[1].facts.stable_id.as_deref()), (None, Some("pci:0000:0a:00.0")));
    }

    #[test]
    fn a_name_that_stands_for_another_device_is_told() {
        let before = stable(&[("cuda:0", "GPU-a"), ("cuda:1", "GPU-b")]);
        assert!(renumbered(&before, &before).is_empty());
        assert!(renumbered(&stable(&[]), &before).is_empty(), "all are new");
        let swapped = renumbered(&before, &stable(&[("cuda:0", "GPU-b"), ("cuda:1", "GPU-a")]));
        assert_eq!(swapped[0], "cuda:0 is another device than before: GPU-b, which was cuda:1; GPU-a is cuda:1 now");
        assert_eq!(swapped.len(), 2);
        let hidden = renumbered(&before, &stable(&[("cuda:0", "GPU-b")]));
        assert_eq!(hidden, ["cuda:0 is another device than before: GPU-b, which was cuda:1; GPU-a is not here now"]);
    }

    #[test]
    fn workers_are_told_an_order_only_where_there_is_one() {
        let value = |ids: &[(&str, &str)]| {
            let found = Found { workers: vec![worker(r#"["cuda"]"#, "[]")], disabled: vec![] };
            let devices = sort(ids.iter().map(|(name, id)| sighting(name, id)).collect(), &found).0;
            visible_to_workers(devices.iter())
        };
        assert_eq!(value(&[("cuda:1", "GPU-b"), ("cuda:0", "GPU-a")]).as_deref(), Some("GPU-a,GPU-b"));
        assert_eq!(value(&[("cuda:0", "GPU-a")]), None);
        assert_eq!(value(&[("cuda:0", "MIG-a"), ("cuda:1", "MIG-b")]), None);
    }
}
