//! Fingerprints: everything that makes two results comparable, as named parts and one hash over them. Pure.
//!
//! Two results with the same hash were measured in the same circumstances. Where hashes differ the parts say in what, so
//! nobody has to guess why two numbers are not to be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::is_unprintable;

/// The longest value of a part, in characters: what is longer is cut, with the hash of the whole behind it.
const MAX_VALUE: usize = 512;

/// Parts at most: they come over the wire.
const MAX_PARTS: usize = 64;

/// The agent's name, which stands for the machine.
pub const MACHINE: &str = "machine";
/// The device's name.
pub const DEVICE: &str = "device";
/// What the vendor tells this device from all others by.
pub const DEVICE_UUID: &str = "device_uuid";
/// The device's memory, in GiB; the host's for a processor.
pub const MEMORY: &str = "memory_gib";
/// Logical cores.
pub const CORES: &str = "cores";
/// Version of the device's driver.
pub const DRIVER: &str = "driver";
/// Whether memory is checked and corrected, which costs bandwidth.
pub const ECC: &str = "ecc";
/// Whether the device is cut into parts (MIG).
pub const MIG: &str = "mig";
/// What the device may draw.
pub const POWER_LIMIT: &str = "power_limit";
/// How the device's clocks are limited by a person: as the vendor has them, or set.
pub const CLOCKS: &str = "clocks";
/// Whether the driver stays loaded while nobody uses the device.
pub const PERSISTENCE: &str = "persistence";
/// The policy by which the host chooses its processors' clock.
pub const GOVERNOR: &str = "governor";
/// The host's operating system and architecture.
pub const OS: &str = "os";
/// Its kernel.
pub const KERNEL: &str = "kernel";
/// When its kernel gives huge pages to those who ask, as workers do.
pub const HUGE_PAGES: &str = "huge_pages";
/// Variables of the agent's environment that would have changed the measurement and were kept from the worker.
pub const ENVIRONMENT_WITHHELD: &str = "environment_withheld";
/// Version of the worker program.
pub const WORKER: &str = "worker";
/// Hash of the worker program's file.
pub const WORKER_BUILD: &str = "worker_build";
/// SIMD level that it was compiled for.
pub const WORKER_SIMD: &str = "worker_simd";
/// The engine's version, build and settings, threads among them.
pub const ENGINE: &str = "engine";
/// Hash over the weights' files.
pub const ARTIFACT: &str = "artifact";
/// Version of the way to measure.
pub const METHOD: &str = "method";

/// The circumstances of a measurement.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Fingerprint {
    parts: BTreeMap<String, String>,
}

/// A part in which two fingerprints differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which part, such as `driver`.
    pub part: String,
    /// Its value in the first, where it has one.
    pub a: Option<String>,
    /// Its value in the second, where it has one.
    pub b: Option<String>,
    /// What follows from it.
    pub bearing: Bearing,
}

/// What a difference means to whoever compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearing {
    /// Something else was measured, or in another way: the numbers say nothing about each other.
    Incomparable,
    /// It may be why the numbers differ. A series of nights begins anew.
    Explains,
    /// Worth knowing.
    Noted,
}

impl Bearing {
    /// What a difference in this part means.
    pub fn of(part: &str) -> Self {
        match part {
            MACHINE | DEVICE | DEVICE_UUID | MEMORY | CORES | ARTIFACT | METHOD => Self::Incomparable,
            DRIVER | ECC | MIG | POWER_LIMIT | CLOCKS | GOVERNOR | HUGE_PAGES | ENGINE | WORKER_SIMD => Self::Explains,
            _ => Self::Noted,
        }
    }
}

impl fmt::Display for Bearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomparable => "not comparable",
            Self::Explains => "may explain a difference",
            Self::Noted => "noted",
        })
    }
}

impl Fingerprint {
    /// Adds a part. What is not known is not a part: absent differs from everything else. Names are of small letters, digits
    /// and `_`; another one is no part, and so is whatever comes after [`MAX_PARTS`].
    #[must_use]
    pub fn with(mut self, part: &str, value: Option<impl Into<String>>) -> Self {
        let value = value.map(|value| shortened(&value.into())).filter(|value| !value.is_empty());
        if let Some(value) = value.filter(|_| is_name(part) && self.parts.len() < MAX_PARTS) {
            self.parts.insert(part.to_owned(), value);
        }
        self
    }

    /// The parts by name.
    pub fn parts(&self) -> &BTreeMap<String, String> {
        &self.parts
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The hash over all parts, in the order of their names.
    pub fn hash(&self) -> Digest {
        // Lengths, so that no two sets of parts look alike.
        let line = |(part, value): (&String, &String)| format!("{}:{part}={}:{value}\n", part.len(), value.len());
        Digest::of(self.parts.iter().map(line).collect::<String>().as_bytes())
    }

    /// In what the two differ: what weighs most first, then by name. Where nothing is known of one of them nothing can be
    /// said to differ.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        if self.is_empty() || other.is_empty() {
            return Vec::new();
        }
        let names: BTreeSet<&String> = self.parts.keys().chain(other.parts.keys()).collect();
        let difference = |part: &String| {
            let (a, b) = (self.parts.get(part).cloned(), other.parts.get(part).cloned());
            (a != b).then(|| Difference { part: part.clone(), a, b, bearing: Bearing::of(part) })
        };
        let mut differences: Vec<Difference> = names.into_iter().filter_map(difference).collect();
        differences.sort_by_key(|difference| difference.bearing);
        differences
    }
}

/// From parts as they were stored or sent.
impl From<BTreeMap<String, String>> for Fingerprint {
    fn from(parts: BTreeMap<String, String>) -> Self {
        parts.into_iter().fold(Self::default(), |all, (part, value)| all.with(&part, Some(value)))
    }
}

impl From<Fingerprint> for BTreeMap<String, String> {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.parts
    }
}

fn is_name(part: &str) -> bool {
    (1..=64).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn shortened(value: &str) -> String {
    let printable: String = value.chars().filter(|c| !is_unprintable(*c)).collect();
    let value = printable.trim();
    // Room for the hash, so that what was shortened once is short enough.
    let cut = value.char_indices().nth(MAX_VALUE - 32);
    match cut {
        Some((end, _)) if value.chars().nth(MAX_VALUE).is_some() => {
            format!("{}… ({})", &value[..end], Digest::of(value.as_bytes()).short())
        }
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> Fingerprint {
        Fingerprint::default().with(DRIVER, Some("570.1")).with(DEVICE, Some("H200")).with(GOVERNOR, None::<String>)
    }

    #[test]
    fn the_order_in_which_parts_come_does_not_matter() {
        let other = Fingerprint::default().with(DEVICE, Some("H200")).with(DRIVER, Some("570.1"));
        assert_eq!(some().hash(), other.hash());
        assert_eq!(some().differences(&other), []);
    }

    #[test]
    fn what_differs_is_named_with_both_values_and_what_weighs_most_comes_first() {
        let other = some().with(KERNEL, Some("6.1")).with(DRIVER, Some("580.2")).with(DEVICE, Some("H100"));
        assert_ne!(some().hash(), other.hash());
        let differences = some().differences(&other);
        let said: Vec<_> =
            differences.iter().map(|d| (d.part.as_str(), d.a.as_deref(), d.b.as_deref(), d.bearing)).collect();
        assert_eq!(
            said,
            [
                (DEVICE, Some("H200"), Some("H100"), Bearing::Incomparable),
                (DRIVER, Some("570.1"), Some("580.2"), Bearing::Explains),
                (KERNEL, None, Some("6.1"), Bearing::Noted)
            ]
        );
    }

    #[test]
    fn of_nothing_nothing_can_be_said() {
        assert_eq!(some().differences(&Fingerprint::default()), []);
    }

    #[test]
    fn what_comes_from_elsewhere_is_short_printable_and_named_in_plain_letters() {
        let long = |last: &str| Fingerprint::default().with(ENGINE, Some("x".repeat(600) + last));
        assert_ne!(long("a").hash(), long("b").hash());
        assert!(long("a").parts()[ENGINE].chars().count() <= MAX_VALUE);
        assert_eq!(Fingerprint::from(BTreeMap::from(long("a"))), long("a"));
        let odd = Fingerprint::default()
            .with("Not a name", Some("1"))
            .with("a", Some("\u{202e}\u{1b}x "))
            .with("b", Some(" "));
        assert_eq!(odd.parts(), &BTreeMap::from([("a".to_owned(), "x".to_owned())]));
        let many = (0..100).map(|n| (format!("p{n}"), "1".to_owned())).collect::<BTreeMap<_, _>>();
        assert_eq!(Fingerprint::from(many).parts().len(), MAX_PARTS);
    }

    proptest! {
        #[test]
        fn equal_hashes_mean_equal_parts(
            a in prop::collection::btree_map("[a-c]{1,3}", "[a-c=:]{1,3}", 0..4),
            b in prop::collection::btree_map("[a-c]{1,3}", "[a-c=:]{1,3}", 0..4),
        ) {
            let (a, b) = (Fingerprint::from(a), Fingerprint::from(b));
            prop_assert_eq!(a.hash() == b.hash(), a == b);
            let silent = a == b || a.is_empty() || b.is_empty();
            prop_assert_eq!(a.differences(&b).is_empty(), silent);
        }
    }
}
