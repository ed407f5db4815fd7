//! Frame: title, subtitle and legend above, panels below; the same for every kind of chart.

use super::Layout;
use super::axis::{self, Axis};
use super::canvas::{Canvas, Drawn, Rect, Text, drawing};
use super::theme::{self, AXIS, GRID, INK, MUTED};
use crate::view::{Caption, Series};

const MARGIN: f64 = 16.0;
const GAP: (f64, f64) = (28.0, 26.0);
/// Room in a panel above its plot: title and name of the value axis.
const PANEL_HEAD: f64 = 44.0;

const TITLE: Text = Text::new(17.0, INK).bold();
const SUBTITLE: Text = Text::new(12.5, MUTED);
const LEGEND: Text = Text::new(13.0, INK);
const PANEL_TITLE: Text = Text::new(13.0, INK).bold();
/// Labels of axes.
pub(super) const LABEL: Text = Text::new(11.5, MUTED);

const TITLE_LINE: f64 = 23.0;
const SUBTITLE_LINE: f64 = 17.0;
const LEGEND_LINE: f64 = 24.0;

/// What stands for a backend in the legend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swatch {
    Bar,
    Line,
    Marker,
}

impl Swatch {
    fn width(self) -> f64 {
        if self == Self::Marker { 12.0 } else { 30.0 }
    }
}

/// A panel: its whole room, and the plot inside.
pub(super) struct Panel {
    pub(super) room: Rect,
    pub(super) plot: Rect,
}

/// How panels are laid out.
pub(super) struct Grid {
    /// How many panels.
    pub(super) panels: usize,
    /// How many side by side at most.
    pub(super) columns: usize,
    /// Height of each plot, in pixels.
    pub(super) plot_heights: Vec<f64>,
    /// Room left of each plot for labels.
    pub(super) left: f64,
    /// Room below each plot for labels.
    pub(super) below: f64,
}

/// Draws the frame and calls `paint` with the place of each panel.
pub(super) fn framed(
    caption: &Caption,
    layout: Layout,
    swatch: Swatch,
    grid: &Grid,
    paint: impl Fn(&Canvas<'_>, usize, &Panel) -> Drawn,
) -> Drawn<String> {
    theme::register()?;
    let head = Head::new(caption, layout.width - 2.0 * MARGIN, swatch);
    let (panels, bottom) = places(grid, layout, MARGIN + head.height());
    drawing(layout.width, bottom + MARGIN, |canvas| {
        head.draw(canvas)?;
        panels.iter().enumerate().try_for_each(|(i, panel)| paint(canvas, i, panel))
    })
}

/// The places of the panels, row by row, and the lower edge of the last row. A single panel has the whole width.
fn places(grid: &Grid, layout: Layout, top: f64) -> (Vec<Panel>, f64) {
    let columns = grid.columns.min(layout.columns).min(grid.panels).max(1);
    let usable = layout.width - 2.0 * MARGIN - GAP.0 * (columns - 1) as f64;
    let width = usable / columns as f64;
    let mut panels = Vec::new();
    let mut row_top = top;
    for row in grid.plot_heights.chunks(columns) {
        let plot_height = row.iter().copied().fold(0.0, f64::max);
        for column in 0..row.len() {
            let left = MARGIN + (width + GAP.0) * column as f64;
            let plot = Rect {
                left: left + grid.left,
                top: row_top + PANEL_HEAD,
                right: left + width,
                bottom: row_top + PANEL_HEAD + plot_height,
            };
            let room = Rect { left, top: row_top, right: left + width, bottom: plot.bottom + grid.below };
            panels.push(Panel { room, plot });
        }
        row_top += PANEL_HEAD + plot_height + grid.below + GAP.1;
    }
    (panels, row_top - GAP.1)
}

/// Title, subtitle and legend, broken into lines.
struct Head<'a> {
    title: Vec<String>,
    subtitle: Vec<String>,
    /// Backends by line, each with its distance from the left.
    legend: Vec<Vec<(f64, &'a Series)>>,
    swatch: Swatch,
}

impl<'a> Head<'a> {
    fn new(caption: &'a Caption, width: f64, swatch: Swatch) -> Self {
        let mut legend: Vec<Vec<(f64, &Series)>> = vec![vec![]];
        let mut left = 0.0;
        for series in &caption.series {
            let needed = swatch.width() + 8.0 + LEGEND.width(&series.label) + 24.0;
            if left > 0.0 && left + needed > width {
                legend.push(vec![]);
                left = 0.0;
            }
            if let Some(line) = legend.last_mut() {
                line.push((left, series));
            }
            left += needed;
        }
        let (title, subtitle) = (TITLE.wrap(&caption.title, width), SUBTITLE.wrap(&caption.subtitle, width));
        Self { title, subtitle, legend, swatch }
    }

    fn height(&self) -> f64 {
        self.title.len() as f64 * TITLE_LINE
            + self.subtitle.len() as f64 * SUBTITLE_LINE
            + self.legend.len() as f64 * LEGEND_LINE
            + 14.0
    }

    fn draw(&self, canvas: &Canvas<'_>) -> Drawn {
        let mut y = MARGIN;
        for line in &self.title {
            canvas.text((MARGIN, y + TITLE_LINE / 2.0), line, TITLE)?;
            y += TITLE_LINE;
        }
        for line in &self.subtitle {
            canvas.text((MARGIN, y + SUBTITLE_LINE / 2.0), line, SUBTITLE)?;
            y += SUBTITLE_LINE;
        }
        y += 6.0;
        for line in &self.legend {
            for (left, series) in line {
                let left = MARGIN + left;
                let middle = y + LEGEND_LINE / 2.0;
                draw_swatch(canvas, (left, middle), series.style, self.swatch)?;
                canvas.text((left + self.swatch.width() + 8.0, middle), &series.label, LEGEND)?;
            }
            y += LEGEND_LINE;
        }
        Ok(())
    }
}

fn draw_swatch(canvas: &Canvas<'_>, (left, middle): (f64, f64), style: usize, swatch: Swatch) -> Drawn {
    let look = theme::style(style);
    let (right, centre) = (left + swatch.width(), (left + swatch.width() / 2.0, middle));
    match swatch {
        Swatch::Bar => {
            let rect = Rect { left, top: middle - 7.0, right, bottom: middle + 7.0 };
            canvas.rect(rect, look.colour)?;
            if look.hatched {
                canvas.hatch(rect, theme::SURFACE, HATCH)?;
            }
            canvas.outline(rect, look.colour, 1.5)
        }
        Swatch::Line => {
            let ends = [(left, middle), (right, middle)];
            match look.dash {
                Some(dash) => canvas.dashed(&ends, dash, look.colour, 2.25)?,
                None => canvas.line(&ends, look.colour, 2.25)?,
            }
            canvas.marker(centre, look.marker, look.colour, 4.5)
        }
        Swatch::Marker => canvas.marker(centre, look.marker, look.colour, 5.5),
    }
}

/// Distance of hatching lines.
pub(super) const HATCH: f64 = 7.0;

/// Title of a panel with a remark at its right, and the name of its value axis below.
pub(super) fn panel_head(canvas: &Canvas<'_>, panel: &Panel, title: &str, remark: &str, axis: &str) -> Drawn {
    let room = &panel.room;
    let remark = LABEL.fit(remark, room.width() * 0.6);
    let remark_width = if remark.is_empty() { 0.0 } else { LABEL.width(&remark) + 12.0 };
    let title = PANEL_TITLE.fit(title, room.width() - remark_width);
    canvas.text((room.left, room.top + 9.0), &title, PANEL_TITLE)?;
    canvas.text((room.right, room.top + 9.0), &remark, LABEL.right())?;
    canvas.text((room.left, room.top + 27.0), &LABEL.fit(axis, room.width()), LABEL)
}

/// Horizontal lines behind the data with their labels at the left.
pub(super) fn value_grid(canvas: &Canvas<'_>, plot: &Rect, axis: &Axis) -> Drawn {
    for tick in &axis.ticks {
        let y = axis.at(*tick);
        canvas.line(&[(plot.left, y), (plot.right, y)], GRID, 1.0)?;
        canvas.text((plot.left - 8.0, y), &axis::label(*tick), LABEL.right())?;
    }
    Ok(())
}

/// The line below the data, with ticks and their labels; labels that would touch the one before are left out.
pub(super) fn length_axis(canvas: &Canvas<'_>, plot: &Rect, axis: &Axis, name: &str) -> Drawn {
    canvas.line(&[(plot.left, plot.bottom), (plot.right, plot.bottom)], AXIS, 1.0)?;
    let mut free_from = f64::NEG_INFINITY;
    for tick in &axis.ticks {
        let (x, label) = (axis.at(*tick), axis::label(*tick));
        let half = LABEL.width(&label) / 2.0;
        canvas.line(&[(x, plot.bottom), (x, plot.bottom + 4.0)], AXIS, 1.0)?;
        if x - half >= free_from {
            canvas.text((x, plot.bottom + 14.0), &label, LABEL.centred())?;
            free_from = x + half + 6.0;
        }
    }
    canvas.text((f64::midpoint(plot.left, plot.right), plot.bottom + 31.0), name, LABEL.centred())
}
