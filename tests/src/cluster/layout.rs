//! The sites of one test: directories, certificates, configuration files, ports.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use farshore_powercut::Lost;
use farshore_wan::{Conditions, Wan};
use serde_json::Value;
use tempfile::TempDir;

use super::cli::farshore;
use super::daemon::Launch;
use super::network::{Network, address};
use super::site::{Site, all_in_sync};
use super::wait::eventually;

/// Decides which datagrams the relays lose.
const WAN_SEED: u64 = 1;

/// What a test may want otherwise.
#[derive(Debug, Clone)]
pub struct Options {
    pub journal_budget: &'static str,
    pub journal_segment: &'static str,
    /// Only sites that come later in the list have the addresses of those before them.
    pub one_way: bool,
    /// Sites reach each other through relays with these conditions; see [`Cluster::wan`].
    pub wan: Option<Conditions>,
    pub idle_timeout_ms: u64,
    /// Lines in the section of the transport.
    pub transport: String,
    /// Lines at the end of every configuration file.
    pub more: &'static str,
    /// Where the sites' directories are; else where temporary files are.
    pub below: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            journal_budget: "64MiB",
            journal_segment: "16MiB",
            one_way: false,
            wan: None,
            idle_timeout_ms: 1000,
            transport: String::new(),
            more: "",
            below: None,
        }
    }
}

pub struct Cluster {
    pub sites: Vec<Site>,
    options: Options,
    /// Else all are on loopback.
    pub network: Option<Network>,
    /// Where [`Options::wan`] asked for it.
    pub wan: Option<Wan>,
    /// Kept when a test fails.
    dir: Option<TempDir>,
}

impl Cluster {
    /// Starts a site per name (`SITE/NODE` for a further node of a site) and waits until all of them are connected.
    pub fn start(sites: &[&str]) -> Cluster {
        Cluster::start_with(sites, Options::default())
    }

    pub fn start_with(sites: &[&str], options: Options) -> Cluster {
        let cluster = Cluster::lay_out(sites, options);
        cluster.launch();
        cluster
    }

    /// Starts every site and waits until all of them are connected.
    pub fn launch(&self) {
        self.sites.iter().for_each(Site::launch);
        self.sites.iter().for_each(Site::wait_ready);
        self.wait_connected();
    }

    /// Puts a disk whose power can be cut under every site that does not run yet. Says why where that can't be done.
    pub fn put_on_disks(&self, seed: u64) -> Result<(), String> {
        (0..).zip(&self.sites).try_for_each(|(at, site)| site.put_on_disk(seed + at))
    }

    /// Everything but the daemons.
    pub fn lay_out(sites: &[&str], options: Options) -> Cluster {
        Cluster::lay_out_in(sites, options, None)
    }

    /// In a network of its own, laid for as many sites.
    pub fn lay_out_in(sites: &[&str], options: Options, network: Option<Network>) -> Cluster {
        let below = options.below.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("farshore-").tempdir_in(below);
        let dir = dir.expect("a temporary directory can be made");
        let ca = dir.path().join("ca");
        farshore(&["cert", "ca", "--domain", "test", "--dir", text(&ca)]).expect("a CA can be made");
        // Held together, so that no two are the same.
        let holds: Vec<(UdpSocket, TcpListener)> = sites.iter().map(|_| free_ports()).collect();
        let ports = |i: usize| {
            let (udp, http) = &holds[i];
            (udp.local_addr().expect("it is bound").port(), http.local_addr().expect("it is bound").port())
        };
        let sites: Vec<Site> = sites
            .iter()
            .enumerate()
            .map(|(i, name)| Site::new(name, dir.path().join(name.replace('/', "-")), ports(i).0, ports(i).1))
            .collect();
        if let Some(network) = &network {
            for (index, site) in sites.iter().enumerate() {
                site.set_launch(Launch { through: network.through(index), ..Launch::default() });
            }
        }
        let wan = options.wan.map(|conditions| {
            assert!(network.is_none(), "relays are on loopback, not in a network of the test's own");
            let listening: Vec<SocketAddr> = sites.iter().map(|site| ([127, 0, 0, 1], site.udp).into()).collect();
            Wan::start(&listening, conditions, WAN_SEED).expect("relays have free ports")
        });
        let cluster = Cluster { sites, options, network, wan, dir: Some(dir) };
        for index in 0..cluster.sites.len() {
            cluster.equip(index, &ca);
        }
        cluster
    }

    fn equip(&self, index: usize, ca: &Path) {
        let site = &self.sites[index];
        std::fs::create_dir_all(&site.dir).expect("a site's directory can be made");
        let pki = site.dir.join("pki");
        let (name, node) = place(&site.name);
        farshore(&["cert", "issue", "--ca", text(ca), "--site", name, "--node", node, "--out", text(&pki)])
            .expect("a certificate can be issued");
        std::fs::write(site.config_path(), self.config(index)).expect("a configuration can be written");
    }

    /// The configuration file of a site.
    pub fn config(&self, index: usize) -> String {
        let site = &self.sites[index];
        let Options { journal_budget, journal_segment, one_way, idle_timeout_ms, transport, more, .. } = &self.options;
        let address = |at: usize| if self.network.is_some() { address(at) } else { "127.0.0.1".into() };
        let reached_at = |at: usize| match &self.wan {
            Some(wan) => wan.address(index, at).to_string(),
            None => format!("{}:{}", address(at), self.sites[at].udp),
        };
        let ((name, node), own, udp, http) = (place(&site.name), address(index), site.udp, site.http);
        let (data, run, pki) = (site.data_dir(), site.dir.join("run"), site.dir.join("pki"));
        let mut out = format!(
            r#"[node]
site = "{name}"
node = "{node}"
data_dir = "{}"
runtime_dir = "{}"
[transport]
listen = "{own}:{udp}"
ca = "{pki}/ca.pem"
cert = "{pki}/node.pem"
key = "{pki}/node.key"
idle_timeout_ms = {idle_timeout_ms}
{transport}
[http]
listen = "127.0.0.1:{http}"
[journal]
budget_bytes = "{journal_budget}"
segment_bytes = "{journal_segment}"
"#,
            data.display(),
            run.display(),
            pki = pki.display(),
        );
        for (i, peer) in self.sites.iter().enumerate().filter(|(i, _)| *i != index) {
            let (name, node) = place(&peer.name);
            let _ = write!(out, "[[peers]]\nsite = \"{name}\"\nnode = \"{node}\"\n");
            if i < index || !one_way {
                let _ = writeln!(out, "address = \"{}\"", reached_at(i));
            }
        }
        out + more
    }

    /// The power goes at these sites, all at once; returns how many changes and names that cost.
    pub fn cut_power<'a>(&self, victims: impl IntoIterator<Item = &'a Site>) -> Lost {
        let victims: Vec<&Site> = victims.into_iter().collect();
        victims.iter().for_each(|site| site.end());
        let taken = victims.iter().map(|site| site.cut_power());
        taken.fold(Lost::default(), |a, b| Lost { changes: a.changes + b.changes, names: a.names + b.names })
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("kept until the end").path()
    }

    #[track_caller]
    pub fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no site {name} in this test"))
    }

    /// Waits until every site sees every other.
    #[track_caller]
    pub fn wait_connected(&self) {
        for site in &self.sites {
            eventually(&format!("{} to be connected to all others", site.name), || {
                match site.try_run(&["site", "list"]) {
                    Ok(list) if list["peers"].as_array().is_some_and(|p| p.iter().all(|p| p["connected"] == true)) => {
                        Ok(())
                    }
                    Ok(list) => Err(format!("{list:#}")),
                    Err(refusal) => Err(format!("{refusal:?}")),
                }
            });
        }
    }

    /// Waits until every copy has everything, as the primary there sees it.
    #[track_caller]
    pub fn wait_in_sync(&self, primary: &str, volume: &str) -> Value {
        self.site(primary).wait_volume(volume, &format!("all copies of {volume} to be in sync"), all_in_sync)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for site in &self.sites {
            site.end();
        }
        if std::thread::panicking() {
            for site in &self.sites {
                eprintln!("---- the end of {}'s log ----\n{}", site.name, site.tail());
                site.save_disk();
            }
            if let Some(dir) = self.dir.take() {
                eprintln!("everything is kept in {}", dir.keep().display());
            }
        }
    }
}

/// Site and node of a name: `east` is the node n1 of east, `east/n2` its second one.
fn place(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, "n1"))
}

/// Taken for a moment; whoever takes them before our daemon does makes the test fail, not lie.
fn free_ports() -> (UdpSocket, TcpListener) {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    (udp, tcp)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}
