//! The dashboard: where it listens, whom it lets in, and what it lets nobody do.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use regatta_coordinator::{Config, Coordinator};
use regatta_core::token::Role;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::support::{Agent, Authority, PATIENCE, Server, hello, with_tls};
use crate::web::{Answer, Events, dashboard, get, loopback, send, send_over};

/// A configuration with a dashboard on loopback.
fn with_dashboard(dir: &std::path::Path) -> Config {
    Config { dashboard: Some(dashboard(loopback())), ..Config::new(dir.join("regatta.db")) }
}

async fn sign_in(address: SocketAddr, token: &str) -> Answer {
    send(address, "POST /login", &[], &format!("token={token}&next=%2Fruns")).await
}

/// The cookie as a browser sends it back.
fn cookie_of(answer: &Answer) -> String {
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn there_is_none_unless_it_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { metrics: Some(loopback()), ..Config::new(dir.path().join("regatta.db")) };
    let server = Server::start(config).await;
    assert_eq!(server.dashboard, None);
    for path in ["/", "/runs", "/events", "/cells"] {
        assert_eq!(get(server.metrics.unwrap(), path).await.status, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn it_may_share_its_address_with_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let config = Config {
        metrics: Some(address),
        dashboard: Some(dashboard(address)),
        ..Config::new(dir.path().join("regatta.db"))
    };
    let server = Server::start(config).await;
    assert_eq!((server.metrics, server.dashboard), (Some(address), Some(address)));
    assert_eq!(get(address, "/").await.status, 200);
    // Machines that watch call it by any name, as before.
    let metrics = send(address, "GET /metrics", &[("host", "regatta")], "").await;
    assert!(metrics.body.contains("regatta_agent_streams 0"), "{metrics:?}");
    server.stop().await;
}

#[tokio::test]
async fn beyond_loopback_it_is_refused_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { dashboard: Some(dashboard(([0, 0, 0, 0], 0).into())), ..with_dashboard(dir.path()) };
    let refused = Coordinator::bind(config).await.err().unwrap().to_string();
    assert!(refused.contains("--tls-cert") && refused.contains("ssh -L"), "{refused}");
}

#[tokio::test]
async fn on_loopback_it_answers_to_names_of_loopback_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(with_dashboard(dir.path())).await;
    let address = server.dashboard.unwrap();
    for host in ["localhost", "localhost:1234", "127.0.0.1", "[::1]:80"] {
        assert_eq!(send(address, "GET /", &[("host", host)], "").await.status, 200, "{host}");
    }
    for host in ["rebound.example", "rebound.example:7680", "127.0.0.1.example", ""] {
        let answer = send(address, "GET /", &[("host", host)], "").await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("Spool"), "{host}");
    }
    let twice = send(address, "GET /", &[("host", "localhost"), ("host", "rebound.example")], "").await;
    assert!(matches!(twice.status, 400 | 421), "{twice:?}");
    server.stop().await;
}

#[tokio::test]
async fn pages_can_only_be_looked_at_and_carry_what_protects_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(with_dashboard(dir.path())).await;
    let address = server.dashboard.unwrap();
    for path in ["/", "/runs", "/cells", "/schedules", "/nowhere"] {
        let page = get(address, path).await;
        let policy = page.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("access-control-allow-origin"), None, "no other site may read it");
    }
    // Another site's page asks with its own origin, and gets no leave to read the answer.
    let crossed = send(address, "GET /", &[("origin", "https://evil.example")], "").await;
    assert_eq!(crossed.header("access-control-allow-origin"), None);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        assert_eq!(send(address, &format!("{method} /runs"), &[], "").await.status, 405, "{method}");
    }
    let head = send(address, "HEAD /", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    server.stop().await;
}

#[tokio::test]
async fn where_a_token_is_asked_for_nothing_is_shown_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Config { require_token: true, ..with_dashboard(dir.path()) }).await;
    let address = server.dashboard.unwrap();
    let agent = server.token(Role::Agent, "gpu-07").await;
    let _agent = Agent::greet(&server.plain(Some(&agent)), hello("gpu-07")).await.unwrap();
    for path in ["/", "/runs", "/runs/run", "/runs/run/report", "/runs/run/events", "/cells", "/events", "/nowhere"] {
        let page = get(address, path).await;
        assert_eq!(page.status, 401, "{path}");
        assert!(page.body.contains("type=\"password\"") && !page.body.contains("gpu-07"), "{path}");
    }

    for (token, part) in [
        ("", "The token is empty"),
        ("rgt_x", "the token has 5 characters"),
        (&"x".repeat(85), "this is not a token"),
        (agent.expose(), "has the role agent: the dashboard needs the role viewer or submitter"),
    ] {
        let refused = sign_in(address, token).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (401, None), "{token}");
        assert!(refused.body.to_lowercase().contains(&part.to_lowercase()), "{part}: {}", refused.body);
        assert!(token.is_empty() || !refused.body.contains(token), "a token is not sent back");
    }
    let unknown = regatta_core::token::Token::new([1; 8], [2; 32]);
    assert!(sign_in(address, unknown.expose()).await.body.contains("The token is not known here"));

    let viewer = server.token(Role::Viewer, "board").await;
    let viewer = viewer.expose();
    let in_address = get(address, &format!("/?token={viewer}")).await;
    assert_eq!(in_address.status, 401, "a token in an address is no token");
    let admitted = sign_in(address, viewer).await;
    assert_eq!((admitted.status, admitted.header("location")), (303, Some("/runs")));
    let cookie = admitted.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; ") && !cookie.contains("Secure"), "{cookie}");
    assert!(!cookie.contains(viewer), "the cookie is not the token");

    let cookie = cookie_of(&admitted);
    let page = send(address, "GET /", &[("cookie", &cookie)], "").await;
    assert!(page.status == 200 && page.body.contains("gpu-07") && page.body.contains("Sign out"), "{page:?}");
    let (name, value) = cookie.split_once('=').unwrap();
    for wrong in [format!("{name}={}", value.replace(['a', '1'], "2")), format!("{name}="), format!("x{cookie}")] {
        assert_eq!(send(address, "GET /", &[("cookie", &wrong)], "").await.status, 401, "{wrong}");
    }
    let out = send(address, "POST /logout", &[("cookie", &cookie)], "").await;
    assert!(out.status == 303 && out.header("set-cookie").unwrap().contains("Max-Age=0"), "{out:?}");
    assert_eq!(send(address, "GET /", &[("cookie", &cookie)], "").await.status, 401, "the session is over");
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_or_expired_token_opens_nothing_and_ends_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Config { require_token: true, ..with_dashboard(dir.path()) }).await;
    let address = server.dashboard.unwrap();
    let expired = Timestamp::now() - SignedDuration::from_secs(1);
    let expired = server.token_until(Role::Viewer, "old", Some(expired)).await;
    assert!(sign_in(address, expired.expose()).await.body.contains("has expired"));

    let token = server.token(Role::Submitter, "ci").await;
    let cookie = cookie_of(&sign_in(address, token.expose()).await);
    let bearer = format!("Bearer {}", token.expose());
    assert_eq!(send(address, "GET /", &[("authorization", &bearer)], "").await.status, 200, "for programs");
    let mut events = Events::open(address, "/events", &[("cookie", &cookie)]).await;
    events.wait_for("data: fleet").await;
    server.revoke("ci").await;
    assert_eq!(send(address, "GET /", &[("cookie", &cookie)], "").await.status, 401);
    assert_eq!(send(address, "GET /", &[("authorization", &bearer)], "").await.status, 401);
    assert!(sign_in(address, token.expose()).await.body.contains("has been revoked"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, events.stream.read_to_end(&mut rest)).await;
    ended.expect("it does not end").unwrap();
    server.stop().await;
}

#[tokio::test]
async fn another_site_can_neither_sign_anybody_in_nor_lead_them_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Config { require_token: true, ..with_dashboard(dir.path()) }).await;
    let address = server.dashboard.unwrap();
    let token = server.token(Role::Viewer, "board").await;
    let form = format!("token={}&next=https%3A%2F%2Fevil.example%2F", token.expose());
    for from in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let refused = send(address, "POST /login", &[from], &form).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (401, None), "{from:?}");
    }
    let admitted = send(address, "POST /login", &[("sec-fetch-site", "same-origin")], &form).await;
    assert_eq!((admitted.status, admitted.header("location")), (303, Some("/")));
    let cookie = cookie_of(&admitted);
    send(address, "POST /logout", &[("cookie", &cookie), ("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(send(address, "GET /", &[("cookie", &cookie)], "").await.status, 200, "nobody else signs people out");

    // A browser that follows a link of another site leaves the cookie away, once: it is led on.
    let followed = send(address, "GET /runs", &[("sec-fetch-site", "cross-site")], "").await;
    assert!(followed.body.contains("content=\"0; url=/runs\""), "{followed:?}");
    let nowhere = send(address, "GET //evil.example/", &[("sec-fetch-site", "cross-site")], "").await;
    assert!(!nowhere.body.contains("evil.example"), "{nowhere:?}");
    let long = send(address, "POST /login", &[], &format!("token={}", "x".repeat(10_000))).await;
    assert_eq!(long.status, 413);
    server.stop().await;
}

#[tokio::test]
async fn beyond_loopback_it_is_encrypted_and_asks_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let config = Config {
        dashboard: Some(dashboard(([0, 0, 0, 0], 0).into())),
        ..with_tls(dir.path(), &authority.issue("coordinator", 1, 30))
    };
    let server = Server::start(config).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.dashboard.unwrap().port()));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let send = async |request: &str, headers: &[(&str, &str)], body: &str| {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
        send_over(stream, address, request, headers, body).await
    };
    let page = send("GET /", &[("host", "bench.example")], "").await;
    assert!(page.status == 401 && page.body.contains("type=\"password\""), "{page:?}");
    let token = server.token(Role::Viewer, "board").await;
    let admitted = send("POST /login", &[], &format!("token={}", token.expose())).await;
    let cookie = admitted.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-regatta-") && cookie.ends_with("; Secure"), "{cookie}");
    let page = send("GET /", &[("cookie", &cookie_of(&admitted))], "").await;
    assert!(page.status == 200 && page.body.contains("Fleet"), "{page:?}");
    server.stop().await;
}
