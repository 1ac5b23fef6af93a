//! What is read when somebody scrapes.

use farshore_proto::v1 as api;
use futures_util::future::BoxFuture;

use crate::latency::LatencyReading;

/// Implemented by the engine.
pub trait MetricsSource: Send + Sync + 'static {
    /// Everything at this moment. Given up on after [`super::http::SCRAPE_TIMEOUT`].
    fn readings(&self) -> BoxFuture<'_, Readings>;

    /// `/healthz`: Err when only a restart can help (the engine's tasks ended, the journal is poisoned).
    fn health(&self) -> Health;

    /// `/readyz`: Err while recovery runs, or when verbs can't be served.
    fn readiness(&self) -> Health;
}

/// Ok, or why not, in one line.
pub type Health = Result<(), String>;

#[derive(Debug, Clone, Default)]
pub struct Readings {
    pub node: NodeReading,
    pub volumes: Vec<VolumeReading>,
    pub peers: Vec<api::Peer>,
}

#[derive(Debug, Clone, Default)]
pub struct NodeReading {
    pub site: String,
    pub node: String,
    pub journal: JournalReading,
    pub store: StoreReading,
    pub resync: ResyncReading,
    pub conditions: Vec<api::Condition>,
}

#[derive(Debug, Clone, Default)]
pub struct JournalReading {
    /// io_uring | threads
    pub engine: String,
    pub used_bytes: u64,
    pub budget_bytes: u64,
    pub written_bytes_total: u64,
    pub records_total: u64,
    /// One sync covers every volume's records of a group.
    pub sync: LatencyReading,
    pub poisoned: bool,
}

#[derive(Debug, Clone, Default)]
pub struct StoreReading {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub checksum_errors_total: u64,
    pub repaired_blocks_total: u64,
    pub scrubbed_bytes_total: u64,
}

/// Images that this node ships to other members, and is shipped.
#[derive(Debug, Clone, Default)]
pub struct ResyncReading {
    pub sent_bytes_total: u64,
    pub packed_bytes_total: u64,
    pub zero_bytes_total: u64,
    pub same_bytes_total: u64,
    pub received_bytes_total: u64,
    pub resumed_total: u64,
    pub mismatches_total: u64,
}

#[derive(Debug, Clone, Default)]
pub struct VolumeReading {
    /// As `farshore status` shows it.
    pub status: api::VolumeStatus,
    pub read: IoReading,
    pub write: IoReading,
    pub flush: IoReading,
    /// Discard and write-zeroes.
    pub discard: IoReading,
}

/// One kind of request at the device.
#[derive(Debug, Clone, Default)]
pub struct IoReading {
    pub bytes_total: u64,
    pub errors_total: u64,
    /// From the request's arrival to its completion. Its count is the number of requests.
    pub latency: LatencyReading,
}
