//! What reports say of runs that went well, half well and not at all.

use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::flag::Flag;
use regatta_reporter::chart::{self, Layout};
use regatta_reporter::dataset::Dataset;
use regatta_reporter::view::{self, Chart, Mark, Report};

use crate::common::{self, Plan};

fn report(dataset: &Dataset) -> Report {
    view::report(dataset, common::start())
}

fn small() -> Dataset {
    let plan = Plan {
        backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
        precisions: vec![Precision::F16, Precision::Q8_0],
        workloads: vec![("short", 32, 8, 1), ("chat", 64, 24, 1)],
        repetitions: 3,
    };
    Dataset { runs: vec![common::run(common::cells(&plan, "bench-01", Weights::Synthetic))] }
}

fn charts(report: &Report) -> Vec<&Chart> {
    report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts).collect()
}

#[test]
fn the_view_of_a_small_run() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&report(&small())).unwrap());
}

#[test]
fn a_chart_as_svg() {
    let report = report(&small());
    let svg = chart::svg(charts(&report)[0], Layout::NARROW).unwrap();
    insta::assert_snapshot!(svg);
}

#[test]
fn every_cell_of_a_troubled_run_is_accounted_for() {
    let report = report(&common::troubled());
    let run = &report.runs[0];
    assert_eq!(run.counts.iter().map(|c| c.n).sum::<usize>(), run.total);
    let complete = run.rows.iter().filter(|row| !row.partial).count();
    assert_eq!(complete + run.problems.len(), run.total);
    assert!(run.banners.iter().any(|b| b.title == "Run not finished"));
    assert!(run.banners.iter().any(|b| b.title == "Synthetic weights"));
    let refused: Vec<&String> = run.details.iter().flat_map(|d| &d.rejected).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("repetition 4 of lease 2: token 12 at "), "{refused:?}");
    let late = run.details.iter().flat_map(|d| &d.repetitions).filter(|r| !r.counted).count();
    assert_eq!(late, 1);
}

#[test]
fn a_cell_without_a_result_is_marked_and_never_zero() {
    let report = report(&common::troubled());
    let mut states = Vec::new();
    for chart in charts(&report) {
        let Chart::Bars(bars) = chart else { continue };
        for bar in bars.panels.iter().flat_map(|p| &p.groups).flat_map(|g| &g.bars) {
            match &bar.mark {
                Mark::Value { median, .. } => assert!(*median > 0.0),
                Mark::Missing { state } => states.push(state.as_str()),
                Mark::Absent => panic!("no cell of this matrix is absent"),
            }
        }
    }
    states.sort_unstable();
    states.dedup();
    assert_eq!(states, ["crashed", "failed", "measuring", "oom", "skipped", "waiting"]);
}

#[test]
fn synthetic_weights_are_named_in_every_chart() {
    let report = report(&small());
    let charts = charts(&report);
    assert_eq!(charts.len(), 5);
    assert!(charts.iter().all(|c| c.caption().subtitle.contains("synthetic weights")));
}

#[test]
fn file_names_of_charts_differ() {
    let report = report(&common::fleet());
    let mut slugs: Vec<&str> = charts(&report).iter().map(|c| c.caption().slug.as_str()).collect();
    let all = slugs.len();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), all);
}

#[test]
fn the_faster_engine_comes_first() {
    let mut dataset = small();
    // Candle's names on llama.cpp's samples and the other way round.
    let half = dataset.runs[0].cells.len() / 2;
    let (first, second) = dataset.runs[0].cells.split_at_mut(half);
    for (a, b) in first.iter_mut().zip(second) {
        std::mem::swap(&mut a.samples, &mut b.samples);
    }
    let report = report(&dataset);
    let sentence = &report.runs[0].comparisons[0].sentence;
    assert!(sentence.starts_with("candle decodes 1."), "{sentence}");
    let same = &report.runs[0].comparisons[0].pairs[0].same_tokens;
    assert_eq!(same.text, "8 of 8");
}

#[test]
fn six_repetitions_give_an_interval_and_three_none() {
    let three = report(&small());
    assert!(three.runs[0].rows.iter().all(|r| r.decode_ci == "no CI"));
    let seven = report(&common::fleet());
    assert!(seven.runs[0].rows.iter().all(|r| r.decode_ci.contains(" to ") && r.decode_ci.ends_with("(98.4 %)")));
}

#[test]
fn a_run_without_cells_says_so() {
    let report = report(&common::fleet());
    assert_eq!(report.runs[1].banners[0].title, "Empty run");
    assert!(report.runs[1].sections.is_empty());
}

#[test]
fn numbers_that_can_not_be_are_listed_and_not_charted() {
    let mut dataset = small();
    let cell = &mut dataset.runs[0].cells[0];
    cell.samples[1].flags.insert(Flag::FasterThanPhysics);
    assert!(!cell.is_ok());
    let shown = serde_json::to_string(&report(&dataset)).unwrap();
    assert!(shown.contains("faster_than_physics") && shown.contains(Flag::FasterThanPhysics.meaning()));
}
