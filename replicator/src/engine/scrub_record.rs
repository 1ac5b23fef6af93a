//! What is kept of a volume's scrub across restarts: one small file. Losing it costs a repetition, so it is not synced,
//! and one that does not decode is as good as none.

use std::io;
use std::path::Path;

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::sealed::Sealed;

const KIND: Sealed = Sealed { magic: b"FSSCRUB\0", format: 1, what: "scrub record" };
const UNFINISHED: &str = "new";

/// The figures are of the pass under way, else of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubRecord {
    /// The extent at which the pass under way goes on.
    pub next_extent: Option<u64>,
    pub checked_bytes: u64,
    pub damaged_blocks: u64,
    pub repaired_blocks: u64,
    pub started_unix_s: u64,
    /// When the last whole pass ended; 0: none did yet.
    pub finished_unix_s: u64,
    /// The interval to the next pass counts from here: the end of the last one, or when the volume was first seen.
    pub since_unix_s: u64,
}

impl ScrubRecord {
    pub fn encode(&self) -> Bytes {
        KIND.seal(|w| {
            w.option(self.next_extent, Writer::u64);
            for value in [
                self.checked_bytes,
                self.damaged_blocks,
                self.repaired_blocks,
                self.started_unix_s,
                self.finished_unix_s,
                self.since_unix_s,
            ] {
                w.u64(value);
            }
        })
    }

    pub fn decode(bytes: Bytes) -> Result<ScrubRecord, DecodeError> {
        let mut r = KIND.open(bytes)?;
        let record = ScrubRecord {
            next_extent: r.option(Reader::u64)?,
            checked_bytes: r.u64()?,
            damaged_blocks: r.u64()?,
            repaired_blocks: r.u64()?,
            started_unix_s: r.u64()?,
            finished_unix_s: r.u64()?,
            since_unix_s: r.u64()?,
        };
        r.end()?;
        Ok(record)
    }

    pub fn read(path: &Path) -> Option<ScrubRecord> {
        ScrubRecord::decode(std::fs::read(path).ok()?.into()).ok()
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension(UNFINISHED);
        std::fs::write(&unfinished, self.encode())?;
        std::fs::rename(&unfinished, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_damaged_one_does_not() {
        let record = ScrubRecord {
            next_extent: Some(7),
            checked_bytes: 1,
            damaged_blocks: 2,
            repaired_blocks: 3,
            started_unix_s: 4,
            finished_unix_s: 5,
            since_unix_s: 6,
        };
        let bytes = record.encode();
        assert_eq!(ScrubRecord::decode(bytes.clone()), Ok(record));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(ScrubRecord::decode(bad.into()).is_err());
            assert!(ScrubRecord::decode(bytes.slice(..at)).is_err());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00ff");
        assert_eq!(ScrubRecord::read(&path), None);
        record.write(&path).unwrap();
        assert_eq!(ScrubRecord::read(&path), Some(record));
    }
}
