//! The section from begin to end.

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_wan::Conditions;

use super::figures::SnapshotFigures;
use super::{chains, difference, many, pause};
use crate::stage::{Journal, Stage};

/// What is measured, by size.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub paused: usize,
    pub many: many::Scale,
    pub chains: chains::Scale,
    /// Volumes of which one hundredth changes, by the size of the pieces in KiB.
    pub thin: [(u32, u64); 2],
}

pub const FULL: Scale = Scale {
    paused: 60,
    many: many::Scale { snapshots: &[0, 1, 100, 1000], volume_bytes: 128 << 20, rounds: 3, seconds: 1 },
    chains: chains::Scale {
        depths: &[1, 10, 100],
        volume_bytes: 128 << 20,
        rounds: 3,
        seconds: 1,
        flattened_within: Duration::from_secs(20),
    },
    thin: [(64, 1 << 40), (4, 1 << 40)],
};
pub const QUICK: Scale = Scale {
    paused: 8,
    many: many::Scale { snapshots: &[0, 50], volume_bytes: 32 << 20, rounds: 1, seconds: 1 },
    chains: chains::Scale {
        depths: &[5],
        volume_bytes: 32 << 20,
        rounds: 1,
        seconds: 1,
        flattened_within: Duration::from_secs(5),
    },
    thin: [(64, 4 << 30), (4, 4 << 30)],
};

/// Sets three sites up below `dir`, then one, and measures; tells what is done.
pub fn measure(dir: &Path, scale: Scale, mut tell: impl FnMut(String)) -> Result<SnapshotFigures, String> {
    let began = Instant::now();
    let stage = Stage::set_up(dir, Journal::MANY_VOLUMES, "", Conditions::default());
    let pause = pause::measure(&stage, scale.paused)?;
    tell(format!(
        "{} snapshots under load: writes beside them p99 {:.1} ms, without {:.1} ms; a cut over two volumes held them {:.1} ms",
        pause.snapshots, pause.beside_p99_ms, pause.without_p99_ms, pause.cut_held_p99_ms
    ));
    let many = many::measure(&stage, scale.many)?;
    for with in &many {
        tell(format!(
            "{} snapshots: cold reads {:.2} ×, reads {:.2} ×, writes {:.2} ×",
            with.snapshots, with.cold_read_ratio, with.read_ratio, with.write_ratio
        ));
    }
    let chains = chains::measure(&stage, scale.chains)?;
    for chain in &chains {
        tell(format!(
            "chain of {} clones: reads {:.2} ×, flattened {:.2} ×, writes {:.2} ×",
            chain.clones, chain.ratio, chain.flattened_ratio, chain.write_ratio
        ));
    }
    drop(stage);
    let mut differences = Vec::new();
    for (piece_kib, volume_bytes) in scale.thin {
        let found = difference::measure(dir, volume_bytes, piece_kib)?;
        tell(format!(
            "1 % of {} GiB in pieces of {piece_kib} KiB: {:.2} s for {} bytes, written in {:.0} s",
            volume_bytes >> 30,
            found.seconds,
            found.bytes,
            found.written_s
        ));
        differences.push(found);
    }
    let thousand = many.iter().find(|with| with.snapshots == 1000);
    let hundred = chains.iter().find(|chain| chain.clones == 100);
    let slowest = differences.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("some were measured");
    Ok(SnapshotFigures {
        snapshot_pause_p99_ms: pause.beside_p99_ms,
        read_slowdown_1000_snapshots: thousand.map(|with| with.read_ratio.max(with.cold_read_ratio)),
        write_slowdown_1000_snapshots: thousand.map(|with| with.write_ratio),
        chain100_slowdown: hundred.map(|chain| chain.ratio),
        chain100_flattened_slowdown: hundred.map(|chain| chain.flattened_ratio),
        diff_s: slowest.seconds,
        diff_bytes: slowest.bytes,
        pause,
        many,
        chains,
        took_s: began.elapsed().as_secs_f64(),
        differences,
    })
}
