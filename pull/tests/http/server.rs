//! A server that does as it is told: one request a connection, each answered by a function of the test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte of the range that is asked for.
    pub(crate) fn from(&self) -> usize {
        let range =
            self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        range.unwrap_or(0)
    }
}

/// What to answer: the text as it is, and whether the connection then stays open in silence.
pub(crate) struct Reply {
    bytes: Vec<u8>,
    silent: bool,
}

impl Reply {
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self { bytes, silent: false }
    }

    pub(crate) fn stalling(self) -> Self {
        Self { silent: true, ..self }
    }

    /// As servers should: the range that was asked for.
    pub(crate) fn honest(asked: &Asked, file: &[u8], tag: &str) -> Self {
        let from = asked.from();
        let is_same = asked.header("if-range").is_none_or(|condition| condition == tag);
        if from == 0 || !is_same {
            let length = file.len().to_string();
            return Self::new("200 OK", &[("Content-Length", &length), ("ETag", tag)], file);
        }
        let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
        let length = (file.len() - from).to_string();
        let headers = [("Content-Length", length.as_str()), ("Content-Range", &range), ("ETag", tag)];
        Self::new("206 Partial Content", &headers, &file[from..])
    }

    /// Only the first `keep` bytes of the body, then the end of the connection.
    pub(crate) fn cut(mut self, keep: usize) -> Self {
        let head = self.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        self.bytes.truncate(head + keep);
        self
    }
}

pub(crate) struct Server {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Handler = dyn Fn(usize, &Asked) -> Reply + Send + Sync;

impl Server {
    /// `answer` is told how many requests came before.
    pub(crate) async fn start(answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, Arc::new(answer)).await
    }

    pub(crate) async fn start_tls(
        tls: TlsAcceptor,
        answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Some(tls), Arc::new(answer)).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, answer: Arc<Handler>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, log) = (tls.clone(), Arc::clone(&answer), Arc::clone(&log));
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &*answer, &log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &*answer, &log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, asked, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method).count()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Handler, log: &Mutex<Vec<Asked>>) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let asked = Asked {
        method: words.next().unwrap(),
        path: words.next().unwrap(),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
    };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let reply = answer(before, &asked);
    let _ = stream.get_mut().write_all(&reply.bytes).await;
    let _ = stream.get_mut().flush().await;
    if reply.silent {
        std::future::pending::<()>().await;
    }
    let _ = stream.get_mut().shutdown().await;
}
