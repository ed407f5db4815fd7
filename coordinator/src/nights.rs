//! Nights: submits what is scheduled when it is due, and judges what has ended.
//!
//! Every firing is accounted for: a run, or missed or failed with the reason. A run that a firing submits has an id made from
//! schedule and time, so a coordinator that dies in between submits it once all the same. What is missed is reported and not
//! made up: a night at noon would be held against nights.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regatta_core::cell::CellHash;
use regatta_core::digest::Digest;
use regatta_core::id::{RunId, ScheduleName};
use regatta_core::nightly::{Judgement, Rules};
use regatta_core::run::RunState;
use regatta_core::scenario::{self, ScenarioBundle};
use regatta_core::schedule::Schedule;
use regatta_store::{
    Accounted, Firing, FiringOutcome, NewNotice, Reader, SetStage, Stage, Store, StoreError, ToJudge, Writer,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info, warn};

use crate::actor::{Event, Handle, Submission};
use crate::notice::{self, JudgedNight};
use crate::runs::{self, Repeat};
use crate::server::Config;

/// A firing that is later than this is missed.
const GRACE: SignedDuration = SignedDuration::from_mins(10);

/// The longest sleep: the clock on the wall may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(30);

/// The longest while there are runs to be judged.
const WHILE_OPEN: Duration = Duration::from_secs(5);

/// The shortest, so that a clock that stands still wakes nobody all the time.
const SHORTEST: Duration = Duration::from_millis(100);

/// A schedule with what it runs.
#[derive(Debug, Clone)]
pub struct Planned {
    /// When.
    pub schedule: Schedule,
    /// What.
    pub bundle: ScenarioBundle,
    /// How urgent its runs are.
    pub priority: i32,
    /// Whether what is flagged is measured again the same night.
    pub confirm: bool,
}

/// Copies of the database that are made before a schedule fires, one a night.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backups {
    /// Where they are.
    pub folder: PathBuf,
    /// How many are kept.
    pub keep: usize,
}

/// Fires schedules and judges their runs.
pub(crate) struct Nights {
    planned: Vec<Planned>,
    backups: Option<Backups>,
    /// Whether somebody is told of verdicts and of firings that no run came of.
    tells: bool,
    clock: fn() -> Timestamp,
    reader: Reader,
    writer: Writer,
    actor: Handle,
}

impl Nights {
    pub(crate) fn new(config: &Config, store: &Store, actor: Handle) -> Self {
        let (planned, backups, clock) = (config.schedules.clone(), config.backups.clone(), config.clock);
        let tells = config.webhook.is_some();
        Self { planned, backups, tells, clock, reader: store.reader().clone(), writer: store.writer().clone(), actor }
    }

    /// Goes on until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            for planned in &self.planned {
                if let Err(error) = self.account(planned).await {
                    error!(schedule = %planned.schedule.name, %error, "a schedule could not be looked at");
                }
            }
            let open = self.judge_ended().await.unwrap_or_else(|error| {
                error!(%error, "nights could not be judged");
                true
            });
            if stop.run_until_cancelled(tokio::time::sleep(self.pause(open))).await.is_none() {
                break;
            }
        }
    }

    /// Until the next firing, or until runs are looked at that are still to be judged.
    fn pause(&self, open: bool) -> Duration {
        let now = (self.clock)();
        let next =
            self.planned.iter().filter_map(|planned| planned.schedule.next(now)).map(|next| next.timestamp()).min();
        let until = next.map_or(SignedDuration::MAX, |next| next.duration_since(now));
        Duration::try_from(until).unwrap_or(SHORTEST).clamp(SHORTEST, if open { WHILE_OPEN } else { LONGEST })
    }

    /// Accounts for the firings of a schedule since the last time.
    async fn account(&self, planned: &Planned) -> Result<(), StoreError> {
        let (name, now) = (&planned.schedule.name, (self.clock)());
        let Some(from) = self.reader.accounted(name).await? else {
            // It is new: nothing was missed.
            return self.keep(name, now, Vec::new()).await;
        };
        let due = planned.schedule.due(from, now);
        let Some((last, earlier)) = due.split_last() else { return Ok(()) };
        let missed = |due: Timestamp| {
            warn!(schedule = %name, %due, "a firing was missed: the coordinator was not running");
            Firing {
                schedule: name.clone(),
                due,
                outcome: FiringOutcome::Missed("the coordinator was not running".to_owned()),
            }
        };
        let mut firings: Vec<Firing> = earlier.iter().map(|due| missed(due.timestamp())).collect();
        let due = last.timestamp();
        if now.duration_since(due) > GRACE {
            firings.push(missed(due));
        } else {
            let outcome = self.fire(planned, due).await?;
            firings.push(Firing { schedule: name.clone(), due, outcome });
        }
        self.keep(name, now, firings).await
    }

    async fn keep(&self, schedule: &ScheduleName, until: Timestamp, firings: Vec<Firing>) -> Result<(), StoreError> {
        let notices = if self.tells { notice::not_fired(&firings)? } else { Vec::new() };
        self.writer.write(Accounted { schedule: schedule.clone(), until, firings, notices }).await
    }

    /// Submits a run, unless one before still goes on.
    async fn fire(&self, planned: &Planned, due: Timestamp) -> Result<FiringOutcome, StoreError> {
        let name = &planned.schedule.name;
        for firing in self.reader.unjudged().await? {
            let FiringOutcome::Submitted(run, _) = &firing.outcome else { continue };
            if firing.schedule == *name && self.goes_on(run).await? {
                warn!(schedule = %name, %due, %run, "a firing was missed: a run before still goes on");
                return Ok(FiringOutcome::Missed(format!("run {run} still went on")));
            }
        }
        self.back_up().await;
        match self.submit(planned, due).await {
            Ok(run) => {
                info!(schedule = %name, %due, %run, "a schedule has fired");
                Ok(FiringOutcome::Submitted(run, Stage::Running))
            }
            Err(status) => {
                warn!(schedule = %name, %due, error = status.message(), "a scheduled run was refused");
                Ok(FiringOutcome::Failed(status.message().to_owned()))
            }
        }
    }

    /// Copies the database, before the night's work begins: copying would disturb what is measured on this machine.
    async fn back_up(&self) {
        let Some(Backups { folder, keep }) = &self.backups else { return };
        match self.reader.nightly_backup(folder, *keep, (self.clock)()).await {
            Ok(Some(backup)) => info!(backup = %backup.display(), "the database was backed up"),
            Ok(None) => {}
            // A night without a backup is better than none.
            Err(error) => error!(folder = %folder.display(), %error, "the database could not be backed up"),
        }
    }

    async fn submit(&self, planned: &Planned, due: Timestamp) -> Result<RunId, Status> {
        let id = run_id(due, planned.schedule.name.as_str())?;
        let bundle = planned.bundle.clone();
        let scenario = scenario::parse(&bundle).map_err(|errors| Status::invalid_argument(errors.to_string()))?;
        let priority = planned.priority;
        let submission = Submission { id: id.clone(), bundle, scenario, allow_large: false, priority };
        self.actor.ask(|reply| Event::Submit { submission: Box::new(submission), reply }).await?;
        Ok(id)
    }

    /// Takes the verdicts on runs of schedules as far as they can be taken; whether any is left. One that can't be judged is
    /// looked at again later, and keeps no other from its verdict.
    async fn judge_ended(&self) -> Result<bool, StoreError> {
        let mut open = false;
        for firing in self.reader.unjudged().await? {
            let FiringOutcome::Submitted(run, stage) = &firing.outcome else { continue };
            open |= self.judge_one(&firing, run, *stage).await.unwrap_or_else(|error| {
                error!(schedule = %firing.schedule, %run, %error, "a night could not be judged");
                true
            });
        }
        Ok(open)
    }

    /// Judges a run of a schedule, if it has ended; whether it is still to be judged.
    async fn judge_one(&self, firing: &Firing, run: &RunId, stage: Stage) -> Result<bool, StoreError> {
        if self.goes_on(run).await? {
            return Ok(true);
        }
        let (night, judgement) = judge(&self.reader, &self.writer, run, &Rules::default()).await?;
        let to_measure: Vec<CellHash> = judgement.to_measure().into_iter().map(|at| night.histories[at].hash).collect();
        let planned = self.planned.iter().find(|planned| planned.schedule.name == firing.schedule);
        let confirms = stage == Stage::Running && planned.is_some_and(|planned| planned.confirm);
        let again = confirms && !to_measure.is_empty() && self.measure_again(run, &to_measure).await;
        let (stage, notice) = if again {
            (Stage::Confirming, None)
        } else {
            (Stage::Judged, self.notice(firing, &night, &judgement).await?)
        };
        self.writer.write(SetStage { run: run.clone(), stage, notice }).await?;
        Ok(again)
    }

    /// What somebody is to be told of a night, if anybody.
    async fn notice(
        &self,
        firing: &Firing,
        night: &ToJudge,
        judgement: &Judgement,
    ) -> Result<Option<NewNotice>, StoreError> {
        if !self.tells {
            return Ok(None);
        }
        let summary = self.reader.run(night.run.as_str()).await?.summary;
        let (scenario, state) = (summary.name.as_str(), summary.state);
        notice::judged(JudgedNight { firing, scenario, state, night, judgement }).map(Some)
    }

    /// Whether the run, or one that repeats cells of it, has not ended.
    async fn goes_on(&self, run: &RunId) -> Result<bool, StoreError> {
        let mut runs = self.reader.repetitions_of(run).await?;
        runs.push(run.clone());
        for run in runs {
            if self.reader.run(run.as_str()).await?.summary.state == RunState::Active {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Submits a run that measures cells again; `false` where it could not be.
    async fn measure_again(&self, run: &RunId, cells: &[CellHash]) -> bool {
        let passes = u32::try_from(Rules::default().again).unwrap_or(u32::MAX);
        let submitted = async {
            let id = run_id((self.clock)(), run.as_str())?;
            let repeat = Repeat { which: cells.iter().copied().collect(), passes, in_turns: true };
            let again = runs::repetition(&self.reader, run.as_str(), id.clone(), &repeat).await;
            let again = again.map_err(|error| Status::internal(error.to_string()))??;
            self.actor.ask(|reply| Event::Retry { run: Box::new(again), reply }).await?;
            Ok::<RunId, Status>(id)
        };
        match submitted.await {
            Ok(again) => {
                info!(%run, %again, cells = cells.len(), "flagged cells are measured again");
                true
            }
            Err(status) => {
                warn!(%run, error = status.message(), "flagged cells could not be measured again: the next night decides");
                false
            }
        }
    }
}

/// Judges a night and keeps what is said.
pub(crate) async fn judge(
    reader: &Reader,
    writer: &Writer,
    run: &RunId,
    rules: &Rules,
) -> Result<(ToJudge, Judgement), StoreError> {
    let night = reader.to_judge(run).await?;
    let judgement = night.judge(rules);
    writer.write(night.keep(&judgement)?).await?;
    let (slowdowns, judged) = (judgement.slowdowns(), judgement.verdicts.len());
    if slowdowns > 0 {
        warn!(%run, slowdowns, judged, "a night is slower than those before it: 'regatta gate' says where");
    } else {
        info!(%run, judged, "a night was judged");
    }
    Ok((night, judgement))
}

/// An id for a run: a time-ordered UUID that is the same for the same time and name.
fn run_id(time: Timestamp, name: &str) -> Result<RunId, Status> {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    let mut random = [0; 10];
    random.copy_from_slice(&Digest::of(format!("{}|{name}", time.as_nanosecond()).as_bytes()).as_bytes()[..10]);
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string();
    id.parse().map_err(|_| Status::internal("an id that is none was made"))
}
