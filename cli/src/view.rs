//! Runs and cells as people and programs see them, whether they come from a database or from a coordinator. The JSON
//! field names here are documented in docs/fleet.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use regatta_core::cell::Outcome;
use regatta_proto::pb;
use regatta_store::{CellRecord, RunSummary};
use serde_json::{Value, json};

/// A run in one line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunView {
    pub id: String,
    pub name: String,
    /// `active`, `done` or `cancelled`.
    pub state: String,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Number of cells by state.
    pub cells: BTreeMap<String, u32>,
    pub samples: u64,
    pub priority: i32,
    /// Timed executions of each cell.
    pub repetitions: u32,
    /// Time that is left, by the coordinator's experience.
    pub remaining_ns: Option<u64>,
    /// Why trials wait that nobody may take.
    pub waits: Vec<String>,
    /// The run whose failed cells this one repeats.
    pub retry_of: Option<String>,
}

impl From<&RunSummary> for RunView {
    fn from(run: &RunSummary) -> Self {
        Self {
            id: run.id.to_string(),
            name: run.name.clone(),
            state: run.state.as_str().to_owned(),
            created_at: run.created_at,
            ended_at: run.ended_at,
            cells: run.cells.clone(),
            samples: run.samples,
            priority: run.priority,
            repetitions: run.repetitions,
            remaining_ns: None,
            waits: Vec::new(),
            retry_of: run.retry_of.as_ref().map(ToString::to_string),
        }
    }
}

impl From<pb::Run> for RunView {
    fn from(run: pb::Run) -> Self {
        Self {
            id: run.id,
            name: run.name,
            state: run.state,
            created_at: time(run.created_at_unix_ns),
            ended_at: run.ended_at_unix_ns.map(time),
            cells: run.cells.into_iter().collect(),
            samples: run.samples,
            priority: run.priority,
            repetitions: run.repetitions,
            remaining_ns: run.remaining_ns,
            waits: run.waits,
            retry_of: Some(run.retry_of).filter(|id| !id.is_empty()),
        }
    }
}

impl RunView {
    /// Whether nothing more will happen to it.
    pub(crate) fn has_ended(&self) -> bool {
        self.state != "active"
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let cells: Vec<String> = self.cells.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let created = self.created_at.strftime("%Y-%m-%d %H:%M");
        let mut line = format!("{}  {created}  {:<9} {}: {}", self.id, self.state, self.name, cells.join(", "));
        if let Some(of) = &self.retry_of {
            let _ = write!(line, "; retry of {of}");
        }
        line
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "run": self.id,
            "name": self.name,
            "state": self.state,
            "created_at": self.created_at.to_string(),
            "ended_at": self.ended_at.map(|at| at.to_string()),
            "cells": self.cells,
            "samples": self.samples,
            "priority": self.priority,
            "repetitions": self.repetitions,
            "remaining_s": self.remaining_ns.map(seconds),
            "waits": self.waits,
            "retry_of": self.retry_of,
        })
    }
}

/// Where a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Ok,
    Running,
    Waiting,
    Oom,
    Failed,
    Timeout,
    Crashed,
    Cancelled,
    Skipped,
    /// A word of a newer coordinator.
    Other,
}

impl State {
    /// In the order of legends.
    pub(crate) const ALL: [Self; 10] = [
        Self::Ok,
        Self::Running,
        Self::Waiting,
        Self::Oom,
        Self::Failed,
        Self::Timeout,
        Self::Crashed,
        Self::Cancelled,
        Self::Skipped,
        Self::Other,
    ];

    pub(crate) fn parse(word: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.word() == word).unwrap_or(Self::Other)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Oom => "oom",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::Other => "other",
        }
    }

    /// Whether it stays so.
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// A cell and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CellView {
    pub hash: Vec<u8>,
    pub agent: String,
    pub device: String,
    pub backend: String,
    pub artifact: pb::ArtifactRef,
    pub workload: String,
    pub replicas: u32,
    pub replica: u32,
    /// The build of the worker that measures it, where several are measured in turns.
    pub build: Option<String>,
    pub state: State,
    /// Kind of failure, where it is known.
    pub kind: Option<String>,
    /// The reason, where there is one.
    pub detail: String,
    pub samples: u32,
    pub superseded: u32,
    pub rejected: u32,
    /// The trial that measures it; `None` for a cell that is not tried.
    pub trial: Option<String>,
}

impl From<&CellRecord> for CellView {
    fn from(record: &CellRecord) -> Self {
        let cell = &record.cell;
        Self {
            hash: record.hash.0.as_bytes().to_vec(),
            agent: cell.agent.to_string(),
            device: cell.device.to_string(),
            backend: cell.backend.to_string(),
            artifact: (&cell.artifact).into(),
            workload: cell.workload.name.to_string(),
            replicas: cell.workload.replicas.max(1),
            replica: cell.replica,
            build: cell.build.as_ref().map(ToString::to_string),
            state: record.outcome.as_ref().map_or(State::Waiting, |outcome| State::parse(outcome.state())),
            kind: record.outcome.as_ref().and_then(Outcome::failure).map(|kind| kind.to_string()),
            detail: record.outcome.as_ref().and_then(Outcome::detail).unwrap_or_default().to_owned(),
            samples: record.samples,
            superseded: record.superseded,
            rejected: record.rejected,
            trial: record.trial.as_ref().map(ToString::to_string),
        }
    }
}

impl From<pb::Cell> for CellView {
    fn from(cell: pb::Cell) -> Self {
        Self {
            hash: cell.cell_hash,
            agent: cell.agent_id,
            device: cell.device,
            backend: cell.backend,
            artifact: cell.artifact.unwrap_or_default(),
            workload: cell.workload,
            replicas: cell.replicas.max(1),
            replica: cell.replica,
            build: Some(cell.build).filter(|build| !build.is_empty()),
            state: State::parse(&cell.state),
            kind: cell.kind,
            detail: cell.detail,
            samples: cell.samples,
            superseded: cell.superseded,
            rejected: cell.rejected,
            trial: Some(cell.trial_id).filter(|id| !id.is_empty()),
        }
    }
}

impl CellView {
    /// Ended as it should: ok, or left out already when the run was planned.
    pub(crate) fn is_as_expected(&self) -> bool {
        match self.state {
            State::Ok => true,
            State::Skipped => self.trial.is_none(),
            _ => false,
        }
    }

    /// The workload, with the number of devices side by side, or the build of the worker.
    pub(crate) fn column(&self) -> String {
        match &self.build {
            Some(build) => format!("{}@{build}", self.workload),
            None if self.replicas > 1 => format!("{} x{}", self.workload, self.replicas),
            None => self.workload.clone(),
        }
    }

    /// Where and with what it is measured, in a few words.
    pub(crate) fn label(&self) -> String {
        format!("{} {} {} {} {}", self.agent, self.device, self.backend, self.artifact.precision, self.column())
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let first_line = self.detail.lines().next().unwrap_or_default();
        let colon = if first_line.is_empty() { "" } else { ": " };
        format!(
            "{}  {} {} on {} {}, {}: {}{colon}{first_line} ({} samples)",
            &hex(&self.hash).get(..12).unwrap_or_default(),
            self.backend,
            self.artifact_name(),
            self.agent,
            self.device,
            self.column(),
            self.state.word(),
            self.samples
        )
    }

    fn artifact_name(&self) -> String {
        let ArtifactName { model, weights, format, precision } = ArtifactName::of(&self.artifact);
        let made_up = if weights == "synthetic" { " synthetic" } else { "" };
        format!("{model} {precision} {format}{made_up}")
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let ArtifactName { model, weights, format, precision } = ArtifactName::of(&self.artifact);
        json!({
            "cell": hex(&self.hash),
            "agent": self.agent,
            "device": self.device,
            "backend": self.backend,
            "artifact": { "model": model, "weights": weights, "format": format, "precision": precision },
            "workload": self.workload,
            "replicas": self.replicas,
            "replica": self.replica,
            "build": self.build,
            "state": self.state.word(),
            "kind": self.kind,
            "detail": Some(&self.detail).filter(|detail| !detail.is_empty()),
            "samples": self.samples,
            "superseded": self.superseded,
            "rejected": self.rejected,
            "trial": self.trial,
        })
    }
}

struct ArtifactName<'a> {
    model: &'a str,
    weights: &'a str,
    format: &'a str,
    precision: &'a str,
}

impl<'a> ArtifactName<'a> {
    fn of(artifact: &'a pb::ArtifactRef) -> Self {
        let pb::ArtifactRef { model, weights, format, precision } = artifact;
        Self { model, weights, format, precision }
    }
}

/// A wall-clock label. What no clock can say becomes the beginning of all clocks.
pub(crate) fn time(unix_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
