//! The store's bytes: its own files, compiled here without RocksDB.

#[path = "../../../replicator/src/store/catalogue_row.rs"]
mod catalogue_row;
#[path = "../../../replicator/src/store/changed_page.rs"]
mod changed_page;
#[path = "../../../replicator/src/store/error.rs"]
mod error;
#[path = "../../../replicator/src/store/extent.rs"]
mod extent;
#[path = "../../../replicator/src/store/index_rows.rs"]
mod index_rows;
#[path = "../../../replicator/src/store/link_row.rs"]
mod link_row;
#[path = "../../../replicator/src/store/superblock.rs"]
mod superblock;
mod targets;

pub use changed_page::{ChangedExtent, ChangedPage};
pub use extent::EXTENT_BYTES;
pub use index_rows::Cursor;
pub use targets::{index, index_seeds, superblock_seeds, superblocks};
