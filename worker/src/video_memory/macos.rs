//! macOS: Metal. A GPU of Apple's shares the host's memory, so nothing is pushed out of it: what a process has allocated for the GPU, and
//! how much it may have in use without a loss, is all there is to tell.

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCopyAllDevices, MTLDevice};
use regatta_core::device::{DeviceId, DeviceKind};

use super::Usage;

/// A GPU.
pub(super) struct Adapter(Retained<ProtocolObject<dyn MTLDevice>>);

impl Adapter {
    pub(super) fn of(device: DeviceId) -> Option<Self> {
        if device.kind != DeviceKind::Metal {
            return None;
        }
        MTLCopyAllDevices().to_vec().into_iter().nth(device.index as usize).map(Self)
    }

    #[expect(clippy::unnecessary_wraps, reason = "Windows may not answer")]
    pub(super) fn usage(&self) -> Option<Usage> {
        let local = u64::try_from(self.0.currentAllocatedSize()).unwrap_or(u64::MAX);
        Some(Usage { local, budget: self.0.recommendedMaxWorkingSetSize(), shared: 0 })
    }
}
