//! Agents and their devices, as last reported, and whether they get trials.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::canary::Canary;
use regatta_core::device::Device;
use regatta_core::fleet::Labels;
use regatta_core::id::AgentId;
use sqlx::sqlite::SqliteConnection;

use crate::canaries;
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
    /// Labels that its owner gave it.
    pub labels: Labels,
    /// What its devices were found to do.
    pub canaries: Vec<Canary>,
}

impl Change for AgentSeen {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO agents (id, boot_id, version, host, workers, labels, first_seen_at_unix_ns, last_seen_at_unix_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id, version = excluded.version,
                host = excluded.host, workers = excluded.workers, labels = excluded.labels,
                last_seen_at_unix_ns = excluded.last_seen_at_unix_ns",
        )
        .bind(self.id.as_str())
        .bind(&self.boot_id)
        .bind(&self.version)
        .bind(to_json("agents.host", &self.host)?)
        .bind(to_json("agents.workers", &self.workers)?)
        .bind(to_json("agents.labels", &self.labels)?)
        .bind(unix_ns(at))
        .bind(unix_ns(at))
        .execute(&mut *db)
        .await?;
        sqlx::query("DELETE FROM devices WHERE agent_id = ?").bind(self.id.as_str()).execute(&mut *db).await?;
        for device in &self.devices {
            insert_device(db, &self.id, device).await?;
        }
        for canary in &self.canaries {
            canaries::insert(db, at, &self.id, canary).await?;
        }
        let event = Event { kind: "agent_connected", agent: Some(&self.id), detail: &self.boot_id, ..Event::default() };
        events::record(db, at, event).await
    }

    fn rows(&self) -> usize {
        2 + self.devices.len() + self.canaries.len()
    }
}

/// An agent's wall clock was found to be that far from the coordinator's, or no longer to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSkew {
    /// The agent.
    pub agent: AgentId,
    /// Nanoseconds that its clock is ahead.
    pub ahead_ns: i64,
}

impl Change for ClockSkew {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        let way = if self.ahead_ns < 0 { "behind" } else { "ahead of" };
        let seconds = self.ahead_ns.unsigned_abs() as f64 / 1e9;
        let detail = format!("the agent's clock is {seconds:.3} s {way} the coordinator's");
        let event = Event { kind: "clock_skew", agent: Some(&self.agent), detail: &detail, ..Event::default() };
        events::record(db, at, event).await
    }
}

/// An agent's session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentLeft(
    /// Which agent.
    pub AgentId,
);

impl Change for AgentLeft {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE agents SET last_seen_at_unix_ns = max(last_seen_at_unix_ns, ?) WHERE id = ?")
            .bind(unix_ns(at))
            .bind(self.0.as_str())
            .execute(&mut *db)
            .await?;
        events::record(db, at, Event { kind: "agent_left", agent: Some(&self.0), ..Event::default() }).await
    }
}

async fn insert_device(db: &mut SqliteConnection, agent: &AgentId, device: &Device) -> Result<(), StoreError> {
    let memory = device.memory_bytes.map(|bytes| stored("memory_bytes", bytes)).transpose()?;
    sqlx::query(
        "INSERT INTO devices (agent_id, device, name, memory_bytes, cores, backends, facts) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id, device) DO NOTHING",
    )
    .bind(agent.as_str())
    .bind(device.id.to_string())
    .bind(&device.name)
    .bind(memory)
    .bind(device.cores)
    .bind(to_json("devices.backends", &device.backends)?)
    .bind(to_json("devices.facts", &device.facts)?)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether an agent gets trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Service {
    /// It does.
    #[default]
    Ready,
    /// A person takes it out of service: what it has, it finishes.
    Draining,
    /// It failed again and again.
    Quarantined,
}

impl Service {
    const ALL: [Self; 3] = [Self::Ready, Self::Draining, Self::Quarantined];

    /// The name in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.as_str() == text)
    }

    /// The event that leads to it.
    fn event(self) -> &'static str {
        match self {
            Self::Ready => "agent_resumed",
            Self::Draining => "agent_draining",
            Self::Quarantined => "agent_quarantined",
        }
    }
}

/// Takes an agent out of service, or back into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetService {
    /// Which agent.
    pub agent: AgentId,
    /// Whether it gets trials.
    pub service: Service,
    /// Why; empty for one that does.
    pub reason: String,
}

impl Change for SetService {
    /// Whether there is such an agent.
    type Outcome = bool;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<bool, StoreError> {
        let changed = sqlx::query("UPDATE agents SET service = ?, service_reason = ? WHERE id = ?")
            .bind(self.service.as_str())
            .bind(&self.reason)
            .bind(self.agent.as_str())
            .execute(&mut *db)
            .await?
            .rows_affected();
        if changed == 1 {
            let kind = self.service.event();
            let event = Event { kind, agent: Some(&self.agent), detail: &self.reason, ..Event::default() };
            events::record(db, at, event).await?;
        }
        Ok(changed == 1)
    }
}

/// Removes an agent that is not connected and holds nothing. Trials that it alone could run stay, and wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetAgent(
    /// Which agent.
    pub AgentId,
);

impl Change for ForgetAgent {
    /// Whether there was such an agent.
    type Outcome = bool;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<bool, StoreError> {
        let agent = self.0.as_str();
        sqlx::query("DELETE FROM devices WHERE agent_id = ?").bind(agent).execute(&mut *db).await?;
        let gone = sqlx::query("DELETE FROM agents WHERE id = ?").bind(agent).execute(&mut *db).await?.rows_affected();
        if gone == 1 {
            let event = Event { kind: "agent_forgotten", agent: Some(&self.0), ..Event::default() };
            events::record(db, at, event).await?;
        }
        Ok(gone == 1)
    }
}
