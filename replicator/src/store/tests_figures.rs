//! Figures of snapshots and clones, not verdicts:
//! `cargo test --release -p farshore-replicator --lib store::tests_figures -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;
use farshore_core::record::Kind;

use super::extent::{Entry, Place, Version};
use super::index::IndexBatch;
use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, delete_snapshot, pin_of, record, snapshot, write, write_to};
use super::*;

const EXTENTS: usize = 2048;
const SIZE: usize = EXTENTS * EXTENT;

fn scattered(at: usize, of: usize) -> usize {
    at.wrapping_mul(2_654_435_761) % of
}

/// The mean of all but the slowest twentieth: others use this machine, too.
fn typical(mut each: Vec<Duration>) -> Duration {
    each.sort_unstable();
    each.truncate((each.len() * 19).div_ceil(20));
    each.iter().sum::<Duration>() / each.len() as u32
}

/// What one 4 KiB read takes, scattered over all extents: by the clock, and of CPU.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

impl Cost {
    const MAX: Cost = Cost { wall: Duration::MAX, cpu: Duration::MAX };

    fn min(self, other: Cost) -> Cost {
        Cost { wall: self.wall.min(other.wall), cpu: self.cpu.min(other.cpu) }
    }

    fn beside(&self, none: &Cost) -> String {
        let (wall, cpu) = (ratio(self.wall, none.wall), ratio(self.cpu, none.cpu));
        format!("{:?} ({wall:.2}; CPU {:?}, {cpu:.2})", self.wall, self.cpu)
    }
}

/// With nothing remembered, then again. The best of some restarts.
fn reads(rig: &mut Rig, id: VolumeId) -> (Cost, Cost) {
    rig.checkpoint().unwrap();
    let mut best = (Cost::MAX, Cost::MAX);
    for _ in 0..5 {
        rig.restart();
        let pass = || {
            let started = cpu();
            let one = |at: usize| {
                let start = Instant::now();
                rig.read(id, (scattered(at, EXTENTS) * EXTENT) as u64, BLOCK).unwrap();
                start.elapsed()
            };
            let wall = typical((0..EXTENTS).map(one).collect());
            Cost { wall, cpu: (cpu() - started) / EXTENTS as u32 }
        };
        best = (best.0.min(pass()), best.1.min(pass()));
    }
    best
}

/// Of this thread, for figures on a machine that others use.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

#[test]
#[ignore = "prints figures"]
fn snapshots() {
    let mut none = None;
    for count in [0_u64, 1, 100, 1000, 4000] {
        let mut rig = Rig::new(EXTENTS as u64 * 2 + 8 * 4001);
        rig.create(VOL, SIZE as u64).unwrap();
        let mut seq = 0;
        let mut apply = |rig: &Rig, make: &dyn Fn(u64) -> farshore_core::record::Record| {
            seq += 1;
            rig.apply_all(VOL, &[make(seq)]).unwrap();
        };
        (0..EXTENTS).for_each(|extent| apply(&rig, &|seq| write(seq, extent * 16, 16, 1)));
        let start = Instant::now();
        for made in 0..count {
            apply(&rig, &|seq| snapshot(VOL, seq, u128::from(made) + 1, SIZE));
            (0..4).for_each(|at| apply(&rig, &|seq| write(seq, scattered(made as usize * 4 + at, EXTENTS) * 16, 1, 2)));
        }
        let making = start.elapsed();
        rig.checkpoint().unwrap();
        // Each extent its own, then in place.
        (0..EXTENTS).for_each(|extent| apply(&rig, &|seq| write(seq, extent * 16, 1, 3)));
        rig.checkpoint().unwrap();
        let mut each = Vec::new();
        for batch in 0..300 {
            let first = seq + 1;
            let records: Vec<_> =
                (0..64).map(|at| write(first + at, scattered(batch * 64 + at as usize, EXTENTS * 16), 1, 4)).collect();
            seq += 64;
            let start = Instant::now();
            rig.apply(VOL, &records).unwrap();
            each.push(start.elapsed() / 64);
        }
        let writing = typical(each);
        let start = Instant::now();
        rig.checkpoint().unwrap();
        let checkpoint = start.elapsed();
        let (cold, warm) = reads(&mut rig, VOL);
        let (cold0, warm0, writing0) = *none.get_or_insert((cold, warm, writing));
        let start = Instant::now();
        if count > 0 {
            rig.apply_all(VOL, &[delete_snapshot(VOL, seq + 1, 1)]).unwrap();
            rig.sweep().unwrap();
        }
        println!(
            "{count} snapshots: cold read {}, warm {}, write {writing:?} ({:.2}), checkpoint \
             {checkpoint:?}, made with 4 writes each in {making:?}, one deleted and swept in {:?}",
            cold.beside(&cold0),
            warm.beside(&warm0),
            ratio(writing, writing0),
            start.elapsed()
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn chains() {
    let mut none = None;
    for links in [0_u64, 1, 10, 100, 1000] {
        let id = |at: u64| VolumeId(1000 + u128::from(at));
        let mut rig = Rig::new(EXTENTS as u64 * 2 + 8000);
        rig.create(id(0), SIZE as u64).unwrap();
        for extent in 0..EXTENTS {
            rig.apply(id(0), &[write_to(id(0), extent as u64 + 1, extent * 16, 16, 1)]).unwrap();
        }
        rig.apply(id(0), &[snapshot(id(0), EXTENTS as u64 + 1, 1, SIZE)]).unwrap();
        for at in 1..=links {
            let own = id(at);
            rig.create_clone(own, SIZE as u64, id(at - 1), SnapshotId(at.into()), Seq(1)).unwrap();
            let block = scattered(at as usize, EXTENTS) * 16;
            rig.apply_all(own, &[write_to(own, 2, block, 1, 2), snapshot(own, 3, u128::from(at) + 1, SIZE)]).unwrap();
        }
        let (cold, warm) = reads(&mut rig, id(links));
        let (cold0, warm0) = *none.get_or_insert((cold, warm));
        let start = Instant::now();
        while rig.flatten_step().unwrap() {}
        rig.checkpoint().unwrap();
        let flattening = start.elapsed();
        let (flat, _) = reads(&mut rig, id(links));
        println!(
            "chain of {links}: cold read {}, warm {}, cold when flattened {}, all flattened in {flattening:?}",
            cold.beside(&cold0),
            warm.beside(&warm0),
            flat.beside(&cold0)
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn difference() {
    const VOLUME: u64 = 1 << 40;
    for (piece, per_extent) in [("64 KiB", 16_u64), ("4 KiB", 1)] {
        let rig = Rig::new(64);
        rig.create(VOL, VOLUME).unwrap();
        let noop = |seq| record(VOL, seq, Kind::Noop, 0, 0, bytes::Bytes::new());
        rig.apply(VOL, &(1..=1000).map(noop).collect::<Vec<_>>()).unwrap();
        let extents = VOLUME / 100 / BLOCK as u64 / per_extent;
        // Straight into the index: the places are never read.
        for part in 0..extents.div_ceil(50_000) {
            let mut batch = IndexBatch::default();
            for at in part * 50_000..((part + 1) * 50_000).min(extents) {
                let extent = (at * 2_654_435_761) % (VOLUME / EXTENT_BYTES);
                let seq = Seq(500 + at * 500 / extents);
                let mut entry = Entry { place: Place(at + 1), ..Entry::EMPTY };
                (0..per_extent as usize).for_each(|block| entry.set_data(block, 1, seq));
                batch.extent(VOL, extent, Version { image: 0, seq }, Some(entry));
            }
            rig.index.commit(&batch).unwrap();
        }
        rig.apply_all(VOL, &[snapshot(VOL, 1001, 7, VOLUME as usize)]).unwrap();
        for base in [Some(Seq(400)), None] {
            let (mut cursor, mut listed, mut blocks) = (Some(Cursor::default()), 0_u64, 0_u64);
            let (start, started) = (Instant::now(), cpu());
            while let Some(at) = cursor {
                let page = rig.changed_since(VOL, base, &pin_of(7), at, PAGE_EXTENTS_MAX).unwrap();
                listed += page.extents.len() as u64;
                blocks += page.extents.iter().map(|found| u64::from(found.changed.count_ones())).sum::<u64>();
                cursor = page.next;
            }
            println!(
                "1 % of 1 TiB in pieces of {piece}, since {base:?}: {:.2} s ({:.2} s of CPU), {listed} extents, {} bytes changed",
                start.elapsed().as_secs_f64(),
                (cpu() - started).as_secs_f64(),
                blocks * BLOCK as u64
            );
        }
    }
}
