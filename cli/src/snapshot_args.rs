//! The arguments of `farshore snapshot …`. The texts here are what `--help` shows.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::schedule_args::ScheduleVerb;
use crate::values::{self, Place, Quorum};

#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Remember a volume as it is now; I/O goes on. Several volumes are cut at one moment
    ///
    /// For example: farshore snapshot create pg --name before-upgrade
    Create {
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        /// 1 to 63 of a-z, 0-9, - and .; made from the time when left out. The same name again is a no-op
        #[arg(long)]
        name: Option<String>,
        /// Kept with the snapshot
        #[arg(long = "label", value_parser = values::label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// The snapshots of these volumes, or of all
    #[command(alias = "ls")]
    List {
        #[arg(value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// One snapshot, in full
    Show {
        #[arg(value_name = "VOLUME@NAME|ID")]
        snapshot: String,
    },
    /// Delete snapshots; their clones stay as they are
    #[command(alias = "rm")]
    Delete {
        #[arg(required = true, value_name = "VOLUME@NAME|ID")]
        snapshots: Vec<String>,
        /// Do it; without it nothing happens
        #[arg(long)]
        yes: bool,
    },
    /// Make the volume's contents those of the snapshot; refused while attached
    ///
    /// What the volume holds now is kept as a snapshot before-restore-…
    Restore {
        #[arg(value_name = "VOLUME@NAME|ID")]
        snapshot: String,
        /// Do it; without it nothing happens
        #[arg(long)]
        yes: bool,
    },
    /// A new volume that begins with the image of a snapshot, or of a volume as it is now; at once, nothing is copied
    Clone(CloneArgs),
    /// What a snapshot holds that an earlier one does not
    Diff {
        #[arg(value_name = "VOLUME@NAME|ID")]
        snapshot: String,
        /// The earlier snapshot of the same volume; since nothing when left out: all that is stored
        #[arg(long, value_name = "NAME|VOLUME@NAME|ID")]
        since: Option<String>,
    },
    /// Write a snapshot, or what changed since another one, to a file or a pipe
    ///
    /// For example: farshore snapshot export pg@nightly --to pg.fsx
    Export(ExportArgs),
    /// Fill a volume with what an export holds: a new one with --members, else one that is empty and detached
    Import(ImportArgs),
    /// How much a volume's snapshots may hold: beyond that new ones are refused, and writes go on
    #[command(group = clap::ArgGroup::new("bound").required(true))]
    Limit {
        volume: String,
        #[arg(long, group = "bound", value_parser = values::size, value_name = "SIZE")]
        bytes: Option<u64>,
        /// Of the volume's size, also when that grows
        #[arg(long, group = "bound", value_name = "NUMBER")]
        percent: Option<u32>,
        /// As much as there is
        #[arg(long, group = "bound")]
        none: bool,
    },
    /// Snapshots that are made at an interval, and how long they are kept
    #[command(subcommand)]
    Schedule(ScheduleVerb),
    /// Change a snapshot's labels, or keep it from being deleted
    Update {
        #[arg(value_name = "VOLUME@NAME|ID")]
        snapshot: String,
        /// Set a label
        #[arg(long = "label", value_parser = values::label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// Take a label away
        #[arg(long = "unlabel", value_name = "KEY")]
        unlabels: Vec<String>,
        /// Refuse to delete it until this is released
        #[arg(long, value_name = "WHO")]
        hold: Option<String>,
        /// No longer hold it for this
        #[arg(long, value_name = "WHO")]
        release: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct CloneArgs {
    /// A snapshot, or a volume: then one is taken for the clone
    #[arg(value_name = "VOLUME@NAME|ID|VOLUME")]
    pub source: String,
    /// The new volume's name
    pub name: String,
    /// At least the snapshot's; the rest reads zero
    #[arg(long, value_parser = values::size)]
    pub size: Option<u64>,
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// Nobody ever writes it, so that it can be attached, with --read-only, on all nodes that hold a copy at once
    #[arg(long)]
    pub read_only: bool,
    /// Kept with the volume in every site
    #[arg(long = "label", value_parser = values::label, value_name = "KEY=VALUE")]
    pub labels: Vec<(String, String)>,
}

/// Where a new volume lives; left out, where its source does.
#[derive(Debug, Args)]
pub struct LayoutArgs {
    /// Sites, or site/node, that hold data; the first is the first primary's
    #[arg(long, value_delimiter = ',', value_name = "SITE[/NODE],..")]
    pub members: Vec<Place>,
    /// A site that votes and holds no data
    #[arg(long, value_delimiter = ',', value_name = "SITE[/NODE],..", requires = "members")]
    pub witness: Vec<Place>,
    /// When a write is acknowledged; see: farshore volume create --help
    #[arg(long)]
    pub quorum: Option<Quorum>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[arg(value_name = "VOLUME@NAME|ID")]
    pub snapshot: String,
    /// Only what changed since this snapshot of the same volume
    #[arg(long, value_name = "NAME|VOLUME@NAME|ID")]
    pub since: Option<String>,
    /// The file; - for a pipe
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub to: PathBuf,
    /// Go on with a file that was cut, after its last whole chunk
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Overwrite
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The volume to fill
    pub volume: String,
    /// The file; - for a pipe
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub from: PathBuf,
    /// Of the new volume; at least what the export needs
    #[arg(long, value_parser = values::size, requires = "members")]
    pub size: Option<u64>,
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// What the snapshot is called that the volume then has; as in the export when left out
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}
