//! The bundled font: measuring, fitting and breaking text.
//!
//! Owns the font files. Called by every figure, so that nothing overlaps whatever a name's length.

use super::scene::{Size, Weight};
use ab_glyph::{Font, FontRef, ScaleFont};
use std::sync::OnceLock;

/// The family name under which the page and the SVG files embed the font.
pub(crate) const FAMILY: &str = "Inter";

static REGULAR: &[u8] = include_bytes!("../../assets/Inter-Regular.otf");
static SEMI_BOLD: &[u8] = include_bytes!("../../assets/Inter-SemiBold.otf");
static REGULAR_WEB: &[u8] = include_bytes!("../../assets/Inter-Regular.woff2");
static SEMI_BOLD_WEB: &[u8] = include_bytes!("../../assets/Inter-SemiBold.woff2");

/// The bundled font of a weight.
#[expect(clippy::expect_used, reason = "the file is compiled in, and a test reads it")]
pub(crate) fn font(weight: Weight) -> &'static FontRef<'static> {
    static FONTS: OnceLock<[FontRef<'static>; 2]> = OnceLock::new();
    let fonts = FONTS.get_or_init(|| {
        [REGULAR, SEMI_BOLD].map(|bytes| FontRef::try_from_slice(bytes).expect("bundled font"))
    });
    match weight {
        Weight::Regular => &fonts[0],
        Weight::SemiBold => &fonts[1],
    }
}

/// ab_glyph's scale for a text of `px` pixels per em; its own unit is ascent to descent.
pub(crate) fn scale(weight: Weight, px: f64) -> f32 {
    let font = font(weight);
    let em = font.units_per_em().unwrap_or(1000.0);
    px as f32 * font.height_unscaled() / em
}

/// Width of a text in figure units. No kerning: the SVG asks for none either.
pub(crate) fn width(text: &str, size: Size, weight: Weight) -> f64 {
    let scaled = font(weight).as_scaled(scale(weight, size.px()));
    text.chars().map(|c| f64::from(scaled.h_advance(scaled.glyph_id(c)))).sum()
}

/// The text if it fits, else cut in the middle until it does.
pub(crate) fn fit(text: &str, size: Size, weight: Weight, room: f64) -> String {
    let mut most = text.chars().count();
    let mut out = text.to_owned();
    while width(&out, size, weight) > room && most > 1 {
        most -= 1;
        out = crate::book::ellipsis(text, most);
    }
    out
}

/// Lines of at most `room`, broken at spaces; a word longer than that is cut in the middle.
pub(crate) fn wrap(text: &str, size: Size, weight: Weight, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let longer = lines.last().map(|l| format!("{l} {word}"));
        match (longer, lines.last_mut()) {
            (Some(longer), Some(last)) if width(&longer, size, weight) <= room => *last = longer,
            _ => lines.push(fit(word, size, weight, room)),
        }
    }
    lines
}

/// `@font-face` rules with both weights inside.
pub(crate) fn font_face() -> &'static str {
    use base64::{Engine, engine::general_purpose::STANDARD};
    static CSS: OnceLock<String> = OnceLock::new();
    CSS.get_or_init(|| {
        [(400, REGULAR_WEB), (600, SEMI_BOLD_WEB)]
            .map(|(weight, bytes)| {
                format!(
                    "@font-face{{font-family:{FAMILY};font-weight:{weight};src:url(data:font/woff2;base64,{}) format(\"woff2\")}}\n",
                    STANDARD.encode(bytes)
                )
            })
            .concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_have_one_width() {
        for weight in [Weight::Regular, Weight::SemiBold] {
            let widths: Vec<f64> =
                ('0'..='9').map(|c| width(&c.to_string(), Size::Body, weight)).collect();
            assert!(widths.iter().all(|w| (w - widths[0]).abs() < 0.05), "{widths:?}");
            // 1824 of 2816 units per em in this font.
            let expected =
                if weight == Weight::Regular { 31.0 * 1824.0 / 2816.0 } else { widths[1] };
            assert!((widths[0] - expected).abs() < 0.05, "{} {expected}", widths[0]);
        }
    }

    #[test]
    fn every_character_of_our_own_texts_is_in_the_font() {
        for c in "µ·–—…×≥≤≈−→ “”’äé✓✗".chars() {
            assert_ne!(font(Weight::Regular).glyph_id(c).0, 0, "{c:?}");
        }
    }

    #[test]
    fn lines_fit() {
        let text = "a caption with a-word-that-is-far-too-long-for-any-line-of-this-width and more words after it";
        let lines = wrap(text, Size::Small, Weight::Regular, 300.0);
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|l| width(l, Size::Small, Weight::Regular) <= 300.0));
        assert!(fit(text, Size::Body, Weight::SemiBold, 200.0).contains('…'));
    }
}
