//! Notes of copies that were set aside.

use farshore_core::ids::Seq;
use note::DivergedCopy;

use crate::samples;
use crate::seal::sealed;

#[path = "../../replicator/src/engine/diverged_note.rs"]
mod note;

pub fn note(data: &[u8]) {
    let _ = DivergedCopy::decode(bytes::Bytes::copy_from_slice(data));
    if let Ok(copy) = DivergedCopy::decode(sealed(data)) {
        assert_eq!(DivergedCopy::decode(copy.encode()), Ok(copy));
    }
}

/// Without the checksum: the target adds it.
pub fn seeds() -> Vec<Vec<u8>> {
    let copy = DivergedCopy {
        volume: samples::VOLUME,
        name: note::name_of("pg", samples::LINEAGE),
        lineage: samples::LINEAGE,
        history: samples::history(),
        end: Seq(12),
        size_bytes: 1 << 20,
        set_aside_unix_s: 1_700_000_000,
    };
    let bytes = copy.encode();
    vec![bytes[..bytes.len() - 4].to_vec()]
}
