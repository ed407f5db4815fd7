//! Roofline: how much of a device's peak a cell used, and whether it is faster than the device can be.
//!
//! A cell is held against what its device was found to do here (a canary), else against the vendor's figure, else against
//! nothing. Which of them it was is always said. The formulas are [`regatta_core::roofline`]'s.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use regatta_core::canary::{Canary, Reading};
use regatta_core::cell::Cell;
use regatta_core::device::{Device, DeviceKind};
use regatta_core::metrics;
use regatta_core::model::Shape;
use regatta_core::preflight::{self, number_bytes};
use regatta_core::roofline::peaks::{self, Number, Peaks};
use regatta_core::roofline::{self, Work};
use regatta_core::sample::Sample;

use crate::text;

/// How much faster than a measured peak a result may be before it is called impossible. Canaries taken within a minute on
/// a machine that was busy with other work were seen to differ by a factor of two, so an honest result may be that much
/// faster than a canary from a bad moment; a forgotten synchronisation is off by orders of magnitude.
const MEASURED_MARGIN: f64 = 3.0;

/// The same for vendors' figures: cards are sold with memory that runs some percent faster than the reference.
const TABLE_MARGIN: f64 = 1.1;

/// Room for a cache that nothing is known of, on an accelerator: the largest today has 256 MiB.
const UNKNOWN_CACHE: u64 = 512 << 20;

/// Where a peak comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The device was measured.
    Measured,
    /// The vendor says so.
    Vendor,
}

impl Source {
    /// The name in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Vendor => "vendor",
        }
    }

    fn margin(self) -> f64 {
        match self {
            Self::Measured => MEASURED_MARGIN,
            Self::Vendor => TABLE_MARGIN,
        }
    }
}

/// What a device can do at most, for weights of one precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Where it comes from.
    pub source: Source,
    /// Bytes per second.
    pub bandwidth: Option<f64>,
    /// Floating-point operations per second, and on which numbers.
    pub flops: Option<(Number, f64)>,
    /// Bytes that may stay in caches from step to step; `None` where that is not known.
    pub cache_bytes: Option<u64>,
}

/// What a cell's numbers are held against.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ceiling {
    /// The network. `None` for engines that run none.
    shape: Option<Shape>,
    /// Peaks of its device, the one that counts first.
    peaks: Vec<Peak>,
}

impl Ceiling {
    /// The ceiling of a cell of `shape` on `device`, for which there may be a canary.
    pub fn new(cell: &Cell, shape: Option<&Shape>, device: Option<&Device>, canary: Option<&Canary>) -> Self {
        if cell.backend == BackendKind::Fake {
            return Self::default();
        }
        let (kind, precision) = (cell.device.kind, cell.artifact.precision);
        let measured = canary.map(|canary| measured(&canary.reading, kind, precision));
        let table = Peaks::built_in();
        let vendor = device.and_then(|device| table.find(kind, &device.name)).map(|peak| vendor(peak, precision));
        Self { shape: shape.cloned(), peaks: [measured, vendor].into_iter().flatten().collect() }
    }

    /// Number of weights of the network, where one runs.
    pub fn parameters(&self) -> Option<u64> {
        self.shape.as_ref().map(Shape::parameters)
    }

    /// Number of weights that a decode step multiplies by, where a network runs.
    pub fn decode_weights(&self) -> Option<u64> {
        self.shape.as_ref().map(roofline::decode_weights)
    }

    /// Bytes that arithmetic says the cell's weights take, and the keys and values of one token, as its engine holds them.
    pub fn predicted_memory(&self, cell: &Cell) -> Option<(u64, u64)> {
        let (shape, precision) = (self.shape.as_ref()?, cell.artifact.precision);
        let number = number_bytes(cell.backend, precision);
        Some((preflight::weights(shape, cell.backend, precision), roofline::kv_bytes_per_token(shape, number)))
    }

    fn bandwidth(&self) -> Option<(Peak, f64)> {
        self.peaks.iter().find_map(|peak| Some((*peak, peak.bandwidth?)))
    }

    fn flops(&self) -> Option<(Source, Number, f64)> {
        self.peaks.iter().find_map(|peak| peak.flops.map(|(number, rate)| (peak.source, number, rate)))
    }

    /// The shortest time per token that is possible with so many bytes of weights.
    pub fn floor(&self, weight_bytes: u64) -> Option<Floor> {
        let (peak, bandwidth) = self.bandwidth()?;
        let seconds = roofline::tpot_floor_s(weight_bytes, peak.cache_bytes?, bandwidth * peak.source.margin());
        (seconds > 0.0).then_some(Floor { tpot_ns: seconds * 1e9, weight_bytes, source: peak.source, bandwidth })
    }

    /// How much of the peaks one repetition used.
    pub fn utilisation(&self, cell: &Cell, sample: &Sample, weight_bytes: Option<u64>) -> Utilisation {
        let Some(shape) = &self.shape else { return Utilisation::default() };
        let generate = u32::try_from(sample.times.tokens.len()).unwrap_or(u32::MAX);
        let depth = cell.workload.kind.depth();
        let work = Work { batch: sample.batch, prompt: sample.prompt_tokens, depth, generate };
        let tpot_s = metrics::tpot_ns(sample).map(|ns| ns / 1e9);
        let prefill_s = metrics::prefill_rate(sample).map(|rate| f64::from(work.batch) * f64::from(work.prompt) / rate);
        let kv_bytes = number_bytes(cell.backend, cell.artifact.precision);
        let mbu = || {
            let (peak, bandwidth) = self.bandwidth()?;
            // Weights that stay in caches are not read from memory: that there is a number would be a claim.
            let weight_bytes = weight_bytes.filter(|bytes| peak.cache_bytes.is_none_or(|cache| *bytes > cache))?;
            Some((roofline::mbu(weight_bytes, shape, kv_bytes, work, tpot_s?, bandwidth), peak.source))
        };
        let prefill = |peak| Some(roofline::prefill_mfu(shape, work, prefill_s?, peak));
        let decode = |peak| Some(roofline::decode_mfu(shape, work, tpot_s?, peak));
        Utilisation {
            mbu: mbu(),
            prefill_mfu: self.flops().and_then(|(source, number, peak)| Some((prefill(peak)?, source, number))),
            decode_mfu: self.flops().and_then(|(source, number, peak)| Some((decode(peak)?, source, number))),
        }
    }
}

fn measured(reading: &Reading, kind: DeviceKind, precision: Precision) -> Peak {
    // On a processor candle's f32 product is the yardstick for all precisions; accelerators have units for each format.
    let (number, cache) = match kind {
        DeviceKind::Cpu => (Some(Number::F32), reading.cache_bytes),
        _ => (Number::of(precision), Some(reading.cache_bytes.unwrap_or(UNKNOWN_CACHE))),
    };
    let flops = number.and_then(|number| Some((number, *reading.flops.get(&number)?)));
    Peak { source: Source::Measured, bandwidth: reading.bandwidth(), flops, cache_bytes: cache }
}

fn vendor(peak: &peaks::Peak, precision: Precision) -> Peak {
    let flops = Number::of(precision).and_then(|number| Some((number, peak.flops(number)?)));
    Peak { source: Source::Vendor, bandwidth: Some(peak.bandwidth()), flops, cache_bytes: Some(UNKNOWN_CACHE) }
}

/// How much of a device's peaks was used: shares, 1 for all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Utilisation {
    /// Model bandwidth utilisation of decode.
    pub mbu: Option<(f64, Source)>,
    /// Model FLOPs utilisation of prefill.
    pub prefill_mfu: Option<(f64, Source, Number)>,
    /// Model FLOPs utilisation of decode.
    pub decode_mfu: Option<(f64, Source, Number)>,
}

/// The shortest time per token that a device can have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// In nanoseconds, the margin taken off already.
    pub tpot_ns: f64,
    weight_bytes: u64,
    source: Source,
    bandwidth: f64,
}

impl Floor {
    /// Whether the repetition is below it.
    pub fn is_broken_by(&self, sample: &Sample) -> bool {
        metrics::tpot_ns(sample).is_some_and(|ns| ns < self.tpot_ns)
    }

    /// What is to be said of a repetition that is.
    pub fn said_of(&self, sample: &Sample) -> String {
        let whose = match self.source {
            Source::Measured => "this device was measured at",
            Source::Vendor => "the vendor claims for this device",
        };
        format!(
            "{} ms a token, but reading {} of weights, less what caches can hold, takes {} ms at least at {} GB/s, {} \
             times what {whose}: a synchronisation is missing or the clock is wrong; kept, not charted",
            text::optional(metrics::tpot_ns(sample).map(|ns| ns / 1e6)),
            text::bytes(self.weight_bytes),
            text::number(self.tpot_ns / 1e6),
            text::number(self.bandwidth * self.source.margin() / 1e9),
            self.source.margin(),
        )
    }
}
