//! Runs for people and programs: each call parses, asks the actor or the database, and answers.

use std::collections::{HashMap, HashSet};

use regatta_core::cell::{Cell, CellHash};
use regatta_core::digest::Digest;
use regatta_core::id::{AgentId, BuildName, RunId, TrialId, is_unprintable};
use regatta_core::matrix::Matrix;
use regatta_core::nightly::Rules;
use regatta_core::policy::Passes;
use regatta_core::run::RunState;
use regatta_core::scenario::{self, ScenarioBundle};
use regatta_core::worker::{KEPT_WORKERS, PRESENT, kept_build};
use regatta_proto::convert::{self, WireError};
use regatta_proto::pb;
use regatta_proto::pb::run_service_server::RunService;
use regatta_store::{
    AgentRecord, Answer, AnswerVerdicts, CellRecord, EventRecord, ExcludeNight, NewRun, Reader, RunRecord, RunSummary,
    Service, Store, StoreError, ToJudge, TrialRecord, Writer,
};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::actor::{AgentView, Event, Handle, Notice, Submission};
use crate::auth::Caller;
use crate::export::Exports;
use crate::nights;
use crate::scheduler::Outlook;
use crate::wire;

/// Runs listed when the caller names no limit, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MOST: u32 = 1000;

/// What a run's priority may be.
const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// The longest reason of a person, in characters.
const MAX_REASON: usize = 500;

/// Worker processes of a cell that is measured again, at most.
const MAX_PASSES: u32 = 100;

/// Messages that may wait for someone who watches. Progress is dropped when half of them wait.
const WATCH_QUEUE: usize = 64;

/// Serves people and programs.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    reader: Reader,
    writer: Writer,
    actor: Handle,
    exports: Exports,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Runs {
    pub(crate) fn new(store: &Store, actor: Handle, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (reader, writer) = (store.reader().clone(), store.writer().clone());
        Self { exports: Exports::new(reader.clone(), std::env::temp_dir()), reader, writer, actor, tasks, stop }
    }

    async fn resolve(&self, text: &str) -> Result<RunId, Status> {
        self.reader.resolve_run(text).await.map_err(|error| wire::status(&error))
    }

    /// The cells of a run. Of each trial that an agent has, the first open cell is running.
    async fn cells(&self, run: &RunId) -> Result<Vec<pb::Cell>, StoreError> {
        let mut at_work = at_work(self.reader.trials(run).await?);
        let cells = self.reader.cells(run).await?;
        let cell = |cell: &CellRecord| {
            let is_open = cell.outcome.is_none();
            wire::cell(cell, is_open && cell.trial.as_ref().is_some_and(|trial| at_work.remove(trial)))
        };
        Ok(cells.iter().map(cell).collect())
    }

    async fn set_service(&self, agent: &str, service: Service, reason: String) -> Result<(), Status> {
        let agent = convert::parse("agent_id", agent).map_err(|error| invalid(&error))?;
        self.actor.ask(|reply| Event::Service { agent, service, reason, reply }).await
    }
}

/// Of each of these trials that an agent has, the first open cell is running.
pub(crate) fn at_work(trials: Vec<TrialRecord>) -> HashSet<TrialId> {
    let held = trials.into_iter().filter(|trial| trial.state.is_held() && !trial.delivered);
    held.map(|trial| trial.id).collect()
}

/// How cells are measured again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Repeat {
    /// These cells; those that were left undone without any.
    pub(crate) which: HashSet<CellHash>,
    /// By so many worker processes; as many as the run's policy says where it is 0.
    pub(crate) passes: u32,
    /// In turns with the build of the last good night, where that is another one and was kept.
    pub(crate) in_turns: bool,
}

/// The run of that `id` that repeats cells of another one.
pub(crate) async fn repetition(
    reader: &Reader,
    of: &str,
    id: RunId,
    repeat: &Repeat,
) -> Result<Result<NewRun, Status>, StoreError> {
    let Repeat { which, passes, in_turns } = repeat;
    let RunRecord { summary, mut bundle, mut policy } = reader.run(of).await?;
    let of = summary.id;
    if summary.state == RunState::Active {
        let text = format!("run '{of}' has not ended: wait for it, or cancel it");
        return Ok(Err(Status::failed_precondition(text)));
    }
    let mut matrix = if which.is_empty() { reader.undone(&of).await? } else { reader.again(&of, which).await? };
    if matrix.cells.is_empty() {
        let text = if which.is_empty() {
            format!("every cell of run '{of}' that was tried ended ok: there is nothing to repeat")
        } else {
            format!("none of these cells was tried in run '{of}': there is nothing to measure again")
        };
        return Ok(Err(Status::failed_precondition(text)));
    }
    if *in_turns && bundle.builds.is_empty() {
        let good = GoodBuilds::find(reader, &of).await?;
        matrix = matrix.in_turns(|cell| good.of(cell));
    }
    if *passes > 0 {
        policy.passes = Passes::fixed(*passes);
        bundle.passes = Some(policy.passes);
    }
    let (name, priority, retry_of) = (summary.name, summary.priority, Some(of.clone()));
    let devices = reader.run_devices(&of).await?;
    Ok(Ok(NewRun { id, name, bundle, policy, matrix, devices, priority, retry_of }))
}

/// Builds of the worker that measured the last good nights, as far as agents have kept them.
struct GoodBuilds {
    night: ToJudge,
    kept: HashMap<AgentId, String>,
}

impl GoodBuilds {
    async fn find(reader: &Reader, run: &RunId) -> Result<Self, StoreError> {
        let kept = |agent: AgentRecord| Some((agent.id, agent.host.get(KEPT_WORKERS)?.clone()));
        let kept = reader.agents().await?.into_iter().filter_map(kept).collect();
        Ok(Self { night: reader.to_judge(run).await?, kept })
    }

    fn of(&self, cell: &Cell) -> Option<BuildName> {
        let build = kept_build(&self.night.last_good_build(cell)?);
        let mut kept = self.kept.get(&cell.agent)?.split(' ');
        kept.any(|name| name == build.as_str()).then_some(build)
    }
}

/// Cells that a kept build measures.
fn of_kept_builds(matrix: &Matrix) -> usize {
    let is_kept = |build: &BuildName| build.as_str() != PRESENT;
    matrix.cells.iter().filter(|planned| planned.cell.build.as_ref().is_some_and(is_kept)).count()
}

/// How a run goes on, if it does.
pub(crate) async fn outlook(actor: &Handle, summary: &RunSummary) -> Result<Option<Outlook>, Status> {
    if summary.state != RunState::Active {
        return Ok(None);
    }
    let runs = vec![summary.id.clone()];
    Ok(actor.ask(|reply| Event::Outlooks { runs, reply }).await?.remove(&summary.id))
}

/// Why nothing more is sent to a caller, when it is so.
async fn until_gone(caller: &Caller, stop: &CancellationToken) -> Status {
    tokio::select! {
        () = stop.cancelled() => Status::unavailable("the coordinator is stopping"),
        status = caller.gone() => status,
    }
}

/// A person's reason without what can't be printed; `None` where nothing is left.
fn reason_of(text: &str) -> Result<Option<String>, Status> {
    let text: String = text.chars().filter(|c| !is_unprintable(*c)).collect();
    let text = text.trim();
    if text.chars().count() > MAX_REASON {
        return Err(Status::invalid_argument(format!("reason: at most {MAX_REASON} characters")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl RunService for Runs {
    type WatchRunStream = ReceiverStream<Result<pb::WatchRunResponse, Status>>;
    type ExportRunStream = ReceiverStream<Result<pb::ExportRunResponse, Status>>;

    async fn submit_run(
        &self,
        request: Request<pb::SubmitRunRequest>,
    ) -> Result<Response<pb::SubmitRunResponse>, Status> {
        let request = request.into_inner();
        let id = if request.run_id.is_empty() { uuid::Uuid::now_v7().to_string() } else { request.run_id };
        let id: RunId = convert::parse("run_id", &id).map_err(|error| invalid(&error))?;
        let bundle = request.scenario.ok_or_else(|| invalid(&WireError::Missing("scenario")))?;
        let bundle = ScenarioBundle::try_from(bundle).map_err(|error| invalid(&error))?;
        let scenario =
            scenario::parse(&bundle).map_err(|errors| Status::invalid_argument(wire::cut(&errors.to_string())))?;
        let (allow_large, priority) = (request.allow_large, request.priority);
        if !PRIORITIES.contains(&priority) {
            let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
            return Err(Status::invalid_argument(format!("priority {priority} is not within {least} to {most}")));
        }
        let submission = Submission { id: id.clone(), bundle, scenario, allow_large, priority };
        self.actor.ask(|reply| Event::Submit { submission: Box::new(submission), reply }).await?;
        Ok(Response::new(pb::SubmitRunResponse { run_id: id.to_string() }))
    }

    async fn get_run(&self, request: Request<pb::GetRunRequest>) -> Result<Response<pb::GetRunResponse>, Status> {
        let run = self.reader.run(&request.into_inner().run_id).await.map_err(|error| wire::status(&error))?;
        let outlook = outlook(&self.actor, &run.summary).await?;
        Ok(Response::new(pb::GetRunResponse { run: Some(wire::run(&run.summary, outlook.as_ref())) }))
    }

    async fn list_runs(&self, request: Request<pb::ListRunsRequest>) -> Result<Response<pb::ListRunsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MOST),
        };
        let runs = self.reader.runs(limit).await.map_err(|error| wire::status(&error))?;
        let active = runs.iter().filter(|run| run.state == RunState::Active).map(|run| run.id.clone()).collect();
        let outlooks = self.actor.ask(|reply| Event::Outlooks { runs: active, reply }).await?;
        let runs = runs.iter().map(|run| wire::run(run, outlooks.get(&run.id))).collect();
        Ok(Response::new(pb::ListRunsResponse { runs }))
    }

    async fn watch_run(&self, request: Request<pb::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let caller = Caller::of(&request);
        let run = self.resolve(&request.into_inner().run_id).await?;
        let (outbound, messages) = mpsc::channel(WATCH_QUEUE);
        // From before the first look at the database, so that no change falls between the two.
        let notices = self.actor.notices.subscribe();
        let watch = Watch { reader: self.reader.clone(), actor: self.actor.clone(), run, outbound, seen: 0 };
        let (stop, ended) = (self.stop.clone(), watch.outbound.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                status = caller.gone() => drop(ended.try_send(Err(status))),
                () = watch.run(notices) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn cancel_run(
        &self,
        request: Request<pb::CancelRunRequest>,
    ) -> Result<Response<pb::CancelRunResponse>, Status> {
        let run = self.resolve(&request.into_inner().run_id).await?;
        self.actor.ask(|reply| Event::Cancel { run, reply }).await?;
        Ok(Response::new(pb::CancelRunResponse {}))
    }

    async fn resume_run(
        &self,
        request: Request<pb::ResumeRunRequest>,
    ) -> Result<Response<pb::ResumeRunResponse>, Status> {
        let run = self.resolve(&request.into_inner().run_id).await?;
        let trials = self.actor.ask(|reply| Event::Resume { run, reply }).await?;
        Ok(Response::new(pb::ResumeRunResponse { trials }))
    }

    async fn retry_run(&self, request: Request<pb::RetryRunRequest>) -> Result<Response<pb::RetryRunResponse>, Status> {
        let pb::RetryRunRequest { run_id, new_run_id, cell_hashes, passes, in_turns } = request.into_inner();
        let id = if new_run_id.is_empty() { uuid::Uuid::now_v7().to_string() } else { new_run_id };
        let id: RunId = convert::parse("new_run_id", &id).map_err(|error| invalid(&error))?;
        let which = cell_hashes.iter().map(|hash| Digest::try_from(hash.as_slice()).map(CellHash));
        let which = which
            .collect::<Result<HashSet<_>, _>>()
            .map_err(|error| Status::invalid_argument(format!("cell_hashes: {error}")))?;
        if passes > MAX_PASSES {
            return Err(Status::invalid_argument(format!("passes is {passes}, and may be {MAX_PASSES} at most")));
        }
        let repeat = Repeat { which, passes, in_turns };
        let run =
            repetition(&self.reader, &run_id, id.clone(), &repeat).await.map_err(|error| wire::status(&error))??;
        let count = |cells: usize| u32::try_from(cells).unwrap_or(u32::MAX);
        let cells = count(run.matrix.cells.len());
        let cells_of_kept_builds = if in_turns { count(of_kept_builds(&run.matrix)) } else { 0 };
        self.actor.ask(|reply| Event::Retry { run: Box::new(run), reply }).await?;
        Ok(Response::new(pb::RetryRunResponse { run_id: id.to_string(), cells, cells_of_kept_builds }))
    }

    async fn judge_run(&self, request: Request<pb::JudgeRunRequest>) -> Result<Response<pb::JudgeRunResponse>, Status> {
        let pb::JudgeRunRequest { run_id, threshold } = request.into_inner();
        let rules = match threshold {
            0.0 => Rules::default(),
            threshold if threshold > 0.0 && threshold <= 1.0 => Rules { threshold, ..Rules::default() },
            _ => return Err(Status::invalid_argument(format!("threshold {threshold} is not above 0 and up to 1"))),
        };
        let summary = self.reader.run(&run_id).await.map_err(|error| wire::status(&error))?.summary;
        let run = &summary.id;
        if summary.state == RunState::Active {
            return Err(Status::failed_precondition(format!("run '{run}' still goes on: judge it when it has ended")));
        }
        if let Some(of) = &summary.retry_of {
            let text = format!("run '{run}' repeats cells of run '{of}', and is no night of its own: judge that one");
            return Err(Status::failed_precondition(text));
        }
        let judged = nights::judge(&self.reader, &self.writer, run, &rules).await;
        let (night, judgement) = judged.map_err(|error| wire::status(&error))?;
        let said = wire::judged(&summary, &night, &judgement);
        Ok(Response::new(said.map_err(|error| Status::internal(format!("a verdict could not be written: {error}")))?))
    }

    async fn answer_verdicts(
        &self,
        request: Request<pb::AnswerVerdictsRequest>,
    ) -> Result<Response<pb::AnswerVerdictsResponse>, Status> {
        let pb::AnswerVerdictsRequest { run_id, cell_hash, answer, reason } = request.into_inner();
        let run = self.resolve(&run_id).await?;
        let cell = if cell_hash.is_empty() {
            None
        } else {
            let digest = Digest::try_from(cell_hash.as_slice());
            Some(CellHash(digest.map_err(|error| Status::invalid_argument(format!("cell_hash: {error}")))?))
        };
        let answer = Answer::parse(&answer)
            .ok_or_else(|| Status::invalid_argument("answer: say 'acknowledged', 'expected' or 'dismissed'"))?;
        let reason = reason_of(&reason)?
            .ok_or_else(|| Status::invalid_argument("reason: say why, in at least one character"))?;
        let change = AnswerVerdicts { run, cell, answer, reason };
        let verdicts = self.writer.write(change).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(pb::AnswerVerdictsResponse { verdicts }))
    }

    async fn exclude_night(
        &self,
        request: Request<pb::ExcludeNightRequest>,
    ) -> Result<Response<pb::ExcludeNightResponse>, Status> {
        let pb::ExcludeNightRequest { run_id, reason } = request.into_inner();
        let run = self.resolve(&run_id).await?;
        let change = ExcludeNight { run, reason: reason_of(&reason)? };
        self.writer.write(change).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(pb::ExcludeNightResponse {}))
    }

    async fn list_cells(
        &self,
        request: Request<pb::ListCellsRequest>,
    ) -> Result<Response<pb::ListCellsResponse>, Status> {
        let run = self.resolve(&request.into_inner().run_id).await?;
        let cells = self.cells(&run).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(pb::ListCellsResponse { cells }))
    }

    async fn export_run(
        &self,
        request: Request<pb::ExportRunRequest>,
    ) -> Result<Response<Self::ExportRunStream>, Status> {
        let caller = Caller::of(&request);
        let run = self.resolve(&request.into_inner().run_id).await?;
        let (outbound, chunks) = Exports::channel();
        let (stop, exports) = (self.stop.clone(), self.exports.clone());
        self.tasks.spawn(async move { exports.send(run, outbound, until_gone(&caller, &stop)).await });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn drain_agent(
        &self,
        request: Request<pb::DrainAgentRequest>,
    ) -> Result<Response<pb::DrainAgentResponse>, Status> {
        let pb::DrainAgentRequest { agent_id, reason } = request.into_inner();
        self.set_service(&agent_id, Service::Draining, wire::label(&reason)).await?;
        Ok(Response::new(pb::DrainAgentResponse {}))
    }

    async fn resume_agent(
        &self,
        request: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::ResumeAgentResponse>, Status> {
        self.set_service(&request.into_inner().agent_id, Service::Ready, String::new()).await?;
        Ok(Response::new(pb::ResumeAgentResponse {}))
    }

    async fn forget_agent(
        &self,
        request: Request<pb::ForgetAgentRequest>,
    ) -> Result<Response<pb::ForgetAgentResponse>, Status> {
        let agent = convert::parse("agent_id", &request.into_inner().agent_id).map_err(|error| invalid(&error))?;
        self.actor.ask(|reply| Event::Forget { agent, reply }).await?;
        Ok(Response::new(pb::ForgetAgentResponse {}))
    }

    async fn list_agents(
        &self,
        _request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let views = self.actor.ask(|reply| Event::Agents { reply }).await?;
        let agents = self.reader.agents().await.map_err(|error| wire::status(&error))?;
        let canaries = self.reader.newest_canaries().await.map_err(|error| wire::status(&error))?;
        let unseen = AgentView::default();
        let view = |agent: &AgentRecord| wire::agent(agent, views.get(&agent.id).unwrap_or(&unseen), &canaries);
        let agents = agents.iter().map(view).collect();
        Ok(Response::new(pb::ListAgentsResponse { agents }))
    }
}

/// One person watching one run. Ends of cells are read from the database, so a slow reader misses none; what agents
/// are doing right now is dropped when it does not keep up.
struct Watch {
    reader: Reader,
    actor: Handle,
    run: RunId,
    outbound: mpsc::Sender<Result<pb::WatchRunResponse, Status>>,
    /// The last event that was looked at.
    seen: i64,
}

/// Whether a watch goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait,
    Ended,
}

impl Watch {
    async fn run(mut self, mut notices: broadcast::Receiver<Notice>) {
        if let Err(error) = self.follow(&mut notices).await {
            let _ = self.outbound.send(Err(wire::status(&error))).await;
        }
    }

    async fn follow(&mut self, notices: &mut broadcast::Receiver<Notice>) -> Result<(), StoreError> {
        self.seen = self.reader.last_event(&self.run).await?;
        let mut next = self.changed(&[]).await?;
        while next == Next::Wait {
            let (changed, progress) = self.heard(notices).await;
            next = if changed {
                let events = self.reader.events(&self.run, self.seen).await?;
                self.changed(&events).await?
            } else {
                Next::Wait
            };
            if let Some(progress) = progress {
                self.progress(progress).await?;
            }
            if self.outbound.is_closed() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for a notice, and takes those that wait behind it along.
    async fn heard(&self, notices: &mut broadcast::Receiver<Notice>) -> (bool, Option<pb::Progress>) {
        let mut changed = false;
        let mut progress = None;
        let first = tokio::select! {
            first = notices.recv() => first.ok(),
            // Nobody listens any more.
            () = self.outbound.closed() => return (false, None),
        };
        let mut notice = first;
        loop {
            match notice {
                Some(Notice::Changed(run)) => changed |= run == self.run,
                Some(Notice::Progress(run, latest)) if run == self.run => progress = Some(latest),
                Some(Notice::Progress(..)) => {}
                // Fallen behind: anything may have changed.
                None => changed = true,
            }
            notice = match notices.try_recv() {
                Ok(notice) => Some(notice),
                Err(broadcast::error::TryRecvError::Lagged(_)) => None,
                Err(_) => break,
            };
        }
        (changed, progress)
    }

    /// Tells how the run stands, and which of its cells have ended since.
    async fn changed(&mut self, events: &[EventRecord]) -> Result<Next, StoreError> {
        let summary = self.reader.run(self.run.as_str()).await?.summary;
        let state = pb::WatchRunResponse { run: Some(self.shown(&summary).await), progress: None, cell_end: None };
        for cell in events.iter().filter(|event| event.kind == "cell_ended").filter_map(|event| event.cell) {
            if let Some(outcome) = self.reader.outcome(&self.run, &cell).await? {
                let cell_end = Some(convert::cell_end(cell, &outcome));
                self.send(pb::WatchRunResponse { cell_end, ..state.clone() }).await;
            }
        }
        if let Some(last) = events.last() {
            self.seen = last.id;
        }
        self.send(state).await;
        Ok(if summary.state == RunState::Active { Next::Wait } else { Next::Ended })
    }

    async fn shown(&self, summary: &RunSummary) -> pb::Run {
        // A coordinator that stops knows no more how the run goes on; how it stands is in the database.
        wire::run(summary, outlook(&self.actor, summary).await.ok().flatten().as_ref())
    }

    async fn send(&self, response: pb::WatchRunResponse) {
        // A closed channel is noticed by who waits for the next notice.
        let _ = self.outbound.send(Ok(response)).await;
    }

    async fn progress(&self, progress: pb::Progress) -> Result<(), StoreError> {
        if self.outbound.capacity() < WATCH_QUEUE / 2 {
            return Ok(());
        }
        let summary = self.reader.run(self.run.as_str()).await?.summary;
        let run = Some(self.shown(&summary).await);
        let response = pb::WatchRunResponse { run, progress: Some(progress), cell_end: None };
        let _ = self.outbound.try_send(Ok(response));
        Ok(())
    }
}
