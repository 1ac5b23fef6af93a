//! Ending a session: by the node that has the device, or, where that one can't be reached, by fencing it.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::ids::{MemberId, SessionId};
use farshore_core::limits::DRIFT_DIVISOR;
use farshore_core::register::{Attachment, Configuration, Member, MemberKind};
use farshore_proto::v1 as api;
use prost::Message;

use super::driver::VolumeHandle;
use super::forward::{DEVICE_LABEL, Place, forwarded_to};
use super::holders::give_back;
use super::node::Node;
use super::readers::is_read_only;
use super::register_read::{Fencing, Register};
use super::roles::{parse_session, refused};
use crate::control::{OpError, states};

/// Patience with the node that has the device, where it would be fenced otherwise.
const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// Beyond the old lease: what the rounds of a fence on another node need.
const FENCE_PATIENCE: Duration = Duration::from_secs(25);
/// While somebody is on the way to an epoch, the register is read again, so often.
const UNSETTLED_READS: usize = 15;
/// As a node's that holds no copy.
const NO_MEMBER: MemberId = MemberId(u16::MAX);
const UNSETTLED_PAUSE: Duration = Duration::from_millis(200);

/// For another node of the site: end this session of your own, or fence the one that has it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FenceStep {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(uint32, tag = "2")]
    pub member: u32,
    /// Empty: whichever it has.
    #[prost(string, tag = "3")]
    pub session: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FenceAnswer {
    /// The register says so, too.
    #[prost(bool, tag = "1")]
    pub ended: bool,
}

impl FenceStep {
    fn of(handle: &VolumeHandle, member: MemberId, session: Option<SessionId>) -> FenceStep {
        let session = session.map(|s| format!("{:032x}", s.0)).unwrap_or_default();
        FenceStep { volume: handle.id.to_string(), member: member.0.into(), session }
    }

    fn session(&self) -> Result<Option<SessionId>, OpError> {
        if self.session.is_empty() { Ok(None) } else { parse_session(&self.session).map(Some) }
    }
}

impl Node {
    /// Answers when nothing that the session wrote can still arrive.
    pub(super) async fn detach(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::DetachVolumeRequest,
    ) -> Result<(), OpError> {
        if is_read_only(&handle.config.borrow().volume) {
            let known = self.view_with_readers(handle).await?;
            return self.detach_reader(&known, request).await;
        }
        if request.force && !request.keep_published {
            return self.detach_by_force(handle, request).await;
        }
        let named = handle.config.borrow().attached;
        let Some(attached) = named else { return Ok(()) };
        refuse_other_session(handle, request, attached)?;
        if attached.member == handle.me {
            self.end_served(handle, request.force).await?;
            self.attachments.close(handle.id, request.force).await?;
            if request.keep_published {
                return Ok(());
            }
            let session = attached.session;
            self.settled(handle, Command::Detach { session }).await.map_err(refused(handle))?;
            self.release_without_copy(handle).await;
            return Ok(());
        }
        let peer = self.peer_of(handle, attached.member)?;
        let _: api::DetachVolumeResponse = self.forward(&peer, "detach", request).await?;
        Ok(())
    }

    /// Goes by the register of the control quorum, never by what this node knows of it.
    async fn detach_by_force(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::DetachVolumeRequest,
    ) -> Result<(), OpError> {
        let mut target = self.member_here(&handle.config.borrow(), &request.node);
        let mut settled = request.node.is_empty();
        for _ in 0..UNSETTLED_READS {
            let register = self.read_register(handle, target).await?;
            let known = register.newest().map_or(target, |newest| self.member_here(newest, &request.node));
            if known != target {
                target = known;
                continue;
            }
            match register.fencing(target) {
                // The node may be about to be named, for a device that it is to have without a copy.
                Fencing::Done(_) if !settled && may_be_named(&register, target, &self.shared.me.site) => {
                    if !self.is_settled(handle, &request.node).await {
                        self.end_in_doubt(handle, &request.node).await?;
                    }
                    settled = true;
                }
                Fencing::Done(rule) => {
                    self.end_what_begins(handle, &register, &request.node).await;
                    tracing::info!(volume = %handle.name(), node = request.node, rule, "nothing is left to detach");
                    return Ok(());
                }
                Fencing::Named(attached) => {
                    refuse_other_session(handle, request, attached)?;
                    return self.end(handle, attached).await;
                }
                Fencing::Close => {
                    if let Some(member) = target {
                        self.end_there(handle, member, None).await?;
                    }
                }
                Fencing::Lease => {
                    // Whatever was owed to the holder before was owed when the other epoch was promised.
                    let lease_us = handle.config.borrow().volume.lease_us;
                    tokio::time::sleep(Duration::from_micros(lease_us + lease_us / DRIFT_DIVISOR)).await;
                    return Ok(());
                }
                Fencing::Take => return self.fence(handle, target.unwrap_or(handle.me), None, None).await,
                Fencing::Unsettled => tokio::time::sleep(UNSETTLED_PAUSE).await,
                Fencing::Unheard => {
                    return Err(OpError::unavailable(
                        format!("too few members of volume {} answer to know whether it is attached", handle.name()),
                        "try again when more of them can be reached",
                    ));
                }
            }
        }
        // Whoever was on the way to an epoch has not arrived, or is the node itself.
        match target {
            Some(member) if self.read_register(handle, target).await?.may_take(member) => {
                self.fence(handle, member, None, None).await
            }
            _ => Err(OpError::unavailable(
                format!("the configuration of volume {} is changing, or its primary can't be heard", handle.name()),
                "try again; see `farshore status` for who holds it",
            )),
        }
    }

    /// `None`: no node is meant. One that is no member has an id that no member has; so has one that serves a device for
    /// another node, and has none of its own.
    fn member_here(&self, config: &Configuration, node: &str) -> Option<MemberId> {
        if let Some((member, place)) = forwarded_to(config)
            && place.node.site == self.shared.me.site
            && !node.is_empty()
        {
            let serves = config.member(member).is_some_and(|m| m.site == self.shared.me.site && m.node == node);
            match place.node.node == node {
                true => return Some(member),
                false if serves => return Some(NO_MEMBER),
                false => {}
            }
        }
        let found = config.members.iter().find(|m| m.site == self.shared.me.site && m.node == node);
        (!node.is_empty()).then(|| found.map_or(NO_MEMBER, |m| m.id))
    }

    /// A member may be about to name a session for a device at this node. When it answers, it is not.
    async fn end_what_begins(self: &Arc<Self>, handle: &Arc<VolumeHandle>, register: &Register, node: &str) {
        let label = register.newest().and_then(|newest| newest.volume.labels.get(DEVICE_LABEL).cloned());
        let Some(place) = label.and_then(|text| Place::decode(&text).ok()).filter(|place| place.node.node == node)
        else {
            return;
        };
        let Some(holder) = self.holder(handle).await else { return };
        if let Err(error) = self.end_there(handle, holder, Some(place.session)).await {
            tracing::info!(volume = %handle.name(), %error, "who would serve the node can't be asked");
        }
    }

    /// The node that is named ends its session; one that does not answer is fenced.
    async fn end(self: &Arc<Self>, handle: &Arc<VolumeHandle>, attached: Attachment) -> Result<(), OpError> {
        let session = Some(attached.session);
        match self.end_there(handle, attached.member, session).await {
            Ok(true) => Ok(()),
            // Its device is gone, and the register still names it: it does not hold the epoch, and may win one for this.
            Ok(false) => self.fence(handle, attached.member, session, Some(attached.member)).await,
            Err(why) => {
                tracing::warn!(volume = %handle.name(), member = %attached.member, %why, "its node does not answer: fencing it");
                self.fence(handle, attached.member, session, None).await
            }
        }
    }

    /// True: the device is gone, and nobody is named any more. False: the device is gone.
    async fn end_there(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        member: MemberId,
        session: Option<SessionId>,
    ) -> Result<bool, OpError> {
        let step = FenceStep::of(handle, member, session);
        if member == handle.me {
            return Ok(self.end_own(handle, &step).await?.ended);
        }
        let peer = self.peer_of(handle, member)?;
        // It waits for what it has lent to the node of the device, where that does not answer.
        let lease = Duration::from_micros(handle.config.borrow().volume.lease_us);
        let forwarded = forwarded_to(&handle.config.borrow()).is_some();
        let patience = if forwarded { NODE_PATIENCE + lease } else { NODE_PATIENCE };
        let answer: FenceAnswer = self.forward_within(patience, &peer, "end-session", &step).await?;
        Ok(answer.ended)
    }

    /// Asked by a node that has read the register.
    pub(super) async fn end_own(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        step: &FenceStep,
    ) -> Result<FenceAnswer, OpError> {
        let session = step.session()?;
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        let served = self.attachments.served(handle.id).await.map(|served| served.place.session);
        if served.is_some_and(|served| session.is_none_or(|session| session == served)) {
            self.end_served(handle, true).await?;
        }
        let open = self.attachments.describe(handle.id).await.map(|(open, _)| open);
        if open.is_some_and(|open| session.is_none_or(|session| session == open)) {
            self.attachments.close(handle.id, true).await?;
        }
        let named = handle.config.borrow().attached.filter(|a| a.member == handle.me).map(|a| a.session);
        let Some(session) = session.or(named) else { return Ok(FenceAnswer { ended: false }) };
        // A daemon that has come back tries to take its own device back, and has it, or gives up.
        for _ in 0..UNSETTLED_READS {
            let (role, state) = handle.status().await.map(|s| (s.role, s.state)).unwrap_or_default();
            match role {
                "primary" => {
                    self.settled(handle, Command::Detach { session }).await.map_err(refused(handle))?;
                    if handle.is_diskless() {
                        drop(give_back(self, handle));
                    }
                    return Ok(FenceAnswer { ended: true });
                }
                "candidate" => tokio::time::sleep(UNSETTLED_PAUSE).await,
                // The volume goes on in another lineage, which names nobody here, and in this one the session is this
                // node's alone: no register is left that could say more.
                _ => return Ok(FenceAnswer { ended: state == states::volume::DIVERGED }),
            }
        }
        Err(OpError::unavailable(format!("volume {} is being promoted here", handle.name()), "try again"))
    }

    /// A node of its site that has a copy takes the epoch, and waits for what the old lease allows; then nobody is named
    /// any more. `answers`: the node itself, where it can be asked to do that.
    async fn fence(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        member: MemberId,
        session: Option<SessionId>,
        answers: Option<MemberId>,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let (home, here) = (config.site_of(member).to_string(), &self.shared.me.site);
        if home != *here {
            return Err(OpError::unavailable(
                format!("volume {} is attached in {home}, at a node that does not answer", handle.name()),
                format!(
                    "ask another node of {home} that holds a copy, or take over: `farshore failover --from {home}`"
                ),
            ));
        }
        let step = FenceStep::of(handle, member, session);
        let asked = |id: MemberId| id != member || answers == Some(id);
        let able = |m: &&Member| m.site == home && asked(m.id) && m.kind == MemberKind::Data;
        let mut able: Vec<&Member> = config.members.iter().filter(able).collect();
        able.sort_by_key(|m| (answers != Some(m.id), m.id != handle.me));
        let mut why = format!("no other node of {home} has a copy that could take the volume");
        for other in able {
            let fenced = if other.id == handle.me {
                self.fence_here(handle, &step).await
            } else {
                let peer = self.peer_of(handle, other.id)?;
                let answer: Result<FenceAnswer, _> = self.forward_within(FENCE_PATIENCE, &peer, "fence", &step).await;
                answer.map(drop)
            };
            match fenced {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("{}/{}: {error}", other.site, other.node),
            }
        }
        Err(OpError::unavailable(
            format!("the node that volume {} is to be detached from can't be fenced yet", handle.name()),
            format!("try again when more members can be reached; if {home} is lost: `farshore failover --from {home}`"),
        )
        .because(why))
    }

    /// The epoch is ours then, and with it the newest register: another session may have been named since, which stays.
    pub(super) async fn fence_here(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        step: &FenceStep,
    ) -> Result<(), OpError> {
        let session = step.session()?;
        // Not between the steps of taking over a device's session from that member.
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        let member = MemberId(u16::try_from(step.member).unwrap_or(NO_MEMBER.0));
        self.promote_here(handle, Promotion::Fence { member }).await?;
        let meant = |a: &Attachment| match session {
            // Wherever it goes on.
            Some(session) => session == a.session,
            None => a.member == member,
        };
        let named = handle.config.borrow().attached;
        let Some(named) = named.filter(meant) else { return Ok(()) };
        if named.member == handle.me {
            self.end_served(handle, true).await?;
            let session = named.session;
            return self.settled(handle, Command::Detach { session }).await.map_err(refused(handle));
        }
        self.settled(handle, Command::Change(Change::Attached { attached: None })).await.map_err(refused(handle))
    }
}

/// Where nobody is named, a node that is no member may be made one, and one without a copy be named.
fn may_be_named(register: &Register, target: Option<MemberId>, site: &str) -> bool {
    let Some(newest) = register.newest() else { return true };
    let known = target.and_then(|target| newest.member(target));
    let here = newest.attached.is_none() && newest.current.primary_site == site;
    here && known.is_none_or(|member| member.kind == MemberKind::Diskless)
}

fn refuse_other_session(
    handle: &VolumeHandle,
    request: &api::DetachVolumeRequest,
    attached: Attachment,
) -> Result<(), OpError> {
    if request.session.is_empty() || parse_session(&request.session)? == attached.session {
        return Ok(());
    }
    Err(OpError::failed_precondition(
        format!("volume {} is attached for another session", handle.name()),
        "see `farshore volume show` for the session",
    ))
}
