//! Reads and writes of volumes with none and many snapshots, side by side, in turn.

use std::time::Instant;

use super::figures::Many;
use super::rounds::Rounds;
use super::volumes::{
    BLOCK_BYTES, EXTENT_BYTES, MEMBERS, attach, client, create, first_reads, restart, run, scattered, target,
    write_each_extent, writes_per_s,
};
use crate::fio::{self, Extent};
use crate::stage::Stage;

const READS: &str = "randread-4k-qd16";
/// Between two snapshots, each to another extent.
const WRITES_BETWEEN: u64 = 4;

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The first is the one that the others are held against.
    pub snapshots: &'static [u32],
    pub volume_bytes: u64,
    pub rounds: usize,
    pub seconds: u64,
}

pub fn measure(stage: &Stage, scale: Scale) -> Result<Vec<Many>, String> {
    let east = stage.east();
    let names: Vec<String> = scale.snapshots.iter().map(|count| format!("with-{count}")).collect();
    let mut made_ms_each = Vec::new();
    for (name, count) in names.iter().zip(scale.snapshots) {
        create(east, name, scale.volume_bytes, MEMBERS)?;
        fio::fill(&attach(east, name)?)?;
        made_ms_each.push(take(stage, name, *count, scale.volume_bytes / EXTENT_BYTES)?);
        // Each extent its own again.
        write_each_extent(&target(east, name))?;
    }
    names.iter().for_each(|name| _ = stage.settle(name));

    let reads = READS.parse()?;
    let (mut read, mut written) = (Rounds::new(&names), Rounds::new(&names));
    let mut cold = Rounds::new(&names);
    for _ in 0..scale.rounds {
        restart(east, &names)?;
        cold.add(&names, |name| first_reads(east, name))?;
        read.add(&names, |name| Ok(fio::run(&target(east, name), reads, Extent::Seconds(scale.seconds), &[])?.iops()))?;
        written.add(&names, |name| writes_per_s(&target(east, name), scale.seconds))?;
        names.iter().for_each(|name| _ = stage.settle(name));
    }
    names.iter().try_for_each(|name| run(east, &["volume", "detach", name]).map(drop))?;
    let many = scale.snapshots.iter().zip(made_ms_each).enumerate().map(|(at, (snapshots, made_ms_each))| Many {
        snapshots: *snapshots,
        made_ms_each,
        cold_read_us: cold.median(at),
        cold_read_ratio: cold.to_first(at),
        reads_per_s: read.median(at),
        read_ratio: 1.0 / read.to_first(at).max(1e-9),
        writes_per_s: written.median(at),
        write_ratio: 1.0 / written.to_first(at).max(1e-9),
    });
    Ok(many.collect())
}

/// Milliseconds for each snapshot.
fn take(stage: &Stage, volume: &str, count: u32, extents: u64) -> Result<f64, String> {
    let mut device = client(stage.east(), volume)?;
    let began = Instant::now();
    for number in 0..u64::from(count) {
        for write in 0..WRITES_BETWEEN {
            let extent = scattered(number * WRITES_BETWEEN + write, extents);
            let bytes = [(number % 251) as u8 + 1; BLOCK_BYTES];
            device.write(extent * EXTENT_BYTES, &bytes).map_err(|e| format!("writing between snapshots: {e:?}"))?;
        }
        run(stage.east(), &["snapshot", "create", volume, "--name", &format!("s{number}")])?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3 / f64::from(count.max(1)))
}
