//! Bars: from zero, with whiskers, one group for each precision. A cell without a value gets a hatched box with its
//! state, never a bar of height zero.

use super::Layout;
use super::axis::Axis;
use super::canvas::{Canvas, Drawn, Rect, Text};
use super::frame::{Grid, HATCH, LABEL, Panel, Swatch, framed, panel_head, value_grid};
use super::theme::{self, AXIS, INK, MUTED, SURFACE};
use crate::view::{Bar, BarChart, BarPanel, Mark};

const PLOT_HEIGHT: f64 = 180.0;
/// More bars than this in a panel need the whole width.
const CROWDED: usize = 10;
const WIDEST_BAR: f64 = 44.0;
const VALUE: Text = Text::new(11.5, INK).centred();

pub(super) fn draw(chart: &BarChart, layout: Layout) -> Drawn<String> {
    let most = chart.panels.iter().map(|p| p.groups.len()).max().unwrap_or(0) * chart.caption.series.len();
    let grid = Grid {
        panels: chart.panels.len(),
        columns: if most > CROWDED { 1 } else { layout.columns },
        plot_heights: vec![PLOT_HEIGHT; chart.panels.len()],
        left: 46.0,
        below: 24.0,
    };
    framed(&chart.caption, layout, Swatch::Bar, &grid, |canvas, i, place| {
        let panel = &chart.panels[i];
        panel_head(canvas, place, &panel.title, "", panel.value_axis.as_ref().unwrap_or(&chart.caption.value_axis))?;
        draw_panel(canvas, chart, panel, place)
    })
}

fn draw_panel(canvas: &Canvas<'_>, chart: &BarChart, panel: &BarPanel, place: &Panel) -> Drawn {
    let plot = &place.plot;
    // Room for the labels above the highest whisker.
    let axis = Axis::from_zero(highest(panel) * 1.1, plot.bottom, plot.top, 4);
    value_grid(canvas, plot, &axis)?;
    let slots = Slots::new(plot, panel.groups.len(), chart.caption.series.len());
    for (g, group) in panel.groups.iter().enumerate() {
        for (s, bar) in group.bars.iter().enumerate() {
            let style = chart.caption.series.get(s).map_or(0, |series| series.style);
            draw_bar(canvas, bar, style, slots.bar(g, s), &axis)?;
        }
        let label = LABEL.fit(&group.label, slots.group_width());
        canvas.text((slots.group_middle(g), plot.bottom + 14.0), &label, LABEL.centred())?;
    }
    canvas.line(&[(plot.left, plot.bottom), (plot.right, plot.bottom)], AXIS, 1.0)
}

fn highest(panel: &BarPanel) -> f64 {
    let bars = panel.groups.iter().flat_map(|g| &g.bars);
    let tops = bars.map(|b| if let Mark::Value { high, .. } = b.mark { high } else { 0.0 });
    tops.fold(0.0, f64::max)
}

/// Where bars stand.
struct Slots {
    plot: Rect,
    group: f64,
    bar: f64,
    bars: f64,
}

impl Slots {
    fn new(plot: &Rect, groups: usize, bars: usize) -> Self {
        let group = plot.width() / groups.max(1) as f64;
        // A fifth of each group stays free, so that groups stand apart.
        let bar = (group * 0.8 / bars.max(1) as f64).min(WIDEST_BAR);
        Self { plot: *plot, group, bar, bars: bars as f64 }
    }

    fn group_width(&self) -> f64 {
        self.group - 4.0
    }

    fn group_middle(&self, group: usize) -> f64 {
        self.plot.left + self.group * (group as f64 + 0.5)
    }

    fn bar(&self, group: usize, bar: usize) -> Rect {
        let left = self.group_middle(group) + self.bar * (bar as f64 - self.bars / 2.0);
        Rect { left: left + 1.5, right: left + self.bar - 1.5, top: self.plot.top, bottom: self.plot.bottom }
    }
}

fn draw_bar(canvas: &Canvas<'_>, bar: &Bar, style: usize, slot: Rect, axis: &Axis) -> Drawn {
    match &bar.mark {
        Mark::Absent => Ok(()),
        Mark::Missing { state } => draw_missing(canvas, slot, state),
        Mark::Value { median, low, high, label, note } => {
            draw_body(canvas, Rect { top: axis.at(*median), ..slot }, style, bar.suspect)?;
            let middle = f64::midpoint(slot.left, slot.right);
            whisker(canvas, middle, axis.at(*low), axis.at(*high))?;
            // A label may be a little wider than its bar; one that would reach the next bar is left out.
            if VALUE.width(label) <= slot.width() + 3.0 {
                canvas.text((middle, axis.at(*high) - 9.0), label, VALUE)?;
            }
            canvas.text((middle, axis.at(*high) - 22.0), note, LABEL.centred())
        }
    }
}

fn draw_body(canvas: &Canvas<'_>, body: Rect, style: usize, hollow: bool) -> Drawn {
    let look = theme::style(style);
    if hollow {
        canvas.rect(body, SURFACE)?;
        return canvas.outline(body, look.colour, 2.0);
    }
    canvas.rect(body, look.colour)?;
    if look.hatched {
        canvas.hatch(body, SURFACE, HATCH)?;
    }
    canvas.outline(body, look.colour, 1.5)
}

fn whisker(canvas: &Canvas<'_>, x: f64, low: f64, high: f64) -> Drawn {
    // The ends of a shorter one would be a blot.
    if low - high < 3.0 {
        return Ok(());
    }
    canvas.line(&[(x, low), (x, high)], INK, 1.25)?;
    canvas.line(&[(x - 4.0, high), (x + 4.0, high)], INK, 1.25)?;
    canvas.line(&[(x - 4.0, low), (x + 4.0, low)], INK, 1.25)
}

/// A hatched box with the cell's state: something should be here and is not.
fn draw_missing(canvas: &Canvas<'_>, slot: Rect, state: &str) -> Drawn {
    let look = Text::new(11.5, MUTED).upright();
    let height = look.width(state) + 18.0;
    let width = slot.width().min(24.0);
    let middle = f64::midpoint(slot.left, slot.right);
    let rect = Rect {
        left: middle - width / 2.0,
        right: middle + width / 2.0,
        top: slot.bottom - height,
        bottom: slot.bottom,
    };
    canvas.hatch(rect, theme::GRID, 6.0)?;
    canvas.outline(rect, AXIS, 1.0)?;
    let label = Rect { left: middle - 7.0, right: middle + 7.0, top: rect.top + 5.0, bottom: rect.bottom - 5.0 };
    canvas.rect(label, SURFACE)?;
    canvas.text((middle, rect.bottom - 9.0), state, look)
}
