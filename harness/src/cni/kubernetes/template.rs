//! Placeholders of a profile: what is known only when the cluster is made.

use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// What placeholders stand for in one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `${POD_CIDR}`.
    pub pod_cidr: String,
    /// `${SERVICE_CIDR}`.
    pub service_cidr: String,
    /// `${CONTROL_PLANE}`: a name or address at which nodes reach the API server, port 6443.
    pub control_plane: String,
    /// What `${HEX:n}` is made of.
    pub seed: KeySeed,
}

/// What a cluster's random keys are made of: drawn once, so that whatever is installed again, with
/// another switch say, has the keys that it had. Rotating a key under a running cni is a change of its
/// own, which nobody asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySeed([u8; 32]);

impl KeySeed {
    /// A new one.
    pub fn random() -> Self {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        Self(secret)
    }

    /// So many bytes as hexadecimal digits for the `number`-th placeholder of a text: always the same
    /// for the same, and nothing is learned from them of others.
    fn key(&self, text: &str, number: u32, bytes: usize) -> String {
        let blocks = (0u32..).flat_map(|block| {
            let mut hash = Sha256::new();
            hash.update(self.0);
            hash.update(number.to_be_bytes());
            hash.update(block.to_be_bytes());
            hash.update(text.as_bytes());
            hash.finalize()
        });
        blocks.take(bytes).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySeed")
    }
}

/// Puts the facts in the place of `${...}`; `${HEX:n}` becomes n random bytes as hexadecimal digits, the
/// same in the same text for as long as the cluster lives.
/// `$${` is a literal `${`.
///
/// # Errors
/// A sentence when a placeholder is unknown or never ends.
pub fn fill(text: &str, facts: &Facts) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut keys = 0;
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
                Some(n @ 1..=1024) => {
                    out.push_str(&facts.seed.key(text, keys, n));
                    keys += 1;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            control_plane: "x-control-plane".to_owned(),
            seed: KeySeed::random(),
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
    fn keys_are_drawn_once_for_a_cluster() {
        let (one, other) = (facts(), facts());
        let text = "${HEX:48} ${HEX:48}";
        let keys = fill(text, &one).unwrap();
        assert_eq!(keys, fill(text, &one).unwrap(), "installed again it is the same");
        assert_ne!(keys, fill(text, &other).unwrap(), "another cluster has others");
        let (a, b) = keys.split_once(' ').unwrap();
        assert_ne!(a, b, "two of one text differ");
        assert_eq!((a.len(), b.len()), (96, 96));
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(fill("x${HEX:48}", &one).unwrap()[1..], *a, "another text has another");
        assert!(!format!("{one:?}").contains(&format!("{:?}", one.seed.0)));
    }

    #[test]
    fn wrong_placeholders_are_named() {
        assert!(fill("${POD}", &facts()).unwrap_err().contains("unknown placeholder ${POD}"));
        assert!(fill("${HEX:0}", &facts()).is_err());
        assert!(fill("${POD_CIDR", &facts()).unwrap_err().contains("closing brace"));
    }
}
