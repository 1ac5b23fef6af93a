//! Reading: the newest applied image, or a pinned one. Every 4 KiB is verified; a digest names a whole image.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Seq, VolumeId};

use super::error::StoreError;
use super::extent::{BLOCK_LEN, EXTENT_BYTES, Entry, View, extents_of, split_range};
use super::root::{Store, check_range};
use super::slab::Aligned;
use super::volume::{State, Volume};

/// The longest single read.
pub const READ_BYTES_MAX: usize = 32 << 20;
/// Extents that a digest reads at a time.
const DIGEST_EXTENTS: usize = 256;

/// What names an image: equal digests, equal bytes. A hole and a block of zeroes are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDigest {
    pub seq: Seq,
    pub size_bytes: u64,
    pub digest: u128,
}

/// Which image is read.
#[derive(Clone, Copy)]
pub(super) enum Image<'a> {
    Current,
    Pinned(&'a str),
}

/// A run of blocks that lie together in the slab and in the reader's buffer.
struct Run {
    slab_offset: u64,
    buffer_at: usize,
    len: usize,
}

impl Store {
    /// Reads the newest applied image. `offset` and `len` are whole blocks.
    pub fn read(&self, id: VolumeId, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.read_image(id, Image::Current, offset, len)
    }

    /// Reads the image that a pin holds.
    pub fn read_at(&self, id: VolumeId, pin: &str, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.read_image(id, Image::Pinned(pin), offset, len)
    }

    fn read_image(&self, id: VolumeId, image: Image, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let volume = self.held_volume(id)?;
        if len > READ_BYTES_MAX {
            let reason = format!("{len} bytes at once are more than {READ_BYTES_MAX}");
            return Err(StoreError::Invalid { op: "read", volume: id, reason });
        }
        if len == 0 {
            let (_, size_bytes) = resolve(&volume, &volume.state(), image)?;
            check_range(id, offset, 0, size_bytes)?;
            return Ok(Bytes::new());
        }
        let span = || extents_of(offset, len as u64);
        check_range(id, offset, len as u64, u64::MAX)?;
        // Without a lock first. If the contents moved meanwhile, whatever came out, success or not, says nothing.
        let before = volume.stamps(span());
        if before.iter().all(|stamp| stamp % 2 == 0) {
            let found = self.read_once(&volume, image, offset, len);
            if volume.stamps(span()) == before {
                return found;
            }
        }
        let _mutating = volume.mutating();
        self.read_once(&volume, image, offset, len)
    }

    fn read_once(&self, volume: &Volume, image: Image, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let span = extents_of(offset, len as u64);
        let found = {
            let state = volume.state();
            let (view, size_bytes) = resolve(volume, &state, image)?;
            check_range(volume.id, offset, len as u64, size_bytes)?;
            match image {
                Image::Current => self.current(volume, &state, &span.collect::<Vec<u64>>())?,
                Image::Pinned(_) => self.seen(volume, &state, &view, span)?,
            }
        };
        let entries = found.into_iter().map(|(extent, seen)| (extent, seen.entry)).collect();
        self.read_entries(&entries, offset, len)
            .map(Aligned::into_bytes)
            .map_err(|offset| StoreError::Corrupt { volume: volume.id, offset })
    }

    /// The bytes of a range, given the entries that cover it; absent ones are holes. Fails with the offset of the
    /// first block that is not as it was written.
    pub(super) fn read_entries(&self, entries: &BTreeMap<u64, Entry>, offset: u64, len: usize) -> Result<Aligned, u64> {
        let mut buffer = Aligned::zeroed(len);
        let mut runs: Vec<Run> = Vec::new();
        let mut blocks = Vec::new();
        for (extent, first, count) in split_range(offset, len as u64) {
            let Some(entry) = entries.get(&extent) else { continue };
            for block in (first..first + count).filter(|block| entry.has_data(*block)) {
                let buffer_at = (extent * EXTENT_BYTES + block as u64 * BLOCK_BYTES - offset) as usize;
                let slab_offset = entry.place.offset() + block as u64 * BLOCK_BYTES;
                blocks.push((buffer_at, entry.crc[block]));
                match runs.last_mut() {
                    Some(run)
                        if run.buffer_at + run.len == buffer_at && run.slab_offset + run.len as u64 == slab_offset =>
                    {
                        run.len += BLOCK_LEN;
                    }
                    _ => runs.push(Run { slab_offset, buffer_at, len: BLOCK_LEN }),
                }
            }
        }
        for run in runs {
            self.read_run(&run, &mut buffer).map_err(|at| offset + at as u64)?;
        }
        match blocks.iter().find(|(at, crc)| crc32fast::hash(&buffer[*at..*at + BLOCK_LEN]) != *crc) {
            Some((at, _)) => Err(offset + *at as u64),
            None => Ok(buffer),
        }
    }

    /// A medium that can't give a block back is the same as one that gives a wrong one: which block, is what matters.
    fn read_run(&self, run: &Run, buffer: &mut [u8]) -> Result<(), usize> {
        let Err(error) = self.slab.read(run.slab_offset, &mut buffer[run.buffer_at..run.buffer_at + run.len]) else {
            return Ok(());
        };
        tracing::warn!(%error, offset = run.slab_offset, len = run.len, "the slab can't be read; trying block by block");
        for at in (0..run.len).step_by(BLOCK_LEN) {
            let block = &mut buffer[run.buffer_at + at..run.buffer_at + at + BLOCK_LEN];
            self.slab.read(run.slab_offset + at as u64, block).map_err(|_| run.buffer_at + at)?;
        }
        Ok(())
    }

    /// Digest of the newest applied image. Records that arrive meanwhile wait; for volumes in use, pin and digest that.
    pub fn digest(&self, id: VolumeId) -> Result<ImageDigest, StoreError> {
        let volume = self.live(id)?;
        let _mutating = volume.mutating();
        self.digest_image(&volume, Image::Current)
    }

    pub fn digest_at(&self, id: VolumeId, pin: &str) -> Result<ImageDigest, StoreError> {
        let volume = self.held_volume(id)?;
        self.digest_image(&volume, Image::Pinned(pin))
    }

    fn digest_image(&self, volume: &Volume, image: Image) -> Result<ImageDigest, StoreError> {
        let (view, size_bytes) = resolve(volume, &volume.state(), image)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"farshore image 1");
        hasher.update(&size_bytes.to_le_bytes());
        let mut next = Some(0);
        while let Some(from) = next {
            let page = {
                let state = volume.state();
                let (page, after) = self.seen_page(volume, &state, &view, from, DIGEST_EXTENTS)?;
                next = after;
                page
            };
            for (extent, seen) in page {
                self.digest_extent(volume, image, extent, seen.entry, size_bytes, &mut hasher)?;
            }
        }
        let digest = hasher.finalize();
        let (low, _) = digest.as_bytes().split_first_chunk::<16>().expect("32 bytes");
        Ok(ImageDigest { seq: view.at.seq, size_bytes, digest: u128::from_le_bytes(*low) })
    }

    fn digest_extent(
        &self,
        volume: &Volume,
        image: Image,
        extent: u64,
        entry: Entry,
        size_bytes: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<(), StoreError> {
        let offset = extent * EXTENT_BYTES;
        let len = EXTENT_BYTES.min(size_bytes.saturating_sub(offset)) as usize;
        let data = match image {
            // The caller holds `mutating`, so the entry can't be outdated.
            Image::Current => self
                .read_entries(&BTreeMap::from([(extent, entry)]), offset, len)
                .map(Aligned::into_bytes)
                .map_err(|offset| StoreError::Corrupt { volume: volume.id, offset })?,
            Image::Pinned(_) => self.read_image(volume.id, image, offset, len)?,
        };
        for (block, data) in data.chunks(BLOCK_LEN).enumerate() {
            if data.iter().any(|byte| *byte != 0) {
                hasher.update(&(offset + block as u64 * BLOCK_BYTES).to_le_bytes());
                hasher.update(data);
            }
        }
        Ok(())
    }
}

pub(super) fn resolve(volume: &Volume, state: &State, image: Image) -> Result<(View, u64), StoreError> {
    match image {
        Image::Current if state.removing => Err(StoreError::NoVolume { volume: volume.id }),
        Image::Current => Ok((state.view, state.size_bytes)),
        Image::Pinned(name) => match state.pins.get(name) {
            Some(pin) => Ok((pin.view, pin.size_bytes)),
            None => Err(StoreError::NoPin { volume: volume.id, name: name.to_owned() }),
        },
    }
}
