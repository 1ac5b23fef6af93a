//! The steps that a member, an operator or fate may take, and how they are told.

use std::fmt;

use crate::layout::{Layout, MEMBERS_MAX};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Shape(u8),
    /// A member's vote goes over to the new life of its disk.
    Readmit(u8),
    /// A member of the sync set counts with the new life of its disk.
    Renew(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Begin { epoch: u8, node: u8 },
    Promise { epoch: u8, from: u8 },
    Win { epoch: u8, with: u8 },
    Elect { epoch: u8, to: u8 },
    Append { epoch: u8, to: u8 },
    Relay { epoch: u8, source: u8, to: u8 },
    Sync { at: u8 },
    Acknowledge { epoch: u8, upto: u8 },
    Write { epoch: u8 },
    Ask { epoch: u8, change: Change },
    Store { epoch: u8, k: u8, at: u8 },
    TakeEffect { epoch: u8 },
    Crash { at: u8 },
    Wipe { at: u8 },
    Renew { epoch: u8, at: u8 },
    Expire { at: u8 },
    Force { epoch: u8, node: u8, choice: u8 },
    Fork { epoch: u8, at: u8 },
    WinForced { epoch: u8 },
}

impl Step {
    pub fn told<'a>(&'a self, layout: &'a Layout) -> impl fmt::Display + 'a {
        Told { step: self, layout }
    }
}

struct Told<'a> {
    step: &'a Step,
    layout: &'a Layout,
}

impl Told<'_> {
    fn name(&self, member: u8) -> &'static str {
        self.layout.members[usize::from(member)]
    }

    fn names(&self, mask: u8) -> String {
        let list = (0..MEMBERS_MAX as u8).filter(|m| mask >> m & 1 == 1).map(|m| self.name(m));
        list.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.step {
            Step::Begin { epoch, node } => write!(f, "{} asks for epoch {epoch}", self.name(node)),
            Step::Promise { epoch, from } => write!(f, "{} promises epoch {epoch}", self.name(from)),
            Step::Win { epoch, with } => write!(f, "epoch {epoch} is won with {}", self.names(with)),
            Step::Elect { epoch, to } => write!(f, "{} follows epoch {epoch}", self.name(to)),
            Step::Append { epoch, to } => write!(f, "{} takes a record of epoch {epoch}'s log", self.name(to)),
            Step::Relay { epoch, source, to } => {
                write!(f, "{} takes a record that {} has read for epoch {epoch}", self.name(to), self.name(source))
            }
            Step::Sync { at } => write!(f, "{} has synced a record", self.name(at)),
            Step::Acknowledge { epoch, upto } => write!(f, "epoch {epoch} acknowledges up to {upto}"),
            Step::Write { epoch } => write!(f, "epoch {epoch} writes"),
            Step::Ask { epoch, change: Change::Shape(shape) } => {
                write!(f, "epoch {epoch} proposes: {}", self.layout.shapes[usize::from(shape)].name)
            }
            Step::Ask { epoch, change: Change::Readmit(m) } => {
                write!(f, "epoch {epoch} proposes: the new {} votes", self.name(m))
            }
            Step::Ask { epoch, change: Change::Renew(m) } => {
                write!(f, "epoch {epoch} proposes: the new {} is in the sync set", self.name(m))
            }
            Step::Store { epoch, k, at } => write!(f, "{} stores configuration {epoch}/{k}", self.name(at)),
            Step::TakeEffect { epoch } => write!(f, "epoch {epoch}'s newest configuration takes effect"),
            Step::Crash { at } => write!(f, "{} crashes and comes back", self.name(at)),
            Step::Wipe { at } => write!(f, "{} loses its disk and comes back with an empty one", self.name(at)),
            Step::Renew { epoch, at } => write!(f, "{} hears epoch {epoch} and owes its lease", self.name(at)),
            Step::Expire { at } => write!(f, "the lease that {} owes is over", self.name(at)),
            Step::Force { epoch, node, choice } => {
                let (named, shape) = self.layout.forced[usize::from(choice)];
                let shape = self.layout.shapes[usize::from(shape)].name;
                write!(
                    f,
                    "{} forces a new lineage, epoch {epoch}, naming {} ({shape})",
                    self.name(node),
                    self.names(named)
                )
            }
            Step::Fork { epoch, at } => write!(f, "{} enters the lineage of epoch {epoch}", self.name(at)),
            Step::WinForced { epoch } => write!(f, "the forced epoch {epoch} takes its best log"),
        }
    }
}
