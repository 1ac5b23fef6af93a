//! Attach and detach where the device and its volume are on two nodes of a site.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::ids::{SessionId, VolumeId};
use farshore_core::register::{Attachment, Durability};
use farshore_proto::v1 as api;
use prost::Message;

use super::device::ForwardedDevice;
use super::note::ForwardedNote;
use super::place::{DEVICE_LABEL, Place, forwarded_to};
use crate::control::{OpError, OpKind};
use crate::device::{BlockDevice, Geometry};
use crate::engine::attachments::choose;
use crate::engine::clock::random_u128;
use crate::engine::create::name_error;
use crate::engine::doubt::{ENDED_LABEL, refuse_ended};
use crate::engine::driver::{DeviceState, VolumeHandle};
use crate::engine::exports::session_text;
use crate::engine::holders::HolderStep;
use crate::engine::node::Node;
use crate::engine::readers::refuse_read_only;
use crate::engine::register_read::Fencing;
use crate::engine::roles::{OPEN_PATIENCE, attaching, parse_session, refused};
use crate::transport::PeerName;

/// For the node of a device to close it: a flush is part of that.
const CLOSE_PATIENCE: Duration = Duration::from_secs(75);
/// As above, where nobody asks whether it is in use.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// To a member, from the node that is to have the device: name this session, and serve it to me.
#[derive(Clone, PartialEq, Message)]
pub(in crate::engine) struct ServeStep {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(string, tag = "2")]
    pub session: String,
    /// It is named already, or this is refused.
    #[prost(bool, tag = "3")]
    pub published: bool,
    /// Nobody has published it, or is publishing it.
    #[prost(bool, tag = "4")]
    pub by_hand: bool,
    /// The volume's [`ENDED_LABEL`] when the attach began.
    #[prost(string, tag = "5")]
    pub ended: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::engine) struct ServeAnswer {
    #[prost(uint64, tag = "1")]
    size_bytes: u64,
    #[prost(uint32, tag = "2")]
    logical_block_bytes: u32,
    #[prost(bool, tag = "3")]
    volatile_cache: bool,
}

/// To the node that has the device: close it.
#[derive(Clone, PartialEq, Message)]
pub(in crate::engine) struct EndForwarded {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(string, tag = "2")]
    pub session: String,
    #[prost(bool, tag = "3")]
    pub force: bool,
}

pub(in crate::engine) fn busy(name: &str, node: &PeerName) -> OpError {
    OpError::failed_precondition(format!("volume {name} is attached at {node}"), "detach it there first")
}

fn over(name: &str, place: &Place) -> OpError {
    OpError::failed_precondition(
        format!("volume {name} is published on no node: the session that {} asks for is over", place.node),
        "publish the volume on that node anew",
    )
}

impl Node {
    /// Here, where no copy of the volume is; `known` is what a neighbour says of it.
    pub(in crate::engine) async fn attach_without_copy(
        self: &Arc<Self>,
        known: api::VolumeStatus,
        request: &api::AttachVolumeRequest,
    ) -> Result<(SessionId, api::DeviceStatus), OpError> {
        let kind = choose(request.device())?;
        let volume: VolumeId = known.id.parse().map_err(|_| OpError::internal("a neighbour's volume has no id"))?;
        let _alone = self.attachments.forwarding.alone(volume).await;
        let orphaned = self.attachments.forget_if_dead(volume).await;
        if let Some((session, status)) = self.attachments.describe(volume).await {
            let same_session = request.session.is_empty() || parse_session(&request.session)? == session;
            let same_kind = request.device() == api::DeviceKind::Unspecified || status.kind() == kind;
            if same_session && same_kind && (request.publish_only || status.read_only == request.read_only) {
                return Ok((session, status));
            }
            return Err(OpError::failed_precondition(
                format!("volume {} is attached here otherwise: another device, session, or right to write", known.name),
                "detach it first",
            ));
        }
        let session = match orphaned {
            _ if !request.session.is_empty() => parse_session(&request.session)?,
            Some(session) => session,
            None => SessionId(random_u128()),
        };
        if let Some(held) = self.catalog.get(volume)
            && let Err(error) = self.leave_in_turn(&held).await
        {
            tracing::info!(volume = known.name, %error, "what was here of it before could not be given back yet");
        }
        let ended = known.labels.get(ENDED_LABEL).cloned().unwrap_or_default();
        let servers = self.servers_of(&known)?;
        let (published, by_hand) = (request.published, !request.published && !request.publish_only);
        // Also where this node is named, and has lost what it knew of that.
        if !published || self.is_named_without_copy(&known) {
            let ended = ended.clone();
            let step = HolderStep {
                volume: known.id.clone(),
                session: session_text(session),
                by_hand,
                ended,
                ..Default::default()
            };
            match self.become_holder(&known, &servers, &step).await? {
                Ok(handle) => return self.attach_as_holder(&handle, &servers, request, session).await,
                Err(why) => tracing::info!(volume = known.name, why, "a member with a copy serves its device here"),
            }
        }
        let step = ServeStep { volume: known.id.clone(), session: session_text(session), published, by_hand, ended };
        let (answer, servers) = self.served_by_one(&known.name, servers, &step).await?;
        if request.publish_only {
            return Ok((session, api::DeviceStatus { kind: api::DeviceKind::None.into(), ..Default::default() }));
        }
        let geometry = Geometry {
            size_bytes: answer.size_bytes,
            logical_block_bytes: answer.logical_block_bytes,
            volatile_cache: answer.volatile_cache,
            read_only: request.read_only,
        };
        let note = ForwardedNote { volume, name: known.name, session, kind, geometry, servers };
        let device = self.attachments.begin(self, &note);
        let made = self.attachments.open_forwarded(self, &note, &device).await;
        if let Err(error) = &made {
            self.attachments.drop_forwarded(&note, &device, &error.to_string()).await;
            if orphaned.is_none() && request.session.is_empty() {
                let detach = api::DetachVolumeRequest { volume: known.id, session: step.session, ..Default::default() };
                let undone = self.forward::<api::DetachVolumeResponse>(&note.servers[0], "detach", &detach).await;
                if let Err(error) = undone {
                    tracing::warn!(volume = note.name, %error, "it stays attached without a device; detach it");
                }
            }
        }
        made.map(|status| (session, status))
    }

    /// Where this node has just been named.
    async fn attach_as_holder(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        servers: &[PeerName],
        request: &api::AttachVolumeRequest,
        session: SessionId,
    ) -> Result<(SessionId, api::DeviceStatus), OpError> {
        let named = api::AttachVolumeRequest { session: session_text(session), published: true, ..request.clone() };
        let made = self.attach(handle, &named).await;
        if made.is_err() && request.session.is_empty() {
            let (volume, session, node) = (handle.id.to_string(), session_text(session), self.shared.me.node.clone());
            let detach = api::DetachVolumeRequest { volume, session, node, force: true, ..Default::default() };
            for peer in servers.iter().filter(|peer| self.is_connected(peer)) {
                match self.forward::<api::DetachVolumeResponse>(peer, "detach", &detach).await {
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(volume = %handle.name(), %peer, %error, "it stays attached without a device; detach it");
                    }
                }
            }
        }
        made
    }

    /// The copies of this site: who serves or leads it first, then those that count for acknowledgements.
    pub(in crate::engine) fn servers_of(&self, known: &api::VolumeStatus) -> Result<Vec<PeerName>, OpError> {
        let me = &self.shared.me;
        let serving =
            known.attached.as_ref().map(|a| if a.served_by_node.is_empty() { &a.node } else { &a.served_by_node });
        let copy = |m: &&api::MemberStatus| m.site == me.site && m.kind() == api::MemberKind::Data;
        let mut copies: Vec<&api::MemberStatus> = known.members.iter().filter(copy).collect();
        let leads = |m: &api::MemberStatus| known.primary_site == m.site && known.primary_node == m.node;
        copies.sort_by_key(|m| (serving != Some(&m.node), !leads(m), !m.in_sync_set, m.rtt_us, m.node.clone()));
        if copies.is_empty() {
            return Err(OpError::failed_precondition(
                format!("no copy of volume {} is in {}", known.name, me.site),
                format!("add one: `farshore member add {} {}`", known.name, me.site),
            ));
        }
        copies.into_iter().map(|m| PeerName::new(&m.site, &m.node).map_err(name_error)).collect()
    }

    /// Who agreed comes first in the answer.
    async fn served_by_one(
        &self,
        name: &str,
        servers: Vec<PeerName>,
        step: &ServeStep,
    ) -> Result<(ServeAnswer, Vec<PeerName>), OpError> {
        let mut refusal = OpError::unavailable(format!("no member of volume {name} answers"), "try again");
        for at in 0..servers.len() {
            match self.forward::<ServeAnswer>(&servers[at], "serve-device", step).await {
                Ok(answer) => {
                    let mut servers = servers;
                    servers[..=at].rotate_right(1);
                    return Ok((answer, servers));
                }
                Err(error) if error.kind == OpKind::Unavailable => refusal = error,
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    /// The member's part of an attach.
    pub(in crate::engine) async fn serve_device(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        peer: &PeerName,
        step: &ServeStep,
    ) -> Result<ServeAnswer, OpError> {
        refuse_read_only(handle, "is read from a node's own copy, and not served to others")?;
        let place = Place { session: parse_session(&step.session)?, node: peer.clone() };
        // Whoever ends the session meanwhile waits until it is known whether there is one.
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        match self.attachments.served(handle.id).await {
            Some(served) if served.place == place => return Ok(describe(handle)),
            Some(served) => return Err(busy(&handle.name(), &served.place.node)),
            None if self.attachments.is_open(handle.id).await => {
                return Err(busy(&handle.name(), &self.shared.me));
            }
            None => {}
        }
        self.refuse_fenced(handle).await?;
        self.take_next_class(handle).await;
        let named = handle.config.borrow().attached.is_some();
        if !named {
            self.hold_epoch(handle).await?;
        }
        // Read anew: with the epoch comes the newest register.
        let config = handle.config.borrow().clone();
        if config.attached.is_none() && self.speaks_of_ends(peer) {
            refuse_ended(&config, peer, &step.ended)?;
        }
        match (config.attached, forwarded_to(&config)) {
            (None, _) if step.published => return Err(over(&config.volume.name, &place)),
            (None, _) => {
                // The label first: who reads the session in the register sees whose it is.
                let label = Change::Label { key: DEVICE_LABEL.into(), value: Some(place.encode()) };
                self.settled(handle, Command::Change(label)).await.map_err(refused(handle))?;
            }
            (Some(_), Some((_, found))) if found == place => {}
            (Some(attached), found) => {
                let member = config.member(attached.member).and_then(|m| PeerName::new(&m.site, &m.node).ok());
                let node = found.map(|(_, found)| found.node).or(member).unwrap_or_else(|| self.shared.me.clone());
                return Err(busy(&config.volume.name, &node));
            }
        }
        let session = place.session;
        self.patiently(handle, attaching(session, step.published)).await?;
        let begun = async {
            if step.by_hand {
                self.end_formatting(handle).await?;
            }
            self.begin_to_serve(handle, place).await
        };
        match begun.await {
            Ok(()) => Ok(describe(handle)),
            // Only whoever published a session ends it.
            Err(error) if step.published => Err(error),
            Err(error) => {
                let _ = handle.command(Command::Detach { session }).await;
                Err(error)
            }
        }
    }

    /// As another copy of the site, where the member that served is gone: the session goes on here. It is never without a name
    /// in the register on the way, so whoever ends it meanwhile meets it there.
    pub(in crate::engine) async fn take_device(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        peer: &PeerName,
        step: &ServeStep,
    ) -> Result<ServeAnswer, OpError> {
        let place = Place { session: parse_session(&step.session)?, node: peer.clone() };
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        if self.attachments.served(handle.id).await.is_some_and(|served| served.place == place) {
            return Ok(describe(handle));
        }
        let name = handle.name();
        let later = |why: String| Err(OpError::unavailable(format!("volume {name}: {why}"), "it goes on by itself"));
        let register = self.read_register(handle, None).await?;
        let named = register.newest().filter(|_| matches!(register.fencing(None), Fencing::Named(_)));
        let Some((member, _)) = named.and_then(forwarded_to).filter(|(_, found)| *found == place) else {
            return later("the session is not known to be named".into());
        };
        let attached = Attachment { member, session: place.session };
        if member != handle.me {
            let holder = self.peer_of(handle, member)?;
            if self.is_connected(&holder) || holder.site != self.shared.me.site {
                return later(format!("{holder} serves it"));
            }
            if handle.config.borrow().volume.durability == Durability::Flush {
                return later(format!("only {holder} knows what completed in class flush"));
            }
            self.promote_here(handle, Promotion::Fence { member }).await?;
            if handle.config.borrow().attached != Some(attached) {
                return later("the session has ended meanwhile".into());
            }
            let here = Some(Attachment { member: handle.me, ..attached });
            let moved = Command::Change(Change::Attached { attached: here });
            self.settled(handle, moved).await.map_err(refused(handle))?;
            tracing::warn!(volume = name, %holder, device = %peer, "its session goes on here: the member that served it is gone");
        }
        let (writer, session) = (random_u128(), place.session);
        self.patiently(handle, Command::Attach { writer, session }).await?;
        self.begin_to_serve(handle, place).await?;
        Ok(describe(handle))
    }

    async fn begin_to_serve(self: &Arc<Self>, handle: &Arc<VolumeHandle>, place: Place) -> Result<(), OpError> {
        let mut device = handle.device.clone();
        let open = device.wait_for(|state| matches!(state, DeviceState::Open { .. }));
        if tokio::time::timeout(OPEN_PATIENCE, open).await.is_err() {
            return Err(OpError::unavailable(
                format!("volume {} did not open its device", handle.name()),
                "see `farshore status` for what it waits for, then try again",
            ));
        }
        let labelled = forwarded_to(&handle.config.borrow()).is_some_and(|(_, found)| found == place);
        if !labelled {
            return Err(OpError::failed_precondition(
                format!("volume {} is attached for this session at another node", handle.name()),
                "detach it first",
            ));
        }
        self.refuse_fenced(handle).await?;
        self.refuse_unfinished(handle).await?;
        self.attachments.serve_for(self, handle, place).await;
        Ok(())
    }

    /// The node of a device that nobody serves: another copy may, once it has fenced the member that did.
    pub(super) async fn ask_another_copy(&self, device: &ForwardedDevice) {
        let (volume, session) = (device.volume.to_string(), session_text(device.session));
        let step = ServeStep { volume, session, published: true, by_hand: false, ended: String::new() };
        // The first one is who served last.
        for peer in device.servers().into_iter().skip(1).filter(|peer| self.is_connected(peer)) {
            match self.forward::<ServeAnswer>(&peer, "take-device", &step).await {
                Ok(_) => return device.served_by(&peer),
                Err(error) => {
                    tracing::info!(volume = %device.volume, %peer, %error, "another copy does not serve a device here")
                }
            }
        }
    }

    /// The member's part of a detach, before nobody is named any more: when it answers, no answer is told at the device's
    /// node any more.
    pub(in crate::engine) async fn end_served(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        force: bool,
    ) -> Result<(), OpError> {
        let Some(served) = self.attachments.served(handle.id).await else { return Ok(()) };
        let step = EndForwarded { volume: handle.id.to_string(), session: session_text(served.place.session), force };
        let patience = if force { END_PATIENCE } else { CLOSE_PATIENCE };
        let asked = self.forward_within::<api::DetachVolumeResponse>(patience, &served.place.node, "end-device", &step);
        if !force {
            asked.await.map_err(|error| match error.kind {
                OpKind::Unavailable => OpError::unavailable(
                    format!("the device of {} is at {}, which does not answer", handle.name(), served.place.node),
                    "try again, or end its session whoever uses it: `farshore volume detach --force`",
                )
                .because(error),
                _ => error,
            })?;
            return self.attachments.close(handle.id, true).await;
        }
        // From here on nothing of it gets a place in the volume's order.
        self.attachments.close(handle.id, true).await?;
        let expired = async {
            tokio::time::sleep(served.lending.left()).await;
            tracing::warn!(volume = %handle.name(), node = %served.place.node, "it does not say that its device is gone; its lease is over");
        };
        tokio::pin!(expired);
        tokio::select! {
            () = &mut expired => {}
            ended = asked => if let Err(error) = ended {
                tracing::info!(volume = %handle.name(), %error, "the node of the device can't be asked");
                expired.await;
            }
        }
        Ok(())
    }

    /// Closes a device here, for the member that serves it or for a user here.
    pub(in crate::engine) async fn end_device(self: &Arc<Self>, step: &EndForwarded) -> Result<(), OpError> {
        let Some(device) = self.attachments.forwarding.find(&step.volume) else { return Ok(()) };
        if !step.session.is_empty() && parse_session(&step.session)? != device.session {
            return Ok(());
        }
        if step.force {
            device.end("it was detached");
        }
        if self.attachments.describe(device.volume).await.is_some() {
            self.attachments.close(device.volume, step.force).await?;
        }
        device.end("it was detached");
        Ok(())
    }

    /// What is known elsewhere of a volume, with the device that is here.
    pub(in crate::engine) async fn with_device_here(&self, mut view: api::VolumeStatus) -> api::VolumeStatus {
        if let Some(attached) = &mut view.attached
            && let Ok(volume) = view.id.parse()
            && let Some((session, status)) = self.attachments.describe(volume).await
            && session_text(session) == attached.session
        {
            attached.device = Some(status);
        }
        view
    }
}

fn describe(handle: &VolumeHandle) -> ServeAnswer {
    let logical_block_bytes = handle.config.borrow().volume.logical_block_bytes;
    let geometry = handle.block.geometry();
    ServeAnswer { size_bytes: geometry.size_bytes, logical_block_bytes, volatile_cache: geometry.volatile_cache }
}
