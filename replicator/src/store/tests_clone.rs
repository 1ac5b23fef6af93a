//! Clones: what they read, what they write, and whose space it is.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::mark::SnapshotId;

use super::tests_fixture::{
    BLOCK, EXTENT, Rig, VOL, delete_snapshot, discard_of, naive_digest, pin_of, snapshot, write, write_to,
};
use super::*;

const SIZE: usize = 8 * EXTENT;
const A: VolumeId = VolumeId(100);
const B: VolumeId = VolumeId(101);
const START: Seq = Seq(1);

fn clone(rig: &Rig, id: VolumeId, parent: VolumeId, snapshot: u128) -> Result<(), StoreError> {
    rig.create_clone(id, SIZE as u64, parent, SnapshotId(snapshot), START)
}

fn firsts(rig: &Rig, id: VolumeId, blocks: usize) -> Vec<u8> {
    rig.read(id, 0, blocks * BLOCK).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

fn used(rig: &Rig) -> u64 {
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    rig.space().used_bytes / EXTENT_BYTES
}

/// Two extents of ones with a snapshot, then twos.
fn with_snapshot() -> Rig {
    let rig = Rig::with_volume(64, SIZE);
    rig.apply_all(VOL, &[write(1, 0, 32, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 48, 2)]).unwrap();
    rig
}

#[test]
fn a_clone_is_there_at_once_and_writes_for_itself() {
    let mut rig = with_snapshot();
    assert_eq!(used(&rig), 5);
    clone(&rig, A, VOL, 7).unwrap();
    clone(&rig, A, VOL, 7).unwrap();
    assert_eq!((rig.volume(A).used_bytes, rig.volume(A).applied_seq, rig.volume(A).cloned_from), (0, START, Some(VOL)));
    assert_eq!(firsts(&rig, A, 48)[..33], [vec![1; 32], vec![0]].concat());
    rig.apply_all(A, &[write_to(A, 2, 3, 2, 9), discard_of(A, 3, 16, 16), write_to(A, 4, 100, 1, 8)]).unwrap();
    let check = |rig: &Rig| {
        let mut image = vec![0; SIZE];
        image[..16 * BLOCK].fill(1);
        image[3 * BLOCK..5 * BLOCK].fill(9);
        image[100 * BLOCK..101 * BLOCK].fill(8);
        assert_eq!(rig.read_all(A).unwrap(), image, "a hole hides what the parent has");
        assert_eq!(rig.digest(A).unwrap().digest, naive_digest(&image));
        assert_eq!(firsts(rig, VOL, 48), [2; 48], "the parent is as it was");
        assert_eq!(rig.read_at(VOL, &pin_of(7), 0, 32 * BLOCK).unwrap(), vec![1; 32 * BLOCK]);
        assert_eq!(rig.volume(A).used_bytes, 2 * EXTENT_BYTES, "only what it wrote");
        assert!(rig.scrub(A, ScrubCursor::default(), 1 << 20).unwrap().damaged.is_empty());
    };
    check(&rig);
    rig.checkpoint().unwrap();
    check(&rig);
    rig.restart();
    check(&rig);
    assert_eq!(used(&rig), 7);
    let report = inspect(&rig.config.dir, None);
    assert_eq!((report.problems.len(), report.mismatched_count), (0, 0));
    assert_eq!(report.volumes.iter().find(|v| v.volume == Some(A)).unwrap().cloned_from, Some(VOL));
}

#[test]
fn what_cant_be_cloned_is_refused_by_name() {
    let rig = with_snapshot();
    assert!(matches!(clone(&rig, A, VOL, 8), Err(StoreError::NoSnapshot { .. })));
    assert!(matches!(clone(&rig, A, B, 7), Err(StoreError::NoVolume { .. })));
    assert!(clone(&rig, VOL, VOL, 7).is_err());
    assert!(rig.create_clone(A, (SIZE - EXTENT) as u64, VOL, SnapshotId(7), START).is_err(), "smaller");
    assert!(rig.create_clone(A, SIZE as u64, VOL, SnapshotId(7), Seq::ZERO).is_err());
    rig.create(B, SIZE as u64).unwrap();
    assert!(clone(&rig, B, VOL, 7).is_err(), "another volume of this id");
    rig.create_clone(A, 2 * SIZE as u64, VOL, SnapshotId(7), Seq(5)).unwrap();
    assert!(clone(&rig, A, VOL, 7).is_err(), "the same clone with another size");
    assert_eq!(rig.read_all(A).unwrap().len(), 2 * SIZE);
    assert!(matches!(rig.apply(A, &[write_to(A, 2, 0, 1, 1)]), Ok(Seq(5))), "before its log begins");
    rig.stage_begin(VOL, 5, None, None, Seq(9)).unwrap();
    let missing = SnapshotRow { id: SnapshotId(9), seq: Seq(8), ..rig.snapshot(VOL, SnapshotId(7)).unwrap() };
    rig.stage_snapshots(VOL, 5, &[missing]).unwrap();
    rig.stage_commit(VOL, 5).unwrap();
    assert!(matches!(clone(&rig, VolumeId(102), VOL, 9), Err(StoreError::SnapshotMissing { .. })));
    assert_eq!(firsts(&rig, A, 2), [1, 1], "the snapshot went with the shipment, the clone stays");
}

#[test]
fn a_clone_of_what_was_shown_keeps_it_whatever_comes_after() {
    for kept in [0.0, 0.5, 1.0] {
        let mut rig = Rig::with_volume(64, SIZE);
        rig.apply_all(VOL, &[write(1, 0, 32, 1), write(2, 0, 16, 2)]).unwrap();
        let of_pin = |rig: &Rig, pin: &str| rig.create_clone_of_pin(A, SIZE as u64, VOL, pin, START);
        assert!(matches!(of_pin(&rig, "shown"), Err(StoreError::NoPin { .. })));
        assert_eq!(rig.pin(VOL, "shown").unwrap(), Seq(2));
        of_pin(&rig, "shown").unwrap();
        rig.unpin(VOL, "shown").unwrap();
        let after = [write(3, 0, 48, 3)];
        rig.apply_all(VOL, &after).unwrap();
        rig.power_cut(kept, 5);
        assert_eq!(firsts(&rig, A, 33), [vec![2; 16], vec![1; 16], vec![0]].concat());
        rig.apply_all(VOL, &after).unwrap();
        // A full copy, and then the clone goes.
        rig.stage_begin(VOL, 5, None, None, Seq(9)).unwrap();
        rig.stage_commit(VOL, 5).unwrap();
        assert_eq!((firsts(&rig, VOL, 1), firsts(&rig, A, 1)), (vec![0], vec![2]));
        rig.remove(A).unwrap();
        for _ in 0..3 {
            used(&rig);
        }
        assert_eq!((used(&rig), rig.pins(VOL).unwrap()), (0, vec![]));
    }
}

#[test]
fn a_clone_of_a_snapshot_that_no_checkpoint_has_survives_a_cut() {
    let records = [write(1, 0, 32, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 48, 2)];
    for kept in [0.0, 0.5, 1.0] {
        let mut rig = Rig::with_volume(64, SIZE);
        rig.apply_all(VOL, &records).unwrap();
        clone(&rig, A, VOL, 7).unwrap();
        let own = [write_to(A, 2, 3, 2, 9), discard_of(A, 3, 16, 16)];
        rig.apply_all(A, &own).unwrap();
        rig.power_cut(kept, 3);
        assert_eq!(firsts(&rig, A, 32), [1; 32]);
        rig.apply_all(VOL, &records).unwrap();
        rig.apply_all(A, &own).unwrap();
        assert_eq!(firsts(&rig, A, 18), [1, 1, 1, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!(used(&rig), 6);
    }
}

#[test]
fn parent_snapshot_and_clones_go_in_any_order_and_all_space_comes_back() {
    #[derive(Clone, Copy, PartialEq)]
    enum Gone {
        Snapshot,
        Parent,
        Kept,
        A,
        B,
    }
    let orders = [
        [Gone::Snapshot, Gone::Parent, Gone::A, Gone::B],
        [Gone::Parent, Gone::A, Gone::B, Gone::B],
        [Gone::A, Gone::Snapshot, Gone::B, Gone::Parent],
        [Gone::B, Gone::Kept, Gone::A, Gone::Snapshot],
        [Gone::Kept, Gone::Snapshot, Gone::B, Gone::A],
        [Gone::A, Gone::B, Gone::Kept, Gone::Snapshot],
    ];
    for order in orders {
        for restarts in [false, true] {
            let mut rig = with_snapshot();
            clone(&rig, A, VOL, 7).unwrap();
            rig.apply_all(A, &[write_to(A, 2, 0, 1, 3), snapshot(A, 3, 8, SIZE), write_to(A, 4, 1, 1, 4)]).unwrap();
            clone(&rig, B, A, 8).unwrap();
            rig.apply_all(B, &[write_to(B, 2, 2, 1, 5)]).unwrap();
            let (mut a, mut b, mut kept) = (true, true, false);
            for gone in order {
                match gone {
                    Gone::Snapshot if kept => rig.drop_kept_snapshot(VOL, SnapshotId(7)).unwrap(),
                    Gone::Snapshot => drop(rig.apply_all(VOL, &[delete_snapshot(VOL, 4, 7)]).unwrap()),
                    Gone::Parent => rig.remove(VOL).unwrap(),
                    Gone::Kept => {
                        kept = true;
                        rig.remove_but_snapshots(VOL).unwrap();
                        assert_eq!(rig.kept(), [VOL]);
                        assert_eq!(rig.read_at(VOL, &pin_of(7), 0, BLOCK).unwrap()[0], 1);
                        assert_eq!(rig.snapshots(VOL).unwrap().len(), 1);
                        assert!(matches!(rig.read(VOL, 0, BLOCK), Err(StoreError::NoVolume { .. })));
                    }
                    Gone::A => {
                        a = false;
                        rig.remove(A).unwrap();
                    }
                    Gone::B => {
                        b = false;
                        rig.remove(B).unwrap();
                    }
                }
                if restarts {
                    rig.sweep().unwrap();
                    rig.checkpoint().unwrap();
                    rig.restart();
                }
                if a {
                    assert_eq!(firsts(&rig, A, 33)[..4], [3, 4, 1, 1]);
                }
                if b {
                    assert_eq!(firsts(&rig, B, 33)[..4], [3, 1, 5, 1]);
                    assert_eq!(firsts(&rig, B, 33)[31..], [1, 0]);
                }
            }
            assert_eq!(used(&rig), 0);
            assert!(rig.volumes().is_empty() && rig.kept().is_empty());
            assert_eq!(inspect(&rig.config.dir, None).volumes, [], "no row is left");
        }
    }
}

#[test]
fn a_long_chain_reads_and_writes_and_goes_away() {
    const LINKS: u64 = 600;
    let id = |at: u64| VolumeId(1000 + u128::from(at));
    let rig = Rig::new(2000);
    rig.create(id(0), SIZE as u64).unwrap();
    rig.apply_all(id(0), &[write_to(id(0), 1, 0, 128, 1), snapshot(id(0), 2, 1, SIZE)]).unwrap();
    for at in 1..LINKS {
        let (own, fill) = (id(at), at as u8);
        clone(&rig, own, id(at - 1), u128::from(at)).unwrap();
        let block = (at % 100) as usize;
        rig.apply_all(own, &[write_to(own, 2, block, 1, fill), snapshot(own, 3, u128::from(at) + 1, SIZE)]).unwrap();
    }
    let last = id(LINKS - 1);
    let expected: Vec<u8> = (0..128_u64)
        .map(|block| match (1..LINKS).rev().find(|at| at % 100 == block) {
            Some(at) => at as u8,
            None => 1,
        })
        .collect();
    assert_eq!(firsts(&rig, last, 128), expected);
    let before = rig.digest(last).unwrap();
    while rig.flatten_step().unwrap() {}
    rig.checkpoint().unwrap();
    let mut rig = rig;
    rig.restart();
    assert_eq!(firsts(&rig, last, 128), expected);
    assert_eq!(rig.digest(last).unwrap(), before);
    for at in 0..LINKS - 1 {
        rig.remove(id(at)).unwrap();
    }
    rig.sweep().unwrap();
    assert_eq!(firsts(&rig, last, 128), expected);
    rig.apply_all(last, &[write_to(last, 4, 0, 128, 9)]).unwrap();
    assert_eq!(firsts(&rig, last, 128), [9; 128]);
    rig.remove(last).unwrap();
    assert_eq!(used(&rig), 0);
    assert_eq!(rig.index_rows(), 0, "no ghost is left");
}

#[test]
fn a_flattened_clone_copies_on_write_hides_and_leaves_its_ancestors_places_alone() {
    let mut rig = with_snapshot();
    clone(&rig, A, VOL, 7).unwrap();
    rig.apply_all(A, &[write_to(A, 2, 100, 1, 3), snapshot(A, 3, 8, SIZE)]).unwrap();
    clone(&rig, B, A, 8).unwrap();
    while rig.flatten_step().unwrap() {}
    assert_eq!(rig.volume(B).used_bytes, 0);
    rig.apply_all(B, &[write_to(B, 2, 3, 1, 5), discard_of(B, 3, 16, 16), discard_of(B, 4, 100, 1)]).unwrap();
    for _ in 0..2 {
        assert_eq!(firsts(&rig, B, 17), [1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(rig.read(B, 100 * BLOCK as u64, BLOCK).unwrap()[0], 0);
        assert_eq!(firsts(&rig, A, 32), [1; 32]);
        assert_eq!(rig.read(A, 100 * BLOCK as u64, BLOCK).unwrap()[0], 3);
        assert_eq!(rig.volume(B).used_bytes, EXTENT_BYTES);
        assert!(rig.scrub(B, ScrubCursor::default(), 1 << 20).unwrap().damaged.is_empty());
        rig.sweep().unwrap();
        rig.checkpoint().unwrap();
        rig.restart();
    }
    rig.remove(VOL).unwrap();
    rig.remove(A).unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(firsts(&rig, B, 4), [1, 1, 1, 5]);
    rig.remove(B).unwrap();
    assert_eq!(used(&rig), 0);
}

#[test]
fn flattening_many_clones_at_once_keeps_to_the_memory_for_changes() {
    let mut rig = with_snapshot();
    clone(&rig, A, VOL, 7).unwrap();
    rig.apply_all(A, &[snapshot(A, 2, 8, SIZE)]).unwrap();
    let clones: Vec<VolumeId> = (0..8).map(|at| VolumeId(200 + at)).collect();
    clones.iter().for_each(|id| clone(&rig, *id, A, 8).unwrap());
    rig.limit_dirty(4);
    rig.flatten_step().unwrap();
    assert!(rig.dirty.load(Ordering::Relaxed) <= 4);
    rig.checkpoint().unwrap();
    clones.iter().for_each(|id| assert_eq!(firsts(&rig, *id, 32), [1; 32]));
}

#[test]
fn a_hole_goes_on_hiding_what_the_parent_has_when_nobody_asks_for_what_changed() {
    let rig = with_snapshot();
    clone(&rig, A, VOL, 7).unwrap();
    rig.apply_all(A, &[discard_of(A, 2, 16, 16)]).unwrap();
    rig.raise_floor(A, Seq(2)).unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(firsts(&rig, A, 32), [[1; 16], [0; 16]].concat());
}

#[test]
fn a_clones_difference_is_its_own_and_the_whole_is_composed() {
    let rig = with_snapshot();
    rig.create_clone(A, SIZE as u64, VOL, SnapshotId(7), Seq(1)).unwrap();
    rig.apply_all(A, &[write_to(A, 2, 3, 1, 9), discard_of(A, 3, 16, 1), snapshot(A, 4, 8, SIZE)]).unwrap();
    let list = |base| rig.changed_since(A, base, &pin_of(8), Cursor::default(), 99).unwrap().extents;
    let extent = |extent, changed, holes| ChangedExtent { extent, changed, holes };
    assert_eq!(list(Some(Seq(1))), [extent(0, 1 << 3, 0), extent(1, 1, 1)]);
    assert_eq!(list(None), [extent(0, u16::MAX, 0), extent(1, u16::MAX - 1, 0)]);
    let below = rig.changed_since(A, Some(Seq(0)), &pin_of(8), Cursor::default(), 9);
    assert!(matches!(below, Err(StoreError::BelowFloor { .. })), "what was before is the parent's");
    assert_eq!(rig.extent_at(A, &pin_of(8), 1).unwrap().holes, 1);
    let usage = rig.snapshot_usage(A, SnapshotId(8)).unwrap();
    assert_eq!((usage.unique_bytes, usage.shared_bytes), (0, 2 * EXTENT_BYTES));
    let usage = rig.snapshot_usage(VOL, SnapshotId(7)).unwrap();
    assert_eq!((usage.unique_bytes, usage.shared_bytes), (0, 2 * EXTENT_BYTES), "the clone holds it as well");
}

#[test]
fn a_block_that_rots_below_a_clone_is_named_and_repaired_through_it() {
    for flattened in [false, true] {
        let mut rig = with_snapshot();
        clone(&rig, A, VOL, 7).unwrap();
        rig.apply_all(A, &[snapshot(A, 2, 8, SIZE)]).unwrap();
        clone(&rig, B, A, 8).unwrap();
        rig.apply_all(B, &[write_to(B, 2, 3, 1, 9)]).unwrap();
        if flattened {
            while rig.flatten_step().unwrap() {}
        }
        rig.checkpoint().unwrap();
        let peer = rig.held(B, 20 * BLOCK as u64, START, Seq(2)).unwrap();
        rig.rot(1);
        let damage = rig.damage(B, None, 0, SIZE as u64).unwrap();
        assert_eq!(damage.len(), 31);
        assert!(damage.iter().all(|found| found.from == START && found.upto == Seq(2) && found.current));
        assert!(matches!(rig.read(B, 20 * BLOCK as u64, BLOCK), Err(StoreError::Corrupt { .. })));
        let below = if flattened { 16 } else { 32 };
        assert_eq!(rig.scrub(B, ScrubCursor::default(), 1 << 20).unwrap().damaged.len(), 15 + below, "own and below");
        let Held::Same(data) = peer else { panic!("{peer:?}") };
        assert_eq!(rig.repair_block(B, 20 * BLOCK as u64, START, &data).unwrap(), 1);
        for id in [A, B] {
            assert_eq!(rig.read(id, 20 * BLOCK as u64, BLOCK).unwrap(), Bytes::from(vec![1; BLOCK]));
        }
    }
}

#[test]
fn a_full_copy_onto_a_clone_ends_what_it_has_from_its_parent() {
    let mut rig = with_snapshot();
    clone(&rig, A, VOL, 7).unwrap();
    rig.stage_begin(A, 5, Some(START), None, Seq(4)).unwrap();
    rig.stage_write(A, 5, 0, StageData::Data(Bytes::from(vec![4; BLOCK]))).unwrap();
    rig.stage_commit(A, 5).unwrap();
    assert_eq!(firsts(&rig, A, 3), [4, 1, 1], "a delta builds on it");
    rig.pin(A, "before").unwrap();
    rig.stage_begin(A, 6, None, None, Seq(6)).unwrap();
    rig.stage_write(A, 6, 0, StageData::Data(Bytes::from(vec![6; BLOCK]))).unwrap();
    rig.stage_commit(A, 6).unwrap();
    rig.sweep().unwrap();
    assert_eq!(firsts(&rig, A, 17), [vec![6], vec![0; 16]].concat(), "nor what was not shipped");
    assert_eq!(rig.read_at(A, "before", 0, 2 * BLOCK).unwrap()[BLOCK], 1);
    assert_eq!(rig.volume(A).cloned_from, Some(VOL));
    rig.unpin(A, "before").unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.volume(A).cloned_from, None);
    assert_eq!(rig.pins(VOL).unwrap().len(), 1, "only the snapshot's");
    rig.restart();
    assert_eq!(firsts(&rig, A, 3), [6, 0, 0]);
    rig.remove(VOL).unwrap();
    assert_eq!(used(&rig), 1);
}

#[test]
fn a_volume_that_comes_back_beside_its_clones_is_empty_and_they_are_what_they_were() {
    let mut rig = with_snapshot();
    clone(&rig, A, VOL, 7).unwrap();
    rig.remove(VOL).unwrap();
    rig.create(VOL, 2 * EXTENT_BYTES).unwrap();
    for _ in 0..2 {
        assert!(rig.read_all(VOL).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!((rig.volume(VOL).applied_seq, rig.volume(VOL).size_bytes), (Seq(0), 2 * EXTENT_BYTES));
        assert_eq!(firsts(&rig, A, 33)[31..], [1, 0]);
        rig.restart();
    }
    rig.apply_all(VOL, &[write(1, 0, 1, 8)]).unwrap();
    assert_eq!(firsts(&rig, A, 2), [1, 1]);
    rig.remove(A).unwrap();
    assert_eq!(used(&rig), 1);
    rig.remove(VOL).unwrap();
    assert_eq!(used(&rig), 0);
}
