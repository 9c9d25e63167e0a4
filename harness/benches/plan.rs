//! Ordering the trials of 10,000 cases with ten trials each.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up has to stop")]

use cnibench::plan::{Arrangement, Plan, TrialOrder};
use cnibench_model::{CniSpec, ProviderKind};
use cnibench_scenarios::{Suite, expand};
use criterion::{Criterion, criterion_group, criterion_main};

fn ordering(c: &mut Criterion) {
    let streams = (1..=1000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let text = format!(
        "name = \"big\"\n[[scenario]]\nworkloads = \"tcp_stream\"\nplacements = \"cross-node\"\ntrials = 10\nstreams = [{streams}]\n"
    );
    let suite = Suite::parse("big.toml", &text).expect("a valid suite");
    let cnis: Vec<CniSpec> = (0..10).map(|i| CniSpec::named(&format!("cni-{i}"))).collect();
    let cases = expand(&suite, ProviderKind::Netns, &cnis);
    assert_eq!(cases.len(), 10_000);
    c.bench_function("plan/10k_cases_10_trials", |b| {
        b.iter(|| Plan::new(cases.clone(), &Arrangement::simple(TrialOrder::Interleaved), 1));
    });
}

criterion_group!(benches, ordering);
criterion_main!(benches);
