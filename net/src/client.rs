//! The way to a coordinator.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use regatta_core::token::Token;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Request, Status};

use crate::explain::{chain, is_cut};
use crate::pem::{self, Identity};
use crate::secret::{FileError, read_token};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a silent peer is asked whether it is still there, and how long it may take to answer. Off by default in
/// HTTP/2: a peer that vanishes without a word would then hang its streams for ever.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where the token comes from.
#[derive(Debug, Clone, Default)]
pub enum TokenSource {
    /// There is none.
    #[default]
    None,
    /// It was given.
    Given(Token),
    /// It is in a file, which is read for every new connection.
    File(PathBuf),
}

/// The way to a coordinator. Nothing is read or sent before it is used.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Where it listens.
    pub uri: Uri,
    /// The file with the authority of its certificate.
    pub ca: Option<PathBuf>,
    /// The files with this side's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// This side's token.
    pub token: TokenSource,
}

/// Why there is no way to a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The address is none.
    #[error("'{text}' is no coordinator's address: {reason}; write it as http://HOST:PORT or https://HOST:PORT")]
    Address {
        /// What was given, without what might be a password.
        text: String,
        /// What is wrong, with the parts that were understood.
        reason: String,
    },
    /// The token would travel in the clear.
    #[error(
        "a token would travel unencrypted to {host}: use https:// and --ca; http:// with a token is for this machine only"
    )]
    TokenInClear {
        /// The coordinator's host.
        host: String,
    },
    /// Certificates mean nothing without TLS.
    #[error("certificates are of no use with http://: write https://{host}")]
    CertificatesInClear {
        /// The coordinator's host and port.
        host: String,
    },
    /// Nothing to check the coordinator's certificate against.
    #[error("https:// needs --ca FILE, the authority that issued the coordinator's certificate")]
    NoAuthority,
    /// A file is not as it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The TLS library refuses what it was given.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

impl From<Uri> for Connection {
    fn from(uri: Uri) -> Self {
        Self { uri, ca: None, identity: None, token: TokenSource::None }
    }
}

impl Connection {
    /// The address of a coordinator as a person writes it.
    pub fn parse(text: &str) -> Result<Uri, ConnectionError> {
        let shown = without_userinfo(text);
        let wrong = |reason: String| ConnectionError::Address { text: regatta_core::id::shown(&shown), reason };
        let uri: Uri = text.parse().map_err(|error| wrong(format!("{error}")))?;
        let parts = parts(&uri);
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(other) => return Err(wrong(format!("scheme '{other}' is not http or https ({parts})"))),
            None => return Err(wrong(format!("it has no scheme ({parts})"))),
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong(format!("a user name has no place in it ({parts}); tokens go into a --token-file")));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(wrong(format!("it has no host ({parts})")));
        }
        if uri.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong(format!("it has no port ({parts})")));
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong(format!("nothing may follow the port ({parts})")));
        }
        Ok(uri)
    }

    /// The address and its parts, for messages about a coordinator that can't be reached.
    pub fn described(&self) -> String {
        format!("{} ({})", self.uri, parts(&self.uri))
    }

    /// What may be behind an error that says little by itself; empty where there is nothing to say.
    pub fn hint(&self, error: &(dyn std::error::Error + 'static)) -> &'static str {
        if !self.is_encrypted() && is_cut(error) {
            " (if the coordinator speaks TLS, use https:// and --ca)"
        } else {
            ""
        }
    }

    /// Reads the files and makes sure that they fit together. Nothing is sent.
    pub fn check(&self) -> Result<(), ConnectionError> {
        self.endpoint()?;
        self.credentials()?;
        Ok(())
    }

    /// The endpoint to connect to, with the certificates as their files are now.
    pub fn endpoint(&self) -> Result<Endpoint, ConnectionError> {
        let endpoint = Channel::builder(self.uri.clone())
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if !self.is_encrypted() {
            if self.ca.is_some() || self.identity.is_some() {
                let host = self.uri.authority().map(ToString::to_string).unwrap_or_default();
                return Err(ConnectionError::CertificatesInClear { host });
            }
            return Ok(endpoint);
        }
        let ca = self.ca.as_ref().ok_or(ConnectionError::NoAuthority)?;
        let (authority, _) = pem::certificates(ca, "authority")?;
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).timeout(CONNECT);
        if let Some((cert, key)) = &self.identity {
            let identity = Identity::read(cert, key)?;
            tls = tls.identity(tonic::transport::Identity::from_pem(identity.chain_pem, identity.key_pem));
        }
        endpoint.tls_config(tls).map_err(|error| ConnectionError::Tls(chain(&error)))
    }

    /// What every call carries, with the token as its file is now.
    pub fn credentials(&self) -> Result<Credentials, ConnectionError> {
        let token = match &self.token {
            TokenSource::None => return Ok(Credentials(None)),
            TokenSource::Given(token) => token.clone(),
            TokenSource::File(path) => read_token(path)?,
        };
        let host = self.uri.host().unwrap_or_default();
        if !self.is_encrypted() && !is_loopback(host) {
            return Err(ConnectionError::TokenInClear { host: host.to_owned() });
        }
        Ok(Credentials::of(&token))
    }

    fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

/// Whether a host, as it stands in an address, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    plain.eq_ignore_ascii_case("localhost") || plain.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What stands before an `@` may be a password.
fn without_userinfo(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}…@{after}")
        }
        None => text.to_owned(),
    }
}

fn parts(uri: &Uri) -> String {
    let or_none = |part: Option<&str>| part.filter(|part| !part.is_empty()).unwrap_or("none").to_owned();
    let port = uri.port_u16().map_or_else(|| "none".to_owned(), |port| port.to_string());
    format!("scheme {}, host {}, port {port}", or_none(uri.scheme_str()), or_none(uri.host()))
}

/// What every call carries to say who calls.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Option<MetadataValue<Ascii>>);

impl Credentials {
    fn of(token: &Token) -> Self {
        let header: Result<MetadataValue<Ascii>, _> = format!("Bearer {}", token.expose()).parse();
        // A token is plain ASCII, so there always is a header.
        Self(header.ok().map(|mut header| {
            header.set_sensitive(true);
            header
        }))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_shown_with_its_parts() {
        for (text, part) in [
            ("10.0.0.1", "it has no scheme (scheme none, host 10.0.0.1, port none)"),
            ("10.0.0.1:7600", "it has no scheme (scheme none, host 10.0.0.1, port 7600)"),
            ("http://fleet", "it has no port (scheme http, host fleet, port none)"),
            ("ftp://fleet:7600", "scheme 'ftp' is not http or https"),
            ("http://fleet:7600/runs", "nothing may follow the port"),
            ("http://me:hunter2@fleet:7600", "a user name has no place in it"),
            ("file:///etc/passwd", "is no coordinator's address"),
            ("http://fleet:99999", "is no coordinator's address"),
            ("", "is no coordinator's address"),
        ] {
            let message = Connection::parse(text).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("HOST:PORT"), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        for good in ["http://127.0.0.1:7600", "https://fleet.example:443/", "http://[::1]:7600"] {
            Connection::parse(good).unwrap();
        }
    }

    #[test]
    fn a_token_never_travels_in_the_clear() {
        let connection = |address: &str| Connection {
            token: TokenSource::Given(Token::new([1; 8], [2; 32])),
            ..Connection::parse(address).unwrap().into()
        };
        for here in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://fleet:1"] {
            connection(here).credentials().unwrap();
        }
        for there in ["http://fleet:1", "http://10.0.0.1:1", "http://127.0.0.1.example:1"] {
            let message = connection(there).credentials().unwrap_err().to_string();
            assert!(message.contains("unencrypted") && !message.contains("0202"), "{message}");
        }
    }

    #[test]
    fn certificates_and_http_do_not_go_together() {
        let mut connection = Connection::from(Connection::parse("http://fleet:7600").unwrap());
        connection.ca = Some("ca.pem".into());
        assert!(connection.check().unwrap_err().to_string().contains("https://fleet:7600"));
        let connection = Connection::from(Connection::parse("https://fleet:7600").unwrap());
        assert!(connection.check().unwrap_err().to_string().contains("--ca"));
    }

    #[test]
    fn certificates_and_keys_are_checked_before_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = rcgen::generate_simple_self_signed(["fleet".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["fleet".to_owned()]).unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(path(name), text).unwrap();
            #[cfg(unix)]
            std::fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        };
        write("cert.pem", made.cert.pem());
        write("key.pem", made.signing_key.serialize_pem());
        write("other.pem", other.signing_key.serialize_pem());
        let connection = |ca: &str, cert: &str, key: &str| Connection {
            ca: Some(path(ca)),
            identity: Some((path(cert), path(key))),
            ..Connection::parse("https://fleet:7600").unwrap().into()
        };
        connection("cert.pem", "cert.pem", "key.pem").check().unwrap();
        for (ca, cert, key, part) in [
            ("none.pem", "cert.pem", "key.pem", "authority"),
            ("key.pem", "cert.pem", "key.pem", "holds no certificate"),
            ("cert.pem", "none.pem", "key.pem", "none.pem"),
            ("cert.pem", "cert.pem", "none.pem", "private key"),
            ("cert.pem", "cert.pem", "cert.pem", "holds no private key"),
            ("cert.pem", "cert.pem", "other.pem", "is not the key of certificate"),
        ] {
            let message = connection(ca, cert, key).check().unwrap_err().to_string();
            assert!(message.contains(part) && message.contains(&*folder.path().to_string_lossy()), "{message}");
        }
        #[cfg(unix)]
        {
            std::fs::set_permissions(path("key.pem"), std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
            let message = connection("cert.pem", "cert.pem", "key.pem").check().unwrap_err().to_string();
            assert!(message.contains("mode 0604") && message.contains("key.pem"), "{message}");
        }
    }
}
