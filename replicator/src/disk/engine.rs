//! The engine: how a group gets onto the disk. Chosen at start, by probing or by name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::buffer::AlignedBuf;
use super::file::{DiskFile, allocate};
use super::threads::ThreadsEngine;
use super::uring::UringEngine;

/// Writes that are durable when they return. Calls block; the caller brings its own thread.
pub trait DiskEngine: Send + Sync {
    /// For status: `io_uring` or `threads`.
    fn name(&self) -> &'static str;

    /// Writes aligned bytes and syncs the file's data. After an error nothing is known of what reached the disk.
    fn write_sync(&self, file: &DiskFile, offset: u64, data: &[u8]) -> io::Result<()>;

    fn read(&self, file: &DiskFile, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        file.read_at(offset, len)
    }

    /// Creates a zeroed file, durable with its name when this returns.
    fn allocate(&self, path: &Path, len_bytes: u64) -> io::Result<()> {
        allocate(path, len_bytes)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    IoUring,
    Threads,
}

/// Starts the engine that was asked for; `Auto` never fails.
pub fn start_engine(choice: EngineChoice) -> io::Result<Arc<dyn DiskEngine>> {
    match choice {
        EngineChoice::Threads => Ok(Arc::new(ThreadsEngine)),
        EngineChoice::IoUring => Ok(Arc::new(UringEngine::start()?)),
        EngineChoice::Auto => match UringEngine::start() {
            Ok(uring) => Ok(Arc::new(uring)),
            Err(error) => {
                tracing::info!(%error, "io_uring is not available here, the journal uses plain threads");
                Ok(Arc::new(ThreadsEngine))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_write_what_is_read_back() {
        for choice in [EngineChoice::IoUring, EngineChoice::Threads, EngineChoice::Auto] {
            let engine = match start_engine(choice) {
                Ok(engine) => engine,
                Err(error) if choice == EngineChoice::IoUring => {
                    eprintln!("skipped: this kernel has no io_uring for us: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            engine.allocate(&path, 1 << 20).unwrap();
            let file = DiskFile::open(&path, true).unwrap();
            let mut data = AlignedBuf::zeroed(256 << 10);
            for (at, byte) in data.as_mut_slice().iter_mut().enumerate() {
                *byte = (at / 7) as u8;
            }
            engine.write_sync(&file, 8192, data.as_slice()).unwrap();
            assert_eq!(engine.read(&file, 8192, 256 << 10).unwrap().as_slice(), data.as_slice(), "{}", engine.name());
            assert!(engine.read(&file, 0, 8192).unwrap().as_slice().iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn a_write_that_fails_is_reported() {
        for choice in [EngineChoice::Auto, EngineChoice::Threads] {
            let engine = start_engine(choice).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            engine.allocate(&path, 8192).unwrap();
            let read_only = DiskFile::open(&path, false).unwrap();
            let data = AlignedBuf::zeroed(4096);
            assert!(engine.write_sync(&read_only, 0, data.as_slice()).is_err());
        }
    }
}
