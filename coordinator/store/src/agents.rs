//! Agents and their devices, as last reported.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::device::Device;
use regatta_core::id::AgentId;
use sqlx::sqlite::SqliteConnection;

use crate::error::StoreError;
use crate::events::{self, Event};
use crate::row::{stored, to_json, unix_ns};
use crate::writer::Change;

/// An agent has said hello. Its devices replace those it had.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSeen {
    /// Its name.
    pub id: AgentId,
    /// New at every start of its process.
    pub boot_id: String,
    /// Version of the program.
    pub version: String,
    /// Operating system and processor, as labels.
    pub host: BTreeMap<String, String>,
    /// Answers of its worker programs to `probe`, as JSON.
    pub workers: Vec<String>,
    /// Its devices.
    pub devices: Vec<Device>,
}

impl Change for AgentSeen {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO agents (id, boot_id, version, host, workers, first_seen_at_unix_ns, last_seen_at_unix_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id, version = excluded.version,
                host = excluded.host, workers = excluded.workers, last_seen_at_unix_ns = excluded.last_seen_at_unix_ns",
        )
        .bind(self.id.as_str())
        .bind(&self.boot_id)
        .bind(&self.version)
        .bind(to_json("agents.host", &self.host)?)
        .bind(to_json("agents.workers", &self.workers)?)
        .bind(unix_ns(at))
        .bind(unix_ns(at))
        .execute(&mut *db)
        .await?;
        sqlx::query("DELETE FROM devices WHERE agent_id = ?").bind(self.id.as_str()).execute(&mut *db).await?;
        for device in &self.devices {
            insert_device(db, &self.id, device).await?;
        }
        let event = Event { kind: "agent_connected", agent: Some(&self.id), detail: &self.boot_id, ..Event::default() };
        events::record(db, at, event).await
    }

    fn rows(&self) -> usize {
        2 + self.devices.len()
    }
}

async fn insert_device(db: &mut SqliteConnection, agent: &AgentId, device: &Device) -> Result<(), StoreError> {
    let memory = device.memory_bytes.map(|bytes| stored("memory_bytes", bytes)).transpose()?;
    sqlx::query(
        "INSERT INTO devices (agent_id, device, name, memory_bytes, cores, backends) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id, device) DO NOTHING",
    )
    .bind(agent.as_str())
    .bind(device.id.to_string())
    .bind(&device.name)
    .bind(memory)
    .bind(device.cores)
    .bind(to_json("devices.backends", &device.backends)?)
    .execute(db)
    .await?;
    Ok(())
}
