//! What was found out about snapshots: snapshots.json. These names are an interface.

use serde::Serialize;

#[derive(Debug, Clone, Default, Serialize)]
pub struct SnapshotFigures {
    /// Latency of the writes under way while a snapshot is made.
    pub snapshot_pause_p99_ms: f64,
    /// The worse of cold and warm reads. None: not measured, as of those below.
    pub read_slowdown_1000_snapshots: Option<f64>,
    /// Of writes to extents that are the volume's own.
    pub write_slowdown_1000_snapshots: Option<f64>,
    /// Cold reads of the last clone right after the chain was made, against those of the first volume.
    pub chain100_slowdown: Option<f64>,
    pub chain100_flattened_slowdown: Option<f64>,
    /// The slower of the differences, and its bytes.
    pub diff_s: f64,
    pub diff_bytes: u64,
    pub pause: Pause,
    pub many: Vec<Many>,
    pub chains: Vec<Chain>,
    pub differences: Vec<Changes>,
    pub took_s: f64,
}

/// Writes of 4 KiB by four writers at once, each with one under way.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Pause {
    pub snapshots: usize,
    /// Writes that were under way at some time while a snapshot was asked for and made.
    pub writes_beside: u64,
    pub beside_p50_ms: f64,
    pub beside_p99_ms: f64,
    pub beside_max_ms: f64,
    /// The same while a snapshot is only shown: what the command line itself costs on the same machine.
    pub shown_p99_ms: f64,
    pub without_p50_ms: f64,
    pub without_p99_ms: f64,
    pub cuts: usize,
    pub cut_rtt_ms: u32,
    /// How long completions were held for a cut over two volumes, led from two sites.
    pub cut_held_p99_ms: f64,
}

/// A volume with so many snapshots. Ratios are to the one with none, measured beside it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Many {
    pub snapshots: u32,
    /// With the writes between them.
    pub made_ms_each: f64,
    /// 4 KiB reads, one for each extent, after a restart: nothing is remembered of the index.
    pub cold_read_us: f64,
    pub cold_read_ratio: f64,
    pub reads_per_s: f64,
    pub read_ratio: f64,
    /// To extents that the volume wrote since the last snapshot.
    pub writes_per_s: f64,
    pub write_ratio: f64,
}

/// The last clone of a chain of so many.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Chain {
    pub clones: u32,
    /// A clone and the snapshot of it.
    pub made_ms_each: f64,
    /// 4 KiB reads, one for each extent, by the clone's first reader.
    pub read_us: f64,
    pub ratio: f64,
    /// The same after flattening and a restart.
    pub flattened_read_us: f64,
    pub flattened_ratio: f64,
    /// 4 KiB, sixteen at a time, to extents that are the clone's own; the ratio is to the first volume.
    pub writes_per_s: f64,
    pub write_ratio: f64,
}

/// What changed between two snapshots of a thin volume.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Changes {
    pub volume_bytes: u64,
    pub piece_kib: u32,
    pub written_s: f64,
    /// Until the command line has all of it, by the median of some.
    pub seconds: f64,
    /// That changed, as told.
    pub bytes: u64,
    /// Of the answer, as JSON.
    pub answer_bytes: u64,
    /// Of the index on disk, all of it.
    pub index_bytes: u64,
}
