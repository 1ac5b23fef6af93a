//! Three sites behind relays, and the volumes that are measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use farshore_tests::cluster::{Cluster, Options, Site};
use farshore_wan::{Conditions, Wan};
use serde::Serialize;

use crate::fio::{self, Extent, Target};
use crate::metrics;
use crate::procfs::Usage;
use crate::workload::Workload;

pub const SITES: [&str; 3] = ["east", "west", "north"];
/// How long what was written may take to reach the stores and a checkpoint before the next row begins.
const SETTLE_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// What lets the replicators find out how large a packet may be, and how near to that they come: they search in steps.
const PROBE: &str = "randwrite-128k-qd8";
const NEARLY_ALL: f64 = 0.93;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The NBD export on a unix socket, with fio as its client
    Nbd,
    /// A loop device on a file served by FUSE
    Fuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Write,
    Flush,
}

/// The word of the command line, of files and of tables.
pub fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
}

/// Sizes, as in a configuration file.
#[derive(Debug, Clone, Copy)]
pub struct Journal {
    pub budget: &'static str,
    pub segment: &'static str,
}

impl Journal {
    const USUAL: Journal = Journal { budget: "1GiB", segment: "64MiB" };
    const SMALL: Journal = Journal { budget: "256MiB", segment: "16MiB" };
    /// Holds less than the volumes: a member that joins needs a shipment.
    pub const SHORT: Journal = Journal { budget: "192MiB", segment: "16MiB" };
    /// Half of it is enough for each of a hundred volumes and some.
    pub const MANY_VOLUMES: Journal = Journal { budget: "640MiB", segment: "16MiB" };

    /// One that has grown to its budget once a volume of this size was filled: a journal that grows writes every new
    /// segment once, for the user's bytes to come, and a row would pay for that.
    pub fn for_volumes_of(bytes: u64) -> Journal {
        if bytes < 1 << 30 { Journal::SMALL } else { Journal::USUAL }
    }
}

pub struct Stage {
    cluster: Cluster,
    /// Of the paths between the sites.
    mtu_bytes: Option<u64>,
    attached: Option<(String, Device, Target)>,
}

impl Stage {
    /// Starts the sites below `dir`, with these conditions between them. `transport`: lines for that section of their
    /// configuration files.
    pub fn set_up(dir: &Path, journal: Journal, transport: &str, between: Conditions) -> Stage {
        let options = Options {
            journal_budget: journal.budget,
            journal_segment: journal.segment,
            wan: Some(between),
            idle_timeout_ms: 3000,
            transport: transport.into(),
            below: Some(dir.to_path_buf()),
            ..Options::default()
        };
        Stage { cluster: Cluster::start_with(&SITES, options), mtu_bytes: between.mtu_bytes, attached: None }
    }

    pub fn wan(&self) -> &Wan {
        self.cluster.wan.as_ref().expect("it was asked for")
    }

    /// Other conditions between all sites. Where the paths carry less than before, waits until the replicators have found
    /// that out, by writing to this volume: no row shall pay for it.
    pub fn set_apart(&mut self, conditions: Conditions, volume: &str) -> Result<(), String> {
        self.wan().set(conditions);
        let before = std::mem::replace(&mut self.mtu_bytes, conditions.mtu_bytes);
        let Some(mtu) = conditions.mtu_bytes.filter(|mtu| before.is_none_or(|before| before > *mtu)) else {
            return Ok(());
        };
        let (target, began) = (self.attach(volume, Device::Nbd), Instant::now());
        let workload: Workload = PROBE.parse()?;
        let found = |text: &str, site: &str| metrics::sum(text, "farshore_peer_mtu_bytes", &[("site", site)]);
        loop {
            fio::run(&target, workload, Extent::Seconds(1), &[])?;
            let text = metrics::scrape(self.east().http)?;
            let sizes: Vec<f64> = SITES[1..].iter().filter_map(|site| found(&text, site)).collect();
            if sizes.len() == 2 && sizes.iter().all(|size| *size > NEARLY_ALL * mtu as f64 && *size <= mtu as f64) {
                self.settle(volume);
                return Ok(());
            }
            if began.elapsed() > SETTLE_PATIENCE {
                return Err(format!("the replicators have not found out that packets are {mtu} bytes now: {sizes:?}"));
            }
        }
    }

    pub fn sites(&self) -> &[Site] {
        &self.cluster.sites
    }

    pub fn east(&self) -> &Site {
        &self.cluster.sites[0]
    }

    pub fn pids(&self) -> Vec<u32> {
        self.sites().iter().map(Site::pid).collect()
    }

    /// A volume with its primary in east, members and policy as given.
    pub fn create(&self, name: &str, bytes: u64, members: &str, quorum: &str, durability: Durability) {
        let (size, durability) = (bytes.to_string(), word(durability));
        let arguments = [
            "volume",
            "create",
            name,
            "--size",
            &size,
            "--members",
            members,
            "--quorum",
            quorum,
            "--durability",
            &durability,
        ];
        self.east().run(&arguments);
    }

    /// The volume as this device; another one that is attached is detached first.
    pub fn attach(&mut self, volume: &str, device: Device) -> Target {
        if let Some((attached, kind, target)) = &self.attached
            && attached == volume
            && *kind == device
        {
            return target.clone();
        }
        self.detach();
        let answer = self.east().run(&["volume", "attach", volume, "--device", &word(device)]);
        let target = match device {
            Device::Nbd => Target::Nbd { socket: self.east().nbd_socket(), export: volume.into() },
            Device::Fuse => {
                let path = answer["device"]["path"].as_str().expect("an attached device has a path");
                Target::Direct(PathBuf::from(path))
            }
        };
        self.attached = Some((volume.into(), device, target.clone()));
        target
    }

    pub fn detach(&mut self) {
        if let Some((volume, ..)) = self.attached.take() {
            self.east().run(&["volume", "detach", &volume]);
        }
    }

    /// Writes all of a volume once, and waits until it is where it stays.
    pub fn fill(&mut self, volume: &str) -> Result<(), String> {
        let target = self.attach(volume, Device::Nbd);
        fio::fill(&target)?;
        self.settle(volume);
        Ok(())
    }

    /// As [`Stage::fill`], with what can be compressed to a half.
    pub fn fill_compressible(&mut self, volume: &str) -> Result<(), String> {
        let target = self.attach(volume, Device::Nbd);
        fio::fill_compressible(&target)?;
        self.settle(volume);
        Ok(())
    }

    /// Waits until each site has everything of the volume in its store and a checkpoint behind it, so that one row does
    /// not pay for another. False: it took too long.
    pub fn settle(&self, volume: &str) -> bool {
        let acked = |site: &Site| site.volume(volume)["acked_seq"].as_u64();
        let (target, began) = (acked(self.east()), Instant::now());
        let there = |site: &Site| {
            site.try_run(&["volume", "show", volume]).is_ok_and(|v| v["checkpointed_seq"].as_u64() >= target)
        };
        let members = self.members(volume);
        let holders = || self.sites().iter().filter(|site| members.contains(&site.name));
        while !holders().all(there) {
            if began.elapsed() > SETTLE_PATIENCE {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }

    /// The sites that hold a copy.
    fn members(&self, volume: &str) -> Vec<String> {
        let shown = self.east().volume(volume);
        let members = shown["members"].as_array().expect("a volume has members");
        members.iter().filter_map(|member| member["site"].as_str().map(str::to_string)).collect()
    }

    /// What each site's replicator has used since it was started.
    pub fn usage(&self) -> Result<Vec<Usage>, String> {
        self.pids().into_iter().map(Usage::of).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A loop device must not outlive its replicator.
        if let Some((volume, ..)) = self.attached.take() {
            let _ = self.east().try_run(&["volume", "detach", &volume]);
        }
    }
}

/// Whether there can be loop devices over FUSE files here; else why not.
pub fn fuse_is_there() -> Result<(), String> {
    for path in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(path).exists() {
            return Err(format!("no {path} here"));
        }
    }
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("loop devices need root".into()) }
}
