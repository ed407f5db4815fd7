//! What devices can do at most: the versioned table of vendors' figures that comes with Regatta.
//!
//! A device that is not in it has no peak. What a device was found to do here is [`crate::canary`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Precision;
use crate::device::DeviceKind;

/// The table that comes with Regatta.
const BUILT_IN: &str = include_str!("peaks.toml");

/// A table of peaks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peaks {
    /// Its version: stored beside what is computed with it.
    pub version: String,
    device: Vec<Peak>,
}

/// What one device can do at most.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peak {
    /// Names as drivers give them; `*` stands for anything.
    names: Vec<String>,
    /// The kinds of device that the name may have.
    kinds: Vec<DeviceKind>,
    gb_per_s: f64,
    #[serde(default)]
    tflops: BTreeMap<Number, f64>,
    /// Where the figures come from.
    pub source: String,
}

/// A format of numbers that devices multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    Bf16,
}

impl Number {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The name in the table and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// What weights of that precision are multiplied as on an accelerator. `None` for quantised ones: engines choose
    /// among several formats.
    pub fn of(precision: Precision) -> Option<Self> {
        match precision {
            Precision::F32 => Some(Self::F32),
            Precision::F16 => Some(Self::F16),
            Precision::Bf16 => Some(Self::Bf16),
            Precision::Q8_0 | Precision::Q4_1 | Precision::Q4KM => None,
        }
    }
}

impl Peak {
    /// Memory bandwidth in bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.gb_per_s * 1e9
    }

    /// Dense floating-point operations per second on numbers of that format, where the vendor has published them.
    pub fn flops(&self, number: Number) -> Option<f64> {
        self.tflops.get(&number).map(|tera| tera * 1e12)
    }
}

impl Peaks {
    /// The table that comes with Regatta. A test reads it, so an empty one is never seen.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).unwrap_or_else(|_| Self { version: String::new(), device: Vec::new() })
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// What a device of that kind and name can do at most. `None` for one that is not in the table.
    pub fn find(&self, kind: DeviceKind, name: &str) -> Option<&Peak> {
        let fits = |peak: &&Peak| peak.kinds.contains(&kind) && peak.names.iter().any(|p| matches(p, name.trim()));
        self.device.iter().find(fits)
    }
}

/// Whether `name` is what `pattern` says, where `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            let ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.into_iter().any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks() -> Peaks {
        Peaks::parse(BUILT_IN).unwrap()
    }

    /// Whether there is a name that fits both patterns.
    fn overlap(a: &[u8], b: &[u8]) -> bool {
        match (a, b) {
            ([], []) => true,
            ([b'*', rest @ ..], other) | (other, [b'*', rest @ ..]) => {
                overlap(rest, other) || (!other.is_empty() && overlap(&[b"*", rest].concat(), &other[1..]))
            }
            ([x, a @ ..], [y, b @ ..]) => x == y && overlap(a, b),
            _ => false,
        }
    }

    #[test]
    fn every_entry_is_read_and_makes_sense() {
        let table = peaks();
        assert_eq!(table, Peaks::built_in());
        assert!(!table.version.is_empty() && table.device.len() > 40);
        for peak in &table.device {
            let what = &peak.names;
            assert!(!what.is_empty() && !peak.kinds.is_empty() && !peak.source.is_empty(), "{what:?}");
            assert!((10.0..20_000.0).contains(&peak.gb_per_s), "{what:?}");
            assert!(peak.tflops.values().all(|tera| (0.5..10_000.0).contains(tera)), "{what:?}");
            // Matrix units are at least as fast as vector units, and no vendor's are two orders faster.
            if let (Some(f32), Some(f16)) = (peak.flops(Number::F32), peak.flops(Number::F16)) {
                assert!(f16 >= f32 && f16 < 100.0 * f32, "{what:?}");
            }
        }
    }

    #[test]
    fn no_name_fits_two_entries() {
        let table = peaks();
        let patterns: Vec<&String> = table.device.iter().flat_map(|peak| &peak.names).collect();
        for (at, a) in patterns.iter().enumerate() {
            for b in &patterns[at + 1..] {
                assert!(!overlap(a.as_bytes(), b.as_bytes()), "{a} and {b}");
            }
        }
        assert!(overlap(b"a*c", b"ab*"));
        assert!(!overlap(b"a*c", b"b*"));
        assert!(!overlap(b"ab", b"a"));
    }

    #[test]
    fn devices_are_found_by_whole_name_and_kind() {
        let table = peaks();
        let bandwidth = |kind, name| table.find(kind, name).map(Peak::bandwidth);
        assert_eq!(bandwidth(DeviceKind::Cuda, "NVIDIA H200"), Some(4.8e12));
        assert_eq!(bandwidth(DeviceKind::Cuda, "NVIDIA GeForce RTX 4090"), Some(1.008e12));
        assert_eq!(bandwidth(DeviceKind::Vulkan, "AMD Radeon RX 7900 XTX (RADV NAVI31)"), Some(9.6e11));
        assert_eq!(bandwidth(DeviceKind::Metal, "Apple M2 Ultra"), Some(8e11));
        let peak = table.find(DeviceKind::Cuda, "NVIDIA A100-SXM4-80GB").unwrap();
        assert_eq!((peak.flops(Number::F32), peak.flops(Number::Bf16)), (Some(19.5e12), Some(312e12)));
        for (kind, name) in [
            (DeviceKind::Cuda, "NVIDIA GeForce RTX 4090 Laptop GPU"),
            (DeviceKind::Cuda, "NVIDIA A100-SXM4-80GB MIG 1g.10gb"),
            (DeviceKind::Cuda, "NVIDIA GH200 480GB"),
            (DeviceKind::Metal, "Apple M4 Max"),
            (DeviceKind::Cpu, "Apple M2"),
            (DeviceKind::Cuda, ""),
        ] {
            assert_eq!(bandwidth(kind, name), None, "{name}");
        }
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, fits) in
            [("a*c", "abbc", true), ("a*", "a", true), ("*", "", true), ("a*c", "acd", false), ("ä*ö", "äßö", true)]
        {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
