//! Windows: memory and engines of GPUs by process, through its performance counters (PDH), and its battery.
//!
//! The counters come from the system's own scheduler and know every interface, CUDA too. Adapters are numbered as DXGI does it,
//! which is the numbering of DirectML. What a worker may use of a device's memory only the worker itself can ask: `worker/src/video_memory.rs`.
//! Whether Windows saves power is told by its battery saver.

#![expect(unsafe_code, reason = "C functions that have no safe wrapper")]

use std::collections::{BTreeMap, BTreeSet};

use regatta_core::device::{DeviceId, DeviceKind};
use windows::Win32::Graphics::Dxgi::{CreateDXGIFactory1, IDXGIFactory1};
use windows::Win32::System::Performance::{
    PDH_FMT_COUNTERVALUE_ITEM_W, PDH_FMT_DOUBLE, PDH_HCOUNTER, PDH_HQUERY, PDH_MORE_DATA, PdhAddEnglishCounterW,
    PdhCloseQuery, PdhCollectQueryData, PdhGetFormattedCounterArrayW, PdhOpenQueryW,
};
use windows::Win32::System::Power::{GetSystemPowerStatus, SYSTEM_POWER_STATUS};
use windows::core::{PCWSTR, w};

use super::gpu_counters::{Counters, Luid, state};
use super::{Snapshot, Source};

/// Windows says so of a computer without a battery.
const NO_BATTERY: u8 = 128;

/// The host's power supply.
pub(super) struct Power;

impl Source for Power {
    fn name(&self) -> &'static str {
        "power"
    }

    fn read(&mut self, _: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        let mut status = SYSTEM_POWER_STATUS::default();
        // SAFETY: the pointer is to a struct of the type asked for that outlives the call.
        unsafe { GetSystemPowerStatus(&raw mut status) }.map_err(|error| error.to_string())?;
        let has_battery = status.BatteryFlag & NO_BATTERY == 0;
        into.host.on_battery = match status.ACLineStatus {
            0 if has_battery => Some(true),
            1 if has_battery => Some(false),
            _ => None,
        };
        into.host.low_power_mode = Some(status.SystemStatusFlag == 1);
        Ok(())
    }
}

/// Counters of GPUs.
pub(super) struct Gpus {
    query: Query,
    memory: PDH_HCOUNTER,
    engines: PDH_HCOUNTER,
    adapters: BTreeMap<DeviceId, Luid>,
}

// SAFETY: PDH's handles may be used by any thread, by one at a time; the source is owned by one.
unsafe impl Send for Gpus {}

/// A query, closed when it goes away.
struct Query(PDH_HQUERY);

impl Drop for Query {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { PdhCloseQuery(self.0) };
    }
}

impl Gpus {
    /// The source, where there is a device for it and the counters are there.
    pub(super) fn open(devices: &[DeviceId]) -> Option<Self> {
        let adapters = adapters(devices);
        if adapters.is_empty() {
            return None;
        }
        match Self::query(adapters) {
            Ok(source) => Some(source),
            Err(reason) => {
                tracing::info!(reason, "no telemetry of GPUs: their performance counters can't be read");
                None
            }
        }
    }

    fn query(adapters: BTreeMap<DeviceId, Luid>) -> Result<Self, String> {
        let mut query = PDH_HQUERY::default();
        // SAFETY: no data source is named, and the pointer is to a handle that outlives the call.
        check("PdhOpenQuery", unsafe { PdhOpenQueryW(PCWSTR::null(), 0, &raw mut query) })?;
        let query = Query(query);
        let memory = query.counter(w!("\\GPU Process Memory(*)\\Dedicated Usage"))?;
        let engines = query.counter(w!("\\GPU Engine(*)\\Utilization Percentage"))?;
        Ok(Self { query, memory, engines, adapters })
    }
}

impl Query {
    fn counter(&self, path: PCWSTR) -> Result<PDH_HCOUNTER, String> {
        let mut counter = PDH_HCOUNTER::default();
        // SAFETY: the query is open, the path ends with a zero, and the pointer is to a handle that outlives the call.
        check("PdhAddEnglishCounter", unsafe { PdhAddEnglishCounterW(self.0, path, 0, &raw mut counter) })?;
        Ok(counter)
    }
}

impl Source for Gpus {
    fn name(&self) -> &'static str {
        "pdh"
    }

    fn read(&mut self, workers: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        // SAFETY: the query is open.
        check("PdhCollectQueryData", unsafe { PdhCollectQueryData(self.query.0) })?;
        let memory = values(self.memory)?;
        // A rate: there is none before the second look.
        let engines = values(self.engines).unwrap_or_default();
        for (device, adapter) in &self.adapters {
            into.devices.insert(*device, state(*adapter, workers, &memory, &engines));
        }
        Ok(())
    }
}

/// The adapters behind DirectML's devices, which are numbered as DXGI numbers adapters.
fn adapters(devices: &[DeviceId]) -> BTreeMap<DeviceId, Luid> {
    // SAFETY: makes an object and touches nothing of ours.
    let Ok(factory) = (unsafe { CreateDXGIFactory1::<IDXGIFactory1>() }) else { return BTreeMap::new() };
    let luid = |device: &DeviceId| {
        // SAFETY: the factory is alive.
        let adapter = unsafe { factory.EnumAdapters1(device.index) }.ok()?;
        // SAFETY: the adapter is alive.
        let luid = unsafe { adapter.GetDesc1() }.ok()?.AdapterLuid;
        Some((*device, (luid.HighPart.cast_unsigned(), luid.LowPart)))
    };
    devices.iter().filter(|device| device.kind == DeviceKind::DirectMl).filter_map(luid).collect()
}

/// The values of all instances of a counter.
fn values(counter: PDH_HCOUNTER) -> Result<Counters, String> {
    let (mut bytes, mut count) = (0, 0);
    // SAFETY: without a buffer only the size that is needed is written.
    let asked = unsafe { PdhGetFormattedCounterArrayW(counter, PDH_FMT_DOUBLE, &raw mut bytes, &raw mut count, None) };
    if asked != PDH_MORE_DATA {
        check("PdhGetFormattedCounterArray", asked)?;
        return Ok(Counters::new());
    }
    // Names stand behind the items, so there is more room than items: a vector of items is aligned for both.
    let items = (bytes as usize).div_ceil(size_of::<PDH_FMT_COUNTERVALUE_ITEM_W>());
    let mut buffer = vec![PDH_FMT_COUNTERVALUE_ITEM_W::default(); items];
    let start = Some(buffer.as_mut_ptr());
    // SAFETY: the buffer has at least as many bytes as `bytes` says.
    let got = unsafe { PdhGetFormattedCounterArrayW(counter, PDH_FMT_DOUBLE, &raw mut bytes, &raw mut count, start) };
    check("PdhGetFormattedCounterArray", got)?;
    let filled = buffer.iter().take(count as usize).filter(|item| item.FmtValue.CStatus == 0);
    let value = |item: &PDH_FMT_COUNTERVALUE_ITEM_W| {
        // SAFETY: PDH has written the name, which ends with a zero, into the buffer, and a number of the format asked for.
        unsafe { (item.szName.to_string().unwrap_or_default(), item.FmtValue.Anonymous.doubleValue) }
    };
    Ok(filled.map(value).collect())
}

fn check(function: &str, status: u32) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{function}: status {status:#010x}")) }
}
