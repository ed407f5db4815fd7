//! Surroundings of repetitions in tables: a column for everything that was seen of any of them.

use regatta_core::sample::Sample;
use regatta_core::telemetry::Telemetry;
use serde::Serialize;

use crate::text;

/// Head of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// What it is.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

/// A column: its head, and where its values are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    head: Head,
    of: fn(&Telemetry) -> Option<f64>,
}

/// Every column that there may be, in reading order. What a device tells stands before what the host tells.
const ALL: [Column; 8] = [
    column("Clock", "MHz", |seen| Some(seen.clock_mhz?.median)),
    column("CPU clock", "MHz", |seen| Some(seen.cpu_mhz?.median)),
    column("Temperature", "°C at most", |seen| seen.temperature_c),
    column("CPU temperature", "°C at most", |seen| seen.cpu_temperature_c),
    column("Power", "W", |seen| seen.power_w),
    column("Others", "cores", |seen| seen.load_by_others),
    column("Cooled before", "s", |seen| Some(seen.cool_down_ns? as f64 / 1e9)),
    column("Slowed down", "ms", |seen| Some(seen.throttled_ns.hardware()? as f64 / 1e6)),
];

const fn column(name: &'static str, unit: &'static str, of: fn(&Telemetry) -> Option<f64>) -> Column {
    Column { head: Head { name, unit }, of }
}

/// The columns in which any of the samples has a value.
pub(super) fn columns<'s>(samples: impl Iterator<Item = &'s Sample>) -> Vec<Column> {
    let seen: Vec<&Telemetry> = samples.filter_map(|sample| sample.telemetry.as_deref()).collect();
    ALL.into_iter().filter(|column| seen.iter().any(|seen| (column.of)(seen).is_some())).collect()
}

impl Column {
    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn value(&self, sample: &Sample) -> String {
        text::optional(sample.telemetry.as_deref().and_then(self.of))
    }
}

/// Whether device memory or energy of any of the samples is known: columns of the table of cells.
pub(super) fn has_device_numbers<'s>(samples: impl Iterator<Item = &'s Sample>) -> (bool, bool) {
    let known = |(memory, energy), sample: &Sample| {
        let seen = sample.telemetry.as_deref();
        let known = |of: fn(&Telemetry) -> Option<u64>| seen.and_then(of).is_some();
        (memory || known(Telemetry::device_memory_bytes), energy || known(|seen| seen.energy_mj))
    };
    samples.fold((false, false), known)
}
