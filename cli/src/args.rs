//! Every verb and its arguments. The texts here are what `--help` shows.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use farshore_replicator::config::{CONFIG_PATH, SOCKET_PATH};

use crate::distance_args::DistanceArgs;
use crate::failure::EXIT_CODES;
use crate::selection::{Labels, Selection, Which};
use crate::snapshot_args::SnapshotVerb;
use crate::values::{self, OnQuorumLoss, Place, Quorum, Votes};

/// Synchronous cross-cluster block storage: the command line.
///
/// Any node's replicator knows and commands every volume of its site.
#[derive(Debug, Parser)]
#[command(name = "farshore", version, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The replicator's unix socket
    #[arg(long, global = true, env = "FARSHORE_SOCKET", default_value = SOCKET_PATH, value_name = "PATH")]
    pub socket: PathBuf,
    /// How the answer is written
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// How long to wait for the replicator's answer
    #[arg(long, global = true, value_parser = values::duration, default_value = "120s", value_name = "DURATION")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; its look may change
    Table,
    /// One document; field names are stable
    Json,
    /// The same fields as json
    Yaml,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Roles, members, lag, leases, and what the loss of each site would cost now
    Status(StatusArgs),
    /// Create, list, show, delete, attach, detach, set, resize
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Who holds a copy and who votes; every change is online
    #[command(subcommand)]
    Member(MemberVerb),
    /// Make this site primary
    Promote(PromoteArgs),
    /// Give the right to write up; refused while a device is attached
    Demote(Selection),
    /// Move the primary to another site without losing anything
    Switchover {
        #[command(flatten)]
        selection: Selection,
        /// The site, or site/node, that takes over
        #[arg(long, value_name = "SITE[/NODE]")]
        to: Place,
        /// Where the copy there is not in sync yet, wait until it is
        #[arg(long)]
        wait: bool,
    },
    /// Take over, here, the volumes whose primary is in a lost site
    Failover {
        /// The lost site
        #[arg(long, value_name = "SITE")]
        from: Place,
        /// Only these volumes
        #[arg(long = "volume", value_name = "VOLUME", num_args = 1.., value_delimiter = ',')]
        volumes: Vec<String>,
        #[command(flatten)]
        labels: Labels,
        /// Go on with fewer copies where the policy can't be met without the lost site (two sites and a witness)
        #[arg(long)]
        reduce: bool,
    },
    /// Bring replicas back that fell out or diverged
    Resync(ResyncArgs),
    /// Verify this site's copy now, and repair what is damaged from the other sites
    Scrub {
        volume: String,
        /// Wait until it is done
        #[arg(long)]
        wait: bool,
    },
    /// The sites this one knows
    #[command(subcommand)]
    Site(SiteVerb),
    /// The private CA and the nodes' certificates; needs no replicator
    #[command(subcommand)]
    Cert(CertVerb),
    /// Read a journal or store on disk, also a damaged one; needs no replicator, changes nothing
    #[command(subcommand)]
    Inspect(InspectVerb),
    /// Moments of volumes: create, list, show, delete, restore, clone, diff, export, import, update
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Back to a site that was lost: its copies are made whole, then the primary moves there
    ///
    /// All volumes that have a copy there, when none is named or chosen.
    Failback(FailbackArgs),
    /// Rehearse a failover on clones of the newest image here; the volumes themselves go on untouched
    ///
    /// Several volumes are cloned as of one moment.
    /// For example: farshore drill orders -- sh -c 'mount -o ro "$FARSHORE_DEVICE" /mnt && check-orders /mnt'
    Drill(DrillArgs),
    /// Keep a site from being the primary's; if it is, its device fails and its right to write ends
    ///
    /// For all volumes that have a member there, when none is named or chosen. It lasts until it is lifted with unfence.
    Fence(FenceArgs),
    /// Let a site that was fenced be the primary's again
    Unfence(FenceArgs),
    /// Check this machine, its configuration and its peers, and name remedies
    Doctor {
        /// The replicator's configuration file
        #[arg(long, default_value = CONFIG_PATH, value_name = "PATH")]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Names or ids; all when left out
    pub volumes: Vec<String>,
    /// Go on until interrupted; json is one document per line
    #[arg(short, long)]
    pub watch: bool,
    /// Between two reports
    #[arg(long, value_parser = values::duration, default_value = "1s", value_name = "DURATION", requires = "watch")]
    pub interval: Duration,
    /// End after this many reports
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// Create a volume on every member
    ///
    /// For example: farshore volume create pg --size 10GiB --members east,west,north
    Create(Box<CreateArgs>),
    /// Every volume of this site
    #[command(alias = "ls")]
    List,
    /// One volume, in full
    Show { volume: String },
    /// What the loss of each site would have cost: the worst seen in each minute and hour, as this node remembers it
    Losses { volume: String },
    /// Delete every replica's data; refused while attached
    #[command(alias = "rm")]
    Delete {
        volume: String,
        /// Do it; without it nothing happens
        #[arg(long)]
        yes: bool,
    },
    /// Make the volume a device on this node
    Attach(AttachArgs),
    /// Close the device; answers when nothing can still be written through it
    Detach {
        volume: String,
        /// Only if this session is attached (32 hex digits)
        #[arg(long)]
        session: Option<String>,
        /// Close the device, and leave the node the right to it
        #[arg(long, conflicts_with = "force")]
        keep_published: bool,
        /// Also if it is in use, or its node can't be reached: what still uses it gets errors
        #[arg(long)]
        force: bool,
        /// Only from this node of the site
        #[arg(long, requires = "force")]
        node: Option<String>,
    },
    /// Change the policy of a volume in use; what is not named stays
    ///
    /// For example: farshore volume set pg --quorum all-remotes
    #[command(group = clap::ArgGroup::new("what").args(["quorum", "durability", "on_quorum_loss", "mode", "fallback", "promote_observer", "iops", "bandwidth"]).required(true).multiple(true))]
    Set {
        volume: String,
        /// As in `volume create`; the old and the new rule hold until what is acknowledged is safe under the new one
        #[arg(long)]
        quorum: Option<Quorum>,
        /// write: at once; flush: from the next attach on
        #[arg(long, value_enum)]
        durability: Option<DurabilityArg>,
        #[arg(long, value_name = "freeze|fence:DURATION")]
        on_quorum_loss: Option<OnQuorumLoss>,
        /// How many requests the device takes in a second; 0 for no limit; at once
        #[arg(long)]
        iops: Option<u64>,
        /// How many bytes it reads and writes in a second, such as 50MiB; 0 for no limit
        #[arg(long, value_parser = values::size, value_name = "SIZE")]
        bandwidth: Option<u64>,
        #[command(flatten)]
        distance: DistanceArgs,
    },
    /// Grow the volume, online
    Resize {
        volume: String,
        #[arg(value_parser = values::size)]
        size: u64,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// 1 to 63 of a-z, 0-9, - and .
    pub name: String,
    /// Such as 10GiB; a multiple of 4 KiB
    #[arg(long, value_parser = values::size)]
    pub size: u64,
    /// Sites, or site/node, that hold data; the first is the first primary's
    #[arg(long, required = true, value_delimiter = ',', value_name = "SITE[/NODE],..")]
    pub members: Vec<Place>,
    /// A site that votes and holds no data
    #[arg(long, value_delimiter = ',', value_name = "SITE[/NODE],..")]
    pub witness: Vec<Place>,
    /// A site that holds data outside the quorum
    #[arg(long, value_delimiter = ',', value_name = "SITE[/NODE],..")]
    pub observer: Vec<Place>,
    /// Who has more than one vote: of two sites, one that has two decides alone, and the other never
    #[arg(long, value_delimiter = ',', value_name = "SITE[/NODE]=VOTES,..")]
    pub votes: Vec<Votes>,
    /// When a write is acknowledged: majority, nearest-remote, all-remotes, all, or numbers: w=2,minRemote=1 with ,local where wanted
    ///
    /// What each one trades latency for, with three sites:
    ///   majority        the two fastest, one of them remote; any one site may be lost, the other two take over
    ///   nearest-remote  the local copy and the fastest remote; as majority, but the local copy must be among them
    ///   all-remotes     every remote; each of them can take over alone, and none may be away while writing
    ///   all             every copy; each can take over alone, and the loss of any one stops writes
    ///   numbers         w copies, at least minRemote in other sites, and with `local` the primary's own
    #[arg(long, default_value = "majority", verbatim_doc_comment)]
    pub quorum: Quorum,
    /// What is on the quorum: every write, or what a flush covers
    #[arg(long, value_enum, default_value_t = DurabilityArg::Write)]
    pub durability: DurabilityArg,
    /// The device's block size in bytes
    #[arg(long, default_value = "4096", value_parser = ["4096", "512"])]
    pub block_size: String,
    /// How long reads may be served without hearing from a quorum
    #[arg(long, value_parser = values::duration, default_value = "4s", value_name = "DURATION")]
    pub lease: Duration,
    /// freeze: I/O waits; fence:30s: after that the device fails
    #[arg(long, default_value = "freeze", value_name = "freeze|fence:DURATION")]
    pub on_quorum_loss: OnQuorumLoss,
    /// How many requests the device takes in a second; 0 for no limit
    #[arg(long, default_value_t = 0)]
    pub iops: u64,
    /// How many bytes it reads and writes in a second, such as 50MiB; 0 for no limit
    #[arg(long, value_parser = values::size, default_value = "0", value_name = "SIZE")]
    pub bandwidth: u64,
    #[command(flatten)]
    pub distance: DistanceArgs,
    /// Kept with the volume in every site
    #[arg(long = "label", value_parser = values::label, value_name = "KEY=VALUE")]
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityArg {
    /// Every completed write is durable on the quorum
    Write,
    /// Completed and flushed writes are; the device has a write cache
    Flush,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    pub volume: String,
    /// auto takes the best one this machine can do
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// The device takes no writes; it is the volume's only one all the same, unless the volume was made read-only
    #[arg(long)]
    pub read_only: bool,
    /// On another node of this site
    #[arg(long, default_value = "", hide_default_value = true)]
    pub node: String,
    /// Only give the node the right to it; the same with --session makes the device
    #[arg(long)]
    pub publish_only: bool,
    /// Of an attach that was published (32 hex digits)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub session: String,
    /// Only if the session is published on the node still: one that was detached stays so
    #[arg(long, requires = "session", conflicts_with = "publish_only")]
    pub published: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    Auto,
    Ublk,
    Nbd,
    Fuse,
}

#[derive(Debug, Subcommand)]
pub enum MemberVerb {
    /// Give a site a copy, or a vote
    Add {
        volume: String,
        place: Place,
        #[arg(long, value_enum, default_value_t = KindArg::Data)]
        kind: KindArg,
        /// Wait until it is in the sync set, with a progress bar
        #[arg(long)]
        wait: bool,
    },
    /// Take a site's copy or vote away
    Remove { volume: String, place: Place },
    /// Renew a member whose disk is gone, or let another node or site take its place
    Replace {
        volume: String,
        /// The member that goes
        place: Place,
        /// Who takes its place; left out: the same node, with the disk it has now
        #[arg(long, value_name = "SITE[/NODE]")]
        with: Option<Place>,
        /// Wait until it is in the sync set, with a progress bar
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    Data,
    Witness,
    Observer,
}

#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub selection: Selection,
    /// Every volume of this site that is not primary here
    #[arg(long, conflicts_with_all = ["force", "members", "volumes", "selector", "group", "site"])]
    pub all: bool,
    /// Begin a new lineage without a quorum; says first what that gives up
    #[arg(long, requires = "members", conflicts_with_all = ["selector", "group", "site"])]
    pub force: bool,
    /// With --force: the members of the new lineage
    #[arg(long, requires = "force", value_delimiter = ',', value_name = "SITE[/NODE],..")]
    pub members: Vec<Place>,
    /// With --force: carry it out
    #[arg(long, requires = "force")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct ResyncArgs {
    #[command(flatten)]
    pub selection: Selection,
    /// Only this member; all that need it when left out
    #[arg(long, value_name = "SITE[/NODE]")]
    pub member: Option<Place>,
    /// Make the member's copy anew; what it holds of another history is kept there, as a volume diverged-…
    #[arg(long)]
    pub discard: bool,
    /// Wait until it is done, with a progress bar
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct FenceArgs {
    /// The site that may not be written in
    #[arg(value_name = "SITE")]
    pub site: Place,
    /// Only these volumes, names or ids
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
    #[command(flatten)]
    pub labels: Labels,
}

#[derive(Debug, Args)]
pub struct FailbackArgs {
    #[command(flatten)]
    pub selection: Selection,
    /// The site, or site/node, to go back to
    #[arg(long, value_name = "SITE[/NODE]")]
    pub to: Place,
    /// Make a copy anew that has a history of its own; that is kept there, as a volume diverged-…
    #[arg(long)]
    pub discard: bool,
}

#[derive(Debug, Args)]
pub struct DrillArgs {
    /// As it is now, or as this site has it; of a snapshot: as it was then
    #[arg(value_name = "VOLUME|VOLUME@NAME")]
    pub volumes: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// Of several volumes each one's newest image here, of different moments
    #[arg(long, conflicts_with = "end")]
    pub apart: bool,
    /// auto takes the best one this machine can do
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// Leave the clones attached, until --end
    #[arg(long, conflicts_with = "end")]
    pub keep: bool,
    /// Remove what a drill that was kept, or cut short, has left
    #[arg(long, conflicts_with = "command")]
    pub end: bool,
    /// Is run with the device's path in FARSHORE_DEVICE, of several volumes with all paths in FARSHORE_DEVICES and the volumes'
    /// names in FARSHORE_VOLUMES, in one order; the drill fails if it does
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum SiteVerb {
    /// Every replicator this one knows, by site
    #[command(alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Make a private CA
    Ca {
        /// The trust domain that every certificate will carry
        #[arg(long, default_value = "farshore.local")]
        domain: String,
        /// Where ca.pem and ca.key go
        #[arg(long)]
        dir: PathBuf,
        #[arg(long, default_value_t = 3650)]
        days: u32,
        /// Overwrite; what the old one issued becomes unusable
        #[arg(long)]
        force: bool,
    },
    /// Issue a node's certificate
    Issue {
        /// The CA's directory
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        site: String,
        #[arg(long)]
        node: String,
        /// Where ca.pem, node.pem and node.key go
        #[arg(long)]
        out: PathBuf,
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Overwrite
        #[arg(long)]
        force: bool,
    },
    /// What the certificates in a file say
    Show { path: PathBuf },
    /// Renew a node's certificate under the same name, with a new key
    Rotate {
        /// The CA's directory
        #[arg(long)]
        ca: PathBuf,
        /// The node's directory
        #[arg(long)]
        out: PathBuf,
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Replace the CA: begin, carry ca.pem to every node, switch, rotate every node, finish
    RotateCa {
        /// The CA's directory
        #[arg(long)]
        ca: PathBuf,
        #[arg(value_enum)]
        step: CaStepArg,
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CaStepArg {
    Begin,
    Switch,
    Finish,
}

#[derive(Debug, Subcommand)]
pub enum InspectVerb {
    /// Segments, groups, volumes and damage of a journal
    Journal { dir: PathBuf },
    /// Volumes, extents, space and damage of a store
    Store {
        dir: PathBuf,
        /// The slab, where it is not in the directory
        #[arg(long, value_name = "PATH")]
        slab: Option<PathBuf>,
    },
}
