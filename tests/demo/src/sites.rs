//! The sites: one replicator each, on loopback, with a certificate, a configuration and a data directory of its
//! own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::error::{DemoError, Result, io};
use crate::farshore::{Attached, Farshore, Peers, Status, Volume};
use crate::machine::free_port;
use crate::process::{Daemon, tail};
use crate::wait;

pub const EAST: usize = 0;
pub const WEST: usize = 1;
pub const NORTH: usize = 2;
/// Holds a copy that nobody waits for.
pub const FAR: usize = 3;
pub const NAMES: [&str; 4] = ["east", "west", "north", "far"];
/// Those that acknowledge writes.
pub const VOTERS: [&str; 3] = [NAMES[EAST], NAMES[WEST], NAMES[NORTH]];

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Site {
    pub name: &'static str,
    pub dir: PathBuf,
    pub log: PathBuf,
    udp_port: u16,
    http_port: u16,
    farshore: Farshore,
    daemon: Option<Daemon>,
}

/// Makes the certificates and configurations of all sites below `dir`. Nothing is started.
pub fn set_up(dir: &Path, farshore: &Farshore) -> Result<Vec<Site>> {
    let ca = dir.join("ca");
    farshore.cert(&["ca", "--domain", "demo.farshore", "--dir", &text(&ca)])?;
    let mut sites = Vec::new();
    for name in NAMES {
        let site = Site {
            name,
            dir: dir.join(name),
            log: dir.join(format!("{name}.log")),
            udp_port: free_port()?,
            http_port: free_port()?,
            farshore: farshore.clone(),
            daemon: None,
        };
        for part in ["data", "run"] {
            let part = site.dir.join(part);
            fs::create_dir_all(&part).map_err(io("create", &part))?;
        }
        let out = text(&site.dir.join("pki"));
        farshore.cert(&["issue", "--ca", &text(&ca), "--site", name, "--node", &site.node(), "--out", &out])?;
        sites.push(site);
    }
    for site in &sites {
        let path = site.config();
        fs::write(&path, configuration(site, &sites)).map_err(io("write", &path))?;
    }
    Ok(sites)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn configuration(site: &Site, sites: &[Site]) -> String {
    let dir = text(&site.dir);
    let Site { name, udp_port, http_port, .. } = site;
    let mut text = format!(
        r#"[node]
site = "{name}"
node = "{node}"
data_dir = "{dir}/data"
runtime_dir = "{dir}/run"

[transport]
listen = "127.0.0.1:{udp_port}"
ca = "{dir}/pki/ca.pem"
cert = "{dir}/pki/node.pem"
key = "{dir}/pki/node.key"

[http]
listen = "127.0.0.1:{http_port}"

[journal]
budget_bytes = "256MiB"
segment_bytes = "16MiB"
"#,
        node = site.node()
    );
    for peer in sites.iter().filter(|peer| peer.name != site.name) {
        let (name, node, port) = (peer.name, peer.node(), peer.udp_port);
        write!(text, "\n[[peers]]\nsite = \"{name}\"\nnode = \"{node}\"\naddress = \"127.0.0.1:{port}\"\n")
            .expect("writing to a String can't fail");
    }
    text
}

impl Site {
    pub fn node(&self) -> String {
        format!("{}-1", self.name)
    }

    fn config(&self) -> PathBuf {
        self.dir.join("replicator.toml")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("run/replicator.sock")
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Starts the replicator; answers when it takes commands.
    pub fn start(&mut self) -> Result<()> {
        let args = ["--config".to_string(), text(&self.config())];
        let name = format!("replicator of {}", self.name);
        self.daemon = Some(Daemon::start(&name, &self.farshore.replicator, None, &args, &self.log)?);
        wait::until(&format!("{name} taking commands"), START_LIMIT, POLL, || {
            self.check()?;
            Ok(self.status().map(drop).map_err(|e| e.to_string()))
        })
    }

    /// Until it is in touch with every other site.
    pub fn wait_connected(&mut self) -> Result<()> {
        wait::until(&format!("{} in touch with all peers", self.name), START_LIMIT, POLL, || {
            self.check()?;
            let apart: Vec<String> = self
                .peers()?
                .peers
                .iter()
                .filter(|p| !p.connected)
                .map(|p| format!("{}: {}", p.site, p.reason))
                .collect();
            Ok(if apart.is_empty() { Ok(()) } else { Err(apart.join(", ")) })
        })
    }

    /// An error when the replicator runs no more and should.
    pub fn check(&mut self) -> Result<()> {
        self.daemon.as_mut().map_or(Ok(()), Daemon::check)
    }

    pub fn status(&self) -> Result<Status> {
        self.farshore.ask(&self.socket(), &["status"])
    }

    pub fn volume(&self, name: &str) -> Result<Volume> {
        let found = self.status()?.volumes.into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| DemoError::Broken(format!("{} does not know the volume {name}", self.name)))
    }

    pub fn peers(&self) -> Result<Peers> {
        self.farshore.ask(&self.socket(), &["site", "list"])
    }

    /// Makes the volume a block device here; answers its path.
    pub fn attach(&self, volume: &str) -> Result<PathBuf> {
        let attached: Attached =
            self.farshore.ask(&self.socket(), &["volume", "attach", volume, "--device", "fuse"])?;
        if attached.device.path.starts_with("/dev/") {
            return Ok(attached.device.path.into());
        }
        let Attached { device } = attached;
        Err(DemoError::Broken(format!("{volume} became {:?} at {:?}, not a block device", device.kind, device.path)))
    }

    pub fn detach(&self, volume: &str) -> Result<()> {
        self.tell(&["volume", "detach", volume])
    }

    pub fn tell(&self, args: &[&str]) -> Result<()> {
        self.farshore.tell(&self.socket(), args)
    }

    pub fn ask<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        self.farshore.ask(&self.socket(), args)
    }

    /// What a dead site's pid was is forgotten with it.
    pub fn bury(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.reap();
        }
    }

    /// SIGKILL and bury, without a word.
    pub fn kill(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill();
        }
        self.bury();
    }

    pub fn ask_to_end(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(Signal::TERM);
        }
    }

    /// Asks it to end, and waits. An error tells that it had to be killed, and what it said last.
    pub fn stop(&mut self) -> std::result::Result<(), String> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        if daemon.stop(Signal::TERM, STOP_LIMIT) {
            return Ok(());
        }
        let said = tail(&self.log);
        let last = said.lines().last().unwrap_or_default().trim();
        Err(format!("{} did not end {} s after SIGTERM; it last said: {last}", daemon.name, STOP_LIMIT.as_secs()))
    }
}
