//! What the store's tests share: a store in a temporary directory, records, and power cuts.

use std::collections::BTreeMap;

use bytes::Bytes;
use farshore_core::ids::{BLOCK_BYTES, Epoch, Seq, VolumeId};
use farshore_core::mark::{Creation, Mark, SnapshotId};
use farshore_core::record::{Kind, Origin, Record, RecordHash};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tempfile::TempDir;

use super::{EXTENT_BYTES, NodeIdentity, Store, StoreConfig, StoreError, StoredVolume, snapshot_pin};

pub const BLOCK: usize = BLOCK_BYTES as usize;
pub const EXTENT: usize = EXTENT_BYTES as usize;
pub const VOL: VolumeId = VolumeId(7);

/// A directory with a store in it that can be restarted, cleanly or not.
pub struct Rig {
    pub dir: TempDir,
    pub config: StoreConfig,
    store: Option<Store>,
}

impl Rig {
    pub fn new(places: u64) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeIdentity { name: "test/n1".into(), uuid: 1 };
        let mut config = StoreConfig::new(dir.path().join("store"), node);
        config.capacity_bytes = Some((places + 1) * EXTENT_BYTES);
        config.index_cache_bytes = 1 << 20;
        let store = Some(Store::open(config.clone()).unwrap());
        Rig { dir, config, store }
    }

    pub fn with_volume(places: u64, size_bytes: usize) -> Rig {
        let rig = Rig::new(places);
        rig.create(VOL, size_bytes as u64).unwrap();
        rig
    }

    pub fn limit_dirty(&mut self, dirty_max: usize) {
        self.store.as_mut().unwrap().dirty_max = dirty_max;
    }

    /// Ends the process without a checkpoint; all that was written to the slab got there.
    pub fn restart(&mut self) {
        self.store = None;
        self.store = Some(Store::open(self.config.clone()).unwrap());
    }

    pub fn stop(&mut self) {
        self.store = None;
    }

    pub fn slab_path(&self) -> std::path::PathBuf {
        self.config.dir.join("slab")
    }

    /// Cuts the power: of what was written to the slab since its last sync, each 512-byte sector is there with this
    /// probability. The index is as of its last synced write, for it has no other.
    pub fn power_cut(&mut self, kept: f64, seed: u64) {
        let synced = self.slab.synced.lock().unwrap().clone();
        self.store = None;
        let mut slab = std::fs::read(self.slab_path()).unwrap();
        assert!(synced.is_empty() || synced.len() <= slab.len());
        if !synced.is_empty() {
            let mut random = StdRng::seed_from_u64(seed);
            for at in (0..slab.len()).step_by(512) {
                if !random.random_bool(kept) {
                    match synced.get(at..at + 512) {
                        Some(old) => slab[at..at + 512].copy_from_slice(old),
                        // Never synced: anything may be there.
                        None => random.fill_bytes(&mut slab[at..at + 512]),
                    }
                }
            }
            std::fs::write(self.slab_path(), &slab).unwrap();
        }
        self.store = Some(Store::open(self.config.clone()).unwrap());
    }

    pub fn volume(&self, id: VolumeId) -> StoredVolume {
        self.volumes().into_iter().find(|found| found.volume == id).unwrap()
    }

    /// All of them, past the marks at which a call ends.
    pub fn apply_all(&self, id: VolumeId, records: &[Record]) -> Result<Seq, StoreError> {
        let Some(last) = records.last() else { return Ok(self.volume(id).applied_seq) };
        loop {
            let applied = self.apply(id, records)?;
            if applied >= last.seq {
                return Ok(applied);
            }
        }
    }

    pub fn read_all(&self, id: VolumeId) -> Result<Bytes, StoreError> {
        self.read(id, 0, self.volume(id).size_bytes as usize)
    }

    /// Rows of the index that say anything of a volume.
    pub fn index_rows(&self) -> usize {
        let mut count = 0;
        self.index
            .rows(|_, _| {
                count += 1;
                Ok(())
            })
            .unwrap();
        count
    }

    /// Damages one byte of every place that holds `pattern` blocks.
    pub fn rot(&mut self, pattern: u8) {
        self.stop();
        let mut slab = std::fs::read(self.slab_path()).unwrap();
        for block in slab.chunks_mut(BLOCK).skip(1) {
            if block.iter().all(|byte| *byte == pattern) {
                block[77] ^= 0x10;
            }
        }
        std::fs::write(self.slab_path(), &slab).unwrap();
        self.restart();
    }
}

impl std::ops::Deref for Rig {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

pub fn record(volume: VolumeId, seq: u64, kind: Kind, offset: usize, length: usize, payload: Bytes) -> Record {
    Record {
        volume,
        lineage: 0,
        epoch: Epoch { n: 1, writer: 1 },
        seq: Seq(seq),
        prev_hash: RecordHash(0),
        kind,
        offset: offset as u64,
        length: length as u64,
        origin: Origin::default(),
        payload_crc: crc32fast::hash(&payload),
        payload,
    }
}

/// Writes whole blocks of one byte.
pub fn write(seq: u64, block: usize, count: usize, fill: u8) -> Record {
    write_to(VOL, seq, block, count, fill)
}

pub fn write_to(volume: VolumeId, seq: u64, block: usize, count: usize, fill: u8) -> Record {
    record(volume, seq, Kind::Write, block * BLOCK, count * BLOCK, Bytes::from(vec![fill; count * BLOCK]))
}

pub fn discard(seq: u64, block: usize, count: usize) -> Record {
    discard_of(VOL, seq, block, count)
}

pub fn discard_of(volume: VolumeId, seq: u64, block: usize, count: usize) -> Record {
    record(volume, seq, Kind::Discard, block * BLOCK, count * BLOCK, Bytes::new())
}

pub fn mark(volume: VolumeId, seq: u64, mark: &Mark) -> Record {
    record(volume, seq, Kind::SnapMark, 0, 0, mark.encode())
}

/// A snapshot named after its id begins.
pub fn snapshot(volume: VolumeId, seq: u64, id: u128, size_bytes: usize) -> Record {
    let creation = Creation {
        id: SnapshotId(id),
        group: None,
        created_unix_ms: seq as i64,
        size_bytes: size_bytes as u64,
        name: format!("s{id}"),
        labels: BTreeMap::new(),
    };
    mark(volume, seq, &Mark::Create(creation))
}

pub fn delete_snapshot(volume: VolumeId, seq: u64, id: u128) -> Record {
    mark(volume, seq, &Mark::Delete { id: SnapshotId(id) })
}

pub fn pin_of(id: u128) -> String {
    snapshot_pin(SnapshotId(id))
}

/// The digest of an image, computed the plain way.
pub fn naive_digest(image: &[u8]) -> u128 {
    let mut input = b"farshore image 1".to_vec();
    input.extend_from_slice(&(image.len() as u64).to_le_bytes());
    for (at, block) in image.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            input.extend_from_slice(&((at * BLOCK) as u64).to_le_bytes());
            input.extend_from_slice(block);
        }
    }
    u128::from_le_bytes(blake3::hash(&input).as_bytes()[..16].try_into().unwrap())
}
