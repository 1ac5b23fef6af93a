//! Opening, allocating and reading files; the order of steps that makes a new file survive a power cut.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::buffer::{ALIGN_BYTES, AlignedBuf};

const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// What a file is called until it is whole.
pub const UNFINISHED_SUFFIX: &str = ".new";

/// A file that is read and written in whole, aligned blocks.
pub struct DiskFile {
    pub file: File,
    pub path: PathBuf,
    /// Reads and writes go past the page cache. Some file systems (tmpfs) cannot.
    pub direct: bool,
}

impl DiskFile {
    pub fn open(path: &Path, writable: bool) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
        let (file, direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (options.open(path)?, false),
            Err(error) => return Err(error),
        };
        Ok(DiskFile { file, path: path.to_owned(), direct })
    }

    /// Reads an aligned range. Past the file's end is an error, not a short read.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let mut buffer = AlignedBuf::zeroed(len.next_multiple_of(ALIGN_BYTES));
        self.file.read_exact_at(buffer.as_mut_slice(), offset)?;
        Ok(buffer)
    }

    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// Creates a file of zeroes whose blocks all exist, so that writing to it later changes no metadata. It has its name
/// only once it is whole on the disk.
pub fn allocate(path: &Path, len_bytes: u64) -> io::Result<()> {
    let unfinished = with_suffix(path, UNFINISHED_SUFFIX);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let filled = fill_with_zeroes(&unfinished, len_bytes);
    if let Err(error) = filled {
        // Whatever was allocated is of no use; an error here would only hide the one that matters.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    std::fs::rename(&unfinished, path)?;
    sync_dir(path)
}

fn fill_with_zeroes(path: &Path, len_bytes: u64) -> io::Result<()> {
    File::create_new(path)?;
    let disk_file = DiskFile::open(path, true)?;
    match rustix::fs::fallocate(&disk_file.file, rustix::fs::FallocateFlags::empty(), 0, len_bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let zeroes = AlignedBuf::zeroed(ZERO_CHUNK_BYTES);
    let mut offset = 0;
    while offset < len_bytes {
        let len = (len_bytes - offset).min(ZERO_CHUNK_BYTES as u64) as usize;
        disk_file.write_at(offset, &zeroes.as_slice()[..len])?;
        offset += len as u64;
    }
    disk_file.file.sync_all()
}

/// Makes a file's name durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Makes a directory and those above it that are missing, with durable names: what is synced inside one that a power cut
/// takes away is lost with it. One that is there may have been made by a life that did not get as far as the sync.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists()) {
        create_dirs(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_dir(path)
}

/// Replaces a small file: after a power cut it holds the old bytes or the new ones, after a return the new ones.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = with_suffix(path, UNFINISHED_SUFFIX);
    std::fs::write(&unfinished, bytes)?;
    File::open(&unfinished)?.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    sync_dir(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_as_far_as_they_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dirs(&deep).unwrap();
        create_dirs(&deep).unwrap();
        assert!(deep.is_dir());
        std::fs::write(deep.join("file"), b"").unwrap();
        assert!(create_dirs(&deep.join("file")).is_err());
    }

    #[test]
    fn a_replaced_file_leaves_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kind");
        for bytes in [&b"first"[..], b"second"] {
            replace(&path, bytes).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_allocated_file_is_zeroed_and_leaves_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        std::fs::write(with_suffix(&path, UNFINISHED_SUFFIX), b"left over").unwrap();
        allocate(&path, 2 << 20).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; 2 << 20]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let file = DiskFile::open(&path, true).unwrap();
        assert!(file.read_at((2 << 20) - 4096, 8192).is_err(), "past the end");
    }
}
