//! Windows: DXGI. Adapters are numbered as DirectML numbers its devices; which of them is a device of another interface can't
//! be told from its number.

#![expect(unsafe_code, reason = "C functions that have no safe wrapper")]

use regatta_core::device::{DeviceId, DeviceKind};
use windows::Win32::Graphics::Dxgi::{
    CreateDXGIFactory1, DXGI_MEMORY_SEGMENT_GROUP, DXGI_MEMORY_SEGMENT_GROUP_LOCAL,
    DXGI_MEMORY_SEGMENT_GROUP_NON_LOCAL, DXGI_QUERY_VIDEO_MEMORY_INFO, IDXGIAdapter3, IDXGIFactory1,
};
use windows::core::Interface as _;

use super::Usage;

/// A GPU.
pub(super) struct Adapter(IDXGIAdapter3);

impl Adapter {
    pub(super) fn of(device: DeviceId) -> Option<Self> {
        if device.kind != DeviceKind::DirectMl {
            return None;
        }
        // SAFETY: makes an object and touches nothing of ours.
        let factory = unsafe { CreateDXGIFactory1::<IDXGIFactory1>() }.ok()?;
        // SAFETY: the factory is alive.
        let adapter = unsafe { factory.EnumAdapters1(device.index) }.ok()?;
        adapter.cast().ok().map(Self)
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let local = self.group(DXGI_MEMORY_SEGMENT_GROUP_LOCAL)?;
        let shared = self.group(DXGI_MEMORY_SEGMENT_GROUP_NON_LOCAL)?;
        Some(Usage { local: local.CurrentUsage, budget: local.Budget, shared: shared.CurrentUsage })
    }

    fn group(&self, group: DXGI_MEMORY_SEGMENT_GROUP) -> Option<DXGI_QUERY_VIDEO_MEMORY_INFO> {
        let mut info = DXGI_QUERY_VIDEO_MEMORY_INFO::default();
        // SAFETY: the adapter is alive, and the pointer is to a struct of the type asked for that outlives the call. Node 0 is
        // the only one but on machines that couple several GPUs to one.
        unsafe { self.0.QueryVideoMemoryInfo(0, group, &raw mut info) }.ok()?;
        Some(info)
    }
}
