//! Network configuration lists (CNI specification 1.0.0 and 1.1.0, section 1): parsing and checks.
//!
//! Knows the text only: no plugin is looked up or run here. The runtime asks it for the request
//! configuration of one plugin call (section 3, "Deriving request configuration").

use super::version::CniVersion;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Why a conflist cannot be used. The path is the caller's to add.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but not what the specification asks for.
    #[error("{field}: {problem}")]
    Field {
        /// Where, e.g. `plugins[1].type`.
        field: String,
        /// What was expected, and the next step.
        problem: String,
    },
}

/// One plugin configuration object, kept as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// `type`: the file name of the plugin.
    pub plugin: String,
    /// Capabilities it declares as true.
    pub capabilities: BTreeSet<String>,
    object: Map<String, Value>,
}

impl PluginConfig {
    /// Is this key of its configuration true?
    pub fn says(&self, key: &str) -> bool {
        self.object.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// The plugin that it hands its work to by the key `delegate`, if it names one.
    pub fn delegate(&self) -> Option<&str> {
        self.object.get("delegate")?.get("type")?.as_str()
    }

    /// The IPAM plugin it delegates to, if it names one.
    pub fn ipam(&self) -> Option<&str> {
        self.object.get("ipam")?.get("type")?.as_str().filter(|t| !t.is_empty())
    }
}

/// What a runtime adds to a plugin's configuration for one call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request<'a> {
    /// Arguments the runtime offers by capability; only those the plugin declares are passed.
    pub capability_args: Option<&'a Map<String, Value>>,
    /// The previous result, where the operation has one.
    pub prev_result: Option<&'a Value>,
    /// `cni.dev/valid-attachments` of a GC.
    pub valid_attachments: Option<&'a Value>,
}

/// A parsed network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    /// Network name.
    pub name: String,
    /// Every version the list supports that this runtime speaks, ascending, at least one.
    pub versions: Vec<CniVersion>,
    /// CHECK must not be called.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// The chain, in ADD order, at least one.
    pub plugins: Vec<PluginConfig>,
}

impl ConfList {
    /// Parses and checks the text of a `.conflist`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))?;
        let Value::Object(root) = value else {
            return Err(field("conflist", format!("expected an object, found {}", kind(&value))));
        };
        if root.contains_key("type") && !root.contains_key("plugins") {
            return Err(field(
                "plugins",
                "missing, but there is a \"type\": this is the configuration of a single plugin, which CNI 1.0 no longer has; wrap it as {\"cniVersion\": ..., \"name\": ..., \"plugins\": [ ... ]}",
            ));
        }
        let name = string(&root, "name")?
            .ok_or_else(|| field("name", "missing; a network needs a name"))?;
        check_identifier("name", name)?;
        let list = match root.get("plugins") {
            Some(Value::Array(list)) if !list.is_empty() => list,
            Some(Value::Array(_)) => {
                return Err(field("plugins", "empty; name at least one plugin"));
            }
            Some(other) => {
                return Err(field("plugins", format!("expected a list, found {}", kind(other))));
            }
            None => return Err(field("plugins", "missing; expected a list of plugin objects")),
        };
        let plugins =
            list.iter().enumerate().map(|(i, p)| plugin(i, p)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            versions: versions(&root)?,
            disable_check: boolean(&root, "disableCheck")?,
            disable_gc: boolean(&root, "disableGC")?,
            plugins,
        })
    }

    /// The newest version the list supports (what a runtime must select when it asks no plugin).
    pub fn newest(&self) -> CniVersion {
        self.versions.last().copied().unwrap_or(CniVersion::V1_0_0)
    }

    /// The request configuration of plugin `index`: `cniVersion` and `name` inserted, what the
    /// runtime provides added, `capabilities` and keys reserved for the runtime removed,
    /// everything else passed through unchanged.
    pub fn request(&self, index: usize, version: CniVersion, request: &Request<'_>) -> Value {
        let plugin = &self.plugins[index];
        let mut object = plugin.object.clone();
        object.retain(|key, _| {
            !matches!(key.as_str(), "capabilities" | "runtimeConfig" | "prevResult")
                && !key.starts_with("cni.dev/")
        });
        object.insert("cniVersion".into(), version.to_string().into());
        object.insert("name".into(), self.name.clone().into());
        let runtime: Map<String, Value> = request
            .capability_args
            .into_iter()
            .flatten()
            .filter(|(key, _)| plugin.capabilities.contains(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            object.insert("runtimeConfig".into(), Value::Object(runtime));
        }
        if let Some(result) = request.prev_result {
            object.insert("prevResult".into(), result.clone());
        }
        if let Some(attachments) = request.valid_attachments {
            object.insert("cni.dev/valid-attachments".into(), attachments.clone());
        }
        Value::Object(object)
    }
}

fn field(name: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: name.into(), problem: problem.into() }
}

/// The JSON type of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn string<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, ConfigError> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(field(key, format!("expected a string, found {}", kind(other)))),
    }
}

/// A boolean; the text "true" or "false" is taken too, as libcni does for `disableCheck`.
fn boolean(map: &Map<String, Value>, key: &str) -> Result<bool, ConfigError> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(other) => Err(field(key, format!("expected true or false, found {other}"))),
    }
}

/// Network names and container ids: alphanumeric first, then also `_`, `.` and `-`.
pub(super) fn check_identifier(what: &str, text: &str) -> Result<(), ConfigError> {
    let mut chars = text.chars();
    let legal = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if legal {
        return Ok(());
    }
    Err(field(
        what,
        format!(
            "{text:?} is not allowed: a letter or digit first, then letters, digits, '_', '.', '-'"
        ),
    ))
}

fn versions(root: &Map<String, Value>) -> Result<Vec<CniVersion>, ConfigError> {
    let mut texts: Vec<&str> = string(root, "cniVersion")?.into_iter().collect();
    match root.get("cniVersions") {
        None => {}
        Some(Value::Array(list)) => {
            for (i, item) in list.iter().enumerate() {
                texts.push(item.as_str().ok_or_else(|| {
                    field(
                        format!("cniVersions[{i}]"),
                        format!("expected a string, found {}", kind(item)),
                    )
                })?);
            }
        }
        Some(other) => {
            return Err(field("cniVersions", format!("expected a list, found {}", kind(other))));
        }
    }
    if texts.is_empty() {
        return Err(field(
            "cniVersion",
            format!("missing; this runtime speaks {}", CniVersion::list(CniVersion::ALL)),
        ));
    }
    let mut known: Vec<CniVersion> = texts.iter().filter_map(|t| t.parse().ok()).collect();
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        return Err(field(
            "cniVersion",
            format!(
                "this runtime does not speak {}; it speaks {}",
                texts.join(", "),
                CniVersion::list(CniVersion::ALL)
            ),
        ));
    }
    Ok(known)
}

fn plugin(index: usize, value: &Value) -> Result<PluginConfig, ConfigError> {
    let at = |key: &str| format!("plugins[{index}]{}{key}", if key.is_empty() { "" } else { "." });
    let Value::Object(object) = value else {
        return Err(field(at(""), format!("expected an object, found {}", kind(value))));
    };
    let plugin = match object.get("type") {
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(field(at("type"), format!("expected a string, found {}", kind(other))));
        }
        None => return Err(field(at("type"), "missing; it names the plugin's binary")),
    };
    if plugin.is_empty() || plugin.contains(['/', '\0']) || plugin == "." || plugin == ".." {
        return Err(field(
            at("type"),
            format!("{plugin:?} is not a file name; the directory goes into the parameter bin"),
        ));
    }
    let mut capabilities = BTreeSet::new();
    match object.get("capabilities") {
        None => {}
        Some(Value::Object(map)) => {
            for (name, on) in map {
                match on {
                    Value::Bool(true) => {
                        capabilities.insert(name.clone());
                    }
                    Value::Bool(false) => {}
                    other => {
                        return Err(field(
                            at(&format!("capabilities.{name}")),
                            format!("expected true or false, found {}", kind(other)),
                        ));
                    }
                }
            }
        }
        Some(other) => {
            return Err(field(
                at("capabilities"),
                format!("expected an object, found {}", kind(other)),
            ));
        }
    }
    Ok(PluginConfig { plugin: plugin.clone(), capabilities, object: object.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIST: &str = r#"{
        "cniVersion": "1.1.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "9.9.9"],
        "name": "dbnet", "disableCheck": "true",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "keyA": ["x", 1], "ipam": {"type": "host-local"},
             "prevResult": {"stale": true}, "cni.dev/x": 1},
            {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}}
        ]
    }"#;

    fn problem(text: &str) -> String {
        ConfList::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_list_is_parsed_and_versions_this_runtime_does_not_speak_are_left_out() {
        let list = ConfList::parse(LIST).unwrap();
        assert_eq!(list.name, "dbnet");
        assert_eq!(CniVersion::list(&list.versions), "0.3.1, 0.4.0, 1.0.0, 1.1.0");
        assert_eq!(list.newest(), CniVersion::V1_1_0);
        assert!(list.disable_check && !list.disable_gc);
        assert_eq!(list.plugins[0].ipam(), Some("host-local"));
        assert_eq!(list.plugins[1].ipam(), None);
    }

    #[test]
    fn requests_carry_what_the_specification_says_and_nothing_reserved() {
        let list = ConfList::parse(LIST).unwrap();
        let Value::Object(args) = json!({"portMappings": [{"hostPort": 80}], "mac": "x"}) else {
            unreachable!()
        };
        let first = list.request(
            0,
            CniVersion::V1_0_0,
            &Request { capability_args: Some(&args), ..Request::default() },
        );
        assert_eq!(
            first,
            json!({"cniVersion": "1.0.0", "name": "dbnet", "type": "bridge", "bridge": "cni0",
                   "keyA": ["x", 1], "ipam": {"type": "host-local"}})
        );
        let prev = json!({"ips": []});
        let second = list.request(
            1,
            CniVersion::V1_1_0,
            &Request {
                capability_args: Some(&args),
                prev_result: Some(&prev),
                ..Request::default()
            },
        );
        assert_eq!(
            second,
            json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "portmap",
                   "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        assert!(problem("{").starts_with("not JSON: "));
        assert_eq!(problem("[]"), "conflist: expected an object, found a list");
        assert!(
            problem(r#"{"cniVersion":"1.0.0","name":"a","type":"bridge"}"#).contains("wrap it")
        );
        assert!(problem(r#"{"cniVersion":"1.0.0","plugins":[]}"#).starts_with("name: missing"));
        assert!(
            problem(r#"{"cniVersion":"1.0.0","name":"-a","plugins":[]}"#)
                .contains("\"-a\" is not allowed")
        );
        assert!(
            problem(r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#)
                .starts_with("plugins: empty")
        );
        assert_eq!(
            problem(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":3}]}"#),
            "plugins[0].type: expected a string, found a number"
        );
        assert!(
            problem(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../sh"}]}"#)
                .contains("not a file name")
        );
        assert!(
            problem(
                r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x","capabilities":{"y":1}}]}"#
            )
            .starts_with("plugins[0].capabilities.y: expected true or false")
        );
        assert_eq!(
            problem(r#"{"cniVersion":"0.2.0","name":"a","plugins":[{"type":"x"}]}"#),
            "cniVersion: this runtime does not speak 0.2.0; it speaks 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
        assert!(
            problem(r#"{"name":"a","plugins":[{"type":"x"}]}"#).starts_with("cniVersion: missing")
        );
        assert!(
            problem(
                r#"{"cniVersion":"1.0.0","name":"a","disableCheck":3,"plugins":[{"type":"x"}]}"#
            )
            .starts_with("disableCheck:")
        );
    }
}
