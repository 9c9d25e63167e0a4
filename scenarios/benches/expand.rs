//! Expansion of a suite into 100,000 cases.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up has to stop")]

use cnibench_model::{CniSpec, ProviderKind};
use cnibench_scenarios::{Suite, expand};
use criterion::{Criterion, criterion_group, criterion_main};

fn hundred_thousand(c: &mut Criterion) {
    let list = |n: u32| (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let text = format!(
        "name = \"big\"\n[[scenario]]\nworkloads = [\"tcp_stream\", \"udp_stream\"]\nplacements = [\"same-node\", \"cross-node\"]\nstreams = [{}]\nsize = [{}]\n",
        list(50),
        list(50),
    );
    let suite = Suite::parse("big.toml", &text).expect("a valid suite");
    let cnis: Vec<CniSpec> = (0..10).map(|i| CniSpec::named(&format!("cni-{i}"))).collect();
    assert_eq!(expand(&suite, ProviderKind::Netns, &cnis).len(), 100_000);
    c.bench_function("expand/100k_cases", |b| {
        b.iter(|| expand(&suite, ProviderKind::Netns, &cnis));
    });
}

criterion_group!(benches, hundred_thousand);
criterion_main!(benches);
