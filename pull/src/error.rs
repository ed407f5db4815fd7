//! Why weights did not come: each message says what, where, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use regatta_core::model::LockError;
use regatta_models::ModelError;

use crate::policy::{Refused, Url};

/// Why weights were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The address may not be asked.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nobody is reached there.
    #[error(
        "{host} can't be reached: {reason} (fix: name a mirror in HF_ENDPOINT, or weights on a disk with --from PATH; \
         synthetic ones need no network: 'regatta models synth')"
    )]
    Unreachable {
        /// The host.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The connection ended, or is silent.
    #[error("{url}: the transfer broke off after {received} bytes: {reason} (fix: pull again, it goes on from there)")]
    Broken {
        /// What was fetched.
        url: Url,
        /// How much of it is here.
        received: u64,
        /// What went wrong.
        reason: String,
    },
    /// The server says no.
    #[error("{url}: the server answers {status}{hint}")]
    Status {
        /// What was asked for.
        url: Url,
        /// The status.
        status: u16,
        /// What to do, with the words before it.
        hint: String,
    },
    /// The server's answer makes no sense.
    #[error("{url}: {problem}")]
    Answer {
        /// What was asked for.
        url: Url,
        /// What is wrong.
        problem: String,
    },
    /// The server has a file of another size.
    #[error("{url}: expected {expected} bytes, the server has {found}; nothing was kept")]
    Size {
        /// The file.
        url: Url,
        /// The size that the manifest, the lock file or the hub says, in bytes.
        expected: u64,
        /// The size that the server says, in bytes.
        found: u64,
    },
    /// More than anyone announced.
    #[error("{url}: more than {most} bytes come, which is more than was announced; nothing was kept")]
    TooLong {
        /// The file.
        url: Url,
        /// The most that was to come, in bytes.
        most: u64,
    },
    /// Other bytes than expected.
    #[error("{origin}: {name}: expected SHA-256 {expected}, got {found}; nothing was kept{hint}")]
    Hash {
        /// Where it came from.
        origin: String,
        /// The file.
        name: String,
        /// As the manifest, the lock file or the hub says.
        expected: String,
        /// Of what came.
        found: String,
        /// Where the expectation stands, with the words before it.
        hint: String,
    },
    /// The coordinator doesn't have it, or doesn't give it.
    #[error("the coordinator: {0}")]
    Coordinator(String),
    /// There is no way to the coordinator.
    #[error(transparent)]
    Connection(#[from] regatta_net::ConnectionError),
    /// The disk is too full.
    #[error(
        "{}: {needed} bytes are needed, {free} are free (fix: make room, or give --model-root DIR on another disk)",
        path.display()
    )]
    Space {
        /// The model root.
        path: PathBuf,
        /// Bytes still to come.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Nothing may be fetched.
    #[error("{name} is not in the hub's cache, and HF_HUB_OFFLINE says that nothing is fetched (fix: unset it)")]
    Offline {
        /// The file.
        name: String,
    },
    /// Another program fetches the artifact, and gets nowhere.
    #[error("another program fetches {artifact} and has received nothing for {waited:?} (fix: end it and pull again)")]
    Busy {
        /// The artifact.
        artifact: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The lock file is damaged.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The files came, and are not what they should be.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No certificates to check a server's against.
    #[error(
        "no certificates of authorities are found on this system: {0} (fix: install ca-certificates, or name a file in SSL_CERT_FILE)"
    )]
    Authorities(String),
    /// The program is ending.
    #[error("the program is ending")]
    Ending,
}

impl PullError {
    /// Whether the cause is what the person typed or wrote.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Lock(_) | Self::Connection(_))
    }

    /// Whether asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
