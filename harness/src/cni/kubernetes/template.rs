//! Placeholders of a profile: what is known only when the cluster is made.

use rand::RngCore as _;
use std::fmt::Write as _;

/// What placeholders stand for in one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `${POD_CIDR}`.
    pub pod_cidr: String,
    /// `${SERVICE_CIDR}`.
    pub service_cidr: String,
    /// `${CONTROL_PLANE}`: a name or address at which nodes reach the API server, port 6443.
    pub control_plane: String,
}

/// Puts the facts in the place of `${...}`; `${HEX:n}` becomes n random bytes as hexadecimal digits.
/// `$${` is a literal `${`.
///
/// # Errors
/// A sentence when a placeholder is unknown or never ends.
pub fn fill(text: &str, facts: &Facts) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(format!("\"${{{after}\" lacks its closing brace"));
        };
        match name {
            "POD_CIDR" => out.push_str(&facts.pod_cidr),
            "SERVICE_CIDR" => out.push_str(&facts.service_cidr),
            "CONTROL_PLANE" => out.push_str(&facts.control_plane),
            _ => match name.strip_prefix("HEX:").and_then(|n| n.parse().ok()) {
                Some(n @ 1..=1024) => push_random(&mut out, n),
                _ => {
                    return Err(format!(
                        "unknown placeholder ${{{name}}}; expected POD_CIDR, SERVICE_CIDR, CONTROL_PLANE or HEX:n with n from 1 to 1024"
                    ));
                }
            },
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn push_random(out: &mut String, bytes: usize) {
    let mut random = vec![0; bytes];
    rand::rng().fill_bytes(&mut random);
    for byte in random {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            control_plane: "x-control-plane".to_owned(),
        }
    }

    #[test]
    fn placeholders_are_filled() {
        let text = "a: ${POD_CIDR}, ${SERVICE_CIDR} @ ${CONTROL_PLANE}; $${KEEP} $ {}";
        assert_eq!(
            fill(text, &facts()).unwrap(),
            "a: 10.244.0.0/16, 10.96.0.0/16 @ x-control-plane; ${KEEP} $ {}"
        );
    }

    #[test]
    fn keys_are_new_every_time() {
        let (a, b) = (fill("${HEX:48}", &facts()).unwrap(), fill("${HEX:48}", &facts()).unwrap());
        assert_eq!(a.len(), 96);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn wrong_placeholders_are_named() {
        assert!(fill("${POD}", &facts()).unwrap_err().contains("unknown placeholder ${POD}"));
        assert!(fill("${HEX:0}", &facts()).is_err());
        assert!(fill("${POD_CIDR", &facts()).unwrap_err().contains("closing brace"));
    }
}
