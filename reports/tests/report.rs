//! Whole reports: which files there are, what the page says and what it must never contain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests say what they expect"
)]

#[path = "../src/fixtures.rs"]
mod fixtures;

use cnibench_model::{CellStatus, Record, Sample, StoredHistogram};
use cnibench_reports::{Format, ReportError, matrix, render, terminal_summary};
use fixtures::{
    Builder, many_nodes, mixed, policies, probed, set_status, ten_thousand, twelve, usual, verdicts,
};
use std::{collections::BTreeSet, fs, path::Path};

struct Report {
    _dir: tempfile::TempDir,
    out: std::path::PathBuf,
    page: String,
    files: BTreeSet<String>,
}

fn report(records: &[Record]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report");
    let rendered = render(records, &out, Format::ALL).unwrap();
    let files: BTreeSet<String> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.len(), rendered.files.len(), "nothing but the report is left: {files:?}");
    let page = fs::read_to_string(rendered.page.unwrap()).unwrap();
    well_formed(&page);
    Report { _dir: dir, out, page, files }
}

/// Every opened element is closed in order, and none is one that a text could have smuggled in.
fn well_formed(page: &str) {
    const VOID: [&str; 4] = ["meta", "br", "!doctype", "link"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').expect("a tag that ends");
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        let name =
            tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap().to_lowercase();
        assert_ne!(name, "script", "no script");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '!'), "odd tag <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{tag}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
            open.push(name.clone());
        }
        rest = after;
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style").expect("style ends")..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(page.contains("<html lang=\"en\">"));
    // Nothing is fetched: no address but those of files beside the page and of XML's own names.
    for outside in ["http://", "https://", "//cdn", "@import", " src=\""] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
        assert!(!found, "the page refers to {outside}");
    }
}

fn hrefs(page: &str) -> Vec<&str> {
    let all = page.split("href=\"").skip(1).filter_map(|p| p.split('"').next());
    // A picture inside the page is no address.
    all.filter(|h| !h.starts_with("data:image/png;base64,")).collect()
}

#[test]
fn every_cni_series_and_file_is_there() {
    let record = Builder::default().build();
    let r = report(std::slice::from_ref(&record));
    for path in usual() {
        assert!(r.page.contains(&path.spec.to_string()), "{}", path.spec);
    }
    for case in &record.header.cases {
        let text = format!("{} {}", case.workload, case.placement);
        assert!(r.page.contains(&text), "{text}");
    }
    for file in ["index.html", "summary.md", "samples.csv", "matrix.png", "matrix.svg"] {
        assert!(r.files.contains(file), "{file}");
    }
    assert!(r.files.contains("percentiles-tcp_rr-cross-node.png"), "{:?}", r.files);
    assert!(r.page.contains("scope=\"col\"") && r.page.contains("scope=\"row\""));
    for href in hrefs(&r.page) {
        match href.strip_prefix('#') {
            Some(anchor) => assert!(r.page.contains(&format!("id=\"{anchor}\"")), "#{anchor}"),
            None => assert!(r.files.contains(href), "{href} is not beside the page"),
        }
    }
}

#[test]
fn two_arms_in_pairs_have_their_verdicts_on_the_page_and_as_files() {
    let r = report(&[verdicts()]);
    for file in ["verdicts.png", "verdicts.svg", "junit.xml"] {
        assert!(r.files.contains(file), "{file}");
    }
    assert!(r.page.contains("id=\"verdicts\"") && r.page.contains("href=\"#verdicts\""));
    for word in
        ["regression: tcp_stream cross-node", "inconclusive", "the candidate failed: trial 3"]
    {
        assert!(r.page.contains(word), "{word}");
    }
    let summary = fs::read_to_string(r.out.join("summary.md")).unwrap();
    assert!(summary.contains("### Verdicts") && summary.contains("**regression: "), "{summary}");
    let plain = report(&[Builder::default().build()]);
    assert!(!plain.page.contains("id=\"verdicts\""));
    assert!(!plain.files.contains("junit.xml"));
}

#[test]
fn ids_are_unique_and_figures_have_a_text_for_those_who_do_not_see_them() {
    let r = report(&[Builder { paths: twelve(), ..Builder::default() }.build()]);
    let ids: Vec<&str> =
        r.page.split(" id=\"").skip(1).filter_map(|p| p.split('"').next()).collect();
    let unique: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(ids.len(), unique.len());
    let figures = r.page.matches("<figure").count();
    assert!(figures >= 10);
    assert_eq!(r.page.matches("role=\"img\" aria-labelledby").count(), figures);
    assert_eq!(r.page.matches("<desc").count(), figures);
}

#[test]
fn figures_are_1600_wide_or_as_wide_as_their_columns_and_stand_alone() {
    let r = report(&[mixed()]);
    let pngs: Vec<&String> = r.files.iter().filter(|f| f.ends_with(".png")).collect();
    assert!(pngs.len() > 8);
    for png in pngs {
        let bytes = fs::read(r.out.join(png)).unwrap();
        assert_eq!(bytes[..8], [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A], "{png}");
        assert_eq!(u32::from_be_bytes(bytes[16..20].try_into().unwrap()), 1600, "{png}");
        let reader = png::Decoder::new(bytes.as_slice()).read_info().unwrap();
        let height = reader.info().height;
        assert!((200..4000).contains(&height), "{png}: {height}");
        let svg = fs::read_to_string(r.out.join(png.replace(".png", ".svg"))).unwrap();
        assert!(svg.contains("@font-face") && !svg.contains("var(--"), "{png}");
        // Each says where it comes from.
        assert!(svg.contains("kernel 6.18.4"), "{png}");
        assert!(svg.contains("<desc"), "{png}");
    }
}

#[test]
fn text_of_users_stays_text() {
    let r = report(&[mixed()]);
    assert!(!r.page.contains("<script") && !r.page.contains("<i>") && !r.page.contains("<x>"));
    assert!(r.page.contains("&lt;script&gt;") || r.page.contains("&#60;script&#62;"));
    for svg in r.files.iter().filter(|f| f.ends_with(".svg")) {
        let text = fs::read_to_string(r.out.join(svg)).unwrap();
        assert!(!text.contains("<script"), "{svg}");
    }
    let summary = fs::read_to_string(r.out.join("summary.md")).unwrap();
    assert!(!summary.contains("<script"));
}

#[test]
fn what_went_wrong_is_told_and_linked() {
    let r = report(&[mixed()]);
    for text in [
        "peer never answered",
        "no answer within 5 s",
        "payload in clear",
        "canary was seen 12 times",
        "UDP_SEGMENT",
        "3 of 6 trials",
        "CONFIG_WIREGUARD",
        "finished trials, in samples.csv and in no figure",
    ] {
        assert!(r.page.contains(text), "{text}");
    }
    assert!(hrefs(&r.page).iter().any(|h| h.starts_with("#end-")));
}

#[test]
fn a_run_on_real_clusters_has_curves_footprints_and_proofs_in_their_own_states() {
    let r = report(&[policies()]);
    for metric in ["transaction_rate", "latency_p50", "latency_p99"] {
        for workload in ["tcp_rr", "tcp_crr"] {
            let file = format!("curve-{workload}-cross-node-policies-{metric}.png");
            assert!(r.files.contains(&file), "{file}");
        }
    }
    for text in [
        "id=\"curves\"",
        "cliff at 100",
        "id=\"footprint\"",
        "0.012 (0.015)",
        "✗ failed</b> mtu, cilium-wireguard",
        "– not enforced</b> (a finding, not a failure) policy, flannel-vxlan",
        "… not taken</b> (nothing rests on it) policy, cilium-wireguard",
        "✓ passed</b> flows, cilium",
        "is not cancelled",
        "All nodes are containers of kind on one machine",
        "6 more series",
    ] {
        assert!(r.page.contains(text), "{text}");
    }
    assert_eq!(r.page.matches("✗ failed").count(), 1);
    assert_eq!(r.page.matches("class=\"alarm\"").count(), 1);
    let plain = report(&[Builder::default().build()]);
    for absent in ["id=\"curves\"", "id=\"footprint\"", "is not cancelled", "of kind"] {
        assert!(!plain.page.contains(absent), "{absent}");
    }
}

#[test]
fn a_run_with_probes_shows_its_stages_and_nothing_of_them_elsewhere() {
    let record = probed();
    let r = report(std::slice::from_ref(&record));
    for file in ["stages-tcp_rr-cross-node.png", "stage-tcp_rr-cross-node-encapsulation.svg"] {
        assert!(r.files.contains(file), "{file} {:?}", r.files);
    }
    for text in [
        "id=\"stages\"",
        "Where the time goes",
        "slower per round trip than host: ",
        "encapsulation +",
        "96.7 %",
        "skb-reused 12, too-old 48",
        "NO_SOCKET in server pod 4",
        "Not attached: fentry/vxlan_xmit",
        "quantiles do not",
    ] {
        assert!(r.page.contains(text), "{text}");
    }
    let mut without = record;
    without.probed.clear();
    let plain = report(&[without]);
    assert!(!plain.page.contains("id=\"stages\""));
    let csv = |r: &Report| fs::read_to_string(r.out.join("samples.csv")).unwrap();
    assert_eq!(csv(&r), csv(&plain));
}

#[test]
fn pairs_of_nodes_have_maps_and_are_no_repetitions() {
    let record = many_nodes(6, usize::MAX);
    let r = report(std::slice::from_ref(&record));
    for file in [
        "pairs-tcp_rr-cross-node-transaction_rate-1-host.png",
        "pairs-tcp_rr-cross-node-latency_p50-2-cilium.svg",
    ] {
        assert!(r.files.contains(file), "{file} {:?}", r.files);
    }
    for text in [
        "tcp_rr, over 30 node pairs",
        "dot: median of one node pair in one direction",
        "Node worker2 is slower than the median in 10 of its 10 pairs",
        "length: median of the node pairs",
        "an existing Kubernetes cluster, reached from bench-01",
    ] {
        assert!(r.page.contains(text), "{text}");
    }
    assert!(!r.page.contains("dot: one trial"));
    // Many trials of the same pairs say no more of the cluster than one each.
    let width = |record: &Record| {
        let matrix = matrix::matrix(std::slice::from_ref(record));
        let value = matrix.rows[0].lines[0].cells[1].value().unwrap().clone();
        assert_eq!((value.centre.n, value.over), (30, matrix::Over::NodePairs));
        let interval = value.centre.interval.unwrap();
        interval.high / interval.low
    };
    let mut more = record.clone();
    for _ in 0..20 {
        more.trials.extend(record.trials.iter().cloned());
    }
    assert_eq!(width(&record), width(&more));
}

#[test]
fn a_thousand_nodes_fit_a_page() {
    let r = report(&[many_nodes(1000, 6000)]);
    assert!(r.page.len() < 10_000_000, "{}", r.page.len());
    assert_eq!(r.page.matches("<image ").count(), 4);
    assert!(r.page.contains("6,000 of 999,000 pairs of 1,000 nodes"));
}

#[test]
fn awkward_records_render() {
    let one = |change: fn(&mut Record)| {
        let mut record = Builder { trials: 2, ..Builder::default() }.build();
        change(&mut record);
        record
    };
    let all_failed = one(|r| {
        for case in r.header.cases.clone() {
            let status = CellStatus::Failed { short: "x".into(), reason: "y".into() };
            set_status(r, &case.id.0, status);
        }
    });
    let cases: Vec<(&str, Record)> = vec![
        ("no trials", one(|r| r.trials.clear())),
        (
            "no cases",
            one(|r| {
                r.trials.clear();
                r.cells.clear();
                r.header.cases.clear();
                r.cnis.clear();
            }),
        ),
        ("no cells", one(|r| r.cells.clear())),
        ("all failed", all_failed),
        ("one cni", Builder { paths: usual()[..1].to_vec(), ..Builder::default() }.build()),
        ("no host", Builder { paths: usual()[1..].to_vec(), ..Builder::default() }.build()),
        ("one trial", Builder { trials: 1, ..Builder::default() }.build()),
        (
            "zeros",
            one(|r| {
                for trial in &mut r.trials {
                    trial.samples.iter_mut().for_each(|s| s.value = 0.0);
                    trial.client.node.window_s = 0.0;
                }
            }),
        ),
        (
            "not a number",
            one(|r| {
                for trial in &mut r.trials {
                    trial.samples.iter_mut().for_each(|s| s.value = f64::NAN);
                }
            }),
        ),
        (
            "huge and tiny",
            one(|r| {
                for (i, trial) in r.trials.iter_mut().enumerate() {
                    let value = if i % 2 == 0 { 1e300 } else { 1e-300 };
                    trial.samples.iter_mut().for_each(|s| s.value = value);
                }
            }),
        ),
        ("one pair of nodes", many_nodes(2, 1)),
        ("one value of a curve", {
            let mut record = policies();
            record.trials.retain(|t| t.case.0.contains("policies=10"));
            record
        }),
        ("policies without a value", {
            let mut record = policies();
            record.trials.iter_mut().flat_map(|t| &mut t.samples).for_each(|s| s.value = 0.0);
            record
        }),
        ("nodes without a value", {
            let mut record = many_nodes(5, usize::MAX);
            record.trials.iter_mut().flat_map(|t| &mut t.samples).for_each(|s| s.value = f64::NAN);
            record
        }),
        ("nodes without anything", {
            let mut record = many_nodes(5, usize::MAX);
            record.trials.iter_mut().flat_map(|t| &mut t.samples).for_each(|s| s.value = 0.0);
            record
        }),
        ("no samples", one(|r| r.trials.iter_mut().for_each(|t| t.samples = Vec::<Sample>::new()))),
        (
            "broken histograms",
            one(|r| {
                r.trials
                    .iter_mut()
                    .for_each(|t| t.histogram = Some(StoredHistogram("rubbish".into())));
            }),
        ),
    ];
    for (name, record) in cases {
        let r = report(std::slice::from_ref(&record));
        assert!(r.page.contains("What the numbers mean"), "{name}");
        for width in [None, Some(20), Some(300)] {
            assert!(!terminal_summary(&record, width).is_empty(), "{name}");
        }
        serde_json::to_string(&matrix::matrix(&[record])).unwrap();
    }
}

#[test]
fn several_records_stand_side_by_side() {
    let second = Builder { seed: 2, paths: usual()[..2].to_vec(), ..Builder::default() }.build();
    let r = report(&[Builder::default().build(), second]);
    assert!(r.page.contains("flannel-vxlan @ r0001") && r.page.contains("flannel-vxlan @ r0002"));
    assert!(r.page.contains("against the baseline of the same record"));
}

#[test]
fn the_same_record_gives_the_same_report() {
    let (a, b) = (report(&[mixed()]), report(&[mixed()]));
    for file in &a.files {
        assert!(
            fs::read(a.out.join(file)).unwrap() == fs::read(b.out.join(file)).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn only_what_was_asked_for_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let records = [Builder::default().build()];
    let rendered = render(&records, dir.path(), &[Format::Md, Format::Html]).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    let page = fs::read_to_string(rendered.page.unwrap()).unwrap();
    assert!(hrefs(&page).iter().all(|h| h.starts_with('#') || *h == "summary.md"), "no dead links");
}

#[test]
fn errors_name_the_file() {
    assert!(matches!(render(&[], Path::new("x"), Format::ALL), Err(ReportError::NoRecord)));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("occupied");
    fs::write(&file, "x").unwrap();
    let error = render(&[Builder::default().build()], &file, &[Format::Csv]).unwrap_err();
    assert!(error.to_string().contains("occupied"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    // A directory where a file belongs: the rename fails, and no temporary file stays.
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("samples.csv/inside")).unwrap();
    let error = render(&[Builder::default().build()], &out, &[Format::Csv]).unwrap_err();
    assert!(error.to_string().contains("samples.csv"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn ten_thousand_trials_fit_a_page() {
    let record = ten_thousand();
    assert!(record.trials.len() >= 9_900, "{}", record.trials.len());
    let dir = tempfile::tempdir().unwrap();
    let formats = [Format::Html, Format::Csv];
    let rendered = render(std::slice::from_ref(&record), dir.path(), &formats).unwrap();
    let size = fs::metadata(rendered.page.unwrap()).unwrap().len();
    assert!(size < 10_000_000, "{size}");
    let samples: usize = record.trials.iter().map(|t| t.samples.len()).sum();
    let csv = fs::read_to_string(dir.path().join("samples.csv")).unwrap();
    assert_eq!(csv.lines().count(), samples + 1);
}

#[test]
fn crowded_strips_are_thinned_and_say_so() {
    let many = Builder {
        paths: usual()[..2].to_vec(),
        trials: 500,
        transactions: 400,
        ..Builder::default()
    };
    let r = report(&[many.build()]);
    assert!(r.page.contains("400 are drawn, evenly by rank; all are in samples.csv"));
}
