//! Values of a chart by dotted path, as in `helm --set`, but typed.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Values by dotted path (`hubble.tls.enabled`; a dot of the key itself is written `\.`).
pub type SetValues = BTreeMap<String, Value>;

/// The values as the nested mapping that helm reads from a file.
///
/// # Errors
/// When one path leads through another one's value.
pub fn nested(values: &SetValues) -> Result<Value, String> {
    let mut root = Map::new();
    for (path, value) in values {
        let mut keys = keys(path);
        let Some(last) = keys.pop().filter(|k| !k.is_empty()) else {
            return Err(format!("{path:?} is no path of a value"));
        };
        let mut here = &mut root;
        for key in keys {
            let inner = here.entry(key).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = inner else {
                return Err(format!("{path:?} leads through another value that is set"));
            };
            here = inner;
        }
        if here.insert(last, value.clone()).is_some() {
            return Err(format!("{path:?} stands in the way of another value that is set"));
        }
    }
    Ok(Value::Object(root))
}

fn keys(path: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        match (c, keys.last_mut()) {
            ('.', _) => keys.push(String::new()),
            (c, Some(key)) => key.push(escaped.unwrap_or(c)),
            (_, None) => {}
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_become_mappings_and_keep_their_types() {
        let values = SetValues::from([
            ("a.b".to_owned(), json!(true)),
            ("a.c".to_owned(), json!(1450)),
            (r"annotations.x\.io/y".to_owned(), json!("z")),
        ]);
        assert_eq!(
            nested(&values).unwrap(),
            json!({"a": {"b": true, "c": 1450}, "annotations": {"x.io/y": "z"}})
        );
    }

    #[test]
    fn a_value_cannot_also_be_a_mapping() {
        let values =
            SetValues::from([("a".to_owned(), json!(true)), ("a.b".to_owned(), json!(true))]);
        assert!(nested(&values).unwrap_err().contains("leads through"));
        assert!(nested(&SetValues::from([("a.".to_owned(), json!(1))])).is_err());
    }
}
