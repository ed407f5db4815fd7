//! Conversions between wire and domain: total ones are functions to the wire, partial ones `TryFrom` the wire.
//!
//! A peer's message is never trusted: missing parts, unknown names and numbers out of range are errors that name the
//! field.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use regatta_core::artifact::ArtifactRef;
use regatta_core::canary::{Canary, Reading};
use regatta_core::cell::{CellHash, Outcome};
use regatta_core::device::Device;
use regatta_core::digest::Digest;
use regatta_core::passes::Stopped;
use regatta_core::policy::{Exclusive, Passes, Policy, Warmup};
use regatta_core::roofline::peaks::Number;
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::scenario::ScenarioBundle;
use regatta_core::trial::{Epoch, Group, Trial, TrialCell};
use regatta_core::workload::{Kind, Prompt, Workload};

use crate::pb;

/// What is wrong with a peer's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A part that must be there is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A value that the field can't have.
    #[error("field {field}: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn invalid(field: &'static str, reason: impl Into<String>) -> WireError {
    WireError::Invalid { field, reason: reason.into() }
}

/// Parses a name that travels as text.
pub fn parse<T: std::str::FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, WireError> {
    text.parse().map_err(|error: T::Err| invalid(field, error.to_string()))
}

/// The digest in a 32-byte field.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::try_from(bytes).map_err(|error| invalid(field, error.to_string()))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn bytes(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// A wall-clock label as nanoseconds since 1970; the range of `i64` covers the years 1677 to 2262.
pub fn unix_ns(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

impl From<&ArtifactRef> for pb::ArtifactRef {
    fn from(artifact: &ArtifactRef) -> Self {
        Self {
            model: artifact.model.to_string(),
            weights: artifact.weights.to_string(),
            format: artifact.format.to_string(),
            precision: artifact.precision.to_string(),
        }
    }
}

impl TryFrom<pb::ArtifactRef> for ArtifactRef {
    type Error = WireError;

    fn try_from(wire: pb::ArtifactRef) -> Result<Self, WireError> {
        Ok(Self {
            model: parse("artifact.model", &wire.model)?,
            weights: parse("artifact.weights", &wire.weights)?,
            format: parse("artifact.format", &wire.format)?,
            precision: parse("artifact.precision", &wire.precision)?,
        })
    }
}

impl From<&Canary> for pb::Canary {
    fn from(canary: &Canary) -> Self {
        let reading = &canary.reading;
        Self {
            device: canary.device.to_string(),
            device_name: canary.device_name.clone(),
            measured_at_unix_ns: unix_ns(canary.measured_at),
            version: reading.version,
            engine: reading.engine.clone(),
            threads: reading.threads,
            buffer_bytes: reading.buffer_bytes,
            cache_bytes: reading.cache_bytes,
            read_bytes_per_s: reading.read_bytes_per_s,
            mixed_bytes_per_s: reading.mixed_bytes_per_s,
            flops: reading.flops.iter().map(|(number, rate)| (number.as_str().to_owned(), *rate)).collect(),
            launch_ns: reading.launch_ns,
        }
    }
}

impl TryFrom<pb::Canary> for Canary {
    type Error = WireError;

    fn try_from(wire: pb::Canary) -> Result<Self, WireError> {
        let measured_at = Timestamp::from_nanosecond(i128::from(wire.measured_at_unix_ns));
        // Formats of a newer agent that there is no word for here are left out.
        let number = |name: &str| Number::ALL.into_iter().find(|number| number.as_str() == name);
        let reading = Reading {
            version: wire.version,
            engine: wire.engine,
            threads: wire.threads,
            buffer_bytes: wire.buffer_bytes,
            cache_bytes: wire.cache_bytes,
            read_bytes_per_s: wire.read_bytes_per_s,
            mixed_bytes_per_s: wire.mixed_bytes_per_s,
            flops: wire.flops.iter().filter_map(|(name, rate)| Some((number(name)?, *rate))).collect(),
            launch_ns: wire.launch_ns,
        };
        reading.check().map_err(|error| invalid("canary", error.to_string()))?;
        Ok(Self {
            device: parse("canary.device", &wire.device)?,
            device_name: wire.device_name,
            measured_at: measured_at.map_err(|error| invalid("canary.measured_at_unix_ns", error.to_string()))?,
            reading,
        })
    }
}

impl From<&Workload> for pb::Workload {
    fn from(workload: &Workload) -> Self {
        let prompt = match &workload.prompt {
            Prompt::Seeded { seed, tokens } => {
                pb::workload::Prompt::Seeded(pb::SeededPrompt { seed: *seed, tokens: *tokens })
            }
            Prompt::Text { text, tokens } => {
                pb::workload::Prompt::Text(pb::TextPrompt { text: text.clone(), tokens: *tokens })
            }
        };
        Self {
            name: workload.name.to_string(),
            prompt: Some(prompt),
            generate: workload.generate,
            batch: workload.batch,
            replicas: workload.replicas,
            kind: workload.kind.as_str().to_owned(),
            depth: workload.kind.depth(),
        }
    }
}

impl TryFrom<pb::Workload> for Workload {
    type Error = WireError;

    fn try_from(wire: pb::Workload) -> Result<Self, WireError> {
        let prompt = match wire.prompt.ok_or(WireError::Missing("workload.prompt"))? {
            pb::workload::Prompt::Seeded(p) => Prompt::Seeded { seed: p.seed, tokens: p.tokens },
            pb::workload::Prompt::Text(p) => Prompt::Text { text: p.text, tokens: p.tokens },
        };
        let kind = match wire.kind.as_str() {
            "" => Kind::Generate,
            name => Kind::named(name, wire.depth)
                .ok_or_else(|| invalid("workload.kind", "not a kind that is known here"))?,
        };
        let (generate, batch, replicas) = (wire.generate, wire.batch, wire.replicas.max(1));
        Ok(Self { name: parse("workload.name", &wire.name)?, kind, prompt, generate, batch, replicas })
    }
}

impl From<&Policy> for pb::Policy {
    fn from(policy: &Policy) -> Self {
        let warmup = &policy.warmup;
        Self {
            repetitions: policy.repetitions,
            warmup: Some(pb::Warmup {
                min_repetitions: warmup.min_repetitions,
                max_repetitions: warmup.max_repetitions,
                min_time_ns: nanoseconds(warmup.min_time),
                max_time_ns: nanoseconds(warmup.max_time),
                stable_within: warmup.stable_within,
            }),
            timeout_ns: nanoseconds(policy.timeout),
            threads: policy.threads,
            weights_seed: policy.weights_seed,
            exclusive: policy.exclusive.as_str().to_owned(),
            force: policy.force,
            passes: Some(policy.passes.into()),
        }
    }
}

impl TryFrom<pb::Policy> for Policy {
    type Error = WireError;

    fn try_from(wire: pb::Policy) -> Result<Self, WireError> {
        let warmup = wire.warmup.ok_or(WireError::Missing("policy.warmup"))?;
        if !warmup.stable_within.is_finite() {
            return Err(invalid("policy.warmup.stable_within", "not a finite number"));
        }
        Ok(Self {
            repetitions: wire.repetitions,
            warmup: Warmup {
                min_repetitions: warmup.min_repetitions,
                max_repetitions: warmup.max_repetitions,
                min_time: Duration::from_nanos(warmup.min_time_ns),
                max_time: Duration::from_nanos(warmup.max_time_ns),
                stable_within: warmup.stable_within,
            },
            timeout: Duration::from_nanos(wire.timeout_ns),
            threads: wire.threads,
            weights_seed: wire.weights_seed,
            exclusive: exclusive(&wire.exclusive)?,
            force: wire.force,
            passes: wire.passes.map_or(Ok(Passes::default()), passes)?,
        })
    }
}

impl From<Passes> for pb::Passes {
    fn from(Passes { min, max, within, budget }: Passes) -> Self {
        Self { min, max, within, budget_ns: nanoseconds(budget) }
    }
}

fn passes(wire: pb::Passes) -> Result<Passes, WireError> {
    let pb::Passes { min, max, within, budget_ns } = wire;
    if min == 0 || min > max || !within.is_finite() {
        return Err(invalid("policy.passes", "min from 1 up to max, within a finite number"));
    }
    Ok(Passes { min, max, within, budget: Duration::from_nanos(budget_ns) })
}

/// What a trial has to itself; a message that says nothing means the host.
fn exclusive(text: &str) -> Result<Exclusive, WireError> {
    if text.is_empty() { Ok(Exclusive::default()) } else { parse("policy.exclusive", text) }
}

impl From<&Group> for pb::Group {
    fn from(group: &Group) -> Self {
        Self { id: group.id.to_string(), replica: group.replica, replicas: group.replicas }
    }
}

impl TryFrom<pb::Group> for Group {
    type Error = WireError;

    fn try_from(wire: pb::Group) -> Result<Self, WireError> {
        let pb::Group { id, replica, replicas } = wire;
        if replica >= replicas {
            return Err(invalid("group.replica", format!("{replica} of {replicas}")));
        }
        Ok(Self { id: parse("group.id", &id)?, replica, replicas })
    }
}

impl From<&Trial> for pb::Trial {
    fn from(trial: &Trial) -> Self {
        let cell = |cell: &TrialCell| pb::TrialCell {
            cell_hash: bytes(cell.hash.0),
            workload: Some(cell.workload.as_ref().into()),
        };
        Self {
            id: trial.id.to_string(),
            run_id: trial.run.to_string(),
            agent_id: trial.agent.to_string(),
            device: trial.device.to_string(),
            backend: trial.backend.to_string(),
            artifact: Some((&trial.artifact).into()),
            cells: trial.cells.iter().map(cell).collect(),
            policy: Some((&trial.policy).into()),
            group: trial.group.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<pb::TrialCell> for TrialCell {
    type Error = WireError;

    fn try_from(wire: pb::TrialCell) -> Result<Self, WireError> {
        let workload = wire.workload.ok_or(WireError::Missing("cell.workload"))?;
        Ok(Self {
            hash: CellHash(digest("cell.cell_hash", &wire.cell_hash)?),
            workload: Arc::new(workload.try_into()?),
        })
    }
}

impl TryFrom<pb::Trial> for Trial {
    type Error = WireError;

    fn try_from(wire: pb::Trial) -> Result<Self, WireError> {
        Ok(Self {
            id: parse("trial.id", &wire.id)?,
            run: parse("trial.run_id", &wire.run_id)?,
            agent: parse("trial.agent_id", &wire.agent_id)?,
            device: parse("trial.device", &wire.device)?,
            backend: parse("trial.backend", &wire.backend)?,
            artifact: wire.artifact.ok_or(WireError::Missing("trial.artifact"))?.try_into()?,
            cells: wire.cells.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            policy: wire.policy.ok_or(WireError::Missing("trial.policy"))?.try_into()?,
            group: wire.group.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&Sample> for pb::Sample {
    fn from(sample: &Sample) -> Self {
        let times = &sample.times;
        Self {
            cell_hash: bytes(sample.key.cell.0),
            epoch: sample.key.epoch.0,
            repetition: sample.key.repetition,
            started_at_unix_ns: unix_ns(sample.started_at),
            times: Some(pb::Times {
                tokenized_ns: times.tokenized,
                prefill_start_ns: times.prefill_start,
                prefill_done_ns: times.prefill_done,
                token_ns: times.tokens.clone(),
                end_ns: times.end,
            }),
            prompt_tokens: sample.prompt_tokens,
            prompt_digest: bytes(sample.prompt_digest),
            batch: sample.batch,
            output: sample.output.clone(),
            load_ns: sample.load_ns,
            first_repetition_ns: sample.first_repetition_ns,
            warmup_repetitions: sample.warmup_repetitions,
            peak_rss_bytes: sample.peak_rss_bytes,
            threads: sample.threads,
            flags: sample.flags.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::Sample> for Sample {
    type Error = WireError;

    fn try_from(wire: pb::Sample) -> Result<Self, WireError> {
        let times = wire.times.ok_or(WireError::Missing("sample.times"))?;
        let started_at = Timestamp::from_nanosecond(i128::from(wire.started_at_unix_ns))
            .map_err(|error| invalid("sample.started_at_unix_ns", error.to_string()))?;
        Ok(Self {
            key: SampleKey {
                cell: CellHash(digest("sample.cell_hash", &wire.cell_hash)?),
                epoch: Epoch(wire.epoch),
                repetition: wire.repetition,
            },
            started_at,
            times: Times {
                tokenized: times.tokenized_ns,
                prefill_start: times.prefill_start_ns,
                prefill_done: times.prefill_done_ns,
                tokens: times.token_ns,
                end: times.end_ns,
            },
            prompt_tokens: wire.prompt_tokens,
            prompt_digest: digest("sample.prompt_digest", &wire.prompt_digest)?,
            batch: wire.batch,
            output: wire.output,
            load_ns: wire.load_ns,
            first_repetition_ns: wire.first_repetition_ns,
            warmup_repetitions: wire.warmup_repetitions,
            peak_rss_bytes: wire.peak_rss_bytes,
            threads: wire.threads,
            flags: wire.flags.iter().map(|flag| parse("sample.flags", flag)).collect::<Result<_, _>>()?,
        })
    }
}

/// How a cell ended, for the wire.
pub fn cell_end(hash: CellHash, outcome: &Outcome) -> pb::CellEnd {
    pb::CellEnd {
        cell_hash: bytes(hash.0),
        state: outcome.state().to_owned(),
        kind: outcome.failure().map(|kind| kind.to_string()),
        detail: outcome.detail().unwrap_or_default().to_owned(),
        passes: 0,
        stop: String::new(),
    }
}

/// The same of a cell that enough worker processes have measured.
pub fn measured_cell_end(hash: CellHash, stopped: Stopped) -> pb::CellEnd {
    pb::CellEnd { passes: stopped.passes, stop: stopped.reason.to_string(), ..cell_end(hash, &Outcome::Ok) }
}

/// How many worker processes measured the cell and why no more, where that is said.
pub fn stopped(end: &pb::CellEnd) -> Result<Option<Stopped>, WireError> {
    if end.stop.is_empty() {
        return Ok(None);
    }
    Ok(Some(Stopped { passes: end.passes, reason: parse("cell_end.stop", &end.stop)? }))
}

impl TryFrom<pb::CellEnd> for (CellHash, Outcome) {
    type Error = WireError;

    fn try_from(wire: pb::CellEnd) -> Result<Self, WireError> {
        let hash = CellHash(digest("cell_end.cell_hash", &wire.cell_hash)?);
        let kind = wire.kind.map(|kind| parse("cell_end.kind", &kind)).transpose()?;
        let outcome = Outcome::from_parts(&wire.state, kind, Some(wire.detail))
            .ok_or_else(|| invalid("cell_end.state", "not an outcome, or one of another kind"))?;
        Ok((hash, outcome))
    }
}

impl From<&Device> for pb::Device {
    fn from(device: &Device) -> Self {
        Self {
            agent_id: device.agent.to_string(),
            id: device.id.to_string(),
            name: device.name.clone(),
            memory_bytes: device.memory_bytes,
            cores: device.cores,
            backends: device.backends.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::Device> for Device {
    type Error = WireError;

    fn try_from(wire: pb::Device) -> Result<Self, WireError> {
        Ok(Self {
            agent: parse("device.agent_id", &wire.agent_id)?,
            id: parse("device.id", &wire.id)?,
            name: wire.name,
            memory_bytes: wire.memory_bytes,
            cores: wire.cores,
            backends: wire.backends.iter().map(|b| parse("device.backends", b)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<ScenarioBundle> for pb::ScenarioBundle {
    fn from(bundle: ScenarioBundle) -> Self {
        Self {
            file: bundle.file,
            text: bundle.text,
            prompts: bundle.prompts,
            models: bundle.models,
            weights: bundle.weights.map(|weights| weights.to_string()),
            force: bundle.force,
            passes: bundle.passes.map(Into::into),
        }
    }
}

impl TryFrom<pb::ScenarioBundle> for ScenarioBundle {
    type Error = WireError;

    fn try_from(wire: pb::ScenarioBundle) -> Result<Self, WireError> {
        Ok(Self {
            file: wire.file,
            text: wire.text,
            prompts: wire.prompts,
            models: wire.models,
            weights: wire.weights.map(|weights| parse("scenario.weights", &weights)).transpose()?,
            force: wire.force,
            passes: wire.passes.map(passes).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            key: SampleKey { cell: CellHash(Digest::of(b"cell")), epoch: Epoch(2), repetition: 1 },
            started_at: Timestamp::UNIX_EPOCH,
            times: Times { tokenized: 1, prefill_start: 2, prefill_done: 3, tokens: vec![4, 5], end: 6 },
            prompt_tokens: 8,
            prompt_digest: Digest::of(b"prompt"),
            batch: 1,
            output: vec![10, 11],
            load_ns: 12,
            first_repetition_ns: 13,
            warmup_repetitions: 4,
            peak_rss_bytes: Some(14),
            threads: 2,
            flags: regatta_core::flag::Flag::ALL.into_iter().collect(),
        }
    }

    #[test]
    fn a_sample_survives_the_wire() {
        assert_eq!(Sample::try_from(pb::Sample::from(&sample())), Ok(sample()));
    }

    #[test]
    fn a_sample_with_a_short_hash_names_the_field() {
        let mut wire = pb::Sample::from(&sample());
        wire.cell_hash.pop();
        assert!(Sample::try_from(wire).unwrap_err().to_string().contains("sample.cell_hash"));
    }

    #[test]
    fn every_outcome_survives_the_wire() {
        let hash = sample().key.cell;
        let text = || "why".to_owned();
        for outcome in [
            Outcome::Ok,
            Outcome::Oom(text()),
            Outcome::Skipped(text()),
            Outcome::Failed(regatta_core::failure::FailureKind::Engine, text()),
            Outcome::Timeout(text()),
            Outcome::Crashed(text()),
            Outcome::Cancelled,
        ] {
            assert_eq!(<(CellHash, Outcome)>::try_from(cell_end(hash, &outcome)), Ok((hash, outcome)));
        }
    }
}
