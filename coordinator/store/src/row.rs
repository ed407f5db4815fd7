//! Rows to structs, by hand: every column is converted and checked in one place.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use regatta_core::artifact::ArtifactRef;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::device::Device;
use regatta_core::digest::Digest;
use regatta_core::fleet::Place;
use regatta_core::id::shown;
use regatta_core::passes::Stopped;
use regatta_core::trial::{Epoch, Group, TrialState};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::agents::Service;
use crate::error::StoreError;
use crate::read::{CellRecord, EventRecord, TrialRecord, WorkerFacts, WorkerRecord};

/// A wall-clock label as it is stored. The range of `i64` nanoseconds covers the years 1677 to 2262.
pub(crate) fn unix_ns(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

/// An unsigned number as it is stored.
pub(crate) fn stored(column: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge { column, value })
}

/// A value that no version of this program writes.
pub(crate) fn unreadable(column: &str, value: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { column: column.to_owned(), value: shown(&value.to_string()) }
}

/// A struct as JSON text.
pub(crate) fn to_json<T: serde::Serialize>(column: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unreadable(column, &error))
}

/// Columns by name, as words of the domain.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String, StoreError>;
    fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError>;
    fn integer(&self, column: &str) -> Result<i64, StoreError>;
    fn optional_integer(&self, column: &str) -> Result<Option<i64>, StoreError>;
    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError>;
    fn optional_bytes(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError>;

    fn unsigned(&self, column: &str) -> Result<u64, StoreError> {
        let value = self.integer(column)?;
        u64::try_from(value).map_err(|_| unreadable(column, &value))
    }

    fn unsigned32(&self, column: &str) -> Result<u32, StoreError> {
        let value = self.integer(column)?;
        u32::try_from(value).map_err(|_| unreadable(column, &value))
    }

    fn signed32(&self, column: &str) -> Result<i32, StoreError> {
        let value = self.integer(column)?;
        i32::try_from(value).map_err(|_| unreadable(column, &value))
    }

    fn epoch(&self, column: &str) -> Result<Epoch, StoreError> {
        self.unsigned32(column).map(Epoch)
    }

    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        let value = self.integer(column)?;
        Timestamp::from_nanosecond(i128::from(value)).map_err(|_| unreadable(column, &value))
    }

    fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        match self.optional_integer(column)? {
            Some(_) => self.time(column).map(Some),
            None => Ok(None),
        }
    }

    fn parsed<T: FromStr>(&self, column: &str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| unreadable(column, &text))
    }

    fn optional_parsed<T: FromStr>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let parse = |text: String| text.parse().map_err(|_| unreadable(column, &text));
        self.optional_text(column)?.map(parse).transpose()
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| unreadable(column, &error))
    }

    fn optional_json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let read = |text: String| serde_json::from_str(&text).map_err(|error| unreadable(column, &error));
        self.optional_text(column)?.map(read).transpose()
    }

    fn digest(&self, column: &str) -> Result<Digest, StoreError> {
        Digest::try_from(self.bytes(column)?.as_slice()).map_err(|error| unreadable(column, &error))
    }

    fn optional_cell(&self, column: &str) -> Result<Option<CellHash>, StoreError> {
        let cell = |bytes: Vec<u8>| {
            Digest::try_from(bytes.as_slice()).map(CellHash).map_err(|error| unreadable(column, &error))
        };
        self.optional_bytes(column)?.map(cell).transpose()
    }
}

impl Columns for SqliteRow {
    fn text(&self, column: &str) -> Result<String, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn integer(&self, column: &str) -> Result<i64, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn optional_integer(&self, column: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn optional_bytes(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.try_get(column)?)
    }
}

/// The artifact named by the columns of a cell or a trial.
pub(crate) fn artifact(row: &SqliteRow) -> Result<ArtifactRef, StoreError> {
    Ok(ArtifactRef {
        model: row.parsed("model")?,
        weights: row.parsed("weights")?,
        format: row.parsed("format")?,
        precision: row.parsed("precision")?,
    })
}

/// How a cell ended; `None` while it waits.
pub(crate) fn outcome(row: &SqliteRow) -> Result<Option<Outcome>, StoreError> {
    let state = row.text("state")?;
    if state == "waiting" {
        return Ok(None);
    }
    let kind = row.optional_parsed("failure")?;
    let outcome = Outcome::from_parts(&state, kind, row.optional_text("detail")?);
    outcome.map(Some).ok_or_else(|| unreadable("cells.state", &state))
}

/// How many worker processes measured a cell and why no more.
fn stopped(row: &SqliteRow) -> Result<Option<Stopped>, StoreError> {
    let Some(reason) = row.optional_parsed("stop_reason")? else { return Ok(None) };
    Ok(Some(Stopped { passes: row.unsigned32("passes")?, reason }))
}

/// The cell of a row of cells.
pub(crate) fn cell(row: &SqliteRow) -> Result<Cell, StoreError> {
    Ok(Cell {
        agent: row.parsed("agent_id")?,
        device: row.parsed("device")?,
        backend: row.parsed("backend")?,
        artifact: artifact(row)?,
        workload: Arc::new(row.json("workload")?),
        replica: row.unsigned32("replica")?,
        build: row.optional_parsed("build")?,
    })
}

/// A row of [`Reader::cells`](crate::read::Reader::cells).
pub(crate) fn cell_record(row: &SqliteRow) -> Result<CellRecord, StoreError> {
    let cell = cell(row)?;
    let epoch = match row.optional_integer("epoch")? {
        Some(0) | None => None,
        Some(_) => Some(row.epoch("epoch")?),
    };
    Ok(CellRecord {
        cell,
        hash: CellHash(row.digest("cell_hash")?),
        ordinal: row.unsigned32("ordinal")?,
        stopped: stopped(row)?,
        trial: row.optional_parsed("trial_id")?,
        outcome: outcome(row)?,
        epoch,
        samples: row.unsigned32("samples")?,
        superseded: row.unsigned32("superseded")?,
        rejected: row.unsigned32("rejected")?,
    })
}

/// The state of a trial.
pub(crate) fn trial_state(row: &SqliteRow) -> Result<TrialState, StoreError> {
    let state = row.text("state")?;
    TrialState::parse(&state).ok_or_else(|| unreadable("trials.state", &state))
}

/// Whether an agent gets trials.
pub(crate) fn service(row: &SqliteRow) -> Result<Service, StoreError> {
    let text = row.text("service")?;
    Service::parse(&text).ok_or_else(|| unreadable("agents.service", &text))
}

/// The group of a trial.
pub(crate) fn group(row: &SqliteRow) -> Result<Option<Group>, StoreError> {
    let Some(id) = row.optional_parsed("group_id")? else { return Ok(None) };
    Ok(Some(Group { id, replica: row.unsigned32("replica")?, replicas: row.unsigned32("replicas")? }))
}

/// Trials with the processes that hold them. Trials of the same pool share it in memory.
pub(crate) fn trial_records(rows: &[SqliteRow]) -> Result<Vec<TrialRecord>, StoreError> {
    let mut pools: HashMap<String, Arc<[Place]>> = HashMap::new();
    rows.iter().map(|row| trial_record(row, &mut pools)).collect()
}

fn pool(text: String, row: &SqliteRow, pools: &mut HashMap<String, Arc<[Place]>>) -> Result<Arc<[Place]>, StoreError> {
    if let Some(known) = pools.get(&text) {
        return Ok(Arc::clone(known));
    }
    let places: Vec<Place> = row.json("pool")?;
    let places: Arc<[Place]> = places.into();
    pools.insert(text, Arc::clone(&places));
    Ok(places)
}

fn trial_record(row: &SqliteRow, pools: &mut HashMap<String, Arc<[Place]>>) -> Result<TrialRecord, StoreError> {
    let pool = row.optional_text("pool")?.map(|text| pool(text, row, pools)).transpose()?;
    Ok(TrialRecord {
        id: row.parsed("id")?,
        run: row.parsed("run_id")?,
        ordinal: row.unsigned32("ordinal")?,
        agent: row.parsed("agent_id")?,
        device: row.parsed("device")?,
        backend: row.parsed("backend")?,
        artifact: artifact(row)?,
        pool,
        group: group(row)?,
        work: row.optional_parsed("work")?,
        exclusive: row.optional_parsed("exclusive")?.unwrap_or_default(),
        priority: row.signed32("priority")?,
        failed_on: row.json("failed_on")?,
        evidence: row.optional_text("evidence")?,
        delivered: row.optional_integer("finished_at_unix_ns")?.is_some(),
        state: trial_state(row)?,
        epoch: row.epoch("epoch")?,
        boot_id: row.optional_text("boot_id")?,
        cancel_requested: row.integer("cancel_requested")? != 0,
    })
}

/// Facts of a worker process.
pub(crate) fn worker_record(row: &SqliteRow) -> Result<WorkerRecord, StoreError> {
    let facts = WorkerFacts {
        worker: row.text("worker")?,
        engine: row.text("engine")?,
        load_ns: row.unsigned("load_ns")?,
        weight_bytes: row.unsigned("weight_bytes")?,
        artifact_digest: row.text("artifact_digest")?,
        fingerprint: row.optional_json("parts")?.unwrap_or_default(),
        build: match row.text("build")?.as_str() {
            "" => None,
            build => Some(build.parse().map_err(|error| unreadable("worker_facts.build", &error))?),
        },
    };
    Ok(WorkerRecord { trial: row.parsed("trial_id")?, epoch: row.epoch("epoch")?, facts })
}

/// A device of an agent.
pub(crate) fn device(row: &SqliteRow) -> Result<Device, StoreError> {
    let memory_bytes = match row.optional_integer("memory_bytes")? {
        Some(_) => Some(row.unsigned("memory_bytes")?),
        None => None,
    };
    let cores = match row.optional_integer("cores")? {
        Some(_) => Some(row.unsigned32("cores")?),
        None => None,
    };
    Ok(Device {
        agent: row.parsed("agent_id")?,
        id: row.parsed("device")?,
        name: row.text("name")?,
        memory_bytes,
        cores,
        backends: row.json("backends")?,
        facts: row.json("facts")?,
    })
}

/// Something that happened.
pub(crate) fn event(row: &SqliteRow) -> Result<EventRecord, StoreError> {
    let epoch = match row.optional_integer("epoch")? {
        Some(_) => Some(row.epoch("epoch")?),
        None => None,
    };
    Ok(EventRecord {
        id: row.integer("id")?,
        at: row.time("at_unix_ns")?,
        kind: row.text("kind")?,
        run: row.optional_parsed("run_id")?,
        trial: row.optional_parsed("trial_id")?,
        epoch,
        agent: row.optional_parsed("agent_id")?,
        cell: row.optional_cell("cell_hash")?,
        detail: row.text("detail")?,
    })
}
