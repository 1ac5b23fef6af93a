//! The daemon's configuration file: `/etc/farshore/replicator.toml`.
//!
//! Everything has a default but the names of the site and the node. Unknown keys are refused with the nearest known
//! one. Volumes are not configured here: they are created through the API and live with their replicas.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

pub const CONFIG_PATH: &str = "/etc/farshore/replicator.toml";
pub const SOCKET_PATH: &str = "/run/farshore/replicator.sock";
/// Between sites. The one port that must be reachable, in one direction.
pub const UDP_PORT: u16 = 7441;
/// `/metrics`, `/healthz`, `/readyz`.
pub const HTTP_PORT: u16 = 7442;
/// A larger file is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;
const PEERS_MAX: usize = 1_024;
/// One segment must hold the largest record with room to spare.
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// One is written, one is recycled, two give the syncs room.
const SEGMENTS_MIN: u64 = 4;
/// Keep-alives are sent six times as often; below this they would be traffic.
const IDLE_TIMEOUT_MS_MIN: u64 = 500;
const IDLE_TIMEOUT_MS_MAX: u64 = 300_000;
/// Slower, a shipment would never be done.
const SHIP_RATE_MIN: u64 = 256 << 10;
/// Slower, a copy would never be done.
const SCRUB_RATE_MIN: u64 = 64 << 10;
const PLACE_LEN_MAX: usize = 63;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {}: {source}; start from the example in deploy/replicator.example.toml", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes, which is more than any configuration needs ({FILE_BYTES_MAX})", .path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{}: {reason}", .path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{}: {key} is not a known key; {hint}", .path.display())]
    UnknownKey { path: PathBuf, key: String, hint: String },
    #[error("{}: {key} = {found}: {reason}", .path.display())]
    Value { path: PathBuf, key: &'static str, found: String, reason: String },
}

/// A number of bytes, written as `1073741824`, `"1GiB"` or `"512 MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SUFFIXES: [(&str, u64); 6] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a size; write for example 10GiB, 512MiB or 1073741824");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| expected())?;
        let factor = match text[digits..].trim() {
            "" => 1,
            suffix => SUFFIXES.into_iter().find(|s| s.0 == suffix).ok_or_else(expected)?.1,
        };
        number.checked_mul(factor).map(ByteSize).ok_or_else(|| format!("{text} is more than can be counted"))
    }
}

/// The largest unit that divides it, so that it reads back as the same number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SUFFIXES.into_iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (suffix, factor) = unit.unwrap_or(("B", 1));
        write!(f, "{}{suffix}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size like \"1GiB\", or a number of bytes")]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(ByteSize(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// The whole file, checked and with every default filled in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    #[serde(default)]
    pub transport: Transport,
    #[serde(default)]
    pub peers: Vec<Peer>,
    #[serde(default)]
    pub control: Control,
    #[serde(default)]
    pub http: Http,
    #[serde(default)]
    pub journal: Journal,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub nbd: Nbd,
    #[serde(default)]
    pub device: Device,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub site: String,
    pub node: String,
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// Threads that carry requests and messages; 0: half of the cores. The journal and whatever blocks have their own.
    #[serde(default)]
    pub worker_threads: usize,
}

impl Node {
    /// More threads than that hand each other every request, and on few cores they take them from the disk's.
    pub fn workers(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            told => told,
        }
    }
}

fn default_data_dir() -> PathBuf {
    "/var/lib/farshore".into()
}

fn default_runtime_dir() -> PathBuf {
    "/run/farshore".into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// By delay: for long links, also such that lose packets at random.
    Delay,
    /// By loss: for links that others fill the queues of.
    Cubic,
    Bbr,
    /// A constant window of `window_bytes`, for provisioned links.
    Fixed,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transport {
    pub listen: SocketAddr,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub congestion: Congestion,
    /// For [`Congestion::Fixed`].
    pub window_bytes: ByteSize,
    /// A peer that says nothing for this long is taken as gone.
    pub idle_timeout_ms: u64,
    /// What this node's shipments together may send in a second, to all sites. Left out: no limit.
    pub ship_bytes_per_second: Option<ByteSize>,
}

impl Default for Transport {
    fn default() -> Self {
        let pki = Path::new("/etc/farshore/pki");
        Self {
            listen: SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), UDP_PORT),
            ca: pki.join("ca.pem"),
            cert: pki.join("node.pem"),
            key: pki.join("node.key"),
            congestion: Congestion::Delay,
            window_bytes: ByteSize(2 << 20),
            idle_timeout_ms: 3_000,
            ship_bytes_per_second: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub site: String,
    pub node: String,
    /// `host:port`. Without it the peer dials us.
    pub address: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// `runtime_dir/replicator.sock` when left out.
    pub socket: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), HTTP_PORT) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalEngine {
    /// io_uring where the kernel allows it, else threads.
    Auto,
    IoUring,
    Threads,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    pub engine: JournalEngine,
    pub budget_bytes: ByteSize,
    pub segment_bytes: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self { engine: JournalEngine::Auto, budget_bytes: ByteSize(1 << 30), segment_bytes: ByteSize(64 << 20) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// What the replicas of this node may take. Left out: what the file system has, less a reserve.
    pub capacity_bytes: Option<ByteSize>,
    /// Where the extents go, if not into a file in data_dir: a raw device, or a file elsewhere.
    pub slab: Option<PathBuf>,
    /// Every copy is verified once in so many seconds; 0: only when asked for.
    pub scrub_interval_s: u64,
    /// What verifying may read of this node's disks.
    pub scrub_bytes_per_second: ByteSize,
    /// With less of the capacity free, no more snapshots are made: what they would keep is left for writes.
    pub snapshots_free_percent: u8,
}

impl Default for Store {
    fn default() -> Self {
        let (scrub_interval_s, scrub_bytes_per_second) = (7 * 24 * 3600, ByteSize(16 << 20));
        let snapshots_free_percent = 10;
        Self { capacity_bytes: None, slab: None, scrub_interval_s, scrub_bytes_per_second, snapshots_free_percent }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Nbd {
    /// `runtime_dir/nbd.sock` when left out.
    pub socket: PathBuf,
    /// Also serve NBD here. Anywhere but on loopback only with the three below.
    pub tcp: Option<SocketAddr>,
    /// TLS on `tcp`: the authority that signs the clients' certificates, and the server's own certificate and key (PEM).
    /// All three or none.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// The socket of the farshore-device that holds this node's block devices, so that they outlive this daemon. Left
    /// out: this daemon holds them itself, and they end with it.
    pub process: Option<PathBuf>,
    /// Who writes where a device is on a node without a copy of its volume.
    pub without_copy: WithoutCopy,
}

/// How a device on a node without a copy reaches its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum WithoutCopy {
    /// This node holds the epoch, and writes to all members itself. Where it can't (class flush, a member of an older
    /// version, one that this node does not reach) as with `member`.
    #[default]
    Direct,
    /// A member of the site that has a copy serves it.
    Member,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `level`, or `level,module=level`.
    pub filter: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

/// Every section and its keys, so that an unknown one can be answered with the nearest. A test holds it to the structs.
const KEYS: [(&str, &[&str]); 10] = [
    ("node", &["site", "node", "data_dir", "runtime_dir", "worker_threads"]),
    (
        "transport",
        &["listen", "ca", "cert", "key", "congestion", "window_bytes", "idle_timeout_ms", "ship_bytes_per_second"],
    ),
    ("peers", &["site", "node", "address"]),
    ("control", &["socket"]),
    ("http", &["listen"]),
    ("journal", &["engine", "budget_bytes", "segment_bytes"]),
    ("store", &["capacity_bytes", "slab", "scrub_interval_s", "scrub_bytes_per_second", "snapshots_free_percent"]),
    ("nbd", &["socket", "tcp", "ca", "cert", "key"]),
    ("device", &["process", "without_copy"]),
    ("log", &["filter", "format"]),
];

impl Config {
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_path_buf(), bytes });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// `path` only names the file in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let syntax = |e: toml::de::Error| ConfigError::Syntax { path: path.to_path_buf(), reason: located(&e, text) };
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        refuse_unknown(path, &table)?;
        let mut config: Config = toml::from_str(text).map_err(syntax)?;
        config.fill_in();
        config.check().map_err(|bad| ConfigError::Value {
            path: path.to_path_buf(),
            key: bad.key,
            found: bad.found,
            reason: bad.reason,
        })?;
        Ok(config)
    }

    /// What `--check-config` prints: the few lines an operator compares between nodes.
    pub fn summary(&self) -> String {
        let Config { node, transport, control, http, journal, .. } = self;
        format!(
            "node       {}/{}\ndata       {}\ntransport  {} (UDP), {} peers\ncontrol    {}\nhttp       {}\njournal    {:?}, {} in segments of {}\n",
            node.site,
            node.node,
            node.data_dir.display(),
            transport.listen,
            self.peers.len(),
            control.socket.display(),
            http.listen,
            journal.engine,
            journal.budget_bytes,
            journal.segment_bytes,
        )
    }

    fn fill_in(&mut self) {
        if self.control.socket.as_os_str().is_empty() {
            self.control.socket = self.node.runtime_dir.join("replicator.sock");
        }
        if self.nbd.socket.as_os_str().is_empty() {
            self.nbd.socket = self.node.runtime_dir.join("nbd.sock");
        }
    }

    fn check(&self) -> Result<(), Bad> {
        place("node.site", &self.node.site)?;
        place("node.node", &self.node.node)?;
        let absolute: [(&'static str, &Path); 7] = [
            ("node.data_dir", &self.node.data_dir),
            ("node.runtime_dir", &self.node.runtime_dir),
            ("transport.ca", &self.transport.ca),
            ("transport.cert", &self.transport.cert),
            ("transport.key", &self.transport.key),
            ("control.socket", &self.control.socket),
            ("nbd.socket", &self.nbd.socket),
        ];
        for (key, path) in absolute {
            ensure(path.is_absolute(), key, path.display(), "give an absolute path")?;
        }
        if let Some(slab) = &self.store.slab {
            ensure(slab.is_absolute(), "store.slab", slab.display(), "give an absolute path")?;
        }
        if let Some(process) = &self.device.process {
            ensure(process.is_absolute(), "device.process", process.display(), "give an absolute path")?;
        }
        self.check_nbd()?;
        ensure(
            self.store.scrub_bytes_per_second.0 >= SCRUB_RATE_MIN,
            "store.scrub_bytes_per_second",
            self.store.scrub_bytes_per_second,
            format!("give at least {}; scrub_interval_s = 0 turns it off", ByteSize(SCRUB_RATE_MIN)),
        )?;
        let percent = self.store.snapshots_free_percent;
        ensure(
            percent < 100,
            "store.snapshots_free_percent",
            percent,
            "give 0 to 99; 0 lets snapshots take all there is",
        )?;
        let idle = self.transport.idle_timeout_ms;
        ensure(
            (IDLE_TIMEOUT_MS_MIN..=IDLE_TIMEOUT_MS_MAX).contains(&idle),
            "transport.idle_timeout_ms",
            idle,
            format!("give {IDLE_TIMEOUT_MS_MIN} to {IDLE_TIMEOUT_MS_MAX}"),
        )?;
        let window = self.transport.window_bytes;
        ensure(
            window.0 >= 64 << 10 && window.0 <= 1 << 30,
            "transport.window_bytes",
            window,
            "give 64KiB to 1GiB; two to three times bandwidth × round trip is right",
        )?;
        if let Some(rate) = self.transport.ship_bytes_per_second {
            ensure(
                rate.0 >= SHIP_RATE_MIN,
                "transport.ship_bytes_per_second",
                rate,
                format!("give at least {}, or leave it out for no limit", ByteSize(SHIP_RATE_MIN)),
            )?;
        }
        self.check_journal()?;
        ensure(
            !self.log.filter.trim().is_empty(),
            "log.filter",
            format!("{:?}", self.log.filter),
            "give a level such as info",
        )?;
        self.check_peers()
    }

    fn check_nbd(&self) -> Result<(), Bad> {
        let files = [("nbd.ca", &self.nbd.ca), ("nbd.cert", &self.nbd.cert), ("nbd.key", &self.nbd.key)];
        let given = files.iter().filter(|(_, path)| path.is_some()).count();
        for (key, path) in files {
            match path {
                Some(path) => ensure(path.is_absolute(), key, path.display(), "give an absolute path")?,
                None => ensure(given == 0, key, "nothing", "give ca, cert and key together, or none of them")?,
            }
        }
        let Some(address) = self.nbd.tcp else {
            return ensure(given == 0, "nbd.tcp", "nothing", "give an address: ca, cert and key are for NBD over TCP");
        };
        let reason = "give ca, cert and key too: without TLS, NBD is served on loopback only";
        ensure(address.ip().is_loopback() || given == 3, "nbd.tcp", address, reason)
    }

    fn check_journal(&self) -> Result<(), Bad> {
        let Journal { budget_bytes: budget, segment_bytes: segment, .. } = self.journal;
        ensure(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment.0) && segment.0.is_multiple_of(1 << 20),
            "journal.segment_bytes",
            segment,
            "give whole MiB, from 4MiB to 1GiB",
        )?;
        ensure(
            budget.0 >= SEGMENTS_MIN * segment.0,
            "journal.budget_bytes",
            budget,
            format!("give at least {SEGMENTS_MIN} segments ({})", ByteSize(SEGMENTS_MIN * segment.0)),
        )
    }

    fn check_peers(&self) -> Result<(), Bad> {
        ensure(self.peers.len() <= PEERS_MAX, "peers", self.peers.len(), format!("give up to {PEERS_MAX}"))?;
        let mut seen = BTreeSet::from([(&self.node.site, &self.node.node)]);
        for peer in &self.peers {
            place("peers.site", &peer.site)?;
            place("peers.node", &peer.node)?;
            let name = format!("{}/{}", peer.site, peer.node);
            ensure(seen.insert((&peer.site, &peer.node)), "peers", name, "is this node itself, or listed twice")?;
            if let Some(address) = &peer.address {
                let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
                let good = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|p| p > 0));
                let reason = format!("give host:port, for example west.example.net:{UDP_PORT}");
                ensure(good, "peers.address", format!("{address:?}"), reason)?;
            }
        }
        Ok(())
    }
}

/// A value that can't be used, before the file's name is added.
struct Bad {
    key: &'static str,
    found: String,
    reason: String,
}

fn ensure(good: bool, key: &'static str, found: impl fmt::Display, reason: impl Into<String>) -> Result<(), Bad> {
    if good { Ok(()) } else { Err(Bad { key, found: found.to_string(), reason: reason.into() }) }
}

fn place(key: &'static str, name: &str) -> Result<(), Bad> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let well_formed = (1..=PLACE_LEN_MAX).contains(&name.len())
        && name.chars().all(good)
        && !name.starts_with('-')
        && !name.ends_with('-');
    let reason = format!("use 1 to {PLACE_LEN_MAX} of a-z, 0-9 and '-', not beginning or ending with '-'");
    ensure(well_formed, key, format!("{name:?}"), reason)
}

fn refuse_unknown(path: &Path, table: &toml::Table) -> Result<(), ConfigError> {
    let unknown = |key: String, found: &str, known: &[&str]| {
        let hint = match nearest(found, known) {
            Some(near) => format!("did you mean {near}? Known: {}", known.join(", ")),
            None => format!("known: {}", known.join(", ")),
        };
        ConfigError::UnknownKey { path: path.to_path_buf(), key, hint }
    };
    let sections = KEYS.map(|(section, _)| section);
    for (section, value) in table {
        let Some((_, keys)) = KEYS.into_iter().find(|(name, _)| name == section) else {
            return Err(unknown(section.clone(), section, &sections));
        };
        // A value of another type is left to the typed parse, which says what it expects.
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table).collect(),
            _ => Vec::new(),
        };
        if let Some(key) = tables.iter().flat_map(|t| t.keys()).find(|key| !keys.contains(&key.as_str())) {
            return Err(unknown(format!("{section}.{key}"), key, keys));
        }
    }
    Ok(())
}

/// The known word that is most likely meant. Also used by the CLI for its own keys.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let bound = word.chars().count() / 2 + 1;
    known.iter().map(|k| (edit_distance(word, k), *k)).filter(|(d, _)| *d <= bound.min(4)).min().map(|(_, k)| k)
}

/// Levenshtein's distance, in one row.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn located(error: &toml::de::Error, text: &str) -> String {
    let Some(span) = error.span() else { return error.message().to_string() };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    format!("line {line} ({shown}): {}", error.message())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
