//! What a snapshot holds, and what changed between two: read from this node's copy, bit by bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::ids::{Seq, VolumeId};
use farshore_proto::v1 as api;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::kept::Origin;
use super::marks::CUT_LABEL;
use super::node::{Node, Shared};
use crate::control::{OpError, OpStream};
use crate::store::{
    ChangedExtent, Cursor, EXTENT_BYTES, PAGE_EXTENTS_MAX, SnapshotRow, SnapshotState, StoreError, snapshot_pin,
};

/// Answers between the store and whoever reads them.
const ANSWERS_MAX: usize = 4;
/// Bytes of one answer of a read.
const READ_BYTES: u64 = 1 << 20;
/// Changed extents that are sorted in memory at once; more are listed in several passes.
const SORTED_EXTENTS_MAX: usize = 1 << 20;

/// A difference between two images of a volume, in the order of offsets.
pub(super) struct Difference {
    shared: Arc<Shared>,
    volume: VolumeId,
    pin: String,
    base: Option<Seq>,
    /// Extents below this were given.
    from: u64,
    /// Sorted, and not given yet.
    sorted: BTreeMap<u64, ChangedExtent>,
    /// Extents from here on were left out of `sorted` for their number. None: all are in it.
    beyond: Option<u64>,
    begun: bool,
    /// The store lists by offset by itself: without a base, or where much changed. Where it goes on.
    in_order: bool,
    next_extent: Option<u64>,
}

impl Difference {
    /// Of `pin` against the seq `base`, from the extent `from` on.
    pub fn new(shared: &Arc<Shared>, volume: VolumeId, pin: String, base: Option<Seq>, from: u64) -> Difference {
        let (shared, sorted) = (shared.clone(), BTreeMap::new());
        let (begun, in_order, next_extent) = (false, base.is_none(), Some(from));
        Difference { shared, volume, pin, base, from, sorted, beyond: None, begun, in_order, next_extent }
    }

    /// The next changed extent. Blocks; a page of the index at a time.
    pub fn next(&mut self) -> Result<Option<ChangedExtent>, StoreError> {
        loop {
            if let Some((extent, found)) = self.sorted.pop_first() {
                self.from = extent + 1;
                return Ok(Some(found));
            }
            if let (false, Some(base)) = (self.begun, self.base) {
                self.in_order = self.shared.store.changed_is_much(self.volume, base, &self.pin)?;
            }
            let more = match self.base {
                Some(base) if !self.in_order => self.next_pass(base)?,
                base => self.next_page(base)?,
            };
            self.begun = true;
            if !more {
                return Ok(None);
            }
        }
    }

    fn next_page(&mut self, base: Option<Seq>) -> Result<bool, StoreError> {
        let Some(from) = self.next_extent else { return Ok(false) };
        let page = self.shared.store.changed_by_extent(self.volume, base, &self.pin, from, PAGE_EXTENTS_MAX)?;
        self.next_extent = page.next.map(|next| next.extent);
        self.sorted.extend(page.extents.into_iter().map(|found| (found.extent, found)));
        Ok(true)
    }

    fn next_pass(&mut self, base: Seq) -> Result<bool, StoreError> {
        if self.begun {
            match self.beyond.take() {
                Some(beyond) => self.from = beyond,
                None => return Ok(false),
            }
        }
        let mut cursor = Cursor::default();
        loop {
            let page = self.shared.store.changed_since(self.volume, Some(base), &self.pin, cursor, PAGE_EXTENTS_MAX)?;
            for found in page.extents {
                let left_out = self.beyond.is_some_and(|beyond| found.extent >= beyond);
                if found.extent >= self.from && !left_out {
                    self.sorted.insert(found.extent, found);
                }
            }
            while self.sorted.len() > SORTED_EXTENTS_MAX {
                self.beyond = self.sorted.pop_last().map(|(extent, _)| extent);
            }
            match page.next {
                Some(next) => cursor = next,
                None => return Ok(true),
            }
        }
    }
}

/// Joins stretches that touch and are of a kind; `push` gives one back when it is complete.
#[derive(Default)]
pub(super) struct Joined {
    last: Option<api::ChangedRange>,
}

impl Joined {
    pub fn push(&mut self, offset_bytes: u64, length_bytes: u64, hole: bool) -> Option<api::ChangedRange> {
        if let Some(last) = &mut self.last
            && last.hole == hole
            && last.offset_bytes + last.length_bytes == offset_bytes
        {
            last.length_bytes += length_bytes;
            return None;
        }
        self.last.replace(api::ChangedRange { offset_bytes, length_bytes, hole })
    }

    pub fn end(self) -> Option<api::ChangedRange> {
        self.last
    }
}

impl Node {
    pub(super) async fn difference(
        self: &Arc<Self>,
        request: api::DiffRequest,
    ) -> Result<OpStream<api::DiffResponse>, OpError> {
        let (origin, row) = self.snapshot_here(&request.snapshot).await?;
        readable(&origin.name(), &row, self)?;
        let base = match request.since.as_str() {
            "" => None,
            since => Some(self.base_of(&origin, &row, since).await?),
        };
        let from = request.offset_bytes / EXTENT_BYTES;
        let difference = Difference::new(&self.shared, origin.id(), snapshot_pin(row.id), base, from);
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let name = origin.name();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = list(difference, &request, row.size_bytes, &sender) {
                let _ = sender.blocking_send(Err(not_listed(&name, error)));
            }
        });
        Ok(ReceiverStream::new(answers).boxed())
    }

    /// The seq of the snapshot to compare with.
    async fn base_of(self: &Arc<Self>, origin: &Origin, row: &SnapshotRow, since: &str) -> Result<Seq, OpError> {
        let (base_origin, base) = self.snapshot_here(since).await?;
        if base_origin.id() != origin.id() {
            return Err(OpError::invalid(
                format!("{} is of volume {}, and {} of {}", since, base_origin.name(), row.name, origin.name()),
                "compare two snapshots of one volume",
            ));
        }
        if base.seq > row.seq {
            return Err(OpError::invalid(
                format!("{since} is younger than {}@{}", origin.name(), row.name),
                "compare the younger one with the older one: change places",
            ));
        }
        Ok(base.seq)
    }

    pub(super) async fn read_image(
        self: &Arc<Self>,
        request: api::ReadSnapshotRequest,
    ) -> Result<OpStream<api::ReadSnapshotResponse>, OpError> {
        let (origin, row) = self.snapshot_here(&request.snapshot).await?;
        readable(&origin.name(), &row, self)?;
        let end = request.offset_bytes + request.length_bytes;
        if end > row.size_bytes {
            return Err(OpError::invalid(
                format!("{}@{} has {} bytes, and {end} were asked for", origin.name(), row.name, row.size_bytes),
                "read within it",
            ));
        }
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let (shared, volume, id, name) = (self.shared.clone(), origin.id(), row.id, origin.name());
        tokio::task::spawn_blocking(move || {
            let mut at = request.offset_bytes;
            while at < end {
                let length = READ_BYTES.min(end - at);
                let read = shared.store.read_at(volume, &snapshot_pin(id), at, length as usize);
                let answer = read.map(|data| api::ReadSnapshotResponse { data: data.to_vec() });
                let failed = answer.is_err();
                if sender.blocking_send(answer.map_err(|error| not_read(&name, error))).is_err() || failed {
                    return;
                }
                at += length;
            }
        });
        Ok(ReceiverStream::new(answers).boxed())
    }
}

fn list(
    mut difference: Difference,
    request: &api::DiffRequest,
    size_bytes: u64,
    sender: &mpsc::Sender<Result<api::DiffResponse, OpError>>,
) -> Result<(), StoreError> {
    let max = request.max_ranges as usize;
    let mut joined = Joined::default();
    let mut ranges = Vec::new();
    let mut going = true;
    while let Some(found) = difference.next()? {
        for (offset, length, hole) in found.runs() {
            let end = (offset + length).min(size_bytes);
            let offset = offset.max(request.offset_bytes);
            if offset < end {
                ranges.extend(joined.push(offset, end - offset, hole));
            }
        }
        if ranges.len() >= max {
            let ranges = std::mem::take(&mut ranges);
            going = sender.blocking_send(Ok(api::DiffResponse { ranges, size_bytes })).is_ok();
        }
        if !going {
            return Ok(());
        }
    }
    ranges.extend(joined.end());
    let _ = sender.blocking_send(Ok(api::DiffResponse { ranges, size_bytes }));
    Ok(())
}

/// Can this node's copy show the snapshot?
pub(super) fn readable(volume: &str, row: &SnapshotRow, node: &Node) -> Result<(), OpError> {
    let name = format!("{volume}@{}", row.name);
    if row.labels.contains_key(CUT_LABEL) {
        return Err(OpError::failed_precondition(
            format!("snapshot {name} is one of a cut over several volumes that did not come to its end"),
            format!("cut them again, or delete it: farshore snapshot delete {name}"),
        ));
    }
    match row.state {
        SnapshotState::Ready => Ok(()),
        SnapshotState::Missing => Err(OpError::failed_precondition(
            format!("the copy on {} is younger than snapshot {name}", node.shared.me),
            "ask another site that holds the volume",
        )),
    }
}

pub(super) fn not_listed(volume: &str, error: StoreError) -> OpError {
    let remedy = match &error {
        StoreError::BelowFloor { .. } => "this copy was made anew since: ask another site, or compare with nothing",
        StoreError::NoPin { .. } | StoreError::NoVolume { .. } => "it was deleted meanwhile",
        _ => "see the daemon's log",
    };
    OpError::failed_precondition(format!("what changed in volume {volume} can't be listed"), remedy).because(error)
}

pub(super) fn not_read(volume: &str, error: StoreError) -> OpError {
    let remedy = match &error {
        StoreError::NoPin { .. } | StoreError::NoVolume { .. } => "it was deleted meanwhile",
        StoreError::Corrupt { .. } => "read it in another site that holds the volume",
        _ => "see the daemon's log",
    };
    OpError::failed_precondition(format!("a snapshot of volume {volume} can't be read"), remedy).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_touch_are_one() {
        let mut joined = Joined::default();
        let mut out = Vec::new();
        for (offset, length, hole) in [(0, 4096, false), (4096, 8192, false), (12288, 4096, true), (20480, 4096, true)]
        {
            out.extend(joined.push(offset, length, hole));
        }
        out.extend(joined.end());
        let seen: Vec<_> = out.iter().map(|r| (r.offset_bytes, r.length_bytes, r.hole)).collect();
        assert_eq!(seen, [(0, 12288, false), (12288, 4096, true), (20480, 4096, true)]);
    }
}
