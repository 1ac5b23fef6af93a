//! The verbs that move the right to write: promote, demote, failover; and attach, detach.

use std::sync::Arc;

use farshore_core::api::{Command, Promotion, Refusal};
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::register::MemberKind;
use farshore_proto::v1 as api;
use prost::Message;

use super::clock::random_u128;
use super::create::name_error;
use super::driver::{DeviceState, VolumeHandle};
use super::node::Node;
use super::readers::is_read_only;
use super::rpc::Call;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// A forwarded verb may include a promotion on the other node.
const FORWARD_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Between the answer to an attach and the open device.
pub(super) const OPEN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

impl Node {
    pub(super) fn find(&self, volume: &str) -> Result<Arc<VolumeHandle>, OpError> {
        self.catalog.find(volume).ok_or_else(|| match self.shared.diverged.find(volume) {
            Some(copy) => OpError::failed_precondition(
                format!("{} is kept from a history that lost: it can be read and deleted, nothing else", copy.name),
                format!(
                    "read it with: nbdcopy 'nbd+unix:///{}?socket={}' FILE",
                    copy.name,
                    self.config.nbd.socket.display()
                ),
            ),
            None => OpError::no_volume(volume),
        })
    }

    /// Where the volume's epoch is held now, as far as this node knows.
    pub(super) async fn holder(&self, handle: &VolumeHandle) -> Option<MemberId> {
        let status = handle.status().await?;
        if status.role == "primary" {
            return Some(handle.me);
        }
        let config = handle.config.borrow().clone();
        status.leader.or(config.attached.map(|a| a.member)).or_else(|| {
            let home = &config.current.primary_site;
            let of_home = || config.members.iter().filter(|m| m.site == *home);
            of_home().find(|m| m.kind == MemberKind::Data).or_else(|| of_home().next()).map(|m| m.id)
        })
    }

    pub(super) fn peer_of(&self, handle: &VolumeHandle, member: MemberId) -> Result<PeerName, OpError> {
        let config = handle.config.borrow();
        let member = config
            .member(member)
            .ok_or_else(|| OpError::not_found(format!("{member} is no member"), "see `farshore volume show`"))?;
        PeerName::new(&member.site, &member.node).map_err(name_error)
    }

    /// Runs a verb on another node.
    pub(super) async fn forward<R: Message + Default>(
        &self,
        peer: &PeerName,
        method: &str,
        request: &impl Message,
    ) -> Result<R, OpError> {
        self.forward_within(FORWARD_PATIENCE, peer, method, request).await
    }

    pub(super) async fn forward_within<R: Message + Default>(
        &self,
        patience: std::time::Duration,
        peer: &PeerName,
        method: &str,
        request: &impl Message,
    ) -> Result<R, OpError> {
        let call = Call::Forward { method: method.into(), request: request.encode_to_vec().into() };
        let bytes = self.shared.calls.call(&self.shared.transport, peer, &call, patience).await?;
        R::decode(bytes).map_err(|e| OpError::internal(format!("the answer of {peer} does not decode")).because(e))
    }

    pub(super) async fn fail_over(
        self: &Arc<Self>,
        request: api::FailoverRequest,
    ) -> Result<Vec<api::VolumeResult>, OpError> {
        let mut chosen = Vec::new();
        if request.volumes.is_empty() {
            for handle in self.catalog.all().into_iter().filter(|handle| !handle.is_diskless()) {
                if self.is_taken_over_from(&handle, &request.from_site).await {
                    chosen.push(handle);
                }
            }
        } else {
            for volume in &request.volumes {
                chosen.push(self.find(volume)?);
            }
        }
        if request.from_site == self.shared.me.site {
            return Err(OpError::invalid(
                format!("this node is in {} itself", request.from_site),
                "run failover in the site that shall take over",
            ));
        }
        let mut running = tokio::task::JoinSet::new();
        for handle in chosen {
            let (node, from, reduce) = (self.clone(), request.from_site.clone(), request.reduce);
            running.spawn(async move {
                let home = handle.config.borrow().current.primary_site.clone();
                let result = if let Err(error) = node.refuse_fenced(&handle).await {
                    Err(error)
                } else if node.is_taken_over_from(&handle, &from).await {
                    let taken = node.take_over(&handle, reduce.then_some(from.as_str())).await;
                    match taken {
                        Ok(()) => node.give_back_if_fenced(&handle).await,
                        Err(error) => Err(error),
                    }
                } else {
                    Err(OpError::failed_precondition(
                        format!("the primary site of {} is {home}, not {from}", handle.name()),
                        "name the site that holds it",
                    ))
                };
                node.volume_result(&handle, result).await
            });
        }
        Ok(running.join_all().await)
    }

    async fn volume_result(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        result: Result<(), OpError>,
    ) -> api::VolumeResult {
        let volume = handle.name();
        match result {
            Ok(()) => api::VolumeResult { volume, ok: true, error: None, status: self.view(handle).await.ok() },
            Err(error) => api::VolumeResult { volume, ok: false, error: Some(error.detail()), status: None },
        }
    }

    pub(super) async fn attach(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::AttachVolumeRequest,
    ) -> Result<(SessionId, api::DeviceStatus), OpError> {
        if is_read_only(&handle.config.borrow().volume) {
            return self.attach_reader(handle, request).await;
        }
        let kind = super::attachments::choose(request.device())?;
        let orphaned = self.attachments.forget_if_dead(handle.id).await;
        if let Some((session, status)) = self.attachments.describe(handle.id).await {
            if request.device() != api::DeviceKind::Unspecified && status.kind() != kind {
                return Err(OpError::failed_precondition(
                    format!(
                        "volume {} is attached here with another device ({})",
                        handle.name(),
                        status.kind().as_str_name()
                    ),
                    "detach it first, or leave the device out",
                ));
            }
            if status.read_only != request.read_only && !request.publish_only {
                let how = if status.read_only { "read-only" } else { "for writing" };
                return Err(OpError::failed_precondition(
                    format!("volume {} is attached here {how}", handle.name()),
                    "detach it first, then attach it otherwise",
                ));
            }
            if request.session.is_empty() || parse_session(&request.session)? == session {
                return Ok((session, status));
            }
            return Err(OpError::failed_precondition(
                format!("volume {} is attached here for another session", handle.name()),
                "detach it first",
            ));
        }
        self.refuse_forwarded(handle).await?;
        let session = match orphaned {
            _ if !request.session.is_empty() => parse_session(&request.session)?,
            Some(session) => session,
            None => SessionId(random_u128()),
        };
        self.refuse_fenced(handle).await?;
        self.take_next_class(handle).await;
        self.patiently(handle, attaching(session, request.published)).await?;
        let opened = async {
            let mut device = handle.device.clone();
            let wait = device.wait_for(|state| matches!(state, DeviceState::Open { .. }));
            if tokio::time::timeout(OPEN_PATIENCE, wait).await.is_err() {
                return Err(OpError::unavailable(
                    format!("volume {} did not open its device", handle.name()),
                    "see `farshore status` for what it waits for, then try again",
                ));
            }
            // Asked now that the epoch is ours: nothing is in the register or the order that we don't know.
            self.refuse_fenced(handle).await?;
            self.refuse_unfinished(handle).await?;
            if !request.published && !request.publish_only {
                self.end_formatting(handle).await?;
            }
            match request.publish_only {
                true => Ok(api::DeviceStatus { kind: api::DeviceKind::None.into(), ..Default::default() }),
                false => self.attachments.open(self, handle, session, (kind, request.read_only)).await,
            }
        };
        match opened.await {
            Ok(status) => Ok((session, status)),
            // Only whoever published a session ends it.
            Err(error) if request.published => Err(error),
            Err(error) => {
                let _ = handle.command(Command::Detach { session }).await;
                Err(error)
            }
        }
    }
}

/// `published`: refused unless the newest register names the session already.
pub(super) fn attaching(session: SessionId, published: bool) -> Command {
    let writer = random_u128();
    match published {
        true => Command::Promote { writer, why: Promotion::Published { session } },
        false => Command::Attach { writer, session },
    }
}

impl Node {
    async fn refuse_forwarded(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        match self.attachments.served(handle.id).await {
            None => Ok(()),
            Some(served) => Err(OpError::failed_precondition(
                format!("volume {} is attached at {}, and served from here", handle.name(), served.place.node),
                "detach it there first",
            )),
        }
    }
}

pub(super) fn parse_session(text: &str) -> Result<SessionId, OpError> {
    u128::from_str_radix(text, 16)
        .map(SessionId)
        .map_err(|_| OpError::invalid(format!("{text:?} is not a session"), "sessions are 32 hex digits"))
}

/// The one map from the core's refusals to the control plane's errors. The core does not know what users call a volume.
pub(super) fn refused(handle: &VolumeHandle) -> impl FnOnce(Refusal) -> OpError {
    let name = handle.name();
    move |refusal| of_volume(&name, refusal)
}

fn of_volume(name: &str, refusal: Refusal) -> OpError {
    let kind = match refusal.rule {
        "promote-no-quorum" | "quorum-unheard" | "mode-unheard" | "change-pending" | "promote-running" | "stopped"
        | "journal-poisoned" => OpKind::Unavailable,
        "hold-broken" | "hold-running" | "mark-unknown" | "marks-many" => OpKind::Unavailable,
        "promote-overtaken" | "fenced" => OpKind::Conflict,
        "quorum-impossible" | "resize-shrinks" | "member-unknown" | "mark-invalid" => OpKind::Invalid,
        "member-exists" => OpKind::AlreadyExists,
        _ => OpKind::FailedPrecondition,
    };
    OpError::new(kind, format!("volume {name}: {}", refusal.text), refusal.remedy)
        .because(format!("rule {}", refusal.rule))
}
