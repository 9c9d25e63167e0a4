//! Renders synthetic records of every awkward kind, to be looked at:
//! `cargo run --release -p cnibench-reports --example gallery -- OUT [NAME...]`.

#[path = "../src/fixtures.rs"]
mod fixtures;

use cnibench_model::{CellStatus, Clock, Placement, Record, Workload};
use cnibench_reports::{Format, render, terminal_summary};
use fixtures::{
    Builder, many_nodes, mixed, policies, probed, set_status, ten_thousand, twelve, usual, verdicts,
};
use std::path::Path;

/// One cni with one probed trial whose stages overlap.
fn one_probed() -> Record {
    let mut record = probed();
    record.header.cases.truncate(1);
    record.cells.truncate(1);
    let case = record.header.cases[0].id.clone();
    record.trials.retain(|t| t.case == case);
    record.probed.retain(|t| t.case == case && t.index == 0);
    record.probed[0].result.round_trip.mean_ns *= 0.9;
    record
}

fn main() {
    let out = std::env::args().nth(1).unwrap_or_else(|| "target/gallery".to_owned());
    let all_series = vec![
        (Workload::TcpStream, Placement::CrossNode),
        (Workload::TcpRr, Placement::CrossNode),
        (Workload::TcpCrr, Placement::CrossNode),
        (Workload::UdpStream, Placement::SameNode),
    ];
    let mut failed = Builder { trials: 2, ..Builder::default() }.build();
    for case in failed.header.cases.clone() {
        let status = CellStatus::Failed {
            short: "no answer".to_owned(),
            reason: "connect: timed out".to_owned(),
        };
        set_status(&mut failed, &case.id.0, status);
    }
    let cases: Vec<(&str, Vec<Record>)> = vec![
        ("usual", vec![Builder { series: all_series.clone(), ..Builder::default() }.build()]),
        ("one-cni", vec![Builder { paths: usual()[..1].to_vec(), ..Builder::default() }.build()]),
        ("one-trial", vec![Builder { trials: 1, ..Builder::default() }.build()]),
        ("three-trials", vec![Builder { trials: 3, ..Builder::default() }.build()]),
        (
            "twelve",
            vec![
                Builder { paths: twelve(), series: all_series, trials: 10, ..Builder::default() }
                    .build(),
            ],
        ),
        (
            "no-host",
            vec![
                Builder { paths: usual()[1..].to_vec(), interleaved: false, ..Builder::default() }
                    .build(),
            ],
        ),
        ("two-machines", vec![Builder { two_machines: true, ..Builder::default() }.build()]),
        (
            "instructions",
            vec![Builder { clock: Clock::Instructions, trials: 3, ..Builder::default() }.build()],
        ),
        ("mixed", vec![mixed()]),
        ("all-failed", vec![failed]),
        (
            "two-records",
            vec![
                Builder::default().build(),
                Builder { seed: 2, paths: usual()[..3].to_vec(), ..Builder::default() }.build(),
            ],
        ),
        ("ten-thousand", vec![ten_thousand()]),
        ("policies", vec![policies()]),
        (
            "flows",
            vec![
                Builder {
                    series: vec![(Workload::TcpStream, Placement::CrossNode)],
                    streams: vec![1, 2, 4, 8, 16],
                    paths: twelve(),
                    trials: 4,
                    ..Builder::default()
                }
                .build(),
            ],
        ),
        ("probed", vec![probed()]),
        ("verdicts", vec![verdicts()]),
        ("probed-one-cni", vec![one_probed()]),
        ("nodes-6", vec![many_nodes(6, usize::MAX)]),
        ("nodes-16", vec![many_nodes(16, 180)]),
        ("nodes-100", vec![many_nodes(100, usize::MAX)]),
        ("nodes-1000", vec![many_nodes(1000, 6000)]),
    ];
    let wanted: Vec<String> = std::env::args().skip(2).collect();
    for (name, records) in
        cases.into_iter().filter(|(n, _)| wanted.is_empty() || wanted.iter().any(|w| w == n))
    {
        let start = std::time::Instant::now();
        let rendered = render(&records, &Path::new(&out).join(name), Format::ALL);
        match rendered {
            Ok(rendered) => println!(
                "{name}: {} files, {} ms",
                rendered.files.len(),
                start.elapsed().as_millis()
            ),
            Err(error) => println!("{name}: {error}"),
        }
        if matches!(name, "mixed" | "one-trial" | "policies" | "nodes-6") {
            println!("{}", terminal_summary(&records[0], Some(120)));
        }
    }
}
