//! The page: one file that holds everything, loads nothing and trusts no text. Its content security policy admits
//! exactly the one style sheet and the one script written here, by their hashes.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::chart::{self, Layout, theme};
use crate::error::{ReportError, Result};
use crate::view::{Chart, Report, RunView, Section};

const CSS: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

/// Charts on a page, unless it has more sections than that: a page of hundreds is looked at by nobody, and heavy.
const MAX_CHARTS: usize = 16;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    runs: Vec<RunPage<'a>>,
    policy: String,
    css: String,
    js: &'static str,
}

struct RunPage<'a> {
    view: &'a RunView,
    sections: Vec<SectionPage<'a>>,
}

struct SectionPage<'a> {
    title: &'a str,
    charts: Vec<Figure<'a>>,
    /// File names of the charts that stand beside the page only.
    beside: Vec<&'a str>,
}

/// A chart in both layouts; the style sheet shows the one that fits.
struct Figure<'a> {
    slug: &'a str,
    /// Its name for links: the title's first words.
    short: &'a str,
    label: String,
    wide: String,
    /// `None` for one that scrolls on a narrow screen: a table, or one of very many.
    narrow: Option<String>,
}

/// Writes `report` as a page.
pub fn page(report: &Report) -> Result<String> {
    let css = style_sheet();
    let room = Room::of(report);
    let runs = report.runs.iter().map(|view| run_page(view, room)).collect::<Result<_>>()?;
    let policy = policy(&css);
    Ok(Page { report, runs, policy, css, js: SCRIPT }.render()?)
}

/// What a page has room for.
#[derive(Clone, Copy)]
struct Room {
    /// Charts of each section; the first ones matter most.
    charts: usize,
    /// Whether each is there a second time, laid out for narrow screens.
    narrow: bool,
}

impl Room {
    fn of(report: &Report) -> Self {
        let sections = || report.runs.iter().flat_map(|run| &run.sections);
        let charts: usize = sections().map(|section| section.charts.len()).sum();
        if charts <= MAX_CHARTS {
            return Self { charts: usize::MAX, narrow: true };
        }
        Self { charts: (MAX_CHARTS / sections().count().max(1)).max(1), narrow: false }
    }
}

fn run_page(view: &RunView, room: Room) -> Result<RunPage<'_>> {
    let sections = view.sections.iter().filter(|s| !s.charts.is_empty());
    Ok(RunPage { view, sections: sections.map(|section| section_page(section, room)).collect::<Result<_>>()? })
}

fn section_page(section: &Section, room: Room) -> Result<SectionPage<'_>> {
    let (shown, beside) = section.charts.split_at(room.charts.min(section.charts.len()));
    let charts = shown.iter().map(|chart| figure(chart, room)).collect::<Result<_>>()?;
    let beside = beside.iter().map(|chart| chart.caption().slug.as_str()).collect();
    Ok(SectionPage { title: &section.title, charts, beside })
}

fn figure(chart: &Chart, room: Room) -> Result<Figure<'_>> {
    let caption = chart.caption();
    let svg = |layout| Ok::<_, ReportError>(chart::compact(&chart::svg(chart, layout)?));
    Ok(Figure {
        slug: &caption.slug,
        short: caption.title.split([',', ':']).next().unwrap_or_default(),
        label: format!("{}. {}", caption.title, caption.subtitle),
        wide: svg(Layout::WIDE)?,
        narrow: (room.narrow && !matches!(chart, Chart::Heat(_))).then(|| svg(Layout::NARROW)).transpose()?,
    })
}

/// Nothing may be loaded, and nothing runs or styles but what has these hashes.
fn policy(css: &str) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(text.as_bytes())));
    format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; font-src data:; base-uri 'none'; form-action 'none'",
        hash(css),
        hash(SCRIPT)
    )
}

/// The style sheet with the fonts, and with the charts' colours for dark grounds.
fn style_sheet() -> String {
    let face = |weight: &str, font: &[u8]| {
        let data = BASE64.encode(font);
        format!(
            "@font-face{{font-family:Inter;font-weight:{weight};src:url(data:font/otf;base64,{data}) format(\"opentype\")}}\n"
        )
    };
    let dark = theme::DARK.iter().map(|(light, dark)| {
        let light = format!("#{:02X}{:02X}{:02X}", light.0, light.1, light.2);
        format!(".chart [fill=\"{light}\"]{{fill:{dark}}}.chart [stroke=\"{light}\"]{{stroke:{dark}}}\n")
    });
    let dark: String = dark.collect();
    let faces = face("400", theme::REGULAR) + &face("600 700", theme::SEMIBOLD);
    format!("{CSS}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n{faces}")
}
