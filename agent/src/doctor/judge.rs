//! Findings: what the facts mean to a measurement. Pure.

use regatta_core::worker::SimdLevel;

use super::{Card, Coordinator, Disk, Facts, Finding, Level, Machine, Nvidia, PowerPlan};
use crate::workers::{NAME, Worker};

/// Load by others with which samples are marked, in processors.
const LOAD: f64 = 0.5;

/// Free memory with which only small models can be measured, in bytes.
const LITTLE_MEMORY: u64 = 4 << 30;

/// Free space with which nothing can be kept, and with which no model fits, in bytes.
const NO_SPACE: u64 = 512 << 20;
const LITTLE_SPACE: u64 = 20 << 30;

/// All findings: what is worst first, otherwise in the order of the checks.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let machine = &facts.machine;
    let mut all = workers(machine);
    all.extend(devices(machine));
    all.extend(nvidia(&machine.nvidia));
    all.extend(permissions(machine));
    all.extend(power(machine));
    all.extend(clocks(machine));
    all.extend(huge_pages(machine));
    all.extend(load(machine));
    all.extend(memory(machine));
    all.extend(facts.disks.iter().map(disk));
    all.push(time(machine));
    all.push(coordinator(&facts.coordinator));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

fn ok(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, what: what.into(), why: None, fix: None }
}

/// Something that is not as it should be.
fn bad(check: &'static str, level: Level, what: impl Into<String>, why: &str, fix: impl Into<String>) -> Finding {
    Finding { check, level, what: what.into(), why: Some(why.to_owned()), fix: Some(fix.into()) }
}

fn workers(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "workers";
    let mut found: Vec<Finding> = machine.workers.iter().map(worker).collect();
    let level = if found.is_empty() { Level::Problem } else { Level::Warning };
    for disabled in &machine.disabled {
        found.push(bad(
            CHECK,
            level,
            format!("{} can't be used: {}", disabled.path.display(), disabled.reason),
            "its engines and devices can't be measured",
            "install what it names, or remove the program if it is not for this machine",
        ));
    }
    if found.is_empty() {
        found.push(bad(
            CHECK,
            Level::Problem,
            "no worker program was found",
            "workers hold the engines: without one nothing can be measured",
            format!("put {NAME} beside regatta, or name its folder with --worker-dir"),
        ));
    }
    found
}

fn worker(worker: &Worker) -> Finding {
    const CHECK: &str = "workers";
    let info = &worker.info;
    let path = worker.path.display();
    if !info.optimised {
        return bad(
            CHECK,
            Level::Problem,
            format!("{path} is compiled without optimisation"),
            "it is many times slower than it should be",
            "build it with --release",
        );
    }
    let (built, has) = (simd(info.simd_compiled), simd(info.simd_cpu));
    if info.simd_compiled < info.simd_cpu {
        return bad(
            CHECK,
            Level::Warning,
            format!("{path} is compiled for {built}, this processor has {has}"),
            "engines on the processor run slower than they could",
            "build regatta from source on this machine: it then uses all that the processor has",
        );
    }
    let engines: Vec<String> = info.engines.iter().map(|engine| engine.backend.to_string()).collect();
    ok(CHECK, format!("{NAME} {}: {}; compiled for {built}, which the processor has", info.version, engines.join(", ")))
}

fn simd(level: SimdLevel) -> &'static str {
    match level {
        SimdLevel::Baseline => "no SIMD beyond the baseline",
        SimdLevel::Avx => "AVX",
        SimdLevel::Avx2 if cfg!(target_arch = "aarch64") => "NEON with dot products",
        SimdLevel::Avx2 => "AVX2",
        SimdLevel::Avx512 if cfg!(target_arch = "aarch64") => "SVE or I8MM",
        SimdLevel::Avx512 => "AVX-512",
    }
}

fn devices(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "devices";
    let driven: Vec<String> = machine.devices.iter().map(|device| format!("{} ({})", device.id, device.name)).collect();
    let mut found = vec![ok(CHECK, driven.join(", "))];
    for idle in &machine.idle {
        found.push(Finding {
            fix: None,
            ..bad(
                CHECK,
                Level::Warning,
                format!("{} ({}) can't be measured", idle.device.id, idle.device.name),
                &idle.reason,
                "",
            )
        });
    }
    found
}

fn nvidia(nvidia: &Nvidia) -> Vec<Finding> {
    const CHECK: &str = "driver";
    match nvidia {
        Nvidia::Absent => Vec::new(),
        Nvidia::NoLibrary(reason) => vec![bad(
            CHECK,
            Level::Warning,
            format!("NVIDIA's driver is here, but its library can't be used: {reason}"),
            "its devices can be neither found nor watched",
            "install the driver's user part (package libnvidia-compute or nvidia-utils) of the same version as the kernel's \
             part; in a container let NVIDIA's runtime bring it (--gpus all)",
        )],
        Nvidia::Here { driver, cards } => {
            let mut found = vec![ok(CHECK, format!("NVIDIA {driver}"))];
            found.extend(cards.iter().flat_map(card));
            found
        }
    }
}

fn card(card: &Card) -> Vec<Finding> {
    let device = card.device;
    let mut found = Vec::new();
    if !card.users.is_empty() {
        found.push(bad(
            "GPU users",
            Level::Warning,
            format!("{device} is also used by {}", card.users.join(", ")),
            "they take time and memory of the device: samples are marked",
            "end them, or move a desktop to another device",
        ));
    }
    if card.is_persistent == Some(false) {
        found.push(bad(
            "GPU clocks",
            Level::Note,
            format!("{device}: the driver is unloaded whenever nobody uses the device"),
            "each worker then waits for it to be loaded, and what was set on it is lost",
            "sudo nvidia-smi -pm 1",
        ));
    }
    if card.clocks_are_set {
        found.push(bad(
            "GPU clocks",
            Level::Note,
            format!("{device}: somebody has set its clocks"),
            "numbers are steadier like this, and not those of a device as it comes",
            "nothing, if it is meant; otherwise sudo nvidia-smi -rac; sudo nvidia-smi -rgc",
        ));
    }
    found
}

fn permissions(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let mut found = Vec::new();
    if !machine.denied.is_empty() {
        let files: Vec<String> = machine.denied.iter().map(|path| path.display().to_string()).collect();
        found.push(bad(
            CHECK,
            Level::Warning,
            format!("no access to {}", files.join(", ")),
            "engines open a GPU by these files",
            "sudo usermod -aG video,render $USER, then log in again; in a container pass the devices on",
        ));
    }
    if let Some(path) = &machine.energy_denied {
        found.push(bad(
            CHECK,
            Level::Note,
            format!("the processor's energy ({}) is not to be read", path.display()),
            "joules per token of the processor are left out of reports; times are not touched",
            format!("sudo chmod a+r {}; systems forget it when they start", path.display()),
        ));
    }
    found
}

fn power(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "power";
    let slows = "processors and GPUs are slowed down: numbers say nothing of this machine; regatta run refuses";
    let mut found = Vec::new();
    if machine.on_battery == Some(true) {
        found.push(bad(CHECK, Level::Problem, "the machine runs on its battery", slows, "plug it in"));
    }
    let is_saver = machine.power_plan == Some(PowerPlan::Saver);
    if machine.low_power_mode == Some(true) || is_saver {
        found.push(bad(
            CHECK,
            Level::Problem,
            "the machine is set to save power",
            slows,
            "choose another power profile",
        ));
    }
    if machine.power_plan == Some(PowerPlan::Balanced) {
        found.push(bad(
            CHECK,
            Level::Note,
            "Windows' power plan is 'balanced'",
            "clocks follow the load, with a delay",
            "powercfg /setactive SCHEME_MIN",
        ));
    }
    match machine.governor.as_deref() {
        None | Some("performance") => {}
        // Drivers that choose clocks themselves call that powersave and go to full speed all the same.
        Some(governor) => found.push(bad(
            CHECK,
            Level::Note,
            format!("the processor's clock is chosen by the governor '{governor}'"),
            "clocks follow the load, with a delay: short repetitions differ more",
            "sudo cpupower frequency-set -g performance",
        )),
    }
    if found.is_empty() {
        let known = [machine.on_battery.is_some(), machine.governor.is_some(), machine.power_plan.is_some()];
        let what =
            if known.contains(&true) { "nothing here saves power" } else { "the system tells nothing of saving power" };
        found.push(ok(CHECK, what));
    }
    found
}

fn clocks(machine: &Machine) -> Option<Finding> {
    let boost = machine.boost?;
    Some(if boost {
        ok("clocks", "the processor may go beyond its base clock, as it comes; it slows down as it gets warm")
    } else {
        bad(
            "clocks",
            Level::Note,
            "the processor keeps to its base clock: boost is off",
            "numbers are steadier and lower than those of a processor as it comes",
            "nothing, if it is meant; otherwise switch it on in the firmware or in /sys/devices/system/cpu",
        )
    })
}

fn huge_pages(machine: &Machine) -> Option<Finding> {
    let mode = machine.huge_pages.as_deref()?;
    Some(if mode == "never" {
        bad(
            "huge pages",
            Level::Warning,
            "the kernel never uses huge pages",
            "workers ask for them; on small pages candle's decode rate differed by up to 40 % from one process to the next",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    } else {
        ok("huge pages", format!("used: {mode}"))
    })
}

fn load(machine: &Machine) -> Option<Finding> {
    let busy = machine.busy_processors?;
    Some(if busy > LOAD {
        bad(
            "load",
            Level::Warning,
            format!("other programs keep {busy:.1} processors busy"),
            "they take time and memory bandwidth from what is measured: samples are marked",
            "end them, or wait; top (or the task manager) says which",
        )
    } else {
        ok("load", "other programs are quiet")
    })
}

fn memory(machine: &Machine) -> Option<Finding> {
    let free = machine.memory_available_bytes?;
    let what = format!("{} free", gib(free));
    Some(if free < LITTLE_MEMORY {
        bad(
            "memory",
            Level::Warning,
            what,
            "models that don't fit are skipped, or end out of memory",
            "end programs that hold memory; regatta plan says what a scenario needs",
        )
    } else {
        ok("memory", what)
    })
}

fn disk(disk: &Disk) -> Finding {
    const CHECK: &str = "disk";
    let (holds, path) = (disk.holds, disk.path.display());
    match &disk.free {
        Err(reason) => bad(
            CHECK,
            Level::Problem,
            format!("nothing can be written to {path} ({holds}): {reason}"),
            "what is measured must be on disk before it counts",
            "make the folder writable, or choose another with --home (REGATTA_HOME)",
        ),
        Ok(free) if *free < NO_SPACE => bad(
            CHECK,
            Level::Problem,
            format!("{} free for {holds} ({path})", gib(*free)),
            "what is measured must be on disk before it counts",
            "make room, or choose another folder with --home (REGATTA_HOME)",
        ),
        Ok(free) if *free < LITTLE_SPACE => bad(
            CHECK,
            Level::Note,
            format!("{} free for {holds} ({path})", gib(*free)),
            "weights of a model of 7 billion parameters take 5 to 30 GiB",
            "make room before you fetch large models",
        ),
        Ok(free) => ok(CHECK, format!("{} free for {holds} ({path})", gib(*free))),
    }
}

fn time(machine: &Machine) -> Finding {
    const CHECK: &str = "time";
    match machine.clock_is_synchronised {
        Some(true) => ok(CHECK, "the clock is kept right by a service of time"),
        None => ok(CHECK, "the system does not tell whether its clock is kept right; only labels depend on it"),
        Some(false) => bad(
            CHECK,
            Level::Note,
            "no service of time keeps the clock right",
            "times in reports will be off, and certificates may seem to have expired; durations are not touched",
            "sudo timedatectl set-ntp true",
        ),
    }
}

fn coordinator(coordinator: &Coordinator) -> Finding {
    const CHECK: &str = "coordinator";
    match coordinator {
        Coordinator::NotNamed => ok(CHECK, "none named; regatta run needs none, --coordinator URL tries one"),
        Coordinator::Reached { address, limits: None } => ok(CHECK, format!("{address} answers")),
        Coordinator::Reached { address, limits: Some(limits) } => {
            ok(CHECK, format!("{address} answers and knows us: {limits}"))
        }
        Coordinator::Failed { address, reason } => bad(
            CHECK,
            Level::Problem,
            format!("{address} can't be used: {reason}"),
            "an agent here would get no trials",
            "set that right, then try again; docs/security.md tells of tokens and certificates",
        ),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use regatta_core::device::{Device, DeviceFacts, DeviceId};

    use super::*;
    use crate::devices::Idle;
    use crate::workers::Disabled;

    fn worker(compiled: &str, optimised: bool) -> Worker {
        let json = format!(
            r#"{{"protocol":2,"version":"0.1.0","engines":[{{"backend":"candle","version":"1","build":"b","devices":["cpu"]}}],
               "simd_compiled":"{compiled}","simd_cpu":"avx2","optimised":{optimised}}}"#
        );
        Worker {
            build: None,
            path: PathBuf::from("/x/regatta-worker"),
            info: serde_json::from_str(&json).unwrap(),
            json,
        }
    }

    fn device(id: &str) -> Device {
        Device {
            agent: "here".parse().unwrap(),
            id: id.parse().unwrap(),
            name: "a device".to_owned(),
            memory_bytes: None,
            cores: None,
            backends: vec![],
            facts: DeviceFacts::default(),
        }
    }

    fn well() -> Facts {
        Facts {
            machine: Machine {
                workers: vec![worker("avx2", true)],
                devices: vec![device("cpu")],
                busy_processors: Some(0.1),
                governor: Some("performance".to_owned()),
                boost: Some(true),
                on_battery: Some(false),
                low_power_mode: Some(false),
                huge_pages: Some("madvise".to_owned()),
                memory_available_bytes: Some(16 << 30),
                clock_is_synchronised: Some(true),
                ..Machine::default()
            },
            disks: vec![Disk { holds: "results", path: PathBuf::from("/home"), free: Ok(100 << 30) }],
            coordinator: Coordinator::NotNamed,
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
        let mut facts = well();
        change(&mut facts);
        findings(&facts)
    }

    /// The first finding, which is the worst.
    fn worst(change: impl FnOnce(&mut Facts)) -> (&'static str, Level, String) {
        let first = with(change).remove(0);
        (first.check, first.level, first.what)
    }

    #[test]
    fn a_machine_that_is_well_has_nothing_to_be_told() {
        let all = findings(&well());
        assert!(all.iter().all(|finding| finding.level == Level::Ok), "{all:#?}");
        let checks: Vec<_> = all.iter().map(|finding| finding.check).collect();
        assert_eq!(
            checks,
            ["workers", "devices", "power", "clocks", "huge pages", "load", "memory", "disk", "time", "coordinator"]
        );
    }

    #[test]
    fn what_is_bad_says_why_and_what_to_do() {
        let all = with(|facts| {
            facts.machine = Machine {
                denied: vec!["/dev/kfd".into()],
                nvidia: Nvidia::NoLibrary("gone".to_owned()),
                ..Machine::default()
            };
        });
        for finding in all.iter().filter(|finding| finding.level > Level::Ok) {
            assert!(finding.why.as_deref().is_some_and(|why| !why.is_empty()), "{finding:?}");
            assert!(finding.fix.as_deref().is_some_and(|fix| !fix.is_empty()), "{finding:?}");
        }
        assert!(all.is_sorted_by_key(|finding| std::cmp::Reverse(finding.level)));
    }

    #[test]
    fn what_keeps_a_machine_from_measuring_is_a_problem() {
        let problem = |change: fn(&mut Facts)| {
            let (check, level, what) = worst(change);
            assert_eq!(level, Level::Problem, "{check}: {what}");
            check
        };
        assert_eq!(problem(|f| f.machine.workers.clear()), "workers");
        assert_eq!(problem(|f| f.machine.workers = vec![worker("avx2", false)]), "workers");
        assert_eq!(problem(|f| f.machine.on_battery = Some(true)), "power");
        assert_eq!(problem(|f| f.machine.low_power_mode = Some(true)), "power");
        assert_eq!(problem(|f| f.machine.power_plan = Some(PowerPlan::Saver)), "power");
        assert_eq!(problem(|f| f.disks[0].free = Err("read-only file system".to_owned())), "disk");
        assert_eq!(problem(|f| f.disks[0].free = Ok(1)), "disk");
        let failed = |f: &mut Facts| {
            f.coordinator = Coordinator::Failed { address: "https://a:1".to_owned(), reason: "no route".to_owned() };
        };
        assert_eq!(problem(failed), "coordinator");
    }

    #[test]
    fn what_makes_numbers_worse_is_a_warning() {
        let warning = |change: fn(&mut Facts)| {
            let (check, level, what) = worst(change);
            assert_eq!(level, Level::Warning, "{check}: {what}");
            (check, what)
        };
        assert_eq!(warning(|f| f.machine.huge_pages = Some("never".to_owned())).0, "huge pages");
        assert_eq!(warning(|f| f.machine.busy_processors = Some(1.96)).1, "other programs keep 2.0 processors busy");
        assert_eq!(warning(|f| f.machine.memory_available_bytes = Some(1 << 30)).1, "1.0 GiB free");
        assert!(warning(|f| f.machine.workers = vec![worker("baseline", true)]).1.contains("this processor has AVX2"));
        let broken = |f: &mut Facts| {
            f.machine.disabled =
                vec![Disabled { path: "/x/regatta-worker-cuda".into(), reason: "no libcublas".to_owned() }];
        };
        assert_eq!(warning(broken).1, "/x/regatta-worker-cuda can't be used: no libcublas");
        let idle =
            |f: &mut Facts| f.machine.idle = vec![Idle { device: device("cuda:0"), reason: "no worker".to_owned() }];
        assert_eq!(warning(idle).1, "cuda:0 (a device) can't be measured");
    }

    #[test]
    fn a_gpu_that_others_use_is_told_with_their_names() {
        let card = Card {
            device: "cuda:1".parse::<DeviceId>().unwrap(),
            users: vec!["Xorg (812)".to_owned()],
            is_persistent: Some(false),
            clocks_are_set: true,
        };
        let all = with(|f| f.machine.nvidia = Nvidia::Here { driver: "580.82".to_owned(), cards: vec![card] });
        let said: Vec<_> = all.iter().map(|finding| (finding.level, finding.what.as_str())).take(3).collect();
        assert_eq!(
            said,
            [
                (Level::Warning, "cuda:1 is also used by Xorg (812)"),
                (Level::Note, "cuda:1: the driver is unloaded whenever nobody uses the device"),
                (Level::Note, "cuda:1: somebody has set its clocks")
            ]
        );
    }

    #[test]
    fn what_the_system_does_not_tell_is_held_against_nobody() {
        let all = with(|f| f.machine = Machine { workers: vec![worker("avx2", true)], ..Machine::default() });
        assert!(all.iter().all(|finding| finding.level == Level::Ok), "{all:#?}");
    }
}
