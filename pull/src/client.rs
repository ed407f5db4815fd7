//! HTTP requests, one at a time, each to an address that the policy has seen.
//!
//! A name is resolved once, its addresses are checked, and the connection goes to one of them: nobody can answer with
//! another address between the check and the use. Redirects are followed here, so each is checked in the same way. The
//! token goes to the hub's endpoint and to nobody else.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::error::PullError;
use crate::policy::{MAX_REDIRECTS, Policy, Refused, Url};

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// A connection, TLS included.
    pub connect: Duration,
    /// The head of an answer.
    pub answer: Duration,
    /// Silence between two pieces of a body.
    pub silence: Duration,
    /// The pause before the second attempt; each later one takes twice as long.
    pub pause: Duration,
    /// Attempts in a row that may bring nothing.
    pub attempts: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            attempts: 5,
        }
    }
}

/// Where names are looked up.
#[derive(Debug, Clone, Default)]
pub enum Resolver {
    /// At the system.
    #[default]
    System,
    /// In a table. For tests.
    Table(HashMap<String, Vec<IpAddr>>),
}

impl Resolver {
    async fn addresses(&self, url: &Url) -> Result<Vec<IpAddr>, PullError> {
        match self {
            Self::Table(table) => Ok(table.get(url.host()).cloned().unwrap_or_default()),
            Self::System => {
                let found = tokio::net::lookup_host((url.host(), url.port())).await;
                let found = found.map_err(|error| unreachable(url, error.to_string()))?;
                Ok(found.map(|address| address.ip()).collect())
            }
        }
    }
}

/// A token of the hub. It is never shown.
#[derive(Clone)]
pub struct HubToken(HeaderValue);

impl HubToken {
    /// The token, as it stands in a variable or a file; `None` where it can't be one.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok().filter(|_| plain)?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(…)")
    }
}

/// Asks servers, as far as the policy allows.
pub struct Client {
    policy: Policy,
    resolver: Resolver,
    tls: Option<TlsConnector>,
    /// The token and the server that may see it.
    token: Option<(HubToken, Url)>,
    timing: Timing,
}

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All that the policy allows.
    All,
    /// Those that stay on the same server.
    SameServer,
}

/// An answer, whose body is still to be read.
pub struct Answer {
    /// Who answered in the end.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    silence: Duration,
    _connection: AbortOnDrop,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end. The error says what broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = match timeout(self.silence, self.body.frame()).await {
                Err(_) => return Err(format!("nothing came for {:?}", self.silence)),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|error| described(&error))?,
            };
            // Trailers are passed over.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

impl Client {
    /// A client that trusts the system's authorities.
    pub fn new(policy: Policy, token: Option<(HubToken, Url)>) -> Result<Self, PullError> {
        let found = rustls_native_certs::load_native_certs();
        let tls = tls(found.certs);
        if tls.is_none() {
            let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(PullError::Authorities(reasons.join("; ")));
        }
        Ok(Self { policy, resolver: Resolver::System, tls, token, timing: Timing::default() })
    }

    /// A client that trusts only `roots`, for tests.
    pub fn with_roots(policy: Policy, token: Option<(HubToken, Url)>, roots: Vec<CertificateDer<'static>>) -> Self {
        Self { policy, resolver: Resolver::System, tls: tls(roots), token, timing: Timing::default() }
    }

    /// The same client with other limits of time.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The same client with names looked up elsewhere.
    #[must_use]
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Asks, and follows redirects. Where one leads to a server that is not to be followed, it is the answer.
    pub async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        follow: Follow,
    ) -> Result<Answer, PullError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(method, &url, headers, Bytes::new()).await?;
            if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let Some(location) = location else {
                return Err(PullError::Answer { url, problem: "a redirect that leads nowhere".to_owned() });
            };
            let next = url.join(location)?;
            if follow == Follow::SameServer && !next.is_same_origin(&url) {
                return Ok(answer);
            }
            url = next;
        }
        Err(Refused::Redirects(regatta_core::id::shown(url.host())).into())
    }

    /// Sends something. Redirects are the answer: whoever is to have it is named by its own address.
    pub async fn post(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, PullError> {
        self.once(&Method::POST, url, headers, body).await
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, PullError> {
        let stream = self.connect(url).await?;
        let late = |what: &str| unreachable(url, format!("{what} takes longer than {:?}", self.timing.answer));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(url, described(&error)))?;
        // Ends with the answer, which holds its handle; what it would say is said by the answer's body too.
        let connection = AbortOnDrop(tokio::spawn(connection).abort_handle());
        let request = self.request(method, url, headers, body)?;
        let answer = timeout(self.timing.answer, sender.send_request(request)).await.map_err(|_| late("an answer"))?;
        let (parts, body) = answer.map_err(|error| unreachable(url, described(&error)))?.into_parts();
        Ok(Answer {
            url: url.clone(),
            status: parts.status,
            headers: parts.headers,
            body,
            silence: self.timing.silence,
            _connection: connection,
        })
    }

    fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, PullError> {
        let mut builder = Request::builder()
            .method(method)
            .uri(url.target())
            .header(HOST, url.authority())
            .header(USER_AGENT, concat!("regatta/", env!("CARGO_PKG_VERSION")))
            // Sizes and hashes are those of the file as it is.
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if let Some((token, _)) = self.token.as_ref().filter(|(_, server)| server.is_same_origin(url)) {
            builder = builder.header(AUTHORIZATION, token.0.clone());
        }
        builder
            .body(Full::new(body))
            .map_err(|error| PullError::Answer { url: url.clone(), problem: format!("can't be asked for: {error}") })
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Stream>, PullError> {
        let reach = self.policy.check(url)?;
        let connect = async {
            let addresses = self.resolver.addresses(url).await?;
            let addresses = self.policy.pin(url, reach, &addresses)?;
            let tcp =
                TcpStream::connect(addresses.as_slice()).await.map_err(|error| unreachable(url, error.to_string()))?;
            if !url.is_tls() {
                return Ok(Box::new(tcp) as Box<dyn Stream>);
            }
            let Some(tls) = &self.tls else {
                return Err(PullError::Authorities("none are trusted".to_owned()));
            };
            let name =
                ServerName::try_from(url.host().to_owned()).map_err(|error| unreachable(url, error.to_string()))?;
            let stream = tls.connect(name, tcp).await.map_err(|error| unreachable(url, format!("TLS: {error}")))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        timeout(self.timing.connect, connect)
            .await
            .unwrap_or_else(|_| Err(unreachable(url, format!("no connection within {:?}", self.timing.connect))))
    }
}

/// Ends a connection whose answer nobody reads any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// `None` where there is no authority at all.
fn tls(roots: Vec<CertificateDer<'static>>) -> Option<TlsConnector> {
    let mut store = RootCertStore::empty();
    // A system's store often holds a few certificates that nobody can read any more.
    let (added, _) = store.add_parsable_certificates(roots);
    if added == 0 {
        return None;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
}

fn unreachable(url: &Url, reason: String) -> PullError {
    PullError::Unreachable { host: url.authority(), reason }
}

/// An error with its causes.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_the_endpoint_and_to_nobody_else() {
        let endpoint = Url::parse("https://huggingface.co").unwrap();
        let token = HubToken::new("hf_secret").unwrap();
        let client = Client::with_roots(Policy::new(&[], None), Some((token, endpoint)), Vec::new());
        let sent = |url: &str| {
            let request = client.request(&Method::GET, &Url::parse(url).unwrap(), &[], Bytes::new()).unwrap();
            request.headers().get(AUTHORIZATION).map(|value| (value.to_str().unwrap().to_owned(), value.is_sensitive()))
        };
        assert_eq!(sent("https://huggingface.co/a/b"), Some(("Bearer hf_secret".to_owned(), true)));
        for url in ["https://cdn-lfs.hf.co/x", "https://huggingface.co:8443/x", "http://huggingface.co/x"] {
            assert_eq!(sent(url), None, "{url}");
        }
    }
}
