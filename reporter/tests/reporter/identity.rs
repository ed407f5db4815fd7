//! Where outputs part, times that fall short, and repetitions that get slower: what is told of it, and where.

use std::sync::Arc;

use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::flag::Flag;
use regatta_reporter::dataset::{CellResult, Dataset};
use regatta_reporter::view::{self, Report, RunView};
use regatta_reporter::{Format, ReportOptions};

use crate::common::{self, Plan};

/// Both engines, one precision, nine repetitions by three processes.
fn dataset(workloads: Vec<(&'static str, u32, u32, u32)>) -> Dataset {
    let plan = Plan {
        backends: vec![BackendKind::Candle, BackendKind::LlamaCpp],
        precisions: vec![Precision::Q8_0],
        workloads,
        repetitions: 9,
    };
    let mut run = common::run(common::cells(&plan, "bench-01", Weights::Real));
    run.cells.iter_mut().for_each(|cell| cell.per_pass = 3);
    Dataset { runs: vec![run], imports: vec![] }
}

fn report(dataset: &Dataset) -> Report {
    view::report(dataset, common::start())
}

fn export(dataset: &Dataset, format: Format) -> String {
    let options = ReportOptions { generated_at: common::start(), source: "x".to_owned(), svg: false };
    regatta_reporter::export(dataset, &options, format).unwrap()
}

fn fact<'r>(run: &'r RunView, cell: usize, name: &str) -> Option<&'r str> {
    run.details[cell].facts.iter().find(|fact| fact.name == name).map(|fact| fact.meaning.as_str())
}

fn flags(run: &RunView, row: usize) -> Vec<&str> {
    run.rows[row].flags.iter().map(|flag| flag.name.as_str()).collect()
}

/// Gives every repetition from number `from` on other tokens from the 17th on.
fn part(cell: &mut CellResult, from: usize) {
    for sample in &mut cell.samples[from..] {
        Arc::make_mut(&mut sample.output)[16..].iter_mut().for_each(|id| *id += 1);
    }
}

#[test]
fn two_backends_that_part_are_told_where_and_neither_is_flagged() {
    let mut dataset = dataset(vec![("short", 32, 8, 1), ("chat", 64, 128, 1)]);
    // Llama.cpp's second workload.
    part(&mut dataset.runs[0].cells[3], 0);
    let shown = report(&dataset);
    let run = &shown.runs[0];
    let [short, chat] = &run.comparisons[0].pairs[..] else { panic!("{:?}", run.comparisons) };
    assert_eq!((short.same_tokens.text.as_str(), short.same_tokens.note.as_str()), ("8 of 8", ""));
    assert_eq!((chat.same_tokens.text.as_str(), chat.same_tokens.sort), ("16 of 128", Some(16.0)));
    assert_eq!(chat.same_tokens.note, "first differing: 17");
    let sentence = "candle and llama.cpp gave the same tokens in 1 of 2 workloads; they part in chat, first differing \
                    token: 17 of 128.";
    assert_eq!(run.comparisons[0].tokens, sentence);
    assert!((0..4).all(|row| flags(run, row).is_empty()), "information, not a defect");
    assert_eq!(fact(run, 3, "output").map(|told| told[12..].to_owned()).as_deref(), Some(" in all 9 repetitions"));
    let page = regatta_reporter::html::page(&shown).unwrap();
    let markdown = export(&dataset, Format::Markdown);
    for text in [&page, &markdown] {
        assert!(text.contains("they part in chat, first differing token: 17 of 128."), "{text}");
    }
    assert!(shown.definitions.iter().any(|definition| definition.term == "Token identity"));
    let columns = columns(&dataset, &["workload", "backend", "reference_backend", "first_differing_from_reference"]);
    assert!(columns.contains(&["chat", "llama.cpp", "candle", "17"].map(str::to_owned).into()), "{columns:?}");
    assert!(columns.contains(&["short", "llama.cpp", "candle", ""].map(str::to_owned).into()), "{columns:?}");
}

/// These columns of the CSV.
fn columns(dataset: &Dataset, names: &[&str]) -> Vec<Vec<String>> {
    let text = export(dataset, Format::Csv);
    let lines: Vec<Vec<String>> = text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
    let at: Vec<usize> = names.iter().map(|name| lines[0].iter().position(|head| head == name).unwrap()).collect();
    lines[1..].iter().map(|line| at.iter().map(|at| line[*at].clone()).collect()).collect()
}

#[test]
fn a_backend_whose_processes_disagree_is_flagged_though_no_worker_saw_it() {
    let mut dataset = dataset(vec![("chat", 64, 128, 1)]);
    // The third process.
    part(&mut dataset.runs[0].cells[0], 6);
    let shown = report(&dataset);
    let run = &shown.runs[0];
    assert_eq!((flags(run, 0), flags(run, 1)), (vec!["output changed"], vec![]));
    assert_eq!(fact(run, 0, "output"), Some("3 of 9 repetitions differ, first differing token: 17 of 128"));
    let parts: Vec<&str> = run.details[0].repetitions.iter().map(|row| row.parts.as_str()).collect();
    assert_eq!(parts, [[""; 6].as_slice(), &["first differing token: 17 of 128"; 3]].concat());
    assert!(run.banners.iter().any(|banner| banner.title == "Not repeatable"));
    assert!(run.flags.iter().any(|flag| flag.meaning == Flag::OutputChanged.meaning()));
    let told = columns(&dataset, &["backend", "first_differing_token", "flags"]);
    assert_eq!(told.iter().filter(|line| line[1] == "17" && line[2] == "output_changed").count(), 3, "{told:?}");
    let json: serde_json::Value = serde_json::from_str(&export(&dataset, Format::Json)).unwrap();
    assert_eq!(
        (&json["samples"][5]["first_differing_token"], &json["samples"][6]["first_differing_token"]),
        (&serde_json::Value::Null, &17.into())
    );
}

#[test]
fn in_a_batch_the_first_sequence_that_parts_counts() {
    let mut dataset = dataset(vec![("batch", 64, 32, 4)]);
    // The second token of the third sequence.
    dataset.runs[0].cells[1].samples.iter_mut().for_each(|sample| Arc::make_mut(&mut sample.output)[2 * 32 + 1] += 1);
    let same = &report(&dataset).runs[0].comparisons[0].pairs[0].same_tokens.text;
    assert_eq!(same, "1 of 32");
}

/// Outputs are kept once for a million repetitions, and still apart where they differ.
#[test]
fn repetitions_of_one_output_hold_it_in_common() {
    let mut dataset = dataset(vec![("chat", 64, 128, 1)]);
    let cell = &mut dataset.runs[0].cells[0];
    part(cell, 6);
    let mut samples = cell.samples.clone();
    for sample in &mut samples {
        sample.output = sample.output.to_vec().into();
    }
    let cell = CellResult::new(cell.cell.clone(), cell.outcome.clone(), None, samples);
    let shared: Vec<bool> =
        cell.samples.iter().map(|sample| Arc::ptr_eq(&sample.output, &cell.samples[0].output)).collect();
    assert_eq!(shared, [[true; 6].as_slice(), &[false; 3]].concat());
}

#[test]
fn a_device_that_was_not_waited_for_is_not_charted() {
    let mut dataset = dataset(vec![("chat", 64, 16, 1)]);
    let cell = &mut dataset.runs[0].cells[0];
    cell.samples[4].flags.insert(Flag::NotWaitedFor);
    assert!(cell.is_ok(), "one of nine was late: its system's doing, and flagged all the same");
    cell.samples.iter_mut().for_each(|sample| sample.flags.extend([Flag::NotWaitedFor]));
    assert_eq!((cell.is_ok(), cell.state()), (false, "not_waited_for"));
    let shown = report(&dataset);
    let run = &shown.runs[0];
    assert_eq!(
        (run.problems[0].state, run.problems[0].reason.as_str()),
        ("not_waited_for", Flag::NotWaitedFor.meaning())
    );
    assert!(run.comparisons.is_empty(), "nothing is compared with it");
    assert_eq!(run.counts.iter().map(|count| count.n).sum::<usize>(), run.total);
}

#[test]
fn repetitions_that_get_slower_are_told_by_how_much() {
    let mut dataset = dataset(vec![("chat", 64, 16, 1)]);
    let cell = &mut dataset.runs[0].cells[0];
    cell.per_pass = 9;
    let first = cell.samples[0].clone();
    for (slower, sample) in (0u64..).zip(&mut cell.samples) {
        let times = first.times.tokens.iter().map(|time| time + time * slower / 100);
        sample.times.tokens = times.collect();
        sample.times.end = sample.times.tokens[15];
    }
    let shown = report(&dataset);
    let run = &shown.runs[0];
    assert_eq!((flags(run, 0), flags(run, 1)), (vec!["trend"], vec![]));
    // 8 % over a median that is 4 % above the first.
    assert_eq!(fact(run, 0, "trend"), Some("7.7 % slower from the first repetition to the last"));
    assert!(run.banners.iter().any(|banner| banner.text.contains("of 1 cell got steadily slower, or faster")));
}
