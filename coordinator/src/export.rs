//! A run as a database file, streamed in pieces: the copy is made in a temporary file, which goes when it has been sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regatta_core::id::RunId;
use regatta_proto::pb;
use regatta_store::Reader;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;
use tracing::{info, warn};

use crate::wire;

/// Bytes of one piece.
const CHUNK: usize = 256 * 1024;

/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;

/// Copies that are made or sent at the same time; others wait their turn.
const AT_ONCE: usize = 2;

type Chunk = Result<pb::ExportRunResponse, Status>;

/// Makes and sends copies of runs.
#[derive(Debug, Clone)]
pub(crate) struct Exports {
    reader: Reader,
    /// Where temporary files are made.
    folder: PathBuf,
    turns: Arc<Semaphore>,
}

impl Exports {
    pub(crate) fn new(reader: Reader, folder: PathBuf) -> Self {
        Self { reader, folder, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The way the pieces go.
    pub(crate) fn channel() -> (mpsc::Sender<Chunk>, mpsc::Receiver<Chunk>) {
        mpsc::channel(QUEUE)
    }

    /// Copies the run and sends it, until it is sent, nobody listens any more, or `gone` says why no more may be sent.
    pub(crate) async fn send(self, run: RunId, to: mpsc::Sender<Chunk>, gone: impl Future<Output = Status>) {
        let result = tokio::select! {
            result = self.copy_and_send(&run, &to) => result,
            // An end without a status would look like the end of the file.
            status = gone => Err(status),
            () = to.closed() => return,
        };
        if let Err(status) = result {
            warn!(%run, %status, "failed to export a run");
            let _ = to.send(Err(status)).await;
        }
    }

    async fn copy_and_send(&self, run: &RunId, to: &mpsc::Sender<Chunk>) -> Result<(), Status> {
        let _turn = self.turns.acquire().await.map_err(|_| stopping())?;
        let copy = NamedTempFile::with_prefix_in("regatta-export-", &self.folder).map_err(|error| no_copy(&error))?;
        self.reader.export(run, copy.path()).await.map_err(|error| wire::status(&error))?;
        let size = send_file(copy.path(), to).await.map_err(|error| no_copy(&error))?;
        info!(%run, size, "run exported");
        Ok(())
    }
}

/// Sends a file in pieces, each with the size of the whole.
async fn send_file(path: &Path, to: &mpsc::Sender<Chunk>) -> std::io::Result<u64> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let mut sent = 0;
    while sent < size {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if chunk.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it became shorter"));
        }
        sent += chunk.len() as u64;
        if to.send(Ok(pb::ExportRunResponse { chunk, size })).await.is_err() {
            break;
        }
    }
    Ok(sent)
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

fn no_copy(error: &std::io::Error) -> Status {
    Status::resource_exhausted(format!("the coordinator failed to write a temporary file for the export: {error}"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use regatta_store::Store;

    use super::*;

    /// A store with nothing in it, and exports that make their files in a folder of their own.
    async fn empty() -> (tempfile::TempDir, Store, Exports, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("x.db"), || Timestamp::UNIX_EPOCH).await.unwrap();
        let folder = dir.path().join("temporary");
        std::fs::create_dir(&folder).unwrap();
        let exports = Exports::new(store.reader().clone(), folder.clone());
        (dir, store, exports, folder)
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn the_temporary_file_goes_when_it_is_sent_and_when_nobody_listens() {
        let (_dir, store, exports, folder) = empty().await;
        let run: RunId = "run-a".parse().unwrap();
        let (to, mut chunks) = Exports::channel();
        let sending = tokio::spawn(exports.clone().send(run.clone(), to, std::future::pending()));
        let (mut received, mut size) = (0, 0);
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.unwrap();
            assert!((1..=CHUNK).contains(&chunk.chunk.len()));
            received += chunk.chunk.len() as u64;
            size = chunk.size;
        }
        sending.await.unwrap();
        assert!(received > 0 && received == size, "{received} of {size}");
        assert_eq!(files(&folder), 0);

        let (to, chunks) = Exports::channel();
        drop(chunks);
        exports.send(run, to, std::future::pending()).await;
        assert_eq!(files(&folder), 0);
        store.close().await;
    }

    #[tokio::test]
    async fn a_stop_never_looks_like_the_end_of_the_file() {
        let (_dir, store, exports, folder) = empty().await;
        // All turns are taken, so nothing is sent before the stop.
        let _taken = exports.turns.acquire_many(2).await.unwrap();
        let (to, mut chunks) = Exports::channel();
        let gone = async { Status::unavailable("the coordinator is stopping") };
        let sending = tokio::spawn(exports.clone().send("run-a".parse().unwrap(), to, gone));
        assert_eq!(chunks.recv().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(chunks.recv().await.is_none());
        sending.await.unwrap();
        assert_eq!(files(&folder), 0);
        store.close().await;
    }
}
