//! Who asks for snapshots of one volume while other things go on and go wrong. What is drawn for it comes from a stream
//! of its own, and most seeds have none of it.

use farshore_core::api::{Answer, Command};
use farshore_core::ids::MemberId;
use farshore_core::mark::{Creation, GroupId, Mark, SnapshotId};

use crate::schedule::Happening;
use crate::snapshots::Place;
use crate::world::World;

/// Of a thousand seeds so many take snapshots.
const TAKING_PER_MILLE: u32 = 250;
/// Snapshots of one run, at most.
const TAKEN_MAX: usize = 40;

/// A snapshot of this id, always the same: asked for once more, it is the first's.
pub fn creation(id: SnapshotId, group: Option<GroupId>) -> Mark {
    let name = format!("s-{:04x}", id.0 as u16);
    let labels = [("taken".to_string(), format!("{}", id.0 % 7))].into();
    Mark::Create(Creation { id, group, created_unix_ms: 1_790_000_000_000, size_bytes: 0, name, labels })
}

impl World {
    pub fn begin_snapshots(&mut self) {
        if self.moments.chance(TAKING_PER_MILLE) {
            let delay = self.moments.range(10_000, 1_000_000);
            self.after(delay, Happening::Snapshot);
        }
    }

    /// Something to do with snapshots, at whoever holds an epoch or thinks so; seldom at any node.
    pub fn snapshot_or_so(&mut self) {
        if !self.turmoil || self.taken.len() >= TAKEN_MAX {
            return;
        }
        let holders = self.primaries();
        let all: Vec<MemberId> = self.nodes.keys().copied().collect();
        let from = if holders.is_empty() || self.moments.chance(50) { &all } else { &holders };
        if let Some(id) = self.moments.pick(from) {
            let command = self.about_snapshots();
            self.command(id, command);
        }
        let delay = self.moments.skewed(500, 400_000);
        self.after(delay, Happening::Snapshot);
    }

    fn about_snapshots(&mut self) -> Command {
        let known = self.moments.pick(&self.taken);
        let plain = |mark| Command::Mark { mark, under: None };
        match (self.moments.range(0, 99), known) {
            (0..12, Some(id)) => plain(Mark::Delete { id }),
            (12..20, Some(id)) => {
                let labels = [("moved".to_string(), self.moments.range(0, 9).to_string())].into();
                let holds = if self.moments.chance(500) { Default::default() } else { ["export".to_string()].into() };
                plain(Mark::Update { id, labels, holds })
            }
            // The answer was lost, perhaps.
            (20..30, Some(id)) => plain(creation(id, None)),
            (30..36, _) => Command::Hold,
            (36..42, _) => self.last_hold.map_or(Command::Hold, |hold| Command::Release { hold }),
            (42..50, _) => {
                let under = self.last_hold;
                Command::Mark { mark: self.new_snapshot(None), under }
            }
            (50..52, _) => plain(creation(SnapshotId(0), None)),
            _ => plain(self.new_snapshot(None)),
        }
    }

    pub fn new_snapshot(&mut self, group: Option<GroupId>) -> Mark {
        let id = SnapshotId(self.moments.u128());
        self.taken.push(id);
        creation(id, group)
    }

    // ---- what the oracle is told ----

    pub fn snapshot_asked(&mut self, number: u64, command: &Command) {
        if let Command::Mark { mark: Mark::Create(creation), under } = command {
            self.oracle.snapshots.asked(number, creation.id, under.is_some(), self.now);
        }
    }

    pub fn snapshot_answered(&mut self, id: MemberId, number: u64, answer: Option<Answer>) {
        if let Some(Answer::Held { hold }) = answer {
            self.last_hold = Some(hold);
        }
        let place = match answer {
            Some(Answer::Marked { seq }) => self.nodes.get(&id).map(|n| Place { lineage: n.lineage.uuid, seq }),
            _ => None,
        };
        self.oracle.snapshots.answered(number, place, self.now);
    }
}
