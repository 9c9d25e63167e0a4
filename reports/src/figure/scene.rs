//! A figure as a list of shapes with measured text, independent of the file format.
//!
//! Owns sizes and text measurement. Figures build a [`Scene`]; `svg` and `raster` draw it, so that
//! both formats show the same thing. One unit is one pixel of the PNG.

use super::{text, theme::Paint};

/// Width of a figure: a slide at twice its resolution. A table of few columns is narrower.
pub(crate) const WIDTH: f64 = 1600.0;
/// Free space around a figure's content.
pub(crate) const MARGIN: f64 = 40.0;

/// The three sizes of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Title,
    Body,
    Small,
}

impl Size {
    pub fn px(self) -> f64 {
        match self {
            Self::Title => 38.0,
            Self::Body => 31.0,
            Self::Small => 27.0,
        }
    }

    /// Distance between lines.
    pub fn line(self) -> f64 {
        (self.px() * 1.32).round()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Regular,
    SemiBold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A mark that tells a series without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    Circle,
    Square,
    Triangle,
    Down,
    Diamond,
    Cross,
    Plus,
    Hexagon,
}

pub(crate) type At = (f64, f64);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Rect {
        at: At,
        size: At,
        paint: Paint,
    },
    /// An outline of a rectangle.
    Frame {
        at: At,
        size: At,
        paint: Paint,
        width: f64,
    },
    Path {
        points: Vec<At>,
        width: f64,
        paint: Paint,
    },
    /// A filled, translucent polygon.
    Area {
        points: Vec<At>,
        paint: Paint,
        alpha: f64,
    },
    /// Round dots of one colour, translucent where they overlap.
    Dots {
        points: Vec<At>,
        radius: f64,
        paint: Paint,
        alpha: f64,
    },
    Mark {
        at: At,
        radius: f64,
        mark: Mark,
        paint: Paint,
    },
    /// Far more cells than shapes are good for: one cell for each unit of the figure.
    Cells {
        at: At,
        cells: Cells,
    },
    Text {
        at: At,
        text: String,
        size: Size,
        weight: Weight,
        anchor: Anchor,
        paint: Paint,
    },
}

/// A picture of steps of the sequential scale; 0 is transparent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cells {
    width: usize,
    steps: Vec<u8>,
}

impl Cells {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, steps: vec![0; width * height] }
    }

    /// Fills the part of a rectangle that lies in the picture; `step` is from 1.
    pub fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), step: usize) {
        let (end, bottom) = ((x + width).min(self.width), (y + height).min(self.height()));
        for row in y..bottom {
            if x < end {
                self.steps[row * self.width + x..row * self.width + end].fill(step as u8);
            }
        }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.steps.len() / self.width.max(1)
    }

    /// Steps, row by row.
    pub fn steps(&self) -> &[u8] {
        &self.steps
    }
}

/// A figure.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// File name without ending.
    pub name: String,
    /// What the figure shows, in one line; also its heading.
    pub title: String,
    /// What a person who cannot see it is told.
    pub description: String,
    pub width: f64,
    pub height: f64,
    pub items: Vec<Item>,
}

impl Scene {
    pub fn new(name: String, title: String) -> Self {
        Self {
            name,
            title,
            description: String::new(),
            width: WIDTH,
            height: 0.0,
            items: Vec::new(),
        }
    }

    /// Every text on it, for tests.
    #[cfg(test)]
    pub fn texts(&self) -> Vec<&str> {
        let all = self.items.iter().filter_map(|item| match item {
            Item::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        all.collect()
    }

    pub fn rect(&mut self, at: At, size: At, paint: Paint) {
        if size.0 > 0.0 && size.1 > 0.0 {
            self.items.push(Item::Rect { at, size, paint });
        }
    }

    pub fn line(&mut self, from: At, to: At, width: f64, paint: Paint) {
        self.items.push(Item::Path { points: vec![from, to], width, paint });
    }

    pub fn path(&mut self, points: Vec<At>, width: f64, paint: Paint) {
        self.items.push(Item::Path { points, width, paint });
    }

    /// A dotted line, of short strokes, so that no file format needs to know of it.
    pub fn dotted(&mut self, points: &[At], width: f64, paint: Paint) {
        const STEP: f64 = 10.0;
        for pair in points.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            let (x, y) = ((to.0 - from.0) / length, (to.1 - from.1) / length);
            // Nothing for a length of zero, whose direction is not a number.
            let mut done = 0.0;
            while done < length {
                let end = (done + STEP * 0.35).min(length);
                let at = |d: f64| (from.0 + x * d, from.1 + y * d);
                self.line(at(done), at(end), width, paint);
                done += STEP;
            }
        }
    }

    pub fn mark(&mut self, at: At, radius: f64, mark: Mark, paint: Paint) {
        self.items.push(Item::Mark { at, radius, mark, paint });
    }

    /// Text with its baseline at `at`.
    pub fn text(&mut self, at: At, text: &str, style: (Size, Weight, Anchor), paint: Paint) {
        let (size, weight, anchor) = style;
        self.items.push(Item::Text { at, text: text.to_owned(), size, weight, anchor, paint });
    }

    /// Text broken into lines of at most `width`; returns the baseline after the last line.
    pub fn paragraph(
        &mut self,
        at: At,
        width: f64,
        content: &str,
        style: (Size, Weight),
        paint: Paint,
    ) -> f64 {
        let (size, weight) = style;
        let mut y = at.1;
        for line in text::wrap(content, size, weight, width) {
            self.text((at.0, y), &line, (size, weight, Anchor::Start), paint);
            y += size.line();
        }
        y
    }

    /// Diagonal lines over a rectangle, clipped to it.
    pub fn hatch(&mut self, at: At, size: At, paint: Paint) {
        const STEP: f64 = 14.0;
        let (x0, y0, x1, y1) = (at.0, at.1, at.0 + size.0, at.1 + size.1);
        let mut offset = x0 + STEP;
        // Lines run from (offset, y0) down-left to (offset - height, y1).
        while offset < x1 + size.1 {
            let top = if offset > x1 { (x1, y0 + (offset - x1)) } else { (offset, y0) };
            let left = offset - size.1;
            let bottom = if left < x0 { (x0, y1 - (x0 - left)) } else { (left, y1) };
            if top.1 < bottom.1 {
                self.line(top, bottom, 3.0, paint);
            }
            offset += STEP;
        }
    }
}

/// The outline of a mark that is not a circle; crosses as filled outlines.
pub(crate) fn outline(mark: Mark, at: At, radius: f64) -> Vec<At> {
    let turn = |degrees: f64, r: f64| {
        let a = degrees.to_radians();
        (at.0 + r * a.cos(), at.1 + r * a.sin())
    };
    let regular = |corners: u32, first: f64, r: f64| -> Vec<At> {
        (0..corners).map(|i| turn(first + 360.0 * f64::from(i) / f64::from(corners), r)).collect()
    };
    let plus = |rotation: f64| -> Vec<At> {
        let (long, short) = (radius * 1.15, radius * 0.36);
        let corners = [
            (short, short),
            (short, long),
            (-short, long),
            (-short, short),
            (-long, short),
            (-long, -short),
            (-short, -short),
            (-short, -long),
            (short, -long),
            (short, -short),
            (long, -short),
            (long, short),
        ];
        let (sin, cos) = rotation.to_radians().sin_cos();
        corners.iter().map(|(x, y)| (at.0 + x * cos - y * sin, at.1 + x * sin + y * cos)).collect()
    };
    match mark {
        Mark::Circle => regular(24, 0.0, radius),
        Mark::Square => regular(4, 45.0, radius * 1.2),
        Mark::Triangle => regular(3, -90.0, radius * 1.3),
        Mark::Down => regular(3, 90.0, radius * 1.3),
        Mark::Diamond => regular(4, 0.0, radius * 1.3),
        Mark::Hexagon => regular(6, 0.0, radius * 1.1),
        Mark::Cross => plus(45.0),
        Mark::Plus => plus(0.0),
    }
}
