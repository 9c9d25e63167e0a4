//! Two namespaces and a veth pair, made with iproute2 and gone when dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is test code")]

use crate::common::Agent;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The client's and the server's namespace.
pub struct Net {
    client: String,
    server: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn command(argv: &[&str]) -> String {
    let out = Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; install iproute2 and nftables", argv[0]));
    let (text, errors) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{argv:?}: {errors}");
    text.into_owned()
}

impl Net {
    pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
    pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));

    pub fn up() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces: run them as root, or leave the feature netns-tests off"
        );
        let id = format!("{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { client: format!("cnw-{id}-c"), server: format!("cnw-{id}-s") };
        let (c, s) = (net.client.as_str(), net.server.as_str());
        command(&["ip", "netns", "add", c]);
        command(&["ip", "netns", "add", s]);
        command(&[
            "ip", "link", "add", "eth0", "netns", c, "type", "veth", "peer", "name", "eth0",
            "netns", s,
        ]);
        for (ns, host) in [(c, "1"), (s, "2")] {
            command(&["ip", "-n", ns, "addr", "add", &format!("10.77.0.{host}/24"), "dev", "eth0"]);
            let v6 = format!("fd77::{host}/64");
            command(&["ip", "-n", ns, "addr", "add", &v6, "dev", "eth0", "nodad"]);
            command(&["ip", "-n", ns, "link", "set", "lo", "up"]);
            command(&["ip", "-n", ns, "link", "set", "eth0", "up"]);
        }
        net
    }

    /// An agent in the client's namespace.
    pub fn client(&self) -> Agent {
        Self::agent(&self.client)
    }

    /// An agent in the server's namespace.
    pub fn server(&self) -> Agent {
        Self::agent(&self.server)
    }

    fn agent(name: &str) -> Agent {
        let netns = File::open(format!("/run/netns/{name}")).unwrap();
        Agent::start_in(move || {
            // Of this thread only; the threads that the agent starts inherit it.
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        })
    }

    pub fn on_client(&self, argv: &[&str]) -> String {
        command(&[&["ip", "netns", "exec", &self.client], argv].concat())
    }

    pub fn on_server(&self, argv: &[&str]) -> String {
        command(&[&["ip", "netns", "exec", &self.server], argv].concat())
    }

    /// Adds a rule to the server's input hook.
    pub fn drop_on_server(&self, rule: &str) {
        let rules = format!(
            "table inet cnw {{\n chain in {{\n type filter hook input priority 0;\n {rule}\n }}\n}}\n"
        );
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.server, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("iproute2 and nftables are installed");
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            // The veth pair goes with its namespaces; errors must not hide the test's own.
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}
