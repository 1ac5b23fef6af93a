//! Snapshots that outlive their volume.
//!
//! A volume that is deleted while it has snapshots leaves them in the stores of its members, each with the images that it
//! had. There is no order of records any more that could carry their deletion: whoever deletes one tells the members, and
//! remembers those who could not be told until they were.
//!
//! ```text
//! note ──► stop the replica ──► store: no image of its own, its snapshots stay ──► journal: forget the replica
//!  in <data_dir>/kept            (with a checkpoint: there is no redo after it)
//! ```
//! After a crash between two steps the store says how far it came: as long as it has the volume itself, the deletion has
//! not happened, and the note goes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_core::ids::{MemberId, VolumeId};
use farshore_core::mark::SnapshotId;
use farshore_core::register::{Configuration, MemberKind};
use farshore_proto::v1 as api;

use super::clock::unix_ms;
use super::create::name_error;
use super::driver::{VolumeHandle, lock};
use super::kept_note::KeptVolume;
use super::marks::{kept_count, refuse_held};
use super::node::{Node, Shared};
use crate::control::{OpError, OpKind};
use crate::journal::{Entry, Journal, RecoveredVolume};
use crate::store::{SnapshotRow, SnapshotState, Store, StoreError};
use crate::transport::PeerName;

/// For a member to carry out, or refuse, the deletion of a snapshot.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to tell members what they missed.
const TELL_PAUSE: Duration = Duration::from_secs(3);

/// What the name of a note that is being written ends with.
const DRAFT: &str = "new";

/// The deleted volumes of which this node keeps snapshots.
pub struct KeptVolumes {
    dir: PathBuf,
    volumes: Mutex<BTreeMap<VolumeId, Arc<KeptVolume>>>,
}

impl KeptVolumes {
    pub fn open(dir: PathBuf) -> std::io::Result<KeptVolumes> {
        std::fs::create_dir_all(&dir)?;
        let mut volumes = BTreeMap::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == DRAFT) {
                // A crash came before it was a note.
                std::fs::remove_file(&path)?;
                continue;
            }
            match KeptVolume::decode(std::fs::read(&path)?.into()) {
                Ok(kept) => drop(volumes.insert(kept.volume, Arc::new(kept))),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the note of a deleted volume can't be read; its snapshots stay in the store, unseen");
                }
            }
        }
        Ok(KeptVolumes { dir, volumes: Mutex::new(volumes) })
    }

    pub fn all(&self) -> Vec<Arc<KeptVolume>> {
        lock(&self.volumes).values().cloned().collect()
    }

    pub fn get(&self, volume: VolumeId) -> Option<Arc<KeptVolume>> {
        lock(&self.volumes).get(&volume).cloned()
    }

    /// By name or id; of several of one name the last deleted comes first.
    pub fn find(&self, name_or_id: &str) -> Vec<Arc<KeptVolume>> {
        let named =
            |kept: &Arc<KeptVolume>| kept.config.volume.name == name_or_id || kept.volume.to_string() == name_or_id;
        let mut found: Vec<_> = self.all().into_iter().filter(named).collect();
        found.sort_by_key(|kept| std::cmp::Reverse(kept.deleted_unix_ms));
        found
    }

    /// Durable when it returns.
    fn note(&self, kept: KeptVolume) -> std::io::Result<()> {
        let path = self.dir.join(kept.volume.to_string());
        let draft = path.with_extension(DRAFT);
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(&kept.encode())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        lock(&self.volumes).insert(kept.volume, Arc::new(kept));
        Ok(())
    }

    /// The volume is held here once more.
    pub fn revive(&self, volume: VolumeId) -> std::io::Result<()> {
        if self.get(volume).is_some() { self.drop_note(volume) } else { Ok(()) }
    }

    fn drop_note(&self, volume: VolumeId) -> std::io::Result<()> {
        lock(&self.volumes).remove(&volume);
        match std::fs::remove_file(self.dir.join(volume.to_string())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::File::open(&self.dir)?.sync_all(),
        }
    }

    /// After a start: finishes deletions that the store has carried out, and forgets those that it has not.
    pub async fn finish(
        &self,
        store: &Store,
        journal: &Journal,
        found: &mut Vec<RecoveredVolume>,
    ) -> Result<(), std::io::Error> {
        for kept in self.all() {
            let volume = kept.volume;
            if store.volumes().iter().any(|held| held.volume == volume) {
                self.drop_note(volume)?;
                continue;
            }
            if found.iter().any(|recovered| recovered.volume == volume) {
                persist(journal, Entry::Forget { volume }).await?;
                found.retain(|recovered| recovered.volume != volume);
            }
            if kept.owed.is_empty() && !store.kept().contains(&volume) {
                self.drop_note(volume)?;
            }
        }
        Ok(())
    }
}

async fn persist(journal: &Journal, entry: Entry) -> std::io::Result<()> {
    let (sender, done) = tokio::sync::oneshot::channel();
    journal.append(vec![entry], Box::new(move |result| drop(sender.send(result))));
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(std::io::Error::other(error.to_string())),
        Err(_) => Err(std::io::Error::other("the journal stopped before it answered")),
    }
}

impl KeptVolume {
    pub(super) fn had_member(&self, peer: &PeerName) -> bool {
        self.config.members.iter().any(|m| m.site == peer.site && m.node == peer.node)
    }
}

/// What a snapshot is of.
#[derive(Clone)]
pub(super) enum Origin {
    Live(Arc<VolumeHandle>),
    Deleted(Arc<KeptVolume>),
}

impl Origin {
    pub fn id(&self) -> VolumeId {
        match self {
            Origin::Live(handle) => handle.id,
            Origin::Deleted(kept) => kept.volume,
        }
    }

    pub fn name(&self) -> String {
        self.config(|config| config.volume.name.clone())
    }

    pub fn config<T>(&self, read: impl FnOnce(&Configuration) -> T) -> T {
        match self {
            Origin::Live(handle) => read(&handle.config.borrow()),
            Origin::Deleted(kept) => read(&kept.config),
        }
    }
}

/// Does it count as somebody's snapshot? The replicator's own go with their volume.
fn is_kept(row: &SnapshotRow) -> bool {
    row.state == SnapshotState::Ready && kept_count(std::slice::from_ref(row)) > 0
}

impl Node {
    /// Stops holding a member of a volume, durably, but for its snapshots. One that has none here is forgotten as a whole.
    pub(super) async fn forget_but_snapshots(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        if !self.rows(handle)?.iter().any(is_kept) {
            return self.forget(handle).await;
        }
        let name = handle.name();
        if let Some(copy) = self.shared.diverged.newest(handle.id) {
            return Err(OpError::failed_precondition(
                format!("{} also keeps {} of volume {name}, from a history that lost", self.shared.me, copy.name),
                format!("delete that first, on {}: farshore volume delete {}", self.shared.me, copy.name),
            ));
        }
        let held = self.holding(handle.id);
        let _held = held.lock().await;
        if !self.catalog.get(handle.id).is_some_and(|now| std::ptr::eq(&*now, handle)) {
            return Ok(());
        }
        self.attachments.close(handle.id, true).await?;
        self.drop_reader(handle.id).await?;
        let config = Configuration::clone(&handle.config.borrow());
        let kept = KeptVolume { volume: handle.id, config, deleted_unix_ms: unix_ms(), owed: Vec::new() };
        self.shared.kept.note(kept).map_err(|error| not_noted(&name, error))?;
        self.catalog.remove(handle.id);
        handle.stop().await;
        let (shared, volume) = (self.shared.clone(), handle.id);
        let removed = tokio::task::spawn_blocking(move || keep_snapshots(&shared, volume)).await;
        if let Err(error) = removed.map_err(|e| e.to_string()).and_then(|removed| removed.map_err(|e| e.to_string())) {
            lock(&self.broken).push((handle.id, format!("it was being deleted: {error}")));
            return Err(OpError::unavailable(
                format!("{} could not delete volume {name}", self.shared.me),
                "mend the cause, restart its replicator, and run the deletion again",
            )
            .because(error));
        }
        tracing::info!(volume = %name, id = %handle.id, "volume deleted; its snapshots are kept");
        self.persist(Entry::Forget { volume: handle.id }).await
    }

    pub(super) fn kept_rows(&self, kept: &KeptVolume) -> Vec<SnapshotRow> {
        self.shared.store.snapshots(kept.volume).unwrap_or_default()
    }

    pub(super) fn shown_kept(&self, kept: &KeptVolume, row: &SnapshotRow) -> api::Snapshot {
        let shown = self.shown_of(&kept.config.volume.name, kept.volume, row);
        api::Snapshot { volume_deleted: true, ..shown }
    }

    /// Deletes a snapshot of a deleted volume, in every site that has it.
    pub(super) async fn delete_kept(self: &Arc<Self>, kept: &KeptVolume, row: &SnapshotRow) -> Result<(), OpError> {
        let title = format!("{}@{}", kept.config.volume.name, row.name);
        refuse_held(&title, row)?;
        let mut owed = Vec::new();
        for member in self.holders_elsewhere(kept) {
            match self.tell_dropped(kept, row.id, member).await {
                Ok(()) => {}
                // Held there, or it knows no such verb.
                Err(error) if error.kind != OpKind::Unavailable => return Err(error),
                Err(error) => {
                    tracing::info!(snapshot = title, %member, %error, "a member is told later that a snapshot is deleted");
                    owed.push((row.id, member));
                }
            }
        }
        self.drop_kept_here(kept.volume, row.id, owed).await?;
        tracing::info!(snapshot = title, id = %row.id, "snapshot deleted");
        Ok(())
    }

    fn holders_elsewhere(&self, kept: &KeptVolume) -> Vec<MemberId> {
        let me = &self.shared.me;
        let with_data = |kind| matches!(kind, MemberKind::Data | MemberKind::Observer);
        let others =
            kept.config.members.iter().filter(|m| with_data(m.kind) && (m.site != me.site || m.node != me.node));
        others.map(|m| m.id).collect()
    }

    async fn tell_dropped(&self, kept: &KeptVolume, id: SnapshotId, member: MemberId) -> Result<(), OpError> {
        let Some(member) = kept.config.member(member) else { return Ok(()) };
        let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
        let request = api::DeleteSnapshotRequest { snapshot: format!("{}@{id}", kept.volume) };
        let told = self.forward_within::<api::DeleteSnapshotResponse>(DROP_PATIENCE, &peer, "kept-drop", &request);
        match told.await {
            Err(error) if error.kind != OpKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What another member has deleted.
    pub(super) async fn drop_for(&self, peer: &PeerName, volume: VolumeId, id: SnapshotId) -> Result<(), OpError> {
        let Some(kept) = self.shared.kept.get(volume) else { return Ok(()) };
        if !kept.had_member(peer) {
            return Err(OpError::invalid(format!("{peer} was no member of volume {volume}"), "ask a member"));
        }
        let Ok(row) = self.shared.store.snapshot(volume, id) else { return Ok(()) };
        refuse_held(&format!("{}@{} on {}", kept.config.volume.name, row.name, self.shared.me), &row)?;
        self.drop_kept_here(volume, id, Vec::new()).await
    }

    async fn drop_kept_here(
        &self,
        volume: VolumeId,
        id: SnapshotId,
        owed: Vec<(SnapshotId, MemberId)>,
    ) -> Result<(), OpError> {
        let held = self.holding(volume);
        let _held = held.lock().await;
        let shared = self.shared.clone();
        let dropped = tokio::task::spawn_blocking(move || {
            // First what is owed: once the snapshot is gone here, nobody else would know.
            shared.kept.change(volume, |kept| kept.owed.extend(owed)).map_err(|e| e.to_string())?;
            shared.store.drop_kept_snapshot(volume, id).map_err(|e| e.to_string())?;
            shared.kept.let_go(volume, &shared.store).map_err(|e| e.to_string())
        });
        dropped.await.map_err(|e| e.to_string()).and_then(|done| done).map_err(|error| {
            OpError::unavailable(format!("snapshot {id} could not be deleted here"), "see the daemon's log")
                .because(error)
        })
    }

    /// Changes labels and holds of a snapshot of a deleted volume: in this site alone.
    pub(super) async fn rewrite_kept(&self, kept: &KeptVolume, row: SnapshotRow) -> Result<(), OpError> {
        let (shared, volume) = (self.shared.clone(), kept.volume);
        let written = tokio::task::spawn_blocking(move || shared.store.rewrite_kept_snapshot(volume, row)).await;
        written.map_err(|e| e.to_string()).and_then(|done| done.map_err(|e| e.to_string())).map_err(|error| {
            OpError::unavailable("the snapshot could not be changed here", "see the daemon's log").because(error)
        })
    }

    async fn tell_what_is_owed(&self) {
        for kept in self.shared.kept.all() {
            for (id, member) in kept.owed.clone() {
                if self.tell_dropped(&kept, id, member).await.is_err() {
                    continue;
                }
                let told = |kept: &mut KeptVolume| kept.owed.retain(|debt| *debt != (id, member));
                let held = self.holding(kept.volume);
                let _held = held.lock().await;
                let done = self.shared.kept.change(kept.volume, told);
                if let Err(error) = done.and_then(|()| self.shared.kept.let_go(kept.volume, &self.shared.store)) {
                    tracing::warn!(volume = %kept.volume, %error, "the note of a deleted volume could not be changed");
                }
            }
        }
    }
}

impl KeptVolumes {
    fn change(&self, volume: VolumeId, change: impl FnOnce(&mut KeptVolume)) -> std::io::Result<()> {
        let Some(known) = self.get(volume) else { return Ok(()) };
        let mut kept = KeptVolume::clone(&known);
        change(&mut kept);
        if kept == *known { Ok(()) } else { self.note(kept) }
    }

    /// With its last snapshot, and when everybody knows, the volume is gone.
    fn let_go(&self, volume: VolumeId, store: &Store) -> std::io::Result<()> {
        let owes = self.get(volume).is_some_and(|kept| !kept.owed.is_empty());
        if owes || store.kept().contains(&volume) { Ok(()) } else { self.drop_note(volume) }
    }
}

/// Members that were away hear of deletions when they are back.
pub async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(TELL_PAUSE).await;
        node.tell_what_is_owed().await;
    }
}

fn keep_snapshots(shared: &Shared, volume: VolumeId) -> Result<(), StoreError> {
    shared.store.remove_but_snapshots(volume)?;
    for row in shared.store.snapshots(volume)?.iter().filter(|row| !is_kept(row)) {
        shared.store.drop_kept_snapshot(volume, row.id)?;
    }
    Ok(())
}

fn not_noted(volume: &str, error: std::io::Error) -> OpError {
    OpError::unavailable(format!("volume {volume} was not deleted: it can't be noted"), "free space on the node's disk")
        .because(error)
}
