//! A disk whose power can be cut.
//!
//! Kill -9 proves no durability: the page cache survives it. Here is a file system, in memory and mounted by FUSE, that
//! keeps apart what was synced and what was only written. When the power is cut, each byte, size and name that no sync
//! covered is dropped, kept or torn, sector by sector, as the seeded dice fall. It fails, fills up or slows down on
//! demand as well.
//!
//! Not here: the daemons, and who kills them. Nothing is cached by the kernel, so what the disk has not been told by a
//! sync, it may lose.

mod content;
mod disk;
mod faults;
mod file;
mod mount;
mod names;

pub use content::SECTOR_BYTES;
pub use disk::{Disk, Lost};
pub use faults::{Fault, On};
pub use mount::Mounted;
