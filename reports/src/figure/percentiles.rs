//! Percentiles of a transaction's time, over all transactions of all trials of a cell.
//!
//! The x axis is stretched towards the tail (evenly spaced nines); a line ends where fewer than ten
//! samples lie beyond it and is labelled there.

use super::{
    axis::{Axis, tick_decimals},
    frame,
    scene::{Anchor, At, MARGIN, Scene, Size, WIDTH, Weight},
    theme::{Paint, Theme},
};
use crate::{
    book::Book,
    stats::{self, Curve},
    units::{Scale, counted, number},
};
use cnibench_model::Metric;

const NINES: [(f64, &str); 5] =
    [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];

/// The percentile figure of a row; none when it has no histogram with enough samples.
pub(crate) fn percentiles(book: &Book<'_>, theme: &Theme, row: usize) -> Option<Scene> {
    let mut unreadable = 0;
    let curves: Vec<(usize, Curve)> = (0..book.columns.len())
        .filter_map(|number| {
            let merged = stats::merge(book.entry(row, number)?.histograms())?;
            unreadable += merged.unreadable;
            let curve = stats::curve(&merged.histogram);
            (!curve.points.is_empty()).then_some((number, curve))
        })
        .collect();
    let series = &book.rows[row];
    let title = format!("{}: percentiles of the transaction time", series.title());
    let scene = Scene::new(format!("percentiles-{}", series.slug()), title);
    let samples: u64 = curves.iter().map(|(_, c)| c.samples).sum();
    plot(book, theme, scene, &curves, |unit| {
        let mut caption = format!(
            "time of one transaction in {unit}, logarithmic · all trials' histograms added up, {} in all · a line ends where fewer than 10 lie beyond it · pooled, so without an interval · {}",
            counted(samples, "transaction"),
            frame::source(book, row),
        );
        if unreadable > 0 {
            caption.push_str(&format!(
                " · {} could not be read, left out",
                counted(unreadable as u64, "stored histogram")
            ));
        }
        caption
    })
}

/// Percentile curves of columns with a caption that is told the unit; none without a point.
pub(crate) fn plot(
    book: &Book<'_>,
    theme: &Theme,
    mut scene: Scene,
    curves: &[(usize, Curve)],
    caption: impl Fn(&str) -> String,
) -> Option<Scene> {
    let all: Vec<f64> = curves.iter().flat_map(|(_, c)| c.points.iter().map(|p| p.value)).collect();
    if all.is_empty() {
        return None;
    }
    let top = frame::heading(&mut scene, "lower is better");
    let bottom = top + (frame::LABEL_GAP * (curves.len() as f64 + 2.0)).max(600.0);
    let left = MARGIN + 104.0;
    let names = frame::names_width(book, 470.0);
    let right = WIDTH - MARGIN - names - 74.0;

    // On a logarithmic axis the body decides the unit, not the worst of the tail.
    let smallest = all.iter().copied().fold(f64::INFINITY, f64::min);
    let scale = Scale::of(Metric::LatencyP50, book.clock(), &[smallest]);
    let y = Axis::log(&all, bottom, top + 34.0);
    let depth = |q: f64| -(1.0 - q).log10();
    let (first, last) = (depth(0.5), depth(0.9999));
    let x = |q: f64| left + (right - left) * (depth(q) - first) / (last - first);

    let ticks = y.ticks(7);
    for tick in &ticks {
        let at = y.at(*tick);
        scene.line((left, at), (right, at), 2.0, Paint::Grid);
        let decimals = tick_decimals(&[0.0, *tick], scale.divisor).min(3);
        let label = number(tick / scale.divisor, decimals);
        let style = (Size::Small, Weight::Regular, Anchor::End);
        scene.text((left - 14.0, at + 9.0), &label, style, Paint::Muted);
    }
    let nines: Vec<(f64, String)> =
        NINES.iter().map(|(q, label)| (x(*q), (*label).to_owned())).collect();
    let style = (Size::Small, Weight::Regular, Anchor::End);
    scene.text((left - 14.0, top + 12.0), &scale.unit, style, Paint::Muted);
    let unit = "percentile, stretched towards the tail";
    let end = frame::bottom_axis(&mut scene, &nines, (left, right), (top, bottom), unit);

    // Host first, so that it lies under the others.
    for (number, curve) in curves {
        let points: Vec<At> = curve.points.iter().map(|p| (x(p.quantile), y.at(p.value))).collect();
        scene.path(points, 4.5, Paint::Series(*number));
        for (q, _) in NINES {
            let here = curve.points.iter().min_by(|a, b| {
                (depth(a.quantile) - depth(q))
                    .abs()
                    .total_cmp(&(depth(b.quantile) - depth(q)).abs())
            });
            if let Some(p) = here.filter(|p| (depth(p.quantile) - depth(q)).abs() < 0.02) {
                let at = (x(p.quantile), y.at(p.value));
                scene.mark(at, 11.0, theme.mark(*number), Paint::Series(*number));
            }
        }
    }
    let ends: Vec<(usize, At)> = curves
        .iter()
        .filter_map(|(number, c)| {
            let last = c.points.last()?;
            Some((*number, (x(last.quantile), y.at(last.value))))
        })
        .collect();
    frame::end_labels(&mut scene, theme, book, &ends, (top + 20.0, bottom - 8.0), right, names);

    scene.description = describe(book, curves, &scale);
    frame::caption(&mut scene, end, &caption(&scale.unit));
    Some(scene)
}

fn describe(book: &Book<'_>, curves: &[(usize, Curve)], scale: &Scale) -> String {
    let parts = curves.iter().map(|(number, curve)| {
        let values: Vec<String> = NINES
            .iter()
            .filter_map(|(q, label)| {
                let last = curve.points.last()?.quantile;
                let p = curve.points.iter().find(|p| p.quantile >= q - 1e-9 && last >= q - 1e-9)?;
                Some(format!("p{label} {}", scale.text(p.value)))
            })
            .collect();
        format!("{}: {}.", book.columns[*number].label, values.join(", "))
    });
    parts.collect::<Vec<_>>().join(" ")
}
