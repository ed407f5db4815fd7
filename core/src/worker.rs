//! What a worker program says of itself when it is asked (`regatta-worker probe`).

use serde::{Deserialize, Serialize};

use crate::backend::BackendKind;
use crate::device::{DeviceId, DeviceKind};
use crate::digest::Digest;
use crate::id::BuildName;

/// Version of the frames that agent and worker exchange. Both sides must agree.
pub const WORKER_PROTOCOL: u32 = 2;

/// The build of the worker program that an agent has now, beside one that it has kept, where both are measured in turns.
pub const PRESENT: &str = "present";

/// The fact about a host that names the worker programs which its agent has kept, separated by spaces.
pub const KEPT_WORKERS: &str = "kept_workers";

/// The name under which an agent keeps the worker program with this hash.
pub fn kept_build(digest: &Digest) -> BuildName {
    let name = format!("kept-{}", &digest.to_string()[..16]);
    name.parse().unwrap_or_else(|_| unreachable!("hexadecimal digits are a name"))
}

/// SIMD levels of x86-64 and AArch64, from lowest to highest; compared only within one processor family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimdLevel {
    /// Nothing beyond what every processor of the family has (SSE2, NEON).
    Baseline,
    /// AVX.
    Avx,
    /// AVX2 with FMA; NEON with dot products on AArch64.
    Avx2,
    /// AVX-512 (F, BW, VL); SVE or I8MM on AArch64.
    Avx512,
}

/// The answer to `probe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// See [`WORKER_PROTOCOL`].
    pub protocol: u32,
    /// Version of the worker program.
    pub version: String,
    /// The engines that it has.
    pub engines: Vec<Engine>,
    /// Engines that it could have, and why it hasn't: their libraries are loaded when it starts.
    #[serde(default)]
    pub lacking: Vec<Lack>,
    /// SIMD level it was compiled for.
    pub simd_compiled: SimdLevel,
    /// SIMD level this CPU has.
    pub simd_cpu: SimdLevel,
    /// Whether it was compiled with optimisation.
    pub optimised: bool,
    /// Accelerators that its engines list. Not every engine lists what it can drive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<ListedDevice>,
}

/// A device as an engine of a worker lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDevice {
    /// Its name to the engine: kind and number among those of the kind.
    pub id: DeviceId,
    /// The vendor's name for it.
    pub name: String,
    /// Its memory in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Where it is on the bus: `0000:01:00.0`.
    #[serde(default)]
    pub pci_address: Option<String>,
}

/// An engine that a worker program would have, were its library there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lack {
    /// Which.
    pub backend: BackendKind,
    /// What is missing, where it was looked for, and how to get it.
    pub reason: String,
}

/// One engine of a worker program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Which.
    pub backend: BackendKind,
    /// The engine's version.
    pub version: String,
    /// The engine's own words on how it was built.
    pub build: String,
    /// Kinds of device it can drive here.
    pub devices: Vec<DeviceKind>,
}
