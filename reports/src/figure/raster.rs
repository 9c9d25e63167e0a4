//! A scene as PNG, a pixel for a unit, through plotters' bitmap backend.
//!
//! Shapes and glyphs are drawn at twice the size and averaged down, which smooths what the backend
//! draws with hard edges. Glyphs are placed here: the backend rounds every letter to a whole pixel.

use super::{
    scene::{Anchor, At, Cells, Item, Mark, Scene, Size, Weight, outline},
    text,
    theme::{HEATS, Paint, Rgb, Theme},
};
use ab_glyph::{Font, ScaleFont, point};
use plotters::{
    backend::{BitMapBackend, DrawingBackend},
    style::{Color, RGBAColor, RGBColor, ShapeStyle},
};

/// Pixels drawn for one of the file, at each side.
const OVERSAMPLING: usize = 2;
const FACTOR: f64 = OVERSAMPLING as f64;

/// Why a figure could not be drawn: only a scene of absurd size can be the cause.
#[derive(Debug, thiserror::Error)]
#[error("figure {name}: {cause}")]
pub(crate) struct RasterError {
    name: String,
    cause: String,
}

/// The PNG file's bytes.
pub(crate) fn render(scene: &Scene, theme: &Theme) -> Result<Vec<u8>, RasterError> {
    let fail = |cause: String| RasterError { name: scene.name.clone(), cause };
    let (width, height) = (scene.width.ceil() as usize, scene.height.ceil() as usize);
    let large = (width * OVERSAMPLING, height * OVERSAMPLING);
    let mut pixels = vec![0u8; large.0 * large.1 * 3];
    let Rgb(r, g, b) = theme.rgb(Paint::Card, false);
    for pixel in pixels.chunks_exact_mut(3) {
        pixel.copy_from_slice(&[r, g, b]);
    }
    {
        let size = (large.0 as u32, large.1 as u32);
        let mut backend = BitMapBackend::with_buffer(&mut pixels, size);
        for item in &scene.items {
            draw(&mut backend, item, theme).map_err(&fail)?;
        }
        backend.present().map_err(|e| fail(e.to_string()))?;
    }
    encode(&average(&pixels, width, height), width, height).map_err(|e| fail(e.to_string()))
}

/// Averages blocks of pixels down to the size of the file.
fn average(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    let stride = width * OVERSAMPLING * 3;
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let rows = &pixels[y * OVERSAMPLING * stride..(y + 1) * OVERSAMPLING * stride];
        let (upper, lower) = rows.split_at(stride);
        for (a, b) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            for channel in 0..3 {
                let sum = u16::from(a[channel])
                    + u16::from(a[channel + 3])
                    + u16::from(b[channel])
                    + u16::from(b[channel + 3]);
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    out
}

fn encode(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    // Flat colour with sharp edges: the row above is the best guess.
    encoder.set_filter(png::FilterType::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(out)
}

/// Cells alone as a PNG with their own palette, for a place in a drawing.
pub(crate) fn cells_png(cells: &Cells, theme: &Theme) -> Option<Vec<u8>> {
    let palette: Vec<u8> = (0..=HEATS)
        .flat_map(|step| {
            let Rgb(r, g, b) = theme.rgb(Paint::Heat(step), false);
            [r, g, b]
        })
        .collect();
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, cells.width() as u32, cells.height() as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(palette);
    // Step 0 is nothing; the others are opaque by default.
    encoder.set_trns(vec![0u8]);
    encoder.set_filter(png::FilterType::NoFilter);
    let packed: Vec<u8> = cells
        .steps()
        .chunks(cells.width())
        .flat_map(|row| row.chunks(2))
        .map(|two| two[0] << 4 | two.get(1).copied().unwrap_or(0))
        .collect();
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&packed).ok()?;
    writer.finish().ok()?;
    Some(out)
}

fn pixel((x, y): At) -> (i32, i32) {
    ((x * FACTOR).round() as i32, (y * FACTOR).round() as i32)
}

fn draw(backend: &mut BitMapBackend<'_>, item: &Item, theme: &Theme) -> Drawn {
    let solid = |paint: &Paint, width: f64| {
        let Rgb(r, g, b) = theme.rgb(*paint, false);
        let style = ShapeStyle::from(RGBColor(r, g, b)).filled();
        style.stroke_width((width * FACTOR).round().max(1.0) as u32)
    };
    match item {
        Item::Rect { at, size, paint } => {
            let end = pixel((at.0 + size.0, at.1 + size.1));
            let style = solid(paint, 1.0);
            backend.draw_rect(pixel(*at), (end.0 - 1, end.1 - 1), &style, true).map_err(said)
        }
        Item::Frame { at, size, paint, width } => {
            let (x0, y0, x1, y1) = (at.0, at.1, at.0 + size.0, at.1 + size.1);
            let corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)];
            backend.draw_path(corners.map(pixel), &solid(paint, *width)).map_err(said)
        }
        Item::Path { points, width, paint } => {
            let style = solid(paint, *width);
            for pair in points.windows(2) {
                stroke(backend, pair[0], pair[1], *width, &style)?;
            }
            // Round joins where a wide line turns.
            let radius = (width * FACTOR / 2.0).round() as u32;
            if *width > 2.5 && points.len() > 2 {
                for point in &points[1..points.len() - 1] {
                    backend.draw_circle(pixel(*point), radius, &style, true).map_err(said)?;
                }
            }
            Ok(())
        }
        Item::Area { points, paint, alpha } => {
            let Rgb(r, g, b) = theme.rgb(*paint, false);
            let style = ShapeStyle::from(RGBAColor(r, g, b, *alpha)).filled();
            backend.fill_polygon(points.iter().map(|p| pixel(*p)), &style).map_err(said)
        }
        Item::Dots { points, radius, paint, alpha } => {
            let Rgb(r, g, b) = theme.rgb(*paint, false);
            let style = ShapeStyle::from(RGBAColor(r, g, b, *alpha)).filled();
            let radius = (radius * FACTOR).round() as u32;
            for point in points {
                backend.draw_circle(pixel(*point), radius, &style, true).map_err(said)?;
            }
            Ok(())
        }
        Item::Cells { at, cells } => {
            let (left, top) = pixel(*at);
            let colours: Vec<RGBColor> = (0..=HEATS)
                .map(|step| theme.rgb(Paint::Heat(step), false))
                .map(|Rgb(r, g, b)| RGBColor(r, g, b))
                .collect();
            let large = OVERSAMPLING * cells.width();
            for y in 0..OVERSAMPLING * cells.height() {
                let row = &cells.steps()[y / OVERSAMPLING * cells.width()..];
                for x in 0..large {
                    let step = usize::from(row[x / OVERSAMPLING]);
                    if step > 0 {
                        let here = (left + x as i32, top + y as i32);
                        let ink = colours[step.min(HEATS)].to_backend_color();
                        backend.draw_pixel(here, ink).map_err(said)?;
                    }
                }
            }
            Ok(())
        }
        Item::Mark { at, radius, mark: Mark::Circle, paint } => {
            let radius = (radius * FACTOR).round() as u32;
            backend.draw_circle(pixel(*at), radius, &solid(paint, 1.0), true).map_err(said)
        }
        Item::Mark { at, radius, mark, paint } => {
            let corners = outline(*mark, *at, *radius).into_iter().map(pixel);
            backend.fill_polygon(corners, &solid(paint, 1.0)).map_err(said)
        }
        Item::Text { at, text, size, weight, anchor, paint } => {
            let Rgb(r, g, b) = theme.rgb(*paint, false);
            let colour = RGBColor(r, g, b);
            glyphs(backend, *at, text, (*size, *weight, *anchor), colour)
        }
    }
}

type Drawn = Result<(), String>;

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A line as a filled quadrilateral; upright and level ones as rectangles with exact edges.
fn stroke(
    backend: &mut BitMapBackend<'_>,
    from: At,
    to: At,
    width: f64,
    style: &ShapeStyle,
) -> Drawn {
    let half = width / 2.0;
    if from.0 == to.0 || from.1 == to.1 {
        let (x, y) = if from.0 == to.0 { (half, 0.0) } else { (0.0, half) };
        let low = pixel((from.0.min(to.0) - x, from.1.min(to.1) - y));
        let high = pixel((from.0.max(to.0) + x, from.1.max(to.1) + y));
        let high = (high.0.max(low.0 + 1) - 1, high.1.max(low.1 + 1) - 1);
        return backend.draw_rect(low, high, style, true).map_err(said);
    }
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy);
    let (nx, ny) = (-dy / length * half, dx / length * half);
    let corners = [
        (from.0 + nx, from.1 + ny),
        (to.0 + nx, to.1 + ny),
        (to.0 - nx, to.1 - ny),
        (from.0 - nx, from.1 - ny),
    ];
    backend.fill_polygon(corners.map(pixel), style).map_err(said)
}

fn glyphs(
    backend: &mut BitMapBackend<'_>,
    at: At,
    content: &str,
    (size, weight, anchor): (Size, Weight, Anchor),
    colour: RGBColor,
) -> Drawn {
    let font = text::font(weight);
    let scaled = font.as_scaled(text::scale(weight, size.px() * FACTOR));
    let width = text::width(content, size, weight);
    let start = match anchor {
        Anchor::Start => at.0,
        Anchor::Middle => at.0 - width / 2.0,
        Anchor::End => at.0 - width,
    };
    let mut x = (start * FACTOR) as f32;
    let y = (at.1 * FACTOR).round() as f32;
    for c in content.chars() {
        let id = scaled.glyph_id(c);
        let glyph = id.with_scale_and_position(scaled.scale(), point(x, y));
        if let Some(outlined) = font.outline_glyph(glyph) {
            let bounds = outlined.px_bounds();
            let (left, top) = (bounds.min.x as i32, bounds.min.y as i32);
            let mut failed = Ok(());
            outlined.draw(|dx, dy, coverage| {
                if coverage > 0.01 && failed.is_ok() {
                    let ink = colour.mix(f64::from(coverage.min(1.0)));
                    let here = (left + dx as i32, top + dy as i32);
                    failed = backend.draw_pixel(here, ink.to_backend_color()).map_err(said);
                }
            });
            failed?;
        }
        x += scaled.h_advance(id);
    }
    Ok(())
}
