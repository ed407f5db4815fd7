//! Connections: accepted up to a limit, with TLS where that is asked for, and known by the certificate they show.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use regatta_net::pem::{self, Identity};
use regatta_net::secret::FileError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// How long a handshake may take.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that may wait to be served.
const WAITING: usize = 64;

/// How long to wait when the system gives no connections, for want of descriptors for example.
const TROUBLE: Duration = Duration::from_millis(100);

/// Certificates of the coordinator's listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The file with the coordinator's certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
    /// The file with the authorities of agents' and people's certificates; then everyone has to show one.
    pub client_ca: Option<PathBuf>,
    /// The file with the lists of certificates that those authorities have revoked.
    pub client_crl: Option<PathBuf>,
}

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not as it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The TLS library refuses what it was given.
    #[error("TLS can't be set up: {0}")]
    Refused(String),
}

impl Tls {
    /// Reads the files and checks them against each other; `protocol` is what is spoken on such connections.
    pub(crate) fn acceptor(&self, protocol: &[u8]) -> Result<TlsAcceptor, TlsError> {
        let identity = Identity::read(&self.cert, &self.key)?;
        let builder = ServerConfig::builder_with_provider(pem::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Refused(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(pem::roots(ca, "client authority")?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, pem::provider());
                let verifier = match &self.client_crl {
                    Some(crl) => verifier.with_crls(pem::revocations(crl)?).allow_unknown_revocation_status(),
                    None => verifier,
                };
                let refused = |error: VerifierBuilderError| TlsError::Refused(error.to_string());
                builder.with_client_cert_verifier(verifier.build().map_err(refused)?)
            }
        };
        let config = builder.with_single_cert(identity.chain, identity.key);
        let mut config = config.map_err(|error| TlsError::Refused(error.to_string()))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    /// The names in its certificate; `None` where it showed none.
    pub(crate) names: Option<Arc<[String]>>,
}

/// An accepted connection. It counts until it is dropped.
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Accepts connections, at most `limit` at a time, as long as the stream is held.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limit: usize,
) -> (ReceiverStream<io::Result<Connection>>, impl Future<Output = ()> + Send + 'static) {
    let (accepted, connections) = mpsc::channel(WAITING);
    (ReceiverStream::new(connections), serve(listener, tls, Arc::new(Semaphore::new(limit)), accepted))
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let stream = tokio::select! {
            // Nobody serves any more: the port is free from here on.
            () = accepted.closed() => return,
            Some(_) = handshakes.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match stream {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "no connection");
                tokio::time::sleep(TROUBLE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            warn!(peer = %address, "refused a connection: too many are open");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (tls, accepted) = (tls.clone(), accepted.clone());
        handshakes.spawn(async move {
            match open(stream, address, tls, permit).await {
                Ok(connection) => drop(accepted.send(Ok(connection)).await),
                Err(error) => {
                    let reason = regatta_net::chain(&error);
                    warn!(peer = %address, reason, "refused a connection: the TLS handshake failed");
                }
            }
        });
    }
}

async fn open(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    let mut peer = Peer { address: Some(address), names: None };
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            peer.names = certificate.map(|certificate| names(certificate).into());
            Stream::Tls(Box::new(stream))
        }
    };
    Ok(Connection { stream, peer, _permit: permit })
}

/// The DNS names that a certificate is for. An agent's certificate has the agent's name among them.
fn names(certificate: &tokio_rustls::rustls::pki_types::CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map(|parsed| parsed.valid_dns_names().map(str::to_owned).collect()).unwrap_or_default()
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
