//! Schedules: what came of each firing, and which of their runs are still to be judged.

use jiff::Timestamp;
use regatta_core::id::{RunId, ScheduleName};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::error::StoreError;
use crate::outbox::{self, NewNotice};
use crate::read::Reader;
use crate::row::{Columns, unix_ns, unreadable};
use crate::writer::Change;

/// A firing of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The schedule.
    pub schedule: ScheduleName,
    /// When it was due.
    pub due: Timestamp,
    /// What came of it.
    pub outcome: FiringOutcome,
}

/// What came of a firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FiringOutcome {
    /// A run was submitted.
    Submitted(RunId, Stage),
    /// Nobody was there, or the run before still went on.
    Missed(String),
    /// The run was refused.
    Failed(String),
}

/// How far the verdict on a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It goes on.
    Running,
    /// What was flagged is measured again.
    Confirming,
    /// It is judged.
    Judged,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Running, Self::Confirming, Self::Judged];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Confirming => "confirming",
            Self::Judged => "judged",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text)
    }
}

/// The firings of a schedule are accounted for up to a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounted {
    /// The schedule.
    pub schedule: ScheduleName,
    /// Up to then.
    pub until: Timestamp,
    /// What came of the firings since the last time.
    pub firings: Vec<Firing>,
    /// What somebody is to be told of that.
    pub notices: Vec<NewNotice>,
}

impl Change for Accounted {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO schedules (name, seen_until_unix_ns) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET seen_until_unix_ns = max(seen_until_unix_ns, ?2)",
        )
        .bind(self.schedule.as_str())
        .bind(unix_ns(self.until))
        .execute(&mut *db)
        .await?;
        for firing in &self.firings {
            let (outcome, run, stage, detail) = match &firing.outcome {
                FiringOutcome::Submitted(run, stage) => ("submitted", Some(run), Some(stage.as_str()), ""),
                FiringOutcome::Missed(why) => ("missed", None, None, why.as_str()),
                FiringOutcome::Failed(why) => ("failed", None, None, why.as_str()),
            };
            sqlx::query(
                "INSERT INTO firings (schedule, due_unix_ns, outcome, run_id, stage, detail, at_unix_ns)
                 VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (schedule, due_unix_ns) DO NOTHING",
            )
            .bind(firing.schedule.as_str())
            .bind(unix_ns(firing.due))
            .bind(outcome)
            .bind(run.map(RunId::as_str))
            .bind(stage)
            .bind(detail)
            .bind(unix_ns(at))
            .execute(&mut *db)
            .await?;
        }
        for notice in &self.notices {
            outbox::put(db, at, notice).await?;
        }
        Ok(())
    }

    fn rows(&self) -> usize {
        1 + self.firings.len() + self.notices.len()
    }
}

/// The verdict on a schedule's run has come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStage {
    /// The run.
    pub run: RunId,
    /// How far.
    pub stage: Stage,
    /// What somebody is to be told of that.
    pub notice: Option<NewNotice>,
}

impl Change for SetStage {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE firings SET stage = ? WHERE run_id = ?")
            .bind(self.stage.as_str())
            .bind(self.run.as_str())
            .execute(&mut *db)
            .await?;
        match &self.notice {
            Some(notice) => outbox::put(db, at, notice).await,
            None => Ok(()),
        }
    }
}

impl Reader {
    /// Up to when the firings of a schedule are accounted for; `None` for one that was never there.
    pub async fn accounted(&self, schedule: &ScheduleName) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query("SELECT seen_until_unix_ns FROM schedules WHERE name = ?")
            .bind(schedule.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| row.time("seen_until_unix_ns")).transpose()
    }

    /// The newest firings of a schedule, the newest first.
    pub async fn firings(&self, schedule: &ScheduleName, most: u32) -> Result<Vec<Firing>, StoreError> {
        let rows = sqlx::query("SELECT * FROM firings WHERE schedule = ? ORDER BY due_unix_ns DESC LIMIT ?")
            .bind(schedule.as_str())
            .bind(most)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(firing).collect()
    }

    /// Firings whose runs are still to be judged, the oldest first.
    pub async fn unjudged(&self) -> Result<Vec<Firing>, StoreError> {
        let rows = sqlx::query("SELECT * FROM firings WHERE stage IN ('running', 'confirming') ORDER BY due_unix_ns");
        rows.fetch_all(&self.pool).await?.iter().map(firing).collect()
    }

    /// The runs that repeat cells of this one.
    pub async fn repetitions_of(&self, run: &RunId) -> Result<Vec<RunId>, StoreError> {
        let rows = sqlx::query("SELECT id FROM runs WHERE retry_of = ? ORDER BY id").bind(run.as_str());
        rows.fetch_all(&self.pool).await?.iter().map(|row| row.parsed("id")).collect()
    }
}

fn firing(row: &SqliteRow) -> Result<Firing, StoreError> {
    let (outcome, detail) = (row.text("outcome")?, row.text("detail")?);
    let outcome = match (outcome.as_str(), row.optional_parsed("run_id")?, row.optional_text("stage")?) {
        ("submitted", Some(run), Some(stage)) => {
            let stage = Stage::parse(&stage).ok_or_else(|| unreadable("firings.stage", &stage))?;
            FiringOutcome::Submitted(run, stage)
        }
        ("missed", ..) => FiringOutcome::Missed(detail),
        ("failed", ..) => FiringOutcome::Failed(detail),
        (other, ..) => return Err(unreadable("firings.outcome", &other)),
    };
    Ok(Firing { schedule: row.parsed("schedule")?, due: row.time("due_unix_ns")?, outcome })
}
