//! Where a scenario's cells may go: which agents and devices, and which devices stand for each other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::{Device, DeviceId, DeviceKind};
use crate::id::AgentId;

/// Labels that an agent's owner gave it, such as `zone = lab`.
pub type Labels = BTreeMap<String, String>;

/// The most replicas a workload may have.
pub const MAX_REPLICAS: u32 = 1_024;

/// One device of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(AgentId, DeviceId)", into = "(AgentId, DeviceId)")]
pub struct Place {
    /// The agent.
    pub agent: AgentId,
    /// Its device.
    pub device: DeviceId,
}

impl Place {
    /// Where the device is.
    pub fn of(device: &Device) -> Self {
        Self { agent: device.agent.clone(), device: device.id }
    }
}

impl From<(AgentId, DeviceId)> for Place {
    fn from((agent, device): (AgentId, DeviceId)) -> Self {
        Self { agent, device }
    }
}

impl From<Place> for (AgentId, DeviceId) {
    fn from(place: Place) -> Self {
        (place.agent, place.device)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.device)
    }
}

/// Which devices a cell is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// Every device has cells of its own.
    #[default]
    Every,
    /// Devices of the same class stand for each other: each cell is measured once per class, on whichever is free.
    Any,
}

impl Placement {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Every, Self::Any];

    /// The name in scenarios.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Any => "any",
        }
    }
}

/// A text that names no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither every nor any")]
pub struct InvalidPlacement(String);

impl FromStr for Placement {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, InvalidPlacement> {
        let found = Self::ALL.into_iter().find(|choice| choice.as_str() == text);
        found.ok_or_else(|| InvalidPlacement(crate::id::shown(text)))
    }
}

/// What a scenario asks of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// Which devices a cell is measured on.
    pub placement: Placement,
    /// Only agents with all of these labels.
    pub labels: Labels,
    /// Only devices with this much memory at least, in bytes.
    pub min_memory: Option<u64>,
}

impl Fleet {
    /// Whether an agent with these labels may get cells.
    pub fn admits(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether the device has memory enough.
    pub(crate) fn has_room(&self, device: &Device) -> bool {
        self.min_memory.is_none_or(|least| device.memory_bytes.is_some_and(|bytes| bytes >= least))
    }
}

/// Labels as people write them: `zone=lab, rack=7`.
pub fn labels_text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// What makes devices stand for each other: kind, name, memory and cores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceClass {
    kind: DeviceKind,
    name: String,
    /// In GiB, rounded: identical machines differ by what their firmware and kernel keep for themselves.
    memory_gib: Option<u64>,
    cores: Option<u32>,
}

impl DeviceClass {
    /// The class of a device.
    pub fn of(device: &Device) -> Self {
        let gib = |bytes: u64| bytes.saturating_add(1 << 29) >> 30;
        Self {
            kind: device.id.kind,
            name: device.name.clone(),
            memory_gib: device.memory_bytes.map(gib),
            cores: device.cores,
        }
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        if let Some(gib) = self.memory_gib {
            write!(f, ", {gib} GiB")?;
        }
        if let Some(cores) = self.cores {
            write!(f, ", {cores} cores")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceFacts;

    fn device(agent: &str, memory_bytes: u64) -> Device {
        Device {
            agent: agent.parse().unwrap(),
            id: DeviceId::CPU,
            name: "a processor".to_owned(),
            memory_bytes: Some(memory_bytes),
            cores: Some(8),
            backends: Vec::new(),
            facts: DeviceFacts::default(),
        }
    }

    #[test]
    fn devices_of_a_class_differ_in_nothing_that_is_measured() {
        let class = DeviceClass::of(&device("a", 16 << 30));
        assert_eq!(class.to_string(), "cpu a processor, 16 GiB, 8 cores");
        assert_eq!(class, DeviceClass::of(&device("b", (16 << 30) - 4096)));
        assert_ne!(class, DeviceClass::of(&device("b", 32 << 30)));
        assert_ne!(class, DeviceClass::of(&Device { cores: Some(4), ..device("b", 16 << 30) }));
        assert_ne!(class, DeviceClass::of(&Device { name: "another".to_owned(), ..device("b", 16 << 30) }));
    }

    #[test]
    fn every_label_asked_for_must_be_there() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let fleet = Fleet { labels: labels(&[("zone", "lab"), ("rack", "7")]), ..Fleet::default() };
        assert!(fleet.admits(&labels(&[("zone", "lab"), ("rack", "7"), ("owner", "me")])));
        assert!(!fleet.admits(&labels(&[("zone", "lab")])));
        assert!(!fleet.admits(&labels(&[("zone", "office"), ("rack", "7")])));
        assert!(Fleet::default().admits(&labels(&[])));
        assert_eq!(labels_text(&fleet.labels), "rack=7, zone=lab");
    }

    #[test]
    fn places_are_pairs_in_the_database() {
        let place = Place { agent: "a".parse().unwrap(), device: "cuda:1".parse().unwrap() };
        assert_eq!(<(AgentId, DeviceId)>::from(place.clone()), ("a".parse().unwrap(), "cuda:1".parse().unwrap()));
        assert_eq!(place.to_string(), "a/cuda:1");
    }
}
