//! The Hugging Face hub: what its own programs agree on, so that regatta and they find each other's files.
//!
//! ```text
//! <HF_HOME>/hub/models--OWNER--NAME/
//!     blobs/<etag>                 the files, named by their hash
//!     refs/<branch or tag>         the commit that it stands for
//!     snapshots/<commit>/<file>    links into blobs
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};

use http::{Method, StatusCode};
use regatta_core::model::is_sha256;

use crate::client::{Client, Follow, HubToken};
use crate::error::PullError;
use crate::policy::{Refused, Url};

/// Where the hub is unless a person says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// The variables that are read: the hub's own.
pub const VARIABLES: [&str; 8] = [
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
];

/// How this machine uses the hub.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Its address.
    pub endpoint: Url,
    /// Whether a person has named it.
    pub named: bool,
    /// The token, where there is one.
    pub token: Option<HubToken>,
    /// The cache, where a home folder is known.
    pub cache: Option<PathBuf>,
    /// Whether nothing may be fetched.
    pub offline: bool,
}

impl Hub {
    /// As the variables say. `home` is the user's home folder.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>, home: Option<&Path>) -> Result<Self, Refused> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let named = get("HF_ENDPOINT");
        let endpoint = Url::parse(named.as_deref().unwrap_or(ENDPOINT).trim().trim_end_matches('/'))?;
        let cache_home = get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cache")));
        let hf_home = get("HF_HOME").map(PathBuf::from).or_else(|| Some(cache_home?.join("huggingface")));
        let cache = get("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(hf_home.as_ref()?.join("hub")));
        let token_file = get("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hf_home.as_ref()?.join("token")));
        let from_file = || fs::read_to_string(token_file?).ok();
        let text = if is_set(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")) { None } else { get("HF_TOKEN").or_else(from_file) };
        let token = text.and_then(|text| HubToken::new(&text));
        Ok(Self { endpoint, named: named.is_some(), token, cache, offline: is_set(get("HF_HUB_OFFLINE")) })
    }

    /// The address of a file.
    pub fn file(&self, repo: &str, revision: &str, name: &str) -> Result<Url, Refused> {
        self.endpoint.at(&format!("/{repo}/resolve/{}/{name}", revision.replace('/', "%2F")))
    }

    /// The cache of one repository.
    pub fn repository(&self, repo: &str) -> Option<RepositoryCache> {
        let folder = format!("models--{}", repo.replace('/', "--"));
        Some(RepositoryCache { folder: self.cache.as_ref()?.join(folder) })
    }
}

fn is_set(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The commit that the revision stands for.
    pub commit: String,
    /// The file's name among the blobs: its SHA-256, or git's hash where the file is small.
    pub etag: String,
    /// Size in bytes, where the hub says it.
    pub bytes: Option<u64>,
}

impl Metadata {
    /// The SHA-256, for files that are kept outside git: all weights are.
    pub fn sha256(&self) -> Option<&str> {
        Some(self.etag.as_str()).filter(|etag| is_sha256(etag))
    }
}

/// Asks the hub what a file is.
pub async fn metadata(client: &Client, url: &Url) -> Result<Metadata, PullError> {
    let answer = client.ask(&Method::HEAD, url, &[], Follow::SameServer).await?;
    let status = answer.status;
    if !status.is_success() && !status.is_redirection() {
        return Err(PullError::Status {
            url: url.clone(),
            status: status.as_u16(),
            hint: hint(status, &answer.headers),
        });
    }
    let wrong = |what: &str| PullError::Answer { url: url.clone(), problem: format!("the hub doesn't say {what}") };
    let commit =
        answer.header("x-repo-commit").filter(|text| is_hash(text)).ok_or_else(|| wrong("which commit it is of"))?;
    let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag")).map(unquoted);
    let etag = etag.filter(|etag| is_hash(etag)).ok_or_else(|| wrong("its hash"))?;
    let own_size = if status.is_success() { answer.header("content-length") } else { None };
    let bytes = answer.header("x-linked-size").or(own_size).and_then(|text| text.parse().ok());
    Ok(Metadata { commit: commit.to_owned(), etag: etag.to_owned(), bytes })
}

/// An entity tag without its quotes.
fn unquoted(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// Whether the text can be a hash, and so the name of a file.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What to do about a refusal.
pub(crate) fn hint(status: StatusCode, headers: &http::HeaderMap) -> String {
    let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
    match (status.as_u16(), code) {
        (_, "GatedRepo") => ": the repository asks for its terms to be accepted; do so on its page with your account, \
             then set HF_TOKEN or run 'hf auth login'"
            .to_owned(),
        (_, "RevisionNotFound") => ": the repository has no such revision; mend it in the manifest".to_owned(),
        (_, "EntryNotFound") => ": the repository has no such file; mend its name in the manifest".to_owned(),
        (401 | 403, _) => ": there is no such repository, or it wants a token that may read it; \
             set HF_TOKEN or run 'hf auth login'"
            .to_owned(),
        (404, _) => ": there is no such file; mend the manifest".to_owned(),
        (429, _) => ": too many requests; wait a few minutes, or set HF_TOKEN for a higher limit".to_owned(),
        _ => String::new(),
    }
}

/// A repository in the hub's cache on this disk.
#[derive(Debug, Clone)]
pub struct RepositoryCache {
    folder: PathBuf,
}

impl RepositoryCache {
    /// A file of a revision; what its blob is called where it has one.
    pub fn find(&self, revision: &str, name: &str) -> Option<PathBuf> {
        let commit = if is_hash(revision) {
            revision.to_owned()
        } else {
            fs::read_to_string(self.folder.join("refs").join(revision)).ok()?.trim().to_owned()
        };
        is_hash(&commit).then_some(())?;
        self.inside(&self.folder.join("snapshots").join(commit).join(name))
    }

    /// A file by its hash.
    pub fn blob(&self, etag: &str) -> Option<PathBuf> {
        is_hash(etag).then_some(())?;
        self.inside(&self.folder.join("blobs").join(etag))
    }

    /// The commit that a branch or tag stood for when it was last fetched.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hash(commit))
    }

    /// The file itself, if it is a plain one and links lead nowhere but inside the repository's folder.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok()?;
        let root = self.folder.canonicalize().ok()?;
        (real.starts_with(root) && real.is_file()).then_some(real)
    }

    /// Lets the hub's other programs find a file that is here, if that takes no space. Whether they do.
    pub fn publish(&self, file: &Path, name: &str, revision: &str, metadata: &Metadata) -> Result<bool, PullError> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || !is_hash(&metadata.commit) || !is_hash(&metadata.etag) {
            return Ok(false);
        }
        let blob = self.folder.join("blobs").join(&metadata.etag);
        let pointer = self.folder.join("snapshots").join(&metadata.commit).join(name);
        if pointer.exists() {
            return Ok(true);
        }
        for path in [&blob, &pointer] {
            let parent = path.parent().unwrap_or(&self.folder);
            fs::create_dir_all(parent).map_err(PullError::io("create", parent))?;
        }
        if !blob.exists() && fs::hard_link(file, &blob).is_err() {
            return Ok(false);
        }
        link(&blob, &pointer, name, &metadata.etag)?;
        if revision != metadata.commit {
            let reference = self.folder.join("refs").join(revision);
            let parent = reference.parent().unwrap_or(&self.folder);
            fs::create_dir_all(parent).map_err(PullError::io("create", parent))?;
            fs::write(&reference, &metadata.commit).map_err(PullError::io("write", &reference))?;
        }
        Ok(true)
    }
}

/// Points from a snapshot to a blob, as the hub's programs do: relative, so that the cache can be moved.
#[cfg(unix)]
fn link(_blob: &Path, pointer: &Path, name: &str, etag: &str) -> Result<(), PullError> {
    let up = "../".repeat(2 + name.matches('/').count());
    std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), pointer).map_err(PullError::io("link", pointer))
}

/// Links need rights on Windows that few have: a second name of the file does as well.
#[cfg(not(unix))]
fn link(blob: &Path, pointer: &Path, _name: &str, _etag: &str) -> Result<(), PullError> {
    fs::hard_link(blob, pointer).map_err(PullError::io("link", pointer))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hub(variables: &[(&str, &str)], home: Option<&Path>) -> Result<Hub, Refused> {
        let table: HashMap<_, _> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Hub::from_variables(|name| table.get(name).cloned(), home)
    }

    #[test]
    fn settings_come_from_the_hubs_own_variables() {
        let folder = tempfile::tempdir().unwrap();
        let plain = hub(&[], Some(folder.path())).unwrap();
        assert_eq!(plain.endpoint.to_string(), "https://huggingface.co/");
        assert_eq!(plain.cache.unwrap(), folder.path().join(".cache/huggingface/hub"));
        assert!(plain.token.is_none() && !plain.named && !plain.offline);
        let home = folder.path().join("hf");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("token"), "hf_secret\n").unwrap();
        let hf_home = ("HF_HOME", home.to_str().unwrap());
        let set =
            hub(&[hf_home, ("HF_ENDPOINT", "https://mirror.corp/hf/"), ("HF_HUB_OFFLINE", "true")], None).unwrap();
        assert!(set.token.is_some() && set.named && set.offline);
        assert!(!format!("{set:?}").contains("secret"));
        assert_eq!(set.cache.as_ref().unwrap(), &home.join("hub"));
        assert_eq!(
            set.file("a/b", "refs/pr/1", "x/y.gguf").unwrap().target(),
            "/hf/a/b/resolve/refs%2Fpr%2F1/x/y.gguf"
        );
        assert!(hub(&[hf_home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None).unwrap().token.is_none());
        assert!(hub(&[("HF_ENDPOINT", "file:///x")], None).is_err());
        assert!(hub(&[("HF_TOKEN", "two words")], None).unwrap().token.is_none());
    }

    #[test]
    fn what_is_published_is_found_by_name_and_by_hash() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        fs::write(&file, "weights").unwrap();
        let hub = hub(&[("HF_HOME", folder.path().to_str().unwrap())], None).unwrap();
        let cache = hub.repository("owner/name").unwrap();
        assert!(cache.find("main", "sub/m.safetensors").is_none());
        let metadata = Metadata { commit: "c".repeat(40), etag: "e".repeat(64), bytes: Some(7) };
        assert!(cache.publish(&file, "sub/m.safetensors", "main", &metadata).unwrap());
        assert!(cache.publish(&file, "sub/m.safetensors", "main", &metadata).unwrap());
        let root = folder.path().canonicalize().unwrap().join("hub/models--owner--name");
        assert_eq!(cache.blob(&metadata.etag).unwrap(), root.join("blobs").join(&metadata.etag));
        for revision in ["main", metadata.commit.as_str()] {
            assert_eq!(fs::read(cache.find(revision, "sub/m.safetensors").unwrap()).unwrap(), b"weights");
        }
        assert_eq!(cache.commit("main"), Some(metadata.commit));
        assert!(
            !cache
                .publish(&file, "../x", "main", &Metadata { commit: "d".repeat(40), etag: "f".repeat(64), bytes: None })
                .unwrap()
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_the_repository_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let hub = hub(&[("HF_HOME", folder.path().to_str().unwrap())], None).unwrap();
        let cache = hub.repository("a/b").unwrap();
        let snapshot = cache.folder.join("snapshots").join("c".repeat(40));
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), snapshot.join("config.json")).unwrap();
        assert_eq!(cache.find(&"c".repeat(40), "config.json"), None);
    }
}
