//! The searches that are made: a layout and the bounds within which every history is tried.

use crate::bug::Bug;
use crate::layout::{self, Layout};
use crate::model::{Bounds, Model};

pub struct Search {
    pub layout: &'static str,
    pub name: &'static str,
    pub bounds: Bounds,
    /// Too big for every test run.
    pub larger: bool,
}

const B: Bounds = Bounds {
    epochs: 2,
    writes: 1,
    changes: 0,
    wipes: 0,
    forces: 0,
    split: false,
    leases: false,
    menu: 0,
    forced: 0,
    first: 0,
    force_then_promote: false,
};

/// Every shape but the first.
const OTHERS: u16 = 0xFFFE;
/// Of three alike: the sync set without one of them.
const WITHOUT_ONE: u16 = 0b1110;
/// The votes of three are made three, one, one, and with that the sync set made one.
const VOTES: u16 = 0b110_0001;

const fn search(layout: &'static str, name: &'static str, bounds: Bounds) -> Search {
    Search { layout, name, bounds, larger: false }
}

const fn larger(layout: &'static str, name: &'static str, bounds: Bounds) -> Search {
    Search { layout, name, bounds, larger: true }
}

pub const SEARCHES: &[Search] = &[
    search("majority-3", "promote", Bounds { epochs: 3, ..B }),
    search("majority-3", "promote, steps split", Bounds { writes: 2, split: true, ..B }),
    search("majority-3", "change", Bounds { changes: 1, menu: WITHOUT_ONE, ..B }),
    search("majority-3", "votes", Bounds { changes: 1, menu: VOTES, ..B }),
    search("majority-3", "wipe", Bounds { changes: 1, wipes: 1, ..B }),
    search("majority-3", "lease", Bounds { leases: true, ..B }),
    search("majority-3", "force", Bounds { forces: 1, epochs: 3, forced: 0b001, ..B }),
    search("all-remotes-3", "promote", Bounds { epochs: 3, ..B }),
    search("all-remotes-3", "change", Bounds { changes: 1, menu: WITHOUT_ONE, ..B }),
    search("nearest-remote-3", "promote", Bounds { epochs: 3, writes: 0, ..B }),
    search("nearest-remote-3", "promote, steps split", Bounds { split: true, ..B }),
    search("nearest-remote-3", "change", Bounds { changes: 1, menu: WITHOUT_ONE, ..B }),
    search("nearest-remote-weighted", "promote, steps split", Bounds { writes: 2, split: true, ..B }),
    search("pair-witness", "promote, steps split", Bounds { epochs: 3, split: true, ..B }),
    search("pair-witness", "change and back", Bounds { changes: 2, menu: 0b111, ..B }),
    search("pair-witness", "change, steps split", Bounds { changes: 1, menu: 0b110, split: true, ..B }),
    search("pair-witness", "wipe", Bounds { changes: 1, wipes: 1, ..B }),
    search("pair-witness", "force", Bounds { writes: 2, changes: 1, forces: 1, menu: 0b110, forced: 0b11, ..B }),
    search("pair-two-witnesses", "promote", Bounds { epochs: 3, ..B }),
    search("pair-two-witnesses", "change", Bounds { changes: 1, menu: OTHERS, ..B }),
    search("weighted-pair", "promote, steps split", Bounds { epochs: 3, writes: 2, split: true, ..B }),
    search("weighted-pair", "change of set and votes", Bounds { epochs: 3, changes: 1, menu: 0b1111, ..B }),
    search("weighted-pair", "wipe, back in the sync set", Bounds { changes: 2, wipes: 1, ..B }),
    search("weighted-pair", "force", Bounds { epochs: 3, changes: 1, forces: 1, menu: 0b10, forced: 1, ..B }),
    search("weighted-3", "force", Bounds { epochs: 3, forces: 1, forced: 1, force_then_promote: true, ..B }),
    search("diskless-majority-3", "promote", Bounds { epochs: 3, writes: 0, ..B }),
    search("diskless-majority-3", "without a copy from the first", Bounds { epochs: 3, writes: 0, first: 3, ..B }),
    search("diskless-majority-3", "promote, steps split", Bounds { split: true, first: 3, ..B }),
    search("diskless-majority-3", "lease", Bounds { leases: true, first: 3, ..B }),
    search("diskless-pair-witness", "promote", Bounds { epochs: 3, ..B }),
    search(
        "diskless-pair-witness",
        "promote, steps split",
        Bounds { epochs: 3, writes: 0, split: true, first: 3, ..B },
    ),
    search("diskless-pair-witness", "change", Bounds { changes: 1, menu: 0b110, first: 3, ..B }),
    search("diskless-pair-witness", "force", Bounds { epochs: 3, writes: 0, forces: 1, forced: 1, first: 3, ..B }),
    search("diskless-nearest-3", "promote, steps split", Bounds { split: true, ..B }),
    larger("majority-3", "promote, steps split, 3 epochs", Bounds { epochs: 3, split: true, ..B }),
    larger("majority-3", "two changes", Bounds { changes: 2, menu: WITHOUT_ONE, ..B }),
    larger("majority-3", "change, steps split", Bounds { changes: 1, menu: WITHOUT_ONE, split: true, ..B }),
    larger("majority-3", "wipe, back in the sync set", Bounds { changes: 2, wipes: 1, ..B }),
    larger("majority-3", "lease, 3 epochs", Bounds { epochs: 3, writes: 0, leases: true, ..B }),
    larger("majority-3", "two forces", Bounds { epochs: 3, forces: 2, forced: 0b11, ..B }),
    larger("nearest-remote-weighted", "promote, 3 epochs", Bounds { epochs: 3, ..B }),
    larger("nearest-remote-weighted", "promote, steps split, 3 epochs", Bounds { epochs: 3, split: true, ..B }),
    larger("pair-witness", "wipe and shrink", Bounds { changes: 1, wipes: 1, menu: 0b110, ..B }),
    larger("pair-witness", "change, 3 epochs", Bounds { epochs: 3, changes: 1, menu: 0b110, ..B }),
    larger("pair-witness", "change and back, steps split", Bounds { changes: 2, menu: 0b111, split: true, ..B }),
    larger("pair-two-witnesses", "change, 3 epochs", Bounds { epochs: 3, changes: 1, menu: OTHERS, ..B }),
    larger("weighted-pair", "two changes, 3 epochs", Bounds { epochs: 3, changes: 2, menu: 0b1111, ..B }),
    larger(
        "weighted-pair-witness",
        "force",
        Bounds { epochs: 3, writes: 2, changes: 1, forces: 1, menu: 0b10, forced: 1, force_then_promote: true, ..B },
    ),
    larger("diskless-majority-3", "promote, 3 epochs", Bounds { epochs: 3, ..B }),
    larger("diskless-majority-3", "change", Bounds { changes: 1, menu: WITHOUT_ONE, first: 3, ..B }),
    larger("diskless-pair-witness", "lease, 3 epochs", Bounds { epochs: 3, writes: 0, leases: true, ..B }),
    larger("diskless-pair-witness", "promote, steps split, 3 epochs", Bounds { epochs: 3, split: true, first: 3, ..B }),
    larger("diskless-pair-witness", "promote, 4 epochs", Bounds { epochs: 4, writes: 0, ..B }),
    larger("diskless-pair-witness", "change and back", Bounds { writes: 0, changes: 2, menu: 0b111, first: 3, ..B }),
    larger("diskless-pair-witness", "change, 3 epochs", Bounds { epochs: 3, writes: 0, changes: 1, menu: 0b10, ..B }),
    larger("diskless-pair-witness", "wipe", Bounds { changes: 1, wipes: 1, first: 3, ..B }),
    larger("diskless-nearest-3", "promote, 3 epochs", Bounds { epochs: 3, writes: 0, ..B }),
    larger("diskless-nearest-3", "change", Bounds { changes: 1, menu: WITHOUT_ONE, first: 3, ..B }),
];

impl Search {
    pub fn model(&self, bug: Option<Bug>) -> Model {
        Model::new(self.layout(), self.bounds, bug)
    }

    pub fn layout(&self) -> &'static Layout {
        layout::named(self.layout)
            .unwrap_or_else(|| panic!("a search names layout {}, which there is not", self.layout))
    }
}

impl Bug {
    /// Where this bug is to be caught: the smallest search known that does.
    pub fn search(self) -> Search {
        let three = Bounds { epochs: 3, ..B };
        let (layout, bounds) = match self {
            Bug::ServeEarly | Bug::DonorByHistory | Bug::EpochByNumber | Bug::LateElectCuts => ("majority-3", three),
            Bug::LongestLog => ("majority-3", Bounds { writes: 2, ..three }),
            Bug::SiteForgotten => ("nearest-remote-weighted", Bounds { split: true, ..three }),
            Bug::OwnSite => ("nearest-remote-weighted", B),
            Bug::VotesSuffice | Bug::ShrinkEarly | Bug::ConfigAfterPromise => {
                ("pair-witness", Bounds { changes: 1, menu: 0b110, ..B })
            }
            Bug::GrowOldSet => ("pair-witness", Bounds { writes: 2, changes: 2, menu: 0b111, ..B }),
            Bug::PendingIgnored => ("pair-witness", Bounds { changes: 2, menu: 0b111, ..B }),
            Bug::FoundTrusted => ("pair-witness", Bounds { changes: 1, menu: 0b110, ..three }),
            Bug::DropEarlier => ("weighted-pair", Bounds { changes: 2, menu: 0b111, ..three }),
            Bug::ChangeUncopied | Bug::RuleInForce => ("majority-3", Bounds { changes: 1, menu: WITHOUT_ONE, ..B }),
            Bug::NewMajorityOnly => ("majority-3", Bounds { changes: 1, menu: 1 << 6, ..B }),
            Bug::AckAfterPromise | Bug::AckBeforeSync => ("majority-3", Bounds { split: true, ..B }),
            Bug::PromiseForgotten => ("majority-3", B),
            Bug::WitnessCounts => ("pair-witness", B),
            Bug::LifeIgnored => ("majority-3", Bounds { wipes: 1, ..B }),
            Bug::LeaseNotAwaited | Bug::LeaseForgotten => ("majority-3", Bounds { writes: 0, leases: true, ..B }),
            Bug::ForceUnanswered => {
                ("pair-witness", Bounds { writes: 2, changes: 1, forces: 1, menu: 0b110, forced: 0b11, ..B })
            }
            Bug::ForceByQuorum => ("weighted-3", Bounds { forces: 1, forced: 1, force_then_promote: true, ..three }),
            Bug::GenerationIgnored => ("majority-3", Bounds { writes: 2, forces: 1, forced: 0b111, ..three }),
            Bug::GenerationEqual => ("majority-3", Bounds { forces: 2, forced: 0b111, ..three }),
            Bug::MemoryCounted => ("diskless-majority-3", Bounds { first: 3, ..B }),
            Bug::MemoryVotes => ("diskless-pair-witness", Bounds { changes: 2, menu: 0b110, ..B }),
            Bug::MemoryLeases => ("diskless-majority-3", Bounds { first: 3, writes: 0, leases: true, ..B }),
            Bug::MemoryDonor => ("diskless-majority-3", B),
            Bug::NearestDonor => ("diskless-majority-3", Bounds { writes: 0, ..three }),
            Bug::MemoryResumed => ("diskless-majority-3", Bounds { first: 3, ..three }),
            Bug::RelayUnchecked => ("diskless-majority-3", three),
        };
        Search { layout, name: self.name(), bounds, larger: false }
    }
}
