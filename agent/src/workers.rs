//! Worker programs: finding them and asking what they can do.
//!
//! A worker that does not answer as it should is left out with a line that says why; that is no error of the agent, which
//! goes on with the others.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_core::backend::BackendKind;
use regatta_core::device::DeviceKind;
use regatta_core::id::{BuildName, shown};
use regatta_core::worker::{PRESENT, WORKER_PROTOCOL, WorkerInfo};

use crate::process::{Ending, RunError, Status, Surroundings};
use crate::text;

/// How the names of worker programs begin.
pub const NAME: &str = "regatta-worker";

/// The longest answer to `probe`, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// How much of a program's last words a line shows, in bytes.
const LAST_WORDS: usize = 400;

/// A worker program that answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Its name as one of several builds that are measured in turns.
    pub build: Option<BuildName>,
    /// The program.
    pub path: PathBuf,
    /// What it says of itself.
    pub info: WorkerInfo,
    /// The same as it said it: JSON.
    pub json: String,
}

/// A worker program that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// The program.
    pub path: PathBuf,
    /// Why not, for people.
    pub reason: String,
}

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} is left out: {}", self.path.display(), self.reason)
    }
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Workers in the order in which they are preferred.
    pub workers: Vec<Worker>,
    /// Programs that look like workers and are none, or can't run here.
    pub disabled: Vec<Disabled>,
}

/// Looks for worker programs in `folders` and asks each what it can do, with `deadline` for each.
pub(crate) async fn find(folders: &[PathBuf], surroundings: &Surroundings, deadline: Duration) -> Found {
    let mut found = Found::default();
    for path in programs(folders) {
        match probe(&path, surroundings, deadline).await {
            Ok(worker) => {
                tracing::info!(path = %worker.path.display(), version = %worker.info.version, "found a worker");
                found.workers.push(worker);
            }
            Err(reason) => {
                let disabled = Disabled { path, reason };
                tracing::warn!("{disabled}");
                found.disabled.push(disabled);
            }
        }
    }
    found
}

/// Asks builds of a worker program, which are measured in turns, what they can do.
pub(crate) async fn ask(builds: &[(BuildName, PathBuf)], surroundings: &Surroundings, deadline: Duration) -> Found {
    let mut found = Found::default();
    for (name, path) in builds {
        match probe(path, surroundings, deadline).await {
            Ok(worker) => found.workers.push(Worker { build: Some(name.clone()), ..worker }),
            Err(reason) => found.disabled.push(Disabled { path: path.clone(), reason }),
        }
    }
    found
}

/// The first of `workers` that has the engine for this kind of device.
pub(crate) fn choose(workers: &[Worker], backend: BackendKind, device: DeviceKind) -> Option<&Worker> {
    workers.iter().find(|worker| fits(worker, backend, device))
}

/// The same among those of a build; [`PRESENT`] are those that are no build in particular.
pub(crate) fn choose_build<'w>(
    workers: &'w [Worker],
    build: Option<&BuildName>,
    backend: BackendKind,
    device: DeviceKind,
) -> Option<&'w Worker> {
    let build = build.filter(|build| build.as_str() != PRESENT || workers.iter().any(|worker| worker.build.is_some()));
    workers.iter().find(|worker| worker.build.as_ref() == build && fits(worker, backend, device))
}

pub(crate) fn fits(worker: &Worker, backend: BackendKind, device: DeviceKind) -> bool {
    worker.info.engines.iter().any(|engine| engine.backend == backend && engine.devices.contains(&device))
}

/// Programs by folder and then by name, each once even where folders are linked.
pub(crate) fn programs(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_program(path)).collect();
        paths.sort();
        all.extend(paths.into_iter().filter(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))));
    }
    all
}

pub(crate) fn is_program(path: &Path) -> bool {
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NAME));
    named && is_executable(path)
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("exe"))
}

pub(crate) async fn probe(path: &Path, surroundings: &Surroundings, deadline: Duration) -> Result<Worker, String> {
    let output = surroundings.output(path, &["probe"], deadline, MAX_ANSWER).await.map_err(|error| describe(&error))?;
    parse(path, &output)
}

fn parse(path: &Path, output: &str) -> Result<Worker, String> {
    let json = output.trim().to_owned();
    // The version first: an answer of another version may have other fields.
    let value: serde_json::Value =
        serde_json::from_str(&json).map_err(|error| format!("its answer is not JSON: {error}"))?;
    match value.get("protocol").and_then(serde_json::Value::as_u64) {
        Some(protocol) if protocol == u64::from(WORKER_PROTOCOL) => {}
        Some(protocol) => {
            let which = if protocol > u64::from(WORKER_PROTOCOL) { "this agent" } else { "the worker" };
            return Err(format!("it speaks protocol {protocol}, this agent {WORKER_PROTOCOL} (fix: upgrade {which})"));
        }
        None => return Err("its answer names no protocol".to_owned()),
    }
    let info = serde_json::from_value(value).map_err(|error| format!("its answer can't be used: {error}"))?;
    Ok(Worker { build: None, path: path.to_owned(), info, json })
}

/// Why a program gave no answer, in one line.
pub(crate) fn describe(error: &RunError) -> String {
    match error {
        RunError::Start(error) => format!("it can't be started: {error}"),
        RunError::Deadline { deadline, ending } => last_words(format!("no answer within {deadline:?}"), ending),
        RunError::Output { reason, ending } => last_words(format!("its answer can't be used: {reason}"), ending),
        RunError::Failed(ending) => {
            let how = match &ending.status {
                Some(Status::Exit(code)) => format!("it ended with exit code {code}"),
                Some(Status::Signal { name, .. }) => format!("it was killed by {}", shown(name)),
                None => "it ended in an unknown way".to_owned(),
            };
            last_words(how, ending)
        }
    }
}

fn last_words(what: String, ending: &Ending) -> String {
    let words = ending.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() { what } else { format!("{what}: {}", text::tail(&words, LAST_WORDS)) }
}

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;

    pub(crate) const ANSWER: &str = r#"{"protocol":2,"version":"0.1.0","engines":[{"backend":"fake","version":"1","build":"b",
        "devices":["cpu"]}],"simd_compiled":"avx2","simd_cpu":"avx2","optimised":true}"#;

    fn program(folder: &TempDir, name: &str, script: &str) {
        crate::testing::program(&folder.path().join(name), &format!("#!/bin/sh\n{script}\n"));
    }

    async fn search(folder: &TempDir) -> Found {
        find(&[folder.path().to_owned()], &Surroundings::default(), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn a_worker_is_found_and_others_are_left_out_with_a_reason() {
        let folder = TempDir::new().unwrap();
        program(&folder, "regatta-worker", &format!("test \"$1\" = probe && echo '{ANSWER}'"));
        program(&folder, "regatta-worker-cuda", "echo libcublas.so.13: cannot open >&2; exit 127");
        program(&folder, "regatta-worker-new", "echo '{\"protocol\":99}'");
        program(&folder, "regatta-worker-odd", "echo hello");
        program(&folder, "another-program", "exit 1");
        fs::write(folder.path().join("regatta-worker.d"), "not a program").unwrap();
        let found = search(&folder).await;
        assert_eq!(found.workers.len(), 1);
        assert!(choose(&found.workers, BackendKind::Fake, DeviceKind::Cpu).is_some());
        assert!(choose(&found.workers, BackendKind::Candle, DeviceKind::Cpu).is_none());
        let reasons: Vec<_> = found.disabled.iter().map(|disabled| disabled.reason.as_str()).collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert_eq!(reasons[0], "it ended with exit code 127: libcublas.so.13: cannot open");
        assert_eq!(reasons[1], "it speaks protocol 99, this agent 2 (fix: upgrade this agent)");
        assert!(reasons[2].starts_with("its answer is not JSON"), "{}", reasons[2]);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_answer_is_left_out() {
        let folder = TempDir::new().unwrap();
        program(&folder, "regatta-worker", "sleep 600");
        let folders = [folder.path().to_owned(), folder.path().join("absent")];
        let found = find(&folders, &Surroundings::default(), Duration::from_millis(200)).await;
        assert!(found.workers.is_empty());
        assert!(found.disabled[0].reason.starts_with("no answer within 200ms"), "{}", found.disabled[0]);
    }
}
