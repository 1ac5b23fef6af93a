//! Copies of histories that a fork left behind: kept by reference beside the history that won, as volumes of their own
//! that can be read over NBD and deleted, and nothing else.
//!
//! ```text
//! diverged replica ──apply the journal's tail──► store: pin it, show nothing ──► journal: forget the replica
//!                                                      │
//!                          note in <data_dir>/diverged ┘   the new copy is made over the pin (see ship)
//! ```
//! Each step can be done again after a crash: until the journal has forgotten the replica it is there, or it is
//! reported as lost and `resync --discard` goes on from there.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farshore_core::ids::{LineageId, VolumeId};
use futures_util::future::BoxFuture;

use super::create::in_use;
use super::diverged_note::{DivergedCopy, name_of};
use super::driver::{VolumeHandle, lock};
use super::force::nothing_to_discard;
use super::node::{Node, Shared};
use crate::control::OpError;
use crate::device::{BlockDevice, Geometry, IoError};
use crate::journal::{Entry, ReadError};
use crate::store::{READ_BYTES_MAX, Store};

/// Record bytes of the tail applied in one go.
const TAIL_BATCH_BYTES: usize = 4 << 20;

/// The copies that this node keeps.
#[derive(Default)]
pub struct DivergedCopies {
    dir: PathBuf,
    copies: Mutex<Vec<Arc<DivergedCopy>>>,
}

impl DivergedCopies {
    /// Reads the notes; those whose pin the store does not have were not set aside after all.
    pub fn open(dir: PathBuf, store: &Store) -> std::io::Result<DivergedCopies> {
        std::fs::create_dir_all(&dir)?;
        let mut copies = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let copy = match DivergedCopy::decode(std::fs::read(&path)?.into()) {
                Ok(copy) => copy,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the note of a diverged copy can't be read; the copy stays in the store");
                    continue;
                }
            };
            let pinned = store.pins(copy.volume).is_ok_and(|pins| pins.iter().any(|pin| pin.name == copy.name));
            if pinned {
                copies.push(Arc::new(copy));
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        copies.sort_by_key(|copy| (copy.volume, copy.lineage.generation, copy.set_aside_unix_s));
        Ok(DivergedCopies { dir, copies: Mutex::new(copies) })
    }

    pub fn all(&self) -> Vec<Arc<DivergedCopy>> {
        lock(&self.copies).clone()
    }

    pub fn find(&self, name: &str) -> Option<Arc<DivergedCopy>> {
        lock(&self.copies).iter().find(|copy| copy.name == name).cloned()
    }

    /// The newest one of a volume.
    pub fn newest(&self, volume: VolumeId) -> Option<Arc<DivergedCopy>> {
        lock(&self.copies).iter().rev().find(|copy| copy.volume == volume).cloned()
    }

    /// Notes a copy, durably, before the store sets it aside.
    fn note(&self, copy: &DivergedCopy) -> std::io::Result<()> {
        let path = self.dir.join(&copy.name);
        let draft = self.dir.join(format!("{}.new", copy.name));
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(&copy.encode())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        sync_dir(&self.dir)
    }

    fn insert(&self, copy: DivergedCopy) {
        let mut copies = lock(&self.copies);
        copies.retain(|known| known.name != copy.name);
        copies.push(Arc::new(copy));
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        lock(&self.copies).retain(|copy| copy.name != name);
        match std::fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.dir),
        }
    }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

impl Node {
    /// Stops holding a member whose history is not that of `winner`, and keeps what it had. Of a copy of the winner's own
    /// history nothing is given up.
    pub(super) async fn set_aside(&self, handle: &Arc<VolumeHandle>, winner: LineageId) -> Result<(), OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        if status.lineage == winner {
            return Err(nothing_to_discard(&self.shared.me, winner));
        }
        if status.role == "witness" {
            return self.forget(handle).await;
        }
        if status.lineage.generation > winner.generation {
            return Err(OpError::failed_precondition(
                format!("the copy in {} is of lineage {}, newer than {winner}", self.shared.me, status.lineage),
                "discard the older one, at the primary of the newer",
            ));
        }
        if self.attachments.is_open(handle.id).await || self.attachments.readers.is_there(handle.id) {
            return Err(in_use(&handle.name(), &self.shared.me));
        }
        let copy = DivergedCopy {
            volume: handle.id,
            name: name_of(&handle.name(), status.lineage),
            lineage: status.lineage,
            history: status.history,
            end: status.applied,
            size_bytes: status.config.volume.size_bytes,
            set_aside_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
        };
        let held = self.holding(handle.id);
        let _held = held.lock().await;
        self.attachments.close(handle.id, true).await?;
        self.catalog.remove(handle.id);
        handle.stop().await;
        let (shared, name) = (self.shared.clone(), copy.name.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&shared, copy)).await;
        if let Err(error) = kept.map_err(|e| e.to_string()).and_then(|kept| kept) {
            lock(&self.broken).push((handle.id, format!("its diverged copy could not be kept: {error}")));
            return Err(OpError::unavailable(
                format!("{} could not keep its diverged copy of {}", self.shared.me, handle.name()),
                "mend the cause, restart its replicator and try again; if this is run again before, the copy is given up",
            )
            .because(error));
        }
        tracing::info!(volume = %handle.name(), copy = name, "diverged copy kept");
        self.persist(Entry::Forget { volume: handle.id }).await
    }

    /// Deletes a copy for good.
    pub(super) async fn delete_diverged(&self, copy: Arc<DivergedCopy>) -> Result<(), OpError> {
        let shared = self.shared.clone();
        let held = self.catalog.get(copy.volume).is_some();
        let deleted = tokio::task::spawn_blocking(move || {
            shared.store.unpin(copy.volume, &copy.name).map_err(|e| e.to_string())?;
            shared.diverged.remove(&copy.name).map_err(|e| e.to_string())?;
            if !held && shared.diverged.newest(copy.volume).is_none() {
                shared.store.remove(copy.volume).map_err(|e| e.to_string())?;
            }
            Ok::<_, String>(())
        });
        deleted.await.map_err(|e| e.to_string()).and_then(|done| done).map_err(|error| {
            OpError::unavailable("the copy could not be deleted", "see the daemon's log").because(error)
        })
    }
}

/// Brings the copy to the end of its history, then sets it aside.
fn keep(shared: &Shared, mut copy: DivergedCopy) -> Result<(), String> {
    copy.history.truncate(copy.end);
    loop {
        // An un-acked tail is part of that history. Nobody can take it back any more.
        let records = match shared.journal.read(copy.volume, copy.end.next(), TAIL_BATCH_BYTES) {
            Ok(records) if !records.is_empty() => records,
            Ok(_) | Err(ReadError::Beyond { .. }) => break,
            // Without these the store may be torn: what it shows is its last checkpoint with newer blocks in it.
            Err(error) => return Err(format!("the end of its log can't be read: {error}")),
        };
        shared.store.apply(copy.volume, &records).map_err(|e| e.to_string())?;
        for record in &records {
            copy.history.note(record.epoch, record.seq);
            copy.end = record.seq;
        }
    }
    shared.diverged.note(&copy).map_err(|e| format!("noting it: {e}"))?;
    shared.store.set_aside(copy.volume, &copy.name).map_err(|e| e.to_string())?;
    shared.diverged.insert(copy);
    Ok(())
}

/// A copy as a device that can be read.
pub struct DivergedDevice {
    pub shared: Arc<Shared>,
    pub copy: Arc<DivergedCopy>,
}

impl BlockDevice for DivergedDevice {
    fn geometry(&self) -> Geometry {
        let size_bytes = self.copy.size_bytes;
        Geometry { size_bytes, logical_block_bytes: 4096, volatile_cache: false, read_only: true }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move {
            self.geometry().check(offset, u64::from(len))?;
            let (shared, copy) = (self.shared.clone(), self.copy.clone());
            let read = tokio::task::spawn_blocking(move || {
                let mut out = Vec::with_capacity(len as usize);
                for at in (0..len as usize).step_by(READ_BYTES_MAX) {
                    let part = (len as usize - at).min(READ_BYTES_MAX);
                    out.extend_from_slice(&shared.store.read_at(copy.volume, &copy.name, offset + at as u64, part)?);
                }
                Ok::<_, crate::store::StoreError>(Bytes::from(out))
            });
            let read = read.await.map_err(|e| IoError::Io(e.to_string()))?;
            read.map_err(|error| IoError::Io(error.to_string()))
        })
    }

    fn write(&self, _: u64, _: Bytes, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Ok(()) })
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async { Err(IoError::ReadOnly) })
    }
}
