//! The files: page, pictures, exports, and what hostile text does to them (nothing).

use regatta_core::cell::Outcome;
use regatta_core::failure::FailureKind;
use regatta_core::flag::Flag;
use regatta_reporter::chart::{self, Layout};
use regatta_reporter::dataset::Dataset;
use regatta_reporter::{
    Format, Picture, ReportError, ReportOptions, export, html, pictures, render, render_live, view,
};
use resvg::tiny_skia::Pixmap;

use crate::common;

pub(crate) fn options() -> ReportOptions {
    ReportOptions { generated_at: common::start(), source: "regatta.sqlite".to_owned(), svg: true }
}

fn page(dataset: &Dataset) -> String {
    html::page(&view::report(dataset, common::start())).unwrap()
}

/// Every text that an agent or a scenario can choose freely, hostile.
pub(crate) fn hostile() -> (Dataset, String) {
    let evil = format!("<script>alert(1)</script>\"'&\u{202e}\u{200b}\0\x1b[31m=|`{}", "A".repeat(10_000));
    let mut dataset = common::troubled();
    let run = &mut dataset.runs[0];
    run.scenario.clone_from(&evil);
    run.description.clone_from(&evil);
    run.scenario_file.clone_from(&evil);
    "</pre><script>alert(2)</script>\u{202e}\0".clone_into(&mut run.scenario_text);
    let host = &mut run.hosts[0];
    host.facts.insert(evil.clone(), evil.clone());
    host.version.clone_from(&evil);
    host.devices[0].name.clone_from(&evil);
    host.workers[0].engines[0].version.clone_from(&evil);
    host.workers[0].engines[0].build.clone_from(&evil);
    run.cells[0].outcome = Some(Outcome::Failed(FailureKind::Engine, evil.clone()));
    (dataset, evil)
}

/// Checks that tags are closed in the order in which they were opened.
fn assert_balanced(page: &str) {
    const VOID: [&str; 4] = ["meta", "!doctype", "br", "link"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap().to_lowercase();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{name}> closes another tag");
        } else if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
            if name == "style" || name == "script" {
                rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
            }
            open.push(name);
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

#[test]
fn pages_are_well_formed() {
    for dataset in
        [common::demo(), common::troubled(), common::fleet(), common::scaling(), common::sweeps(), hostile().0]
    {
        assert_balanced(&page(&dataset));
    }
}

#[test]
fn a_page_asks_for_nothing_outside_of_itself() {
    let page = page(&common::demo());
    let without_namespace = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "@import", "<link", "<img", "innerHTML", " style=", " onclick"] {
        assert!(!without_namespace.contains(outside), "{outside} is in the page");
    }
    let urls = page.matches("url(").count();
    assert_eq!(urls, page.matches("url(data:font/otf;base64,").count());
}

#[test]
fn the_policy_admits_only_the_pages_own_script_and_style() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let page = page(&common::demo());
    for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(page.matches(&open).count(), 1);
        let start = page.find(&open).unwrap() + open.len();
        let content = &page[start..page.find(&close).unwrap()];
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(content.as_bytes()));
        // Askama escapes the quotes of the attribute; browsers read them as quotes again.
        let policy = page.replace("&#39;", "'");
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{directive} does not match");
    }
}

#[test]
fn hostile_labels_are_harmless() {
    let (dataset, evil) = hostile();
    let page = page(&dataset);
    assert_eq!(page.matches("<script").count(), 1, "only the page's own script");
    assert!(!page.contains("alert(1)</script>") && !page.contains("alert(2)</script>"));
    assert!(!page.contains(['\0', '\u{202e}', '\u{200b}', '\x1b']));
    assert!(!page.contains(&"A".repeat(600)), "long text is cut");
    let report = view::report(&dataset, common::start());
    insta::assert_snapshot!(report.runs[0].scenario);
    assert_eq!(report.runs[0].scenario.chars().count(), 128);
    for format in Format::ALL {
        let text = export(&dataset, &options(), format).unwrap();
        assert!(!text.contains(['\0', '\u{202e}', '\x1b']), "{format:?}");
        assert!(!text.contains(&evil), "{format:?}");
    }
    let markdown = export(&dataset, &options(), Format::Markdown).unwrap();
    assert!(!markdown.contains("<script"));
    for chart in report.runs[0].sections.iter().flat_map(|s| &s.charts) {
        let svg = chart::svg(chart, Layout::WIDE).unwrap();
        assert!(!svg.contains("<script"));
        chart::png("hostile", &svg).unwrap();
    }
}

#[test]
fn pictures_are_twice_their_size_and_have_text_without_any_font_of_the_system() {
    let report = view::report(&common::demo(), common::start());
    for chart in &report.runs[0].sections[0].charts {
        let svg = chart::svg(chart, Layout::WIDE).unwrap();
        let picture = Pixmap::decode_png(&chart::png("test", &svg).unwrap()).unwrap();
        assert_eq!(picture.width(), 1800);
        let height: u32 = svg.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        assert_eq!(picture.height(), height * 2);
        // The title stands in the first 40 rows of pixels of the chart, and nothing else does.
        let dark = |rows: std::ops::Range<u32>| {
            let pixels = rows.flat_map(|y| (0..1800).map(move |x| (x, y)));
            pixels.filter(|(x, y)| picture.pixel(*x, *y).unwrap().red() < 90).count()
        };
        assert!(dark(30..80) > 1000, "no title: {}", dark(30..80));
        assert!(dark(80..picture.height()) > 3000);
    }
}

#[test]
fn text_of_a_chart_stays_inside_of_it() {
    use resvg::usvg::{Options, Tree, fontdb};
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(chart::theme::REGULAR.to_vec());
    fonts.load_font_data(chart::theme::SEMIBOLD.to_vec());
    let options = Options { fontdb: std::sync::Arc::new(fonts), ..Options::default() };
    for dataset in [common::demo(), common::troubled(), common::fleet(), common::sweeps(), hostile().0] {
        let report = view::report(&dataset, common::start());
        // Of the sweeps' eight subjects one will do.
        let other = |chart: &&view::Chart| ["gpu-02", "mistral"].iter().any(|name| chart.caption().slug.contains(name));
        let charts = report.runs.iter().flat_map(|r| &r.sections).flat_map(|s| &s.charts);
        for chart in charts.filter(|chart| !other(chart)) {
            for layout in [Layout::WIDE, Layout::NARROW] {
                let tree = Tree::from_str(&chart::svg(chart, layout).unwrap(), &options).unwrap();
                let drawn = tree.root().abs_bounding_box();
                let size = tree.size();
                let inside = drawn.left() >= -0.5
                    && drawn.top() >= -0.5
                    && drawn.right() <= size.width() + 0.5
                    && drawn.bottom() <= size.height() + 0.5;
                assert!(inside, "{}: {drawn:?} in {size:?}", chart.caption().slug);
            }
        }
    }
}

#[test]
fn a_report_is_a_page_and_its_charts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let written = render(&common::demo(), &options(), &out).unwrap();
    assert_eq!(written.html, out.join("report.html"));
    let names: Vec<String> =
        written.pngs.iter().map(|p| p.strip_prefix(&out).unwrap().to_string_lossy().replace('\\', "/")).collect();
    assert_eq!(
        names,
        ["decode", "prefill", "ttft", "prefill-length", "context", "itl", "memory", "overview"]
            .map(|name| format!("charts/{name}.png"))
    );
    assert_eq!(std::fs::read_to_string(written.csv.unwrap()).unwrap().lines().count(), 32 * 3 + 1);
    assert_eq!(written.svgs.len(), 8);
    for path in written.pngs.iter().chain(&written.svgs).chain([&written.html]) {
        assert!(path.metadata().unwrap().len() > 1000, "{}", path.display());
    }
    assert_eq!(std::fs::read_dir(out.join("charts")).unwrap().count(), 16, "no half-written file is left");
}

#[test]
fn without_runs_there_is_no_report() {
    let error = render(&Dataset::default(), &options(), std::path::Path::new("/nowhere")).unwrap_err();
    assert!(matches!(error, ReportError::NoRuns(_)));
    assert!(error.to_string().starts_with("no runs in regatta.sqlite: "), "{error}");
    assert!(export(&Dataset::default(), &options(), Format::Csv).is_err());
}

#[test]
fn csv_has_a_line_for_each_repetition() {
    let dataset = common::troubled();
    let text = export(&dataset, &options(), Format::Csv).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let samples: usize = dataset.runs[0].cells.iter().map(|c| c.samples.len() + c.superseded.len()).sum();
    assert_eq!(lines.len(), samples + 1);
    assert_eq!(lines.iter().filter(|l| l.contains(",false,")).count(), 1, "one late sample");
    insta::assert_snapshot!(format!("{}\n{}", lines[0], lines[1]));
}

#[test]
fn json_holds_every_token_time() {
    let dataset = common::demo();
    let json: serde_json::Value = serde_json::from_str(&export(&dataset, &options(), Format::Json).unwrap()).unwrap();
    let samples = json["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 32 * 3);
    assert_eq!(samples[0]["token_ns"].as_array().unwrap().len(), 64);
    assert_eq!(json["report"]["runs"][0]["total"], 32);
    assert_eq!(json["schema"], 1);
}

#[test]
fn markdown_fits_a_comment() {
    let text = export(&common::troubled(), &options(), Format::Markdown).unwrap();
    assert!(text.len() < 60_000);
    insta::assert_snapshot!(text);
}

#[test]
fn a_page_of_a_thousand_cells_is_light() {
    let report = view::report(&common::large(1000, 30, 16), common::start());
    let page = html::page(&report).unwrap();
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
    let run = &report.runs[0];
    assert_eq!((run.rows.len(), run.details.len()), (1000, 1000));
    // Of each cell some repetitions are shown, and how many are not.
    assert!(run.details.iter().all(|cell| cell.repetitions.len() >= 3 && cell.repetitions.len() + cell.more == 30));
    assert!(page.contains("<th>Repetition<small>3 of 30</small></th>"));
    assert!(page.contains("charts stand beside it in the folder charts"));
}

#[test]
fn a_page_of_a_thousand_cells_is_light_where_each_kind_has_a_workload_of_its_own() {
    let page = page(&common::large_of(250, 1000, 30, 16));
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
}

/// What is left out of memory where there are very many is not on the page.
#[test]
fn a_page_rests_on_no_surroundings_but_those_it_shows() {
    let mut dataset = common::large(100, 60, 4);
    let seen = |dataset: &Dataset| {
        let samples = dataset.runs[0].cells.iter().flat_map(|cell| &cell.samples);
        samples.filter(|sample| sample.telemetry.is_some()).count()
    };
    // One cell was measured where energy was known: numbers rest on it.
    let energetic = &mut dataset.runs[0].cells[7];
    energetic.samples.iter_mut().for_each(|sample| sample.telemetry.as_mut().unwrap().energy_mj = Some(9000));
    let (whole, all) = (page(&dataset), seen(&dataset));
    dataset.runs[0].cells.iter_mut().for_each(|cell| cell.forget_surroundings_after(30));
    assert_eq!((all, seen(&dataset)), (6000, 99 * 30 + 60));
    assert!(whole == page(&dataset), "the page has changed");
    dataset.runs[0].cells.iter_mut().for_each(|cell| cell.forget_surroundings_after(29));
    assert!(whole != page(&dataset), "30 repetitions of each cell are shown");
}

/// What is true of every cell stands above the table, what is true of some beside them: what stands in a row means something.
#[test]
fn flags_that_all_have_in_common_are_told_once() {
    let mut dataset = common::demo();
    let cells = &mut dataset.runs[0].cells;
    cells[0].samples.iter_mut().for_each(|sample| sample.flags.insert(Flag::BusyHost));
    cells[1].samples[2].flags.insert(Flag::BusyHost);
    let page = page(&dataset);
    let between = |from: &str, to: &str| {
        let start = page.find(from).unwrap();
        &page[start..start + page[start..].find(to).unwrap()]
    };
    let results = between("<h2>Results</h2>", "</table>");
    assert_eq!(results.matches("synthetic weights</span>").count(), 1);
    assert!(results.contains("<p class=\"kicker\">All of them: <span class=\"flag\" title=\"weights are seeded"));
    assert_eq!(results.matches("busy host</span>").count(), 2);
    let details: Vec<&str> = page.split("<details class=\"row\"").skip(1).collect();
    assert!(details[0].contains("flags <b>synthetic weights, busy host</b>") && !details[0].contains("class=\"flag\""));
    assert!(details[1].contains("flags <b>synthetic weights</b>") && details[1].contains("<th>Flags</th>"));
    assert_eq!(details[1].split("</table>").next().unwrap().matches("class=\"flag\"").count(), 1);
}

#[test]
fn a_page_of_a_run_that_goes_on_looks_again() {
    let folder = tempfile::tempdir().unwrap();
    let every = std::time::Duration::from_secs(10);
    let path = render_live(&common::troubled(), &options(), every, folder.path()).unwrap();
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains("<meta http-equiv=\"refresh\" content=\"10\">") && page.contains("Run not finished"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no chart is drawn while something is measured");
    assert!(!self::page(&common::troubled()).contains("http-equiv=\"refresh\""));
}

#[test]
fn charts_come_alone_where_they_are_wanted_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (picture, magic) in [(Picture::Png, b"\x89PNG".as_slice()), (Picture::Svg, b"<svg".as_slice())] {
        let out = folder.path().join(format!("{picture:?}"));
        let files = pictures(&common::demo(), &options(), picture, &out).unwrap();
        assert_eq!((files.len(), std::fs::read_dir(&out).unwrap().count()), (8, 8));
        assert!(files.iter().all(|file| std::fs::read(file).unwrap().starts_with(magic)));
    }
}

#[test]
fn the_summary_says_what_has_no_result_and_why() {
    let report = view::report(&common::troubled(), common::start());
    let reasons = &report.runs[0].reasons;
    assert_eq!(reasons[0], "4 × skipped: candle has no weights for q4_k_m on this machine");
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(page(&common::troubled()).contains("1 × crashed: signal 11 after 3 s"));
}

/// An SVG of that content, as large as the gradients in it need.
fn drawing(content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"20\" viewBox=\"0 0 600 20\">{content}</svg>"
    )
}

#[test]
fn pictures_of_few_colours_are_written_as_such_and_look_the_same() {
    const GROUND: &str = "<rect width=\"600\" height=\"20\" fill=\"#ffffff\"/>";
    let kind = |png: &[u8]| png[25];
    let at = |png: &[u8], x: u32, y: u32| {
        let pixel = Pixmap::decode_png(png).unwrap().pixel(x, y).unwrap().demultiply();
        (pixel.red(), pixel.green(), pixel.blue(), pixel.alpha())
    };
    let few = drawing(&format!("{GROUND}<rect x=\"10\" y=\"5\" width=\"100\" height=\"5\" fill=\"#b3261e\"/>"));
    let few = chart::png("few", &few).unwrap();
    assert_eq!(kind(&few), 3, "by palette");
    assert_eq!((at(&few, 0, 0), at(&few, 100, 15)), ((255, 255, 255, 255), (0xb3, 0x26, 0x1e, 255)));

    let gradient = "<linearGradient id=\"g\"><stop stop-color=\"#ff0000\"/><stop offset=\"1\" stop-color=\"#0000ff\"/></linearGradient>";
    let many = drawing(&format!("{gradient}{GROUND}<rect width=\"600\" height=\"10\" fill=\"url(#g)\"/>"));
    let many = chart::png("many", &many).unwrap();
    assert_eq!(kind(&many), 6, "more colours than a palette has");
    assert_eq!((at(&many, 0, 0).0, at(&many, 0, 30)), (255, (255, 255, 255, 255)));

    let ground_shows = chart::png("clear", &drawing("<rect width=\"300\" height=\"20\" fill=\"#b3261e\"/>")).unwrap();
    assert_eq!((kind(&ground_shows), at(&ground_shows, 900, 10).3), (6, 0));
}
