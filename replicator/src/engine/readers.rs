//! Volumes that were made to be read: their image is that of a snapshot, and nobody ever writes them. So a device of one
//! reads this node's own copy, whoever holds the epoch, or nobody: it has no lease, and no place in the register, and as many
//! nodes as hold a copy may have one at once. Nothing can arrive late from a reader, so one that ends fences nobody.
//!
//! On a node without a copy those of its site serve the device, over the streams of `forward`: any of them, and several nodes
//! at once. There is no session to be taken over and nothing is lent, for no answer can be too late.
//!
//! A label of the volume says what it is, from its creation on; the volume's own device refuses every change because of it
//! (`volume_device`), whoever should come to hold a session. A note on the node says which session it was published for and
//! which device is to come back after a restart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_core::ids::{SessionId, VolumeId};
use farshore_core::register::Descriptor;
use farshore_proto::v1 as api;

use super::attachments::{choose, of_session};
use super::clock::random_u128;
use super::clone::BASE_SEQ;
use super::create::name_error;
use super::driver::{VolumeHandle, lock};
use super::exports::session_text;
use super::forward::ForwardedNote;
use super::frontend::Frontend;
use super::io_limits::{IoLimits, Meter, MeteredDevice};
use super::node::{Node, NodeError};
use super::reader_device::ReaderDevice;
use super::roles::parse_session;
use super::session_device::SessionDevice;
use super::view::HOLDER_PATIENCE;
use crate::control::{OpError, OpKind};
use crate::device::{BlockDevice, Geometry};
use crate::disk::file::{create_dirs, replace};
use crate::transport::PeerName;

/// Of a volume that is never written.
pub(super) const READ_ONLY_LABEL: &str = "farshore.read-only";
/// In a note, in place of a device: the node was named, and no device is there yet, or no more.
const PUBLISHED: &str = "published";
/// A device that is taken back after a restart is tried so often.
const REOPEN_ATTEMPTS: u32 = 10;
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn is_read_only(volume: &Descriptor) -> bool {
    volume.labels.contains_key(READ_ONLY_LABEL)
}

/// Of whatever would change what its readers see.
pub(super) fn refuse_read_only(handle: &VolumeHandle, what: &str) -> Result<(), OpError> {
    let config = handle.config.borrow();
    match is_read_only(&config.volume) {
        true => Err(read_only_error(&config.volume.name, what)),
        false => Ok(()),
    }
}

fn read_only_error(volume: &str, what: &str) -> OpError {
    OpError::failed_precondition(
        format!("volume {volume} is read-only for good, and {what}"),
        format!("make a volume of it that can be written: farshore snapshot clone {volume} NAME"),
    )
}

struct Reader {
    session: SessionId,
    /// None: published only.
    open: Option<Open>,
}

#[derive(Clone)]
struct Open {
    name: String,
    status: api::DeviceStatus,
    frontend: Frontend,
    device: Arc<SessionDevice>,
    meter: Arc<Meter>,
}

/// Those of this node.
pub struct Readers {
    dir: PathBuf,
    readers: Mutex<BTreeMap<VolumeId, Reader>>,
}

impl Readers {
    pub fn open(dir: PathBuf) -> Result<Readers, NodeError> {
        create_dirs(&dir).map_err(|source| NodeError::Io { what: "creating", path: dir.clone(), source })?;
        Ok(Readers { dir, readers: Mutex::default() })
    }

    pub fn is_there(&self, volume: VolumeId) -> bool {
        lock(&self.readers).contains_key(&volume)
    }

    /// The session, and its device if there is one.
    pub fn describe(&self, volume: VolumeId) -> Option<(SessionId, Option<api::DeviceStatus>)> {
        lock(&self.readers).get(&volume).map(|reader| (reader.session, reader.open.as_ref().map(|o| o.status.clone())))
    }

    fn device(&self, volume: VolumeId) -> Option<Open> {
        lock(&self.readers).get(&volume)?.open.clone()
    }

    fn put(&self, volume: VolumeId, session: SessionId, open: Option<Open>) {
        lock(&self.readers).insert(volume, Reader { session, open });
    }

    /// Before the device is there, as of any other: what nothing is known of would never be ended.
    fn note(&self, volume: VolumeId, session: SessionId, device: Option<api::DeviceKind>) {
        let device = device.map_or(PUBLISHED, |kind| kind.as_str_name());
        let text = format!("{} {device}", session_text(session));
        if let Err(error) = replace(&self.dir.join(volume.to_string()), text.as_bytes()) {
            tracing::warn!(%volume, %error, "its reader could not be noted: it does not come back after a restart");
        }
    }

    fn publish(&self, volume: VolumeId, session: SessionId) {
        self.note(volume, session, None);
        self.put(volume, session, None);
    }

    /// The one that is there, or that is to be; and which of both.
    fn session(
        &self,
        volume: VolumeId,
        name: &str,
        request: &api::AttachVolumeRequest,
    ) -> Result<(SessionId, bool), OpError> {
        let given = if request.session.is_empty() { None } else { Some(parse_session(&request.session)?) };
        let known = lock(&self.readers).get(&volume).map(|reader| reader.session);
        match (known, given) {
            (Some(known), given) if given.is_none_or(|given| given == known) => Ok((known, true)),
            (Some(_), _) => Err(OpError::failed_precondition(
                format!("volume {name} is attached here for another session"),
                "detach it first",
            )),
            (None, _) if request.published => Err(OpError::failed_precondition(
                format!("volume {name} is not published here: the session is over"),
                "publish the volume on this node anew",
            )),
            (None, given) => Ok((given.unwrap_or_else(|| SessionId(random_u128())), false)),
        }
    }

    fn forget(&self, volume: VolumeId) {
        lock(&self.readers).remove(&volume);
        let _ = std::fs::remove_file(self.dir.join(volume.to_string()));
    }

    /// Those of an earlier life.
    fn notes(&self) -> Vec<(VolumeId, SessionId, Option<api::DeviceKind>)> {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let noted = files.filter_map(|file| {
            let volume = file.file_name().to_string_lossy().parse::<VolumeId>().ok()?;
            let (session, device) = read_note(&std::fs::read_to_string(file.path()).ok()?)?;
            Some((volume, session, device))
        });
        noted.collect()
    }
}

fn read_note(text: &str) -> Option<(SessionId, Option<api::DeviceKind>)> {
    let (session, device) = text.trim().split_once(' ')?;
    let device = match device {
        PUBLISHED => None,
        kind => Some(api::DeviceKind::from_str_name(kind).unwrap_or(api::DeviceKind::Unspecified)),
    };
    Some((parse_session(session).ok()?, device))
}

impl Node {
    /// A device of this node's own copy, or only the word that there will be one.
    pub(super) async fn attach_reader(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::AttachVolumeRequest,
    ) -> Result<(SessionId, api::DeviceStatus), OpError> {
        let name = handle.name();
        refuse_to_write(&name, request)?;
        let kind = choose(request.device())?;
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        let (session, known) = self.attachments.readers.session(handle.id, &name, request)?;
        let open = match self.living_reader(handle.id).await {
            Some(open) => Some(open.status),
            // Its copy came later than its device.
            None => self.attachments.describe(handle.id).await.map(|(_, status)| status),
        };
        if let Some(status) = open {
            refuse_other_kind(&name, request, &status)?;
            return Ok((session, status));
        }
        self.refuse_without_image(handle).await?;
        if request.publish_only {
            self.attachments.readers.publish(handle.id, session);
            return Ok((session, published()));
        }
        let opened = self.open_reader(handle, session, kind).await;
        if opened.is_err() {
            match known {
                true => self.attachments.readers.publish(handle.id, session),
                false => self.attachments.readers.forget(handle.id),
            }
        }
        opened.map(|status| (session, status))
    }

    /// As [`Node::attach_reader`], where no copy is: those of this site serve it, one or the other. `known` is what a
    /// neighbour says of the volume.
    pub(super) async fn attach_reader_without_copy(
        self: &Arc<Self>,
        known: api::VolumeStatus,
        request: &api::AttachVolumeRequest,
    ) -> Result<(SessionId, api::DeviceStatus), OpError> {
        refuse_to_write(&known.name, request)?;
        let kind = choose(request.device())?;
        let volume: VolumeId = known.id.parse().map_err(|_| OpError::internal("a neighbour's volume has no id"))?;
        let _alone = self.attachments.forwarding.alone(volume).await;
        let (session, was_there) = self.attachments.readers.session(volume, &known.name, request)?;
        self.attachments.forget_if_dead(volume).await;
        if let Some((_, status)) = self.attachments.describe(volume).await {
            refuse_other_kind(&known.name, request, &status)?;
            return Ok((session, status));
        }
        let servers = self.servers_of(&known)?;
        self.attachments.readers.publish(volume, session);
        if request.publish_only {
            return Ok((session, published()));
        }
        let geometry = Geometry {
            size_bytes: known.size_bytes,
            logical_block_bytes: known.block_size_bytes,
            volatile_cache: false,
            read_only: true,
        };
        let note = ForwardedNote { volume, name: known.name, session, kind, geometry, servers };
        let device = self.attachments.begin(self, &note);
        let made = self.attachments.open_forwarded(self, &note, &device).await;
        if let Err(error) = &made {
            self.attachments.drop_forwarded(&note, &device, &error.to_string()).await;
            if !was_there {
                self.attachments.readers.forget(volume);
            }
        }
        made.map(|status| (session, status))
    }

    /// Its device, unless that died with its process: then it is to be made anew.
    async fn living_reader(&self, volume: VolumeId) -> Option<Open> {
        let open = self.attachments.readers.device(volume)?;
        if open.frontend.is_there().await {
            return Some(open);
        }
        tracing::warn!(volume = open.name, "its device died with the device process");
        self.end_reading(&open);
        if let Some(reader) = lock(&self.attachments.readers.readers).get_mut(&volume) {
            reader.open = None;
        }
        None
    }

    fn end_reading(&self, open: &Open) {
        open.device.end();
        open.meter.lift();
        self.attachments.exports.remove(&open.name);
    }

    /// Every prefix of its records that begins with the image is that image: nothing is ever written behind it.
    pub(super) async fn refuse_without_image(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let name = handle.name();
        if !handle.applier.has_store() {
            return Err(OpError::failed_precondition(
                format!("{} is a witness of volume {name}, and holds nothing that could be read", self.shared.me),
                "attach it on another node",
            ));
        }
        if status.whole && status.applied >= BASE_SEQ {
            return Ok(());
        }
        Err(OpError::unavailable(
            format!("the copy of volume {name} on {} is not whole yet", self.shared.me),
            "try again when it is, or attach it on another node that holds a copy; see `farshore status`",
        ))
    }

    async fn open_reader(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        session: SessionId,
        kind: api::DeviceKind,
    ) -> Result<api::DeviceStatus, OpError> {
        let copy = Arc::new(ReaderDevice::new(self.shared.clone(), handle.clone()));
        let (name, device, meter) = of_session(handle, copy, true);
        let (exports, maker) = (&self.attachments.exports, &self.attachments.maker);
        exports.insert(&name, session, device.clone(), meter.clone());
        self.attachments.readers.note(handle.id, session, Some(kind));
        let mut frontend = Frontend::None;
        if kind == api::DeviceKind::Fuse {
            let metered: Arc<dyn BlockDevice> = Arc::new(MeteredDevice::new(device.clone(), meter.clone()));
            frontend = maker.make(&name, session, metered).await.inspect_err(|_| exports.remove(&name))?;
        }
        let path = frontend.path().map(|path| path.display().to_string()).unwrap_or_default();
        let (socket, export) = (maker.socket.display().to_string(), name.clone());
        let status = api::DeviceStatus { kind: kind.into(), path, socket, export, read_only: true };
        let open = Open { name, status: status.clone(), frontend, device, meter: meter.clone() };
        self.attachments.readers.put(handle.id, session, Some(open));
        follow_limits(handle, &meter);
        Ok(status)
    }

    /// On the node that is meant; what is not there has ended already.
    pub(super) async fn detach_reader(
        self: &Arc<Self>,
        known: &api::VolumeStatus,
        request: &api::DetachVolumeRequest,
    ) -> Result<(), OpError> {
        let me = &self.shared.me;
        let name = &known.name;
        let volume: VolumeId = known.id.parse().map_err(|_| OpError::internal("a volume has no id"))?;
        if request.node.is_empty() || request.node == me.node {
            if !request.force && !request.keep_published && !self.attachments.readers.is_there(volume) {
                return refuse_read_elsewhere(known);
            }
            return self.end_reader(volume, request).await;
        }
        // Of a node that this one does not know, nothing is attached.
        if !self.config.peers.iter().any(|peer| peer.site == me.site && peer.node == request.node) {
            return Ok(());
        }
        let peer = PeerName::new(&me.site, &request.node).map_err(name_error)?;
        let request = api::DetachVolumeRequest { volume: known.id.clone(), ..request.clone() };
        let ended = self.forward::<api::DetachVolumeResponse>(&peer, "end-reader", &request).await;
        ended.map(drop).map_err(|error| match error.kind {
            OpKind::Unavailable => OpError::unavailable(
                format!("the device of volume {name} on {peer} can't be removed: it does not answer"),
                "try again when it does: nothing is written through it meanwhile. One that is gone for good leaves the peers \
                 of this node's configuration",
            )
            .because(error),
            _ => error,
        })
    }

    pub(super) async fn end_reader(
        self: &Arc<Self>,
        volume: VolumeId,
        request: &api::DetachVolumeRequest,
    ) -> Result<(), OpError> {
        let _alone = self.attachments.forwarding.alone(volume).await;
        let readers = &self.attachments.readers;
        let Some((session, _)) = readers.describe(volume) else { return Ok(()) };
        if !request.session.is_empty() && parse_session(&request.session)? != session {
            return Err(OpError::failed_precondition(
                format!("volume {} is attached for another session", request.volume),
                "see `farshore volume show` for the session",
            ));
        }
        self.close_reader(volume, request.force).await?;
        // Served by another node.
        self.attachments.close(volume, request.force).await?;
        match request.keep_published {
            true => readers.publish(volume, session),
            false => readers.forget(volume),
        }
        Ok(())
    }

    /// Refuses while somebody has it open, unless `force`.
    async fn close_reader(&self, volume: VolumeId, force: bool) -> Result<(), OpError> {
        let Some(open) = self.attachments.readers.device(volume) else { return Ok(()) };
        match force {
            true => {
                open.meter.lift();
                open.frontend.detach_by_force(&self.attachments.maker).await;
            }
            false => open.frontend.detach(&open.name).await?,
        }
        self.end_reading(&open);
        if let Some(reader) = lock(&self.attachments.readers.readers).get_mut(&volume) {
            reader.open = None;
        }
        Ok(())
    }

    /// This node's copy goes.
    pub(super) async fn drop_reader(&self, volume: VolumeId) -> Result<(), OpError> {
        self.close_reader(volume, true).await?;
        self.attachments.readers.forget(volume);
        Ok(())
    }

    /// A restarted daemon: the names and sessions of what goes on.
    pub(super) fn take_readers_back(self: &Arc<Self>) -> Vec<(String, SessionId)> {
        let mut named = Vec::new();
        for (volume, session, device) in self.attachments.readers.notes() {
            // One whose copy is gone has nothing to read any more, and is named still.
            let copy = self.catalog.get(volume);
            self.attachments.readers.put(volume, session, None);
            if let (Some(handle), Some(kind)) = (copy, device) {
                named.push((handle.name(), session));
                let node = self.clone();
                tokio::spawn(async move { node.reopen_reader(&handle, session, kind).await });
            }
        }
        named
    }

    async fn reopen_reader(self: &Arc<Self>, handle: &Arc<VolumeHandle>, session: SessionId, kind: api::DeviceKind) {
        for attempt in 1..=REOPEN_ATTEMPTS {
            match self.reopen_once(handle, session, kind).await {
                Ok(()) => return,
                Err(error) if attempt == REOPEN_ATTEMPTS => {
                    tracing::error!(volume = %handle.name(), %error, "reader's device not taken back");
                }
                Err(error) => {
                    tracing::warn!(volume = %handle.name(), %error, "reader's device not taken back yet");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            }
        }
        self.attachments.give_up(handle, session).await;
    }

    async fn reopen_once(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        session: SessionId,
        kind: api::DeviceKind,
    ) -> Result<(), OpError> {
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        // Somebody may have ended it, or been faster.
        if self.attachments.readers.describe(handle.id).is_none_or(|(now, open)| now != session || open.is_some()) {
            return Ok(());
        }
        self.refuse_without_image(handle).await?;
        let status = self.open_reader(handle, session, choose(kind)?).await?;
        tracing::info!(volume = %handle.name(), path = status.path, "reader's device taken back");
        Ok(())
    }

    /// The daemon stops: what the device process holds goes on without it.
    pub(super) async fn suspend_readers(&self) {
        let readers = std::mem::take(&mut *lock(&self.attachments.readers.readers));
        for open in readers.into_values().filter_map(|reader| reader.open) {
            open.device.end();
            open.frontend.suspend().await;
        }
    }

    /// This node's own.
    pub(super) async fn reader_here(&self, volume: VolumeId) -> Option<api::Attachment> {
        let (session, own) = self.attachments.readers.describe(volume)?;
        let served = self.attachments.describe(volume).await.map(|(_, status)| status);
        let (site, node) = (self.shared.me.site.clone(), self.shared.me.node.clone());
        let (session, device) = (session_text(session), own.or(served));
        Some(api::Attachment { site, node, session, device, ..Default::default() })
    }

    /// Those of this site, as far as its nodes answer.
    async fn readers_of_site(&self, volume: VolumeId) -> Vec<api::Attachment> {
        let asked = self.neighbours().into_iter().map(|peer| async move { self.readers_at(&peer, volume).await });
        let theirs = futures_util::future::join_all(asked).await;
        self.reader_here(volume).await.into_iter().chain(theirs.into_iter().flatten()).collect()
    }

    async fn readers_at(&self, peer: &PeerName, volume: VolumeId) -> Vec<api::Attachment> {
        let request = api::GetVolumeRequest { volume: volume.to_string() };
        let answer =
            self.forward_within::<api::GetVolumeResponse>(HOLDER_PATIENCE, peer, "readers", &request).await.ok();
        answer.and_then(|answer| answer.volume).unwrap_or_default().readers
    }

    /// For a neighbour this node's own; for a member elsewhere those of the site.
    pub(super) async fn readers_for(&self, peer: &PeerName, volume: VolumeId) -> api::GetVolumeResponse {
        let readers = match peer.site == self.shared.me.site {
            true => self.reader_here(volume).await.into_iter().collect(),
            false => self.readers_of_site(volume).await,
        };
        api::GetVolumeResponse { volume: Some(api::VolumeStatus { readers, ..Default::default() }) }
    }

    /// As [`Node::view`], with all that read it: only they know.
    pub(super) async fn view_with_readers(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
    ) -> Result<api::VolumeStatus, OpError> {
        let mut view = self.view(handle).await?;
        if !view.read_only {
            return Ok(view);
        }
        let away = view.members.iter().filter(|m| m.site != self.shared.me.site && m.connected);
        let away: Vec<PeerName> = away.filter_map(|m| PeerName::new(&m.site, &m.node).ok()).collect();
        let asked = away.iter().map(|peer| self.readers_at(peer, handle.id));
        let (own, theirs) = tokio::join!(self.readers_of_site(handle.id), futures_util::future::join_all(asked));
        view.readers = own.into_iter().chain(theirs.into_iter().flatten()).collect();
        view.readers.sort_by(|a, b| (&a.site, &a.node).cmp(&(&b.site, &b.node)));
        // Two members of one site both speak for it.
        view.readers.dedup_by(|a, b| a.site == b.site && a.node == b.node);
        Ok(view)
    }
}

fn published() -> api::DeviceStatus {
    api::DeviceStatus { kind: api::DeviceKind::None.into(), ..Default::default() }
}

fn refuse_to_write(volume: &str, request: &api::AttachVolumeRequest) -> Result<(), OpError> {
    if request.read_only {
        return Ok(());
    }
    let refusal = read_only_error(volume, "can't be attached for writing");
    Err(OpError { remedy: format!("attach it with --read-only; or {}", refusal.remedy), ..refusal })
}

fn refuse_other_kind(
    volume: &str,
    request: &api::AttachVolumeRequest,
    there: &api::DeviceStatus,
) -> Result<(), OpError> {
    if request.device() == api::DeviceKind::Unspecified || request.device() == there.kind() {
        return Ok(());
    }
    Err(OpError::failed_precondition(
        format!("volume {volume} is attached here with another device ({})", there.kind().as_str_name()),
        "detach it first, or leave the device out",
    ))
}

/// Who detaches it where it is not means another node, and would take that one's device for gone.
fn refuse_read_elsewhere(known: &api::VolumeStatus) -> Result<(), OpError> {
    if known.readers.is_empty() {
        return Ok(());
    }
    let places: Vec<String> = known.readers.iter().map(|at| format!("{}/{}", at.site, at.node)).collect();
    let name = &known.name;
    Err(OpError::failed_precondition(
        format!("volume {name} is attached at {}, and not on this node", places.join(", ")),
        format!("run `farshore volume detach {name}` there, or name a node of this site: --force --node NODE"),
    ))
}

/// A volume's limits may change while it is read.
fn follow_limits(handle: &Arc<VolumeHandle>, meter: &Arc<Meter>) {
    let (mut config, meter) = (handle.config.clone(), Arc::downgrade(meter));
    tokio::spawn(async move {
        while config.changed().await.is_ok() {
            let Some(meter) = meter.upgrade() else { return };
            meter.set(IoLimits::of(&config.borrow_and_update()));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_comes_back() {
        let session = SessionId(7);
        let text = |device: &str| format!("{} {device}\n", session_text(session));
        assert_eq!(read_note(&text(PUBLISHED)), Some((session, None)));
        assert_eq!(read_note(&text("DEVICE_KIND_FUSE")), Some((session, Some(api::DeviceKind::Fuse))));
        assert_eq!(read_note(&text("what")), Some((session, Some(api::DeviceKind::Unspecified))));
        assert_eq!(read_note("what"), None);
    }
}
