//! Heat map: coloured fields with their numbers; what has none is told apart by pattern, not by colour alone: skipped is
//! hatched, failed is crossed out, not ended is an empty box, and where the matrix has no cell there is nothing.

use super::Layout;
use super::canvas::{Canvas, Drawn, Rect, Text};
use super::frame::{Grid, LABEL, Panel, Swatch, framed};
use super::theme::{AXIS, BAD, GRID, HEAT, INK, MUTED, SURFACE};
use crate::view::{Gap, Heat, HeatMap, HeatRow};

const ROW: f64 = 22.0;
/// A field this wide has room for its number and for the name of its device.
const FIELD: f64 = 86.0;
/// Widest label of a row, as a share of the chart.
const LABELS: f64 = 0.42;
const VALUE: Text = Text::new(11.5, INK).centred();
const STATE: Text = Text::new(11.0, INK).centred();
const ROW_LABEL: Text = Text::new(12.0, INK);
const KEY: f64 = 18.0;
const KEY_LINE: f64 = 21.0;

pub(super) fn draw(chart: &HeatMap, layout: Layout) -> Drawn<String> {
    let widest = chart.rows.iter().map(|row| ROW_LABEL.width(&row.label)).fold(0.0, f64::max) + 12.0;
    let labels = widest.min(layout.width * LABELS);
    let room = layout.width - 32.0 - labels;
    let per_band = (1..=chart.columns.len()).rev().find(|n| *n as f64 * FIELD <= room).unwrap_or(1);
    let key = key(chart, layout.width - 32.0);
    let bands: Vec<usize> = (0..chart.columns.len()).step_by(per_band).collect();
    let grid = Grid {
        panels: bands.len(),
        columns: 1,
        plot_heights: vec![chart.rows.len() as f64 * ROW; bands.len()],
        left: labels,
        below: 10.0 + KEY_LINE * key.len() as f64,
    };
    framed(&chart.caption, layout, Swatch::Marker, &grid, |canvas, i, place| {
        let first = bands[i];
        let last = (first + per_band).min(chart.columns.len());
        if last == chart.columns.len() {
            draw_key(canvas, &key, place.room.left, place.plot.bottom + 10.0)?;
        }
        band(canvas, chart, first..last, place)
    })
}

fn band(canvas: &Canvas<'_>, chart: &HeatMap, columns: std::ops::Range<usize>, place: &Panel) -> Drawn {
    let plot = &place.plot;
    // All bands have fields of the same width.
    let width = (plot.width() / columns.len() as f64).min(FIELD * 1.6);
    for (at, column) in columns.clone().enumerate() {
        let middle = plot.left + width * (at as f64 + 0.5);
        let (device, backend) = &chart.columns[column];
        let fit = |text: &str| LABEL.fit(text, width - 4.0);
        canvas.text((middle, plot.top - 23.0), &fit(device), LABEL.centred())?;
        canvas.text((middle, plot.top - 9.0), &fit(backend), LABEL.centred())?;
    }
    for (at, row) in chart.rows.iter().enumerate() {
        let top = plot.top + ROW * at as f64;
        let label = ROW_LABEL.fit(&row.label, plot.left - place.room.left - 8.0);
        canvas.text((place.room.left, top + ROW / 2.0), &label, ROW_LABEL)?;
        draw_row(
            canvas,
            row,
            columns.clone(),
            Rect { left: plot.left, top, right: plot.left + width, bottom: top + ROW },
        )?;
    }
    Ok(())
}

/// `first` is the place of the row's first field.
fn draw_row(canvas: &Canvas<'_>, row: &HeatRow, columns: std::ops::Range<usize>, first: Rect) -> Drawn {
    for (at, field) in row.fields[columns].iter().enumerate() {
        let left = first.left + first.width() * at as f64;
        let rect = Rect {
            left: left + 1.5,
            right: left + first.width() - 1.5,
            top: first.top + 1.5,
            bottom: first.bottom - 1.5,
        };
        draw_field(canvas, field, rect)?;
    }
    Ok(())
}

fn draw_field(canvas: &Canvas<'_>, field: &Heat, rect: Rect) -> Drawn {
    let centre = (f64::midpoint(rect.left, rect.right), f64::midpoint(rect.top, rect.bottom));
    match field {
        Heat::Absent => Ok(()),
        Heat::Value { share, label, suspect } => {
            canvas.rect(rect, shade(*share))?;
            if *suspect {
                canvas.outline(rect, MUTED, 1.5)?;
            }
            canvas.text(centre, &VALUE.fit(label, rect.width()), VALUE)
        }
        Heat::Gap { gap, state } => {
            pattern(canvas, *gap, rect)?;
            let word = STATE.fit(state, rect.width() - 6.0);
            let half = STATE.width(&word) / 2.0 + 3.0;
            canvas.rect(
                Rect { left: centre.0 - half, right: centre.0 + half, top: rect.top + 3.0, bottom: rect.bottom - 3.0 },
                SURFACE,
            )?;
            canvas.text(centre, &word, STATE)
        }
    }
}

fn pattern(canvas: &Canvas<'_>, gap: Gap, rect: Rect) -> Drawn {
    match gap {
        Gap::Skipped => {
            canvas.hatch(rect, GRID, 6.0)?;
            canvas.outline(rect, GRID, 1.0)
        }
        Gap::Failed => {
            canvas.line(&[(rect.left, rect.top), (rect.right, rect.bottom)], BAD, 1.0)?;
            canvas.line(&[(rect.left, rect.bottom), (rect.right, rect.top)], BAD, 1.0)?;
            canvas.outline(rect, BAD, 1.5)
        }
        Gap::Open => canvas.outline(rect, AXIS, 1.0),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 0 to 1")]
fn shade(share: f64) -> plotters::style::RGBColor {
    // The upper half of the range has most of the cells: a device ten times slower is as pale as one twice as slow.
    let step = ((share.clamp(0.0, 1.0) - 0.5).max(0.0) * 2.0 * HEAT.len() as f64) as usize;
    HEAT[step.min(HEAT.len() - 1)]
}

/// A thing in the key.
enum Sign {
    Shades,
    Gap(Gap),
    Suspect,
    Blank,
}

impl Sign {
    fn word(&self) -> &'static str {
        match self {
            Self::Shades => "half the row's best, or less, to the best",
            Self::Gap(Gap::Skipped) => "skipped",
            Self::Gap(Gap::Failed) => "failed",
            Self::Gap(Gap::Open) => "not ended",
            Self::Suspect => "suspect",
            Self::Blank => "blank: not in the matrix",
        }
    }

    /// Width of what stands before the word.
    fn square(&self) -> f64 {
        match self {
            Self::Shades => KEY * HEAT.len() as f64,
            Self::Gap(_) | Self::Suspect => KEY,
            Self::Blank => -7.0,
        }
    }

    fn width(&self) -> f64 {
        self.square() + 7.0 + LABEL.width(self.word()) + 18.0
    }

    fn draw(&self, canvas: &Canvas<'_>, x: f64, middle: f64) -> Drawn {
        let square = |x: f64| Rect { left: x, right: x + KEY, top: middle - 7.0, bottom: middle + 7.0 };
        match self {
            Self::Shades => {
                let mut shades = HEAT.into_iter().enumerate();
                shades.try_for_each(|(i, shade)| canvas.rect(square(x + KEY * i as f64), shade))?;
            }
            Self::Gap(gap) => pattern(canvas, *gap, square(x))?,
            Self::Suspect => {
                canvas.rect(square(x), HEAT[2])?;
                canvas.outline(square(x), MUTED, 1.5)?;
            }
            Self::Blank => {}
        }
        canvas.text((x + self.square() + 7.0, middle), self.word(), LABEL)
    }
}

/// What colours and patterns mean, of those that occur, in lines no wider than `width`.
fn key(chart: &HeatMap, width: f64) -> Vec<Vec<Sign>> {
    let any = |which: &dyn Fn(&Heat) -> bool| chart.rows.iter().flat_map(|row| &row.fields).any(which);
    let mut signs = vec![Sign::Shades];
    for gap in [Gap::Skipped, Gap::Failed, Gap::Open] {
        if any(&|field| matches!(field, Heat::Gap { gap: found, .. } if *found == gap)) {
            signs.push(Sign::Gap(gap));
        }
    }
    if any(&|field| matches!(field, Heat::Value { suspect: true, .. })) {
        signs.push(Sign::Suspect);
    }
    if any(&|field| *field == Heat::Absent) {
        signs.push(Sign::Blank);
    }
    let mut lines: Vec<Vec<Sign>> = vec![vec![]];
    let mut used = 0.0;
    for sign in signs {
        used += sign.width();
        if used > width && lines.last().is_some_and(|line| !line.is_empty()) {
            lines.push(vec![]);
            used = sign.width();
        }
        if let Some(line) = lines.last_mut() {
            line.push(sign);
        }
    }
    lines
}

fn draw_key(canvas: &Canvas<'_>, lines: &[Vec<Sign>], left: f64, top: f64) -> Drawn {
    for (i, line) in lines.iter().enumerate() {
        let (mut x, middle) = (left, top + KEY_LINE * (i as f64 + 0.5));
        for sign in line {
            sign.draw(canvas, x, middle)?;
            x += sign.width();
        }
    }
    Ok(())
}
