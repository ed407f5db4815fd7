//! The second listener, for machines that watch: `/metrics`, `/healthz`, `/readyz` over plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use regatta_store::Reader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::actor::{Event, Handle};
use crate::metrics::Metrics;

/// Connections at the same time.
const CONNECTIONS: usize = 32;

/// The longest a request may take to arrive, and a connection to be used.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest request head, in bytes.
const HEAD: usize = 16 * 1024;

/// How long the coordinator may take to show that it works.
const READY: Duration = Duration::from_secs(2);

/// What Prometheus calls the format of the text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages are made from.
pub(crate) struct Pages {
    pub(crate) metrics: Metrics,
    pub(crate) reader: Reader,
    pub(crate) actor: Handle,
    /// Bytes of the write-ahead log beyond which something is wrong.
    pub(crate) wal_limit: u64,
    /// Cancelled when the coordinator stops.
    pub(crate) stop: CancellationToken,
}

/// Serves the pages until the coordinator stops.
pub(crate) async fn serve(listener: TcpListener, pages: Pages) {
    let (pages, room) = (Arc::new(pages), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = pages.stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let pages = Arc::clone(&pages);
        connections.spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, connection(stream, pages)).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(request.method(), request.uri().path()).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false).max_buf_size(HEAD);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a request for metrics broke off");
    }
}

impl Pages {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
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

    async fn metrics(&self) -> Response<Full<Bytes>> {
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

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
