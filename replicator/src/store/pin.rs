//! Pins: durable references to the contents at one applied position. Snapshots, clones, drills and the base of a
//! shipment hold one each, by name. Those of snapshots and clones are kept by `snapshot` and `clone`.

use std::collections::BTreeMap;

use farshore_core::ids::{Seq, VolumeId};

use super::error::StoreError;
use super::extent::Version;
use super::index::IndexBatch;
use super::index_rows::{PinRow, Row, pin_key};
use super::root::Store;

/// Pins of one volume that are asked for by name; snapshots are not counted.
pub(super) const PINS_MAX: usize = 4096;
pub(super) const PIN_NAME_BYTES_MAX: usize = 256;
/// What the pins of snapshots and of clones are called: nobody else's may begin so.
pub(super) const SNAPSHOT_PIN_PREFIX: &str = "snapshot-";
pub(super) const CLONE_PIN_PREFIX: &str = "clone-";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub name: String,
    pub seq: Seq,
    /// The volume's size when it was pinned.
    pub size_bytes: u64,
}

/// The pins of one volume.
#[derive(Default)]
pub(super) struct Pins {
    by_name: BTreeMap<String, PinRow>,
    /// How many pins look from each version. Those given up that the index on disk still has are counted.
    held: BTreeMap<Version, u32>,
    /// Given up since the last checkpoint began, and still in the index.
    loosened: Vec<Version>,
}

impl Pins {
    pub fn get(&self, name: &str) -> Option<&PinRow> {
        self.by_name.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Forgets all but those of clones, and of snapshots if they are kept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let kept = std::mem::take(&mut self.by_name).into_iter().filter(|(name, _)| keep(name));
        let kept: Vec<(String, PinRow)> = kept.collect();
        *self = Pins::default();
        kept.into_iter().for_each(|(name, row)| self.insert(name, row));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &PinRow)> {
        self.by_name.iter()
    }

    /// Those that somebody asked for by name.
    fn asked_for(&self) -> usize {
        self.by_name.keys().filter(|name| !is_reserved(name)).count()
    }

    pub fn insert(&mut self, name: String, row: PinRow) {
        let before = self.by_name.insert(name, row);
        assert!(before.is_none(), "a pin stays where it is");
        *self.held.entry(row.view.at).or_default() += 1;
    }

    /// For a pin that the index has not any more.
    pub fn remove(&mut self, name: &str) -> Option<PinRow> {
        let row = self.by_name.remove(name)?;
        self.release(row.view.at);
        Some(row)
    }

    /// Gives up a pin that a crash may bring back. What it holds is not overwritten until the next checkpoint has made
    /// that durable: a pin that came back would show the new bytes.
    pub fn loosen(&mut self, name: &str) -> Option<PinRow> {
        let row = self.by_name.remove(name)?;
        self.loosened.push(row.view.at);
        Some(row)
    }

    pub fn any_loosened(&self) -> bool {
        !self.loosened.is_empty()
    }

    pub fn take_loosened(&mut self) -> Vec<Version> {
        std::mem::take(&mut self.loosened)
    }

    pub fn release(&mut self, at: Version) {
        let count = self.held.get_mut(&at).expect("what is released was held");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&at);
        }
    }

    /// The next newer place that a pin looks from.
    pub fn after(&self, at: Version) -> Option<Version> {
        let newer = (std::ops::Bound::Excluded(at), std::ops::Bound::Unbounded);
        self.held.range(newer).next().map(|(at, _)| *at)
    }

    /// The newest place that a pin looks from, here or in the index.
    pub fn newest(&self) -> Option<Version> {
        self.held.last_key_value().map(|(at, _)| *at)
    }
}

pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with(SNAPSHOT_PIN_PREFIX) || name.starts_with(CLONE_PIN_PREFIX)
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
        if is_reserved(name) {
            return invalid(format!("{name} is a name for the pin of a snapshot or a clone"));
        }
        let _mutating = volume.mutating();
        let pinned = {
            let mut state = volume.state_mut();
            if state.removing {
                return Err(StoreError::NoVolume { volume: id });
            }
            match state.pins.get(name).copied() {
                Some(pin) => pin.view.at.seq,
                None if state.pins.asked_for() >= PINS_MAX => {
                    return invalid(format!("it has {PINS_MAX} pins already; end what made them first"));
                }
                None => {
                    let row = PinRow { view: state.view, size_bytes: state.size_bytes };
                    state.pins.insert(name.to_owned(), row);
                    state.note(&Row::Pin(id, name.to_owned(), row));
                    row.view.at.seq
                }
            }
        };
        self.checkpoint_with(|| {})?;
        Ok(pinned)
    }

    /// Gives a pin up; durable when it returns. What only it could see is freed by the sweep. Does nothing if there
    /// is no such pin.
    pub fn unpin(&self, id: VolumeId, name: &str) -> Result<(), StoreError> {
        let volume = self.live(id)?;
        if is_reserved(name) {
            let reason = format!("{name} is the pin of a snapshot or a clone; delete that");
            return Err(StoreError::Invalid { op: "unpin", volume: id, reason });
        }
        let _mutating = volume.mutating();
        let _one = self.checkpointing();
        if volume.state().pins.get(name).is_none() {
            return Ok(());
        }
        // First on disk: a version that this pin saw may be overwritten in place from here on, and a pin that comes
        // back after a crash would show the new bytes.
        let mut batch = IndexBatch::default();
        batch.delete(pin_key(id, name));
        self.commit(&batch)?;
        let mut state = volume.state_mut();
        state.unnote(&pin_key(id, name));
        if let Some(pin) = state.pins.remove(name) {
            state.give_up(pin.view.at);
        }
        Ok(())
    }

    /// In the order of their names; those of snapshots and clones are among them.
    pub fn pins(&self, id: VolumeId) -> Result<Vec<Pin>, StoreError> {
        let volume = self.live(id)?;
        let state = volume.state();
        let pins = state.pins.iter();
        Ok(pins
            .map(|(name, pin)| Pin { name: name.clone(), seq: pin.view.at.seq, size_bytes: pin.size_bytes })
            .collect())
    }
}
