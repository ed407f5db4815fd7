//! The weights of a trial: found by id under the model root. Where they are not there, synthetic ones are made and trained
//! ones are fetched from the coordinator, if that has them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use regatta_core::artifact::{ArtifactRef, Weights};
use regatta_core::cell::Outcome;
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_models::ModelError;
use regatta_models::library::{Installed, Library, fix_command};
use regatta_net::Connection;
use regatta_pull::client::Timing;
use regatta_pull::coordinator;

use crate::process::{RunError, Surroundings};
use crate::text::with_last_words;
use crate::workers::Worker;

/// The longest line that a worker writes when it has made weights, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Weights that a worker can be pointed at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Their folder; empty for a backend that reads none.
    pub(crate) folder: String,
    /// BLAKE3 over the hashes of the files, in hexadecimal.
    pub(crate) digest: String,
}

/// What it takes to find or make weights.
pub(crate) struct Store {
    pub(crate) library: Library,
    /// The manifest as a file, for the worker that makes weights.
    pub(crate) models: PathBuf,
    pub(crate) surroundings: Surroundings,
    /// How long making or fetching them may take.
    pub(crate) deadline: Duration,
    /// The way to the coordinator, which may have trained ones; `None` where the model root is its own.
    pub(crate) coordinator: Option<Connection>,
}

impl Store {
    /// Looks the weights up. `Ok(None)` says that they have to be made or fetched; an error is what all cells end with.
    pub(crate) async fn find(&self, artifact: &ArtifactRef, seed: u64) -> Result<Option<Ready>, Outcome> {
        match self.look_up(artifact).await {
            Ok(installed) if is_of_seed(&installed, artifact, seed) => ready(&installed).map(Some),
            Ok(_) => Ok(None),
            Err(ModelError::NotInstalled { .. })
                if artifact.weights == Weights::Synthetic || self.coordinator.is_some() =>
            {
                Ok(None)
            }
            Err(error) => Err(rejected(error.to_string())),
        }
    }

    /// Has `worker` make synthetic weights, in place of those of another seed if there are any.
    pub(crate) async fn make(&self, worker: &Worker, artifact: &ArtifactRef, seed: u64) -> Result<Ready, Outcome> {
        tracing::info!(%artifact, seed, "making synthetic weights");
        let args = self.make_args(artifact, seed);
        let made = self.surroundings.output(&worker.path, &args, self.deadline, MAX_ANSWER).await;
        made.map_err(|error| could_not_make(artifact, &error))?;
        let installed = self.look_up(artifact).await.map_err(|error| rejected(error.to_string()))?;
        ready(&installed)
    }

    /// Fetches trained weights from the coordinator. What is broken off is gone on with by the next trial that wants them.
    pub(crate) async fn fetch(&self, artifact: &ArtifactRef) -> Result<Ready, Outcome> {
        let absent = || ModelError::NotInstalled {
            artifact: artifact.clone(),
            path: self.library.folder(artifact),
            fix: fix_command(artifact),
        };
        let Some(connection) = &self.coordinator else { return Err(rejected(absent().to_string())) };
        tracing::info!(%artifact, "asking the coordinator for weights");
        let timing = Timing::default();
        let pull = coordinator::pull(connection, &self.library, artifact, false, &timing, &());
        let pulled = tokio::time::timeout(self.deadline, pull).await.map_err(|_| {
            Outcome::Timeout(format!(
                "weights of {artifact} did not come from the coordinator within {:?}",
                self.deadline
            ))
        })?;
        match pulled {
            Ok(pulled) => {
                tracing::info!(%artifact, "weights are here");
                ready(pulled.installed())
            }
            Err(error) => Err(rejected(format!("{}; {error}", absent()))),
        }
    }

    async fn look_up(&self, artifact: &ArtifactRef) -> Result<Installed, ModelError> {
        let (library, artifact) = (self.library.clone(), artifact.clone());
        // Files that changed are hashed, which can take seconds.
        match tokio::task::spawn_blocking(move || library.find(&artifact)).await {
            Ok(found) => found,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn make_args(&self, artifact: &ArtifactRef, seed: u64) -> Vec<OsString> {
        let ArtifactRef { model, weights, format, precision } = artifact;
        let pairs: [(&str, OsString); 7] = [
            ("--root", self.library.root().into()),
            ("--model", model.as_str().into()),
            ("--weights", weights.as_str().into()),
            ("--format", format.as_str().into()),
            ("--precision", precision.as_str().into()),
            ("--seed", seed.to_string().into()),
            ("--models", self.models.clone().into()),
        ];
        let options = pairs.into_iter().flat_map(|(name, value)| [name.into(), value]);
        ["make".into()].into_iter().chain(options).chain(["--replace".into()]).collect()
    }
}

/// Real weights have no seed; synthetic ones must be those that the scenario asks for.
fn is_of_seed(installed: &Installed, artifact: &ArtifactRef, seed: u64) -> bool {
    artifact.weights == Weights::Real || installed.manifest.seed == Some(seed)
}

fn ready(installed: &Installed) -> Result<Ready, Outcome> {
    let folder = installed.folder.to_str().ok_or_else(|| {
        rejected(format!("{}: the path is not UTF-8 (fix: use another model root)", installed.folder.display()))
    })?;
    let mut files: Vec<_> = installed.manifest.files.iter().map(|file| (&file.name, &file.sha256)).collect();
    files.sort();
    let lines: Vec<_> = files.into_iter().map(|(name, sha256)| format!("{sha256}  {name}\n")).collect();
    Ok(Ready { folder: folder.to_owned(), digest: Digest::of(lines.concat().as_bytes()).to_string() })
}

fn rejected(reason: String) -> Outcome {
    Outcome::Failed(FailureKind::ModelRejected, reason)
}

fn could_not_make(artifact: &ArtifactRef, error: &RunError) -> Outcome {
    let what = format!("synthetic weights of {artifact} could not be made");
    match error {
        RunError::Start(error) => Outcome::Failed(FailureKind::Spawn, format!("{what}: {error}")),
        RunError::Deadline { deadline, ending } => {
            Outcome::Timeout(with_last_words(&format!("{what} within {deadline:?}"), &ending.stderr))
        }
        RunError::Failed(ending) | RunError::Output { ending, .. } if ending.out_of_memory => {
            Outcome::Oom(with_last_words(&what, &ending.stderr))
        }
        RunError::Failed(ending) => rejected(with_last_words(&what, &ending.stderr)),
        RunError::Output { reason, ending } => rejected(with_last_words(&format!("{what}: {reason}"), &ending.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use regatta_core::artifact::{Format, Precision};

    use super::*;
    use crate::testing;

    fn store(folder: &tempfile::TempDir) -> Store {
        Store {
            library: Library::open(folder.path()).unwrap(),
            models: folder.path().join("models.toml"),
            surroundings: Surroundings::default(),
            deadline: Duration::from_secs(20),
            coordinator: None,
        }
    }

    #[tokio::test]
    async fn missing_synthetic_weights_are_to_be_made_and_missing_real_ones_are_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let synthetic = testing::trial("t", &["a"], 1).artifact;
        assert_eq!(store(&folder).find(&synthetic, 1).await, Ok(None));
        let real = ArtifactRef {
            weights: Weights::Real,
            format: Format::Safetensors,
            precision: Precision::Bf16,
            ..synthetic
        };
        let outcome = store(&folder).find(&real, 1).await.unwrap_err();
        assert_eq!(outcome.failure(), Some(FailureKind::ModelRejected));
        let detail = outcome.detail().unwrap();
        assert!(
            detail.contains("fix: regatta models pull regatta-15m --format safetensors --precision bf16"),
            "{detail}"
        );
    }
}
