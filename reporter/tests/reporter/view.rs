//! What reports say of runs that went well, half well and not at all.

use regatta_core::artifact::{Precision, Weights};
use regatta_core::backend::BackendKind;
use regatta_core::device::Device;
use regatta_core::digest::Digest;
use regatta_core::flag::Flag;
use regatta_core::telemetry::{Telemetry, Throttled};
use regatta_reporter::chart::{self, Layout};
use regatta_reporter::dataset::{CellResult, Dataset};
use regatta_reporter::stats::CellStats;
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
    Dataset { runs: vec![common::run(common::cells(&plan, "bench-01", Weights::Synthetic))], imports: vec![] }
}

fn charts(report: &Report) -> Vec<&Chart> {
    report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts).collect()
}

#[test]
fn the_view_of_a_small_run() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&report(&small())).unwrap());
}

/// ONNX Runtime by DirectML and llama.cpp by Vulkan, on a machine with two cards of one name and one of another.
fn windows() -> Dataset {
    let plan = |backend| Plan {
        backends: vec![backend],
        precisions: vec![Precision::F16],
        workloads: vec![("chat", 64, 24, 1)],
        repetitions: 3,
    };
    let on = |backend, device: &str| {
        let mut cells = common::cells(&plan(backend), "bench-01", Weights::Synthetic);
        for result in &mut cells {
            result.cell.device = device.parse().unwrap();
        }
        cells
    };
    let (onnx, llama) = (BackendKind::OnnxRuntime, BackendKind::LlamaCpp);
    let cells = [on(onnx, "directml:0"), on(onnx, "directml:2"), on(llama, "vulkan:1"), on(llama, "vulkan:2")];
    let mut run = common::run(cells.concat());
    let device = run.hosts[0].devices[0].clone();
    // The two interfaces list the cards in orders of their own.
    let cards = [
        ("directml:0", "Radeon RX 7900 XTX"),
        ("directml:1", "Intel Arc A770"),
        ("directml:2", "Radeon RX 7900 XTX"),
        ("vulkan:0", "Intel Arc A770"),
        ("vulkan:1", "Radeon RX 7900 XTX"),
        ("vulkan:2", "Radeon RX 7900 XTX"),
    ];
    let card = |(id, name): (&str, &str)| Device { id: id.parse().unwrap(), name: name.to_owned(), ..device.clone() };
    run.hosts[0].devices = cards.map(card).to_vec();
    Dataset { runs: vec![run], imports: vec![] }
}

#[test]
fn a_card_that_two_interfaces_drive_is_one_subject() {
    let dataset = windows();
    let run = &dataset.runs[0];
    let partners = run.cells.iter().map(|cell| run.counterpart(cell).unwrap().cell.device.to_string());
    assert_eq!(partners.collect::<Vec<_>>(), ["vulkan:1", "vulkan:2", "directml:0", "directml:2"]);
    let report = report(&dataset);
    let text = serde_json::to_string(&report).unwrap();
    for both in ["directml:0 and vulkan:1", "directml:2 and vulkan:2"] {
        assert!(text.contains(both), "{both}");
    }
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
    assert_eq!(charts.len(), 8);
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
fn prompts_that_became_other_tokens_are_not_compared() {
    let mut dataset = small();
    let cells = &mut dataset.runs[0].cells;
    let workloads: Vec<_> = cells.iter().map(|cell| cell.cell.workload.name.clone()).collect();
    let last = cells.last_mut().unwrap();
    let name = last.cell.workload.name.to_string();
    assert!(workloads.iter().any(|workload| workload.as_str() != name));
    for sample in &mut last.samples {
        sample.prompt_digest = Digest::of_tokens(&[1, 2, 3]);
    }
    let report = report(&dataset);
    let comparison = report.runs[0].comparisons.last().unwrap();
    assert!(comparison.pairs.iter().all(|pair| pair.workload != name));
    let expected = format!("Not compared: workload {name}, whose prompt became other token ids on the two.");
    assert!(comparison.sentence.ends_with(&expected), "{}", comparison.sentence);
}

#[test]
fn six_processes_give_an_interval_and_repetitions_of_one_none() {
    let three = report(&small());
    assert!(three.runs[0].rows.iter().all(|r| r.decode_ci == "no CI"));
    let mut one = common::fleet();
    for cell in &mut one.runs[0].cells {
        cell.per_pass = 7;
    }
    assert!(report(&one).runs[0].rows.iter().all(|r| r.decode_ci == "no CI" && r.n == 7));
    let seven = report(&common::fleet());
    assert!(seven.runs[0].rows.iter().all(|r| r.decode_ci.contains(" to ") && r.decode_ci.ends_with("(98.4 %)")));
}

/// Three engines' worth of groups of 2, 4 and 8, one group failed.
#[test]
fn a_group_is_one_row_with_the_tokens_of_all_over_the_time_of_the_slowest() {
    let dataset = common::scaling();
    let report = report(&dataset);
    let run = &report.runs[0];
    // Singles are rows as ever, groups rows of their own, and each replica's repetitions are listed.
    assert_eq!((run.rows.len(), run.groups.len(), run.problems.len()), (4, 11, 1));
    assert_eq!(run.details.len(), 4 + 3 * (2 + 4) + 3 * 8 + (2 + 4));
    assert!(run.details.iter().any(|detail| detail.title == "candle · f16 · chat · replica 2 of 4"));

    let cells: Vec<_> = dataset.runs[0]
        .cells
        .iter()
        .filter(|cell| {
            let of = (cell.cell.backend, cell.cell.artifact.precision, cell.cell.workload.replicas);
            of == (BackendKind::LlamaCpp, Precision::Q8_0, 4)
        })
        .collect();
    assert_eq!(cells.len(), 4);
    let mut expected: Vec<f64> = (0..5)
        .map(|repetition| {
            let slowest = cells.iter().map(|cell| cell.samples[repetition].times.end).max().unwrap();
            4.0 * 128.0 / (slowest as f64 / 1e9)
        })
        .collect();
    expected.sort_by(f64::total_cmp);
    let row =
        run.groups.iter().find(|row| (row.backend, row.precision, row.replicas) == ("llama.cpp", "q8_0", 4)).unwrap();
    assert!((row.aggregate.sort.unwrap() - expected[2]).abs() < 1e-9);
    assert_eq!((row.n, row.skew.text.as_str(), row.skew.note.as_str()), (5, "0.470", "at most 0.550"));
    let efficiency = row.efficiency.sort.unwrap();
    assert!((0.9..1.0).contains(&efficiency), "{efficiency}");
    assert!(row.flags.iter().any(|flag| flag.name == "one machine"));
    assert_eq!(row.place, "tinyllama-1.1b on cuda:0, cuda:1, cuda:2, cuda:3 of node-01");
}

#[test]
fn a_group_that_failed_is_named_once_and_not_charted() {
    let report = report(&common::scaling());
    let run = &report.runs[0];
    let problem = &run.problems[0];
    assert_eq!((problem.state, problem.cell.as_str()), ("oom", "candle · f16 · chat × 8"));
    assert_eq!(problem.reason, "replica 5: asked for 2.2 GB, 0.9 GB were free");
    let scaling = charts(&report).into_iter().find(|chart| chart.caption().slug == "scaling").unwrap();
    let Chart::Lines(lines) = scaling else { panic!("not lines") };
    let panel = &lines.panels[0];
    assert_eq!(panel.missing, ["candle × 8: oom"]);
    let devices = |line: usize| panel.lines[line].pieces[0].iter().map(|point| point.length).collect::<Vec<_>>();
    assert_eq!((devices(0), devices(1)), (vec![1.0, 2.0, 4.0], vec![1.0, 2.0, 4.0, 8.0]));
    // The ideal begins at one device and ends at as many times its rate as there are devices.
    let guide = panel.guides[1];
    assert!((guide.to.1 / guide.from.1 - 8.0).abs() < 1e-9);
    assert_eq!(panel.notes.len(), 2 + 3);
}

/// Whose last repetition is missing on one replica, or was measured under another lease.
#[test]
fn a_repetition_that_not_all_replicas_measured_does_not_count() {
    let mut dataset = common::scaling();
    let pair = |cell: &&mut regatta_reporter::dataset::CellResult| {
        (cell.cell.backend, cell.cell.artifact.precision, cell.cell.workload.replicas)
            == (BackendKind::Candle, Precision::F16, 2)
    };
    let mut pair: Vec<_> = dataset.runs[0].cells.iter_mut().filter(pair).collect();
    pair[0].samples.pop();
    pair[1].samples[0].key.epoch.0 += 1;
    let report = report(&dataset);
    let row = report.runs[0].groups.iter().find(|row| row.replicas == 2).unwrap();
    assert_eq!(row.n, 3);
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

/// The small run on a processor of 100 GB/s and 2 TFLOPS.
fn with_peaks() -> Dataset {
    Dataset {
        runs: small().runs.into_iter().map(|run| common::with_canary(run, 1e11, 2e12)).collect(),
        imports: vec![],
    }
}

#[test]
fn utilisation_says_whose_peak_it_is_a_share_of() {
    let dataset = with_peaks();
    let report = report(&dataset);
    let row = report.runs[0].rows.iter().find(|row| row.backend == "llama.cpp" && row.precision == "q8_0").unwrap();
    let cell = dataset.runs[0].cells.iter().find(|cell| cell.cell.backend == BackendKind::LlamaCpp).unwrap();
    // 34 ms or so for 1.169 GB: 34 GB/s of 100. And 960 million multiplications for each of 260 tokens/s.
    let (mbu, mfu) = (row.mbu.sort.unwrap(), row.prefill_mfu.sort.unwrap());
    assert!((30.0..38.0).contains(&mbu) && (20.0..30.0).contains(&mfu), "{mbu} {mfu}");
    assert_eq!((row.mbu.note.as_str(), row.prefill_mfu.note.as_str()), ("of measured", "of measured f32"));
    assert!(row.decode_mfu.sort.unwrap() < mfu, "decode is bound by memory");
    assert!(cell.is_ok());
    let facts: Vec<&str> = report.runs[0].hosts[0].facts.iter().map(|fact| fact.name.as_str()).collect();
    assert!(facts.contains(&"canary of cpu"), "{facts:?}");
    // Without a canary a processor has no peak, and there is no guess.
    let row = &self::report(&small()).runs[0].rows[0];
    assert_eq!((row.mbu.sort, row.prefill_mfu.sort, row.mbu.note.as_str()), (None, None, ""));
}

#[test]
fn a_vendors_figure_serves_where_there_is_no_canary_and_not_for_quantised_arithmetic() {
    let dataset = common::with_vendors_peaks(common::scaling());
    let shown = report(&dataset);
    let row = |precision| shown.runs[0].rows.iter().find(|row| row.precision == precision).unwrap();
    assert_eq!(
        (row("f16").mbu.note.as_str(), row("f16").prefill_mfu.note.as_str()),
        ("of vendor's", "of vendor's f16")
    );
    assert_eq!((row("q8_0").mbu.note.as_str(), row("q8_0").prefill_mfu.sort), ("of vendor's", None));
}

#[test]
fn weights_that_stay_in_caches_have_neither_a_share_of_memory_nor_a_floor() {
    let mut dataset = with_peaks();
    for cell in &mut dataset.runs[0].cells {
        cell.facts.as_mut().unwrap().weight_bytes = Some(384 << 20);
        assert_eq!(cell.floor(), None);
    }
    let row = &report(&dataset).runs[0].rows[0];
    assert_eq!(row.mbu.sort, None);
    assert!(row.prefill_mfu.sort.is_some());
}

#[test]
fn what_is_faster_than_its_own_device_is_told_with_the_numbers() {
    // 34 GB/s on a device of 10, whose caches hold a third of the weights: 766 MB in 34 ms are 22 GB/s, within the margin.
    let good = with_peaks().runs.remove(0);
    let slow = Dataset { runs: vec![common::with_canary(good.clone(), 1e10, 2e12)], imports: vec![] };
    assert!(slow.runs[0].cells.iter().all(regatta_reporter::dataset::CellResult::is_ok));
    // On a device of 5 it is beyond.
    let mut dataset = Dataset { runs: vec![common::with_canary(good, 5e9, 2e12)], imports: vec![] };
    dataset.runs[0].cells.retain(|cell| cell.cell.artifact.precision == Precision::Q8_0);
    dataset.runs[0].cells.retain(|cell| cell.cell.backend == BackendKind::LlamaCpp);
    let cell = &dataset.runs[0].cells[0];
    assert_eq!((cell.is_ok(), cell.state()), (false, "faster_than_physics"));
    let shown = report(&dataset);
    insta::assert_snapshot!(shown.runs[0].problems[0].reason);
    let repetition = &shown.runs[0].details[0].repetitions[0];
    assert!(repetition.flags.iter().any(|flag| flag.name == "faster than physics"));
    assert!(charts(&shown).iter().all(|chart| !format!("{chart:?}").contains("Value")), "it is not charted");
}

/// The cell with all of its samples sorted again, as they are when they are read.
fn sorted_again(cell: &CellResult) -> CellResult {
    CellResult::new(cell.cell.clone(), cell.outcome.clone(), None, cell.samples.clone())
}

#[test]
fn a_repetition_in_unfit_surroundings_is_shown_and_not_counted() {
    let mut dataset = small();
    let cell = &mut dataset.runs[0].cells[0];
    // Far slower than the others: a median with it would be another one.
    let slow = &mut cell.samples[1];
    slow.times.tokens.iter_mut().for_each(|time| *time *= 10);
    slow.times.end *= 10;
    slow.flags.insert(Flag::HardwareSlowdown);
    slow.telemetry = Some(Box::new(Telemetry {
        cpu_temperature_c: Some(97.5),
        throttled_ns: Throttled { hw_thermal: Some(2_000_000), ..Throttled::default() },
        ..Telemetry::default()
    }));
    let others: Vec<_> = [0, 2].map(|i| cell.samples[i].clone()).into();
    *cell = sorted_again(cell);
    assert_eq!((cell.samples.len(), cell.unfit.len()), (2, 1));
    let report = report(&dataset);
    let run = &report.runs[0];
    let expected = CellStats::of(&others, u32::MAX).decode_rate.map(|summary| summary.median);
    assert_eq!((run.rows[0].n, run.rows[0].decode.sort), (2, expected));
    let detail = &run.details[0];
    let shown: Vec<_> = detail.repetitions.iter().map(|row| (row.repetition, row.counted)).collect();
    assert_eq!(shown, [(1, true), (3, true), (2, false)]);
    assert!(detail.repetitions[2].why.contains("surroundings forbid"));
    let heads: Vec<_> = detail.seen.iter().map(|head| head.name).collect();
    assert_eq!(heads, ["CPU temperature", "Slowed down"], "columns of what was seen, and no others");
    assert_eq!(detail.repetitions[2].seen, ["97.5", "2.00"]);
    assert_eq!(detail.repetitions[0].seen, ["–", "–"], "absent, not zero");
    assert!(run.flags.iter().any(|flag| flag.name == "hardware slowdown"));
    assert!(run.banners.iter().any(|banner| banner.text.starts_with("1 repetition of 1 cell were measured")));
}

#[test]
fn a_cell_none_of_whose_repetitions_counts_is_named_with_the_reason() {
    let mut dataset = small();
    let cell = &mut dataset.runs[0].cells[0];
    cell.samples.iter_mut().for_each(|sample| sample.flags.extend([Flag::ForeignProcess]));
    *cell = sorted_again(cell);
    assert!(!cell.is_ok());
    let report = report(&dataset);
    let run = &report.runs[0];
    assert_eq!((run.problems[0].state, run.problems[0].repetitions), ("invalid", 3));
    assert!(run.problems[0].reason.contains(Flag::ForeignProcess.meaning()), "{}", run.problems[0].reason);
    assert_eq!(run.counts.iter().map(|count| count.n).sum::<usize>(), run.total);
}

#[test]
fn a_cell_in_suspect_surroundings_is_counted_and_drawn_hollow() {
    let mut dataset = small();
    dataset.runs[0].cells[0].samples[1].flags.insert(Flag::BusyHost);
    let report = report(&dataset);
    let run = &report.runs[0];
    assert_eq!(run.rows[0].n, 3);
    assert!(run.banners.iter().any(|banner| banner.title == "Suspect surroundings"));
    let hollow = charts(&report).into_iter().filter_map(|chart| match chart {
        Chart::Bars(bars) => Some(bars.panels.iter().flat_map(|p| &p.groups).flat_map(|g| &g.bars)),
        _ => None,
    });
    assert!(hollow.flatten().any(|bar| bar.suspect));
}

#[test]
fn device_memory_and_energy_have_columns_where_they_are_known() {
    let mut dataset = small();
    let page = |dataset: &Dataset| regatta_reporter::html::page(&report(dataset)).unwrap();
    assert!(!page(&dataset).contains("J per token</small></button>"));
    let run = &report(&dataset).runs[0];
    assert!(!run.has_device_memory && !run.has_energy);
    for (i, sample) in dataset.runs[0].cells[0].samples.iter_mut().enumerate() {
        let (used, energy) = ((3 + i as u64) << 20, 8_000 * sample.output.len() as u64);
        sample.telemetry = Some(Box::new(Telemetry {
            memory_used_bytes: Some(used),
            memory_baseline_bytes: Some(1 << 20),
            energy_mj: Some(energy),
            ..Telemetry::default()
        }));
    }
    let report = report(&dataset);
    let run = &report.runs[0];
    assert!(run.has_device_memory && run.has_energy);
    assert_eq!((run.rows[0].device_memory.sort, run.rows[0].energy.sort), (Some(4.0), Some(8.0)));
    assert_eq!(run.rows[1].energy.text, "–");
}
