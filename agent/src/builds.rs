//! Builds of the worker program: each told by the hash of its file, and copies of some of them, so that what looks slower
//! tonight can be measured in turns with the build of a good night.
//!
//! A copy is only ever one of a program that was found in this machine's own folders. What comes over the wire names a copy by
//! its hash, and one whose bytes no longer have that hash is never started.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use regatta_core::digest::Digest;
use regatta_core::id::BuildName;
use regatta_core::worker::kept_build;
use tokio::sync::Mutex;

use crate::process::Surroundings;
use crate::workers::{self, Worker};

/// The folder with the copies, in the one of the spool.
const FOLDER: &str = "workers";

/// Touched when a build is seen, so that those not seen for longest go first.
const SEEN: &str = "seen";

/// The copies.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// Those of the agent with this spool.
    pub fn of(spool_dir: &Path) -> Self {
        Self { folder: spool_dir.join(FOLDER) }
    }

    /// Keeps a copy of a program, and of the copies of programs with its name the `most` that were seen last. Returns the program's hash.
    pub fn keep(&self, program: &Path, most: usize) -> io::Result<Digest> {
        let bytes = fs::read(program)?;
        let digest = Digest::of(&bytes);
        let build = kept_build(&digest);
        if self.find(&build).is_none() {
            self.copy(program, &bytes, &build)?;
        }
        File::create(self.folder.join(build.as_str()).join(SEEN))?;
        self.forget(program, most)?;
        Ok(digest)
    }

    /// Its names, in their order.
    pub fn names(&self) -> Vec<BuildName> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<BuildName> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|name: &BuildName| program_in(&self.folder.join(name.as_str())).is_some())
            .collect();
        names.sort_unstable();
        names
    }

    /// The copy of that name, if it is still what it was.
    pub fn find(&self, build: &BuildName) -> Option<PathBuf> {
        let program = program_in(&self.folder.join(build.as_str()))?;
        let is_whole = fs::read(&program).is_ok_and(|bytes| kept_build(&Digest::of(&bytes)) == *build);
        is_whole.then_some(program)
    }

    /// Copies into a folder of another name first: what has the build's name is whole.
    fn copy(&self, program: &Path, bytes: &[u8], build: &BuildName) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.folder)?;
        let copy = new.path().join(program.file_name().unwrap_or(workers::NAME.as_ref()));
        fs::write(&copy, bytes)?;
        fs::set_permissions(&copy, fs::metadata(program)?.permissions())?;
        File::create(new.path().join(SEEN))?;
        let place = self.folder.join(build.as_str());
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(new.keep(), place)
    }

    fn forget(&self, program: &Path, most: usize) -> io::Result<()> {
        let is_alike = |copy: PathBuf| copy.file_name() == program.file_name();
        let seen = |name: BuildName| {
            let place = self.folder.join(name.as_str());
            let seen = fs::metadata(place.join(SEEN)).and_then(|data| data.modified());
            (seen.unwrap_or(SystemTime::UNIX_EPOCH), place)
        };
        let alike =
            self.names().into_iter().filter(|name| program_in(&self.folder.join(name.as_str())).is_some_and(is_alike));
        let mut all: Vec<(SystemTime, PathBuf)> = alike.map(seen).collect();
        all.sort_unstable();
        let too_many = all.len().saturating_sub(most);
        all[..too_many].iter().try_for_each(|(_, place)| fs::remove_dir_all(place))
    }
}

/// The worker program in the folder of a copy.
fn program_in(place: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(place).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| workers::is_program(path))
}

/// Keeps copies of those worker programs in `folders` of which `is_wanted` says so by their hash. One that can't be copied is told
/// in the log: it is only missed when it is asked for.
pub fn keep_those(kept: &Kept, folders: &[PathBuf], most: usize, is_wanted: impl Fn(&Digest) -> bool) {
    for program in workers::programs(folders) {
        let result = fs::read(&program).and_then(|bytes| {
            if is_wanted(&Digest::of(&bytes)) { kept.keep(&program, most).map(drop) } else { Ok(()) }
        });
        if let Err(error) = result {
            tracing::warn!(program = %program.display(), %error, "a worker program could not be kept");
        }
    }
}

/// A file as it was at one time: its path, its length, and when it was written last.
type Version = (PathBuf, u64, Option<SystemTime>);

/// What trials ask of builds.
#[derive(Debug)]
pub(crate) struct Builds {
    kept: Kept,
    /// Copies that have answered.
    answered: Mutex<BTreeMap<BuildName, Worker>>,
    /// Hashes of programs, each read once while its file is the same.
    hashes: Mutex<BTreeMap<Version, Digest>>,
}

impl Builds {
    pub(crate) fn new(kept: Kept) -> Self {
        Self { kept, answered: Mutex::default(), hashes: Mutex::default() }
    }

    /// The copy of that name, as a worker. It is read each time: it must be what it was.
    pub(crate) async fn kept(
        &self,
        build: &BuildName,
        surroundings: &Surroundings,
        deadline: Duration,
    ) -> Option<Worker> {
        let (kept, name) = (self.kept.clone(), build.clone());
        let path = tokio::task::spawn_blocking(move || kept.find(&name)).await.ok()??;
        let mut answered = self.answered.lock().await;
        if let Some(worker) = answered.get(build) {
            return Some(worker.clone());
        }
        match workers::probe(&path, surroundings, deadline).await {
            Ok(worker) => {
                let worker = Worker { build: Some(build.clone()), ..worker };
                answered.insert(build.clone(), worker.clone());
                Some(worker)
            }
            Err(reason) => {
                tracing::warn!(%build, reason, "a kept worker program can't be used");
                None
            }
        }
    }

    /// The hash of a program; `None` where it can't be read.
    pub(crate) async fn hash(&self, program: &Path) -> Option<Digest> {
        let data = fs::metadata(program).ok()?;
        let key: Version = (program.to_owned(), data.len(), data.modified().ok());
        let mut hashes = self.hashes.lock().await;
        if let Some(digest) = hashes.get(&key) {
            return Some(*digest);
        }
        let path = program.to_owned();
        let digest = tokio::task::spawn_blocking(move || fs::read(path).map(|bytes| Digest::of(&bytes))).await;
        let digest = digest.ok()?.ok()?;
        hashes.insert(key, digest);
        Some(digest)
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn program(folder: &TempDir, words: &str) -> PathBuf {
        let path = folder.path().join("regatta-worker");
        crate::testing::program(&path, &format!("#!/bin/sh\n# {words}\n"));
        path
    }

    /// Keeps a program of these words, as it was seen so many seconds after the epoch.
    fn keep(kept: &Kept, folder: &TempDir, words: &str, most: usize, seen: u64) -> BuildName {
        let build = kept_build(&kept.keep(&program(folder, words), most).unwrap());
        let file = File::create(kept.folder.join(build.as_str()).join(SEEN)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seen)).unwrap();
        build
    }

    #[test]
    fn a_copy_stays_when_the_program_is_replaced_and_is_told_by_its_hash() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(&folder.path().join("spool"));
        assert_eq!(kept.names(), []);
        let old = keep(&kept, &folder, "old", 3, 1);
        let new = keep(&kept, &folder, "new", 3, 2);
        assert_ne!(old, new);
        let copy = kept.find(&old).unwrap();
        assert!(fs::read_to_string(&copy).unwrap().contains("old"));
        assert!(workers::is_program(&copy), "it can be started");
        assert_eq!(keep(&kept, &folder, "old", 3, 3), old, "once is enough");
        assert_eq!(kept.names().len(), 2);
    }

    #[test]
    fn those_not_seen_for_longest_go() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(folder.path());
        let a = keep(&kept, &folder, "a", 2, 1);
        let b = keep(&kept, &folder, "b", 2, 2);
        keep(&kept, &folder, "a", 2, 3);
        let c = keep(&kept, &folder, "c", 2, 4);
        assert!(kept.find(&b).is_none());
        let mut both = vec![a, c];
        both.sort_unstable();
        assert_eq!(kept.names(), both);
    }

    #[test]
    fn programs_of_other_names_take_nobody_s_place() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(&folder.path().join("spool"));
        let build = keep(&kept, &folder, "a", 1, 1);
        let other = folder.path().join("regatta-worker-cuda");
        crate::testing::program(&other, "#!/bin/sh\n# a\n# cuda\n");
        let other = kept_build(&kept.keep(&other, 1).unwrap());
        assert!(kept.find(&build).is_some() && kept.find(&other).is_some());
    }

    #[test]
    fn a_copy_that_was_changed_is_never_found_and_is_mended_when_the_program_comes_again() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(folder.path());
        let build = keep(&kept, &folder, "a", 2, 1);
        let copy = kept.find(&build).unwrap();
        fs::write(&copy, "#!/bin/sh\nrm -r /\n").unwrap();
        assert_eq!(kept.find(&build), None);
        for odd in ["kept-0000000000000000", "..", "seen"] {
            assert!(odd.parse().ok().and_then(|odd| kept.find(&odd)).is_none(), "{odd}");
        }
        assert_eq!(keep(&kept, &folder, "a", 2, 2), build);
        assert!(kept.find(&build).is_some());
    }

    #[test]
    fn of_several_programs_those_that_are_wanted_are_kept() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(&folder.path().join("spool"));
        let path = program(&folder, "wanted");
        crate::testing::program(&folder.path().join("regatta-worker-cuda"), "#!/bin/sh\n# other\n");
        let wanted = Digest::of(&fs::read(path).unwrap());
        keep_those(&kept, &[folder.path().to_owned()], 3, |digest| *digest == wanted);
        assert_eq!(kept.names(), [kept_build(&wanted)]);
    }

    #[tokio::test]
    async fn a_hash_is_that_of_the_file_as_it_is_now() {
        let folder = TempDir::new().unwrap();
        let builds = Builds::new(Kept::of(folder.path()));
        let path = program(&folder, "old");
        let old = builds.hash(&path).await.unwrap();
        assert_eq!(builds.hash(&path).await, Some(old));
        program(&folder, "and a new one");
        assert_ne!(builds.hash(&path).await, Some(old));
        assert_eq!(builds.hash(&folder.path().join("absent")).await, None);
    }

    #[tokio::test]
    async fn a_copy_answers_as_a_worker_while_it_is_what_it_was() {
        let folder = TempDir::new().unwrap();
        let kept = Kept::of(&folder.path().join("spool"));
        let path = folder.path().join("regatta-worker");
        let answer = crate::workers::tests::ANSWER;
        crate::testing::program(&path, &format!("#!/bin/sh\necho '{answer}'\n"));
        let build = kept_build(&kept.keep(&path, 1).unwrap());
        let builds = Builds::new(kept.clone());
        let ask = async || builds.kept(&build, &Surroundings::default(), Duration::from_secs(20)).await;
        let worker = ask().await.unwrap();
        assert_eq!((worker.build.as_ref(), kept.find(&build).as_ref()), (Some(&build), Some(&worker.path)));
        assert_eq!(ask().await, Some(worker.clone()));
        fs::write(&worker.path, "something else").unwrap();
        assert_eq!(ask().await, None);
    }
}
