//! The configuration register: who the members are, whose votes count, which replicas an acknowledgement needs.
//!
//! One register per volume, changed only by the control quorum (see [`crate::quorum`]). A value holds the terms in
//! force (`current`) *and* every earlier one under which something may have been acked, until a second write drops
//! them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::{Epoch, Incarnation, MemberId, SessionId};
use crate::sabotage::{Sabotage, broken};

/// Orders register values; `epoch` is that of the writer who wrote this value, `k` counts its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ConfigVersion {
    pub epoch: Epoch,
    pub k: u64,
}

impl std::fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.epoch, self.k)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberKind {
    /// Holds a copy and counts for acknowledgements while it is in the sync set.
    Data = 1,
    /// Votes, holds no data, never counts as a copy (I21).
    Witness = 2,
    /// Holds a copy outside the quorum; no vote.
    Observer = 3,
    /// Being removed: asked only because an earlier value of the register still needs its answer.
    Leaving = 4,
    /// Has neither copy nor vote and counts for nothing; it may be attached, and hold an epoch for that.
    Diskless = 5,
}

impl MemberKind {
    /// Has, or is to have, a copy of the volume.
    pub fn holds_copy(self) -> bool {
        !matches!(self, MemberKind::Witness | MemberKind::Diskless)
    }
}

/// Where a member lives. Its vote and its place in the sync set are in [`Terms`], apart from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    pub site: String,
    pub node: String,
    pub kind: MemberKind,
}

/// A vote on epochs and configuration. Counts only while the voter's incarnation is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub votes: u8,
}

/// A replica that counts for acknowledgements, under one incarnation of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncMember {
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub site: String,
}

/// The policy's predicate over the sync set. The numbers are fixed from the members asked for, never from those in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRule {
    /// At least this many data replicas.
    pub w: u8,
    /// Among them at least this many distinct sites other than the primary's.
    pub min_remote: u8,
    /// One of them must be in the primary's site.
    pub local: bool,
}

impl DataRule {
    /// As far as these can meet it.
    pub fn reduced_to(self, sync: &[SyncMember], primary_site: &str) -> DataRule {
        let mut remote: Vec<&str> = sync.iter().map(|s| s.site.as_str()).filter(|s| *s != primary_site).collect();
        remote.sort_unstable();
        remote.dedup();
        DataRule {
            w: self.w.min(sync.len() as u8),
            min_remote: self.min_remote.min(remote.len() as u8),
            local: self.local && sync.iter().any(|s| s.site == primary_site),
        }
    }
}

/// Everything that decides whether a set of answers is a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub votes: Vec<Vote>,
    pub sync: Vec<SyncMember>,
    pub rule: DataRule,
    pub primary_site: String,
}

/// The node and session that may do I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    pub member: MemberId,
    pub session: SessionId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Durability {
    /// Every completion is durable on the data quorum.
    Write = 1,
    /// A write completes once durable in the primary's site; FLUSH and FUA wait for the data quorum.
    Flush = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnQuorumLoss {
    /// I/O waits until a quorum is back.
    Freeze,
    /// After this many microseconds without a quorum the whole device is fenced.
    Fence { after_us: u64 },
}

/// What distance may cost: who is waited for, and who follows behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every data member belongs in the sync set.
    Sync,
    /// Those of other sites than the primary's are fed and count for nothing: no vote, no place in the sync set. With an
    /// `rpo_us` they, and observers, are sent nothing but what changed, so often; with 0 they are fed as it is written.
    Async { rpo_us: u64 },
    /// As `Sync`, but a remote member that stays over a limit, or is gone, leaves the sync set and keeps its vote; it
    /// comes back when it has kept well within them. 0: no limit.
    Adaptive { max_commit_latency_us: u64, max_lag_bytes: u64 },
}

/// An observer in the place of a data member that is lost: it counts as that one did, with its vote, until that one has
/// been back for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    pub member: MemberId,
    /// Whose vote it has, and which life of its disk is to have it back.
    pub lost: Vote,
}

/// What the volume is, apart from who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    pub name: String,
    pub size_bytes: u64,
    /// 512 or 4096; records always carry whole 4096-byte blocks.
    pub logical_block_bytes: u32,
    pub durability: Durability,
    pub lease_us: u64,
    pub on_quorum_loss: OnQuorumLoss,
    /// The policy's name as the user gave it (`majority`, `nearest-remote`, …), for display.
    pub policy: String,
    /// The rule fixed from the policy at creation; [`Terms::rule`] differs only while it is reduced.
    pub rule: DataRule,
    /// Whatever the creator wants kept with the volume in every site: the PVC's identity, for one.
    pub labels: BTreeMap<String, String>,
    pub mode: Mode,
    /// After so long without a data quorum those that are heard go on by themselves; none: never.
    pub fallback_after_us: Option<u64>,
    /// When a member has been lost for so long an observer stands in for it; none: never.
    pub promote_observer_after_us: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub version: ConfigVersion,
    pub volume: Descriptor,
    pub members: Vec<Member>,
    pub current: Terms,
    pub earlier: Vec<Terms>,
    pub attached: Option<Attachment>,
    /// Also those that have given the vote back in a change that has not taken effect: it may be taken back.
    pub stand_ins: Vec<StandIn>,
}

impl Configuration {
    /// The terms in force together with every earlier one that may have acked something.
    pub fn all_terms(&self) -> impl Iterator<Item = &Terms> {
        std::iter::once(&self.current).chain(self.earlier.iter())
    }

    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }

    pub fn site_of(&self, id: MemberId) -> &str {
        self.member(id).map_or("", |m| m.site.as_str())
    }

    /// A member without a copy: what it holds of the log is in its memory, and nobody's.
    pub fn is_diskless(&self, id: MemberId) -> bool {
        self.member(id).is_some_and(|m| m.kind == MemberKind::Diskless)
    }

    /// The incarnation whose vote counts for `id` now, if it has one.
    pub fn vote_of(&self, id: MemberId) -> Option<&Vote> {
        self.current.votes.iter().find(|v| v.member == id)
    }

    /// In whose place this observer is, if it is in one.
    pub fn stands_in(&self, id: MemberId) -> Option<&StandIn> {
        let observes = self.member(id).is_some_and(|m| m.kind == MemberKind::Observer);
        self.stand_ins.iter().find(|s| s.member == id && observes && self.vote_of(id).is_some())
    }

    /// Who is in the place of this member, if anybody is.
    pub fn stood_in_for(&self, id: MemberId) -> Option<&StandIn> {
        self.stand_ins.iter().find(|s| s.lost.member == id && self.stands_in(s.member).is_some())
    }

    /// Does it count for acknowledgements while it is in the sync set?
    pub fn may_count(&self, member: &Member) -> bool {
        member.kind == MemberKind::Data || self.stands_in(member.id).is_some()
    }

    /// The life of its disk that may be in the sync set: that of its vote, be it that another has that vote meanwhile.
    pub fn admitted(&self, id: MemberId) -> Option<Incarnation> {
        let kept = || self.stood_in_for(id).map(|s| &s.lost);
        self.vote_of(id).or_else(kept).map(|v| v.incarnation)
    }

    /// A copy that follows behind, by the mode: it has no vote and is not waited for.
    pub fn is_async(&self, member: &Member) -> bool {
        matches!(self.volume.mode, Mode::Async { .. })
            && member.kind == MemberKind::Data
            && member.site != self.current.primary_site
            && self.vote_of(member.id).is_none()
    }

    /// A copy that is fed and counts for nothing: an observer, or by the mode.
    pub fn follows_behind(&self, member: &Member) -> bool {
        (member.kind == MemberKind::Observer && self.stands_in(member.id).is_none()) || self.is_async(member)
    }

    /// The suite's mistake: who follows behind has a vote, too. Never so in what ships.
    pub(crate) fn quorum_with_observers(&self, terms: &Terms, answered: impl Fn(MemberId) -> bool) -> bool {
        let voted = || terms.votes.iter().filter(|v| answered(v.member)).map(|v| usize::from(v.votes)).sum::<usize>();
        let all = || terms.votes.iter().map(|v| usize::from(v.votes)).sum::<usize>();
        let behind = || self.members.iter().filter(|m| self.follows_behind(m) && answered(m.id)).count();
        broken(Sabotage::ObserverVotes) && 2 * (voted() + behind()) > all()
    }

    /// The data members that the mode wants in the sync set of a volume whose primary is where it is now.
    pub fn asked_for(&self, mode: Mode) -> impl Iterator<Item = &Member> {
        let all = !matches!(mode, Mode::Async { .. });
        let home = move |m: &&Member| all || m.site == self.current.primary_site;
        self.members.iter().filter(|m| m.kind == MemberKind::Data).filter(home)
    }

    /// A site, other than the primary's, without which the others would have no control quorum: they could neither leave
    /// it out nor go on.
    pub fn site_that_decides(&self) -> Option<&str> {
        let mut others = self.members.iter().map(|m| m.site.as_str()).filter(|s| *s != self.current.primary_site);
        others.find(|site| !self.current.control_quorum(|id, _| self.site_of(id) != *site))
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        // What the first format can say is said in it: a node of the version before understands it.
        let first = self.volume.mode == Mode::Sync
            && self.volume.fallback_after_us.is_none()
            && self.volume.promote_observer_after_us.is_none()
            && self.stand_ins.is_empty();
        let diskless = self.members.iter().any(|m| m.kind == MemberKind::Diskless);
        let format = if diskless { CONFIG_FORMAT } else { 2 - u16::from(first) };
        w.u16(format);
        w.epoch(self.version.epoch);
        w.u64(self.version.k);
        put_descriptor(&mut w, &self.volume);
        w.list(&self.members, |w, m| {
            w.u16(m.id.0);
            w.string(&m.site);
            w.string(&m.node);
            w.u8(m.kind as u8);
        });
        put_terms(&mut w, &self.current);
        w.list(&self.earlier, put_terms);
        w.option(self.attached, |w, a| {
            w.u16(a.member.0);
            w.u128(a.session.0);
        });
        if format >= 2 {
            put_mode(&mut w, self.volume.mode);
            w.option(self.volume.fallback_after_us, |w, us| w.u64(us));
            w.option(self.volume.promote_observer_after_us, |w, us| w.u64(us));
            w.list(&self.stand_ins, |w, s| {
                w.u16(s.member.0);
                put_vote(w, &s.lost);
            });
        }
        w.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Configuration, DecodeError> {
        let mut r = Reader::new("configuration", bytes);
        let format = r.u16()?;
        if format > CONFIG_FORMAT {
            return Err(DecodeError::Newer {
                what: "configuration",
                found: format.into(),
                known: CONFIG_FORMAT.into(),
            });
        }
        let mut config = Configuration {
            version: ConfigVersion { epoch: r.epoch()?, k: r.u64()? },
            volume: get_descriptor(&mut r)?,
            members: r
                .list(|r| Ok(Member { id: r.member()?, site: r.string()?, node: r.string()?, kind: get_kind(r)? }))?,
            current: get_terms(&mut r)?,
            earlier: r.list(get_terms)?,
            attached: r.option(|r| Ok(Attachment { member: r.member()?, session: r.session()? }))?,
            stand_ins: Vec::new(),
        };
        if format >= 2 {
            config.volume.mode = get_mode(&mut r)?;
            config.volume.fallback_after_us = r.option(Reader::u64)?;
            config.volume.promote_observer_after_us = r.option(Reader::u64)?;
            config.stand_ins = r.list(|r| Ok(StandIn { member: r.member()?, lost: get_vote(r)? }))?;
        }
        r.end()?;
        Ok(config)
    }
}

/// 2: with mode and fallback, and who stands in for whom. 3: with members that have no copy.
const CONFIG_FORMAT: u16 = 3;

fn put_mode(w: &mut Writer, mode: Mode) {
    match mode {
        Mode::Sync => w.u8(1),
        Mode::Async { rpo_us } => {
            w.u8(2);
            w.u64(rpo_us);
        }
        Mode::Adaptive { max_commit_latency_us, max_lag_bytes } => {
            w.u8(3);
            w.u64(max_commit_latency_us);
            w.u64(max_lag_bytes);
        }
    }
}

fn get_mode(r: &mut Reader) -> Result<Mode, DecodeError> {
    match r.u8()? {
        1 => Ok(Mode::Sync),
        2 => Ok(Mode::Async { rpo_us: r.u64()? }),
        3 => Ok(Mode::Adaptive { max_commit_latency_us: r.u64()?, max_lag_bytes: r.u64()? }),
        other => Err(r.unknown(other.into())),
    }
}

fn get_kind(r: &mut Reader) -> Result<MemberKind, DecodeError> {
    match r.u8()? {
        1 => Ok(MemberKind::Data),
        2 => Ok(MemberKind::Witness),
        3 => Ok(MemberKind::Observer),
        4 => Ok(MemberKind::Leaving),
        5 => Ok(MemberKind::Diskless),
        other => Err(r.unknown(other.into())),
    }
}

fn put_rule(w: &mut Writer, rule: DataRule) {
    w.u8(rule.w);
    w.u8(rule.min_remote);
    w.bool(rule.local);
}

fn get_rule(r: &mut Reader) -> Result<DataRule, DecodeError> {
    Ok(DataRule { w: r.u8()?, min_remote: r.u8()?, local: r.bool()? })
}

fn put_vote(w: &mut Writer, vote: &Vote) {
    w.u16(vote.member.0);
    w.u128(vote.incarnation.0);
    w.u8(vote.votes);
}

fn get_vote(r: &mut Reader) -> Result<Vote, DecodeError> {
    Ok(Vote { member: r.member()?, incarnation: r.incarnation()?, votes: r.u8()? })
}

fn put_terms(w: &mut Writer, terms: &Terms) {
    w.list(&terms.votes, put_vote);
    w.list(&terms.sync, |w, s| {
        w.u16(s.member.0);
        w.u128(s.incarnation.0);
        w.string(&s.site);
    });
    put_rule(w, terms.rule);
    w.string(&terms.primary_site);
}

fn get_terms(r: &mut Reader) -> Result<Terms, DecodeError> {
    Ok(Terms {
        votes: r.list(get_vote)?,
        sync: r.list(|r| Ok(SyncMember { member: r.member()?, incarnation: r.incarnation()?, site: r.string()? }))?,
        rule: get_rule(r)?,
        primary_site: r.string()?,
    })
}

fn put_descriptor(w: &mut Writer, d: &Descriptor) {
    w.string(&d.name);
    w.u64(d.size_bytes);
    w.u32(d.logical_block_bytes);
    w.u8(d.durability as u8);
    w.u64(d.lease_us);
    match d.on_quorum_loss {
        OnQuorumLoss::Freeze => w.bool(false),
        OnQuorumLoss::Fence { after_us } => {
            w.bool(true);
            w.u64(after_us);
        }
    }
    w.string(&d.policy);
    put_rule(w, d.rule);
    let labels: Vec<(&String, &String)> = d.labels.iter().collect();
    w.list(&labels, |w, (key, value)| {
        w.string(key);
        w.string(value);
    });
}

fn get_descriptor(r: &mut Reader) -> Result<Descriptor, DecodeError> {
    Ok(Descriptor {
        name: r.string()?,
        size_bytes: r.u64()?,
        logical_block_bytes: r.u32()?,
        durability: match r.u8()? {
            1 => Durability::Write,
            2 => Durability::Flush,
            other => return Err(r.unknown(other.into())),
        },
        lease_us: r.u64()?,
        on_quorum_loss: if r.bool()? { OnQuorumLoss::Fence { after_us: r.u64()? } } else { OnQuorumLoss::Freeze },
        policy: r.string()?,
        rule: get_rule(r)?,
        labels: r.list(|r| Ok((r.string()?, r.string()?)))?.into_iter().collect(),
        mode: Mode::Sync,
        fallback_after_us: None,
        promote_observer_after_us: None,
    })
}
