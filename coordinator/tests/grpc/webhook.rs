//! Notices to a receiver that fails, stalls, points elsewhere, and takes them in the end; with a restart in between.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use regatta_coordinator::{Config, Planned, Webhook, WebhookPace, WebhookSecret};
use regatta_core::model::BUILT_IN_MODELS;
use regatta_core::scenario::ScenarioBundle;
use regatta_core::schedule::Schedule;
use ring::hmac;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{SCENARIO, Server};

const SECRET: &str = "a secret of sixteen bytes at least";

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the clock on the wall was put to, in seconds.
static PUT_TO: AtomicI64 = AtomicI64::new(0);

/// It goes on from there.
fn wall() -> Timestamp {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let passed = SignedDuration::try_from(BEGAN.elapsed()).unwrap();
    Timestamp::from_second(PUT_TO.load(Ordering::SeqCst)).unwrap() + passed
}

fn put(time: &str) {
    PUT_TO.store(time.parse::<Timestamp>().unwrap().as_second(), Ordering::SeqCst);
}

fn config(dir: &Path, target: &str) -> Config {
    let bundle = ScenarioBundle {
        file: "small.toml".to_owned(),
        text: SCENARIO.to_owned(),
        models: BUILT_IN_MODELS.to_owned(),
        prompts: std::collections::BTreeMap::new(),
        weights: None,
        force: false,
        passes: None,
        builds: Vec::new(),
    };
    let schedule = Schedule::new("nightly", "30 2 * * *", "UTC", wall()).unwrap();
    let planned = Planned { schedule, bundle, priority: 0, confirm: true };
    let mut webhook = Webhook::new(target, WebhookSecret::new(SECRET).unwrap()).unwrap();
    webhook.pace = WebhookPace {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
        patience: Duration::from_millis(300),
        look: Duration::from_millis(10),
        give_up: SignedDuration::from_hours(1),
    };
    let webhook = Some(webhook);
    Config { clock: wall, schedules: vec![planned], webhook, ..Config::new(dir.join("regatta.db")) }
}

/// A request as it came.
struct Asked {
    request_line: String,
    headers: HashMap<String, String>,
    body: String,
    stream: TcpStream,
}

impl Asked {
    async fn at(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody asked").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = async || {
            let mut line = String::new();
            reader.read_line(&mut line).await.unwrap();
            line.trim_end().to_owned()
        };
        let request_line = line().await;
        let mut headers = HashMap::new();
        loop {
            let line = line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).await.unwrap();
        let body = String::from_utf8(body).unwrap();
        Self { request_line, headers, body, stream: reader.into_inner() }
    }

    async fn answer(mut self, head: &str) {
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // It may have gone away meanwhile.
        let _ = self.stream.write_all(answer.as_bytes()).await;
    }

    /// Whether it is signed by who knows the secret.
    fn is_signed(&self) -> bool {
        let signature = self.headers["webhook-signature"].strip_prefix("v1,").unwrap();
        let signed = format!("{}.{}.{}", self.headers["webhook-id"], self.headers["webhook-timestamp"], self.body);
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        hmac::verify(&key, signed.as_bytes(), &BASE64.decode(signature).unwrap()).is_ok()
    }
}

/// Waits until the outbox is as wanted.
async fn outbox(server: &Server, wanted: impl Fn(&regatta_store::OutboxState) -> bool) -> regatta_store::OutboxState {
    let state = async {
        loop {
            let state = server.reader.outbox().await.unwrap();
            if wanted(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, state).await.expect("the outbox stays as it is")
}

#[tokio::test]
async fn a_missed_firing_is_told_until_somebody_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, elsewhere) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let target = format!("http://{}/hook?token=hidden", receiver.local_addr().unwrap());
    put("2026-01-01T02:00:00Z");
    let server = Server::with(config(dir.path(), &target)).await;
    let name = "nightly".parse().unwrap();
    let known = async {
        while server.reader.accounted(&name).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("the schedule is not accounted for");
    server.stop().await;

    // Three firings later it comes back.
    put("2026-01-03T08:00:00Z");
    let server = Server::with(config(dir.path(), &target)).await;
    let first = Asked::at(&receiver).await;
    assert_eq!(first.request_line, "POST /hook?token=hidden HTTP/1.1");
    assert_eq!(first.headers["content-type"], "application/json");
    assert!(first.is_signed());
    let (id, body) = (first.headers["webhook-id"].clone(), first.body.clone());
    let said: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&said["type"], &said["data"]["firings"]), (&"firing.missed".into(), &3.into()), "{said}");
    assert_eq!(said["id"], id.as_str());
    first.answer("503 Service Unavailable").await;
    let state = outbox(&server, |state| state.last_error.is_some()).await;
    assert_eq!((state.waiting, state.last_error.as_deref()), (1, Some("answered 503")));

    // It is held on to, and nobody answers.
    let stalled = Asked::at(&receiver).await;
    let state = outbox(&server, |state| state.last_error.as_deref() != Some("answered 503")).await;
    let why = state.last_error.unwrap();
    assert!(why.contains("takes longer") && !why.contains("hidden"), "{why}");
    drop(stalled);

    // Killed and back: it is sent still.
    server.stop().await;
    let server = Server::with(config(dir.path(), &target)).await;
    let redirected = Asked::at(&receiver).await;
    assert!(redirected.is_signed());
    redirected
        .answer(&format!("307 Temporary Redirect\r\nLocation: http://{}/", elsewhere.local_addr().unwrap()))
        .await;
    outbox(&server, |state| state.last_error.as_deref().is_some_and(|why| why.contains("307"))).await;

    let last = Asked::at(&receiver).await;
    assert!(last.is_signed());
    assert_eq!((&last.headers["webhook-id"], &last.body), (&id, &body), "the same news each time");
    last.answer("204 No Content").await;
    let state = outbox(&server, |state| state.waiting == 0).await;
    assert_eq!(state.given_up, 0);
    // A round later: what was taken is not sent again, and nobody was sent elsewhere.
    let again = timeout(Duration::from_millis(200), receiver.accept()).await;
    let misled = timeout(Duration::from_millis(1), elsewhere.accept()).await;
    assert!(again.is_err() && misled.is_err());
    server.stop().await;
}
