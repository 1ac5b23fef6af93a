//! A snapshot's row in its volume's catalogue: plain data and its bytes in the index.

use std::collections::{BTreeMap, BTreeSet};

use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::ids::Seq;
use farshore_core::mark::{Creation, GroupId, SnapshotId};

/// Is a snapshot's image in this store?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    Ready,
    /// Only its row is: the volume's image came by a shipment that began after the snapshot was made.
    Missing,
}

/// A snapshot of a volume, as the marks up to what is applied here have made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    pub id: SnapshotId,
    /// The cut over several volumes that it is a part of.
    pub group: Option<GroupId>,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Who asked that it be kept.
    pub holds: BTreeSet<String>,
    pub created_unix_ms: i64,
    /// Its mark's; the image holds all before it.
    pub seq: Seq,
    /// The volume's size at the mark.
    pub size_bytes: u64,
    pub state: SnapshotState,
}

impl SnapshotRow {
    pub(super) fn new(creation: Creation, seq: Seq) -> SnapshotRow {
        let Creation { id, group, created_unix_ms, size_bytes, name, labels } = creation;
        let (holds, state) = (BTreeSet::new(), SnapshotState::Ready);
        SnapshotRow { id, group, name, labels, holds, created_unix_ms, seq, size_bytes, state }
    }

    /// All but the id, which is in the key.
    pub fn put(&self, out: &mut Writer) {
        out.u8(match self.state {
            SnapshotState::Ready => 0,
            SnapshotState::Missing => 1,
        });
        out.seq(self.seq);
        out.u128(self.group.map_or(0, |group| group.0));
        out.i64(self.created_unix_ms);
        out.u64(self.size_bytes);
        out.string(&self.name);
        out.u32(self.labels.len() as u32);
        for (key, value) in &self.labels {
            out.string(key);
            out.string(value);
        }
        out.u32(self.holds.len() as u32);
        self.holds.iter().for_each(|hold| out.string(hold));
    }

    pub fn take(id: SnapshotId, fields: &mut Reader) -> Result<SnapshotRow, DecodeError> {
        let state = match fields.u8()? {
            0 => SnapshotState::Ready,
            1 => SnapshotState::Missing,
            found => return Err(fields.unknown(found.into())),
        };
        Ok(SnapshotRow {
            id,
            state,
            seq: fields.seq()?,
            group: Some(fields.u128()?).filter(|group| *group != 0).map(GroupId),
            created_unix_ms: fields.i64()?,
            size_bytes: fields.u64()?,
            name: fields.string()?,
            labels: fields.list(|fields| Ok((fields.string()?, fields.string()?)))?.into_iter().collect(),
            holds: fields.list(Reader::string)?.into_iter().collect(),
        })
    }
}
