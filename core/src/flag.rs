//! Flags: what must be said beside a number so that it claims no more than was done.

use std::fmt;
use std::str::FromStr;

use enumflags2::{BitFlags, bitflags};

/// One thing to be said beside a number.
#[bitflags]
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// The weights are made up.
    SyntheticWeights,
    /// The worker was compiled for a lower SIMD level than the CPU has.
    SimdBelowCpu,
    /// The worker was compiled without optimisation.
    DebugBuild,
    /// Warm-up ended at its limit before the last repetitions agreed.
    WarmupNotStable,
    /// The output's token ids differ from those of the cell's first repetition.
    OutputChanged,
    /// The numbers come from the `fake` backend.
    FakeBackend,
    /// The thread count is not one per physical core.
    ThreadsOverridden,
    /// The engine computed in wider numbers than the weights are stored in.
    Widened,
    /// Tokens came faster than any memory can deliver the weights: the clock or a synchronisation is wrong.
    FasterThanPhysics,
    /// Trials on other devices of the machine may have run at the same time.
    SharedHost,
    /// The device's hardware slowed it down: heat, or a signal from its power supply.
    HardwareSlowdown,
    /// Another program computed on the device.
    ForeignProcess,
    /// The driver slowed the device down because of heat.
    ThermalThrottling,
    /// The device's clock was not steady.
    UnsteadyClock,
    /// The device was about to become too hot.
    NearHeatLimit,
    /// Other programs kept the host busy.
    BusyHost,
    /// The device's bus used fewer lanes than it has.
    NarrowBus,
    /// The host ran on its battery.
    OnBattery,
    /// The host saved power.
    LowPowerMode,
    /// The device kept the clock of others in its group.
    SyncBoost,
    /// The device waited for the host.
    HostBound,
    /// A source of telemetry could not be read any more.
    TelemetryLost,
    /// The worker's data had to leave the device's memory for the host's.
    MemorySpilled,
    /// The device was still at work when the last time was taken: the backend forgot to wait for it.
    NotWaitedFor,
    /// Repetitions got steadily slower, or faster. Told of a cell, not of a sample.
    Trend,
}

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 25] = [
        Self::SyntheticWeights,
        Self::SimdBelowCpu,
        Self::DebugBuild,
        Self::WarmupNotStable,
        Self::OutputChanged,
        Self::FakeBackend,
        Self::ThreadsOverridden,
        Self::Widened,
        Self::FasterThanPhysics,
        Self::SharedHost,
        Self::HardwareSlowdown,
        Self::ForeignProcess,
        Self::ThermalThrottling,
        Self::UnsteadyClock,
        Self::NearHeatLimit,
        Self::BusyHost,
        Self::NarrowBus,
        Self::OnBattery,
        Self::LowPowerMode,
        Self::SyncBoost,
        Self::HostBound,
        Self::TelemetryLost,
        Self::MemorySpilled,
        Self::NotWaitedFor,
        Self::Trend,
    ];

    /// The name in the database, exports and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SyntheticWeights => "synthetic_weights",
            Self::SimdBelowCpu => "simd_below_cpu",
            Self::DebugBuild => "debug_build",
            Self::WarmupNotStable => "warmup_not_stable",
            Self::OutputChanged => "output_changed",
            Self::FakeBackend => "fake_backend",
            Self::ThreadsOverridden => "threads_overridden",
            Self::Widened => "widened",
            Self::FasterThanPhysics => "faster_than_physics",
            Self::SharedHost => "shared_host",
            Self::HardwareSlowdown => "hardware_slowdown",
            Self::ForeignProcess => "foreign_process",
            Self::ThermalThrottling => "thermal_throttling",
            Self::UnsteadyClock => "unsteady_clock",
            Self::NearHeatLimit => "near_heat_limit",
            Self::BusyHost => "busy_host",
            Self::NarrowBus => "narrow_bus",
            Self::OnBattery => "on_battery",
            Self::LowPowerMode => "low_power_mode",
            Self::SyncBoost => "sync_boost",
            Self::HostBound => "host_bound",
            Self::TelemetryLost => "telemetry_lost",
            Self::MemorySpilled => "memory_spilled",
            Self::NotWaitedFor => "not_waited_for",
            Self::Trend => "trend",
        }
    }

    /// A sentence for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::SyntheticWeights => "weights are seeded random numbers: speed is real, text is not",
            Self::SimdBelowCpu => "worker compiled for a lower SIMD level than this CPU has: slower than it could be",
            Self::DebugBuild => "worker compiled without optimisation",
            Self::WarmupNotStable => "warm-up reached its limit before repetitions agreed",
            Self::OutputChanged => "the same prompt gave other tokens than in the cell's first repetition",
            Self::FakeBackend => "scripted timings, no model ran",
            Self::ThreadsOverridden => "thread count chosen in the scenario, not one per physical core",
            Self::Widened => "weights were widened when they were loaded, and the engine computed in 32 bits",
            Self::FasterThanPhysics => "faster than any memory can deliver the weights: kept, not charted",
            Self::SharedHost => "trials on other devices of the machine may have run at the same time",
            Self::HardwareSlowdown => "the hardware slowed the device down for heat or power: kept, not counted",
            Self::ForeignProcess => "another program computed on the device: kept, not counted",
            Self::ThermalThrottling => {
                "the driver slowed the device down because of heat for more than 1 % of the time"
            }
            Self::UnsteadyClock => "the device's clock varied by more than 3 % (standard deviation over mean)",
            Self::NearHeatLimit => "the device was within 5 °C of the temperature at which it slows itself down",
            Self::BusyHost => "programs other than the worker took more than half a core",
            Self::NarrowBus => "the device's bus used fewer lanes than it has",
            Self::OnBattery => "the machine ran on its battery",
            Self::LowPowerMode => "the machine was set to save power at the cost of speed",
            Self::SyncBoost => "the device kept the clock of other devices in its group",
            Self::HostBound => "the device had nothing to do for part of the time: it waited for the host",
            Self::TelemetryLost => "a source of telemetry failed: what it would tell is missing, not zero",
            Self::MemorySpilled => "data left the device's memory for the host's, which is many times slower",
            Self::NotWaitedFor => {
                "the device was still at work when the clock was stopped: its times are too short, kept, not charted"
            }
            Self::Trend => "repetitions got steadily slower, or faster, by more than 1 % from the first to the last",
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a known flag")]
pub struct UnknownFlag(String);

impl FromStr for Flag {
    type Err = UnknownFlag;

    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        Self::ALL.into_iter().find(|f| f.as_str() == text).ok_or_else(|| UnknownFlag(crate::id::shown(text)))
    }
}

/// A set of flags, told in the order in which they stand above.
pub type Flags = BitFlags<Flag>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for flag in Flag::ALL {
            assert_eq!(flag.to_string().parse(), Ok(flag));
            assert!(!flag.meaning().is_empty());
        }
        assert_eq!("hot".parse::<Flag>().unwrap_err().to_string(), "'hot' is not a known flag");
    }

    #[test]
    fn every_flag_is_listed_once() {
        assert_eq!(Flags::from_iter(Flag::ALL).len(), Flag::ALL.len());
    }

    /// Databases and exports have them in this order.
    #[test]
    fn a_set_tells_its_flags_in_their_order_however_it_was_filled() {
        let backwards: Flags = Flag::ALL.into_iter().rev().collect();
        assert!(backwards.iter().eq(Flag::ALL));
    }
}
