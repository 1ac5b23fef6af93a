//! Opening a store: whose it is, then what the index says, then which places are taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_core::codec::DecodeError;
use farshore_core::ids::{Seq, VolumeId};

use super::error::StoreError;
use super::extent::{EXTENT_BYTES, Place, Versions};
use super::index::{self, Found, Index};
use super::index_rows::Row;
use super::root::Store;
use super::slab::{Slab, SlabOptions};
use super::space::SpaceMap;
use super::superblock::{NodeIdentity, Superblock};
use super::sweep::unseen;
use super::views::Views;
use super::volume::{State, Volume};
use crate::disk::file::create_dirs;

pub(super) const INDEX_DIR: &str = "index";
pub(super) const SLAB_FILE: &str = "slab";
/// Left to others on the slab's file system when no capacity is given: a twentieth, at least 256 MiB.
const RESERVE_BYTES_MIN: u64 = 256 << 20;
const RESERVE_SHARE: u64 = 20;

#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub dir: PathBuf,
    /// A directory of another node is refused.
    pub node: NodeIdentity,
    /// A raw device, or a file outside of `dir`.
    pub slab: Option<PathBuf>,
    /// Limit of the slab. Default: what its file system has, less a reserve; for a device, all of it.
    pub capacity_bytes: Option<u64>,
    /// Memory for the index's block cache.
    pub index_cache_bytes: usize,
    /// False goes through the page cache even where O_DIRECT works.
    pub direct_io: bool,
}

impl StoreConfig {
    pub fn new(dir: impl Into<PathBuf>, node: NodeIdentity) -> StoreConfig {
        StoreConfig {
            dir: dir.into(),
            node,
            slab: None,
            capacity_bytes: None,
            index_cache_bytes: 64 << 20,
            direct_io: true,
        }
    }

    fn slab_path(&self) -> PathBuf {
        self.slab.clone().unwrap_or_else(|| self.dir.join(SLAB_FILE))
    }
}

/// What was read from the index.
struct Loaded {
    states: BTreeMap<VolumeId, State>,
    places: Vec<Place>,
    /// The highest place that a clone has from an ancestor.
    borrowed: Place,
}

impl Store {
    /// Opens the store of this directory, or makes a new one in an empty directory.
    pub fn open(config: StoreConfig) -> Result<Store, StoreError> {
        let superblock = own_superblock(&config)?;
        let index = Index::open(&config.dir.join(INDEX_DIR), config.index_cache_bytes)?;
        let Loaded { states, places, borrowed } = load(&index)?;
        let slab = Slab::open(&SlabOptions {
            path: config.slab_path(),
            direct_io: config.direct_io,
            store: superblock.store,
            may_create: places.is_empty(),
        })?;
        // The slab's and the index's names must outlive a crash, too.
        let sync_dir = fs::File::open(&config.dir).and_then(|dir| dir.sync_all());
        sync_dir.map_err(StoreError::io("sync", &config.dir))?;
        let capacity_bytes = capacity_bytes(&config, &slab)?;
        slab.limit(capacity_bytes);
        let mut space = SpaceMap::new(capacity_bytes);
        if borrowed.0 >= slab.len_bytes() / EXTENT_BYTES {
            return Err(damaged("names a place beyond the end of the slab"));
        }
        for place in places {
            if place.0 >= slab.len_bytes() / EXTENT_BYTES {
                return Err(damaged("names a place beyond the end of the slab"));
            }
            if !space.claim(place) {
                return Err(damaged("names one place twice"));
            }
        }
        let volumes: BTreeMap<VolumeId, Arc<Volume>> =
            states.into_iter().map(|(id, state)| (id, Arc::new(Volume::new(id, state)))).collect();
        for volume in volumes.values() {
            if let Some(link) = volume.state().link {
                let parent = volumes.get(&link.parent).ok_or_else(|| damaged("lacks the volume that a clone is of"))?;
                volume.set_parent(parent);
            }
        }
        let store = Store::assemble(index, slab, space, volumes);
        let found = store.space();
        tracing::info!(
            dir = %config.dir.display(),
            volumes = found.volumes.len(),
            used_bytes = found.used_bytes,
            capacity_bytes = found.capacity_bytes,
            direct_io = found.direct_io,
            "the store is open"
        );
        Ok(store)
    }
}

/// The directory's superblock, made if the directory is new.
fn own_superblock(config: &StoreConfig) -> Result<Superblock, StoreError> {
    let dir = &config.dir;
    create_dirs(dir).map_err(StoreError::io("create", dir))?;
    if let Some(found) = Superblock::read(dir)? {
        if found.node.uuid != config.node.uuid {
            let name = |node: &NodeIdentity| format!("{} ({:032x})", node.name, node.uuid);
            return Err(StoreError::OtherNode {
                path: dir.clone(),
                found: name(&found.node),
                expected: name(&config.node),
            });
        }
        return Ok(found);
    }
    if dir.join(INDEX_DIR).exists() || dir.join(SLAB_FILE).exists() {
        let reason = "store.super is missing beside an index or a slab";
        let source = DecodeError::Invalid { what: "store directory", reason };
        return Err(StoreError::Format { object: dir.display().to_string(), source });
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| StoreError::io("draw an id for", dir)(error.into()))?;
    let superblock = Superblock { store: u128::from_le_bytes(id), node: config.node.clone() };
    superblock.create(dir)?;
    Ok(superblock)
}

fn load(index: &Index) -> Result<Loaded, StoreError> {
    let mut states = load_rows(index)?;
    let (mut places, mut borrowed) = (Vec::new(), Place::NONE);
    let views: BTreeMap<VolumeId, Views> = states.iter().map(|(id, state)| (*id, state.views())).collect();
    let mut group: Option<(VolumeId, u64)> = None;
    let mut versions = Versions::new();
    index.all_extents(|Found { volume, extent, version, entry }| {
        let entry = entry.map_err(index::unreadable)?;
        if group != Some((volume, extent)) {
            note_extent(&mut states, &views, group, &versions);
            versions.clear();
            group = Some((volume, extent));
        }
        versions.insert(version, entry);
        let state = states.get_mut(&volume).ok_or_else(|| damaged("names an extent of an unknown volume"))?;
        if extent >= state.extents_max() {
            return Err(damaged("names an extent beyond its volume's end"));
        }
        match entry.own_place() {
            Some(place) => {
                state.used_places += 1;
                places.push(place);
            }
            None => borrowed = borrowed.max(entry.place),
        }
        Ok(())
    })?;
    note_extent(&mut states, &views, group, &versions);
    Ok(Loaded { states, places, borrowed })
}

fn load_rows(index: &Index) -> Result<BTreeMap<VolumeId, State>, StoreError> {
    let mut rows = Vec::new();
    index.rows(|key, value| {
        rows.push(index::row(key, value)?);
        Ok(())
    })?;
    let mut states = BTreeMap::new();
    for row in &rows {
        if let Row::Volume(id, row) = row {
            let mut state = State::new(row.size_bytes);
            state.removing = row.removing;
            states.insert(*id, state);
        }
    }
    let mut of = |id: &VolumeId, set: &dyn Fn(&mut State)| {
        states.get_mut(id).map(set).ok_or_else(|| damaged("has rows of an unknown volume"))
    };
    for row in &rows {
        match row {
            Row::Volume(..) => {}
            Row::Position(id, row) => of(id, &|state| {
                state.view = row.view;
                state.floor = row.floor;
                state.checkpointed = row.view.at.seq;
            })?,
            Row::Pin(id, name, row) => of(id, &|state| {
                state.pins.insert(name.clone(), *row);
            })?,
            Row::Stage(id, row) => of(id, &|state| state.stage = Some(*row))?,
            Row::Snapshot(id, row) => of(id, &|state| drop(state.snapshots.insert(row.id, row.clone())))?,
            Row::Link(id, row) => of(id, &|state| state.link = Some(*row))?,
            Row::Staged(id, row) => of(id, &|state| drop(state.staged.insert(row.id, row.clone())))?,
        }
    }
    for state in states.values_mut() {
        state.sweep = (state.removing && state.pins.is_empty()).then_some(0);
    }
    Ok(states)
}

/// What is shown of an extent, and what of it is garbage: a crash may come between giving a version up and sweeping it away.
fn note_extent(
    states: &mut BTreeMap<VolumeId, State>,
    views: &BTreeMap<VolumeId, Views>,
    group: Option<(VolumeId, u64)>,
    versions: &Versions,
) {
    let Some((volume, extent)) = group else { return };
    let (Some(state), Some(views)) = (states.get_mut(&volume), views.get(&volume)) else { return };
    state.shown.add(state.shows_own(versions).into());
    let floor = if state.hides(extent) { Seq::ZERO } else { state.floor };
    if state.sweep.is_none() && unseen(versions, views, floor).next().is_some() {
        state.sweep = Some(0);
    }
}

fn capacity_bytes(config: &StoreConfig, slab: &Slab) -> Result<u64, StoreError> {
    let len_bytes = slab.len_bytes();
    if slab.is_device() {
        return Ok(config.capacity_bytes.map_or(len_bytes, |asked| asked.min(len_bytes)));
    }
    if let Some(asked) = config.capacity_bytes {
        return Ok(asked);
    }
    let path: &Path = slab.path();
    let found = rustix::fs::statvfs(path).map_err(|error| StoreError::io("measure", path)(error.into()))?;
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    let reserve = (total / RESERVE_SHARE).max(RESERVE_BYTES_MIN);
    Ok(len_bytes + available.saturating_sub(reserve))
}

fn damaged(reason: &'static str) -> StoreError {
    index::unreadable(DecodeError::Invalid { what: "index", reason })
}
