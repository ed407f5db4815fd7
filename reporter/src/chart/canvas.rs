//! Canvas: the few shapes that charts are made of, in pixels, over a plotters drawing area.

use plotters::coord::Shift;
use plotters::element::{DashedPathElement, Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::theme::{self, Marker};

/// Plotters rounds to whole units. A unit of a quarter pixel keeps lines smooth and bars evenly wide.
const UNITS: f64 = 4.0;

/// What plotters calls a font's size is this many times its size in CSS.
const FONT_SIZE: f64 = 1.24;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Failures of plotters, as text.
pub(super) type Drawn<T = ()> = Result<T, String>;

/// How a text looks and where it stands in relation to its point.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) colour: RGBColor,
    pub(super) align: HPos,
    /// Read from bottom to top.
    pub(super) upright: bool,
}

impl Text {
    pub(super) const fn new(size: f64, colour: RGBColor) -> Self {
        Self { size, bold: false, colour, align: HPos::Left, upright: false }
    }

    pub(super) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(super) const fn centred(self) -> Self {
        Self { align: HPos::Center, ..self }
    }

    pub(super) const fn right(self) -> Self {
        Self { align: HPos::Right, ..self }
    }

    pub(super) const fn upright(self) -> Self {
        Self { upright: true, ..self }
    }

    fn font(self, units: f64) -> FontDesc<'static> {
        let style = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        FontDesc::new(FontFamily::Name(theme::FAMILY), self.size * units * FONT_SIZE, style)
    }

    /// Width of `text` in pixels.
    pub(super) fn width(self, text: &str) -> f64 {
        // Measured large, since plotters gives whole units.
        const FINE: f64 = 64.0;
        self.font(FINE).box_size(text).map_or(0.0, |(width, _)| f64::from(width) / FINE)
    }

    /// `text` cut so that it is no wider than `width`.
    pub(super) fn fit(self, text: &str, width: f64) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut cut: Vec<char> = text.chars().collect();
        while cut.pop().is_some() {
            let shorter = format!("{}…", cut.iter().collect::<String>().trim_end());
            if self.width(&shorter) <= width {
                return shorter;
            }
        }
        String::new()
    }

    /// `text` in lines no wider than `width`, broken at spaces; words that are too wide are cut.
    pub(super) fn wrap(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        // A no-break space, as before a dot between two notes, is not broken at.
        for word in text.split(' ').filter(|w| !w.is_empty()) {
            let word = self.fit(word, width);
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}")) <= width => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
        lines
    }
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    pub(super) fn width(&self) -> f64 {
        self.right - self.left
    }
}

/// Something to draw on.
pub(super) struct Canvas<'a> {
    drawing: Drawing<'a>,
}

type Point = (f64, f64);

#[expect(clippy::cast_possible_truncation, reason = "sizes of a picture")]
fn units(value: f64) -> i32 {
    (value * UNITS).round() as i32
}

fn at((x, y): Point) -> (i32, i32) {
    (units(x), units(y))
}

fn stroke(colour: impl Color, width: f64) -> ShapeStyle {
    ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: units(width).unsigned_abs() }
}

/// Draws `paint`'s shapes on a canvas of that size and gives the SVG.
pub(super) fn drawing(width: f64, height: f64, paint: impl FnOnce(&Canvas<'_>) -> Drawn) -> Drawn<String> {
    let mut svg = String::new();
    let size = (units(width).unsigned_abs(), units(height).unsigned_abs());
    {
        let canvas = Canvas { drawing: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
        canvas.rect(Rect { left: 0.0, top: 0.0, right: width, bottom: height }, theme::SURFACE)?;
        paint(&canvas)?;
        canvas.drawing.present().map_err(|e| e.to_string())?;
    }
    // The picture is as large as was asked for, whatever the unit of its inside; the page scales it by its view box.
    let inside = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
    Ok(svg.replacen(&inside, &format!("width=\"{width:.0}\" height=\"{height:.0}\""), 1))
}

impl<'a> Canvas<'a> {
    fn draw<E>(&self, element: &E) -> Drawn
    where
        for<'b> &'b E: PointCollection<'b, (i32, i32)>,
        E: Drawable<SVGBackend<'a>>,
    {
        self.drawing.draw(element).map_err(|e| e.to_string())
    }

    /// Text whose middle is at the height of `point`.
    pub(super) fn text(&self, point: Point, text: &str, look: Text) -> Drawn {
        if text.is_empty() {
            return Ok(());
        }
        let mut font = look.font(UNITS);
        if look.upright {
            font = font.transform(FontTransform::Rotate270);
        }
        let style = TextStyle::from(font).color(&look.colour).pos(Pos::new(look.align, VPos::Center));
        self.drawing.draw_text(text, &style, at(point)).map_err(|e| e.to_string())
    }

    /// A filled rectangle.
    pub(super) fn rect(&self, rect: Rect, colour: RGBColor) -> Drawn {
        self.draw(&Rectangle::new([at((rect.left, rect.top)), at((rect.right, rect.bottom))], colour.filled()))
    }

    /// A line around a rectangle, all of it inside.
    pub(super) fn outline(&self, rect: Rect, colour: RGBColor, width: f64) -> Drawn {
        let half = width / 2.0;
        let (left, top, right, bottom) = (rect.left + half, rect.top + half, rect.right - half, rect.bottom - half);
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top - half)];
        self.line(&corners, colour, width)
    }

    /// Diagonal lines over a rectangle: one path that runs along its edges from one diagonal to the next, to be
    /// followed by an outline that covers the edges.
    pub(super) fn hatch(&self, rect: Rect, colour: RGBColor, spacing: f64) -> Drawn {
        let (width, height) = (rect.width(), rect.bottom - rect.top);
        let mut path = Vec::new();
        let mut offset = spacing;
        while offset < width + height {
            // The diagonal on which the ways from the left and from the bottom add up to `offset`.
            let low = (rect.left + (offset - height).max(0.0), rect.bottom - offset.min(height));
            let high = (rect.left + offset.min(width), rect.bottom - (offset - width).max(0.0));
            if (path.len() / 2) % 2 == 0 {
                path.extend([low, high]);
            } else {
                path.extend([high, low]);
            }
            offset += spacing;
        }
        if path.is_empty() { Ok(()) } else { self.line(&path, colour, 1.25) }
    }

    /// A line through points.
    pub(super) fn line(&self, points: &[Point], colour: impl Color, width: f64) -> Drawn {
        let path: Vec<_> = points.iter().copied().map(at).collect();
        self.draw(&PathElement::new(path, stroke(colour, width)))
    }

    /// A broken line through points: dashes and gaps of these lengths.
    pub(super) fn dashed(&self, points: &[Point], dash: (i32, i32), colour: RGBColor, width: f64) -> Drawn {
        let path: Vec<_> = points.iter().copied().map(at).collect();
        let [on, off] = [dash.0, dash.1].map(|n| units(f64::from(n)));
        self.draw(&DashedPathElement::new(path, on, off, stroke(colour, width)))
    }

    /// A filled shape.
    pub(super) fn polygon(&self, points: &[Point], colour: impl Color) -> Drawn {
        let path: Vec<_> = points.iter().copied().map(at).collect();
        self.draw(&Polygon::new(path, ShapeStyle::from(colour.to_rgba()).filled()))
    }

    /// A ring.
    pub(super) fn ring(&self, centre: Point, radius: f64, colour: RGBColor, width: f64) -> Drawn {
        self.draw(&Circle::new(at(centre), units(radius), theme::SURFACE.filled()))?;
        self.draw(&Circle::new(at(centre), units(radius), stroke(colour, width)))
    }

    /// A marker with a rim that sets it off from what lies under it.
    pub(super) fn marker(&self, centre: Point, marker: Marker, colour: RGBColor, radius: f64) -> Drawn {
        self.shape(centre, marker, theme::SURFACE, radius + 1.25)?;
        self.shape(centre, marker, colour, radius)
    }

    fn shape(&self, centre: Point, marker: Marker, colour: RGBColor, radius: f64) -> Drawn {
        let (x, y) = centre;
        match marker {
            Marker::Disc => self.draw(&Circle::new(at(centre), units(radius), colour.filled())),
            Marker::Square => {
                let r = radius * 0.9;
                self.rect(Rect { left: x - r, top: y - r, right: x + r, bottom: y + r }, colour)
            }
            Marker::Triangle => {
                let r = radius * 1.2;
                self.polygon(&[(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)], colour)
            }
        }
    }
}
