//! The slab: one file, or one raw device, cut into places of one extent each. Reads and writes whole 4 KiB blocks.
//!
//! O_DIRECT where the file system takes it, through the page cache elsewhere. What is in which place is not known here.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use farshore_core::ids::BLOCK_BYTES;
use rustix::fs::FallocateFlags;

use super::error::StoreError;
use super::extent::{BLOCK_LEN, EXTENT_BYTES};
use super::superblock::{decode_slab_header, encode_slab_header};

/// The longest single read or write; longer runs are cut.
pub(super) const IO_BYTES_MAX: usize = 1 << 20;
/// The file grows in steps of this, so that space is promised by the file system before anything relies on it.
const GROW_BYTES: u64 = 64 << 20;

/// Memory that O_DIRECT takes: starts at a multiple of the block size.
pub(super) struct Aligned {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn zeroed(len: usize) -> Aligned {
        let raw = vec![0; len + BLOCK_LEN];
        let start = raw.as_ptr().align_offset(BLOCK_LEN);
        assert!(start < BLOCK_LEN, "a byte pointer can always be aligned");
        Aligned { raw, start, len }
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.raw).slice(self.start..self.start + self.len)
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

/// How the slab is opened.
pub(super) struct SlabOptions {
    pub path: PathBuf,
    pub direct_io: bool,
    pub store: u128,
    /// The index names nothing yet, so an empty slab may be made ready.
    pub may_create: bool,
}

pub(super) struct Slab {
    file: File,
    path: PathBuf,
    direct: bool,
    device: bool,
    /// Bytes that exist; a lock, for growing is one at a time.
    len_bytes: Mutex<u64>,
    /// The file is not grown beyond this ahead of need.
    limit_bytes: AtomicU64,
    #[cfg(test)]
    pub(super) synced: Mutex<Vec<u8>>,
    #[cfg(test)]
    pub(super) failing: std::sync::atomic::AtomicBool,
}

impl Slab {
    pub fn open(options: &SlabOptions) -> Result<Slab, StoreError> {
        let path = &options.path;
        let device = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
        let (file, direct) = open_file(path, options.direct_io, device, options.may_create)?;
        let len_bytes = file_len(&file).map_err(StoreError::io("measure", path))?;
        let slab = Slab {
            file,
            path: path.clone(),
            direct,
            device,
            len_bytes: Mutex::new(len_bytes),
            limit_bytes: AtomicU64::new(0),
            #[cfg(test)]
            synced: Mutex::default(),
            #[cfg(test)]
            failing: Default::default(),
        };
        slab.check_header(options)?;
        Ok(slab)
    }

    fn check_header(&self, options: &SlabOptions) -> Result<(), StoreError> {
        let foreign = |reason: String| StoreError::OtherSlab { path: self.path.clone(), reason };
        let mut header = Aligned::zeroed(BLOCK_LEN);
        if self.len_bytes() >= BLOCK_BYTES {
            self.file.read_exact_at(&mut header, 0).map_err(StoreError::io("read the header of", &self.path))?;
        }
        if header.iter().all(|byte| *byte == 0) {
            if !options.may_create {
                return Err(foreign("it is empty, but the index names extents in it".into()));
            }
            self.ensure(EXTENT_BYTES).map_err(StoreError::io("grow", &self.path))?;
            header.copy_from_slice(&encode_slab_header(options.store));
            self.write(0, &header).map_err(StoreError::io("write the header of", &self.path))?;
            return self.sync().map_err(StoreError::io("sync", &self.path));
        }
        match decode_slab_header(&header) {
            Ok(store) if store == options.store => Ok(()),
            Ok(_) => Err(foreign("it is the slab of another store".into())),
            Err(error) => Err(foreign(error.to_string())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_direct(&self) -> bool {
        self.direct
    }

    pub fn len_bytes(&self) -> u64 {
        *self.len_bytes.lock().expect("nothing panics while it holds the length")
    }

    pub fn limit(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A device can't grow; what it has is all there will be.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Makes the bytes below `end` exist. An error leaves the slab as it was.
    pub fn ensure(&self, end: u64) -> io::Result<()> {
        let mut len = self.len_bytes.lock().expect("nothing panics while it holds the length");
        if end <= *len {
            return Ok(());
        }
        if self.device {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // A round step first; near the end of the file system exactly what is needed.
        let needed = end.div_ceil(EXTENT_BYTES) * EXTENT_BYTES;
        let round = (end.div_ceil(GROW_BYTES) * GROW_BYTES).min(self.limit_bytes.load(Ordering::Relaxed)).max(needed);
        let target = grow(&self.file, *len, round).or_else(|_| grow(&self.file, *len, needed))?;
        *len = target;
        Ok(())
    }

    /// Fills `buffer` (whole blocks, aligned memory). Bytes that were never written read zero.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (at, part) in buffer.chunks_mut(IO_BYTES_MAX).enumerate() {
            self.file.read_exact_at(part, offset + (at * IO_BYTES_MAX) as u64)?;
        }
        Ok(())
    }

    /// Writes whole blocks from aligned memory. Not durable before [`Slab::sync`].
    pub fn write(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        for (at, part) in buffer.chunks(IO_BYTES_MAX).enumerate() {
            self.file.write_all_at(part, offset + (at * IO_BYTES_MAX) as u64)?;
        }
        Ok(())
    }

    /// Everything that was written before the call is durable when it returns. After an error nothing is known about
    /// any of it: never retried.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.failing.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.sync_data()?;
        #[cfg(test)]
        self.keep_synced_copy();
        Ok(())
    }

    /// What a power cut right now would at least leave behind.
    #[cfg(test)]
    fn keep_synced_copy(&self) {
        let mut synced = self.synced.lock().unwrap();
        if self.len_bytes() < 64 << 20 {
            *synced = std::fs::read(&self.path).expect("the slab can be read");
        }
    }
}

fn open_file(path: &Path, direct_io: bool, device: bool, may_create: bool) -> Result<(File, bool), StoreError> {
    let exclusive = if device { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(may_create && !device).custom_flags(flags);
        options.open(path)
    };
    if direct_io {
        match open(libc::O_DIRECT | exclusive) {
            Ok(file) if takes_direct(&file) => return Ok((file, true)),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(StoreError::io("open", path)(error)),
        }
        tracing::warn!(path = %path.display(), "O_DIRECT is not supported here; the slab goes through the page cache");
    }
    let file = open(exclusive).map_err(StoreError::io("open", path))?;
    Ok((file, false))
}

/// Some file systems accept the flag at open and refuse the first transfer.
fn takes_direct(file: &File) -> bool {
    let mut probe = Aligned::zeroed(BLOCK_LEN);
    match file.read_at(&mut probe, 0) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::EINVAL),
    }
}

/// Works for files and devices.
fn file_len(file: &File) -> io::Result<u64> {
    use std::io::Seek;
    let mut file = file;
    file.seek(io::SeekFrom::End(0))
}

fn grow(file: &File, from: u64, upto: u64) -> io::Result<u64> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, upto - from) {
        Ok(()) => Ok(upto),
        // Then space is promised by nobody, and a write may still find the file system full.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(upto).map(|()| upto),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: PathBuf) -> SlabOptions {
        SlabOptions { path, direct_io: true, store: 7, may_create: true }
    }

    #[test]
    fn what_is_written_is_read_and_another_stores_slab_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slab");
        let slab = Slab::open(&options(path.clone())).unwrap();
        slab.ensure(4 * EXTENT_BYTES).unwrap();
        let mut data = Aligned::zeroed(2 * BLOCK_LEN);
        data.fill(0x5a);
        slab.write(EXTENT_BYTES, &data).unwrap();
        slab.sync().unwrap();
        drop(slab);
        let slab = Slab::open(&options(path.clone())).unwrap();
        let mut found = Aligned::zeroed(3 * BLOCK_LEN);
        slab.read(EXTENT_BYTES, &mut found).unwrap();
        assert_eq!(&found[..2 * BLOCK_LEN], &data[..]);
        assert!(found[2 * BLOCK_LEN..].iter().all(|byte| *byte == 0));
        drop(slab);
        let other = Slab::open(&SlabOptions { store: 8, ..options(path.clone()) });
        assert!(matches!(other, Err(StoreError::OtherSlab { .. })));
        std::fs::write(&path, vec![1; EXTENT_BYTES as usize]).unwrap();
        assert!(matches!(Slab::open(&options(path)), Err(StoreError::OtherSlab { .. })), "foreign bytes");
    }

    #[test]
    fn an_empty_slab_under_a_full_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slab");
        std::fs::write(&path, b"").unwrap();
        let found = Slab::open(&SlabOptions { may_create: false, ..options(path) });
        assert!(matches!(found, Err(StoreError::OtherSlab { .. })));
    }

    #[test]
    fn aligned_memory_is_aligned() {
        for len in [0, 1, 4096, 70_000] {
            let buffer = Aligned::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_LEN, 0);
            assert_eq!(buffer.into_bytes().len(), len);
        }
    }
}
