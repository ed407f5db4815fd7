//! Telemetry: what a device and its host were like while a repetition was measured.
//!
//! Sources (a driver's library, files of the kernel, …) are read some ten times a second into [`Reading`]s, which name no
//! vendor. [`summarise`] makes one [`Telemetry`] of those that belong to a repetition. What no source tells is `None`, in a
//! reading and in a summary: **absent is never zero**.
//!
//! Two kinds of numbers. A *state* (a clock, a temperature) holds at its moment; those read within the window count, and
//! where it was too short for any, the nearest one. A *counter* (energy, nanoseconds spent throttled) only grows; the
//! window's share is the difference of the readings that enclose it.

use serde::{Deserialize, Serialize};

use crate::ranks;

/// How far outside of a window a reading may lie and still speak for its edge, in nanoseconds.
const REACH_NS: u64 = 300_000_000;

/// Energy counters move in steps of a tenth of a second: windows shorter than this, in nanoseconds, get no energy.
pub const MIN_ENERGY_NS: u64 = 10_000_000_000;

/// The same of processor time, which some sources read once a second only.
const LOAD_REACH_NS: u64 = 1_300_000_000;

/// Processor time is counted in ticks of ten milliseconds: load is taken over this many nanoseconds at least, those
/// before a short window included.
const MIN_LOAD_NS: u64 = 1_000_000_000;

/// Readings that a coefficient of variation needs.
const MIN_FOR_CV: usize = 3;

/// Time that a device was slowed down, in nanoseconds, by reason. As a reading: since whenever its counters began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttled {
    /// By its hardware, because of heat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hw_thermal: Option<u64>,
    /// By its hardware, on a signal from the power supply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hw_power_brake: Option<u64>,
    /// By its hardware, for either reason, where they are not told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hw_slowdown: Option<u64>,
    /// By its driver, because of heat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sw_thermal: Option<u64>,
    /// By its driver, to stay below its power limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sw_power_cap: Option<u64>,
    /// To keep the clock of other devices in its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_boost: Option<u64>,
}

impl Throttled {
    /// By its hardware, whatever the reason. Reasons may overlap, so it is the longest of them.
    pub fn hardware(&self) -> Option<u64> {
        [self.hw_thermal, self.hw_power_brake, self.hw_slowdown].into_iter().flatten().max()
    }

    /// Because of heat, by hardware or driver. Reasons may overlap, so it is the longer of them.
    pub fn by_heat(&self) -> Option<u64> {
        self.hw_thermal.max(self.sw_thermal)
    }

    /// What was added since `before`, where both know it.
    fn since(&self, before: &Self) -> Self {
        let delta = |of: fn(&Self) -> Option<u64>| difference(of(before), of(self));
        Self {
            hw_thermal: delta(|t| t.hw_thermal),
            hw_power_brake: delta(|t| t.hw_power_brake),
            hw_slowdown: delta(|t| t.hw_slowdown),
            sw_thermal: delta(|t| t.sw_thermal),
            sw_power_cap: delta(|t| t.sw_power_cap),
            sync_boost: delta(|t| t.sync_boost),
        }
    }
}

/// A counter's growth; `None` where it is not known, or where the counter began anew.
fn difference(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    after?.checked_sub(before?)
}

/// One moment of one device and its host, from the point of view of one worker process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// Counter: processor time of all processes of the host, in nanoseconds.
    pub host_busy_ns: Option<u64>,
    /// Counter: processor time of the worker process, in nanoseconds.
    pub own_busy_ns: Option<u64>,
    /// Clock of the host's processors, mean over cores, in MHz.
    pub cpu_mhz: Option<f64>,
    /// Temperature of the host's processors, the hottest one, in degrees Celsius.
    pub cpu_temperature_c: Option<f64>,
    /// The policy by which the host chooses its processors' clock: `performance`.
    pub governor: Option<String>,
    /// Whether the host runs on its battery.
    pub on_battery: Option<bool>,
    /// Whether the host saves power at the cost of speed.
    pub low_power_mode: Option<bool>,
    /// Clock of the device's compute units, in MHz.
    pub clock_mhz: Option<f64>,
    /// Clock of the device's memory, in MHz.
    pub memory_clock_mhz: Option<f64>,
    /// What the device draws, in watts.
    pub power_w: Option<f64>,
    /// Counter: what it has drawn, in millijoules.
    pub energy_mj: Option<u64>,
    /// Its temperature, in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// The temperature at which it slows itself down, in degrees Celsius.
    pub temperature_limit_c: Option<f64>,
    /// Counters: how long it was slowed down.
    pub throttled_ns: Throttled,
    /// Whether it had nothing to do.
    pub is_idle: Option<bool>,
    /// Its memory in use by anybody, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Its memory in use by the worker process, in bytes.
    pub own_memory_bytes: Option<u64>,
    /// Processes that compute on it and are not the worker.
    pub foreign_processes: Option<u32>,
    /// Its bus.
    pub pcie: Option<Pcie>,
}

/// The link between a device and its host, as it is and at its best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// Generation in use.
    pub generation: u32,
    /// The highest generation that both sides can do.
    pub max_generation: u32,
    /// Lanes in use.
    pub width: u32,
    /// The most lanes that both sides have.
    pub max_width: u32,
}

/// The smallest, the middle and the largest of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let sorted = ranks::sorted(values.iter().copied());
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Self { min, median: ranks::median(&sorted)?, max })
    }
}

/// What the surroundings of one repetition were like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// Length of the window, in nanoseconds.
    pub window_ns: u64,
    /// Readings within it.
    pub readings: u32,
    /// Sources that had been there and could not be read any more, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Load by everything but the worker process, in cores; over a second at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_by_others: Option<f64>,
    /// Clock of the host's processors, mean over cores, in MHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<Spread>,
    /// Temperature of the host's processors at most, in degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_temperature_c: Option<f64>,
    /// The policy by which the host chooses its processors' clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Whether the host ran on its battery at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_battery: Option<bool>,
    /// Whether the host saved power at the cost of speed at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_power_mode: Option<bool>,
    /// Clock of the device's compute units, in MHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<Spread>,
    /// Standard deviation of that clock in relation to its mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_cv: Option<f64>,
    /// Clock of the device's memory, in MHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<Spread>,
    /// What the device drew on average, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// What it drew in all, in millijoules. Only for windows of [`MIN_ENERGY_NS`] and longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_mj: Option<u64>,
    /// Its temperature at most, in degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// The temperature at which it slows itself down, in degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_limit_c: Option<f64>,
    /// How long it was slowed down, in nanoseconds.
    pub throttled_ns: Throttled,
    /// Share of the readings within the window at which it had nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_share: Option<f64>,
    /// Its memory in use by anybody at most, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Its memory in use before the worker process was started, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_baseline_bytes: Option<u64>,
    /// Its memory in use by the worker process at most, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_memory_bytes: Option<u64>,
    /// What the worker process may have in the device's memory, in bytes. Told by the worker, on Windows only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget_bytes: Option<u64>,
    /// By how much what it has in the host's memory for the device has grown since the weights were loaded, in bytes. Told
    /// by the worker, on Windows only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spilled_bytes: Option<u64>,
    /// Processes that computed on it and are not the worker, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_processes: Option<u32>,
    /// Its bus, as last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// How long the worker process was not started because the device was hot, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cool_down_ns: Option<u64>,
}

impl Telemetry {
    /// Device memory that the worker needed at most, in bytes: its own as the driver counts it, else what the device had
    /// in use beyond what it had before the worker was there.
    pub fn device_memory_bytes(&self) -> Option<u64> {
        let beyond = || self.memory_used_bytes?.checked_sub(self.memory_baseline_bytes?);
        self.own_memory_bytes.or_else(beyond)
    }

    /// Energy per token for a repetition of so many tokens, in joules. An estimate: it has the idle power in it.
    pub fn joules_per_token(&self, tokens: u64) -> Option<f64> {
        (tokens > 0).then_some(self.energy_mj? as f64 / 1e3 / tokens as f64)
    }
}

/// What the readings say of the window from `start` to `end`. Moments are nanoseconds of one monotonic clock; readings are
/// in their order. `None` for a window without a reading near it.
pub fn summarise(readings: &[(u64, Reading)], start: u64, end: u64) -> Option<Telemetry> {
    let window = Window::new(readings, start, end)?;
    let clocks = window.states(|r| r.clock_mhz);
    Some(Telemetry {
        window_ns: end.saturating_sub(start),
        readings: u32::try_from(window.inside.len()).unwrap_or(u32::MAX),
        lost: Vec::new(),
        load_by_others: load_by_others(readings, &window),
        cpu_mhz: Spread::of(&window.states(|r| r.cpu_mhz)),
        cpu_temperature_c: window.highest(|r| r.cpu_temperature_c),
        governor: window.last(|r| r.governor.clone()),
        on_battery: window.around().filter_map(|r| r.on_battery).max(),
        low_power_mode: window.around().filter_map(|r| r.low_power_mode).max(),
        clock_mhz: Spread::of(&clocks),
        clock_cv: coefficient_of_variation(&clocks),
        memory_clock_mhz: Spread::of(&window.states(|r| r.memory_clock_mhz)),
        power_w: mean(&window.states(|r| r.power_w)),
        energy_mj: if end.saturating_sub(start) >= MIN_ENERGY_NS { window.growth(|r| r.energy_mj) } else { None },
        temperature_c: window.highest(|r| r.temperature_c),
        temperature_limit_c: window.last(|r| r.temperature_limit_c),
        throttled_ns: window
            .edges()
            .map(|(before, after)| after.throttled_ns.since(&before.throttled_ns))
            .unwrap_or_default(),
        idle_share: window.idle_share(),
        memory_used_bytes: window.around().filter_map(|r| r.memory_used_bytes).max(),
        memory_baseline_bytes: None,
        own_memory_bytes: window.around().filter_map(|r| r.own_memory_bytes).max(),
        memory_budget_bytes: None,
        spilled_bytes: None,
        foreign_processes: window.around().filter_map(|r| r.foreign_processes).max(),
        pcie: window.last(|r| r.pcie),
        cool_down_ns: None,
    })
}

/// The readings that matter for a window.
struct Window<'r> {
    inside: &'r [(u64, Reading)],
    /// The last one before it, if it is near.
    before: Option<&'r (u64, Reading)>,
    /// The first one after it, if it is near.
    after: Option<&'r (u64, Reading)>,
    start: u64,
    end: u64,
}

impl<'r> Window<'r> {
    fn new(readings: &'r [(u64, Reading)], start: u64, end: u64) -> Option<Self> {
        let first = readings.partition_point(|(at, _)| *at < start);
        let behind = readings.partition_point(|(at, _)| *at <= end).max(first);
        let near = |edge: u64| move |reading: &&(u64, Reading)| reading.0.abs_diff(edge) <= REACH_NS;
        let before = readings[..first].last().filter(near(start));
        let after = readings[behind..].first().filter(near(end));
        let inside = &readings[first..behind];
        let any = !inside.is_empty() || before.is_some() || after.is_some();
        any.then_some(Self { inside, before, after, start, end })
    }

    /// Readings within the window, and those next to it.
    fn around(&self) -> impl DoubleEndedIterator<Item = &'r Reading> {
        self.before.into_iter().chain(self.inside).chain(self.after).map(|(_, reading)| reading)
    }

    /// A state's values within the window; where there is none, the nearest one.
    fn states(&self, of: fn(&Reading) -> Option<f64>) -> Vec<f64> {
        let inside: Vec<f64> = self.inside.iter().filter_map(|(_, reading)| of(reading)).collect();
        if !self.inside.is_empty() {
            return inside;
        }
        let distance = |reading: &&&(u64, Reading)| reading.0.abs_diff(self.start).min(reading.0.abs_diff(self.end));
        let nearest = [self.before, self.after].into_iter().flatten().collect::<Vec<_>>();
        nearest.iter().min_by_key(distance).and_then(|(_, reading)| of(reading)).into_iter().collect()
    }

    fn highest(&self, of: fn(&Reading) -> Option<f64>) -> Option<f64> {
        self.around().filter_map(of).filter(|value| value.is_finite()).reduce(f64::max)
    }

    fn last<T>(&self, of: fn(&Reading) -> Option<T>) -> Option<T> {
        self.around().rev().find_map(of)
    }

    /// The readings that enclose the window, or stand for its edges from within.
    fn edges(&self) -> Option<(&'r Reading, &'r Reading)> {
        let within =
            |reading: Option<&'r (u64, Reading)>, edge: u64| reading.filter(|r| r.0.abs_diff(edge) <= REACH_NS);
        let before = self.before.or_else(|| within(self.inside.first(), self.start))?;
        let after = self.after.or_else(|| within(self.inside.last(), self.end))?;
        (before.0 < after.0).then_some((&before.1, &after.1))
    }

    /// How much a counter grew.
    fn growth(&self, of: fn(&Reading) -> Option<u64>) -> Option<u64> {
        let (before, after) = self.edges()?;
        difference(of(before), of(after))
    }

    /// At the edges the repetition is about to begin or over: they don't count.
    fn idle_share(&self) -> Option<f64> {
        let idle: Vec<bool> = self.inside.iter().filter_map(|(_, reading)| reading.is_idle).collect();
        (!idle.is_empty()).then(|| idle.iter().filter(|idle| **idle).count() as f64 / idle.len() as f64)
    }
}

/// Processor time of others over the window, or over the last second where the window is shorter.
fn load_by_others(readings: &[(u64, Reading)], window: &Window<'_>) -> Option<f64> {
    // Not every reading tells it.
    let known = |(at, reading): &(u64, Reading)| Some((*at, reading.host_busy_ns?, reading.own_busy_ns?));
    let last = window.after.into_iter().chain(window.inside.iter().rev()).find_map(known)?;
    let from = window.start.min(last.0.checked_sub(MIN_LOAD_NS)?);
    // The reading before that moment, however short before: the span may be longer, never shorter.
    let before = &readings[..readings.partition_point(|(at, _)| *at <= from)];
    let first = before.iter().rev().find_map(known).filter(|(at, ..)| from - at <= LOAD_REACH_NS)?;
    let own = last.2.checked_sub(first.2)?;
    // Both are rounded to ticks: others may seem to have taken less than nothing.
    let others = last.1.checked_sub(first.1)?.saturating_sub(own);
    Some(others as f64 / (last.0 - first.0) as f64)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn coefficient_of_variation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|mean| values.len() >= MIN_FOR_CV && *mean > 0.0)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt() / mean)
}

#[cfg(test)]
mod tests;
