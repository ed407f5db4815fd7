//! A fleet that does not trust its network: an authority, the coordinator's certificate, and a token for each who calls.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use regatta_core::token::Role;
use regatta_store::{NewToken, Tokens};

/// Who submits and looks.
pub(crate) const PERSON: &str = "person";

/// Writes a file that only its owner may read.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// The files of such a fleet, in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    folder: PathBuf,
    /// Where the coordinator listens.
    pub(crate) listen: IpAddr,
}

impl Security {
    /// Makes all that is needed for a coordinator at `listen`, with the tokens in its database.
    pub(crate) async fn make(folder: &Path, listen: IpAddr, db: &Path, agents: &[String]) -> Self {
        let security = Self { folder: folder.to_owned(), listen };
        security.certify();
        let mut tokens = Tokens::open(db, Timestamp::now).await.unwrap();
        let people = [(PERSON, Role::Submitter)];
        let all = people.into_iter().chain(agents.iter().map(|name| (name.as_str(), Role::Agent)));
        for (name, role) in all {
            let new = NewToken { role, name: name.to_owned(), expires_at: None };
            let token = tokens.create(&new, Timestamp::now()).await.unwrap();
            write(&security.token(name), token.expose());
        }
        tokens.close().await.unwrap();
        security
    }

    fn certify(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        write(&self.ca(), &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![self.listen.to_string()]).unwrap();
        write(&self.cert(), &params.signed_by(&key, &issuer).unwrap().pem());
        write(&self.key(), &key.serialize_pem());
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    pub(crate) fn token(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.token"))
    }
}
