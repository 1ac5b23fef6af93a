//! Power cuts, one at a time: what each rule of the checkpoint is there for.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use farshore_core::ids::Seq;

use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, discard, write};
use super::*;

fn firsts(rig: &Rig, blocks: usize) -> Vec<u8> {
    rig.read(VOL, 0, blocks * BLOCK).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

#[test]
fn a_torn_overwrite_in_place_heals_by_redo() {
    let mut rig = Rig::with_volume(16, 4 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.checkpoint().unwrap();
    let later = [write(2, 0, 8, 2), write(3, 4, 8, 3)];
    rig.apply(VOL, &later).unwrap();
    rig.power_cut(0.5, 42);
    assert_eq!(rig.volume(VOL).applied_seq, Seq(1), "the index is the checkpoint's");
    assert!(matches!(rig.read(VOL, 0, 16 * BLOCK), Err(StoreError::Corrupt { .. })), "torn, and known to be");
    rig.apply(VOL, &later).unwrap();
    assert_eq!(firsts(&rig, 16), [2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1]);
    assert!(rig.scrub(VOL, ScrubCursor::default(), 1 << 20).unwrap().damaged.is_empty());
}

#[test]
fn a_cut_between_the_slabs_sync_and_the_indexs_redoes_from_the_checkpoint_before() {
    let mut rig = Rig::with_volume(16, 4 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.checkpoint().unwrap();
    let later = [write(2, 3, 1, 2), discard(3, 16, 16), write(4, 20, 1, 4)];
    rig.apply(VOL, &later).unwrap();
    rig.slab.sync().unwrap();
    rig.power_cut(0.0, 1);
    assert_eq!(rig.volume(VOL).checkpointed_seq, Seq(1));
    rig.apply(VOL, &later).unwrap();
    assert_eq!(firsts(&rig, 32)[2..5], [1, 2, 1]);
    assert_eq!(firsts(&rig, 32)[20], 4);
}

#[test]
fn what_is_applied_while_a_checkpoint_runs_is_redone() {
    for kept in [0.0, 0.5, 1.0] {
        let mut rig = Rig::with_volume(16, 4 * EXTENT);
        rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
        let later = [write(2, 0, 4, 2), discard(3, 8, 8), write(4, 15, 2, 4)];
        rig.checkpoint_with(|| {
            rig.apply(VOL, &later).unwrap();
        })
        .unwrap();
        rig.power_cut(kept, 9);
        assert_eq!(rig.volume(VOL).applied_seq, Seq(1));
        rig.apply(VOL, &later).unwrap();
        assert_eq!(firsts(&rig, 17), [2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 4, 4]);
    }
}

#[test]
fn a_pin_given_up_does_not_come_back_with_newer_bytes() {
    let mut rig = Rig::with_volume(16, 4 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.pin(VOL, "snap").unwrap();
    rig.unpin(VOL, "snap").unwrap();
    // In place now, for nobody sees the version any more.
    rig.apply(VOL, &[write(2, 0, 16, 2)]).unwrap();
    rig.power_cut(1.0, 3);
    assert!(rig.pins(VOL).unwrap().is_empty());
    rig.apply(VOL, &[write(2, 0, 16, 2)]).unwrap();
    assert_eq!(firsts(&rig, 2), [2, 2]);
    assert_eq!(rig.volume(VOL).used_bytes, EXTENT_BYTES);
}

#[test]
fn a_pin_survives_and_a_redirected_extent_is_rebuilt_from_its_predecessor() {
    for kept in [0.0, 0.5, 1.0] {
        let mut rig = Rig::with_volume(16, 4 * EXTENT);
        rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
        rig.pin(VOL, "snap").unwrap();
        let later = [write(2, 3, 1, 2), write(3, 4, 1, 3)];
        for record in &later {
            rig.apply(VOL, std::slice::from_ref(record)).unwrap();
        }
        rig.power_cut(kept, 5);
        rig.apply(VOL, &later).unwrap();
        assert_eq!(firsts(&rig, 6), [1, 1, 1, 2, 3, 1]);
        assert!(rig.read_at(VOL, "snap", 0, EXTENT).unwrap().iter().all(|byte| *byte == 1));
        assert_eq!(rig.space().used_bytes, 2 * EXTENT_BYTES);
    }
}

#[test]
fn garbage_that_a_crash_left_is_found_again() {
    let mut rig = Rig::with_volume(16, 4 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 32, 1)]).unwrap();
    rig.pin(VOL, "snap").unwrap();
    rig.apply(VOL, &[write(2, 0, 32, 2)]).unwrap();
    rig.checkpoint().unwrap();
    rig.unpin(VOL, "snap").unwrap();
    rig.power_cut(1.0, 6);
    assert_eq!(rig.space().used_bytes, 4 * EXTENT_BYTES);
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, 2 * EXTENT_BYTES);
}

#[test]
fn a_failed_sync_ends_the_store_until_it_is_opened_again() {
    let mut rig = Rig::with_volume(16, 4 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.checkpoint().unwrap();
    rig.apply(VOL, &[write(2, 0, 16, 2)]).unwrap();
    rig.slab.failing.store(true, Ordering::Relaxed);
    assert_eq!(rig.checkpoint().unwrap_err().class(), ErrorClass::Fatal);
    rig.slab.failing.store(false, Ordering::Relaxed);
    let after: [Result<(), StoreError>; 6] = [
        rig.checkpoint().map(drop),
        rig.apply(VOL, &[write(3, 0, 1, 3)]).map(drop),
        rig.read(VOL, 0, BLOCK).map(drop),
        rig.pin(VOL, "p").map(drop),
        rig.create(farshore_core::ids::VolumeId(9), EXTENT_BYTES),
        rig.stage_begin(VOL, 1, None, None, Seq(5)).map(drop),
    ];
    for result in after {
        assert!(matches!(result, Err(StoreError::Poisoned { .. })), "{result:?}");
    }
    rig.restart();
    assert_eq!(rig.volume(VOL).applied_seq, Seq(1), "nothing was reported that is not there");
}

#[test]
fn a_full_slab_makes_the_checkpoint_that_frees_it() {
    let rig = Rig::with_volume(16, 64 * EXTENT);
    let mut seq = 0;
    for round in 0..5 {
        let block = round * 16 * 12;
        let burst: Vec<_> = (0..12).map(|at| write(seq + 1 + at, block + at as usize * 16, 1, 7)).collect();
        rig.apply(VOL, &burst).unwrap();
        rig.apply(VOL, &[discard(seq + 13, block, 12 * 16)]).unwrap();
        seq += 13;
    }
    assert!(rig.volume(VOL).checkpointed_seq > Seq(0));
    assert_eq!(rig.volume(VOL).used_bytes, 0);
    assert_eq!(rig.read(VOL, 0, BLOCK).unwrap(), Bytes::from(vec![0; BLOCK]));
}

#[test]
fn too_many_changes_make_a_checkpoint_of_their_own() {
    let (extents, dirty_max) = (2000, 500);
    let mut rig = Rig::with_volume(16, extents * EXTENT);
    rig.limit_dirty(dirty_max);
    // Written and discarded in one slice: an entry for each extent, a place for none.
    for at in 0..extents / 8 {
        let seq = at as u64 * 9;
        let mut records: Vec<_> = (0..8).map(|n| write(seq + 1 + n, (at * 8 + n as usize) * 16, 1, 7)).collect();
        records.push(discard(seq + 9, at * 8 * 16, 8 * 16));
        rig.apply(VOL, &records).unwrap();
        assert!(rig.dirty.load(Ordering::Relaxed) <= dirty_max);
    }
    let checkpointed = rig.volume(VOL).checkpointed_seq;
    assert!(checkpointed > Seq(0));
    assert_eq!(rig.volume(VOL).used_bytes, 0);
    rig.power_cut(1.0, 1);
    assert_eq!(rig.volume(VOL).applied_seq, checkpointed);
}
