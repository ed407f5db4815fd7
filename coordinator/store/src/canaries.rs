//! Canaries: what devices were found to do, as series.

use regatta_core::canary::Canary;
use regatta_core::id::AgentId;
use regatta_core::roofline::peaks::Number;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use jiff::Timestamp;

use crate::error::StoreError;
use crate::read::Reader;
use crate::row::{Columns, to_json, unix_ns};

/// A canary of the series.
#[derive(Debug, Clone, PartialEq)]
pub struct CanaryRecord {
    /// Whose device it is.
    pub agent: AgentId,
    /// What was found.
    pub canary: Canary,
    /// When it came here, by the coordinator's clock.
    pub received_at: Timestamp,
}

/// Adds to the series. A canary that comes again is the same one.
pub(crate) async fn insert(
    db: &mut SqliteConnection,
    at: Timestamp,
    agent: &AgentId,
    canary: &Canary,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO canaries (agent_id, device, measured_at_unix_ns, received_at_unix_ns, device_name,
                               read_bytes_per_s, f32_flops, reading)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(agent.as_str())
    .bind(canary.device.to_string())
    .bind(unix_ns(canary.measured_at))
    .bind(unix_ns(at))
    .bind(&canary.device_name)
    .bind(canary.reading.read_bytes_per_s)
    .bind(canary.reading.flops.get(&Number::F32).copied())
    .bind(to_json("canaries.reading", &canary.reading)?)
    .execute(db)
    .await?;
    Ok(())
}

impl Reader {
    /// Every canary: series by agent and device, each in the order of arrival.
    pub async fn canaries(&self) -> Result<Vec<CanaryRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM canaries ORDER BY agent_id, device, received_at_unix_ns, measured_at_unix_ns");
        rows.fetch_all(&self.pool).await?.iter().map(record).collect()
    }

    /// The newest canary of each device, by agent and device.
    pub async fn newest_canaries(&self) -> Result<Vec<CanaryRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT c.*, max(c.measured_at_unix_ns) FROM canaries c GROUP BY agent_id, device ORDER BY agent_id, device",
        );
        rows.fetch_all(&self.pool).await?.iter().map(record).collect()
    }
}

fn record(row: &SqliteRow) -> Result<CanaryRecord, StoreError> {
    let canary = Canary {
        device: row.parsed("device")?,
        device_name: row.try_get("device_name")?,
        measured_at: row.time("measured_at_unix_ns")?,
        reading: row.json("reading")?,
    };
    Ok(CanaryRecord { agent: row.parsed("agent_id")?, canary, received_at: row.time("received_at_unix_ns")? })
}
