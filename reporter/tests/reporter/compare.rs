//! What is said of two runs held against each other.

use std::sync::Arc;

use jiff::SignedDuration;
use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::cell::Outcome;
use regatta_core::digest::Digest;
use regatta_core::flag::Flag;
use regatta_core::sample::Times;
use regatta_core::statistics::Verdict;
use regatta_reporter::compare::{self, Chosen, Comparison, Conclusion, Options, Refused};
use regatta_reporter::dataset::{CellResult, Run};

use crate::common::{self, Plan};

const OPTIONS: Options = Options { threshold: 0.02, force: false };

/// Both engines at one precision and two workloads, each cell by as many worker processes.
fn base(processes: u32) -> Run {
    let mut plan = Plan::demo();
    plan.precisions = vec![Precision::Q8_0];
    plan.workloads = vec![("short", 32, 16, 1), ("chat", 128, 32, 1)];
    plan.repetitions = processes;
    let mut run = common::run(common::cells(&plan, "bench-01", Weights::Synthetic));
    for cell in &mut run.cells {
        cell.per_pass = 1;
        // What differs from process to process, and not in which order they came: within 0.5 %.
        for (process, sample) in cell.samples.iter_mut().enumerate() {
            let first = common::sample(&cell.cell, sample.key.epoch, 0);
            sample.times = slowed(&first.times, 1.0 + 0.001 * (process as f64 * 7.0 % 5.0));
        }
    }
    run
}

/// The same a day later, in which every cell took so many times as long.
fn candidate(base: &Run, factor: impl Fn(&CellResult) -> f64) -> Run {
    let mut run = base.clone();
    run.id = "0195f6e8-d63e-7c41-9d20-5b7e4f0a1c23".parse().unwrap();
    run.submitted_at += SignedDuration::from_hours(24);
    for cell in &mut run.cells {
        let factor = factor(cell);
        for sample in &mut cell.samples {
            sample.times = slowed(&sample.times, factor);
        }
    }
    run
}

fn slowed(times: &Times, factor: f64) -> Times {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data: small positive numbers")]
    let slow = |ns: u64| (ns as f64 * factor) as u64;
    Times {
        tokenized: slow(times.tokenized),
        prefill_start: slow(times.prefill_start),
        prefill_done: slow(times.prefill_done),
        tokens: times.tokens.iter().copied().map(slow).collect(),
        end: slow(times.end),
    }
}

/// One engine 6 % slower, the other a tenth faster at one workload; a newer build of it.
fn changed(base: &Run) -> Run {
    let mut run = candidate(base, |cell| match (cell.cell.backend, cell.cell.workload.name.as_str()) {
        (BackendKind::Candle, _) => 1.06,
        (_, "chat") => 0.9,
        _ => 1.001,
    });
    for cell in &mut run.cells {
        if let (BackendKind::LlamaCpp, Some(facts)) = (cell.cell.backend, &mut cell.facts) {
            "llama.cpp 0.12.0".clone_into(&mut facts.engine);
        }
    }
    run.hosts[0].facts.insert("kernel".to_owned(), "Linux 6.12.50".to_owned());
    run
}

fn compare(base: &Run, candidate: &Run, options: Options) -> Result<Comparison, Refused> {
    compare::compare(Chosen::all(base), Chosen::all(candidate), options)
}

fn verdicts(comparison: &Comparison) -> Vec<Verdict> {
    comparison.cells.iter().map(|cell| cell.verdict).collect()
}

#[test]
fn what_became_slower_or_faster_is_said_with_the_evidence() {
    use Verdict::{Equivalent, Faster, Slower};

    let base = base(10);
    let comparison = compare(&base, &changed(&base), OPTIONS).unwrap();
    assert_eq!(verdicts(&comparison), [Slower, Slower, Equivalent, Faster]);
    assert_eq!(comparison.conclusion(), Conclusion::Slower);
    let decode = &comparison.cells[0].metrics[0];
    assert!((decode.effect.ratio - 1.0 / 1.06).abs() < 1e-6, "{decode:?}");
    assert!(decode.effect.interval.is_some_and(|ci| ci.low < 1.0 / 1.06 && 1.0 / 1.06 < ci.high), "{decode:?}");
    assert!(decode.bootstrap.is_some_and(|ci| ci.high < 0.96), "{decode:?}");
    insta::assert_snapshot!("compared_as_text", compare::text(&comparison));
    insta::assert_snapshot!("compared_as_junit", compare::junit(&comparison));
    insta::assert_snapshot!("compared_as_markdown", compare::markdown(&comparison));
    let bmf: serde_json::Value = serde_json::from_str(&compare::bmf(&comparison).unwrap()).unwrap();
    assert_eq!(bmf.as_object().unwrap().len(), 4, "{bmf}");
    let decode_ratio = &bmf[&comparison.cells[0].label]["decode_ratio"];
    let end = |name: &str| decode_ratio[name].as_f64().unwrap();
    assert!((end("value") - 1.0 / 1.06).abs() < 1e-6 && end("lower_value") < end("upper_value"), "{bmf}");
    let mut json = serde_json::to_value(&comparison).unwrap();
    json["cells"].as_array_mut().unwrap().truncate(1);
    json["cells"][0]["metrics"].as_array_mut().unwrap().truncate(1);
    insta::assert_snapshot!("compared_as_json", format!("{json:#}"));
}

#[test]
fn the_other_way_round_everything_is_the_other_way_round() {
    let base = base(8);
    let candidate = candidate(&base, |_| 1.1);
    let back = compare(&candidate, &base, OPTIONS).unwrap();
    assert!(verdicts(&back).iter().all(|verdict| *verdict == Verdict::Faster));
    assert_eq!(back.conclusion(), Conclusion::NoSlowdown);
}

#[test]
fn the_same_again_is_equivalent_and_nothing_differs() {
    let base = base(10);
    let comparison = compare(&base, &candidate(&base, |_| 1.0), OPTIONS).unwrap();
    assert!(verdicts(&comparison).iter().all(|verdict| *verdict == Verdict::Equivalent));
    assert_eq!((comparison.differences.len(), comparison.conclusion()), (0, Conclusion::NoSlowdown));
    assert!(compare::text(&comparison).contains("Nothing that is known of their circumstances differs."));
    assert!(compare::markdown(&comparison).starts_with("## 🟢 No slowdown found"));
}

#[test]
fn fewer_than_six_processes_give_no_verdict_and_say_how_to_get_more() {
    let base = base(5);
    let comparison = compare(&base, &candidate(&base, |_| 2.0), OPTIONS).unwrap();
    assert_eq!(comparison.conclusion(), Conclusion::TooFew);
    let text = compare::text(&comparison);
    for part in ["no CI", "5/5", "--passes 10", "--allow-few", "-50.0 %"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn among_hundreds_of_tests_one_small_p_is_no_verdict() {
    // With six processes a side, the smallest p there is is 2 of 924: enough for one test, not for one of a hundred.
    let mut plan = Plan::demo();
    plan.precisions = vec![Precision::Q8_0];
    plan.backends = vec![BackendKind::LlamaCpp];
    plan.workloads = (0..100).map(|i| ("w", 32 + i, 4, 1)).collect();
    plan.repetitions = 6;
    let mut base = common::run(common::cells(&plan, "bench-01", Weights::Synthetic));
    base.cells.iter_mut().for_each(|cell| cell.per_pass = 1);
    for cell in &mut base.cells {
        for (process, sample) in cell.samples.iter_mut().enumerate() {
            let first = common::sample(&cell.cell, sample.key.epoch, 0);
            sample.times = slowed(&first.times, 1.0 + 0.001 * process as f64);
        }
    }
    let one = base.cells[42].hash;
    let comparison =
        compare(&base, &candidate(&base, |cell| if cell.hash == one { 1.1 } else { 1.0 }), OPTIONS).unwrap();
    let cell = &comparison.cells[42];
    assert!(cell.metrics.iter().filter(|metric| metric.primary).all(|metric| metric.held_back), "{cell:?}");
    assert_eq!(comparison.conclusion(), Conclusion::NoSlowdown);
    let text = compare::text(&comparison);
    assert!(text.contains("undecided*") && text.contains("among 200 tests"), "{text}");
}

/// Bad-input row 36.
#[test]
fn other_weights_and_other_machines_are_refused_by_name_and_compared_only_by_force() {
    let base = base(6);
    let mut other = candidate(&base, |_| 1.0);
    "AMD EPYC 9684X, 16 cores".clone_into(&mut other.hosts[0].devices[0].name);
    let facts = other.cells[0].facts.as_mut().unwrap();
    facts.artifact_digest = Digest::of(b"others").to_string();
    let refused = compare(&base, &other, OPTIONS).unwrap_err();
    assert!(matches!(&refused, Refused::Incomparable(differences) if differences.len() == 2), "{refused}");
    insta::assert_snapshot!("refused_by_name", refused.to_string());

    let forced = compare(&base, &other, Options { force: true, ..OPTIONS }).unwrap();
    assert!(forced.forced && forced.differences[0].forbids);
    assert!(compare::text(&forced).contains("NOT COMPARABLE"));
    assert!(compare::markdown(&forced).contains("> **Not comparable.**"));
}

#[test]
fn runs_without_a_cell_in_common_and_a_run_with_itself_are_refused() {
    let base = base(6);
    let mut other = candidate(&base, |_| 1.0);
    for cell in &mut other.cells {
        cell.cell.artifact.precision = Precision::F16;
    }
    let refused = compare(&base, &other, OPTIONS).unwrap_err().to_string();
    assert!(
        refused.contains("no measured cell in common") && refused.contains("q8_0") && refused.contains("f16"),
        "{refused}"
    );
    let itself = compare(&base, &base, OPTIONS).unwrap_err().to_string();
    assert!(itself.contains("name two runs"), "{itself}");
}

#[test]
fn cells_that_are_missing_on_a_side_are_named_and_others_find_their_device() {
    let base = base(6);
    let mut other = candidate(&base, |_| 1.0);
    let failed = other.cells[0].cell.clone();
    other.cells[0] = CellResult::new(failed, Some(Outcome::Crashed("signal 11".to_owned())), None, vec![]);
    Arc::make_mut(&mut other.cells[1].cell.workload).generate = 99;
    // The same device, of an agent by another name.
    for host in &mut other.hosts {
        host.agent = "bench-02".parse().unwrap();
        host.devices[0].agent = host.agent.clone();
    }
    for cell in &mut other.cells {
        cell.cell.agent = "bench-02".parse().unwrap();
        cell.hash = cell.cell.hash();
    }
    other.cells[3].samples[0].flags.insert(Flag::BusyHost);
    let comparison = compare(&base, &other, OPTIONS).unwrap();
    assert_eq!(comparison.cells.len(), 2);
    assert!(comparison.cells[1].suspect && !comparison.cells[0].suspect);
    let missing = &comparison.not_measured[0];
    assert_eq!((missing.base, missing.candidate), ("ok", "crashed"));
    assert_eq!((comparison.only_in_base.len(), comparison.only_in_candidate.len()), (1, 1));
    let text = compare::text(&comparison);
    for part in ["not compared: ", "only in the base: ", "only in the candidate: ", "(suspect)"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn hostile_labels_are_harmless_in_a_comparison() {
    let base = base(6);
    let mut other = candidate(&base, |_| 1.0);
    other.scenario = "<script>alert(1)</script>\u{202e}x".to_owned();
    other.hosts[0].facts.insert("kernel".to_owned(), format!("| <img src=x> \x1b[31m{}", "k".repeat(10_000)));
    let comparison = compare(&base, &other, OPTIONS).unwrap();
    let (text, markdown) = (compare::text(&comparison), compare::markdown(&comparison));
    let junit = compare::junit(&comparison);
    assert!(!junit.contains("<script>") && !junit.contains("<img"), "{junit}");
    for out in [&text, &markdown, &junit] {
        assert!(!out.contains('\u{202e}') && !out.contains('\x1b') && out.len() < 10_000, "{out}");
    }
    assert!(!markdown.contains("<script>") && !markdown.contains("<img") && !markdown.contains("| <"), "{markdown}");
}

/// One run of two builds in turns on a machine that becomes slower and slower: what both share drops out.
#[test]
fn builds_that_were_measured_in_turns_are_compared_in_pairs() {
    let mut run = base(10);
    let mut others = run.cells.clone();
    for (name, factor, cells) in [("base", 1.0, &mut run.cells), ("candidate", 1.04, &mut others)] {
        for cell in cells {
            cell.cell.build = Some(name.parse().unwrap());
            cell.hash = cell.cell.hash();
            for (pass, sample) in (0_u32..).zip(&mut cell.samples) {
                sample.times = slowed(&sample.times, factor * (1.0 + 0.05 * f64::from(pass)));
            }
        }
    }
    // A repetition that can't be counted has no partner any more.
    others[0].samples.remove(3);
    run.cells.extend(others);
    let names = compare::builds(&run);
    assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["base", "candidate"]);
    let side = |at: usize| Chosen { run: &run, build: Some(names[at]) };
    let comparison = compare::compare(side(0), side(1), OPTIONS).unwrap();
    assert!(comparison.paired);
    assert!(verdicts(&comparison).iter().all(|verdict| *verdict == Verdict::Slower), "{comparison:?}");
    let decode = &comparison.cells[0].metrics[0];
    assert_eq!((decode.base_processes, decode.candidate_processes), (9, 9));
    assert!((decode.effect.ratio - 1.0 / 1.04).abs() < 1e-6 && decode.effect.noise < 1e-6, "{decode:?}");
    assert!(compare::text(&comparison).contains("compared in pairs"));

    let itself = compare::compare(side(0), side(0), OPTIONS).unwrap_err().to_string();
    assert!(itself.contains("@base") && itself.contains("RUN@BUILD"), "{itself}");
    let whole = compare::compare(Chosen::all(&run), side(1), OPTIONS).unwrap_err();
    assert!(matches!(whole, Refused::Same(_)));
}
