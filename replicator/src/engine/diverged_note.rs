//! The bytes of the note that a node keeps for each copy that was set aside, and the copy's name.

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::durable::{get_history, put_history};
use farshore_core::history::History;
use farshore_core::ids::{LineageId, Seq, VolumeId};

const MAGIC: u32 = u32::from_le_bytes(*b"FSdv");
const FORMAT: u16 = 1;

/// What is known of a copy that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergedCopy {
    /// The volume whose history it was part of.
    pub volume: VolumeId,
    /// Its own name, and that of the store's pin.
    pub name: String,
    pub lineage: LineageId,
    pub history: History,
    /// The last seq in it, un-acked tail included.
    pub end: Seq,
    pub size_bytes: u64,
    /// For people only.
    pub set_aside_unix_s: u64,
}

impl DivergedCopy {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u32(MAGIC);
        w.u16(FORMAT);
        w.u128(self.volume.0);
        w.string(&self.name);
        w.lineage(self.lineage);
        put_history(&mut w, &self.history);
        w.seq(self.end);
        w.u64(self.size_bytes);
        w.u64(self.set_aside_unix_s);
        let crc = crc32fast::hash(&w.out);
        w.u32(crc);
        w.finish()
    }

    pub fn decode(mut bytes: Bytes) -> Result<DivergedCopy, DecodeError> {
        const WHAT: &str = "note of a diverged copy";
        if bytes.len() < 4 {
            return Err(DecodeError::Short { what: WHAT, needed: 4, left: bytes.len() });
        }
        let crc = bytes.split_off(bytes.len() - 4);
        let (found, computed) = (u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]), crc32fast::hash(&bytes));
        if found != computed {
            return Err(DecodeError::Checksum { what: WHAT, found, computed });
        }
        let mut r = Reader::new(WHAT, bytes);
        if r.u32()? != MAGIC {
            return Err(DecodeError::Invalid { what: WHAT, reason: "it does not begin as one" });
        }
        let format = r.u16()?;
        if format > FORMAT {
            return Err(DecodeError::Newer { what: WHAT, found: format.into(), known: FORMAT.into() });
        }
        let copy = DivergedCopy {
            volume: r.volume()?,
            name: r.string()?,
            lineage: r.lineage()?,
            history: get_history(&mut r)?,
            end: r.seq()?,
            size_bytes: r.u64()?,
            set_aside_unix_s: r.u64()?,
        };
        r.end()?;
        Ok(copy)
    }
}

/// What a copy is called: a volume's name may have many, one for each lineage that it lost.
pub fn name_of(volume: &str, lineage: LineageId) -> String {
    format!("diverged-{volume}-{}-{:08x}", lineage.generation, (lineage.uuid >> 96) as u32)
}

#[cfg(test)]
#[path = "diverged_note_tests.rs"]
mod tests;
