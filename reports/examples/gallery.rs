//! Renders synthetic records of every awkward kind, to be looked at:
//! `cargo run --release -p cnibench-reports --example gallery -- OUT`.

#[path = "../src/fixtures.rs"]
mod fixtures;

use cnibench_model::{CellStatus, Clock, Placement, Record, Workload};
use cnibench_reports::{Format, render, terminal_summary};
use fixtures::{Builder, mixed, set_status, ten_thousand, twelve, usual};
use std::path::Path;

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
    ];
    for (name, records) in cases {
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
        if name == "mixed" || name == "one-trial" {
            println!("{}", terminal_summary(&records[0], Some(120)));
        }
    }
}
