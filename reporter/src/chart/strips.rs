//! Strips: distributions in a few numbers each, rows of precision and backend, one panel for each workload.

use plotters::style::Color as _;

use super::Layout;
use super::axis::Axis;
use super::canvas::{Canvas, Drawn, Rect, Text};
use super::frame::{Grid, Panel, Swatch, framed, length_axis, panel_head};
use super::theme::{self, GRID, INK, MUTED};
use crate::stats::sorted;
use crate::view::{Scale, Strip, StripChart, StripPanel};

const ROW: f64 = 17.0;
/// Additional distance between precisions.
const GROUP_GAP: f64 = 7.0;
/// Height that is free above the plot, since the name of the value axis stands below.
const NO_AXIS_NAME: f64 = 18.0;
const PRECISION: Text = Text::new(12.0, INK);

pub(super) fn draw(chart: &StripChart, layout: Layout) -> Drawn<String> {
    let labels = chart.panels.iter().flat_map(|p| &p.rows).map(|r| PRECISION.width(&r.label));
    let grid = Grid {
        panels: chart.panels.len(),
        columns: layout.columns,
        plot_heights: chart.panels.iter().map(plot_height).collect(),
        left: labels.fold(0.0, f64::max) + 14.0,
        below: 40.0,
    };
    let values = sorted(strips(chart).flat_map(|s| [s.min, s.max]));
    framed(&chart.caption, layout, Swatch::Marker, &grid, |canvas, i, place| {
        let panel = &chart.panels[i];
        panel_head(canvas, place, &panel.title, "", "")?;
        draw_panel(canvas, chart, panel, &values, place)
    })
}

fn strips(chart: &StripChart) -> impl Iterator<Item = Strip> {
    chart.panels.iter().flat_map(|p| p.rows.iter().filter_map(|r| r.strip))
}

fn plot_height(panel: &StripPanel) -> f64 {
    let groups = panel.rows.iter().filter(|r| !r.label.is_empty()).count();
    panel.rows.len() as f64 * ROW + groups as f64 * GROUP_GAP + 6.0 - NO_AXIS_NAME
}

fn draw_panel(canvas: &Canvas<'_>, chart: &StripChart, panel: &StripPanel, values: &[f64], place: &Panel) -> Drawn {
    let plot = Rect { top: place.plot.top - NO_AXIS_NAME, ..place.plot };
    let axis = match chart.value_scale {
        Scale::Linear => Axis::from_zero(values.last().copied().unwrap_or(1.0), plot.left, plot.right, 5),
        scale => Axis::around(scale, values, plot.left, plot.right, 8),
    };
    for tick in &axis.ticks {
        let x = axis.at(*tick);
        canvas.line(&[(x, plot.top), (x, plot.bottom)], GRID, 1.0)?;
    }
    length_axis(canvas, &plot, &axis, &chart.caption.value_axis)?;
    let mut y = plot.top;
    for row in &panel.rows {
        if !row.label.is_empty() {
            y += GROUP_GAP;
        }
        let middle = y + ROW / 2.0;
        canvas.text((plot.left - 10.0, middle), &row.label, PRECISION.right())?;
        let style = chart.caption.series.get(row.series).map_or(0, |s| s.style);
        match row.strip {
            Some(strip) => draw_strip(canvas, strip, style, middle, &axis)?,
            None => canvas.text((plot.left + 8.0, middle), &missing(chart, row.series, &row.missing), MISSING)?,
        }
        y += ROW;
    }
    Ok(())
}

const MISSING: Text = Text::new(11.5, MUTED);

fn missing(chart: &StripChart, series: usize, state: &str) -> String {
    let backend = chart.caption.series.get(series).map_or("", |s| &s.label);
    format!("{backend}: {state}")
}

fn draw_strip(canvas: &Canvas<'_>, strip: Strip, style: usize, y: f64, axis: &Axis) -> Drawn {
    let look = theme::style(style);
    let [min, p50, p90, max] = [strip.min, strip.p50, strip.p90, strip.max].map(|v| axis.at(v));
    let end = strip.p99.map_or(max, |p| axis.at(p));
    canvas.line(&[(min, y), (end, y)], look.colour, 1.5)?;
    canvas.polygon(&[(p50, y - 3.5), (p90, y - 3.5), (p90, y + 3.5), (p50, y + 3.5)], look.colour.to_rgba())?;
    canvas.ring((max, y), 2.75, look.colour, 1.5)?;
    canvas.marker((p50, y), look.marker, look.colour, 4.5)
}
