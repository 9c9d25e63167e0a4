//! Placeholders in a conflist: what makes one file fit every node.

use cnibench_model::nearest::did_you_mean;
use std::collections::BTreeMap;

/// Every placeholder with its meaning, in the order of the documentation.
pub const PLACEHOLDERS: &[(&str, &str)] = &[
    ("NODE_INDEX", "index of the node, from 0"),
    ("NODE_NAME", "name of the node"),
    ("NODE_IP", "address of the node on the underlay"),
    ("POD_CIDR", "the node's own range of pod addresses, e.g. 10.244.1.0/24"),
    ("POD_CIDR6", "the same for IPv6"),
    ("CLUSTER_CIDR", "the range of all pods, e.g. 10.244.0.0/16"),
    ("CLUSTER_CIDR6", "the same for IPv6"),
    ("MTU", "MTU of the underlay in bytes, or what mtu= says"),
];

/// Replaces every `${NAME}` of `text`; `$${` stands for a literal `${`.
///
/// # Errors
/// A sentence with the line: an unknown name (with the nearest one), one that this cluster has no
/// value for, or one without end.
pub fn substitute(text: &str, values: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let line = text[..text.len() - rest.len() + at].matches('\n').count() + 1;
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            return Err(format!("line {line}: \"${{\" without \"}}\""));
        };
        let name = &rest[at + 2..at + end];
        match values.get(name) {
            Some(value) => out.push_str(value),
            None if PLACEHOLDERS.iter().any(|(known, _)| *known == name) => {
                return Err(format!(
                    "line {line}: ${{{name}}} has no value in a cluster of this address family"
                ));
            }
            None => {
                let names = PLACEHOLDERS.iter().map(|(name, _)| *name);
                return Err(format!(
                    "line {line}: unknown placeholder ${{{name}}}{}; write $${{ for a literal ${{",
                    did_you_mean(name, names)
                ));
            }
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_and_others_explained() {
        let values = BTreeMap::from([("NODE_INDEX", "3".to_owned()), ("MTU", "1450".to_owned())]);
        let sub = |text| substitute(text, &values);
        assert_eq!(sub("{\"a\": ${NODE_INDEX}${MTU}}").unwrap(), "{\"a\": 31450}");
        assert_eq!(sub("$${MTU} $5 $$ ${MTU}").unwrap(), "${MTU} $5 $$ 1450");
        assert_eq!(sub("plain").unwrap(), "plain");
        assert_eq!(
            sub("a\nb\n ${POD_CDIR}").unwrap_err(),
            "line 3: unknown placeholder ${POD_CDIR}; did you mean \"POD_CIDR\"?; write $${ for a literal ${"
        );
        assert!(sub("${POD_CIDR6}").unwrap_err().contains("has no value in a cluster"));
        assert_eq!(sub("x ${MTU").unwrap_err(), "line 1: \"${\" without \"}\"");
    }
}
