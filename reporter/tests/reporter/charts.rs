//! Charts of what the demo has none of: batches, depths, memory, energy, models of different sizes, a fleet at a glance,
//! nights.

use regatta_reporter::chart::{self, Layout};
use regatta_reporter::view::{
    self, BarChart, Break, Chart, Gap, Heat, HeatMap, LineChart, Mark, Nightly, Report, Scale, TrendChart,
};

use crate::common;

fn report() -> Report {
    view::report(&common::sweeps(), common::start())
}

fn find<'r>(report: &'r Report, slug: &str) -> &'r Chart {
    let mut charts = report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts);
    charts.find(|c| c.caption().slug == slug).unwrap_or_else(|| panic!("no chart {slug}"))
}

fn lines<'r>(report: &'r Report, slug: &str) -> &'r LineChart {
    let Chart::Lines(lines) = find(report, slug) else { panic!("{slug} has no lines") };
    lines
}

fn bars<'r>(report: &'r Report, slug: &str) -> &'r BarChart {
    let Chart::Bars(bars) = find(report, slug) else { panic!("{slug} has no bars") };
    bars
}

fn overview(report: &Report) -> &HeatMap {
    let Chart::Heat(map) = find(report, "overview") else { panic!("no heat map") };
    map
}

fn trend(nightly: &Nightly) -> TrendChart {
    view::trend(nightly).unwrap()
}

const TINY: &str = "gpu-01-cuda-0-tinyllama-1.1b-real";
const KERNEL: &str = "gpu-01-cuda-0-tinyllama-1.1b-real-kernel";

#[test]
fn a_batch_is_held_against_as_many_single_sequences() {
    let report = report();
    let chart = lines(&report, &format!("{TINY}-batch"));
    assert_eq!(chart.panels.len(), 3, "a panel for each precision; the long prompt has no other batch");
    let panel = &chart.panels[0];
    let points = &panel.lines[1].pieces[0];
    assert_eq!(points.iter().map(|p| p.length).collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0, 16.0]);
    let guide = panel.guides.iter().find(|g| g.series == 1).unwrap();
    assert!((guide.to.1 / guide.from.1 - 16.0).abs() < 1e-9, "the ideal is sixteen times one");
    let efficiency = points[4].value / (16.0 * points[0].value);
    assert_eq!(panel.notes.iter().rfind(|n| n.series == 1).unwrap().text, format!("{:.1} %", efficiency * 100.0));
}

#[test]
fn the_price_of_a_batch_is_each_sequences_rate() {
    let report = report();
    let chart = lines(&report, &format!("{TINY}-pareto"));
    let points = &chart.panels[0].lines[0].pieces[0];
    for (point, batch) in points.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0]) {
        assert!((point.value / point.length - batch).abs() < 1e-9);
    }
    assert!(points[4].value > points[0].value && points[4].length < points[0].length, "more together, less for each");
}

#[test]
fn depth_begins_at_zero_on_an_axis_of_doublings() {
    let report = report();
    let chart = lines(&report, &format!("{KERNEL}-depth"));
    assert_eq!(chart.length_scale, Scale::Log2);
    let points = &chart.panels[0].lines[0].pieces[0];
    assert_eq!(points.iter().map(|p| p.length).collect::<Vec<_>>(), [0.0, 512.0, 2048.0, 8192.0]);
    assert!(points.windows(2).all(|pair| pair[1].value < pair[0].value), "deeper is slower");
    let prompts = lines(&report, &format!("{KERNEL}-prefill-length"));
    assert_eq!(prompts.panels[0].lines[0].pieces[0].len(), 4);
}

#[test]
fn whiskers_are_intervals_where_every_cell_has_one() {
    let report = report();
    let chart = bars(&report, &format!("{TINY}-decode"));
    assert!(chart.caption.subtitle.contains("whiskers: 95 % confidence interval of the median"));
    assert!(chart.caption.subtitle.contains("median of 7 worker processes"));
    let demo = view::report(&common::demo(), common::start());
    let Chart::Bars(bars) = &demo.runs[0].sections[0].charts[0] else { panic!("no bars") };
    assert!(bars.caption.subtitle.contains("whiskers: minimum to maximum"));
}

#[test]
fn memory_is_held_against_weights_and_keys_and_values() {
    let report = report();
    let chart = lines(&report, "gpu-01-cuda-0-mistral-7b-real-memory");
    // llama.cpp at f16: two bytes for each of 7,248,023,552 weights, 131,072 bytes for each token.
    let guide = chart.panels[0].guides.iter().find(|g| g.series == 1).unwrap();
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    assert!((guide.from.1 - gib(2.0 * 7_248_023_552.0 + 131_072.0 * guide.from.0)).abs() < 1e-6);
    let slope = (guide.to.1 - guide.from.1) / (guide.to.0 - guide.from.0);
    assert!((slope - gib(131_072.0)).abs() < 1e-12);
    assert!(chart.caption.subtitle.contains("thin line: weights, keys and values as computed"));
    let points = &chart.panels[0].lines[1].pieces[0];
    let measured =
        (points.last().unwrap().value - points[0].value) / (points.last().unwrap().length - points[0].length);
    assert!((measured / slope - 1.0).abs() < 0.01, "what was measured grows as predicted");
}

#[test]
fn precisions_stand_beside_their_bits() {
    let report = report();
    let chart = bars(&report, &format!("{TINY}-precision"));
    let [bits, speed] = chart.panels.as_slice() else { panic!("two panels") };
    assert_eq!(bits.value_axis.as_deref(), Some("Bits per weight"));
    let label = |group: usize| match &bits.groups[group].bars[0].mark {
        Mark::Value { label, .. } => label.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!([label(0), label(1), label(2)], ["16.0", "8.50", "4.85"]);
    assert_eq!(speed.title, "Speed: geometric mean of 6 workloads");
}

#[test]
fn utilisation_and_energy_have_bars_where_they_are_known() {
    let report = report();
    assert!(bars(&report, &format!("{TINY}-mbu")).caption.subtitle.contains("percent of vendor's"));
    let mfu = bars(&report, &format!("{TINY}-mfu"));
    let quantised = &mfu.panels[0].groups[1].bars[0].mark;
    assert_eq!(*quantised, Mark::Missing { state: "no peak".to_owned() }, "quantised weights have no dense peak");
    bars(&report, &format!("{TINY}-energy"));
    let demo = view::report(&common::demo(), common::start());
    let slugs: Vec<&str> = demo.runs[0].sections[0].charts.iter().map(|c| c.caption().slug.as_str()).collect();
    assert!(!slugs.iter().any(|slug| ["energy", "mbu", "batch", "depth"].contains(slug)), "{slugs:?}");
}

#[test]
fn models_of_different_sizes_share_a_chart() {
    let report = report();
    let chart = lines(&report, "model-size-1");
    assert_eq!(chart.length_axis, "billions of weights: tinyllama-1.1b 1.10, mistral-7b 7.25");
    let points = &chart.panels[0].lines[0].pieces[0];
    assert_eq!(points.len(), 2);
    assert!(points[0].value > 4.0 * points[1].value);
}

#[test]
fn what_was_skipped_what_failed_and_what_never_was_look_different() {
    let report = report();
    let map = overview(&report);
    assert_eq!(map.columns.len(), 4, "two devices with two engines each");
    let fields = || map.rows.iter().flat_map(|row| &row.fields);
    assert!(fields().any(|f| matches!(f, Heat::Gap { gap: Gap::Failed, state } if state == "oom")));
    assert!(fields().any(|f| matches!(f, Heat::Gap { gap: Gap::Failed, state } if state == "failed")));
    for row in &map.rows {
        let best =
            row.fields.iter().filter_map(|f| if let Heat::Value { share, .. } = f { Some(*share) } else { None });
        assert!(
            (best.fold(0.0, f64::max) - 1.0).abs() < 1e-9,
            "the best of a row has all of the colour: {}",
            row.label
        );
    }
    assert!(map.caption.subtitle.contains(" more in the table"));
    // Only Mistral has skipped and absent cells, and those rows are beyond the map's: a run of it alone has them.
    let mut small = common::sweeps();
    small.runs[0].cells.retain(|c| c.cell.artifact.model.as_str() == "mistral-7b" && !c.cell.workload.kind.is_kernel());
    let report = view::report(&small, common::start());
    let fields = || overview(&report).rows.iter().flat_map(|row| &row.fields);
    assert!(fields().any(|f| matches!(f, Heat::Gap { gap: Gap::Skipped, .. })));
    assert!(fields().any(|f| *f == Heat::Absent));
    let svg = chart::svg(find(&report, "overview"), Layout::WIDE).unwrap();
    for word in ["skipped", "oom", "blank: not in the matrix"] {
        assert!(svg.contains(word), "{word} is not written");
    }
}

#[test]
fn nights_have_segments_breaks_changes_and_suspects() {
    let chart = trend(&common::nightly());
    assert_eq!(chart.nights.len(), 59, "a night without values is no point");
    assert_eq!(chart.nights.last().unwrap().day, 59, "and leaves its place free");
    assert_eq!(chart.nights.iter().filter(|n| n.suspect).count(), 3);
    assert_eq!(chart.segments.len(), 3);
    assert_eq!(chart.breaks, [Break { before: 24, label: "driver 550.54 → 560.35".to_owned() }]);
    let [change] = chart.changes.as_slice() else { panic!("one change") };
    assert!(change.worse && change.label.starts_with("−4."), "{change:?}");
    // A suspect night is in no level.
    assert!((chart.segments[0].level - 61.0).abs() < 0.3);
}

#[test]
fn less_may_be_better() {
    let mut nightly = common::nightly();
    nightly.more_is_better = false;
    assert!(!trend(&nightly).changes[0].worse);
    nightly.nights.iter_mut().for_each(|night| night.values.clear());
    assert_eq!(view::trend(&nightly), None);
}

#[test]
fn every_chart_can_be_drawn_in_both_layouts() {
    let report = report();
    let trend = Chart::Trend(trend(&common::nightly()));
    let charts = report.runs[0]
        .sections
        .iter()
        .flat_map(|s| &s.charts)
        .filter(|c| c.caption().slug.contains("gpu-01-cuda-0-tiny"));
    for chart in charts.chain([&trend, find(&report, "overview")]) {
        for layout in [Layout::WIDE, Layout::NARROW] {
            let svg = chart::svg(chart, layout).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", chart.caption().slug);
            assert!(chart::compact(&svg).len() < svg.len() * 85 / 100, "{}", chart.caption().slug);
        }
    }
}

#[test]
fn a_trend_as_svg() {
    let chart = Chart::Trend(trend(&common::nightly()));
    insta::assert_snapshot!(chart::svg(&chart, Layout::NARROW).unwrap());
}
