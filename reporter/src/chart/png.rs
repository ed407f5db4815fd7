//! PNG from SVG, with the embedded font and no other.

use std::sync::{Arc, OnceLock};

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
    picture.encode_png().map_err(|e| fail(e.to_string()))
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
