//! Pages from their views, by templates that escape what they are given. A page loads nothing, and its policy admits exactly
//! the style sheet and the script that stand in it, by their hashes.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use super::Series;
use super::view::{AgentRow, Doing, Matrix, Problem, RunLine, ScheduleRow};

const CSS: &str = include_str!("../../assets/dashboard.css");
const SCRIPT: &str = include_str!("../../assets/dashboard.js");

/// A style sheet, and the policy of pages that have it.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) css: String,
    pub(crate) policy: String,
}

impl Look {
    /// The usual look, with `more` behind it.
    pub(crate) fn with(more: &str) -> Self {
        let css = format!("{CSS}{more}");
        let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(text.as_bytes())));
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; font-src data:; img-src data:; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            hash(&css),
            hash(SCRIPT)
        );
        Self { css, policy }
    }
}

/// What every page has.
pub(crate) struct Shell<'a> {
    pub(crate) title: String,
    /// The part of the site it is in.
    pub(crate) part: &'static str,
    pub(crate) css: &'a str,
    pub(crate) js: &'static str,
    /// The address that tells what changes on it.
    pub(crate) events: Option<String>,
    /// Whether there is a session that can be ended.
    pub(crate) signed_in: bool,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(title: &str, part: &'static str, look: &'a Look, signed_in: bool) -> Self {
        Self { title: title.to_owned(), part, css: &look.css, js: SCRIPT, events: None, signed_in }
    }
}

/// A part of a page that is sent again when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The id of its element.
    pub(crate) id: &'static str,
    /// The element.
    pub(crate) html: String,
}

/// A page made of parts that change.
#[derive(Template)]
#[template(path = "live.html")]
pub(crate) struct LivePage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) parts: &'a [Part],
}

#[derive(Template)]
#[template(path = "active.html")]
pub(crate) struct ActivePart<'a> {
    pub(crate) runs: &'a [RunLine],
}

#[derive(Template)]
#[template(path = "fleet.html")]
pub(crate) struct FleetPart<'a> {
    pub(crate) agents: &'a [AgentRow],
}

#[derive(Template)]
#[template(path = "recent.html")]
pub(crate) struct RecentPart<'a> {
    pub(crate) runs: &'a [RunLine],
    pub(crate) schedules: &'a [ScheduleRow],
}

#[derive(Template)]
#[template(path = "progress.html")]
pub(crate) struct ProgressPart<'a> {
    pub(crate) run: &'a RunLine,
    pub(crate) doing: &'a [Doing],
}

#[derive(Template)]
#[template(path = "matrix.html")]
pub(crate) struct MatrixPart<'a> {
    pub(crate) matrix: &'a Matrix,
}

#[derive(Template)]
#[template(path = "problems.html")]
pub(crate) struct ProblemsPart<'a> {
    pub(crate) problems: &'a [Problem],
    pub(crate) more: usize,
}

#[derive(Template)]
#[template(path = "runs.html")]
pub(crate) struct RunsPage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) runs: &'a [RunLine],
    /// Whether there may be older ones.
    pub(crate) more: bool,
}

/// A cell in a list.
pub(crate) struct CellLine {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) scenario: String,
}

#[derive(Template)]
#[template(path = "cells.html")]
pub(crate) struct CellsPage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) words: &'a str,
    pub(crate) cells: &'a [CellLine],
    pub(crate) more: usize,
}

#[derive(Template)]
#[template(path = "cell.html")]
pub(crate) struct CellPage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) scenario: &'a str,
    pub(crate) series: &'a [Series],
}

#[derive(Template)]
#[template(path = "schedules.html")]
pub(crate) struct SchedulesPage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) schedules: &'a [ScheduleRow],
}

#[derive(Template)]
#[template(path = "login.html")]
pub(crate) struct LoginPage<'a> {
    pub(crate) shell: Shell<'a>,
    /// What was wrong with the last try.
    pub(crate) wrong: Option<&'a str>,
    /// Where to go afterwards.
    pub(crate) next: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct MessagePage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) text: &'a str,
    /// A command that helps.
    pub(crate) command: Option<&'a str>,
}

/// The page that a browser sees that comes from another site: it goes on by itself, and then the request is ours.
#[derive(Template)]
#[template(path = "onward.html")]
pub(crate) struct OnwardPage<'a> {
    pub(crate) shell: Shell<'a>,
    pub(crate) next: &'a str,
}
