//! Notes of diverged copies: whole and damaged.

use farshore_core::ids::Epoch;

use super::*;

#[test]
fn a_note_comes_back_and_a_damaged_one_is_refused() {
    let copy = DivergedCopy {
        volume: VolumeId(7),
        name: name_of("pg", LineageId { generation: 1, uuid: 0xabcd_ef01 << 96 }),
        lineage: LineageId { generation: 1, uuid: 0xabcd_ef01 << 96 },
        history: History(vec![(Epoch { n: 1, writer: 2 }, Seq(1)), (Epoch { n: 3, writer: 4 }, Seq(9))]),
        end: Seq(12),
        size_bytes: 1 << 20,
        set_aside_unix_s: 1_700_000_000,
    };
    assert_eq!(copy.name, "diverged-pg-1-abcdef01");
    let bytes = copy.encode();
    assert_eq!(DivergedCopy::decode(bytes.clone()), Ok(copy));
    for at in 0..bytes.len() {
        let mut bad = bytes.to_vec();
        bad[at] ^= 0x10;
        assert!(DivergedCopy::decode(bad.into()).is_err(), "byte {at}");
        assert!(DivergedCopy::decode(bytes.slice(..at)).is_err(), "length {at}");
    }
}
