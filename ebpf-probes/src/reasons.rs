//! The running kernel's names of drop reasons: numbers change from release to release, so they are
//! read from its own types (BTF, Documentation/bpf/btf.rst).

use std::{collections::HashMap, fs};

const TYPES: &str = "/sys/kernel/btf/vmlinux";
const ENUM: &str = "skb_drop_reason";
const PREFIX: &str = "SKB_DROP_REASON_";

/// Reasons by number.
#[derive(Debug, Default)]
pub(crate) struct Reasons(HashMap<u32, String>);

impl Reasons {
    /// Of the running kernel; empty where it describes none.
    pub(crate) fn read() -> Self {
        Self(fs::read(TYPES).ok().and_then(|btf| members(&btf, ENUM)).unwrap_or_default())
    }

    pub(crate) fn name(&self, reason: u32) -> String {
        let of_kernel = self.0.get(&reason).map(|n| n.trim_start_matches(PREFIX).to_owned());
        of_kernel.unwrap_or_else(|| format!("reason {reason}"))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// The members of an enum, by value. None: there is no such enum, or this is no BTF.
fn members(btf: &[u8], name: &str) -> Option<HashMap<u32, String>> {
    let header = word(btf, 4)? as usize;
    let types = header + word(btf, 8)? as usize;
    let end = types + word(btf, 12)? as usize;
    let strings = header + word(btf, 16)? as usize;
    let text = |at: u32| {
        let from = btf.get(strings + at as usize..)?;
        let length = from.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&from[..length]).ok()
    };
    let mut at = types;
    while at < end {
        let (named, info) = (word(btf, at)?, word(btf, at + 4)?);
        let (count, kind) = ((info & 0xffff) as usize, (info >> 24) & 0x1f);
        at += 12;
        if kind == 6 && text(named)? == name {
            let member = |i: usize| {
                Some((word(btf, at + 8 * i + 4)?, text(word(btf, at + 8 * i)?)?.to_owned()))
            };
            return (0..count).map(member).collect();
        }
        // What follows a type of each kind (struct btf_array, btf_member, ...), in bytes.
        at += match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            _ => 0,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_has_no_members() {
        assert!(members(b"", ENUM).is_none());
        assert!(members(&[0xff; 64], ENUM).is_none());
        assert_eq!(Reasons::default().name(17), "reason 17");
    }

    #[test]
    fn an_enum_is_found_behind_other_types() {
        let mut strings = vec![0];
        let mut string = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let (other, wanted, a, b) = (
            string("other"),
            string(ENUM),
            string("SKB_NOT_DROPPED_YET"),
            string("SKB_DROP_REASON_NO_SOCKET"),
        );
        let words = [other, 1 << 24, 4, 32, wanted, (6 << 24) | 2, 4, a, 0, b, 3];
        let types: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect();
        let mut btf = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(types);
        btf.extend(strings);
        let reasons = Reasons(members(&btf, ENUM).unwrap());
        assert_eq!(reasons.name(3), "NO_SOCKET");
        assert_eq!(reasons.name(9), "reason 9");
    }
}
