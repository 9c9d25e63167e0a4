//! What a kernel says of itself: the `config` beside its image, as it was built with.
//!
//! Only for what no module tells. It is a hint for people; whether something works a guest finds out by
//! trying it.

use super::kernel::Kernel;
use std::{collections::BTreeSet, fs};

/// Options that are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config(BTreeSet<String>);

impl Kernel {
    /// Its config, from `config` or `config-VERSION` beside the image.
    pub fn config(&self) -> Option<Config> {
        let folder = self.image.parent()?;
        let names = ["config".to_owned(), format!("config-{}", self.name)];
        let text = names.iter().find_map(|name| fs::read_to_string(folder.join(name)).ok())?;
        Some(Config::parse(&text))
    }
}

impl Config {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.strip_suffix("=y"));
        Self(lines.filter_map(|line| line.strip_prefix("CONFIG_")).map(str::to_owned).collect())
    }

    /// Is it built in?
    pub fn has(&self, option: &str) -> bool {
        self.0.contains(option)
    }

    /// Ways of attaching eBPF probes that it has (lib/Kconfig.debug, kernel/trace/Kconfig).
    pub fn probes(&self) -> Vec<&'static str> {
        let btf = self.has("BPF_SYSCALL") && self.has("DEBUG_INFO_BTF");
        let ways = [
            ("tp_btf", btf && self.has("BPF_EVENTS")),
            ("fentry", btf && self.has("DYNAMIC_FTRACE_WITH_DIRECT_CALLS")),
            ("kprobe", self.has("BPF_SYSCALL") && self.has("KPROBE_EVENTS")),
        ];
        ways.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_read() {
        let config = Config::parse(
            "# CONFIG_A is not set\nCONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS=y\n\
             CONFIG_DEBUG_INFO_BTF=y\nCONFIG_VETH=m\nCONFIG_HZ=250\n",
        );
        assert!(config.has("BPF_SYSCALL") && !config.has("A") && !config.has("VETH"));
        assert_eq!(config.probes(), ["tp_btf"]);
    }
}
