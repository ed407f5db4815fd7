//! Apple's GPUs, as Metal lists them.
//!
//! A registry id names a GPU only until the system is started again; where it is built in tells it from others for good.

use objc2_metal::{MTLCopyAllDevices, MTLDevice, MTLDeviceLocation, MTLGPUFamily};
use regatta_core::device::{DeviceFacts, DeviceId, DeviceKind};

use super::accelerators::Sighting;

/// Families of Apple's own GPUs, newest first.
const FAMILIES: [(MTLGPUFamily, &str); 5] = [
    (MTLGPUFamily::Apple10, "apple10"),
    (MTLGPUFamily::Apple9, "apple9"),
    (MTLGPUFamily::Apple8, "apple8"),
    (MTLGPUFamily::Apple7, "apple7"),
    (MTLGPUFamily::Metal3, "metal3"),
];

/// The devices, numbered as Metal lists them, which is how engines number them.
pub(super) fn sightings() -> Vec<Sighting> {
    let devices = MTLCopyAllDevices();
    let sighting =
        |(index, device): (u32, objc2::rc::Retained<objc2::runtime::ProtocolObject<dyn MTLDevice>>)| Sighting {
            id: DeviceId { kind: DeviceKind::Metal, index },
            name: device.name().to_string(),
            // What Metal says may be in use at once without a loss: of memory that is shared with the processor it is a part.
            memory_bytes: Some(device.recommendedMaxWorkingSetSize()).filter(|&bytes| bytes > 0),
            facts: DeviceFacts {
                stable_id: Some(format!("{}:{}", place(device.location()), device.locationNumber())),
                system_id: Some(format!("registry:{:x}", device.registryID())),
                architecture: family(&device),
                ..DeviceFacts::default()
            },
        };
    (0..).zip(devices.to_vec()).map(sighting).collect()
}

fn family(device: &objc2::runtime::ProtocolObject<dyn MTLDevice>) -> Option<String> {
    FAMILIES.iter().find(|(family, _)| device.supportsFamily(*family)).map(|(_, name)| (*name).to_owned())
}

fn place(location: MTLDeviceLocation) -> &'static str {
    match location {
        MTLDeviceLocation::BuiltIn => "built-in",
        MTLDeviceLocation::Slot => "slot",
        MTLDeviceLocation::External => "external",
        _ => "elsewhere",
    }
}
