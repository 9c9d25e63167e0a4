//! The nearest known name to a mistyped one, for error messages.

/// The candidate closest to `name`, if one is close enough to be what was meant: a common beginning
/// with small differences (Jaro-Winkler), or one slip of the finger (Damerau-Levenshtein).
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slip =
        |candidate: &str| name.len() > 2 && strsim::damerau_levenshtein(name, candidate) == 1;
    candidates
        .into_iter()
        .map(|candidate| {
            let alike = strsim::jaro_winkler(name, candidate);
            (if slip(candidate) { alike.max(0.9) } else { alike }, candidate)
        })
        .filter(|(score, _)| *score >= 0.72)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The tail of an "unknown name" error: `; did you mean "x"?`, or what there is to choose from.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(name, candidates.iter().copied()) {
        Some(hit) => format!("; did you mean {hit:?}?"),
        None if candidates.is_empty() => String::new(),
        None => format!("; expected {}", candidates.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_typo_and_nothing_for_noise() {
        let names = ["tcp_stream", "tcp_rr", "udp_rr"];
        assert_eq!(nearest("tcp_steam", names), Some("tcp_stream"));
        assert_eq!(nearest("tcprr", names), Some("tcp_rr"));
        assert_eq!(nearest("mut", ["mtu", "vni", "port"]), Some("mtu"));
        assert_eq!(nearest("zzzzzz", names), None);
        assert_eq!(did_you_mean("udp-rr", names), "; did you mean \"udp_rr\"?");
        assert_eq!(did_you_mean("zzz", names), "; expected tcp_stream, tcp_rr, udp_rr");
    }
}
