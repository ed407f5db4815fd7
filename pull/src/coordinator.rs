//! An artifact from a coordinator: by its id, its files by their hashes.
//!
//! The coordinator says which files there are and which hashes they have; every byte is hashed here all the same, and the
//! files are verified before they are found under the artifact's name.

use std::time::Duration;

use bytes::Bytes;
use regatta_core::artifact::ArtifactRef;
use regatta_core::model::{MAX_FILE, is_sha256};
use regatta_models::incoming::{self, Part};
use regatta_models::library::{Install, Library};
use regatta_net::{Connection, Credentials, chain, explain};
use regatta_proto::pb::artifact_service_client::ArtifactServiceClient;
use regatta_proto::{MAX_MESSAGE, pb};
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::Timing;
use crate::download::Writer;
use crate::error::PullError;
use crate::pull::{Progress, Pulled, check_space, claim};

/// The most files that an artifact may have.
const MAX_FILES: usize = 1000;

/// The longest that a coordinator may look for an artifact: it may have to hash it first.
const DESCRIBE: Duration = Duration::from_mins(5);

type Client = ArtifactServiceClient<InterceptedService<Channel, Credentials>>;

/// Fetches an artifact from the coordinator at the other end of `connection` and installs it.
pub async fn pull(
    connection: &Connection,
    library: &Library,
    artifact: &ArtifactRef,
    replace: bool,
    timing: &Timing,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let is_there = || if replace { None } else { library.find(artifact).ok() };
    if let Some(installed) = is_there() {
        return Ok(Pulled::There(installed));
    }
    let mut client = client(connection)?;
    let files = describe(&mut client, artifact).await?;
    let incoming = claim(library, artifact, progress).await?;
    if let Some(installed) = is_there() {
        return Ok(Pulled::There(installed));
    }
    let to_come = |file: &pb::ArtifactFile| file.bytes.saturating_sub(incoming.here(&file.name));
    check_space(library, files.iter().map(to_come).fold(0, u64::saturating_add))?;
    let mut parts = Vec::new();
    for file in &files {
        progress.begin(&file.name, Some(file.bytes));
        let part = incoming.part(&file.name)?;
        parts.push(fetch(&mut client, artifact, file, part, timing, progress).await?);
        progress.end();
    }
    let replace = replace || library.find(artifact).is_err();
    let installed = library.install(artifact, Install { seed: None, replace }, |folder| {
        files
            .iter()
            .zip(&parts)
            .try_for_each(|(file, part)| incoming::share(part.path(), &folder.join(&file.name)).map(|_| ()))
    })?;
    incoming.clear();
    Ok(Pulled::Installed(installed))
}

fn client(connection: &Connection) -> Result<Client, PullError> {
    let channel = connection.endpoint()?.connect_lazy();
    Ok(ArtifactServiceClient::with_interceptor(channel, connection.credentials()?)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE))
}

/// The files that the coordinator has. Its answer is looked at as anyone's would be.
async fn describe(client: &mut Client, artifact: &ArtifactRef) -> Result<Vec<pb::ArtifactFile>, PullError> {
    let request = pb::DescribeArtifactRequest { artifact: Some(artifact.into()) };
    let answer = timeout(DESCRIBE, client.describe_artifact(request)).await;
    let answer = answer.map_err(|_| PullError::Coordinator(format!("no answer within {DESCRIBE:?}")))?;
    let files = answer.map_err(|status| refused(&status))?.into_inner().files;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let is_good = |file: &pb::ArtifactFile| {
        is_sha256(&file.sha256)
            && file.bytes <= MAX_FILE
            && !file.name.starts_with('.')
            && (1..=255).contains(&file.name.len())
            && file.name.bytes().all(plain)
    };
    if files.is_empty() || files.len() > MAX_FILES || !files.iter().all(is_good) {
        return Err(PullError::Coordinator(format!("its description of {artifact} makes no sense")));
    }
    Ok(files)
}

/// One file, gone on with after every cut that brought something.
async fn fetch(
    client: &mut Client,
    artifact: &ArtifactRef,
    file: &pb::ArtifactFile,
    mut part: Part,
    timing: &Timing,
    progress: &dyn Progress,
) -> Result<Part, PullError> {
    let mut is_patched = part.length() > 0;
    let mut fruitless = 0;
    loop {
        if part.length() > file.bytes {
            part.restart(None)?;
        }
        let before = part.length();
        let result;
        (part, result) = transfer(client, artifact, file, part, timing, progress).await?;
        match result {
            Ok(()) if part.sha256() == file.sha256 => {
                part.sync()?;
                return Ok(part);
            }
            Ok(()) => {
                let found = part.sha256();
                part.restart(None)?;
                if !is_patched {
                    return Err(wrong_hash(file, found));
                }
                is_patched = false;
            }
            Err(status) if !is_passing(&status) => return Err(refused(&status)),
            Err(status) => {
                fruitless = if part.length() > before { 0 } else { fruitless + 1 };
                if fruitless >= timing.attempts {
                    return Err(refused(&status));
                }
                tokio::time::sleep(timing.pause * 2u32.saturating_pow(fruitless)).await;
            }
        }
    }
}

fn wrong_hash(file: &pb::ArtifactFile, found: String) -> PullError {
    PullError::Hash {
        origin: "the coordinator".to_owned(),
        name: file.name.clone(),
        expected: file.sha256.clone(),
        found,
        hint: " (fix: run 'regatta models verify' on the coordinator's machine)".to_owned(),
    }
}

/// Receives from where the part ends. The inner error is what the transfer ended with.
async fn transfer(
    client: &mut Client,
    artifact: &ArtifactRef,
    file: &pb::ArtifactFile,
    part: Part,
    timing: &Timing,
    progress: &dyn Progress,
) -> Result<(Part, Result<(), Status>), PullError> {
    let mut length = part.length();
    progress.at(length);
    if length == file.bytes {
        return Ok((part, Ok(())));
    }
    let request =
        pb::FetchArtifactRequest { artifact: Some(artifact.into()), sha256: file.sha256.clone(), offset: length };
    let silent = || Status::deadline_exceeded(format!("nothing came for {:?}", timing.silence));
    let mut pieces =
        match timeout(timing.answer, client.fetch_artifact(request)).await.unwrap_or_else(|_| Err(silent())) {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok((part, Err(status))),
        };
    let writer = Writer::start(part);
    let end = loop {
        match timeout(timing.silence, pieces.message()).await.unwrap_or_else(|_| Err(silent())) {
            Ok(Some(piece)) => {
                length = length.saturating_add(piece.chunk.len() as u64);
                if length > file.bytes {
                    break Err(Status::out_of_range("more bytes come than were announced"));
                }
                if !writer.write(Bytes::from(piece.chunk)).await {
                    break Ok(());
                }
                progress.at(length);
            }
            Ok(None) if length < file.bytes => break Err(Status::unavailable("it ended too early")),
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    Ok((writer.finish().await?, end))
}

/// Whether asking again may help.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unknown
            | Code::Cancelled
    )
}

fn refused(status: &Status) -> PullError {
    let reason = match std::error::Error::source(status) {
        None => status.message().to_owned(),
        Some(cause) => explain(status).unwrap_or_else(|| format!("it can't be reached: {}", chain(cause))),
    };
    // Its words are not ours: nothing in them may move the cursor.
    PullError::Coordinator(reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}
