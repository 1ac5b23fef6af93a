//! The configuration register: who the members are, whose votes count, which replicas an acknowledgement needs.
//!
//! One register per volume, changed only by the control quorum (see [`crate::quorum`]). A value holds the terms in
//! force (`current`) *and* every earlier one under which something may have been acked, until a second write drops
//! them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::ids::{Epoch, Incarnation, MemberId, SessionId};

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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub version: ConfigVersion,
    pub volume: Descriptor,
    pub members: Vec<Member>,
    pub current: Terms,
    pub earlier: Vec<Terms>,
    pub attached: Option<Attachment>,
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

    /// The incarnation whose vote counts for `id` now, if it has one.
    pub fn vote_of(&self, id: MemberId) -> Option<&Vote> {
        self.current.votes.iter().find(|v| v.member == id)
    }

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(CONFIG_FORMAT);
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
        let config = Configuration {
            version: ConfigVersion { epoch: r.epoch()?, k: r.u64()? },
            volume: get_descriptor(&mut r)?,
            members: r
                .list(|r| Ok(Member { id: r.member()?, site: r.string()?, node: r.string()?, kind: get_kind(r)? }))?,
            current: get_terms(&mut r)?,
            earlier: r.list(get_terms)?,
            attached: r.option(|r| Ok(Attachment { member: r.member()?, session: r.session()? }))?,
        };
        r.end()?;
        Ok(config)
    }
}

const CONFIG_FORMAT: u16 = 1;

fn get_kind(r: &mut Reader) -> Result<MemberKind, DecodeError> {
    match r.u8()? {
        1 => Ok(MemberKind::Data),
        2 => Ok(MemberKind::Witness),
        3 => Ok(MemberKind::Observer),
        4 => Ok(MemberKind::Leaving),
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

fn put_terms(w: &mut Writer, terms: &Terms) {
    w.list(&terms.votes, |w, v| {
        w.u16(v.member.0);
        w.u128(v.incarnation.0);
        w.u8(v.votes);
    });
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
        votes: r.list(|r| Ok(Vote { member: r.member()?, incarnation: r.incarnation()?, votes: r.u8()? }))?,
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
    })
}
