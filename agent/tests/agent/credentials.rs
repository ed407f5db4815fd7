//! Faults 36 and 37 as an agent meets them: it says what is wrong, and keeps what is in its spool.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use regatta_agent::{AgentConfig, AgentError, SessionError};
use regatta_net::TokenSource;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Identity;

use crate::common::{Coordinator, Running, config, fill, held, key};

fn refused(error: &AgentError) -> String {
    assert!(matches!(error, AgentError::Session(SessionError::Credentials(_))), "{error:?}");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[tokio::test]
async fn a_token_that_is_refused_at_first_is_final_and_the_spool_is_kept() {
    for reason in ["token 0011 has expired", "token 0011 has been revoked", "the token is not known here"] {
        let folder = TempDir::new().unwrap();
        let key = key("run.t0", 1);
        fill(folder.path(), &key, &[vec![1; 10]], true);
        let coordinator = Coordinator::start();
        let agent = Running::start(config(folder.path(), &coordinator)).await;
        let peer = coordinator.accept().await;
        peer.outbound.send(Err(Status::unauthenticated(reason))).await.unwrap();
        let text = refused(&agent.end().await.unwrap_err());
        assert!(text.contains(reason) && text.contains("spool is kept"), "{text}");
        assert_eq!(held(folder.path()), [key.to_string()]);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_later_is_tried_again_until_it_is_good() {
    let folder = TempDir::new().unwrap();
    let key = key("run.t0", 1);
    fill(folder.path(), &key, &[vec![1; 10]], true);
    let coordinator = Coordinator::start();
    let agent = Running::start(config(folder.path(), &coordinator)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    peer.outbound.send(Err(Status::unauthenticated("token 0011 has been revoked"))).await.unwrap();
    drop(peer);
    for _ in 0..2 {
        let peer = coordinator.accept().await;
        peer.outbound.send(Err(Status::unauthenticated("token 0011 has been revoked"))).await.unwrap();
    }
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, Some(1))]).await;
    peer.batch().await;
    peer.ack(&key, 1).await;
    peer.finish().await;
    peer.finish_ack(&key).await;
    while !peer.heartbeat().await.held.is_empty() {}
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}

#[tokio::test]
async fn a_token_file_is_read_again_for_every_connection() {
    let folder = TempDir::new().unwrap();
    let coordinator = Coordinator::start();
    let mut config = config(folder.path(), &coordinator);
    let file = folder.path().join("token");
    config.coordinator.token = TokenSource::File(file.clone());
    let message = refused(&Running::start(config.clone()).await.end().await.unwrap_err());
    assert!(message.contains("token file"), "{message}");
    let token = regatta_core::token::Token::new([1; 8], [2; 32]);
    std::fs::write(&file, token.expose()).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let agent = Running::start(config).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[]).await;
    agent.stop().await;
}

/// An authority's file, and a certificate of it for 127.0.0.1 that ends so long from now, or ended an hour ago.
fn certified(folder: &Path, name: &str, lasts: Option<Duration>) -> (PathBuf, Identity) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let file = folder.join(format!("{name}.pem"));
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let hour = Duration::from_hours(1);
    params.not_before = (SystemTime::now() - 2 * hour).into();
    params.not_after = lasts.map_or_else(|| SystemTime::now() - hour, |lasts| SystemTime::now() + lasts).into();
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    (file, Identity::from_pem(cert.pem(), key.serialize_pem()))
}

#[tokio::test]
async fn a_coordinator_with_a_wrong_certificate_is_not_spoken_to_and_the_spool_is_kept() {
    let folder = TempDir::new().unwrap();
    let day = Duration::from_hours(24);
    let (good_ca, good) = certified(folder.path(), "good", Some(day));
    let (expired_ca, expired) = certified(folder.path(), "expired", None);
    let (other_ca, _) = certified(folder.path(), "other", Some(day));
    let key = key("run.t0", 1);
    fill(folder.path(), &key, &[vec![1; 10]], true);
    let with = |coordinator: &Coordinator, ca: &Path| {
        let mut config: AgentConfig = config(folder.path(), coordinator);
        config.coordinator.ca = Some(ca.to_owned());
        config
    };

    let coordinator = Coordinator::start_with(expired);
    let text = refused(&Running::start(with(&coordinator, &expired_ca)).await.end().await.unwrap_err());
    assert!(text.contains("the coordinator's certificate has expired"), "{text}");

    let coordinator = Coordinator::start_with(good);
    let text = refused(&Running::start(with(&coordinator, &other_ca)).await.end().await.unwrap_err());
    assert!(text.contains("was not issued by the authority given with --ca"), "{text}");
    assert_eq!(held(folder.path()), [key.to_string()]);

    // With the right authority the same spool is delivered.
    let agent = Running::start(with(&coordinator, &good_ca)).await;
    let mut peer = coordinator.accept().await;
    peer.greet(&[(&key, None)]).await;
    while !peer.heartbeat().await.held.is_empty() {}
    agent.stop().await;
    assert!(held(folder.path()).is_empty());
}
