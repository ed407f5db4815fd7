//! Adapters of Windows, as the numbers that DXGI gives them become devices of DirectML. What they are called is worked out
//! here, for all systems to test; asking Windows is `dxgi_windows.rs`.
//!
//! A LUID names an adapter only until Windows is started again, so it can't tell a device from others from night to night: what its
//! maker calls it does, with a number where there are several of a kind.

use regatta_core::device::{DeviceFacts, DeviceId, DeviceKind};

use super::accelerators::Sighting;

/// Microsoft, whose adapters compute on the processor.
const SOFTWARE_VENDOR: u32 = 0x1414;

/// An adapter as DXGI describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adapter {
    /// Its number.
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) vendor: u32,
    pub(super) device: u32,
    pub(super) subsystem: u32,
    pub(super) revision: u32,
    /// Memory of its own.
    pub(super) dedicated_bytes: u64,
    /// The host's memory that it may use.
    pub(super) shared_bytes: u64,
    /// The high and the low half.
    pub(super) luid: (u32, u32),
    /// Version of the driver: four numbers of sixteen bits.
    pub(super) driver: Option<u64>,
    /// Whether Windows says that it computes on the processor.
    pub(super) is_software: bool,
}

/// The adapters that are devices.
pub(super) fn sightings(adapters: &[Adapter]) -> Vec<Sighting> {
    let is_device = |adapter: &&Adapter| !adapter.is_software && adapter.vendor != SOFTWARE_VENDOR;
    let alike = |adapter: &Adapter| {
        let before = adapters.iter().filter(|other| other.index < adapter.index);
        before.filter(|other| made_as(other) == made_as(adapter)).count()
    };
    let sighting = |adapter: &Adapter| Sighting {
        id: DeviceId { kind: DeviceKind::DirectMl, index: adapter.index },
        name: adapter.name.clone(),
        memory_bytes: Some(memory(adapter)).filter(|&bytes| bytes > 0),
        facts: DeviceFacts {
            stable_id: Some(format!("{}#{}", made_as(adapter), alike(adapter))),
            system_id: Some(format!("luid:{:08x}:{:08x}", adapter.luid.0, adapter.luid.1)),
            driver: adapter.driver.map(version),
            ..DeviceFacts::default()
        },
    };
    adapters.iter().filter(is_device).map(sighting).collect()
}

fn made_as(adapter: &Adapter) -> String {
    let Adapter { vendor, device, subsystem, revision, .. } = adapter;
    format!("pci:ven_{vendor:04x}&dev_{device:04x}&subsys_{subsystem:08x}&rev_{revision:02x}")
}

/// Its own memory; of one that has as good as none, the host's that it may use.
fn memory(adapter: &Adapter) -> u64 {
    const LITTLE: u64 = 1 << 30;
    if adapter.dedicated_bytes < LITTLE {
        adapter.dedicated_bytes.max(adapter.shared_bytes)
    } else {
        adapter.dedicated_bytes
    }
}

fn version(packed: u64) -> String {
    let part = |shift: u32| (packed >> shift) & 0xffff;
    format!("{}.{}.{}.{}", part(48), part(32), part(16), part(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: u32) -> Adapter {
        Adapter {
            index,
            name: "Arc B580".to_owned(),
            vendor: 0x8086,
            device: 0xe20b,
            subsystem: 1,
            revision: 2,
            dedicated_bytes: 12 << 30,
            shared_bytes: 16 << 30,
            luid: (0, 0xabcd + index),
            driver: Some((0x20 << 48) | (0x65 << 16) | 0x1a86),
            is_software: false,
        }
    }

    #[test]
    fn adapters_of_a_kind_are_told_apart_by_their_order_and_not_by_what_changes_at_each_start() {
        let seen = sightings(&[adapter(0), Adapter { is_software: true, ..adapter(1) }, adapter(2)]);
        let ids: Vec<_> = seen.iter().map(|s| (s.id.to_string(), s.facts.stable_id.clone().unwrap())).collect();
        let stable = |n: u32| format!("pci:ven_8086&dev_e20b&subsys_00000001&rev_02#{n}");
        assert_eq!(ids, [("directml:0".to_owned(), stable(0)), ("directml:2".to_owned(), stable(2))]);
        assert_eq!(seen[1].facts.system_id.as_deref(), Some("luid:00000000:0000abcf"));
        assert_eq!(seen[0].facts.driver.as_deref(), Some("32.0.101.6790"));
    }

    #[test]
    fn a_device_without_memory_of_its_own_has_the_hosts() {
        let integrated = Adapter { dedicated_bytes: 128 << 20, ..adapter(0) };
        assert_eq!(memory(&integrated), 16 << 30);
        assert_eq!(memory(&adapter(0)), 12 << 30);
        let warp = Adapter { vendor: SOFTWARE_VENDOR, ..adapter(0) };
        assert!(sightings(&[warp]).is_empty());
    }
}
