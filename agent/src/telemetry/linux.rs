//! The host on Linux, as its kernel tells it in files: processor time, clock, temperature, slowdowns for heat, energy (which
//! most systems tell to root only), battery.
//!
//! Load by others is what all processes took less what the worker took, its children that have ended included; an engine
//! that left running children behind would have them counted as others. Time that a hypervisor took away counts as busy:
//! it is others, too. A container sees the whole host here, and that is what disturbs.
//!
//! Readings take time from a worker that uses all processors, so files that are read each time stay open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use regatta_core::device::DeviceId;
use regatta_core::telemetry::{Reading, Throttled};

use super::{Snapshot, Source};

/// Clocks of this many processors are read at most, spread evenly: each is a call into the kernel.
const MAX_CLOCKS: usize = 16;

/// No machine has more.
const MAX_PROCESSORS: usize = 8192;

/// What rarely changes is read once in so many readings.
const RARELY: u32 = 10;

/// Processor time is read this often while a worker measures. It is counted in hundredths of a second and takes the kernel
/// longest to tell: with it in every reading telemetry cost a worker on two processors 0.3 % of its rate.
const LOAD_EVERY: Duration = Duration::from_millis(950);

/// Chips that measure a processor's temperature.
const CPU_CHIPS: [&str; 4] = ["coretemp", "k10temp", "zenpower", "cpu_thermal"];

pub(super) struct Linux {
    proc: PathBuf,
    tick_ns: u64,
    stat: Polled,
    /// The same of each worker.
    workers: BTreeMap<u32, Polled>,
    clocks: Vec<Polled>,
    temperatures: Vec<Polled>,
    /// Milliseconds that the processor's package was slowed down for heat.
    throttled: Option<Polled>,
    packages: Vec<Package>,
    governor: PathBuf,
    profile: PathBuf,
    supplies: PathBuf,
    readings: u32,
    /// When processor time was read last.
    load_at: Option<Instant>,
    /// As last read: governor, battery, power saving.
    rarely: Reading,
}

impl Linux {
    pub(super) fn open() -> Self {
        Self::at(Path::new("/"), rustix::param::clock_ticks_per_second())
    }

    fn at(root: &Path, ticks_per_second: u64) -> Self {
        let sys = root.join("sys");
        let cpu = sys.join("devices/system/cpu");
        let throttled = cpu.join("cpu0/thermal_throttle/package_throttle_total_time_ms");
        Self {
            proc: root.join("proc"),
            tick_ns: 1_000_000_000 / ticks_per_second.max(1),
            stat: Polled::at(root.join("proc/stat")),
            workers: BTreeMap::new(),
            clocks: clocks(&cpu).into_iter().map(Polled::at).collect(),
            temperatures: temperatures(&sys.join("class")).into_iter().map(Polled::at).collect(),
            throttled: throttled.exists().then(|| Polled::at(throttled)),
            packages: packages(&sys.join("class/powercap")),
            governor: cpu.join("cpu0/cpufreq/scaling_governor"),
            profile: sys.join("firmware/acpi/platform_profile"),
            supplies: sys.join("class/power_supply"),
            readings: 0,
            load_at: None,
            rarely: Reading::default(),
        }
    }

    /// Processor time of all processes.
    fn busy_ns(&mut self) -> Result<u64, String> {
        let path = self.stat.path.display().to_string();
        let text = self.stat.read().map_err(|error| format!("{path}: {error}"))?;
        let ticks = busy_ticks(&text).ok_or_else(|| format!("{path}: no line of all processors"))?;
        Ok(ticks * self.tick_ns)
    }

    /// Processor time of each worker; those that have gone are left out.
    fn workers_ns(&mut self, workers: &BTreeSet<u32>) -> BTreeMap<u32, u64> {
        self.workers.retain(|process, _| workers.contains(process));
        for process in workers {
            let path = || self.proc.join(process.to_string()).join("stat");
            self.workers.entry(*process).or_insert_with(|| Polled::at(path()));
        }
        let ticks =
            self.workers.iter_mut().filter_map(|(process, stat)| Some((*process, process_ticks(&stat.read().ok()?)?)));
        ticks.map(|(process, ticks)| (process, ticks * self.tick_ns)).collect()
    }

    fn read_rarely(&self) -> Reading {
        Reading {
            governor: line(&self.governor).filter(|text| text.len() <= 32),
            on_battery: on_battery(&self.supplies),
            low_power_mode: line(&self.profile).map(|profile| profile == "low-power"),
            ..Reading::default()
        }
    }
}

impl Source for Linux {
    fn name(&self) -> &'static str {
        "linux"
    }

    fn read(&mut self, workers: &BTreeSet<u32>, into: &mut Snapshot) -> Result<(), String> {
        if self.readings.is_multiple_of(RARELY) {
            self.rarely = self.read_rarely();
        }
        self.readings = self.readings.wrapping_add(1);
        let khz: Vec<f64> = self.clocks.iter_mut().filter_map(Polled::number).collect();
        let celsius = self.temperatures.iter_mut().filter_map(Polled::number::<f64>).map(|milli| milli / 1e3);
        let celsius = celsius.reduce(f64::max);
        let now = Instant::now();
        let is_due = into.asked || self.load_at.is_none_or(|at| now.duration_since(at) >= LOAD_EVERY);
        if is_due {
            self.load_at = Some(now);
        }
        into.host = Reading {
            host_busy_ns: if is_due { Some(self.busy_ns()?) } else { None },
            cpu_mhz: (!khz.is_empty()).then(|| khz.iter().sum::<f64>() / khz.len() as f64 / 1e3),
            cpu_temperature_c: celsius,
            ..self.rarely.clone()
        };
        into.busy_ns = if is_due { self.workers_ns(workers) } else { BTreeMap::new() };
        let slowed = self.throttled.as_mut().and_then(Polled::number::<u64>).map(|ms| ms * 1_000_000);
        let reading = &mut into.devices.entry(DeviceId::CPU).or_default().reading;
        reading.throttled_ns = Throttled { hw_thermal: slowed, ..Throttled::default() };
        // All of them or none: a sum with one missing would be too small.
        let packages = self.packages.iter_mut().map(Package::drawn_uj).collect::<Option<Vec<u64>>>();
        reading.energy_mj = packages.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<u64>() / 1_000);
        Ok(())
    }
}

/// A file of the kernel that is read again and again.
struct Polled {
    path: PathBuf,
    file: Option<File>,
}

impl Polled {
    fn at(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Its first kilobyte as it is now.
    fn read(&mut self) -> io::Result<String> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&self.path)?),
        };
        let mut bytes = [0; 1024];
        let n = file.read_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    fn number<T: FromStr>(&mut self) -> Option<T> {
        self.read().ok()?.trim().parse().ok()
    }
}

/// The counter of energy of one processor package (RAPL), which begins anew after some minutes or hours.
struct Package {
    counter: PathBuf,
    /// Its largest value, in microjoules.
    range_uj: u64,
    last_uj: u64,
    /// What was drawn in the rounds that it has been through.
    rounds_uj: u64,
}

impl Package {
    fn drawn_uj(&mut self) -> Option<u64> {
        let now: u64 = line(&self.counter)?.parse().ok()?;
        if now < self.last_uj {
            self.rounds_uj += self.range_uj;
        }
        self.last_uj = now;
        Some(self.rounds_uj + now)
    }
}

/// Packages whose energy this process may read: `intel-rapl:0`, and not their parts, `intel-rapl:0:1`.
fn packages(powercap: &Path) -> Vec<Package> {
    let is_package = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("intel-rapl:"));
        name.is_some_and(|number| number.parse::<u32>().is_ok())
            && line(&path.join("name")).is_some_and(|name| name.starts_with("package"))
    };
    let package = |path: PathBuf| {
        let range_uj = line(&path.join("max_energy_range_uj"))?.parse().ok()?;
        let mut package = Package { counter: path.join("energy_uj"), range_uj, last_uj: 0, rounds_uj: 0 };
        package.drawn_uj().map(|_| package)
    };
    entries(powercap).into_iter().filter(is_package).filter_map(package).collect()
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user and nice already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

/// The 14th to 17th field: in user mode and in the kernel, itself and its children that were waited for. The name before
/// them is in brackets and may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> = fields.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

/// Files with the clocks of some processors, in kHz.
fn clocks(cpu: &Path) -> Vec<PathBuf> {
    let file = |number: usize| cpu.join(format!("cpu{number}/cpufreq/scaling_cur_freq"));
    let all: Vec<PathBuf> = (0..MAX_PROCESSORS).map(file).take_while(|path| path.exists()).collect();
    let step = all.len().div_ceil(MAX_CLOCKS).max(1);
    all.into_iter().step_by(step).collect()
}

/// Files with temperatures of the processor, in thousandths of a degree.
fn temperatures(class: &Path) -> Vec<PathBuf> {
    let is_cpu = |kind: &str| CPU_CHIPS.contains(&kind) || kind.starts_with("cpu") || kind == "x86_pkg_temp";
    let named = |folder: &str, name: &str, value: &str| {
        let folders = entries(&class.join(folder)).into_iter();
        let ours = folders.filter(|path| line(&path.join(name)).is_some_and(|kind| is_cpu(&kind)));
        ours.map(|path| path.join(value)).filter(|path| path.exists()).collect::<Vec<_>>()
    };
    [named("thermal", "type", "temp"), named("hwmon", "name", "temp1_input")].concat()
}

/// Whether the host runs on a battery; `None` where there is none, and where it can't be told.
fn on_battery(supplies: &Path) -> Option<bool> {
    let batteries = entries(supplies).into_iter().filter(|path| {
        let is = |file: &str, value: &str| line(&path.join(file)).as_deref() == Some(value);
        // Mice and headsets have batteries too.
        is("type", "Battery") && !is("scope", "Device")
    });
    batteries.filter_map(|path| line(&path.join("status"))).map(|status| status == "Discharging").max()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 20 30 5000 9 4 3 2 50 1\ncpu0 1 2 3 4 5 6 7 8 9 10\n";

    /// A root folder with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(root: &tempfile::TempDir) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot::default();
        Linux::at(root.path(), 100).read(&BTreeSet::from([7, 8]), &mut snapshot).map(|()| snapshot)
    }

    #[test]
    fn everything_the_kernel_tells_is_read() {
        let files = [
            ("proc/stat", STAT),
            ("proc/7/stat", "7 (a) R (b) S 1 7 7 0 -1 0 0 0 0 0 10 5 2 1 20 0 3 0 0"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2000000\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "3000000\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", "12\n"),
            ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
            ("sys/class/thermal/thermal_zone0/temp", "99000\n"),
            ("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone1/temp", "55500\n"),
            ("sys/class/hwmon/hwmon0/name", "k10temp\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "61000\n"),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/status", "Discharging\n"),
            ("sys/class/power_supply/mouse/type", "Battery\n"),
            ("sys/class/power_supply/mouse/scope", "Device\n"),
            ("sys/firmware/acpi/platform_profile", "low-power\n"),
        ];
        let snapshot = read(&root(&files)).unwrap();
        let tick = 10_000_000;
        assert_eq!(snapshot.busy_ns, [(7, 18 * tick)].into(), "a worker that has gone is left out");
        let expected = Reading {
            host_busy_ns: Some(159 * tick),
            cpu_mhz: Some(2500.0),
            cpu_temperature_c: Some(61.0),
            governor: Some("powersave".to_owned()),
            on_battery: Some(true),
            low_power_mode: Some(true),
            ..Reading::default()
        };
        assert_eq!(snapshot.host, expected);
        let cpu = snapshot.seen_by(Some(7), &BTreeSet::new(), DeviceId::CPU);
        assert_eq!(cpu.throttled_ns.hw_thermal, Some(12_000_000));
    }

    #[test]
    fn processor_time_is_read_once_a_second_and_when_somebody_asks() {
        let root = root(&[("proc/stat", STAT), ("proc/7/stat", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 10 5 2 1 20 0 3 0 0")]);
        let mut linux = Linux::at(root.path(), 100);
        let mut read = |asked| {
            let mut snapshot = Snapshot { asked, ..Snapshot::default() };
            linux.read(&BTreeSet::from([7]), &mut snapshot).unwrap();
            (snapshot.host.host_busy_ns.is_some(), snapshot.busy_ns.len())
        };
        assert_eq!([read(false), read(false), read(true)], [(true, 1), (false, 0), (true, 1)]);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let snapshot = read(&root(&[("proc/stat", STAT)])).unwrap();
        let busy = snapshot.host.host_busy_ns;
        assert_eq!(snapshot.host, Reading { host_busy_ns: busy, ..Reading::default() });
        assert_eq!(snapshot.devices[&DeviceId::CPU], super::super::DeviceState::default());
        assert!(read(&root(&[])).unwrap_err().contains("proc/stat"));
        assert!(read(&root(&[("proc/stat", "cpu 1 2\n")])).unwrap_err().contains("no line of all processors"));
    }

    #[test]
    fn energy_of_packages_is_added_up_and_goes_on_when_a_counter_begins_anew() {
        let folder = |name: &str| format!("sys/class/powercap/{name}");
        let root = root(&[
            ("proc/stat", STAT),
            (&(folder("intel-rapl:0") + "/name"), "package-0"),
            (&(folder("intel-rapl:0") + "/max_energy_range_uj"), "1000000"),
            (&(folder("intel-rapl:0") + "/energy_uj"), "900000"),
            (&(folder("intel-rapl:1") + "/name"), "package-1"),
            (&(folder("intel-rapl:1") + "/max_energy_range_uj"), "1000000"),
            (&(folder("intel-rapl:1") + "/energy_uj"), "5000"),
            (&(folder("intel-rapl:0:0") + "/name"), "core"),
            (&(folder("intel-rapl:2") + "/name"), "psys"),
        ]);
        let mut linux = Linux::at(root.path(), 100);
        let mut energy = || {
            let mut snapshot = Snapshot::default();
            linux.read(&BTreeSet::new(), &mut snapshot).unwrap();
            snapshot.devices[&DeviceId::CPU].reading.energy_mj
        };
        assert_eq!(energy(), Some(905));
        let counter = |package: &str| root.path().join(folder(package)).join("energy_uj");
        fs::write(counter("intel-rapl:0"), "200000").unwrap();
        assert_eq!(energy(), Some(1205));
        fs::remove_file(counter("intel-rapl:1")).unwrap();
        assert_eq!(energy(), None, "a sum with one missing would be too small");
    }

    #[test]
    fn this_machine_can_be_read() {
        let own = std::process::id();
        let mut snapshot = Snapshot::default();
        Linux::open().read(&BTreeSet::from([own]), &mut snapshot).unwrap();
        let reading = snapshot.seen_by(Some(own), &BTreeSet::new(), DeviceId::CPU);
        assert!(reading.host_busy_ns > reading.own_busy_ns, "{reading:?}");
    }

    #[test]
    fn of_many_processors_some_are_read() {
        let file = |number: usize| format!("cpu{number}/cpufreq/scaling_cur_freq");
        let names: Vec<String> = (0..100).map(file).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let found = clocks(root(&files).path());
        assert!((8..=MAX_CLOCKS).contains(&found.len()), "{}", found.len());
    }
}
