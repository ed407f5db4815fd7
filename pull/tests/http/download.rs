//! One file from servers that misbehave.

use std::time::Duration;

use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
use regatta_models::incoming::{Incoming, Part};
use regatta_models::library::Library;
use regatta_pull::PullError;
use regatta_pull::client::{Client, Timing};
use regatta_pull::download::{Expected, Wanted, download};
use regatta_pull::policy::{Policy, Url};
use sha2::{Digest, Sha256};

use crate::server::{Asked, Reply, Server};

pub(crate) fn timing() -> Timing {
    Timing { silence: Duration::from_millis(300), pause: Duration::ZERO, attempts: 3, ..Timing::default() }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn file() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

struct Bench {
    incoming: Incoming,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::open(folder.path()).unwrap();
        let model = "m".parse().unwrap();
        let artifact = ArtifactRef { model, weights: Weights::Real, format: Format::Gguf, precision: Precision::F16 };
        Self { incoming: Incoming::claim(&library, &artifact).unwrap().unwrap(), _folder: folder }
    }

    fn part(&self) -> Part {
        self.incoming.part("model.gguf").unwrap()
    }

    async fn download(&self, server: &Server, expected: Expected) -> Result<Part, PullError> {
        let url = Url::parse(&format!("http://127.0.0.1:{}/f", server.port)).unwrap();
        let client = Client::with_roots(Policy::new(&[], Some(url.clone())), None, Vec::new()).with_timing(timing());
        let wanted = Wanted { url: &url, origin: "test", name: "f", expected: &expected };
        download(&client, &wanted, self.part(), &|_| ()).await
    }
}

fn unknown() -> Expected {
    Expected { most: 1 << 30, ..Expected::default() }
}

fn known(file: &[u8]) -> Expected {
    Expected { bytes: Some(file.len() as u64), sha256: Some(hex(file)), most: 1 << 30 }
}

fn is_whole(part: &Part) -> bool {
    std::fs::read(part.path()).unwrap() == file() && part.sha256() == hex(&file())
}

#[tokio::test]
async fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let server = Server::start(|before, asked| {
        let reply = Reply::honest(asked, &file(), "\"v1\"");
        if before < 4 { reply.cut(100_000) } else { reply }
    })
    .await;
    let bench = Bench::new();
    assert!(is_whole(&bench.download(&server, unknown()).await.unwrap()));
    let asked = server.asked();
    assert_eq!(asked.iter().map(Asked::from).collect::<Vec<_>>(), [0, 100_000, 200_000, 300_000, 400_000]);
    assert!(asked[1..].iter().all(|asked| asked.header("if-range") == Some("\"v1\"")));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let server = Server::start(|before, asked| {
        let reply = Reply::honest(asked, &file(), "\"v1\"");
        if before == 0 { reply.cut(50_000).stalling() } else { reply }
    })
    .await;
    assert!(is_whole(&Bench::new().download(&server, unknown()).await.unwrap()));
    assert_eq!(server.asked()[1].from(), 50_000);
}

#[tokio::test]
async fn a_server_that_brings_nothing_more_ends_the_attempts_and_what_came_stays() {
    let server = Server::start(|before, asked| {
        let reply = Reply::honest(asked, &file(), "\"v1\"");
        reply.cut(if before == 0 { 70_000 } else { 0 })
    })
    .await;
    let bench = Bench::new();
    let error = bench.download(&server, unknown()).await.unwrap_err();
    assert!(error.to_string().contains("broke off after 70000 bytes"), "{error}");
    assert!(error.to_string().contains("fix: pull again, it goes on from there"), "{error}");
    assert_eq!(bench.part().length(), 70_000);
    assert_eq!(server.asked().len(), 4, "one that brought something, three that brought nothing");
}

#[tokio::test]
async fn another_version_is_fetched_from_its_start() {
    let server = Server::start(|before, asked| {
        if before == 0 {
            Reply::honest(asked, &vec![7; 800_000], "\"old\"").cut(10_000)
        } else {
            Reply::honest(asked, &file(), "\"new\"")
        }
    })
    .await;
    assert!(is_whole(&Bench::new().download(&server, unknown()).await.unwrap()));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_costs_only_time() {
    let server = Server::start(|before, asked| {
        let mut asked = asked.clone();
        asked.headers.remove("range");
        let reply = Reply::honest(&asked, &file(), "\"v1\"");
        if before == 0 { reply.cut(10_000) } else { reply }
    })
    .await;
    assert!(is_whole(&Bench::new().download(&server, known(&file())).await.unwrap()));
}

#[tokio::test]
async fn a_wrong_range_and_a_refused_range_start_over() {
    for status in ["206 Partial Content", "416 Range Not Satisfiable"] {
        let server = Server::start(move |before, asked| match before {
            0 => Reply::honest(asked, &file(), "\"v1\"").cut(10_000),
            1 => Reply::new(status, &[("Content-Range", "bytes 5-9/800000"), ("Content-Length", "5")], b"wrong"),
            _ => Reply::honest(asked, &file(), "\"v1\""),
        })
        .await;
        assert!(is_whole(&Bench::new().download(&server, unknown()).await.unwrap()), "{status}");
        assert_eq!(server.asked()[2].from(), 0, "{status}");
    }
}

#[tokio::test]
async fn pieces_without_a_strong_tag_are_not_joined_unless_the_hash_is_known() {
    for (expected, from) in [(unknown(), 0), (known(&file()), 10_000)] {
        let server = Server::start(|before, asked| {
            let reply = Reply::honest(asked, &file(), "W/\"weak\"");
            if before == 0 { reply.cut(10_000) } else { reply }
        })
        .await;
        assert!(is_whole(&Bench::new().download(&server, expected).await.unwrap()));
        assert_eq!(server.asked()[1].from(), from);
    }
}

#[tokio::test]
async fn a_part_that_turns_out_wrong_is_fetched_once_more_in_one_go() {
    let server = Server::start(|_, asked| Reply::honest(asked, &file(), "\"v1\"")).await;
    let bench = Bench::new();
    let mut part = bench.part();
    part.append(&[9; 1000]).unwrap();
    drop(part);
    assert!(is_whole(&bench.download(&server, known(&file())).await.unwrap()));
    assert_eq!(server.asked().iter().map(Asked::from).collect::<Vec<_>>(), [1000, 0]);
}

#[tokio::test]
async fn wrong_bytes_are_refused_with_both_hashes_and_nothing_is_kept() {
    let server = Server::start(|_, asked| Reply::honest(asked, &vec![1; 800_000], "\"v1\"")).await;
    let bench = Bench::new();
    let error = bench.download(&server, known(&file())).await.unwrap_err().to_string();
    assert!(error.contains(&hex(&file())) && error.contains(&hex(&vec![1; 800_000])), "{error}");
    assert_eq!((bench.part().length(), server.asked().len()), (0, 1));
}

#[tokio::test]
async fn lies_about_the_length_are_noticed() {
    let bench = Bench::new();
    let other_length = Server::start(|_, asked| Reply::honest(asked, &[1; 10], "\"v1\"")).await;
    let error = bench.download(&other_length, known(&file())).await.unwrap_err().to_string();
    assert!(error.contains("expected 800000 bytes, the server has 10"), "{error}");

    let no_end = Server::start(|_, _| {
        let chunk = [b"186a0\r\n".as_slice(), &vec![3; 100_000], b"\r\n"].concat();
        Reply::new("200 OK", &[("Transfer-Encoding", "chunked")], &chunk.repeat(20)).stalling()
    })
    .await;
    let error = bench.download(&no_end, known(&file())).await.unwrap_err().to_string();
    assert!(error.contains("more than 800000 bytes come"), "{error}");

    let huge = Server::start(|_, _| Reply::new("200 OK", &[("Content-Length", "999999999999")], b"").stalling()).await;
    let error = bench.download(&huge, unknown()).await.unwrap_err().to_string();
    assert!(error.contains("more than 1073741824 bytes come"), "{error}");

    let unsaid = Server::start(|_, _| Reply::new("200 OK", &[], b"until the end")).await;
    let error = bench.download(&unsaid, unknown()).await.unwrap_err().to_string();
    assert!(error.contains("doesn't say how long the file is"), "{error}");
    assert_eq!(bench.part().length(), 0);
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let busy = Server::start(|before, asked| match before {
        0 => Reply::new("503 Service Unavailable", &[("Content-Length", "0")], b""),
        _ => Reply::honest(asked, &file(), "\"v1\""),
    })
    .await;
    assert!(is_whole(&Bench::new().download(&busy, unknown()).await.unwrap()));
    let refusing = Server::start(|_, _| Reply::new("404 Not Found", &[("Content-Length", "0")], b"")).await;
    let error = Bench::new().download(&refusing, unknown()).await.unwrap_err().to_string();
    assert!(error.contains("the server answers 404: there is no such file"), "{error}");
    assert_eq!(refusing.asked().len(), 1);
}
