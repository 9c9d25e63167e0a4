//! Suites as a user writes them: what is accepted, what is refused and with which words.

use cnibench_model::{CniSpec, Generator, Placement, ProviderKind, Workload};
use cnibench_scenarios::{Overrides, Suite, catalog, cliffs, expand, ladders, rotations};
use proptest::prelude::*;

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
fn what_is_asked_of_the_cluster_is_a_dimension_and_in_the_id() {
    let suite = parse(
        r#"
        name = "around"
        [[scenario]]
        workloads = "tcp_rr"
        placements = ["cross-node", "host-host"]
        policies = [0, 100]
        hubble = ["off", true]
        "#,
    )
    .unwrap();
    let cases = expand(&suite, ProviderKind::Kind, &cnis(1));
    let ids: Vec<&str> = cases.iter().map(|c| c.id.0.as_str()).collect();
    assert_eq!(
        ids,
        [
            "kind/cni-0/tcp_rr/cross-node/hubble=off,policies=0",
            "kind/cni-0/tcp_rr/cross-node/hubble=on,policies=0",
            "kind/cni-0/tcp_rr/cross-node/hubble=off,policies=100",
            "kind/cni-0/tcp_rr/cross-node/hubble=on,policies=100",
            // A server outside any pod is selected by no policy.
            "kind/cni-0/tcp_rr/host-host/hubble=off",
            "kind/cni-0/tcp_rr/host-host/hubble=on",
        ]
    );
    assert_eq!(cases[2].surroundings.policies, Some(100));
    let one = parse(
        "name = \"one\"\n[[scenario]]\nworkloads = \"tcp_rr\"\nplacements = \"pod-service\"\nservices = 10\n",
    );
    assert_eq!(self::ids(&one.unwrap(), 1), ["netns/cni-0/tcp_rr/pod-service/services=10"]);
}

/// Seconds of trials, warm-up included, that a suite takes for each cni.
fn seconds(suite: &Suite) -> f64 {
    let cases = expand(suite, ProviderKind::Kind, &cnis(1));
    cases.iter().map(|c| f64::from(c.trials) * (c.duration_s + c.warmup_s)).sum()
}

#[test]
fn suites_of_a_real_cluster_say_what_they_need_and_how_long_they_take() {
    for (name, words, low, high) in [
        ("policies", "about a minute of trials for each cni", 50.0, 70.0),
        ("services", "under a minute of trials for each cni", 30.0, 59.0),
        ("hubble", "about a minute of trials for each cni", 50.0, 70.0),
        ("article", "about 2 minutes of trials for each cni", 105.0, 150.0),
    ] {
        let suite = catalog::by_name(name).unwrap();
        assert!(suite.description.contains(words), "{name}: {}", suite.description);
        // Policies are there in namespaces as well. Hubble is switched by installing Cilium anew, which is
        // done in clusters of the run's own only.
        let needs = match name {
            "policies" => "",
            "hubble" => "needs Cilium and --provider kind, which alone can switch Hubble",
            _ => "needs --provider kind or kubeconfig",
        };
        assert!(suite.description.contains(needs), "{name}");
        let everywhere = name == "policies";
        assert_eq!(everywhere, !suite.description.contains("needs "), "{name}");
        let seconds = seconds(&suite);
        assert!((low..=high).contains(&seconds), "{name}: {seconds} s");
    }
    let article = catalog::by_name("article").unwrap();
    assert!(ids(&article, 1).contains(&"netns/cni-0/tcp_rr/pod-service".to_owned()));
    assert_eq!(ids(&article, 1).len(), 4 + 2 + 6);
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
        (base("policies = [0, 10001]\n"), 5, "policies: 10001: expected 0 to 10000 policies"),
        (base("policies = \"many\"\n"), 5, "expected 0 to 10000 policies"),
        (base("policies = -1\n"), 5, "policies"),
        (base("services = 1.5\n"), 5, "expected 0 to 10000 services"),
        (base("services = []\n"), 5, "services is an empty list"),
        (base("hubble = \"maybe\"\n"), 5, "hubble: \"maybe\": expected on or off"),
        (base("hubble = 1\n"), 5, "a value of the wrong type"),
        (base("policy = 1\n"), 5, "did you mean \"policies\""),
        (
            base("policies = 1\n").replace("cross-node", "host-host"),
            2,
            "policies mean nothing to the placements",
        ),
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
        generator: None,
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

proptest! {
    /// Whatever is asked for comes out as a case of its own, once, in the order of the lists.
    #[test]
    fn surroundings_multiply(
        policies in prop::collection::btree_set(0u32..=10_000, 1..5),
        services in prop::collection::btree_set(0u32..=10_000, 0..4),
        hubble in prop::collection::vec(any::<bool>(), 0..2),
    ) {
        let list = |set: &std::collections::BTreeSet<u32>| {
            set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        };
        let mut text = format!(
            "name = \"p\"\n[[scenario]]\nworkloads = \"tcp_crr\"\nplacements = \"pod-service\"\npolicies = [{}]\n",
            list(&policies)
        );
        if !services.is_empty() {
            text.push_str(&format!("services = [{}]\n", list(&services)));
        }
        if !hubble.is_empty() {
            text.push_str(&format!("hubble = {hubble:?}\n"));
        }
        let cases = expand(&parse(&text).unwrap(), ProviderKind::Kind, &cnis(1));
        prop_assert_eq!(
            cases.len(),
            policies.len() * services.len().max(1) * hubble.len().max(1)
        );
        let unique: std::collections::HashSet<_> = cases.iter().map(|c| &c.id).collect();
        prop_assert_eq!(unique.len(), cases.len());
        let seen: std::collections::BTreeSet<u32> =
            cases.iter().filter_map(|c| c.surroundings.policies).collect();
        prop_assert_eq!(seen, policies);
        prop_assert!(cases.iter().all(|c| c.surroundings.services.is_some() != services.is_empty()));
        prop_assert!(cases.iter().all(|c| c.surroundings.hubble == hubble.first().copied()));
    }
}

#[test]
fn a_ladder_is_of_its_own_scenario_and_finds_its_rates_by_itself() {
    let suite = catalog::by_name("knee").unwrap();
    let cnis = [CniSpec::named("host"), CniSpec::named("ebpf")];
    let all = expand(&suite, ProviderKind::Netns, &cnis);
    let climbed = ladders(&suite, ProviderKind::Netns, &cnis);
    assert_eq!(all, climbed);
    assert_eq!(climbed.len(), 4);
    let quick = catalog::by_name("quick").unwrap();
    assert!(ladders(&quick, ProviderKind::Netns, &cnis).is_empty());
    for (line, wrong) in [
        ("workloads = [\"tcp_rr\"]\nrate = [\"5k\"]", "leave rate out"),
        ("workloads = [\"tcp_rr\", \"tcp_stream\"]", "nothing to tcp_stream"),
    ] {
        let text = format!(
            "name = \"x\"\n[[scenario]]\nplacements = \"cross-node\"\nladder = true\n{line}\n"
        );
        let error = Suite::parse("x.toml", &text).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("x.toml:2"), "{error}");
    }
}

fn refused(scenario: &str) -> String {
    let text = format!("name = \"x\"\n[[scenario]]\nplacements = \"cross-node\"\n{scenario}\n");
    Suite::parse("x.toml", &text).map_or_else(|e| e.to_string(), |_| "accepted".to_owned())
}

#[test]
fn sizes_are_searched_where_a_datagram_has_one_of_its_own() {
    let suite = catalog::by_name("mtu").unwrap();
    let cnis = [CniSpec::named("host")];
    let searched = cliffs(&suite, ProviderKind::Netns, &cnis);
    assert_eq!(searched.len(), 1);
    assert_eq!(searched[0].id.0, "netns/host/udp_stream/cross-node/gso=false");
    let all = expand(&suite, ProviderKind::Netns, &cnis);
    assert!(all.iter().any(|c| c.id.0 == "netns/host/tcp_stream/cross-node/mss=512"));
    assert!(refused("workloads = \"tcp_stream\"\ncliffs = true").contains("nothing to tcp_stream"));
    assert!(refused("workloads = \"udp_stream\"\ncliffs = true").contains("needs gso = false"));
    let sized = "workloads = \"udp_stream\"\ngso = false\nsize = 64\ncliffs = true";
    assert!(refused(sized).contains("leave size out"));
    assert!(refused("workloads = \"udp_stream\"\nmss = 512").contains("mss means nothing"));
    assert!(refused("workloads = \"tcp_stream\"\nmss = 40").contains("88 to 32767"));
}

#[test]
fn keys_change_during_paced_round_trips_with_room_between() {
    let suite = catalog::by_name("rotation").unwrap();
    let turned = rotations(&suite, ProviderKind::Netns, &[CniSpec::named("host")]);
    assert_eq!(turned.len(), 2);
    assert!(turned.iter().all(|(case, times)| *times == 3 && case.params.rate.is_some()));
    let quick = catalog::by_name("quick").unwrap();
    assert!(rotations(&quick, ProviderKind::Netns, &[CniSpec::named("host")]).is_empty());
    let paced = "workloads = \"tcp_rr\"\nrate = \"250\"\nrotations = 3";
    assert!(refused(&format!("{paced}\nduration = \"1s\"")).contains("at least 2 s"));
    assert!(refused("workloads = \"tcp_rr\"\nrotations = 1").contains("needs a rate"));
    let stream = "workloads = \"tcp_stream\"\nrate = \"1Gbit\"\nrotations = 1";
    assert!(refused(stream).contains("nothing to tcp_stream"));
}

#[test]
fn a_generator_is_a_dimension_and_another_series() {
    let text = "name = \"x\"\n[[scenario]]\nworkloads = \"tcp_stream\"\nplacements = \"cross-node\"\ngenerator = [\"cnibench\", \"iperf3\"]\n";
    let suite = Suite::parse("x.toml", text).unwrap();
    let ids = |suite: &Suite| -> Vec<String> {
        let cases = expand(suite, ProviderKind::Netns, &[CniSpec::named("host")]);
        cases.into_iter().map(|c| c.id.0).collect()
    };
    let own = "netns/host/tcp_stream/cross-node";
    assert_eq!(ids(&suite), [own.to_owned(), format!("{own}/generator=iperf3")]);
    let only = Overrides { generator: Some(Generator::Neper), ..Overrides::default() };
    assert_eq!(ids(&only.apply(&suite)), [format!("{own}/generator=neper")]);
    let error = Suite::parse("x.toml", &text.replace("iperf3", "iperf2")).unwrap_err().to_string();
    assert!(error.contains("did you mean \"iperf3\"?"), "{error}");
}
