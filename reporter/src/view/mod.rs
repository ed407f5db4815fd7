//! View: exactly what page, charts, tables and exports show, as plain structs full of text and numbers. Everything
//! that is said about the data is said here; what follows only lays it out.

mod cells;
mod charts;
mod compare;
mod definitions;
mod hosts;
mod imports;
mod night;
mod overhead;
mod replicas;
mod subject;
mod summary;
mod surroundings;

use jiff::Timestamp;
use regatta_core::flag::{Flag, Flags};
use regatta_core::metrics::METHOD_VERSION;
use serde::Serialize;

pub(crate) use self::cells::shown_of_each;
pub use self::cells::{CellDetail, CellRow, Problem, RepetitionRow, Value};
pub(crate) use self::charts::style;
pub use self::charts::{
    Bar, BarChart, BarGroup, BarPanel, Break, Caption, Change, Chart, Gap, Guide, Heat, HeatMap, HeatRow, Line,
    LineChart, LinePanel, Mark, Night, NightMark, Nightly, Note, Place, Point, Scale, Segment, Series, Strip,
    StripChart, StripPanel, StripRow, TrendChart, trend,
};
pub use self::compare::{Comparison, Headline, Pair, Ratio};
pub use self::definitions::Definition;
pub use self::hosts::{Engine, HostView};
pub use self::imports::{ImportRow, ImportView};
pub use self::night::{NightLine, NightView};
pub use self::overhead::Overhead;
pub use self::replicas::GroupRow;
use self::subject::Subject;
pub use self::summary::{Banner, Count};
pub use self::surroundings::Head;
use crate::dataset::{Dataset, Run};
use crate::text;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Its title.
    pub title: String,
    /// When it was made: a label.
    pub generated_at: String,
    /// Version of Regatta that made it.
    pub regatta_version: String,
    /// Version of the definitions behind derived numbers.
    pub method_version: u32,
    /// The runs, oldest first.
    pub runs: Vec<RunView>,
    /// Results of other tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<ImportView>,
    /// Where every repetition is found with all of its columns, as a sentence.
    pub rows: String,
    /// What each metric means.
    pub definitions: Vec<Definition>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunView {
    /// Its id.
    pub id: String,
    /// A name for anchors: the id, safe in a URL.
    pub anchor: String,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's line for people.
    pub description: String,
    /// When it ran and where it stands, as a sentence.
    pub status: String,
    /// What must be known before any number is read.
    pub banners: Vec<Banner>,
    /// What was said of it as a night, where it was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub night: Option<NightView>,
    /// How many cells ended how.
    pub counts: Vec<Count>,
    /// Cells in all.
    pub total: usize,
    /// Machines and engines, a line each.
    pub setup: Vec<String>,
    /// The main findings.
    pub headlines: Vec<Headline>,
    /// Engine against engine, for each precision.
    pub comparisons: Vec<Comparison>,
    /// What answers cost beyond their forward passes, where both were measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overheads: Vec<Overhead>,
    /// Charts, for each model on each device.
    pub sections: Vec<Section>,
    /// Every measured cell.
    pub rows: Vec<CellRow>,
    /// The flags that each of several has, for a line above their table.
    pub common_flags: Vec<Meaning>,
    /// Whether device memory is known of any of them.
    pub has_device_memory: bool,
    /// Whether energy is known of any of them.
    pub has_energy: bool,
    /// Every group of replicas that was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRow>,
    /// Every cell without a full result.
    pub problems: Vec<Problem>,
    /// Why cells ended without a result, the most frequent reasons first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The repetitions of each cell.
    pub details: Vec<CellDetail>,
    /// What the flags of this run mean.
    pub flags: Vec<Meaning>,
    /// The machines.
    pub hosts: Vec<HostView>,
    /// Name of the scenario's file.
    pub scenario_file: String,
    /// The scenario's text.
    pub scenario_text: String,
}

impl RunView {
    /// Whether any cell's share of its device's peaks is known.
    pub fn has_utilisation(&self) -> bool {
        self.rows.iter().any(|row| row.mbu.sort.is_some() || row.prefill_mfu.sort.is_some())
    }
}

/// Everything that is charted together: one model with one kind of weights on one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    /// What the charts are about.
    pub title: String,
    /// The charts.
    pub charts: Vec<Chart>,
}

/// A word and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// The word.
    pub name: String,
    /// What it means.
    pub meaning: String,
}

/// What [`report`] shows of `dataset`; `generated_at` is the time printed on it.
pub fn report(dataset: &Dataset, generated_at: Timestamp) -> Report {
    let names: Vec<String> = dataset.runs.iter().map(|r| text::label(&r.scenario)).collect();
    let several = names.len() > 1;
    let imports = imports::imports(&dataset.imports);
    let title = match (names.as_slice(), imports.as_slice()) {
        ([], [only]) => only.title.clone(),
        ([], imports) => format!("{} imports", imports.len()),
        ([only], _) => only.clone(),
        (names, _) => format!("{} runs", names.len()),
    };
    Report {
        title,
        generated_at: text::minute(generated_at),
        regatta_version: env!("CARGO_PKG_VERSION").to_owned(),
        method_version: METHOD_VERSION,
        runs: dataset.runs.iter().map(|run| run_view(run, several, cells::shown(&dataset.runs))).collect(),
        imports,
        rows: rows(samples(dataset)),
        definitions: definitions::all(),
    }
}

fn rows(samples: usize) -> String {
    let n = text::count(samples, "repetition");
    if samples <= crate::write::MAX_ROWS {
        format!("All columns of all {n} stand in samples.csv, which is written beside this page.")
    } else {
        format!("All columns of all {n}: regatta report --format csv.")
    }
}

/// Repetitions of the dataset that keep the rules.
pub(crate) fn samples(dataset: &Dataset) -> usize {
    dataset.runs.iter().flat_map(|run| &run.cells).map(|cell| cell.measured().count()).sum()
}

fn run_view(run: &Run, several: bool, shown: usize) -> RunView {
    let (subjects, groups) = (subject::subjects(run), replicas::groups(run));
    let of_replicas = subject::replicas(run);
    let comparisons: Vec<Comparison> =
        subjects.iter().flat_map(|s| compare::comparisons(s, subjects.len() > 1)).collect();
    let counted = run.cells.iter().flat_map(|cell| &cell.samples);
    let (has_device_memory, has_energy) = surroundings::has_device_numbers(counted);
    let problems: Vec<Problem> = cells::problems(run).into_iter().chain(replicas::problems(run, &groups)).collect();
    let prefix = if several { text::slug(run.id.as_str()) } else { String::new() };
    let rows = cells::rows(&subjects);
    RunView {
        id: text::label(run.id.as_str()),
        anchor: text::slug(run.id.as_str()),
        scenario: text::label(&run.scenario),
        description: text::label(&run.description),
        status: summary::status(run),
        banners: summary::banners(run),
        night: run.night.as_ref().map(night::view),
        counts: summary::counts(run),
        total: run.cells.len(),
        setup: hosts::setup(run),
        headlines: compare::headlines(&subjects, &comparisons),
        comparisons,
        overheads: overhead::overheads(&subjects),
        sections: sections(&subjects, &prefix).into_iter().chain(replicas::sections(&groups, &prefix)).collect(),
        common_flags: if rows.len() > 1 { common(rows.iter().map(|row| &row.flags)) } else { Vec::new() },
        rows,
        has_device_memory,
        has_energy,
        groups: replicas::rows(&groups),
        reasons: summary::reasons(&problems),
        problems,
        details: [cells::details(&subjects, shown), cells::details(&of_replicas, shown)].concat(),
        flags: meanings(run.cells.iter().flat_map(crate::dataset::CellResult::flags).collect()),
        hosts: hosts::hosts(run),
        scenario_file: text::label(&run.scenario_file),
        scenario_text: text::block(&run.scenario_text),
    }
}

/// Charts of each subject, and before them those across several; file names carry the subject only where there is more
/// than one.
fn sections(subjects: &[Subject<'_>], prefix: &str) -> Vec<Section> {
    let across = charts::across(subjects, prefix);
    if let [only] = subjects {
        let charts = charts::all(only, prefix).into_iter().chain(across).collect();
        return vec![Section { title: only.label(), charts }];
    }
    let slug = |s: &Subject<'_>| {
        let parts = [prefix.to_owned(), text::slug(&s.key())];
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
    };
    let overview = Section { title: "All models and devices".to_owned(), charts: across };
    let each = subjects.iter().map(|s| Section { title: s.label(), charts: charts::all(s, &slug(s)) });
    std::iter::once(overview).filter(|s| !s.charts.is_empty()).chain(each).collect()
}

/// The flags that are in every one of these lists.
fn common<'f>(mut lists: impl Iterator<Item = &'f Vec<Meaning>>) -> Vec<Meaning> {
    let Some(first) = lists.next() else { return Vec::new() };
    lists.fold(first.clone(), |mut common, list| {
        common.retain(|flag| list.contains(flag));
        common
    })
}

/// Flags in words: `debug_build` as `debug build`.
fn meanings(flags: Flags) -> Vec<Meaning> {
    let meaning = |f: Flag| Meaning { name: f.as_str().replace('_', " "), meaning: f.meaning().to_owned() };
    flags.into_iter().map(meaning).collect()
}
