//! A volume's catalogue of snapshots: what the marks up to what is applied have made of it.
//!
//! A mark is carried out in the same moment as the position moves onto it, so a checkpoint has both or neither, and
//! redo from any earlier one makes the same catalogue of the same images. Hence no mark waits for a disk.
//!
//! ```text
//! Create   a row, and the pin `snapshot-<id>` at the mark      Delete   neither any more
//! Update   another row                                         an id twice, or one that there is not: nothing
//! ```

use std::collections::BTreeMap;

use farshore_core::ids::{BLOCK_BYTES, VolumeId};
use farshore_core::mark::{Creation, Mark, SnapshotId};
use farshore_core::record::Record;

use super::catalogue_row::{SnapshotRow, SnapshotState};
use super::error::StoreError;
use super::index_rows::{PinRow, Row, pin_key, snapshot_key};
use super::pin::SNAPSHOT_PIN_PREFIX;
use super::root::{Store, VOLUME_BYTES_MAX};
use super::volume::State;

pub(super) type Catalogue = BTreeMap<SnapshotId, SnapshotRow>;

/// The pin that holds a snapshot's image: what the calls that read a pinned image take.
pub fn snapshot_pin(id: SnapshotId) -> String {
    format!("{SNAPSHOT_PIN_PREFIX}{id}")
}

/// Reads a record's mark. One that can't be read stops the volume: a catalogue without it would be another one.
pub(super) fn mark_of(volume: VolumeId, record: &Record) -> Result<Mark, StoreError> {
    if crc32fast::hash(&record.payload) != record.payload_crc {
        let reason = format!("record {}: its payload does not match its checksum", record.seq);
        return Err(StoreError::Invalid { op: "apply to", volume, reason });
    }
    let mark =
        Mark::decode(record.payload.clone()).map_err(|source| StoreError::Mark { volume, seq: record.seq, source })?;
    if let Mark::Create(Creation { size_bytes, .. }) = &mark
        && (*size_bytes == 0 || *size_bytes > VOLUME_BYTES_MAX || !size_bytes.is_multiple_of(BLOCK_BYTES))
    {
        let reason = format!("record {}: a snapshot of {size_bytes} bytes can't be", record.seq);
        return Err(StoreError::Invalid { op: "apply to", volume, reason });
    }
    Ok(mark)
}

impl State {
    /// Carries out a mark that the position has just moved onto.
    pub fn mark(&mut self, volume: VolumeId, mark: Mark) {
        match mark {
            Mark::Create(creation) => self.make_snapshot(volume, SnapshotRow::new(creation, self.view.at.seq)),
            Mark::Delete { id } => self.drop_snapshot(volume, id),
            Mark::Update { id, labels, holds } => {
                if let Some(row) = self.snapshots.get(&id) {
                    let row = SnapshotRow { labels, holds, ..row.clone() };
                    self.keep_snapshot(volume, row);
                }
            }
        }
    }

    fn make_snapshot(&mut self, volume: VolumeId, row: SnapshotRow) {
        match self.snapshots.get(&row.id) {
            // It came with a shipment of an image before the mark: now the image is here.
            Some(known) if known.state == SnapshotState::Missing && known.seq == row.seq => {
                let row = SnapshotRow { state: SnapshotState::Ready, ..known.clone() };
                self.pin_snapshot(volume, &row);
                self.keep_snapshot(volume, row);
            }
            Some(_) => {}
            None => {
                self.pin_snapshot(volume, &row);
                self.keep_snapshot(volume, row);
            }
        }
    }

    fn pin_snapshot(&mut self, volume: VolumeId, row: &SnapshotRow) {
        let (name, pin) = (snapshot_pin(row.id), PinRow { view: self.view, size_bytes: row.size_bytes });
        self.note(&Row::Pin(volume, name.clone(), pin));
        self.pins.insert(name, pin);
    }

    fn keep_snapshot(&mut self, volume: VolumeId, row: SnapshotRow) {
        self.note(&Row::Snapshot(volume, row.clone()));
        self.snapshots.insert(row.id, row);
    }

    /// The snapshot stays in the catalogue, for that is of the order alone. False: there is no image of it.
    fn give_up_image(&mut self, volume: VolumeId, id: SnapshotId) -> bool {
        let Some(row) = self.snapshots.get(&id).filter(|row| row.state == SnapshotState::Ready) else { return false };
        let row = SnapshotRow { state: SnapshotState::Missing, ..row.clone() };
        self.keep_snapshot(volume, row);
        let name = snapshot_pin(id);
        if self.pins.loosen(&name).is_some() {
            self.note_deleted(pin_key(volume, &name));
        }
        true
    }

    /// Its space comes back once a checkpoint has made this durable.
    pub fn drop_snapshot(&mut self, volume: VolumeId, id: SnapshotId) {
        if self.snapshots.remove(&id).is_some() {
            self.note_deleted(snapshot_key(volume, id));
            let name = snapshot_pin(id);
            if self.pins.loosen(&name).is_some() {
                self.note_deleted(pin_key(volume, &name));
            }
        }
    }

    /// The catalogue of the image that is shown from here on, as its source had it. What both have is one snapshot, for
    /// ids are drawn at random, and is held here if it was before, or if the image is of the snapshot's very moment.
    pub fn take_over(&mut self, volume: VolumeId, catalogue: Catalogue) {
        let gone: Vec<SnapshotId> =
            self.snapshots.values().filter(|row| !is_in(&catalogue, row)).map(|row| row.id).collect();
        gone.into_iter().for_each(|id| self.drop_snapshot(volume, id));
        for (id, row) in catalogue {
            let known = self.snapshots.get(&id).map_or(SnapshotState::Missing, |known| known.state);
            let row = SnapshotRow { state: known, ..row };
            if known == SnapshotState::Missing && row.seq == self.view.at.seq {
                self.pin_snapshot(volume, &row);
                self.keep_snapshot(volume, SnapshotRow { state: SnapshotState::Ready, ..row });
            } else {
                self.keep_snapshot(volume, row);
            }
        }
    }
}

fn is_in(catalogue: &Catalogue, row: &SnapshotRow) -> bool {
    catalogue.get(&row.id).is_some_and(|theirs| theirs.seq == row.seq)
}

impl Store {
    /// The snapshots of a volume, as of what is applied; in the order in which they were made.
    pub fn snapshots(&self, id: VolumeId) -> Result<Vec<SnapshotRow>, StoreError> {
        let mut rows: Vec<SnapshotRow> = self.held_volume(id)?.state().snapshots.values().cloned().collect();
        rows.sort_by_key(|row| (row.seq, row.id));
        Ok(rows)
    }

    /// Gives up what a snapshot holds before the order comes to its deletion, which must be certain. Its space comes back to
    /// whoever finds the store full next. False: there was no image of it.
    pub fn give_up_image(&self, id: VolumeId, snapshot: SnapshotId) -> Result<bool, StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        Ok(volume.state_mut().give_up_image(id, snapshot))
    }

    pub fn snapshot(&self, id: VolumeId, snapshot: SnapshotId) -> Result<SnapshotRow, StoreError> {
        let volume = self.held_volume(id)?;
        let state = volume.state();
        state.snapshots.get(&snapshot).cloned().ok_or(StoreError::NoSnapshot { volume: id, snapshot })
    }
}
