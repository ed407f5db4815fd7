//! Colours, patterns and the font of charts. The series colours are Okabe and Ito's, told apart by readers with any
//! kind of colour vision; in grey, hatching, dashes and markers tell them apart.

use plotters::style::{FontStyle, RGBColor, register_font};

/// The font's names, best first: the attribute `font-family` of all text.
pub const FAMILY: &str = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif";

/// Inter, regular: a subset with Latin letters and a few symbols.
pub const REGULAR: &[u8] = include_bytes!("../../assets/fonts/Inter-Regular.otf");

/// Inter, semi-bold: the same subset.
pub const SEMIBOLD: &[u8] = include_bytes!("../../assets/fonts/Inter-SemiBold.otf");

/// The ground.
pub const SURFACE: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
/// Titles and values.
pub const INK: RGBColor = RGBColor(0x1F, 0x23, 0x28);
/// Everything that explains.
pub const MUTED: RGBColor = RGBColor(0x59, 0x63, 0x6E);
/// Lines of the axes.
pub const AXIS: RGBColor = RGBColor(0x8C, 0x95, 0x9F);
/// Lines behind the data.
pub const GRID: RGBColor = RGBColor(0xE4, 0xE7, 0xEB);

/// Colour, marker and pattern of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Its colour.
    pub colour: RGBColor,
    /// Its marker.
    pub marker: Marker,
    /// Length of a dash and of the gap after it, in pixels; `None` for an unbroken line.
    pub dash: Option<(i32, i32)>,
    /// Whether its bars are hatched.
    pub hatched: bool,
}

/// The shape that marks a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A square.
    Square,
    /// A disc.
    Disc,
    /// A triangle.
    Triangle,
}

const STYLES: [Style; 3] = [
    Style { colour: RGBColor(0xD5, 0x5E, 0x00), marker: Marker::Square, dash: Some((8, 4)), hatched: true },
    Style { colour: RGBColor(0x00, 0x72, 0xB2), marker: Marker::Disc, dash: None, hatched: false },
    Style { colour: RGBColor(0x00, 0x9E, 0x73), marker: Marker::Triangle, dash: Some((3, 3)), hatched: true },
];

/// The style of a series.
pub fn style(index: usize) -> Style {
    STYLES[index % STYLES.len()]
}

/// Colours of a heat map, from weak to strong: one hue, so that lightness alone orders them, and ink reads on all of them.
pub const HEAT: [RGBColor; 5] = [
    RGBColor(0xF3, 0xF7, 0xFB),
    RGBColor(0xDD, 0xEA, 0xF5),
    RGBColor(0xC3, 0xDB, 0xEE),
    RGBColor(0xA5, 0xCA, 0xE6),
    RGBColor(0x84, 0xB6, 0xDD),
];

/// What has gone wrong.
pub const BAD: RGBColor = RGBColor(0xB3, 0x26, 0x1E);

/// Colours as the page's style sheet needs them: light, dark.
pub const DARK: [(RGBColor, &str); 14] = [
    (SURFACE, "#151a21"),
    (INK, "#e6e9ed"),
    (MUTED, "#a3adb8"),
    (AXIS, "#6b7682"),
    (GRID, "#2b323b"),
    (STYLES[0].colour, "#e69f00"),
    (STYLES[1].colour, "#56b4e9"),
    (STYLES[2].colour, "#2fc79b"),
    (HEAT[0], "#1a222c"),
    (HEAT[1], "#1c2c3b"),
    (HEAT[2], "#1f384e"),
    (HEAT[3], "#224764"),
    (HEAT[4], "#26587e"),
    (BAD, "#ff8a80"),
];

/// Makes the embedded font known to the drawing library. Again and again is fine: it replaces itself by itself.
pub(super) fn register() -> Result<(), String> {
    for (style, font) in [(FontStyle::Normal, REGULAR), (FontStyle::Bold, SEMIBOLD)] {
        register_font(FAMILY, style, font).map_err(|_| "the embedded font is broken".to_owned())?;
    }
    Ok(())
}
