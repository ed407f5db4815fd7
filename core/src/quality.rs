//! Quality: whether a repetition may be counted, by what its surroundings were like.
//!
//! | seen | the repetition is |
//! | --- | --- |
//! | slowed down by the device's hardware, for any time | invalid |
//! | another program computes on the device | invalid |
//! | slowed down by the driver for heat, more than 1 % of the time | suspect |
//! | clock varies by more than 3 % | suspect |
//! | within 5 °C of the temperature at which the device slows itself down | suspect |
//! | more than 16 MiB were moved from the device's memory to the host's since the weights were loaded, or it has more than its budget | suspect |
//! | others take more than half a core, fewer bus lanes than there are, battery, power saving | suspect |
//! | the clock of a group of devices is kept, the device waits for the host | suspect |
//!
//! The power limit is none of these: many devices run at it all the time, and steadily. What no source told is not held
//! against a repetition; that a source was lost is a flag of its own.
//!
//! An invalid repetition is kept, shown apart and counted nowhere. A suspect one is counted, and flagged wherever it shows.

use crate::flag::{Flag, Flags};
use crate::telemetry::Telemetry;

/// Most passes that are made again for the sake of quality. After them what there is has to do.
pub const MAX_REPEATS: u32 = 2;

/// Slowed down by the driver for heat: this share of the time is too much.
const MAX_THERMAL_SHARE: f64 = 0.01;
/// A clock whose standard deviation is more than this share of its mean is not steady.
const MAX_CLOCK_CV: f64 = 0.03;
/// Nearer to the limit than this, in degrees Celsius, is hot.
const MIN_HEADROOM_C: f64 = 5.0;
/// Buffers to send from come and go; this much more of the host's memory, in bytes, is something else.
const MAX_SPILLED: u64 = 16 << 20;
/// More load by others than this, in cores, disturbs.
const MAX_LOAD_BY_OTHERS: f64 = 0.5;

/// Whether a repetition may be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quality {
    /// Nothing is known against it.
    Valid,
    /// It counts, but these must be said. Never empty.
    Suspect(Flags),
    /// It does not count. Never empty; reasons for suspicion may be among them.
    Invalid(Flags),
}

/// Judges a repetition by its surroundings. By itself: whether a clock is lower than it used to be takes a history.
pub fn classify(telemetry: &Telemetry) -> Quality {
    let seen = [
        (Flag::HardwareSlowdown, telemetry.throttled_ns.hardware().is_some_and(|ns| ns > 0)),
        (Flag::ForeignProcess, telemetry.foreign_processes.is_some_and(|n| n > 0)),
        (Flag::ThermalThrottling, throttled_by_heat(telemetry)),
        (Flag::UnsteadyClock, telemetry.clock_cv.is_some_and(|cv| cv > MAX_CLOCK_CV)),
        (Flag::NearHeatLimit, hot(telemetry)),
        (Flag::MemorySpilled, spilled(telemetry)),
        (Flag::BusyHost, telemetry.load_by_others.is_some_and(|cores| cores > MAX_LOAD_BY_OTHERS)),
        (Flag::NarrowBus, telemetry.pcie.is_some_and(|pcie| pcie.width < pcie.max_width)),
        (Flag::OnBattery, telemetry.on_battery == Some(true)),
        (Flag::LowPowerMode, telemetry.low_power_mode == Some(true)),
        (Flag::SyncBoost, telemetry.throttled_ns.sync_boost.is_some_and(|ns| ns > 0)),
        (Flag::HostBound, telemetry.idle_share.is_some_and(|share| share > 0.0)),
    ];
    Quality::of(seen.into_iter().filter(|(_, is_seen)| *is_seen).map(|(flag, _)| flag).collect())
}

fn throttled_by_heat(telemetry: &Telemetry) -> bool {
    let most = telemetry.window_ns as f64 * MAX_THERMAL_SHARE;
    telemetry.throttled_ns.sw_thermal.is_some_and(|ns| ns as f64 > most)
}

fn hot(telemetry: &Telemetry) -> bool {
    let limit = telemetry.temperature_c.zip(telemetry.temperature_limit_c);
    limit.is_some_and(|(temperature, limit)| temperature >= limit - MIN_HEADROOM_C)
}

fn spilled(telemetry: &Telemetry) -> bool {
    let over_budget =
        telemetry.own_memory_bytes.zip(telemetry.memory_budget_bytes).is_some_and(|(own, most)| own > most);
    over_budget || telemetry.spilled_bytes.is_some_and(|bytes| bytes > MAX_SPILLED)
}

impl Quality {
    /// The quality that these flags of a sample stand for; those that are no matter of quality are left out.
    pub fn of(flags: Flags) -> Self {
        let reasons: Flags = flags.iter().filter(|&flag| invalidates(flag) || is_suspicious(flag)).collect();
        if reasons.iter().any(invalidates) {
            Self::Invalid(reasons)
        } else if reasons.is_empty() {
            Self::Valid
        } else {
            Self::Suspect(reasons)
        }
    }

    /// What must be said beside the repetition's numbers.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Valid => Flags::empty(),
            Self::Suspect(flags) | Self::Invalid(flags) => *flags,
        }
    }

    /// Whether the repetition is to be counted.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }

    /// The name in exports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Suspect(_) => "suspect",
            Self::Invalid(_) => "invalid",
        }
    }
}

fn invalidates(flag: Flag) -> bool {
    matches!(flag, Flag::HardwareSlowdown | Flag::ForeignProcess)
}

fn is_suspicious(flag: Flag) -> bool {
    matches!(
        flag,
        Flag::ThermalThrottling
            | Flag::UnsteadyClock
            | Flag::NearHeatLimit
            | Flag::MemorySpilled
            | Flag::BusyHost
            | Flag::NarrowBus
            | Flag::OnBattery
            | Flag::LowPowerMode
            | Flag::SyncBoost
            | Flag::HostBound
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Pcie, Throttled};

    fn suspect(flag: Flag) -> Quality {
        Quality::Suspect(Flags::from_iter([flag]))
    }

    /// How a repetition is judged of which only this is known.
    fn judged(change: impl FnOnce(&mut Telemetry)) -> Quality {
        let mut telemetry = Telemetry { window_ns: 1_000_000_000, ..Telemetry::default() };
        change(&mut telemetry);
        classify(&telemetry)
    }

    #[test]
    fn nothing_known_is_nothing_against_it() {
        assert_eq!(judged(|_| ()), Quality::Valid);
        assert_eq!(judged(|t| t.lost = vec!["nvml".to_owned()]), Quality::Valid);
    }

    #[test]
    fn what_the_hardware_or_others_did_makes_it_invalid() {
        let slowdown = Quality::Invalid(Flags::from_iter([Flag::HardwareSlowdown]));
        assert_eq!(judged(|t| t.throttled_ns.hw_thermal = Some(1)), slowdown);
        assert_eq!(judged(|t| t.throttled_ns.hw_power_brake = Some(1)), slowdown);
        assert_eq!(judged(|t| t.throttled_ns.hw_slowdown = Some(1)), slowdown);
        assert_eq!(
            judged(|t| t.foreign_processes = Some(1)),
            Quality::Invalid(Flags::from_iter([Flag::ForeignProcess]))
        );
        let both = judged(|t| (t.foreign_processes, t.on_battery) = (Some(2), Some(true)));
        assert_eq!(both, Quality::Invalid(Flags::from_iter([Flag::ForeignProcess, Flag::OnBattery])));
        assert!(!both.counts());
    }

    #[test]
    fn each_limit_is_where_the_table_says() {
        let pcie = |width| Some(Pcie { generation: 3, max_generation: 5, width, max_width: 16 });
        let at_rest = Throttled { hw_thermal: Some(0), sync_boost: Some(0), ..Throttled::default() };
        for (found, expected) in [
            (judged(|t| t.throttled_ns = at_rest), Quality::Valid),
            (judged(|t| t.throttled_ns.sw_power_cap = Some(1_000_000_000)), Quality::Valid),
            (judged(|t| t.throttled_ns.sw_thermal = Some(10_000_000)), Quality::Valid),
            (judged(|t| t.throttled_ns.sw_thermal = Some(10_000_001)), suspect(Flag::ThermalThrottling)),
            (judged(|t| t.throttled_ns.sync_boost = Some(1)), suspect(Flag::SyncBoost)),
            (judged(|t| t.clock_cv = Some(0.03)), Quality::Valid),
            (judged(|t| t.clock_cv = Some(0.031)), suspect(Flag::UnsteadyClock)),
            (judged(|t| (t.temperature_c, t.temperature_limit_c) = (Some(84.9), Some(90.0))), Quality::Valid),
            (
                judged(|t| (t.temperature_c, t.temperature_limit_c) = (Some(85.0), Some(90.0))),
                suspect(Flag::NearHeatLimit),
            ),
            (judged(|t| t.temperature_c = Some(99.0)), Quality::Valid),
            (judged(|t| t.load_by_others = Some(0.5)), Quality::Valid),
            (judged(|t| t.load_by_others = Some(0.51)), suspect(Flag::BusyHost)),
            (judged(|t| t.spilled_bytes = Some(16 << 20)), Quality::Valid),
            (judged(|t| t.spilled_bytes = Some((16 << 20) + 1)), suspect(Flag::MemorySpilled)),
            (judged(|t| (t.own_memory_bytes, t.memory_budget_bytes) = (Some(8), Some(8))), Quality::Valid),
            (
                judged(|t| (t.own_memory_bytes, t.memory_budget_bytes) = (Some(9), Some(8))),
                suspect(Flag::MemorySpilled),
            ),
            (judged(|t| t.pcie = pcie(16)), Quality::Valid),
            (judged(|t| t.pcie = pcie(8)), suspect(Flag::NarrowBus)),
            (judged(|t| t.on_battery = Some(true)), suspect(Flag::OnBattery)),
            (judged(|t| t.low_power_mode = Some(true)), suspect(Flag::LowPowerMode)),
            (judged(|t| t.idle_share = Some(0.0)), Quality::Valid),
            (judged(|t| t.idle_share = Some(0.1)), suspect(Flag::HostBound)),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_samples_other_flags_are_no_matter_of_quality() {
        for flag in Flag::ALL {
            let quality = Quality::of(Flags::from_iter([flag]));
            assert_eq!(quality.flags().contains(flag), invalidates(flag) || is_suspicious(flag));
            assert!(!(invalidates(flag) && is_suspicious(flag)));
        }
        assert_eq!(Quality::of(Flags::from_iter([Flag::SyntheticWeights, Flag::TelemetryLost])), Quality::Valid);
    }
}
