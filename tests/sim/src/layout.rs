//! Who the members are at the start of a run, and by which rule they acknowledge.

use farshore_core::ids::{BLOCK_BYTES, Epoch, Incarnation, MemberId};
use farshore_core::register::{
    ConfigVersion, Configuration, DataRule, Descriptor, Durability, Member, MemberKind, OnQuorumLoss, SyncMember,
    Terms, Vote,
};

/// Blocks of the simulated volume: few, so that requests overlap.
pub const VOLUME_BLOCKS: u64 = 40;

pub struct Layout {
    pub name: &'static str,
    /// Site and kind of each member; members in one site share its name.
    pub members: &'static [(&'static str, MemberKind)],
    pub rule: DataRule,
    pub durability: Durability,
}

use MemberKind::{Data, Witness};

const fn rule(w: u8, min_remote: u8, local: bool) -> DataRule {
    DataRule { w, min_remote, local }
}

pub const LAYOUTS: &[Layout] = &[
    Layout {
        name: "majority-3",
        members: &[("a", Data), ("b", Data), ("c", Data)],
        rule: rule(2, 1, false),
        durability: Durability::Write,
    },
    Layout {
        name: "pair-witness",
        members: &[("a", Data), ("b", Data), ("w", Witness)],
        rule: rule(2, 1, false),
        durability: Durability::Write,
    },
    Layout {
        name: "all-remotes-3",
        members: &[("a", Data), ("b", Data), ("c", Data)],
        rule: rule(2, 2, false),
        durability: Durability::Write,
    },
    Layout {
        name: "nearest-remote-3",
        members: &[("a", Data), ("b", Data), ("c", Data)],
        rule: rule(2, 1, true),
        durability: Durability::Write,
    },
    Layout {
        name: "majority-5",
        members: &[("a", Data), ("b", Data), ("c", Data), ("d", Data), ("e", Data)],
        rule: rule(3, 1, false),
        durability: Durability::Write,
    },
    Layout {
        name: "two-in-one-site",
        members: &[("a", Data), ("a", Data), ("b", Data), ("c", Data)],
        rule: rule(2, 1, false),
        durability: Durability::Write,
    },
    Layout {
        name: "flush-3",
        members: &[("a", Data), ("b", Data), ("c", Data)],
        rule: rule(2, 1, false),
        durability: Durability::Flush,
    },
];

pub fn named(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|l| l.name == name)
}

impl Layout {
    pub fn configuration(&self, lease_us: u64, on_quorum_loss: OnQuorumLoss) -> Configuration {
        let members: Vec<Member> = self
            .members
            .iter()
            .enumerate()
            .map(|(i, (site, kind))| Member {
                id: MemberId(i as u16),
                site: (*site).to_string(),
                node: format!("n{i}"),
                kind: *kind,
            })
            .collect();
        let votes =
            members.iter().map(|m| Vote { member: m.id, incarnation: Incarnation(u128::from(m.id.0)), votes: 1 });
        let sync = members.iter().filter(|m| m.kind == Data).map(|m| SyncMember {
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
            },
            members,
            current,
            earlier: Vec::new(),
            attached: None,
        }
    }
}
