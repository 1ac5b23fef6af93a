//! The bytes of the note that a node keeps of a deleted volume for as long as snapshots of it are kept.

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::ids::{MemberId, VolumeId};
use farshore_core::mark::SnapshotId;
use farshore_core::register::Configuration;
use farshore_core::sealed::Sealed;

const KIND: Sealed = Sealed { magic: b"FSkv", format: 1, what: "note of a deleted volume" };

/// What is known of a deleted volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVolume {
    pub volume: VolumeId,
    /// Its last one here: name, members, labels.
    pub config: Configuration,
    /// For people, and for which of two volumes of one name is meant.
    pub deleted_unix_ms: i64,
    /// Snapshots that were deleted here while a member could not be told.
    pub owed: Vec<(SnapshotId, MemberId)>,
}

impl KeptVolume {
    pub fn encode(&self) -> Bytes {
        KIND.seal(|w| {
            w.u128(self.volume.0);
            w.bytes(&self.config.encode());
            w.i64(self.deleted_unix_ms);
            w.list(&self.owed, |w, (snapshot, member)| {
                w.u128(snapshot.0);
                w.u16(member.0);
            });
        })
    }

    pub fn decode(bytes: Bytes) -> Result<KeptVolume, DecodeError> {
        let mut r = KIND.open(bytes)?;
        let kept = KeptVolume {
            volume: r.volume()?,
            config: Configuration::decode(r.bytes()?)?,
            deleted_unix_ms: r.i64()?,
            owed: r.list(|r| Ok((SnapshotId(r.u128()?), r.member()?)))?,
        };
        r.end()?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::samples::kept;

    #[test]
    fn what_is_damaged_or_newer_is_no_note() {
        let bytes = kept().encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(KeptVolume::decode(bad.into()).is_err(), "byte {at}");
        }
        let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes[..bytes.len() - 4].to_vec();
            change(&mut bytes);
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            KeptVolume::decode(bytes.into()).expect_err("it is refused")
        };
        assert!(matches!(sealed(&|b| b[4] = 2), DecodeError::Newer { found: 2, known: 1, .. }));
        assert!(matches!(sealed(&|b| b[0] = b'x'), DecodeError::Invalid { .. }));
        assert!(matches!(sealed(&|b| b.push(0)), DecodeError::Invalid { .. }));
    }
}
