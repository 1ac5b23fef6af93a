//! Pins: durable references to the contents at one applied position. Snapshots, clones, drills and the base of a
//! shipment hold one each, by name.

use farshore_core::ids::{Seq, VolumeId};

use super::error::StoreError;
use super::index::IndexBatch;
use super::index_rows::{PinRow, pin_key};
use super::root::Store;

/// Pins of one volume.
pub(super) const PINS_MAX: usize = 4096;
pub(super) const PIN_NAME_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub name: String,
    pub seq: Seq,
    /// The volume's size when it was pinned.
    pub size_bytes: u64,
}

impl Store {
    /// Pins the contents as they are applied now; durable when it returns, with a checkpoint. Returns the seq.
    /// A pin of this name that exists already stays where it is.
    pub fn pin(&self, id: VolumeId, name: &str) -> Result<Seq, StoreError> {
        let volume = self.live(id)?;
        let invalid = |reason: String| Err(StoreError::Invalid { op: "pin", volume: id, reason });
        if name.is_empty() || name.len() > PIN_NAME_BYTES_MAX {
            return invalid(format!("a pin's name has 1 to {PIN_NAME_BYTES_MAX} bytes"));
        }
        let _mutating = volume.mutating();
        let pinned = {
            let mut state = volume.state_mut();
            if state.removing {
                return Err(StoreError::NoVolume { volume: id });
            }
            if state.pins.len() >= PINS_MAX && !state.pins.contains_key(name) {
                return invalid(format!("it has {PINS_MAX} pins already; delete snapshots first"));
            }
            let row = PinRow { view: state.view, size_bytes: state.size_bytes };
            let pin = *state.pins.entry(name.to_owned()).or_insert(row);
            state.rows_dirty = true;
            pin.view.at.seq
        };
        self.checkpoint_with(|| {})?;
        Ok(pinned)
    }

    /// Gives a pin up; durable when it returns. What only it could see is freed by the sweep. Does nothing if there
    /// is no such pin.
    pub fn unpin(&self, id: VolumeId, name: &str) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        let _one = self.checkpointing();
        if !volume.state().pins.contains_key(name) {
            return Ok(());
        }
        // First on disk: a version that this pin saw may be overwritten in place from here on, and a pin that comes
        // back after a crash would show the new bytes.
        let mut batch = IndexBatch::default();
        batch.delete(pin_key(id, name));
        self.commit(&batch)?;
        let mut state = volume.state_mut();
        state.pins.remove(name);
        state.sweep = Some(0);
        Ok(())
    }

    /// In the order of their names.
    pub fn pins(&self, id: VolumeId) -> Result<Vec<Pin>, StoreError> {
        let volume = self.live(id)?;
        let state = volume.state();
        let pins = state.pins.iter();
        Ok(pins
            .map(|(name, pin)| Pin { name: name.clone(), seq: pin.view.at.seq, size_bytes: pin.size_bytes })
            .collect())
    }
}
