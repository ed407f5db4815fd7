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
use regatta_core::device::{Device, DeviceFacts};
use regatta_core::digest::Digest;
use regatta_core::flag::Flag;
use regatta_core::id::BuildName;
use regatta_core::passes::Stopped;
use regatta_core::policy::{Exclusive, Passes, Policy, Warmup};
use regatta_core::roofline::peaks::Number;
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::scenario::ScenarioBundle;
use regatta_core::telemetry::{Pcie, Spread, Telemetry, Throttled};
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
            build: cell.build.as_ref().map(ToString::to_string).unwrap_or_default(),
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

/// The name of a build of the worker program; empty where there is only one.
pub fn build(name: &str) -> Result<Option<BuildName>, WireError> {
    if name.is_empty() { Ok(None) } else { parse("build", name).map(Some) }
}

impl TryFrom<pb::TrialCell> for TrialCell {
    type Error = WireError;

    fn try_from(wire: pb::TrialCell) -> Result<Self, WireError> {
        let workload = wire.workload.ok_or(WireError::Missing("cell.workload"))?;
        Ok(Self {
            hash: CellHash(digest("cell.cell_hash", &wire.cell_hash)?),
            workload: Arc::new(workload.try_into()?),
            build: build(&wire.build)?,
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
                token_ns: times.tokens.to_vec(),
                end_ns: times.end,
            }),
            prompt_tokens: sample.prompt_tokens,
            prompt_digest: bytes(sample.prompt_digest),
            batch: sample.batch,
            output: sample.output.to_vec(),
            load_ns: sample.load_ns,
            first_repetition_ns: sample.first_repetition_ns,
            warmup_repetitions: sample.warmup_repetitions,
            peak_rss_bytes: sample.peak_rss_bytes,
            threads: sample.threads,
            flags: sample.flags.iter().map(|flag| flag.to_string()).collect(),
            video_memory: None,
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
                tokens: times.token_ns.into(),
                end: times.end_ns,
            },
            prompt_tokens: wire.prompt_tokens,
            prompt_digest: digest("sample.prompt_digest", &wire.prompt_digest)?,
            batch: wire.batch,
            output: wire.output.into(),
            load_ns: wire.load_ns,
            first_repetition_ns: wire.first_repetition_ns,
            warmup_repetitions: wire.warmup_repetitions,
            peak_rss_bytes: wire.peak_rss_bytes,
            threads: wire.threads,
            flags: wire.flags.iter().map(|flag| parse::<Flag>("sample.flags", flag)).collect::<Result<_, _>>()?,
            telemetry: None,
        })
    }
}

impl From<&Telemetry> for pb::Telemetry {
    fn from(telemetry: &Telemetry) -> Self {
        let spread = |spread: Spread| pb::Spread { min: spread.min, median: spread.median, max: spread.max };
        let throttled = &telemetry.throttled_ns;
        Self {
            window_ns: telemetry.window_ns,
            readings: telemetry.readings,
            lost: telemetry.lost.clone(),
            load_by_others: telemetry.load_by_others,
            cpu_mhz: telemetry.cpu_mhz.map(spread),
            cpu_temperature_c: telemetry.cpu_temperature_c,
            governor: telemetry.governor.clone(),
            on_battery: telemetry.on_battery,
            low_power_mode: telemetry.low_power_mode,
            clock_mhz: telemetry.clock_mhz.map(spread),
            clock_cv: telemetry.clock_cv,
            memory_clock_mhz: telemetry.memory_clock_mhz.map(spread),
            power_w: telemetry.power_w,
            energy_mj: telemetry.energy_mj,
            temperature_c: telemetry.temperature_c,
            temperature_limit_c: telemetry.temperature_limit_c,
            throttled: Some(pb::Throttled {
                hw_thermal_ns: throttled.hw_thermal,
                hw_power_brake_ns: throttled.hw_power_brake,
                hw_slowdown_ns: throttled.hw_slowdown,
                sw_thermal_ns: throttled.sw_thermal,
                sw_power_cap_ns: throttled.sw_power_cap,
                sync_boost_ns: throttled.sync_boost,
            }),
            idle_share: telemetry.idle_share,
            memory_used_bytes: telemetry.memory_used_bytes,
            memory_baseline_bytes: telemetry.memory_baseline_bytes,
            own_memory_bytes: telemetry.own_memory_bytes,
            foreign_processes: telemetry.foreign_processes,
            pcie: telemetry.pcie.map(|pcie| pb::Pcie {
                generation: pcie.generation,
                max_generation: pcie.max_generation,
                width: pcie.width,
                max_width: pcie.max_width,
            }),
            cool_down_ns: telemetry.cool_down_ns,
            memory_budget_bytes: telemetry.memory_budget_bytes,
            spilled_bytes: telemetry.spilled_bytes,
        }
    }
}

impl TryFrom<pb::Telemetry> for Telemetry {
    type Error = WireError;

    fn try_from(wire: pb::Telemetry) -> Result<Self, WireError> {
        if wire.lost.len() > MAX_LOST {
            return Err(invalid(
                "telemetry.lost",
                format!("{} sources, at most {MAX_LOST} are taken", wire.lost.len()),
            ));
        }
        wire.lost.iter().chain(&wire.governor).try_for_each(|text| short("telemetry", text))?;
        let throttled = wire.throttled.unwrap_or_default();
        Ok(Self {
            window_ns: wire.window_ns,
            readings: wire.readings,
            lost: wire.lost,
            load_by_others: finite("telemetry.load_by_others", wire.load_by_others)?,
            cpu_mhz: spread("telemetry.cpu_mhz", wire.cpu_mhz)?,
            cpu_temperature_c: finite("telemetry.cpu_temperature_c", wire.cpu_temperature_c)?,
            governor: wire.governor,
            on_battery: wire.on_battery,
            low_power_mode: wire.low_power_mode,
            clock_mhz: spread("telemetry.clock_mhz", wire.clock_mhz)?,
            clock_cv: finite("telemetry.clock_cv", wire.clock_cv)?,
            memory_clock_mhz: spread("telemetry.memory_clock_mhz", wire.memory_clock_mhz)?,
            power_w: finite("telemetry.power_w", wire.power_w)?,
            energy_mj: wire.energy_mj,
            temperature_c: finite("telemetry.temperature_c", wire.temperature_c)?,
            temperature_limit_c: finite("telemetry.temperature_limit_c", wire.temperature_limit_c)?,
            throttled_ns: Throttled {
                hw_thermal: throttled.hw_thermal_ns,
                hw_power_brake: throttled.hw_power_brake_ns,
                hw_slowdown: throttled.hw_slowdown_ns,
                sw_thermal: throttled.sw_thermal_ns,
                sw_power_cap: throttled.sw_power_cap_ns,
                sync_boost: throttled.sync_boost_ns,
            },
            idle_share: finite("telemetry.idle_share", wire.idle_share)?,
            memory_used_bytes: wire.memory_used_bytes,
            memory_baseline_bytes: wire.memory_baseline_bytes,
            own_memory_bytes: wire.own_memory_bytes,
            foreign_processes: wire.foreign_processes,
            pcie: wire.pcie.map(|pcie| Pcie {
                generation: pcie.generation,
                max_generation: pcie.max_generation,
                width: pcie.width,
                max_width: pcie.max_width,
            }),
            cool_down_ns: wire.cool_down_ns,
            memory_budget_bytes: wire.memory_budget_bytes,
            spilled_bytes: wire.spilled_bytes,
        })
    }
}

/// Sources of telemetry that one machine can have lost.
const MAX_LOST: usize = 16;

/// The longest name in telemetry, in bytes.
const MAX_NAME: usize = 64;

fn short(field: &'static str, text: &str) -> Result<(), WireError> {
    let clean = !text.chars().any(regatta_core::id::is_unprintable);
    let is_name = text.len() <= MAX_NAME && clean;
    if is_name {
        Ok(())
    } else {
        Err(invalid(field, format!("a name of more than {MAX_NAME} bytes, or not printable")))
    }
}

/// Numbers that JSON has a way to write.
fn finite(field: &'static str, value: Option<f64>) -> Result<Option<f64>, WireError> {
    if value.is_none_or(f64::is_finite) { Ok(value) } else { Err(invalid(field, "not a finite number")) }
}

fn spread(field: &'static str, wire: Option<pb::Spread>) -> Result<Option<Spread>, WireError> {
    let Some(pb::Spread { min, median, max }) = wire else { return Ok(None) };
    [min, median, max].into_iter().try_for_each(|value| finite(field, Some(value)).map(drop))?;
    Ok(Some(Spread { min, median, max }))
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
        let facts = device.facts.clone();
        Self {
            agent_id: device.agent.to_string(),
            id: device.id.to_string(),
            name: device.name.clone(),
            memory_bytes: device.memory_bytes,
            cores: device.cores,
            backends: device.backends.iter().map(ToString::to_string).collect(),
            stable_id: facts.stable_id.unwrap_or_default(),
            system_id: facts.system_id.unwrap_or_default(),
            driver: facts.driver.unwrap_or_default(),
            architecture: facts.architecture.unwrap_or_default(),
            pci_address: facts.pci_address.unwrap_or_default(),
            pci_link: facts.pci_link.unwrap_or_default(),
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
            facts: DeviceFacts {
                stable_id: told(wire.stable_id),
                system_id: told(wire.system_id),
                driver: told(wire.driver),
                architecture: told(wire.architecture),
                pci_address: told(wire.pci_address),
                pci_link: told(wire.pci_link),
            },
        })
    }
}

/// A text that may be missing.
fn told(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
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
            builds: bundle.builds.iter().map(ToString::to_string).collect(),
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
            builds: wire.builds.iter().map(|name| parse("scenario.builds", name)).collect::<Result<_, _>>()?,
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
            times: Times { tokenized: 1, prefill_start: 2, prefill_done: 3, tokens: [4, 5].into(), end: 6 },
            prompt_tokens: 8,
            prompt_digest: Digest::of(b"prompt"),
            batch: 1,
            output: [10, 11].into(),
            load_ns: 12,
            first_repetition_ns: 13,
            warmup_repetitions: 4,
            peak_rss_bytes: Some(14),
            threads: 2,
            flags: regatta_core::flag::Flag::ALL.into_iter().collect(),
            telemetry: None,
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
    fn a_device_survives_the_wire_and_what_is_absent_stays_absent() {
        let told = |text: &str| Some(text.to_owned());
        let facts = DeviceFacts {
            stable_id: told("GPU-1"),
            system_id: told("2"),
            driver: told("580.1"),
            architecture: told("sm_90"),
            pci_address: told("0000:01:00.0"),
            pci_link: told("gen 5 x16"),
        };
        for facts in [facts, DeviceFacts::default()] {
            let device = Device {
                agent: "a".parse().unwrap(),
                id: "cuda:1".parse().unwrap(),
                name: "NVIDIA H200".to_owned(),
                memory_bytes: Some(1),
                cores: None,
                backends: vec![regatta_core::backend::BackendKind::Candle],
                facts,
            };
            assert_eq!(Device::try_from(pb::Device::from(&device)), Ok(device));
        }
    }

    fn telemetry() -> Telemetry {
        let spread = |min: f64| Some(Spread { min, median: min + 1.0, max: min + 2.0 });
        Telemetry {
            window_ns: 1,
            readings: 2,
            lost: vec!["nvml".to_owned()],
            load_by_others: Some(3.5),
            cpu_mhz: spread(4.0),
            cpu_temperature_c: Some(5.0),
            governor: Some("performance".to_owned()),
            on_battery: Some(false),
            low_power_mode: Some(true),
            clock_mhz: spread(6.0),
            clock_cv: Some(0.7),
            memory_clock_mhz: spread(8.0),
            power_w: Some(9.0),
            energy_mj: Some(10),
            temperature_c: Some(11.0),
            temperature_limit_c: Some(12.0),
            throttled_ns: Throttled {
                hw_thermal: Some(13),
                hw_power_brake: Some(14),
                hw_slowdown: Some(15),
                sw_thermal: Some(16),
                sw_power_cap: Some(17),
                sync_boost: Some(0),
            },
            idle_share: Some(0.0),
            memory_used_bytes: Some(18),
            memory_baseline_bytes: Some(19),
            own_memory_bytes: Some(20),
            foreign_processes: Some(0),
            pcie: Some(Pcie { generation: 21, max_generation: 22, width: 23, max_width: 24 }),
            cool_down_ns: Some(25),
            memory_budget_bytes: Some(26),
            spilled_bytes: Some(27),
        }
    }

    #[test]
    fn telemetry_survives_the_wire_and_what_is_absent_stays_absent() {
        for telemetry in [telemetry(), Telemetry::default()] {
            assert_eq!(Telemetry::try_from(pb::Telemetry::from(&telemetry)), Ok(telemetry));
        }
    }

    #[test]
    fn telemetry_that_can_not_be_stored_names_the_field() {
        let refused = |change: fn(&mut Telemetry)| {
            let mut telemetry = telemetry();
            change(&mut telemetry);
            Telemetry::try_from(pb::Telemetry::from(&telemetry)).unwrap_err().to_string()
        };
        assert!(refused(|t| t.power_w = Some(f64::NAN)).contains("telemetry.power_w: not a finite number"));
        assert!(refused(|t| t.clock_mhz.as_mut().unwrap().max = f64::INFINITY).contains("telemetry.clock_mhz"));
        assert!(refused(|t| t.governor = Some("x".repeat(65))).contains("more than 64 bytes"));
        assert!(refused(|t| t.lost = vec![String::new(); 17]).contains("17 sources, at most 16"));
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
