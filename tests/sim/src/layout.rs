//! Who the members are at the start of a run, and by which rule they acknowledge.

use farshore_core::ids::{BLOCK_BYTES, Epoch, Incarnation, MemberId};
use farshore_core::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, Mode, OnQuorumLoss, SyncMember,
    Terms, Vote,
};

use crate::dice::Dice;

/// Blocks of the simulated volume: few, so that requests overlap.
pub const VOLUME_BLOCKS: u64 = 24;

pub struct Layout {
    pub name: &'static str,
    /// Site, kind and votes of each member; members in one site share its name.
    pub members: &'static [(&'static str, MemberKind, u8)],
    pub rule: DataRule,
    pub durability: Durability,
    pub mode: Mode,
    pub fallback_after_us: Option<u64>,
    pub promote_observer_after_us: Option<u64>,
    /// How often a seed draws it, against the others.
    pub weight: u64,
}

use Durability::{Flush, Write};
use MemberKind::{Data, Diskless, Observer, Witness};

const PAIR_WITNESS: &[(&str, MemberKind, u8)] = &[("a", Data, 1), ("b", Data, 1), ("w", Witness, 1)];
const THREE: &[(&str, MemberKind, u8)] = &[("a", Data, 1), ("b", Data, 1), ("c", Data, 1)];
const PAIR_TWO_WITNESSES: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("w", Witness, 1), ("x", Witness, 1)];
const FIVE: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("c", Data, 1), ("d", Data, 1), ("e", Data, 1)];
/// The heavy side goes on alone; the light one never does.
const WEIGHTED_PAIR: &[(&str, MemberKind, u8)] = &[("a", Data, 2), ("b", Data, 1)];
/// Of a copy and the witness the copy alone has most votes.
const HEAVY_PAIR_WITNESS: &[(&str, MemberKind, u8)] = &[("a", Data, 2), ("b", Data, 2), ("w", Witness, 1)];
/// One copy of each kind that is fed and counts for nothing: an observer for good, and one that awaits its vote.
const OBSERVED_3: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("c", Data, 1), ("o", Observer, 0), ("p", Data, 0)];
const OBSERVED_PAIR: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("w", Witness, 1), ("o", Observer, 0)];
/// Three copies of one site, and two that are shipped what changed: by the mode, and since it is an observer.
const SCHEDULED_2: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("a", Data, 1), ("a", Data, 1), ("b", Data, 0), ("o", Observer, 0)];
/// A node without a copy beside one of three copies, or alone in its site, or one in two sites each.
const DISKLESS_3: &[(&str, MemberKind, u8)] = &[("a", Data, 1), ("b", Data, 1), ("c", Data, 1), ("a", Diskless, 0)];
const DISKLESS_AWAY: &[(&str, MemberKind, u8)] = &[("a", Diskless, 0), ("b", Data, 1), ("c", Data, 1), ("d", Data, 1)];
const DISKLESS_TWO: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("c", Data, 1), ("a", Diskless, 0), ("b", Diskless, 0)];
const DISKLESS_PAIR: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("b", Data, 1), ("w", Witness, 1), ("a", Diskless, 0)];
const DISKLESS_SCHEDULED: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("a", Data, 1), ("a", Data, 1), ("b", Data, 0), ("a", Diskless, 0)];
const TWO_IN_ONE_SITE: &[(&str, MemberKind, u8)] = &[("a", Data, 1), ("a", Data, 1), ("b", Data, 1), ("c", Data, 1)];
const NEIGHBOURS_WITNESS: &[(&str, MemberKind, u8)] =
    &[("a", Data, 1), ("a", Data, 1), ("b", Data, 1), ("w", Witness, 1)];

const fn layout(
    name: &'static str,
    members: &'static [(&'static str, MemberKind, u8)],
    (w, min_remote, local): (u8, u8, bool),
    durability: Durability,
    weight: u64,
) -> Layout {
    let rule = DataRule { w, min_remote, local };
    let (mode, fallback_after_us, promote_observer_after_us) = (Mode::Sync, None, None);
    Layout { name, members, rule, durability, mode, fallback_after_us, promote_observer_after_us, weight }
}

pub const ADAPTIVE: Mode = Mode::Adaptive { max_commit_latency_us: 50_000, max_lag_bytes: 256 << 10 };
const SCHEDULED: Mode = Mode::Async { rpo_us: 400_000 };
const FALLBACK_US: u64 = 800_000;
pub const STAND_IN_US: u64 = 500_000;

/// In which the mode or a fallback changes the sync set, and an operator the mode.
const fn distant(mode: Mode, fallback_after_us: Option<u64>, layout: Layout) -> Layout {
    Layout { mode, fallback_after_us, ..layout }
}

/// In which an observer stands in for a member that is lost.
const fn stand_in(mode: Mode, layout: Layout) -> Layout {
    Layout { mode, promote_observer_after_us: Some(STAND_IN_US), ..layout }
}

pub const LAYOUTS: &[Layout] = &[
    layout("majority-3", THREE, (2, 1, false), Write, 4),
    layout("pair-witness", PAIR_WITNESS, (2, 1, false), Write, 3),
    layout("all-remotes-3", THREE, (2, 2, false), Write, 2),
    layout("nearest-remote-3", THREE, (2, 1, true), Write, 2),
    layout("all-3", THREE, (3, 2, false), Write, 1),
    layout("majority-5", FIVE, (3, 1, false), Write, 2),
    layout("two-in-one-site", TWO_IN_ONE_SITE, (2, 1, false), Write, 2),
    layout("pair-two-witnesses", PAIR_TWO_WITNESSES, (2, 1, false), Write, 2),
    layout("weighted-pair", WEIGHTED_PAIR, (2, 1, false), Write, 2),
    layout("observed-3", OBSERVED_3, (2, 1, false), Write, 2),
    layout("observed-pair", OBSERVED_PAIR, (2, 1, false), Write, 1),
    layout("flush-3", THREE, (2, 1, false), Flush, 2),
    layout("flush-nearest-3", THREE, (2, 1, true), Flush, 1),
    layout("flush-pair-witness", PAIR_WITNESS, (2, 1, false), Flush, 1),
    distant(ADAPTIVE, None, layout("adaptive-3", THREE, (2, 1, false), Write, 2)),
    distant(ADAPTIVE, None, layout("adaptive-pair-witness", PAIR_WITNESS, (2, 1, false), Write, 2)),
    distant(Mode::Sync, Some(FALLBACK_US), layout("fallback-pair-witness", PAIR_WITNESS, (2, 1, false), Write, 2)),
    distant(SCHEDULED, None, layout("scheduled", SCHEDULED_2, (2, 0, false), Write, 2)),
    stand_in(Mode::Sync, layout("stand-in-3", OBSERVED_3, (2, 1, false), Write, 2)),
    stand_in(Mode::Sync, layout("stand-in-pair", OBSERVED_PAIR, (2, 1, false), Write, 2)),
    stand_in(ADAPTIVE, layout("stand-in-adaptive", OBSERVED_PAIR, (2, 1, false), Write, 1)),
    layout("diskless-3", DISKLESS_3, (2, 1, false), Write, 3),
    layout("diskless-away", DISKLESS_AWAY, (2, 1, false), Write, 2),
    layout("diskless-two", DISKLESS_TWO, (2, 1, true), Write, 2),
    layout("diskless-all", DISKLESS_3, (3, 2, false), Write, 1),
    layout("diskless-pair-witness", DISKLESS_PAIR, (2, 1, false), Write, 2),
    distant(ADAPTIVE, None, layout("diskless-adaptive", DISKLESS_PAIR, (2, 1, false), Write, 1)),
    distant(SCHEDULED, None, layout("diskless-scheduled", DISKLESS_SCHEDULED, (2, 0, false), Write, 1)),
];

/// Only told of in stories.
const STORIED: &[Layout] = &[
    layout("flush-two-in-one-site", TWO_IN_ONE_SITE, (2, 1, false), Flush, 0),
    layout("flush-neighbours-witness", NEIGHBOURS_WITNESS, (2, 1, false), Flush, 0),
    layout("heavy-pair-witness", HEAVY_PAIR_WITNESS, (2, 1, false), Write, 0),
    layout("local-pair-witness", PAIR_WITNESS, (1, 0, true), Write, 0),
];

/// The layout that a seed runs in unless one is named.
pub fn drawn(seed: u64) -> &'static Layout {
    let total: u64 = LAYOUTS.iter().map(|l| l.weight).sum();
    let mut left = Dice::seeded(seed ^ 0x1a70_0000_0000).range(0, total - 1);
    for layout in LAYOUTS {
        if left < layout.weight {
            return layout;
        }
        left -= layout.weight;
    }
    &LAYOUTS[0]
}

pub fn named(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().chain(STORIED).find(|l| l.name == name)
}

impl Layout {
    /// Does this member begin as one that is fed and counts for nothing?
    pub fn is_fed_only(&self, id: MemberId) -> bool {
        self.members
            .get(usize::from(id.0))
            .is_some_and(|(_, kind, votes)| matches!(kind, Data | Observer) && *votes == 0)
    }

    /// Are there nodes without a copy?
    pub fn has_diskless(&self) -> bool {
        self.members.iter().any(|(_, kind, _)| *kind == Diskless)
    }

    /// Does the sync set change by itself, or who has a vote by the mode?
    pub fn is_distant(&self) -> bool {
        self.mode != Mode::Sync || self.fallback_after_us.is_some() || self.promotes_observers()
    }

    pub fn promotes_observers(&self) -> bool {
        self.promote_observer_after_us.is_some()
    }

    /// On how many disks a completed write is, at least: a primary that leaves others out by itself may be left alone.
    pub fn copies(&self) -> usize {
        let alone = matches!(self.mode, Mode::Adaptive { .. }) || self.fallback_after_us.is_some();
        if alone { 1 } else { self.rule.w.into() }
    }

    pub fn feeds_observers(&self) -> bool {
        (0..self.members.len()).any(|i| self.is_fed_only(MemberId(i as u16)))
    }

    pub fn configuration(&self, lease_us: u64, on_quorum_loss: OnQuorumLoss) -> Configuration {
        let members: Vec<Member> = self
            .members
            .iter()
            .enumerate()
            .map(|(i, (site, kind, _))| Member {
                id: MemberId(i as u16),
                site: (*site).to_string(),
                node: format!("n{i}"),
                kind: *kind,
            })
            .collect();
        let voters = members.iter().zip(self.members).filter(|(_, (_, _, votes))| *votes > 0);
        let votes = voters.map(|(m, (_, _, votes))| Vote {
            member: m.id,
            incarnation: Incarnation(u128::from(m.id.0)),
            votes: *votes,
        });
        let counts = |m: &&Member| m.kind == Data && !self.is_fed_only(m.id);
        let sync = members.iter().filter(counts).map(|m| SyncMember {
            member: m.id,
            incarnation: Incarnation(u128::from(m.id.0)),
            site: m.site.clone(),
        });
        let current =
            Terms { votes: votes.collect(), sync: sync.collect(), rule: self.rule, primary_site: "a".to_string() };
        Configuration {
            version: ConfigVersion { epoch: Epoch::ZERO, k: 1 },
            volume: Descriptor {
                name: "sim".to_string(),
                size_bytes: VOLUME_BLOCKS * BLOCK_BYTES,
                logical_block_bytes: 4096,
                durability: self.durability,
                lease_us,
                on_quorum_loss,
                policy: self.name.to_string(),
                rule: self.rule,
                labels: Default::default(),
                mode: self.mode,
                fallback_after_us: self.fallback_after_us,
                promote_observer_after_us: self.promote_observer_after_us,
            },
            members,
            current,
            earlier: Vec::new(),
            attached: None,
            stand_ins: Vec::new(),
        }
    }
}
