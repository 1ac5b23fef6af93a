//! Staging many ranges at once, reading them back while others are staged, and listing what is shipped by its bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Seq};
use proptest::prelude::*;

use super::tests_fixture::{BLOCK, EXTENT, Rig, VOL, discard, write};
use super::*;

const EXTENTS: usize = 12;
const BLOCKS: usize = EXTENTS * BLOCKS_PER_EXTENT;
const SHIP: u128 = 5;

/// Where it begins, blocks, and what it is filled with; none: a hole.
type Range = (usize, usize, Option<u8>);

fn range() -> impl Strategy<Value = Range> {
    (0..BLOCKS, 1..40_usize, proptest::option::of(1..=255_u8))
        .prop_map(|(first, count, fill)| (first, count.min(BLOCKS - first), fill))
}

fn staged(&(first, count, fill): &Range) -> (u64, StageData) {
    let len = count * BLOCK;
    let data = match fill {
        Some(fill) => StageData::Data(Bytes::from(vec![fill; len])),
        None => StageData::Hole { len: len as u64 },
    };
    ((first * BLOCK) as u64, data)
}

/// A volume with some of everything, and a shipment to it that has begun.
fn begun(base: bool) -> Rig {
    let rig = Rig::with_volume(64, EXTENTS * EXTENT);
    rig.apply(VOL, &[write(1, 5, 40, 1), write(2, 100, 30, 2), discard(3, 20, 9)]).unwrap();
    rig.stage_begin(VOL, SHIP, base.then_some(Seq(3)), None, Seq(9)).unwrap();
    rig
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Many at once are what they are one by one, and are read back before they are shown.
    #[test]
    fn ranges_are_staged_together_as_one_by_one(
        pages in prop::collection::vec(prop::collection::vec(range(), 1..6), 1..4),
        base in any::<bool>(),
    ) {
        let (together, single) = (begun(base), begun(base));
        let mut image = if base { single.read_all(VOL).unwrap().to_vec() } else { vec![0; EXTENTS * EXTENT] };
        for page in &pages {
            let ranges: Vec<_> = page.iter().map(staged).collect();
            together.stage_ranges(VOL, SHIP, &ranges).unwrap();
            for (range, (offset, data)) in page.iter().zip(ranges) {
                let (first, count, fill) = *range;
                image[first * BLOCK..(first + count) * BLOCK].fill(fill.unwrap_or(0));
                single.stage_write(VOL, SHIP, offset, data).unwrap();
            }
            prop_assert_eq!(&together.stage_read(VOL, SHIP, 0, EXTENTS * EXTENT).unwrap(), &image);
        }
        for rig in [&together, &single] {
            rig.stage_commit(VOL, SHIP).unwrap();
            prop_assert_eq!(&rig.read_all(VOL).unwrap(), &image);
            rig.sweep().unwrap();
            rig.checkpoint().unwrap();
        }
        prop_assert_eq!(together.space().used_bytes, single.space().used_bytes);
        if base {
            let changed = |rig: &Rig| {
                rig.pin(VOL, "p").unwrap();
                rig.changed_since(VOL, Some(Seq(3)), "p", Cursor::default(), 99).unwrap().extents
            };
            prop_assert_eq!(changed(&together), changed(&single));
        }
    }

    /// A bound on bytes cuts pages shorter, and loses nothing.
    #[test]
    fn a_listing_within_bytes_is_the_listing(ranges in prop::collection::vec(range(), 1..8), max in 1..40_u64) {
        let rig = Rig::with_volume(64, EXTENTS * EXTENT);
        for (at, (first, count, fill)) in ranges.iter().enumerate() {
            let seq = at as u64 + 1;
            let record = fill.map_or(discard(seq, *first, *count), |fill| write(seq, *first, *count, fill));
            rig.apply(VOL, &[record]).unwrap();
        }
        rig.pin(VOL, "p").unwrap();
        for base in [None, Some(Seq(0)), Some(Seq(2.min(ranges.len() as u64)))] {
            let (mut found, mut cursor) = (Vec::new(), Some(Cursor::default()));
            while let Some(at) = cursor {
                let page = rig.changed_within(VOL, base, "p", at, 5, max * BLOCK_BYTES).unwrap();
                let bytes: u64 = page.extents.iter().map(ChangedExtent::data_bytes).sum();
                prop_assert!(page.extents.len() <= 5 && (bytes <= max * BLOCK_BYTES || page.extents.len() == 1));
                found.extend(page.extents);
                cursor = page.next;
            }
            prop_assert_eq!(found, rig.changed_since(VOL, base, "p", Cursor::default(), 99).unwrap().extents);
        }
    }
}

#[test]
fn no_more_is_staged_at_once_than_fits_in_memory() {
    let rig = Rig::with_volume(64, 4096 * EXTENT);
    rig.stage_begin(VOL, SHIP, None, None, Seq(9)).unwrap();
    let hole = |at: u64| (at * STAGE_HOLE_BYTES_MAX, StageData::Hole { len: STAGE_HOLE_BYTES_MAX });
    rig.stage_ranges(VOL, SHIP, &[hole(0)]).unwrap();
    assert!(matches!(rig.stage_ranges(VOL, SHIP, &[hole(0), hole(1)]), Err(StoreError::Invalid { .. })));
    let data = (0, StageData::Data(Bytes::from(vec![1; STAGE_DATA_BYTES_MAX])));
    let more = (STAGE_DATA_BYTES_MAX as u64, StageData::Data(Bytes::from(vec![1; BLOCK])));
    assert!(matches!(rig.stage_ranges(VOL, SHIP, &[data, more]), Err(StoreError::Invalid { .. })));
    assert!(rig.stage_read(VOL, SHIP, 0, 0).is_err(), "nothing is nothing to compare");
    assert!(rig.stage_read(VOL, SHIP, u64::MAX - 4095, EXTENT).is_err());
}

/// Each extent is read back as it is staged, whatever happens to others, or to the same one, meanwhile.
#[test]
fn what_is_staged_is_read_back_while_more_is_staged() {
    let rig = begun(true);
    let fill = |extent: usize, fill: u8| {
        let data = StageData::Data(Bytes::from(vec![fill; EXTENT]));
        rig.stage_write(VOL, SHIP, (extent * EXTENT) as u64, data).unwrap();
    };
    (0..EXTENTS).for_each(|extent| fill(extent, 1));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                for extent in 0..EXTENTS {
                    let found = rig.stage_read(VOL, SHIP, (extent * EXTENT) as u64, EXTENT).unwrap();
                    assert!(found.iter().all(|byte| *byte == found[0]), "extent {extent} in parts");
                    assert!(extent % 2 == 1 || found[0] == 1, "extent {extent} is {}", found[0]);
                }
                reads += 1;
            }
        });
        for round in 2..40 {
            (1..EXTENTS).step_by(2).for_each(|extent| fill(extent, round));
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}
