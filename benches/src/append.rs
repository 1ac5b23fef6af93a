//! What a journal can't do without: a 4 KiB append and its fdatasync, by as many appenders at once as share the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fdatasync, open};

use crate::histogram::Histogram;

const BLOCK_BYTES: usize = 4096;
/// Written over and over from its beginning, as a journal's segments are.
const FILE_BYTES: u64 = 64 << 20;

/// Latencies of [append, fdatasync] for so long: by one appender alone, then by so many at once. Each has a file of its
/// own in `dir`.
pub fn measure(dir: &Path, appenders: usize, time: Duration) -> Result<(Histogram, Histogram), String> {
    // Removed at the end and no sooner: the disk is busy for a while when blocks are freed.
    let dir = tempfile::Builder::new().prefix("farshore-append-").tempdir_in(dir);
    let dir = dir.map_err(|e| format!("making a folder for appends: {e}"))?;
    let files = (0..appenders).map(|n| prepare(&dir.path().join(n.to_string()))).collect::<Result<Vec<_>, _>>()?;
    Ok((at_once(&files[..1], time)?, at_once(&files, time)?))
}

fn at_once(files: &[File], time: Duration) -> Result<Histogram, String> {
    let barrier = Barrier::new(files.len());
    let one = |file: &File| {
        barrier.wait();
        append(file, time)
    };
    let measured: Vec<Result<Histogram, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|file| scope.spawn(|| one(file))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an appender does not panic")).collect()
    });
    let mut all = Histogram::default();
    for histogram in measured {
        all.merge(&histogram?);
    }
    Ok(all)
}

/// A file with every block allocated and written, so that an append changes no metadata of the file system.
fn prepare(path: &Path) -> Result<File, String> {
    let named = |operation: &str, e: std::io::Error| format!("{operation} {}: {e}", path.display());
    std::fs::write(path, vec![0x5a; FILE_BYTES as usize]).map_err(|e| named("writing", e))?;
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file: File =
        open(path, flags, Mode::empty()).map_err(|e| named("opening past the page cache", e.into()))?.into();
    file.sync_all().map_err(|e| named("syncing", e))?;
    Ok(file)
}

fn append(file: &File, time: Duration) -> Result<Histogram, String> {
    let spare = vec![0xa5; 2 * BLOCK_BYTES];
    // O_DIRECT wants the memory aligned.
    let block = &spare[spare.as_ptr().align_offset(BLOCK_BYTES)..][..BLOCK_BYTES];
    let (began, mut latencies, mut at) = (Instant::now(), Histogram::default(), 0);
    while began.elapsed() < time {
        let start = Instant::now();
        file.write_all_at(block, at).map_err(|e| format!("appending: {e}"))?;
        fdatasync(file).map_err(|e| format!("fdatasync: {e}"))?;
        latencies.add(start.elapsed().as_nanos() as u64, 1);
        at = (at + BLOCK_BYTES as u64) % FILE_BYTES;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_appender_appends() {
        let dir = tempfile::tempdir().unwrap();
        let (alone, together) = measure(dir.path(), 3, Duration::from_millis(50)).unwrap();
        assert!(alone.count() > 0 && alone.p50_us() > 0.0);
        assert!(together.count() >= 3);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
