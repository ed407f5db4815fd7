//! The plainest of browsers: one request, one connection, no memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use regatta_coordinator::{Drawing, Night, Report, Series};
use regatta_core::id::RunId;
use regatta_store::{KnownCell, Reader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything takes; shorter than a person waits for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request with these headers; the host is that of the address unless one is named.
pub(crate) async fn send(address: SocketAddr, request: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    send_over(stream, address, request, headers, body).await
}

pub(crate) async fn send_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    stream.write_all(text(address, request, headers, body).as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    Answer::parse(&String::from_utf8(bytes).unwrap())
}

fn text(address: SocketAddr, request: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut lines = vec![format!("{request} HTTP/1.1")];
    if !headers.iter().any(|(name, _)| *name == "host") {
        lines.push(format!("host: {address}"));
    }
    lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if !body.is_empty() {
        lines.push("content-type: application/x-www-form-urlencoded".to_owned());
        lines.push(format!("content-length: {}", body.len()));
    }
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path}"), &[], "").await
}

/// A page that goes on changing.
pub(crate) struct Events {
    pub(crate) stream: TcpStream,
    seen: String,
}

impl Events {
    pub(crate) async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text(address, &format!("GET {path}"), headers, "").as_bytes()).await.unwrap();
        Self { stream, seen: String::new() }
    }

    /// Reads until something has come; gives everything up to there.
    pub(crate) async fn wait_for(&mut self, what: &str) -> String {
        let waiting = async {
            while !self.seen.contains(what) {
                let mut bytes = [0; 4096];
                let n = self.stream.read(&mut bytes).await.unwrap();
                assert!(n > 0, "the stream ended before '{what}' came: {}", self.seen);
                self.seen += &String::from_utf8_lossy(&bytes[..n]);
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "'{what}' did not come: {}", self.seen);
        let rest = self.seen.split_off(self.seen.find(what).map_or(0, |at| at + what.len()));
        std::mem::replace(&mut self.seen, rest)
    }
}

/// Draws what it is told to.
#[derive(Debug)]
pub(crate) struct Sketch;

impl Drawing for Sketch {
    fn report(&self, _: &Reader, run: &RunId) -> Result<Report, String> {
        if run.as_str() == "broken" {
            return Err("the secret reason".to_owned());
        }
        Ok(Report { html: format!("<p>report of {run}</p>"), policy: "default-src 'none'".to_owned() })
    }

    fn history(&self, _: &Reader, cell: &KnownCell) -> Result<Vec<Series>, String> {
        let night = Night {
            run: "run".to_owned(),
            short: "run".to_owned(),
            at: "2026-01-01".to_owned(),
            value: "1".to_owned(),
            change: "–".to_owned(),
            processes: "1".to_owned(),
            said: "<b>steady</b>".to_owned(),
            breaks: String::new(),
        };
        let title = format!("Decode of {}", cell.cell.backend);
        Ok(vec![Series { title, svg: Some("<svg></svg>".to_owned()), nights: vec![night] }])
    }

    fn style(&self) -> String {
        ".chart{}".to_owned()
    }
}

/// A dashboard on a free port.
pub(crate) fn dashboard(address: SocketAddr) -> regatta_coordinator::DashboardAt {
    regatta_coordinator::DashboardAt { listen: address, drawing: Arc::new(Sketch) }
}

/// An address of this machine with a free port.
pub(crate) fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}
