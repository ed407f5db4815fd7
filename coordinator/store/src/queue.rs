//! What the queue holds, and whose a lease is.

use regatta_core::id::{AgentId, TrialId};
use regatta_core::trial::Epoch;

use crate::error::StoreError;
use crate::read::Reader;
use crate::row::Columns;

/// How many trials wait, and how many are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting for an agent.
    pub queued: u64,
    /// Leased to one.
    pub held: u64,
}

impl Reader {
    /// How many trials wait, and how many are held.
    pub async fn queue_depth(&self) -> Result<QueueDepth, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
                    count(*) FILTER (WHERE state <> 'queued') AS held
             FROM trials WHERE state IN ('queued', 'leased', 'running')",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(QueueDepth { queued: row.unsigned("queued")?, held: row.unsigned("held")? })
    }

    /// The agent that got a lease, also one that is over. `None` for a lease that was never given here.
    pub async fn lease_owner(&self, trial: &TrialId, epoch: Epoch) -> Result<Option<AgentId>, StoreError> {
        let row = sqlx::query("SELECT agent_id FROM deliveries WHERE trial_id = ? AND epoch = ?")
            .bind(trial.as_str())
            .bind(epoch.0)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| row.parsed("agent_id")).transpose()
    }
}
