//! Artifacts that are being fetched: parts of files that outlive the program which began them, and one fetcher at a time.
//!
//! ```text
//! <root>/.partial/<model>/<format>-<precision>/
//!     lock                held by whoever fetches this artifact; the system frees it when that program ends
//!     <file>.part         what has arrived
//!     <file>.tag          the server's name for the version that it belongs to, where it gave one
//! ```
//!
//! A part is hashed while it is written; one that was begun earlier is hashed once when it is opened. What is here has
//! been checked by nobody but that: it becomes an artifact through [`Library::install`](crate::library::Library).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use regatta_core::artifact::ArtifactRef;
use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::library::{Library, hexadecimal};

/// The folder of parts below the model root; no kind of weights is called so.
pub(crate) const FOLDER: &str = ".partial";

/// The longest tag that is kept, in bytes.
const MAX_TAG: u64 = 1024;

/// The right to fetch one artifact, held by one program at a time.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    _lock: File,
}

/// A file of which some bytes are here.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
}

impl Incoming {
    /// Where the parts of an artifact are.
    pub fn folder(library: &Library, artifact: &ArtifactRef) -> PathBuf {
        let ArtifactRef { model, format, precision, .. } = artifact;
        library.root().join(FOLDER).join(model.as_str()).join(format!("{format}-{precision}"))
    }

    /// Takes the right to fetch the artifact; `None` while another program has it.
    pub fn claim(library: &Library, artifact: &ArtifactRef) -> Result<Option<Self>, ModelError> {
        let folder = Self::folder(library, artifact);
        fs::create_dir_all(&folder).map_err(ModelError::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(ModelError::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { folder, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(ModelError::Io { action: "lock", path, source }),
        }
    }

    /// How many bytes have arrived in a folder of parts, whoever fetches them.
    pub fn arrived(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// How many bytes of a file have arrived.
    pub fn here(&self, name: &str) -> u64 {
        self.folder.join(format!("{name}.part")).metadata().map_or(0, |metadata| metadata.len())
    }

    /// What has arrived of a file, empty where nothing has. `name` is a plain file name.
    pub fn part(&self, name: &str) -> Result<Part, ModelError> {
        Part::open(self.folder.join(format!("{name}.part")))
    }

    /// Deletes the parts; the artifact is installed.
    pub fn clear(self) {
        // The lock stays: whoever waits for it has it open. A part that stays is found by the next pull.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name() != "lock" {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Part {
    fn open(path: PathBuf) -> Result<Self, ModelError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(ModelError::io("create", &path))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(ModelError::io("read", &path))?;
            if read == 0 {
                return Ok(Self { path, file, hash, length });
            }
            hash.update(&buffer[..read]);
            length += read as u64;
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes have arrived.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The server's name for the version that the bytes belong to.
    pub fn tag(&self) -> Option<String> {
        let mut text = String::new();
        File::open(self.tag_path()).ok()?.take(MAX_TAG).read_to_string(&mut text).ok()?;
        Some(text).filter(|text| !text.is_empty())
    }

    /// Throws away what has arrived; what comes belongs to the version `tag`.
    pub fn restart(&mut self, tag: Option<&str>) -> Result<(), ModelError> {
        let tag_path = self.tag_path();
        self.file.set_len(0).map_err(ModelError::io("cut", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(ModelError::io("write", &self.path))?;
        self.hash = Sha256::new();
        self.length = 0;
        fs::write(&tag_path, tag.unwrap_or_default()).map_err(ModelError::io("write", &tag_path))
    }

    /// Adds bytes that have arrived.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.file.write_all(bytes).map_err(ModelError::io("write", &self.path))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The SHA-256 of what has arrived, in hexadecimal.
    pub fn sha256(&self) -> String {
        hexadecimal(&self.hash.clone().finalize())
    }

    /// Puts what has arrived on the disk for good.
    pub fn sync(&self) -> Result<(), ModelError> {
        self.file.sync_all().map_err(ModelError::io("write", &self.path))
    }

    fn tag_path(&self) -> PathBuf {
        self.path.with_extension("tag")
    }
}

/// Artifacts of which only parts are here, with the bytes that these take.
pub fn left(library: &Library) -> Vec<(ArtifactRef, u64)> {
    let parts = |entry: &(ArtifactRef, PathBuf)| (entry.0.clone(), Incoming::arrived(&entry.1));
    library.parts().iter().map(parts).filter(|(_, bytes)| *bytes > 0).collect()
}

/// Removes the parts of an artifact, unless somebody fetches it or `dry_run` says not to. Whether they go.
pub fn remove(library: &Library, artifact: &ArtifactRef, dry_run: bool) -> Result<bool, ModelError> {
    let Some(incoming) = Incoming::claim(library, artifact)? else { return Ok(false) };
    if !dry_run {
        incoming.clear();
    }
    Ok(true)
}

/// Makes `to` the same file as `from`, without taking space where the file system can share it: a second name for it
/// (a hard link), else a copy, which some file systems make without copying. Whether it became a second name.
pub fn share(from: &Path, to: &Path) -> Result<bool, ModelError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(true);
    }
    fs::copy(from, to).map(|_| false).map_err(ModelError::io("copy", from))
}

#[cfg(test)]
mod tests {
    use regatta_core::artifact::{Format, Precision, Weights};

    use super::*;

    fn artifact() -> ArtifactRef {
        let model = "m".parse().unwrap();
        ArtifactRef { model, weights: Weights::Real, format: Format::Gguf, precision: Precision::F16 }
    }

    #[test]
    fn a_part_goes_on_where_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let incoming = Incoming::claim(&library, &artifact()).unwrap().unwrap();
        let mut part = incoming.part("model.gguf").unwrap();
        part.restart(Some("\"v1\"")).unwrap();
        part.append(b"hello ").unwrap();
        drop(part);
        let mut part = incoming.part("model.gguf").unwrap();
        assert_eq!((part.length(), part.tag().as_deref()), (6, Some("\"v1\"")));
        part.append(b"world").unwrap();
        assert_eq!(part.sha256(), "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
        assert_eq!(fs::read(part.path()).unwrap(), b"hello world");
        part.restart(None).unwrap();
        assert_eq!((part.length(), part.tag()), (0, None));
        assert_eq!(Incoming::arrived(&Incoming::folder(&library, &artifact())), 0);
        incoming.clear();
        assert!(library.list().unwrap().is_empty());
    }

    #[test]
    fn only_one_fetches_an_artifact_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let first = Incoming::claim(&library, &artifact()).unwrap();
        assert!(first.is_some());
        assert!(Incoming::claim(&library, &artifact()).unwrap().is_none());
        let other = ArtifactRef { precision: Precision::F32, ..artifact() };
        assert!(Incoming::claim(&library, &other).unwrap().is_some());
        drop(first);
        assert!(Incoming::claim(&library, &artifact()).unwrap().is_some());
    }
}
