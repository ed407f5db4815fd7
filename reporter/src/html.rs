//! The page: one file that holds everything, loads nothing and trusts no text. Its content security policy admits
//! exactly the one style sheet and the one script written here, by their hashes.

use std::time::Duration;

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::chart::{self, Layout, theme};
use crate::error::Result;
use crate::view::{Chart, Report, RunView, Section};

const CSS: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

/// Bytes of charts up to which a page holds all of them, in both layouts.
const WHOLE: usize = 800_000;

/// Bytes of charts of a page that can't hold all: one of hundreds is looked at by nobody, and heavy.
const PART: usize = 400_000;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    runs: Vec<RunPage<'a>>,
    policy: String,
    /// Seconds after which a browser opens it again.
    refresh: Option<u64>,
    /// Whether charts stand beside it.
    has_folder: bool,
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
    fill_in(report, None, true)
}

/// Writes `report` as a page that a server shows, with no folder beside it.
pub fn served_page(report: &Report) -> Result<String> {
    fill_in(report, None, false)
}

/// The content security policy of every page.
pub fn content_policy() -> String {
    policy(&style_sheet())
}

/// Writes `report` as a page that a browser opens again every so often, with no script for it.
pub fn live_page(report: &Report, every: Duration) -> Result<String> {
    // Charts are put beside it when the run has ended.
    fill_in(report, Some(every.as_secs().max(1)), false)
}

fn fill_in(report: &Report, refresh: Option<u64>, has_folder: bool) -> Result<String> {
    let css = style_sheet();
    let runs = run_pages(report)?;
    let policy = policy(&css);
    Ok(Page { report, runs, policy, refresh, has_folder, css, js: SCRIPT }.render()?)
}

/// How many charts of each section the page holds, and whether each is there a second time for narrow screens. The first
/// ones of a section matter most, so sections take turns.
struct Room {
    of_section: Vec<usize>,
    narrow: bool,
}

impl Room {
    fn of(sections: &[Vec<String>]) -> Self {
        let size = |charts: &[String]| charts.iter().map(String::len).sum::<usize>();
        if sections.iter().map(|charts| size(charts)).sum::<usize>() <= WHOLE {
            return Self { of_section: sections.iter().map(Vec::len).collect(), narrow: true };
        }
        let mut of_section = vec![0; sections.len()];
        let mut used = 0;
        for turn in 0..sections.iter().map(Vec::len).max().unwrap_or(0) {
            for (taken, charts) in of_section.iter_mut().zip(sections) {
                let Some(chart) = charts.get(turn) else { continue };
                used += chart.len();
                // The first of each is there in any case.
                if used <= PART || turn == 0 {
                    *taken = turn + 1;
                }
            }
            if used > PART {
                break;
            }
        }
        Self { of_section, narrow: false }
    }
}

fn run_pages(report: &Report) -> Result<Vec<RunPage<'_>>> {
    let sections = || report.runs.iter().flat_map(|run| &run.sections).filter(|s| !s.charts.is_empty());
    let wide =
        |section: &Section| section.charts.iter().map(|chart| svg(chart, Layout::WIDE)).collect::<Result<Vec<_>>>();
    let drawn = sections().map(wide).collect::<Result<Vec<_>>>()?;
    let room = Room::of(&drawn);
    let mut drawn = drawn.into_iter().zip(room.of_section);
    let mut pages = Vec::new();
    for view in &report.runs {
        let sections = view.sections.iter().filter(|s| !s.charts.is_empty()).zip(drawn.by_ref());
        let sections = sections.map(|(section, (wide, n))| section_page(section, wide, n, room.narrow));
        pages.push(RunPage { view, sections: sections.collect::<Result<_>>()? });
    }
    Ok(pages)
}

fn section_page(section: &Section, wide: Vec<String>, n: usize, narrow: bool) -> Result<SectionPage<'_>> {
    let (shown, beside) = section.charts.split_at(n);
    let charts = shown.iter().zip(wide).map(|(chart, wide)| figure(chart, wide, narrow)).collect::<Result<_>>()?;
    let beside = beside.iter().map(|chart| chart.caption().slug.as_str()).collect();
    Ok(SectionPage { title: &section.title, charts, beside })
}

fn figure(chart: &Chart, wide: String, narrow: bool) -> Result<Figure<'_>> {
    let caption = chart.caption();
    Ok(Figure {
        slug: &caption.slug,
        short: caption.title.split([',', ':']).next().unwrap_or_default(),
        label: format!("{}. {}", caption.title, caption.subtitle),
        wide,
        narrow: (narrow && !matches!(chart, Chart::Heat(_))).then(|| svg(chart, Layout::NARROW)).transpose()?,
    })
}

fn svg(chart: &Chart, layout: Layout) -> Result<String> {
    Ok(chart::compact(&chart::svg(chart, layout)?))
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
    format!("{CSS}{}", chart_style())
}

/// What charts need of a style sheet: their fonts, and their colours for dark grounds.
pub fn chart_style() -> String {
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
    format!("@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n{faces}")
}
