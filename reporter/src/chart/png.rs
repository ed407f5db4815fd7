//! PNG from SVG, with the embedded font and no other.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use png::{BitDepth, ColorType, Compression, Encoder, Filter};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::theme;
use crate::error::{ReportError, Result};

/// Pixels of the picture for each pixel of the chart.
const SCALE: f32 = 2.0;

/// Renders a chart's SVG as PNG, twice its size.
pub fn png(slug: &str, svg: &str) -> Result<Vec<u8>> {
    let fail = |message: String| ReportError::Chart { chart: slug.to_owned(), message };
    let tree = Tree::from_str(svg, &options()).map_err(|e| fail(e.to_string()))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| fail("it has no size".to_owned()))?;
    let mut picture =
        Pixmap::new(size.width(), size.height()).ok_or_else(|| fail("it is too large to be drawn".to_owned()))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut picture.as_mut());
    let encoded = match Palette::of(&picture) {
        Some(palette) => palette.encode(size.width(), size.height()).map_err(|e| e.to_string()),
        None => picture.encode_png().map_err(|e| e.to_string()),
    };
    encoded.map_err(fail)
}

/// A picture of few colours, each pixel the number of one. Most of the time that a PNG takes goes into packing its bytes, and of
/// these there are four times as few.
struct Palette {
    /// Red, green and blue of each colour.
    colours: Vec<u8>,
    pixels: Vec<u8>,
}

impl Palette {
    /// The picture's palette; `None` if it has more than 256 colours, or one that lets its ground show.
    fn of(picture: &Pixmap) -> Option<Self> {
        let (mut colours, mut numbers) = (Vec::new(), HashMap::new());
        let mut pixels = Vec::with_capacity(picture.pixels().len());
        let mut last = None;
        for pixel in picture.pixels() {
            // Most pixels are like the one before.
            if let Some((_, number)) = last.filter(|(known, _)| known == pixel) {
                pixels.push(number);
                continue;
            }
            let colour = [pixel.red(), pixel.green(), pixel.blue()];
            let next = u8::try_from(numbers.len()).ok().filter(|_| pixel.alpha() == u8::MAX);
            let number = match numbers.get(&colour) {
                Some(number) if pixel.alpha() == u8::MAX => *number,
                _ => {
                    colours.extend(colour);
                    numbers.insert(colour, next?);
                    next?
                }
            };
            pixels.push(number);
            last = Some((*pixel, number));
        }
        Some(Self { colours, pixels })
    }

    fn encode(&self, width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(&self.colours);
        encoder.set_compression(Compression::Balanced);
        // Numbers of colours that stand beside each other have nothing to do with each other.
        encoder.set_filter(Filter::NoFilter);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

fn options() -> Options<'static> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let fonts = FONTS.get_or_init(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(theme::REGULAR.to_vec());
        fonts.load_font_data(theme::SEMIBOLD.to_vec());
        Arc::new(fonts)
    });
    Options { fontdb: Arc::clone(fonts), font_family: "Inter".to_owned(), ..Options::default() }
}
