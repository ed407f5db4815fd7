//! What Windows and macOS let this process have of a GPU's memory, and what it has. They answer only the process that asks for
//! itself, so the worker asks, between repetitions, and tells its agent. Elsewhere nothing is told: an agent can see it there.

#[cfg(windows)]
#[path = "video_memory/windows.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "video_memory/macos.rs"]
mod platform;
#[cfg(not(any(windows, target_os = "macos")))]
#[path = "video_memory/other.rs"]
mod platform;

use regatta_core::device::DeviceId;
use regatta_proto::pb;

/// A GPU's memory as this process has it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    /// In the device's own memory, or in what it shares with the host and was given there.
    local: u64,
    /// What it may have there.
    budget: u64,
    /// In the host's memory, for the device.
    shared: u64,
}

/// One device's memory, since the weights were loaded.
pub(crate) struct VideoMemory {
    adapter: platform::Adapter,
    shared_at_first: u64,
}

impl VideoMemory {
    /// Begins to look at a device, with the weights on it. `None` where there is nothing to be told.
    pub(crate) fn of(device: DeviceId) -> Option<Self> {
        let adapter = platform::Adapter::of(device)?;
        let shared_at_first = adapter.usage()?.shared;
        Some(Self { adapter, shared_at_first })
    }

    /// How it is now.
    pub(crate) fn read(&self) -> Option<pb::VideoMemory> {
        self.adapter.usage().map(|usage| since(self.shared_at_first, usage))
    }
}

/// Drivers keep some of the host's memory for what is sent to the device. What comes on top of it later was pushed out.
fn since(shared_at_first: u64, usage: Usage) -> pb::VideoMemory {
    pb::VideoMemory {
        local_bytes: usage.local,
        budget_bytes: usage.budget,
        spilled_bytes: usage.shared.saturating_sub(shared_at_first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_hosts_memory_has_more_than_at_first_was_spilled() {
        let usage = |shared| Usage { local: 5, budget: 9, shared };
        let spilled = |shared| since(100, usage(shared)).spilled_bytes;
        assert_eq!((spilled(90), spilled(100), spilled(130)), (0, 0, 30));
        assert_eq!((since(0, usage(0)).local_bytes, since(0, usage(0)).budget_bytes), (5, 9));
    }

    #[test]
    #[cfg(not(any(windows, target_os = "macos")))]
    fn elsewhere_nothing_is_told() {
        assert!(VideoMemory::of(DeviceId::CPU).is_none());
    }
}
