//! Writing a detached volume's contents by the verbs that do so: restore and import.
//!
//! ```text
//! guard     a snapshot of what the volume holds, labelled as unfinished: from here on no attach, in any site
//! fill      ordinary writes by the epoch's holder, for a session of the daemon's own; no device is made for it
//! done      restore: the guard's label goes, and it stays as what was before.   import: the new snapshot, then no guard
//! ```
//! What a restore fills in is held meanwhile, so that nobody deletes it under an attempt that is to be made again.
//!
//! The guard is in the order of the volume's records, so that a crash, here or of the whole site, leaves the volume
//! marked wherever it goes on. The same verb again does the work again: what it writes is decided by the guard's image and
//! by what is filled in, neither of which changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::api::Command;
use farshore_core::ids::SessionId;
use farshore_core::mark::SnapshotId;
use farshore_proto::v1 as api;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::clock::random_u128;
use super::driver::{DeviceState, VolumeHandle};
use super::images::{Difference, not_listed, not_read, readable};
use super::kept::Origin;
use super::marks::{Marker, UNFINISHED_LABEL};
use super::node::Node;
use super::readers::refuse_read_only;
use super::roles::refused;
use super::snapshots::Found;
use crate::control::validate_snapshots::parse_id;
use crate::control::{OpError, OpStream};
use crate::device::{BlockDevice, IoError};
use crate::store::{SnapshotRow, StoreError, snapshot_pin};

/// Writes on their way at once; each of up to a MiB.
const WRITES_MAX: usize = 8;
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// Of an import's snapshot: which one it holds the image of.
const IMPORTED_LABEL: &str = "farshore.imported";
/// Of the snapshot that a volume is restored to, until that has come to its end.
const RESTORE_HOLD: &str = "restore";
/// A forwarded restore takes as long as there is to put back.
const RESTORE_PATIENCE: Duration = Duration::from_secs(24 * 3600);

impl Node {
    pub(super) async fn restore(self: &Arc<Self>, snapshot: String) -> Result<api::RestoreSnapshotResponse, OpError> {
        let request = |snapshot| api::RestoreSnapshotRequest { snapshot };
        let (handle, row) = match self.find_snapshot(&snapshot).await? {
            Found::Here(Origin::Live(handle), row) => (handle, row),
            Found::Here(Origin::Deleted(kept), row) => {
                let name = &kept.config.volume.name;
                return Err(OpError::failed_precondition(
                    format!("volume {name} was deleted; only its snapshots are kept"),
                    format!("make a volume of it: farshore snapshot clone {} NAME", row.id),
                ));
            }
            Found::Neighbour(peer) => {
                return self.forward_within(RESTORE_PATIENCE, &peer, "snapshot-restore", &request(snapshot)).await;
            }
        };
        refuse_read_only(&handle, "can't be restored to a snapshot")?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            let named = format!("{}@{}", handle.id, row.name);
            let done: api::RestoreSnapshotResponse =
                self.forward_within(RESTORE_PATIENCE, &peer, "snapshot-restore", &request(named)).await?;
            return Ok(api::RestoreSnapshotResponse { volume: Some(self.view(&handle).await?), ..done });
        }
        readable(&handle.name(), &row, self)?;
        let what = format!("the restore of {}", row.name);
        refuse_attached(&handle, &what)?;
        refuse_diskless(&handle)?;
        let row = self.hold_for_restore(&handle, row.id, true).await?;
        let name = format!("before-restore-{}", &row.id.to_string()[..8]);
        let guard = match self.guard(&handle, &name, &what).await {
            Ok(guard) => guard,
            Err(error) => {
                // It was refused, or what it needs is away: in the first case nothing will come that lets it go.
                if let Err(error) = self.hold_for_restore(&handle, row.id, false).await {
                    tracing::warn!(volume = %handle.name(), snapshot = row.name, %error, "stays held by its restore");
                }
                return Err(error);
            }
        };
        let restored = self.filling(&handle, Box::pin(self.put_back(&handle, &row, &guard))).await?;
        self.rewrite(&handle, guard.id, |labels, _| {
            labels.remove(UNFINISHED_LABEL);
            Ok(())
        })
        .await?;
        self.hold_for_restore(&handle, row.id, false).await?;
        tracing::info!(volume = %handle.name(), snapshot = row.name, bytes = restored, "snapshot restored");
        Ok(api::RestoreSnapshotResponse { volume: Some(self.view(&handle).await?), changed_bytes: restored })
    }

    async fn hold_for_restore(
        &self,
        handle: &Arc<VolumeHandle>,
        id: SnapshotId,
        held: bool,
    ) -> Result<SnapshotRow, OpError> {
        self.rewrite(handle, id, |_, holds| {
            if held {
                holds.insert(RESTORE_HOLD.into())
            } else {
                holds.remove(RESTORE_HOLD)
            };
            Ok(())
        })
        .await
    }

    /// The snapshot of what the volume held before, which keeps it from being attached. One that an earlier attempt left
    /// is used again; that of another work is not.
    async fn guard(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        name: &str,
        what: &str,
    ) -> Result<SnapshotRow, OpError> {
        drop(self.turn_to_mark(handle).await?);
        if let Some(found) = self.unfinished(handle).await? {
            return match found.labels.get(UNFINISHED_LABEL).map(String::as_str) == Some(what) {
                true => Ok(found),
                false => Err(unfinished_error(handle, &found)),
            };
        }
        // Names of guards that were finished are taken.
        let mut free = name.to_string();
        let mut n = 1;
        while self.named(handle, &free).await?.is_some() {
            n += 1;
            free = format!("{name}-{n}");
        }
        let labels: BTreeMap<String, String> = [(UNFINISHED_LABEL.to_string(), what.to_string())].into();
        let made = self.take_snapshot(handle, &free, &labels).await?;
        self.all_applied(handle).await?;
        let id = parse_id(&made.id).map(SnapshotId).unwrap_or_default();
        self.row(handle, id).await
    }

    pub(super) async fn unfinished(&self, handle: &VolumeHandle) -> Result<Option<SnapshotRow>, OpError> {
        Ok(self.rows_led(handle).await?.into_iter().find(|row| row.labels.contains_key(UNFINISHED_LABEL)))
    }

    /// Is the volume whole? Asked where the epoch is held and a device shall be opened.
    pub(super) async fn refuse_unfinished(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        if !handle.applier.has_store() && !handle.is_diskless() {
            return Ok(());
        }
        self.all_applied(handle).await?;
        match self.unfinished(handle).await? {
            Some(guard) => Err(unfinished_error(handle, &guard)),
            None => Ok(()),
        }
    }

    /// Runs work that writes to the volume, for a session of our own: nobody else can attach it meanwhile.
    async fn filling<T>(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        work: std::pin::Pin<Box<dyn Future<Output = Result<T, OpError>> + Send + '_>>,
    ) -> Result<T, OpError> {
        let session = SessionId(random_u128());
        self.patiently(handle, Command::Attach { writer: random_u128(), session }).await?;
        let mut device = handle.device.clone();
        let open = device.wait_for(|state| matches!(state, DeviceState::Open { .. }));
        let opened = tokio::time::timeout(OPEN_PATIENCE, open).await.is_ok();
        let result = match opened {
            true => match self.end_formatting(handle).await {
                Ok(()) => work.await,
                Err(error) => Err(error),
            },
            false => Err(OpError::unavailable(
                format!("volume {} does not open", handle.name()),
                "see `farshore status` for what it waits for, then run it again",
            )),
        };
        let result = match result {
            Ok(done) => handle.block.flush().await.map(|()| done).map_err(|error| not_written(handle, error)),
            Err(error) => Err(error),
        };
        let detached = self.settled(handle, Command::Detach { session }).await;
        let done = result?;
        detached.map_err(refused(handle))?;
        Ok(done)
    }

    /// Writes back what changed since the snapshot.
    async fn put_back(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        row: &SnapshotRow,
        guard: &SnapshotRow,
    ) -> Result<u64, OpError> {
        let mut difference = Difference::new(&self.shared, handle.id, snapshot_pin(guard.id), Some(row.seq), 0);
        let mut writes = Writes::new(handle);
        loop {
            let shared = self.shared.clone();
            let (volume, pin, size_bytes) = (handle.id, snapshot_pin(row.id), row.size_bytes);
            // An extent, and what of it the snapshot holds.
            let read = tokio::task::spawn_blocking(move || {
                let found = difference.next()?;
                let Some(changed) = found else { return Ok((difference, None)) };
                let then = shared.store.extent_at(volume, &pin, changed.extent)?;
                let both = crate::store::ChangedExtent { holes: then.holes & changed.changed, ..changed };
                let mut parts = Vec::new();
                for (offset, length, hole) in both.runs() {
                    // What the volume has grown by since reads zero.
                    let data = match hole || offset >= size_bytes {
                        true => None,
                        false => Some(shared.store.read_at(volume, &pin, offset, length as usize)?),
                    };
                    parts.push((offset, length, data));
                }
                Ok::<_, StoreError>((difference, Some(parts)))
            });
            let read = read.await.map_err(|e| OpError::internal("reading a snapshot ended").because(e))?;
            let (rest, parts) = read.map_err(|error| match error {
                StoreError::BelowFloor { .. } => not_listed(&handle.name(), error),
                other => not_read(&handle.name(), other),
            })?;
            difference = rest;
            let Some(parts) = parts else { break };
            for (offset, length, data) in parts {
                writes.add(offset, length, data).await?;
            }
        }
        writes.end().await
    }

    pub(super) async fn import_into(
        self: &Arc<Self>,
        begin: api::ImportBegin,
        ranges: OpStream<api::ImportRange>,
    ) -> Result<api::ImportResponse, OpError> {
        if let Some(peer) = self.neighbour_with(&begin.volume).await {
            return Err(import_there(&begin.volume, &peer.to_string()));
        }
        let handle = self.find(&begin.volume)?;
        refuse_read_only(&handle, "can't be filled by an import")?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            return Err(import_there(&handle.name(), &peer.to_string()));
        }
        let what = format!("the import of {}", begin.source_snapshot_id);
        refuse_attached(&handle, &what)?;
        refuse_diskless(&handle)?;
        if let Some(row) = self.named(&handle, &begin.snapshot).await? {
            return Err(super::marks::name_taken(&handle, &row));
        }
        let again = self.unfinished(&handle).await?.is_some();
        let name = format!("before-import-{:.8}", begin.source_snapshot_id);
        let guard = self.guard(&handle, &name, &what).await?;
        if !again && let Err(error) = self.fits(&handle, &begin, &guard).await {
            self.unguard(&handle, &guard).await?;
            return Err(error);
        }
        let written = self.filling(&handle, Box::pin(fill(&handle, ranges))).await?;
        let mut labels = begin.labels.clone();
        labels.insert(IMPORTED_LABEL.into(), begin.source_snapshot_id.clone());
        let snapshot = self.take_snapshot(&handle, &begin.snapshot, &labels).await?;
        self.unguard(&handle, &guard).await?;
        tracing::info!(volume = %handle.name(), snapshot = begin.snapshot, bytes = written, "import finished");
        Ok(api::ImportResponse { snapshot: Some(snapshot), written_bytes: written })
    }

    async fn unguard(self: &Arc<Self>, handle: &Arc<VolumeHandle>, guard: &SnapshotRow) -> Result<(), OpError> {
        self.rewrite(handle, guard.id, |labels, _| {
            labels.remove(UNFINISHED_LABEL);
            Ok(())
        })
        .await?;
        self.delete_snapshot_here(handle, guard.id).await
    }

    /// An export of everything goes into an empty volume, one of changes onto what they are the changes of.
    async fn fits(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        begin: &api::ImportBegin,
        guard: &SnapshotRow,
    ) -> Result<(), OpError> {
        let name = handle.name();
        let base = if begin.base_snapshot_id.is_empty() {
            None
        } else {
            let rows = self.rows(handle)?;
            let held = rows.iter().find(|row| {
                row.labels.get(IMPORTED_LABEL) == Some(&begin.base_snapshot_id)
                    || row.id.to_string() == begin.base_snapshot_id
            });
            let held = held.ok_or_else(|| {
                OpError::failed_precondition(
                    format!(
                        "volume {name} does not hold the snapshot {} that the export builds on",
                        begin.base_snapshot_id
                    ),
                    "import the export of that one first",
                )
            })?;
            Some(held.seq)
        };
        let mut difference = Difference::new(&self.shared, handle.id, snapshot_pin(guard.id), base, 0);
        let found = tokio::task::spawn_blocking(move || difference.next()).await;
        let found = found.map_err(|e| OpError::internal("comparing ended").because(e))?;
        match (found.map_err(|error| not_listed(&name, error))?, base) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(OpError::failed_precondition(
                format!("volume {name} is not empty"),
                "import into a new volume: --members",
            )),
            (Some(_), Some(_)) => Err(OpError::failed_precondition(
                format!("volume {name} was written to since the snapshot that the export builds on"),
                "restore that snapshot first",
            )),
        }
    }
}

async fn fill(handle: &Arc<VolumeHandle>, mut ranges: OpStream<api::ImportRange>) -> Result<u64, OpError> {
    let mut writes = Writes::new(handle);
    while let Some(range) = ranges.next().await {
        let api::ImportRange { offset_bytes, data, length_bytes } = range?;
        let data = (!data.is_empty()).then(|| Bytes::from(data));
        writes.add(offset_bytes, length_bytes, data).await?;
    }
    writes.end().await
}

type Write = futures_util::future::BoxFuture<'static, Result<(), IoError>>;

/// Writes on their way, a bounded number.
struct Writes<'a> {
    handle: &'a Arc<VolumeHandle>,
    under_way: FuturesUnordered<Write>,
    bytes: AtomicU64,
}

impl<'a> Writes<'a> {
    fn new(handle: &'a Arc<VolumeHandle>) -> Writes<'a> {
        Writes { handle, under_way: FuturesUnordered::new(), bytes: AtomicU64::new(0) }
    }

    /// `None`: zeroes.
    async fn add(&mut self, offset: u64, length: u64, data: Option<Bytes>) -> Result<(), OpError> {
        while self.under_way.len() >= WRITES_MAX {
            self.one().await?;
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let block = self.handle.block.clone();
        self.under_way.push(Box::pin(async move {
            match data {
                Some(data) => block.write(offset, data, false).await,
                None => block.write_zeroes(offset, length, true, false).await,
            }
        }));
        Ok(())
    }

    async fn one(&mut self) -> Result<(), OpError> {
        match self.under_way.next().await {
            Some(Err(error)) => Err(not_written(self.handle, error)),
            _ => Ok(()),
        }
    }

    async fn end(mut self) -> Result<u64, OpError> {
        while !self.under_way.is_empty() {
            self.one().await?;
        }
        Ok(self.bytes.into_inner())
    }
}

/// The epoch of a volume that is detached goes back to a copy.
fn refuse_diskless(handle: &VolumeHandle) -> Result<(), OpError> {
    match handle.is_diskless() {
        true => Err(OpError::unavailable(
            format!("volume {} is led from a node without a copy still", handle.name()),
            "the epoch is on its way back to a copy: try again in a moment",
        )),
        false => Ok(()),
    }
}

fn refuse_attached(handle: &VolumeHandle, what: &str) -> Result<(), OpError> {
    let config = handle.config.borrow();
    let Some(attached) = config.attached else { return Ok(()) };
    Err(OpError::failed_precondition(
        format!("volume {} is attached in {}", config.volume.name, config.site_of(attached.member)),
        format!("run `farshore volume detach {}` first", config.volume.name),
    )
    .because(format!("{what} changes what its user would see")))
}

pub(super) fn unfinished_error(handle: &VolumeHandle, guard: &SnapshotRow) -> OpError {
    let what = guard.labels.get(UNFINISHED_LABEL).cloned().unwrap_or_default();
    OpError::failed_precondition(
        format!("volume {} holds something half: {what} is not finished", handle.name()),
        format!("run that again; what the volume held before is {}@{}", handle.name(), guard.name),
    )
}

fn not_written(handle: &VolumeHandle, error: IoError) -> OpError {
    OpError::unavailable(
        format!("volume {} could not be written to, and holds something half", handle.name()),
        "see `farshore status` for the reason, then run it again",
    )
    .because(error)
}

fn import_there(volume: &str, place: &str) -> OpError {
    OpError::failed_precondition(
        format!("volume {volume} is not led from this node, and an import is written where it is"),
        format!("run it on {place}"),
    )
}
