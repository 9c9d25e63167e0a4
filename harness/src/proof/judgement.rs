//! What sniffers saw, held against what was sent: is pods' payload in clear between the nodes?
//!
//! Owns the judgement and its sentences. Who sent and who watched is the caller's: namespaces of
//! this machine with one sniffer between the nodes (`encryption`), or agents in pods with an
//! observer on each node (`agents`).

use super::{payload::Delivery, sniffer::Sightings};
use crate::cni::Wrapping;
use cnibench_model::ProofOutcome;
use rand::Rng as _;

/// Bytes of a canary: long enough never to occur by chance in all the frames there are.
const CANARY: usize = 24;
/// Attempts of a sniffer that loses frames (its buffer is small without root).
pub(super) const ATTEMPTS: u32 = 3;

/// A fresh canary.
pub(super) fn canary() -> Vec<u8> {
    rand::rng().random::<[u8; CANARY]>().into()
}

/// What was sent one way, and what of it arrived.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// For people: "pod a on n0 to pod b on n1 (10.0.0.2)".
    pub(super) label: String,
    /// What arrived, or why not.
    pub(super) arrived: Result<Delivery, String>,
}

impl Sent {
    /// Bytes of payload that arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.arrived.as_ref().map_or(0, Delivery::bytes)
    }
}

/// What one sniffer saw.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Where it looked: "link between nodes".
    pub(super) of: String,
    /// Bytes of pods' payload that arrived by the way that it watched.
    pub(super) payload: u64,
    /// What it saw.
    pub(super) seen: Sightings,
}

/// What was sent and seen.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) pods: Vec<Sent>,
    pub(super) control: Vec<Sent>,
    pub(super) views: Vec<View>,
    pub(super) wrapping: Wrapping,
}

impl Observed {
    /// True when frames were lost and none that was seen is in clear: says nothing of the cni.
    pub(super) fn could_not_keep_up(&self) -> bool {
        self.views.iter().any(|v| v.seen.lost > 0) && self.views.iter().all(|v| v.seen.secret == 0)
    }
}

/// The outcome, its sentence and its evidence.
pub(super) fn judge(observed: &Observed) -> (ProofOutcome, String, Vec<String>) {
    let what = describe(&observed.wrapping);
    let sent = |name: &str, ways: &[Sent]| -> Vec<String> {
        let line = |way: &Sent| match &way.arrived {
            Ok(d) => format!(
                "{name}, {}: {} bytes by TCP, {} datagrams of {} bytes by UDP delivered",
                way.label, d.tcp_bytes, d.datagrams, d.datagram_bytes
            ),
            Err(e) => format!("{name}, {}: not delivered: {e}", way.label),
        };
        ways.iter().map(line).collect()
    };
    let mut evidence = sent("canary", &observed.pods);
    evidence.extend(sent("control", &observed.control));
    evidence.extend(observed.views.iter().flat_map(|view| view.evidence(&what)));
    let faults = observed.views.iter().find_map(View::in_clear).or_else(|| {
        undelivered(observed)
            .or_else(|| observed.views.iter().find_map(|view| view.fault(&what)))
            .or_else(|| observed.views.is_empty().then(|| "nobody watched".to_owned()))
    });
    if let Some(fault) = faults {
        return (ProofOutcome::Failed, fault, evidence);
    }
    let total = |of: fn(&View) -> u64| observed.views.iter().map(of).sum::<u64>();
    let summary = format!(
        "none of {} frames shows the {} bytes that pods sent, {} bytes of {what} cover them, the control in clear was seen {} times",
        total(|v| v.seen.frames),
        total(|v| v.payload),
        total(|v| v.seen.wrapped_bytes),
        total(|v| v.seen.control)
    );
    (ProofOutcome::Passed, summary, evidence)
}

pub(super) fn describe(wrapping: &Wrapping) -> String {
    match wrapping {
        Wrapping::Udp(ports) => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("UDP port {}", ports.join(", "))
        }
        Wrapping::Esp => "ESP".to_owned(),
    }
}

/// Why what was to be seen was not even there.
fn undelivered(observed: &Observed) -> Option<String> {
    let Observed { pods, control, .. } = observed;
    if pods.is_empty() || control.is_empty() {
        return Some("nothing to send: it takes pods on two nodes".to_owned());
    }
    [("pods'", pods), ("the control's", control)].into_iter().find_map(|(whose, ways)| {
        let (label, e) = ways.iter().find_map(|s| Some((&s.label, s.arrived.as_ref().err()?)))?;
        Some(format!("{whose} payload did not arrive, {label}: {e}"))
    })
}

impl View {
    fn evidence(&self, what: &str) -> Vec<String> {
        let Self { of, seen, .. } = self;
        let mut lines = vec![
            format!("{of}: {} frames, {} bytes seen", seen.frames, seen.bytes),
            format!("{of}: frames with the canary: {}", seen.secret),
            format!("{of}: frames with the control: {}", seen.control),
            format!(
                "{of}: {what} between nodes: {} frames, {} bytes",
                seen.wrapped_frames, seen.wrapped_bytes
            ),
        ];
        if seen.fragments > 0 {
            lines.push(format!("{of}: fragments between nodes, not counted: {}", seen.fragments));
        }
        if seen.lost + seen.cut > 0 {
            lines.push(format!(
                "{of}: frames lost: {}, too large to be read whole: {}",
                seen.lost, seen.cut
            ));
        }
        lines.extend(
            seen.secret_example.iter().map(|e| format!("{of}: first frame with the canary: {e}")),
        );
        lines
    }

    /// Clear text is one whatever else failed.
    fn in_clear(&self) -> Option<String> {
        let Self { of, seen, .. } = self;
        (seen.secret > 0).then(|| {
            format!(
                "payload in clear: {} of {} frames show what pods sent ({of})",
                seen.secret, seen.frames
            )
        })
    }

    /// The first reason why the claim does not stand here.
    fn fault(&self, what: &str) -> Option<String> {
        let Self { of, payload, seen } = self;
        if seen.control == 0 {
            return Some(format!(
                "sniffer blind ({of}): it did not see what went between nodes in clear"
            ));
        }
        if seen.lost + seen.cut > 0 {
            return Some(format!(
                "sniffer lost {} frames and read {} only in part ({of}): what they held is not known",
                seen.lost, seen.cut
            ));
        }
        if seen.wrapped_bytes < *payload {
            let why = if seen.fragments > 0 {
                "the tunnel's packets do not fit and are fragmented"
            } else {
                "they took another way"
            };
            return Some(format!(
                "pods sent {payload} bytes, but only {} bytes of {what} crossed between the nodes ({of}): {why}",
                seen.wrapped_bytes
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        let sent = |label: &str| Sent {
            label: label.to_owned(),
            arrived: Ok(Delivery { tcp_bytes: 1000, datagrams: 2, datagram_bytes: 50 }),
        };
        let seen = Sightings {
            frames: 100,
            bytes: 9000,
            control: 7,
            wrapped_frames: 40,
            wrapped_bytes: 2200,
            ..Sightings::default()
        };
        Observed {
            pods: vec![sent("a to b"), sent("b to a")],
            control: vec![sent("node to node")],
            views: vec![View { of: "link".to_owned(), payload: 2200, seen }],
            wrapping: Wrapping::Udp([51820].into()),
        }
    }

    fn failure(change: impl FnOnce(&mut Observed)) -> String {
        let mut observed = observed();
        change(&mut observed);
        let (outcome, summary, evidence) = judge(&observed);
        assert_eq!(outcome, ProofOutcome::Failed, "{summary}");
        assert!(evidence.len() >= 3, "a failure has its evidence too: {evidence:?}");
        summary
    }

    #[test]
    fn it_passes_on_exactly_enough_wrapped_bytes() {
        let (outcome, summary, _) = judge(&observed());
        assert_eq!(outcome, ProofOutcome::Passed, "{summary}");
        assert!(summary.contains("2200 bytes of UDP port 51820 cover them"), "{summary}");
        assert!(failure(|o| o.views[0].seen.wrapped_bytes = 2199).contains("took another way"));
    }

    #[test]
    fn every_hole_in_the_evidence_fails() {
        let clear = failure(|o| {
            o.views[0].seen.secret = 1;
            o.control.clear();
        });
        assert!(clear.starts_with("payload in clear: 1 of 100"), "{clear}");
        assert!(failure(|o| o.views[0].seen.control = 0).starts_with("sniffer blind"));
        assert!(failure(|o| o.views[0].seen.lost = 1).contains("lost 1 frames"));
        assert!(failure(|o| o.views[0].seen.cut = 1).contains("1 only in part"));
        assert!(failure(|o| o.pods.clear()).contains("two nodes"));
        assert!(failure(|o| o.pods[1].arrived = Err("refused".into())).contains("b to a: refused"));
        assert!(failure(|o| o.control[0].arrived = Err("x".into())).contains("the control's"));
        assert_eq!(failure(|o| o.views.clear()), "nobody watched");
    }

    #[test]
    fn each_view_must_see_for_itself() {
        let second = |o: &mut Observed| {
            let mut view = o.views[0].clone();
            view.of = "node b".to_owned();
            o.views.push(view);
        };
        // Twice as much on the first does not cover what is missing on the second.
        let missing = failure(|o| {
            second(o);
            o.views[0].seen.wrapped_bytes = 4400;
            o.views[1].seen.wrapped_bytes = 0;
        });
        assert!(missing.contains("only 0 bytes") && missing.contains("(node b)"), "{missing}");
        assert!(
            failure(|o| {
                second(o);
                o.views[1].seen.control = 0;
            })
            .starts_with("sniffer blind (node b)")
        );
        // Clear text on any of them comes first.
        let clear = failure(|o| {
            second(o);
            o.views[0].seen.control = 0;
            o.views[1].seen.secret = 3;
        });
        assert!(clear.starts_with("payload in clear: 3"), "{clear}");
    }

    #[test]
    fn only_lost_frames_without_clear_text_are_worth_another_try() {
        let mut o = observed();
        assert!(!o.could_not_keep_up());
        o.views[0].seen.lost = 1;
        assert!(o.could_not_keep_up());
        o.views[0].seen.secret = 1;
        assert!(!o.could_not_keep_up());
    }
}
