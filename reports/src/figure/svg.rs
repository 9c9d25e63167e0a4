//! A scene as SVG: inline for the page, with CSS variables that follow the colour scheme, or as a
//! file of its own with fixed light colours and the font inside.
//!
//! Every text carries its measured length, so a viewer without the font neither overlaps nor clips.

use super::{
    raster,
    scene::{Anchor, At, Cells, Item, Mark, Scene, Weight, outline},
    text,
    theme::{Paint, Theme, variable},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Inside the page, which defines variables and font.
    Inline,
    /// A file that stands alone.
    File,
}

/// Escapes text for XML and HTML, attributes included.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are no XML at all.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

pub(crate) fn render(scene: &Scene, theme: &Theme, kind: Kind) -> String {
    let mut out = String::new();
    let id = escape(&scene.name);
    let size = match kind {
        Kind::Inline => String::new(),
        Kind::File => format!(" width=\"{}\" height=\"{}\"", scene.width, scene.height),
    };
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\"{size} viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"t-{id} d-{id}\" font-family=\"{}, system-ui, sans-serif\" style=\"font-kerning:none\"><title id=\"t-{id}\">{}</title><desc id=\"d-{id}\">{}</desc>",
        scene.width,
        scene.height,
        text::FAMILY,
        escape(&scene.title),
        escape(&scene.description),
    );
    if kind == Kind::File {
        let _ = write!(out, "<style>{}</style>", text::font_face());
        let card = theme.rgb(Paint::Card, false).hex();
        let _ = write!(
            out,
            "<rect width=\"{}\" height=\"{}\" fill=\"{card}\"/>",
            scene.width, scene.height
        );
    }
    for item in &scene.items {
        if let Item::Cells { at, cells } = item {
            picture(&mut out, *at, cells, theme);
            continue;
        }
        draw(&mut out, item, |paint| match kind {
            Kind::Inline => format!("var({})", variable(paint)),
            Kind::File => theme.rgb(paint, false).hex(),
        });
    }
    out.push_str("</svg>\n");
    out
}

/// Cells as one embedded picture: the colours are the same in both schemes.
fn picture(out: &mut String, at: At, cells: &Cells, theme: &Theme) {
    // The encoder fails on a picture without a pixel only, and of that there is nothing to show.
    let Some(png) = raster::cells_png(cells, theme) else { return };
    let _ = write!(
        out,
        "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
        n(at.0),
        n(at.1),
        cells.width(),
        cells.height(),
        STANDARD.encode(png),
    );
}

/// A column's mark alone, for a table's head.
pub(crate) fn mark(theme: &Theme, column: usize) -> String {
    let mut out = String::from("<svg class=\"mark\" viewBox=\"0 0 28 28\" aria-hidden=\"true\">");
    let item = Item::Mark {
        at: (14.0, 14.0),
        radius: 11.0,
        mark: theme.mark(column),
        paint: Paint::Series(column),
    };
    draw(&mut out, &item, |paint| format!("var({})", variable(paint)));
    out.push_str("</svg>");
    out
}

/// A coordinate with at most one decimal.
fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn points(list: &[At]) -> String {
    let mut out = String::with_capacity(list.len() * 12);
    for (i, (x, y)) in list.iter().enumerate() {
        let _ = write!(out, "{}{} {}", if i == 0 { 'M' } else { 'L' }, n(*x), n(*y));
    }
    out
}

fn draw(out: &mut String, item: &Item, colour: impl Fn(Paint) -> String) {
    // `style`, not an attribute: variables do not work in presentation attributes everywhere.
    let _ = match item {
        Item::Rect { at, size, paint } => write!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill:{}\"/>",
            n(at.0),
            n(at.1),
            n(size.0),
            n(size.1),
            colour(*paint)
        ),
        Item::Frame { at, size, paint, width } => write!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"fill:none;stroke:{};stroke-width:{width}\"/>",
            n(at.0),
            n(at.1),
            n(size.0),
            n(size.1),
            colour(*paint)
        ),
        Item::Path { points: list, width, paint } => write!(
            out,
            "<path d=\"{}\" style=\"fill:none;stroke:{};stroke-width:{width};stroke-linejoin:round\"/>",
            points(list),
            colour(*paint)
        ),
        Item::Area { points: list, paint, alpha } => write!(
            out,
            "<path d=\"{}Z\" style=\"fill:{};fill-opacity:{alpha}\"/>",
            points(list),
            colour(*paint)
        ),
        Item::Dots { points: list, radius, paint, alpha } => {
            let dots: String =
                list.iter().map(|(x, y)| format!("M{} {}h0", n(*x), n(*y))).collect();
            write!(
                out,
                "<path d=\"{dots}\" style=\"fill:none;stroke:{};stroke-width:{};stroke-linecap:round;stroke-opacity:{alpha}\"/>",
                colour(*paint),
                n(radius * 2.0)
            )
        }
        Item::Mark { at, radius, mark: Mark::Circle, paint } => write!(
            out,
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" style=\"fill:{}\"/>",
            n(at.0),
            n(at.1),
            n(*radius),
            colour(*paint)
        ),
        Item::Mark { at, radius, mark, paint } => {
            write!(
                out,
                "<path d=\"{}Z\" style=\"fill:{}\"/>",
                points(&outline(*mark, *at, *radius)),
                colour(*paint)
            )
        }
        // A picture and no shape: `render` places it.
        Item::Cells { .. } => Ok(()),
        Item::Text { at, text: content, size, weight, anchor, paint } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let bold = if *weight == Weight::SemiBold { " font-weight=\"600\"" } else { "" };
            write!(
                out,
                "<text x=\"{}\" y=\"{}\" font-size=\"{}\"{bold}{anchor} textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\" style=\"fill:{}\">{}</text>",
                n(at.0),
                n(at.1),
                n(size.px()),
                n(text::width(content, *size, *weight)),
                colour(*paint),
                escape(content)
            )
        }
    };
}
