//! Asks DXGI for its adapters.

#![expect(unsafe_code, reason = "C functions that have no safe wrapper")]

use windows::Win32::Graphics::Dxgi::{
    CreateDXGIFactory1, DXGI_ADAPTER_FLAG_SOFTWARE, IDXGIAdapter1, IDXGIDevice, IDXGIFactory1,
};
use windows::core::Interface;

use super::accelerators::Sighting;
use super::dxgi::{self, Adapter};

/// The devices; none where DXGI is not there.
pub(super) fn sightings() -> Vec<Sighting> {
    // SAFETY: makes an object and touches nothing of ours.
    let Ok(factory) = (unsafe { CreateDXGIFactory1::<IDXGIFactory1>() }) else { return Vec::new() };
    // SAFETY: the factory is alive; past the last adapter it answers with an error.
    let adapters = (0..).map_while(|index| Some((index, unsafe { factory.EnumAdapters1(index) }.ok()?)));
    let adapters: Vec<Adapter> = adapters.filter_map(|(index, adapter)| described(index, &adapter)).collect();
    dxgi::sightings(&adapters)
}

fn described(index: u32, adapter: &IDXGIAdapter1) -> Option<Adapter> {
    // SAFETY: the adapter is alive.
    let desc = unsafe { adapter.GetDesc1() }.ok()?;
    let interface = IDXGIDevice::IID;
    // SAFETY: the adapter is alive, and the pointer is to an id that outlives the call. It answers with the version of the driver.
    let driver = unsafe { adapter.CheckInterfaceSupport(&raw const interface) }.ok();
    let name = String::from_utf16_lossy(&desc.Description);
    Some(Adapter {
        index,
        name: name.trim_end_matches('\0').to_owned(),
        vendor: desc.VendorId,
        device: desc.DeviceId,
        subsystem: desc.SubSysId,
        revision: desc.Revision,
        dedicated_bytes: desc.DedicatedVideoMemory as u64,
        shared_bytes: desc.SharedSystemMemory as u64,
        luid: (desc.AdapterLuid.HighPart.cast_unsigned(), desc.AdapterLuid.LowPart),
        driver: driver.map(i64::cast_unsigned),
        is_software: desc.Flags & DXGI_ADAPTER_FLAG_SOFTWARE.0.cast_unsigned() != 0,
    })
}
