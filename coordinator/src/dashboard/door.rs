//! Who may see the dashboard: addresses that it answers to, tokens, sessions of browsers.
//!
//! A browser can't send a token with each request, so a form takes the token once and gives a random session in its place,
//! as a cookie that no script reads and no other site makes a browser send. The session stays here, in memory; the token
//! itself is not kept, and is looked up again for each request, so that a revoked one is worth nothing at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use regatta_core::digest::Digest;
use tokio::time::Instant;
use tonic::Status;

use crate::auth::{Caller, Gate};

/// How long a session lasts.
const SESSION: Duration = Duration::from_hours(12);

/// Sessions at the same time. When there are more, the one that began first ends.
const SESSIONS: usize = 256;

/// Bytes of a session's name.
const RANDOM: usize = 32;

/// Whether a request names this site, and not one that an attacker's name server made out of it.
///
/// On loopback the dashboard may ask for nothing, so the only thing that keeps a page of another site from reading it is that
/// browsers take them for different ones. A name that its owner points to 127.0.0.1 takes that away; it is still another name.
pub(crate) fn is_named_well(host: Option<&str>, on_loopback: bool) -> bool {
    let Some(host) = host else { return false };
    if !on_loopback {
        return true;
    }
    let name = host.strip_prefix('[').map_or_else(
        || host.split_once(':').map_or(host, |(name, _)| name),
        |rest| rest.split_once(']').map_or("", |(address, _)| address),
    );
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a form was sent from a page of this site.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        // An older browser, or a program.
        None => text(ORIGIN.as_str())
            .is_none_or(|origin| origin.split_once("://").map(|(_, host)| host) == text(HOST.as_str())),
    }
}

/// A browser that was let in.
struct Session {
    caller: Caller,
    began: Instant,
}

/// Lets browsers in.
pub(crate) struct Door {
    required: bool,
    on_loopback: bool,
    encrypted: bool,
    /// The cookie's name.
    cookie: String,
    /// By the hash of the session's name: what is looked up is not what is secret, so its time tells nothing of that.
    sessions: Mutex<HashMap<Digest, Session>>,
}

/// Who looks.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// Whose token it is.
    pub(crate) caller: Caller,
    /// Whether there is a session that can be ended.
    pub(crate) signed_in: bool,
}

/// Why nothing is shown.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Nobody has shown a token.
    Unknown,
    /// A token was shown, and this is wrong with it.
    Refused(Status),
}

impl Door {
    /// `required`: whether those without a token are turned away.
    pub(crate) fn new(address: std::net::SocketAddr, encrypted: bool, required: bool) -> Self {
        // Cookies are shared by all ports of a host: two coordinators on one machine would end each other's sessions.
        let port = address.port();
        let cookie = if encrypted { format!("__Host-regatta-{port}") } else { format!("regatta-{port}") };
        Self { required, on_loopback: address.ip().is_loopback(), encrypted, cookie, sessions: Mutex::default() }
    }

    /// Whether the request is meant for this site.
    pub(crate) fn is_ours(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        hosts.next().is_none() && is_named_well(host, self.on_loopback)
    }

    /// Who makes this request.
    pub(crate) async fn visitor(&self, gate: &Gate, headers: &HeaderMap) -> Result<Visitor, Closed> {
        if let Some(header) = headers.get(AUTHORIZATION) {
            let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
            let caller = gate.viewer(token).await.map_err(Closed::Refused)?;
            return Ok(Visitor { caller, signed_in: false });
        }
        if !self.required {
            return Ok(Visitor { caller: Caller::Open, signed_in: false });
        }
        let name = self.session_of(headers).ok_or(Closed::Unknown)?;
        let caller = self.live().get(&name).map(|session| session.caller.clone()).ok_or(Closed::Unknown)?;
        if gate.is_good(&caller).await.map_err(Closed::Refused)? {
            return Ok(Visitor { caller, signed_in: true });
        }
        self.live().remove(&name);
        Err(Closed::Unknown)
    }

    /// Begins a session for the holder of a token; gives the cookie.
    pub(crate) async fn sign_in(&self, gate: &Gate, headers: &HeaderMap, token: &str) -> Result<String, Status> {
        if !is_from_here(headers) {
            return Err(Status::permission_denied("the form was not sent from this site"));
        }
        let caller = gate.viewer(token.trim()).await?;
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(|error| Status::internal(format!("no random numbers: {error}")))?;
        let name = Digest::of(&random).to_string();
        let mut sessions = self.live();
        if sessions.len() >= SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.began).map(|(name, _)| *name);
            oldest.and_then(|oldest| sessions.remove(&oldest));
        }
        sessions.insert(Digest::of(name.as_bytes()), Session { caller, began: Instant::now() });
        Ok(self.cookie(&name, SESSION))
    }

    /// Ends a session; gives the cookie that takes the other one away.
    pub(crate) fn sign_out(&self, headers: &HeaderMap) -> String {
        if let Some(name) = self.session_of(headers).filter(|_| is_from_here(headers)) {
            self.live().remove(&name);
        }
        self.cookie("", Duration::ZERO)
    }

    fn cookie(&self, value: &str, lasts: Duration) -> String {
        let secure = if self.encrypted { "; Secure" } else { "" };
        format!("{}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", self.cookie, lasts.as_secs())
    }

    fn session_of(&self, headers: &HeaderMap) -> Option<Digest> {
        let texts = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
        let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, name) = pairs.find(|(key, _)| *key == self.cookie)?;
        Some(Digest::of(name.as_bytes()))
    }

    /// The sessions that last.
    fn live(&self) -> MutexGuard<'_, HashMap<Digest, Session>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        sessions.retain(|_, session| now < session.began + SESSION);
        sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (hyper::header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn on_loopback_only_names_of_loopback_are_answered() {
        for good in ["localhost", "LOCALHOST:7680", "127.0.0.1", "127.0.0.1:9", "127.8.0.1:80", "[::1]", "[::1]:7680"] {
            assert!(is_named_well(Some(good), true), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:7680",
            "localhost.evil.example",
            "192.168.0.1",
            "127.0.0.1.evil.example",
            "[::2]",
            "[",
            "::1",
        ] {
            assert!(!is_named_well(Some(bad), true), "{bad}");
        }
        assert!(!is_named_well(None, true) && !is_named_well(None, false));
        assert!(is_named_well(Some("bench.example:7680"), false));
    }

    #[test]
    fn forms_of_other_sites_are_not_taken() {
        let from = |pairs: &[(&'static str, &str)]| is_from_here(&headers(pairs));
        let host = ("host", "127.0.0.1:7680");
        assert!(from(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(from(&[host, ("origin", "http://127.0.0.1:7680")]));
        assert!(from(&[host]), "a program");
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!from(&[host, ("sec-fetch-site", site), ("origin", "http://127.0.0.1:7680")]), "{site}");
        }
        for origin in ["http://127.0.0.1:7681", "null", "https://evil.example"] {
            assert!(!from(&[host, ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn cookies_are_out_of_reach_of_scripts_and_other_sites() {
        let encrypted = Door::new(([10, 0, 0, 1], 443).into(), true, true).cookie("x", SESSION);
        assert_eq!(encrypted, "__Host-regatta-443=x; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure");
        let door = Door::new(([127, 0, 0, 1], 7680).into(), false, true);
        assert_eq!(door.cookie("", Duration::ZERO), "regatta-7680=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
        let named = |text: &str| door.session_of(&headers(&[("cookie", text)]));
        assert_eq!(named("a=b; regatta-7680=x;c=d"), Some(Digest::of(b"x")));
        assert_eq!(named("xregatta-7680=x; regatta=y"), None);
    }
}
