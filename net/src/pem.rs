//! Certificates and keys from PEM files, checked before they are used.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys, RootCertStore};

use crate::secret::{FileError, read_public, read_secret};

/// The cryptography in use, named wherever a configuration is made: no default of the process is relied upon.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate with those that lead to its authority, and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
    /// The certificates as they stand in their file.
    pub(crate) chain_pem: Vec<u8>,
    /// The key as it stands in its file.
    pub(crate) key_pem: Vec<u8>,
}

impl Identity {
    /// Reads both and sees to it that they belong together.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, FileError> {
        let (chain_pem, chain) = certificates(cert, "certificate")?;
        let key_pem = read_secret(key, "private key")?;
        let parsed = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|_| FileError::content("private key", key, "holds no private key (PEM)"))?;
        match CertifiedKey::from_der(chain.clone(), parsed.clone_key(), &provider()) {
            // A kind of key whose public half can't be had is found out in the first handshake.
            Ok(_) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let reason = format!("is not the key of certificate {}", cert.display());
                return Err(FileError::content("private key", key, reason));
            }
            Err(error) => return Err(FileError::content("private key", key, error.to_string())),
        }
        Ok(Self { chain, key: parsed, chain_pem, key_pem })
    }
}

/// The authorities in a file.
pub fn roots(path: &Path, what: &'static str) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, what)?.1 {
        roots.add(certificate).map_err(|error| FileError::content(what, path, error.to_string()))?;
    }
    Ok(roots)
}

/// The revocation lists in a file.
pub fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    const WHAT: &str = "revocation list";
    let bytes = read_public(path, WHAT)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(FileError::content(WHAT, path, "holds no revocation list (PEM)")),
    }
}

/// The certificates in a file: as they stand there, and each by itself.
pub(crate) fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), FileError> {
    let bytes = read_public(path, what)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok((bytes, chain)),
        _ => Err(FileError::content(what, path, "holds no certificate (PEM)")),
    }
}
