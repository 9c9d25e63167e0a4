//! Colours and marks: what every series looks like, in light and in dark.
//!
//! Owns the palette (Okabe & Ito, "Color Universal Design", 2008) and the contrast it must have.
//! Figures name a [`Paint`]; what that is in a format or a colour scheme is decided here.

use super::scene::Mark;
use crate::book::Book;
use std::fmt::Write;

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rgb(pub u8, pub u8, pub u8);

/// A colour by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Text and axes.
    Ink,
    /// Captions.
    Muted,
    /// Grid lines.
    Grid,
    /// Behind alternate rows.
    Band,
    /// The figure's own ground.
    Card,
    /// A column of the book.
    Series(usize),
    /// A part of CPU time, in stacking order.
    Part(usize),
    /// A stage of a packet's way, by its place on it.
    Stage(usize),
    /// Text on that stage.
    StageInk(usize),
    /// A cell's tint, from 1 (a little) to [`TINTS`].
    Worse(usize),
    /// The same on the good side.
    Better(usize),
    /// A failed cell, or a regression.
    Alarm,
    /// An improvement.
    Good,
    /// A step of the sequential scale, from 1 (best) to [`HEATS`] (worst): worse is darker in both
    /// schemes, on a ground ([`Paint::Blank`]) that is light in both.
    Heat(usize),
    /// Text on that step.
    HeatInk(usize),
    /// What has no value on the ground of that scale, which is light in both schemes: there the worst
    /// stands out most.
    Blank,
    /// Strokes on it.
    BlankLine,
}

/// Steps of the diverging scale at either side.
pub(crate) const TINTS: usize = 5;
/// Parts of CPU time.
pub(crate) const PARTS: usize = 5;
/// Stages of a packet's way that have a colour of their own.
pub(crate) const STAGES: usize = 11;
/// Steps of the sequential scale.
pub(crate) const HEATS: usize = 7;

/// Hues by family, in order of appearance; the host's grey is none of them.
const HUES: [Rgb; 7] = [
    Rgb(0xD5, 0x5E, 0x00),
    Rgb(0x00, 0x72, 0xB2),
    Rgb(0x00, 0x9E, 0x73),
    Rgb(0xCC, 0x79, 0xA7),
    Rgb(0xE6, 0x9F, 0x00),
    Rgb(0x56, 0xB4, 0xE9),
    Rgb(0xF0, 0xE4, 0x42),
];
const GREY: Rgb = Rgb(0x76, 0x76, 0x76);
/// Parts of CPU time from light to dark and back, so that neighbours differ in grey too.
const PART_COLOURS: [Rgb; PARTS] = [
    Rgb(0x9F, 0xD0, 0xEE),
    Rgb(0x00, 0x72, 0xB2),
    Rgb(0xE6, 0x9F, 0x00),
    Rgb(0x8C, 0x3B, 0x00),
    Rgb(0xDD, 0x9C, 0xC0),
];
/// Stages in the order of the path: neighbours differ in grey, and what undoes a stage has its hue.
const STAGE_COLOURS: [Rgb; STAGES] = [
    Rgb(0x9F, 0xD0, 0xEE),
    Rgb(0x00, 0x5A, 0x8E),
    Rgb(0xF0, 0xE4, 0x42),
    Rgb(0x8C, 0x3B, 0x00),
    Rgb(0xE6, 0x9F, 0x00),
    Rgb(0x4A, 0x4E, 0x57),
    Rgb(0xF8, 0xCF, 0x9E),
    Rgb(0x00, 0x63, 0x48),
    Rgb(0x7F, 0xD1, 0xB5),
    Rgb(0x8A, 0x2C, 0x6B),
    Rgb(0xDD, 0x9C, 0xC0),
];
/// From light to dark by even steps of lightness, so that the order holds without hue.
const HEAT_COLOURS: [Rgb; HEATS] = [
    Rgb(0xFD, 0xEB, 0xCD),
    Rgb(0xF8, 0xCF, 0x9E),
    Rgb(0xF1, 0xAE, 0x7C),
    Rgb(0xE5, 0x88, 0x69),
    Rgb(0xD2, 0x66, 0x6A),
    Rgb(0xB0, 0x42, 0x6B),
    Rgb(0x8A, 0x2C, 0x6B),
];
const BLANK: Rgb = Rgb(0xF5, 0xF7, 0xFA);
const LIGHT_CARD: Rgb = Rgb(0xFF, 0xFF, 0xFF);
const DARK_CARD: Rgb = Rgb(0x1B, 0x1D, 0x21);
/// Contrast of graphics with their ground (WCAG 2.1, 1.4.11).
const GRAPHIC_CONTRAST: f64 = 3.0;

const OPEN_MARKS: [Mark; 5] = [Mark::Square, Mark::Triangle, Mark::Down, Mark::Plus, Mark::Hexagon];
const ENCRYPTED_MARKS: [Mark; 2] = [Mark::Diamond, Mark::Cross];

impl Rgb {
    fn mix(self, other: Self, share: f64) -> Self {
        let part =
            |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as u8;
        Self(part(self.0, other.0), part(self.1, other.1), part(self.2, other.2))
    }

    /// WCAG relative luminance.
    fn luminance(self) -> f64 {
        let linear = |c: u8| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }

    /// WCAG contrast ratio.
    fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// The nearest shade towards `toward` that stands out from `ground`.
    fn readable(self, ground: Self, toward: Self, contrast: f64) -> Self {
        (0..=20)
            .map(|i| self.mix(toward, f64::from(i) / 20.0))
            .find(|c| c.contrast(ground) >= contrast)
            .unwrap_or(toward)
    }

    pub fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// How one series looks.
#[derive(Debug, Clone, Copy)]
struct Look {
    light: Rgb,
    dark: Rgb,
    mark: Mark,
}

/// The looks of all columns of a book.
#[derive(Debug, Clone)]
pub(crate) struct Theme {
    looks: Vec<Look>,
}

impl Theme {
    pub fn new(book: &Book<'_>) -> Self {
        let mut families: Vec<&str> = Vec::new();
        let mut members: Vec<(usize, usize)> = Vec::new();
        let (mut open, mut encrypted) = (0, 0);
        let mut looks = Vec::new();
        for column in &book.columns {
            if column.is_host() {
                looks.push(look(GREY, 0.0, Mark::Circle));
                continue;
            }
            let family = families.iter().position(|f| *f == column.family()).unwrap_or_else(|| {
                families.push(column.family());
                members.push((0, 0));
                families.len() - 1
            });
            let hue = HUES[family % HUES.len()];
            let (plain, secret) = &mut members[family];
            if column.encrypted() {
                looks.push(look(
                    hue,
                    0.42 + 0.16 * (*secret).min(2) as f64,
                    ENCRYPTED_MARKS[encrypted % 2],
                ));
                *secret += 1;
                encrypted += 1;
            } else {
                looks.push(look(
                    hue,
                    -0.22 * (*plain).min(2) as f64,
                    OPEN_MARKS[open % OPEN_MARKS.len()],
                ));
                *plain += 1;
                open += 1;
            }
        }
        Self { looks }
    }

    pub fn mark(&self, column: usize) -> Mark {
        self.looks.get(column).map_or(Mark::Circle, |l| l.mark)
    }

    /// The colour in the light scheme, which files that stand alone use, or in the dark one.
    pub fn rgb(&self, paint: Paint, dark: bool) -> Rgb {
        let pick = |light, night| if dark { night } else { light };
        let card = pick(LIGHT_CARD, DARK_CARD);
        let tint =
            |colour: Rgb, step: usize| card.mix(colour, 0.09 + 0.085 * step.min(TINTS) as f64);
        match paint {
            Paint::Ink => pick(Rgb(0x1B, 0x1D, 0x21), Rgb(0xEC, 0xED, 0xEF)),
            Paint::Muted => pick(Rgb(0x5A, 0x5E, 0x66), Rgb(0xA9, 0xAE, 0xB8)),
            Paint::Grid => pick(Rgb(0xDF, 0xE1, 0xE5), Rgb(0x3A, 0x3E, 0x46)),
            Paint::Band => pick(Rgb(0xF5, 0xF6, 0xF8), Rgb(0x22, 0x25, 0x2A)),
            Paint::Card => card,
            Paint::Series(i) => {
                self.looks.get(i).map_or(GREY, |l| if dark { l.dark } else { l.light })
            }
            Paint::Part(i) => PART_COLOURS[i % PARTS],
            Paint::Worse(step) => tint(pick(Rgb(0xE0, 0x6A, 0x10), Rgb(0xD5, 0x5E, 0x00)), step),
            Paint::Better(step) => tint(pick(Rgb(0x1E, 0x88, 0xC8), Rgb(0x00, 0x80, 0xC8)), step),
            Paint::Alarm => pick(Rgb(0xB0, 0x1E, 0x1E), Rgb(0xFF, 0x8A, 0x80)),
            Paint::Good => pick(Rgb(0x0B, 0x5A, 0x94), Rgb(0x7C, 0xC1, 0xF2)),
            Paint::Heat(step) => heat(step),
            Paint::Blank => BLANK,
            Paint::BlankLine => Rgb(0xD3, 0xD8, 0xE0),
            Paint::HeatInk(step) => readable_on(heat(step)),
            Paint::Stage(i) => STAGE_COLOURS[i % STAGES],
            Paint::StageInk(i) => readable_on(STAGE_COLOURS[i % STAGES]),
        }
    }

    /// The CSS variables of a scheme.
    pub fn variables(&self, dark: bool) -> String {
        let mut css = String::new();
        for paint in self.paints() {
            // Writing to a String cannot fail.
            let _ = write!(css, "{}:{};", variable(paint), self.rgb(paint, dark).hex());
        }
        css
    }

    fn paints(&self) -> Vec<Paint> {
        let mut paints =
            vec![Paint::Ink, Paint::Muted, Paint::Grid, Paint::Band, Paint::Card, Paint::Alarm];
        paints.extend([Paint::Good, Paint::Blank, Paint::BlankLine]);
        paints.extend((0..self.looks.len()).map(Paint::Series));
        paints.extend((0..PARTS).map(Paint::Part));
        paints.extend((0..STAGES).flat_map(|s| [Paint::Stage(s), Paint::StageInk(s)]));
        paints.extend((1..=TINTS).flat_map(|s| [Paint::Worse(s), Paint::Better(s)]));
        paints.extend((1..=HEATS).flat_map(|s| [Paint::Heat(s), Paint::HeatInk(s)]));
        paints
    }
}

/// Black or white, whichever stands out more.
fn readable_on(ground: Rgb) -> Rgb {
    let (dark, light) = (Rgb(0x1B, 0x1D, 0x21), Rgb(0xFF, 0xFF, 0xFF));
    if dark.contrast(ground) >= light.contrast(ground) { dark } else { light }
}

fn heat(step: usize) -> Rgb {
    HEAT_COLOURS[step.clamp(1, HEATS) - 1]
}

/// `shade` above zero darkens in light and lightens less in dark; below zero lightens.
fn look(hue: Rgb, shade: f64, mark: Mark) -> Look {
    let (black, white) = (Rgb(0, 0, 0), Rgb(0xFF, 0xFF, 0xFF));
    let shaded = if shade >= 0.0 { hue.mix(black, shade) } else { hue.mix(white, -shade) };
    Look {
        light: shaded.readable(LIGHT_CARD, black, GRAPHIC_CONTRAST),
        dark: shaded.readable(DARK_CARD, white, GRAPHIC_CONTRAST),
        mark,
    }
}

/// The CSS variable of a paint.
pub(crate) fn variable(paint: Paint) -> String {
    match paint {
        Paint::Ink => "--ink".to_owned(),
        Paint::Muted => "--muted".to_owned(),
        Paint::Grid => "--grid".to_owned(),
        Paint::Band => "--band".to_owned(),
        Paint::Card => "--card".to_owned(),
        Paint::Alarm => "--alarm".to_owned(),
        Paint::Good => "--good".to_owned(),
        Paint::Series(i) => format!("--s{i}"),
        Paint::Part(i) => format!("--p{i}"),
        Paint::Stage(i) => format!("--g{i}"),
        Paint::StageInk(i) => format!("--k{i}"),
        Paint::Worse(i) => format!("--w{i}"),
        Paint::Better(i) => format!("--b{i}"),
        Paint::Heat(i) => format!("--h{i}"),
        Paint::HeatInk(i) => format!("--i{i}"),
        Paint::Blank => "--blank".to_owned(),
        Paint::BlankLine => "--blank-line".to_owned(),
    }
}

/// The paint of a tint from -1 (much better) to 1 (much worse); none near zero.
pub(crate) fn tint_paint(tint: f64) -> Option<Paint> {
    let step = (tint.abs() * TINTS as f64).ceil().max(1.0) as usize;
    match tint {
        t if t > 0.005 => Some(Paint::Worse(step)),
        t if t < -0.005 => Some(Paint::Better(step)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, twelve};

    fn theme() -> Theme {
        let records = [Builder { paths: twelve(), ..Builder::default() }.build()];
        Theme::new(&Book::new(&records))
    }

    #[test]
    fn text_and_graphics_stand_out_in_both_schemes() {
        let theme = theme();
        for dark in [false, true] {
            let card = theme.rgb(Paint::Card, dark);
            for paint in [Paint::Ink, Paint::Muted, Paint::Alarm, Paint::Good] {
                assert!(theme.rgb(paint, dark).contrast(card) >= 4.5, "{paint:?} {dark}");
            }
            for column in 0..12 {
                let c = theme.rgb(Paint::Series(column), dark).contrast(card);
                assert!(c >= GRAPHIC_CONTRAST, "{column} {dark}: {c}");
            }
            for step in 1..=TINTS {
                for paint in [Paint::Worse(step), Paint::Better(step)] {
                    let ground = theme.rgb(paint, dark);
                    assert!(
                        theme.rgb(Paint::Ink, dark).contrast(ground) >= 4.5,
                        "{paint:?} {dark}"
                    );
                    assert!(
                        theme.rgb(Paint::Muted, dark).contrast(ground) >= 3.0,
                        "{paint:?} {dark}"
                    );
                }
            }
        }
    }

    #[test]
    fn host_is_grey_and_a_family_shares_a_hue() {
        let theme = theme();
        let Rgb(r, g, b) = theme.rgb(Paint::Series(0), false);
        assert!(r == g && g == b);
        // flannel-wireguard-userspace is darker than flannel-vxlan and has another mark.
        let (plain, secret) =
            (theme.rgb(Paint::Series(1), false), theme.rgb(Paint::Series(3), false));
        assert!(secret.luminance() < plain.luminance());
        assert_ne!(theme.mark(1), theme.mark(3));
    }

    #[test]
    fn worse_is_darker_in_both_schemes_and_numbers_can_be_read_on_it() {
        let theme = theme();
        for dark in [false, true] {
            let colours: Vec<Rgb> = (1..=HEATS).map(|s| theme.rgb(Paint::Heat(s), dark)).collect();
            for pair in colours.windows(2) {
                assert!(pair[0].luminance() > pair[1].luminance());
                assert!(pair[0].contrast(pair[1]) >= 1.2, "{pair:?}");
            }
            for step in 1..=HEATS {
                let (ground, ink) = (Paint::Heat(step), Paint::HeatInk(step));
                let contrast = theme.rgb(ink, dark).contrast(theme.rgb(ground, dark));
                assert!(contrast >= 4.5, "{step}: {contrast}");
            }
            let ground = theme.rgb(Paint::Blank, dark);
            let contrast: Vec<f64> = colours.iter().map(|c| c.contrast(ground)).collect();
            assert!(contrast.windows(2).all(|w| w[0] < w[1]), "the worst stands out most");
            assert!(contrast[HEATS - 1] >= 7.0, "{contrast:?}");
        }
    }

    #[test]
    fn parts_and_stages_differ_in_grey_and_stages_can_be_written_on() {
        for pair in PART_COLOURS.windows(2).chain(STAGE_COLOURS.windows(2)) {
            assert!(pair[0].contrast(pair[1]) >= 1.9, "{pair:?}");
        }
        assert!(STAGE_COLOURS.iter().all(|c| readable_on(*c).contrast(*c) >= 4.5));
        // One colour for each stage; what no stage has is hatched.
        assert_eq!(STAGES + 1, cnibench_model::Stage::ALL.len());
    }
}
