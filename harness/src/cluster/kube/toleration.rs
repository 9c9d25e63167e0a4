//! A taint that pods tolerate, as the command line says it: read once, and used both to choose nodes
//! and in the pods.

use k8s_openapi::api::core::v1::Taint;
use serde_json::{Value, json};
use std::str::FromStr;

/// `key[=value][:effect]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    key: String,
    value: Option<String>,
    effect: Option<String>,
}

impl FromStr for Toleration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = |text: &str, at| match text.split_once(at) {
            Some((head, tail)) => (head.to_owned(), Some(tail.to_owned())),
            None => (text.to_owned(), None),
        };
        let (rest, effect) = split(text, ':');
        let (key, value) = split(&rest, '=');
        if key.is_empty() {
            return Err(format!("{text:?} is not KEY[=VALUE][:EFFECT]"));
        }
        const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if let Some(other) = effect.as_deref().filter(|e| !EFFECTS.contains(e)) {
            return Err(format!("{other:?} is no effect of a taint: {}", EFFECTS.join(", ")));
        }
        Ok(Self { key, value, effect })
    }
}

impl Toleration {
    /// Does it tolerate this taint?
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key == taint.key
            && self.effect.as_ref().is_none_or(|e| *e == taint.effect)
            && self.value.as_ref().is_none_or(|v| Some(v) == taint.value.as_ref())
    }

    /// As a pod's specification has it.
    pub fn json(&self) -> Value {
        let mut toleration = match &self.value {
            Some(value) => json!({"key": self.key, "operator": "Equal", "value": value}),
            None => json!({"key": self.key, "operator": "Exists"}),
        };
        if let Some(effect) = &self.effect {
            toleration["effect"] = json!(effect);
        }
        toleration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_say_is_what_nodes_are_chosen_by() {
        let taint = Taint {
            key: "gpu".to_owned(),
            value: Some("yes".to_owned()),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        for (text, tolerates, json) in [
            ("gpu", true, json!({"key": "gpu", "operator": "Exists"})),
            ("gpu=yes", true, json!({"key": "gpu", "operator": "Equal", "value": "yes"})),
            (
                "gpu=yes:NoSchedule",
                true,
                json!({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}),
            ),
            (
                "gpu:NoExecute",
                false,
                json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}),
            ),
            ("gpu=no", false, json!({"key": "gpu", "operator": "Equal", "value": "no"})),
        ] {
            let toleration: Toleration = text.parse().unwrap();
            assert_eq!(
                (toleration.tolerates(&taint), toleration.json()),
                (tolerates, json),
                "{text}"
            );
        }
        assert!("".parse::<Toleration>().is_err() && "=x".parse::<Toleration>().is_err());
        assert!("gpu:NoShedule".parse::<Toleration>().unwrap_err().contains("NoSchedule"));
    }
}
