//! What a run has found out, as it is written to files.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::allocations::Allocations;
use crate::limits::Limits;
use crate::machine::Machine;
use crate::reference::ReadReference;
use crate::stage::{Device, Durability};
use crate::targets::Target;
use crate::wan::WanFigures;

/// One line of the matrix: an element of latest.json. These names are an interface.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub workload: String,
    pub device: Device,
    pub durability: Durability,
    pub rtt_ms: u32,
    pub iops: f64,
    pub mib_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Writes: what the quorum can't be faster than (class flush: what the local disk can't). Reads and mixes: the raw
    /// disk under the same load, where it was measured.
    pub limit_p50_us: Option<f64>,
    /// 4 KiB append and fdatasync.
    pub limit_local_us: f64,
    /// p50_us ÷ limit_p50_us.
    pub ratio: Option<f64>,
    /// Of all three replicators together, what they do for it afterwards included.
    pub cpu_us_per_io: f64,
}

/// Beside a row: what each replica's disk had to write for it.
#[derive(Debug, Clone, Serialize)]
pub struct Written {
    pub workload: String,
    pub device: Device,
    pub durability: Durability,
    pub rtt_ms: u32,
    pub user_bytes: u64,
    /// By site: bytes to the block layer, journal, store and index, until the checkpoint after the row.
    pub written_bytes: BTreeMap<String, u64>,
    /// The checkpoint came in time; else what is missing here is counted nowhere.
    pub settled: bool,
}

impl Written {
    /// Bytes that a replica wrote per byte of the user, the worst of the sites.
    pub fn amplification(&self) -> f64 {
        let most = self.written_bytes.values().max().copied().unwrap_or(0);
        most as f64 / self.user_bytes.max(1) as f64
    }

    /// Bytes that all replicas wrote per byte of the user.
    pub fn total(&self) -> f64 {
        self.written_bytes.values().sum::<u64>() as f64 / self.user_bytes.max(1) as f64
    }
}

/// Everything but the rows: details.json.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    pub machine: Machine,
    /// What this run was asked for, as it can be asked for again.
    pub command: String,
    pub seconds_per_row: u64,
    pub volume_bytes: u64,
    pub took_s: f64,
    pub limits: Limits,
    pub written: Vec<Written>,
    pub reads: Option<ReadReference>,
    pub wan: Vec<WanFigures>,
    pub allocations: Vec<Allocations>,
    pub targets: Vec<Target>,
    /// What could not be measured here, and why.
    pub skipped: Vec<String>,
}
