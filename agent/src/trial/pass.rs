//! One worker process's pass over the cells of a trial, as seen through its frames: what may come when. Pure.
//!
//! ```text
//! loading ── Loaded ──► between ── CellStarted ──► measuring ── CellEnded ──► between … ── TrialEnded ──► over
//!    └── LoadFailed ──► over                        │    ▲
//!                                                   └────┘ WarmupRepetition, Sample
//! ```
//! A replica of a group has two more steps before each sample, `ReadyAtBarrier` and `BarrierPassed`.
//! Anything else is a violation, and the worker that committed it is not listened to any more.

use regatta_core::cell::{CellHash, Outcome};
use regatta_core::digest::Digest;
use regatta_core::failure::FailureKind;
use regatta_core::metrics::Metrics;
use regatta_core::sample::Sample;
use regatta_core::trial::{Epoch, TrialCell};
use regatta_proto::pb::{self, from_worker};

use crate::barriers::Gate;
use crate::text;

/// Where the pass stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The model is being loaded.
    Loading,
    /// No cell is being measured.
    Between,
    /// The current cell is being measured.
    Measuring {
        /// The repetition that comes next.
        repetition: u32,
        /// How far a replica is on its way to it.
        step: Stage,
    },
    /// Nothing more is to come.
    Over,
}

/// How far the worker is on its way to the next sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A replica has to come to the barrier first.
    BeforeBarrier,
    /// It waits there.
    AtBarrier,
    /// Nothing is in its way.
    Free,
}

/// What a frame means.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// The model is in memory.
    Loaded(pb::Loaded),
    /// A cell begins.
    CellStarted(CellHash),
    /// A warm-up repetition is over.
    Warmup {
        /// Which cell.
        cell: CellHash,
        /// How many so far.
        repetitions: u32,
    },
    /// It is ready for a repetition that replicas begin together.
    AtBarrier(Gate),
    /// It has begun that repetition.
    Begun(Gate),
    /// A measured repetition.
    Sample {
        /// Which cell.
        cell: CellHash,
        /// As it is to be kept.
        sample: Box<pb::Sample>,
        /// The same, to be judged.
        measured: Box<Sample>,
        /// How many of this pass so far.
        repetitions: u32,
        /// Tokens per second, first token left out; 0 where there is none.
        decode_rate: f64,
        /// Whether it was the cell's last one.
        last: bool,
    },
    /// The cell at the head of the list ended.
    CellEnded(Outcome),
    /// All cells ended.
    TrialEnded,
    /// No cell can be measured.
    LoadFailed(Outcome),
}

/// Follows a worker's frames.
pub(crate) struct Pass<'t> {
    cells: &'t [TrialCell],
    epoch: Epoch,
    repetitions: u32,
    /// The number of the pass's first repetition.
    first: u32,
    /// Whether the trial is one of several replicas.
    is_replica: bool,
    phase: Phase,
}

impl<'t> Pass<'t> {
    /// A pass over `cells` with `repetitions` of each, of a trial by itself.
    pub(crate) fn new(cells: &'t [TrialCell], epoch: Epoch, repetitions: u32) -> Self {
        Self { cells, epoch, repetitions, first: 0, is_replica: false, phase: Phase::Loading }
    }

    /// The same as pass number `pass`, from 0: its repetitions are numbered on from those before.
    pub(crate) fn number(self, pass: u32) -> Self {
        Self { first: pass.saturating_mul(self.repetitions), ..self }
    }

    /// The same of a replica, which comes to a barrier before each sample.
    pub(crate) fn of_replica(self) -> Self {
        Self { is_replica: true, ..self }
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// What the frame means; an error says which rule the worker broke.
    pub(crate) fn step(&mut self, frame: pb::FromWorker) -> Result<Step, String> {
        use from_worker::Message as M;
        let message = frame.message.ok_or("a frame without a message")?;
        match (self.phase, message) {
            (Phase::Loading, M::Loaded(loaded)) => {
                self.phase = Phase::Between;
                Ok(Step::Loaded(loaded))
            }
            (Phase::Loading, M::LoadFailed(failed)) => {
                self.phase = Phase::Over;
                load_failed(&failed).map(Step::LoadFailed)
            }
            (Phase::Between, M::CellStarted(started)) => {
                let cell = self.current(&started.cell_hash)?.hash;
                self.phase = self.before(self.first);
                Ok(Step::CellStarted(cell))
            }
            (Phase::Measuring { .. }, M::Warmup(warmup)) => {
                let cell = self.cells.first().ok_or("no cell is left")?.hash;
                Ok(Step::Warmup { cell, repetitions: warmup.repetitions })
            }
            (Phase::Measuring { repetition, step: Stage::BeforeBarrier }, M::AtBarrier(at)) => {
                let gate = self.gate(&at.cell_hash, repetition, at.repetition)?;
                self.phase = Phase::Measuring { repetition, step: Stage::AtBarrier };
                Ok(Step::AtBarrier(gate))
            }
            (Phase::Measuring { repetition, step: Stage::AtBarrier }, M::BarrierPassed(passed)) => {
                let gate = self.gate(&passed.cell_hash, repetition, passed.repetition)?;
                self.phase = Phase::Measuring { repetition, step: Stage::Free };
                Ok(Step::Begun(gate))
            }
            (Phase::Measuring { repetition, step: Stage::Free }, M::Sample(sample)) => self.sample(repetition, sample),
            (Phase::Between | Phase::Measuring { .. }, M::CellEnded(end)) => self.cell_ended(end),
            (Phase::Between, M::TrialEnded(_)) if self.cells.is_empty() => {
                self.phase = Phase::Over;
                Ok(Step::TrialEnded)
            }
            (phase, message) => Err(format!("{} came while {}", name(&message), doing(phase))),
        }
    }

    /// The cell at the head of the list, if that is the one meant.
    fn current(&self, hash: &[u8]) -> Result<&'t TrialCell, String> {
        let hash = Digest::try_from(hash).map_err(|error| error.to_string())?;
        let cell = self.cells.first().ok_or("a cell after the last one")?;
        if cell.hash.0 == hash {
            Ok(cell)
        } else {
            Err(format!("cell {} where {} was to come", hash.short(), cell.hash.0.short()))
        }
    }

    /// The number after the pass's last repetition.
    fn end(&self) -> u32 {
        self.first.saturating_add(self.repetitions)
    }

    /// On the way to a repetition.
    fn before(&self, repetition: u32) -> Phase {
        let more = repetition < self.end();
        let step = if self.is_replica && more { Stage::BeforeBarrier } else { Stage::Free };
        Phase::Measuring { repetition, step }
    }

    /// The barrier of the repetition that is to come, if that is the one meant.
    fn gate(&self, cell_hash: &[u8], expected: u32, found: u32) -> Result<Gate, String> {
        let cell = self.current(cell_hash)?.hash;
        if found != expected {
            return Err(format!("the barrier of repetition {found} where that of {expected} was to come"));
        }
        Ok(Gate { cell, repetition: found })
    }

    fn sample(&mut self, repetition: u32, wire: pb::Sample) -> Result<Step, String> {
        let cell = self.current(&wire.cell_hash)?;
        let sample = Sample::try_from(wire.clone()).map_err(|error| error.to_string())?;
        if sample.key.epoch != self.epoch {
            return Err(format!("a sample of epoch {}, not {}", sample.key.epoch.0, self.epoch.0));
        }
        if sample.key.repetition != repetition || repetition >= self.end() {
            let (found, most) = (sample.key.repetition, self.end());
            return Err(format!("repetition {found} where {repetition} of {most} was to come"));
        }
        sample.check(&cell.workload).map_err(|error| format!("repetition {repetition} {error}"))?;
        self.phase = self.before(repetition + 1);
        let metrics = Metrics::of(&sample);
        let repetitions = repetition + 1 - self.first;
        Ok(Step::Sample {
            cell: cell.hash,
            decode_rate: metrics.decode_rate.or(metrics.prefill_rate).unwrap_or(0.0),
            sample: Box::new(wire),
            measured: Box::new(sample),
            repetitions,
            last: repetitions == self.repetitions,
        })
    }

    fn cell_ended(&mut self, end: pb::CellEnd) -> Result<Step, String> {
        self.current(&end.cell_hash)?;
        let (_, outcome) = <(CellHash, Outcome)>::try_from(end).map_err(|error| error.to_string())?;
        let measured = match self.phase {
            Phase::Measuring { repetition, .. } => repetition - self.first,
            _ => 0,
        };
        let all = measured == self.repetitions;
        let outcome = match outcome {
            Outcome::Ok if !all => {
                return Err(format!("a cell ended as ok after {measured} of {} repetitions", self.repetitions));
            }
            // Stopped after the last repetition: nothing is missing.
            Outcome::Cancelled if all => Outcome::Ok,
            other => cleaned(other),
        };
        self.cells = &self.cells[1..];
        self.phase = Phase::Between;
        Ok(Step::CellEnded(outcome))
    }
}

fn load_failed(failed: &pb::LoadFailed) -> Result<Outcome, String> {
    let kind: FailureKind =
        failed.kind.parse().map_err(|error: regatta_core::failure::UnknownFailure| error.to_string())?;
    Ok(cleaned(Outcome::of_failure(kind, failed.detail.clone())))
}

/// The outcome with a reason that is safe to show and to store.
fn cleaned(outcome: Outcome) -> Outcome {
    let clean = |detail: String| text::tail(&text::clean(&detail), text::MAX_DETAIL).to_owned();
    match outcome {
        Outcome::Oom(detail) => Outcome::Oom(clean(detail)),
        Outcome::Skipped(detail) => Outcome::Skipped(clean(detail)),
        Outcome::Failed(kind, detail) => Outcome::Failed(kind, clean(detail)),
        Outcome::Timeout(detail) => Outcome::Timeout(clean(detail)),
        Outcome::Crashed(detail) => Outcome::Crashed(clean(detail)),
        other @ (Outcome::Ok | Outcome::Cancelled) => other,
    }
}

fn name(message: &from_worker::Message) -> &'static str {
    use from_worker::Message as M;
    match message {
        M::Loaded(_) => "Loaded",
        M::CellStarted(_) => "CellStarted",
        M::Warmup(_) => "WarmupRepetition",
        M::Sample(_) => "a sample",
        M::CellEnded(_) => "CellEnd",
        M::TrialEnded(_) => "TrialEnded",
        M::LoadFailed(_) => "LoadFailed",
        M::AtBarrier(_) => "ReadyAtBarrier",
        M::BarrierPassed(_) => "BarrierPassed",
    }
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "the model was being loaded",
        Phase::Between => "no cell was being measured",
        Phase::Measuring { step: Stage::BeforeBarrier, .. } => "a replica had to come to the barrier first",
        Phase::Measuring { step: Stage::AtBarrier, .. } => "a replica had to wait at the barrier",
        Phase::Measuring { .. } => "a cell was being measured",
        Phase::Over => "nothing more was to come",
    }
}

#[cfg(test)]
mod tests {
    use from_worker::Message as M;

    use super::*;
    use crate::testing;

    const REPETITIONS: u32 = 2;

    fn frame(message: M) -> pb::FromWorker {
        pb::FromWorker { message: Some(message) }
    }

    fn loaded() -> M {
        M::Loaded(pb::Loaded { load_ns: 1, weight_bytes: 2, engine: "e".to_owned() })
    }

    fn started(cell: &TrialCell) -> M {
        M::CellStarted(pb::CellStarted { cell_hash: cell.hash.0.as_bytes().to_vec() })
    }

    fn ended(cell: &TrialCell, outcome: &Outcome) -> M {
        M::CellEnded(regatta_proto::convert::cell_end(cell.hash, outcome))
    }

    fn sample(cell: &TrialCell, epoch: u32, repetition: u32) -> M {
        M::Sample(testing::sample(cell, Epoch(epoch), repetition))
    }

    /// Whether the last of `messages` is accepted, given that all before it are.
    fn last(cells: &[TrialCell], messages: Vec<M>) -> Result<Step, String> {
        let mut pass = Pass::new(cells, Epoch(1), REPETITIONS);
        let mut steps: Vec<_> = messages.into_iter().map(|message| pass.step(frame(message))).collect();
        let last = steps.pop().unwrap();
        assert!(steps.iter().all(Result::is_ok), "{steps:?}");
        last
    }

    #[test]
    fn a_trial_as_it_should_be() {
        let cells = testing::cells(&["a", "b"]);
        let mut messages = vec![loaded()];
        for cell in &cells {
            let warm = M::Warmup(pb::WarmupRepetition { repetitions: 1, duration_ns: 5 });
            messages.extend([started(cell), warm, sample(cell, 1, 0), sample(cell, 1, 1), ended(cell, &Outcome::Ok)]);
        }
        messages.push(M::TrialEnded(pb::TrialEnded { samples: 4 }));
        assert_eq!(last(&cells, messages), Ok(Step::TrialEnded));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let cells = testing::cells(&["a", "b"]);
        let [a, b] = [&cells[0], &cells[1]];
        let begin = || vec![loaded(), started(a)];
        let after = |message: M| begin().into_iter().chain([message]).collect::<Vec<_>>();
        let mut reversed = testing::sample(a, Epoch(1), 0);
        reversed.times.as_mut().unwrap().token_ns.reverse();
        for (messages, rule) in [
            (vec![started(a)], "CellStarted came while the model was being loaded"),
            (vec![loaded(), started(b)], "was to come"),
            (vec![loaded(), loaded()], "Loaded came while no cell was being measured"),
            (after(sample(b, 1, 0)), "was to come"),
            (after(sample(a, 2, 0)), "a sample of epoch 2, not 1"),
            (after(sample(a, 1, 1)), "repetition 1 where 0 of 2 was to come"),
            (after(M::Sample(reversed)), "is earlier than first token"),
            (after(ended(a, &Outcome::Ok)), "a cell ended as ok after 0 of 2 repetitions"),
            (after(M::TrialEnded(pb::TrialEnded { samples: 0 })), "TrialEnded came while a cell was being measured"),
        ] {
            let error = last(&cells, messages).unwrap_err();
            assert!(error.contains(rule), "{error:?} does not say {rule:?}");
        }
        let empty = Pass::new(&cells, Epoch(1), 1).step(pb::FromWorker { message: None });
        assert!(empty.is_err());
    }

    #[test]
    fn a_replica_comes_to_the_barrier_before_each_sample() {
        let cells = testing::cells(&["a"]);
        let cell = &cells[0];
        let cell_hash = || cell.hash.0.as_bytes().to_vec();
        let at = |repetition| M::AtBarrier(pb::ReadyAtBarrier { cell_hash: cell_hash(), repetition });
        let passed = |repetition| M::BarrierPassed(pb::BarrierPassed { cell_hash: cell_hash(), repetition });
        let last = |messages: Vec<M>| {
            let mut pass = Pass::new(&cells, Epoch(1), REPETITIONS).of_replica();
            let begin = [loaded(), started(cell)].into_iter();
            let steps: Vec<_> = begin.chain(messages).map(|message| pass.step(frame(message))).collect();
            steps.into_iter().next_back().unwrap()
        };
        let gate = Gate { cell: cell.hash, repetition: 1 };
        assert_eq!(last(vec![at(0), passed(0), sample(cell, 1, 0), at(1)]), Ok(Step::AtBarrier(gate)));
        assert_eq!(last(vec![at(0), passed(0), sample(cell, 1, 0), at(1), passed(1)]), Ok(Step::Begun(gate)));
        let all = vec![at(0), passed(0), sample(cell, 1, 0), at(1), passed(1), sample(cell, 1, 1)];
        assert_eq!(last([all, vec![ended(cell, &Outcome::Ok)]].concat()), Ok(Step::CellEnded(Outcome::Ok)));
        let failed = Outcome::Failed(FailureKind::Replica, "replica 0 failed".to_owned());
        assert_eq!(last(vec![at(0), ended(cell, &failed)]), Ok(Step::CellEnded(failed)));
        for (messages, rule) in [
            (vec![sample(cell, 1, 0)], "came while a replica had to come to the barrier first"),
            (vec![at(0), sample(cell, 1, 0)], "came while a replica had to wait at the barrier"),
            (vec![passed(0)], "came while a replica had to come to the barrier first"),
            (vec![at(1)], "the barrier of repetition 1 where that of 0 was to come"),
        ] {
            let error = last(messages).unwrap_err();
            assert!(error.contains(rule), "{error:?} does not say {rule:?}");
        }
    }

    #[test]
    fn a_cell_stopped_after_its_last_repetition_is_complete() {
        let cells = testing::cells(&["a"]);
        let cell = &cells[0];
        let stopped = |samples: u32| {
            let mut messages = vec![loaded(), started(cell)];
            messages.extend((0..samples).map(|repetition| sample(cell, 1, repetition)));
            messages.push(ended(cell, &Outcome::Cancelled));
            last(&cells, messages)
        };
        assert_eq!(stopped(2), Ok(Step::CellEnded(Outcome::Ok)));
        assert_eq!(stopped(1), Ok(Step::CellEnded(Outcome::Cancelled)));
    }

    #[test]
    fn a_failed_load_ends_the_pass_with_its_kind() {
        let failed = M::LoadFailed(pb::LoadFailed { kind: "oom_device".to_owned(), detail: "\u{1b}[1mno".to_owned() });
        assert_eq!(last(&testing::cells(&["a"]), vec![failed]), Ok(Step::LoadFailed(Outcome::Oom("no".to_owned()))));
        let odd = M::LoadFailed(pb::LoadFailed { kind: "mood".to_owned(), detail: String::new() });
        assert!(last(&testing::cells(&["a"]), vec![odd]).is_err());
    }
}
