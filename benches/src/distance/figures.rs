//! What was found out about distance: distance.json. These names are an interface.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct DistanceFigures {
    /// A whole volume for a new member, over loopback.
    pub ship_mib_s: f64,
    /// Bytes shipped ÷ bytes of the volume that were ever written.
    pub ship_ratio: f64,
    /// Bytes on the link ÷ bytes shipped, of a volume whose data can be compressed to a half.
    pub ship_packed_ratio: f64,
    /// p50 of writes beside a shipment ÷ p50 without, over the link below; the shipment's rate meanwhile is in `shipping`.
    pub foreground_slowdown: f64,
    /// Bytes shipped to a member that was away ÷ bytes of the distinct 4 KiB blocks written meanwhile, before compression.
    pub resync_ratio: f64,
    /// From the site's end until the verb's answer, by volumes; each has a lease of 1 s to run out.
    pub failover_s: BTreeMap<usize, f64>,
    /// By volumes.
    pub switchover_s: BTreeMap<usize, f64>,
    pub shipping: Shipping,
    pub outage: Outage,
    pub took_s: f64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Shipping {
    pub volume_bytes: u64,
    /// One client's sequential writes of 128 KiB, of the same bytes, to the same disk without us.
    pub disk_mib_s: f64,
    pub rtt_ms: u32,
    pub link_mbit_s: f64,
    /// The volume's bytes in a second, of what the link carries.
    pub link_share: f64,
    /// 300 writes of 4 KiB a second that wait for every remote.
    pub foreground_alone_p50_us: f64,
    pub foreground_beside_p50_us: f64,
    /// What the shipment sent meanwhile: bulk yields to the foreground, and this says how far.
    pub bulk_beside_mbit_s: f64,
}

/// One site away while the others went on.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Outage {
    pub seconds: f64,
    pub written_mib_s: f64,
    pub written_bytes: u64,
    /// Of the blocks written, each once.
    pub distinct_bytes: u64,
    pub shipped_bytes: u64,
    /// From the start of its replicator until it is in sync.
    pub resync_s: f64,
}
