//! One file over HTTP: begun, cut, gone on with, and right in the end or not there at all.
//!
//! What has arrived is gone on with only if it is sure to belong to the same version: the server says so (`If-Range` with
//! its own tag), or the hash of the whole is known. A server that sends everything again, or another range, or more or less
//! than it said, costs time and never a wrong file.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};
use regatta_models::ModelError;
use regatta_models::incoming::Part;
use tokio::sync::mpsc;

use crate::client::{Answer, Client, Follow};
use crate::error::PullError;
use crate::hub;
use crate::policy::Url;

/// How many pieces may wait for the disk.
const AHEAD: usize = 16;

/// What is known of a file before it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// The most that is taken where the size is not known, in bytes.
    pub most: u64,
}

/// A file to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted<'w> {
    /// Where it is.
    pub url: &'w Url,
    /// What its origin is called in messages.
    pub origin: &'w str,
    /// Its name there.
    pub name: &'w str,
    /// What is known of it.
    pub expected: &'w Expected,
}

/// Writes pieces that arrive to the disk and hashes them, on a thread of its own.
pub struct Writer {
    pieces: mpsc::Sender<Bytes>,
    task: tokio::task::JoinHandle<(Part, Result<(), ModelError>)>,
}

impl Writer {
    /// Starts at the end of the part.
    pub fn start(mut part: Part) -> Self {
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(AHEAD);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(piece) = waiting.blocking_recv() {
                if let Err(error) = part.append(&piece) {
                    return (part, Err(error));
                }
            }
            (part, Ok(()))
        });
        Self { pieces, task }
    }

    /// Hands over a piece. Whether the writer still takes any; if not, [`Self::finish`] says why.
    pub async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> Result<Part, PullError> {
        drop(self.pieces);
        let (part, result) = self.task.await.map_err(|_| PullError::Ending)?;
        result?;
        Ok(part)
    }
}

/// Fetches a file into its part. `progress` hears how many bytes of it are here.
pub async fn download(
    client: &Client,
    wanted: &Wanted<'_>,
    mut part: Part,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Part, PullError> {
    let mut is_patched = part.length() > 0;
    loop {
        part = transfer(client, wanted, part, progress).await?;
        let found = part.sha256();
        match &wanted.expected.sha256 {
            Some(expected) if *expected != found => {
                part.restart(None)?;
                if !is_patched {
                    return Err(wrong_hash(wanted, expected, &found));
                }
                // Pieces of two versions, perhaps. Once more, in one go.
                is_patched = false;
            }
            _ => {
                part.sync()?;
                return Ok(part);
            }
        }
    }
}

fn wrong_hash(wanted: &Wanted<'_>, expected: &str, found: &str) -> PullError {
    PullError::Hash {
        origin: wanted.origin.to_owned(),
        name: wanted.name.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        hint: " (fix: pull again; if it stays so, the origin has another file than the manifest or models.lock says)"
            .to_owned(),
    }
}

/// Transfers until the file is whole, as long as attempts bring something.
async fn transfer(
    client: &Client,
    wanted: &Wanted<'_>,
    mut part: Part,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Part, PullError> {
    let timing = client.timing();
    let mut fruitless = 0;
    loop {
        let before = part.length();
        if wanted.expected.bytes.is_some_and(|bytes| bytes == before) {
            progress(before);
            return Ok(part);
        }
        let error = match attempt(client, wanted, part, progress).await? {
            Attempt::Whole(part) => return Ok(part),
            Attempt::Broken(left, error) => {
                part = left;
                error
            }
        };
        if !error.is_passing() {
            return Err(error);
        }
        fruitless = if part.length() > before { 0 } else { fruitless + 1 };
        if fruitless >= timing.attempts {
            return Err(error);
        }
        tokio::time::sleep(timing.pause * 2u32.saturating_pow(fruitless)).await;
    }
}

enum Attempt {
    Whole(Part),
    /// What is here, and why there is no more.
    Broken(Part, PullError),
}

async fn attempt(
    client: &Client,
    wanted: &Wanted<'_>,
    mut part: Part,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Attempt, PullError> {
    let expected = wanted.expected;
    if expected.bytes.is_some_and(|bytes| part.length() > bytes) || !can_go_on(&part, expected) {
        part.restart(None)?;
    }
    let headers = range(&part);
    let answer = match client.ask(&Method::GET, wanted.url, &headers, Follow::All).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Attempt::Broken(part, error)),
    };
    match place(&answer, wanted, &part)? {
        Place::Here => {}
        Place::Start => part.restart(answer.headers.get(ETAG).and_then(|tag| tag.to_str().ok()))?,
        Place::Nowhere(error) => {
            if answer.status == StatusCode::RANGE_NOT_SATISFIABLE || answer.status == StatusCode::PARTIAL_CONTENT {
                part.restart(None)?;
            }
            return Ok(Attempt::Broken(part, error));
        }
    }
    let total = total(&answer, part.length());
    if let Err(error) = check_total(&answer, wanted, total) {
        part.restart(None)?;
        return Err(error);
    }
    receive(answer, wanted, part, total, progress).await
}

/// Whether what is here surely belongs to what would come.
fn can_go_on(part: &Part, expected: &Expected) -> bool {
    part.length() == 0 || expected.sha256.is_some() || strong_tag(part).is_some()
}

/// The server's tag of the version, if it stands for every byte of it.
fn strong_tag(part: &Part) -> Option<HeaderValue> {
    let tag = part.tag().filter(|tag| tag.starts_with('"'))?;
    HeaderValue::from_str(&tag).ok()
}

fn range(part: &Part) -> Vec<(http::HeaderName, HeaderValue)> {
    let Ok(from) = HeaderValue::from_str(&format!("bytes={}-", part.length())) else { return Vec::new() };
    if part.length() == 0 {
        return Vec::new();
    }
    let condition = strong_tag(part).map(|tag| (IF_RANGE, tag));
    [(RANGE, from)].into_iter().chain(condition).collect()
}

enum Place {
    /// The body goes on where the part ends.
    Here,
    /// The body is the file from its start.
    Start,
    /// There is no use for the body.
    Nowhere(PullError),
}

fn place(answer: &Answer, wanted: &Wanted<'_>, part: &Part) -> Result<Place, PullError> {
    match answer.status {
        StatusCode::OK => Ok(Place::Start),
        StatusCode::PARTIAL_CONTENT => match content_range(answer) {
            Some((start, _)) if start == part.length() => Ok(Place::Here),
            _ => Ok(Place::Nowhere(broken(wanted, part, "the server sends another range than it was asked for"))),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Ok(Place::Nowhere(broken(wanted, part, "the server has no more of it than is here")))
        }
        status => {
            let hint = hub::hint(status, &answer.headers);
            let error = PullError::Status { url: answer.url.clone(), status: status.as_u16(), hint };
            if error.is_passing() { Ok(Place::Nowhere(error)) } else { Err(error) }
        }
    }
}

/// Start and total of a `Content-Range`.
fn content_range(answer: &Answer) -> Option<(u64, Option<u64>)> {
    let text = answer.header(CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

/// The size of the whole file, as the answer says it.
fn total(answer: &Answer, here: u64) -> Option<u64> {
    let rest = || answer.header(CONTENT_LENGTH.as_str())?.parse::<u64>().ok()?.checked_add(here);
    content_range(answer).and_then(|(_, total)| total).or_else(rest)
}

fn check_total(answer: &Answer, wanted: &Wanted<'_>, total: Option<u64>) -> Result<(), PullError> {
    let url = || wanted.url.clone();
    match (total, wanted.expected.bytes) {
        (Some(found), Some(expected)) if found != expected => Err(PullError::Size { url: url(), expected, found }),
        (Some(found), None) if found > wanted.expected.most => {
            Err(PullError::TooLong { url: url(), most: wanted.expected.most })
        }
        // Then the end of the connection would be taken for the end of the file.
        (None, None) if !answer.headers.contains_key(TRANSFER_ENCODING) => {
            Err(PullError::Answer { url: url(), problem: "the server doesn't say how long the file is".to_owned() })
        }
        _ => Ok(()),
    }
}

async fn receive(
    mut answer: Answer,
    wanted: &Wanted<'_>,
    part: Part,
    total: Option<u64>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Attempt, PullError> {
    let limit = total.or(wanted.expected.bytes).unwrap_or(wanted.expected.most);
    let mut length = part.length();
    let writer = Writer::start(part);
    let end = loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                length = length.saturating_add(piece.len() as u64);
                if length > limit || !writer.write(piece).await {
                    break None;
                }
                progress(length);
            }
            Ok(None) => break None,
            Err(reason) => break Some(reason),
        }
    };
    let mut part = writer.finish().await?;
    if length > limit {
        part.restart(None)?;
        return Err(PullError::TooLong { url: wanted.url.clone(), most: limit });
    }
    let missing = || total.or(wanted.expected.bytes).is_some_and(|bytes| bytes != length);
    let reason = end.or_else(|| missing().then(|| "it ended too early".to_owned()));
    Ok(match reason {
        Some(reason) => {
            let error = broken(wanted, &part, &reason);
            Attempt::Broken(part, error)
        }
        None => Attempt::Whole(part),
    })
}

fn broken(wanted: &Wanted<'_>, part: &Part, reason: &str) -> PullError {
    PullError::Broken { url: wanted.url.clone(), received: part.length(), reason: reason.to_owned() }
}
