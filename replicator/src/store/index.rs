//! The index in RocksDB: which version of which extent lies where. The only file of the daemon that names rocksdb.
//!
//! Every write is one synced batch, so what is on disk is always exactly some checkpoint: nothing between two
//! checkpoints ever reaches it (see `checkpoint`). Keys and values are `index_rows`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use farshore_core::codec::DecodeError;
use farshore_core::ids::{Seq, VolumeId};
use rocksdb::properties::NUM_ENTRIES_ACTIVE_MEM_TABLE;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::error::StoreError;
use super::extent::{Entry, Version};
use super::index_rows::{
    self as rows, CHANGE_KEY_BYTES, Cursor, EXTENT_KEY_BYTES, Row, change_key, decode_change_key, decode_entry,
    decode_extent_key, encode_entry, extent_key, extent_prefix,
};

const ROWS: &str = "default";
const EXTENTS: &str = "extents";
const CHANGES: &str = "changes";
/// RocksDB's own logs kept, each of at most [`LOG_FILE_BYTES`].
const LOG_FILES: usize = 2;
const LOG_FILE_BYTES: usize = 1 << 20;
const MEMTABLE_BYTES: usize = 32 << 20;
/// The write-ahead log is cut once it is this long, by writing memtables out.
const WAL_BYTES: u64 = 256 << 20;
const OPEN_FILES: i32 = 512;
/// What a row takes on disk, about: neighbours' keys share most of their bytes.
const EXTENT_ROW_BYTES: u64 = 240;
const CHANGE_ROW_BYTES: u64 = 30;
/// A walk over more extents than this is no look-up: it reads ahead, and leaves the cache to those.
const LOOKED_UP_EXTENTS: u64 = 4096;
const READ_AHEAD_BYTES: usize = 512 << 10;

pub(super) struct Index {
    db: DB,
    path: PathBuf,
}

/// What one synced write changes.
#[derive(Default)]
pub(super) struct IndexBatch {
    extents: Vec<(VolumeId, u64, Version, Option<Entry>)>,
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl IndexBatch {
    /// Puts one version of an extent, or deletes it.
    pub fn extent(&mut self, volume: VolumeId, extent: u64, version: Version, entry: Option<Entry>) {
        self.extents.push((volume, extent, version, entry));
    }

    pub fn put(&mut self, row: &Row) {
        self.rows.push((row.key(), Some(row.encode())));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.rows.push((key, None));
    }

    /// A row that was encoded before; None deletes it.
    pub fn row(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.rows.push((key, value));
    }

    pub fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.rows.is_empty()
    }
}

/// Where a walk over the newest versions goes on.
pub(super) enum Walk {
    /// The next extent.
    On,
    /// This extent's next older version.
    Older,
    Stop,
}

/// One key of the extents' column that was walked over.
pub(super) struct Found {
    pub volume: VolumeId,
    pub extent: u64,
    pub version: Version,
    pub entry: Result<Entry, DecodeError>,
}

impl Index {
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Index, StoreError> {
        let (options, columns) = options(cache_bytes);
        let db = DB::open_cf_descriptors(&options, path, columns).map_err(failed("open"))?;
        Ok(Index { db, path: path.to_path_buf() })
    }

    /// For inspection: writes nothing, also works beside a running store and on a directory that is damaged in part.
    pub fn open_read_only(path: &Path) -> Result<Index, StoreError> {
        let (options, columns) = options(8 << 20);
        let db = DB::open_cf_descriptors_read_only(&options, path, columns, false).map_err(failed("open"))?;
        Ok(Index { db, path: path.to_path_buf() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn column(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("all columns were opened or created with the database")
    }

    /// Writes the batch and syncs it. After an error it is unknown whether the batch will be there after a restart.
    pub fn commit(&self, batch: &IndexBatch) -> Result<(), StoreError> {
        let (extents, changes, rows) = (self.column(EXTENTS), self.column(CHANGES), self.column(ROWS));
        let mut out = WriteBatch::default();
        for (volume, extent, version, entry) in &batch.extents {
            let key = extent_key(*volume, *extent, *version);
            let change = change_key(*volume, Cursor { seq: version.seq, extent: *extent }, version.image);
            match entry {
                Some(entry) => {
                    out.put_cf(extents, key, encode_entry(entry));
                    out.put_cf(changes, change, []);
                }
                None => {
                    out.delete_cf(extents, key);
                    out.delete_cf(changes, change);
                }
            }
        }
        for (key, value) in &batch.rows {
            match value {
                Some(value) => out.put_cf(rows, key, value),
                None => out.delete_cf(rows, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(out, &options).map_err(failed("write"))
    }

    /// Every row, as (key, value), in key order; few, for there is a handful per volume.
    pub fn rows(&self, mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.walk(ROWS, &[], None, |key, value| each(key, value).map(|()| true))
    }

    /// Versions of a span of extents, in key order (newest first within an extent), until `each` says false.
    pub fn extents(
        &self,
        volume: VolumeId,
        span: RangeInclusive<u64>,
        mut each: impl FnMut(u64, Version, Entry) -> bool,
    ) -> Result<(), StoreError> {
        let upper = match span.end().checked_add(1) {
            Some(end) => Some(extent_prefix(volume, end).to_vec()),
            None => volume.0.checked_add(1).map(|next| extent_prefix(VolumeId(next), 0).to_vec()),
        };
        self.walk(EXTENTS, &extent_prefix(volume, *span.start()), upper, |key, value| {
            let (_, extent, version) = decode_extent_key(key).map_err(unreadable)?;
            Ok(each(extent, version, decode_entry(value).map_err(unreadable)?))
        })
    }

    /// The newest version not after `at` of each extent of a span, in the order of the extents; `each` may ask for an
    /// extent's next older one. One seek for each extent, however many versions it has.
    pub fn newest(
        &self,
        volume: VolumeId,
        span: RangeInclusive<u64>,
        at: Version,
        mut each: impl FnMut(u64, Version, Entry) -> Walk,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        let upper = match span.end().checked_add(1) {
            Some(end) => Some(extent_prefix(volume, end).to_vec()),
            None => volume.0.checked_add(1).map(|next| extent_prefix(VolumeId(next), 0).to_vec()),
        };
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        if span.end() - span.start() > LOOKED_UP_EXTENTS {
            options.set_readahead_size(READ_AHEAD_BYTES);
            options.fill_cache(false);
        }
        let mut cursor = self.db.raw_iterator_cf_opt(self.column(EXTENTS), options);
        cursor.seek(extent_key(volume, *span.start(), at));
        // The extent that has been answered, if its older versions may be next.
        let mut answered = None;
        while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            let (_, extent, version) = decode_extent_key(key).map_err(unreadable)?;
            if answered == Some(extent) {
                match extent.checked_add(1) {
                    Some(next) => cursor.seek(extent_key(volume, next, at)),
                    None => break,
                }
            } else if version > at {
                cursor.seek(extent_key(volume, extent, at));
            } else {
                match each(extent, version, decode_entry(value).map_err(unreadable)?) {
                    Walk::On => answered = Some(extent),
                    Walk::Older => {}
                    Walk::Stop => return Ok(()),
                }
                cursor.next();
            }
        }
        cursor.status().map_err(failed("read"))
    }

    /// The same for some extents, which are in their order.
    pub fn newest_of(
        &self,
        volume: VolumeId,
        extents: &[u64],
        at: Version,
        mut each: impl FnMut(u64, Version, Entry) -> Walk,
    ) -> Result<(), StoreError> {
        let mut cursor = self.db.raw_iterator_cf(self.column(EXTENTS));
        for &wanted in extents {
            cursor.seek(extent_key(volume, wanted, at));
            while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                let (found, extent, version) = decode_extent_key(key).map_err(unreadable)?;
                if (found, extent) != (volume, wanted) {
                    break;
                }
                match each(extent, version, decode_entry(value).map_err(unreadable)?) {
                    Walk::On => break,
                    Walk::Older => cursor.next(),
                    Walk::Stop => return Ok(()),
                }
            }
            cursor.status().map_err(failed("read"))?;
        }
        Ok(())
    }

    /// All extents of all volumes; damaged entries are handed on as such.
    pub fn all_extents(&self, mut each: impl FnMut(Found) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.walk(EXTENTS, &[], None, |key, value| {
            let (volume, extent, version) = decode_extent_key(key).map_err(unreadable)?;
            each(Found { volume, extent, version, entry: decode_entry(value) }).map(|()| true)
        })
    }

    /// About how many rows the index has for a volume's extents, and for what changed from `from` on. Of those that are
    /// in memory only, extents of all volumes are counted, and no changes.
    pub fn weigh(&self, volume: VolumeId, from: Cursor) -> (u64, u64) {
        let end = |bytes: usize| match volume.0.checked_add(1) {
            Some(next) => next.to_be_bytes().to_vec(),
            None => vec![0xff; bytes],
        };
        let weigh = |column: &str, first: &[u8], end: &[u8], row_bytes: u64| {
            let sizes = self.db.get_approximate_sizes_cf(self.column(column), &[rocksdb::Range::new(first, end)]);
            sizes.first().map_or(0, |bytes| bytes / row_bytes)
        };
        let in_memory = self.db.property_int_value_cf(self.column(EXTENTS), NUM_ENTRIES_ACTIVE_MEM_TABLE);
        let extents = weigh(EXTENTS, &extent_prefix(volume, 0), &end(EXTENT_KEY_BYTES), EXTENT_ROW_BYTES);
        let extents = extents + in_memory.ok().flatten().unwrap_or(0);
        let changes = weigh(CHANGES, &change_key(volume, from, 0), &end(CHANGE_KEY_BYTES), CHANGE_ROW_BYTES);
        (extents, changes)
    }

    /// Changes from `from` (included) up to and including those of seq `upto`, until `each` says false.
    pub fn changes(
        &self,
        volume: VolumeId,
        from: Cursor,
        upto: Seq,
        mut each: impl FnMut(Cursor, u32) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.walk(CHANGES, &change_key(volume, from, 0), None, |key, _| {
            let (found, at, image) = decode_change_key(key).map_err(unreadable)?;
            if found != volume || at.seq > upto { Ok(false) } else { each(at, image) }
        })
    }

    fn walk(
        &self,
        column: &str,
        from: &[u8],
        upper: Option<Vec<u8>>,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        let mut cursor = self.db.raw_iterator_cf_opt(self.column(column), options);
        cursor.seek(from);
        while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            if !each(key, value)? {
                return Ok(());
            }
            cursor.next();
        }
        cursor.status().map_err(failed("read"))
    }
}

fn options(cache_bytes: usize) -> (Options, Vec<ColumnFamilyDescriptor>) {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(LOG_FILES);
    options.set_max_log_file_size(LOG_FILE_BYTES);
    options.set_log_level(LogLevel::Warn);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_max_open_files(OPEN_FILES);
    // Only the last batch can be torn by a crash, and it was never reported as synced. Damage before it must be an
    // error, not a silent return to an older checkpoint whose journal is gone.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    let cache = Cache::new_lru_cache(cache_bytes);
    let columns = [ROWS, EXTENTS, CHANGES].map(|name| {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_block_size(16 << 10);
        let mut column = Options::default();
        column.set_block_based_table_factory(&table);
        column.set_compression_type(DBCompressionType::None);
        column.set_write_buffer_size(MEMTABLE_BYTES);
        ColumnFamilyDescriptor::new(name, column)
    });
    (options, columns.into())
}

fn failed(op: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |error| StoreError::Index { op, reason: error.into_string() }
}

pub(super) fn unreadable(source: DecodeError) -> StoreError {
    match source {
        // Not damage: another program's, and whole.
        DecodeError::Newer { .. } => StoreError::Format { object: "the store's index".into(), source },
        damage => StoreError::Index { op: "decode", reason: damage.to_string() },
    }
}

/// A row that does not decode, for `Index::rows`.
pub(super) fn row(key: &[u8], value: &[u8]) -> Result<Row, StoreError> {
    rows::Row::decode(key, value).map_err(unreadable)
}
