//! The product as the demo sees it: the command line, its exit codes, and its JSON.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{DemoError, Result};
use crate::process::run;

/// Longer than anything the demo asks for may take; a promotion waits for the old lease.
const LIMIT: Duration = Duration::from_secs(40);

/// The binaries.
#[derive(Debug, Clone)]
pub struct Farshore {
    cli: PathBuf,
    pub replicator: PathBuf,
}

// What the demo reads of the answers; they hold more.

#[derive(Debug, Deserialize)]
pub struct Status {
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    pub name: String,
    pub allocated_bytes: u64,
    pub members: Vec<Member>,
    pub acked_seq: u64,
    pub loss: Vec<Loss>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    pub site: String,
    pub connected: bool,
    pub in_sync_set: bool,
    pub state: String,
    pub reason: String,
    pub lag_records: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Loss {
    pub site: String,
    pub records: u64,
    pub bytes: u64,
    pub exact: bool,
    pub text: String,
    pub promote_records: u64,
    /// Absent: it is not known.
    pub promote_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Drill {
    pub clone: String,
    pub device: PathBuf,
}

#[derive(Debug, Deserialize)]
pub struct Attached {
    pub device: Device,
}

#[derive(Debug, Deserialize)]
pub struct Device {
    pub kind: String,
    pub path: String,
}

#[derive(Debug, Deserialize)]
pub struct Results {
    pub results: Vec<Moved>,
}

#[derive(Debug, Deserialize)]
pub struct Moved {
    pub volume: String,
    pub ok: bool,
}

#[derive(Debug, Deserialize)]
pub struct Peers {
    pub peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
pub struct Peer {
    pub site: String,
    pub connected: bool,
    pub reason: String,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Volume {
    pub fn member(&self, site: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.site == site)
    }
}

impl Farshore {
    pub fn find(bin_dir: &Path) -> Result<Self> {
        let found = |name: &str| {
            let path = bin_dir.join(name);
            let remedy = "build it (make demo does), or name its folder with --bin-dir";
            let missing =
                DemoError::Missing { what: format!("{} is not there", path.display()), remedy: remedy.into() };
            if path.exists() { Ok(path) } else { Err(missing) }
        };
        Ok(Self { cli: found("farshore")?, replicator: found("farshore-replicator")? })
    }

    /// A verb that answers with JSON.
    pub fn ask<T: DeserializeOwned>(&self, socket: &Path, args: &[&str]) -> Result<T> {
        let mut command = Command::new(&self.cli);
        command.args(args).args(["-o", "json", "--socket"]).arg(socket);
        let text = run(&mut command, LIMIT)?.stdout;
        let failed = |source| DemoError::Answer { command: format!("farshore {}", args.join(" ")), source };
        serde_json::from_str(&text).map_err(failed)
    }

    /// A verb whose answer is of no interest here.
    pub fn tell(&self, socket: &Path, args: &[&str]) -> Result<()> {
        self.ask::<serde_json::Value>(socket, args).map(drop)
    }

    /// Certificates need no replicator.
    pub fn cert(&self, args: &[&str]) -> Result<()> {
        run(Command::new(&self.cli).arg("cert").args(args), LIMIT).map(drop)
    }
}
