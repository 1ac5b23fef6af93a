//! What the process is told when it is started.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::places::NodeId;

/// Which services are offered. Identity always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// For the cluster: volumes, publishing, snapshots, replication.
    Controller,
    /// For this node: devices, filesystems, mounts.
    Node,
    All,
}

impl Mode {
    pub fn controller(self) -> bool {
        self != Mode::Node
    }

    pub fn node(self) -> bool {
        self != Mode::Controller
    }
}

#[derive(Debug, Clone, Parser)]
#[command(name = "farshore-csi", version, about = "Farshore's CSI driver: in front of this node's replicator")]
pub struct Args {
    /// The socket on which CSI is offered
    #[arg(long, default_value = "unix:///run/farshore/csi.sock", value_parser = endpoint)]
    pub endpoint: PathBuf,
    /// The replicator's control socket
    #[arg(long, default_value = "/run/farshore/replicator.sock")]
    pub replicator: PathBuf,
    /// SITE/NODE, as in the configuration of this node's replicator; asked of the replicator when left out
    #[arg(long)]
    pub node_id: Option<NodeId>,
    #[arg(long, value_enum, default_value = "all")]
    pub mode: Mode,
    /// How many volumes may be published on one node; 0: as many as its journal carries
    #[arg(long, default_value_t = 0)]
    pub max_volumes_per_node: u32,
    /// Nothing is kept there any more: a volume's own label says that a filesystem is being made on it
    #[arg(long, default_value = "/var/lib/farshore/csi")]
    pub state_dir: PathBuf,
    /// Asks Kubernetes, as the pod's ServiceAccount: volumes remember whose claim they are, and one that a failover brought
    /// here gets its PersistentVolume
    #[arg(long)]
    pub kubernetes: bool,
    /// Namespaces in which such a volume gets its claim, too; * for all. Without --kubernetes nothing is made
    #[arg(long, value_delimiter = ',', requires = "kubernetes")]
    pub claims_in: Vec<String>,
    /// level, or level,module=level
    #[arg(long, env = "FARSHORE_CSI_LOG", default_value = "info")]
    pub log: String,
}

/// `unix:///path`, `unix:/path` or a path.
fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(format!("{text:?} is no unix socket; write for example unix:///run/farshore/csi.sock")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for good in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(endpoint(good), Ok("/run/a.sock".into()), "{good}");
        }
        for bad in ["", "a.sock", "tcp://127.0.0.1:1", "unix://a.sock"] {
            assert!(endpoint(bad).unwrap_err().contains("unix:///run"), "{bad}");
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let args = Args::parse_from(["farshore-csi"]);
        assert!(args.mode.controller() && args.mode.node() && args.node_id.is_none());
        assert!(Args::try_parse_from(["farshore-csi", "--node-id", "east"]).is_err());
        assert!(Args::try_parse_from(["farshore-csi", "--claims-in", "shop"]).is_err());
        let args = Args::parse_from(["farshore-csi", "--kubernetes", "--claims-in=shop,crm"]);
        assert_eq!(args.claims_in, ["shop", "crm"]);
    }
}
