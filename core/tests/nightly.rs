//! The nightly gate on series that were made up, where the truth is known: how often it finds what was put in, and how often
//! it finds what was not. Seeds are fixed, so the table is the same everywhere; `docs/nightly.md` has it.
//!
//! ```sh
//! REGATTA_TABLE=1 cargo test --release -p regatta-core --test nightly -- --nocapture
//! ```
//!
//! 10 machines with 40 cells each measure 60 nights with 6 worker processes; a process's value is the cell's true one
//! times a random factor with a standard deviation of 1 %. The gate is asked night by night, and remembers what it has said.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "in a test, an error is a failure; the table is printed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use regatta_core::fingerprint::{DRIVER, Fingerprint};
use regatta_core::id::RunId;
use regatta_core::nightly::{Again, Direction, Finding, Night, Rules, Said, Series, Standing, judge};
use regatta_core::random::SplitMix;

const MACHINES: usize = 10;
const CELLS: usize = 400;
const NIGHTS: usize = 60;
const PROCESSES: usize = 6;
const NOISE: f64 = 0.01;

/// What is put in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Put {
    Nothing,
    /// Each cell becomes slower by so much in some night of its own, and stays so.
    Step(f64),
    /// Each cell becomes slower by so much each night, from some night on.
    Drift(f64),
    /// So many of a thousand cells are slower by 10 % for a night, through and through.
    Spikes(u32),
    /// One machine gets another driver in some night, and is slower by 10 %.
    Hardware,
    /// One machine becomes slower by 5 % in some night.
    Machine,
}

/// What is measured again when something is flagged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Confirming {
    /// Nothing.
    Never,
    /// 10 worker processes more, the same night.
    Apart,
    /// 10 pairs in turns with the last good build.
    InTurns,
}

struct Simulation {
    put: Put,
    confirming: Confirming,
    /// What all processes of a night share, beside [`NOISE`].
    shared: f64,
    random: SplitMix,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    nights: usize,
    /// Cells that something was put into, and of these those found, in at most two nights or ever.
    changed: usize,
    in_time: usize,
    found: usize,
    /// Nights until then.
    delays: Vec<usize>,
    /// Changes that were reported and not put in.
    false_alarms: usize,
    events: usize,
    breaks: usize,
    measured_again: usize,
}

impl Simulation {
    fn new(put: Put, confirming: Confirming, shared: f64, seed: u64) -> Self {
        Self { put, confirming, shared, random: SplitMix(seed) }
    }

    fn uniform(&mut self) -> f64 {
        (f64::from(self.random.below(u32::MAX)) + 0.5) / f64::from(u32::MAX)
    }

    /// By Box and Muller.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), std::f64::consts::TAU * self.uniform());
        radius * angle.cos()
    }

    fn processes(&mut self, n: usize, level: f64) -> Vec<f64> {
        (0..n).map(|_| level * (NOISE * self.normal()).exp()).collect()
    }

    /// The true value of each cell, night by night, and the night in which each changes.
    fn truth(&mut self) -> (Vec<Vec<f64>>, Vec<Option<usize>>) {
        let machine = self.random.below(10) as usize;
        let night = 20 + self.random.below(20) as usize;
        let mut starts = vec![None; CELLS];
        let mut levels = vec![vec![1.0; NIGHTS]; CELLS];
        for cell in 0..CELLS {
            let own = 20 + self.random.below(30) as usize;
            let of_machine = cell % MACHINES == machine;
            let (start, by): (Option<usize>, Box<dyn Fn(usize) -> f64>) = match self.put {
                Put::Nothing | Put::Spikes(_) => (None, Box::new(|_| 1.0)),
                Put::Step(by) => (Some(own), Box::new(move |_| 1.0 - by)),
                Put::Drift(by) => (Some(10), Box::new(move |nights| (1.0 - by).powf(nights as f64))),
                Put::Hardware => (of_machine.then_some(night), Box::new(|_| 0.9)),
                Put::Machine => (of_machine.then_some(night), Box::new(|_| 0.95)),
            };
            starts[cell] = start;
            let base = 20.0 * (1.0 + cell as f64);
            for (at, level) in levels[cell].iter_mut().enumerate() {
                *level = base * start.filter(|start| at >= *start).map_or(1.0, |start| by(at - start));
            }
            if let Put::Spikes(of_1000) = self.put {
                let spikes = |random: &mut SplitMix| random.below(1000) < of_1000;
                levels[cell].iter_mut().filter(|_| spikes(&mut self.random)).for_each(|level| *level *= 0.9);
            }
        }
        (levels, starts)
    }

    fn fingerprint(&self, starts: &[Option<usize>], cell: usize, night: usize) -> Fingerprint {
        let new = self.put == Put::Hardware && starts[cell].is_some_and(|start| night >= start);
        Fingerprint::default().with(DRIVER, Some(if new { "580" } else { "570" }))
    }

    fn run(mut self) -> Outcome {
        let (levels, starts) = self.truth();
        let mut all: Vec<Series> = (0..CELLS).map(series).collect();
        let mut outcome = Outcome { nights: NIGHTS, ..Outcome::default() };
        outcome.changed = starts.iter().flatten().count();
        let mut found = vec![false; CELLS];
        for night in 0..NIGHTS {
            let mut tonight = vec![0.0; CELLS];
            for (cell, series) in all.iter_mut().enumerate() {
                tonight[cell] = levels[cell][night] * (self.shared * self.normal()).exp();
                series.nights.push(Night {
                    run: name(night),
                    values: self.processes(PROCESSES, tonight[cell]),
                    standing: Standing::Valid,
                    fingerprint: self.fingerprint(&starts, cell, night),
                    said: Said::Nothing,
                });
            }
            let rules = Rules::default();
            let mut judgement = judge(&all, &BTreeMap::new(), &rules);
            let flagged = judgement.to_measure();
            if self.confirming != Confirming::Never && !flagged.is_empty() {
                outcome.measured_again += flagged.len();
                let again = flagged
                    .into_iter()
                    .map(|cell| (cell, self.again(&rules, tonight[cell], levels[cell][0], starts[cell].is_some())));
                let again: BTreeMap<usize, Again> = again.collect();
                judgement = judge(&all, &again, &rules);
            }
            for (cell, verdict) in judgement.verdicts.iter().enumerate() {
                all[cell].nights[night].said = verdict.finding.said();
                outcome.breaks += usize::from(matches!(verdict.finding, Finding::Began { .. }));
                let Finding::Confirmed { direction, .. } = verdict.finding else { continue };
                let due = starts[cell].filter(|start| night >= *start && self.put != Put::Hardware);
                match due {
                    Some(start) if direction == Direction::Slower && !found[cell] => {
                        found[cell] = true;
                        outcome.found += 1;
                        outcome.in_time += usize::from(night < start + 2);
                        outcome.delays.push(night + 1 - start);
                    }
                    // A drift goes on, and is found again when it has gone on far enough.
                    Some(_) if direction == Direction::Slower && matches!(self.put, Put::Drift(_)) => {}
                    _ => outcome.false_alarms += 1,
                }
            }
            outcome.events += judgement.events.iter().filter(|event| event.confirmed).count();
        }
        outcome
    }

    /// What is measured again shares the night with what was measured first. The last good build is slow where the night
    /// is, and not where the change is the software's.
    fn again(&mut self, rules: &Rules, tonight: f64, first: f64, changes: bool) -> Again {
        if self.confirming == Confirming::Apart {
            return Again::Apart(self.processes(rules.again, tonight));
        }
        let base = if changes { first } else { tonight };
        let (base, candidate) = (self.processes(rules.again, base), self.processes(rules.again, tonight));
        Again::Pairs(base.into_iter().zip(candidate).collect())
    }
}

fn name(night: usize) -> RunId {
    format!("night-{night:02}").parse().unwrap()
}

fn series(cell: usize) -> Series {
    Series {
        machine: format!("machine {}", cell % MACHINES),
        cell: format!("cell {cell}"),
        metric: "decode".to_owned(),
        larger_is_better: true,
        nights: Vec::new(),
    }
}

/// Several simulations with seeds of their own, taken together.
fn simulated(put: Put, confirming: Confirming, shared: f64, seeds: u64) -> Outcome {
    let threads: Vec<_> = (0..seeds)
        .map(|seed| std::thread::spawn(move || Simulation::new(put, confirming, shared, 0x5eed + seed).run()))
        .collect();
    let mut all = Outcome::default();
    for thread in threads {
        let one = thread.join().unwrap();
        all.nights += one.nights;
        all.changed += one.changed;
        all.in_time += one.in_time;
        all.found += one.found;
        all.delays.extend(one.delays);
        all.false_alarms += one.false_alarms;
        all.events += one.events;
        all.breaks += one.breaks;
        all.measured_again += one.measured_again;
    }
    all.delays.sort_unstable();
    all
}

impl Outcome {
    fn share(&self) -> f64 {
        self.in_time as f64 / self.changed.max(1) as f64
    }

    fn per_10_nights(&self) -> f64 {
        10.0 * self.false_alarms as f64 / self.nights as f64
    }

    fn row(&self, what: &str) -> String {
        let mut row = format!("| {what} | ");
        if self.delays.is_empty() {
            row.push_str("– | – | – ");
        } else {
            let share = |n: usize| 100.0 * n as f64 / self.changed as f64;
            let middle = self.delays[self.delays.len() / 2];
            write!(row, "{:.1} % | {:.1} % | {middle} ", share(self.in_time), share(self.found)).unwrap();
        }
        let again = self.measured_again as f64 / self.nights as f64;
        write!(row, "| {:.2} | {} | {:.1} |", self.per_10_nights(), self.events, again).unwrap();
        row
    }
}

fn show(what: &str, outcome: &Outcome) {
    if std::env::var_os("REGATTA_TABLE").is_some() {
        println!("{}", outcome.row(what));
    }
}

#[test]
fn a_step_of_3_percent_is_found_within_2_nights_in_9_of_10_cases() {
    for (confirming, what) in [
        (Confirming::Never, "step of 3 %, nothing measured again"),
        (Confirming::Apart, "step of 3 %, measured again"),
        (Confirming::InTurns, "step of 3 %, measured again in turns with the last good build"),
    ] {
        let outcome = simulated(Put::Step(0.03), confirming, 0.0, 2);
        show(what, &outcome);
        assert!(outcome.share() >= 0.9, "{what}: {outcome:?}");
        assert!(outcome.per_10_nights() <= 1.0, "{what}: {} false alarms", outcome.false_alarms);
    }
}

#[test]
fn where_nothing_changes_there_is_at_most_1_false_alarm_in_10_nights() {
    for (confirming, shared, what) in [
        (Confirming::Never, 0.0, "nothing, nothing measured again"),
        (Confirming::Apart, 0.0, "nothing, measured again"),
        (Confirming::InTurns, 0.0, "nothing, in turns"),
        (Confirming::Never, 0.005, "nothing, and nights differ by 0.5 %"),
        (Confirming::Never, 0.01, "nothing, and nights differ by 1 %"),
    ] {
        let outcome = simulated(Put::Nothing, confirming, shared, 2);
        show(what, &outcome);
        assert!(outcome.per_10_nights() <= 1.0, "{what}: {} false alarms", outcome.false_alarms);
        assert_eq!(outcome.events, 0);
    }
}

#[test]
fn steps_of_other_sizes_and_of_noisier_nights() {
    for (put, shared, what) in [
        (Put::Step(0.02), 0.0, "step of 2 %"),
        (Put::Step(0.05), 0.0, "step of 5 %"),
        (Put::Step(0.03), 0.005, "step of 3 %, and nights differ by 0.5 %"),
        (Put::Step(0.05), 0.01, "step of 5 %, and nights differ by 1 %"),
    ] {
        let outcome = simulated(put, Confirming::Apart, shared, 1);
        show(what, &outcome);
        assert!(outcome.found * 10 >= outcome.changed, "{what}: {outcome:?}");
        assert!(outcome.per_10_nights() <= 1.0, "{what}: {} false alarms", outcome.false_alarms);
    }
}

#[test]
fn a_drift_that_no_screen_sees_is_found() {
    let outcome = simulated(Put::Drift(0.001), Confirming::Apart, 0.0, 1);
    show("drift of 0.1 % each night", &outcome);
    assert!(outcome.found * 10 >= outcome.changed * 9, "{outcome:?}");
    assert!(outcome.per_10_nights() <= 1.0, "{} false alarms", outcome.false_alarms);
}

#[test]
fn a_single_bad_night_of_a_cell_is_no_alarm() {
    for confirming in [Confirming::Never, Confirming::Apart, Confirming::InTurns] {
        let outcome = simulated(Put::Spikes(10), confirming, 0.0, 1);
        show(&format!("each hundredth night of a cell slower by 10 %, confirming {confirming:?}"), &outcome);
        assert!(outcome.per_10_nights() <= 1.0, "{confirming:?}: {} false alarms", outcome.false_alarms);
    }
}

#[test]
fn another_driver_is_a_break_and_no_alarm() {
    let outcome = simulated(Put::Hardware, Confirming::Apart, 0.0, 1);
    show("another driver on one machine of 10, and 10 % slower", &outcome);
    assert_eq!((outcome.breaks, outcome.events), (outcome.changed, 0));
    assert!(outcome.per_10_nights() <= 1.0, "{} false alarms", outcome.false_alarms);
}

#[test]
fn a_machine_that_becomes_slower_is_one_event() {
    let seeds = 3;
    for confirming in [Confirming::Never, Confirming::Apart] {
        let outcome = simulated(Put::Machine, confirming, 0.0, seeds);
        show(&format!("one machine of 10 slower by 5 %, {seeds} times, confirming {confirming:?}"), &outcome);
        assert_eq!((outcome.events as u64, outcome.found, outcome.false_alarms), (seeds, 0, 0), "{outcome:?}");
    }
}
