//! Between the wire and what the coordinator works with: stored rows to messages, errors to statuses, hellos checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use prost::Message;
use regatta_core::artifact::ArtifactRef;
use regatta_core::canary::Canary;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::device::Device;
use regatta_core::digest::Digest;
use regatta_core::id::{TrialId, is_unprintable};
use regatta_core::nightly::{Judgement, Verdict};
use regatta_core::sample::Sample;
use regatta_core::telemetry::Telemetry;
use regatta_core::trial::Epoch;
use regatta_proto::convert::{self, WireError, unix_ns};
use regatta_proto::{PROTOCOL, pb};
use regatta_store::{
    AgentRecord, AgentSeen, Batch, CanaryRecord, CellRecord, Content, EndedCell, Finish, History, Record, RunSummary,
    Service, StoreError, ToJudge, WorkerFacts,
};
use tonic::{Code, Status};

use crate::actor::Gate;

use crate::actor::AgentView;
use crate::scheduler::Outlook;

/// The longest label, in characters.
const MAX_LABEL: usize = 128;

/// Devices, worker programs and host labels of one agent, at most.
const MAX_ITEMS: usize = 64;

/// Cached artifacts of one agent that are looked at, at most.
const MAX_CACHED: usize = 4096;

/// The longest answer to `probe`, in bytes.
const MAX_PROBE: usize = 64 * 1024;

/// The longest reason in a list of cells, in characters: there may be many of them in a message.
const MAX_CELL_DETAIL: usize = 500;

/// The longest message of a status, in bytes as it travels: headers have a limit, and it is a header.
const MAX_STATUS: usize = 6 * 1024;

/// A text from outside, cut, without characters that change how the text around it is shown.
pub(crate) fn label(text: &str) -> String {
    text.chars().take(MAX_LABEL).map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }).collect()
}

/// An agent's hello, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hello {
    /// What is stored of it.
    pub(crate) agent: AgentSeen,
    /// What its spool holds.
    pub(crate) spool: Vec<(TrialId, Epoch)>,
    /// Artifacts whose files are on its disk.
    pub(crate) cached: Vec<ArtifactRef>,
    /// Its wall-clock time, in nanoseconds since 1970; 0 if it does not say.
    pub(crate) sent_at_unix_ns: i64,
}

/// Checks an agent's hello.
pub(crate) fn hello(wire: pb::AgentHello) -> Result<Hello, Status> {
    check_protocol(wire.protocol)?;
    let invalid = |error: WireError| Status::invalid_argument(format!("hello: {error}"));
    let id = convert::parse("agent_id", &wire.agent_id).map_err(invalid)?;
    if !(1..=64).contains(&wire.boot_id.len()) {
        return Err(Status::invalid_argument("hello: boot_id must have 1 to 64 characters"));
    }
    let counts = [
        ("devices", wire.devices.len()),
        ("workers", wire.workers.len()),
        ("canaries", wire.canaries.len()),
        ("host labels", wire.host.len()),
        ("labels", wire.labels.len()),
    ];
    for (what, count) in counts {
        if count > MAX_ITEMS {
            return Err(Status::invalid_argument(format!("hello: {count} {what}, at most {MAX_ITEMS} are taken")));
        }
    }
    if let Some(probe) = wire.workers.iter().find(|probe| probe.len() > MAX_PROBE) {
        let found = probe.len();
        return Err(Status::invalid_argument(format!(
            "hello: a probe of {found} bytes, at most {MAX_PROBE} are taken"
        )));
    }
    let devices = wire.devices.into_iter().map(Device::try_from).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let devices = check_devices(&id, devices)?;
    let spool = wire.spool.iter().map(|head| lease(&head.trial_id, head.epoch)).collect::<Result<_, _>>()?;
    let host: BTreeMap<_, _> = wire.host.iter().map(|(key, value)| (label(key), label(value))).collect();
    let labels = wire.labels.iter().map(|(key, value)| (label(key), label(value))).collect();
    let (version, boot_id, workers) = (label(&wire.version), label(&wire.boot_id), wire.workers);
    // What a newer agent has and this coordinator has no words for is nothing that could be asked for.
    let cached = wire.cached.into_iter().take(MAX_CACHED).filter_map(|artifact| artifact.try_into().ok()).collect();
    let canaries = wire.canaries.into_iter().map(canary).collect::<Result<_, _>>().map_err(invalid)?;
    let agent = AgentSeen { id, boot_id, version, host, workers, devices, labels, canaries };
    Ok(Hello { agent, spool, cached, sent_at_unix_ns: wire.sent_at_unix_ns })
}

fn canary(wire: pb::Canary) -> Result<Canary, WireError> {
    let (device_name, engine) = (label(&wire.device_name), label(&wire.engine));
    pb::Canary { device_name, engine, ..wire }.try_into()
}

fn check_protocol(agents: u32) -> Result<(), Status> {
    let upgrade = match agents.cmp(&PROTOCOL) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "agent",
        std::cmp::Ordering::Greater => "coordinator",
    };
    Err(Status::failed_precondition(format!(
        "agent speaks protocol {agents}, coordinator {PROTOCOL}: upgrade the {upgrade}"
    )))
}

fn check_devices(agent: &regatta_core::id::AgentId, devices: Vec<Device>) -> Result<Vec<Device>, Status> {
    let mut ids = BTreeSet::new();
    for device in &devices {
        if device.agent != *agent {
            let (id, owner) = (device.id, &device.agent);
            return Err(Status::invalid_argument(format!("hello: device {id} is of agent {owner}, not of {agent}")));
        }
        if !ids.insert(device.id) {
            return Err(Status::invalid_argument(format!("hello: device {} is named twice", device.id)));
        }
    }
    let plain = |device: Device| Device { name: label(&device.name), facts: device.facts.map(label), ..device };
    Ok(devices.into_iter().map(plain).collect())
}

/// A trial and a lease as messages name them.
pub(crate) fn lease(trial: &str, epoch: u32) -> Result<(TrialId, Epoch), Status> {
    let trial = convert::parse("trial_id", trial).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((trial, Epoch(epoch)))
}

/// A repetition that replicas begin together.
pub(crate) fn gate(trial: &str, epoch: u32, cell: &[u8], repetition: u32) -> Result<Gate, Status> {
    let (trial, epoch) = lease(trial, epoch)?;
    let cell = Digest::try_from(cell).map_err(|error| Status::invalid_argument(format!("cell_hash: {error}")))?;
    Ok(Gate { trial, epoch, cell: CellHash(cell), repetition })
}

/// A batch of records, each decoded. A record that can't be understood is stored as it is.
pub(crate) fn batch(wire: pb::RecordBatch) -> Result<Batch, Status> {
    let (trial, epoch) = lease(&wire.trial_id, wire.epoch)?;
    if wire.first_seq == 0 {
        return Err(Status::invalid_argument("batch: first_seq is 0; records are numbered from 1"));
    }
    let found = wire.records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
    if found != wire.crc32c {
        let said = wire.crc32c;
        return Err(Status::data_loss(format!("batch: checksum is {found:#010x}, the agent said {said:#010x}")));
    }
    let record = |bytes: Vec<u8>| {
        let content = content(&bytes);
        Record::new(bytes, content)
    };
    let records = wire.records.into_iter().map(record).collect();
    Ok(Batch { trial, epoch, first_seq: wire.first_seq, records })
}

fn content(bytes: &[u8]) -> Content {
    use pb::trial_record::Record as Kind;
    let pb::TrialRecord { record, telemetry } = match pb::TrialRecord::decode(bytes) {
        Ok(record) => record,
        Err(error) => return Content::Unreadable(format!("not a record: {error}")),
    };
    let unreadable = |error: WireError| Content::Unreadable(error.to_string());
    match record {
        Some(Kind::Sample(wire)) => {
            sample(wire, telemetry).map_or_else(unreadable, |sample| Content::Sample(Box::new(sample)))
        }
        Some(Kind::CellEnd(end)) => ended_cell(end).map_or_else(unreadable, Content::CellEnd),
        Some(Kind::Worker(facts)) => worker_facts(facts).map_or_else(unreadable, Content::Worker),
        None => Content::Unreadable("a record of a kind that this coordinator does not know".to_owned()),
    }
}

fn worker_facts(wire: pb::WorkerFacts) -> Result<WorkerFacts, WireError> {
    Ok(WorkerFacts {
        build: convert::build(&wire.build)?,
        worker: wire.worker,
        engine: wire.engine,
        load_ns: wire.load_ns,
        weight_bytes: wire.weight_bytes,
        artifact_digest: wire.artifact_digest,
        fingerprint: wire.fingerprint.into(),
    })
}

fn ended_cell(wire: pb::CellEnd) -> Result<EndedCell, WireError> {
    let stopped = convert::stopped(&wire)?;
    let (hash, outcome) = wire.try_into()?;
    Ok(EndedCell { hash, outcome, stopped })
}

/// A sample with what its agent saw around it.
fn sample(wire: pb::Sample, telemetry: Option<pb::Telemetry>) -> Result<Sample, WireError> {
    let telemetry = telemetry.map(Telemetry::try_from).transpose()?.map(Box::new);
    Ok(Sample { telemetry, ..wire.try_into()? })
}

/// The end of a lease's records.
pub(crate) fn finish(wire: &pb::Finish) -> Result<Finish, Status> {
    let (trial, epoch) = lease(&wire.trial_id, wire.epoch)?;
    let digest = Digest::try_from(wire.digest.as_slice())
        .map_err(|error| Status::invalid_argument(format!("finish: {error}")))?;
    Ok(Finish { trial, epoch, last_seq: wire.last_seq, digest })
}

/// A message of the coordinator.
pub(crate) fn message(message: pb::coordinator_message::Message) -> pb::CoordinatorMessage {
    pb::CoordinatorMessage { message: Some(message) }
}

/// What is said of a night.
pub(crate) fn judged(
    summary: &RunSummary,
    night: &ToJudge,
    judgement: &Judgement,
) -> Result<pb::JudgeRunResponse, serde_json::Error> {
    let verdict = |(history, verdict): (&History, &Verdict)| {
        Ok(pb::NightVerdict {
            cell: history.cell.label(),
            cell_hash: history.hash.0.as_bytes().to_vec(),
            machine: history.series.machine.clone(),
            metric: history.metric.as_str().to_owned(),
            verdict: serde_json::to_string(verdict)?,
        })
    };
    let to_measure: BTreeSet<CellHash> =
        judgement.to_measure().into_iter().map(|at| night.histories[at].hash).collect();
    Ok(pb::JudgeRunResponse {
        run_id: summary.id.to_string(),
        scenario: summary.name.clone(),
        created_at_unix_ns: unix_ns(summary.created_at),
        verdicts: night.histories.iter().zip(&judgement.verdicts).map(verdict).collect::<Result<_, _>>()?,
        machine_events: judgement.events.iter().map(serde_json::to_string).collect::<Result<_, _>>()?,
        cells_to_measure: to_measure.iter().map(|hash| hash.0.as_bytes().to_vec()).collect(),
        slowdowns: u32::try_from(judgement.slowdowns()).unwrap_or(u32::MAX),
    })
}

/// A run for the wire.
pub(crate) fn run(summary: &RunSummary, outlook: Option<&Outlook>) -> pb::Run {
    pb::Run {
        id: summary.id.to_string(),
        name: summary.name.clone(),
        state: summary.state.as_str().to_owned(),
        created_at_unix_ns: unix_ns(summary.created_at),
        cells: summary.cells.clone(),
        samples: summary.samples,
        priority: summary.priority,
        remaining_ns: outlook.and_then(|outlook| outlook.remaining).map(nanoseconds),
        waits: outlook.map(|outlook| outlook.waits.clone()).unwrap_or_default(),
        retry_of: summary.retry_of.as_ref().map(ToString::to_string).unwrap_or_default(),
        ended_at_unix_ns: summary.ended_at.map(unix_ns),
        repetitions: summary.repetitions,
    }
}

/// A duration for the wire.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// An agent for the wire.
pub(crate) fn agent(agent: &AgentRecord, view: &AgentView, canaries: &[CanaryRecord]) -> pb::Agent {
    let state = match agent.service {
        Service::Draining | Service::Quarantined => agent.service.as_str(),
        Service::Ready if !view.connected => "away",
        Service::Ready if view.trials.is_empty() => "ready",
        Service::Ready => "busy",
    };
    pb::Agent {
        id: agent.id.to_string(),
        connected: view.connected,
        devices: agent.devices.iter().map(Into::into).collect(),
        state: state.to_owned(),
        reason: agent.service_reason.clone(),
        labels: agent.labels.clone().into_iter().collect(),
        version: agent.version.clone(),
        last_seen_at_unix_ns: unix_ns(agent.last_seen_at),
        trials: view.trials.iter().map(ToString::to_string).collect(),
        spool_records: view.spool_records,
        clock_ahead_ns: view.clock_ahead_ns,
        cached: view.cached.iter().map(Into::into).collect(),
        canaries: canaries.iter().filter(|c| c.agent == agent.id).map(|c| (&c.canary).into()).collect(),
    }
}

/// A cell for the wire. `running` says whether it is the one that its trial is at.
pub(crate) fn cell(record: &CellRecord, running: bool) -> pb::Cell {
    let Cell { agent, device, backend, artifact, workload, replica, build } = &record.cell;
    let state = match &record.outcome {
        Some(outcome) => outcome.state(),
        None if running => "running",
        None => "waiting",
    };
    let detail = record.outcome.as_ref().and_then(Outcome::detail).unwrap_or_default();
    pb::Cell {
        cell_hash: record.hash.0.as_bytes().to_vec(),
        ordinal: record.ordinal,
        agent_id: agent.to_string(),
        device: device.to_string(),
        backend: backend.to_string(),
        artifact: Some(artifact.into()),
        workload: workload.name.to_string(),
        replicas: workload.replicas,
        replica: *replica,
        state: state.to_owned(),
        detail: detail.chars().take(MAX_CELL_DETAIL).collect(),
        samples: record.samples,
        superseded: record.superseded,
        rejected: record.rejected,
        trial_id: record.trial.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: record.outcome.as_ref().and_then(Outcome::failure).map(|kind| kind.to_string()),
        build: build.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// What a caller gets to know of a failure of the database.
pub(crate) fn status(error: &StoreError) -> Status {
    let code = match error {
        StoreError::RunNotFound { .. } => Code::NotFound,
        StoreError::AmbiguousRun { .. } => Code::InvalidArgument,
        StoreError::Full => Code::ResourceExhausted,
        StoreError::Closed => Code::Unavailable,
        StoreError::TooLarge { .. } => Code::OutOfRange,
        StoreError::ReadTooLong => Code::Aborted,
        _ => Code::Internal,
    };
    Status::new(code, cut(&error.to_string()))
}

/// A status with as many lines of the text as travel safely.
pub(crate) fn cut(text: &str) -> String {
    // Everything beyond printable ASCII travels as three bytes a byte, the end of a line too.
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    let travelling = |line: &str| line.bytes().map(|byte| if plain(byte) { 1 } else { 3 }).sum::<usize>() + 3;
    let mut room = MAX_STATUS;
    let mut lines = Vec::new();
    let all: Vec<&str> = text.lines().collect();
    for line in &all {
        let Some(left) = room.checked_sub(travelling(line)) else { break };
        room = left;
        lines.push(*line);
    }
    let shown = lines.len();
    let mut out = lines.join("\n");
    if shown == 0 {
        out = label(text);
    } else if shown < all.len() {
        let _ = write!(out, "\n… and {} more lines", all.len() - shown);
    }
    out
}
