//! What agents have logged so far: a text that was seen once stays seen, though the log is rotated.
//!
//! Asks for what is new only. Remembers by pod and container, so that an agent that was restarted has
//! to say it again. Called while a cni settles.

use super::{
    Access,
    access::{answer, explain},
};
use crate::cni::kubernetes::AgentPods;
use anyhow::anyhow;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What is remembered of all agents; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Logged(Arc<Mutex<HashMap<Key, Memory>>>);

/// A container's one life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    container: String,
}

/// What one container has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    /// The text was logged.
    said: bool,
    /// The last line that explains why it is not.
    trouble: Option<String>,
    /// The last line of all.
    last: Option<String>,
    /// When that was logged, by the node's own clock.
    at: Option<Timestamp>,
}

impl Logged {
    /// Why a log does not show that its agent is settled, or None. `text`: what must be in it;
    /// `trouble`: what explains that it is not.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn lacks(
        &self,
        access: &Access,
        agent: &AgentPods,
        pod: &Pod,
        text: &str,
        trouble: &[String],
    ) -> anyhow::Result<Option<String>> {
        let key = Key::of(pod, &agent.container);
        let before = self.memory(&key);
        if before.said {
            return Ok(None);
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(access.client.clone(), &agent.namespace);
        let params = LogParams {
            container: Some(agent.container.clone()),
            // The last line's second once more: the API counts in whole ones, and rounding up would leave
            // lines out.
            since_time: before.at.and_then(|at| Timestamp::from_second(at.as_second()).ok()),
            timestamps: true,
            ..LogParams::default()
        };
        let log = answer(api.logs(name, &params)).await;
        let log = log.map_err(|e| anyhow!("its log: {}", explain(&e)))?;
        let now = before.and(&log, text, trouble);
        let why = now.why(text);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, now);
        Ok(why)
    }

    fn memory(&self, key: &Key) -> Memory {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).cloned().unwrap_or_default()
    }
}

impl Key {
    fn of(pod: &Pod, container: &str) -> Self {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        let status = statuses.into_iter().flatten().find(|s| s.name == container);
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            container: status.and_then(|s| s.container_id.clone()).unwrap_or_default(),
        }
    }
}

impl Memory {
    /// With lines that came after; each begins with its time.
    fn and(mut self, log: &str, text: &str, trouble: &[String]) -> Self {
        for line in log.lines() {
            let (at, said) = line.split_once(' ').unwrap_or((line, ""));
            self.at = at.parse().ok().or(self.at);
            self.said |= said.contains(text);
            if trouble.iter().any(|t| said.contains(t.as_str())) {
                self.trouble = Some(said.to_owned());
            }
            self.last = Some(said.to_owned());
        }
        self
    }

    fn why(&self, text: &str) -> Option<String> {
        if self.said {
            return None;
        }
        Some(match &self.trouble {
            Some(line) => format!("its log says {:?}", super::settle::shorten(line)),
            None => {
                let last = self.last.as_deref().map(super::settle::shorten).unwrap_or_default();
                format!("its log does not say {text:?} and ends {last:?}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Finished regenerating";

    fn after(before: Memory, log: &str) -> Memory {
        before.and(log, TEXT, &["Failed to initialize datapath".to_owned()])
    }

    #[test]
    fn a_log_says_why_its_agent_does_not_settle() {
        let why = |log: &str| after(Memory::default(), log).why(TEXT);
        let t = "2026-11-23T10:00:00.5Z";
        assert_eq!(
            why(&format!("{t} a\n{t} level=info msg=\"Finished regenerating restored\"\n")),
            None
        );
        let text = why(&format!(
            "{t} a\n{t} msg=\"Failed to initialize datapath, retrying later\" x=1\n{t} b\n"
        ))
        .unwrap();
        assert!(text.contains("its log says") && text.contains("retrying later"), "{text}");
        let text = why(&format!("{t} first\n{t} last\n")).unwrap();
        assert!(
            text.contains("does not say \"Finished regenerating\" and ends \"last\""),
            "{text}"
        );
    }

    #[test]
    fn what_was_seen_stays_seen_and_the_time_goes_on() {
        let first = after(
            Memory::default(),
            "2026-11-23T10:00:00.1Z x\n2026-11-23T10:00:07.9Z Failed to initialize datapath\n",
        );
        assert_eq!(first.at, Some("2026-11-23T10:00:07.9Z".parse().unwrap()));
        // Nothing new: what it said last still holds.
        assert_eq!(after(first.clone(), ""), first);
        let second = after(first, "2026-11-23T10:00:09Z Finished regenerating\n");
        assert!(second.said);
        let third = after(second, "2026-11-23T10:00:10Z Failed to initialize datapath\n");
        assert_eq!(third.why(TEXT), None);
    }
}
