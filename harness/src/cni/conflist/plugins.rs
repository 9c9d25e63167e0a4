//! What is known of the plugins that containernetworking/plugins publishes: kernel modules and programs
//! that their code uses. For places that have only what they are given.

use super::config::ConfList;
use crate::cni::Needs;

/// Plugins with the modules of what they make (plugins/main and plugins/meta of v1.9.1).
const MODULES: &[(&str, &[&str])] = &[
    ("bandwidth", &["sch_tbf", "sch_ingress", "ifb", "cls_u32", "act_mirred"]),
    ("dummy", &["dummy"]),
    ("ipvlan", &["ipvlan"]),
    ("macvlan", &["macvlan"]),
    ("tap", &["tun"]),
    ("vlan", &["8021q"]),
    ("vrf", &["vrf"]),
];

/// What the plugins of a list use.
pub fn needs(list: &ConfList) -> Needs {
    let mut needs = Needs::default();
    for plugin in &list.plugins {
        let known = MODULES.iter().find(|(name, _)| *name == plugin.plugin);
        needs.modules.extend(known.into_iter().flat_map(|(_, m)| *m).map(|&m| m.to_owned()));
        // `firewall` always, the others for masquerading and for host ports.
        if plugin.plugin == "firewall" || plugin.says("ipMasq") {
            needs.programs.push("iptables".into());
        }
    }
    needs
}

/// Plugins that the plugins of a list start without naming them: flannel hands its work to bridge and
/// host-local (flannel-io/cni-plugin v1.9.1, flannel_linux.go, doCmdAdd).
pub fn started_unnamed(list: &ConfList) -> Vec<String> {
    let flannels = list.plugins.iter().filter(|plugin| plugin.plugin == "flannel");
    let of = flannels.flat_map(|p| [p.delegate().unwrap_or("bridge"), "host-local"]);
    of.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(plugins: &str) -> Needs {
        let text = format!(r#"{{"cniVersion": "1.0.0", "name": "n", "plugins": [{plugins}]}}"#);
        needs(&ConfList::parse(&text).unwrap())
    }

    #[test]
    fn plugins_bring_what_they_use() {
        assert_eq!(of(r#"{"type": "bridge"}, {"type": "portmap"}"#), Needs::default());
        assert_eq!(of(r#"{"type": "bridge", "ipMasq": true}"#).programs.len(), 1);
        let list = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "flannel"}]}"#;
        let list = ConfList::parse(list).unwrap();
        assert_eq!(started_unnamed(&list), ["bridge", "host-local"]);
        assert_eq!(of(r#"{"type": "macvlan"}, {"type": "mine"}"#).modules, ["macvlan"]);
    }
}
