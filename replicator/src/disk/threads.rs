//! The engine for kernels without io_uring: plain calls on the calling thread.

use std::io;

use super::engine::DiskEngine;
use super::file::DiskFile;

pub(super) struct ThreadsEngine;

impl DiskEngine for ThreadsEngine {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn write_sync(&self, file: &DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        file.write_at(offset, data)?;
        file.file.sync_data()
    }
}
