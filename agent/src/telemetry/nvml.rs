//! NVIDIA devices, through the driver's own library (NVML). It is loaded at run time: where it is not there, the source is
//! absent and nothing else.
//!
//! Each number is asked for by itself, because devices differ in what they can tell: a part of a device (MIG) tells little,
//! a desktop card no counters of slowdowns. Counters are preferred to states, which miss what is short. `power_w` is the
//! driver's instant value where it has one; else its mean over a second.

use std::collections::{BTreeMap, BTreeSet};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN as HW_POWER_BRAKE,
    NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN as HW_THERMAL,
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP as SW_POWER_CAP,
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN as SW_THERMAL,
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST as SYNC_BOOST, NVML_FI_DEV_POWER_INSTANT as POWER_INSTANT,
};
use nvml_wrapper::{Device, Nvml as Library};
use regatta_core::device::{DeviceId, DeviceKind};
use regatta_core::fingerprint::{self, Fingerprint};
use regatta_core::telemetry::{Pcie, Reading, Throttled};

use crate::doctor::Card;

use super::{DeviceState, Snapshot, Source};

/// Names of the library beside its usual one: without the packages for developers only the versioned one is there.
const OTHER_NAMES: [&str; 1] = ["libnvidia-ml.so.1"];

/// The variable that chooses and orders the devices that CUDA shows.
pub(crate) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What is said of clocks that nobody has set.
const DEFAULT_CLOCKS: &str = "default";

/// The driver's library, and what each of our devices is called there.
pub(super) struct Nvml {
    library: Library,
    devices: BTreeMap<DeviceId, Name>,
}

/// How the library knows a device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Index(u32),
    /// `GPU-…` or `MIG-…`.
    Uuid(String),
}

impl Nvml {
    /// The library, where any device needs it and it is there.
    pub(super) fn open(devices: &[DeviceId]) -> Option<Self> {
        let devices = names(devices, std::env::var(VISIBLE).ok().as_deref());
        if devices.is_empty() {
            return None;
        }
        match load() {
            Ok(library) => Some(Self { library, devices }),
            Err(error) => {
                tracing::info!(%error, "no telemetry of NVIDIA devices: their driver's library can't be used");
                None
            }
        }
    }

    /// What is set on each device and changes what is measured. Devices of which nothing can be told are left out.
    pub(super) fn settings(&self) -> impl Iterator<Item = (DeviceId, Fingerprint)> {
        let driver = self.library.sys_driver_version().ok();
        let settings = move |(id, name): (&DeviceId, &Name)| {
            let device = self.device(name).ok()?;
            let on = |is_on: bool| if is_on { "on" } else { "off" };
            let settings = Fingerprint::default()
                .with(fingerprint::DRIVER, driver.clone())
                .with(fingerprint::DEVICE_UUID, device.uuid().ok())
                .with(fingerprint::PERSISTENCE, is_persistent(&device).map(on))
                .with(fingerprint::ECC, device.is_ecc_enabled().ok().map(|ecc| on(ecc.currently_enabled)))
                // 1 is NVML_DEVICE_MIG_ENABLE.
                .with(fingerprint::MIG, device.mig_mode().ok().map(|mode| on(mode.current == 1)))
                .with(fingerprint::CLOCKS, clocks(&device))
                .with(
                    fingerprint::POWER_LIMIT,
                    device.enforced_power_limit().ok().map(|mw| format!("{} W", mw / 1000)),
                );
            Some((*id, settings))
        };
        self.devices.iter().filter_map(settings).filter(|(_, settings)| !settings.is_empty())
    }

    fn device(&self, name: &Name) -> Result<Device<'_>, NvmlError> {
        match name {
            Name::Index(index) => self.library.device_by_index(*index),
            Name::Uuid(uuid) => self.library.device_by_uuid(uuid.as_str()),
        }
    }
}

/// The driver's version, and what the doctor wants to know of its devices.
pub(crate) fn cards(devices: &[DeviceId]) -> Result<(String, Vec<Card>), String> {
    let library = load().map_err(|error| error.to_string())?;
    let driver = library.sys_driver_version().map_err(|error| error.to_string())?;
    let names = names(devices, std::env::var(VISIBLE).ok().as_deref());
    let nvml = Nvml { library, devices: names };
    let cards = nvml.devices.iter().filter_map(|(id, name)| Some(card(*id, &nvml.device(name).ok()?))).collect();
    Ok((driver, cards))
}

fn card(id: DeviceId, device: &Device<'_>) -> Card {
    let compute = device.running_compute_processes().unwrap_or_default();
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let users: BTreeSet<u32> = compute.into_iter().chain(graphics).map(|process| process.pid).collect();
    Card {
        device: id,
        users: users.into_iter().map(process_name).collect(),
        is_persistent: is_persistent(device),
        clocks_are_set: clocks(device).is_some_and(|clocks| clocks != DEFAULT_CLOCKS),
    }
}

/// A process by its name, where the system tells that in a file.
fn process_name(process: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    if name.trim().is_empty() { format!("process {process}") } else { format!("{} ({process})", name.trim()) }
}

/// The driver's library, by whichever of its names it has here.
pub(crate) fn load() -> Result<Library, NvmlError> {
    let others = || OTHER_NAMES.iter().find_map(|name| Library::builder().lib_path(name.as_ref()).init().ok());
    Library::init().or_else(|error| others().ok_or(error))
}

/// What CUDA's devices are called, `visible` being the value of [`VISIBLE`]. Without it they are taken to be in the order
/// of the bus, as here: CUDA puts the fastest first, which is the same where all are alike.
fn names(devices: &[DeviceId], visible: Option<&str>) -> BTreeMap<DeviceId, Name> {
    let chosen: Option<Vec<&str>> = visible.map(|text| text.split(',').map(str::trim).collect());
    let name = |index: u32| match &chosen {
        None => Some(Name::Index(index)),
        Some(chosen) => {
            let text = *chosen.get(index as usize)?;
            let by_index = || text.parse().map(Name::Index).ok();
            if text.starts_with("GPU-") || text.starts_with("MIG-") {
                Some(Name::Uuid(text.to_owned()))
            } else {
                by_index()
            }
        }
    };
    let cuda = devices.iter().filter(|device| device.kind == DeviceKind::Cuda);
    cuda.filter_map(|device| Some((*device, name(device.index)?))).collect()
}

impl Source for Nvml {
    fn name(&self) -> &'static str {
        "nvml"
    }

    fn read(&mut self, _: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        for (id, name) in &self.devices {
            let device = self.device(name).map_err(|error| format!("{id}: {error}"))?;
            let state = state(&device);
            if state == DeviceState::default() {
                // Any number would have been something: ask for one more to learn what is wrong.
                let reason = device.memory_info().err().map_or_else(|| "tells nothing".to_owned(), |e| e.to_string());
                return Err(format!("{id}: {reason}"));
            }
            into.devices.insert(*id, state);
        }
        Ok(())
    }
}

/// What a person has set the clocks to: `default`, or what differs. Clocks that were locked (`nvidia-smi -lgc`) can't be asked
/// for; those show in the clock that is read with each repetition.
fn clocks(device: &Device<'_>) -> Option<String> {
    let clock = |clock| Some((device.applications_clock(clock).ok()?, device.default_applications_clock(clock).ok()?));
    clock_policy(clock(Clock::SM), clock(Clock::Memory))
}

/// The same from what is set and its default, in MHz.
fn clock_policy(sm: Option<(u32, u32)>, memory: Option<(u32, u32)>) -> Option<String> {
    let set = [("SM", sm?), ("memory", memory?)].into_iter().filter(|(_, (set, default))| set != default);
    let set: Vec<String> = set.map(|(name, (set, _))| format!("{name} {set} MHz")).collect();
    Some(if set.is_empty() { DEFAULT_CLOCKS.to_owned() } else { set.join(", ") })
}

/// Whether the driver stays loaded while nobody uses the device. There is no such mode on Windows.
#[cfg(target_os = "linux")]
fn is_persistent(device: &Device<'_>) -> Option<bool> {
    device.is_in_persistent_mode().ok()
}

#[cfg(not(target_os = "linux"))]
fn is_persistent(_: &Device<'_>) -> Option<bool> {
    None
}

fn state(device: &Device<'_>) -> DeviceState {
    let fields = fields(device, [SW_POWER_CAP, SYNC_BOOST, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE, POWER_INSTANT]);
    let [sw_power_cap, sync_boost, sw_thermal, hw_thermal, hw_power_brake, instant_mw] = fields;
    let milliwatts = instant_mw.or_else(|| device.power_usage().ok().map(u64::from));
    let reasons = device.current_throttle_reasons().ok();
    let reading = Reading {
        clock_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok().map(f64::from),
        power_w: milliwatts.map(|mw| mw as f64 / 1e3),
        energy_mj: device.total_energy_consumption().ok(),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        temperature_limit_c: device.temperature_threshold(TemperatureThreshold::Slowdown).ok().map(f64::from),
        throttled_ns: Throttled {
            hw_thermal,
            hw_power_brake,
            // There is no counter of both, and its state is also set while clocks change for no harm.
            hw_slowdown: None,
            sw_thermal,
            sw_power_cap,
            sync_boost,
        },
        is_idle: reasons.map(|reasons| reasons.contains(ThrottleReasons::GPU_IDLE)),
        memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
        pcie: pcie(device),
        ..Reading::default()
    };
    DeviceState { reading, processes: processes(device) }
}

/// Values of fields, `None` where the device has no such field.
fn fields<const N: usize>(device: &Device<'_>, ids: [u32; N]) -> [Option<u64>; N] {
    let values = device.field_values_for(&ids.map(FieldId)).unwrap_or_default();
    let mut values = values.into_iter().map(|value| whole(&value.ok()?.value.ok()?));
    ids.map(|_| values.next().flatten())
}

fn whole(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

fn pcie(device: &Device<'_>) -> Option<Pcie> {
    Some(Pcie {
        generation: device.current_pcie_link_gen().ok()?,
        max_generation: device.max_pcie_link_gen().ok()?,
        width: device.current_pcie_link_width().ok()?,
        max_width: device.max_pcie_link_width().ok()?,
    })
}

/// Windows' own driver model keeps the memory of processes to itself.
fn processes(device: &Device<'_>) -> Option<BTreeMap<u32, Option<u64>>> {
    let bytes = |used| match used {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    let all = device.running_compute_processes().ok()?;
    Some(all.into_iter().map(|process| (process.pid, bytes(process.used_gpu_memory))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(visible: Option<&str>) -> Vec<(String, Name)> {
        let devices = ["cpu", "cuda:0", "cuda:1", "vulkan:0"].map(|text| text.parse().unwrap());
        names(&devices, visible).into_iter().map(|(id, name)| (id.to_string(), name)).collect()
    }

    fn cuda(index: u32, name: Name) -> (String, Name) {
        (format!("cuda:{index}"), name)
    }

    #[test]
    fn devices_are_those_that_cuda_shows() {
        assert_eq!(named(None), [cuda(0, Name::Index(0)), cuda(1, Name::Index(1))]);
        assert_eq!(named(Some("3, 1")), [cuda(0, Name::Index(3)), cuda(1, Name::Index(1))]);
        assert_eq!(named(Some("GPU-ab")), [cuda(0, Name::Uuid("GPU-ab".to_owned()))]);
        assert_eq!(named(Some("MIG-7,x")), [cuda(0, Name::Uuid("MIG-7".to_owned()))]);
        assert_eq!(named(Some("")), []);
    }

    #[test]
    fn clocks_that_somebody_has_set_are_named() {
        assert_eq!(clock_policy(Some((1980, 1980)), Some((2619, 2619))).as_deref(), Some("default"));
        assert_eq!(clock_policy(Some((1200, 1980)), Some((2619, 2619))).as_deref(), Some("SM 1200 MHz"));
        assert_eq!(
            clock_policy(Some((1200, 1980)), Some((1593, 2619))).as_deref(),
            Some("SM 1200 MHz, memory 1593 MHz")
        );
        assert_eq!(clock_policy(None, Some((1593, 2619))), None, "not known is not the default");
    }

    #[test]
    fn without_a_device_of_its_kind_the_library_is_not_looked_for() {
        assert!(Nvml::open(&[DeviceId::CPU]).is_none());
    }
}
