//! Canaries: what a device was found to do at most, in a measurement of some seconds.
//!
//! Taken at an agent's start and kept as a series, a canary shows a machine that has become slow before its results do,
//! and it is the peak that results are held against.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::device::DeviceId;
use crate::roofline::peaks::Number;

/// Version of the way in which a reading is taken: readings of different versions are not to be compared.
pub const CANARY_VERSION: u32 = 1;

/// A worker's answer to `canary`. What could not be measured is missing, never 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// See [`CANARY_VERSION`].
    pub version: u32,
    /// The engine that multiplied matrices, with its version. Empty where none did.
    pub engine: String,
    /// Threads that read memory.
    pub threads: u32,
    /// Bytes of the buffers that went through.
    pub buffer_bytes: u64,
    /// Size of all last-level caches of the processor together, in bytes.
    pub cache_bytes: Option<u64>,
    /// Bytes per second read from memory, in the best round.
    pub read_bytes_per_s: Option<f64>,
    /// Bytes per second where reads and writes are mixed, in the best round.
    pub mixed_bytes_per_s: Option<f64>,
    /// Floating-point operations per second of the product of two large matrices, in the best round.
    pub flops: BTreeMap<Number, f64>,
    /// From the launch of a tiny operation to its end, on devices that are launched on: median, in nanoseconds.
    pub launch_ns: Option<u64>,
}

impl Reading {
    /// Memory bandwidth: the best that was seen, in bytes per second.
    pub fn bandwidth(&self) -> Option<f64> {
        [self.read_bytes_per_s, self.mixed_bytes_per_s].into_iter().flatten().reduce(f64::max)
    }

    /// Whether every number is one that a machine can have.
    pub fn check(&self) -> Result<(), ImpossibleReading> {
        let rates = [("read_bytes_per_s", self.read_bytes_per_s), ("mixed_bytes_per_s", self.mixed_bytes_per_s)];
        let rates = rates.into_iter().filter_map(|(name, rate)| Some((name, rate?)));
        let flops = self.flops.values().map(|rate| ("flops", *rate));
        match rates.chain(flops).find(|(_, rate)| !(rate.is_finite() && (1.0..1e18).contains(rate))) {
            Some((name, value)) => Err(ImpossibleReading { name, value }),
            None => Ok(()),
        }
    }
}

/// A number that no machine has.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}; it must lie between 1 and 1e18")]
pub struct ImpossibleReading {
    /// Which.
    name: &'static str,
    /// What it is.
    value: f64,
}

/// A reading of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// The device.
    pub device: DeviceId,
    /// Its name at that time: another device may be there later.
    pub device_name: String,
    /// Wall-clock time of the agent: a label, and with the device what tells one canary from the next.
    pub measured_at: Timestamp,
    /// What was found.
    pub reading: Reading,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading {
            version: CANARY_VERSION,
            engine: "candle 0.11.0".to_owned(),
            threads: 2,
            buffer_bytes: 1 << 30,
            cache_bytes: None,
            read_bytes_per_s: Some(2e10),
            mixed_bytes_per_s: Some(1.5e10),
            flops: BTreeMap::from([(Number::F32, 1e11)]),
            launch_ns: None,
        }
    }

    #[test]
    fn the_bandwidth_is_the_best_that_was_seen() {
        assert_eq!(reading().bandwidth(), Some(2e10));
        assert_eq!(Reading { read_bytes_per_s: None, ..reading() }.bandwidth(), Some(1.5e10));
        assert_eq!(Reading { read_bytes_per_s: None, mixed_bytes_per_s: None, ..reading() }.bandwidth(), None);
    }

    #[test]
    fn impossible_numbers_are_named() {
        assert_eq!(reading().check(), Ok(()));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e19] {
            assert!(Reading { read_bytes_per_s: Some(bad), ..reading() }.check().is_err(), "{bad}");
        }
        let flops = BTreeMap::from([(Number::F16, 0.5)]);
        let error = Reading { flops, ..reading() }.check().unwrap_err();
        assert_eq!(error.to_string(), "flops is 0.5; it must lie between 1 and 1e18");
    }
}
