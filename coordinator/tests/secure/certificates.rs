//! Fault 36: certificates that have expired, come from elsewhere, or have been revoked, on either side.

use std::path::{Path, PathBuf};

use regatta_coordinator::{Config, Coordinator, Tls};
use regatta_core::token::Role;
use regatta_net::{Connection, TokenSource, explain};
use tonic::Code;

use crate::support::{Agent, Authority, Files, Server, channel, hello, list_runs, with_tls};

/// The way to a coordinator with TLS.
fn over_tls(server: &Server, ca: PathBuf, identity: Option<&Files>) -> Connection {
    let uri = Connection::parse(&format!("https://{}", server.addr)).unwrap();
    Connection { uri, ca: Some(ca), identity: identity.map(Files::pair), token: TokenSource::None }
}

/// Why a call over this connection fails, in plain words.
async fn reason(connection: &Connection) -> String {
    let error: Box<dyn std::error::Error> = match channel(connection).await {
        Err(error) => Box::new(error),
        // With TLS 1.3 a client learns only afterwards that its certificate was refused.
        Ok(_) => Box::new(list_runs(connection).await.unwrap_err()),
    };
    explain(error.as_ref()).unwrap_or_else(|| panic!("no plain words for {error:?}"))
}

#[tokio::test]
async fn the_coordinators_certificate_is_checked_and_what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "other"));
    let good = Server::start(with_tls(&dir.path().join("a"), &authority.issue("coordinator", 1, 30)).made()).await;
    list_runs(&over_tls(&good, authority.file(), None)).await.unwrap();
    assert_eq!(
        reason(&over_tls(&good, other.file(), None)).await,
        "the coordinator's certificate was not issued by the authority given with --ca"
    );
    let http = Connection::from(Connection::parse(&format!("http://{}", good.addr)).unwrap());
    let error = list_runs(&http).await.unwrap_err();
    assert!(http.hint(&error).contains("use https://"), "{error:?}");
    good.stop().await;

    let expired = authority.issue("coordinator", 2, 0);
    let expired = Server::start(with_tls(&dir.path().join("b"), &expired).made()).await;
    assert_eq!(reason(&over_tls(&expired, authority.file(), None)).await, "the coordinator's certificate has expired");
    expired.stop().await;

    let elsewhere = authority.issue("elsewhere", 3, 30);
    let elsewhere = Server::start(with_tls(&dir.path().join("c"), &elsewhere).made()).await;
    let words = reason(&over_tls(&elsewhere, authority.file(), None)).await;
    assert!(words.starts_with("the coordinator's certificate is for another name"), "{words}");
    elsewhere.stop().await;

    let plain = Server::start(Config::new(dir.path().join("plain.db"))).await;
    let words = reason(&over_tls(&plain, authority.file(), None)).await;
    assert!(words.contains("use http://"), "{words}");
    plain.stop().await;
}

trait Made {
    /// With the database's folder made.
    fn made(self) -> Self;
}

impl Made for Config {
    fn made(self) -> Self {
        std::fs::create_dir_all(self.db.parent().unwrap_or(Path::new("."))).unwrap();
        self
    }
}

#[tokio::test]
async fn agents_and_people_show_certificates_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "other"));
    let identity = authority.issue("coordinator", 1, 30);
    let (good, revoked) = (authority.issue("gpu-07", 2, 30), authority.issue("gpu-08", 3, 30));
    let (expired, foreign) = (authority.issue("gpu-09", 4, 0), other.issue("gpu-07", 5, 30));
    let mut config = with_tls(dir.path(), &identity);
    config.tls = config.tls.map(|tls| Tls {
        client_ca: Some(authority.file()),
        client_crl: Some(authority.revoke(&revoked)),
        ..tls
    });
    let server = Server::start(config).await;
    let with = |files: Option<&Files>| over_tls(&server, authority.file(), files);

    for (files, words) in [
        (None, "the coordinator wants a certificate: give --cert and --key"),
        (Some(&expired), "the coordinator refuses this side's certificate: it has expired"),
        (Some(&revoked), "the coordinator refuses this side's certificate: it has been revoked"),
        (
            Some(&foreign),
            "the coordinator refuses this side's certificate: it was not issued by the authority that the coordinator \
             was given with --client-ca",
        ),
    ] {
        assert_eq!(reason(&with(files)).await, words);
    }

    // A certificate speaks for the agent it is for, and for nothing else.
    let session = Agent::greet(&with(Some(&good)), hello("gpu-07")).await.unwrap();
    let refused = Agent::greet(&with(Some(&good)), hello("gpu-08")).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("'gpu-07'"), "{refused:?}");
    let refused = list_runs(&with(Some(&good))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop(session);

    // People show a token too, and an agent's token must fit its certificate.
    let viewer = server.token(Role::Viewer, "board").await;
    let both = Connection { token: TokenSource::Given(viewer), ..with(Some(&good)) };
    list_runs(&both).await.unwrap();
    let misfit = server.token(Role::Agent, "gpu-08").await;
    let both = Connection { token: TokenSource::Given(misfit), ..with(Some(&good)) };
    let refused = Agent::greet(&both, hello("gpu-08")).await.err().unwrap();
    assert!(refused.message().contains("the certificate is for 'gpu-07'"), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn files_that_do_not_fit_are_found_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (one, two) = (authority.issue("coordinator", 1, 30), authority.issue("coordinator", 2, 30));
    let tls = |cert: &Path, key: &Path| Tls { cert: cert.into(), key: key.into(), client_ca: None, client_crl: None };
    let missing = dir.path().join("none.pem");
    let with_ca = Tls { client_ca: Some(one.key.clone()), ..tls(&one.cert, &one.key) };
    let with_crl =
        Tls { client_ca: Some(authority.file()), client_crl: Some(authority.file()), ..tls(&one.cert, &one.key) };
    for (tls, part) in [
        (tls(&missing, &one.key), "none.pem"),
        (tls(&one.cert, &missing), "none.pem"),
        (tls(&one.cert, &two.key), "is not the key of certificate"),
        (tls(&one.key, &one.key), "holds no certificate"),
        (tls(&one.cert, &one.cert), "holds no private key"),
        (with_ca, "holds no certificate"),
        (with_crl, "holds no revocation list"),
    ] {
        let config = Config { tls: Some(tls), ..Config::new(dir.path().join("regatta.db")) };
        let message = Coordinator::bind(config).await.err().unwrap().to_string();
        // A certificate is no secret, and its file may be readable; a key's may not.
        assert!(message.contains(part) || message.contains("chmod 600"), "{part} is not in: {message}");
    }
    assert!(!dir.path().join("regatta.db").exists());
}
