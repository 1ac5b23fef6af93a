//! The catalogue of snapshots: what marks make of it, across crashes and shipments.

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::ids::Seq;
use farshore_core::mark::{Mark, SnapshotId};

use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, delete_snapshot, mark, pin_of, snapshot, write};
use super::*;

const SIZE: usize = 8 * EXTENT;

fn names(rig: &Rig) -> Vec<(String, Seq, SnapshotState)> {
    rig.snapshots(VOL).unwrap().into_iter().map(|row| (row.name, row.seq, row.state)).collect()
}

fn first_byte(rig: &Rig, id: u128) -> u8 {
    rig.read_at(VOL, &pin_of(id), 0, BLOCK).unwrap()[0]
}

#[test]
fn a_mark_makes_a_snapshot_without_waiting_for_the_disk_and_redo_makes_it_again() {
    let mut rig = Rig::with_volume(32, SIZE);
    let records = [write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 1, 3), write(4, 1, 1, 4)];
    for kept in [0.0, 0.5, 1.0] {
        assert_eq!(rig.apply(VOL, &records).unwrap(), Seq(2), "ends at the mark");
        rig.apply_all(VOL, &records).unwrap();
        assert_eq!(names(&rig), [("s7".into(), Seq(2), SnapshotState::Ready)]);
        assert!(rig.read_at(VOL, &pin_of(7), 0, EXTENT).unwrap().iter().all(|byte| *byte == 1));
        assert_eq!(rig.volume(VOL).checkpointed_seq, Seq(0), "nothing was synced for it");
        rig.power_cut(kept, 5);
        assert!(rig.snapshots(VOL).unwrap().is_empty() && rig.pins(VOL).unwrap().is_empty());
    }
    rig.apply_all(VOL, &records).unwrap();
    rig.checkpoint().unwrap();
    rig.power_cut(0.0, 6);
    assert_eq!(first_byte(&rig, 7), 1);
    assert_eq!(rig.read(VOL, 0, BLOCK).unwrap()[0], 3);
    let row = rig.snapshot(VOL, SnapshotId(7)).unwrap();
    assert_eq!((row.created_unix_ms, row.size_bytes, row.group), (2, SIZE as u64, None));
    assert!(matches!(rig.snapshot(VOL, SnapshotId(8)), Err(StoreError::NoSnapshot { .. })));
    assert_eq!(inspect(&rig.config.dir, None).volumes[0].snapshots, [row]);
}

#[test]
fn a_checkpoint_has_the_position_and_the_catalogue_or_neither() {
    // Cut the power after each record, with and without a checkpoint there; the rest is redone.
    let updated = Mark::Update {
        id: SnapshotId(7),
        labels: [("a".to_string(), "b".to_string())].into(),
        holds: ["h".to_string()].into(),
    };
    let records = [
        write(1, 0, 16, 1),
        snapshot(VOL, 2, 7, SIZE),
        write(3, 0, 16, 3),
        snapshot(VOL, 4, 8, SIZE),
        mark(VOL, 5, &updated),
        write(6, 0, 16, 6),
        delete_snapshot(VOL, 7, 8),
        write(8, 0, 4, 8),
        snapshot(VOL, 9, 7, SIZE),
    ];
    for cut in 1..=records.len() {
        for checkpoint in 0..=cut {
            let mut rig = Rig::with_volume(32, SIZE);
            rig.apply_all(VOL, &records[..checkpoint]).unwrap();
            rig.checkpoint().unwrap();
            rig.apply_all(VOL, &records[..cut]).unwrap();
            rig.power_cut(0.5, cut as u64);
            assert_eq!(rig.volume(VOL).applied_seq, Seq(checkpoint as u64));
            let of = |id: u128| rig.snapshots(VOL).unwrap().iter().any(|row| row.id == SnapshotId(id));
            assert_eq!(of(7), checkpoint >= 2, "cut at {cut}, checkpoint at {checkpoint}");
            assert_eq!(of(8), (4..7).contains(&checkpoint));
            if of(8) {
                assert_eq!(first_byte(&rig, 8), 3, "one that comes back is whole");
            }
            rig.apply_all(VOL, &records).unwrap();
            assert_eq!(names(&rig), [("s7".into(), Seq(2), SnapshotState::Ready)], "made once");
            assert_eq!(first_byte(&rig, 7), 1);
            let row = rig.snapshot(VOL, SnapshotId(7)).unwrap();
            assert_eq!((row.labels.len(), row.holds.len()), (1, 1));
            assert_eq!(rig.read(VOL, 0, BLOCK).unwrap()[0], 8);
            rig.sweep().unwrap();
            rig.checkpoint().unwrap();
            assert_eq!(rig.space().used_bytes, 2 * EXTENT_BYTES);
            assert!(rig.scrub(VOL, ScrubCursor::default(), 1 << 20).unwrap().damaged.is_empty());
        }
    }
}

#[test]
fn what_a_deleted_snapshot_held_is_not_overwritten_before_the_deletion_is_durable() {
    let mut rig = Rig::with_volume(32, SIZE);
    rig.apply_all(VOL, &[write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE)]).unwrap();
    rig.checkpoint().unwrap();
    rig.apply_all(VOL, &[delete_snapshot(VOL, 3, 7), write(4, 0, 16, 4)]).unwrap();
    rig.power_cut(1.0, 1);
    // Until redo is there it is listed again: then it must be what it was.
    assert!(rig.read_at(VOL, &pin_of(7), 0, EXTENT).unwrap().iter().all(|byte| *byte == 1));
    rig.apply_all(VOL, &[delete_snapshot(VOL, 3, 7), write(4, 0, 16, 4)]).unwrap();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, EXTENT_BYTES);
}

#[test]
fn a_mark_that_cant_be_read_is_an_error_that_names_it_and_nothing_is_passed_over() {
    let rig = Rig::with_volume(32, SIZE);
    let mut newer = snapshot(VOL, 2, 7, SIZE);
    let mut bytes = newer.payload.to_vec();
    bytes[0] = 9;
    newer.payload = Bytes::from(bytes);
    newer.payload_crc = crc32fast::hash(&newer.payload);
    let error = rig.apply(VOL, &[write(1, 0, 1, 1), newer.clone(), write(3, 0, 1, 3)]).unwrap_err();
    assert!(matches!(error, StoreError::Mark { seq: Seq(2), source: DecodeError::Newer { found: 9, .. }, .. }));
    assert_eq!(error.class(), ErrorClass::Retry, "the node is upgraded, and goes on");
    assert!(error.to_string().contains("snapshot mark in record 2"), "{error}");
    assert!(rig.volume(VOL).applied_seq < Seq(2));
    let bad = [
        mark(VOL, 1, &Mark::Delete { id: SnapshotId(0) }),
        snapshot(VOL, 1, 7, 0),
        snapshot(VOL, 1, 7, 4097),
        snapshot(VOL, 1, 7, usize::MAX - 4095),
        farshore_core::record::Record { payload_crc: 1, ..snapshot(VOL, 1, 7, SIZE) },
        farshore_core::record::Record { payload: Bytes::new(), payload_crc: 0, ..snapshot(VOL, 1, 7, SIZE) },
    ];
    for record in bad {
        assert_eq!(rig.apply(VOL, std::slice::from_ref(&record)).unwrap_err().class(), ErrorClass::Reject);
    }
    assert_eq!(rig.apply_all(VOL, &[write(1, 0, 1, 1), snapshot(VOL, 2, 7, SIZE)]).unwrap(), Seq(2));
}

#[test]
fn the_pins_of_snapshots_are_nobody_elses() {
    let rig = Rig::with_volume(32, SIZE);
    rig.apply_all(VOL, &[snapshot(VOL, 1, 7, SIZE)]).unwrap();
    assert_eq!(rig.unpin(VOL, &pin_of(7)).unwrap_err().class(), ErrorClass::Reject);
    assert_eq!(rig.pin(VOL, "clone-1").unwrap_err().class(), ErrorClass::Reject);
    assert_eq!(rig.pins(VOL).unwrap().len(), 1);
}

#[test]
fn the_difference_of_a_snapshot_that_no_checkpoint_has_is_whole() {
    let rig = Rig::with_volume(32, SIZE);
    rig.apply_all(VOL, &[write(1, 0, 1, 1), snapshot(VOL, 2, 7, SIZE), write(3, 20, 1, 3)]).unwrap();
    rig.apply_all(VOL, &[snapshot(VOL, 4, 8, SIZE)]).unwrap();
    let page = rig.changed_since(VOL, Some(Seq(2)), &pin_of(8), Cursor::default(), 9).unwrap();
    assert_eq!(page.extents, [ChangedExtent { extent: 1, changed: 1 << 4, holes: 0 }]);
}

#[test]
fn a_shipped_image_brings_its_catalogue_and_only_what_was_here_is_ready() {
    let mut rig = Rig::with_volume(64, SIZE);
    rig.apply_all(VOL, &[write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE), snapshot(VOL, 3, 8, SIZE)]).unwrap();
    let mut theirs = rig.snapshots(VOL).unwrap();
    theirs.remove(1);
    theirs.push(SnapshotRow { id: SnapshotId(9), seq: Seq(6), name: "later".into(), ..theirs[0].clone() });
    for full in [false, true] {
        let base = (!full).then_some(rig.volume(VOL).applied_seq);
        rig.stage_begin(VOL, 5, base, None, Seq(10)).unwrap();
        rig.stage_write(VOL, 5, 0, StageData::Data(Bytes::from(vec![9; EXTENT]))).unwrap();
        rig.stage_snapshots(VOL, 5, &theirs).unwrap();
        rig.checkpoint().unwrap();
        rig.restart();
        assert_eq!(rig.snapshot(VOL, SnapshotId(9)).is_ok(), full, "nothing before the commit");
        rig.stage_commit(VOL, 5).unwrap();
        for _ in 0..2 {
            let (ready, missing) = (SnapshotState::Ready, SnapshotState::Missing);
            assert_eq!(names(&rig), [("s7".into(), Seq(2), ready), ("later".into(), Seq(6), missing)]);
            assert_eq!(first_byte(&rig, 7), 1);
            assert!(matches!(rig.read_at(VOL, &pin_of(9), 0, BLOCK), Err(StoreError::NoPin { .. })));
            assert!(matches!(rig.read_at(VOL, &pin_of(8), 0, BLOCK), Err(StoreError::NoPin { .. })), "gone there");
            rig.restart();
        }
    }
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, 2 * EXTENT_BYTES);
    // An aborted one leaves the catalogue as it was, and so does one that says nothing of snapshots.
    rig.stage_begin(VOL, 6, Some(Seq(10)), None, Seq(11)).unwrap();
    rig.stage_snapshots(VOL, 6, &[]).unwrap();
    rig.stage_abort(VOL, 6).unwrap();
    rig.stage_begin(VOL, 7, Some(Seq(10)), None, Seq(11)).unwrap();
    rig.stage_commit(VOL, 7).unwrap();
    assert_eq!(names(&rig).len(), 2);
    rig.stage_begin(VOL, 8, Some(Seq(11)), None, Seq(12)).unwrap();
    rig.stage_snapshots(VOL, 8, &[]).unwrap();
    rig.stage_commit(VOL, 8).unwrap();
    rig.restart();
    assert!(names(&rig).is_empty() && rig.pins(VOL).unwrap().is_empty());
}

#[test]
fn a_snapshot_listed_ahead_of_its_mark_becomes_ready_when_the_mark_is_applied() {
    let rig = Rig::with_volume(32, SIZE);
    let source = Rig::with_volume(32, SIZE);
    let records = [write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 16, 3), snapshot(VOL, 4, 8, SIZE)];
    source.apply_all(VOL, &records).unwrap();
    rig.stage_begin(VOL, 5, None, None, Seq(3)).unwrap();
    rig.stage_write(VOL, 5, 0, StageData::Data(Bytes::from(vec![3; EXTENT]))).unwrap();
    rig.stage_snapshots(VOL, 5, &source.snapshots(VOL).unwrap()).unwrap();
    rig.stage_commit(VOL, 5).unwrap();
    rig.apply_all(VOL, &records).unwrap();
    let (ready, missing) = (SnapshotState::Ready, SnapshotState::Missing);
    assert_eq!(names(&rig), [("s7".into(), Seq(2), missing), ("s8".into(), Seq(4), ready)]);
    assert_eq!(first_byte(&rig, 8), 3);
    rig.apply_all(VOL, &[delete_snapshot(VOL, 5, 7)]).unwrap();
    assert_eq!(names(&rig).len(), 1);
}

#[test]
fn a_snapshot_is_ready_with_the_shipment_of_its_very_moment() {
    let (mut rig, source) = (Rig::with_volume(32, SIZE), Rig::with_volume(32, SIZE));
    let records = [write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 16, 3), snapshot(VOL, 4, 8, SIZE)];
    source.apply_all(VOL, &records).unwrap();
    rig.stage_begin(VOL, 5, None, None, Seq(4)).unwrap();
    rig.stage_write(VOL, 5, 0, StageData::Data(Bytes::from(vec![3; EXTENT]))).unwrap();
    rig.stage_snapshots(VOL, 5, &source.snapshots(VOL).unwrap()).unwrap();
    rig.stage_commit(VOL, 5).unwrap();
    rig.apply_all(VOL, &[write(5, 0, 16, 5)]).unwrap();
    for _ in 0..2 {
        let (ready, missing) = (SnapshotState::Ready, SnapshotState::Missing);
        assert_eq!(names(&rig), [("s7".into(), Seq(2), missing), ("s8".into(), Seq(4), ready)]);
        assert_eq!(first_byte(&rig, 8), 3);
        rig.checkpoint().unwrap();
        rig.restart();
    }
}

#[test]
fn a_snapshots_own_space_is_told_from_what_others_hold_too() {
    let rig = Rig::with_volume(64, SIZE);
    let records = [
        write(1, 0, 64, 1),
        snapshot(VOL, 2, 7, SIZE),
        write(3, 0, 32, 3),
        snapshot(VOL, 4, 8, SIZE),
        write(5, 0, 16, 5),
    ];
    rig.apply_all(VOL, &records).unwrap();
    let usage = |id: u128| {
        let found = rig.snapshot_usage(VOL, SnapshotId(id)).unwrap();
        (found.unique_bytes / EXTENT_BYTES, found.shared_bytes / EXTENT_BYTES)
    };
    assert_eq!((usage(7), usage(8)), ((2, 2), (1, 3)));
    rig.pin(VOL, "p").unwrap();
    rig.apply_all(VOL, &[snapshot(VOL, 6, 9, SIZE), delete_snapshot(VOL, 7, 8)]).unwrap();
    assert_eq!((usage(7), usage(9)), ((2, 2), (0, 4)), "the extent that 8 alone had is garbage");
    assert!(matches!(rig.snapshot_usage(VOL, SnapshotId(8)), Err(StoreError::NoSnapshot { .. })));
}

#[test]
fn what_a_gone_pin_held_is_found_by_what_came_after_it() {
    // Of twelve snapshots, any set in any order: the space is that of those left, without a look at the whole volume.
    for order in [[3, 4, 5, 11, 12, 1], [1, 2, 3, 4, 5, 6], [12, 11, 10, 9, 8, 7], [6, 1, 12, 7, 2, 11]] {
        for together in [false, true] {
            let mut rig = Rig::with_volume(256, SIZE);
            let mut seq = 0;
            let mut images = std::collections::BTreeMap::new();
            let mut versions = [0_u64; 8];
            for id in 1..=12_u64 {
                for extent in (0..8).filter(|extent| (id + extent) % 3 != 0) {
                    seq += 1;
                    rig.apply_all(VOL, &[write(seq, extent as usize * 16, 16, id as u8)]).unwrap();
                    versions[extent as usize] = id;
                }
                seq += 1;
                rig.apply_all(VOL, &[snapshot(VOL, seq, id.into(), SIZE)]).unwrap();
                images.insert(id, versions);
            }
            rig.checkpoint().unwrap();
            for (at, id) in order.into_iter().enumerate() {
                seq += 1;
                rig.apply_all(VOL, &[delete_snapshot(VOL, seq, id.into())]).unwrap();
                images.remove(&id);
                if at % 2 == 0 {
                    seq += 1;
                    rig.apply_all(VOL, &[write(seq, at * 16, 16, 100 + at as u8)]).unwrap();
                    versions[at] = 100 + at as u64;
                }
                if !together {
                    rig.sweep().unwrap();
                }
            }
            rig.sweep().unwrap();
            rig.checkpoint().unwrap();
            let places: std::collections::BTreeSet<(usize, u64)> =
                images.values().chain([&versions]).flat_map(|image| image.iter().copied().enumerate()).collect();
            let places: Vec<_> = places.into_iter().filter(|(_, version)| *version != 0).collect();
            assert_eq!(rig.space().used_bytes / EXTENT_BYTES, places.len() as u64, "{order:?}");
            rig.restart();
            rig.sweep().unwrap();
            rig.checkpoint().unwrap();
            assert_eq!(rig.space().used_bytes / EXTENT_BYTES, places.len() as u64, "nothing was overlooked");
        }
    }
}

#[test]
fn an_idle_store_gives_space_back_by_itself() {
    let rig = Rig::with_volume(64, SIZE);
    let records = [write(1, 0, 64, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 64, 3), delete_snapshot(VOL, 4, 7)];
    rig.apply_all(VOL, &records).unwrap();
    while rig.sweep_step().unwrap() {}
    assert_eq!((rig.space().used_bytes, rig.space().pending_bytes), (4 * EXTENT_BYTES, 0));
}

#[test]
fn a_removed_volume_takes_its_snapshots_along() {
    let mut rig = Rig::with_volume(32, SIZE);
    rig.apply_all(VOL, &[write(1, 0, 16, 1), snapshot(VOL, 2, 7, SIZE), write(3, 0, 16, 3)]).unwrap();
    rig.remove(VOL).unwrap();
    rig.restart();
    rig.sweep().unwrap();
    rig.checkpoint().unwrap();
    assert_eq!(rig.space().used_bytes, 0);
    rig.create(VOL, SIZE as u64).unwrap();
    assert!(names(&rig).is_empty() && rig.pins(VOL).unwrap().is_empty());
}

/// In the order a deletion comes behind the very write that has no room.
#[test]
fn an_image_that_is_given_up_ahead_of_its_deletion_makes_room_and_nothing_brings_it_back() {
    let mut rig = Rig::with_volume(2, EXTENT);
    let records = [
        write(1, 0, 16, 1),
        snapshot(VOL, 2, 7, EXTENT),
        write(3, 0, 16, 3),
        snapshot(VOL, 4, 8, EXTENT),
        write(5, 0, 16, 5),
        delete_snapshot(VOL, 6, 7),
        write(7, 0, 16, 7),
    ];
    assert!(matches!(rig.apply_all(VOL, &records), Err(StoreError::Full { .. })));
    assert_eq!(rig.volume(VOL).applied_seq, Seq(4));
    for kept in [0.0, 0.5] {
        assert!(rig.give_up_image(VOL, SnapshotId(7)).unwrap());
        assert!(!rig.give_up_image(VOL, SnapshotId(7)).unwrap(), "there is none any more");
        assert!(!rig.give_up_image(VOL, SnapshotId(9)).unwrap(), "no such snapshot");
        assert_eq!(names(&rig)[0], ("s7".into(), Seq(2), SnapshotState::Missing), "the catalogue is the order's alone");
        // Until a checkpoint has it, nothing has happened.
        rig.power_cut(kept, 5);
        let again = rig.apply_all(VOL, &records[..4]);
        assert!(again.is_ok(), "{again:?}");
        assert_eq!(first_byte(&rig, 7), 1);
    }
    assert!(rig.give_up_image(VOL, SnapshotId(7)).unwrap());
    rig.apply_all(VOL, &records[..5]).unwrap();
    assert_eq!(first_byte(&rig, 8), 3);
    rig.checkpoint().unwrap();
    rig.power_cut(0.0, 6);
    assert_eq!(names(&rig)[0].2, SnapshotState::Missing);
    rig.apply_all(VOL, &records).unwrap();
    assert_eq!(names(&rig), [("s8".into(), Seq(4), SnapshotState::Ready)]);
    assert_eq!((first_byte(&rig, 8), rig.read(VOL, 0, BLOCK).unwrap()[0]), (3, 7));
}
