//! Runs for people and programs: each call parses, asks the actor or the database, and answers.

use regatta_core::id::RunId;
use regatta_core::run::RunState;
use regatta_core::scenario::{self, ScenarioBundle};
use regatta_proto::convert::{self, WireError};
use regatta_proto::pb;
use regatta_proto::pb::run_service_server::RunService;
use regatta_store::{EventRecord, Reader, StoreError};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::actor::{Event, Handle, Notice, Submission};
use crate::auth::Caller;
use crate::export::Exports;
use crate::wire;

/// Runs listed when the caller names no limit, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MOST: u32 = 1000;

/// Messages that may wait for someone who watches. Progress is dropped when half of them wait.
const WATCH_QUEUE: usize = 64;

/// Serves people and programs.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    reader: Reader,
    actor: Handle,
    exports: Exports,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Runs {
    pub(crate) fn new(reader: Reader, actor: Handle, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { exports: Exports::new(reader.clone(), std::env::temp_dir()), reader, actor, tasks, stop }
    }

    async fn resolve(&self, text: &str) -> Result<RunId, Status> {
        self.reader.resolve_run(text).await.map_err(|error| wire::status(&error))
    }
}

fn not_yet() -> Status {
    Status::unimplemented("this coordinator can't do that yet")
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
        let submission = Submission { id: id.clone(), bundle, scenario, allow_large: request.allow_large };
        self.actor.ask(|reply| Event::Submit { submission: Box::new(submission), reply }).await?;
        Ok(Response::new(pb::SubmitRunResponse { run_id: id.to_string() }))
    }

    async fn get_run(&self, request: Request<pb::GetRunRequest>) -> Result<Response<pb::GetRunResponse>, Status> {
        let run = self.reader.run(&request.into_inner().run_id).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(pb::GetRunResponse { run: Some(wire::run(&run.summary)) }))
    }

    async fn list_runs(&self, request: Request<pb::ListRunsRequest>) -> Result<Response<pb::ListRunsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MOST),
        };
        let runs = self.reader.runs(limit).await.map_err(|error| wire::status(&error))?;
        Ok(Response::new(pb::ListRunsResponse { runs: runs.iter().map(wire::run).collect() }))
    }

    async fn watch_run(&self, request: Request<pb::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let caller = Caller::of(&request);
        let run = self.resolve(&request.into_inner().run_id).await?;
        let (outbound, messages) = mpsc::channel(WATCH_QUEUE);
        // From before the first look at the database, so that no change falls between the two.
        let notices = self.actor.notices.subscribe();
        let watch = Watch { reader: self.reader.clone(), run, outbound, seen: 0 };
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

    async fn retry_run(&self, _: Request<pb::RetryRunRequest>) -> Result<Response<pb::RetryRunResponse>, Status> {
        Err(not_yet())
    }

    async fn list_cells(&self, _: Request<pb::ListCellsRequest>) -> Result<Response<pb::ListCellsResponse>, Status> {
        Err(not_yet())
    }

    async fn export_run(
        &self,
        request: Request<pb::ExportRunRequest>,
    ) -> Result<Response<Self::ExportRunStream>, Status> {
        let run = self.resolve(&request.into_inner().run_id).await?;
        let (outbound, chunks) = Exports::channel();
        self.tasks.spawn(self.exports.clone().send(run, outbound, self.stop.clone()));
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn drain_agent(&self, _: Request<pb::DrainAgentRequest>) -> Result<Response<pb::DrainAgentResponse>, Status> {
        Err(not_yet())
    }

    async fn resume_agent(
        &self,
        _: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::ResumeAgentResponse>, Status> {
        Err(not_yet())
    }

    async fn forget_agent(
        &self,
        _: Request<pb::ForgetAgentRequest>,
    ) -> Result<Response<pb::ForgetAgentResponse>, Status> {
        Err(not_yet())
    }

    async fn list_agents(
        &self,
        _request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let connected = self.actor.connected().await?;
        let agents = self.reader.agents().await.map_err(|error| wire::status(&error))?;
        let agents = agents.iter().map(|agent| wire::agent(agent, connected.contains(&agent.id))).collect();
        Ok(Response::new(pb::ListAgentsResponse { agents }))
    }
}

/// One person watching one run. Ends of cells are read from the database, so a slow reader misses none; what agents
/// are doing right now is dropped when it does not keep up.
struct Watch {
    reader: Reader,
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
        let state = pb::WatchRunResponse { run: Some(wire::run(&summary)), progress: None, cell_end: None };
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

    async fn send(&self, response: pb::WatchRunResponse) {
        // A closed channel is noticed by who waits for the next notice.
        let _ = self.outbound.send(Ok(response)).await;
    }

    async fn progress(&self, progress: pb::Progress) -> Result<(), StoreError> {
        if self.outbound.capacity() < WATCH_QUEUE / 2 {
            return Ok(());
        }
        let summary = self.reader.run(self.run.as_str()).await?.summary;
        let response =
            pb::WatchRunResponse { run: Some(wire::run(&summary)), progress: Some(progress), cell_end: None };
        let _ = self.outbound.try_send(Ok(response));
        Ok(())
    }
}
