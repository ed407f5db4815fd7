//! Whole artifacts, from a hub that is made here.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use regatta_core::artifact::{Format, Precision};
use regatta_core::model::{Architecture, Lock, Model, Origin, Published, PublishedFile, Shape};
use regatta_models::library::Library;
use regatta_models::synth;
use regatta_pull::PullError;
use regatta_pull::client::{Client, HubToken};
use regatta_pull::hub::Hub;
use regatta_pull::policy::Policy;
use regatta_pull::pull::{Progress, Pulled, Puller, artifact};

use crate::download::{hex, timing};
use crate::server::{Asked, Reply, Server};

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn model() -> Model {
    let shape = Shape {
        architecture: Architecture::Llama,
        hidden: 64,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab: 300,
        context: 128,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings: false,
        sliding_window: None,
    };
    let id = "tiny".parse().unwrap();
    Model { id, description: String::new(), licence: "MIT".to_owned(), shape, artifacts: Vec::new() }
}

fn published(names: &[&str]) -> Published {
    let file = |name: &&str| PublishedFile { name: (*name).to_owned(), bytes: None, sha256: None };
    Published {
        format: Format::Safetensors,
        precision: Precision::F16,
        origin: Origin::Hub { repo: "owner/tiny".to_owned(), revision: "main".to_owned() },
        files: names.iter().map(file).collect(),
    }
}

fn files() -> Published {
    published(&["model.safetensors", "config.json"])
}

/// The files of the tiny model, by name.
fn content(folder: &Path) -> HashMap<String, Vec<u8>> {
    synth::safetensors(&model().shape, 1, Precision::F16, folder, &mut |_, _| {}).unwrap();
    let names = ["model.safetensors", "config.json"];
    unmark(&folder.join(names[0]));
    names.iter().map(|name| ((*name).to_owned(), fs::read(folder.join(name)).unwrap())).collect()
}

/// Has made-up weights play trained ones: takes the words out of the file that say otherwise.
fn unmark(file: &Path) {
    let mark = synth::SEED_KEY.as_bytes();
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(mark.len()).position(|words| words == mark).unwrap();
    bytes[at..at + mark.len()].fill(b'x');
    fs::write(file, bytes).unwrap();
}

/// Answers as the hub does: large files by their SHA-256, small ones by git's hash.
fn hub_answer(content: &HashMap<String, Vec<u8>>, asked: &Asked) -> Reply {
    let path = asked.path.strip_prefix("/owner/tiny/resolve/").and_then(|path| path.split_once('/'));
    let Some(file) = path.and_then(|(_, name)| content.get(name)) else {
        return Reply::new("404 Not Found", &[("X-Error-Code", "EntryNotFound"), ("Content-Length", "0")], b"");
    };
    let is_large = path.is_some_and(|(_, name)| name == "model.safetensors");
    let etag = if is_large { format!("\"{}\"", hex(file)) } else { format!("\"{}\"", "b".repeat(40)) };
    if asked.method == "GET" {
        return Reply::honest(asked, file, &etag);
    }
    let length = file.len().to_string();
    if is_large {
        let headers = [
            ("X-Repo-Commit", COMMIT),
            ("X-Linked-Etag", etag.as_str()),
            ("X-Linked-Size", &length),
            ("Location", "https://cdn-lfs.hf.co/not-asked"),
            ("Content-Length", "0"),
        ];
        return Reply::new("302 Found", &headers, b"");
    }
    Reply::new("200 OK", &[("X-Repo-Commit", COMMIT), ("ETag", &etag), ("Content-Length", &length)], b"")
}

/// A home for everything, and a hub.
struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    notes: Notes,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Progress for Notes {
    fn begin(&self, _name: &str, _total: Option<u64>) {}
    fn at(&self, _bytes: u64) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Bench {
    async fn new() -> Self {
        Self::answering(hub_answer).await
    }

    async fn answering(answer: fn(&HashMap<String, Vec<u8>>, &Asked) -> Reply) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        let content = content(&source);
        let server = Server::start(move |_, asked| answer(&content, asked)).await;
        Self { folder, server, notes: Notes::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn library(&self) -> Library {
        Library::open(&self.path("models")).unwrap()
    }

    async fn pull(&self, published: &Published, variables: &[(&str, &str)]) -> Result<Pulled, PullError> {
        self.pull_model(&model(), published, variables).await
    }

    async fn pull_model(
        &self,
        model: &Model,
        published: &Published,
        variables: &[(&str, &str)],
    ) -> Result<Pulled, PullError> {
        let mut table: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        table.insert("HF_HOME".to_owned(), self.path("hf").display().to_string());
        table.insert("HF_ENDPOINT".to_owned(), format!("http://127.0.0.1:{}", self.server.port));
        let hub = Hub::from_variables(|name| table.get(name).cloned(), None).unwrap();
        let token = hub.token.clone().map(|token: HubToken| (token, hub.endpoint.clone()));
        let policy = Policy::new(&[], Some(hub.endpoint.clone()));
        let client = Client::with_roots(policy, token, Vec::new()).with_timing(timing());
        let (library, lock) = (self.library(), self.path("models.lock"));
        let puller = Puller { library: &library, hub: &hub, client: &client, lock: &lock, progress: &self.notes };
        puller.pull(model, published, false).await
    }

    fn lock(&self) -> Lock {
        Lock::parse("models.lock", &fs::read_to_string(self.path("models.lock")).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_first_pull_installs_pins_and_shares() {
    let bench = Bench::new().await;
    let pulled = bench.pull(&files(), &[]).await.unwrap();
    let Pulled::Installed(installed) = &pulled else { panic!("{pulled:?}") };
    assert_eq!(bench.library().find_hashed(&artifact(&model(), &files())).unwrap(), *installed);
    let lock = bench.lock();
    for file in &installed.manifest.files {
        let locked = lock.find(&files().origin, &file.name).unwrap();
        assert_eq!((&locked.sha256, locked.bytes, locked.commit.as_deref()), (&file.sha256, file.bytes, Some(COMMIT)));
    }
    let shared = bench.path("hf/hub/models--owner--tiny/snapshots").join(COMMIT).join("model.safetensors");
    assert_eq!(fs::read(&shared).unwrap(), fs::read(installed.folder.join("model.safetensors")).unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let names = fs::metadata(&shared).unwrap().nlink();
        assert_eq!(names, 2, "the cache and the library share the file's bytes");
    }
    let before = bench.server.asked().len();
    assert!(matches!(bench.pull(&files(), &[]).await.unwrap(), Pulled::There(_)));
    assert_eq!(bench.server.asked().len(), before);
}

#[tokio::test]
async fn what_the_hubs_cache_has_is_not_fetched_again_not_even_offline() {
    let bench = Bench::new().await;
    bench.pull(&files(), &[]).await.unwrap();
    bench.library().remove(&artifact(&model(), &files())).unwrap();
    let before = bench.server.asked().len();
    assert!(matches!(bench.pull(&files(), &[]).await.unwrap(), Pulled::Installed(_)));
    bench.library().remove(&artifact(&model(), &files())).unwrap();
    fs::remove_file(bench.path("models.lock")).unwrap();
    assert!(matches!(bench.pull(&files(), &[("HF_HUB_OFFLINE", "1")]).await.unwrap(), Pulled::Installed(_)));
    assert_eq!(bench.server.asked().len(), before);
    assert_eq!(bench.lock().commit(&files().origin), Some(COMMIT));
    fs::remove_dir_all(bench.path("hf")).unwrap();
    bench.library().remove(&artifact(&model(), &files())).unwrap();
    let error = bench.pull(&files(), &[("HF_HUB_OFFLINE", "1")]).await.unwrap_err().to_string();
    assert!(error.contains("owner/tiny/model.safetensors is not in the hub's cache"), "{error}");
}

#[tokio::test]
async fn a_blob_that_was_damaged_is_fetched_and_not_believed() {
    let bench = Bench::new().await;
    bench.pull(&files(), &[]).await.unwrap();
    bench.library().remove(&artifact(&model(), &files())).unwrap();
    let snapshot = bench.path("hf/hub/models--owner--tiny/snapshots").join(COMMIT).join("model.safetensors");
    let mut bytes = fs::read(&snapshot).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(snapshot.canonicalize().unwrap(), bytes).unwrap();
    let gets = bench.server.count("GET");
    bench.pull(&files(), &[]).await.unwrap();
    assert_eq!(bench.server.count("GET"), gets + 1);
}

#[tokio::test]
async fn the_pins_hold() {
    let bench = Bench::new().await;
    let wrong = Lock::parse(
        "l",
        &format!(
            "schema = 1\n[[file]]\norigin = \"hub:owner/tiny@main\"\nname = \"model.safetensors\"\nbytes = 5\nsha256 = \"{}\"\n",
            "a".repeat(64)
        ),
    );
    fs::write(bench.path("models.lock"), wrong.unwrap().to_text()).unwrap();
    let error = bench.pull(&files(), &[]).await.unwrap_err().to_string();
    assert!(error.contains("expected 5 bytes, the server has"), "{error}");
    let mut pinned = files();
    pinned.files[0].sha256 = Some("c".repeat(64));
    fs::remove_file(bench.path("models.lock")).unwrap();
    let error = bench.pull(&pinned, &[]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("expected SHA-256 {}", "c".repeat(64))), "{error}");
    assert!(error.contains("the hub has another file now"), "{error}");
    assert_eq!(bench.server.count("GET"), 0);
    fs::write(bench.path("models.lock"), "schema = 1\n[[fil]]\n").unwrap();
    let error = bench.pull(&files(), &[]).await.unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("models.lock:2: unknown field `fil`"), "{error}");
    assert!(bench.library().list().unwrap().is_empty());
}

#[tokio::test]
async fn two_that_pull_the_same_share_one_download() {
    let bench = Bench::new().await;
    let files = files();
    let (first, second) = tokio::join!(bench.pull(&files, &[]), bench.pull(&files, &[]));
    let there = [first.unwrap(), second.unwrap()].iter().filter(|pulled| matches!(pulled, Pulled::There(_))).count();
    assert_eq!((there, bench.server.count("GET")), (1, 2));
    let notes = bench.notes.0.lock().unwrap();
    assert!(notes.iter().any(|note| note.contains("another program fetches tiny safetensors f16")), "{notes:?}");
}

#[tokio::test]
async fn what_does_not_fit_on_the_disk_is_not_begun() {
    let bench = Bench::answering(|content, asked| {
        if asked.method == "HEAD" && asked.path.ends_with("model.safetensors") {
            let etag = format!("\"{}\"", "a".repeat(64));
            let headers = [("X-Repo-Commit", COMMIT), ("X-Linked-Etag", &etag), ("X-Linked-Size", "1000000000000000")];
            return Reply::new("200 OK", &headers, b"");
        }
        hub_answer(content, asked)
    })
    .await;
    let error = bench.pull(&files(), &[]).await.unwrap_err().to_string();
    assert!(error.contains("bytes are needed") && error.contains("are free (fix: make room"), "{error}");
    assert_eq!(bench.server.count("GET"), 0);
}

#[tokio::test]
async fn gated_repositories_say_what_to_do_and_tokens_are_sent_and_not_shown() {
    let bench = Bench::answering(|_, _| {
        Reply::new("401 Unauthorized", &[("X-Error-Code", "GatedRepo"), ("Content-Length", "0")], b"")
    })
    .await;
    let error = bench.pull(&files(), &[("HF_TOKEN", "hf_secret")]).await.unwrap_err();
    let said = format!("{error} {error:?}");
    assert!(said.contains("then set HF_TOKEN or run 'hf auth login'") && !said.contains("hf_secret"), "{said}");
    assert_eq!(bench.server.asked()[0].header("authorization"), Some("Bearer hf_secret"));
}

#[tokio::test]
async fn another_network_is_refused_and_not_installed() {
    let bench = Bench::new().await;
    let mut other = model();
    other.shape.layers = 3;
    let error = bench.pull_model(&other, &files(), &[]).await.unwrap_err().to_string();
    assert!(error.contains("not the model tiny: layers 2, expected 3"), "{error}");
    assert!(bench.library().list().unwrap().is_empty());
    assert!(!bench.path("models.lock").exists(), "what could not be used is not pinned");
    let gets = bench.server.count("GET");
    bench.pull(&files(), &[]).await.unwrap();
    assert_eq!(bench.server.count("GET"), gets, "what had arrived is used as soon as the manifest is mended");
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let bench = Bench::new().await;
    let error = bench.pull(&published(&["model.safetensors", "config.json", "tokenizer.json"]), &[]).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("tokenizer.json: the server answers 404: the repository has no such file"), "{said}");
    assert_eq!(bench.server.count("GET"), 0);
}

#[tokio::test]
async fn a_folder_behind_an_address_is_pulled_and_pinned() {
    // The address of the endpoint stands for an allowed host here: nothing else on this machine may be asked.
    let bench = Bench::new().await;
    let url = format!("http://127.0.0.1:{}/owner/tiny/resolve/main/", bench.server.port);
    let published = Published { origin: Origin::Url(url.clone()), ..files() };
    bench.pull(&published, &[]).await.unwrap();
    assert_eq!(bench.server.count("HEAD"), 0);
    assert!(bench.lock().find(&Origin::Url(url), "config.json").is_some_and(|locked| locked.commit.is_none()));
    let elsewhere = Published { origin: Origin::Url("https://evil.example/m/".to_owned()), ..files() };
    bench.library().remove(&artifact(&model(), &files())).unwrap();
    let error = bench.pull(&elsewhere, &[]).await.unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("--allow-host evil.example"), "{error}");
}
