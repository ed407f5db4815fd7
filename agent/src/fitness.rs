//! Fitness: whether this machine, as it is now, can give numbers worth having. Where it can't, `regatta run` refuses unless
//! it is told to measure all the same, and results are marked.

use std::fmt;
use std::path::PathBuf;

use regatta_core::flag::{Flag, Flags};
use regatta_core::telemetry::Reading;

use crate::telemetry;
use crate::workers::Worker;

/// Why numbers of this machine would not be worth having.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It runs on its battery.
    OnBattery,
    /// It is set to save power.
    LowPowerMode,
    /// This worker is compiled without optimisation.
    DebugBuild(PathBuf),
}

impl Unfit {
    /// What every result must carry.
    pub fn flag(&self) -> Flag {
        match self {
            Self::OnBattery => Flag::OnBattery,
            Self::LowPowerMode => Flag::LowPowerMode,
            Self::DebugBuild(_) => Flag::DebugBuild,
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnBattery => f.write_str("it runs on its battery: plug it in"),
            Self::LowPowerMode => f.write_str("it is set to save power: choose another power profile"),
            Self::DebugBuild(path) => {
                write!(f, "{} is compiled without optimisation: build it with --release", path.display())
            }
        }
    }
}

/// How the host is, as far as it can be told; it takes no worker to know that.
pub fn of_host() -> Vec<Unfit> {
    power(&telemetry::host())
}

fn power(host: &Reading) -> Vec<Unfit> {
    let seen = [(host.on_battery, Unfit::OnBattery), (host.low_power_mode, Unfit::LowPowerMode)];
    seen.into_iter().filter(|(is_so, _)| *is_so == Some(true)).map(|(_, unfit)| unfit).collect()
}

/// How the workers are.
pub fn of_workers(workers: &[Worker]) -> Vec<Unfit> {
    let debug = workers.iter().filter(|worker| !worker.info.optimised);
    debug.map(|worker| Unfit::DebugBuild(worker.path.clone())).collect()
}

/// The flags that stand for these.
pub fn flags(unfit: &[Unfit]) -> Flags {
    unfit.iter().map(Unfit::flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_told_is_not_held_against_a_machine() {
        assert_eq!(power(&Reading::default()), []);
        let plugged_in = Reading { on_battery: Some(false), low_power_mode: Some(false), ..Reading::default() };
        assert_eq!(power(&plugged_in), []);
        let away = Reading { on_battery: Some(true), low_power_mode: Some(true), ..Reading::default() };
        assert_eq!(flags(&power(&away)), Flag::OnBattery | Flag::LowPowerMode);
    }
}
