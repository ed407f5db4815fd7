//! Subjects: a run's cells grouped by what may be compared directly, one model with one kind of weights on one card, either
//! end to end or forward passes alone, and by one build of the worker.

use std::collections::BTreeSet;

use regatta_core::artifact::{ArtifactRef, Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::Cell;
use regatta_core::device::DeviceId;
use regatta_core::flag::Flag;
use regatta_core::quality::Quality;
use regatta_core::roofline::peaks::Number;
use regatta_core::workload::Workload;

use crate::dataset::{CellResult, Run};
use crate::roofline::{Source, Utilisation};
use crate::stats::{CellStats, Summary};
use crate::text;

/// A cell with its statistics.
pub(super) struct Measured<'a> {
    pub(super) result: &'a CellResult,
    /// [`CellResult::is_ok`], which looks at every repetition.
    pub(super) is_ok: bool,
    pub(super) stats: CellStats,
    pub(super) used: Used,
}

/// How much of its device's peaks a cell used.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) mbu: Option<Share>,
    pub(super) prefill_mfu: Option<Share>,
    pub(super) decode_mfu: Option<Share>,
}

/// A share of a peak.
#[derive(Debug)]
pub(super) struct Share {
    /// Over repetitions, in percent.
    pub(super) percent: Summary,
    /// Whose peak: `of measured`, `of vendor's f16`.
    pub(super) of: String,
}

impl Used {
    fn of(result: &CellResult) -> Self {
        let used: Vec<Utilisation> = result.samples.iter().map(|sample| result.utilisation(sample)).collect();
        Self {
            mbu: Share::of(used.iter().filter_map(|u| u.mbu.map(|(share, source)| (share, of(source, None))))),
            prefill_mfu: Share::of(used.iter().filter_map(|u| u.prefill_mfu.map(of_flops))),
            decode_mfu: Share::of(used.iter().filter_map(|u| u.decode_mfu.map(of_flops))),
        }
    }
}

impl Share {
    fn of(shares: impl Iterator<Item = (f64, String)>) -> Option<Self> {
        let (shares, mut of): (Vec<f64>, Vec<String>) = shares.unzip();
        // Repetitions of a process are no sample of processes: no interval.
        let percent = Summary { ci: None, ..Summary::of(shares.into_iter().map(|share| share * 100.0))? };
        Some(Self { percent, of: of.pop().unwrap_or_default() })
    }
}

fn of_flops((share, source, number): (f64, Source, Number)) -> (f64, String) {
    (share, of(source, Some(number)))
}

fn of(source: Source, number: Option<Number>) -> String {
    let whose = match source {
        Source::Measured => "of measured",
        Source::Vendor => "of vendor's",
    };
    number.map_or_else(|| whose.to_owned(), |number| format!("{whose} {}", number.as_str()))
}

/// One model with one kind of weights on one card, timed in one way.
pub(super) struct Subject<'a> {
    pub(super) run: &'a Run,
    pub(super) cells: Vec<Measured<'a>>,
}

/// The subjects of a run, in the order of its cells, of cells that were measured one at a time. Never one without cells.
pub(super) fn subjects(run: &Run) -> Vec<Subject<'_>> {
    gather(run, |cell| cell.workload.replicas == 1)
}

/// The same of cells that were measured with others.
pub(super) fn replicas(run: &Run) -> Vec<Subject<'_>> {
    gather(run, |cell| cell.workload.replicas > 1)
}

fn gather(run: &Run, which: fn(&Cell) -> bool) -> Vec<Subject<'_>> {
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for result in run.cells.iter().filter(|result| which(&result.cell)) {
        let stats = CellStats::of(&result.samples, result.per_pass);
        let measured = Measured { result, is_ok: result.is_ok(), stats, used: Used::of(result) };
        match subjects.iter_mut().find(|s| same(run, s.cell(), &result.cell)) {
            Some(subject) => subject.cells.push(measured),
            None => subjects.push(Subject { run, cells: vec![measured] }),
        }
    }
    subjects
}

fn same(run: &Run, a: &Cell, b: &Cell) -> bool {
    let key = |artifact: &ArtifactRef| (artifact.model.clone(), artifact.weights);
    let kernel = |cell: &Cell| cell.workload.kind.is_kernel();
    (&a.agent, run.card(a), &a.build, kernel(a)) == (&b.agent, run.card(b), &b.build, kernel(b))
        && key(&a.artifact) == key(&b.artifact)
}

impl<'a> Subject<'a> {
    /// Any of its cells: they agree in agent, card, model, weights, and in whether forward passes alone are timed.
    pub(super) fn cell(&self) -> &'a Cell {
        &self.cells[0].result.cell
    }

    /// `tinyllama-1.1b on cpu (AMD EPYC 9654) of bench-01`.
    pub(super) fn label(&self) -> String {
        let cell = self.cell();
        let name = self.run.device(cell).map(|d| format!(" ({})", text::label(&d.name))).unwrap_or_default();
        format!("{} on {}{name} of {}{}", cell.artifact.model, self.devices(), cell.agent, self.timed())
    }

    /// Its device; where a card is two, both: `directml:0 and vulkan:0`.
    fn devices(&self) -> String {
        let devices: BTreeSet<DeviceId> = self.cells.iter().map(|measured| measured.result.cell.device).collect();
        devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    }

    /// `, forward passes alone`, where that is what is timed; `, build candidate`, where builds are measured in turns.
    fn timed(&self) -> String {
        let timed = if self.is_kernel() { ", forward passes alone" } else { "" };
        let build = self.cell().build.as_ref().map(|build| format!(", build {build}")).unwrap_or_default();
        format!("{timed}{build}")
    }

    /// Whether forward passes alone are timed.
    pub(super) fn is_kernel(&self) -> bool {
        self.cell().workload.kind.is_kernel()
    }

    /// As [`Self::label`], without the device's name.
    pub(super) fn short_label(&self) -> String {
        let cell = self.cell();
        format!("{} on {} of {}{}", cell.artifact.model, self.devices(), cell.agent, self.timed())
    }

    /// A short unique name within the run.
    pub(super) fn key(&self) -> String {
        let Cell { agent, artifact, build, .. } = self.cell();
        let device = self.run.card(self.cell());
        let timed = if self.is_kernel() { " kernel" } else { "" };
        let build = build.as_ref().map(|build| format!(" {build}")).unwrap_or_default();
        format!("{agent} {device} {} {}{timed}{build}", artifact.model, artifact.weights)
    }

    pub(super) fn is_synthetic(&self) -> bool {
        self.cell().artifact.weights == Weights::Synthetic
    }

    /// Its backends, in the order of documentation.
    pub(super) fn backends(&self) -> Vec<BackendKind> {
        BackendKind::ALL.into_iter().filter(|b| self.cells.iter().any(|m| m.backend() == *b)).collect()
    }

    /// Its precisions, from most to fewest bits.
    pub(super) fn precisions(&self) -> Vec<Precision> {
        Precision::ALL.into_iter().filter(|p| self.cells.iter().any(|m| m.precision() == *p)).collect()
    }

    /// Its workloads, in the order of the scenario.
    pub(super) fn workloads(&self) -> Vec<&'a Workload> {
        let mut workloads: Vec<&Workload> = Vec::new();
        for cell in &self.cells {
            let workload = cell.workload();
            if !workloads.iter().any(|w| w.name == workload.name) {
                workloads.push(workload);
            }
        }
        workloads
    }

    /// The cell at a point of the matrix.
    pub(super) fn at(&self, backend: BackendKind, precision: Precision, workload: &Workload) -> Option<&Measured<'a>> {
        self.cells
            .iter()
            .find(|m| m.backend() == backend && m.precision() == precision && m.workload().name == workload.name)
    }
}

impl<'a> Measured<'a> {
    pub(super) fn backend(&self) -> BackendKind {
        self.result.cell.backend
    }

    pub(super) fn precision(&self) -> Precision {
        self.result.cell.artifact.precision
    }

    pub(super) fn workload(&self) -> &'a Workload {
        &self.result.cell.workload
    }

    /// The prompt's length: as measured, else as planned.
    pub(super) fn prompt_tokens(&self) -> Option<u32> {
        self.result.samples.first().map(|s| s.prompt_tokens).or(self.workload().prompt.tokens())
    }

    /// The size of its work, for people.
    pub(super) fn size(&self) -> String {
        self.workload().size(self.prompt_tokens())
    }

    /// Whether its numbers must not be taken as settled.
    pub(super) fn is_suspect(&self) -> bool {
        let flags = self.result.flags();
        let unsettled = Flag::WarmupNotStable | Flag::OutputChanged | Flag::Trend | Flag::DebugBuild;
        flags.intersects(unsettled) || Quality::of(flags) != Quality::Valid
    }

    /// `candle · q8_0 · long-prompt`.
    pub(super) fn label(&self) -> String {
        let (workload, replica) = (self.workload(), self.result.cell.replica + 1);
        let replica = match workload.replicas {
            1 => String::new(),
            replicas => format!(" · replica {replica} of {replicas}"),
        };
        let build = self.result.cell.build.as_ref().map(|build| format!(" · build {build}")).unwrap_or_default();
        format!("{} · {} · {}{replica}{build}", self.backend(), self.precision(), workload.name)
    }
}
