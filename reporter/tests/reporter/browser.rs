//! Pages in a browser: headless Chromium opens them as a reader would, in light and dark, wide and narrow, presses heads of
//! columns and types into filters (`browser.html` does, in a frame around each page), and what it sees is judged here.
//! Skipped where no Chromium is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use regatta_reporter::dataset::Dataset;
use regatta_reporter::{html, view};
use serde::Deserialize;

use crate::common;
use crate::report::hostile;

/// How long a browser may take. On a busy machine it takes some seconds.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Deserialize)]
struct Seen {
    page: String,
    title: String,
    scripts: usize,
    charts: usize,
    wide: Widths,
    overlaps_wide: Vec<String>,
    ground: String,
    chart_ground: Option<String>,
    requests: Vec<String>,
    font: bool,
    sorting: Option<Sorting>,
    filtering: Option<Filtering>,
    opened: Option<bool>,
    narrow: Widths,
    beyond_narrow: Vec<String>,
    narrow_charts: usize,
    overlaps_narrow: Vec<String>,
    violations: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Widths {
    content: u32,
    window: u32,
}

#[derive(Debug, Deserialize)]
struct Sorting {
    before: Vec<String>,
    descending: Vec<String>,
    ascending: Vec<String>,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Filtering {
    all: usize,
    some: usize,
    again: usize,
}

/// The reports that are looked at, and how many charts each has on its page.
fn reports() -> Vec<(&'static str, Dataset, usize)> {
    let mut one = common::sweeps();
    one.runs[0].cells.retain(|c| c.cell.artifact.model.as_str() == "mistral-7b" && !c.cell.workload.kind.is_kernel());
    one.runs[0].cells.retain(|c| c.cell.agent.as_str() == "gpu-02");
    vec![
        ("demo", common::demo(), 8),
        ("troubled", common::troubled(), 8),
        ("scaling", common::scaling(), 6),
        ("sweeps", one, 14),
        ("hostile", hostile().0, 8),
    ]
}

/// The browser, by the names under which systems install it.
fn chromium() -> Option<PathBuf> {
    const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let found = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let bundled = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome".into();
    found.chain([bundled]).find(|path| path.is_file())
}

/// Opens `pages` one after the other and tells what is seen of each, and what the browser logged.
fn look(chromium: &Path, folder: &Path, pages: &[&str], dark: bool) -> (Vec<Seen>, String) {
    std::fs::write(folder.join("browser.html"), include_str!("browser.html")).unwrap();
    let query: Vec<String> = pages.iter().map(|page| format!("page={page}.html")).collect();
    let address = format!("file://{}?{}", folder.join("browser.html").display(), query.join("&"));
    let (out, log) = (folder.join("dom"), folder.join("log"));
    let file = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
    let mut browser = Command::new(chromium)
        // The frame and the page in it are files: only this lets the one look into the other.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"])
        .args(["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"])
        // Whatever asks for a name gets none: nothing leaves this machine.
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", i32::from(!dark)))
        .args(["--virtual-time-budget=20000", "--dump-dom", &address])
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&log))
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while browser.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            browser.kill().unwrap();
            browser.wait().unwrap();
            panic!("the browser did not end: {}", std::fs::read_to_string(&log).unwrap());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (dom, log) = (std::fs::read_to_string(&out).unwrap(), std::fs::read_to_string(&log).unwrap());
    let result = dom.split("<pre id=\"result\">").nth(1).unwrap_or_else(|| panic!("no result: {log}"));
    let result = result.split("</pre>").next().unwrap();
    let result = result.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let seen = serde_json::from_str(&result).unwrap_or_else(|e| panic!("{e}: {result}"));
    (seen, log)
}

/// Numbers as a table shows them; what is no number stands last whatever the order.
fn numbers(texts: &[String]) -> Vec<f64> {
    texts.iter().filter_map(|text| text.replace(',', "").parse().ok()).collect()
}

/// What is wrong with a page.
fn complaints(seen: &Seen, charts: usize, ground: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |fine: bool, what: String| {
        if !fine {
            wrong.push(format!("{}: {what}", seen.page));
        }
    };
    check(seen.scripts == 1, format!("{} scripts", seen.scripts));
    check(
        seen.charts == charts && seen.narrow_charts == charts,
        format!("{} and {} charts", seen.charts, seen.narrow_charts),
    );
    check(seen.wide.content <= seen.wide.window, format!("it scrolls sideways: {:?}", seen.wide));
    check(
        seen.narrow.content <= seen.narrow.window,
        format!("it scrolls sideways where it is narrow: {:?}, {:?}", seen.narrow, seen.beyond_narrow),
    );
    check(seen.requests.is_empty(), format!("it asked for {:?}", seen.requests));
    check(seen.violations.is_empty(), format!("it was stopped from {:?}", seen.violations));
    check(seen.font, "its font is missing".to_owned());
    check(seen.overlaps_wide.is_empty(), format!("words on words: {:#?}", seen.overlaps_wide));
    check(seen.overlaps_narrow.is_empty(), format!("words on words where it is narrow: {:#?}", seen.overlaps_narrow));
    check(seen.ground == ground, format!("the ground is {}", seen.ground));
    check(seen.chart_ground.as_deref() == Some(ground), format!("the charts' ground is {:?}", seen.chart_ground));
    if let Some(sorting) = &seen.sorting {
        let (up, down) = (numbers(&sorting.ascending), numbers(&sorting.descending));
        let sorted = up.is_sorted() && down.iter().rev().is_sorted() && sorting.state == "ascending";
        let whole = up.len() == numbers(&sorting.before).len() && sorting.before.len() == sorting.ascending.len();
        check(sorted && whole, format!("{sorting:?}"));
        check(seen.opened == Some(true), "a cell's link does not open its repetitions".to_owned());
    }
    if let Some(Filtering { all, some, again }) = seen.filtering {
        check(0 < some && some < all && all == again, format!("of {all} rows the filter leaves {some}, then {again}"));
    }
    wrong
}

#[test]
fn pages_work_in_a_browser() {
    let Some(chromium) = chromium() else {
        #[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: no Chromium is installed (looked for chromium and google-chrome in PATH)");
        }
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let reports = reports();
    let names: Vec<&str> = reports.iter().map(|(name, ..)| *name).collect();
    for (name, dataset, _) in &reports {
        let page = html::page(&view::report(dataset, common::start())).unwrap();
        std::fs::write(folder.path().join(format!("{name}.html")), page).unwrap();
    }
    for (dark, ground) in [(false, "rgb(255, 255, 255)"), (true, "rgb(21, 26, 33)")] {
        let (seen, log) = look(&chromium, folder.path(), &names, dark);
        let console: Vec<&str> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
        assert_eq!(console, Vec::<&str>::new(), "nothing to complain about");
        assert_eq!(seen.len(), reports.len());
        let wrong = seen.iter().zip(&reports).flat_map(|(seen, (_, _, charts))| complaints(seen, *charts, ground));
        assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "dark: {dark}");
        let hostile = seen.last().unwrap();
        assert!(hostile.title.starts_with("<script>alert(1)</script>"), "text stays text: {}", hostile.title);
    }
}
