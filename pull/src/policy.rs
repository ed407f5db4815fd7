//! Which addresses may be asked. Pure: texts and addresses in, a decision out.
//!
//! A manifest comes from somewhere, and a redirect from anywhere; neither may make this machine talk to its own network.
//! So: `https` only, to hosts that are allowed by name, and only where the name stands for public addresses. One exception:
//! the endpoint of the hub (`HF_ENDPOINT`), which no manifest names but the person at this machine. It may be a mirror on a
//! private network, and `http` where it is this machine itself; never a link-local address, where clouds keep their metadata.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use http::Uri;
use regatta_core::id::shown;

/// How many redirects are followed.
pub const MAX_REDIRECTS: usize = 3;

/// The hosts of the hub: the site, and where it keeps large files.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "*.huggingface.co", "*.hf.co"];

/// Why an address is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no address.
    #[error("'{text}' is no address that can be fetched: {reason}; write https://HOST/PATH")]
    Form {
        /// What was given, without what might be a password.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another scheme.
    #[error(
        "{scheme}:// is refused for {host}: weights come over https only (http: only from HF_ENDPOINT on this machine)"
    )]
    Scheme {
        /// The scheme.
        scheme: String,
        /// The host.
        host: String,
    },
    /// It holds a user or a password.
    #[error("an address with a user or password before '{host}' is refused; remove what stands before '@'")]
    UserInfo {
        /// The host.
        host: String,
    },
    /// The host is not allowed.
    #[error("host '{host}' is not on the list of allowed hosts ({allowed}); if you trust it, give --allow-host {host}")]
    Host {
        /// The host.
        host: String,
        /// The list.
        allowed: String,
    },
    /// The name stands for an address that is not public.
    #[error("'{host}' is {address}, {kind}: weights are fetched from public addresses only")]
    Address {
        /// The host.
        host: String,
        /// Where it leads.
        address: IpAddr,
        /// What is wrong with that.
        kind: &'static str,
    },
    /// The name stands for nothing.
    #[error("'{0}' has no address")]
    NoAddress(String),
    /// One redirect too many.
    #[error("more than {MAX_REDIRECTS} redirects, the last one to '{0}'")]
    Redirects(String),
}

/// An address that can be asked, split into its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    tls: bool,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    /// Reads an absolute address.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let form = |reason: &str| Refused::Form { text: shown(&redacted(text)), reason: reason.to_owned() };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| form("it has no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => {
                let host = rest.split('/').next().and_then(|authority| authority.rsplit('@').next());
                let host = host.filter(|host| !host.is_empty()).unwrap_or("a file");
                return Err(Refused::Scheme { scheme: shown(scheme), host: shown(host) });
            }
        };
        let uri: Uri = text.parse().map_err(|_| form("it is malformed"))?;
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Refused::UserInfo { host });
        }
        if host.is_empty() {
            return Err(form("it has no host"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { tls, host, port, target })
    }

    /// Where a `Location` leads from here.
    pub fn join(&self, location: &str) -> Result<Self, Refused> {
        let scheme = if self.tls { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{scheme}://{}:{}{location}", self.host, self.port));
        }
        Self::parse(location)
    }

    /// The same server, another path.
    pub fn at(&self, path: &str) -> Result<Self, Refused> {
        self.join(&format!("{}{path}", self.target.trim_end_matches('/')))
    }

    /// Whether both lead to the same server.
    pub fn is_same_origin(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    /// Whether it is `https`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host: a name or an address.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> String {
        let standard = if self.tls { 443 } else { 80 };
        if self.port == standard { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Without the query: signed addresses carry their secret there.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{}", self.authority(), shown(path))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text without what stands before an `@` and behind a `?`.
fn redacted(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        _ => text.to_owned(),
    }
}

/// A host that may be asked: `example.org`, or `*.example.org` for every name below it. Port 443, unless another is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    below: bool,
    host: String,
    port: u16,
}

impl FromStr for HostRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let (below, rest) = lower.strip_prefix("*.").map_or((false, lower.as_str()), |rest| (true, rest));
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("'{}' has no such port", shown(text)))?),
            None => (rest, 443),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        if host.is_empty() || !host.bytes().all(plain) || (below && !host.contains('.')) {
            return Err(format!("'{}' is no host: write example.org, *.example.org or example.org:8443", shown(text)));
        }
        Ok(Self { below, host: host.to_owned(), port })
    }
}

impl HostRule {
    fn allows(&self, url: &Url) -> bool {
        let host = url.host();
        let matches = if self.below {
            host.strip_suffix(self.host.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.host
        };
        matches && url.port == self.port
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.host)?;
        if self.port == 443 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// How far an allowed address may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To public addresses.
    Public,
    /// To private ones too: the endpoint that a person has named.
    Private,
    /// To this machine only: that endpoint over `http`.
    Loopback,
}

/// What may be asked.
#[derive(Debug, Clone)]
pub struct Policy {
    hosts: Vec<HostRule>,
    endpoint: Option<Url>,
}

impl Policy {
    /// The hub's hosts and those of `more`. `endpoint` is the hub's, where a person has named another one.
    pub fn new(more: &[HostRule], endpoint: Option<Url>) -> Self {
        let hub = HUB_HOSTS.iter().filter_map(|host| host.parse().ok());
        Self { hosts: hub.chain(more.iter().cloned()).collect(), endpoint }
    }

    /// One server and nobody else, which a person has named.
    pub fn only(endpoint: Url) -> Self {
        Self { hosts: Vec::new(), endpoint: Some(endpoint) }
    }

    /// Whether the address may be asked, before its name is looked up.
    pub fn check(&self, url: &Url) -> Result<Reach, Refused> {
        let is_endpoint = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_same_origin(url));
        match (is_endpoint, url.tls) {
            (true, true) => return Ok(Reach::Private),
            (true, false) => return Ok(Reach::Loopback),
            (false, false) => {
                return Err(Refused::Scheme { scheme: "http".to_owned(), host: shown(&url.host) });
            }
            (false, true) => {}
        }
        if let Ok(address) = url.host().parse::<IpAddr>() {
            // An address has no name that could be allowed; say what it is where that is worse.
            check_address(url, Reach::Public, address)?;
        }
        if self.hosts.iter().any(|rule| rule.allows(url)) {
            return Ok(Reach::Public);
        }
        let allowed = self.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(Refused::Host { host: shown(&url.authority()), allowed })
    }

    /// The addresses to connect to, out of those that the name stands for. One bad address refuses all of them: who
    /// answers with a public and a private one means the private one.
    pub fn pin(&self, url: &Url, reach: Reach, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, Refused> {
        if addresses.is_empty() {
            return Err(Refused::NoAddress(shown(&url.host)));
        }
        for &address in addresses {
            check_address(url, reach, address)?;
        }
        Ok(addresses.iter().map(|&address| SocketAddr::new(address, url.port)).collect())
    }
}

fn check_address(url: &Url, reach: Reach, address: IpAddr) -> Result<(), Refused> {
    let kind = kind(address);
    let fine = match reach {
        Reach::Public => kind == Kind::Public,
        Reach::Private => matches!(kind, Kind::Public | Kind::Private | Kind::Loopback),
        Reach::Loopback => kind == Kind::Loopback,
    };
    if fine {
        return Ok(());
    }
    let kind = match (reach, kind) {
        (Reach::Loopback, _) => "not this machine, and http is for this machine only",
        (_, Kind::Loopback) => "this machine itself (loopback)",
        (_, Kind::Private) => "a private address",
        (_, Kind::LinkLocal) => "a link-local address, where clouds keep their metadata",
        (_, Kind::Other | Kind::Public) => "an address of a reserved range",
    };
    Err(Refused::Address { host: shown(&url.host), address, kind })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    Loopback,
    LinkLocal,
    Other,
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        // Shared addresses of carriers are somebody's inside too.
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Kind::Private,
        [169, 254, ..] => Kind::LinkLocal,
        [0 | 224..=255, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Kind::Other,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let last = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // An IPv4 address in other clothes: mapped, translated (NAT64), or 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            last(high, low)
        }
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        [0x2001, 0 | 0xdb8, ..] => Kind::Other,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn policy() -> Policy {
        Policy::new(&["weights.example".parse().unwrap(), "*.cdn.example:8443".parse().unwrap()], None)
    }

    fn refused(text: &str) -> String {
        match Url::parse(text).and_then(|url| policy().check(&url)) {
            Ok(reach) => format!("{reach:?}"),
            Err(refused) => refused.to_string(),
        }
    }

    /// Row 41 of the bad-input matrix.
    #[test]
    fn addresses_that_lead_inside_are_refused_with_the_rule() {
        for (text, part) in [
            ("http://169.254.169.254/latest/meta-data", "http:// is refused for 169.254.169.254"),
            ("https://169.254.169.254/latest", "link-local address, where clouds keep their metadata"),
            ("https://[fd00::1]/x", "a private address"),
            ("https://[::ffff:127.0.0.1]/x", "this machine itself"),
            ("https://127.0.0.1/x", "this machine itself"),
            ("file:///etc/passwd", "file:// is refused for a file: weights come over https only"),
            ("file://host/etc/passwd", "file:// is refused"),
            ("ftp://weights.example/x", "ftp:// is refused"),
            ("gopher://weights.example/x", "gopher:// is refused"),
            ("https://me:pass@weights.example/x", "remove what stands before '@'"),
            ("https://weights.example@evil.example/x", "before 'evil.example'"),
            ("https://evil.example/x", "host 'evil.example' is not on the list of allowed hosts (huggingface.co"),
            ("https://evil.example/x", "if you trust it, give --allow-host evil.example"),
            ("https://weights.example:8443/x", "host 'weights.example:8443' is not on the list"),
            ("https://notweights.example/x", "not on the list"),
            ("https://cdn.example:8443/x", "not on the list"),
            ("https://huggingface.co.evil.example/x", "not on the list"),
            ("https://8.8.8.8/x", "host '8.8.8.8' is not on the list"),
            ("weights.example/x", "no scheme"),
            ("/etc/passwd", "no scheme"),
        ] {
            let said = refused(text);
            assert!(said.contains(part), "{text}: {part} is not in: {said}");
            assert!(!said.contains("pass@") && !said.contains("me:"), "{said}");
        }
    }

    #[test]
    fn allowed_hosts_are_asked() {
        for text in [
            "https://huggingface.co/x",
            "https://cdn-lfs.hf.co/x?Signature=abc",
            "https://cas-bridge.xethub.hf.co/x",
            "https://WEIGHTS.example/x",
            "https://a.cdn.example:8443/x",
        ] {
            assert_eq!(refused(text), "Public", "{text}");
        }
    }

    #[test]
    fn names_that_stand_for_inner_addresses_are_refused() {
        let host = url("https://weights.example/x");
        for (address, part) in [
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("192.168.1.1", "private"),
            ("100.100.100.200", "private"),
            ("127.8.8.8", "this machine"),
            ("0.0.0.0", "reserved"),
            ("169.254.169.254", "metadata"),
            ("255.255.255.255", "reserved"),
            ("198.18.0.1", "reserved"),
            ("::", "reserved"),
            ("::1", "this machine"),
            ("fe80::1", "link-local"),
            ("fd00:ec2::254", "private"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("2002:7f00:1::", "this machine"),
            ("::ffff:10.0.0.1", "private"),
            ("2001:db8::1", "reserved"),
            ("ff02::1", "reserved"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let said = policy().pin(&host, Reach::Public, &[address]).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains("public addresses only"), "{address}: {said}");
            let public = "93.184.216.34".parse().unwrap();
            assert!(policy().pin(&host, Reach::Public, &[public, address]).is_err(), "{address} beside a public one");
        }
        for address in ["93.184.216.34", "172.32.0.1", "2606:2800:220:1::1"] {
            let pinned = policy().pin(&host, Reach::Public, &[address.parse().unwrap()]).unwrap();
            assert_eq!(pinned, [SocketAddr::new(address.parse().unwrap(), 443)]);
        }
        assert_eq!(policy().pin(&host, Reach::Public, &[]), Err(Refused::NoAddress("weights.example".to_owned())));
    }

    #[test]
    fn a_persons_own_endpoint_may_be_inside_but_never_metadata() {
        let mirror = |text: &str| Policy::new(&[], Some(url(text)));
        let private = mirror("https://mirror.corp:8443/hf");
        assert_eq!(private.check(&url("https://mirror.corp:8443/x")), Ok(Reach::Private));
        assert!(private.check(&url("https://mirror.corp/x")).is_err(), "another port");
        assert!(private.check(&url("http://mirror.corp:8443/x")).is_err(), "without TLS");
        let pin =
            |address: &str, reach| private.pin(&url("https://mirror.corp:8443/x"), reach, &[address.parse().unwrap()]);
        assert!(pin("10.0.0.5", Reach::Private).is_ok());
        assert!(pin("169.254.169.254", Reach::Private).is_err());
        let local = mirror("http://127.0.0.1:9000");
        assert_eq!(local.check(&url("http://127.0.0.1:9000/a/b")), Ok(Reach::Loopback));
        assert!(pin("127.0.0.1", Reach::Loopback).is_ok());
        assert!(pin("10.0.0.5", Reach::Loopback).unwrap_err().to_string().contains("http is for this machine only"));
    }

    #[test]
    fn redirects_are_read_as_the_standard_says() {
        let from = url("https://huggingface.co/a/b?x=1");
        let to = |location: &str| from.join(location).map(|url| format!("{url} {}", url.target()));
        assert_eq!(to("/c?d").unwrap(), "https://huggingface.co/c /c?d");
        assert_eq!(to("//cdn.hf.co/c").unwrap(), "https://cdn.hf.co/c /c");
        assert_eq!(to("https://cdn.hf.co/c?Signature=1").unwrap(), "https://cdn.hf.co/c /c?Signature=1");
        assert!(to("c/d").is_err());
        assert_eq!(format!("{:?}", url("https://x.hf.co/a?secret=1")), "https://x.hf.co/a");
    }

    #[test]
    fn rules_for_hosts_are_checked() {
        for text in ["", "*.", "*.com", "a b", "https://x", "x/y", "x:port", "*"] {
            assert!(text.parse::<HostRule>().is_err(), "{text}");
        }
        for text in ["example.org", "*.example.org", "example.org:8443"] {
            assert_eq!(text.parse::<HostRule>().unwrap().to_string(), text);
        }
    }
}
