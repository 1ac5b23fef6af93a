//! A site that was away for longer than the journal reaches: what it is sent when it is back.

use std::path::Path;
use std::time::Instant;

use farshore_wan::Conditions;

use super::figures::Outage;
use super::shipping::shipped_bytes;
use crate::fio::{self, Extent};
use crate::snapshots::volumes::until;
use crate::stage::{Device, Durability, Journal, SITES, Stage};
use crate::workload::{Pattern, Workload};

const VOLUME: &str = "dirtied";
/// Each block of the region once in a pass, in no order.
const WRITES: Workload = Workload { pattern: Pattern::RandWrite, block_kib: 4, depth: 32 };

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub volume_bytes: u64,
    /// What is written meanwhile, again and again: all passes together outgrow the journal.
    pub region_bytes: u64,
    pub passes: u64,
}

pub fn measure(dir: &Path, scale: Scale) -> Result<Outage, String> {
    let mut stage = Stage::set_up(dir, Journal::SHORT, "", Conditions::default());
    stage.create(VOLUME, scale.volume_bytes, &SITES.join(","), "majority", Durability::Write);
    stage.fill(VOLUME)?;
    let target = stage.attach(VOLUME, Device::Nbd);
    let north = &stage.sites()[2];
    north.kill();
    let (away, before) = (Instant::now(), shipped_bytes(&stage)?);
    // The last of these counts for fio: a block is written once, and again in the next pass.
    let (size, once) = (format!("--size={}", scale.region_bytes), "--norandommap=0");
    let offset = format!("--offset={}", scale.volume_bytes / 4);
    for _ in 0..scale.passes {
        fio::run(&target, WRITES, Extent::Part, &[&size, &offset, once])?;
    }
    let seconds = away.elapsed().as_secs_f64();
    let back = Instant::now();
    north.start();
    until("north to be in sync", || {
        let shown = stage.east().volume(VOLUME);
        let members = shown["members"].as_array().into_iter().flatten();
        let in_sync = members.filter(|m| m["in_sync_set"] == true && m["state"] == "replicating").count();
        if in_sync == SITES.len() { Ok(()) } else { Err(format!("{shown}")) }
    })?;
    let written_bytes = scale.region_bytes * scale.passes;
    let shipped = shipped_bytes(&stage)? - before;
    if shipped <= 0.0 {
        return Err("the journal reached over the outage, and nothing was shipped; do: report this".into());
    }
    Ok(Outage {
        seconds,
        written_mib_s: written_bytes as f64 / f64::from(1 << 20) / seconds,
        written_bytes,
        distinct_bytes: scale.region_bytes,
        shipped_bytes: shipped as u64,
        resync_s: back.elapsed().as_secs_f64(),
    })
}
