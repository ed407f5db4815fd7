//! Imports: results of other tools, row by row as they came.

use jiff::Timestamp;
use regatta_core::digest::Digest;
use regatta_core::id::RunId;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::error::StoreError;
use crate::read::Reader;
use crate::row::{Columns, stored, unix_ns};
use crate::writer::Change;

/// A file of another tool to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImport {
    /// Its id, if it is new.
    pub id: RunId,
    /// The tool.
    pub tool: String,
    /// The file's name.
    pub file: String,
    /// Of the file's content.
    pub digest: Digest,
    /// Its rows, each a JSON object.
    pub rows: Vec<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is there now.
    New,
    /// It was there already, under this id.
    Before(RunId),
}

impl Change for NewImport {
    type Outcome = Kept;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<Kept, StoreError> {
        let before = sqlx::query("SELECT id FROM imports WHERE digest = ?")
            .bind(self.digest.as_bytes().as_slice())
            .fetch_optional(&mut *db)
            .await?;
        if let Some(row) = before {
            return Ok(Kept::Before(row.parsed("id")?));
        }
        sqlx::query("INSERT INTO imports (id, tool, file, digest, imported_at_unix_ns) VALUES (?, ?, ?, ?, ?)")
            .bind(self.id.as_str())
            .bind(&self.tool)
            .bind(&self.file)
            .bind(self.digest.as_bytes().as_slice())
            .bind(unix_ns(at))
            .execute(&mut *db)
            .await?;
        for (ordinal, row) in self.rows.iter().enumerate() {
            sqlx::query("INSERT INTO imported_rows (import_id, ordinal, row) VALUES (?, ?, ?)")
                .bind(self.id.as_str())
                .bind(stored("ordinal", ordinal as u64)?)
                .bind(row)
                .execute(&mut *db)
                .await?;
        }
        Ok(Kept::New)
    }

    fn rows(&self) -> usize {
        1 + self.rows.len()
    }
}

/// An import in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRecord {
    /// Its id.
    pub id: RunId,
    /// The tool.
    pub tool: String,
    /// The file's name.
    pub file: String,
    /// When it was imported.
    pub imported_at: Timestamp,
    /// How many rows it has.
    pub rows: u64,
}

impl Reader {
    /// Every import, newest first.
    pub async fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT i.*, (SELECT count(*) FROM imported_rows r WHERE r.import_id = i.id) AS n
             FROM imports i ORDER BY imported_at_unix_ns DESC, id DESC",
        );
        rows.fetch_all(&self.pool).await?.iter().map(record).collect()
    }

    /// The rows of an import as they came: JSON objects.
    pub async fn imported_rows(&self, import: &RunId) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT row FROM imported_rows WHERE import_id = ? ORDER BY ordinal");
        rows.bind(import.as_str()).fetch_all(&self.pool).await?.iter().map(|row| row.text("row")).collect()
    }
}

fn record(row: &SqliteRow) -> Result<ImportRecord, StoreError> {
    Ok(ImportRecord {
        id: row.parsed("id")?,
        tool: row.try_get("tool")?,
        file: row.try_get("file")?,
        imported_at: row.time("imported_at_unix_ns")?,
        rows: row.unsigned("n")?,
    })
}
