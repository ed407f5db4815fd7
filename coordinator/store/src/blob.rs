//! Samples as rows: token times and output ids are one blob each.
//!
//! Token times are absolute (nanoseconds since the repetition's start), each eight little-endian bytes, so that any
//! time fits and a blob is read without its neighbours. Output ids are four little-endian bytes each.

use jiff::Timestamp;
use regatta_core::cell::CellHash;
use regatta_core::digest::Digest;
use regatta_core::flag::{Flag, Flags};
use regatta_core::sample::{Sample, SampleKey, Times};
use regatta_core::telemetry::Telemetry;
use sqlx::sqlite::SqliteRow;

use crate::error::StoreError;
use crate::row::{Columns, stored, to_json, unix_ns, unreadable};

/// A sample in the types of its columns. Two samples are the same if their rows are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SampleRow {
    pub(crate) cell: [u8; 32],
    pub(crate) epoch: u32,
    pub(crate) repetition: u32,
    pub(crate) started_at_unix_ns: i64,
    pub(crate) tokenized_ns: i64,
    pub(crate) prefill_start_ns: i64,
    pub(crate) prefill_done_ns: i64,
    pub(crate) token_times: Vec<u8>,
    pub(crate) end_ns: i64,
    pub(crate) prompt_tokens: u32,
    pub(crate) prompt_digest: [u8; 32],
    pub(crate) batch: u32,
    pub(crate) output: Vec<u8>,
    pub(crate) load_ns: i64,
    pub(crate) first_repetition_ns: i64,
    pub(crate) warmup_repetitions: u32,
    pub(crate) peak_rss_bytes: Option<i64>,
    pub(crate) threads: u32,
    pub(crate) flags: String,
    /// JSON.
    pub(crate) telemetry: Option<String>,
}

impl SampleRow {
    /// The sample as it will be stored; an error if a number does not fit its column.
    pub(crate) fn of(sample: &Sample) -> Result<Self, StoreError> {
        let times = &sample.times;
        Ok(Self {
            cell: *sample.key.cell.0.as_bytes(),
            epoch: sample.key.epoch.0,
            repetition: sample.key.repetition,
            started_at_unix_ns: unix_ns(sample.started_at),
            tokenized_ns: stored("tokenized_ns", times.tokenized)?,
            prefill_start_ns: stored("prefill_start_ns", times.prefill_start)?,
            prefill_done_ns: stored("prefill_done_ns", times.prefill_done)?,
            token_times: times.tokens.iter().map(|time| time.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
            end_ns: stored("end_ns", times.end)?,
            prompt_tokens: sample.prompt_tokens,
            prompt_digest: *sample.prompt_digest.as_bytes(),
            batch: sample.batch,
            output: sample.output.iter().map(|id| id.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
            load_ns: stored("load_ns", sample.load_ns)?,
            first_repetition_ns: stored("first_repetition_ns", sample.first_repetition_ns)?,
            warmup_repetitions: sample.warmup_repetitions,
            peak_rss_bytes: sample.peak_rss_bytes.map(|bytes| stored("peak_rss_bytes", bytes)).transpose()?,
            threads: sample.threads,
            flags: join_flags(sample.flags),
            telemetry: sample.telemetry.as_ref().map(|seen| to_json("telemetry", seen)).transpose()?,
        })
    }

    /// The row of the table `samples`.
    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            cell: *row.digest("cell_hash")?.as_bytes(),
            epoch: row.unsigned32("epoch")?,
            repetition: row.unsigned32("repetition")?,
            started_at_unix_ns: row.integer("started_at_unix_ns")?,
            tokenized_ns: row.integer("tokenized_ns")?,
            prefill_start_ns: row.integer("prefill_start_ns")?,
            prefill_done_ns: row.integer("prefill_done_ns")?,
            token_times: row.bytes("token_times")?,
            end_ns: row.integer("end_ns")?,
            prompt_tokens: row.unsigned32("prompt_tokens")?,
            prompt_digest: *row.digest("prompt_digest")?.as_bytes(),
            batch: row.unsigned32("batch")?,
            output: row.bytes("output")?,
            load_ns: row.integer("load_ns")?,
            first_repetition_ns: row.integer("first_repetition_ns")?,
            warmup_repetitions: row.unsigned32("warmup_repetitions")?,
            peak_rss_bytes: row.optional_integer("peak_rss_bytes")?,
            threads: row.unsigned32("threads")?,
            flags: row.text("flags")?,
            telemetry: row.optional_text("telemetry")?,
        })
    }

    fn sample(self) -> Result<Sample, StoreError> {
        let started_at = Timestamp::from_nanosecond(i128::from(self.started_at_unix_ns))
            .map_err(|_| unreadable("samples.started_at_unix_ns", &self.started_at_unix_ns))?;
        Ok(Sample {
            key: SampleKey {
                cell: CellHash(digest(&self.cell)?),
                epoch: regatta_core::trial::Epoch(self.epoch),
                repetition: self.repetition,
            },
            started_at,
            times: Times {
                tokenized: unsigned("samples.tokenized_ns", self.tokenized_ns)?,
                prefill_start: unsigned("samples.prefill_start_ns", self.prefill_start_ns)?,
                prefill_done: unsigned("samples.prefill_done_ns", self.prefill_done_ns)?,
                tokens: self.token_times.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
                end: unsigned("samples.end_ns", self.end_ns)?,
            },
            prompt_tokens: self.prompt_tokens,
            prompt_digest: digest(&self.prompt_digest)?,
            batch: self.batch,
            output: self.output.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            load_ns: unsigned("samples.load_ns", self.load_ns)?,
            first_repetition_ns: unsigned("samples.first_repetition_ns", self.first_repetition_ns)?,
            warmup_repetitions: self.warmup_repetitions,
            peak_rss_bytes: self.peak_rss_bytes.map(|n| unsigned("samples.peak_rss_bytes", n)).transpose()?,
            threads: self.threads,
            flags: split_flags(&self.flags)?,
            telemetry: self.telemetry.as_deref().map(telemetry).transpose()?,
        })
    }
}

impl SampleRow {
    /// What was seen of machine and device around it.
    pub(crate) fn seen(&self) -> Option<Telemetry> {
        self.telemetry.as_deref().and_then(|text| telemetry(text).ok()).map(|seen| *seen)
    }
}

/// The sample in a row of the table `samples`.
pub(crate) fn sample(row: &SqliteRow) -> Result<Sample, StoreError> {
    SampleRow::read(row)?.sample()
}

fn digest(bytes: &[u8]) -> Result<Digest, StoreError> {
    Digest::try_from(bytes).map_err(|error| unreadable("samples", &error))
}

fn unsigned(column: &str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| unreadable(column, &value))
}

fn telemetry(text: &str) -> Result<Box<Telemetry>, StoreError> {
    serde_json::from_str(text).map_err(|error| unreadable("samples.telemetry", &error))
}

fn join_flags(flags: Flags) -> String {
    flags.iter().map(Flag::as_str).collect::<Vec<_>>().join(",")
}

fn split_flags(text: &str) -> Result<Flags, StoreError> {
    let flag = |name: &str| name.parse::<Flag>().map_err(|_| unreadable("samples.flags", &name));
    text.split(',').filter(|name| !name.is_empty()).map(flag).collect()
}
