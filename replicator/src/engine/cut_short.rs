//! Volumes whose making was cut short: found under the name that is asked for again, and undone.
//!
//! A member remembers who makes the volume that it begins to hold, until that node is gone: what is still being made is
//! half, too, and must not be undone under its maker.

use std::sync::Arc;

use farshore_core::ids::VolumeId;
use farshore_proto::v1 as api;

use super::clone::SOURCE_ID_LABEL;
use super::create::{FIRST_VERSION, JOIN_PATIENCE, name_error};
use super::driver::{VolumeHandle, lock};
use super::node::Node;
use super::rpc::Call;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// What was found under the name of a volume that is to be made.
pub(super) enum Namesake {
    /// What is asked for, at all its members.
    Whole(VolumeId),
    /// Half of it, which is forgotten now.
    Gone,
}

/// Who makes a volume, and in which session with it: another one began with another life of either.
pub(super) type Maker = (PeerName, Option<u64>);

/// This node makes a volume, for as long as the value lives.
pub(super) struct Making {
    node: Arc<Node>,
    volume: VolumeId,
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.node.makers).remove(&self.volume);
    }
}

impl Node {
    pub(super) fn making(self: &Arc<Self>, volume: VolumeId) -> Making {
        self.note_maker(&self.shared.me, volume);
        Making { node: self.clone(), volume }
    }

    pub(super) fn note_maker(&self, maker: &PeerName, volume: VolumeId) {
        lock(&self.makers).insert(volume, (maker.clone(), self.session_with(maker)));
    }

    /// Another one each time the peer comes up; `None` while it is away, and for this node itself.
    pub(super) fn session_with(&self, peer: &PeerName) -> Option<u64> {
        let status = self.shared.transport.status().into_iter().find(|status| status.name == *peer);
        status.filter(|status| status.connected).map(|status| status.sessions)
    }

    /// Forgets this node's part of a volume that was never whole.
    pub(super) async fn undo_here(self: &Arc<Self>, handle: &VolumeHandle, asker: &PeerName) -> Result<(), OpError> {
        let (name, config) = (handle.name(), handle.config.borrow().clone());
        let maker = lock(&self.makers).get(&handle.id).cloned();
        if let Some((maker, session)) = maker
            && maker != *asker
            && (maker == self.shared.me || (session.is_some() && self.session_with(&maker) == session))
        {
            return Err(OpError::unavailable(format!("{maker} is making volume {name}"), "try again shortly"));
        }
        if config.version != FIRST_VERSION {
            return Err(OpError::failed_precondition(
                format!("volume {name} has had a primary: its creation can't be undone"),
                format!("if that is meant: farshore volume delete {name}"),
            ));
        }
        self.refuse_in_use(handle).await?;
        self.forget(handle).await
    }

    async fn ask_undo(self: &Arc<Self>, peer: &PeerName, volume: VolumeId) -> Result<(), OpError> {
        if *peer == self.shared.me {
            let Some(handle) = self.catalog.get(volume) else { return Ok(()) };
            return self.undo_here(&handle, peer).await;
        }
        let request = api::DeleteVolumeRequest { volume: volume.to_string() };
        match self.forward_within::<api::DeleteVolumeResponse>(JOIN_PATIENCE, peer, "undo-creation", &request).await {
            Err(error) if error.kind != OpKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What this node has of it goes last: it knows of the others.
    pub(super) async fn undo_everywhere(self: &Arc<Self>, existing: &VolumeHandle) -> Result<(), OpError> {
        let config = existing.config.borrow().clone();
        for member in config.members.iter().filter(|m| m.id != existing.me) {
            let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
            self.ask_undo(&peer, existing.id).await?;
        }
        self.undo_here(existing, &self.shared.me).await
    }

    /// What the members hold under the name of a volume that this node does not know, if it is what is asked for now. What
    /// is half, and never had a primary, is forgotten everywhere.
    pub(super) async fn namesake(self: &Arc<Self>, request: &api::CreateVolumeRequest) -> Option<Namesake> {
        let members = self.choose_members(&request.members).ok()?;
        let by_name = api::GetVolumeRequest { volume: request.name.clone() };
        let mut found = None;
        for (member, _) in &members {
            let peer = PeerName::new(&member.site, &member.node).ok()?;
            let view = self.forward_within::<api::GetVolumeResponse>(JOIN_PATIENCE, &peer, "view", &by_name);
            if peer != self.shared.me
                && let Ok(answer) = view.await
            {
                found = answer.volume;
                break;
            }
        }
        let view = found.filter(|view| self.is_asked_for(view, request))?;
        let volume = VolumeId(crate::control::validate_snapshots::parse_id(&view.id)?);
        let mut held = Vec::new();
        for member in view.members.iter().filter(|m| m.kind() != api::MemberKind::Diskless) {
            let peer = PeerName::new(&member.site, &member.node).ok()?;
            held.push((self.holds(&peer, volume).await.ok()?, peer));
        }
        if held.iter().all(|(holds, _)| *holds) {
            return Some(Namesake::Whole(volume));
        }
        if view.config_version != FIRST_VERSION.to_string() {
            return None;
        }
        for (_, peer) in held.iter().filter(|(holds, _)| *holds) {
            self.ask_undo(peer, volume).await.ok()?;
        }
        tracing::info!(volume = %request.name, id = %volume, "a creation that was cut short was undone");
        Some(Namesake::Gone)
    }

    fn is_asked_for(&self, view: &api::VolumeStatus, request: &api::CreateVolumeRequest) -> bool {
        let asked = request.members.iter().map(|m| m.site.as_str());
        let policy = |policy: Option<&api::Policy>| policy.map_or("majority", |p| p.quorum.as_str()).to_string();
        let chosen = view.members.iter().filter(|m| m.kind() != api::MemberKind::Diskless);
        asked.eq(chosen.map(|m| m.site.as_str()))
            && (view.size_bytes == request.size_bytes || request.size_bytes == 0)
            && view.read_only == request.read_only
            && policy(view.policy.as_ref()) == policy(request.policy.as_ref())
            && self.is_clone_of(view.labels.get(SOURCE_ID_LABEL), request)
    }

    pub(super) async fn holds(self: &Arc<Self>, peer: &PeerName, volume: VolumeId) -> Result<bool, OpError> {
        if *peer == self.shared.me {
            return Ok(self.catalog.get(volume).is_some());
        }
        let call = Call::Holding { volume };
        match self.shared.calls.call(&self.shared.transport, peer, &call, JOIN_PATIENCE).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == OpKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
