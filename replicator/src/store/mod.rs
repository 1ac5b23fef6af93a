//! Each data replica's block contents: a slab with thin extents, and the index that says what lies where.
//!
//! Here: applying records, reading, checkpoints, pins (snapshots), what changed since, receiving shipments, repair.
//! Not here: the order of records and who may write (core), making records durable (journal), talking to peers
//! (transport). All calls block; any thread may make them.
//!
//! ```text
//! <dir>/store.super   whose directory this is
//! <dir>/index/        RocksDB: (volume, extent, version) → place, per block CRC and change; exactly the last checkpoint
//! <dir>/slab          64 KiB places; may be a raw device elsewhere
//! ```
//!
//! Why a crash loses nothing: the index on disk is only ever written by a checkpoint, in one synced batch, after the
//! slab was synced. After a crash the store is what it was at that checkpoint, except that places the checkpoint names
//! may hold newer or torn bytes where a block was overwritten in place since. Every such block was written by a record
//! above the checkpointed seq, and applying those again rewrites it whole. A place given up since the checkpoint was
//! not reused, so nothing else can differ. Hence two duties of the caller: apply only what the local journal holds
//! durably, and keep it there until [`Store::checkpoint`] has returned a seq at or past it.

mod apply;
mod catalogue_row;
mod changed;
mod changed_page;
mod checkpoint;
mod clone;
mod error;
mod extent;
mod flatten;
mod held;
mod image;
mod index;
mod index_rows;
mod inspect;
mod link_row;
mod open;
mod pin;
mod read;
mod repair;
mod root;
mod scrub;
mod slab;
mod snapshot;
mod space;
mod stage;
mod superblock;
mod sweep;
mod usage;
mod views;
mod volume;

#[cfg(test)]
mod tests_clone;
#[cfg(test)]
mod tests_crash;
#[cfg(test)]
mod tests_figures;
#[cfg(test)]
mod tests_fixture;
#[cfg(test)]
mod tests_forest;
#[cfg(test)]
mod tests_oracle;
#[cfg(test)]
mod tests_repair;
#[cfg(test)]
mod tests_snapshot;
#[cfg(test)]
mod tests_stage;
#[cfg(test)]
mod tests_store;

pub use catalogue_row::{SnapshotRow, SnapshotState};
pub use changed::PAGE_EXTENTS_MAX;
pub use changed_page::{ChangedExtent, ChangedPage};
pub use error::{ErrorClass, StoreError};
pub use extent::{BLOCKS_PER_EXTENT, EXTENT_BYTES};
pub use index_rows::Cursor;
pub use inspect::{InspectReport, InspectedVolume, inspect};
pub use open::StoreConfig;
pub use pin::Pin;
pub use read::{ImageDigest, READ_BYTES_MAX};
pub use repair::{DAMAGE_MAX, Damage, Held};
pub use root::{Space, Store, StoredVolume};
pub use scrub::{ScrubCursor, ScrubPage};
pub use snapshot::snapshot_pin;
pub use stage::{STAGE_DATA_BYTES_MAX, STAGE_HOLE_BYTES_MAX, StageData, StageInfo};

pub use superblock::NodeIdentity;
pub use usage::SnapshotUsage;
