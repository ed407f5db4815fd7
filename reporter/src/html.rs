//! The page: one file that holds everything, loads nothing and trusts no text. Its content security policy admits
//! exactly the one style sheet and the one script written here, by their hashes.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::chart::{self, Layout, theme};
use crate::error::Result;
use crate::view::{Chart, Report, RunView, Section};

const CSS: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");

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
}

/// A chart in both layouts; the style sheet shows the one that fits.
struct Figure<'a> {
    slug: &'a str,
    label: String,
    wide: String,
    narrow: String,
}

/// Writes `report` as a page.
pub fn page(report: &Report) -> Result<String> {
    let css = style_sheet();
    let runs = report.runs.iter().map(run_page).collect::<Result<_>>()?;
    let policy = policy(&css);
    Ok(Page { report, runs, policy, css, js: SCRIPT }.render()?)
}

fn run_page(view: &RunView) -> Result<RunPage<'_>> {
    let sections = view.sections.iter().filter(|s| !s.charts.is_empty());
    Ok(RunPage { view, sections: sections.map(section_page).collect::<Result<_>>()? })
}

fn section_page(section: &Section) -> Result<SectionPage<'_>> {
    let charts = section.charts.iter().map(figure).collect::<Result<_>>()?;
    Ok(SectionPage { title: &section.title, charts })
}

fn figure(chart: &Chart) -> Result<Figure<'_>> {
    let caption = chart.caption();
    Ok(Figure {
        slug: &caption.slug,
        label: format!("{}. {}", caption.title, caption.subtitle),
        wide: chart::svg(chart, Layout::WIDE)?,
        narrow: chart::svg(chart, Layout::NARROW)?,
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
