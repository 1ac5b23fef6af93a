//! Damage found, blocks handed to a peer that lost them, blocks put back.

use bytes::Bytes;
use farshore_core::ids::Seq;

use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, discard, write};
use super::{Damage, Held, ScrubCursor, StageData, Store, StoreError};

#[test]
fn rot_is_named_and_repaired_from_a_peer() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 4, 0x11), write(2, 20, 1, 0x22)]).unwrap();
    rig.pin(VOL, "snap").unwrap();
    rig.rot(0x22);
    // Copied on write, the damage goes along and stays damage.
    rig.apply(VOL, &[write(3, 21, 1, 0x33)]).unwrap();
    rig.checkpoint().unwrap();
    let offset = 20 * BLOCK as u64;
    for found in [rig.read_all(VOL), rig.read_at(VOL, "snap", 0, 8 * EXTENT)] {
        assert!(matches!(found, Err(StoreError::Corrupt { offset: found, .. }) if found == offset), "{found:?}");
    }
    assert_eq!(rig.read(VOL, 21 * BLOCK as u64, BLOCK).unwrap()[0], 0x33);
    assert!(matches!(rig.digest(VOL), Err(StoreError::Corrupt { .. })));
    let page = rig.scrub(VOL, ScrubCursor::default(), 1 << 20).unwrap();
    assert_eq!(page.damaged.len(), 2, "{page:?}");
    assert!(page.damaged.iter().all(|damage| damage.offset == offset && damage.from == Seq(2)));
    assert_eq!(page.checked_bytes, (4 + 1 + 2) * BLOCK as u64);
    assert!(page.next.is_none());
    let wrong = Bytes::from(vec![0x23; BLOCK]);
    assert!(matches!(rig.repair_block(VOL, offset, Seq(2), &wrong), Err(StoreError::RepairMismatch { .. })));
    let right = Bytes::from(vec![0x22; BLOCK]);
    assert_eq!(rig.repair_block(VOL, offset, Seq(2), &right).unwrap(), 2);
    assert_eq!(rig.repair_block(VOL, offset, Seq(2), &right).unwrap(), 0);
    assert_eq!(rig.read_at(VOL, "snap", offset, BLOCK).unwrap(), right);
    rig.restart();
    assert_eq!(rig.read(VOL, offset, BLOCK).unwrap(), right);
    assert!(rig.scrub(VOL, ScrubCursor::default(), 1 << 20).unwrap().damaged.is_empty());
}

#[test]
fn damage_is_listed_for_the_image_that_is_looked_at() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    rig.apply(VOL, &[write(1, 0, 4, 0x11), write(2, 20, 1, 0x22)]).unwrap();
    rig.pin(VOL, "ship").unwrap();
    rig.apply(VOL, &[write(3, 20, 1, 0x33), write(4, 40, 1, 0x44)]).unwrap();
    rig.checkpoint().unwrap();
    rig.rot(0x22);
    assert_eq!(rig.damage(VOL, None, 0, 8 * EXTENT as u64).unwrap(), []);
    let offset = 20 * BLOCK as u64;
    let found = Damage { offset, from: Seq(2), upto: Seq(2), current: false };
    assert_eq!(rig.damage(VOL, Some("ship"), 0, 8 * EXTENT as u64).unwrap(), [found]);
    assert_eq!(rig.damage(VOL, Some("ship"), 0, 20 * BLOCK as u64).unwrap(), []);
    rig.rot(0x11);
    let all = rig.damage(VOL, None, BLOCK as u64, 2 * BLOCK as u64).unwrap();
    assert_eq!(
        all.iter().map(|d| (d.offset, d.from, d.upto)).collect::<Vec<_>>(),
        [(BLOCK as u64, Seq(1), Seq(4)), (2 * BLOCK as u64, Seq(1), Seq(4))]
    );
}

#[test]
fn a_block_is_handed_out_only_as_what_was_asked_for() {
    let mut rig = Rig::with_volume(16, 8 * EXTENT);
    let data = |fill: u8| Held::Same(Bytes::from(vec![fill; BLOCK]));
    rig.apply(VOL, &[write(1, 0, 1, 0x11), write(2, 1, 1, 0x22)]).unwrap();
    let held = |rig: &Rig, block: usize, from, upto| rig.held(VOL, (block * BLOCK) as u64, Seq(from), Seq(upto));
    assert_eq!(held(&rig, 0, 1, 1).unwrap(), data(0x11));
    assert_eq!(held(&rig, 0, 3, 9).unwrap(), Held::Behind, "record 3 may have written it");
    assert_eq!(held(&rig, 1, 1, 1).unwrap(), Held::Newer);
    rig.apply(VOL, &[write(3, 0, 1, 0x33), discard(4, 1, 1)]).unwrap();
    assert_eq!(held(&rig, 0, 1, 2).unwrap(), Held::Newer, "the peer has not applied record 3 yet");
    assert_eq!(held(&rig, 0, 3, 9).unwrap(), data(0x33));
    assert_eq!(held(&rig, 1, 2, 3).unwrap(), Held::Newer, "a hole is a change, too");
    assert_eq!(held(&rig, 1, 4, 4).unwrap(), data(0));
    rig.checkpoint().unwrap();
    rig.rot(0x33);
    assert!(matches!(held(&rig, 0, 3, 9), Err(StoreError::Corrupt { offset: 0, .. })), "never from bad bytes");
    assert!(matches!(held(&rig, 4096, 1, 9), Err(StoreError::Range { .. })));
}

/// A copy that came as a shipment has other marks than its source, and the same bytes.
#[test]
fn copies_that_were_shipped_repair_each_other() {
    let source = Rig::with_volume(16, 8 * EXTENT);
    source.apply(VOL, &[write(1, 0, 1, 0x11), write(2, 1, 1, 0x22), write(3, 2, 1, 0x33)]).unwrap();
    let mut copy = Rig::with_volume(16, 8 * EXTENT);
    copy.stage_begin(VOL, 5, None, None, Seq(3)).unwrap();
    for (block, fill) in [(0, 0x11), (1, 0x22), (2, 0x33)] {
        let data = Bytes::from(vec![fill; BLOCK]);
        copy.stage_write(VOL, 5, (block * BLOCK) as u64, StageData::Data(data)).unwrap();
    }
    copy.stage_commit(VOL, 5).unwrap();
    source.apply(VOL, &[write(4, 2, 1, 0x44)]).unwrap();
    copy.rot(0x11);
    copy.rot(0x33);
    let damaged = copy.damage(VOL, None, 0, EXTENT as u64).unwrap();
    assert_eq!(damaged.iter().map(|d| (d.from, d.upto)).collect::<Vec<_>>(), [(Seq(3), Seq(3)); 2]);
    let Held::Same(data) = source.held(VOL, 0, Seq(3), Seq(3)).unwrap() else { panic!("the source has it") };
    assert_eq!(copy.repair_block(VOL, 0, Seq(3), &data).unwrap(), 1);
    assert_eq!(source.held(VOL, 2 * BLOCK as u64, Seq(3), Seq(3)).unwrap(), Held::Newer);
    // And the other way round: what the copy has under mark 3 is what the source wrote at 2.
    let Held::Same(data) = copy.held(VOL, BLOCK as u64, Seq(2), Seq(4)).unwrap() else { panic!("the copy has it") };
    assert_eq!(data[0], 0x22);
}

/// A rotten row must not lead a read to other bytes: whatever byte of the index is wrong, there is an error that says
/// what to do, or what was written.
#[test]
fn a_damaged_index_is_an_error_with_a_remedy_and_never_wrong_bytes() {
    let mut rig = Rig::with_volume(64, 8 * EXTENT);
    for block in 0..64 {
        rig.apply(VOL, &[write(block as u64 + 1, block, 1, block as u8 + 1)]).unwrap();
    }
    rig.checkpoint().unwrap();
    // Opening it again moves the rows from RocksDB's log into a table.
    rig.restart();
    let expected = rig.read_all(VOL).unwrap();
    rig.stop();
    let files = std::fs::read_dir(rig.config.dir.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert!(!tables.is_empty());
    let (mut refused, mut harmless) = (0, 0);
    for path in tables {
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 24 + 1) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            let read = Store::open(rig.config.clone()).and_then(|store| store.read(VOL, 0, 8 * EXTENT));
            match read {
                Ok(found) => {
                    assert_eq!(found, expected, "byte {at} of {}", path.display());
                    harmless += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("farshore member replace"), "{error}");
                    refused += 1;
                }
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(refused > harmless, "{refused} refused, {harmless} harmless");
}
