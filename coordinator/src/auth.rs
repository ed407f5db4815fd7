//! Who calls, and what they may do: tokens, certificates, roles.
//!
//! Every call is looked at here before any service sees it. A token is looked up in the database each time, so that a
//! new one is good at once and a revoked one is worth nothing at once; calls that are open then are ended within
//! [`AGAIN`]. A refusal is one line, and says nothing that the caller does not know: whether a token has expired is told
//! only to who has it.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::id::{AgentId, shown};
use regatta_core::token::{NotAToken, Role, Token, TokenId};
use regatta_store::{Reader, Standing, TokenRecord};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::http;
use tracing::warn;

use crate::accept::Peer;
use crate::limit::{Limiter, Rate};
use crate::wire;

/// How often the tokens behind open calls are looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: anyone may know whether the coordinator serves.
    Nothing,
    /// Any credentials.
    Anyone,
    /// A token of one of these roles.
    Role(&'static [Role]),
}

/// Who may look at runs and agents.
const LOOK: Needs = Needs::Role(&[Role::Viewer, Role::Submitter]);

/// What a call needs, by its path. A method that is not listed is nobody's: who adds one has to say whose it is.
pub(crate) fn needs(path: &str) -> Needs {
    const CHANGE: Needs = Needs::Role(&[Role::Submitter]);
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match (service, method) {
        ("regatta.v1.AgentService", "Session") => Needs::Role(&[Role::Agent]),
        ("regatta.v1.RunService", "GetRun" | "ListRuns" | "WatchRun" | "ListCells" | "ExportRun" | "ListAgents") => {
            LOOK
        }
        (
            "regatta.v1.RunService",
            "SubmitRun" | "CancelRun" | "ResumeRun" | "RetryRun" | "JudgeRun" | "AnswerVerdicts" | "ExcludeNight"
            | "DrainAgent" | "ResumeAgent" | "ForgetAgent",
        ) => CHANGE,
        // Who measures needs weights, and who submits may see that they are there.
        ("regatta.v1.ArtifactService", "DescribeArtifact" | "FetchArtifact") => {
            Needs::Role(&[Role::Submitter, Role::Agent])
        }
        ("regatta.v1.AgentService" | "regatta.v1.RunService" | "regatta.v1.ArtifactService", _) => Needs::Role(&[]),
        ("grpc.health.v1.Health", _) => Needs::Nothing,
        _ => Needs::Anyone,
    }
}

/// Who calls. Handlers find it among the call's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) enum Caller {
    /// Someone on this machine, where no token is asked for.
    #[default]
    Open,
    /// The holder of a certificate: an agent of one of these names.
    Certificate(Arc<[String]>),
    /// The holder of a token.
    Token(Arc<Holder>),
}

/// The holder of a token.
#[derive(Debug)]
pub(crate) struct Holder {
    id: TokenId,
    role: Role,
    name: String,
    /// Cancelled when the token is worth nothing any more.
    gone: CancellationToken,
}

impl Caller {
    /// Who makes this call.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Whether the caller may speak as that agent.
    pub(crate) fn may_be(&self, agent: &AgentId) -> Result<(), Status> {
        let name = agent.as_str();
        match self {
            Self::Open => Ok(()),
            Self::Certificate(names) if names.iter().any(|n| n == name) => Ok(()),
            Self::Certificate(names) => Err(Status::permission_denied(format!(
                "the certificate is for {}: it does not speak for agent '{name}'",
                listed(names)
            ))),
            Self::Token(holder) if holder.name == name => Ok(()),
            Self::Token(holder) => Err(Status::permission_denied(format!(
                "token {} is of agent '{}': it does not speak for agent '{name}'",
                holder.id, holder.name
            ))),
        }
    }

    /// Returns when the caller's token is worth nothing any more, with what to say then.
    pub(crate) async fn gone(&self) -> Status {
        match self {
            Self::Token(holder) => {
                holder.gone.cancelled().await;
                Status::unauthenticated(format!("token {} has been revoked or has expired", holder.id))
            }
            Self::Open | Self::Certificate(_) => pending().await,
        }
    }

    fn check(&self, needs: Needs, path: &str) -> Result<(), Status> {
        let Needs::Role(roles) = needs else { return Ok(()) };
        let (who, role) = match self {
            Self::Open => return Ok(()),
            Self::Certificate(_) => ("a certificate without a token".to_owned(), Role::Agent),
            Self::Token(holder) => (format!("token {}", holder.id), holder.role),
        };
        if roles.contains(&role) {
            return Ok(());
        }
        let method = shown(path.rsplit('/').next().unwrap_or_default());
        let needed = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        Err(Status::permission_denied(format!("{who} has the role {role}: {method} needs the role {needed}")))
    }
}

fn listed(names: &[String]) -> String {
    let names: Vec<String> = names.iter().take(3).map(|name| format!("'{}'", shown(name))).collect();
    if names.is_empty() { "no DNS name".to_owned() } else { names.join(", ") }
}

/// Lets calls in.
pub(crate) struct Gate {
    required: bool,
    reader: Reader,
    clock: fn() -> Timestamp,
    limiter: Limiter,
    /// Tokens behind calls, perhaps open ones.
    live: Mutex<HashMap<TokenId, CancellationToken>>,
}

impl Gate {
    /// `required`: whether callers without credentials are turned away.
    pub(crate) fn new(required: bool, reader: Reader, clock: fn() -> Timestamp, rate: Rate) -> Self {
        Self { required, reader, clock, limiter: Limiter::new(rate), live: Mutex::default() }
    }

    /// Finds out who calls and whether they may, and notes it among the call's extensions.
    pub(crate) async fn admit<B>(&self, request: &mut http::Request<B>) -> Result<(), Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let address = peer.as_ref().and_then(|peer| peer.address);
        if address.is_some_and(|address| !self.limiter.take(address.ip(), Instant::now())) {
            return Err(Status::resource_exhausted("too many calls from this address: slow down"));
        }
        let path = request.uri().path().to_owned();
        let needs = needs(&path);
        if needs == Needs::Nothing {
            return Ok(());
        }
        let names = peer.and_then(|peer| peer.names);
        let caller = self.caller(request.headers(), names).await.and_then(|caller| {
            caller.check(needs, &path)?;
            Ok(caller)
        });
        let caller = caller.inspect_err(|status| {
            warn!(peer = ?address, path = shown(&path), reason = status.message(), "call refused");
        })?;
        request.extensions_mut().insert(caller);
        Ok(())
    }

    /// Whether the peer may make one more call.
    pub(crate) fn has_room_for(&self, peer: SocketAddr) -> bool {
        self.limiter.take(peer.ip(), Instant::now())
    }

    /// The holder of a token, if they may look at runs and agents.
    pub(crate) async fn viewer(&self, token: &str) -> Result<Caller, Status> {
        let token: Token = token.parse().map_err(|error: NotAToken| Status::unauthenticated(error.to_string()))?;
        let caller = Caller::Token(Arc::new(self.holder(&token).await?));
        caller.check(LOOK, "the dashboard")?;
        Ok(caller)
    }

    /// Whether a caller's token is still good: it is looked up again, as for a call.
    pub(crate) async fn is_good(&self, caller: &Caller) -> Result<bool, Status> {
        let Caller::Token(holder) = caller else { return Ok(true) };
        let record = self.reader.token(&holder.id).await.map_err(|error| wire::status(&error))?;
        let good = record.is_some_and(|record| record.standing((self.clock)()) == Standing::Good);
        Ok(good && !holder.gone.is_cancelled())
    }

    async fn caller(&self, headers: &http::HeaderMap, names: Option<Arc<[String]>>) -> Result<Caller, Status> {
        let Some(header) = headers.get("authorization") else {
            return match names {
                Some(names) => Ok(Caller::Certificate(names)),
                None if !self.required => Ok(Caller::Open),
                None => Err(Status::unauthenticated("a token is needed here: --token-file FILE or REGATTA_TOKEN")),
            };
        };
        let text = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        let token: Token = text.parse().map_err(|error: NotAToken| Status::unauthenticated(error.to_string()))?;
        let holder = self.holder(&token).await?;
        if let Some(names) = names.filter(|names| holder.role == Role::Agent && !names.contains(&holder.name)) {
            return Err(Status::permission_denied(format!(
                "token {} is of agent '{}', the certificate is for {}",
                holder.id,
                holder.name,
                listed(&names)
            )));
        }
        Ok(Caller::Token(Arc::new(holder)))
    }

    async fn holder(&self, token: &Token) -> Result<Holder, Status> {
        // Before the look at the database: a revocation that comes in between is not missed.
        let gone = self.live().entry(token.id().clone()).or_default().clone();
        let record = self.reader.token(token.id()).await.map_err(|error| wire::status(&error));
        let refused = match &record {
            Err(status) => Some(status.clone()),
            Ok(record) => self.refusal(token, record.as_ref()).map(Status::unauthenticated),
        };
        if let Some(status) = refused {
            // Whoever makes up ids does not fill the memory.
            if matches!(record, Ok(None)) {
                self.live().remove(token.id());
            }
            return Err(status);
        }
        let record = record?.ok_or_else(|| Status::unauthenticated("the token is not known here"))?;
        Ok(Holder { id: record.id, role: record.role, name: record.name, gone })
    }

    /// Why a token is worth nothing. That it has been is told only to who knows all of it.
    fn refusal(&self, token: &Token, record: Option<&TokenRecord>) -> Option<String> {
        let Some(record) = record.filter(|record| record.is(token)) else {
            return Some("the token is not known here".to_owned());
        };
        match record.standing((self.clock)()) {
            Standing::Good => None,
            Standing::Expired => Some(format!("token {} has expired", record.id)),
            Standing::Revoked => Some(format!("token {} has been revoked", record.id)),
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<TokenId, CancellationToken>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends calls whose token has been revoked or has expired, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if self.live().is_empty() {
                continue;
            }
            match self.reader.tokens().await {
                Ok(tokens) => self.end(&tokens),
                Err(error) => warn!(%error, "tokens can't be read: revocations do not take effect"),
            }
        }
    }

    fn end(&self, tokens: &[TokenRecord]) {
        let now = (self.clock)();
        let good: HashMap<_, _> =
            tokens.iter().map(|token| (&token.id, token.standing(now) == Standing::Good)).collect();
        self.live().retain(|id, gone| {
            let keep = good.get(id).copied().unwrap_or(false);
            if !keep {
                gone.cancel();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_belongs_to_somebody_and_no_other_does() {
        let methods = [
            ("AgentService", vec!["Session"]),
            (
                "RunService",
                vec![
                    "SubmitRun",
                    "GetRun",
                    "ListRuns",
                    "WatchRun",
                    "CancelRun",
                    "ResumeRun",
                    "RetryRun",
                    "JudgeRun",
                    "AnswerVerdicts",
                    "ExcludeNight",
                    "ListCells",
                    "ExportRun",
                    "ListAgents",
                    "DrainAgent",
                    "ResumeAgent",
                    "ForgetAgent",
                ],
            ),
        ];
        for (service, methods) in methods {
            for method in methods {
                let needs = needs(&format!("/regatta.v1.{service}/{method}"));
                assert!(matches!(needs, Needs::Role(roles) if !roles.is_empty()), "{method} is nobody's");
            }
            assert_eq!(needs(&format!("/regatta.v1.{service}/Whatever")), Needs::Role(&[]));
        }
        for odd in ["", "/", "regatta.v1.RunService", "/regatta.v1.RunService", "//regatta.v1.RunService/GetRun"] {
            assert_ne!(needs(odd), Needs::Nothing, "{odd}");
        }
    }
}
