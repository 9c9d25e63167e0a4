//! The nearest known name to a mistyped one, for error messages.

/// The candidate closest to `name`, if one is close enough to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (likeness(name, candidate), candidate))
        .filter(|(score, _)| *score >= 0.72)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// From 0 to 1. One slip of the keyboard is a likeness whatever the length: the Jaro-Winkler
/// measure gives "mut" for "mtu" only 0.56.
fn likeness(name: &str, candidate: &str) -> f64 {
    let winkler = strsim::jaro_winkler(name, candidate);
    let one_slip = name.len() > 2 && strsim::osa_distance(name, candidate) == 1;
    if one_slip { winkler.max(0.9) } else { winkler }
}

/// `; did you mean "x"?` or nothing: the tail of an "unknown name" error.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |hit| format!("; did you mean {hit:?}?"))
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
    }
}
