//! One state of the whole system: every member's disk and process, every attempt at an epoch, every message.
//!
//! A message once sent may arrive at any later time or never, so it is kept as a fact from which arrivals follow: a
//! record is under way as long as its epoch's log has it, an answer as long as the attempt that asked for it lives.

use crate::layout::MEMBERS_MAX;
use crate::log::Log;
use crate::terms::{TermSet, Value, Version};

/// Epochs 1 to 4; the first is open when a search begins.
pub const EPOCHS_MAX: usize = 4;
/// Register values of one epoch.
pub const VALUES_MAX: usize = 6;
/// The lineage of the beginning, and two by force.
pub const LINEAGES_MAX: usize = 3;

/// One member's disk, and what its process has not synced yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Replica {
    pub log: Log,
    /// Records of `log` that are synced.
    pub durable: u8,
    pub promised: u8,
    pub config: Version,
    /// Which life of the disk: 0, or 1 after it was lost.
    pub life: u8,
    pub lineage: u8,
    /// The epoch whose lease it still owes.
    pub owed: u8,
    /// The last epoch that told it where its log shall part. Only a broken rule looks at it.
    pub told: u8,
}

/// What a promise says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Report {
    pub given: bool,
    pub life: u8,
    pub log: Log,
    pub config: Version,
    pub told: u8,
}

/// A member's answer to the holder of an epoch: up to here (a position, a register value), under this life.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Answer {
    pub given: bool,
    pub life: u8,
    pub upto: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Phase {
    #[default]
    Unused,
    /// Asking for promises.
    Preparing,
    /// An operator's force: asking the members named to enter the new lineage.
    Forking,
    /// It has its promises and writes; open once its first record is acked.
    Holding,
    /// Its process is gone or knows better. What it sent is still under way.
    Gone,
    /// Gone, and nothing that it left matters any more.
    Past,
}

/// An attempt at an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attempt {
    pub phase: Phase,
    pub node: u8,
    pub life: u8,
    pub lineage: u8,
    /// What was adopted, and every record written since: all that this epoch ever sent.
    pub log: Log,
    /// The seq of its first own record.
    pub start: u8,
    /// What its holder counts as acknowledged.
    pub acked: u8,
    /// What was acknowledged or read from outside: up to here nothing may ever be missing.
    pub served: u8,
    pub opened: bool,
    /// The newest register value written.
    pub k: u8,
    /// That value has not taken effect.
    pub pending: bool,
    /// The register value that was found when the epoch was won.
    pub found: Version,
    /// The newest of its register values that took effect; zero is none.
    pub effect: u8,
    /// A higher generation has opened and this lineage can't go on: nothing above this may be acked. One more than the position.
    pub fence: u8,
    /// Members whose promise it was won with.
    pub won_with: u8,
    pub in_force: TermSet,
    /// While a value is pending: the terms under which something may have been acked before it was proposed.
    pub under: TermSet,
    pub promises: [Report; MEMBERS_MAX],
    pub acks: [Answer; MEMBERS_MAX],
    pub stored: [Answer; MEMBERS_MAX],
    /// `values[k - 1]`.
    pub values: [Value; VALUES_MAX],
}

/// A history of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lineage {
    pub generation: u8,
    pub parent: u8,
    /// The members named, bit each.
    pub named: u8,
    pub opened: bool,
    /// Which of what may be forced.
    pub choice: u8,
    /// What each member named had on its disk when it entered.
    pub held: [Log; MEMBERS_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct State {
    pub replicas: [Replica; MEMBERS_MAX],
    /// `attempts[epoch - 1]`.
    pub attempts: [Attempt; EPOCHS_MAX],
    /// The first is the one of the beginning; a generation of zero marks others as unused.
    pub lineages: [Lineage; LINEAGES_MAX],
    pub writes: u8,
    pub changes: u8,
    pub wipes: u8,
    pub forces: u8,
}

impl State {
    pub fn attempt(&self, epoch: u8) -> &Attempt {
        &self.attempts[usize::from(epoch) - 1]
    }

    pub fn attempt_mut(&mut self, epoch: u8) -> &mut Attempt {
        &mut self.attempts[usize::from(epoch) - 1]
    }

    /// The process that held or asked for this epoch is gone; what it sent and what was served stays.
    pub fn retire(&mut self, epoch: u8) {
        let a = self.attempt_mut(epoch);
        a.phase = if a.phase == Phase::Holding { Phase::Gone } else { Phase::Past };
        (a.promises, a.acks, a.stored, a.in_force, a.under) = Default::default();
        (a.acked, a.won_with, a.pending) = Default::default();
    }

    pub fn value(&self, version: Version) -> Value {
        if version.epoch() == 0 {
            return Value::default();
        }
        self.attempt(version.epoch()).values[usize::from(version.k()) - 1]
    }
}
