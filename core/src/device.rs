//! Devices: what an agent can run a model on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kind of accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor itself.
    Cpu,
    /// NVIDIA, through CUDA.
    Cuda,
    /// Apple, through Metal.
    Metal,
    /// Windows, through DirectML.
    DirectMl,
    /// Any vendor, through Vulkan.
    Vulkan,
}

impl DeviceKind {
    /// Every kind, in the order of documentation.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cuda, Self::Metal, Self::DirectMl, Self::Vulkan];

    /// The name in scenarios, the database and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::DirectMl => "directml",
            Self::Vulkan => "vulkan",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One device of an agent: `cpu`, `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId {
    /// What it is.
    pub kind: DeviceKind,
    /// Its number among the devices of that kind, from 0.
    pub index: u32,
}

impl DeviceId {
    /// The processor.
    pub const CPU: Self = Self { kind: DeviceKind::Cpu, index: 0 };
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a device: write cpu, cuda:0, metal:0, directml:0 or vulkan:0")]
pub struct InvalidDevice(String);

impl FromStr for DeviceId {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        let invalid = || InvalidDevice(crate::id::shown(text));
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = DeviceKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(invalid)?;
        let index = index.parse().map_err(|_| invalid())?;
        if kind == DeviceKind::Cpu && index != 0 {
            return Err(invalid());
        }
        Ok(Self { kind, index })
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDevice;

    fn try_from(text: String) -> Result<Self, InvalidDevice> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Cpu => f.write_str("cpu"),
            kind => write!(f, "{kind}:{}", self.index),
        }
    }
}

/// What an accelerator is and what tells it from others, as far as the system says. Labels for people and for the
/// fingerprint; nothing is decided by them but whether a name still means the same device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFacts {
    /// What tells it from all other devices of its agent, whatever number it has: the same after a restart, in another order
    /// and where fewer devices are shown. `GPU-…`, `pci:0000:01:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_id: Option<String>,
    /// What the system calls it until it is started again: a LUID on Windows, a registry id on macOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_id: Option<String>,
    /// Version of its driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What its instructions are: `sm_90`, `apple9`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Where it is on the bus: `0000:01:00.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// The most that its link to the host can do: `gen 5 x16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_link: Option<String>,
}

impl DeviceFacts {
    /// The same with each text changed.
    #[must_use]
    pub fn map(self, change: impl Fn(&str) -> String) -> Self {
        let change = |text: Option<String>| text.map(|text| change(&text)).filter(|text| !text.is_empty());
        Self {
            stable_id: change(self.stable_id),
            system_id: change(self.system_id),
            driver: change(self.driver),
            architecture: change(self.architecture),
            pci_address: change(self.pci_address),
            pci_link: change(self.pci_link),
        }
    }
}

/// A device with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The agent that owns it.
    pub agent: crate::id::AgentId,
    /// Its id on that agent.
    pub id: DeviceId,
    /// The vendor's name for it.
    pub name: String,
    /// Its memory in bytes; the host's for a CPU. `None` when it can't be read.
    pub memory_bytes: Option<u64>,
    /// Logical cores, for a CPU.
    pub cores: Option<u32>,
    /// Backends that have a worker for this device on its agent.
    pub backends: Vec<crate::backend::BackendKind>,
    /// What it is and what tells it from others.
    #[serde(default)]
    pub facts: DeviceFacts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        for text in ["cpu", "cuda:0", "cuda:17", "metal:0", "directml:1", "vulkan:0"] {
            assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        }
        assert_eq!("cpu:0".parse(), Ok(DeviceId::CPU));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0:0", "cpu:1", "CUDA:0", "cuda:4294967296"] {
            assert!(text.parse::<DeviceId>().is_err(), "{text:?}");
        }
    }
}
