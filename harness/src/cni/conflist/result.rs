//! Results of ADD (CNI specification 0.3.0 to 1.1.0, section 5): parsing, checking, converting.
//!
//! A result is kept as the plugin wrote it (it is the next plugin's `prevResult`) beside what
//! this program reads of it.

use super::{config::kind, version::CniVersion};
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Why a plugin's output is not a result: where, what was expected, what was found.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{field}: expected {expected}, found {found}")]
pub struct ResultError {
    /// Where, e.g. `ips[0].address`.
    pub field: String,
    /// What the specification asks for.
    pub expected: String,
    /// What stands there, cut to a readable length.
    pub found: String,
}

/// An interface that the attachment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Hardware address, empty when the plugin does not say.
    pub mac: String,
    /// MTU in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// Path of the namespace it is in; empty on the host side.
    pub sandbox: String,
}

/// An address that the attachment assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Address with prefix length.
    pub address: IpNet,
    /// Gateway of its subnet.
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub interface: Option<usize>,
}

/// A route that the attachment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; none: the gateway of the address.
    pub gw: Option<IpAddr>,
}

/// DNS settings, for the reader only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: Option<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A parsed ADD result.
#[derive(Debug, Clone, PartialEq)]
pub struct AddResult {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<Route>,
    /// DNS.
    pub dns: Dns,
    raw: Value,
}

impl AddResult {
    /// Parses what a plugin called with `version` printed, and brings it to that version.
    ///
    /// A result without `cniVersion` is taken to be of `version`, as libcni does. Lists may be
    /// absent or null.
    ///
    /// # Errors
    /// The first field that is not what the specification asks for.
    pub fn parse(value: Value, version: CniVersion) -> Result<Self, ResultError> {
        let mut root = match value {
            Value::Object(map) => map,
            other => return Err(wrong("result", "an object", &other)),
        };
        let written = match root.get("cniVersion") {
            None => version,
            Some(Value::String(text)) if text.is_empty() => version,
            Some(Value::String(text)) => text.parse().map_err(|_| {
                wrong(
                    "cniVersion",
                    &format!("one of {}", CniVersion::list(CniVersion::ALL)),
                    &Value::String(text.clone()),
                )
            })?,
            Some(other) => return Err(wrong("cniVersion", "a string", other)),
        };
        let interfaces = objects(&root, "interfaces", interface)?;
        let ips = objects(&root, "ips", ip)?;
        for (i, ip) in ips.iter().enumerate() {
            if let Some(index) = ip.interface.filter(|index| *index >= interfaces.len()) {
                return Err(ResultError {
                    field: format!("ips[{i}].interface"),
                    expected: format!("an index below {}", interfaces.len()),
                    found: index.to_string(),
                });
            }
        }
        let routes = objects(&root, "routes", route)?;
        let dns = match root.get("dns") {
            None | Some(Value::Null) => Dns::default(),
            Some(Value::Object(map)) => Dns {
                nameservers: strings(map, "dns.nameservers", "nameservers")?,
                domain: text(map, "dns.domain", "domain")?,
                search: strings(map, "dns.search", "search")?,
                options: strings(map, "dns.options", "options")?,
            },
            Some(other) => return Err(wrong("dns", "an object", other)),
        };
        convert(&mut root, written, version);
        Ok(Self { interfaces, ips, routes, dns, raw: Value::Object(root) })
    }

    /// The whole result, for the next plugin's `prevResult`.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// The addresses inside the namespace at `sandbox`: those whose interface is there, and those
    /// that name no interface.
    pub fn addresses_in<'a>(&'a self, sandbox: &'a str) -> impl Iterator<Item = &'a IpConfig> {
        self.ips.iter().filter(move |ip| match ip.interface {
            None => true,
            Some(index) => self.interfaces.get(index).is_some_and(|i| i.sandbox == sandbox),
        })
    }
}

/// Brings the text of a result from one version to another, as libcni's `types.Convert` does:
/// before 1.0 every address names its family, since then it must not; 1.1 fields go when an older
/// version is asked for.
fn convert(root: &mut Map<String, Value>, from: CniVersion, to: CniVersion) {
    root.insert("cniVersion".into(), to.to_string().into());
    let entries =
        |root: &mut Map<String, Value>, key: &str, change: &dyn Fn(&mut Map<String, Value>)| {
            for item in root.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                item.as_object_mut().into_iter().for_each(change);
            }
        };
    if to < CniVersion::V1_0_0 {
        entries(root, "ips", &|ip| {
            let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|a| a.contains(':'));
            ip.insert("version".into(), if v6 { "6" } else { "4" }.into());
        });
    } else if from < CniVersion::V1_0_0 {
        entries(root, "ips", &|ip| {
            ip.remove("version");
        });
    }
    if to < CniVersion::V1_1_0 && from >= CniVersion::V1_1_0 {
        entries(root, "interfaces", &|interface| {
            interface.retain(|key, _| !matches!(key.as_str(), "mtu" | "socketPath" | "pciID"));
        });
        entries(root, "routes", &|route| {
            route.retain(|key, _| matches!(key.as_str(), "dst" | "gw"));
        });
    }
}

fn wrong(field: impl Into<String>, expected: &str, found: &Value) -> ResultError {
    let mut text = match found {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => found.to_string(),
        other => kind(other).to_owned(),
    };
    if let Some((cut, _)) = text.char_indices().nth(80) {
        text.truncate(cut);
        text.push('…');
    }
    ResultError { field: field.into(), expected: expected.to_owned(), found: text }
}

fn objects<T>(
    root: &Map<String, Value>,
    key: &str,
    parse: impl Fn(&Map<String, Value>, &str) -> Result<T, ResultError>,
) -> Result<Vec<T>, ResultError> {
    let list = match root.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(key, "a list", other)),
    };
    list.iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::Object(map) => parse(map, &format!("{key}[{i}]")),
            other => Err(wrong(format!("{key}[{i}]"), "an object", other)),
        })
        .collect()
}

fn text(map: &Map<String, Value>, at: &str, key: &str) -> Result<Option<String>, ResultError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(at, "a string", other)),
    }
}

fn strings(map: &Map<String, Value>, at: &str, key: &str) -> Result<Vec<String>, ResultError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(i, item)| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| wrong(format!("{at}[{i}]"), "a string", item))
            })
            .collect(),
        Some(other) => Err(wrong(at, "a list of strings", other)),
    }
}

fn number<T: TryFrom<u64>>(
    map: &Map<String, Value>,
    at: &str,
    key: &str,
) -> Result<Option<T>, ResultError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|n| T::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| wrong(format!("{at}.{key}"), "a whole number, not negative", value)),
    }
}

/// Parses an optional text field; the empty text counts as absent.
fn parsed<T: std::str::FromStr>(
    map: &Map<String, Value>,
    at: &str,
    key: &str,
    expected: &str,
) -> Result<Option<T>, ResultError> {
    match text(map, &format!("{at}.{key}"), key)?.filter(|t| !t.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| wrong(format!("{at}.{key}"), expected, &Value::String(text))),
    }
}

fn required<T>(value: Option<T>, at: &str, key: &str, expected: &str) -> Result<T, ResultError> {
    value.ok_or_else(|| ResultError {
        field: format!("{at}.{key}"),
        expected: expected.to_owned(),
        found: "nothing".to_owned(),
    })
}

fn interface(map: &Map<String, Value>, at: &str) -> Result<Interface, ResultError> {
    let name = text(map, &format!("{at}.name"), "name")?.filter(|n| !n.is_empty());
    Ok(Interface {
        name: required(name, at, "name", "an interface name")?,
        mac: text(map, &format!("{at}.mac"), "mac")?.unwrap_or_default(),
        mtu: number(map, at, "mtu")?,
        sandbox: text(map, &format!("{at}.sandbox"), "sandbox")?.unwrap_or_default(),
    })
}

fn ip(map: &Map<String, Value>, at: &str) -> Result<IpConfig, ResultError> {
    const CIDR: &str = "an address with prefix length, e.g. 10.1.0.5/16";
    Ok(IpConfig {
        address: required(parsed(map, at, "address", CIDR)?, at, "address", CIDR)?,
        gateway: parsed(map, at, "gateway", "an address")?,
        interface: number(map, at, "interface")?,
    })
}

fn route(map: &Map<String, Value>, at: &str) -> Result<Route, ResultError> {
    const CIDR: &str = "a destination with prefix length, e.g. 0.0.0.0/0";
    Ok(Route {
        dst: required(parsed(map, at, "dst", CIDR)?, at, "dst", CIDR)?,
        gw: parsed(map, at, "gw", "an address")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Printed by bridge + host-local 1.1.1 for a 1.0.0 list.
    const BRIDGE: &str = r#"{
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "4e:ee:10:48:2a:43"},
            {"name": "veth1b6e9d9a", "mac": "be:61:95:50:35:4e"},
            {"name": "eth0", "mac": "9a:2f:dc:bb:a1:7b", "sandbox": "/run/netns/p"}
        ],
        "ips": [{"interface": 2, "address": "10.244.0.2/24", "gateway": "10.244.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/64", "gw": "fd00::1"}],
        "dns": {"nameservers": ["10.96.0.10"]}
    }"#;

    fn parse(text: &str, version: CniVersion) -> Result<AddResult, ResultError> {
        AddResult::parse(serde_json::from_str(text).unwrap(), version)
    }

    #[test]
    fn a_recorded_result_is_read_and_kept_as_written() {
        let result = parse(BRIDGE, CniVersion::V1_0_0).unwrap();
        assert_eq!(result.interfaces[2].sandbox, "/run/netns/p");
        assert_eq!(result.ips[0].address, "10.244.0.2/24".parse().unwrap());
        assert_eq!(result.routes[1].gw, Some("fd00::1".parse().unwrap()));
        assert_eq!(result.dns.nameservers, ["10.96.0.10"]);
        assert_eq!(result.addresses_in("/run/netns/p").count(), 1);
        assert_eq!(result.addresses_in("/run/netns/other").count(), 0);
        assert_eq!(result.raw(), &serde_json::from_str::<Value>(BRIDGE).unwrap());
    }

    #[test]
    fn empty_null_and_ipam_only_results_are_results() {
        let result = parse("{}", CniVersion::V1_0_0).unwrap();
        assert_eq!((result.interfaces.len(), result.ips.len()), (0, 0));
        let nulls = r#"{"interfaces": null, "ips": null, "routes": null, "dns": null}"#;
        assert!(parse(nulls, CniVersion::V1_0_0).is_ok());
        let ipam = parse(r#"{"ips":[{"address":"10.1.0.5/16","gateway":""}]}"#, CniVersion::V1_1_0);
        assert_eq!(ipam.unwrap().ips[0].gateway, None);
    }

    #[test]
    fn results_move_between_versions() {
        let old = r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.5/16"}]}"#;
        let up = parse(old, CniVersion::V1_0_0).unwrap();
        assert_eq!(up.raw(), &json!({"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}]}));
        let new = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1450,"pciID":"x"}],
            "ips":[{"address":"fd00::5/64","interface":0}],"routes":[{"dst":"::/0","mtu":1400,"table":1}]}"#;
        let down = parse(new, CniVersion::V0_4_0).unwrap();
        assert_eq!(down.interfaces[0].mtu, Some(1450), "what was read is not lost");
        assert_eq!(
            down.raw(),
            &json!({"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],
                "ips":[{"address":"fd00::5/64","interface":0,"version":"6"}],"routes":[{"dst":"::/0"}]})
        );
    }

    #[test]
    fn wrong_types_are_named_with_their_place() {
        let error = |text: &str| parse(text, CniVersion::V1_0_0).unwrap_err().to_string();
        assert_eq!(error("[1]"), "result: expected an object, found a list");
        assert_eq!(error(r#"{"ips": {}}"#), "ips: expected a list, found an object");
        assert_eq!(error(r#"{"ips": ["x"]}"#), "ips[0]: expected an object, found \"x\"");
        assert_eq!(
            error(r#"{"ips": [{"address": "10.0.0.1"}]}"#),
            "ips[0].address: expected an address with prefix length, e.g. 10.1.0.5/16, found \"10.0.0.1\""
        );
        assert!(error(r#"{"ips": [{}]}"#).ends_with("found nothing"));
        assert_eq!(
            error(r#"{"ips": [{"address": "10.0.0.1/8", "interface": 1}]}"#),
            "ips[0].interface: expected an index below 0, found 1"
        );
        assert!(error(r#"{"interfaces": [{"name": 5}]}"#).starts_with("interfaces[0].name:"));
        assert!(
            error(r#"{"interfaces": [{"name": "a", "mtu": -1}]}"#)
                .starts_with("interfaces[0].mtu:")
        );
        assert!(error(r#"{"routes": [{"dst": "default"}]}"#).starts_with("routes[0].dst:"));
        assert!(error(r#"{"dns": {"nameservers": "1.1.1.1"}}"#).starts_with("dns.nameservers:"));
        assert!(
            error(r#"{"cniVersion": "0.2.0", "ip4": {}}"#)
                .starts_with("cniVersion: expected one of")
        );
        assert!(error(&format!(r#"{{"ips": "{}"}}"#, "x".repeat(500))).len() < 200);
    }
}
