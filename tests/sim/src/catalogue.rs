//! The snapshots of one store: what its marks have made of it, and the image that each of them pins.
//!
//! The rule is the production store's: a snapshot is the image after exactly the records up to its mark, pinned in the
//! step that applies the mark and durable with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farshore_core::ids::Seq;
use farshore_core::mark::{Creation, Mark, SnapshotId};

use crate::disk::Cell;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub seq: Seq,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub holds: BTreeSet<String>,
    /// `None`: this copy is younger than the snapshot; a shipment brought the row.
    pub cells: Option<Arc<Vec<Cell>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    pub rows: BTreeMap<SnapshotId, Snapshot>,
    /// Up to here it came with shipments.
    pub shipped: Seq,
}

impl Catalogue {
    /// The store shows `cells`, and the next record is this mark.
    pub fn apply(&mut self, seq: Seq, mark: Mark, cells: &[Cell]) {
        match mark {
            Mark::Create(Creation { id, name, labels, .. }) => {
                self.rows.entry(id).or_insert_with(|| {
                    let cells = Some(Arc::new(cells.to_vec()));
                    Snapshot { seq, name, labels, holds: BTreeSet::new(), cells }
                });
            }
            Mark::Delete { id } => drop(self.rows.remove(&id)),
            Mark::Update { id, labels, holds } => {
                if let Some(row) = self.rows.get_mut(&id) {
                    (row.labels, row.holds) = (labels, holds);
                }
            }
        }
    }

    /// An image at `upto` is installed, and brings the catalogue of its source; of what that has pinned, only what was
    /// pinned here too is here.
    pub fn install(&mut self, theirs: &Catalogue, upto: Seq) {
        let mine = std::mem::take(&mut self.rows);
        // An id may have been deleted and given anew since.
        let had = |id: &SnapshotId, seq: Seq| mine.get(id).filter(|row| row.seq == seq)?.cells.clone();
        let row = |(id, row): (&SnapshotId, &Snapshot)| (*id, Snapshot { cells: had(id, row.seq), ..row.clone() });
        self.rows = theirs.rows.iter().map(row).collect();
        self.shipped = upto;
    }
}
