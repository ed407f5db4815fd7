//! Tokens: made, listed and revoked by a person, also while a coordinator runs; looked up by the coordinator.
//!
//! A person's changes go through a connection of their own. The lock on the file keeps a second coordinator away, not
//! these: each is one short transaction, and SQLite puts it between the coordinator's.

use std::path::Path;

use jiff::Timestamp;
use regatta_core::digest::Digest;
use regatta_core::token::{ID_BYTES, Role, SECRET_BYTES, Token, TokenId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};
use subtle::ConstantTimeEq;

use crate::Store;
use crate::error::StoreError;
use crate::open;
use crate::read::Reader;
use crate::row::{Columns, unix_ns, unreadable};

/// A token as it is stored: everything but the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public part.
    pub id: TokenId,
    /// What it lets its holder do.
    pub role: Role,
    /// The agent it is bound to, or a label.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is worth nothing.
    pub expires_at: Option<Timestamp>,
    /// When a person revoked it.
    pub revoked_at: Option<Timestamp>,
    digest: Digest,
}

/// Whether a token is worth anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Good,
    /// Not any more: its time is over.
    Expired,
    /// Not any more: a person revoked it.
    Revoked,
}

impl Standing {
    /// As a word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl TokenRecord {
    /// Whether this is the token itself. Takes the same time however much of it is right.
    pub fn is(&self, token: &Token) -> bool {
        self.digest.as_bytes().ct_eq(token.digest().as_bytes()).into()
    }

    /// Whether it is worth anything at that time.
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.revoked_at.is_some() {
            Standing::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Standing::Expired
        } else {
            Standing::Good
        }
    }
}

fn record(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    Ok(TokenRecord {
        id: row.parsed("id")?,
        role: row.parsed("role")?,
        name: row.text("name")?,
        created_at: row.time("created_at_unix_ns")?,
        expires_at: row.optional_time("expires_at_unix_ns")?,
        revoked_at: row.optional_time("revoked_at_unix_ns")?,
        digest: row.digest("digest")?,
    })
}

impl Reader {
    /// The token of that id.
    pub async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE id = ?").bind(id.as_str());
        query.fetch_optional(&self.pool).await?.as_ref().map(record).transpose()
    }

    /// Every token there ever was, in the order in which they were made.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens ORDER BY created_at_unix_ns, id");
        query.fetch_all(&self.pool).await?.iter().map(record).collect()
    }
}

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it lets its holder do.
    pub role: Role,
    /// The agent it is bound to, or a label.
    pub name: String,
    /// From when on it is worth nothing.
    pub expires_at: Option<Timestamp>,
}

/// A person's way to the tokens of a database.
#[derive(Debug)]
pub struct Tokens {
    db: SqliteConnection,
}

impl Tokens {
    /// Opens the database at `path` for its tokens; makes it where there is none.
    pub async fn open(path: &Path, clock: fn() -> Timestamp) -> Result<Self, StoreError> {
        if open::needs_migration(path).await? {
            Store::open(path, clock).await?.close().await;
        }
        Ok(Self { db: open::beside_coordinator(path).await? })
    }

    /// Makes a token. It is not stored: whoever calls has the only copy.
    pub async fn create(&mut self, new: &NewToken, at: Timestamp) -> Result<Token, StoreError> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        let random = getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret));
        random.map_err(|error| StoreError::Random(error.to_string()))?;
        let token = Token::new(id, secret);
        let mut change = self.db.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO tokens (id, role, name, digest, created_at_unix_ns, expires_at_unix_ns)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(token.id().as_str())
        .bind(new.role.as_str())
        .bind(&new.name)
        .bind(token.digest().as_bytes().as_slice())
        .bind(unix_ns(at))
        .bind(new.expires_at.map(unix_ns))
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(token)
    }

    /// Every token there ever was, in the order in which they were made.
    pub async fn list(&mut self) -> Result<Vec<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens ORDER BY created_at_unix_ns, id");
        query.fetch_all(&mut self.db).await?.iter().map(record).collect()
    }

    /// Revokes the token of that id, or all of that name. Returns the ids of those that were good until now, `None`
    /// where there is no such token.
    pub async fn revoke(&mut self, which: &str, at: Timestamp) -> Result<Option<Vec<TokenId>>, StoreError> {
        let mut change = self.db.begin_with("BEGIN IMMEDIATE").await?;
        let known = sqlx::query("SELECT count(*) AS known FROM tokens WHERE id = ?1 OR name = ?1").bind(which);
        if known.fetch_one(&mut *change).await?.integer("known")? == 0 {
            change.rollback().await?;
            return Ok(None);
        }
        let revoked = sqlx::query(
            "UPDATE tokens SET revoked_at_unix_ns = ?2 WHERE (id = ?1 OR name = ?1) AND revoked_at_unix_ns IS NULL
             RETURNING id",
        );
        let revoked = revoked.bind(which).bind(unix_ns(at)).fetch_all(&mut *change).await?;
        change.commit().await?;
        let ids = revoked.iter().map(|row| {
            let id: String = row.try_get("id")?;
            id.parse().map_err(|_| unreadable("tokens.id", &id))
        });
        ids.collect::<Result<_, _>>().map(Some)
    }

    /// Closes the database.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.db.close().await?)
    }
}
