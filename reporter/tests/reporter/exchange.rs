//! What goes to other tools and comes from them.

use std::sync::Arc;

use regatta_core::artifact::Weights;
use regatta_core::backend::BackendKind;
use regatta_core::flag::Flag;
use regatta_core::workload::{Kind, Prompt};
use regatta_reporter::dataset::{CellResult, Dataset, Import};
use regatta_reporter::llama_bench::{self, Row};
use regatta_reporter::{Format, ReportOptions, export, render};

use crate::common::{self, Plan};
use crate::report::options;

/// Two engines, one precision, a workload of each kind that is and is not comparable.
fn small() -> Dataset {
    let mut plan = Plan::demo();
    plan.precisions = vec![regatta_core::artifact::Precision::Q8_0];
    plan.workloads = vec![("chat", 128, 32, 1), ("batch", 64, 16, 4), ("pp", 256, 16, 1), ("tg", 64, 16, 1)];
    let mut run = common::with_canary(common::run(common::cells(&plan, "bench-01", Weights::Synthetic)), 1e11, 2e12);
    run.cells.iter_mut().for_each(without_a_sampler);
    Dataset { runs: vec![run], imports: vec![] }
}

/// Makes a cell of the workloads `pp` and `tg` one of forward passes alone.
fn without_a_sampler(result: &mut CellResult) {
    let workload = Arc::make_mut(&mut result.cell.workload);
    match workload.name.as_str() {
        "pp" => {
            (workload.kind, workload.generate) = (Kind::Prefill { depth: 0 }, 0);
            for sample in &mut result.samples {
                (sample.times.tokens, sample.output) = ([].into(), [].into());
            }
        }
        "tg" => {
            (workload.kind, workload.prompt) = (Kind::Decode { depth: 4096 }, Prompt::Seeded { seed: 1, tokens: 0 });
            for sample in &mut result.samples {
                (sample.prompt_tokens, sample.output) = (0, [].into());
            }
        }
        _ => {}
    }
}

fn exported(dataset: &Dataset, format: Format) -> String {
    let options = ReportOptions { generated_at: common::start(), source: "x".to_owned(), svg: false };
    export(dataset, &options, format).unwrap()
}

#[test]
fn forward_passes_go_out_as_rows_of_llama_bench() {
    let text = exported(&small(), Format::LlamaBench);
    insta::assert_snapshot!(text);
    // And they come back in as what they are.
    let read = llama_bench::read("x.jsonl", &text).unwrap();
    assert_eq!(read.rows.iter().map(Row::test).collect::<Vec<_>>(), ["pp256", "tg16 @ d4096", "pp256", "tg16 @ d4096"]);
    assert!(read.unknown.is_empty() && read.missing.is_empty(), "{read:?}");
    assert_eq!(read.rows[0].samples().len(), 3);
}

#[test]
fn forward_passes_go_out_as_sql_and_as_a_table() {
    insta::assert_snapshot!(exported(&small(), Format::LlamaBenchSql));
    insta::assert_snapshot!(exported(&small(), Format::LlamaBenchMarkdown));
}

#[test]
fn what_is_not_comparable_or_not_well_does_not_go_out() {
    let mut dataset = small();
    let run = &mut dataset.runs[0];
    run.cells.retain(|cell| cell.cell.backend == BackendKind::LlamaCpp);
    for cell in &mut run.cells {
        cell.samples[0].flags.insert(Flag::FasterThanPhysics);
    }
    assert_eq!(exported(&dataset, Format::LlamaBench), "");
    let metrics = exported(&dataset, Format::MlperfClient);
    assert!(
        metrics.contains("\"Benchmark Success\":false") && metrics.contains("chat: faster_than_physics"),
        "{metrics}"
    );
}

#[test]
fn metrics_go_out_under_the_names_of_mlperf_client() {
    let lines = exported(&small(), Format::MlperfClient);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "one for each engine");
    insta::assert_snapshot!(serde_json::to_string_pretty(&lines[1]).unwrap());
}

fn imported() -> Dataset {
    let rows = r#"[
        {"build_commit":"0104b151","cpu_info":"AMD EPYC 9654","gpu_info":"NVIDIA H200","backends":"CUDA",
         "model_type":"llama 7B <b>Q4_K</b>","n_threads":16,"n_prompt":512,"n_gen":0,"avg_ts":9876.5,"stddev_ts":98.7,
         "test_time":"2026-03-02T21:40:07Z","samples_ts":[9800.0,9953.0]},
        {"n_prompt":0,"n_gen":128,"n_depth":4096,"avg_ts":123.4,"of_tomorrow":{"x":1}}]"#;
    let import = Import {
        id: "0195f1c2-7a3e-7c41-9d20-5b7e4f0a1c30".parse().unwrap(),
        tool: "llama-bench".to_owned(),
        file: "h200 | nightly.jsonl".to_owned(),
        imported_at: common::start(),
        rows: llama_bench::read("x", rows).unwrap().rows,
    };
    Dataset { runs: vec![], imports: vec![import] }
}

#[test]
fn an_import_is_shown_apart_and_says_that_it_is_one() {
    insta::assert_snapshot!(exported(&imported(), Format::Markdown));
    let mut both = small();
    both.imports = imported().imports;
    let folder = tempfile::tempdir().unwrap();
    let options = ReportOptions { generated_at: common::start(), source: "x".to_owned(), svg: false };
    for dataset in [imported(), both] {
        let html = std::fs::read_to_string(render(&dataset, &options, folder.path()).unwrap().html).unwrap();
        assert!(html.contains("measured and Regatta did not") && html.contains("tg128 @ d4096"));
        assert!(html.contains("&#60;b&#62;Q4_K") && !html.contains("<b>Q4_K"), "labels stay text");
    }
    let json: serde_json::Value = serde_json::from_str(&exported(&imported(), Format::Json)).unwrap();
    assert_eq!(json["report"]["imports"][0]["rows"][1]["test"], "tg128 @ d4096");
}

#[test]
fn junit_has_a_case_for_each_cell() {
    let dataset = common::troubled();
    let text = export(&dataset, &options(), Format::Junit).unwrap();
    assert!(text.contains("tests=\"32\" failures=\"0\" errors=\"5\" skipped=\"4\""), "{}", &text[..400]);
    assert_eq!(text.matches("<testcase").count(), 32);
    assert_eq!((text.matches("<error").count(), text.matches("<skipped").count()), (5, 4));
    assert!(text.contains("<error type=\"oom\" message=\"asked for 4.4 GB, 3.1 GB were free\"/>"));
    assert!(text.contains("<error type=\"waiting\" message=\"waiting\"/>"), "what has not ended is no pass");
    // It is XML, whatever a label holds.
    let hostile = export(&crate::report::hostile().0, &options(), Format::Junit).unwrap();
    resvg::usvg::roxmltree::Document::parse(&hostile).unwrap();
    assert!(hostile.contains("&lt;script&gt;"));
}

#[test]
fn bencher_gets_medians_and_intervals() {
    let text = export(&common::sweeps(), &options(), Format::Bmf).unwrap();
    let bmf: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cell = &bmf["mistral-7b · llama.cpp · f16 · chat-128-128-d0-b1 on gpu-01 cuda:0"];
    let rate = &cell["decode-rate"];
    let value = |name: &str| rate[name].as_f64().unwrap();
    assert!(value("lower_value") <= value("value") && value("value") <= value("upper_value"), "{cell}");
    assert_eq!(cell.as_object().unwrap().len(), 5);
    // Repetitions of a single process have no interval.
    let demo: serde_json::Value =
        serde_json::from_str(&export(&common::demo(), &options(), Format::Bmf).unwrap()).unwrap();
    assert!(demo.as_object().unwrap().values().all(|cell| cell["ttft"].get("lower_value").is_none()));
    assert_eq!(demo.as_object().unwrap().len(), 32);
}

#[test]
fn what_two_builds_measured_has_two_names() {
    let mut dataset = common::demo();
    let mut others = dataset.runs[0].cells.clone();
    for (name, cells) in [("base", &mut dataset.runs[0].cells), ("candidate", &mut others)] {
        for cell in cells {
            cell.cell.build = Some(name.parse().unwrap());
            cell.hash = cell.cell.hash();
        }
    }
    dataset.runs[0].cells.extend(others);
    let bmf: serde_json::Value = serde_json::from_str(&export(&dataset, &options(), Format::Bmf).unwrap()).unwrap();
    assert_eq!(bmf.as_object().unwrap().len(), 64);
}

#[test]
fn perfherder_finds_its_line() {
    let text = export(&common::sweeps(), &options(), Format::Perfherder).unwrap();
    let data: serde_json::Value = serde_json::from_str(text.strip_prefix("PERFHERDER_DATA: ").unwrap()).unwrap();
    assert_eq!((text.lines().count(), &data["framework"]["name"]), (1, &"regatta".into()));
    let ttft = data["suites"][0]["subtests"].as_array().unwrap().iter().find(|test| test["name"] == "ttft").unwrap();
    assert_eq!((&ttft["lowerIsBetter"], &ttft["unit"]), (&true.into(), &"ms".into()));
    assert_eq!(ttft["replicates"].as_array().unwrap().len(), 7, "one for each worker process");
}

#[test]
fn raw_samples_come_one_on_a_line() {
    let text = export(&common::demo(), &options(), Format::Jsonl).unwrap();
    assert_eq!(text.lines().count(), 32 * 3);
    for line in text.lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&sample["schema"], sample["token_ns"].is_array()), (&1.into(), true));
    }
}
