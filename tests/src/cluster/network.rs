//! A network of the test's own: each site in its network namespace, all on one bridge in another. What passes between
//! two sites is decided by nft in the receiver's namespace, so each direction is cut for itself.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names of namespaces are the machine's; two tests must not meet.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

pub struct Network {
    prefix: String,
    sites: usize,
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|e| format!("{}: {e}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", words.join(" "), said.trim())) }
}

impl Network {
    /// Needs root, iproute2 and nftables; says what is missing.
    pub fn lay(sites: usize) -> Result<Network, String> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Network { prefix: format!("fs{}-{number}", std::process::id()), sites };
        let hub = network.hub();
        run(&["ip", "netns", "add", &hub])?;
        run(&["ip", "-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "br0", "up"])?;
        for site in 0..sites {
            let (space, port) = (network.space(site), format!("v{site}"));
            run(&["ip", "netns", "add", &space])?;
            run(&["ip", "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            run(&["ip", "-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            run(&["ip", "-n", &space, "addr", "add", &format!("{}/24", address(site)), "dev", "eth0"])?;
            run(&["ip", "-n", &space, "link", "set", "eth0", "up"])?;
            run(&["ip", "-n", &space, "link", "set", "lo", "up"])?;
            network.nft(site, &["add", "table", "inet", "faults"])?;
            let chain = "{ type filter hook input priority 0 ; }";
            network.nft(site, &["add", "chain", "inet", "faults", "input", chain])?;
        }
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn space(&self, site: usize) -> String {
        format!("{}-{site}", self.prefix)
    }

    /// What a command is started through to run in a site.
    pub fn through(&self, site: usize) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.space(site)), "--".into()]
    }

    fn nft(&self, site: usize, words: &[&str]) -> Result<(), String> {
        let through = self.through(site);
        let all: Vec<&str> = through.iter().map(String::as_str).chain(["nft"]).chain(words.iter().copied()).collect();
        run(&all)
    }

    /// One direction only: `to` hears nothing of `from` any more.
    #[track_caller]
    pub fn deafen(&self, to: usize, from: usize) {
        let from = address(from);
        self.nft(to, &["add", "rule", "inet", "faults", "input", "ip", "saddr", &from, "drop"]).expect("nft takes it");
    }

    /// Both directions between one site and all others.
    #[track_caller]
    pub fn isolate(&self, site: usize) {
        for other in (0..self.sites).filter(|other| *other != site) {
            self.deafen(site, other);
            self.deafen(other, site);
        }
    }

    /// So many packets of a hundred that come in are lost.
    #[track_caller]
    pub fn lose(&self, site: usize, percent: u32) {
        let percent = percent.to_string();
        let rule = ["add", "rule", "inet", "faults", "input", "numgen", "random", "mod", "100", "<", &percent, "drop"];
        self.nft(site, &rule).expect("nft takes it");
    }

    #[track_caller]
    pub fn heal(&self) {
        for site in 0..self.sites {
            self.nft(site, &["flush", "chain", "inet", "faults", "input"]).expect("nft takes it");
        }
    }
}

/// In the sites' own network.
pub fn address(site: usize) -> String {
    format!("10.77.0.{}", site + 1)
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in (0..self.sites).map(|site| self.space(site)).chain([self.hub()]) {
            let _ = run(&["ip", "netns", "del", &space]);
        }
    }
}
