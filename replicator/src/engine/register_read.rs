//! The register as the control quorum has it, and what follows from it for a node that is to be fenced. What one node
//! knows is never enough: it may be the one that was cut off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::api::Status;
use farshore_core::ids::{Epoch, Incarnation, MemberId};
use farshore_core::register::{Attachment, Configuration};
use farshore_proto::v1 as api;
use prost::Message;

use super::driver::VolumeHandle;
use super::node::Node;
use crate::control::OpError;

/// Patience with a member that is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a member has of the register, and of the epoch.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RegisterWords {
    /// The newest value that it knows of.
    #[prost(bytes = "bytes", tag = "1")]
    configuration: Bytes,
    /// That value is on its disk.
    #[prost(bool, tag = "2")]
    stored: bool,
    #[prost(bytes = "vec", tag = "3")]
    incarnation: Vec<u8>,
    #[prost(uint64, tag = "4")]
    promised: u64,
    #[prost(bytes = "vec", tag = "5")]
    promised_to: Vec<u8>,
    /// Words of other lineages count for nothing.
    #[prost(string, tag = "6")]
    lineage: String,
    /// It tries to win an epoch.
    #[prost(bool, tag = "7")]
    candidate: bool,
    /// It holds the epoch that it has promised.
    #[prost(bool, tag = "8")]
    holder: bool,
    /// As the holder: what the last lease allowed is over, and the newest value is in effect.
    #[prost(bool, tag = "9")]
    settled: bool,
    /// There is a device, or the right to make one was granted.
    #[prost(bool, tag = "10")]
    device: bool,
}

impl RegisterWords {
    fn of(status: &Status, device: bool) -> RegisterWords {
        RegisterWords {
            configuration: status.config.encode(),
            stored: status.config_stored,
            incarnation: status.incarnation.0.to_be_bytes().to_vec(),
            promised: status.epoch.n,
            promised_to: status.epoch.writer.to_be_bytes().to_vec(),
            lineage: status.lineage.to_string(),
            candidate: status.role == "candidate",
            holder: status.role == "primary",
            settled: status.settled,
            device: device || status.attached_here,
        }
    }
}

/// What one member said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    member: MemberId,
    incarnation: Incarnation,
    config: Configuration,
    stored: bool,
    promised: Epoch,
    candidate: bool,
    holder: bool,
    settled: bool,
    device: bool,
}

fn said(member: MemberId, words: RegisterWords) -> Option<Said> {
    let number = |bytes: Vec<u8>| bytes.try_into().ok().map(u128::from_be_bytes);
    Some(Said {
        member,
        incarnation: Incarnation(number(words.incarnation)?),
        config: Configuration::decode(words.configuration).ok()?,
        stored: words.stored,
        promised: Epoch { n: words.promised, writer: number(words.promised_to)? },
        candidate: words.candidate,
        holder: words.holder,
        settled: words.settled,
        device: words.device,
    })
}

/// What is to be done about a node that shall not write any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fencing {
    /// Nothing that it wrote can still arrive, by this rule.
    Done(&'static str),
    /// Its session, or the one that whoever asked means, is named.
    Named(Attachment),
    /// It is not named, and has a device that it still believes in.
    Close,
    /// Another epoch holds on the control quorum; the old lease may not be over.
    Lease,
    /// It may hold the epoch, and nobody can ask it.
    Take,
    /// Somebody is on the way to an epoch: look again.
    Unsettled,
    /// Too few answer to know anything.
    Unheard,
}

/// Several answers, at one time.
#[derive(Debug)]
pub(super) struct Register {
    said: Vec<Said>,
}

impl Register {
    /// The newest value that anybody knows of.
    pub fn newest(&self) -> Option<&Configuration> {
        self.said.iter().map(|s| &s.config).max_by_key(|c| c.version)
    }

    /// The same, if a control quorum has answered.
    pub fn of_quorum(&self) -> Option<&Configuration> {
        self.newest().filter(|_| self.quorum(|_| true))
    }

    pub fn heard(&self, member: MemberId) -> bool {
        self.said.iter().any(|s| s.member == member)
    }

    /// Do those for whom `good` holds form a control quorum, under every term in force?
    fn quorum(&self, good: impl Fn(&Said) -> bool) -> bool {
        let Some(newest) = self.newest() else { return false };
        let counted =
            |id, incarnation| self.said.iter().any(|s| s.member == id && s.incarnation == incarnation && good(s));
        newest.all_terms().all(|terms| terms.control_quorum(counted))
    }

    /// Enough for a decision, if this node's own word is among them.
    fn suffices(&self, wanted: Option<MemberId>) -> bool {
        self.quorum(|_| true) && wanted.is_none_or(|member| self.heard(member))
    }

    /// `target`: the node that is meant; none: whichever is named.
    pub fn fencing(&self, target: Option<MemberId>) -> Fencing {
        let Some(newest) = self.newest().filter(|_| self.quorum(|_| true)) else { return Fencing::Unheard };
        match (newest.attached, target) {
            (Some(named), target) if target.is_none_or(|t| t == named.member) => Fencing::Named(named),
            (_, None) => Fencing::Done("none-named"),
            (_, Some(target)) if newest.member(target).is_none() => Fencing::Done("no-member"),
            (_, Some(target)) => match self.said.iter().find(|s| s.member == target) {
                Some(own) if own.device => Fencing::Close,
                Some(own) if own.candidate => Fencing::Unsettled,
                // It would know if it had the right to write, or were about to get it.
                Some(_) => Fencing::Done("says-so-itself"),
                None => self.fencing_of_silent(newest, target),
            },
        }
    }

    /// Not named by the newest value, and not heard: what may it hold that we do not see?
    fn fencing_of_silent(&self, newest: &Configuration, target: MemberId) -> Fencing {
        let promised = self.said.iter().map(|s| s.promised).max().unwrap_or_default();
        if let Some(holder) = self.said.iter().find(|s| s.holder && s.promised == promised) {
            return if holder.settled { Fencing::Done("another-holds") } else { Fencing::Unsettled };
        }
        if promised > newest.version.epoch {
            return Fencing::Unsettled;
        }
        let home = newest.site_of(target) == newest.current.primary_site;
        let elsewhere = newest.attached.is_some() || !home;
        if elsewhere && self.quorum(|s| s.stored && s.config.version == newest.version) {
            return Fencing::Lease;
        }
        // It may have named itself in a value that has reached nobody else.
        if elsewhere { Fencing::Unsettled } else { Fencing::Take }
    }

    /// May a node of its site take the epoch, to end the doubt? Not where another one is named there.
    pub fn may_take(&self, target: MemberId) -> bool {
        self.newest().is_some_and(|c| c.attached.is_none() && c.site_of(target) == c.current.primary_site)
    }
}

impl Node {
    pub(super) async fn register_words(&self, handle: &VolumeHandle) -> Result<RegisterWords, OpError> {
        let status = handle.status().await;
        let status = status.ok_or_else(|| OpError::unavailable("the volume is stopping", "try again"))?;
        Ok(RegisterWords::of(&status, self.attachments.is_open(handle.id).await))
    }

    /// Asks all members, and does not wait for those who are silent once a control quorum and `wanted` have answered.
    pub(super) async fn read_register(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        wanted: Option<MemberId>,
    ) -> Result<Register, OpError> {
        let own = self.register_words(handle).await?;
        let lineage = own.lineage.clone();
        let mut register = Register { said: said(handle.me, own).into_iter().collect() };
        let mut asked = BTreeSet::from([handle.me]);
        let mut answers = tokio::task::JoinSet::new();
        loop {
            // A newer value may name members that were not asked yet.
            let members = register.newest().map(|c| c.members.clone()).unwrap_or_default();
            for member in members.into_iter().filter(|m| asked.insert(m.id)) {
                let Ok(peer) = crate::transport::PeerName::new(&member.site, &member.node) else { continue };
                let request = api::GetVolumeRequest { volume: handle.id.to_string() };
                let node = self.clone();
                answers.spawn(async move {
                    let words = node.forward_within::<RegisterWords>(PATIENCE, &peer, "register", &request).await;
                    (member.id, words)
                });
            }
            if register.suffices(wanted) {
                return Ok(register);
            }
            let Some(answer) = answers.join_next().await else { return Ok(register) };
            let Ok((member, Ok(words))) = answer else { continue };
            if words.lineage == lineage {
                register.said.extend(said(member, words));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::SessionId;
    use farshore_core::register::{
        ConfigVersion, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss, SyncMember, Terms,
        Vote,
    };

    use super::*;

    /// Members 0 and 1 in east, 2 in west, 3 in north; one vote each but for 1.
    const SITES: [&str; 4] = ["east", "east", "west", "north"];

    fn epoch(n: u64) -> Epoch {
        Epoch { n, writer: u128::from(n) }
    }

    fn config(n: u64, k: u64, attached: Option<u16>, primary_site: &str) -> Configuration {
        let rule = DataRule { w: 2, min_remote: 1, local: false };
        let member = |id: usize| MemberId(id as u16);
        let vote = |id: usize| Vote { member: member(id), incarnation: Incarnation(1), votes: u8::from(id != 1) };
        let sync = |id: usize| SyncMember { member: member(id), incarnation: Incarnation(1), site: SITES[id].into() };
        let place = |id: usize| Member {
            id: member(id),
            site: SITES[id].into(),
            node: format!("n{id}"),
            kind: MemberKind::Data,
        };
        Configuration {
            version: ConfigVersion { epoch: epoch(n), k },
            volume: Descriptor {
                name: "v".into(),
                size_bytes: 1 << 20,
                logical_block_bytes: 4096,
                durability: Durability::Write,
                lease_us: 1_000_000,
                on_quorum_loss: OnQuorumLoss::Freeze,
                policy: "majority".into(),
                rule,
                labels: Default::default(),
                mode: Mode::Sync,
                fallback_after_us: None,
                promote_observer_after_us: None,
            },
            members: (0..4).map(place).collect(),
            current: Terms {
                votes: (0..4).map(vote).collect(),
                sync: (0..4).map(sync).collect(),
                rule,
                primary_site: primary_site.into(),
            },
            earlier: Vec::new(),
            attached: attached.map(|id| Attachment { member: MemberId(id), session: SessionId(id.into()) }),
            stand_ins: Vec::new(),
        }
    }

    fn says(member: u16, config: &Configuration) -> Said {
        Said {
            member: MemberId(member),
            incarnation: Incarnation(1),
            config: config.clone(),
            stored: true,
            promised: config.version.epoch,
            candidate: false,
            holder: false,
            settled: false,
            device: false,
        }
    }

    fn decided(said: Vec<Said>, target: u16) -> Fencing {
        Register { said }.fencing(Some(MemberId(target)))
    }

    #[test]
    fn what_was_cut_off_decides_nothing() {
        let old = config(1, 1, Some(1), "east");
        let alone = vec![says(0, &old), says(1, &old)];
        assert_eq!(decided(alone.clone(), 0), Fencing::Unheard, "it knows of another node, and of too few votes");
        assert_eq!(Register { said: alone }.fencing(None), Fencing::Unheard);
        assert_eq!(Register { said: Vec::new() }.fencing(None), Fencing::Unheard);
        let another_life = Said { incarnation: Incarnation(2), ..says(2, &old) };
        assert_eq!(decided(vec![says(0, &old), another_life], 1), Fencing::Unheard);
    }

    #[test]
    fn the_newest_value_says_who_is_named() {
        let (old, new) = (config(1, 1, Some(1), "east"), config(2, 0, Some(0), "east"));
        let found = decided(vec![says(1, &old), says(2, &new), says(3, &old)], 0);
        assert!(matches!(found, Fencing::Named(a) if a.member == MemberId(0)), "{found:?}");
        let none = config(3, 0, None, "east");
        assert_eq!(Register { said: vec![says(2, &none), says(3, &old)] }.fencing(None), Fencing::Done("none-named"));
        assert_eq!(decided(vec![says(2, &none), says(3, &none)], 9), Fencing::Done("no-member"));
    }

    #[test]
    fn a_node_that_answers_for_itself_is_believed_but_not_its_device() {
        let (old, none) = (config(1, 1, Some(0), "east"), config(2, 1, None, "east"));
        let with = |own: Said| decided(vec![own, says(2, &none), says(3, &none)], 0);
        assert_eq!(with(says(0, &old)), Fencing::Done("says-so-itself"));
        assert_eq!(with(Said { device: true, ..says(0, &old) }), Fencing::Close);
        assert_eq!(with(Said { candidate: true, ..says(0, &none) }), Fencing::Unsettled);
    }

    #[test]
    fn of_a_silent_node_nothing_is_believed_that_it_could_have_changed() {
        let none = config(2, 1, None, "east");
        let quiet = vec![says(2, &none), says(3, &none)];
        assert_eq!(decided(quiet.clone(), 0), Fencing::Take, "it may hold epoch 2 itself");
        let with = |more: Said| decided([quiet.clone(), vec![more]].concat(), 0);
        let holder = Said { holder: true, settled: true, ..says(1, &none) };
        assert_eq!(with(holder.clone()), Fencing::Done("another-holds"));
        assert_eq!(with(Said { settled: false, ..holder.clone() }), Fencing::Unsettled, "the old lease runs");
        assert_eq!(with(Said { promised: epoch(3), ..says(1, &none) }), Fencing::Unsettled, "whose is epoch 3?");
        let overtaken = [quiet.clone(), vec![holder, Said { promised: epoch(3), ..says(3, &none) }]].concat();
        assert_eq!(decided(overtaken, 0), Fencing::Unsettled);
        // Another one is named, or the volume went to another site: that was a higher epoch, if a quorum has it on disk.
        for newer in [config(2, 1, Some(1), "east"), config(2, 1, None, "west")] {
            assert_eq!(decided(vec![says(2, &newer), says(3, &newer)], 0), Fencing::Lease);
            let unsynced = Said { stored: false, ..says(3, &newer) };
            assert_eq!(decided(vec![says(2, &newer), unsynced], 0), Fencing::Unsettled);
            let behind = says(3, &config(1, 1, Some(0), "east"));
            assert_eq!(decided(vec![says(2, &newer), behind], 0), Fencing::Unsettled);
        }
    }

    #[test]
    fn words_are_read_as_they_were_said() {
        let config = config(7, 3, Some(1), "east");
        let words = RegisterWords {
            configuration: config.encode(),
            incarnation: 1_u128.to_be_bytes().to_vec(),
            promised: 7,
            promised_to: 7_u128.to_be_bytes().to_vec(),
            ..RegisterWords::default()
        };
        let found = said(MemberId(1), words.clone()).expect("they are whole");
        assert_eq!((found.config, found.promised, found.incarnation), (config, epoch(7), Incarnation(1)));
        assert!(said(MemberId(1), RegisterWords { incarnation: vec![1], ..words.clone() }).is_none());
        assert!(said(MemberId(1), RegisterWords { configuration: Bytes::from_static(b"x"), ..words }).is_none());
    }
}
