//! The dashboard: read-only pages for browsers about fleet, runs, cells and schedules.
//!
//! Off unless it is given an address. On loopback it is open, as the coordinator is; elsewhere there is TLS, and who looks has
//! signed in with a token. Pages work without a script; with it they change while they are looked at, by server-sent events.
//! What is costly is bounded: parts that change are made once a second for all who look, reports one at a time on a thread of
//! their own, and neither holds up what the coordinator is there for.
//!
//! [`route`] says what is where, [`door`] who may see it, [`view`] what is shown, [`page`] how it looks, [`live`] what agents
//! are doing, [`stream`] what changes, [`drawing`] how reports and charts come to be.

pub(crate) mod door;
mod drawing;
pub(crate) mod live;
mod page;
mod route;
mod stream;
mod view;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use regatta_core::digest::Digest;
use regatta_core::id::{RunId, TrialId};
use regatta_core::run::RunState;
use regatta_store::{KnownCell, Reader, RunSummary, StoreError, TrialRecord};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tracing::warn;

use self::door::{Closed, Door, Visitor};
use self::drawing::{Drawer, Undrawn};
pub use self::drawing::{Drawing, Night, Report, Series};
use self::live::{Heard, Live};
use self::page::{
    ActivePart, CellLine, CellPage, CellsPage, FleetPart, LivePage, LoginPage, Look, MatrixPart, MessagePage,
    OnwardPage, Part, ProblemsPart, ProgressPart, RecentPart, RunsPage, SchedulesPage, Shell,
};
use self::route::Route;
use self::view::{AgentRow, Doing, Matrix, RunLine, ScheduleRow};
use crate::actor::{AgentView, Event, Handle};
use crate::auth::Gate;
use crate::http::{Body, Patience};
use crate::nights::Planned;
use crate::runs;
use crate::scheduler::Outlook;

/// The largest form, in bytes.
const FORM: usize = 4096;

/// How long parts of a page that changes are good for all who look at it.
const FRESH: Duration = Duration::from_millis(800);

/// Runs on the overview, and on the page of runs.
const RECENT: u32 = 8;
const RUNS: u32 = 100;

/// Runs that are looked at for those that go on.
const OPEN: u32 = 30;

/// Cells that are listed at once.
const CELLS: usize = 200;

/// How long a page may take for who may see it, its way to the browser included; and one that is drawn, with its turn.
const PAGE: Duration = Duration::from_secs(30);
const DRAWN: Duration = Duration::from_mins(3);

/// Pages that go on changing, over all browsers.
const STREAMS: usize = 16;

/// What the dashboard is made from.
pub(crate) struct Dashboard {
    gate: Arc<Gate>,
    door: Door,
    reader: Reader,
    actor: Handle,
    live: Live,
    drawer: Drawer,
    schedules: Arc<[Planned]>,
    clock: fn() -> Timestamp,
    plain: Look,
    charts: Look,
    /// Parts that were made a moment ago. Held while new ones are made: everybody who looks costs as much as one.
    parts: Mutex<HashMap<Topic, Made>>,
    streams: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the rest of the coordinator gives to the dashboard.
pub(crate) struct Parts {
    pub(crate) gate: Arc<Gate>,
    pub(crate) reader: Reader,
    pub(crate) actor: Handle,
    pub(crate) live: Live,
    pub(crate) drawing: Arc<dyn Drawing>,
    pub(crate) schedules: Arc<[Planned]>,
    pub(crate) clock: fn() -> Timestamp,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// The parts of a page, made at that moment.
struct Made {
    at: Instant,
    parts: Arc<[Part]>,
}

/// A page that changes while it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Topic {
    Overview,
    Run(RunId),
}

/// Why there is no page.
#[derive(Debug)]
enum Trouble {
    /// There is no such thing.
    Missing(String),
    /// Not now, or not here; with a command that helps, where there is one.
    Refused(StatusCode, String, Option<String>),
    /// Something broke.
    Broken(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::RunNotFound { id, .. } => Self::Missing(format!("There is no run {id}.")),
            StoreError::AmbiguousRun { id, .. } => Self::Missing(format!("More than one run begins with {id}.")),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Broken(status.message().to_owned())
    }
}

impl From<askama::Error> for Trouble {
    fn from(error: askama::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<Undrawn> for Trouble {
    fn from(undrawn: Undrawn) -> Self {
        match undrawn {
            Undrawn::Busy => Self::Refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "Reports are drawn one at a time, and several wait already: try again in a minute.".to_owned(),
                None,
            ),
            Undrawn::Failed(why) => Self::Broken(why),
        }
    }
}

impl Dashboard {
    /// `required`: whether those without a token are turned away.
    pub(crate) fn new(address: SocketAddr, encrypted: bool, required: bool, parts: Parts) -> Self {
        let Parts { gate, reader, actor, live, drawing, schedules, clock, tasks, stop } = parts;
        Self {
            door: Door::new(address, encrypted, required),
            plain: Look::with(""),
            charts: Look::with(&drawing.style()),
            drawer: Drawer::new(drawing, reader.clone()),
            parts: Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            gate,
            reader,
            actor,
            live,
            schedules,
            clock,
            tasks,
            stop,
        }
    }

    /// Answers a request.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        patience: &Patience,
    ) -> Response<Body> {
        if !self.door.is_ours(request.headers()) {
            let text = "This address is not the dashboard's: on loopback it answers to localhost and 127.0.0.1 only.";
            return self.message(StatusCode::MISDIRECTED_REQUEST, "Not here", text, None);
        }
        if !self.gate.has_room_for(peer) {
            return self.message(
                StatusCode::TOO_MANY_REQUESTS,
                "Too fast",
                "Too many requests came from this address.",
                None,
            );
        }
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/login") => self.sign_in(request, peer).await,
            (&Method::POST, "/logout") => redirect("/", Some(&self.door.sign_out(request.headers()))),
            (&Method::GET | &Method::HEAD, _) => self.get(&request, patience).await,
            _ => {
                let text = "These pages can only be looked at.";
                let mut refused = self.message(StatusCode::METHOD_NOT_ALLOWED, "Not here", text, None);
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                refused
            }
        }
    }

    async fn get(self: &Arc<Self>, request: &Request<Incoming>, patience: &Patience) -> Response<Body> {
        let (path, query) = (request.uri().path(), request.uri().query());
        let visitor = match self.door.visitor(&self.gate, request.headers()).await {
            Ok(visitor) => visitor,
            Err(Closed::Unknown) => return self.ask(request),
            Err(Closed::Refused(status)) => return self.refused(&status),
        };
        let Some(route) = Route::parse(path, query) else {
            return self.message(StatusCode::NOT_FOUND, "Not found", "There is no such page.", None);
        };
        patience.extend(if route.is_drawn() { DRAWN } else { PAGE });
        let shown = match route {
            Route::OverviewEvents => self.events(Topic::Overview, &visitor, patience).await,
            Route::RunEvents(run) => self.events(Topic::Run(run), &visitor, patience).await,
            Route::Report(run) => self.report(&run).await,
            Route::Overview => self.overview(&visitor).await,
            Route::Runs => self.runs(&visitor).await,
            Route::Run(run) => self.run(run, &visitor).await,
            Route::Cells(words) => self.cells(&words, &visitor).await,
            Route::Cell(key) => self.cell(&key, &visitor).await,
            Route::Schedules => self.schedules(&visitor).await,
        };
        shown.unwrap_or_else(|trouble| self.trouble(trouble))
    }

    fn trouble(&self, trouble: Trouble) -> Response<Body> {
        match trouble {
            Trouble::Missing(text) => self.message(StatusCode::NOT_FOUND, "Not found", &text, None),
            Trouble::Refused(status, text, command) => self.message(status, "Not here", &text, command.as_deref()),
            Trouble::Broken(error) => {
                warn!(error, "a page of the dashboard could not be made");
                let text = "This page could not be made: the coordinator's log says why.";
                self.message(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong", text, None)
            }
        }
    }
}

/// Signing in and out.
impl Dashboard {
    /// Asks who is there.
    fn ask(&self, request: &Request<Incoming>) -> Response<Body> {
        let address = request.uri().path_and_query().map(hyper::http::uri::PathAndQuery::as_str);
        let next = route::next(address);
        // Browsers don't send the cookie with a request that a page of another site has led to. The one after it is ours.
        let elsewhere = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        if elsewhere {
            let shell = Shell::new("One moment", "", &self.plain, false);
            return self.page(StatusCode::OK, askama::Template::render(&OnwardPage { shell, next }));
        }
        self.login(StatusCode::UNAUTHORIZED, None, next)
    }

    fn login(&self, status: StatusCode, wrong: Option<&str>, next: &str) -> Response<Body> {
        let shell = Shell::new("Sign in", "", &self.plain, false);
        self.page(status, askama::Template::render(&LoginPage { shell, wrong, next }))
    }

    /// A token in a header was no good.
    fn refused(&self, status: &Status) -> Response<Body> {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        self.message(code, "Not for you", &sentence(status.message()), None)
    }

    async fn sign_in(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let (head, body) = request.into_parts();
        let form = match Limited::new(body, FORM).collect().await {
            Ok(form) => String::from_utf8(form.to_bytes().to_vec()).unwrap_or_default(),
            Err(_) => return self.login(StatusCode::PAYLOAD_TOO_LARGE, Some("That was more than a token."), "/"),
        };
        let next = route::field(&form, "next");
        let next = route::next(next.as_deref());
        let token = route::field(&form, "token").unwrap_or_default();
        match self.door.sign_in(&self.gate, &head.headers, &token).await {
            Ok(cookie) => redirect(next, Some(&cookie)),
            Err(status) => {
                warn!(%peer, reason = status.message(), "nobody was let into the dashboard");
                self.login(StatusCode::UNAUTHORIZED, Some(&sentence(status.message())), next)
            }
        }
    }
}

/// Pages.
impl Dashboard {
    async fn overview(&self, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let parts = self.parts_of(&Topic::Overview).await?;
        let mut shell = Shell::new("Overview", "overview", &self.plain, visitor.signed_in);
        shell.events = Some("/events".to_owned());
        let page = LivePage { shell, parts: &parts };
        Ok(self.page(StatusCode::OK, askama::Template::render(&page)))
    }

    async fn run(&self, run: RunId, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let summary = self.reader.run(run.as_str()).await?.summary;
        if summary.id != run {
            // A beginning of its id is good enough to find it, and its page has one address.
            return Ok(redirect(&format!("/runs/{}", summary.id), None));
        }
        let parts = self.parts_of(&Topic::Run(run.clone())).await?;
        let mut shell = Shell::new(&view::label(&summary.name), "runs", &self.plain, visitor.signed_in);
        let active = summary.state == RunState::Active;
        shell.events = active.then(|| format!("/runs/{run}/events"));
        let page = LivePage { shell, parts: &parts };
        Ok(self.page(StatusCode::OK, askama::Template::render(&page)))
    }

    async fn runs(&self, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let summaries = self.reader.runs(RUNS).await?;
        let outlooks = self.outlooks(&summaries).await?;
        let runs = self.lines(summaries.iter(), &outlooks);
        let shell = Shell::new("Runs", "runs", &self.plain, visitor.signed_in);
        let more = runs.len() == RUNS as usize;
        Ok(self.page(StatusCode::OK, askama::Template::render(&RunsPage { shell, runs: &runs, more })))
    }

    async fn report(&self, run: &RunId) -> Result<Response<Body>, Trouble> {
        let summary = self.reader.run(run.as_str()).await?.summary;
        let bytes = self.reader.sample_bytes(&summary.id).await?;
        if let Some(why) = drawing::too_large(summary.samples, bytes) {
            let command = format!("regatta report {} --coordinator URL", summary.id);
            return Err(Trouble::Refused(StatusCode::OK, why, Some(command)));
        }
        let Report { html, policy } = self.drawer.report(summary.id).await?;
        let mut response = self.page(StatusCode::OK, Ok(html));
        if let Ok(policy) = HeaderValue::from_str(&format!("{policy}; frame-ancestors 'none'")) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        Ok(response)
    }

    async fn cells(&self, words: &str, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let wanted: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
        let fits = |name: &str| wanted.iter().all(|word| name.contains(word));
        let known = self.reader.known_cells().await?;
        let all: Vec<CellLine> = known
            .iter()
            .filter(|cell| fits(&format!("{} {} {}", cell.cell.label(), cell.scenario, cell.hash).to_lowercase()))
            .map(|cell| CellLine {
                key: key(cell),
                name: view::label(&cell.cell.label()),
                scenario: view::label(&cell.scenario),
            })
            .collect();
        let (cells, more) = (&all[..all.len().min(CELLS)], all.len().saturating_sub(CELLS));
        let shell = Shell::new("Cells", "cells", &self.plain, visitor.signed_in);
        Ok(self.page(StatusCode::OK, askama::Template::render(&CellsPage { shell, words, cells, more })))
    }

    async fn cell(&self, wanted: &str, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let known = self.reader.known_cells().await?.into_iter().find(|cell| key(cell) == wanted);
        let cell = known.ok_or_else(|| Trouble::Missing("There is no such cell.".to_owned()))?;
        let (name, scenario) = (view::label(&cell.cell.label()), view::label(&cell.scenario));
        let series = self.drawer.history(cell).await?;
        let shell = Shell::new(&name, "cells", &self.charts, visitor.signed_in);
        let page = CellPage { shell, scenario: &scenario, series: &series };
        let mut response = self.page(StatusCode::OK, askama::Template::render(&page));
        set_policy(&mut response, &self.charts);
        Ok(response)
    }

    async fn schedules(&self, visitor: &Visitor) -> Result<Response<Body>, Trouble> {
        let schedules = self.schedule_rows(view::LAST).await?;
        let shell = Shell::new("Schedules", "schedules", &self.plain, visitor.signed_in);
        let page = SchedulesPage { shell, schedules: &schedules };
        Ok(self.page(StatusCode::OK, askama::Template::render(&page)))
    }

    async fn schedule_rows(&self, last: u32) -> Result<Vec<ScheduleRow>, StoreError> {
        let now = (self.clock)();
        let mut rows = Vec::with_capacity(self.schedules.len());
        for planned in self.schedules.iter() {
            let firings = if last > 0 { self.reader.firings(&planned.schedule.name, last).await? } else { Vec::new() };
            rows.push(ScheduleRow::new(planned, &firings, now));
        }
        Ok(rows)
    }
}

/// What changes.
impl Dashboard {
    async fn events(
        self: &Arc<Self>,
        topic: Topic,
        visitor: &Visitor,
        patience: &Patience,
    ) -> Result<Response<Body>, Trouble> {
        let Ok(room) = Arc::clone(&self.streams).try_acquire_owned() else {
            let text = format!("{STREAMS} pages are followed already.");
            return Err(Trouble::Refused(StatusCode::SERVICE_UNAVAILABLE, text, None));
        };
        // What isn't there is said before anything is sent.
        self.parts_of(&topic).await?;
        patience.extend(stream::LONGEST);
        let body = stream::start(Arc::clone(self), topic, visitor.caller.clone(), room);
        let mut response = Response::new(body);
        secure(&mut response, &self.plain, "text/event-stream");
        Ok(response)
    }

    /// The parts of a page as they are now, or were a moment ago.
    async fn parts_of(&self, topic: &Topic) -> Result<Arc<[Part]>, Trouble> {
        let mut known = self.parts.lock().await;
        let now = Instant::now();
        known.retain(|_, made| now < made.at + FRESH);
        if let Some(made) = known.get(topic) {
            return Ok(Arc::clone(&made.parts));
        }
        let parts: Arc<[Part]> = match topic {
            Topic::Overview => self.overview_parts().await?,
            Topic::Run(run) => self.run_parts(run).await?,
        }
        .into();
        known.insert(topic.clone(), Made { at: Instant::now(), parts: Arc::clone(&parts) });
        Ok(parts)
    }

    async fn overview_parts(&self) -> Result<Vec<Part>, Trouble> {
        let summaries = self.reader.runs(OPEN).await?;
        let outlooks = self.outlooks(&summaries).await?;
        let active = self.lines(summaries.iter().filter(|run| run.state == RunState::Active), &outlooks);
        let ended = summaries.iter().filter(|run| run.state != RunState::Active).take(RECENT as usize);
        let recent = self.lines(ended, &outlooks);
        let agents = self.agents().await?;
        let schedules = self.schedule_rows(0).await?;
        Ok(vec![
            part("active", &ActivePart { runs: &active })?,
            part("fleet", &FleetPart { agents: &agents })?,
            part("recent", &RecentPart { runs: &recent, schedules: &schedules })?,
        ])
    }

    async fn run_parts(&self, run: &RunId) -> Result<Vec<Part>, Trouble> {
        let summary = self.reader.run(run.as_str()).await?.summary;
        let outlook = runs::outlook(&self.actor, &summary).await?;
        let line = RunLine::new(&summary, outlook.as_ref(), (self.clock)());
        let cells = self.reader.cells(run).await?;
        let trials = self.reader.trials(run).await?;
        let held: Vec<TrialRecord> = trials.iter().filter(|trial| trial.state.is_held()).cloned().collect();
        let doing = |trial: &TrialRecord| {
            let heard = self.live.heard(&trial.id);
            let said = heard.as_ref().and_then(|heard| heard.progress.as_ref());
            let cell = said.and_then(|said| {
                cells.iter().find(|cell| cell.hash.0.as_bytes().as_slice() == said.cell_hash.as_slice())
            });
            let workload = cell.map(view::column).unwrap_or_default();
            Doing::new(trial, heard.as_ref(), &workload, summary.repetitions)
        };
        let doing: Vec<Doing> = held.iter().map(doing).collect();
        let matrix = Matrix::new(&cells, runs::at_work(trials));
        let (problems, more) = view::problems(&cells);
        Ok(vec![
            part("progress", &ProgressPart { run: &line, doing: &doing })?,
            part("matrix", &MatrixPart { matrix: &matrix })?,
            part("problems", &ProblemsPart { problems: &problems, more })?,
        ])
    }

    async fn agents(&self) -> Result<Vec<AgentRow>, Trouble> {
        let views = self.actor.ask(|reply| Event::Agents { reply }).await?;
        let unseen = AgentView::default();
        let mut rows = Vec::new();
        for agent in self.reader.agents().await? {
            let view = views.get(&agent.id).unwrap_or(&unseen);
            let trials = self.trials(&view.trials).await?;
            rows.push(AgentRow::new(&agent, view, &trials));
        }
        Ok(rows)
    }

    async fn trials(&self, ids: &[TrialId]) -> Result<Vec<(TrialRecord, Option<Heard>)>, StoreError> {
        let mut trials = Vec::with_capacity(ids.len());
        for id in ids {
            trials.extend(self.reader.trial(id).await?.map(|trial| (trial, self.live.heard(id))));
        }
        Ok(trials)
    }

    async fn outlooks(&self, summaries: &[RunSummary]) -> Result<HashMap<RunId, Outlook>, Status> {
        let active = summaries.iter().filter(|run| run.state == RunState::Active).map(|run| run.id.clone());
        let runs: Vec<RunId> = active.collect();
        if runs.is_empty() {
            return Ok(HashMap::new());
        }
        self.actor.ask(|reply| Event::Outlooks { runs, reply }).await
    }

    fn lines<'r>(
        &self,
        runs: impl Iterator<Item = &'r RunSummary>,
        outlooks: &HashMap<RunId, Outlook>,
    ) -> Vec<RunLine> {
        let now = (self.clock)();
        runs.map(|run| RunLine::new(run, outlooks.get(&run.id), now)).collect()
    }
}

/// Answers.
impl Dashboard {
    fn message(&self, status: StatusCode, title: &str, text: &str, command: Option<&str>) -> Response<Body> {
        let shell = Shell::new(title, "", &self.plain, false);
        self.page(status, askama::Template::render(&MessagePage { shell, text, command }))
    }

    fn page(&self, status: StatusCode, html: askama::Result<String>) -> Response<Body> {
        let (status, html) = html.map_or_else(
            |error| {
                warn!(%error, "a page of the dashboard could not be filled in");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            },
            |html| (status, html),
        );
        let mut response = Response::new(Full::new(Bytes::from(html)).boxed());
        *response.status_mut() = status;
        secure(&mut response, &self.plain, "text/html; charset=utf-8");
        response
    }
}

fn part(id: &'static str, template: &impl askama::Template) -> Result<Part, Trouble> {
    Ok(Part { id, html: template.render()? })
}

/// What names a cell in an address.
fn key(cell: &KnownCell) -> String {
    let KnownCell { scenario, cell, hash } = cell;
    let text = format!("{scenario}\n{hash}\n{}\n{}", cell.agent, cell.device);
    Digest::of(text.as_bytes()).to_string().chars().take(16).collect()
}

/// A status' message as a sentence.
fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

fn redirect(to: &str, cookie: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
        headers.insert(SET_COOKIE, cookie);
    }
    response
}

/// What keeps pages from loading anything, from being framed or kept, and from telling others where a reader came from.
fn secure(response: &mut Response<Body>, look: &Look, kind: &'static str) {
    let fixed = [
        (CONTENT_TYPE, kind),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: browsers would then not say where a form came from.
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    set_policy(response, look);
}

fn set_policy(response: &mut Response<Body>, look: &Look) {
    if let Ok(policy) = HeaderValue::from_str(&look.policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
}
