//! Names of Windows' performance counters of GPUs, which carry the process and the adapter:
//! `pid_1234_luid_0x00000000_0x0000ABCD_phys_0_eng_3_engtype_Compute 0`. Pure, so that it is tested everywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::DeviceState;

/// Processes that keep an engine busier than this, in percent, compute on it. Below it is the desktop.
const BUSY_PERCENT: f64 = 5.0;

/// Beginnings of the names of engines that compute.
const COMPUTING: [&str; 3] = ["Compute", "Cuda", "3D"];

/// An adapter, as the system numbers them until it starts anew.
pub(super) type Luid = (u32, u32);

/// Whose a counter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner<'n> {
    process: u32,
    adapter: Luid,
    /// The kind of engine. Empty for memory.
    engine: &'n str,
}

/// Reads a counter's name; `None` for one of another shape.
fn owner(name: &str) -> Option<Owner<'_>> {
    let (process, rest) = name.strip_prefix("pid_")?.split_once("_luid_0x")?;
    let (high, rest) = rest.split_once("_0x")?;
    let (low, rest) = rest.split_once('_').unwrap_or((rest, ""));
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let engine = rest.split_once("engtype_").map_or("", |(_, engine)| engine);
    Some(Owner { process: process.parse().ok()?, adapter: (hex(high)?, hex(low)?), engine })
}

/// Counters with their values: bytes, or percent of the time.
pub(super) type Counters = Vec<(String, f64)>;

/// What the counters say of one adapter: its memory in use, that of the workers, and others that compute on it.
pub(super) fn state(adapter: Luid, workers: &BTreeSet<u32>, memory: &Counters, engines: &Counters) -> DeviceState {
    let mut bytes: BTreeMap<u32, f64> = BTreeMap::new();
    for (owner, value) in of_adapter(adapter, memory) {
        *bytes.entry(owner.process).or_default() += value;
    }
    let mut state = DeviceState::default();
    if bytes.is_empty() {
        return state;
    }
    let is_busy = |owner: &Owner<'_>, percent: f64| {
        percent > BUSY_PERCENT && COMPUTING.iter().any(|engine| owner.engine.starts_with(engine))
    };
    let busy = of_adapter(adapter, engines).filter(|(owner, percent)| is_busy(owner, *percent));
    let busy: BTreeSet<u32> = busy.map(|(owner, _)| owner.process).collect();
    state.reading.memory_used_bytes = Some(whole(bytes.values().sum()));
    // Every window on the desktop has memory there. Who does no more than that disturbs nobody.
    let computing = bytes.into_iter().filter(|(process, _)| workers.contains(process) || busy.contains(process));
    state.processes = Some(computing.map(|(process, bytes)| (process, Some(whole(bytes)))).collect());
    state
}

fn of_adapter(adapter: Luid, counters: &Counters) -> impl Iterator<Item = (Owner<'_>, f64)> {
    let owned = counters.iter().filter_map(|(name, value)| Some((owner(name)?, *value)));
    owned.filter(move |(owner, _)| owner.adapter == adapter)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of memory, far below 2^53 bytes")]
fn whole(bytes: f64) -> u64 {
    bytes.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Luid = (0, 0xabcd);

    fn counters(list: &[(&str, f64)]) -> Counters {
        list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn names_tell_process_adapter_and_engine() {
        let engine = "pid_1234_luid_0x00000000_0x0000ABCD_phys_0_eng_3_engtype_Compute 0";
        assert_eq!(owner(engine), Some(Owner { process: 1234, adapter: HERE, engine: "Compute 0" }));
        let memory = "pid_7_luid_0x00000001_0x0000000F_phys_0";
        assert_eq!(owner(memory), Some(Owner { process: 7, adapter: (1, 15), engine: "" }));
        for odd in ["", "_Total", "pid_x_luid_0x0_0x0", "pid_1_luid_0xZ_0x0_phys_0", "luid_0x0_0x1_phys_0"] {
            assert_eq!(owner(odd), None, "{odd}");
        }
    }

    #[test]
    fn strangers_are_those_who_compute() {
        let memory = counters(&[
            ("pid_1_luid_0x00000000_0x0000ABCD_phys_0", 1e9),
            ("pid_2_luid_0x00000000_0x0000ABCD_phys_0", 2e6),
            ("pid_3_luid_0x00000000_0x0000ABCD_phys_0", 3e6),
            ("pid_4_luid_0x00000000_0x00000001_phys_0", 4e6),
        ]);
        let engines = counters(&[
            ("pid_1_luid_0x00000000_0x0000ABCD_phys_0_eng_0_engtype_Compute 0", 98.0),
            ("pid_2_luid_0x00000000_0x0000ABCD_phys_0_eng_1_engtype_3D", 2.0),
            ("pid_3_luid_0x00000000_0x0000ABCD_phys_0_eng_1_engtype_3D", 40.0),
            ("pid_3_luid_0x00000000_0x0000ABCD_phys_0_eng_2_engtype_VideoDecode", 90.0),
            ("pid_4_luid_0x00000000_0x00000001_phys_0_eng_1_engtype_3D", 70.0),
        ]);
        let state = state(HERE, &BTreeSet::from([1]), &memory, &engines);
        assert_eq!(state.reading.memory_used_bytes, Some(1_005_000_000));
        assert_eq!(state.processes, Some([(1, Some(1_000_000_000)), (3, Some(3_000_000))].into()));
        assert_eq!(super::state((9, 9), &BTreeSet::new(), &memory, &engines), DeviceState::default());
    }
}
