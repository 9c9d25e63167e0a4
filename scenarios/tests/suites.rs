//! Suites as a user writes them: what is accepted, what is refused and with which words.

use cnibench_model::{CniSpec, Placement, ProviderKind, Workload};
use cnibench_scenarios::{Overrides, Suite, catalog, expand};

fn parse(text: &str) -> Result<Suite, String> {
    Suite::parse("my.toml", text).map_err(|e| e.to_string())
}

fn cnis(n: usize) -> Vec<CniSpec> {
    (0..n).map(|i| CniSpec::named(&format!("cni-{i}"))).collect()
}

fn ids(suite: &Suite, n: usize) -> Vec<String> {
    expand(suite, ProviderKind::Netns, &cnis(n)).into_iter().map(|c| c.id.0).collect()
}

#[test]
fn every_catalogue_suite_parses_under_its_own_name_and_says_what_it_is_for() {
    let suites = catalog::all().unwrap();
    assert_eq!(suites.len(), catalog::SUITES.len());
    for (suite, (name, _)) in suites.iter().zip(catalog::SUITES) {
        assert_eq!(&suite.name, name);
        assert!(!suite.description.is_empty());
        assert!(!ids(suite, 1).is_empty());
    }
}

#[test]
fn lists_are_dimensions_and_the_cnis_of_a_series_stand_together() {
    let suite = parse(
        r#"
        name = "mine"
        [[scenario]]
        workloads = ["tcp_stream", "tcp_rr"]
        placements = "cross-node"
        streams = [1, 4]
        size = ["64KiB", 1024]
        direction = ["forward", "reverse"]
        "#,
    )
    .unwrap();
    let ids = ids(&suite, 2);
    // 2 streams x 2 sizes x 2 directions for the stream, direction means nothing to rr.
    assert_eq!(ids.len(), (8 + 4) * 2);
    assert_eq!(ids[0], "netns/cni-0/tcp_stream/cross-node/size=65536");
    assert_eq!(ids[1], "netns/cni-1/tcp_stream/cross-node/size=65536");
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
}

#[test]
fn the_same_case_twice_is_one_case() {
    let suite = parse(
        r#"
        name = "twice"
        [[scenario]]
        workloads = "tcp_rr"
        placements = ["cross-node", "cross-node"]
        [[scenario]]
        workloads = "tcp_rr"
        placements = "cross-node"
        "#,
    )
    .unwrap();
    assert_eq!(ids(&suite, 1), ["netns/cni-0/tcp_rr/cross-node"]);
}

#[test]
fn errors_name_the_line_and_what_was_expected() {
    let base = |rest: &str| {
        format!(
            "name = \"mine\"\n[[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"cross-node\"\n{rest}"
        )
    };
    for (text, line, words) in [
        ("nam = \"x\"\n".to_owned(), 1, "did you mean \"name\""),
        ("name = \"x y\"\n".to_owned(), 1, "letters, digits"),
        ("name = \"x\"\n".to_owned(), 1, "at least one [[scenario]]"),
        (base("stream = 2\n"), 5, "did you mean \"streams\""),
        (base("streams = 0\n"), 5, "1 to 1024 flows"),
        (base("streams = []\n"), 5, "empty list"),
        (base("trials = 0\n"), 5, "1 to 10000"),
        (base("duration = 0\n"), 5, "10ms to 1h"),
        (base("duration = \"72h\"\n"), 5, "10ms to 1h"),
        (base("duration = \"3 days\"\n"), 5, "not a duration"),
        (base("size = \"70MiB\"\n"), 5, "64MiB"),
        (base("rate = \"fast\"\n"), 5, "does not begin with a number"),
        (base("pinning = \"both\"\n"), 5, "same, split or none"),
        (base("gso = true\n"), 2, "gso means nothing"),
        (base("direction = \"reverse\"\n"), 2, "direction means nothing"),
        (base("[topology]\nnodes = 0\n"), 5, "nodes = 0: expected 1 to 1000"),
        (
            "name = \"x\"\n[[scenario]]\nworkloads = \"tcp_steam\"\nplacements = \"cross-node\"\n"
                .to_owned(),
            3,
            "did you mean \"tcp_stream\"",
        ),
        (
            "name = \"x\"\n[[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"cross\"\n"
                .to_owned(),
            4,
            "did you mean \"cross-node\"",
        ),
        ("name = \"x\"\n[[scenario]\n".to_owned(), 2, "unclosed"),
        (base("workloads = \"udp_rr\"\n"), 5, "duplicate"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.starts_with(&format!("my.toml:{line}:")), "{text}\n{error}");
        assert!(error.contains(words), "{text}\n{error}");
    }
}

#[test]
fn the_command_line_narrows_adds_and_retimes() {
    let quick = catalog::by_name("quick").unwrap();
    let changed = Overrides {
        workloads: vec![Workload::UdpRr],
        placements: vec![Placement::SameNode],
        trials: Some(2),
        duration_s: Some(1.5),
        warmup_s: None,
    }
    .apply(&quick);
    let cases = expand(&changed, ProviderKind::Netns, &cnis(1));
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].id.0, "netns/cni-0/udp_rr/same-node");
    assert_eq!((cases[0].trials, cases[0].duration_s), (2, 1.5));

    let streams = catalog::by_name("streams").unwrap();
    let added =
        Overrides { workloads: vec![Workload::TcpCrr], ..Overrides::default() }.apply(&streams);
    assert_eq!(
        ids(&added, 1),
        ["netns/cni-0/tcp_crr/cross-node"],
        "with its own defaults, not the sweep's"
    );
}

#[test]
fn an_unknown_suite_offers_the_nearest() {
    assert!(catalog::by_name("quik").unwrap_err().contains("did you mean \"quick\""));
}
