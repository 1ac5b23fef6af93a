//! Holders of the epoch without a copy: a node that is to have a device, and no copy of its volume, becomes a member of it for
//! as long as the device is there, and writes to all others itself.
//!
//! ```text
//! node of the device           a member with a copy, of its site            the others
//!   prepare ────────────────►  takes the epoch, if nobody has it
//!   ◄─ join (its first state)  adds the node, names its session  ─register─►
//!   ◄─ done                    gives the epoch up
//!   wins the epoch for the session that is named ─────────────────────────►
//!   ... device ...
//!   gives the epoch up; leave ►  takes it, and takes the node out  ─register─►
//!   forgets the volume
//! ```
//! The session is in the register before the node does anything for it, so whoever ends it meanwhile meets it there. Nothing
//! of the way back is urgent: a member without a copy counts for nothing. One that does not leave by itself is taken out
//! by whoever leads the volume, a while after its session has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_core::api::{Change, Command, Promotion, Status};
use farshore_core::ids::{Incarnation, MemberId, VolumeId};
use farshore_core::register::{Attachment, Configuration, Durability, Member, MemberKind};
use farshore_proto::v1 as api;
use prost::Message;
use tokio::task::JoinHandle;

use super::clock::random_u128;
use super::create::name_error;
use super::doubt::refuse_ended;
use super::driver::{VolumeHandle, lock};
use super::exports::session_text;
use super::forward::busy;
use super::node::Node;
use super::readers::refuse_read_only;
use super::roles::{parse_session, refused};
use crate::config::WithoutCopy;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// The version of the protocol since which a member may be without a copy.
const SINCE: u16 = 3;
/// Between two looks at who may leave.
const PAUSE: Duration = Duration::from_millis(500);
/// A holder that has no epoch asks for how things stand so often.
const ASK_PAUSE: Duration = Duration::from_secs(3);
/// For a copy to take back what was detached here.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
/// One that is not attached, and does not leave by itself, is taken out after this.
const ABSENT_FOR: Duration = Duration::from_secs(20);

pub(super) const PREPARE: &str = "prepare-holder";
pub(super) const LEAVE: &str = "leave-holder";

/// To a member with a copy, from a node without one: let me have the epoch, and name this session; or: I have no device.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HolderStep {
    #[prost(string, tag = "1")]
    pub volume: String,
    #[prost(string, tag = "2")]
    pub session: String,
    /// Nobody has published it, or is publishing it.
    #[prost(bool, tag = "3")]
    pub by_hand: bool,
    /// Of which node, where another one asks for it: SITE/NODE.
    #[prost(string, tag = "4")]
    pub of: String,
    /// The volume's [`ENDED_LABEL`](super::doubt::ENDED_LABEL) when the attach began.
    #[prost(string, tag = "5")]
    pub ended: String,
}

/// What came of it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HolderAnswer {
    /// No, and why: a member is to serve the device. Or: the session is named still.
    #[prost(string, tag = "1")]
    pub not_so: String,
}

fn not_so(why: impl Into<String>) -> HolderAnswer {
    HolderAnswer { not_so: why.into() }
}

/// It holds the epoch, and knows it.
fn leads(status: &Status) -> bool {
    status.role == "primary" && status.lease_left_us.is_some_and(|left| left > 0)
}

pub(super) fn member_at<'a>(config: &'a Configuration, peer: &PeerName) -> Option<&'a Member> {
    config.members.iter().find(|m| m.site == peer.site && m.node == peer.node)
}

impl Node {
    /// Has this node become a member without a copy, with this session named. Err inside: why a member is to serve the
    /// device instead.
    pub(super) async fn become_holder(
        self: &Arc<Self>,
        known: &api::VolumeStatus,
        servers: &[PeerName],
        step: &HolderStep,
    ) -> Result<Result<Arc<VolumeHandle>, String>, OpError> {
        let volume: VolumeId = known.id.parse().map_err(|_| OpError::internal("a neighbour's volume has no id"))?;
        if let Some(why) = self.must_be_served(known) {
            return Ok(Err(why));
        }
        let mut refusal = OpError::unavailable(format!("no member of volume {} answers", known.name), "try again");
        for peer in servers {
            match self.forward::<HolderAnswer>(peer, PREPARE, step).await {
                Ok(HolderAnswer { not_so }) if not_so.is_empty() => {
                    let handle = self.catalog.get(volume).ok_or_else(|| {
                        OpError::unavailable(format!("volume {} has left this node meanwhile", known.name), "try again")
                    })?;
                    return Ok(Ok(handle));
                }
                Ok(HolderAnswer { not_so }) => return Ok(Err(not_so)),
                Err(error) if error.kind == OpKind::Unavailable => refusal = error,
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    fn must_be_served(&self, known: &api::VolumeStatus) -> Option<String> {
        if self.config.device.without_copy == WithoutCopy::Member {
            return Some("device.without_copy says so".into());
        }
        let peer = |m: &api::MemberStatus| PeerName::new(&m.site, &m.node).ok();
        let far = |peer: &PeerName| !self.is_connected(peer) || self.spoken_with(peer) < SINCE;
        let far = known.members.iter().filter(|m| m.connected || m.here).filter_map(peer).find(far)?;
        Some(format!("{far} can't be reached from here, or is of an older version"))
    }

    /// The version of the protocol that is spoken with a node, or was when it was last connected; 0: it never was.
    fn spoken_with(&self, peer: &PeerName) -> u16 {
        if *peer == self.shared.me { u16::MAX } else { lock(&self.spoken).get(peer).copied().unwrap_or(0) }
    }

    pub(super) fn speaks_of_ends(&self, peer: &PeerName) -> bool {
        self.spoken_with(peer) >= SINCE
    }

    pub(super) fn is_named_without_copy(&self, known: &api::VolumeStatus) -> bool {
        let me = &self.shared.me;
        let visits = known.members.iter().any(|m| m.site == me.site && m.node == me.node);
        let named = known.attached.as_ref().filter(|a| a.site == me.site && a.node == me.node);
        visits && named.is_some_and(|a| a.served_by_node.is_empty())
    }

    /// The member's part.
    pub(super) async fn prepare_holder(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        peer: &PeerName,
        step: &HolderStep,
    ) -> Result<HolderAnswer, OpError> {
        refuse_read_only(handle, "is read from a node's own copy, and not served to others")?;
        let session = parse_session(&step.session)?;
        // Whoever ends the session meanwhile waits until it is known whether there is one.
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        if self.attachments.served(handle.id).await.is_some() || self.attachments.is_open(handle.id).await {
            return Err(busy(&handle.name(), &self.shared.me));
        }
        self.refuse_fenced(handle).await?;
        self.take_next_class(handle).await;
        let named = |config: &Configuration| {
            let attached = config.attached?;
            Some((config.member(attached.member).cloned(), attached.session))
        };
        let ours = |of: &Member| of.site == peer.site && of.node == peer.node && of.kind == MemberKind::Diskless;
        let holds = handle.status().await.is_some_and(|status| status.role == "primary");
        if !holds && named(&handle.config.borrow()).is_none() {
            self.hold_epoch(handle).await?;
        }
        // Read anew: with the epoch comes the newest register.
        let config = handle.config.borrow().clone();
        match named(&config) {
            // Asked for again.
            Some((Some(of), of_session)) if ours(&of) && of_session == session => {
                self.add_holder(handle, peer, &config).await?;
                return Ok(HolderAnswer::default());
            }
            Some((Some(of), _)) => {
                let node = PeerName::new(&of.site, &of.node).unwrap_or_else(|_| self.shared.me.clone());
                return Err(busy(&handle.name(), &node));
            }
            Some((None, _)) => return Err(busy(&handle.name(), &self.shared.me)),
            None => {}
        }
        refuse_ended(&config, peer, &step.ended)?;
        if let Some(why) = self.may_not_hold(&config, peer) {
            return Ok(not_so(why));
        }
        self.refuse_unfinished(handle).await?;
        if step.by_hand {
            self.end_formatting(handle).await?;
        }
        let member = self.add_holder(handle, peer, &config).await?;
        let attached = Some(Attachment { member, session });
        self.settled(handle, Command::Change(Change::Attached { attached })).await.map_err(refused(handle))?;
        // So that nobody waits for a lease.
        self.settled(handle, Command::Demote).await.map_err(refused(handle))?;
        Ok(HolderAnswer::default())
    }

    fn may_not_hold(&self, config: &Configuration, peer: &PeerName) -> Option<String> {
        if config.volume.durability == Durability::Flush {
            return Some("in class flush a write completes on a copy beside the device".into());
        }
        if member_at(config, peer).is_some_and(|m| m.kind != MemberKind::Diskless) {
            return Some(format!("{peer} is another kind of member"));
        }
        let older = |m: &&Member| PeerName::new(&m.site, &m.node).is_ok_and(|peer| self.spoken_with(&peer) < SINCE);
        let older = config.members.iter().find(older)?;
        Some(format!("{}/{} is of an older version, or was not heard of yet", older.site, older.node))
    }

    /// The node is a member without a copy afterwards, and knows it. Where it is one already, its replica may be gone with
    /// its disk.
    async fn add_holder(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        peer: &PeerName,
        config: &Configuration,
    ) -> Result<MemberId, OpError> {
        let known = member_at(config, peer).cloned();
        let next = MemberId(config.members.iter().map(|m| m.id.0).max().unwrap_or(0) + 1);
        let (site, node, kind) = (peer.site.clone(), peer.node.clone(), MemberKind::Diskless);
        let member = known.clone().unwrap_or(Member { id: next, site, node, kind });
        let incarnation = Incarnation(random_u128());
        let lineage = handle.status().await.map(|status| status.lineage);
        match self.holding_at(peer, handle.id).await? {
            Some(held) if held.member == member.id && Some(held.lineage) == lineage => {}
            // It was a member before, and finds that out.
            Some(_) => {
                return Err(OpError::unavailable(
                    format!("{peer} has not let go yet of what it held of volume {} before", handle.name()),
                    "try again in a moment",
                ));
            }
            None => drop(self.join_as(handle, &member, incarnation).await?),
        }
        if known.is_none()
            && let Err(error) = self.change(handle, Change::Add { member: member.clone(), incarnation, votes: 0 }).await
        {
            let _ = self.ask_forget(peer, handle.id).await;
            return Err(error);
        }
        Ok(member.id)
    }

    /// For a node without a copy that has no epoch: is it named still? If not, it is taken out. Also where it is no
    /// member any more.
    pub(super) async fn leave_holder(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        asked_by: &PeerName,
        step: &HolderStep,
    ) -> Result<HolderAnswer, OpError> {
        let of = match step.of.split_once('/') {
            Some((site, node)) => PeerName::new(site, node).map_err(name_error)?,
            None => asked_by.clone(),
        };
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        if status.role == "primary" && !leads(&status) {
            return Ok(not_so("who was asked may have lost the volume itself"));
        }
        if !leads(&status) {
            let asked = member_at(&status.config, &of).map(|m| m.id);
            // Who leads it knows; whoever was asked to ask does not ask on.
            if let Some(holder) = status.leader.filter(|id| Some(*id) != asked && *id != handle.me) {
                if !step.of.is_empty() {
                    return Ok(not_so("another node leads the volume by now"));
                }
                let step = HolderStep { of: of.to_string(), ..step.clone() };
                return self.forward(&self.peer_of(handle, holder)?, LEAVE, &step).await;
            }
            // Nobody is known to lead it.
            let register = self.read_register(handle, None).await?;
            let Some(newest) = register.of_quorum() else {
                return Err(OpError::unavailable("too few members answer to know who is named", "it is tried again"));
            };
            match member_at(newest, &of) {
                None => return Ok(HolderAnswer::default()),
                Some(_) if newest.attached.is_some() || newest.current.primary_site != self.shared.me.site => {
                    return Ok(not_so("its session is named, or the volume is to be led elsewhere"));
                }
                Some(_) => {}
            }
        }
        // Not while a node is being named.
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        self.take_unattached(handle).await?;
        let config = handle.config.borrow().clone();
        let Some(member) = member_at(&config, &of) else { return Ok(HolderAnswer::default()) };
        if config.attached.is_some_and(|a| a.member == member.id) {
            return Ok(not_so("the session is named"));
        }
        if member.kind != MemberKind::Diskless {
            return Ok(not_so("it is another kind of member by now"));
        }
        self.change(handle, Change::Remove { member: member.id }).await?;
        Ok(HolderAnswer::default())
    }

    /// As [`Node::hold_epoch`], where a control quorum has said that nobody is attached, whatever is known here of that.
    pub(super) async fn take_unattached(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        match handle.status().await {
            Some(status) if leads(&status) => Ok(()),
            _ => self.promote_here(handle, Promotion::Fence { member: handle.me }).await,
        }
    }

    /// This node's part of the way back: it has no device, and asks to be taken out; or it has one and no epoch, and asks
    /// whether it may have one still.
    async fn leave(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<(), OpError> {
        // Not while a device is being attached.
        let _alone = self.attachments.forwarding.alone(handle.id).await;
        self.leave_in_turn(handle).await
    }

    /// What an earlier session left here ends before there is another one.
    pub(super) async fn leave_in_turn(self: &Arc<Self>, handle: &Arc<VolumeHandle>) -> Result<(), OpError> {
        let Some(status) = handle.status().await.filter(|_| self.is_held_still(handle)) else { return Ok(()) };
        let named = status.config.attached.filter(|a| a.member == handle.me);
        // One that is named and has no lease may have been taken out, and be heard by nobody any more.
        if named.is_some() && leads(&status) {
            return Ok(());
        }
        if status.role == "primary" && named.is_none() {
            self.settled(handle, Command::Demote).await.map_err(refused(handle))?;
        }
        let step = HolderStep { volume: handle.id.to_string(), ..HolderStep::default() };
        let mut why = OpError::unavailable("no copy of the volume can be asked", "it is tried again");
        let (mut asked, mut strange) = (0, 0);
        for peer in self.copies_nearby(handle) {
            asked += 1;
            match self.forward::<HolderAnswer>(&peer, LEAVE, &step).await {
                Ok(answer) if answer.not_so.is_empty() => return self.let_go(handle, named).await,
                Ok(answer) => why = OpError::unavailable(answer.not_so, "it is tried again"),
                // It holds the volume no more, or does not know this node.
                Err(error) if matches!(error.kind, OpKind::NotFound | OpKind::Invalid) => strange += 1,
                Err(error) => why = error,
            }
        }
        // Nobody who had a copy knows this node: the volume was deleted, or goes on without all of them. A device does not end
        // by the word of those alone who happen to be connected.
        let copies = status.config.members.iter().filter(|m| m.kind.holds_copy()).count();
        if asked > 0 && strange == if named.is_some() { copies } else { asked } {
            return self.let_go(handle, named).await;
        }
        Err(why)
    }

    async fn let_go(self: &Arc<Self>, handle: &Arc<VolumeHandle>, named: Option<Attachment>) -> Result<(), OpError> {
        if let Some(named) = named {
            tracing::warn!(volume = %handle.name(), session = session_text(named.session), "its session is over");
            self.attachments.close(handle.id, true).await?;
            self.attachments.give_up(handle, named.session).await;
        }
        self.forget(handle).await
    }

    /// A session has ended here. Whoever wants the volume next need not wait for a lease, and finds it at a copy.
    pub(super) async fn release_without_copy(self: &Arc<Self>, handle: &Arc<VolumeHandle>) {
        if !handle.is_diskless() {
            return;
        }
        // It goes on if nobody waits for it any more.
        let _ = tokio::time::timeout(LEAVE_PATIENCE, give_back(self, handle)).await;
    }

    pub(super) fn is_held_still(&self, handle: &Arc<VolumeHandle>) -> bool {
        self.catalog.get(handle.id).is_some_and(|held| Arc::ptr_eq(&held, handle)) && handle.is_diskless()
    }
}

/// What is looked at again and again: since when it has been so, and what is being done about it.
struct Watched<K> {
    seen: BTreeMap<K, (Instant, Option<JoinHandle<()>>)>,
}

impl<K: Ord + Copy> Watched<K> {
    fn new() -> Watched<K> {
        Watched { seen: BTreeMap::new() }
    }

    /// Is it time to do something, and is nothing being done?
    fn is_due(&mut self, key: K, after: Duration) -> bool {
        let (since, doing) = self.seen.entry(key).or_insert_with(|| (Instant::now(), None));
        since.elapsed() >= after && doing.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn done_by(&mut self, key: K, task: JoinHandle<()>) {
        self.seen.insert(key, (Instant::now(), Some(task)));
    }
}

/// Gives back what this node holds without a copy and has no device for, and takes others out who can't.
pub async fn run(node: Arc<Node>) {
    let (mut idle, mut absent) = (Watched::<VolumeId>::new(), Watched::<(VolumeId, MemberId)>::new());
    loop {
        tokio::time::sleep(PAUSE).await;
        let (mut kept, mut away) = (BTreeSet::new(), BTreeSet::new());
        for handle in node.catalog.all() {
            let config = handle.config.borrow().clone();
            if !config.members.iter().any(|m| m.kind == MemberKind::Diskless) {
                continue;
            }
            let leads = handle.status().await.is_some_and(|status| leads(&status));
            let named = |id: MemberId| config.attached.is_some_and(|a| a.member == id);
            if config.is_diskless(handle.me) && !(leads && named(handle.me)) {
                kept.insert(handle.id);
                // Named and without an epoch: it may be about to win one.
                let once = !named(handle.me) && !idle.seen.contains_key(&handle.id);
                if idle.is_due(handle.id, if once { Duration::ZERO } else { ASK_PAUSE }) {
                    idle.done_by(handle.id, give_back(&node, &handle));
                }
            }
            let gone = |m: &&Member| m.kind == MemberKind::Diskless && m.id != handle.me && leads && !named(m.id);
            for member in config.members.iter().filter(gone) {
                let key = (handle.id, member.id);
                away.insert(key);
                if absent.is_due(key, ABSENT_FOR) {
                    absent.done_by(key, take_out(&node, &handle, member));
                }
            }
        }
        idle.seen.retain(|id, _| kept.contains(id));
        absent.seen.retain(|key, _| away.contains(key));
    }
}

/// Nothing of it holds others up.
pub(super) fn give_back(node: &Arc<Node>, handle: &Arc<VolumeHandle>) -> JoinHandle<()> {
    let (node, handle) = (node.clone(), handle.clone());
    tokio::spawn(async move {
        if let Err(error) = node.leave(&handle).await {
            tracing::debug!(volume = %handle.name(), %error, "a volume that has no copy here is not given back yet");
        }
    })
}

fn take_out(node: &Arc<Node>, handle: &Arc<VolumeHandle>, member: &Member) -> JoinHandle<()> {
    let (node, handle, member) = (node.clone(), handle.clone(), member.clone());
    tokio::spawn(async move {
        let place = format!("{}/{}", member.site, member.node);
        // Not while it is being named.
        let _alone = node.attachments.forwarding.alone(handle.id).await;
        match node.change(&handle, Change::Remove { member: member.id }).await {
            Ok(()) => tracing::info!(volume = %handle.name(), place, "taken out: it has no copy, and no device"),
            Err(error) => tracing::warn!(volume = %handle.name(), place, %error, "a member without a copy stays"),
        }
        if let Ok(peer) = PeerName::new(&member.site, &member.node) {
            let _ = node.ask_forget(&peer, handle.id).await;
        }
    })
}
