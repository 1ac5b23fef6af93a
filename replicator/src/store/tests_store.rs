//! One promise of the store per test.

use bytes::Bytes;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::record::Kind;

use super::extent::{Entry, Place, Version};
use super::index::IndexBatch;
use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, delete_snapshot, discard, naive_digest, record, write};
use super::*;

#[test]
fn unwritten_reads_zero_and_uses_nothing() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    assert!(rig.read_all(VOL).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(rig.volume(VOL).used_bytes, 0);
    assert_eq!(rig.space().used_bytes, 0);
    assert_eq!(rig.space().capacity_bytes, 16 * EXTENT_BYTES);
}

#[test]
fn what_is_applied_is_read_also_after_a_checkpoint_and_a_restart() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    assert_eq!(rig.apply(VOL, &[write(1, 3, 1, 1), write(2, 15, 2, 2), discard(3, 3, 1)]).unwrap(), Seq(3));
    let mut image = vec![0; 8 * EXTENT];
    image[15 * BLOCK..17 * BLOCK].fill(2);
    assert_eq!(rig.read_all(VOL).unwrap(), image);
    assert_eq!(rig.volume(VOL).used_bytes, 2 * EXTENT_BYTES);
    assert_eq!(rig.volume(VOL).checkpointed_seq, Seq(0));
    assert_eq!(rig.checkpoint().unwrap(), vec![(VOL, Seq(3))]);
    rig.restart();
    assert_eq!(rig.read_all(VOL).unwrap(), image);
    let found = rig.volume(VOL);
    assert_eq!((found.checkpointed_seq, found.applied_seq, found.used_bytes), (Seq(3), Seq(3), 2 * EXTENT_BYTES));
    assert_eq!(rig.digest(VOL).unwrap().digest, naive_digest(&image));
}

#[test]
fn records_come_in_order_or_not_at_all() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 1, 1)]).unwrap();
    assert!(matches!(rig.apply(VOL, &[write(3, 0, 1, 3)]), Err(StoreError::Gap { found: Seq(3), .. })));
    assert!(matches!(rig.apply(VOL, &[write(2, 0, 1, 2), write(2, 0, 1, 3)]), Err(StoreError::Gap { .. })));
    assert_eq!(rig.read(VOL, 0, BLOCK).unwrap()[0], 1, "nothing of a refused slice is applied");
    assert_eq!(rig.apply(VOL, &[write(1, 0, 1, 9), write(2, 0, 1, 2)]).unwrap(), Seq(2), "known ones are skipped");
    assert_eq!(rig.read(VOL, 0, BLOCK).unwrap()[0], 2);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    let data = || Bytes::from(vec![1; BLOCK]);
    let bad = [
        record(VOL, 1, Kind::Write, 8 * EXTENT, BLOCK, data()),
        record(VOL, 1, Kind::Write, usize::MAX - BLOCK + 1, BLOCK, data()),
        record(VOL, 1, Kind::Write, 512, BLOCK, data()),
        record(VOL, 1, Kind::Write, 0, 2 * BLOCK, data()),
        record(VOL, 1, Kind::Write, 0, 0, Bytes::new()),
        record(VOL, 1, Kind::Discard, 0, 0, Bytes::new()),
        record(VOL, 1, Kind::Discard, 0, 512, Bytes::new()),
        record(VOL, 1, Kind::WriteZeroes, 0, usize::MAX, Bytes::new()),
        record(VolumeId(8), 1, Kind::Write, 0, BLOCK, data()),
        farshore_core::record::Record { payload_crc: 1, ..write(1, 0, 1, 1) },
    ];
    for record in bad {
        let error = rig.apply(VOL, std::slice::from_ref(&record)).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Reject, "{record:?}: {error}");
    }
    for (offset, len) in [(1, BLOCK), (0, 1), (8 * EXTENT as u64, BLOCK), (u64::MAX - 4095, BLOCK), (0, usize::MAX)] {
        assert_eq!(rig.read(VOL, offset, len).unwrap_err().class(), ErrorClass::Reject, "{offset}+{len}");
    }
    assert!(rig.read(VOL, 8 * EXTENT as u64, 0).unwrap().is_empty());
    assert!(rig.create(VolumeId(9), 0).is_err());
    assert!(rig.create(VolumeId(9), 4097).is_err());
    assert!(rig.create(VolumeId(9), u64::MAX - 4095).is_err());
    assert!(rig.pin(VOL, "").is_err());
    assert!(rig.pin(VOL, &"x".repeat(257)).is_err());
    assert!(rig.stage_begin(VOL, 1, Some(Seq(5)), None, Seq(9)).is_err(), "a base above what is applied");
}

#[test]
fn create_resize_and_remove_can_be_repeated() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.create(VOL, 8 * EXTENT_BYTES).unwrap();
    assert!(matches!(rig.create(VOL, EXTENT_BYTES), Err(StoreError::SizeDiffers { .. })));
    rig.resize(VOL, 9 * EXTENT_BYTES).unwrap();
    rig.resize(VOL, 9 * EXTENT_BYTES).unwrap();
    assert!(rig.resize(VOL, 8 * EXTENT_BYTES).is_err());
    rig.restart();
    assert_eq!(rig.volume(VOL).size_bytes, 9 * EXTENT_BYTES);
    rig.remove(VOL).unwrap();
    rig.remove(VOL).unwrap();
    assert!(matches!(rig.read(VOL, 0, BLOCK), Err(StoreError::NoVolume { .. })));
    assert!(rig.volumes().is_empty());
}

#[test]
fn a_deleted_volume_gives_its_space_back_even_over_a_restart() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 128, 1)]).unwrap();
    rig.pin(VOL, "a").unwrap();
    rig.apply(VOL, &[write(2, 0, 64, 2)]).unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, 12 * EXTENT_BYTES);
    rig.remove(VOL).unwrap();
    rig.restart();
    assert!(rig.volumes().is_empty());
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, 0);
    rig.create(VOL, 8 * EXTENT_BYTES).unwrap();
    assert!(rig.read_all(VOL).unwrap().iter().all(|byte| *byte == 0));
    assert!(rig.pins(VOL).unwrap().is_empty());
}

#[test]
fn a_volume_created_again_at_once_is_empty() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 8, 1)]).unwrap();
    rig.remove(VOL).unwrap();
    rig.create(VOL, 4 * EXTENT_BYTES).unwrap();
    assert!(rig.read_all(VOL).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(rig.volume(VOL).applied_seq, Seq(0));
    assert_eq!(rig.space().used_bytes, 0);
}

#[test]
fn a_pin_keeps_its_image_and_gives_its_space_back() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    assert_eq!(
        rig.apply(VOL, &[write(1, 0, 4, 1), delete_snapshot(VOL, 2, 9), write(3, 1, 1, 3)]).unwrap(),
        Seq(2),
        "ends at the mark"
    );
    assert_eq!(rig.pin(VOL, "snap").unwrap(), Seq(2));
    rig.apply(VOL, &[write(3, 1, 1, 3), discard(4, 2, 1)]).unwrap();
    assert_eq!(rig.pin(VOL, "snap").unwrap(), Seq(2), "a pin stays where it is");
    let check = |rig: &Rig| {
        let old = rig.read_at(VOL, "snap", 0, 4 * BLOCK).unwrap();
        assert!(old.iter().all(|byte| *byte == 1));
        let new = rig.read(VOL, 0, 4 * BLOCK).unwrap();
        assert_eq!([new[0], new[BLOCK], new[2 * BLOCK], new[3 * BLOCK]], [1, 3, 0, 1]);
    };
    check(&rig);
    rig.checkpoint().unwrap();
    rig.restart();
    check(&rig);
    assert_eq!(rig.volume(VOL).used_bytes, 2 * EXTENT_BYTES);
    rig.unpin(VOL, "snap").unwrap();
    rig.unpin(VOL, "snap").unwrap();
    assert!(matches!(rig.read_at(VOL, "snap", 0, BLOCK), Err(StoreError::NoPin { .. })));
    rig.sweep().unwrap();
    assert_eq!(rig.volume(VOL).used_bytes, EXTENT_BYTES);
    assert_eq!(rig.space().pending_bytes, EXTENT_BYTES, "a freed place waits for a checkpoint");
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, EXTENT_BYTES);
}

#[test]
fn a_full_store_says_so_damages_nothing_and_goes_on_once_there_is_room() {
    let rig = Rig::with_volume(4, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 48, 1)]).unwrap();
    let more = [write(2, 0, 1, 2), write(3, 48, 16, 3), write(4, 64, 16, 4), discard(5, 0, 16)];
    let error = rig.apply(VOL, &more).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Retry);
    assert_eq!(rig.volume(VOL).applied_seq, Seq(3), "what fits is applied");
    assert_eq!(rig.read(VOL, 48 * BLOCK as u64, BLOCK).unwrap()[0], 3);
    assert!(rig.apply(VOL, &more).is_err());
    rig.create(VolumeId(8), EXTENT_BYTES).unwrap();
    rig.remove(VolumeId(8)).unwrap();
    let mut discarded = more.clone();
    discarded[2] = discard(4, 0, 16);
    discarded[3] = write(5, 64, 16, 4);
    assert_eq!(rig.apply(VOL, &discarded).unwrap(), Seq(5), "a discard's space is found without being asked for");
    assert_eq!(rig.read(VOL, 64 * BLOCK as u64, BLOCK).unwrap()[0], 4);
    assert_eq!(rig.read(VOL, 0, BLOCK).unwrap()[0], 0);
}

#[test]
fn a_freed_place_is_not_used_before_a_checkpoint() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.checkpoint().unwrap();
    rig.apply(VOL, &[discard(2, 0, 16)]).unwrap();
    assert_eq!(rig.volume(VOL).used_bytes, 0);
    assert_eq!(rig.space().free_bytes, 15 * EXTENT_BYTES);
    // Freed while a checkpoint runs: only the one after it may give the place back.
    rig.apply(VOL, &[write(3, 0, 16, 3)]).unwrap();
    rig.checkpoint().unwrap();
    rig.checkpoint_with(|| {
        rig.apply(VOL, &[discard(4, 0, 16)]).unwrap();
    })
    .unwrap();
    assert_eq!(rig.space().pending_bytes, EXTENT_BYTES);
    assert_eq!(rig.space().free_bytes, 15 * EXTENT_BYTES);
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().free_bytes, 16 * EXTENT_BYTES);
}

#[test]
fn changed_since_names_data_and_holes_and_refuses_below_the_floor() {
    let rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 2, 1), write(2, 16, 1, 2), write(3, 40, 1, 3)]).unwrap();
    rig.apply(VOL, &[discard(4, 40, 1), write(5, 1, 1, 5), delete_snapshot(VOL, 6, 9)]).unwrap();
    rig.pin(VOL, "p").unwrap();
    rig.apply(VOL, &[write(7, 0, 1, 7), write(8, 100, 1, 8)]).unwrap();
    let list = |base, max| {
        let (mut out, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let page = rig.changed_since(VOL, base, "p", cursor, max).unwrap();
            assert_eq!(page.seq, Seq(6));
            out.extend(page.extents);
            match page.next {
                Some(next) => cursor = next,
                None => return out,
            }
        }
    };
    let extent = |extent, changed, holes| ChangedExtent { extent, changed, holes };
    for max in [1, 2, 100] {
        assert_eq!(list(Some(Seq(3)), max), [extent(2, 1 << 8, 1 << 8), extent(0, 0b10, 0)]);
        assert_eq!(list(Some(Seq(6)), max), []);
        assert_eq!(list(None, max), [extent(0, 0b11, 0), extent(1, 1, 0)]);
        assert_eq!(list(Some(Seq(0)), max), [extent(1, 1, 0), extent(2, 1 << 8, 1 << 8), extent(0, 0b11, 0)]);
    }
    rig.raise_floor(VOL, Seq(4)).unwrap();
    rig.raise_floor(VOL, Seq(2)).unwrap();
    assert!(matches!(
        rig.changed_since(VOL, Some(Seq(3)), "p", Cursor::default(), 9),
        Err(StoreError::BelowFloor { floor: Seq(4), .. })
    ));
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(list(Some(Seq(4)), 9), [extent(0, 0b10, 0)]);
    assert!(rig.raise_floor(VOL, Seq(99)).is_err());
    assert!(rig.changed_since(VOL, Some(Seq(7)), "p", Cursor::default(), 9).is_err());
}

#[test]
fn much_that_changed_is_listed_by_extent_and_is_the_same() {
    let rig = Rig::with_volume(16, 100_000 * EXTENT);
    let noop = |seq| record(VOL, seq, Kind::Noop, 0, 0, Bytes::new());
    rig.apply(VOL, &(1..=20_000).map(noop).collect::<Vec<_>>()).unwrap();
    // Straight into the index: the places are never read.
    let mut batch = IndexBatch::default();
    for at in 0..9_000_u64 {
        let (extent, seq) = (at * 7_919 % 100_000, Seq(10_000 + at));
        let mut entry = Entry { place: Place(at + 1), ..Entry::EMPTY };
        entry.set_data(3, 1, seq);
        batch.extent(VOL, extent, Version { image: 0, seq }, Some(entry));
    }
    rig.index.commit(&batch).unwrap();
    rig.pin(VOL, "p").unwrap();
    for (base, much) in [(9_000, true), (18_000, false)] {
        assert_eq!(rig.changed_is_much(VOL, Seq(base), "p").unwrap(), much, "since {base}");
        let (mut by_extent, mut from) = (Vec::new(), Some(0));
        while let Some(extent) = from {
            let page = rig.changed_by_extent(VOL, Some(Seq(base)), "p", extent, 1000).unwrap();
            by_extent.extend(page.extents);
            from = page.next.map(|next| next.extent);
        }
        let (mut listed, mut cursor) = (Vec::new(), Some(Cursor::default()));
        while let Some(at) = cursor {
            let page = rig.changed_since(VOL, Some(Seq(base)), "p", at, 1000).unwrap();
            listed.extend(page.extents);
            cursor = page.next;
        }
        listed.sort_unstable_by_key(|found| found.extent);
        assert_eq!(by_extent.len() as u64, if much { 9_000 } else { 999 });
        assert!(by_extent == listed, "since {base}");
    }
}

#[test]
fn a_shipment_shows_nothing_until_it_is_committed() {
    let mut rig = Rig::with_volume(32, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 32, 1)]).unwrap();
    let stage = rig.stage_begin(VOL, 5, Some(Seq(1)), None, Seq(10)).unwrap();
    assert_eq!(stage.cursor, Cursor::default());
    let data = |fill| StageData::Data(Bytes::from(vec![fill; 2 * BLOCK]));
    rig.stage_write(VOL, 5, BLOCK as u64, data(9)).unwrap();
    rig.stage_write(VOL, 5, 16 * BLOCK as u64, StageData::Hole { len: EXTENT_BYTES }).unwrap();
    let cursor = Cursor { seq: Seq(10), extent: 1 };
    rig.stage_advance(VOL, 5, cursor).unwrap();
    assert!(matches!(rig.apply(VOL, &[write(2, 0, 1, 2)]), Err(StoreError::Staging { .. })));
    assert!(matches!(rig.stage_write(VOL, 6, 0, data(1)), Err(StoreError::NoStage { .. })));
    rig.checkpoint().unwrap();
    rig.restart();
    assert_eq!(rig.stage_begin(VOL, 5, Some(Seq(1)), None, Seq(10)).unwrap().cursor, cursor, "resumes where it was");
    assert!(rig.read(VOL, 0, 32 * BLOCK).unwrap().iter().all(|byte| *byte == 1));
    assert_eq!(rig.stage_commit(VOL, 5).unwrap(), Seq(10));
    let check = |rig: &Rig| {
        let image = rig.read(VOL, 0, 32 * BLOCK).unwrap();
        let firsts: Vec<u8> = image.chunks(BLOCK).map(|block| block[0]).collect();
        let mut expected = vec![1; 16];
        expected[1..3].fill(9);
        expected.extend([0; 16]);
        assert_eq!(firsts, expected);
    };
    check(&rig);
    rig.restart();
    check(&rig);
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, EXTENT_BYTES);
    rig.apply(VOL, &[write(11, 0, 1, 11)]).unwrap();
}

#[test]
fn a_full_copy_clears_what_the_source_lacks_and_may_go_back_in_seq() {
    let rig = Rig::with_volume(32, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 64, 1), write(2, 0, 64, 2), write(3, 0, 64, 3)]).unwrap();
    rig.pin(VOL, "diverged").unwrap();
    rig.stage_begin(VOL, 5, None, None, Seq(2)).unwrap();
    rig.stage_write(VOL, 5, 0, StageData::Data(Bytes::from(vec![7; BLOCK]))).unwrap();
    rig.stage_write(VOL, 5, EXTENT_BYTES, StageData::Hole { len: EXTENT_BYTES }).unwrap();
    rig.stage_commit(VOL, 5).unwrap();
    let mut image = vec![0; 8 * EXTENT];
    image[..BLOCK].fill(7);
    assert_eq!(rig.read_all(VOL).unwrap(), image);
    assert_eq!(rig.volume(VOL).applied_seq, Seq(2));
    assert_eq!(rig.volume(VOL).changed_floor, Seq(2));
    assert!(rig.read_at(VOL, "diverged", 0, EXTENT).unwrap().iter().all(|byte| *byte == 3));
    rig.apply(VOL, &[write(3, 1, 1, 8)]).unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    image[BLOCK..2 * BLOCK].fill(8);
    assert_eq!(rig.read_all(VOL).unwrap(), image);
    assert!(rig.read_at(VOL, "diverged", 0, 4 * EXTENT).unwrap().iter().all(|byte| *byte == 3));
    rig.unpin(VOL, "diverged").unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, EXTENT_BYTES);
}

#[test]
fn after_a_fork_only_what_differs_is_shipped_and_the_image_that_was_there_is_kept() {
    let rig = Rig::with_volume(32, 8 * EXTENT);
    let winner = Rig::with_volume(32, 8 * EXTENT);
    let common = [write(1, 0, 48, 1), write(2, 20, 1, 2)];
    let ours = [write(3, 0, 1, 3), write(4, 40, 1, 4), discard(5, 30, 2)];
    let theirs = [write(3, 1, 1, 5), write(4, 40, 1, 6), write(5, 64, 1, 7), write(6, 21, 1, 8)];
    for (rig, after) in [(&rig, &ours[..]), (&winner, &theirs[..])] {
        rig.apply(VOL, &common).unwrap();
        rig.apply(VOL, after).unwrap();
    }
    let diverged = rig.digest(VOL).unwrap();
    assert_eq!(rig.set_aside(VOL, "diverged").unwrap(), Seq(5));
    assert_eq!(rig.set_aside(VOL, "diverged").unwrap(), Seq(5), "done again after a crash");
    assert_eq!(rig.volume(VOL).applied_seq, Seq::ZERO);
    assert!(rig.read_all(VOL).unwrap().iter().all(|byte| *byte == 0), "nothing is shown any more");

    winner.pin(VOL, "ship").unwrap();
    let changed = |rig: &Rig, pin: &str| {
        let page = rig.changed_since(VOL, Some(Seq(2)), pin, Cursor::default(), 99).unwrap();
        page.extents.into_iter().map(|found| (found.extent, found.changed)).collect::<Vec<_>>()
    };
    assert!(rig.stage_begin(VOL, 5, Some(Seq(9)), Some("diverged"), Seq(9)).is_err(), "a base that it has not got");
    assert!(rig.stage_begin(VOL, 5, Some(Seq(2)), Some("other"), Seq(6)).is_err());
    rig.stage_begin(VOL, 5, Some(Seq(2)), Some("diverged"), Seq(6)).unwrap();
    for (extent, blocks) in changed(&rig, "diverged").into_iter().chain(changed(&winner, "ship")) {
        let found = winner.extent_at(VOL, "ship", extent).unwrap();
        for block in (0..BLOCKS_PER_EXTENT).filter(|block| blocks & 1 << block != 0) {
            let offset = extent * EXTENT_BYTES + (block * BLOCK) as u64;
            let data = match found.holes & 1 << block {
                0 => StageData::Data(winner.read_at(VOL, "ship", offset, BLOCK).unwrap()),
                _ => StageData::Hole { len: BLOCK as u64 },
            };
            rig.stage_write(VOL, 5, offset, data).unwrap();
        }
    }
    rig.checkpoint().unwrap();
    let mut rig = rig;
    rig.restart();
    rig.stage_commit(VOL, 5).unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    rig.restart();
    assert_eq!(rig.digest(VOL).unwrap().digest, winner.digest(VOL).unwrap().digest);
    assert_eq!(rig.digest_at(VOL, "diverged").unwrap(), diverged, "both histories are there");
    for rig in [&rig, &winner] {
        rig.apply(VOL, &[write(7, 30, 1, 9)]).unwrap();
        rig.pin(VOL, "later").unwrap();
    }
    let after = |rig: &Rig| rig.changed_since(VOL, Some(Seq(6)), "later", Cursor::default(), 99).unwrap();
    assert_eq!(after(&rig), after(&winner), "from the new image on both say the same");
}

#[test]
fn what_was_staged_survives_a_crash_only_with_a_checkpoint_and_its_cursor_tells() {
    let mut rig = Rig::with_volume(32, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 32, 1)]).unwrap();
    let all = Cursor { seq: Seq(u64::MAX), extent: u64::MAX };
    for durable in [false, true] {
        rig.stage_begin(VOL, 5 + u128::from(durable), Some(Seq(1)), None, Seq(10)).unwrap();
        let ship_id = rig.stage(VOL).unwrap().unwrap().ship_id;
        rig.stage_write(VOL, ship_id, 0, StageData::Data(Bytes::from(vec![9; BLOCK]))).unwrap();
        rig.stage_advance(VOL, ship_id, all).unwrap();
        if durable {
            rig.checkpoint().unwrap();
        }
        rig.restart();
        assert_eq!(rig.stage(VOL).unwrap().map(|stage| stage.cursor == all), Some(durable));
    }
    rig.stage_commit(VOL, 6).unwrap();
    assert_eq!(rig.read(VOL, 0, 2 * BLOCK).unwrap()[..], [[9; BLOCK], [1; BLOCK]].concat());
}

#[test]
fn an_aborted_shipment_leaves_nothing() {
    let mut rig = Rig::with_volume(32, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 16, 1)]).unwrap();
    rig.stage_begin(VOL, 5, Some(Seq(1)), None, Seq(10)).unwrap();
    rig.stage_write(VOL, 5, 0, StageData::Data(Bytes::from(vec![9; 4 * EXTENT]))).unwrap();
    rig.checkpoint().unwrap();
    rig.restart();
    rig.stage_begin(VOL, 6, Some(Seq(1)), None, Seq(10)).unwrap();
    assert_eq!(rig.space().used_bytes, EXTENT_BYTES, "the one before was swept away first");
    rig.stage_write(VOL, 6, 16 * BLOCK as u64, StageData::Data(Bytes::from(vec![6; BLOCK]))).unwrap();
    rig.stage_commit(VOL, 6).unwrap();
    let image = rig.read(VOL, 0, 4 * EXTENT).unwrap();
    assert_eq!([image[0], image[EXTENT], image[EXTENT + BLOCK], image[2 * EXTENT]], [1, 6, 0, 0]);
    rig.stage_begin(VOL, 7, None, None, Seq(11)).unwrap();
    rig.stage_abort(VOL, 7).unwrap();
    rig.stage_abort(VOL, 7).unwrap();
    assert_eq!(rig.stage(VOL).unwrap(), None);
    rig.apply(VOL, &[write(11, 0, 1, 2)]).unwrap();
}

#[test]
fn foreign_and_newer_directories_are_refused_by_name() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.stop();
    let mut other = rig.config.clone();
    other.node.uuid = 2;
    assert!(matches!(Store::open(other), Err(StoreError::OtherNode { .. })));
    let path = rig.config.dir.join("store.super");
    let good = std::fs::read(&path).unwrap();
    let mut newer = good.clone();
    newer[4] = 9;
    std::fs::write(&path, &newer).unwrap();
    let error = Store::open(rig.config.clone()).map(drop).unwrap_err().to_string();
    assert!(error.contains("format version 9 is newer"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Store::open(rig.config.clone()).map(drop), Err(StoreError::Format { .. })));
    std::fs::write(&path, &good).unwrap();
    rig.restart();
}

#[test]
fn a_lost_slab_is_refused() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 1, 1)]).unwrap();
    rig.checkpoint().unwrap();
    rig.stop();
    std::fs::remove_file(rig.slab_path()).unwrap();
    assert!(Store::open(rig.config.clone()).is_err());
    std::fs::write(rig.slab_path(), vec![0; EXTENT]).unwrap();
    assert!(matches!(Store::open(rig.config.clone()).map(drop), Err(StoreError::OtherSlab { .. })));
}

#[test]
fn inspection_reports_and_survives_damage() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 4, 0x11), write(2, 20, 1, 0x22)]).unwrap();
    rig.pin(VOL, "snap").unwrap();
    let report = inspect(&rig.config.dir, None);
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.extents, report.used_bytes, report.mismatched_count), (2, 2 * EXTENT_BYTES, 0));
    assert_eq!(report.volumes[0].pins, [("snap".to_owned(), Seq(2))]);
    rig.rot(0x22);
    rig.stop();
    let report = inspect(&rig.config.dir, None);
    assert_eq!(report.mismatched_blocks, [(VOL, 20 * BLOCK as u64)]);
    std::fs::write(rig.config.dir.join("store.super"), b"rubbish").unwrap();
    std::fs::remove_file(rig.slab_path()).unwrap();
    assert_eq!(inspect(&rig.config.dir, None).problems.len(), 2);
    std::fs::remove_file(rig.config.dir.join("index/CURRENT")).unwrap();
    assert!(inspect(&rig.config.dir, None).problems.len() >= 3);
    assert!(!inspect(&rig.dir.path().join("nowhere"), None).problems.is_empty());
}

#[test]
fn readers_and_a_writer_at_once_see_whole_blocks_only() {
    let rig = Rig::with_volume(64, 8 * EXTENT);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                    let image = rig.read(VOL, 0, 2 * EXTENT).expect("a read beside a writer");
                    for block in image.chunks(BLOCK) {
                        assert!(block.iter().all(|byte| *byte == block[0]), "a torn block was returned");
                    }
                    reads += 1;
                }
            });
        }
        for seq in 1..400u64 {
            let record = if seq % 7 == 0 { discard(seq, 5, 20) } else { write(seq, seq as usize % 8, 24, seq as u8) };
            rig.apply(VOL, &[record]).unwrap();
            if seq % 50 == 0 {
                rig.checkpoint().unwrap();
            }
            if seq % 90 == 0 {
                rig.pin(VOL, "p").unwrap();
            } else if seq % 100 == 0 {
                rig.unpin(VOL, "p").unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_store_without_direct_io_is_the_same() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 40, 1)]).unwrap();
    rig.checkpoint().unwrap();
    rig.config.direct_io = false;
    rig.restart();
    assert!(!rig.space().direct_io);
    rig.apply(VOL, &[write(2, 3, 1, 2)]).unwrap();
    let image = rig.read(VOL, 0, 40 * BLOCK).unwrap();
    assert_eq!([image[0], image[3 * BLOCK]], [1, 2]);
}

/// Figures, not a verdict: `cargo test --release -p farshore-replicator --lib store -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures() {
    let mut rig = Rig::new(40_000);
    let (size, count) = (1usize << 30, 64usize);
    rig.create(VOL, size as u64).unwrap();
    let mut seq = 0;
    let mut measure = |rig: &Rig, what: &str, blocks: usize, place: &dyn Fn(usize) -> usize| {
        let start = std::time::Instant::now();
        let mut bytes = 0;
        for round in 0..(1 << 14) / count / blocks.min(16) {
            let records: Vec<_> = (0..count)
                .map(|at| write(seq + 1 + at as u64, place(round * count + at) * blocks, blocks, 7))
                .collect();
            seq += count as u64;
            rig.apply(VOL, &records).unwrap();
            bytes += count * blocks * BLOCK;
        }
        let applied = start.elapsed();
        rig.checkpoint().unwrap();
        println!(
            "{what}: {:.0} MB/s, {:.0} records/s, checkpoint {:?}",
            bytes as f64 / 1e6 / applied.as_secs_f64(),
            bytes as f64 / (blocks * BLOCK) as f64 / applied.as_secs_f64(),
            start.elapsed() - applied
        );
    };
    for direct_io in [true, false] {
        rig.config.direct_io = direct_io;
        rig.restart();
        println!("direct_io {direct_io}");
        measure(&rig, "sequential 256 KiB", 64, &|at| at % 4096);
        measure(&rig, "sequential 4 KiB", 1, &|at| at);
        measure(&rig, "scattered 4 KiB", 1, &|at| at.wrapping_mul(2_654_435_761) % (size / BLOCK));
    }
    let start = std::time::Instant::now();
    for at in 0..20_000usize {
        rig.read(VOL, (at.wrapping_mul(2_654_435_761) % (size / BLOCK) * BLOCK) as u64, BLOCK).unwrap();
    }
    println!("scattered 4 KiB reads: {:.0}/s", 20_000.0 / start.elapsed().as_secs_f64());
}
