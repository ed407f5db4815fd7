//! The webhook: sends what is in the outbox to the one address that the settings name, signed, until it is taken.
//!
//! Signatures follow the Standard Webhooks specification, so that its libraries can check them: HMAC-SHA256 over id, time and
//! body. Each attempt is signed anew with its own time; id and body stay the same. Anything but a 2xx is a failure, a redirect
//! too. An address may hold a secret in its path, so nothing but its host is ever logged or stored.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use regatta_pull::PullError;
use regatta_pull::client::{Client, Timing};
use regatta_pull::policy::{Policy, Refused, Url};
use regatta_store::{Notice, Reader, SendOutcome, Sent, Store, StoreError, Writer};
use ring::hmac;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// What a secret in the form of the specification begins with; base64 follows.
const PREFIX: &str = "whsec_";

/// The shortest secret, in bytes.
const SHORTEST: usize = 16;

/// How a secret is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// It can be guessed.
    #[error("the secret has {0} bytes, and at least {SHORTEST} are needed: make one with 'openssl rand -hex 32'")]
    Short(usize),
    /// It says that it is base64, and is not.
    #[error("what follows '{PREFIX}' is not base64: copy it again from whoever receives the notices")]
    NotBase64,
}

/// What both sides know. It is never shown.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret as it stands in a file or a variable: `whsec_` and base64, or any other text, which is taken as it is.
    pub fn new(text: &str) -> Result<Self, BadSecret> {
        let text = text.trim();
        let bytes = match text.strip_prefix(PREFIX) {
            Some(encoded) => BASE64.decode(encoded).map_err(|_| BadSecret::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.len() < SHORTEST { Err(BadSecret::Short(bytes.len())) } else { Ok(Self(bytes)) }
    }

    /// The signature of a body that is sent at that time, in seconds since 1970.
    fn sign(&self, id: &str, at: i64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, format!("{id}.{at}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(tag.as_ref()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why an address is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It is no address.
    #[error(transparent)]
    Form(#[from] Refused),
    /// It would travel in the clear.
    #[error("http:// is for this machine only ({0} is another): write https://")]
    NotEncrypted(String),
}

/// Where notices go.
#[derive(Debug, Clone)]
pub struct Webhook {
    target: Url,
    secret: Secret,
    /// How long things may take.
    pub pace: Pace,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The pause after the first attempt; each later one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How long the receiver may take to answer.
    pub patience: Duration,
    /// How often the outbox is looked at.
    pub look: Duration,
    /// A notice that is older is given up.
    pub give_up: SignedDuration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            longest: Duration::from_hours(1),
            patience: Duration::from_secs(15),
            look: Duration::from_secs(5),
            give_up: SignedDuration::from_hours(72),
        }
    }
}

impl Webhook {
    /// A webhook at that address: `https`, or `http` on this machine.
    pub fn new(target: &str, secret: Secret) -> Result<Self, BadTarget> {
        let target = Url::parse(target)?;
        if !target.is_tls() && !regatta_net::is_loopback(target.host()) {
            return Err(BadTarget::NotEncrypted(regatta_core::id::shown(target.host())));
        }
        Ok(Self { target, secret, pace: Pace::default() })
    }

    /// Its host and port, which may be shown.
    pub fn host(&self) -> String {
        self.target.authority()
    }
}

impl Pace {
    /// The pause after so many attempts.
    fn pause(&self, attempts: u32) -> Duration {
        let factor = 2u32.checked_pow(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// When to try again after so many attempts, or `None` where it has been tried for long enough.
    fn next(&self, created_at: Timestamp, attempts: u32, now: Timestamp) -> Option<Timestamp> {
        let next = now.checked_add(SignedDuration::try_from(self.pause(attempts)).ok()?).ok()?;
        (next.duration_since(created_at) < self.give_up).then_some(next)
    }
}

/// Sends notices.
pub(crate) struct Sender {
    webhook: Webhook,
    client: Client,
    clock: fn() -> Timestamp,
    reader: Reader,
    writer: Writer,
}

impl Sender {
    pub(crate) fn new(webhook: Webhook, clock: fn() -> Timestamp, store: &Store) -> Result<Self, PullError> {
        let policy = Policy::only(webhook.target.clone());
        let client = if webhook.target.is_tls() {
            Client::new(policy, None)?
        } else {
            Client::with_roots(policy, None, Vec::new())
        };
        let patience = webhook.pace.patience;
        let timing = Timing { connect: patience, answer: patience, silence: patience, ..Timing::default() };
        let client = client.with_timing(timing);
        Ok(Self { webhook, client, clock, reader: store.reader().clone(), writer: store.writer().clone() })
    }

    /// Goes on until `stop`. What is under way then is sent again by the next one: the receiver tells it by its id.
    pub(crate) async fn run(self, stop: CancellationToken) {
        info!(host = %self.webhook.host(), "notices go to a webhook");
        loop {
            if let Err(error) = self.round(&stop).await {
                error!(%error, "the outbox could not be looked at");
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.webhook.pace.look)).await.is_none() {
                break;
            }
        }
    }

    /// Sends what is due. Stopping breaks off what is being sent, and nothing that the database is at.
    async fn round(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        for notice in self.reader.notices_due((self.clock)()).await? {
            let Some(outcome) = stop.run_until_cancelled(self.send(&notice)).await else { break };
            self.writer.write(Sent { id: notice.id, outcome }).await?;
        }
        Ok(())
    }

    async fn send(&self, notice: &Notice) -> SendOutcome {
        let host = self.webhook.host();
        let Err(reason) = self.attempt(notice).await else {
            debug!(id = notice.id, %host, "a notice was delivered");
            return SendOutcome::Delivered;
        };
        let attempts = notice.attempts + 1;
        if let Some(not_before) = self.webhook.pace.next(notice.created_at, attempts, (self.clock)()) {
            warn!(id = notice.id, %host, attempts, %not_before, reason, "a notice was not taken, and is sent again");
            return SendOutcome::Again { not_before, reason };
        }
        error!(id = notice.id, %host, attempts, reason, "a notice was not taken for days, and is given up");
        SendOutcome::GivenUp { reason }
    }

    /// One attempt; the error says why it failed, without the address.
    async fn attempt(&self, notice: &Notice) -> Result<(), String> {
        let at = (self.clock)().as_second();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| "its id can't be sent".to_owned());
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("webhook-id"), value(&notice.id)?),
            (HeaderName::from_static("webhook-timestamp"), value(&at.to_string())?),
            (
                HeaderName::from_static("webhook-signature"),
                value(&self.webhook.secret.sign(&notice.id, at, &notice.body))?,
            ),
        ];
        let body = Bytes::from(notice.body.clone());
        let answer = self.client.post(&self.webhook.target, &headers, body).await.map_err(|error| reason(&error))?;
        match answer.status {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(format!("answered {}: redirects are not followed", status.as_u16()))
            }
            status => Err(format!("answered {}", status.as_u16())),
        }
    }
}

/// Why nobody answered, without the address.
fn reason(error: &PullError) -> String {
    match error {
        PullError::Unreachable { reason, .. } => reason.clone(),
        PullError::Refused(Refused::Address { address, kind, .. }) => format!("its host is {address}, {kind}"),
        PullError::Refused(Refused::NoAddress(_)) => "its host has no address".to_owned(),
        PullError::Authorities(reason) => format!("no authority of certificates is trusted: {reason}"),
        _ => "it could not be sent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        // The example of the specification's own libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn a_secret_is_long_enough_and_readable() {
        assert!(Secret::new(" 0123456789abcdef\n").is_ok());
        assert_eq!(Secret::new("hunter2").unwrap_err(), BadSecret::Short(7));
        assert_eq!(Secret::new("whsec_***").unwrap_err(), BadSecret::NotBase64);
        assert!(Secret::new("").unwrap_err().to_string().contains("openssl rand"));
    }

    #[test]
    fn only_this_machine_is_told_without_encryption() {
        let secret = || Secret::new("0123456789abcdef").unwrap();
        let refused = |target: &str| Webhook::new(target, secret()).unwrap_err().to_string();
        for good in ["https://hooks.example/regatta", "http://127.0.0.1:9/x", "http://[::1]:9/", "http://localhost/x"] {
            assert!(Webhook::new(good, secret()).is_ok(), "{good}");
        }
        assert!(refused("http://hooks.example/x?token=1").contains("https://"));
        assert!(refused("https://me:pass@hooks.example/").contains("user or password"));
        assert!(refused("ftp://hooks.example/").contains("ftp"));
        assert!(refused("hooks.example").contains("no scheme"));
        let shown = format!("{:?}", Webhook::new("https://hooks.example/x?token=1", secret()).unwrap());
        assert!(!shown.contains("token"), "{shown}");
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_end_after_three_days() {
        let pace = Pace::default();
        let pauses: Vec<u64> = (1..=12).map(|attempts| pace.pause(attempts).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        let (created, mut now, mut attempts) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, 1);
        while let Some(next) = pace.next(created, attempts, now) {
            (now, attempts) = (next, attempts + 1);
        }
        assert!((70..90).contains(&attempts), "{attempts} attempts");
        assert!(now.duration_since(created) > SignedDuration::from_hours(70));
        assert_eq!(pace.pause(u32::MAX), pace.longest);
    }
}
