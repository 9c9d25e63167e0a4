//! How long clusters of namespaces take to come up and to go down. Needs root.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run should say so and stop")]
#![allow(missing_docs, reason = "criterion_group! makes an undocumented function")]

use cnibench::cluster::{
    Cluster, Provider as _, Topology,
    netns::{NetnsProvider, Owner},
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

fn up(rt: &Runtime, provider: &NetnsProvider, spec: &str, shape: &Topology) -> Box<dyn Cluster> {
    rt.block_on(provider.up(0, &spec.parse().unwrap(), shape)).unwrap()
}

fn clusters(c: &mut Criterion) {
    let rt = Runtime::new().unwrap();
    let provider = NetnsProvider::new(Owner::acquire().unwrap()).unwrap();
    let mut group = c.benchmark_group("netns");
    group.sample_size(10).warm_up_time(Duration::from_millis(200));
    for (nodes, pods_per_node) in [(2, 2), (10, 1), (100, 1)] {
        let shape = Topology { nodes, pods_per_node, ..Topology::default() };
        for spec in ["host", "flannel-host-gw", "flannel-vxlan"] {
            let name = format!("{spec}, {nodes} nodes with {pods_per_node}");
            group.bench_function(format!("up {name}"), |b| {
                b.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        let begun = Instant::now();
                        let mut cluster = up(&rt, &provider, spec, &shape);
                        spent += begun.elapsed();
                        assert!(rt.block_on(cluster.down()).is_empty());
                    }
                    spent
                });
            });
            group.bench_function(format!("down {name}"), |b| {
                b.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        let mut cluster = up(&rt, &provider, spec, &shape);
                        let begun = Instant::now();
                        assert!(rt.block_on(cluster.down()).is_empty());
                        spent += begun.elapsed();
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, clusters);
criterion_main!(benches);
