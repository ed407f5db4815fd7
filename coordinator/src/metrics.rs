//! Numbers about the coordinator, for Prometheus.
//!
//! What happens is counted where it happens; what is, is asked of the database when somebody looks.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use regatta_core::id::AgentId;
use regatta_store::QueueDepth;

/// Bounds of the commit times, in seconds: from a good disk's to the longest that is still no alarm, and far beyond.
const COMMIT_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Names an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAgent {
    agent: String,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    code: String,
}

/// The numbers that are counted as things happen. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    samples: Counter,
    batches: Counter,
    commits: Histogram,
    streams: Gauge,
    spools: Family<OfAgent, Gauge>,
    refused: Family<Because, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            samples: Counter::default(),
            batches: Counter::default(),
            commits: Histogram::new(COMMIT_SECONDS),
            streams: Gauge::default(),
            spools: Family::default(),
            refused: Family::default(),
        }
    }
}

impl Metrics {
    /// A batch was stored.
    pub(crate) fn ingested(&self, samples: u64, took: Duration) {
        self.samples.inc_by(samples);
        self.batches.inc();
        self.commits.observe(took.as_secs_f64());
    }

    /// An agent's spool holds so many records that are not acknowledged.
    pub(crate) fn spool(&self, agent: &AgentId, records: u64) {
        let label = OfAgent { agent: agent.to_string() };
        self.spools.get_or_create(&label).set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// A call was refused.
    pub(crate) fn refused(&self, code: tonic::Code) {
        self.refused.get_or_create(&Because { code: format!("{code:?}") }).inc();
    }

    /// A session is open as long as what is returned is held.
    pub(crate) fn session(&self, agent: AgentId) -> OpenSession {
        self.streams.inc();
        OpenSession { metrics: self.clone(), agent }
    }

    /// Everything as text.
    pub(crate) fn text(&self, queue: QueueDepth, wal: u64, wal_limit: u64) -> Result<String, std::fmt::Error> {
        let gauge = |value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge
        };
        let mut registry = Registry::with_prefix("regatta");
        registry.register("trials_queued", "Trials that wait for an agent", gauge(queue.queued));
        registry.register("leases", "Trials that agents hold", gauge(queue.held));
        registry.register("agent_streams", "Open sessions of agents", self.streams.clone());
        registry.register(
            "agent_spool_records",
            "Records in a connected agent's spool that are not acknowledged",
            self.spools.clone(),
        );
        registry.register("samples", "Samples stored", self.samples.clone());
        registry.register("batches", "Batches of records stored", self.batches.clone());
        registry.register("wal_bytes", "Bytes of the database's write-ahead log", gauge(wal));
        registry.register(
            "wal_over_limit",
            "Whether the write-ahead log can't be emptied, because another program reads the database for long",
            gauge(u64::from(wal > wal_limit)),
        );
        registry.register("calls_refused", "Calls refused, by status", self.refused.clone());
        registry.register_with_unit(
            "commit",
            "From a batch's arrival to its commit on disk",
            Unit::Seconds,
            self.commits.clone(),
        );
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// An open session: counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenSession {
    metrics: Metrics,
    agent: AgentId,
}

impl OpenSession {
    /// The agent's name.
    pub(crate) fn agent(&self) -> &AgentId {
        &self.agent
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.metrics.streams.dec();
        self.metrics.spools.remove(&OfAgent { agent: self.agent.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_in_the_text_format() {
        let metrics = Metrics::default();
        let session = metrics.session("gpu-07".parse().unwrap());
        metrics.spool(session.agent(), 12);
        metrics.ingested(34, Duration::from_millis(7));
        metrics.refused(tonic::Code::Unauthenticated);
        let text = metrics.text(QueueDepth { queued: 5, held: 6 }, 7000, 6999).unwrap();
        for line in [
            "regatta_trials_queued 5",
            "regatta_leases 6",
            "regatta_agent_streams 1",
            "regatta_agent_spool_records{agent=\"gpu-07\"} 12",
            "regatta_samples_total 34",
            "regatta_commit_seconds_bucket{le=\"0.005\"} 0",
            "regatta_commit_seconds_bucket{le=\"0.01\"} 1",
            "regatta_wal_bytes 7000",
            "regatta_wal_over_limit 1",
            "regatta_calls_refused_total{code=\"Unauthenticated\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        drop(session);
        let text = metrics.text(QueueDepth { queued: 0, held: 0 }, 0, 1).unwrap();
        assert!(text.contains("regatta_agent_streams 0") && !text.contains("gpu-07"), "{text}");
    }
}
