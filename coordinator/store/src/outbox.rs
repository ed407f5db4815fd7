//! The outbox: notices on their way to a webhook. They are put in with what they tell of, in one transaction, and taken out when
//! somebody has said that they came; so a restart in between sends one twice, and none never.

use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::error::StoreError;
use crate::read::Reader;
use crate::row::{Columns, unix_ns};
use crate::writer::Change;

/// Notices that are read at once.
const AT_ONCE: u32 = 16;

/// How long notices are kept that have ended, for people who ask what became of them.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

/// A notice to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// What tells it from others, always the same for the same news.
    pub id: String,
    /// What is sent (JSON).
    pub body: String,
}

/// A notice that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What tells it from others.
    pub id: String,
    /// What is sent.
    pub body: String,
    /// When it was put in.
    pub created_at: Timestamp,
    /// How often it was sent in vain.
    pub attempts: u32,
}

/// How the outbox stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboxState {
    /// Notices that wait.
    pub waiting: u32,
    /// Notices that nobody took in time, of the last 30 days.
    pub given_up: u32,
    /// Why the last attempt of one of these failed.
    pub last_error: Option<String>,
}

/// Puts a notice in; one that is there already stays as it is.
pub(crate) async fn put(db: &mut SqliteConnection, at: Timestamp, notice: &NewNotice) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outbox (id, body, created_at_unix_ns, next_unix_ns) VALUES (?1, ?2, ?3, ?3) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&notice.id)
    .bind(&notice.body)
    .bind(unix_ns(at))
    .execute(db)
    .await?;
    Ok(())
}

/// An attempt to deliver a notice is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The notice.
    pub id: String,
    /// What came of it.
    pub outcome: SendOutcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// It is there.
    Delivered,
    /// It is not, and will be tried again.
    Again {
        /// Not before then.
        not_before: Timestamp,
        /// Why it failed.
        reason: String,
    },
    /// It is not, and was tried for long enough.
    GivenUp {
        /// Why it failed.
        reason: String,
    },
}

impl Change for Sent {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        let (state, next, reason) = match &self.outcome {
            SendOutcome::Delivered => ("delivered", None, None),
            SendOutcome::Again { not_before, reason } => ("waiting", Some(*not_before), Some(reason)),
            SendOutcome::GivenUp { reason } => ("given_up", None, Some(reason)),
        };
        sqlx::query(
            "UPDATE outbox SET state = ?2, attempts = attempts + 1, next_unix_ns = COALESCE(?3, next_unix_ns),
                last_error = ?4, ended_at_unix_ns = CASE ?2 WHEN 'waiting' THEN NULL ELSE ?5 END
             WHERE id = ?1 AND state = 'waiting'",
        )
        .bind(&self.id)
        .bind(state)
        .bind(next.map(unix_ns))
        .bind(reason)
        .bind(unix_ns(at))
        .execute(&mut *db)
        .await?;
        let old = at.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        sqlx::query("DELETE FROM outbox WHERE ended_at_unix_ns < ?").bind(unix_ns(old)).execute(db).await?;
        Ok(())
    }
}

impl Reader {
    /// Notices whose time has come, the oldest first.
    pub async fn notices_due(&self, now: Timestamp) -> Result<Vec<Notice>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM outbox WHERE state = 'waiting' AND next_unix_ns <= ? ORDER BY created_at_unix_ns, id LIMIT ?",
        );
        let rows = rows.bind(unix_ns(now)).bind(AT_ONCE).fetch_all(&self.pool).await?;
        rows.iter().map(notice).collect()
    }

    /// How the outbox stands.
    pub async fn outbox(&self) -> Result<OutboxState, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'given_up') AS given_up,
                (SELECT last_error FROM outbox WHERE state <> 'delivered' AND last_error IS NOT NULL
                 ORDER BY created_at_unix_ns DESC LIMIT 1) AS last_error FROM outbox",
        );
        let row = row.fetch_one(&self.pool).await?;
        Ok(OutboxState {
            waiting: row.unsigned32("waiting")?,
            given_up: row.unsigned32("given_up")?,
            last_error: row.optional_text("last_error")?,
        })
    }
}

fn notice(row: &SqliteRow) -> Result<Notice, StoreError> {
    Ok(Notice {
        id: row.text("id")?,
        body: row.text("body")?,
        created_at: row.time("created_at_unix_ns")?,
        attempts: row.unsigned32("attempts")?,
    })
}
