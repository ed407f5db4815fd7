//! An artifact: everything that lies between "pull this" and weights that a trial can use.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regatta_core::artifact::{ArtifactRef, Weights};
use regatta_core::model::{Lock, Locked, MAX_FILE, Model, Origin, Published, PublishedFile};
use regatta_models::import::install_fetched;
use regatta_models::incoming::Incoming;
use regatta_models::library::{Installed, Library, sha256};
use regatta_models::{ModelError, incoming};

use crate::client::Client;
use crate::download::{Expected, Wanted, download};
use crate::error::PullError;
use crate::hub::{self, Hub, Metadata, RepositoryCache};
use crate::policy::Url;

/// How long another program that fetches the same artifact may receive nothing before it is not waited for any more.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often it is looked whether another program has finished.
const LOOK: Duration = Duration::from_millis(250);

/// The most that a description is taken for, in bytes: tokenizers have tens of megabytes, no more.
const MAX_DESCRIPTION: u64 = 256 << 20;

/// What is left free on the disk, in bytes.
const MARGIN: u64 = 64 << 20;

/// Hears how a pull goes.
pub trait Progress: Sync {
    /// A file begins; its size where that is known, in bytes.
    fn begin(&self, name: &str, total: Option<u64>);
    /// So many bytes of it are here.
    fn at(&self, bytes: u64);
    /// The file is here.
    fn end(&self);
    /// Something worth a line.
    fn note(&self, text: &str);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _name: &str, _total: Option<u64>) {}
    fn at(&self, _bytes: u64) {}
    fn end(&self) {}
    fn note(&self, _text: &str) {}
}

/// What it takes to pull.
pub struct Puller<'p> {
    /// Where artifacts go.
    pub library: &'p Library,
    /// How the hub is used.
    pub hub: &'p Hub,
    /// How servers are asked.
    pub client: &'p Client,
    /// The lock file of the manifest.
    pub lock: &'p Path,
    /// Who hears of it.
    pub progress: &'p dyn Progress,
}

/// How a pull ended well.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It was there already.
    There(Installed),
    /// It is there now.
    Installed(Installed),
}

impl Pulled {
    /// The artifact.
    pub fn installed(&self) -> &Installed {
        match self {
            Self::There(installed) | Self::Installed(installed) => installed,
        }
    }
}

/// A file of the artifact, and where it will be taken from.
struct Planned<'f> {
    file: &'f PublishedFile,
    expected: Expected,
    /// What the hub said, where it was asked.
    metadata: Option<Metadata>,
    source: Source,
}

enum Source {
    /// It is in the hub's cache.
    Cache(PathBuf),
    /// It has to be fetched.
    Fetch(Url),
}

/// A file that is here.
struct Ready<'f> {
    planned: Planned<'f>,
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

impl Puller<'_> {
    /// Fetches a published artifact of `model` and installs it.
    pub async fn pull(&self, model: &Model, published: &Published, replace: bool) -> Result<Pulled, PullError> {
        let artifact = artifact(model, published);
        let is_there = || if replace { None } else { self.library.find(&artifact).ok() };
        if let Some(installed) = is_there() {
            return Ok(Pulled::There(installed));
        }
        let incoming = claim(self.library, &artifact, self.progress).await?;
        if let Some(installed) = is_there() {
            return Ok(Pulled::There(installed));
        }
        let lock = self.read_lock()?;
        let mut planned = Vec::new();
        for file in &published.files {
            planned.push(self.plan(published, file, &lock).await?);
        }
        self.check_space(published, &incoming, &planned)?;
        let mut ready = Vec::new();
        for planned in planned {
            ready.push(self.fetch(published, &incoming, planned).await?);
        }
        let installed = self.install(model, published, &artifact, replace, &ready)?;
        self.pin(&published.origin, &ready)?;
        self.publish(published, &installed, &ready);
        incoming.clear();
        Ok(Pulled::Installed(installed))
    }

    fn read_lock(&self) -> Result<Lock, PullError> {
        let text = match fs::read_to_string(self.lock) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(PullError::io("read", self.lock)(error)),
        };
        Ok(Lock::parse(&self.lock.display().to_string(), &text)?)
    }

    async fn plan<'f>(
        &self,
        published: &Published,
        file: &'f PublishedFile,
        lock: &Lock,
    ) -> Result<Planned<'f>, PullError> {
        let locked = lock.find(&published.origin, &file.name);
        let is_description = Path::new(&file.name).extension().is_some_and(|extension| extension == "json");
        let most = if is_description { MAX_DESCRIPTION } else { MAX_FILE };
        let expected = Expected {
            bytes: file.bytes.or(locked.map(|locked| locked.bytes)),
            sha256: file.sha256.clone().or_else(|| locked.map(|locked| locked.sha256.clone())),
            most,
        };
        match &published.origin {
            Origin::Url(url) => {
                let source = Source::Fetch(Url::parse(&format!("{url}{}", file.name))?);
                Ok(Planned { file, expected, metadata: None, source })
            }
            Origin::Hub { repo, revision } => {
                let revision = lock.commit(&published.origin).unwrap_or(revision);
                self.plan_hub(repo, revision, file, expected).await
            }
        }
    }

    async fn plan_hub<'f>(
        &self,
        repo: &str,
        revision: &str,
        file: &'f PublishedFile,
        mut expected: Expected,
    ) -> Result<Planned<'f>, PullError> {
        let cache = self.hub.repository(repo);
        if expected.sha256.is_some() || self.hub.offline {
            let found = cache.as_ref().and_then(|cache| cached(cache, revision, file, &expected));
            if let Some(path) = found {
                return Ok(Planned { file, expected, metadata: None, source: Source::Cache(path) });
            }
        }
        if self.hub.offline {
            return Err(PullError::Offline { name: format!("{repo}/{}", file.name) });
        }
        let url = self.hub.file(repo, revision, &file.name)?;
        let metadata = hub::metadata(self.client, &url).await?;
        agree(&url, repo, file, &expected, &metadata)?;
        expected.bytes = expected.bytes.or(metadata.bytes);
        expected.sha256 = expected.sha256.or_else(|| metadata.sha256().map(str::to_owned));
        let blob = cache.and_then(|cache| metadata.sha256().and_then(|sha256| cache.blob(sha256)));
        let source = match blob.filter(|path| is_as_expected(path, &expected)) {
            Some(path) => Source::Cache(path),
            None => Source::Fetch(url),
        };
        Ok(Planned { file, expected, metadata: Some(metadata), source })
    }

    /// Refuses to begin what would fill the disk.
    fn check_space(
        &self,
        published: &Published,
        incoming: &Incoming,
        planned: &[Planned<'_>],
    ) -> Result<(), PullError> {
        let to_come = |planned: &Planned<'_>| {
            let Source::Fetch(_) = planned.source else { return 0 };
            let here = incoming.here(published.local_name(planned.file));
            planned.expected.bytes.unwrap_or_default().saturating_sub(here)
        };
        check_space(self.library, planned.iter().map(to_come).fold(0u64, u64::saturating_add))
    }

    async fn fetch<'f>(
        &self,
        published: &Published,
        incoming: &Incoming,
        planned: Planned<'f>,
    ) -> Result<Ready<'f>, PullError> {
        let name = &planned.file.name;
        let url = match &planned.source {
            Source::Cache(path) => {
                self.progress.note(&format!("{name}: taken from {}", path.display()));
                let bytes = path.metadata().map_err(PullError::io("find", path))?.len();
                // Where the hash is known, the file was found by it.
                let known = planned.expected.sha256.clone();
                let sha256 = known.map_or_else(|| sha256(path), Ok)?;
                let path = path.clone();
                return Ok(Ready { planned, path, bytes, sha256 });
            }
            Source::Fetch(url) => url,
        };
        let part = incoming.part(published.local_name(planned.file))?;
        self.progress.begin(name, planned.expected.bytes);
        let origin = published.origin.name();
        let wanted = Wanted { url, origin: &origin, name, expected: &planned.expected };
        let part = download(self.client, &wanted, part, &|bytes| self.progress.at(bytes)).await?;
        self.progress.end();
        Ok(Ready { path: part.path().to_owned(), bytes: part.length(), sha256: part.sha256(), planned })
    }

    fn install(
        &self,
        model: &Model,
        published: &Published,
        artifact: &ArtifactRef,
        replace: bool,
        ready: &[Ready<'_>],
    ) -> Result<Installed, PullError> {
        // What was there and is broken makes room: it was found to be no artifact a moment ago.
        let replace = replace || self.library.find(artifact).is_err();
        let installed = install_fetched(self.library, artifact, model, replace, |folder| {
            ready.iter().try_for_each(|ready| {
                let to = folder.join(published.local_name(ready.planned.file));
                incoming::share(&ready.path, &to).map(|_| ())
            })
        })?;
        for ready in ready {
            let name = published.local_name(ready.planned.file);
            let file = installed.manifest.files.iter().find(|file| file.name == name);
            if let Some(file) = file.filter(|file| file.sha256 != ready.sha256) {
                let path = installed.folder.join(name);
                let (expected, found) = (ready.sha256.clone(), file.sha256.clone());
                let fix = "check this disk: it returns other bytes than were written".to_owned();
                return Err(ModelError::Hash { path, expected, found, fix }.into());
            }
        }
        Ok(installed)
    }

    /// Notes what files turned out to be, where the manifest doesn't say it.
    fn pin(&self, origin: &Origin, ready: &[Ready<'_>]) -> Result<(), PullError> {
        let open = |ready: &&Ready<'_>| ready.planned.file.sha256.is_none();
        if !ready.iter().any(|ready| open(&ready)) {
            return Ok(());
        }
        // One program at a time reads, adds and writes.
        let guard = self.library.root().join(".pins");
        let guard =
            File::create(&guard).and_then(|file| file.lock().map(|()| file)).map_err(PullError::io("lock", &guard))?;
        let mut lock = self.read_lock()?;
        for ready in ready.iter().filter(open) {
            lock.pin(Locked {
                origin: origin.name(),
                name: ready.planned.file.name.clone(),
                commit: self.commit(origin, ready),
                bytes: ready.bytes,
                sha256: ready.sha256.clone(),
            });
        }
        write_whole(self.lock, &lock.to_text())?;
        drop(guard);
        self.progress.note(&format!("pinned in {}", self.lock.display()));
        Ok(())
    }

    /// The commit that a file is of, for the hub's files.
    fn commit(&self, origin: &Origin, ready: &Ready<'_>) -> Option<String> {
        let Origin::Hub { repo, revision } = origin else { return None };
        let said = ready.planned.metadata.as_ref().map(|metadata| metadata.commit.clone());
        said.or_else(|| self.hub.repository(repo)?.commit(revision))
    }

    /// Lets the hub's other programs find what was fetched. That they don't is no failure of the pull.
    fn publish(&self, published: &Published, installed: &Installed, ready: &[Ready<'_>]) {
        let Origin::Hub { repo, revision } = &published.origin else { return };
        let Some(cache) = self.hub.repository(repo) else { return };
        for ready in ready {
            let Some(metadata) = &ready.planned.metadata else { continue };
            let file = installed.folder.join(published.local_name(ready.planned.file));
            let reason = match cache.publish(&file, &ready.planned.file.name, revision, metadata) {
                Ok(true) => continue,
                Ok(false) => "it is on another file system".to_owned(),
                Err(error) => error.to_string(),
            };
            self.progress.note(&format!("the hub's cache does not share {}: {reason}", ready.planned.file.name));
            return;
        }
    }
}

/// Refuses to begin what would fill the disk.
pub(crate) fn check_space(library: &Library, needed: u64) -> Result<(), PullError> {
    let root = library.root();
    let free = fs4::available_space(root).map_err(PullError::io("measure the free space of", root))?;
    if needed > 0 && needed.saturating_add(MARGIN) > free {
        return Err(PullError::Space { path: root.to_owned(), needed, free });
    }
    Ok(())
}

/// What a published artifact is called here.
pub fn artifact(model: &Model, published: &Published) -> ArtifactRef {
    let Published { format, precision, .. } = *published;
    ArtifactRef { model: model.id.clone(), weights: Weights::Real, format, precision }
}

/// Takes the right to fetch; waits while another program fetches the same, as long as that one receives something.
pub async fn claim(library: &Library, artifact: &ArtifactRef, progress: &dyn Progress) -> Result<Incoming, PullError> {
    let folder = Incoming::folder(library, artifact);
    let (mut seen, mut since) = (None, tokio::time::Instant::now());
    loop {
        if let Some(incoming) = Incoming::claim(library, artifact)? {
            return Ok(incoming);
        }
        if seen.is_none() {
            progress.note(&format!("another program fetches {artifact}: waiting for it"));
        }
        let arrived = Some(Incoming::arrived(&folder));
        if arrived != seen {
            (seen, since) = (arrived, tokio::time::Instant::now());
        } else if since.elapsed() > PATIENCE {
            return Err(PullError::Busy { artifact: artifact.to_string(), waited: PATIENCE });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the hub says and what was known before must be the same.
fn agree(
    url: &Url,
    repo: &str,
    file: &PublishedFile,
    expected: &Expected,
    metadata: &Metadata,
) -> Result<(), PullError> {
    if let (Some(expected), Some(found)) = (expected.bytes, metadata.bytes)
        && expected != found
    {
        return Err(PullError::Size { url: url.clone(), expected, found });
    }
    match (&expected.sha256, metadata.sha256()) {
        (Some(expected), Some(found)) if expected != found => Err(PullError::Hash {
            origin: format!("hub:{repo}"),
            name: file.name.clone(),
            expected: expected.clone(),
            found: found.to_owned(),
            hint: " (fix: the hub has another file now; name the revision that is meant in the manifest)".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// A file of the cache that is the one that is meant.
fn cached(cache: &RepositoryCache, revision: &str, file: &PublishedFile, expected: &Expected) -> Option<PathBuf> {
    let by_hash = expected.sha256.as_ref().and_then(|sha256| cache.blob(sha256));
    let by_name = || cache.find(revision, &file.name);
    by_hash.or_else(by_name).filter(|path| is_as_expected(path, expected))
}

fn is_as_expected(path: &Path, expected: &Expected) -> bool {
    let length = path.metadata().map(|metadata| metadata.len()).ok();
    if expected.bytes.is_some() && length != expected.bytes {
        return false;
    }
    expected.sha256.as_ref().is_none_or(|expected| sha256(path).is_ok_and(|found| found == *expected))
}

/// Writes a file so that it is there as it was before or as it is to be.
fn write_whole(path: &Path, text: &str) -> Result<(), PullError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(PullError::io("create", folder))?;
    let fresh = path.with_extension("lock.new");
    File::create(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(PullError::io("write", path))
}
