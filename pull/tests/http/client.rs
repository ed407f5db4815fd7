//! Redirects and addresses: what the client follows and what it refuses before it connects.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use regatta_pull::PullError;
use regatta_pull::client::{Client, Follow, Resolver};
use regatta_pull::policy::{Policy, Url};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::server::{Reply, Server};

fn local(server: &Server, path: &str) -> Url {
    Url::parse(&format!("http://127.0.0.1:{}{path}", server.port)).unwrap()
}

fn client(server: &Server) -> Client {
    Client::with_roots(Policy::new(&[], Some(local(server, "/"))), None, Vec::new())
}

async fn get(client: &Client, url: &Url) -> Result<u16, PullError> {
    client.ask(&Method::GET, url, &[], Follow::All).await.map(|answer| answer.status.as_u16())
}

#[tokio::test]
async fn three_redirects_are_followed_and_a_fourth_is_refused() {
    let server = Server::start(|_, asked| match asked.path.strip_prefix("/hop/").and_then(|n| n.parse::<u32>().ok()) {
        Some(0) => Reply::new("200 OK", &[("Content-Length", "2")], b"ok"),
        Some(n) => Reply::new("302 Found", &[("Location", &format!("/hop/{}", n - 1))], b""),
        None => Reply::new("404 Not Found", &[("Content-Length", "0")], b""),
    })
    .await;
    assert_eq!(get(&client(&server), &local(&server, "/hop/3")).await.unwrap(), 200);
    let error = get(&client(&server), &local(&server, "/hop/4")).await.unwrap_err().to_string();
    assert!(error.contains("more than 3 redirects"), "{error}");
}

/// Row 41 of the bad-input matrix: each hop is checked as the first address is.
#[tokio::test]
async fn redirects_that_lead_inside_are_refused_before_anyone_is_asked() {
    let inside = Server::start(|_, _| Reply::new("200 OK", &[("Content-Length", "0")], b"")).await;
    let port = inside.port;
    for (location, part) in [
        (format!("http://127.0.0.1:{port}/admin"), "http:// is refused for 127.0.0.1"),
        (format!("https://127.0.0.1:{port}/admin"), "this machine itself"),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "metadata"),
        ("https://[::ffff:10.0.0.1]/".to_owned(), "a private address"),
        ("file://host/etc/passwd".to_owned(), "file:// is refused"),
        ("https://a:b@huggingface.co/x".to_owned(), "user or password"),
        ("https://evil.example/x".to_owned(), "not on the list"),
    ] {
        let to = location.clone();
        let server = Server::start(move |_, _| Reply::new("302 Found", &[("Location", &to)], b"")).await;
        let error = get(&client(&server), &local(&server, "/x")).await.unwrap_err();
        assert!(error.is_bad_input(), "{location}: {error}");
        assert!(error.to_string().contains(part), "{location}: {error}");
    }
    assert_eq!(inside.asked().len(), 0);
}

#[tokio::test]
async fn a_name_that_stands_for_a_private_address_is_refused() {
    let table = HashMap::from([
        ("huggingface.co".to_owned(), vec!["10.0.0.1".parse().unwrap()]),
        ("cdn-lfs.hf.co".to_owned(), vec!["93.184.216.34".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
    ]);
    let client = Client::with_roots(Policy::new(&[], None), None, Vec::new()).with_resolver(Resolver::Table(table));
    for (url, part) in [
        ("https://huggingface.co/x", "'huggingface.co' is 10.0.0.1, a private address"),
        ("https://cdn-lfs.hf.co/x", "'cdn-lfs.hf.co' is 127.0.0.1, this machine itself"),
        ("https://unknown.hf.co/x", "has no address"),
    ] {
        let error = get(&client, &Url::parse(url).unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn certificates_are_checked() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let trusted: CertificateDer<'static> = cert.der().clone();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![trusted.clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let server = Server::start_tls(tls, |_, _| Reply::new("200 OK", &[("Content-Length", "0")], b"")).await;
    let url = Url::parse(&format!("https://localhost:{}/x", server.port)).unwrap();
    let table = HashMap::from([("localhost".to_owned(), vec!["127.0.0.1".parse().unwrap()])]);
    let trusting = |roots| {
        let policy = Policy::new(&[], Some(url.clone()));
        Client::with_roots(policy, None, roots).with_resolver(Resolver::Table(table.clone()))
    };
    assert_eq!(get(&trusting(vec![trusted]), &url).await.unwrap(), 200);
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    let error = get(&trusting(vec![other]), &url).await.unwrap_err().to_string();
    assert!(error.contains("TLS: invalid peer certificate"), "{error}");
}
