//! Weights from a coordinator: by id and hash, from any offset, whole or not at all.

use std::fs;
use std::path::Path;
use std::time::Duration;

use regatta_coordinator::Config;
use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_core::model::{Architecture, Model, Shape};
use regatta_models::incoming::Incoming;
use regatta_models::library::{Install, Installed, Library};
use regatta_models::{gguf, synth};
use regatta_net::Connection;
use regatta_proto::pb;
use regatta_proto::pb::artifact_service_client::ArtifactServiceClient;
use regatta_pull::PullError;
use regatta_pull::client::Timing;
use regatta_pull::coordinator::pull;
use regatta_pull::pull::Pulled;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::Server;

/// A network so wide that its file has more than one piece.
fn model() -> Model {
    let shape = Shape {
        architecture: Architecture::Llama,
        hidden: 256,
        intermediate: 768,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab: 2000,
        context: 128,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        tied_embeddings: false,
        sliding_window: None,
    };
    let id = "wide".parse().unwrap();
    Model { id, description: String::new(), licence: "MIT".to_owned(), shape, artifacts: Vec::new() }
}

/// A coordinator that has the weights.
async fn server(dir: &Path) -> (Server, Installed) {
    let library = Library::open(&dir.join("models")).unwrap();
    let make = |folder: &Path| {
        synth::gguf(&model().shape, "wide", 1, Precision::F32, &folder.join(gguf::FILE), &mut |_, _| {})
    };
    let installed = library.install(&artifact(), Install { seed: None, replace: false }, make).unwrap();
    let config = Config { model_root: Some(dir.join("models")), ..Config::new(dir.join("regatta.db")) };
    (Server::with(config).await, installed)
}

async fn client(server: &Server) -> ArtifactServiceClient<Channel> {
    ArtifactServiceClient::new(server.channels(1).await.remove(0))
}

fn artifact() -> ArtifactRef {
    ArtifactRef { model: model().id, weights: Weights::Real, format: Format::Gguf, precision: Precision::F32 }
}

async fn pull_into(server: &Server, library: &Library) -> Result<Pulled, PullError> {
    let connection = Connection::from(Connection::parse(&format!("http://{}", server.addr)).unwrap());
    let timing = Timing { pause: Duration::ZERO, attempts: 2, ..Timing::default() };
    pull(&connection, library, &artifact(), false, &timing, &()).await
}

/// What the server sends of a file, from an offset.
async fn bytes(server: &Server, sha256: &str, offset: u64) -> Result<Vec<u8>, tonic::Status> {
    let request = pb::FetchArtifactRequest { artifact: Some((&artifact()).into()), sha256: sha256.to_owned(), offset };
    let mut pieces = client(server).await.fetch_artifact(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await? {
        assert!(piece.chunk.len() <= 1 << 20);
        all.extend(piece.chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn files_come_by_hash_and_from_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let (server, installed) = server(dir.path()).await;
    let request = pb::DescribeArtifactRequest { artifact: Some((&artifact()).into()) };
    let files = client(&server).await.describe_artifact(request).await.unwrap().into_inner().files;
    let content = fs::read(installed.path()).unwrap();
    assert!(content.len() > 2 << 20);
    assert_eq!((files.len(), files[0].name.as_str(), files[0].bytes), (1, "model.gguf", content.len() as u64));
    for offset in [0, 1, 1 << 20, content.len() - 1, content.len()] {
        assert!(bytes(&server, &files[0].sha256, offset as u64).await.unwrap() == content[offset..], "from {offset}");
    }
    let refused = bytes(&server, &files[0].sha256, content.len() as u64 + 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    for hash in ["", "../regatta.db", &"0".repeat(64)] {
        assert_eq!(bytes(&server, hash, 0).await.unwrap_err().code(), Code::NotFound, "{hash}");
    }
    server.stop().await;
}

#[tokio::test]
async fn names_that_are_none_are_refused_and_what_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = server(dir.path()).await;
    let describe = async |artifact: Option<pb::ArtifactRef>| {
        let request = pb::DescribeArtifactRequest { artifact };
        client(&server).await.describe_artifact(request).await.unwrap_err()
    };
    assert_eq!(describe(None).await.code(), Code::InvalidArgument);
    let good = pb::ArtifactRef::from(&artifact());
    for model in ["../../etc", "/etc/passwd", "", "con/x"] {
        let status = describe(Some(pb::ArtifactRef { model: model.to_owned(), ..good.clone() })).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{model}: {status}");
    }
    let absent = describe(Some(pb::ArtifactRef { precision: "q8_0".to_owned(), ..good })).await;
    assert_eq!(absent.code(), Code::NotFound);
    assert!(absent.message().contains("regatta models pull wide --format gguf --precision q8_0"), "{absent}");
    server.stop().await;
}

#[tokio::test]
async fn an_agents_library_gets_the_same_bytes_and_goes_on_with_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (server, installed) = server(dir.path()).await;
    let content = fs::read(installed.path()).unwrap();
    for here in [0, 1_500_000] {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let incoming = Incoming::claim(&library, &artifact()).unwrap().unwrap();
        incoming.part("model.gguf").unwrap().append(&content[..here]).unwrap();
        drop(incoming);
        let Pulled::Installed(pulled) = pull_into(&server, &library).await.unwrap() else { panic!("was it there?") };
        assert_eq!(pulled.manifest.files, installed.manifest.files);
        assert_eq!(library.find_hashed(&artifact()).unwrap(), pulled);
        assert!(matches!(pull_into(&server, &library).await.unwrap(), Pulled::There(_)));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_part_is_fetched_again_and_a_damaged_original_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let (server, installed) = server(dir.path()).await;
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path()).unwrap();
    let incoming = Incoming::claim(&library, &artifact()).unwrap().unwrap();
    incoming.part("model.gguf").unwrap().append(&[1; 1000]).unwrap();
    drop(incoming);
    assert!(matches!(pull_into(&server, &library).await.unwrap(), Pulled::Installed(_)));
    library.remove(&artifact()).unwrap();

    let mut content = fs::read(installed.path()).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(installed.path(), content).unwrap();
    let error = pull_into(&server, &library).await.unwrap_err().to_string();
    assert!(error.contains("its copy is damaged"), "{error}");
    let path = dir.path().display().to_string();
    assert!(!error.contains(&path), "a path of the coordinator's machine: {error}");
    assert!(library.list().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_coordinator_that_serves_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let library = Library::open(&dir.path().join("elsewhere")).unwrap();
    let error = pull_into(&server, &library).await.unwrap_err().to_string();
    assert_eq!(error, "the coordinator: it serves no weights (serve_models is off there)");
    server.stop().await;
}
