//! A whole volume for a new member: as fast as disk and processors take it, then over a long link with company.

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_wan::Conditions;

use super::figures::Shipping;
use crate::fio::{self, Extent};
use crate::metrics;
use crate::shipment::{Shipment, foreground};
use crate::snapshots::volumes::until;
use crate::stage::{Device, Durability, Journal, SITES, Stage};
use crate::workload::{Pattern, Workload};

const RTT_MS: u32 = 20;
const LINK_BITS_PER_SECOND: u64 = 400_000_000;
const FOREGROUND: &str = "foreground";
const FOREGROUND_BYTES: u64 = 128 << 20;
const PIECES: Workload = Workload { pattern: Pattern::Write, block_kib: 128, depth: 16 };

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub volume_bytes: u64,
    pub seconds: u64,
}

pub struct Shipped {
    pub mib_s: f64,
    pub ratio: f64,
    pub packed_ratio: f64,
    pub figures: Shipping,
}

impl Shipped {
    pub fn slowdown(&self) -> f64 {
        self.figures.foreground_beside_p50_us / self.figures.foreground_alone_p50_us.max(1e-9)
    }
}

pub fn measure(dir: &Path, scale: Scale) -> Result<Shipped, String> {
    let rtt = Duration::from_millis(RTT_MS.into());
    let link = Conditions::between_sites(rtt);
    let near = Conditions { mtu_bytes: link.mtu_bytes, ..Conditions::default() };
    let mut stage = Stage::set_up(dir, Journal::SHORT, "", near);
    for volume in ["near", "far", "company"] {
        stage.create(volume, scale.volume_bytes, "east,west", "majority", Durability::Write);
        stage.fill(volume)?;
    }
    stage.create("half", scale.volume_bytes / 4, "east,west", "majority", Durability::Write);
    stage.fill_compressible("half")?;
    stage.create(FOREGROUND, FOREGROUND_BYTES, &SITES.join(","), "all-remotes", Durability::Write);
    stage.fill(FOREGROUND)?;
    let disk_mib_s = disk(dir, scale.volume_bytes)?;

    let before = shipped_bytes(&stage)?;
    let bytes_per_second = whole(&Shipment::begin(&stage, "near")?)?;
    let ratio = (shipped_bytes(&stage)? - before) / scale.volume_bytes as f64;

    let (sent, packed) = (shipped_bytes(&stage)?, packed_bytes(&stage)?);
    whole(&Shipment::begin(&stage, "half")?)?;
    let packed_ratio = (packed_bytes(&stage)? - packed) / (shipped_bytes(&stage)? - sent).max(1.0);

    let target = stage.attach(FOREGROUND, Device::Nbd);
    stage.wan().set(link.behind_bottleneck(LINK_BITS_PER_SECOND, rtt));
    let foreground = || foreground(&target, scale.seconds);
    // The link is found out about before anything is held against it.
    let _ = foreground()?;
    let foreground_alone_p50_us = foreground()?;
    let far = whole(&Shipment::begin(&stage, "far")?)?;
    let company = Shipment::begin(&stage, "company")?;
    let (began, before) = (Instant::now(), packed_bytes(&stage)?);
    let foreground_beside_p50_us = foreground()?;
    let bulk_beside_mbit_s = (packed_bytes(&stage)? - before) * 8.0 / 1e6 / began.elapsed().as_secs_f64();
    if company.done() {
        return Err(
            "the shipment ended before the writes beside it were measured; do: report this, with the log".into()
        );
    }
    // A device is closed over a fast link.
    stage.wan().set(Conditions::default());
    let figures = Shipping {
        volume_bytes: scale.volume_bytes,
        disk_mib_s,
        rtt_ms: RTT_MS,
        link_mbit_s: LINK_BITS_PER_SECOND as f64 / 1e6,
        link_share: far * 8.0 / LINK_BITS_PER_SECOND as f64,
        foreground_alone_p50_us,
        foreground_beside_p50_us,
        bulk_beside_mbit_s,
    };
    Ok(Shipped { mib_s: bytes_per_second / f64::from(1 << 20), ratio, packed_ratio, figures })
}

/// Bytes a second, once it is done.
fn whole(shipment: &Shipment) -> Result<f64, String> {
    until("a shipment's end", || if shipment.done() { Ok(()) } else { Err("it is under way".into()) })?;
    Ok(shipment.bytes_per_second())
}

/// Blocks that east has shipped to anybody, before they were compressed.
pub fn shipped_bytes(stage: &Stage) -> Result<f64, String> {
    counted(stage, "farshore_resync_sent_bytes_total")
}

/// The same, as it went onto the link.
fn packed_bytes(stage: &Stage) -> Result<f64, String> {
    counted(stage, "farshore_resync_packed_bytes_total")
}

fn counted(stage: &Stage, name: &str) -> Result<f64, String> {
    let text = metrics::scrape(stage.east().http)?;
    metrics::sum(&text, name, &[]).ok_or_else(|| format!("the replicator has no metric {name}"))
}

/// What the disk takes of one client, flushed at the end.
fn disk(dir: &Path, bytes: u64) -> Result<f64, String> {
    let folder = tempfile::Builder::new().prefix("farshore-raw-").tempdir_in(dir);
    let folder = folder.map_err(|e| format!("making a folder for the raw file: {e}"))?;
    let target = fio::written_file(&folder.path().join("disk"), bytes)?;
    Ok(fio::run(&target, PIECES, Extent::Once, &["--end_fsync=1"])?.mib_s())
}
