//! Charts: each a pure function from a view to SVG text, drawn with plotters, and PNG made from the same SVG.
//!
//! A chart is drawn on a light ground. Every colour has one role and one value, so that the page's style sheet can
//! replace each by another on a dark ground. No font of the system is used: text is measured with the embedded font,
//! the page carries it, and so does the PNG.

mod axis;
mod bars;
mod canvas;
mod frame;
mod heat;
mod lines;
mod png;
mod strips;
pub mod theme;
mod trend;

pub use self::png::png;
use crate::error::{ReportError, Result};
use crate::view::Chart;

/// The room a chart has. Sizes are in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// Width of the whole chart; its height follows from what is in it.
    pub width: f64,
    /// Panels side by side at most.
    pub columns: usize,
}

impl Layout {
    /// For pages and pictures.
    pub const WIDE: Self = Self { width: 900.0, columns: 2 };
    /// For telephones.
    pub const NARROW: Self = Self { width: 400.0, columns: 1 };
}

/// Draws a chart as SVG.
pub fn svg(chart: &Chart, layout: Layout) -> Result<String> {
    let drawn = match chart {
        Chart::Bars(chart) => bars::draw(chart, layout),
        Chart::Lines(chart) => lines::draw(chart, layout),
        Chart::Strips(chart) => strips::draw(chart, layout),
        Chart::Heat(chart) => heat::draw(chart, layout),
        Chart::Trend(chart) => trend::draw(chart, layout),
    };
    drawn.map_err(|message| ReportError::Chart { chart: chart.caption().slug.clone(), message })
}

/// A chart's SVG without what the page's style sheet says of all of them, for pages that hold many.
pub fn compact(svg: &str) -> String {
    let family = format!(" font-family=\"{}\"", theme::FAMILY.replace('\'', "&apos;"));
    let said = [
        family.as_str(),
        " opacity=\"1\"",
        " stroke=\"none\"",
        " text-anchor=\"start\"",
        " xmlns=\"http://www.w3.org/2000/svg\"",
    ];
    let mut out = svg.replace("<polyline fill=\"none\"", "<polyline").replace(".00000000000001", "");
    for attribute in said {
        out = out.replace(attribute, "");
    }
    out.replace(">\n", ">").replace("\n</text>", "</text>").replace(" \"/>", "\"/>")
}
