//! How fast: statistics over ten thousand samples, merging histograms, whole reports.

#[path = "../src/fixtures.rs"]
mod fixtures;

use cnibench_model::{Record, StoredHistogram};
use cnibench_reports::{
    Format, render,
    stats::{Basis, Point, centre, change, curve, merge},
};
use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{Builder, ten_thousand};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;

fn statistics(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let values: Vec<f64> = (0..10_000).map(|_| rng.random_range(1.0..2.0)).collect();
    let points = |factor: f64| -> Vec<Point> {
        let point = |(i, v): (usize, &f64)| Point { block: i as u32, value: v * factor };
        values.iter().enumerate().map(point).collect()
    };
    let (a, b) = (points(1.1), points(1.0));
    c.bench_function("centre of 10k samples", |x| x.iter(|| centre(black_box(&values))));
    c.bench_function("paired change of 10k samples", |x| {
        x.iter(|| change(black_box(&a), black_box(&b), Basis::Ratio, true));
    });
    c.bench_function("unpaired change of 10k samples", |x| {
        x.iter(|| change(black_box(&a), black_box(&b), Basis::Ratio, false));
    });
}

fn histograms(c: &mut Criterion) {
    let record = Builder { trials: 100, ..Builder::default() }.build();
    let stored: Vec<StoredHistogram> =
        record.trials.into_iter().filter_map(|t| t.histogram).take(100).collect();
    c.bench_function("merge of 100 histograms", |x| x.iter(|| merge(black_box(&stored))));
    if let Some(merged) = merge(&stored) {
        c.bench_function("percentile curve", |x| x.iter(|| curve(black_box(&merged.histogram))));
    }
}

fn reports(c: &mut Criterion) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let quick = [Builder::default().build()];
    let mut group = c.benchmark_group("report");
    group.sample_size(10);
    group.bench_function("quick suite, all formats", |x| {
        x.iter(|| render(black_box(&quick), dir.path(), Format::ALL).map(|r| r.files.len()));
    });
    let Ok(json) = serde_json::to_string(&ten_thousand()) else { return };
    group.bench_function("10k trials, parse and all formats", |x| {
        x.iter(|| {
            let record = Record::from_json(black_box(&json)).ok()?;
            render(&[record], dir.path(), Format::ALL).ok().map(|r| r.files.len())
        });
    });
    group.finish();
}

criterion_group!(benches, statistics, histograms, reports);
criterion_main!(benches);
