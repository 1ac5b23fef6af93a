//! The bytes of the note that a node keeps for each copy that was set aside, and the copy's name.

use bytes::Bytes;
use farshore_core::codec::DecodeError;
use farshore_core::durable::{get_history, put_history};
use farshore_core::history::History;
use farshore_core::ids::{LineageId, Seq, VolumeId};
use farshore_core::sealed::Sealed;

const KIND: Sealed = Sealed { magic: b"FSdv", format: 1, what: "note of a diverged copy" };

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
        KIND.seal(|w| {
            w.u128(self.volume.0);
            w.string(&self.name);
            w.lineage(self.lineage);
            put_history(w, &self.history);
            w.seq(self.end);
            w.u64(self.size_bytes);
            w.u64(self.set_aside_unix_s);
        })
    }

    pub fn decode(bytes: Bytes) -> Result<DivergedCopy, DecodeError> {
        let mut r = KIND.open(bytes)?;
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
