//! A backend that runs no model: scripted timings, and scripted faults in a real process.
//!
//! Timings come from the environment variable [`SCRIPT`], as JSON or as the path of a JSON file; see [`Script`]. Faults
//! come from the workload's name, so that a scenario alone can script a run; see [`Fault`]. Token ids depend on the
//! prompt only, so the fake is as deterministic as an engine has to be.
//!
//! Work takes its time in one of two ways. On the system's clock the fake waits, which says how the harness does beside a
//! real engine. On a scripted clock ([`Script::scripted_clock`]) nothing is waited for: the clock that the timing loop reads
//! is put forward by exactly what the script says. The loop, warm-up, and everything that the samples go through afterwards
//! are the same; so what was planned can be held against what is reported in the end.

mod fault;
mod ledger;

use std::time::{Duration, Instant};

pub use fault::Fault;
pub use ledger::{LEDGER, Ledger};
use serde::Deserialize;

use super::{Backend, BackendError, Info, Limits, Load, Plan, Session};
use crate::clock::{Clock, Scripted};

/// The environment variable that holds the script. For tests only.
pub const SCRIPT: &str = "REGATTA_FAKE";

/// The fake's "version".
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long things take. Every field may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Loading, in microseconds.
    pub load_us: u64,
    /// Prefill for each prompt token, in microseconds. The sequences of a batch run at the same time.
    pub prefill_us: f64,
    /// A decode step, in microseconds.
    pub decode_us: f64,
    /// Relative spread of both: each is multiplied by a number between `1 - jitter` and `1 + jitter`.
    pub jitter: f64,
    /// Seed of the spread.
    pub seed: u64,
    /// Vocabulary size.
    pub vocab: u32,
    /// Context, in tokens.
    pub context: u32,
    /// Bytes of weights that it claims to read in each step.
    pub weight_bytes: u64,
    /// Whether time is only told and not spent. Loading takes its time all the same.
    pub scripted_clock: bool,
    /// With [`Fault::Spikes`]: one decode step of so many takes longer.
    pub spike_every: u32,
    /// So many times as long.
    pub spike: f64,
    /// With [`Fault::Trend`]: by how much longer each repetition takes, in relation to the first one.
    pub trend: f64,
    /// With [`Fault::Output`] and [`Fault::OutputOfProcess`]: tokens of each sequence that are as they should be.
    pub same_tokens: u32,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            load_us: 10_000,
            prefill_us: 20.0,
            decode_us: 1_000.0,
            jitter: 0.0,
            seed: 1,
            vocab: 32_000,
            context: 131_072,
            weight_bytes: 1_000_000_000,
            scripted_clock: false,
            spike_every: 16,
            spike: 10.0,
            trend: 0.005,
            same_tokens: 0,
        }
    }
}

impl Script {
    /// A script in which nothing takes any time: what is left is the harness.
    pub const INSTANT: Self = Self {
        load_us: 0,
        prefill_us: 0.0,
        decode_us: 0.0,
        jitter: 0.0,
        seed: 1,
        vocab: 32_000,
        context: 131_072,
        weight_bytes: 1,
        scripted_clock: false,
        spike_every: 16,
        spike: 10.0,
        trend: 0.005,
        same_tokens: 0,
    };

    /// The script that the environment names; the default one where it names none.
    pub fn from_environment() -> Result<Self, BackendError> {
        let Ok(value) = std::env::var(SCRIPT) else { return Ok(Self::default()) };
        let text = if value.trim_start().starts_with('{') {
            value
        } else {
            std::fs::read_to_string(&value)
                .map_err(|error| BackendError::unsupported(format!("{SCRIPT}: cannot read {value}: {error}")))?
        };
        serde_json::from_str(&text).map_err(|error| BackendError::unsupported(format!("{SCRIPT}: {error}")))
    }
}

/// The fake.
#[derive(Debug)]
pub struct Fake {
    script: Script,
    threads: u32,
    clock: Scripted,
}

impl Fake {
    /// "Loads" a model, as the environment scripts it. No files are looked at.
    pub fn load(load: &Load) -> Result<Self, BackendError> {
        let script = Script::from_environment()?;
        std::thread::sleep(Duration::from_micros(script.load_us));
        Ok(Self { script, threads: load.threads, clock: Scripted::default() })
    }

    /// A fake with a script of one's own.
    pub fn new(script: Script) -> Self {
        Self { script, threads: 1, clock: Scripted::default() }
    }
}

impl Backend for Fake {
    fn info(&self) -> Info {
        let engine = format!("fake {VERSION}");
        Info { engine, weight_bytes: self.script.weight_bytes, threads: self.threads, is_widened: false }
    }

    fn limits(&self) -> Limits {
        Limits { vocab: self.script.vocab, context: self.script.context }
    }

    fn clock(&self) -> Clock {
        if self.script.scripted_clock { Clock::Scripted(self.clock.clone()) } else { Clock::Monotonic }
    }

    fn open(&mut self, plan: &Plan) -> Result<Box<dyn Session + '_>, BackendError> {
        Ok(Box::new(Pretence {
            script: self.script,
            clock: self.script.scripted_clock.then(|| self.clock.clone()),
            fault: Fault::of(&plan.name),
            noise: self.script.seed,
            tokens: Vec::with_capacity(plan.batch as usize),
            debt: Duration::ZERO,
            resets: 0,
            steps: 0,
        }))
    }
}

/// What it takes to give a device its work without waiting for it.
const ENQUEUE: Duration = Duration::from_micros(1);

/// A cell's session.
struct Pretence {
    script: Script,
    /// The clock that is put forward; `None` where time is spent.
    clock: Option<Scripted>,
    fault: Option<Fault>,
    /// State of the spread's generator.
    noise: u64,
    /// The next token of each sequence.
    tokens: Vec<u32>,
    /// Work that was not waited for, where the script forgets to.
    debt: Duration,
    resets: u32,
    /// Decode steps since the last reset.
    steps: u32,
}

impl Pretence {
    /// Lets `micros` pass, more or less.
    fn work(&mut self, micros: f64) {
        let growth = match self.fault {
            Some(Fault::Drift) => 0.2,
            Some(Fault::Trend) => self.script.trend,
            _ => 0.0,
        };
        let drift = 1.0 + growth * f64::from(self.resets);
        let spread = 1.0 + self.script.jitter * self.noise();
        let duration = Duration::from_secs_f64((micros * drift * spread / 1e6).max(0.0));
        if self.fault == Some(Fault::NoSync) {
            self.debt += duration;
            self.pass(ENQUEUE);
        } else {
            self.pass(duration);
        }
    }

    fn pass(&self, duration: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(duration),
            None => pass(duration),
        }
    }

    /// Waits for the work that nobody has waited for.
    fn settle(&mut self) {
        let debt = std::mem::take(&mut self.debt);
        self.pass(debt);
    }

    /// What a token id depends on beside those before it, where the output is to be another one: which repetition it is, or
    /// which process.
    fn salt(&self) -> u64 {
        if self.steps < self.script.same_tokens {
            return 0;
        }
        match self.fault {
            Some(Fault::Output) => u64::from(self.resets),
            Some(Fault::OutputOfProcess) => u64::from(std::process::id()),
            _ => 0,
        }
    }

    /// A number between -1 and 1, the next of a fixed sequence.
    fn noise(&mut self) -> f64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 32) as f64 / f64::from(1u32 << 31) - 1.0
    }

    fn vocab(&self) -> u64 {
        u64::from(self.script.vocab.max(1))
    }

    fn id(&self, state: u64) -> u32 {
        u32::try_from((state >> 33) % self.vocab()).unwrap_or(0)
    }
}

impl Session for Pretence {
    fn reset(&mut self) -> Result<(), BackendError> {
        self.resets += 1;
        self.steps = 0;
        self.settle();
        self.tokens.clear();
        Ok(())
    }

    fn keep(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        self.settle();
        Ok(())
    }

    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<(), BackendError> {
        self.tokens.clear();
        let salt = self.salt();
        for prompt in prompts {
            let state = prompt.iter().fold(salt, |state, &id| mix(state ^ u64::from(id)));
            self.tokens.push(self.id(state));
        }
        self.work(self.script.prefill_us * prompts.first().map_or(0, Vec::len) as f64);
        Ok(())
    }

    fn sample(&mut self, out: &mut [u32]) -> Result<(), BackendError> {
        out.copy_from_slice(&self.tokens);
        Ok(())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<(), BackendError> {
        self.steps += 1;
        let salt = self.salt();
        for (at, &token) in tokens.iter().enumerate().take(self.tokens.len()) {
            self.tokens[at] = self.id(mix(u64::from(token) ^ salt));
        }
        let is_spike = self.fault == Some(Fault::Spikes) && self.steps.is_multiple_of(self.script.spike_every.max(1));
        self.work(self.script.decode_us * if is_spike { self.script.spike } else { 1.0 });
        Ok(())
    }

    fn logits(&self, sequence: usize) -> Result<Vec<f32>, BackendError> {
        let id = self.tokens.get(sequence).ok_or_else(|| BackendError::engine("no tokens were fed yet"))?;
        let mut logits = vec![0.0; self.script.vocab as usize];
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = 1.0;
        }
        Ok(logits)
    }
}

fn mix(state: u64) -> u64 {
    (state ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29)
}

/// Waits, to the microsecond: sleeps most of the time and spins the rest.
fn pass(duration: Duration) {
    const SPIN: Duration = Duration::from_micros(120);
    let start = Instant::now();
    std::thread::sleep(duration.saturating_sub(SPIN));
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_what_it_does_not_know() {
        let script: Script = serde_json::from_str(r#"{"decode_us": 5}"#).unwrap();
        assert_eq!(script, Script { decode_us: 5.0, ..Script::default() });
        assert!(serde_json::from_str::<Script>(r#"{"decode": 5}"#).unwrap_err().to_string().contains("decode_us"));
    }

    #[test]
    fn time_passes_as_scripted() {
        let start = Instant::now();
        pass(Duration::from_millis(3));
        assert!((Duration::from_millis(3)..Duration::from_millis(40)).contains(&start.elapsed()));
    }
}
