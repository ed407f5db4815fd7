//! Trend: nights along time, with the level of each segment, breaks and change points. Suspect nights are hollow.

use super::Layout;
use super::axis::Axis;
use super::canvas::{Canvas, Drawn, Text};
use super::frame::{Grid, LABEL, Panel, Swatch, framed, panel_head, value_grid};
use super::theme::{self, AXIS, BAD, INK, MUTED, Style};
use crate::stats::sorted;
use crate::view::{NightMark, Scale, TrendChart};

const PLOT_HEIGHT: f64 = 260.0;
/// Nights from which on whiskers would be a thicket.
const MANY_NIGHTS: usize = 120;
const CHANGE: Text = Text::new(12.0, INK).bold();

pub(super) fn draw(chart: &TrendChart, layout: Layout) -> Drawn<String> {
    let grid = Grid { panels: 1, columns: 1, plot_heights: vec![PLOT_HEIGHT], left: 56.0, below: 40.0 };
    framed(&chart.caption, layout, Swatch::Marker, &grid, |canvas, _, place| {
        panel_head(canvas, place, "", "", &chart.caption.value_axis)?;
        Plot::new(chart, place).draw(canvas)
    })
}

/// A chart with its axes.
struct Plot<'a> {
    chart: &'a TrendChart,
    place: &'a Panel,
    values: Axis,
    /// From the first to the last day.
    days: (f64, f64),
    look: Style,
}

impl<'a> Plot<'a> {
    fn new(chart: &'a TrendChart, place: &'a Panel) -> Self {
        let mut ends = sorted(chart.nights.iter().flat_map(|night| [night.low, night.high]));
        // Room for what is written above and below.
        if let (Some(low), Some(high)) = (ends.first().copied(), ends.last().copied()) {
            let room = ((high - low) * 0.12).max(high.abs() * 0.005);
            ends = vec![(low - room).max(0.0), high + room * 1.6];
        }
        let values = Axis::around(Scale::Linear, &ends, place.plot.bottom, place.plot.top, 5);
        let first = chart.nights.first().map_or(0, |night| night.day);
        let last = chart.nights.last().map_or(1, |night| night.day);
        let look = theme::style(chart.caption.series.first().map_or(0, |s| s.style));
        Self { chart, place, values, days: (f64::from(first) - 0.5, f64::from(last) + 0.5), look }
    }

    fn x(&self, day: f64) -> f64 {
        let plot = &self.place.plot;
        plot.left + (day - self.days.0) / (self.days.1 - self.days.0) * plot.width()
    }

    fn at(&self, night: &NightMark) -> (f64, f64) {
        (self.x(f64::from(night.day)), self.values.at(night.value))
    }

    /// Between the night at a position and the one before it.
    fn before(&self, position: usize) -> Option<f64> {
        let (last, next) = (self.chart.nights.get(position.checked_sub(1)?)?, self.chart.nights.get(position)?);
        Some(self.x(f64::midpoint(f64::from(last.day), f64::from(next.day))))
    }

    fn draw(&self, canvas: &Canvas<'_>) -> Drawn {
        value_grid(canvas, &self.place.plot, &self.values)?;
        self.dates(canvas)?;
        self.breaks(canvas)?;
        self.levels(canvas)?;
        self.nights(canvas)?;
        self.changes(canvas)
    }

    fn dates(&self, canvas: &Canvas<'_>) -> Drawn {
        let plot = &self.place.plot;
        canvas.line(&[(plot.left, plot.bottom), (plot.right, plot.bottom)], AXIS, 1.0)?;
        let mut free_from = f64::NEG_INFINITY;
        for night in &self.chart.nights {
            let (x, _) = self.at(night);
            let half = LABEL.width(&night.date) / 2.0;
            if x - half < free_from {
                continue;
            }
            canvas.line(&[(x, plot.bottom), (x, plot.bottom + 4.0)], AXIS, 1.0)?;
            canvas.text((x, plot.bottom + 14.0), &night.date, LABEL.centred())?;
            free_from = x + half + 18.0;
        }
        canvas.text((f64::midpoint(plot.left, plot.right), plot.bottom + 31.0), "night, month and day", LABEL.centred())
    }

    /// A broken line from top to bottom, named at the top.
    fn breaks(&self, canvas: &Canvas<'_>) -> Drawn {
        let plot = &self.place.plot;
        for (at, label) in self.chart.breaks.iter().filter_map(|b| Some((self.before(b.before)?, &b.label))) {
            canvas.dashed(&[(at, plot.top), (at, plot.bottom)], (4, 4), MUTED, 1.25)?;
            let (room, right) = (plot.right - at - 6.0, LABEL.width(label) > plot.right - at - 6.0);
            let (x, look) = if right { (at - 6.0, LABEL.right()) } else { (at + 6.0, LABEL) };
            let room = if right { at - plot.left - 6.0 } else { room };
            canvas.text((x, plot.top + 7.0), &LABEL.fit(label, room), look)?;
        }
        Ok(())
    }

    fn levels(&self, canvas: &Canvas<'_>) -> Drawn {
        let nights = &self.chart.nights;
        for segment in &self.chart.segments {
            let y = self.values.at(segment.level);
            let ends = [segment.first, segment.last].map(|n| f64::from(nights[n].day));
            let (from, to) = (self.x(ends[0] - 0.4), self.x(ends[1] + 0.4));
            canvas.line(&[(from, y), (to, y)], theme::style(self.style()).colour, 3.0)?;
        }
        Ok(())
    }

    fn style(&self) -> usize {
        self.chart.caption.series.first().map_or(0, |series| series.style)
    }

    fn nights(&self, canvas: &Canvas<'_>) -> Drawn {
        let crowded = self.chart.nights.len() > MANY_NIGHTS;
        for night in &self.chart.nights {
            let (x, y) = self.at(night);
            if !crowded {
                canvas.line(
                    &[(x, self.values.at(night.low)), (x, self.values.at(night.high))],
                    self.look.colour,
                    1.0,
                )?;
            }
            let radius = if crowded { 2.5 } else { 3.5 };
            if night.suspect {
                canvas.ring((x, y), radius, self.look.colour, 1.5)?;
            } else {
                canvas.marker((x, y), self.look.marker, self.look.colour, radius)?;
            }
        }
        Ok(())
    }

    /// A line where the new level begins, and by how much it is another, in the direction in which it went.
    fn changes(&self, canvas: &Canvas<'_>) -> Drawn {
        let plot = &self.place.plot;
        for change in &self.chart.changes {
            let Some(x) = self.before(change.at) else { continue };
            let colour = if change.worse { BAD } else { INK };
            canvas.line(&[(x, plot.top + 18.0), (x, plot.bottom)], colour, 1.5)?;
            let word = format!("{} {}", change.label, if change.worse { "worse" } else { "better" });
            let fits = x + CHANGE.width(&word) + 8.0 <= plot.right;
            let (x, look) = if fits { (x + 6.0, CHANGE) } else { (x - 6.0, CHANGE.right()) };
            canvas.text((x, plot.bottom - 9.0), &word, Text { colour, ..look })?;
        }
        Ok(())
    }
}
