//! The Windows agent under Wine: it takes a run from a coordinator on Linux, is killed in the middle, is started again, and the run
//! ends with every cell ok.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{MINGW, Outcome, cross_dir, windows_dir, write};
use crate::command::{Failure, Run, exists, root};

/// How long the coordinator may take to say where it listens, the agent to be there, and the run to end.
const LISTENS: Duration = Duration::from_secs(20);
const IS_THERE: Duration = Duration::from_mins(3);
const ENDS: Duration = Duration::from_mins(20);

/// Wine 8 has no such library, and every Rust program for Windows asks it for random numbers.
const PRNG: &str = "\
int SystemFunction036(unsigned char *, unsigned long);
__declspec(dllexport) int ProcessPrng(unsigned char *bytes, unsigned long long count) {
    return SystemFunction036(bytes, (unsigned long)count);
}
";

/// A process that is killed when it is no longer looked at.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(super) fn check() -> Result<Outcome, Failure> {
    let Some(wine) =
        ["wine64", "wine", "/usr/lib/wine/wine64"].into_iter().find(|name| exists(name) || Path::new(name).is_file())
    else {
        return Ok(Outcome::Skipped("Wine is not installed: apt-get install wine wine64".to_owned()));
    };
    let programs = windows_dir();
    if !programs.join("regatta.exe").is_file() || !programs.join("regatta-worker.exe").is_file() {
        return Ok(Outcome::Skipped(
            "there is no Windows build: cargo xtask check-platforms --only windows-build".to_owned(),
        ));
    }
    bring_libraries(&programs)?;
    crate::build()?;
    let home = cross_dir().join("wine-home");
    fs::remove_dir_all(&home).ok();
    fs::create_dir_all(&home).map_err(|error| Failure(format!("{}: {error}", home.display())))?;
    measure(wine, &programs, &home)?;
    Ok(Outcome::Passed)
}

/// Libraries that Windows programs of this compiler need beside them.
fn bring_libraries(programs: &Path) -> Result<(), Failure> {
    let compiler = format!("{MINGW}-gcc-posix");
    let source = programs.join("prng.c");
    write(&source, PRNG)?;
    Run::new(&compiler)
        .args(&["-shared", "-o"])
        .arg(programs.join("bcryptprimitives.dll"))
        .arg(&source)
        .arg("-ladvapi32")
        .run()?;
    for library in ["libstdc++-6.dll", "libgcc_s_seh-1.dll", "libwinpthread-1.dll", "libgomp-1.dll"] {
        let found = Run::new(&compiler).arg(format!("-print-file-name={library}")).output().map(PathBuf::from);
        if let Some(path) = found.filter(|path| path.is_absolute()) {
            fs::copy(&path, programs.join(library)).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(())
}

fn measure(wine: &str, programs: &Path, home: &Path) -> Result<(), Failure> {
    let (coordinator, address) = coordinator(home)?;
    let agent = || agent(wine, programs, home, &address);
    let mut first = agent()?;
    let regatta = |arguments: &[&str]| {
        Run::new(crate::program("regatta")).args(arguments).args(&["--coordinator", &address]).arg("--home").arg(home)
    };
    wait("the agent under Wine to register", IS_THERE, || {
        regatta(&["agents", "--json"]).output().is_some_and(|text| text.contains("\"connected\": true"))
    })?;
    let submitted = regatta(&["submit", "--json"]).arg(root().join("scenarios/demo.toml")).output();
    let run = submitted.as_deref().and_then(run_id).ok_or_else(|| Failure("the run was not taken".to_owned()))?;
    // Killed once it has measured something: what is on its disk must count once, and the rest be measured by its successor.
    wait("the first samples", ENDS, || regatta(&["runs", "--json"]).output().as_deref().is_some_and(has_samples))?;
    first.0.kill().ok();
    first.0.wait().ok();
    let second = agent()?;
    let watched = regatta(&["watch", &run]).run();
    drop((second, coordinator));
    watched
}

fn coordinator(home: &Path) -> Result<(Running, String), Failure> {
    let mut child = Command::new(crate::program("regatta"))
        .args(["coordinator", "--listen", "127.0.0.1:0", "--home"])
        .arg(home)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure(format!("the coordinator can't be started: {error}")))?;
    let log = child.stdout.take();
    let running = Running(child);
    let (say, said) = mpsc::channel();
    // Reads to the end, so that the coordinator never waits for room in its pipe.
    std::thread::spawn(move || {
        for line in log.into_iter().flat_map(|log| BufReader::new(log).lines()).map_while(Result::ok) {
            if let Some(port) = line.split("listening on 127.0.0.1:").nth(1) {
                let port: String = port.chars().take_while(char::is_ascii_digit).collect();
                say.send(port).ok();
            }
        }
    });
    let port =
        said.recv_timeout(LISTENS).map_err(|_| Failure("the coordinator did not say where it listens".to_owned()))?;
    Ok((running, format!("http://127.0.0.1:{port}")))
}

fn agent(wine: &str, programs: &Path, home: &Path, address: &str) -> Result<Running, Failure> {
    let child = Command::new(wine)
        .arg(programs.join("regatta.exe"))
        .args(["agent", "--coordinator", address, "--name", "wine", "--canary", "off", "--cool-down", "0", "--home"])
        .arg(home.join("agent"))
        .env("WINEPREFIX", home.join("prefix"))
        .env("WINEDEBUG", "-all")
        .spawn();
    child.map(Running).map_err(|error| Failure(format!("{wine} can't be started: {error}")))
}

fn wait(what: &str, at_most: Duration, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > at_most {
            return Err(Failure(format!("waited {} s for {what} in vain", at_most.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// The run's id in the answer to `submit --json`.
fn run_id(submitted: &str) -> Option<String> {
    let (_, rest) = submitted.split_once("\"run\"")?;
    Some(rest.split('"').nth(1)?.to_owned())
}

/// Whether the answer to `runs --json` tells of samples.
fn has_samples(runs: &str) -> bool {
    let count = |line: &str| line.trim().strip_prefix("\"samples\": ").map(|count| count.trim_end_matches(',') != "0");
    runs.lines().filter_map(count).any(|some| some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_regatta_are_read() {
        assert_eq!(run_id("{\"event\":\"submitted\",\"run\":\"01935f\"}").as_deref(), Some("01935f"));
        assert_eq!(run_id("{}"), None);
        assert!(has_samples("[\n  {\n    \"samples\": 12,\n"));
        assert!(!has_samples("[\n  {\n    \"samples\": 0,\n"));
    }
}
