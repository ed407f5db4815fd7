//! Weights for agents, so that a fleet fetches each artifact from elsewhere once.
//!
//! An artifact is found by what it is and a file by its hash, under the one model root; nothing that a caller says becomes
//! part of a path. Files go out in pieces from any offset, so a cut costs nothing. Calls beyond a number wait for their
//! turn, and say so with empty pieces.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regatta_core::artifact::ArtifactRef;
use regatta_models::ModelError;
use regatta_models::library::{ArtifactFile, Installed, Library};
use regatta_proto::pb;
use regatta_proto::pb::artifact_service_server::ArtifactService;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::auth::Caller;

/// Bytes of one piece.
const CHUNK: usize = 1024 * 1024;

/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;

/// How often a call that waits for its turn hears that it still does.
const WAITING: Duration = Duration::from_secs(5);

/// How fast weights are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Files at the same time; others wait.
    pub at_once: usize,
    /// Bytes of each of them in a second.
    pub bytes_per_second: u64,
}

impl Default for Pace {
    /// Eight files at 256 MiB/s: more than most networks carry, and bounded all the same.
    fn default() -> Self {
        Self { at_once: 8, bytes_per_second: 256 << 20 }
    }
}

type Piece = Result<pb::FetchArtifactResponse, Status>;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    library: Option<Library>,
    pace: Pace,
    turns: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Artifacts {
    pub(crate) fn new(library: Option<Library>, pace: Pace, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let turns = Arc::new(Semaphore::new(pace.at_once.max(1)));
        Self { library, pace, turns, tasks, stop }
    }

    /// An artifact whose files have their hashes. Those of 14 GB take seconds where they were never looked at.
    async fn find(&self, wire: Option<pb::ArtifactRef>) -> Result<Installed, Status> {
        let wire = wire.ok_or_else(|| Status::invalid_argument("artifact: missing"))?;
        let artifact: ArtifactRef =
            wire.try_into().map_err(|error| Status::invalid_argument(format!("artifact: {error}")))?;
        let library = self
            .library
            .clone()
            .ok_or_else(|| Status::not_found("it serves no weights (serve_models is off there)"))?;
        let missing = Status::not_found(format!(
            "{artifact} is not there; fetch it on that machine: {}",
            regatta_models::library::fix_command(&artifact)
        ));
        let found = tokio::task::spawn_blocking(move || library.find(&artifact)).await;
        match found.map_err(|_| stopping())? {
            Ok(installed) => Ok(installed),
            Err(ModelError::NotInstalled { .. }) => Err(missing),
            // Paths of this machine are nobody's business.
            Err(error) => {
                tracing::warn!(%error, "an artifact can't be served");
                Err(Status::failed_precondition("its copy is damaged: see its log"))
            }
        }
    }
}

#[tonic::async_trait]
impl ArtifactService for Artifacts {
    async fn describe_artifact(
        &self,
        request: Request<pb::DescribeArtifactRequest>,
    ) -> Result<Response<pb::DescribeArtifactResponse>, Status> {
        let installed = self.find(request.into_inner().artifact).await?;
        let file = |file: ArtifactFile| pb::ArtifactFile { name: file.name, bytes: file.bytes, sha256: file.sha256 };
        let files = installed.manifest.files.into_iter().map(file).collect();
        Ok(Response::new(pb::DescribeArtifactResponse { files }))
    }

    type FetchArtifactStream = ReceiverStream<Piece>;

    async fn fetch_artifact(
        &self,
        request: Request<pb::FetchArtifactRequest>,
    ) -> Result<Response<Self::FetchArtifactStream>, Status> {
        let caller = Caller::of(&request);
        let pb::FetchArtifactRequest { artifact, sha256, offset } = request.into_inner();
        let installed = self.find(artifact).await?;
        let file = installed.manifest.files.iter().find(|file| file.sha256 == sha256);
        let file = file.ok_or_else(|| Status::not_found("the artifact has no file of that hash"))?.clone();
        if offset > file.bytes {
            let problem = format!("offset {offset} is behind the end of the file, which has {} bytes", file.bytes);
            return Err(Status::out_of_range(problem));
        }
        let path =
            installed.file(&file).map_err(|_| Status::failed_precondition("its copy is damaged: see its log"))?;
        let (to, pieces) = mpsc::channel(QUEUE);
        let (artifacts, artifact) = (self.clone(), installed.manifest.artifact);
        self.tasks.spawn(async move {
            let result = tokio::select! {
                result = artifacts.send(&path, offset, &to) => result,
                // An end without a status would look like the end of the file.
                () = artifacts.stop.cancelled() => Err(stopping()),
                status = caller.gone() => Err(status),
                () = to.closed() => return,
            };
            match result {
                Ok(()) => info!(%artifact, file = file.name, offset, bytes = file.bytes, "weights sent"),
                Err(status) => {
                    let _ = to.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

impl Artifacts {
    async fn send(&self, path: &Path, offset: u64, to: &mpsc::Sender<Piece>) -> Result<(), Status> {
        let _turn = self.turn(to).await?;
        let broken = |error: std::io::Error| {
            tracing::warn!(%error, path = %path.display(), "weights can't be read");
            Status::data_loss("the coordinator can't read the file: see its log")
        };
        let mut file = tokio::fs::File::open(path).await.map_err(broken)?;
        file.seek(std::io::SeekFrom::Start(offset)).await.map_err(broken)?;
        let (begun, mut sent) = (Instant::now(), 0u64);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await.map_err(broken)?;
            if chunk.is_empty() {
                return Ok(());
            }
            sent = sent.saturating_add(chunk.len() as u64);
            if to.send(Ok(pb::FetchArtifactResponse { chunk })).await.is_err() {
                return Ok(());
            }
            tokio::time::sleep_until(begun + self.pace.after(sent)).await;
        }
    }

    /// Waits until fewer files are sent than may be at once.
    async fn turn(&self, to: &mpsc::Sender<Piece>) -> Result<OwnedSemaphorePermit, Status> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        tokio::pin!(turn);
        loop {
            match tokio::time::timeout(WAITING, &mut turn).await {
                Ok(turn) => return turn.map_err(|_| stopping()),
                Err(_) => {
                    let _ = to.send(Ok(pb::FetchArtifactResponse::default())).await;
                }
            }
        }
    }
}

impl Pace {
    /// How long so many bytes take at least.
    fn after(self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_hears_so_and_gets_it() {
        let pace = Pace { at_once: 1, ..Pace::default() };
        let artifacts = Artifacts::new(None, pace, TaskTracker::new(), CancellationToken::new());
        let (to, mut pieces) = mpsc::channel(QUEUE);
        let first = artifacts.turn(&to).await.unwrap();
        let waiting = tokio::spawn(async move { artifacts.turn(&to).await.is_ok() });
        let piece = pieces.recv().await.unwrap().unwrap();
        assert!(piece.chunk.is_empty() && !waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn the_pace_is_a_number_of_bytes_in_a_second() {
        let pace = Pace { at_once: 1, bytes_per_second: 4 << 20 };
        assert_eq!(pace.after(0), Duration::ZERO);
        assert_eq!(pace.after(8 << 20), Duration::from_secs(2));
        assert_eq!(Pace { at_once: 1, bytes_per_second: 0 }.after(3), Duration::from_secs(3));
    }
}
