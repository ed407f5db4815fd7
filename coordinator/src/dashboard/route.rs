//! Addresses of the dashboard, and what browsers send in forms: pure.

use regatta_core::id::RunId;

/// The longest search that is looked for, in characters.
const MAX_WORDS: usize = 200;

/// What a browser asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Fleet, runs that go on, what comes next.
    Overview,
    /// The newest runs.
    Runs,
    /// A run as it goes on.
    Run(RunId),
    /// Its report.
    Report(RunId),
    /// Cells that were measured, by words of their names.
    Cells(String),
    /// The series of a cell, by its key.
    Cell(String),
    /// Schedules with their next firings.
    Schedules,
    /// What changes on the overview.
    OverviewEvents,
    /// What changes on the page of a run.
    RunEvents(RunId),
}

impl Route {
    /// What is at an address; `None` where nothing is.
    pub(crate) fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let run = |text: &str| text.parse::<RunId>().ok();
        match parts.as_slice() {
            [""] => Some(Self::Overview),
            ["events"] => Some(Self::OverviewEvents),
            ["runs"] => Some(Self::Runs),
            ["runs", id] => run(id).map(Self::Run),
            ["runs", id, "report"] => run(id).map(Self::Report),
            ["runs", id, "events"] => run(id).map(Self::RunEvents),
            ["cells"] => Some(Self::Cells(words(query.unwrap_or_default()))),
            ["cells", key] if key.len() == 16 && key.bytes().all(|c| c.is_ascii_hexdigit()) => {
                Some(Self::Cell((*key).to_owned()))
            }
            ["schedules"] => Some(Self::Schedules),
            _ => None,
        }
    }

    /// Whether there are charts on it: then it waits for its turn.
    pub(crate) fn is_drawn(&self) -> bool {
        matches!(self, Self::Report(_) | Self::Cell(_))
    }

    /// Whether it is a page, and not what one of them goes on reading.
    pub(crate) fn is_page(&self) -> bool {
        !matches!(self, Self::OverviewEvents | Self::RunEvents(_))
    }
}

fn words(query: &str) -> String {
    field(query, "q").unwrap_or_default().chars().take(MAX_WORDS).collect()
}

/// Where to go after signing in: an address of the dashboard itself, and of nothing else.
pub(crate) fn next(wanted: Option<&str>) -> &str {
    let is_ours = |address: &str| {
        let (path, query) = address.split_once('?').map_or((address, None), |(path, query)| (path, Some(query)));
        let plain = address.bytes().all(|c| (b'!'..=b'~').contains(&c) && c != b'\\');
        plain && Route::parse(path, query).is_some_and(|route| route.is_page())
    };
    wanted.filter(|address| is_ours(address)).unwrap_or("/")
}

/// A field of a form, or of the part of an address behind the question mark, decoded. `None` where it is not there, or is
/// no text.
pub(crate) fn field(form: &str, name: &str) -> Option<String> {
    let pairs = form.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
    decoded(value)
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(16 * high + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_what_is_there_and_nowhere_else() {
        let run: RunId = "01935f2e-7c31-7a10-9f00-000000000001".parse().unwrap();
        let of = |path: &str| Route::parse(path, None);
        assert_eq!(of("/"), Some(Route::Overview));
        assert_eq!(of(&format!("/runs/{run}")), Some(Route::Run(run.clone())));
        assert_eq!(of(&format!("/runs/{run}/report")), Some(Route::Report(run.clone())));
        assert_eq!(of(&format!("/runs/{run}/events")), Some(Route::RunEvents(run)));
        assert_eq!(of("/cells/0123456789abcdef"), Some(Route::Cell("0123456789abcdef".to_owned())));
        assert_eq!(Route::parse("/cells", Some("x=1&q=fake+q8%5f0")), Some(Route::Cells("fake q8_0".to_owned())));
        for nowhere in
            ["", "//", "/x", "/runs/", "/runs/../..", "/runs/%3Cscript%3E", "/cells/abc", "/cells/0123456789abcdeg"]
        {
            assert_eq!(of(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn after_signing_in_nobody_is_led_elsewhere() {
        for ours in ["/", "/runs", "/cells?q=a%20b", "/cells/0123456789abcdef"] {
            assert_eq!(next(Some(ours)), ours);
        }
        for other in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/runs\r\nset-cookie: x",
            "javascript:x",
            "/events",
        ] {
            assert_eq!(next(Some(other)), "/", "{other}");
        }
        assert_eq!(next(None), "/");
    }

    #[test]
    fn fields_of_forms_are_decoded_or_refused() {
        assert_eq!(field("a=1&token=r%67t_+x&token=2", "token").as_deref(), Some("rgt_ x"));
        assert_eq!(field("token", "token").as_deref(), Some(""));
        for broken in ["token=%", "token=%1", "token=%zz", "token=%ff", "other=1"] {
            assert_eq!(field(broken, "token"), None, "{broken}");
        }
    }
}
