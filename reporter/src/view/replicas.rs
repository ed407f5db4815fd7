//! Replicas: groups of cells that were measured at the same time, one row each, and how their number scales.
//!
//! For repetition `r` of a group, with `t0` and `te` of each replica on that replica's own clock:
//!
//! ```text
//! duration(k, r)  = te - t0                                   of replica k
//! tokens(k, r)    = batch × generated tokens                  of replica k
//! rate(k, r)      = tokens(k, r) / duration(k, r)             what one device does
//! aggregate(r)    = Σ tokens(k, r) / max duration(k, r)       what all of them do together
//! efficiency(n)   = aggregate of n / (n × aggregate of 1)     medians over repetitions
//! ```
//! No clock is compared with another. The replicas do not begin at exactly the same time: how far apart they may have
//! begun is the start skew, stated beside, and not part of the sum.

use std::collections::{BTreeMap, BTreeSet};

use regatta_core::cell::Outcome;
use regatta_core::failure::FailureKind;
use regatta_core::sample::Sample;
use regatta_core::workload::Workload;
use serde::Serialize;

use super::cells::{Value, plain, spread};
use super::charts::{self, Caption, Chart, Guide, Line, LineChart, LinePanel, Note, Place, Point, Scale, Series};
use super::{Meaning, Section};
use crate::dataset::{CellResult, Run};
use crate::stats::{Summary, ms};
use crate::text;

/// A group in the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRow {
    /// The backend.
    pub backend: &'static str,
    /// Precision of the weights.
    pub precision: &'static str,
    /// The workload.
    pub workload: String,
    /// Prompt, generated tokens and batch of one replica.
    pub size: String,
    /// How many replicas.
    pub replicas: u32,
    /// Model and devices.
    pub place: String,
    /// Repetitions that all replicas have measured.
    pub n: usize,
    /// Why it is not a full result. Empty where it is one.
    pub problem: String,
    /// Generated tokens per second of all replicas together: median and MAD.
    pub aggregate: Value,
    /// Generated tokens per second of one replica: median, and the slowest and fastest replica's.
    pub each: Value,
    /// In relation to as many single devices, in percent.
    pub efficiency: Value,
    /// At most so far apart the replicas began, in ms: median, and the largest.
    pub skew: Value,
    /// Flags with their meaning.
    pub flags: Vec<Meaning>,
}

/// Cells that were measured at the same time.
pub(super) struct Group<'a> {
    run: &'a Run,
    /// By replica.
    cells: Vec<&'a CellResult>,
}

/// The groups of a run, in the order of its cells. Cells of groups that were never tried are not among them.
pub(super) fn groups(run: &Run) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for cell in run.cells.iter().filter(|cell| cell.group.is_some()) {
        let same = |group: &&mut Group<'_>| {
            let first = group.cells[0];
            first.group == cell.group && first.cell.workload == cell.cell.workload
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.cells.push(cell),
            None => groups.push(Group { run, cells: vec![cell] }),
        }
    }
    for group in &mut groups {
        group.cells.sort_by_key(|cell| cell.cell.replica);
    }
    groups
}

/// Every group with numbers.
pub(super) fn rows(groups: &[Group<'_>]) -> Vec<GroupRow> {
    groups.iter().filter(|group| group.cells.iter().any(|cell| !cell.samples.is_empty())).map(row).collect()
}

fn row(group: &Group<'_>) -> GroupRow {
    let cell = &group.cells[0].cell;
    let single = Single::of(group);
    let aggregate = group.aggregate();
    let efficiency = group.median().zip(single.median).map(|(all, one)| all / (f64::from(group.replicas()) * one));
    GroupRow {
        backend: cell.backend.as_str(),
        precision: cell.artifact.precision.as_str(),
        workload: cell.workload.name.to_string(),
        size: group.size(),
        replicas: group.replicas(),
        place: group.place(),
        n: group.whole().len(),
        problem: group.problem(),
        aggregate: spread(Summary::of(aggregate)),
        each: group.each(),
        efficiency: Value::new(efficiency.map_or_else(|| text::MISSING.to_owned(), text::percent), efficiency),
        skew: group.skew(),
        flags: group.flags(),
    }
}

impl Group<'_> {
    fn workload(&self) -> &Workload {
        &self.cells[0].cell.workload
    }

    fn replicas(&self) -> u32 {
        self.workload().replicas
    }

    /// Whether every replica has a full result.
    fn is_ok(&self) -> bool {
        self.cells.len() == self.replicas() as usize && self.cells.iter().all(|cell| cell.is_ok())
    }

    /// Repetitions that every replica has measured under the lease that counts, in order.
    fn whole(&self) -> Vec<Vec<&Sample>> {
        let mut by_repetition: BTreeMap<u32, Vec<&Sample>> = BTreeMap::new();
        for sample in self.cells.iter().flat_map(|cell| &cell.samples) {
            by_repetition.entry(sample.key.repetition).or_default().push(sample);
        }
        let together = |samples: &Vec<&Sample>| {
            let epochs: BTreeSet<_> = samples.iter().map(|sample| sample.key.epoch).collect();
            samples.len() == self.replicas() as usize && epochs.len() == 1
        };
        by_repetition.into_values().filter(together).collect()
    }

    /// Generated tokens per second of all replicas together, repetition by repetition.
    fn aggregate(&self) -> Vec<f64> {
        self.whole().iter().map(|samples| aggregate(samples)).collect()
    }

    /// Median of [`Self::aggregate`] of a group with a full result.
    fn median(&self) -> Option<f64> {
        Summary::of(self.aggregate()).filter(|_| self.is_ok()).map(|summary| summary.median)
    }

    fn each(&self) -> Value {
        let whole = self.whole();
        let medians = (0..self.cells.len()).filter_map(|replica| {
            let rates = whole.iter().filter_map(|samples| samples.get(replica)).map(|sample| rate(sample));
            Summary::of(rates).map(|summary| summary.median)
        });
        let summary = Summary::of(medians);
        let note = summary.map(|s| format!("{} to {}", text::number(s.min), text::number(s.max)));
        Value { note: note.unwrap_or_default(), ..plain(summary.map(|s| s.median)) }
    }

    fn skew(&self) -> Value {
        let first = self.cells[0];
        let skews = first.samples.iter().filter_map(|sample| first.start_skew_ns(sample));
        let summary = Summary::of(skews.map(ms));
        let note = summary.filter(|s| s.n > 1).map(|s| format!("at most {}", text::number(s.max)));
        Value { note: note.unwrap_or_default(), ..plain(summary.map(|s| s.median)) }
    }

    fn size(&self) -> String {
        let measured = self.cells.iter().find_map(|cell| cell.samples.first()).map(|sample| sample.prompt_tokens);
        self.workload().size(measured.or(self.workload().prompt.tokens()))
    }

    /// `tinyllama-1.1b on cuda:0, cuda:1 of bench-01; cuda:0 of bench-02`.
    fn place(&self) -> String {
        let mut agents: Vec<(String, Vec<String>)> = Vec::new();
        for cell in &self.cells {
            let (agent, device) = (text::label(cell.cell.agent.as_str()), cell.cell.device.to_string());
            match agents.iter_mut().find(|(known, _)| *known == agent) {
                Some((_, devices)) => devices.push(device),
                None => agents.push((agent, vec![device])),
            }
        }
        let agents = agents.into_iter().map(|(agent, devices)| format!("{} of {agent}", devices.join(", ")));
        format!("{} on {}", self.cells[0].cell.artifact.model, agents.collect::<Vec<_>>().join("; "))
    }

    fn flags(&self) -> Vec<Meaning> {
        let mut flags = super::meanings(self.cells.iter().flat_map(|cell| cell.flags()).collect());
        if self.shares_a_machine() {
            let meaning = "several of its replicas ran on one machine and shared its power, memory and processor";
            flags.push(Meaning { name: "one machine".to_owned(), meaning: meaning.to_owned() });
        }
        flags
    }

    /// Whether replicas ran on devices of the same machine, be it by one agent or by several.
    fn shares_a_machine(&self) -> bool {
        let mut seen = BTreeSet::new();
        !self.cells.iter().all(|cell| seen.insert(self.run.machine(&cell.cell)))
    }

    /// Why it is not a full result: what the replica that failed first said of it.
    fn problem(&self) -> String {
        if self.is_ok() {
            return String::new();
        }
        match self.culprit() {
            Some((replica, outcome)) => format!("replica {replica}: {}", text::reason(&outcome.to_string())),
            None => self.cells.iter().find(|cell| !cell.is_ok()).map_or("not complete", |cell| cell.state()).to_owned(),
        }
    }

    /// The outcome to blame: not of a replica that ended only because another one did.
    fn culprit(&self) -> Option<(u32, &Outcome)> {
        let bad = |cell: &&&CellResult| !matches!(cell.outcome, None | Some(Outcome::Ok));
        let cause =
            |cell: &&&CellResult| bad(cell) && !matches!(cell.outcome, Some(Outcome::Failed(FailureKind::Replica, _)));
        let found = self.cells.iter().find(cause).or_else(|| self.cells.iter().find(bad));
        found.and_then(|cell| Some((cell.cell.replica, cell.outcome.as_ref()?)))
    }
}

/// Tokens per second of one replica.
fn rate(sample: &Sample) -> f64 {
    tokens(sample) * 1e9 / sample.times.end as f64
}

fn tokens(sample: &Sample) -> f64 {
    f64::from(sample.batch) * sample.times.tokens.len() as f64
}

fn aggregate(samples: &[&Sample]) -> f64 {
    let longest = samples.iter().map(|sample| sample.times.end).max().unwrap_or_default();
    samples.iter().map(|sample| tokens(sample)).sum::<f64>() * 1e9 / longest as f64
}

/// What one device does by itself: the cells with one replica that do the same work on the same kind of device.
struct Single {
    /// Over all repetitions of all of them.
    rates: Vec<f64>,
    median: Option<f64>,
}

impl Single {
    fn of(group: &Group<'_>) -> Self {
        let cell = &group.cells[0].cell;
        let alone = Workload { replicas: 1, ..group.workload().clone() };
        let same = |other: &&CellResult| {
            let other_cell = &other.cell;
            other.is_ok()
                && *other_cell.workload == alone
                && (other_cell.backend, &other_cell.artifact) == (cell.backend, &cell.artifact)
                && group.run.kind_of_device(other_cell) == group.run.kind_of_device(cell)
        };
        let rates: Vec<f64> = group.run.cells.iter().filter(same).flat_map(|other| &other.samples).map(rate).collect();
        let median = Summary::of(rates.iter().copied()).map(|summary| summary.median);
        Self { rates, median }
    }
}

/// The charts of how replicas scale, for each model on each kind of device.
pub(super) fn sections(groups: &[Group<'_>], prefix: &str) -> Vec<Section> {
    let mut scales: Vec<Vec<&Group<'_>>> = Vec::new();
    for group in groups {
        let key = |group: &Group<'_>| {
            let cell = &group.cells[0].cell;
            (cell.artifact.model.clone(), cell.artifact.weights, group.run.kind_of_device(cell))
        };
        match scales.iter_mut().find(|scale| key(scale[0]) == key(group)) {
            Some(scale) => scale.push(group),
            None => scales.push(vec![group]),
        }
    }
    let one = scales.len() == 1;
    let section = |(i, scale): (usize, Vec<&Group<'_>>)| {
        let number = if one { String::new() } else { format!("{}", i + 1) };
        let parts = [prefix, number.as_str(), "scaling"];
        let slug = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        let chart = chart(&scale, slug)?;
        Some(Section { title: format!("{} on several devices: {}", model(&scale), kind(&scale)), charts: vec![chart] })
    };
    scales.into_iter().enumerate().filter_map(section).collect()
}

fn model(scale: &[&Group<'_>]) -> String {
    scale[0].cells[0].cell.artifact.model.to_string()
}

fn kind(scale: &[&Group<'_>]) -> String {
    let cell = &scale[0].cells[0].cell;
    text::label(&scale[0].run.kind_of_device(cell))
}

/// One panel for each workload and precision, one line for each backend, and beside it the ideal.
fn chart(scale: &[&Group<'_>], slug: String) -> Option<Chart> {
    let mut backends: Vec<_> = scale.iter().map(|group| group.cells[0].cell.backend).collect();
    backends.sort_by_key(|backend| charts::style(*backend));
    backends.dedup();
    let mut keys: Vec<(&Workload, regatta_core::artifact::Precision)> = Vec::new();
    for group in scale {
        let (workload, precision) = (group.workload(), group.cells[0].cell.artifact.precision);
        if !keys.iter().any(|(known, of)| known.name == workload.name && *of == precision) {
            keys.push((workload, precision));
        }
    }
    let panels: Vec<LinePanel> = keys
        .iter()
        .map(|(workload, precision)| {
            let of_panel = scale.iter().copied().filter(|group| {
                group.workload().name == workload.name && group.cells[0].cell.artifact.precision == *precision
            });
            panel(&backends, &of_panel.collect::<Vec<_>>())
        })
        .take(charts::MAX_PANELS)
        .collect();
    if panels.iter().all(|panel| panel.lines.is_empty()) {
        return None;
    }
    let synthetic = scale[0].cells[0].cell.artifact.weights == regatta_core::artifact::Weights::Synthetic;
    let largest = scale
        .iter()
        .filter_map(|group| group.skew().sort)
        .fold(None, |most: Option<f64>, skew| Some(most.map_or(skew, |most| most.max(skew))));
    let machine = scale.iter().any(|group| group.shares_a_machine());
    let notes = [
        format!("{} on {}", model(scale), kind(scale)),
        if synthetic { "synthetic weights".to_owned() } else { String::new() },
        "prompt included, begun together".to_owned(),
        largest.map(|skew| format!("start skew at most {} ms in the median", text::number(skew))).unwrap_or_default(),
        "whiskers: minimum to maximum".to_owned(),
        "percent: of the ideal, as many times one device (thin line)".to_owned(),
        if machine { "replicas shared a machine".to_owned() } else { String::new() },
    ];
    let notes: Vec<String> = notes.into_iter().filter(|note| !note.is_empty()).collect();
    let series =
        backends.iter().map(|backend| Series { label: backend.to_string(), style: charts::style(*backend) }).collect();
    Some(Chart::Lines(LineChart {
        caption: Caption {
            slug,
            title: "How much faster several devices generate together, in tokens/s".to_owned(),
            subtitle: notes.join("\u{a0}· "),
            value_axis: "All devices together, tokens/s".to_owned(),
            series,
        },
        length_axis: "devices".to_owned(),
        length_scale: Scale::Log2,
        // Both axes by factors: the ideal is a straight line, and its distance the efficiency wherever it is.
        value_scale: Scale::Log10,
        shared: false,
        panels,
    }))
}

fn panel(backends: &[regatta_core::backend::BackendKind], groups: &[&Group<'_>]) -> LinePanel {
    let first = groups[0];
    let title = format!("{}: {} · {}", first.workload().name, first.size(), first.cells[0].cell.artifact.precision);
    let mut panel = LinePanel::titled(title);
    for (series, backend) in backends.iter().enumerate() {
        let of_backend: Vec<_> = groups.iter().copied().filter(|g| g.cells[0].cell.backend == *backend).collect();
        for failed in of_backend.iter().filter(|group| !group.is_ok()) {
            panel.missing.push(format!("{backend} × {}: {}", failed.replicas(), state(failed)));
        }
        let Some(group) = of_backend.first() else { continue };
        let single = Single::of(group);
        let mut points: Vec<Point> = Vec::new();
        points.extend(point(1, &single.rates));
        points.extend(of_backend.iter().filter(|g| g.is_ok()).filter_map(|g| point(g.replicas(), &g.aggregate())));
        points.sort_by(|a, b| a.length.total_cmp(&b.length));
        if let Some(one) = single.median {
            let most = points.last().map_or(1.0, |point| point.length);
            panel.guides.push(Guide { series, from: (1.0, one), to: (most, one * most) });
            let beyond = points.iter().filter(|point| point.length > 1.5);
            panel.notes.extend(beyond.map(|point| Note {
                series,
                length: point.length,
                value: point.value,
                text: text::percent(point.value / (point.length * one)),
                place: Place::Beyond,
            }));
        }
        if !points.is_empty() {
            panel.lines.push(Line { series, pieces: vec![points] });
        }
    }
    panel
}

fn state(group: &Group<'_>) -> &'static str {
    group.culprit().map_or("not complete", |(_, outcome)| outcome.state())
}

fn point(devices: u32, rates: &[f64]) -> Option<Point> {
    let summary = Summary::of(rates.iter().copied())?;
    let (value, low, high) = (summary.median, summary.min, summary.max);
    Some(Point { length: f64::from(devices), value, low, high })
}

/// The group's part of the list of what was not measured: one line for all of its replicas.
pub(super) fn problems(run: &Run, groups: &[Group<'_>]) -> Vec<super::Problem> {
    let tried = groups.iter().filter(|group| !group.is_ok());
    let tried = tried.filter_map(|group| {
        let replica = group.culprit().map_or(0, |(replica, _)| replica);
        let cell = group.cells.iter().find(|cell| cell.cell.replica == replica)?;
        let mut problem = super::cells::problem(cell);
        problem.place = group.place();
        problem.repetitions = group.whole().len();
        problem.reason = format!("replica {replica}: {}", problem.reason);
        Some(problem)
    });
    let untried = run.cells.iter().filter(|cell| cell.group.is_none() && cell.cell.workload.replicas > 1);
    let untried = untried.filter(|cell| cell.cell.replica == 0).map(super::cells::problem);
    tried.chain(untried).collect()
}
