//! Plain HTTP, for machines that watch and for browsers: `/metrics`, `/healthz` and `/readyz`, and the dashboard. Each has a
//! listener of its own, or they share one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use regatta_store::Reader;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::accept::HANDSHAKE;
use crate::actor::{Event, Handle};
use crate::dashboard::Dashboard;
use crate::metrics::Metrics;

/// Connections at the same time.
const CONNECTIONS: usize = 32;

/// The longest a request may take to arrive, and a connection to be used, if it is not given more.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest request head, in bytes.
const HEAD: usize = 16 * 1024;

/// How long the coordinator may take to show that it works.
const READY: Duration = Duration::from_secs(2);

/// What Prometheus calls the format of the text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What an answer is made of: a text, or parts that come as things happen.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// What one listener serves.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) pages: Option<Arc<Pages>>,
    pub(crate) dashboard: Option<Arc<Dashboard>>,
    /// Cancelled when the coordinator stops.
    pub(crate) stop: CancellationToken,
}

/// What the pages for machines are made from.
pub(crate) struct Pages {
    pub(crate) metrics: Metrics,
    pub(crate) reader: Reader,
    pub(crate) actor: Handle,
    /// Bytes of the write-ahead log beyond which something is wrong.
    pub(crate) wal_limit: u64,
    /// Cancelled when the coordinator stops.
    pub(crate) stop: CancellationToken,
}

/// How long a connection may still be used. Who has asked for something long, and may, gets more.
#[derive(Debug, Clone)]
pub(crate) struct Patience(watch::Sender<Instant>);

impl Patience {
    /// From now on it may take this long.
    pub(crate) fn extend(&self, by: Duration) {
        self.0.send_replace(Instant::now() + by);
    }

    /// Returns when it is over.
    async fn over(mut until: watch::Receiver<Instant>) {
        loop {
            let at = *until.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                Ok(()) = until.changed() => {}
            }
        }
    }
}

/// Serves the site until the coordinator stops.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, site: Site) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = site.stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = stream else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (site, tls) = (site.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => connection(stream, peer, site).await,
                Some(tls) => encrypted(stream, peer, &tls, site).await,
            }
            drop(permit);
        });
    }
}

async fn encrypted(stream: TcpStream, peer: SocketAddr, tls: &TlsAcceptor, site: Site) {
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, peer, site).await,
        Ok(Err(error)) => debug!(%peer, %error, "refused a connection: the TLS handshake failed"),
        Err(_) => debug!(%peer, "refused a connection: the TLS handshake took too long"),
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, site: Site) {
    let (patience, until) = watch::channel(Instant::now() + PATIENCE);
    let patience = Patience(patience);
    let service = service_fn(move |request: Request<Incoming>| {
        let (site, patience) = (site.clone(), patience.clone());
        async move { Ok::<_, Infallible>(site.answer(request, peer, &patience).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false).max_buf_size(HEAD);
    tokio::select! {
        served = server.serve_connection(TokioIo::new(stream), service) => if let Err(error) = served {
            debug!(%error, "a request over HTTP broke off");
        },
        () = Patience::over(until) => {}
    }
}

impl Site {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr, patience: &Patience) -> Response<Body> {
        let machines = matches!(request.uri().path(), "/metrics" | "/healthz" | "/readyz");
        match (&self.pages, &self.dashboard) {
            (Some(pages), Some(_)) if machines => pages.answer(request.method(), request.uri().path()).await,
            (_, Some(dashboard)) => dashboard.answer(request, peer, patience).await,
            (Some(pages), None) => pages.answer(request.method(), request.uri().path()).await,
            (None, None) => page(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }
}

impl Pages {
    async fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            // That this is answered at all is the answer.
            "/healthz" => page(StatusCode::OK, "ok\n"),
            "/readyz" => match self.unready().await {
                None => page(StatusCode::OK, "ready\n"),
                Some(reason) => page(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            "/metrics" => self.metrics().await,
            _ => page(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    /// Why agents and people had better not come now.
    async fn unready(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("stopping\n");
        }
        // Nothing has to be computed for an answer about no run at all.
        let asked = self.actor.ask(|reply| Event::Outlooks { runs: Vec::new(), reply });
        match tokio::time::timeout(READY, asked).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Some("stopping\n"),
            Err(_) => return Some("the scheduler does not answer\n"),
        }
        match tokio::time::timeout(READY, self.reader.queue_depth()).await {
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => Some("the database does not answer\n"),
        }
    }

    async fn metrics(&self) -> Response<Body> {
        let queue = match tokio::time::timeout(READY, self.reader.queue_depth()).await {
            Ok(Ok(queue)) => queue,
            Ok(Err(error)) => {
                warn!(%error, "no metrics");
                return page(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n");
            }
            Err(_) => return page(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n"),
        };
        let Ok(text) = self.metrics.text(queue, self.reader.wal_bytes(), self.wal_limit) else {
            return page(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n");
        };
        let mut response = page(StatusCode::OK, text);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
        response
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
