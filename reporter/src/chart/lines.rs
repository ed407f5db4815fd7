//! Lines over a length in tokens, one panel for each precision, one line for each backend.

use plotters::style::Color as _;

use super::Layout;
use super::axis::Axis;
use super::canvas::{Canvas, Drawn, Rect};
use super::frame::{Grid, LABEL, Panel, Swatch, framed, length_axis, panel_head, value_grid};
use super::theme::{self, Style};
use crate::stats::sorted;
use crate::view::{Guide, Line, LineChart, LinePanel, Note, Place, Point, Scale};

const PLOT_HEIGHT: f64 = 170.0;
/// Lines of more points than this get no marker at each: they would touch.
const MANY_POINTS: usize = 12;
/// Pieces of a guide, which bends where an axis is logarithmic.
const GUIDE_STEPS: u32 = 48;

pub(super) fn draw(chart: &LineChart, layout: Layout) -> Drawn<String> {
    let grid = Grid {
        panels: chart.panels.len(),
        columns: layout.columns,
        plot_heights: vec![PLOT_HEIGHT; chart.panels.len()],
        left: 50.0,
        below: 40.0,
    };
    let lengths = sorted(chart.panels.iter().flat_map(points).map(|p| p.length));
    framed(&chart.caption, layout, Swatch::Line, &grid, |canvas, i, place| {
        let panel = &chart.panels[i];
        panel_head(canvas, place, &panel.title, &panel.missing.join(", "), &chart.caption.value_axis)?;
        draw_panel(canvas, chart, panel, &lengths, place)
    })
}

fn points(panel: &LinePanel) -> impl Iterator<Item = Point> {
    panel.lines.iter().flat_map(|l| l.pieces.iter().flatten().copied())
}

fn draw_panel(canvas: &Canvas<'_>, chart: &LineChart, panel: &LinePanel, lengths: &[f64], place: &Panel) -> Drawn {
    let plot = &place.plot;
    let values = value_axis(chart, panel, place);
    let along = Axis::around(chart.length_scale, lengths, plot.left, plot.right, 7);
    value_grid(canvas, plot, &values)?;
    length_axis(canvas, plot, &along, &chart.length_axis)?;
    for guide in &panel.guides {
        draw_guide(canvas, guide, chart, &along, &values)?;
    }
    // Bands below all lines.
    for line in &panel.lines {
        draw_spread(canvas, line, look(chart, line), &along, &values)?;
    }
    panel.lines.iter().try_for_each(|line| draw_line(canvas, line, look(chart, line), &along, &values))?;
    panel.notes.iter().try_for_each(|note| draw_note(canvas, note, panel, plot, &along, &values))
}

/// Straight in numbers is a curve where doublings are of equal width.
fn draw_guide(canvas: &Canvas<'_>, guide: &Guide, chart: &LineChart, along: &Axis, values: &Axis) -> Drawn {
    let colour = theme::style(chart.caption.series.get(guide.series).map_or(0, |s| s.style)).colour;
    let (from, to) = (guide.from, guide.to);
    let path: Vec<_> = (0..=GUIDE_STEPS)
        .map(|step| {
            let share = f64::from(step) / f64::from(GUIDE_STEPS);
            (along.at(from.0 + share * (to.0 - from.0)), values.at(from.1 + share * (to.1 - from.1)))
        })
        .collect();
    canvas.line(&path, colour.mix(0.45), 1.0)
}

/// Words at a point, on a ground of their own so that lines under them don't strike them out.
fn draw_note(canvas: &Canvas<'_>, note: &Note, panel: &LinePanel, plot: &Rect, along: &Axis, values: &Axis) -> Drawn {
    let (x, y) = (along.at(note.length), values.at(note.value));
    let half = LABEL.width(&note.text) / 2.0;
    let (x, y) = match note.place {
        Place::Beside if x + 2.0 * half + 10.0 > plot.right => (x - half - 9.0, y),
        Place::Beside => (x + half + 9.0, y),
        Place::Beyond => {
            let above = !runs_above(note, panel) && y - 22.0 > plot.top;
            let below = y + 22.0 > plot.bottom;
            (x, if above || below { y - 15.0 } else { y + 15.0 })
        }
    };
    let x = x.clamp(plot.left + half + 2.0, plot.right - half - 2.0);
    canvas.rect(Rect { left: x - half - 1.0, right: x + half + 1.0, top: y - 6.0, bottom: y + 6.0 }, theme::SURFACE)?;
    canvas.text((x, y), &note.text, LABEL.centred())
}

/// Whether another line has a point above the note's.
fn runs_above(note: &Note, panel: &LinePanel) -> bool {
    let others = panel.lines.iter().filter(|line| line.series != note.series);
    let mut points = others.flat_map(|line| line.pieces.iter().flatten());
    points.any(|point| (point.length - note.length).abs() < 1e-9 && point.value > note.value)
}

fn value_axis(chart: &LineChart, panel: &LinePanel, place: &Panel) -> Axis {
    let (start, end) = (place.plot.bottom, place.plot.top);
    let values: Vec<f64> = if chart.shared {
        chart.panels.iter().flat_map(points).flat_map(|p| [p.low, p.high]).collect()
    } else {
        let guides = panel.guides.iter().flat_map(|guide| [guide.from.1, guide.to.1]);
        points(panel).flat_map(|p| [p.low, p.high]).chain(guides).collect()
    };
    let values = sorted(values);
    match chart.value_scale {
        Scale::Linear => Axis::from_zero(values.last().copied().unwrap_or(1.0), start, end, 4),
        scale => Axis::around(scale, &values, start, end, 6),
    }
}

fn look(chart: &LineChart, line: &Line) -> Style {
    theme::style(chart.caption.series.get(line.series).map_or(0, |s| s.style))
}

fn is_dense(line: &Line) -> bool {
    line.pieces.iter().map(Vec::len).sum::<usize>() > MANY_POINTS
}

/// Whiskers for few points, a band for many.
fn draw_spread(canvas: &Canvas<'_>, line: &Line, look: Style, along: &Axis, values: &Axis) -> Drawn {
    for piece in &line.pieces {
        let low = piece.iter().map(|p| (along.at(p.length), values.at(p.low)));
        let high = piece.iter().map(|p| (along.at(p.length), values.at(p.high)));
        if is_dense(line) {
            let around: Vec<_> = low.chain(high.rev()).collect();
            canvas.polygon(&around, look.colour.mix(0.18))?;
        } else {
            for (low, high) in low.zip(high) {
                canvas.line(&[low, high], look.colour, 1.5)?;
            }
        }
    }
    Ok(())
}

fn draw_line(canvas: &Canvas<'_>, line: &Line, look: Style, along: &Axis, values: &Axis) -> Drawn {
    // Between pieces nothing was measured: a thin line only leads the eye.
    for pair in line.pieces.windows(2) {
        let ends = [pair[0].last(), pair[1].first()].into_iter().flatten();
        let ends: Vec<_> = ends.map(|p| (along.at(p.length), values.at(p.value))).collect();
        canvas.line(&ends, look.colour.mix(0.35), 1.0)?;
    }
    for piece in &line.pieces {
        let path: Vec<_> = piece.iter().map(|p| (along.at(p.length), values.at(p.value))).collect();
        match look.dash {
            Some(dash) => canvas.dashed(&path, dash, look.colour, 2.25)?,
            None => canvas.line(&path, look.colour, 2.25)?,
        }
        // Many points: a marker at each end of the piece shows which line it is.
        let marked = path.iter().enumerate().filter(|(i, _)| !is_dense(line) || *i == 0 || *i + 1 == path.len());
        for (_, point) in marked {
            canvas.marker(*point, look.marker, look.colour, 4.0)?;
        }
    }
    Ok(())
}
